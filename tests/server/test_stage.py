"""CERTAUTH.POLICY STAGE, COMMIT and SHOW: a policy of any size, without holding the server."""

import random
from typing import Any

import pytest
import redis

from control.policy import core
from tests.kit.node import ALICE, JOURNAL, enrolled, load, mapping, patch, show, status, usual
from tests.kit.policies import Start
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, wait_until


def policy(server: RedisServer, *words: str | int) -> Any:
    execute: Any = server.admin().execute_command
    return execute("CERTAUTH.POLICY", *words)


def stage(server: RedisServer, name: str, *lines: str) -> int:
    return int(policy(server, "STAGE", name, "LINES", *lines))


def refused(code: str) -> Any:
    return pytest.raises(redis.ResponseError, match=f"^{code}")


def binds(count: int, start: int = 0) -> list[str]:
    return [f"bind cn device-{number} alice" for number in range(start, start + count)]


# ---- STAGE and COMMIT ----------------------------------------------------------------------------


def test_what_was_staged_is_the_policy(server_kind: Server, start: Start, pki: Pki) -> None:
    """A policy that comes in several calls is what LOAD would have made, digest and all,
    also after a restart."""
    server = enrolled(start, server_kind, pki)
    lines = usual(pki) + binds(2500)
    assert stage(server, "a", *lines[:1000]) == 1000
    assert stage(server, "a", *lines[1000:]) == len(lines)
    assert sorted(show(server.admin())) == sorted(usual(pki))
    digest = core.digest(lines)
    reply = mapping(policy(server, "COMMIT", "a", len(lines), "LOAD", 2, "DIGEST", digest))
    assert reply == {"generation": 2, "digest": digest, "closed": 0}
    assert sorted(show(server.admin())) == sorted(lines)
    server.stop()
    server.start()
    assert sorted(show(server.admin())) == sorted(lines)
    assert server.client(pki.alice).acl_whoami() == "alice"


def test_a_staged_patch_is_a_patch(server_kind: Server, start: Start, pki: Pki) -> None:
    """Lines with + and - are held against the policy in force, whichever call brought them; those
    who lose their binding lose their connection before the reply."""
    server = enrolled(start, server_kind, pki, *binds(1500))
    alice = server.client(pki.alice)
    alice.ping()
    gone = next(line for line in usual(pki) if line.startswith("bind key"))
    stage(server, "p", *[f"-{line}" for line in binds(1500)])
    changes = [f"-{gone}", *[f"+{line}" for line in binds(1500, 1500)]]
    stage(server, "p", *changes)
    reply = mapping(policy(server, "COMMIT", "p", 1500 + len(changes), "PATCH", 1, 2))
    assert reply["closed"] == 1
    left = [line for line in usual(pki) if line != gone] + binds(1500, 1500)
    assert sorted(show(server.admin())) == sorted(left)
    with pytest.raises(redis.ConnectionError):
        alice.ping()


def test_a_hundred_thousand_lines_come_and_go(installed: Server, start: Start, pki: Pki) -> None:
    """Tables that grow and are built again lose and repeat nothing."""
    server = enrolled(start, installed, pki)
    lines, generation = binds(100_000), 1
    for sign, left in (("+", lines), ("-", [])):
        for at in range(0, len(lines), 5000):
            stage(server, sign, *[sign + line for line in lines[at : at + 5000]])
        policy(server, "COMMIT", sign, len(lines), "PATCH", generation, generation + 1)
        generation += 1
        assert sorted(show(server.admin())) == sorted([*usual(pki), *left])
        assert status(server.admin())["digest"] == core.digest([*usual(pki), *left])
        assert server.client(pki.alice).acl_whoami() == "alice"
    server.stop()
    server.start()
    assert sorted(show(server.admin())) == sorted(usual(pki))


