"""A policy of a million lines on a real server:
`python -m tests.bench.bench_policy [LINES [USERS [SERVER]]]`.

Prints how long it takes to stage and commit, to restart, to patch, and to log in; the longest PING
that another client saw meanwhile; and the memory of a line over its text. The bars, for 1,000,000
`bind` lines on two cores: staged and committed under 4 s, no PING above 20 ms, restart under 4 s,
at most 160 bytes a line over its text, a patch of one line under 1 ms of the main thread's time
(the disk aside), and a login that costs the same at four lines as at a million."""

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.nodes import JOURNAL, load, status, usual
from tests.servers import Server, servers
from tests.support import Pki, RedisServer, remove_scratch

CHUNK = 1000  # lines in one STAGE, as control/sync.py sends them
LOGINS = 300
ROUNDS = 9


def bind(number: int) -> str:
    return f"bind subject CN=device-{number:07},OU=devices,O=acme device-{number:07}"


def user(number: int) -> str:
    return f"user device-{number:07} on ~device:{number:07}:* +@read +@write -@dangerous"


def cpu(server: RedisServer) -> float:
    """Seconds of processor time of the server's main thread."""
    fields = Path(f"/proc/{server.pid}/task/{server.pid}/stat").read_text().rpartition(")")[2]
    user_ticks, system_ticks = map(int, fields.split()[11:13])
    return (user_ticks + system_ticks) / os.sysconf("SC_CLK_TCK")


def resident(server: RedisServer) -> int:
    """Bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def encode(words: Sequence[str]) -> bytes:
    parts = [f"*{len(words)}\r\n"] + [f"${len(word)}\r\n{word}\r\n" for word in words]
    return "".join(parts).encode()


class Link:
    """The operator's connection, without a client library's time."""

    def __init__(self, server: RedisServer) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(server.socket))
        self.file = self.socket.makefile("rb")

    def call(self, *words: str) -> bytes:
        self.socket.sendall(encode(words))
        return self.read()

    def read(self) -> bytes:
        line: bytes = self.file.readline()
        if line[:1] == b"-":
            raise RuntimeError(line.decode())
        count = int(line[1:]) if line[:1] in b"*%$" else 0
        if line[:1] == b"$":
            return bytes(self.file.read(count + 2))
        for _ in range(count * (2 if line[:1] == b"%" else 1)):
            self.read()
        return line


@dataclass
class Pings:
    longest: float = 0.0
    count: int = 0


@contextmanager
def pinging(server: RedisServer) -> Iterator[Pings]:
    """PINGs all the time on a connection of its own, in a thread that does nothing else."""
    found, stop = Pings(), threading.Event()

    def run() -> None:
        link = Link(server)
        ping = encode(["PING"])
        while not stop.wait(0.0005):
            began = time.perf_counter()
            link.socket.sendall(ping)
            link.read()
            found.longest = max(found.longest, time.perf_counter() - began)
            found.count += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def stage(link: Link, calls: Sequence[bytes]) -> None:
    """The calls were encoded beforehand: Python would be what is measured."""
    for call in calls:
        link.socket.sendall(call)
        link.read()


def staged(name: str, lines: Sequence[str]) -> list[bytes]:
    parts = (lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK))
    head = ["CERTAUTH.POLICY", "STAGE", name, "OF", str(len(lines)), "LINES"]
    return [encode([*head, *part]) for part in parts]


def logins(server: RedisServer, pki: Pki) -> float:
    """Microseconds of the server's main thread a connection of alice's."""
    before = cpu(server)
    for _ in range(LOGINS):
        with server.tls(pki.alice).connect() as connection:
            assert connection.command("ACL", "WHOAMI") == b"alice"
    return (cpu(server) - before) / LOGINS * 1e6


def compare(first: RedisServer, second: RedisServer, pki: Pki) -> tuple[float, float]:
    """Medians of rounds that take turns."""
    rounds = [(logins(first, pki), logins(second, pki)) for _ in range(ROUNDS)]
    return median(one for one, _ in rounds), median(other for _, other in rounds)


def patch_cost(
    link: Link, server: RedisServer, base: int, changes: list[list[str]]
) -> tuple[float, float]:
    """Milliseconds of the main thread, and of the clock with the disk, a patch."""
    cpu_before, clock = cpu(server), time.perf_counter()
    for number, lines in enumerate(changes):
        words = ("CERTAUTH.POLICY", "PATCH", str(base + number), str(base + number + 1), "LINES")
        link.call(*words, *lines)
    count = len(changes)
    return (cpu(server) - cpu_before) / count * 1e3, (time.perf_counter() - clock) / count * 1e3


@contextmanager
def timed(what: str, server: RedisServer, idle: RedisServer) -> Iterator[None]:
    """Prints how long it took and the longest PING meanwhile, beside that of a server which did
    nothing: the machine's own."""
    with pinging(server) as pings, pinging(idle) as others:
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
    print(
        f"{server.server}: {what}: {took:.2f} s, longest of {pings.count:,} PINGs "
        f"{pings.longest * 1e3:.1f} ms (on an idle server {others.longest * 1e3:.1f} ms)"
    )


