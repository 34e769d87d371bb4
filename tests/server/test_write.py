"""CERTAUTH.POLICY: what is taken, what is refused, and that a refusal changes nothing."""

import errno
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest
import redis

from control.policy import core
from tests.kit.faults import Disk
from tests.kit.node import (
    ALICE,
    JOURNAL,
    Start,
    authority,
    bind,
    enrolled,
    is_open,
    journal,
    load,
    nothing_changes,
    patch,
    refused,
    rules,
    show,
    status,
    turned_away,
    usual,
    who,
)
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, wait_until

BOB = "user bob on ~b:* +@read +@connection +acl|whoami"
HIGHEST = 2**63 - 1


# ---- What is taken -------------------------------------------------------------------------------


def test_a_load_is_the_policy(server_kind: Server, start: Start, pki: Pki) -> None:
    """The reply, STATUS and SHOW name the same lines, and certificates are users from then on."""
    server = start(server_kind, module=JOURNAL)
    admin, lines = server.admin(), usual(pki)
    assert who(server, pki.alice) == "default"
    digest = core.digest(lines)
    assert load(admin, 7, lines) == {"generation": 7, "digest": digest, "closed": 0}
    told = status(admin)
    assert told.pop("sessions") == 1
    assert told.pop("trust").startswith("not managed")
    assert told.pop("version") == version("redis-certauth")
    assert told.pop("protocol") == core.PROTOCOL
    assert told == {
        "generation": 7, "digest": digest, "lines": 4, "owner": "", "epoch": 0,
        "enforce": "on", "journal": "ok", "unverified": "", "untaken": "", "key": pki.server.key_id,
        "client_key": pki.server.key_id, "next_key": None, "certificate": "ok",
    }  # fmt: skip
    assert sorted(show(admin)) == sorted(map(core.canonical, lines))
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob) == "no_binding"


def test_a_patch_adds_and_removes(server_kind: Server, start: Start, pki: Pki) -> None:
    """Only the lines that it names change, and a session goes with its line; others stay."""
    server = enrolled(start, server_kind, pki)
    admin, lines = server.admin(), usual(pki)
    assert turned_away(server, pki.bob) == "no_binding"
    added = [bind(pki.bob, "bob"), BOB]
    reply = patch(admin, 1, 5, [f"+{line}" for line in added])
    assert reply == {"generation": 5, "digest": core.digest(lines + added), "closed": 0}
    bob = server.client(pki.bob, single_connection_client=True)
    alice = server.client(pki.alice, single_connection_client=True)
    assert (bob.acl_whoami(), alice.acl_whoami()) == ("bob", "alice")

    reply = patch(admin, 5, 6, [f"-{line}" for line in added])
    assert reply == {"generation": 6, "digest": core.digest(lines), "closed": 1}
    wait_until(lambda: not is_open(bob), "bob's session is closed")
    assert is_open(alice)
    assert turned_away(server, pki.bob) == "no_binding"
    assert status(admin)["generation"] == 6


def test_a_load_replaces_every_line(installed: Server, start: Start, pki: Pki) -> None:
    """What a LOAD does not name goes."""
    server = enrolled(start, installed, pki)
    lines = ["set enforce on", authority(pki.ca), bind(pki.bob, "bob"), BOB]
    load(server.admin(), 2, lines)
    assert sorted(show(server.admin())) == sorted(map(core.canonical, lines))
    assert turned_away(server, pki.alice) == "no_binding"
    assert who(server, pki.bob) == "bob"


def test_a_line_is_the_same_in_every_spelling(installed: Server, start: Start, pki: Pki) -> None:
    """The node canonicalises: the digest and a removal do not depend on how a line was written."""
    server = enrolled(start, installed, pki)
    admin = server.admin()
    written = 'bind  subject "CN = bob , OU=eng,O=acme"  alice'
    plain = core.canonical(written)
    assert plain != written
    digest = core.digest([*usual(pki), plain])
    assert patch(admin, 1, 2, [f"+{written}"])["digest"] == digest
    assert plain in show(admin)
    assert who(server, pki.bob) == "alice"
    patch(admin, 2, 3, ['-bind subject "/O=acme/OU=eng/CN=bob" alice'])
    assert turned_away(server, pki.bob) == "no_binding"


