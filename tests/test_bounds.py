"""Law 4 of docs/design.md: no call holds the main thread longer than one of ordinary size.

A table of the dearest arguments that each command takes, from each role, under the dearest policy;
and PINGs on another connection meanwhile. Counted is for how long the main thread was at work while
a PING waited, by the kernel's account, since this machine does much else; and what holds the server
holds it each time, so the best of a few tries.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import redis

from tests.certificates import authority_line
from tests.nodes import enrolled, load, refused, usual
from tests.policies import Start
from tests.servers import Server
from tests.support import Pki, RedisServer, root

MOST = 0.02  # seconds
TRIES = 5
NAMES = ["".join(one) for one in product(ascii_lowercase, repeat=2)]
USERS = " ".join(NAMES[:256])
ATTRIBUTES = ",".join(f"CN={at:x}" for at in range(62))
NETS = ",".join(f"10.{at // 256}.{at % 256}.0/24" for at in range(8_000))


@cache
def authorities(count: int) -> list[str]:
    key = root("CN=Key").key
    return [authority_line(root(f"CN=CA {at},O=acme", key)) for at in range(count)]


@contextmanager
def pinged(server: RedisServer) -> Iterator[Callable[[], float]]:
    """Sends PING after PING; the function says how long the main thread was at work before it
    answered the slowest one since it was asked last: seconds."""
    stop, worst = threading.Event(), [0.0]
    client: Any = server.admin(single_connection_client=True)
    client.ping()
    assert server.process
    account = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/schedstat")

    def worked() -> float:
        return int(account.read_text().split()[0]) / 1e9

    def run() -> None:
        while not stop.is_set():
            before = worked()
            client.ping()
            worst[0] = max(worst[0], worked() - before)

    def longest() -> float:
        found, worst[0] = worst[0], 0.0
        return found

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield longest
    finally:
        stop.set()
        thread.join()


# ---- The table -----------------------------------------------------------------------------------

Call = tuple[str | bytes | int, ...]


def policies(pki: Pki) -> dict[str, list[str]]:
    """What makes a reader's command dear."""
    rules = " ".join(f"~app{at}:*" for at in range(12))
    return {
        "many lines": [
            *(f"user u{at} on {rules} +@read -@dangerous" for at in range(4_000)),
            *(f"bind subject CN=u{at},OU=engineering,O=acme u{at}" for at in range(4_000)),
        ],
        "long lines": [f"bind cn x{at} alice from={NETS}" for at in range(30)],
        "long subjects": [f"bind subject O={at},{ATTRIBUTES} alice" for at in range(1_000)],
    }


def reads(pki: Pki) -> dict[str, Call]:
    """For those who may ACL LIST."""
    show: Call = ("CERTAUTH.POLICY", "SHOW", "COUNT", 10_000)
    stranger = pki.ca.issue(",".join(f"CN={at:x}" for at in range(60)))
    return {
        "all lines": show,
        "a glob": (*show, "MATCH", "*" + "?" * 200 + "\x01"),
        "stars": (*show, "MATCH", "*a" * 120 + "\x01"),
        "explain": ("CERTAUTH.EXPLAIN", stranger.pem, "10.0.0.1"),
        "sessions": ("CERTAUTH.SESSIONS", "USER", "x" * 100_000),
        "log": ("CERTAUTH.LOG", "COUNT", 1_000),
        "status": ("CERTAUTH.POLICY", "STATUS"),
        "a long name": ("CERTAUTH.LOGIN", "x" * 1_000_000),
        "AUTH": ("AUTH", "x" * 1_000_000, "y" * 1_000_000),
    }


def changes(pki: Pki) -> dict[str, list[str]]:
    """Lines that take long to read, to try or to put in force."""
    return {
        "users": [f"user n{at} on ~a:* +@read" for at in range(10_000)],
        "bindings of many users": [f"bind cn n{at} {USERS}" for at in range(4_000)],
        "long subjects": [f"bind subject L={at},{ATTRIBUTES} alice" for at in range(4_000)],
        "networks": [f"bind cn n{at} alice from={NETS}" for at in range(30)],
        "ACL rules": [f"user n{at} on {'-@read +@read ' * 249}" for at in range(20)],
        "keys": [
            f"user n{at} on {' '.join(f'~k{key}:*' for key in range(499))}" for at in range(20)
        ],
        "CAs": authorities(500),
    }


def check(server: RedisServer, calls: dict[str, Callable[[int], object]]) -> None:
    """None of them holds the server: of several tries of each, the best counts."""
    late: dict[str, list[float]] = {}
    with pinged(server) as longest:
        for name, call in calls.items():
            tries: list[float] = []
            while not tries or (tries[-1] > MOST and len(tries) < TRIES):
                longest()
                call(len(tries))
                tries.append(longest())
            if tries[-1] > MOST:
                late[name] = tries
    assert late == {}


def client_of(server: RedisServer, name: str, rules: str) -> redis.Redis:
    server.admin().execute_command("ACL", "SETUSER", name, "on", f">{name}", *rules.split())
    return server.admin(username=name, password=name, socket_timeout=100)


def check_reads(server: RedisServer, pki: Pki, shape: str) -> None:
    load(server.admin(), 2, [*usual(pki), *policies(pki)[shape]])
    reader: Any = client_of(server, "reader", "-@all +acl|list +@connection +certauth.sessions "
                            "+certauth.policy|show +certauth.policy|status +certauth.explain "
                            "+certauth.log +certauth.login")  # fmt: skip

    def run(words: Call) -> None:
        if words[0] not in ("AUTH", "CERTAUTH.LOGIN"):
            reader.execute_command(*words)
            return
        with pytest.raises(redis.RedisError):
            reader.execute_command(*words)

    check(server, {name: lambda _, words=words: run(words) for name, words in reads(pki).items()})


