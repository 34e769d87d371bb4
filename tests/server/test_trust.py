"""The server's own TLS: whom its handshake trusts, whether it asks, and its own way to log in."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.kit.node import (
    JOURNAL,
    Start,
    authority,
    bind,
    bootstrap,
    enrolled,
    keep_configuration,
    load,
    patch,
    status,
    turned_away,
    usual,
    who,
)
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, free_port, root, scratch, wait_until

# ---- tls-ca-cert-dir -----------------------------------------------------------------------------


def managed(start: Start, kind: Server, *, module: Any = JOURNAL, **options: Any) -> RedisServer:
    """A server that trusts nobody's clients but whom the policy names: as after enrolment."""
    server = start(kind, module=module, trust=[], **options)
    server.admin().config_set("tls-ca-cert-dir", str(directory(server)))
    return server


def directory(server: RedisServer) -> Path:
    return server.directory / "journal" / "ca"


def kept(server: RedisServer) -> dict[str, bytes]:
    """File name → DER of the certificate in it."""
    return {
        path.name: x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(
            serialization.Encoding.DER
        )
        for path in directory(server).iterdir()
    }


def shakes_hands(server: RedisServer, cert: Cert) -> bool:
    """Whether the server's handshake takes the certificate, whatever is decided after it."""
    with_reply = server.tls(cert, "TLSv1_2")  # in TLS 1.3 the client learns of a refusal later
    try:
        with_reply.connect().close()
    except OSError:
        return False
    return True


@pytest.fixture
def other() -> Cert:
    """A client CA that no server is started with."""
    return root("CN=Other CA,O=acme")


def test_a_ca_line_opens_the_handshake(
    server_kind: Server, start: Start, pki: Pki, other: Cert
) -> None:
    """Its clients come in when it comes, are refused by the handshake when it goes, and the CAs of
    tls-ca-cert-file are not touched by either."""
    server = managed(start, server_kind)
    admin, carol = server.admin(), other.issue("CN=carol")
    trusted = (server.directory / "trust.pem").read_bytes()
    load(admin, 1, usual(pki))
    assert status(admin)["trust"] == "managed"
    assert who(server, pki.alice) == "alice"
    assert not shakes_hands(server, carol)
    lines = [authority(other), bind(carol, "alice")]
    patch(admin, 1, 2, [f"+{line}" for line in lines])
    assert who(server, carol) == who(server, pki.alice) == "alice"
    patch(admin, 2, 3, [f"-{lines[0]}"])
    assert not shakes_hands(server, carol)
    assert who(server, pki.alice) == "alice"
    assert (server.directory / "trust.pem").read_bytes() == trusted
    assert admin.config_get("tls-ca-cert-file")["tls-ca-cert-file"].endswith("/trust.pem")
    load(admin, 4, [])
    assert not shakes_hands(server, pki.alice)
    assert kept(server) == {}
    # Signed by the CA of tls-ca-cert-file, which still counts.
    assert shakes_hands(server, pki.server_ca.issue("CN=somebody"))


def test_what_is_trusted_outlives_restarts(
    server_kind: Server, start: Start, pki: Pki, other: Cert
) -> None:
    """CONFIG REWRITE keeps the directory, never a file of ours, and what it holds is right from the
    first client on, even if somebody emptied or added to it meanwhile."""
    server = managed(start, server_kind)
    carol = other.issue("CN=carol")
    load(server.admin(), 1, usual(pki))
    server.admin().config_rewrite()
    text = server.conf.read_text()
    assert f'tls-ca-cert-dir "{directory(server)}"' in text.replace(
        f"tls-ca-cert-dir {directory(server)}", f'tls-ca-cert-dir "{directory(server)}"'
    )
    assert "journal" not in next(line for line in text.splitlines() if "tls-ca-cert-file" in line)
    server.stop()
    keep_configuration(server)
    server.start()
    assert status(server.admin())["trust"] == "managed"
    assert who(server, pki.alice) == "alice"
    assert not shakes_hands(server, carol)
    good = kept(server)
    server.stop()
    name = next(iter(good))
    (directory(server) / name).write_bytes(other.pem)
    (directory(server) / "00000000.0").write_bytes(other.pem)
    server.start()
    assert who(server, pki.alice) == "alice"
    assert not shakes_hands(server, carol)
    assert kept(server) == good


