"""The certificate that a server shows follows its files, and never before the other nodes know its
key, nor while certificate and key are not of one pair."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kit.node import JOURNAL, Start, load, mapping, patch, status, usual, who
from tests.kit.node_keys import own_pki, put, renew, rsa_key, server_cert, shown
from tests.kit.servers import Server
from tests.kit.support import CLIENT, Cert, Key, Pki, RedisServer, days, wait_until

pytestmark = pytest.mark.few_servers

WAITS = "waits: the key of"
LINKS = ("tls-replication yes",)  # it may have others that ask for its key


def node(start: Start, kind: Server, pki: Pki, cert: Cert, *config: str) -> RedisServer:
    """With the usual policy in force."""
    server = start(kind, module=JOURNAL, pki=own_pki(pki, cert), config=list(config))
    load(server.admin(), 1, usual(pki))
    return server


def shows(server: RedisServer, cert: Cert) -> None:
    wait_until(lambda: shown(server) == cert.key_id, "it is shown", 20)


def told(server: RedisServer) -> list[str]:
    """What CERTAUTH.LOG says of the server's own certificate."""
    entries = mapping(server.admin().execute_command("CERTAUTH.LOG"))["entries"]
    found = [mapping(one) for one in entries]
    return [one["detail"] for one in found if one["event"] == "certificate"]


def says(server: RedisServer, text: str) -> dict[str, Any]:
    """Waits until STATUS says that of the certificate; all of STATUS."""

    def said() -> bool:
        return text in status(server.admin())["certificate"]

    wait_until(said, f"STATUS says {text!r}", 20)
    return status(server.admin())


@pytest.mark.parametrize("new_key", [None, rsa_key], ids=["EC", "RSA"])
def test_a_renewed_certificate_is_shown(
    server_kind: Server, start: Start, pki: Pki, new_key: Callable[[], Key] | None
) -> None:
    """Without CONFIG SET and a restart, also one with a key of another type; who is connected
    stays, and STATUS has its key."""
    old = server_cert(pki)
    server = node(start, server_kind, pki, old)
    alice = server.client(pki.alice, single_connection_client=True)
    assert alice.acl_whoami() == "alice"
    assert shown(server) == old.key_id == status(server.admin())["key"]
    new = server_cert(pki, new_key() if new_key else None)
    renew(old.files, new)
    shows(server, new)
    now = says(server, "ok")
    assert (now["key"], now["next_key"]) == (new.key_id, None)
    assert (who(server, pki.alice), alice.acl_whoami()) == ("alice", "alice")
    assert told(server) == [f"{old.files[0]} has changed, and is shown from now on"]


@pytest.mark.parametrize("key", [None, rsa_key], ids=["EC", "RSA"])
def test_half_a_pair_is_not_shown(
    server_kind: Server, start: Start, pki: Pki, key: Callable[[], Key] | None
) -> None:
    """A certificate whose key has not come yet, of the same type and of another: Redis itself takes
    the latter, and then nobody comes in. Once it has, both are shown."""
    old, new = server_cert(pki), server_cert(pki, key() if key else None)
    server = node(start, server_kind, pki, old)
    put(old.files[0], new.presented)
    says(server, f"{old.files[1]} is not the key of {old.files[0]}")
    assert shown(server) == old.key_id
    put(old.files[1], new.key_pem)
    shows(server, new)
    says(server, "ok")


UNFIT: dict[str, tuple[Callable[[Pki], tuple[bytes, bytes]], str]] = {
    "one that has ended": (
        lambda pki: pair(server_cert(pki, not_before=days(-2), not_after=days(-1))), "has ended"
    ),
    "one that has not begun": (
        lambda pki: pair(server_cert(pki, not_before=days(1))), "has not begun"
    ),
    "no certificate": (lambda _: (b"x\n", b"y\n"), "cannot be read"),
    "a key that is locked": (lambda pki: locked(server_cert(pki)), "cannot be read"),
}  # fmt: skip


def pair(cert: Cert) -> tuple[bytes, bytes]:
    return cert.presented, cert.key_pem


def locked(cert: Cert, password: bytes = b"secret") -> tuple[bytes, bytes]:
    """Its key is encrypted, with a password that the server has not been told."""
    text = cert.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password),
    )  # fmt: skip
    return cert.presented, text


