"""What a login costs the server: processor time beside what stock servers do, and our own share of
it in instructions."""

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.bench_policy import LINES, certificates, subject
from tests.bench.lab import Lab, Link, by_turns, keep, login_cost, send, staged, visits
from tests.bench.report import Answer, Row
from tests.kit.node import JOURNAL, load, usual
from tests.kit.servers import Server
from tests.kit.support import RedisServer

NUMBER, TITLE = 1, "A login"
HOW = """Processor time of the server (user and system, all threads, /proc/PID/task/*/schedstat)
for a connection: TCP, a full TLS 1.3 handshake (the driver fails where one is resumed), the
commands, the end. Certificates and keys are ECDSA P-256. A known certificate is the same one each
time; a never-seen one has a key of its own and is shown once. Instructions are counted by
callgrind in certauth.so's three entries (an SSL object made or freed, a client connected or
gone), with all that is called from there; and of the whole server as the difference of 60
connections and 10."""
COST = "processor time of the server a connection, µs"
SHARE = "instructions of our own a login"
WHOLE = "instructions of the whole server a connection"
PASSWORD = "correct-horse-battery-staple"
SUBJECT = "CN=alice,OU=eng,O=acme"
LIMIT, INSTRUCTIONS = 1.02, 15_000
ENTRIES = ("on_client_change", "on_new", "on_free")
PARTS = {
    "finding the SSL object": ("tls_claim", "on_new", "on_free"),
    "reading the certificate": ("identity_read", "path_after_handshake"),
    "deciding": ("policy_decide",),
}


def native(kind: Server) -> bool:
    """Has it a certificate login of its own?"""
    return kind.release >= ((8, 6) if kind.name == "redis" else (9, 0))


def with_module(kind: Server, lab: Lab, stack: ExitStack) -> RedisServer:
    """Alice is bound by her subject, so that certificates of other keys are hers too."""
    server = stack.enter_context(RedisServer(kind, lab.pki, module=JOURNAL))
    load(server.admin(), 1, [*usual(lab.pki), f"bind subject {SUBJECT} alice"])
    return server


def measure(kind: Server, lab: Lab, answer: Answer) -> None:
    count = lab.size(50, 10)
    known = keep([lab.pki.alice])

    def fresh() -> Path:
        return keep([lab.pki.ca.issue(SUBJECT) for _ in range(count)])

    with ExitStack() as stack:
        users = [f"user alice on >{PASSWORD} ~* &* +@all"]
        stock = stack.enter_context(RedisServer(kind, lab.pki, config=users))
        module = with_module(kind, lab, stack)
        auth = f"AUTH alice {PASSWORD}"
        arms: dict[str, Callable[[], float]] = {
            "no module, known": lambda: login_cost(stock, count, known, "PING"),
            "no module, never seen": lambda: login_cost(stock, count, fresh(), "PING"),
            "module, known": lambda: login_cost(module, count, known, "PING"),
            "module, never seen": lambda: login_cost(module, count, fresh(), "PING"),
        }
        if native(kind):
            config = [*users, "tls-auth-clients-user CN"]
            own = stack.enter_context(RedisServer(kind, lab.pki, config=config))
            arms["native, known"] = lambda: login_cost(own, count, known, "PING")
            arms["native, never seen"] = lambda: login_cost(own, count, fresh(), "PING")
        else:
            answer.notes.append(f"{kind} has no `tls-auth-clients-user`.")
        arms["no module, certificate and AUTH"] = lambda: login_cost(
            stock, count, known, auth, "PING"
        )
        arms["no module, AUTH without a certificate"] = lambda: login_cost(
            stock, count, None, auth, "PING"
        )
        for arm in arms.values():
            arm()  # the first connections pay for what is set up once
        found = by_turns(5 * lab.rounds, arms)  # short ones, so that all arms meet the same moods
    rows = {arm: answer.row(kind, COST, arm, values) for arm, values in found.items()}
    for which in ("known", "never seen"):
        for base in ("no module", "native"):
            if over := rows.get(f"{base}, {which}"):
                answer.bar(rows[f"module, {which}"], LIMIT, over)