def test_an_empty_load_detaches(server_kind: Server, start: Start, pki: Pki) -> None:
    """Users and sessions of ours go, and clients with a certificate are left alone again."""
    server = enrolled(start, server_kind, pki)
    alice = server.client(pki.alice, single_connection_client=True)
    assert alice.acl_whoami() == "alice"
    reply = load(server.admin(), 2, [])
    assert (reply["digest"], reply["closed"]) == (core.digest([]), 1)
    wait_until(lambda: not is_open(alice), "alice's session is closed")
    assert server.admin().acl_users() == ["default"]
    assert who(server, pki.alice) == who(server, pki.bob) == "default"
    assert status(server.admin())["lines"] == 0


def test_a_line_may_be_as_long_as_the_limit(installed: Server, start: Start, pki: Pki) -> None:
    """131,072 bytes are a line; one more is none."""
    server = enrolled(start, installed, pki)
    line = "bind cn bob alice"
    longest = line + " " * (131_072 - len(line))
    with nothing_changes(server, pki), refused("LINES 1 bad.*line 1: .*longer than 131072"):
        patch(server.admin(), 1, 2, [f"+{longest} "])
    patch(server.admin(), 1, 2, [f"+{longest}"])
    assert line in show(server.admin())


# ---- Lines that are refused ----------------------------------------------------------------------


def test_every_bad_line_is_named(server_kind: Server, start: Start, pki: Pki) -> None:
    """Those that do not parse and those whose rules this server does not know, with their numbers;
    the good lines between them change nothing."""
    server = enrolled(start, server_kind, pki)
    bad = {1: "bind cn", 3: "user carol on +@nosuch", 4: "user dave on ~x +nosuchcommand"}
    lines = [bad.get(number, f"bind cn c{number} alice") for number in range(1, 6)]
    with nothing_changes(server, pki), pytest.raises(redis.ResponseError) as error:
        patch(server.admin(), 1, 2, [f"+{line}" for line in lines])
    text = str(error.value)
    assert text.startswith("LINES 3 bad, nothing changed; line 1: ")
    assert [f"line {number}: " in text for number in range(1, 6)] == [n in bad for n in range(1, 6)]
    with nothing_changes(server, pki), refused("LINES 3 bad"):
        load(server.admin(), 2, [*lines, *usual(pki)])
    good = [line for number, line in enumerate(lines, 1) if number not in bad]
    patch(server.admin(), 1, 2, [f"+{line}" for line in good])


def test_a_rule_that_only_the_server_can_judge_is_named_beside_others(
    installed: Server, start: Start, pki: Pki
) -> None:
    """The server's own words say what is wrong with an ACL rule."""
    server = enrolled(start, installed, pki)
    with nothing_changes(server, pki), refused("LINES 2 bad.*line 2: .*line 3: "):
        patch(server.admin(), 1, 2, ["+bind cn x alice", "+user c on +@no", "+user d on %Q~x"])


def test_many_bad_lines_are_counted(installed: Server, start: Start, pki: Pki) -> None:
    """The first 32 are told, and how many there are."""
    server = enrolled(start, installed, pki)
    with nothing_changes(server, pki), pytest.raises(redis.ResponseError) as error:
        patch(server.admin(), 1, 2, [f"+nonsense {number}" for number in range(10_000)])
    text = str(error.value)
    assert text.startswith("LINES 10000 bad, nothing changed; line 1: ")
    assert "; line 32: " in text
    assert "; line 33: " not in text