def test_an_anchor_opens_the_handshake_only(
    server_kind: Server, start: Start, pki: Pki, other: Cert
) -> None:
    """Leaves of a `ca` intermediate come in, with its anchor or without; others of that root shake
    hands under the anchor alone, and are nobody."""
    server = managed(start, server_kind)
    intermediate = other.authority("CN=Intermediate CA,O=acme")
    carol, dave = intermediate.issue("CN=carol"), other.issue("CN=dave")
    lines = [authority(intermediate), bind(carol, "alice"), bind(dave, "alice")]
    load(server.admin(), 1, [*usual(pki), *lines])
    assert who(server, carol) == "alice"
    assert not shakes_hands(server, dave)
    patch(server.admin(), 1, 2, [f"+{authority(other, 'anchor')}"])
    assert len(kept(server)) == 3
    assert who(server, carol) == "alice"
    assert turned_away(server, dave) == "untrusted_issuer"
    patch(server.admin(), 2, 3, [f"-{authority(other, 'anchor')}"])
    assert who(server, carol) == "alice"
    assert not shakes_hands(server, dave)


def above(ca: Cert) -> tuple[x509.ExtensionType, bool]:
    """By which OpenSSL tells CAs of one name apart: it tries no signature for that."""
    name, serial = x509.DirectoryName(ca.certificate.subject), ca.certificate.serial_number
    return x509.AuthorityKeyIdentifier(None, [name], serial), False


