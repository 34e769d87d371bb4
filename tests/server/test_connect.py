"""Every connection is decided: what each certificate becomes on a real server, resumed or not."""

import random
import ssl
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.hazmat.primitives import serialization

from control.policy.core import Policy
from tests.kit import hostile
from tests.kit.certs import authority_line, ca, leaf_key, pem
from tests.kit.policies import (
    BIND_ALICE,
    HANDSHAKE,
    LOGIN,
    NOBODY,
    Outcome,
    Start,
    closed,
    leave,
    make_node,
    policy_of,
    refuse,
    table,
    table_node,
    whoami,
)
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, days, root, wait_until
from tests.kit.tls_client import (
    RESUMPTIONS,
    resumable,
    session_of,
)

# ---- First connections ---------------------------------------------------------------------------


@pytest.mark.parametrize("io_threads", [1, 4])
def test_each_certificate_becomes_what_the_table_says(
    server_kind: Server, start: Start, io_threads: int
) -> None:
    """A login for anyone who is bound, a refusal with its reason for everybody else."""
    node = table_node(start, server_kind, io_threads=io_threads)
    found = {case.name: node.outcome(case.cert) for case in table().cases}
    assert found == {case.name: case.expected for case in table().cases}


def test_tls_1_2_decides_alike(server_kind: Server, start: Start) -> None:
    """The version of TLS changes no decision."""
    node = table_node(start, server_kind)
    peer = partial(node.server.tls, version="TLSv1_2")
    found = {case.name: node.outcome(peer=peer(case.cert)) for case in table().cases}
    assert found == {case.name: case.expected for case in table().cases}


def test_explain_says_what_the_connection_does(server_kind: Server, start: Start) -> None:
    """CERTAUTH.EXPLAIN, and Python's own Policy, decide each certificate as its connection is."""
    node, policy = table_node(start, server_kind), Policy(table().lines)
    node.outcome(table().pki.server)  # so that its TLS context is known
    for case in table().cases:
        told = node.explain(case.cert.presented or case.cert.pem, "127.0.0.1")
        decided = policy.decide(case.cert.presented or case.cert.pem, address="127.0.0.1")
        assert (told["decision"], told["reason"]) == (decided.action, decided.reason), case.name
        assert told["user"] == next(iter(decided.users), None), case.name
        assert told["line"] == decided.line, case.name
        if case.expected != HANDSHAKE:
            # The handshake may know a path that the policy does not, and so another cure.
            steps = [
                [line for line in trace[1:] if not line.startswith(("path: ", "to change it: "))]
                for trace in (told["trace"], decided.trace)
            ]
            assert steps[0] == steps[1], case.name
            outcome = (case.expected.action, case.expected.reason)
            assert outcome == (told["decision"], told["reason"]), case.name


class Mutant:
    """A certificate that is none for other libraries, and the key of its leaf."""

    def __init__(self, leaf: bytes, folder: Path) -> None:
        self.pem = pem(leaf)
        self.files = (str(folder / "crt"), str(folder / "key"))
        (folder / "crt").write_bytes(self.pem)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (folder / "key").write_bytes(leaf_key().private_bytes(*form, serialization.NoEncryption()))


@pytest.mark.parametrize("seed", range(2))
def test_explain_says_what_the_connection_of_a_hostile_certificate_does(
    installed: Server, start: Start, tmp_path: Path, seed: int
) -> None:
    """The mutants of hostile.py that come through a handshake: the same action, reason and user, by
    the server and by Python's own Policy. What is under the CA's signature is its word."""
    users = [f"user {name} on +@all" for name in ("alice", "bob", "carol")]
    node = make_node(start, installed, *hostile.JUDGED, *users, trust=[ca()])
    policy = Policy([*hostile.JUDGED, *users])
    rng, came = random.Random(seed), set[str]()
    for _ in range(120):
        cert: Any = Mutant(hostile.signed_again(rng, rng.choice(hostile.BASES)), tmp_path)
        try:
            outcome = node.outcome(cert)
        except (ssl.SSLError, OSError):  # our own end does not load it
            continue
        if outcome == HANDSHAKE:
            continue
        told, decided = node.explain(cert.pem), policy.decide(cert.pem)
        assert (told["decision"], told["reason"]) == (outcome.action, outcome.reason)
        assert (decided.action, decided.reason) == (outcome.action, outcome.reason)
        assert told["user"] == decided.user == outcome.user
        came.add(outcome.reason)
    assert len(came) > 3, came