BAD_LINES = {
    "no sign": ["bind cn x alice"],
    "empty": [""],
    "a sign alone": ["+"],
    "unbalanced quotes": ['+bind cn "x alice'],
    "a newline in it": ["+bind cn x alice\nbind cn y alice"],
    "a NUL in it": ["+bind cn x\0 alice"],
    "not UTF-8": [b"+bind cn \xff\xfe alice"],
    "a password": ["+user c on >secret"],
    "nopass": ["+user c on NoPass"],
    "reset": ["+user c reset"],
    "a note of the node": ["+was c on ~* +@all"],
    "a limit": ["+limit -@admin"],
    "no CA": ["+ca bm9uc2Vuc2U="],
    "a default that is there": ["+user default off"],
    "the same line twice": ["+bind cn x alice", "+bind  cn x alice"],
    "two values": ["+bind cn x alice", "+bind cn x bob"],
    "one that is there": [f"+{ALICE}"],
    "another value of one that is there": ["+set enforce off"],
    "the removal of what is not there": ["-bind cn x alice"],
    "a removal with another value": ["-set enforce off"],
    "a removal twice": [f"-{ALICE}", f"-{ALICE}"],
    "an addition and a removal of what is not there": ["+bind cn x alice", "-bind cn x alice"],
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_changes_nothing(installed: Server, start: Start, pki: Pki, name: str) -> None:
    """The last line of each is the bad one, and is named."""
    server = enrolled(start, installed, pki)
    changes: list[Any] = BAD_LINES[name]
    expected = f"LINES 1 bad, nothing changed; line {len(changes)}: "
    with nothing_changes(server, pki), refused(expected):
        patch(server.admin(), 1, 2, changes)
    patch(server.admin(), 1, 2, ["+bind cn x alice"])


# ---- Whose policy, and which ---------------------------------------------------------------------


def test_a_patch_fits_one_base_only(server_kind: Server, start: Start, pki: Pki) -> None:
    """Who does not know what is in force cannot change a part of it; the answer says what is."""
    server = enrolled(start, server_kind, pki)
    for base in (0, 2, HIGHEST):
        with (
            nothing_changes(server, pki),
            refused(f"BASE generation {base} is not current: the node has 1"),
        ):
            patch(server.admin(), base, 9, ["+bind cn x alice"])
        with nothing_changes(server, pki), refused("BASE "):
            patch(server.admin(), base, 9, ["+bind cn x alice"], "FORCE")
    patch(server.admin(), 1, 9, ["+bind cn x alice"])


def test_a_patch_needs_a_policy(installed: Server, start: Start) -> None:
    """Nothing can be patched before the first LOAD."""
    server = start(installed, module=JOURNAL)
    with refused("BASE generation 0 is not current"):
        patch(server.admin(), 0, 1, ["+set enforce on"])
    assert status(server.admin())["generation"] == 0
    load(server.admin(), 1, ["set enforce on"])


def test_generations_only_rise(installed: Server, start: Start, pki: Pki) -> None:
    """A write whose generation is not above is refused, unless it is a whole policy by FORCE."""
    server = enrolled(start, installed, pki)
    admin = server.admin()
    patch(admin, 1, 5, ["+bind cn x alice"])
    for generation in (5, 4, 1, 0):
        words = f"GENERATION {generation} must be above the current generation 5"
        with nothing_changes(server, pki), refused(words):
            load(admin, generation, usual(pki))
        with nothing_changes(server, pki), refused(words):
            patch(admin, 5, generation, ["-bind cn x alice"], "FORCE")
    with nothing_changes(server, pki), refused("GENERATION 0"):
        load(admin, 0, usual(pki), "FORCE")
    assert load(admin, 2, usual(pki), "FORCE")["generation"] == 2
    assert status(admin)["generation"] == 2


def test_numbers_end_at_the_highest(installed: Server, start: Start, pki: Pki) -> None:
    """2^63-1 is a generation and an epoch; nothing is above it but a LOAD by FORCE."""
    server = enrolled(start, installed, pki)
    admin = server.admin()
    load(admin, HIGHEST, usual(pki), "EPOCH", str(HIGHEST))
    told = status(admin)
    assert (told["generation"], told["epoch"]) == (HIGHEST, HIGHEST)
    with nothing_changes(server, pki), refused(f"GENERATION {HIGHEST} must be above"):
        patch(admin, HIGHEST, HIGHEST, ["+bind cn x alice"])
    server.stop()
    server.start()
    assert status(server.admin())["generation"] == HIGHEST
    load(server.admin(), 1, usual(pki), "FORCE", "EPOCH", str(HIGHEST))


NUMBERS = ("-1", "9223372036854775808", "18446744073709551617", "x", "", "1.5", "0x2", " 2")


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_no_number_is_refused(
    installed: Server, start: Start, pki: Pki, number: str
) -> None:
    """As base, generation or epoch; none of them wraps round."""
    server = enrolled(start, installed, pki)
    admin, words = server.admin(), f"'{number}' is not a number from 0 to 2"
    with nothing_changes(server, pki), refused(words):
        load(admin, number, usual(pki))
    with nothing_changes(server, pki), refused(words):
        patch(admin, number, 2, ["+bind cn x alice"])
    with nothing_changes(server, pki), refused(words):
        patch(admin, 1, number, ["+bind cn x alice"])
    with nothing_changes(server, pki), refused(words):
        patch(admin, 1, 2, ["+bind cn x alice"], "EPOCH", number)
    patch(admin, 1, 2, ["+bind cn x alice"], "EPOCH", "0")


def test_epochs_never_fall(installed: Server, start: Start, pki: Pki) -> None:
    """A control plane that lost its lease cannot write, not even by FORCE; nor after a restart."""
    server = enrolled(start, installed, pki)
    patch(server.admin(), 1, 2, ["+bind cn x alice"], "EPOCH", "7")
    for _ in range(2):
        admin = server.admin()
        assert status(admin)["epoch"] == 7
        with nothing_changes(server, pki), refused("EPOCH 6 is stale: the current epoch is 7"):
            patch(admin, 2, 3, ["-bind cn x alice"], "EPOCH", "6")
        with nothing_changes(server, pki), refused("EPOCH 6 is stale"):
            load(admin, 3, usual(pki), "EPOCH", "6", "FORCE")
        server.stop()
        server.start()
    patch(server.admin(), 2, 3, ["-bind cn x alice"], "EPOCH", "7")
    patch(server.admin(), 3, 4, ["+bind cn x alice"], "EPOCH", "8")
    assert status(server.admin())["epoch"] == 8


def test_a_policy_has_one_owner(server_kind: Server, start: Start, pki: Pki) -> None:
    """Another control plane is told whose it is; LOAD … FORCE takes it over."""
    server = enrolled(start, server_kind, pki, owner="prod/3")
    admin, change = server.admin(), ["+bind cn x alice"]
    assert status(admin)["owner"] == "prod/3"
    others: list[tuple[str, ...]] = [("OWNER", "prod/33"), ("OWNER", "PROD/3"), ("OWNER", ""), ()]
    for other in others:
        with nothing_changes(server, pki), refused("OWNED .*'prod/3'"):
            patch(admin, 1, 2, change, *other)
        with nothing_changes(server, pki), refused("OWNED .*'prod/3'"):
            load(admin, 2, usual(pki), *other)
        with nothing_changes(server, pki), refused("OWNED .*'prod/3'"):
            patch(admin, 1, 2, change, *other, "FORCE")
    patch(admin, 1, 2, change, "OWNER", "prod/3")
    load(admin, 3, usual(pki), "OWNER", "prod/4", "FORCE")
    assert status(admin)["owner"] == "prod/4"
    with nothing_changes(server, pki), refused("OWNED .*'prod/4'"):
        patch(admin, 3, 4, change, "OWNER", "prod/3")
    server.stop()
    server.start()
    assert status(server.admin())["owner"] == "prod/4"


@pytest.mark.parametrize("owner", ["o" * 128, "a\nb", b"\xff", "a\0b"])
def test_an_owner_is_short_clean_text(
    installed: Server, start: Start, pki: Pki, owner: str
) -> None:
    """127 bytes are the most, since the name stands in each record's head."""
    server = enrolled(start, installed, pki)
    with nothing_changes(server, pki), refused("the owner is "):
        load(server.admin(), 2, usual(pki), "OWNER", owner, "FORCE")
    load(server.admin(), 2, usual(pki), "OWNER", "o" * 127, "FORCE")
    assert status(server.admin())["owner"] == "o" * 127


def test_a_wrong_digest_is_a_refusal(server_kind: Server, start: Start, pki: Pki) -> None:
    """A sender that would arrive at other lines than the node is told, and nothing is changed."""
    server = enrolled(start, server_kind, pki)
    admin, line = server.admin(), "bind cn x alice"
    right, other = core.digest([*usual(pki), line]), core.digest(usual(pki))
    for wrong in (other, "", right[:-1], right.upper() + " "):
        with nothing_changes(server, pki), refused(f"DIGEST the change leads to {right}"):
            patch(admin, 1, 2, [f"+{line}"], "DIGEST", wrong)
    assert patch(admin, 1, 2, [f"+{line}"], "DIGEST", right)["digest"] == right


def test_the_call_has_a_form(installed: Server, start: Start, pki: Pki) -> None:
    """LINES is never left out, options have their values, and unknown ones are not lines."""
    server = enrolled(start, installed, pki)

    def call(*words: str) -> None:
        server.admin().execute_command("CERTAUTH.POLICY", *words)

    for words in (("LOAD",), ("LOAD", "2"), ("PATCH", "1"), ("STATUS", "x")):
        with nothing_changes(server, pki), refused("wrong number of arguments"):
            call(*words)
    for words in (
        ("LOAD", "2", "set enforce off"),
        ("LOAD", "2", "OWNER", "LINES"),
        ("LOAD", "2", "NOSUCH", "LINES", "set enforce off"),
        ("PATCH", "1", "2", "EPOCH"),
        ("PATCH", "1", "2", "-set enforce on"),
    ):
        with nothing_changes(server, pki), refused("expected .*LINES line"):
            call(*words)
    with nothing_changes(server, pki), refused("unknown subcommand"):
        call("ERASE")
    call("load", "2", "force", "lines", *usual(pki))


# ---- The branch one sits on ----------------------------------------------------------------------


@dataclass(frozen=True)
class Ops:
    """An administrator that comes by certificate, with a connection and its lines."""

    cert: Cert
    client: redis.Redis
    lines: tuple[str, str]


@pytest.fixture
def ops(pki: Pki) -> Callable[[RedisServer], Ops]:
    cert = pki.ca.issue("CN=ops,O=acme")
    lines = (bind(cert, "ops"), "user ops on ~* &* +@all")

    def enrol(server: RedisServer) -> Ops:
        patch(server.admin(), 1, 2, [f"+{line}" for line in lines])
        client = server.client(cert, single_connection_client=True)
        assert client.acl_whoami() == "ops"
        return Ops(cert, client, lines)

    return enrol


Enrol = Callable[[RedisServer], Ops]
SAWS: dict[str, Callable[[Ops, Pki], list[str]]] = {
    "no binding": lambda ops, _: [f"-{ops.lines[0]}"],
    "another user": lambda ops, _: [f"-{ops.lines[0]}", f"+{bind(ops.cert, 'alice')}"],
    "revoked": lambda ops, _: [f"+revoke cert {ops.cert.fingerprint}"],
    "no CA": lambda _, pki: [f"-{authority(pki.ca)}"],
    "gate": lambda *_: ["+set gate full_subject", "+allow CN=alice OU=eng O=acme"],
    "address": lambda ops, _: [f"-{ops.lines[0]}", f"+{ops.lines[0]} from=10.0.0.0/8"],
    "user off": lambda ops, _: [f"-{ops.lines[1]}", "+user ops off ~* &* +@all"],
    "user gone": lambda ops, _: [f"-{ops.lines[1]}"],
    "enforce off": lambda *_: ["-set enforce on"],
    "enforce shadow": lambda *_: ["-set enforce on", "+set enforce shadow"],
}


@pytest.mark.parametrize("name", SAWS)
def test_nobody_saws_off_the_branch(
    installed: Server, start: Start, pki: Pki, ops: Enrol, name: str
) -> None:
    """A sender by certificate that would not come in as the same user is refused; the same change
    is good for somebody else, or by FORCE, and then the sender gets its answer first."""
    server = enrolled(start, installed, pki)
    sender = ops(server)
    changes = SAWS[name](sender, pki)
    with nothing_changes(server, pki), refused("LOCKOUT "):
        patch(sender.client, 2, 3, changes)
    assert patch(sender.client, 2, 3, changes, "FORCE")["generation"] == 3
    wait_until(lambda: not is_open(sender.client), "the sender's session is closed")
    assert who(server, sender.cert) != "ops"


def test_a_forced_lockout_is_answered_first(
    server_kind: Server, start: Start, pki: Pki, ops: Enrol
) -> None:
    """On every server the reply arrives whole before the connection goes."""
    server = enrolled(start, server_kind, pki)
    sender = ops(server)
    with nothing_changes(server, pki), refused("LOCKOUT "):
        load(sender.client, 3, usual(pki))
    reply = load(sender.client, 3, usual(pki), "FORCE")
    assert reply == {"generation": 3, "digest": core.digest(usual(pki)), "closed": 1}
    wait_until(lambda: not is_open(sender.client), "the sender's session is closed")
    assert turned_away(server, sender.cert) == "no_binding"


def test_changes_that_leave_the_sender_in_are_no_lockout(
    installed: Server, start: Start, pki: Pki, ops: Enrol
) -> None:
    """A binding may be replaced by another that leads to the same user."""
    server = enrolled(start, installed, pki)
    sender = ops(server)
    other = f"bind cert {sender.cert.fingerprint} ops"
    assert patch(sender.client, 2, 3, [f"-{sender.lines[0]}", f"+{other}"])["closed"] == 0
    assert sender.client.acl_whoami() == "ops"
    assert who(server, sender.cert) == "ops"


def test_a_sender_without_a_certificate_locks_nobody_out(
    installed: Server, start: Start, pki: Pki, ops: Enrol
) -> None:
    """The check is about one's own certificate only."""
    server = enrolled(start, installed, pki)
    sender = ops(server)
    patch(server.admin(), 2, 3, [f"-{sender.lines[0]}"])
    assert turned_away(server, sender.cert) == "no_binding"


# ---- From where ----------------------------------------------------------------------------------


def test_a_transaction_writes_no_policy(server_kind: Server, start: Start, pki: Pki) -> None:
    """The reply waits for the disk, which a transaction cannot; the rest of it runs."""
    server = enrolled(start, server_kind, pki)
    admin = server.admin(single_connection_client=True)
    with nothing_changes(server, pki):
        admin.execute_command("MULTI")
        admin.execute_command("CERTAUTH.POLICY", "PATCH", "1", "2", "LINES", "+bind cn x alice")
        admin.execute_command("SET", "key", "value")
        answers = admin.execute_command("EXEC")
    assert isinstance(answers[0], redis.ResponseError)
    assert "within MULTI" in str(answers[0])
    assert admin.get("key") == "value"
    patch(admin, 1, 2, ["+bind cn x alice"])


def test_a_script_writes_no_policy(server_kind: Server, start: Start, pki: Pki) -> None:
    """Neither a Lua script nor a function, whose client could not be blocked."""
    server = enrolled(start, server_kind, pki)
    admin = server.admin()
    call = "redis.call('CERTAUTH.POLICY', 'PATCH', '1', '2', 'LINES', '+bind cn x alice')"
    with nothing_changes(server, pki), pytest.raises(redis.ResponseError, match="not allowed from"):
        admin.eval(f"return {call}", 0)
    name = "#!lua name=sneaky\n"
    admin.function_load(f"{name}redis.register_function('sneak', function() return {call} end)")
    with nothing_changes(server, pki), pytest.raises(redis.ResponseError, match="not allowed from"):
        admin.fcall("sneak", 0)


def test_a_replica_has_a_policy_of_its_own(server_kind: Server, start: Start, pki: Pki) -> None:
    """It takes writes although it is read-only; neither the replication stream nor the AOF carries
    them."""
    master = start(
        server_kind, module=JOURNAL, config=["appendonly yes", "repl-diskless-sync-delay 0"]
    )
    link = [f"replicaof 127.0.0.1 {master.port}", "tls-replication yes"]
    replica = start(server_kind, module=JOURNAL, config=link)
    wait_until(
        lambda: replica.admin().info("replication")["master_link_status"] == "up", "the link is up"
    )
    load(replica.admin(), 1, usual(pki))
    assert who(replica, pki.alice) == "alice"
    assert turned_away(replica, pki.bob) == "no_binding"
    assert status(master.admin())["generation"] == 0

    load(master.admin(), 5, [*usual(pki), "set unmatched leave"])
    master.admin().set("after", "it")
    wait_until(lambda: replica.admin().get("after") == "it", "the replica has what came after")
    assert status(replica.admin())["generation"] == 1
    aof = [path for path in (master.directory / "appendonlydir").iterdir() if path.is_file()]
    text = b"".join(path.read_bytes() for path in aof)
    assert b"after" in text
    assert b"certauth" not in text.lower()
    assert b"alice" not in text


def test_only_an_administrator_writes(installed: Server, start: Start, pki: Pki) -> None:
    """The commands are @admin: without that category there is no reading and no writing."""
    plain = "user alice on ~* &* +@all -@admin"
    server = start(installed, module=JOURNAL)
    load(server.admin(), 1, [*usual(pki)[:3], plain])
    alice = server.client(pki.alice)
    calls: Sequence[Callable[[], object]] = (
        lambda: status(alice),
        lambda: show(alice),
        lambda: load(alice, 2, []),
        lambda: patch(alice, 1, 2, [f"-{plain}"]),
    )
    for call in calls:
        with pytest.raises(redis.exceptions.NoPermissionError):
            call()
    assert status(server.admin())["generation"] == 1


# ---- A disk that is slow, full or gone -----------------------------------------------------------


def in_flight(server: RedisServer, disk: Disk, line: str) -> Any:
    """A raw connection whose PATCH of generation 2 is in its fsync, not answered yet."""
    disk.hold()
    connection = server.tls(None).connect()
    connection.send("CERTAUTH.POLICY", "PATCH", "1", "2", "LINES", line)
    disk.wait_held()
    return connection


def test_one_write_at_a_time(disk: Disk, installed: Server, start: Start, pki: Pki) -> None:
    """While the disk works the server answers, the old policy decides, a second write is told to
    come again and is not queued."""
    server = enrolled(start, installed, pki)
    admin = server.admin()
    with in_flight(server, disk, f"+{bind(pki.bob, 'alice')}") as first:
        for call in (patch, lambda *_: load(admin, 3, usual(pki), "FORCE")):
            with refused("BUSY "):
                call(admin, 1, 3, ["+bind cn x alice"])
        assert status(admin)["generation"] == 1
        assert who(server, pki.alice) == "alice"
        assert turned_away(server, pki.bob) == "no_binding"
        disk.release()
        reply = first.read()
        assert dict(zip(reply[::2], reply[1::2], strict=True))[b"generation"] == 2
    assert who(server, pki.bob) == "alice"
    assert "bind cn x alice" not in show(admin)
    assert patch(admin, 2, 3, ["+bind cn x alice"])["generation"] == 3


def test_who_leaves_cancels_nothing(disk: Disk, installed: Server, start: Start, pki: Pki) -> None:
    """A write whose sender goes while the disk works takes effect all the same, and stays."""
    server = enrolled(start, installed, pki)
    admin = server.admin()
    clients = admin.info("clients")["connected_clients"]
    in_flight(server, disk, f"+{bind(pki.bob, 'alice')}").close()
    wait_until(lambda: admin.info("clients")["connected_clients"] == clients, "the sender has gone")
    assert status(admin)["generation"] == 1
    disk.release()
    wait_until(lambda: status(admin)["generation"] == 2, "the change is in force")
    assert who(server, pki.bob) == "alice"
    assert patch(admin, 2, 3, ["+bind cn x alice"])["generation"] == 3
    server.kill()
    server.start()
    assert status(server.admin())["generation"] == 3
    assert who(server, pki.bob) == "alice"


def test_sessions_may_end_while_the_disk_works(
    disk: Disk, installed: Server, start: Start, pki: Pki
) -> None:
    """The sweep after the write meets those that came and went meanwhile."""
    server = enrolled(start, installed, pki)
    stays, goes = (server.client(pki.alice, single_connection_client=True) for _ in range(2))
    with in_flight(server, disk, f"-{bind(pki.alice, 'alice')}") as first:
        goes.close()
        late = server.client(pki.alice, single_connection_client=True)
        assert late.acl_whoami() == "alice"
        disk.release()
        first.read()
    wait_until(lambda: not is_open(stays), "the session from before is closed")
    wait_until(lambda: not is_open(late), "the session from meanwhile is closed")
    assert turned_away(server, pki.alice) == "no_binding"


DISKS = {"full": ("pwrite", errno.ENOSPC), "broken": ("fsync", errno.EIO)}
SAID = {errno.ENOSPC: "No space left on device", errno.EIO: "Input/output error"}


@pytest.mark.parametrize("name", DISKS)
def test_a_disk_that_fails_changes_nothing(
    disk: Disk, installed: Server, start: Start, pki: Pki, name: str
) -> None:
    """The system's reason is told, the old policy stays in force and on disk, and writing works
    again when the disk does."""
    server = enrolled(start, installed, pki)
    admin, (call, error) = server.admin(), DISKS[name]
    for _ in range(2):
        with nothing_changes(server, pki), refused(f"JOURNAL .*{SAID[error]}"):
            disk.fail(call, error)
            try:
                patch(admin, 1, 2, [f"+{bind(pki.bob, 'alice')}"])
            finally:
                disk.heal()
    assert turned_away(server, pki.bob) == "no_binding"
    patch(admin, 1, 2, [f"+{bind(pki.bob, 'alice')}"])
    server.kill()
    server.start()
    assert status(server.admin())["generation"] == 2
    assert who(server, pki.bob) == who(server, pki.alice) == "alice"


def vanish(server: RedisServer) -> None:
    shutil.rmtree(server.directory / "journal")


def lengthen(server: RedisServer) -> None:
    """Somebody else wrote to it: a record behind that could not be read again."""
    with journal(server).open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("lose", [vanish, lengthen], ids=lambda lose: lose.__name__)
def test_a_change_that_meets_a_lost_journal_is_kept_with_all_before_it(
    server_kind: Server, start: Start, pki: Pki, lose: Callable[[RedisServer], None]
) -> None:
    """A revocation does not wait for somebody to repair the disk: the journal is written again from
    memory, and the change behind it."""
    server = enrolled(start, server_kind, pki, bind(pki.bob, "alice"))
    lose(server)
    patch(server.admin(), 1, 2, [f"-{bind(pki.bob, 'alice')}"])
    server.kill()
    server.start()
    assert status(server.admin())["generation"] == 2
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob) == "no_binding"