@pytest.mark.parametrize("how", UNFIT)
def test_what_is_no_good_is_not_shown(installed: Server, start: Start, pki: Pki, how: str) -> None:
    """Told once, with what is wrong; the old one is shown as before, and what comes next is."""
    made, text = UNFIT[how]
    old = server_cert(pki)
    server = node(start, installed, pki, old)
    certificate, key = made(pki)
    put(old.files[0], certificate)
    put(old.files[1], key)
    says(server, text)
    assert shown(server) == old.key_id
    assert [text in one for one in told(server)] == [True]
    new = server_cert(pki)
    renew(old.files, new)
    shows(server, new)


def test_files_that_went_are_told(installed: Server, start: Start, pki: Pki) -> None:
    """The next start would fail."""
    old = server_cert(pki)
    server = node(start, installed, pki, old)
    Path(old.files[1]).unlink()
    says(server, "cannot be read")
    put(old.files[1], old.key_pem)
    says(server, "ok")
    assert shown(server) == old.key_id


def test_a_key_with_a_password_is_read(installed: Server, start: Start, pki: Pki) -> None:
    """By the password that the server was told."""
    old, new = server_cert(pki), server_cert(pki)
    server = node(start, installed, pki, old, "tls-key-file-pass secret")
    certificate, key = locked(new)
    put(old.files[0], certificate)
    put(old.files[1], key)
    shows(server, new)


def test_a_key_that_the_others_do_not_know_waits(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """On a node with links to others it is shown once the policy has a line for it, and STATUS says
    which key that is; one that is revoked is not shown. The same key in a newer certificate is."""
    old = server_cert(pki)
    server = node(start, server_kind, pki, old, *LINKS)
    admin = server.admin()
    same = server_cert(pki, old.key)
    renew(old.files, same)
    wait_until(lambda: told(server), "the same key is shown at once", 20)
    new = server_cert(pki)
    renew(old.files, new)
    now = says(server, WAITS)
    assert (now["key"], now["next_key"]) == (old.key_id, new.key_id)
    assert shown(server) == old.key_id
    patch(admin, 1, 2, [f"+revoke key {new.key_id}"])
    now = says(server, "refused: the key of")
    assert (now["certificate"].endswith("; the old certificate is still shown"), now["next_key"]) \
        == (True, None)  # fmt: skip
    bound = f"bind key {new.key_id} certauth-peer-replica"
    peer = "user certauth-peer-replica on +ping +replconf +psync"
    patch(admin, 2, 3, [f"-revoke key {new.key_id}", f"+{bound}", f"+{peer}"])
    shows(server, new)
    assert (says(server, "ok")["key"], who(server, pki.alice)) == (new.key_id, "alice")


def test_the_key_of_its_own_links_waits_too(installed: Server, start: Start, pki: Pki) -> None:
    """`tls-client-cert-file`: the others see that one when this node comes to them."""
    old, new = (server_cert(pki, eku=(CLIENT,)) for _ in range(2))
    config = [f"tls-client-cert-file {old.files[0]}", f"tls-client-key-file {old.files[1]}", *LINKS]
    server = node(start, installed, pki, pki.server, *config)
    assert status(server.admin())["client_key"] == old.key_id
    renew(old.files, new)
    now = says(server, WAITS)
    assert old.files[0] in now["certificate"]
    assert (now["client_key"], now["next_key"]) == (old.key_id, new.key_id)
    bound = f"bind key {new.key_id} certauth-peer-replica"
    peer = "user certauth-peer-replica on +ping +replconf +psync"
    patch(server.admin(), 1, 2, [f"+{bound}", f"+{peer}"])
    now = says(server, "ok")
    assert (now["client_key"], now["next_key"]) == (new.key_id, None)


def test_what_config_set_has_read_is_not_read_again(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Other files by hand, and the same ones: the operator's word counts at once, also for a key
    that nobody knows."""
    old, new, last = (server_cert(pki) for _ in range(3))
    server = node(start, server_kind, pki, old, *LINKS)
    admin = server.admin()
    admin.config_set("tls-cert-file", new.files[0], "tls-key-file", new.files[1])
    assert shown(server) == new.key_id
    admin.config_set("maxmemory", "1gb")
    renew(new.files, last)
    says(server, WAITS)
    admin.config_set("tls-cert-file", new.files[0])
    assert shown(server) == last.key_id == status(admin)["key"]
    says(server, "ok")
    assert [one for one in told(server) if "shown from now on" in one] == []


def test_before_the_first_policy_it_is_shown_at_once(
    installed: Server, start: Start, pki: Pki
) -> None:
    """Nobody looks at keys yet."""
    old, new = server_cert(pki), server_cert(pki, ec.generate_private_key(ec.SECP384R1()))
    server = start(installed, module=JOURNAL, pki=own_pki(pki, old), config=list(LINKS))
    renew(old.files, new)
    shows(server, new)