def test_the_handshake_refuses_what_is_out_of_date(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Expired, not yet valid and foreign certificates do not get as far as the module, which would
    say the same."""
    node = make_node(start, server_kind, *policy_of(pki))
    times: dict[str, Any] = {
        "expired": {"not_before": days(-9), "not_after": days(-1)},
        "not_yet_valid": {"not_before": days(1)},
    }
    for reason, options in times.items():
        cert = pki.ca.issue(**options)
        assert node.outcome(cert) == HANDSHAKE
        told = node.explain(cert.pem)
        assert (told["decision"], told["reason"]) == ("refuse", reason)
    assert node.outcome(pki.server) == refuse("untrusted_issuer")
    assert node.outcome(pki.alice) == LOGIN


def test_a_refusal_is_logged_with_its_reason(server_kind: Server, start: Start, pki: Pki) -> None:
    """The log and ACL LOG name the reason and the subject; a login is in neither."""
    node = make_node(start, server_kind, *policy_of(pki))
    assert node.outcome(pki.alice) == LOGIN
    assert "refused" not in node.server.log
    assert node.outcome(pki.bob) == refuse("no_binding")
    assert "refused: no_binding (subject CN=bob,OU=eng,O=acme)" in node.server.log
    knows_names = server_kind.name == "valkey" or server_kind.release >= (7, 2)
    named = "CN=bob,OU=eng,O=acme" if knows_names else NOBODY
    assert node.acl_log()["username"] == named


def test_a_name_writes_no_line_of_the_log(server_kind: Server, start: Start, pki: Pki) -> None:
    """A subject that holds a line break does not begin a line of the log, nor of ACL LOG."""
    node = make_node(start, server_kind, *policy_of(pki))
    forged = pki.ca.issue([[("CN", "x\r\n1:M user alice is root\r\n")]])
    assert node.outcome(forged) == refuse("bad_string")
    assert not any(line.startswith("1:M") for line in node.server.log.splitlines())
    assert "\n" not in node.acl_log()["username"]


def test_a_flood_of_refusals_does_not_fill_the_log(
    installed: Server, start: Start, pki: Pki
) -> None:
    """Ten lines a second at most, then how many more there were; the counters have all."""
    node = make_node(start, installed, *policy_of(pki))
    peer = node.server.tls(pki.bob)
    begun = time.time()
    with node.counting() as moved:
        for _ in range(100):
            with peer.connect() as connection:
                assert closed(connection)
    assert moved == {"refused": 100, "refused_no_binding": 100}
    seconds = int(time.time()) - int(begun) + 1
    lines = node.server.log.count("refused: no_binding")
    assert 10 <= lines <= 10 * seconds


# ---- Connections without a certificate -----------------------------------------------------------


@pytest.mark.parametrize("asked", ["optional", "no"])
def test_a_connection_without_a_certificate(
    server_kind: Server, start: Start, pki: Pki, asked: str
) -> None:
    """`set plain` says whether TLS and TCP clients without a certificate are left or refused; the
    unix socket is never closed."""
    node = make_node(start, server_kind, *policy_of(pki), tls_auth_clients=asked, plain=True)
    assert node.outcome() == leave("no_certificate")
    assert node.server.plain_client().set("k", "v")
    if asked == "no":  # the certificate is not asked for, so it does not arrive
        assert node.outcome(pki.alice) == leave("no_certificate")
    node.patch("+set plain refuse")
    assert node.outcome() == refuse("no_certificate")
    with node.counting() as moved, pytest.raises(redis.ConnectionError):
        node.server.plain_client().get("k")
    assert moved == {"refused": 1, "refused_no_certificate": 1}
    assert node.server.admin(db=0).ping()
    if asked == "optional":
        assert node.outcome(pki.alice) == LOGIN


def test_an_unmatched_certificate_is_refused_or_left(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """`set unmatched leave` leaves strangers what `default` is, and refuses all else as before."""
    other, dead = root("CN=Stranger"), pki.ca.issue("CN=carol")
    gated, revoked = "set gate full_subject", f"revoke cert {dead.fingerprint}"
    lines = policy_of(pki, "set unmatched leave", revoked)
    node = make_node(start, server_kind, *lines, trust=[pki.ca, other])
    assert node.outcome(pki.bob) == leave("no_binding")
    assert node.outcome(other.issue()) == leave("untrusted_issuer")
    assert node.outcome(dead) == refuse("revoked")
    assert node.outcome(pki.alice) == LOGIN
    node.patch(f"+{gated}")
    assert node.outcome(pki.bob) == refuse("gate")
    node.patch(f"-{gated}", "-set unmatched leave")
    assert node.outcome(pki.bob) == refuse("no_binding")
    assert node.outcome(other.issue()) == refuse("untrusted_issuer")


# ---- Not enforced --------------------------------------------------------------------------------


@pytest.mark.parametrize("enforce", ["none", "off", "shadow"])
def test_what_is_not_enforced_changes_nothing(
    server_kind: Server, start: Start, pki: Pki, enforce: str
) -> None:
    """Without a policy, and with one that is off or a shadow, every client stays what the server
    made it: no user is made, nobody is closed, AUTH is the server's own. A shadow counts."""
    lines = [f"set enforce {enforce}", *policy_of(pki, "set plain refuse")[1:]]
    node = make_node(
        start, server_kind, *(lines if enforce != "none" else []), plain=True,
        config=["user worker on >secret ~* &* +@all"],
    )  # fmt: skip
    why = {"none": "no_policy", "off": "off"}.get(enforce)
    with node.counting() as moved:
        reasons = {"matched": pki.alice, "no_binding": pki.bob, "no_certificate": None}
        for reason, cert in reasons.items():
            with node.connect(cert) as connection:
                assert connection.command("ACL", "WHOAMI") == b"default"
                assert whoami(connection)["reason"] == (why or reason)
                assert connection.command("SET", "k", "v") == b"OK"
                assert connection.command("AUTH", "worker", "secret") == b"OK"
                assert connection.command("ACL", "WHOAMI") == b"worker"
        assert node.server.plain_client().ping()
    assert "alice" not in node.admin.acl_users()
    assert not node.acl_log()
    counted = {"logins": 1, "refused": 3, "refused_no_binding": 1, "refused_no_certificate": 2}
    assert moved == (counted if enforce == "shadow" else {})


def test_a_shadow_says_would(installed: Server, start: Start, pki: Pki) -> None:
    """The log does not say of a client that it was refused when it was not."""
    node = make_node(start, installed, "set enforce shadow", *policy_of(pki)[1:])
    with node.connect(pki.bob) as connection:
        assert connection.command("PING") == b"PONG"
    line = next(line for line in node.server.log.splitlines() if "no_binding" in line)
    assert "would" in line


def soon(seconds: int) -> datetime:
    return datetime.fromtimestamp(int(time.time()) + seconds, UTC)


def test_a_resumed_session_is_the_same_user(
    server_kind: Server, start: Start, pki: Pki, held: ExitStack
) -> None:
    """Good certificates log in on resumed sessions, under intermediates too, whose chain is not
    there to see."""
    below = pki.ca.authority().authority("CN=Below").issue("CN=alice,OU=eng,O=acme")
    node = make_node(start, server_kind, *policy_of(pki), io_threads=4)
    for cert in (pki.alice, below):
        for how in RESUMPTIONS:
            peer = resumable(node, cert, how)
            session = session_of(held, peer)
            for _ in range(3):
                assert node.outcome(peer=peer, session=session, held=held) == LOGIN, how
                session = session_of(held, peer, session)


def test_what_has_expired_is_refused_on_a_resumed_session(
    server_kind: Server, start: Start, pki: Pki, held: ExitStack
) -> None:
    """Stock servers log it in, on TLS 1.3 without end: each resumption brings the next ticket. A CA
    of the path that is not there to see ends the leaf's logins too. Redis 8 and Valkey before 9.1
    with IO threads hang up on a session that is over (shutdown), and libssl drops what the server
    kept of it: there a session by id is not resumed, and the full handshake refuses."""
    node = make_node(start, server_kind, *policy_of(pki), io_threads=4)
    redis_8 = server_kind.name == "redis" and server_kind.release >= (8,)
    hangs_up = redis_8 or (server_kind.name == "valkey" and server_kind.release < (9, 1))
    end = datetime.fromtimestamp(int(time.time()) + 3, UTC)
    short, below = pki.ca.issue(not_after=end), pki.ca.authority(not_after=end).issue()
    resumed = [(short, how, refuse("expired")) for how in RESUMPTIONS]
    resumed += [(below, how, refuse("ca_expired")) for how in RESUMPTIONS]
    expected = [
        (cert, how, HANDSHAKE if hangs_up and how == "1.2 id" else why)
        for cert, how, why in resumed
    ]
    peers = [resumable(node, cert, how) for cert, how, _ in resumed]
    sessions = [session_of(held, peer) for peer in peers]
    chains = [session_of(held, *one) for one in zip(peers, sessions, strict=True)]
    wait_until(lambda: time.time() >= end.timestamp() + 1, "the certificates have expired")
    for session in (sessions, chains):
        found = [
            (cert, how, node.outcome(peer=peer, session=one, held=held))
            for (cert, how, _), peer, one in zip(resumed, peers, session, strict=True)
        ]
        assert found == expected


def changes(pki: Pki, cert: Cert) -> dict[str, tuple[list[str], Outcome]]:
    """Changes of the policy after which this certificate, of alice, is refused, and why."""
    between = cert.above[0]
    return {
        "serial": ([f"+revoke serial {between.key_id} {cert.serial}"], refuse("revoked")),
        "cert": ([f"+revoke cert {cert.fingerprint}"], refuse("revoked")),
        "key": ([f"+revoke key {cert.key_id}"], refuse("revoked")),
        "intermediate": ([f"+revoke cert {between.fingerprint}"], refuse("ca_revoked")),
        "user off": (["-user alice on ~* &* +@all", "+user alice off"], refuse("user_off")),
        "user removed": (["-user alice on ~* &* +@all"], refuse("user_missing")),
        "binding removed": ([f"-{BIND_ALICE}"], refuse("no_binding")),
        "CA removed": ([f"-{authority_line(pki.ca)}"], refuse("untrusted_issuer")),
        "gate": (["+set gate full_subject"], refuse("gate")),
        "address": ([f"-{BIND_ALICE}", f"+{BIND_ALICE} from=10.0.0.0/8"], refuse("address")),
    }


def test_a_resumed_session_obeys_the_policy_of_now(
    server_kind: Server, start: Start, pki: Pki, held: ExitStack
) -> None:
    """Whatever the policy takes away is taken from resumed sessions too, however they resume, and
    comes back with it."""
    cert = pki.ca.authority().issue()
    node = make_node(start, server_kind, *policy_of(pki))
    peers = {how: resumable(node, cert, how) for how in RESUMPTIONS}
    sessions = {how: session_of(held, peer) for how, peer in peers.items()}
    for name, (change, expected) in changes(pki, cert).items():
        node.patch(*change)
        for how, peer in peers.items():
            assert node.outcome(peer=peer, session=sessions[how], held=held) == expected, (
                name,
                how,
            )
        node.load(policy_of(pki))
        for how, peer in peers.items():
            assert node.outcome(peer=peer, session=sessions[how], held=held) == LOGIN, (name, how)


def test_a_session_from_before_the_policy_resumes_decided(
    installed: Server, start: Start, pki: Pki, held: ExitStack
) -> None:
    """A handshake that was seen before there was a policy is remembered with its chain."""
    node = make_node(start, installed)
    below = pki.ca.authority().issue()
    resumed = []
    for cert, expected in ((below, LOGIN), (pki.bob, refuse("no_binding"))):
        peer = resumable(node, cert, "1.3 ticket")
        resumed.append((peer, session_of(held, peer, user="default"), expected))
    node.load(policy_of(pki))
    for peer, session, expected in resumed:
        assert node.outcome(peer=peer, session=session, held=held) == expected


def test_new_trust_in_the_configuration_is_decided_too(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """After CONFIG SET tls-ca-cert-file the handshake trusts more, and the policy does not."""
    node = make_node(start, server_kind, *policy_of(pki))
    other = root("CN=Stranger")
    assert node.outcome(other.issue()) == HANDSHAKE
    trust = node.server.directory / "more.pem"
    trust.write_bytes(other.pem + pki.ca.pem + pki.server_ca.pem)
    node.admin.config_set("tls-ca-cert-file", str(trust))
    assert node.outcome(other.issue()) == refuse("untrusted_issuer")
    assert node.outcome(pki.alice) == LOGIN