def test_a_hash_that_cannot_be_made_is_no_hash(
    disk: Disk, server_kind: Server, start: Start, pki: Pki
) -> None:
    """Without memory, or without the algorithm, all certificates would have one and the same: the
    server ends as it does without memory, its log says why, and what was acknowledged is there."""
    server = enrolled(start, server_kind, pki)
    (disk.folder / "digest").touch()
    with pytest.raises((redis.ConnectionError, OSError)):
        patch(server.admin(), 1, 2, ["+bind cn x alice"])
    wait_until(lambda: not server.running, "the server has ended")
    assert "<certauth> certauth: out of memory, or a hash could not be made" in server.log
    (disk.folder / "digest").unlink()
    server.kill()
    server.start()
    assert status(server.admin())["generation"] == 1
    assert who(server, pki.alice) == "alice"


def test_the_journal_is_private(installed: Server, start: Start, pki: Pki) -> None:
    """It says who may be whom: nobody but the server's user reads it."""
    server = enrolled(start, installed, pki)
    assert journal(server).stat().st_mode & 0o777 == 0o600
    assert journal(server).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("enforce", ["off", "shadow"])
def test_rules_are_tried_while_nothing_is_enforced(
    server_kind: Server, start: Start, pki: Pki, enforce: str
) -> None:
    """A typo is refused when it comes, and not on the day on which enforcement comes on; what is
    there from before is left alone, and so is a name that the server has."""
    server = start(server_kind, module=JOURNAL, config=["user alice on nopass ~* +@all"])
    admin = server.admin()
    lines = [f"set enforce {enforce}", *usual(pki)[1:]]
    for line in ("user bob on -@dangeros", "pattern dns {host}.example edge:{host} on -@dangeros"):
        with refused("LINES 1 bad, nothing changed; line 5: .*Unknown command or category"):
            load(admin, 1, [*lines, line])
    load(admin, 1, lines)
    with refused("LINES 1 bad, nothing changed; line 1: .*'-@dangeros'.*Unknown command"):
        patch(admin, 1, 2, ["+user bob on -@dangeros"])
    patch(admin, 1, 2, ["+user bob on -@dangerous"])
    assert rules(admin, "bob") is None