def test_cas_of_one_name_are_numbered_without_a_gap(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """OpenSSL looks for .0, .1, … and stops at the first that is missing."""
    server = managed(start, server_kind)
    twins = [root("CN=Twin CA") for _ in range(3)]
    clients = [
        twin.issue(f"CN=client{n}", extensions=[above(twin)]) for n, twin in enumerate(twins)
    ]
    binds = [bind(client, "alice") for client in clients]
    load(server.admin(), 1, [*usual(pki), *map(authority, twins), *binds])

    def numbers() -> list[str]:
        hashes = [name.split(".") for name in kept(server) if kept(server)[name] != pki.ca.der]
        assert len({name for name, _ in hashes}) <= 1
        return sorted(number for _, number in hashes)

    assert numbers() == ["0", "1", "2"]
    assert [who(server, client) for client in clients] == ["alice"] * 3
    for removed in range(3):
        base = removed + 1
        patch(server.admin(), base, base + 1, [f"-{authority(twins[removed])}"])
        assert numbers() == ["0", "1", "2"][: 2 - removed]
        came = [shakes_hands(server, client) for client in clients]
        assert came == [number > removed for number in range(3)]


def test_bootstrap_cas_are_trusted_with_any_policy(
    server_kind: Server, start: Start, pki: Pki, other: Cert, tmp_path: Path
) -> None:
    """The control plane is not cut off by a policy that does not name its CA, nor by none."""
    ops = other.issue("CN=ops")
    lines = (authority(other), bind(ops, "ops"), "user ops on ~* &* +@all")
    server = managed(start, server_kind, module=bootstrap(tmp_path, *lines))
    server.admin().config_rewrite()
    server.stop()
    keep_configuration(server)
    server.start()
    assert who(server, ops) == "ops"
    load(server.client(ops), 1, usual(pki))
    assert who(server, ops) == "ops"
    load(server.client(ops), 2, [])
    assert who(server, ops) == "ops"
    assert list(kept(server).values()) == [other.der]


@pytest.mark.parametrize("enforce", ["off", "shadow"])
def test_without_enforcement_trust_only_adds(
    installed: Server, start: Start, pki: Pki, other: Cert, enforce: str
) -> None:
    """A policy that is only tried out lets more certificates shake hands, never fewer than
    tls-ca-cert-file does."""
    server = managed(start, installed)
    carol, dave = other.issue("CN=carol"), pki.server_ca.issue("CN=dave")
    lines = [f"set enforce {enforce}", *usual(pki)[1:]]
    load(server.admin(), 1, lines)
    clients = (pki.alice, carol, dave)
    assert [shakes_hands(server, client) for client in clients] == [True, False, True]
    patch(server.admin(), 1, 2, [f"+{authority(other)}"])
    assert [who(server, client) for client in clients] == ["default"] * 3


@pytest.mark.parametrize("place", ["", "elsewhere"])
def test_trust_is_not_managed_unasked(
    server_kind: Server, start: Start, pki: Pki, other: Cert, place: str
) -> None:
    """Without our directory in tls-ca-cert-dir nothing is written or set, and STATUS says so."""
    server = start(server_kind, module=JOURNAL)
    admin, elsewhere = server.admin(), ""
    if place:
        (server.directory / place).mkdir()
        elsewhere = str(server.directory / place)
        admin.config_set("tls-ca-cert-dir", elsewhere)
    carol = other.issue("CN=carol")
    load(admin, 1, [*usual(pki), authority(other), bind(carol, "alice")])
    assert status(admin)["trust"] == f"not managed: tls-ca-cert-dir is '{elsewhere}'"
    assert admin.config_get("tls-ca-cert-dir") == {"tls-ca-cert-dir": elsewhere}
    assert kept(server) == {}
    assert not elsewhere or list(Path(elsewhere).iterdir()) == []
    assert not shakes_hands(server, carol)
    assert who(server, pki.alice) == "alice"
    admin.config_set("tls-ca-cert-dir", str(directory(server)))
    patch(admin, 1, 2, ["+bind cn x alice"])
    assert status(admin)["trust"] == "managed"
    assert who(server, carol) == "alice"


def test_files_of_others_in_the_directory_stay(installed: Server, start: Start, pki: Pki) -> None:
    """Only names as OpenSSL looks for them are ours."""
    server = managed(start, installed)
    note = directory(server) / "README"
    note.write_text("hands off")
    load(server.admin(), 1, usual(pki))
    load(server.admin(), 2, [])
    assert [path.name for path in directory(server).iterdir()] == ["README"]
    assert note.read_text() == "hands off"


def test_a_directory_that_vanished_is_reported(
    installed: Server, start: Start, pki: Pki, other: Cert
) -> None:
    """The policy takes effect, and STATUS says that the handshake could not be told."""
    server = managed(start, installed)
    load(server.admin(), 1, usual(pki))
    (directory(server) / next(iter(kept(server)))).unlink()
    directory(server).rmdir()
    patch(server.admin(), 1, 2, [f"+{authority(other)}"])
    assert status(server.admin())["trust"] != "managed"
    assert who(server, pki.alice) in ("alice", None)
    directory(server).mkdir()
    patch(server.admin(), 2, 3, [f"-{authority(other)}"])
    assert status(server.admin())["trust"] == "managed"
    assert who(server, pki.alice) == "alice"


# ---- Links that are not clients' -----------------------------------------------------------------

ALLOWED = "set internal-trust allow"


def bus_takes(server: RedisServer, port: int, cert: Cert) -> bool:
    """Whether the handshake of the cluster bus takes the certificate."""
    peer = server.tls(cert, "TLSv1_2")
    peer.address = ("127.0.0.1", port)
    try:
        peer.connect().close()
    except OSError:
        return False
    return True


def bus_node(
    start: Start, kind: Server, module: tuple[str, ...] = JOURNAL
) -> tuple[RedisServer, int]:
    """A cluster node alone, with managed trust, and the port of its bus."""
    port = free_port()
    config = ["cluster-enabled yes", "tls-cluster yes", f"cluster-port {port}"]
    server = managed(start, kind, config=config, module=module)
    admin = server.admin()
    # While it is down, Redis 7.0 tells who waits for the journal so, instead of the answer.
    admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: "cluster_state:ok" in str(admin.execute_command("CLUSTER", "INFO")), "it is")
    return server, port


