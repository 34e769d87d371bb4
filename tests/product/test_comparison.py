"""docs/comparison.md: each row of "Redis and Valkey by themselves", on a server with
`tls-auth-clients-user` alone and on the same server with the module."""

import re
import time
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
import redis

from tests.kit.certs import authority_line
from tests.kit.pages import section
from tests.kit.policies import OPERATOR, Node, Start, closed, make_node, refuse
from tests.kit.servers import Server, servers
from tests.kit.support import ROOT, Cert, Pki, root, wait_until
from tests.kit.tls_client import held, resumable, session_of  # noqa: F401

# The first releases that have the setting.
FIRST = {"redis": (8, 6), "valkey": (9, 1)}
NATIVE = [
    pytest.param(kind, id=str(kind), marks=pytest.mark.servers)
    for kind in servers()
    if kind.release >= FIRST[kind.name]
]
PAIR = ("alice", "bob")
TITLE = "Redis and Valkey by themselves"
HERE = "tests/product/test_comparison.py"
ALICE = "user alice on >secret ~* &* +@all"


def stock(start: Start, kind: Server, **options: object) -> Node:
    """A server that knows its clients by CN, without the module."""
    config = [f"user {OPERATOR} on >{OPERATOR} ~* &* +@all", ALICE, "tls-auth-clients-user CN"]
    return Node(start(kind, config=config, **options))


def ours(start: Start, kind: Server, pki: Pki, *lines: str, **options: object) -> Node:
    """The same server and users, with the module and a policy."""
    policy = ["set enforce on", authority_line(pki.ca), "bind cn alice alice"]
    return make_node(start, kind, *policy, "user alice on ~* &* +@all", *lines, **options)


def whoami(node: Node, cert: Cert) -> str:
    with node.connect(cert) as connection:
        return str(connection.command("ACL", "WHOAMI").decode())


def soon() -> datetime:
    return datetime.fromtimestamp(int(time.time()) + 3, UTC)


@pytest.mark.parametrize("kind", NATIVE)
def test_strangers(kind: Server, start: Start, pki: Pki) -> None:
    """bob has a certificate of the trusted CA, and no user."""
    assert whoami(stock(start, kind), pki.bob) == "default"
    assert ours(start, kind, pki).outcome(pki.bob) == refuse("no_binding")


@pytest.mark.parametrize("kind", NATIVE)
def test_two_names(kind: Server, start: Start, pki: Pki) -> None:
    """Two CNs in one certificate."""
    both = [pki.ca.issue([[("CN", one)], [("CN", two)]]) for one, two in (PAIR, PAIR[::-1])]
    node = stock(start, kind)
    assert sorted(whoami(node, cert) for cert in both) == ["alice", "default"]
    node = ours(start, kind, pki)
    assert [node.outcome(cert) for cert in both] == [refuse("ambiguous")] * 2


@pytest.mark.parametrize("kind", NATIVE)
def test_a_nul_in_the_name(kind: Server, start: Start, pki: Pki) -> None:
    """Redis read the CN up to the NUL until 8.8.2 and 8.10.1."""
    cert = pki.ca.issue([[("CN", "alice\0.evil")]])
    read_to_the_nul = kind.name == "redis" and kind.release < (8, 8, 2)
    assert whoami(stock(start, kind), cert) == ("alice" if read_to_the_nul else "default")
    assert ours(start, kind, pki).outcome(cert) == refuse("bad_string")


@pytest.mark.parametrize("kind", NATIVE)
def test_another_ca(kind: Server, start: Start, pki: Pki) -> None:
    """The handshake trusts a second CA, for other purposes; it issues the name of a user."""
    other = root("CN=Other")
    trust = [pki.ca, other]
    assert whoami(stock(start, kind, trust=trust), other.issue("CN=alice")) == "alice"
    node = ours(start, kind, pki, trust=trust)
    assert node.outcome(other.issue("CN=alice")) == refuse("untrusted_issuer")


@pytest.mark.parametrize("kind", NATIVE)
def test_expired_on_a_resumed_session(
    kind: Server,
    start: Start,
    pki: Pki,
    held: ExitStack,  # noqa: F811
) -> None:
    end = soon()
    short = pki.ca.issue("CN=alice", not_after=end)
    nodes = stock(start, kind), ours(start, kind, pki)
    peers = [resumable(node, short, "1.3 ticket") for node in nodes]
    sessions = [session_of(held, peer) for peer in peers]
    wait_until(lambda: time.time() >= end.timestamp() + 1, "the certificate has expired")
    with peers[0].connect(sessions[0]) as connection:
        assert connection.resumed
        assert connection.command("ACL", "WHOAMI") == b"alice"
    assert nodes[1].outcome(peer=peers[1], session=sessions[1], held=held) == refuse("expired")


@pytest.mark.parametrize("kind", NATIVE)
def test_open_sessions(kind: Server, start: Start, pki: Pki) -> None:
    """The certificate of an open connection expires."""
    end = soon()
    short = pki.ca.issue("CN=alice", not_after=end)
    with (
        stock(start, kind).connect(short) as theirs,
        ours(start, kind, pki).connect(short) as own,
    ):
        assert own.command("ACL", "WHOAMI") == b"alice"
        wait_until(lambda: time.time() >= end.timestamp() + 1, "the certificate has expired")
        wait_until(lambda: closed(own), "the module closes it", 30)
        assert theirs.command("ACL", "WHOAMI") == b"alice"


@pytest.mark.parametrize("kind", NATIVE)
def test_revoked(kind: Server, start: Start, pki: Pki) -> None:
    """No setting of the servers names a revocation list; here a line ends the open session too."""
    alice = pki.ca.issue("CN=alice")
    settings = stock(start, kind).admin.config_get("*")
    assert not [name for name in settings if re.search("crl|ocsp|revo", name)]
    node = ours(start, kind, pki)
    with node.connect(alice) as connection:
        assert connection.command("PING") == b"PONG"
        node.patch(f"+revoke cert {alice.fingerprint}")
        wait_until(lambda: closed(connection), "the session is closed", 30)
    assert node.outcome(alice) == refuse("revoked")


@pytest.mark.parametrize("kind", NATIVE)
def test_another_user_by_password(kind: Server, start: Start, pki: Pki) -> None:
    """A client that came by certificate logs in as somebody else."""
    carol = "user carol on >secret ~* &* +@all"
    bob = pki.ca.issue("CN=bob")
    with stock(start, kind).connect(bob) as connection:
        assert connection.command("AUTH", "alice", "secret") == b"OK"
    node = ours(start, kind, pki, config=[carol])
    with node.connect(pki.ca.issue("CN=alice")) as connection:
        with pytest.raises(redis.ResponseError, match="may not be that user"):
            connection.command("AUTH", "carol", "secret")
        assert connection.command("ACL", "WHOAMI") == b"alice"


def test_each_row_names_its_test() -> None:
    """docs/comparison.md: every row of the table with the servers has one of these, and each of
    these has a row."""
    said = re.findall(r"`(test_\w+)`", section("docs/comparison.md", TITLE))
    there = re.findall(r"^def (test_\w+)\(kind: ", (ROOT / HERE).read_text(), re.MULTILINE)
    split = re.findall(r"^def (test_\w+)\(\n    kind: ", (ROOT / HERE).read_text(), re.MULTILINE)
    assert sorted(said) == sorted(there + split)
