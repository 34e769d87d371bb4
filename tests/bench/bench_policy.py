"""A policy of a million lines beside small ones: what a login, a line, a load, a patch and a start
cost."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.bench.lab import (
    Lab,
    Link,
    by_turns,
    cpu,
    encode,
    keep,
    login_cost,
    longest_pings,
    main_thread,
    resident,
    send,
    settled,
    staged,
)
from tests.bench.report import Answer
from tests.kit.node import JOURNAL, status, usual
from tests.kit.servers import Server
from tests.kit.support import Cert, RedisServer

NUMBER, TITLE = 4, "Size"
HOW = """Servers with 1, 1,000 and 1,000,000 `bind subject` lines side by side, and clients whose
never-seen certificates are bound by lines all over the policy. The largest is staged and
committed as the control plane does it, patched and restarted, while another client PINGs all the
time; beside it the longest PING of a server that does nothing: the machine's own. Then clients
that `bind subject` names, without and with 10,000 `bind attributes` lines of 32 lists of types, and
those that one of these lines names. Last, identities of mixed kinds (subject, URI, DNS name, e-mail
address, UPN, key) beside as many subjects: both are loaded, patched and restarted by turns, and
clients of each kind log in."""
LOGIN = "processor time of the server a login, µs"
LINES, USERS = 1_000_000, 100_000
LIMIT, LINE_BYTES = 1.02, 160
PARTS, PARTS_LIMIT = 10_000, 1.05
MIXED_LIMIT = 1.10


def subject(number: int) -> str:
    return f"CN=device-{number:07},OU=devices,O=acme"


def user(number: int) -> str:
    return f"+user device-{number:07} on ~device:{number:07}:* +@read +@write -@dangerous"


def certificates(lab: Lab, size: int, count: int) -> Path:
    return keep([lab.pki.ca.issue(subject(n * 7919 % size)) for n in range(count)])


def timed(
    what: str, answer: Answer, server: RedisServer, idle: RedisServer, work: Callable[[], object]
) -> None:
    began = time.perf_counter()
    pings = longest_pings(work, server, idle)
    answer.row(server.server, "how long it takes, s", what, [time.perf_counter() - began])
    for arm, longest in zip((what, f"{what}: on the idle server"), pings, strict=True):
        answer.row(server.server, "the longest PING meanwhile, ms", arm, [longest])


def patch_cost(server: RedisServer, changes: list[str]) -> tuple[float, float]:
    """Milliseconds of the main thread, and of the clock with the disk."""
    generation = status(server.admin())["generation"]
    words = ("CERTAUTH.POLICY", "PATCH", str(generation), str(generation + 1), "LINES")
    with Link(server) as link:
        before, clock = main_thread(server), time.perf_counter()
        link.call(*words, *changes)
        return (main_thread(server) - before) * 1e3, (time.perf_counter() - clock) * 1e3


def patches(answer: Answer, servers: dict[str, RedisServer], size: int, rounds: int) -> None:
    """The same patch on each server, by turns."""

    def change(arm: str) -> tuple[float, float]:
        lines = [f"+bind cn {size}-{time.monotonic_ns()}-{n} alice" for n in range(size)]
        return patch_cost(servers[arm], lines)

    found = by_turns(rounds, {arm: partial(change, arm) for arm in servers})
    for index, what in enumerate(("of the main thread", "with the disk")):
        for arm, values in found.items():
            measure = f"a patch (lines: {size:,}), {what}, ms"
            kind = servers[arm].server
            answer.row(kind, measure, arm, [one[index] for one in values])


def show_all(link: Link) -> None:
    cursor = "0"
    while True:
        link.socket.sendall(encode(["CERTAUTH.POLICY", "SHOW", "COUNT", "1000", "CURSOR", cursor]))
        link.file.readline()
        cursor = link.read().decode().strip()
        link.read()
        if cursor == "0":
            return


def start(answer: Answer, arm: str, server: RedisServer, certificate: Path) -> None:
    server.stop(60)
    began = time.perf_counter()
    server.start()
    login_cost(server, 1, certificate, "PING")
    took = time.perf_counter() - began
    answer.row(server.server, "from start to the first login, s", arm, [took])


def measure(kind: Server, lab: Lab, answer: Answer) -> None:
    sizes = (1, 1000, lab.size(LINES, 2000))
    with ExitStack() as stack:
        made = [RedisServer(kind, lab.pki, module=JOURNAL) for _ in range(len(sizes) + 1)]
        *servers, idle = map(stack.enter_context, made)
        arms = {f"bindings: {size:,}": server for size, server in zip(sizes, servers, strict=True)}
        (*_, largest), big = arms, servers[-1]
        for size, (arm, server) in zip(sizes, arms.items(), strict=True):
            lines = [*usual(lab.pki), *(f"bind subject {subject(n)} alice" for n in range(size))]
            calls, before = staged("big", lines), resident(server)
            link = stack.enter_context(Link(server))
            work = partial(send, link, "big", lines, calls, "LOAD", "1")
            timed(f"{arm} staged and committed", answer, server, idle, work)
        over = (resident(big) - before - sum(map(len, lines))) / len(lines)
        memory = answer.row(kind, "memory of a line over its text, bytes", largest, [over])
        answer.bar(memory, LINE_BYTES)
        count = lab.size(50, 10)
        shown = {arm: certificates(lab, size, count) for arm, size in zip(arms, sizes, strict=True)}
        logins = {
            arm: partial(login_cost, server, count, shown[arm], "PING")
            for arm, server in arms.items()
        }
        rows = [
            answer.row(kind, LOGIN, arm, values)
            for arm, values in by_turns(5 * lab.rounds, logins).items()
        ]
        for row in rows[1:]:
            answer.bar(row, LIMIT, rows[0])
        patches(answer, arms, 1, 5 * lab.rounds)
        patches(answer, arms, lab.size(10_000, 100), 3)
        users = list(map(user, range(lab.size(USERS, 200))))
        generation = status(big.admin())["generation"]
        words = ("PATCH", str(generation), str(generation + 1))
        work = partial(send, link, "users", users, staged("users", users), *words)
        timed(f"{len(users):,} user lines more", answer, big, idle, work)
        timed("all lines shown, 1,000 at a time", answer, big, idle, partial(show_all, link))
        for arm, server in arms.items():
            start(answer, arm, server, shown[arm])


def part(number: int) -> str:
    """A `bind attributes` line for the subject of this number, and for no other: of 32 lists of
    types, those of most lines have what no subject has."""
    more = f",1.3.{number % 32}=x" if number % 32 else ""
    return f"bind attributes OU=team-{number},O=acme{more} alice"


def parts(kind: Server, lab: Lab, answer: Answer) -> None:
    size, count = lab.size(PARTS, 200), lab.size(50, 10)
    names = [f"CN=x,OU=team-{n * 7919 % size // 32 * 32},O=acme" for n in range(count)]
    shown = keep([lab.pki.ca.issue(one) for one in names])
    exact = [f"bind subject {one} alice" for one in set(names)]
    wide = list(map(part, range(size)))
    policies = {
        "by subject, no `attributes` lines": exact,
        f"by subject, `attributes` lines: {size:,}": [*exact, *wide],
        f"by one of `attributes` lines: {size:,}": wide,
    }
    with ExitStack() as stack:
        logins = {}
        for arm, lines in policies.items():
            server = stack.enter_context(RedisServer(kind, lab.pki, module=JOURNAL))
            link, lines = stack.enter_context(Link(server)), [*usual(lab.pki), *lines]
            send(link, "parts", lines, staged("parts", lines), "LOAD", "1")
            logins[arm] = partial(login_cost, server, count, shown, "PING")
        none, *rows = [
            answer.row(kind, f"{LOGIN}, parts of subjects", arm, values)
            for arm, values in by_turns(5 * lab.rounds, logins).items()
        ]
    for row in rows:
        answer.bar(row, PARTS_LIMIT, none)


NAMES = ("subject", "uri", "dns", "email", "upn", "key")


def named(number: int) -> tuple[str, str]:
    """The kind and value of an identity, all values being as long as each other."""
    kind, name = NAMES[number % len(NAMES)], f"device-{number:07}"
    values = {
        "subject": subject(number),
        "uri": f"spiffe://acme/devices/{name}",
        "dns": f"{name}.devices.acme.test",
        "email": f"{name}@devices.acme.test",
        "upn": f"{name}@devices.acme.test",
        "key": f"{number:064x}",
    }
    return kind, values[kind]


def holder(lab: Lab, number: int) -> Cert:
    """A certificate with the identity of this number, which is not a key."""
    kind, value = named(number)
    if kind == "subject":
        return lab.pki.ca.issue(value)
    return lab.pki.ca.issue("CN=x,O=acme", san=(f"{kind}:{value}",))


def mixed(kind: Server, lab: Lab, answer: Answer) -> None:
    size, count = lab.size(LINES, 2000), lab.size(50, 10)
    chosen = [n for n in (i * 7919 % size for i in range(2 * count)) if n % len(NAMES) != 5][:count]
    bindings = {
        "subjects": [f"bind subject {subject(n)} alice" for n in range(size)],
        "mixed kinds": [f"bind {' '.join(named(n))} alice" for n in range(size)],
    }
    shown = {
        "subjects": keep([lab.pki.ca.issue(subject(n)) for n in chosen]),
        "mixed kinds": keep([holder(lab, n) for n in chosen]),
    }
    with ExitStack() as stack:
        servers = {
            arm: stack.enter_context(RedisServer(kind, lab.pki, module=JOURNAL)) for arm in bindings
        }
        lines = {arm: [*usual(lab.pki), *said] for arm, said in bindings.items()}
        calls = {arm: staged("mixed", said) for arm, said in lines.items()}
        empty = {arm: resident(server) for arm, server in servers.items()}

        def load(arm: str) -> float:
            generation, before = status(servers[arm].admin())["generation"] + 1, cpu(servers[arm])
            with Link(servers[arm]) as link:
                send(link, "mixed", lines[arm], calls[arm], "LOAD", str(generation))
            return cpu(servers[arm]) - before

        def memory(arm: str) -> float:
            load(arm)
            return (settled(servers[arm]) - empty[arm]) / size

        def patch(arm: str) -> float:
            number = time.monotonic_ns()
            what = [NAMES[0], "uri"][arm == "mixed kinds"]
            value = f"CN=new-{number}" if what == "subject" else f"urn:new:{number}"
            return patch_cost(servers[arm], [f"+bind {what} {value} alice"])[0]

        def restart(arm: str) -> float:
            servers[arm].stop(60)
            servers[arm].start()
            login_cost(servers[arm], 1, shown[arm], "PING")
            return cpu(servers[arm])

        def login(arm: str) -> float:
            return login_cost(servers[arm], count, shown[arm], "PING")

        measures: dict[str, tuple[int, Callable[[str], float]]] = {
            "memory a line, bytes": (1, memory),
            "processor time of a load, s": (min(3, lab.rounds), load),
            "a patch of a line, of the main thread, ms": (5 * lab.rounds, patch),
            "processor time from start to the first login, s": (min(3, lab.rounds), restart),
            LOGIN: (5 * lab.rounds, login),
        }
        for what, (rounds, run_arm) in measures.items():
            found = by_turns(rounds, {arm: partial(run_arm, arm) for arm in servers})
            subjects, others = (
                answer.row(kind, f"{size:,} identities: {what}", arm, values)
                for arm, values in found.items()
            )
            answer.bar(others, MIXED_LIMIT, subjects)


def run(lab: Lab, answer: Answer) -> None:
    for kind in lab.servers:
        measure(kind, lab, answer)
        parts(kind, lab, answer)
        mixed(kind, lab, answer)