def test_a_ca_of_clients_does_not_open_the_cluster_bus(
    server_kind: Server, start: Start, pki: Pki, other: Cert
) -> None:
    """On a real bus port: the policy's CAs come into a cluster node's trust store while the policy
    is enforced, for clients alone. The bus stays theirs who are known as nodes, also when
    enforcement has ended, and behind a restart, for the files are there."""
    control = root("CN=Control CA")
    carol, inside = other.issue("CN=carol"), pki.server_ca.issue("CN=node")
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    known = bind(inside, "node")
    server, port = bus_node(
        start, server_kind, bootstrap(folder, authority(control), known, "user node on")
    )
    admin, line = server.admin(), authority(other)

    def clients_only() -> bool:
        return (
            shakes_hands(server, carol)
            and not bus_takes(server, port, carol)
            and not bus_takes(server, port, control.issue("CN=control"))
            and bus_takes(server, port, inside)
            and bus_takes(server, port, pki.server)
        )

    load(admin, 1, [*usual(pki), line])
    assert status(admin)["trust"] == "managed"
    assert clients_only()
    patch(admin, 1, 2, ["-set enforce on"])
    assert status(admin)["trust"] == "managed"
    assert clients_only()
    server.stop()
    server.config.append(f"tls-ca-cert-dir {directory(server)}")
    server.start()
    admin = server.admin()
    assert clients_only()
    wait_until(lambda: "cluster_state:ok" in str(admin.execute_command("CLUSTER", "INFO")), "it is")
    patch(admin, 2, 3, ["+set enforce on", f"-{line}"])
    assert not shakes_hands(server, carol)
    assert not bus_takes(server, port, carol)
    assert bus_takes(server, port, inside)


@pytest.mark.parametrize("enforce", ["off", "shadow"])
def test_a_policy_that_is_not_enforced_opens_no_bus(
    installed: Server, start: Start, pki: Pki, other: Cert, enforce: str
) -> None:
    """Then nobody guards it: the policy's CAs come into a cluster node's trust store only where it
    says so, for the bus as well, and go from both with that word."""
    server, port = bus_node(start, installed)
    admin, carol = server.admin(), other.issue("CN=carol")
    load(admin, 1, [f"set enforce {enforce}", *usual(pki)[1:], authority(other)])
    assert status(admin)["trust"].startswith(
        "not managed: cluster-enabled is on, and the policy is"
    )
    assert not bus_takes(server, port, carol)
    patch(admin, 1, 2, [f"+{ALLOWED}"])
    assert status(admin)["trust"] == "managed"
    assert bus_takes(server, port, carol)
    patch(admin, 2, 3, [f"-set enforce {enforce}", "+set enforce on"])
    assert shakes_hands(server, carol)
    assert not bus_takes(server, port, carol)
    patch(admin, 3, 4, [f"-{ALLOWED}", f"-{authority(other)}"])
    assert not shakes_hands(server, carol)


def test_where_the_bus_cannot_be_guarded_trust_is_not_managed(
    installed: Server, start: Start, pki: Pki, other: Cert
) -> None:
    """Where only the server can tell who comes: STATUS says so."""
    server, port = bus_node(start, installed, (*JOURNAL, "certificates", "api"))
    load(server.admin(), 1, [*usual(pki), authority(other)])
    said = status(server.admin())["trust"]
    assert said.startswith("not managed: cluster-enabled is on, and with `certificates api` nobody")
    assert not bus_takes(server, port, other.issue("CN=carol"))


def test_a_server_that_becomes_a_replica_over_tls_goes_on(
    installed: Server, start: Start, pki: Pki, other: Cert
) -> None:
    """`tls-replication` may be switched on in a running server: what is in the trust store stays,
    for its link to a master is guarded, enforced or not."""
    server = managed(start, installed)
    lines = ["set enforce off", *usual(pki)[1:], authority(other)]
    load(server.admin(), 1, lines)
    assert len(kept(server)) == 2
    assert server.admin().info("certauth")["certauth_doors"] == "open"
    server.admin().config_set("tls-replication", "yes")
    wait_until(
        lambda: server.admin().info("certauth")["certauth_doors"] == "guarded", "it is guarded"
    )
    wait_until(lambda: status(server.admin())["trust"] == "managed", "it says so")
    assert len(kept(server)) == 2


# ---- tls-auth-clients ----------------------------------------------------------------------------


def asks(server: RedisServer, admin: redis.Redis | None = None) -> str:
    return str((admin or server.admin()).config_get("tls-auth-clients")["tls-auth-clients"])