def send(link: Link, name: str, lines: Sequence[str], calls: Sequence[bytes], *words: str) -> None:
    stage(link, calls)
    link.call("CERTAUTH.POLICY", "COMMIT", name, str(len(lines)), *words)


def show_all(link: Link) -> None:
    cursor = "0"
    while True:
        link.socket.sendall(encode(["CERTAUTH.POLICY", "SHOW", "COUNT", "1000", "CURSOR", cursor]))
        link.file.readline()
        cursor = link.read().decode().strip()
        link.read()
        if cursor == "0":
            return


def measure(kind: Server, pki: Pki, count: int, users: int) -> None:
    options = {"module": JOURNAL}
    with RedisServer(kind, pki, **options) as server, RedisServer(kind, pki, **options) as idle:
        link, base = Link(server), usual(pki)
        for each in (server, idle):
            load(each.admin(), 1, base)
        lines = [*base, *map(bind, range(count))]
        calls, before = staged("big", lines), resident(server)
        with timed(f"{count:,} bind lines staged and committed", server, idle):
            send(link, "big", lines, calls, "LOAD", "2")
        few, many = compare(idle, server, pki)
        over = (resident(server) - before - sum(map(len, lines))) / count
        print(f"{kind}: {over:.0f} bytes of memory a line over its text")
        print(
            f"{kind}: a login takes {few:.0f} us of the main thread at {len(base)} lines and "
            f"{many:.0f} us at {len(lines):,}: ratio {many / few:.3f}"
        )
        for size, times in ((1, 200), (10_000, 3)):
            changes = [
                [f"+bind cn {size}-{n}-{i} alice" for i in range(size)] for n in range(times)
            ]
            generation = status(server.admin())["generation"]
            with timed(f"{times} patches of {size:,} lines", server, idle):
                main, clock = patch_cost(link, server, generation, changes)
            print(f"{kind}: each {main:.2f} ms of the main thread, {clock:.2f} ms with the disk")
        more = list(map("+{}".format, map(user, range(users))))
        generation = status(server.admin())["generation"]
        calls = staged("users", more)
        with timed(f"{users:,} user lines staged and committed", server, idle):
            send(link, "users", more, calls, "PATCH", str(generation), str(generation + 1))
        with timed("all lines shown, 1,000 at a time", server, idle):
            show_all(link)
        server.stop()
        began = time.perf_counter()
        server.start()
        with server.tls(pki.alice).connect() as connection:
            assert connection.command("ACL", "WHOAMI") == b"alice"
        print(f"{kind}: from start to alice's first login {time.perf_counter() - began:.2f} s")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    users = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    pki = Pki()
    try:
        for kind in servers():
            if only in str(kind):
                measure(kind, pki, count, users)
    finally:
        remove_scratch()


if __name__ == "__main__":
    main()