def counted(
    kind: Server,
    lab: Lab,
    count: int,
    certificates: Path,
    lines: Sequence[str],
    *options: str,
    config: Sequence[str] = (),
) -> Path:
    """What callgrind wrote of a server that so many clients have come to. Without lines, the server
    has no module."""
    words = ("valgrind", "-q", "--tool=callgrind", "--callgrind-out-file=callgrind", *options)
    watched = Server(kind.name, kind.version, (*words, *kind.argv))
    module, often = JOURNAL if lines else None, ["hz 1"]  # valgrind is slow: fewer ticks a login
    with RedisServer(watched, lab.pki, module=module, config=[*often, *config]) as server:
        if lines:
            with Link(server) as link:
                send(link, "bench", lines, staged("bench", lines), "LOAD", "1")
        visits(server, count, certificates, "PING")
        server.stop(60)
    return server.directory / "callgrind"


def of_functions(file: Path, count: int) -> dict[str, float]:
    """Inclusive instructions of each function of certauth.so, a login."""
    words = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", "--auto=no", str(file)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^ *([\d,]+) \(.*?\) +\S*:([\w.]+) \[\S*certauth\.so\]$", told, re.M)
    return {name: int(total.replace(",", "")) / count for total, name in lines}


def total(file: Path) -> int:
    found = re.search(r"^totals: (\d+)", file.read_text(), re.M)
    assert found
    return int(found[1])


def whole(kind: Server, lab: Lab, answer: Answer) -> None:
    """Of the server, by the difference of many connections and few."""
    few, many, known = lab.size(10), lab.size(60, 3), keep([lab.pki.alice])
    arms: dict[str, tuple[list[str], list[str]]] = {
        "no module, known": ([], []),
        "module, known": (usual(lab.pki), []),
    }
    if native(kind):
        arms["native, known"] = ([], ["user alice on ~* &* +@all", "tls-auth-clients-user CN"])
    rows = {}
    for arm, (lines, config) in arms.items():
        files = [counted(kind, lab, n, known, lines, config=config) for n in (few, many)]
        less, more = map(total, files)
        rows[arm] = answer.row(kind, WHOLE, arm, [(more - less) / (many - few)])
    for over in ("no module, known", "native, known"):
        if over in rows:
            answer.bar(rows["module, known"], LIMIT, rows[over])


def ours(kind: Server, lab: Lab, answer: Answer) -> None:
    """Of the module, known and never seen, and with a million lines on the first server."""
    count, size = lab.size(100, 10), lab.size(LINES, 2000)
    entries = [f"--toggle-collect={name}" for name in ENTRIES]
    arms = {
        "known": (usual(lab.pki), keep([lab.pki.alice])),
        "never seen": (
            [*usual(lab.pki), f"bind subject {SUBJECT} alice"],
            keep([lab.pki.ca.issue(SUBJECT) for _ in range(count)]),
        ),
    }
    if kind == lab.servers[0]:
        lines = [f"bind subject {subject(n)} alice" for n in range(size)]
        arms[f"never seen, {size:,} lines"] = (
            [*usual(lab.pki), *lines], certificates(lab, size, count),
        )  # fmt: skip
    for arm, (lines, shown) in arms.items():
        found = of_functions(counted(kind, lab, count, shown, lines, *entries), count)
        answer.bar(share(kind, answer, arm, found), INSTRUCTIONS)


def share(kind: Server, answer: Answer, arm: str, found: dict[str, float]) -> Row:
    """The whole, and its parts; what is in none of them is bookkeeping. Without what only the first
    client in a server's life may have to wait for (put_in_force)."""
    once = sum(value for name, value in found.items() if name.startswith("put_in_force"))
    total = sum(found.get(name, 0) for name in ENTRIES) - once
    parts = {part: sum(found.get(name, 0) for name in PARTS[part]) for part in PARTS}
    parts["bookkeeping"] = total - sum(parts.values())
    for part, value in parts.items():
        answer.row(kind, f"{SHARE}, {arm}", part, [value])
    return answer.row(kind, SHARE, arm, [total])


def run(lab: Lab, answer: Answer) -> None:
    for kind in lab.servers:
        measure(kind, lab, answer)
    if not shutil.which("valgrind"):
        answer.notes.append("There is no valgrind here, so no instructions were counted.")
        return
    for kind in lab.servers:
        ours(kind, lab, answer)
        whole(kind, lab, answer)
    answer.notes.append(
        "valgrind has no SHA extensions: on a processor that has them, SHA-256 takes fewer "
        "instructions than were counted here."
    )
