"""Refused clients that are told why: one error with a reason and a ticket, and no more."""

import re
from typing import Any

import pytest
import redis
from cryptography import x509

from tests.kit.policies import (
    CLOSED,
    LOGIN,
    Node,
    Start,
    closed,
    make_node,
    pairs,
    policy_of,
)
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, TlsConnection, days

TOLD = re.compile(r"NOPERM certauth ([a-z_]+) ([0-9a-f]{16})")
THREADS = pytest.mark.parametrize("io_threads", [1, 4])


def told(connection: TlsConnection) -> tuple[str, str]:
    """Reason and ticket of what a client is told, which is closed behind it."""
    with pytest.raises(redis.ResponseError) as error:
        connection.read()
    found = TOLD.fullmatch(str(error.value))
    assert found, error.value
    assert closed(connection)
    return found[1], found[2]


def entry(node: Node, ticket: str) -> dict[str, Any]:
    """The one of CERTAUTH.LOG with this ticket."""
    entries = map(pairs, pairs(node.call("CERTAUTH.LOG"))["entries"])
    (found,) = (one for one in entries if one["ticket"] in (ticket, ticket.encode()))
    return found


def telling(start: Start, kind: Server, pki: Pki, *lines: str, threads: int = 1) -> Node:
    module = ["refusals", "told"]
    return make_node(start, kind, *policy_of(pki, *lines), module=module, io_threads=threads)


@THREADS
def test_a_refused_client_reads_a_reason_and_a_ticket(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """By which the log finds it; another client has another one. Who comes in is told nothing."""
    node = telling(start, server_kind, pki, threads=io_threads)
    late = pki.ca.issue("CN=alice,OU=eng,O=acme", not_before=days(-9), not_after=days(-1))
    seen = set()
    stranger = pki.ca.issue("CN=mallory")
    for cert, version, reason in (
        (stranger, "TLSv1_2", "no_binding"),
        (stranger, "TLSv1_3", "no_binding"),
        (pki.alice, "TLSv1_3", ""),
    ):
        with node.connect(cert, version) as connection:
            if not reason:
                assert connection.command("ACL", "WHOAMI") == b"alice"
                continue
            found, ticket = told(connection)
        assert (found, ticket in seen) == (reason, False)
        seen.add(ticket)
        assert entry(node, ticket)["reason"] in (reason, reason.encode())
    assert node.outcome(pki.alice) == LOGIN
    with pytest.raises(CLOSED), node.connect(late) as connection:
        connection.read()  # refused by the handshake, which has its own words


def test_by_default_nobody_is_told_anything(server_kind: Server, start: Start, pki: Pki) -> None:
    node = make_node(start, server_kind, *policy_of(pki))
    with node.connect(pki.ca.issue("CN=mallory")) as connection, pytest.raises(CLOSED):
        connection.read()
    last = pairs(pairs(node.call("CERTAUTH.LOG"))["entries"][-1])
    assert last["ticket"] is None


def test_attack_a_stranger_learns_no_name_by_what_is_told(
    installed: Server, start: Start, pki: Pki
) -> None:
    """Locked, revoked, at the gate, with two names of which one is bound, or of nobody: it is the
    same to it. The log knows better."""
    dns = pki.ca.issue("CN=two", san=[x509.DNSName("a.acme"), x509.DNSName("b.acme")])
    mallory = pki.ca.issue("CN=mallory")
    cases: list[tuple[Cert, str, str]] = [
        (mallory, "", "no_binding"),
        (mallory, "lock cn mallory", "locked"),
        (mallory, f"revoke key {mallory.key_id}", "revoked"),
        (pki.alice, "lock user alice", "locked"),
        (pki.alice, f"revoke key {pki.alice.key_id}", "revoked"),
        (dns, "bind dns a.acme alice", "ambiguous"),
        (dns, "", "no_binding"),
    ]
    node = telling(start, installed, pki)
    for cert, line, reason in cases:
        if line:
            node.patch(f"+{line}")
        with node.connect(cert) as connection:
            found, ticket = told(connection)
        assert found == "no_binding", line
        assert entry(node, ticket)["reason"] in (reason, reason.encode())
        if line:
            node.patch(f"-{line}")


def test_whom_a_line_names_is_told_what_it_asks_for(
    installed: Server, start: Start, pki: Pki
) -> None:
    """The address, a demand, a user that is off or is not there."""
    node = telling(start, installed, pki)
    for line, reason in (
        ("bind key {} alice from=10.0.0.0/8", "address"),
        ("bind key {} nobody", "user_missing"),
    ):
        cert = pki.ca.issue("CN=x")
        node.patch("+" + line.format(cert.key_id))
        with node.connect(cert) as connection:
            assert told(connection)[0] == reason
    node.patch("+set min-tls 1.3")
    with node.connect(pki.alice, "TLSv1_2") as connection:
        assert told(connection)[0] == "tls_version"


@pytest.mark.slow
@THREADS
def test_attack_commands_in_the_same_breath_are_answered_by_nothing_else(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """Many refused clients that have sent RESET and a command before they read: each reads the one
    error, or finds that it is closed; none reads more, and the server goes on."""
    node = telling(start, server_kind, pki, threads=io_threads)
    stranger, read = pki.ca.issue("CN=mallory"), 0
    for _ in range(100):
        with node.connect(stranger) as connection:
            try:
                connection.send("RESET")
                connection.send("PING")
                connection.read()
            except redis.ResponseError as error:
                read += bool(TOLD.fullmatch(str(error)))
            except CLOSED:
                continue
            else:
                pytest.fail("something else was answered")
            assert closed(connection)
    assert read
    assert node.outcome(pki.alice) == LOGIN
    assert node.counters()["refused_no_binding"] == 100


def test_another_value_of_the_setting_ends_the_start(installed: Server, start: Start) -> None:
    """Misspelt it would be none."""
    with pytest.raises(Exception, match="'refusals tell' is not an argument"):
        make_node(start, installed, module=["refusals", "tell"])


def test_without_tls_there_is_nobody_to_tell(installed: Server, start: Start, pki: Pki) -> None:
    """A connection without a certificate that a policy refuses is told over TLS alone."""
    node = telling(start, installed, pki, "set plain refuse", "set tls-client-auth optional")
    with node.connect() as connection:
        assert told(connection)[0] == "no_certificate"