def check_changes(server: RedisServer, pki: Pki, only: tuple[str, ...] = ()) -> None:
    """Staged, asked about, and made, in calls that are as large as they may be."""
    admin: Any = server.admin(socket_timeout=100)
    generation = [1]

    def stage(lines: list[str], at: int) -> None:
        admin.execute_command("CERTAUTH.POLICY", "STAGE", f"s{at}", "LINES", *lines)

    def ask(lines: list[str], _: int) -> None:
        admin.execute_command("CERTAUTH.SESSIONS", "LINES", *(f"+{one}" for one in lines))

    def make(lines: list[str], _: int) -> None:
        for sign in "+-":
            words = ("PATCH", generation[0], generation[0] + 1, "LINES")
            admin.execute_command("CERTAUTH.POLICY", *words, *(f"{sign}{one}" for one in lines))
            generation[0] += 1

    check(server, {
        f"{how.__name__} {name}": lambda at, how=how, lines=lines: how(lines, at)
        for name, lines in changes(pki).items()
        for how in (stage, ask, make)
        if not only or name in only
    })  # fmt: skip


def with_trust(start: Start, kind: Server, pki: Pki) -> RedisServer:
    """Its CAs are files, which a change of them writes."""
    server = start(kind, module=("journal", "journal"), config=["tls-ca-cert-dir journal/ca"])
    load(server.admin(), 1, usual(pki))
    return server


def test_no_read_holds_the_server(installed: Server, start: Start, pki: Pki) -> None:
    """Under a policy of very long lines, where each byte is looked at."""
    check_reads(enrolled(start, installed, pki), pki, "long lines")


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["many lines", "long lines", "long subjects"])
def test_no_read_holds_any_server(server_kind: Server, start: Start, pki: Pki, shape: str) -> None:
    """Under each policy that makes reading dear."""
    check_reads(enrolled(start, server_kind, pki), pki, shape)


def test_no_change_holds_the_server(installed: Server, start: Start, pki: Pki) -> None:
    """Lines that are all users, and CAs, whose files are written."""
    check_changes(enrolled(start, installed, pki), pki, ("bindings of many users", "ACL rules"))


@pytest.mark.slow
def test_no_change_holds_any_server(server_kind: Server, start: Start, pki: Pki) -> None:
    """Of any kind of line, in calls as large as they may be."""
    check_changes(enrolled(start, server_kind, pki), pki)


# ---- The bounds themselves -----------------------------------------------------------------------


def test_what_is_over_a_bound_says_so(server_kind: Server, start: Start, pki: Pki) -> None:
    """Users and ACL rules of a line, bytes of a call, characters of a glob; what is just within is
    taken."""
    server = enrolled(start, server_kind, pki)
    admin: Any = server.admin()
    names = [f"u{at}" for at in range(257)]
    rules = " ".join(f"~k{at}" for at in range(500))
    for line, more in (
        (f"bind cn many {' '.join(names[:256])}", f"bind cn more {' '.join(names)}"),
        (f"user many {rules}", f"user more on {rules}"),
    ):
        admin.execute_command("CERTAUTH.SESSIONS", "LINES", f"+{line}")
        with refused("LINES 1 bad, nothing changed; line 1: more than .* in one line"):
            admin.execute_command("CERTAUTH.SESSIONS", "LINES", f"+{more}")
    long = [f"bind cn x{at} alice from={NETS}" for at in range(50)]
    for words in (
        ("CERTAUTH.POLICY", "LOAD", 9, "LINES"),
        ("CERTAUTH.POLICY", "STAGE", "s", "LINES"),
        ("CERTAUTH.SESSIONS", "LINES"),
    ):
        with refused("at most 4194304 bytes of lines in one call, not [0-9]+: bring them in calls"):
            admin.execute_command(*words, *long)
    show = ("CERTAUTH.POLICY", "SHOW", "MATCH")
    assert admin.execute_command(*show, "*?" * 255)[1] != []
    with refused("MATCH takes at most 255 characters"):
        admin.execute_command(*show, "*?" * 256)


def test_a_page_of_long_lines_ends_early(server_kind: Server, start: Start, pki: Pki) -> None:
    """After a mebibyte; its cursor goes on, and all pages together are the policy."""
    lines = [*usual(pki), *(f"bind cn x{at} alice from={NETS}" for at in range(30))]
    server = enrolled(start, server_kind, pki)
    load(server.admin(), 2, lines)
    admin: Any = server.admin()
    found, cursor, pages = set[str](), "0", 0
    while pages == 0 or cursor != "0":
        cursor, page = admin.execute_command(
            "CERTAUTH.POLICY", "SHOW", "COUNT", 10_000, "CURSOR", cursor
        )
        found |= set(page)
        pages += 1
    assert (len(found), pages > 1) == (len(lines), True)


def test_only_who_may_make_a_change_may_ask_about_one(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Lines are read, and ACL rules tried, for those who may ACL SETUSER; ACL LIST is enough for
    the sessions."""
    server = enrolled(start, server_kind, pki)
    reader: Any = client_of(server, "reader", "-@all +acl|list +certauth.sessions")
    assert reader.execute_command("CERTAUTH.SESSIONS")
    with refused("this is for users who may run ACL SETUSER"):
        reader.execute_command("CERTAUTH.SESSIONS", "LINES", "+bind cn bob alice")
