"""Live sessions: anyone who would not get in any more as the same user is closed, and nobody
else."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import redis

from tests.kit.certs import authority_line
from tests.kit.policies import (
    BIND_ALICE,
    BIND_BOB,
    CLOSED,
    LOGIN,
    NOBODY,
    USER_BOB,
    Node,
    Start,
    client_id,
    closed,
    gone,
    leave,
    make_node,
    pairs,
    policy_of,
    whoami,
)
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, TlsConnection, root, wait_until

ALICE = "user alice on ~* &* +@all"


def both(pki: Pki, *lines: str) -> list[str]:
    """alice and bob, who have a CA each."""
    return policy_of(pki, BIND_BOB, USER_BOB, authority_line(pki.server_ca), *lines)


def bob_of(pki: Pki) -> Cert:
    """bob, by the other CA: what is done to alice's does not concern him."""
    return pki.server_ca.issue("CN=bob,OU=eng,O=acme")


@contextmanager
def connected(node: Node, *certs: Cert | None) -> Iterator[list[TlsConnection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(node.connect(cert)) for cert in certs]


def ends(connection: TlsConnection) -> float:
    """Waits until the server closes it; the time of that."""
    assert closed(connection)
    return time.time()


# ---- Time ----------------------------------------------------------------------------------------


def test_a_choice_and_a_second_login_end_in_time_too(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Neither having to choose, nor RESET and CERTAUTH.LOGIN, makes a session longer."""
    line = f"bind key {pki.bob.key_id} alice bob session=2s"
    node = make_node(start, server_kind, *policy_of(pki, USER_BOB, line))
    with connected(node, pki.bob, pki.bob, pki.bob) as (idle, chosen, again):
        since = time.time()
        assert whoami(idle)["user"] == NOBODY
        for connection in (chosen, again):
            assert connection.command("CERTAUTH.LOGIN", "bob") == b"OK"
        assert again.command("RESET") == b"RESET"
        time.sleep(1)
        assert again.command("CERTAUTH.LOGIN", "bob") == b"OK"
        for connection in (idle, chosen, again):
            assert ends(connection) < since + 6


def test_a_session_limit_that_comes_later_counts(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A `session=` that is put on the line ends the sessions that are older than it."""
    node = make_node(start, server_kind, *both(pki))
    with connected(node, pki.alice, bob_of(pki)) as (alice, bob):
        number = client_id(bob)
        node.patch(f"-{BIND_ALICE}", f"+{BIND_ALICE} session=1s")
        assert closed(alice)
        assert client_id(bob) == number


# ---- Changes of the policy -----------------------------------------------------------------------


def changes(pki: Pki) -> dict[str, list[str]]:
    """After each of these alice would not get in as alice any more, and bob would."""
    alice = pki.alice
    return {
        "serial": [f"+revoke serial {pki.ca.key_id} {alice.serial}"],
        "cert": [f"+revoke cert {alice.fingerprint}"],
        "key": [f"+revoke key {alice.key_id}"],
        "CA revoked": [f"+revoke key {pki.ca.key_id}"],
        "CA removed": [f"-{authority_line(pki.ca)}"],
        "binding removed": [f"-{BIND_ALICE}"],
        "another user": [f"-{BIND_ALICE}", BIND_ALICE.replace(" alice", " bob", 1)],
        "user removed": [f"-{ALICE}"],
        "user off": [f"-{ALICE}", "+user alice off ~* &* +@all"],
        "address": [f"-{BIND_ALICE}", f"+{BIND_ALICE} from=10.0.0.0/8"],
        "gate": ["+set gate full_subject", "+allow CN=bob OU=eng O=acme"],
        "conflict": [f"+bind key {alice.key_id} bob"],
        "becomes several": [f"+bind key {alice.key_id} alice bob"],
    }


def test_a_change_closes_whom_it_concerns(server_kind: Server, start: Start, pki: Pki) -> None:
    """Each way to lose a user closes its session within the change, and no other session."""
    node = make_node(start, server_kind, *both(pki))
    changed = changes(pki)
    changed["another user"] = [f"-{BIND_ALICE}", f"+{BIND_ALICE.replace(' alice', ' bob')}"]
    for name, change in changed.items():
        with connected(node, pki.alice, pki.alice, bob_of(pki), None) as live:
            *alices, bob, plain = live
            numbers = [client_id(bob), client_id(plain)]
            assert node.patch(*change)["closed"] == 2, name
            assert [closed(alice) for alice in alices] == [True, True], name
            assert [client_id(bob), client_id(plain)] == numbers, name
            assert whoami(bob)["user"] == "bob", name
        node.load(both(pki))
        assert node.outcome(pki.alice) == LOGIN, name
    gone(node, "sessions", 1)


def test_a_change_that_concerns_nobody_closes_nobody(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """More CAs, more lines, more rights, the same lines again: every session stays as it was, and
    new rights hold in it at once."""
    node = make_node(start, server_kind, *both(pki))
    gate = ["set gate full_subject", *(f"allow CN={n} OU=eng O=acme" for n in ("alice", "bob"))]

    def instead(old: str, new: str) -> list[str]:
        return [new if line == old else line for line in both(pki)]

    stay = {
        "same": both(pki),
        "more": both(pki, authority_line(root("CN=New")), "bind cn other alice", "allow CN=x"),
        "gate that lets them in": both(pki, *gate),
        "other rights": instead(ALICE, "user alice on +client|id"),
        "two lines that agree": both(pki, f"bind key {pki.alice.key_id} alice"),
        "an address that fits": instead(BIND_ALICE, f"{BIND_ALICE} from=127.0.0.0/8"),
    }
    with connected(node, pki.alice, bob_of(pki), None) as live:
        numbers = [client_id(connection) for connection in live]
        for name, lines in stay.items():
            assert node.load(lines)["closed"] == 0, name
            assert [client_id(connection) for connection in live] == numbers, name
        node.load(stay["other rights"])
        with pytest.raises(redis.ResponseError, match="NOPERM"):
            live[0].command("SET", "k", "v")


def test_a_client_that_waits_or_was_left_is_decided_again(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Those who have yet to choose, strangers who were left, and clients without a certificate are
    closed when they would be refused now."""
    carol, several = pki.ca.issue("CN=carol"), pki.ca.issue("CN=several")
    chooser = "bind cn several alice bob"
    node = make_node(start, server_kind, *both(pki, chooser, "set unmatched leave"), plain=True)
    with connected(node, several, carol, None) as (waiting, stranger, plain):
        assert whoami(waiting)["user"] == NOBODY
        local, tcp = node.server.admin(), node.server.plain_client()
        numbers = [local.client_id(), tcp.client_id()]
        assert node.outcome(carol) == leave("no_binding")
        assert node.patch(f"-{chooser}", "-set unmatched leave")["closed"] == 2
        assert closed(waiting)
        assert closed(stranger)
        assert [client_id(plain), tcp.client_id()] == [client_id(plain), numbers[1]]
        assert node.patch("+set plain refuse")["closed"] == 2
        assert closed(plain)
        with pytest.raises(redis.ConnectionError):
            tcp.ping()
        assert local.client_id() == numbers[0]


def test_a_plain_client_that_used_a_password_is_closed_too(
    installed: Server, start: Start, pki: Pki
) -> None:
    """`set plain refuse` is about how a client came, not about what it became."""
    worker = "user worker on >secret ~* &* +@all"
    node = make_node(start, installed, *policy_of(pki), plain=True, config=[worker])
    client = node.server.plain_client(username="worker", password="secret")
    assert client.acl_whoami() == "worker"
    assert node.patch("+set plain refuse")["closed"] == 1
    with pytest.raises(redis.ConnectionError):
        client.ping()


def test_sessions_from_before_the_policy_are_decided(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A policy that takes effect closes the clients that it would refuse, and those that came as
    `default` while it would make them a user."""
    node = make_node(start, server_kind)
    with connected(node, pki.alice, pki.bob, None) as (alice, bob, plain):
        number = client_id(plain)
        assert whoami(alice)["user"] == "default"
        assert node.load(policy_of(pki))["closed"] == 2
        assert closed(alice)
        assert closed(bob)
        assert client_id(plain) == number
    assert node.outcome(pki.alice) == LOGIN


def test_switching_default_off_closes_whoever_holds_it(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Switching a user off cuts nobody on a stock server; here plain clients, left ones, and unix
    ones that hold `default` are closed, from before the policy as well."""
    node = make_node(start, server_kind, plain=True)
    with connected(node, None, pki.alice) as (tls, early):
        tcp, local = node.server.plain_client(), node.server.admin()
        for client in (tcp, local):
            assert client.set("k", "v")
        node.load(policy_of(pki, "user default adopt off"))
        assert closed(tls)
        assert closed(early)
        for client in (tcp, local):
            with pytest.raises(redis.ConnectionError):
                client.ping()
    assert node.admin.ping()
    with node.connect() as connection, pytest.raises(redis.ResponseError, match="NOAUTH"):
        connection.command("SET", "k", "v")
    assert node.outcome(pki.alice) == LOGIN
    node.patch("-user default adopt off")
    with node.connect() as connection:
        assert connection.command("SET", "k", "v") == b"OK"


def test_the_sender_hears_before_it_is_closed(server_kind: Server, start: Start, pki: Pki) -> None:
    """Anyone who cuts itself off, having said FORCE, still gets the answer; without FORCE it is
    told so and nothing has changed."""
    node = make_node(start, server_kind, *both(pki))
    with connected(node, pki.alice) as (alice,):
        words = ("CERTAUTH.POLICY", "PATCH", "1", "2")
        with pytest.raises(redis.ResponseError, match="LOCKOUT"):
            alice.command(*words, "LINES", f"-{BIND_ALICE}")
        assert whoami(alice)["user"] == "alice"
        told = pairs(alice.command(*words, "FORCE", "LINES", f"-{BIND_ALICE}"))
        assert (told["generation"], told["closed"]) == (2, 1)
        assert closed(alice)


def test_the_operator_may_switch_default_off_as_default(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """A sender that holds `default` itself hears the answer, then it is closed."""
    node = make_node(start, server_kind)
    with node.connect() as connection:
        lines = policy_of(pki, "user default adopt off")
        told = pairs(connection.command("CERTAUTH.POLICY", "LOAD", "1", "LINES", *lines))
        assert told["generation"] == 1
        assert closed(connection)


# ---- Many ----------------------------------------------------------------------------------------


def test_a_sweep_over_many_sessions(server_kind: Server, start: Start, pki: Pki) -> None:
    """Of 300 sessions one change closes the half that it concerns, and answers after that; the
    other half works on."""
    node = make_node(start, server_kind, *both(pki))
    alice, bob = node.server.tls(pki.alice), node.server.tls(bob_of(pki))
    with ExitStack() as stack:
        pairs_of = [
            (stack.enter_context(alice.connect()), stack.enter_context(bob.connect()))
            for _ in range(150)
        ]
        numbers = [client_id(second) for _, second in pairs_of]
        assert node.patch(f"+revoke cert {pki.alice.fingerprint}")["closed"] == 150
        assert all(closed(first) for first, _ in pairs_of)
        assert [client_id(second) for _, second in pairs_of] == numbers
        gone(node, "sessions", 151)
    gone(node, "sessions", 1)


def test_sessions_that_work_are_cut_as_well(server_kind: Server, start: Start, pki: Pki) -> None:
    """Clients in the middle of pipelines, blocked and subscribed ones: all are closed, and the
    server lives."""
    node = make_node(start, server_kind, *policy_of(pki), io_threads=4)
    with connected(node, *[pki.alice] * 4) as (busy, blocked, subscribed, watching):
        assert client_id(busy)
        busy.socket.sendall(b"INCR work\r\n" * 2000)
        blocked.send("BLPOP", "nothing", "0")
        subscribed.send("SUBSCRIBE", "news")
        assert subscribed.read()
        assert watching.command("WATCH", "k") == b"OK"
        assert watching.command("MULTI") == b"OK"
        wait_until(lambda: node.admin.info("clients")["blocked_clients"] == 1, "it blocks")
        node.patch(f"+revoke cert {pki.alice.fingerprint}")
        for connection in (blocked, subscribed, watching):
            assert closed(connection)
        with suppress(*CLOSED):
            assert [busy.read() for _ in range(2001)] == [], "it is not closed"
    gone(node, "sessions", 1)
    assert node.admin.ping()


def test_a_user_removed_by_hand_ends_its_sessions(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """ACL DELUSER closes them, as on any server; ACL SETUSER … off by hand is set back before it
    matters; both leave others alone."""
    node = make_node(start, server_kind, *both(pki))
    with connected(node, pki.alice, bob_of(pki)) as (alice, bob):
        number = client_id(bob)
        node.call("ACL", "DELUSER", "alice")
        assert closed(alice)
        assert client_id(bob) == number
    wait_until(lambda: "alice" in node.admin.acl_users(), "alice is back")
    assert node.outcome(pki.alice) == LOGIN


def test_a_switch_to_off_lets_certificates_go(server_kind: Server, start: Start, pki: Pki) -> None:
    """When enforcement ends, the users of the policy go and their sessions with them; the next
    connection is what the server makes of it."""
    node = make_node(start, server_kind, *policy_of(pki))
    with connected(node, pki.alice, None) as (alice, plain):
        number = client_id(plain)
        node.patch("-set enforce on")
        assert closed(alice)
        assert client_id(plain) == number
    assert node.outcome(pki.alice) == leave("off")
    assert "alice" not in node.admin.acl_users()


# ---- CERTAUTH.SESSIONS and LOG -------------------------------------------------------------------


def sessions(node: Node, *words: str | int) -> dict[str, Any]:
    told = pairs(node.call("CERTAUTH.SESSIONS", *words))
    return {**told, "sessions": [pairs(one) for one in told["sessions"]]}


def test_sessions_are_listed(server_kind: Server, start: Start, pki: Pki) -> None:
    """Who is connected, as what, by which certificate, since and until when; page by page."""
    node = make_node(start, server_kind, *both(pki))
    with connected(node, pki.alice, pki.alice, bob_of(pki), None) as live:
        numbers = [client_id(connection) for connection in live]
        one = next(s for s in sessions(node)["sessions"] if s["id"] == numbers[0])
        assert (one["address"], one["user"], one["reason"]) == ("127.0.0.1", "alice", "matched")
        assert (one["subject"], one["serial"]) == ("CN=alice,OU=eng,O=acme", pki.alice.serial)
        assert (one["cert"], one["ca"]) == (pki.alice.fingerprint, pki.ca.key_id)
        assert one["key"] == pki.alice.key_id
        assert one["not_after"] == int(pki.alice.certificate.not_valid_after_utc.timestamp())
        assert one["path"] == [pki.ca.key_id]
        path = (pki.alice.certificate, pki.ca.certificate)
        end = int(min(cert.not_valid_after_utc for cert in path).timestamp()) + 1
        assert (one["end"], abs(one["since"] - time.time()) < 60) == (end, True)
        mine = sessions(node, "USER", "alice")
        assert ([s["id"] for s in mine["sessions"]], mine["cursor"]) == (numbers[:2], 0)
        found, cursor = [], 0
        while True:
            page = sessions(node, "COUNT", 2, "CURSOR", cursor)
            found += [s["id"] for s in page["sessions"]]
            if (cursor := page["cursor"]) == 0:
                break
        assert found == sorted(found)
        assert set(numbers) < set(found)
        assert len(found) == len(numbers) + 1


def test_a_session_tells_every_ca_that_it_depends_on(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Also on a resumed session, which brings no chain; and none where there is no certificate."""
    node = make_node(start, server_kind, *both(pki))
    upper = pki.ca.authority("CN=Upper")
    lower = upper.authority("CN=Lower")
    peer = node.server.tls(lower.issue("CN=alice,OU=eng,O=acme"))
    with peer.connect() as first:
        assert whoami(first)["user"] == "alice"
        with peer.connect(first.session) as second, connected(node, None):
            assert second.resumed
            assert whoami(second)["user"] == "alice"
            paths = [one["path"] for one in sessions(node)["sessions"]]
    expected = [lower.key_id, upper.key_id, pki.ca.key_id]
    assert [path for path in paths if path] == [expected, expected]
    assert [] in paths


CHANGES = {
    "nothing": [],
    "a user goes": [f"-{BIND_ALICE}", f"-{ALICE}"],
    "a binding names another": [f"-{BIND_ALICE}", "+bind subject CN=alice,OU=eng,O=acme bob"],
    "a CA goes": ["-ca {other}"],
    "a revocation": ["+revoke cert {alice}"],
    "a gate": ["+set gate san_cn", "+allow CN=bob"],
    "a user is off": [f"-{USER_BOB}", "+user bob off"],
    "default goes": ["+user default adopt off"],
    "a password user becomes a certificate's": ["+user worker adopt on +@all"],
    "no plain clients": ["+set plain refuse"],
    "shadow": ["-set enforce on", "+set enforce shadow"],
    "off": ["-set enforce on"],
    "all is left": ["+set unmatched leave", f"-{BIND_BOB}"],
}


@pytest.mark.parametrize("before", ["on", "shadow", "off"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_closes_those_that_it_was_said_to(
    installed: Server, start: Start, pki: Pki, change: list[str], before: str
) -> None:
    """SESSIONS with LINES changes nothing, and is right about everybody: by certificate, by
    password with and without a certificate, plain, and over a unix socket."""
    worker = "user worker on >secret ~* &* +@all"
    lines = [line for line in both(pki, "set password-auth allow") if line != "set enforce on"]
    node = make_node(start, installed, *lines, f"set enforce {before}", config=[worker])
    other = next(
        line for line in lines if line.startswith("ca ") and line != authority_line(pki.ca)
    )
    named = {"other": other.removeprefix("ca "), "alice": pki.alice.fingerprint}
    change = [line.format(**named) for line in change]
    if before != "on":
        change = [line for line in change if "set enforce" not in line]
        change += [f"-set enforce {before}", "+set enforce on"]
    with connected(node, pki.alice, bob_of(pki), pki.bob, None, None) as live:
        number = {client_id(one): one for one in live if one is not live[2] or before != "on"}
        live[-1].command("AUTH", "worker", "secret")
        seen = sessions(node)
        told = [pairs(one) for one in sessions(node, "LINES", *change)["sessions"]]
        assert sessions(node) == seen
        assert {one["holds"] for one in told} >= {"worker"}
        ending = {one["id"] for one in told if not one["stays"]} & set(number)
        node.patch(*change)
        assert {id for id, one in number.items() if is_closed(one)} == ending


def is_closed(connection: TlsConnection) -> bool:
    """A client that may run nothing is open all the same."""
    try:
        connection.command("PING")
    except redis.ResponseError:
        return False
    except CLOSED:
        return True
    return False


def foretold(node: Node, number: int, *change: str) -> dict[str, Any]:
    """What a change would make of one session."""
    return next(one for one in sessions(node, "LINES", *change)["sessions"] if one["id"] == number)


def test_who_came_to_a_free_default_by_reset_stays(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """And is said to; where the change takes that freedom away, it goes and is said to."""
    node = make_node(start, server_kind, *policy_of(pki))
    for change, stays in ((f"+revoke cert {'ab' * 32}", 1), ("+user default adopt on +ping", 0)):
        with connected(node, pki.alice) as (alice,):
            number = client_id(alice)
            assert alice.command("RESET") == b"RESET"
            told = foretold(node, number, change)
            assert (told["holds"], told["then"], told["stays"]) == ("default", "login", stays)
            node.patch(change)
            assert is_closed(alice) == (not stays)


REFUSED = {
    "no line": ("bind cn", "line 1: a patch has"),
    "no bind line": ("+bind cn", "line 1: "),
    "not held": ("-bind cn nobody nobody", "line 1: the policy does not hold"),
    "the server's user": ("+user worker on", "line 1: the server has a user of this name"),
    "a pattern's user": (
        "+pattern dns {id}.iot device:{id} on", "the server has the user 'device:x' already",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("line", "why"), REFUSED.values(), ids=REFUSED)
def test_a_change_that_would_be_refused_is_refused(
    installed: Server, start: Start, pki: Pki, line: str, why: str
) -> None:
    """With the words of the write that it would be; a problem with no line of the sender's has no
    number."""
    own = [f"user {name} on >secret ~* &* +@all" for name in ("worker", "device:x")]
    node = make_node(start, installed, *policy_of(pki), config=own)
    with pytest.raises(redis.ResponseError, match=f"^LINES 1 bad, nothing changed; {why}") as said:
        sessions(node, "LINES", line)
    with pytest.raises(redis.ResponseError) as refused:
        node.patch(line)
    assert str(said.value) == str(refused.value)


def test_a_line_that_is_held_and_begins_to_count_is_named(
    installed: Server, start: Start, pki: Pki
) -> None:
    """Where enforcement comes on, a line may be wrong that nobody sent with the change."""
    node = make_node(start, installed, *policy_of(pki)[1:], "user worker on +@all")
    node.call("ACL", "SETUSER", "worker", "on", ">secret")
    why = "changed; the policy's line 'user worker on \\+@all': the server has a user"
    for ask in (lambda line: sessions(node, "LINES", line), node.patch):
        with pytest.raises(redis.ResponseError, match=why):
            ask("+set enforce on")


def test_a_lockout_is_foretold_to_whoever_asks(server_kind: Server, start: Start, pki: Pki) -> None:
    """As the write would be refused to it; with FORCE it hears what would happen."""
    node = make_node(start, server_kind, *policy_of(pki))
    with connected(node, pki.alice) as (alice,):
        number = client_id(alice)
        for words in (("CERTAUTH.SESSIONS",), ("CERTAUTH.POLICY", "PATCH", "1", "2")):
            with pytest.raises(redis.ResponseError, match="LOCKOUT after this change"):
                alice.command(*words, "LINES", f"-{BIND_ALICE}")
        reply = alice.command("CERTAUTH.SESSIONS", "COUNT", "9", "FORCE", "LINES", f"-{BIND_ALICE}")
        told = {one["id"]: one for one in map(pairs, pairs(reply)["sessions"])}
        assert told[number]["stays"] == 0
        with pytest.raises(redis.ResponseError, match="FORCE stands before LINES"):
            alice.command("CERTAUTH.SESSIONS", "FORCE", "COUNT", "9")


def test_a_node_that_takes_no_policy_foretells_nothing(
    installed: Server, start: Start, pki: Pki
) -> None:
    """With the words of the write: its journal cannot be read."""
    node = make_node(start, installed, *policy_of(pki))
    node.server.stop()
    (node.server.directory / "certauth" / "policy").write_bytes(b"x" * 64)
    node.server.start()
    said = []
    for ask in (lambda line: sessions(node, "LINES", line), node.patch):
        with pytest.raises(redis.ResponseError, match="^NOJOURNAL") as refused:
            ask("+set plain refuse")
        said.append(str(refused.value))
    assert said[0] == said[1]


def entries(node: Node, *words: str | int) -> list[dict[str, Any]]:
    return [pairs(one) for one in pairs(node.call("CERTAUTH.LOG", *words))["entries"]]


def test_the_log_holds_what_happened(server_kind: Server, start: Start, pki: Pki) -> None:
    """Logins, refusals, choices and ends are entries with their reason, oldest first, numbered."""
    node = make_node(start, server_kind, *policy_of(pki))
    with connected(node, pki.alice) as (alice,):
        assert whoami(alice)["user"] == "alice"
        node.outcome(pki.bob)
        node.patch(f"+revoke cert {pki.alice.fingerprint}")
        assert closed(alice)
    told = [(e["event"], e["reason"], e["subject"][:8]) for e in entries(node)]
    expected = [
        ("login", "matched", "CN=alice"), ("refused", "no_binding", "CN=bob,O"),
        ("closed", "revoked", "CN=alice"),
    ]  # fmt: skip
    assert told == expected
    one = entries(node)[0]
    assert [one[name] for name in ("cert", "key", "ca")] == [
        pki.alice.fingerprint, pki.alice.key_id, pki.ca.key_id
    ]  # fmt: skip
    assert one["not_after"] == int(pki.alice.certificate.not_valid_after_utc.timestamp())
    last = entries(node)[-1]["seq"]
    assert [e["seq"] for e in entries(node)] == list(range(last - 2, last + 1))
    assert [e["seq"] for e in entries(node, "SINCE", last - 1)] == [last]
    boot = pairs(node.call("CERTAUTH.LOG"))["boot"]
    node.server.stop()
    node.server.start()
    assert pairs(node.call("CERTAUTH.LOG"))["boot"] != boot