def test_many_users_come_change_and_go(server_kind: Server, start: Start, pki: Pki) -> None:
    """More users than one slice makes are all there at the reply, as their lines say, and gone at
    the reply that takes them; an adopted one is what it was."""
    server = enrolled(start, server_kind, pki)
    admin = server.admin()
    admin.execute_command("ACL", "SETUSER", "device-7", "on", ">old", "+ping")
    before = sorted(line.replace("sanitize-payload ", "") for line in admin.acl_list())
    adopt = {7: "adopt "}
    names = range(3000)
    made = [f"user device-{n} {adopt.get(n, '')}on ~{n}:* +get" for n in names]
    other = [f"user device-{n} {adopt.get(n, '')}on ~{n}:* +set" for n in names]
    stage(server, "1", *[f"+{line}" for line in made])
    policy(server, "COMMIT", "1", 3000, "PATCH", 1, 2)
    assert sum("device-" in line for line in admin.acl_list()) == 3000
    assert "+get" in admin.acl_list()[-1] + str(admin.acl_getuser("device-2999"))
    stage(server, "2", *[f"-{line}" for line in made])
    stage(server, "2", *[f"+{line}" for line in other])
    policy(server, "COMMIT", "2", 6000, "PATCH", 2, 3)
    rules = [line for line in admin.acl_list() if "device-" in line]
    assert len(rules) == 3000
    assert all("+set" in line and "+get" not in line for line in rules)
    stage(server, "3", *[f"-{line}" for line in other])
    policy(server, "COMMIT", "3", 3000, "PATCH", 3, 4)
    after = sorted(line.replace("sanitize-payload ", "") for line in admin.acl_list())
    assert after == before  # 7.0 says of a user that was reset what it says of none other


def test_a_user_that_comes_is_nobody_before_the_commit(
    installed: Server, start: Start, pki: Pki
) -> None:
    """Of a change with many users, no connection sees half: while users are made one by one, who
    is bound to one of them is refused, then logged in, and never before the line is in force."""
    server = enrolled(start, installed, pki, "bind cn bob last")
    users = [f"+user u-{n} on +@read +@write" for n in range(4000)] + ["+user last on +ping"]
    stage(server, "u", *users)
    sender = server.admin()
    pipe: Any = sender.connection_pool.get_connection()
    pipe.send_command("CERTAUTH.POLICY", "COMMIT", "u", len(users), "PATCH", 1, 2)
    seen = set()

    def logged_in() -> bool:
        try:
            with server.tls(pki.bob).connect() as bob:
                bob.command("PING")
                seen.add(status(server.admin())["generation"])
                return True
        except (ConnectionError, redis.ResponseError, OSError):
            return False

    wait_until(logged_in, "bob is last")
    assert seen == {2}
    pipe.read_response()


