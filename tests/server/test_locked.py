"""Locks on real servers: who is locked is out at once and stays out, and is back afterwards."""

from tests.kit.policies import (
    LOGIN,
    Node,
    Start,
    closed,
    make_node,
    pairs,
    policy_of,
    refuse,
)
from tests.kit.servers import Server
from tests.kit.support import Pki

SUBJECT = "lock subject CN=alice,OU=eng,O=acme"


def last(node: Node) -> tuple[str, str]:
    entry = pairs(pairs(node.call("CERTAUTH.LOG"))["entries"][-1])
    return entry["event"], entry["reason"]


def test_a_lock_ends_sessions_and_holds_out_until_it_goes(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Each way in which alice may be locked; nothing but the line changes."""
    node = make_node(start, server_kind, *policy_of(pki))
    ways = [SUBJECT, "lock user alice", f"lock ca {pki.ca.key_id}", "lock network 127.0.0.0/8"]
    for line in ways:
        before = node.call("CERTAUTH.POLICY", "SHOW")
        with node.connect(pki.alice) as session:
            assert session.command("ACL", "WHOAMI") == b"alice"
            node.patch(f"+{line}")
            assert closed(session), line
        assert node.outcome(pki.alice) == refuse("locked"), line
        told = pairs(node.explain(pki.alice.pem, "127.0.0.1"))
        assert f"by the line: {line}" in str(told), line
        node.patch(f"-{line}")
        assert node.outcome(pki.alice) == LOGIN, line
        assert node.call("CERTAUTH.POLICY", "SHOW")[1:] == before[1:]


def test_a_locked_network_is_closed_for_passwords_too(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Anyone who has no certificate would stay the default user there, or log in by password."""
    node = make_node(start, server_kind, *policy_of(pki, "set tls-client-auth optional"))
    with node.connect() as plain:
        assert plain.command("PING")
        node.patch("+lock network 127.0.0.1")
        assert closed(plain)
    assert node.outcome() == refuse("locked")
    node.patch("-lock network 127.0.0.1")
    with node.connect() as plain:
        assert plain.command("PING")