def test_tls_client_auth_is_set_by_the_policy(server_kind: Server, start: Start, pki: Pki) -> None:
    """On a change and on a start, also against the configuration; unset, it is what it was before,
    or what somebody has set it to since."""
    server = enrolled(start, server_kind, pki)
    admin = server.admin()
    assert (asks(server), who(server)) == ("optional", "default")
    yes, optional = "set tls-client-auth yes", "set tls-client-auth optional"
    patch(admin, 1, 2, [f"+{yes}"])
    assert (asks(server), who(server), who(server, pki.alice)) == ("yes", None, "alice")
    server.stop()
    server.start()
    assert (asks(server), who(server), who(server, pki.alice)) == ("yes", None, "alice")
    patch(server.admin(), 2, 3, [f"-{yes}", f"+{optional}"])
    assert (asks(server), who(server)) == ("optional", "default")
    server.admin().config_set("tls-auth-clients", "no")
    patch(server.admin(), 3, 4, [f"-{optional}"])
    assert asks(server) == "no"
    patch(server.admin(), 4, 5, [f"+{yes}"])
    assert asks(server) == "yes"
    patch(server.admin(), 5, 6, [f"-{yes}"])
    assert asks(server) == "no"


@pytest.mark.parametrize("enforce", ["off", "shadow"])
def test_tls_client_auth_waits_for_enforcement(
    installed: Server, start: Start, pki: Pki, enforce: str
) -> None:
    """A policy that is only tried out refuses nobody's handshake, nor after a restart."""
    server = start(installed, module=JOURNAL)
    lines = [f"set enforce {enforce}", *usual(pki)[1:], "set tls-client-auth yes"]
    load(server.admin(), 1, lines)
    assert asks(server) == "optional"
    server.stop()
    server.start()
    assert (asks(server), who(server)) == ("optional", "default")
    patch(server.admin(), 1, 2, [f"-{lines[0]}", "+set enforce on"])
    assert (asks(server), who(server)) == ("yes", None)


# ---- The server's own certificate login ----------------------------------------------------------

OPTION = "tls-auth-clients-user"


def native(start: Start, kind: Server, policy: Callable[[Pki], list[str]], pki: Pki) -> RedisServer:
    """A server whose own certificate login is on where it has one (Redis 8.6, Valkey 9), with a
    user `mallory` that it would take by her CN."""
    has_one = kind.release >= ((9, 0) if kind.name == "valkey" else (8, 6))
    config = [f"{OPTION} CN"] if has_one else []
    server = start(kind, module=JOURNAL, config=[*config, "user mallory on ~* &* +@all"])
    assert server.admin().config_get(OPTION) == ({OPTION: "CN"} if has_one else {})
    load(server.admin(), 1, policy(pki))
    return server


def is_off(server: RedisServer) -> bool:
    value = server.admin().config_get(OPTION).get(OPTION, "off")
    return str(value).lower() == "off"


def test_the_servers_own_login_is_switched_off(server_kind: Server, start: Start, pki: Pki) -> None:
    """It knows no issuer and no refusal, and would come first: off when the policy comes, at each
    start, and soon after somebody switches it on by hand; the log says so."""
    mallory = pki.ca.issue("CN=mallory")
    server = native(start, server_kind, usual, pki)
    has_one = bool(server.admin().config_get(OPTION))
    for _ in range(2):
        assert is_off(server)
        assert (f"switched {OPTION} off (it was CN)" in server.log) == has_one
        assert turned_away(server, mallory) == "no_binding"
        assert who(server, pki.alice) == "alice"
        server.stop()
        server.start()
    if has_one:
        wait_until(lambda: is_off(server), "the start is over")
        before = server.log.count(f"switched {OPTION} off")
        server.admin().config_set(OPTION, "CN")
        wait_until(lambda: is_off(server), "it is off again")
        assert server.log.count(f"switched {OPTION} off") == before + 1
    assert turned_away(server, mallory) == "no_binding"


def test_the_servers_own_login_is_left_on_without_a_policy(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A first install changes nothing."""
    mallory = pki.ca.issue("CN=mallory")
    has_one = server_kind.release >= ((9, 0) if server_kind.name == "valkey" else (8, 6))
    config = [f"{OPTION} CN"] if has_one else []
    server = start(server_kind, module=JOURNAL, config=[*config, "user mallory on ~* &* +@all"])
    assert who(server, mallory) == ("mallory" if has_one else "default")
    load(server.admin(), 1, ["set enforce off"])
    assert who(server, mallory) is not None