def test_bad_lines_are_told_with_the_number_in_the_stage(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """10,000 bad lines are counted, the first 32 told; nothing of that stage is left."""
    server = enrolled(start, server_kind, pki)
    stage(server, "bad", *usual(pki))
    with refused("LINES 10000 bad, nothing changed; line 5: ") as told:
        stage(server, "bad", *(["bind nobody"] * 10_000))
    assert str(told.value).count("; line ") == 32
    with refused("STAGE no lines are staged"):
        policy(server, "COMMIT", "bad", 4, "LOAD", 2)
    assert sorted(show(server.admin())) == sorted(usual(pki))


def test_problems_that_only_the_whole_shows_come_with_the_commit(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """What the ACL of the server does not take, and what the policy holds already."""
    server = enrolled(start, server_kind, pki)
    stage(server, "x", "+user eve on +@nosuch", f"+{ALICE}")
    held = "line 2: the policy holds this line already"
    with refused(f"LINES 2 bad, nothing changed; {held}") as told:
        policy(server, "COMMIT", "x", 2, "PATCH", 1, 2)
    assert "line 1: " in str(told.value)
    assert status(server.admin())["generation"] == 1


def test_half_a_stage_is_never_committed(server_kind: Server, start: Start, pki: Pki) -> None:
    """Another sender, another change, or a repeated call: the number of lines tells."""
    server = enrolled(start, server_kind, pki)
    lines = usual(pki)
    stage(server, "mine", *lines[:2])
    stage(server, "theirs", "set enforce off")
    assert stage(server, "mine", *lines[2:]) == 2
    with refused("STAGE 2 lines are staged, not 4"):
        policy(server, "COMMIT", "mine", 4, "LOAD", 2)
    stage(server, "p", "+bind cn x alice")
    patch(server.admin(), 1, 2, ["+bind cn y alice"])
    with refused("STAGE no lines are staged under this id"):
        policy(server, "COMMIT", "p", 1, "PATCH", 2, 3)
    stage(server, "p", "+bind cn x alice")
    with refused("STAGE LOAD takes lines"):
        policy(server, "COMMIT", "p", 1, "LOAD", 3)
    assert mapping(policy(server, "COMMIT", "p", 1, "PATCH", 2, 3))["generation"] == 3


def test_a_commit_is_checked_as_a_write_is(server_kind: Server, start: Start, pki: Pki) -> None:
    """Owner, epoch, base, generation and digest."""
    server = enrolled(start, server_kind, pki, owner="prod/1")
    line, name = "+bind cn x alice", "c"

    def commit(*words: str | int) -> Any:
        stage(server, name, line)
        return policy(server, "COMMIT", name, 1, *words)

    for code, words in (
        ("OWNED", ("PATCH", 1, 2, "OWNER", "other")),
        ("BASE", ("PATCH", 5, 6, "OWNER", "prod/1")),
        ("GENERATION", ("PATCH", 1, 1, "OWNER", "prod/1")),
        ("DIGEST", ("PATCH", 1, 2, "OWNER", "prod/1", "DIGEST", "1:00")),
        ("expected PATCH <base> <generation>", ("PATCH", 1, 2, "LINES", line)),
        ("'9223372036854775808' is not a number", ("PATCH", 1, 2**63)),
        ("expected COMMIT", ("ERASE", 1)),
    ):
        with refused(code):
            commit(*words)
        policy(server, "STAGE", "away", "LINES", line)
    assert status(server.admin())["generation"] == 1
    assert mapping(commit("PATCH", 1, 2**63 - 1, "OWNER", "prod/1"))["generation"] == 2**63 - 1


def test_no_call_takes_more_than_ten_thousand_lines(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """The refusal says what to do instead."""
    server = enrolled(start, server_kind, pki)
    for words in (("LOAD", 2, "LINES"), ("PATCH", 1, 2, "LINES"), ("STAGE", "s", "LINES")):
        with refused(
            "at most 10000 lines in one call, not 10001: send them by several STAGE calls"
        ):
            policy(server, *words, *binds(10_001))
    most = [*usual(pki), *binds(9_996)]
    assert mapping(policy(server, "LOAD", 2, "LINES", *most))["generation"] == 2


def test_a_line_of_a_mebibyte_is_told(installed: Server, start: Start, pki: Pki) -> None:
    """It is refused for its length, in each way of writing."""
    server = enrolled(start, installed, pki)
    line = "bind cn " + "x" * 2**20 + " alice"
    for words in (("LOAD", 2, "LINES", line), ("PATCH", 1, 2, "LINES", f"+{line}"),
                  ("STAGE", "s", "LINES", line)):  # fmt: skip
        with refused("LINES 1 bad, nothing changed; line 1: the line is longer than 131072 bytes"):
            policy(server, *words)


def test_who_may_not_write_may_not_stage(server_kind: Server, start: Start, pki: Pki) -> None:
    """Staging fills the memory, so it is for those who may write; and needs a name."""
    server = enrolled(start, server_kind, pki, "user bob on +@all -acl|setuser", "bind cn bob bob")
    for words in (("STAGE", "s", "LINES", "set enforce off"), ("COMMIT", "s", "1", "LOAD", "2")):
        with refused("NOPERM|NoPermission|this is for users"):
            server.client(pki.bob).execute_command("CERTAUTH.POLICY", *words)
    for words in (("STAGE", "", "LINES", "x"), ("STAGE", "x" * 64, "LINES", "x"),
                  ("STAGE", "x", "NOLINES", "x"), ("STAGE", "x", "OF", "1", "x"),
                  ("STAGE", "x", "OF", "1", "LINES")):  # fmt: skip
        with refused(r"expected STAGE <id> \[OF n\] LINES"):
            policy(server, *words)


def test_room_may_be_made_beforehand(installed: Server, start: Start, pki: Pki) -> None:
    """`OF n` says nothing but how much room to make: fewer or more lines may come, and a number
    that nobody could mean takes no memory."""
    server = enrolled(start, installed, pki)
    for number, expected in enumerate(("4", "1", "1000", str(2**63 - 1))):
        name, lines = str(number), usual(pki)
        assert policy(server, "STAGE", name, "OF", expected, "LINES", *lines) == len(lines)
        policy(server, "COMMIT", name, len(lines), "LOAD", number + 2)
    with refused("'x' is not a number"):
        policy(server, "STAGE", "n", "OF", "x", "LINES", "set enforce off")


# ---- SHOW ----------------------------------------------------------------------------------------


def test_pages_are_the_policy(server_kind: Server, start: Start, pki: Pki) -> None:
    """Whatever the size of the pages, each line is there once; the notes of the node are not."""
    server = start(server_kind, module=JOURNAL)
    server.admin().execute_command("ACL", "SETUSER", "old", "on", ">old")
    load(server.admin(), 1, [*usual(pki), *binds(50), "user old adopt on +ping"])
    expected = sorted([*usual(pki), *binds(50), "user old adopt on +ping"])
    for count in (1, 7, 55, 10_000, 2**62):
        cursor, found = "0", []
        while True:
            cursor, lines = policy(server, "SHOW", "COUNT", count, "CURSOR", cursor)
            assert len(lines) <= count
            found += lines
            if cursor == "0":
                break
        assert sorted(found) == expected
    assert len(policy(server, "SHOW")) == 2


def test_a_cursor_ends_with_its_policy(server_kind: Server, start: Start, pki: Pki) -> None:
    """After a change, or a restart, lines stand elsewhere: the reader has to begin again."""
    server = enrolled(start, server_kind, pki)
    cursor, _ = policy(server, "SHOW", "COUNT", 2)
    patch(server.admin(), 1, 2, ["+bind cn x alice"])
    with refused("CURSOR the policy has changed"):
        policy(server, "SHOW", "CURSOR", cursor)
    cursor, _ = policy(server, "SHOW", "COUNT", 2)
    server.stop()
    server.start()
    with refused("CURSOR the policy has changed"):
        policy(server, "SHOW", "CURSOR", cursor)


@pytest.mark.parametrize(
    "words",
    [("CURSOR", "1"), ("CURSOR", "x-y"), ("CURSOR", ""), ("CURSOR", "1-2 "), ("COUNT", "-1"),
     ("COUNT", "x"), ("MATCH",), ("NOSUCH", "1"), ("CURSOR", "9" * 70)],
)  # fmt: skip
def test_a_page_is_asked_for_in_this_form(
    words: tuple[str, ...], installed: Server, start: Start, pki: Pki
) -> None:
    server = enrolled(start, installed, pki)
    with refused("not a cursor|takes MATCH|.*is not a number|CURSOR"):
        policy(server, "SHOW", *words)


def glob(pattern: str, text: str) -> bool:
    """As slow and plain as it gets."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(glob(pattern[1:], text[at:]) for at in range(len(text) + 1))
    if pattern[0] == "\\" and len(pattern) > 1:
        return text[:1] == pattern[1] and glob(pattern[2:], text[1:])
    return bool(text) and pattern[0] in ("?", text[0]) and glob(pattern[1:], text[1:])


def test_match_is_a_glob(installed: Server, start: Start, pki: Pki) -> None:
    """As a plain reading of the rules has it, for what a person writes and for chance."""
    lines = ["bind cn ab* alice", "bind cn ab alice", "bind cn a?b alice", "bind cn abba alice"]
    server = start(installed, module=JOURNAL)
    load(server.admin(), 1, lines)
    rng = random.Random(5)
    patterns = ["*", "bind*", "*alice", "* ab *", r"* ab\* *", r"*a\?b*", "*a?b*", "no", "b*d*a*e"]
    patterns += ["*" + "".join(rng.choices("ab*?\\ ", k=rng.randrange(6))) + "*" for _ in range(60)]
    for pattern in patterns:
        found = policy(server, "SHOW", "MATCH", pattern)[1]
        assert sorted(found) == sorted(line for line in lines if glob(pattern, line)), pattern


def test_many_stars_are_no_attack(installed: Server, start: Start, pki: Pki) -> None:
    """A pattern that makes a backtracking matcher try 2^n ways is answered."""
    server = start(installed, module=JOURNAL)
    load(server.admin(), 1, [f"bind cn {'a' * 4000} alice"])
    assert policy(server, "SHOW", "MATCH", "*a" * 200 + "*b")[1] == []


# ---- While a large change takes effect -----------------------------------------------------------


def many(count: int, *first: str) -> list[str]:
    """Enough users that the change takes a while, behind `first`."""
    return [*first, *[f"+user u-{n} on ~u:{n}:* +@read +@write -@dangerous" for n in range(count)]]


def begin(server: RedisServer, lines: list[str]) -> Any:
    """Sends a change and returns its connection, on which the answer will come."""
    for at in range(0, len(lines), 5000):
        stage(server, "x", *lines[at : at + 5000])
    connection: Any = server.admin().connection_pool.get_connection()
    connection.send_command("CERTAUTH.POLICY", "COMMIT", "x", len(lines), "PATCH", 1, 2)
    return connection


def test_who_loses_a_user_never_has_what_it_becomes(
    installed: Server, start: Start, pki: Pki
) -> None:
    """A change takes `app` from bob and gives it every right: neither his old connection nor a new
    one ever has those, however long the change takes."""
    less, more = "user app on ~app:* +get +ping", "user app on ~* +@all"
    server = enrolled(start, installed, pki, "bind cn bob app", less)
    lines = many(4000, "-bind cn bob app", f"-{less}", f"+{more}")

    def rights(connection: Any) -> bool:
        try:
            connection.command("CONFIG", "GET", "port")
        except redis.ResponseError as error:
            return not str(error).startswith(("NOPERM", "NOAUTH"))
        except OSError:
            return False
        return True

    def attempt() -> bool:
        try:
            with server.tls(pki.bob).connect() as connection:
                return rights(connection)
        except OSError:
            return False

    with server.tls(pki.bob).connect() as old:
        assert old.command("PING") == b"PONG"
        change, tries = begin(server, lines), []
        while not change.can_read(0):
            tries.append(rights(old) or attempt())
        assert mapping(change.read_response())["generation"] == 2
    assert tries
    assert not any(tries)
    assert "+@all" in str(server.admin().acl_getuser("app"))


def test_a_user_that_somebody_touches_meanwhile_becomes_its_line(
    installed: Server, start: Start, pki: Pki
) -> None:
    """A change narrows `app`, somebody widens it by hand meanwhile: in the end it is the line."""
    wide, narrow = "user app on ~* +@all", "user app on ~app:* +get +ping"
    server = enrolled(start, installed, pki, wide)
    change = begin(server, many(4000, f"-{wide}", f"+{narrow}"))
    admin = server.admin()
    while not change.can_read(0):
        admin.execute_command("ACL", "SETUSER", "app", "+set")
    change.read_response()

    def narrowed() -> bool:
        commands = str(admin.acl_getuser("app")["commands"])  # type: ignore[index,call-overload]
        return "+get" in commands and "+set" not in commands and "+@all" not in commands

    if installed.release >= (7, 2):
        wait_until(narrowed, "it is repaired", 70)
    assert "+@all" not in str(admin.acl_getuser("app"))


def test_a_sender_with_force_is_answered(installed: Server, start: Start, pki: Pki) -> None:
    """It leaves its user for as long as the change takes; that is not a straying."""
    server = enrolled(start, installed, pki)
    lines = many(6000)
    for at in range(0, len(lines), 3000):
        stage(server, "x", *lines[at : at + 3000])
    alice = server.client(pki.alice, socket_timeout=60)
    words = ("COMMIT", "x", str(len(lines)), "PATCH", "1", "2", "FORCE")
    assert mapping(alice.execute_command("CERTAUTH.POLICY", *words))["closed"] == 0
    assert alice.acl_whoami() == "alice"
    assert "strayed" not in str(server.admin().execute_command("CERTAUTH.LOG"))
