"""What benches share: servers' processor time, the driver, a stream of PINGs, certificates."""

import functools
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Self, TypeVar

from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, scratch

SOURCE = Path(__file__).with_name("driver.c")
CHUNK = 1000  # lines in one STAGE, as control/nodes/client.py sends them
Found = TypeVar("Found")


@dataclass(frozen=True)
class Lab:
    """What all benches of a run are given. `scale`: 1 for figures that are worth keeping, less for
    a look or a test."""

    servers: Sequence[Server]
    scale: float = 1.0
    pki: Pki = field(default_factory=Pki)

    def size(self, full: int, least: int = 1) -> int:
        return max(least, round(full * self.scale))

    @property
    def rounds(self) -> int:
        return self.size(9, 2)


# ---- Rounds --------------------------------------------------------------------------------------


def by_turns(rounds: int, arms: Mapping[str, Callable[[], Found]]) -> dict[str, list[Found]]:
    """Runs each arm once a round, in an order that turns, so that none always follows another."""
    found: dict[str, list[Found]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(arms[name]())
    return found


# ---- The server's side ---------------------------------------------------------------------------


def main_thread(server: RedisServer) -> float:
    """Seconds of processor time, to the nanosecond (sched-stats.rst, Linux)."""
    return int(Path(f"/proc/{server.pid}/task/{server.pid}/schedstat").read_text().split()[0]) / 1e9


def cpu(server: RedisServer) -> float:
    """As main_thread, of all threads. None may come or go meanwhile."""
    tasks = Path(f"/proc/{server.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident(server: RedisServer) -> int:
    """Bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def settled(server: RedisServer) -> int:
    """As resident, once a thread has freed what a large change needed (module/server/schedule.c):
    some 25 bytes a line that are there when it is answered, and gone a moment later."""
    found = [resident(server)]
    for _ in range(20):
        time.sleep(0.1)
        found.append(resident(server))
    return min(found)


# ---- Connections ---------------------------------------------------------------------------------


@functools.cache
def driver() -> str:
    """The program that driver.c says, compiled."""
    program = f"{scratch()}/driver"
    libraries = ("-lssl", "-lcrypto")
    subprocess.run(["cc", "-std=c11", "-O2", "-o", program, str(SOURCE), *libraries], check=True)
    return program


def keep(certificates: Sequence[Cert]) -> Path:
    """A file as the driver reads it."""
    with tempfile.NamedTemporaryFile(dir=scratch(), delete=False) as file:
        for one in certificates:
            file.write(one.pem + one.key_pem)
    return Path(file.name)


def visits(
    server: RedisServer, count: int, certificates: Path | None, *commands: str, port: int = 0
) -> list[float]:
    """Seconds that each of so many connections took from connect(2) to its last answer. Each is a
    full handshake: the driver fails where a session is resumed."""
    trust = str(server.directory / "trust.pem")
    words = [driver(), "visit", str(port or server.port), trust, str(count)]
    words += [str(certificates or "-"), *commands]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return [int(line) / 1e9 for line in done.stdout.split()]


def login_cost(server: RedisServer, count: int, certificates: Path | None, *commands: str) -> float:
    """Microseconds of the server's processor time a connection."""
    before = cpu(server)
    visits(server, count, certificates, *commands)
    return (cpu(server) - before) / count * 1e6


def encode(words: Sequence[str]) -> bytes:
    parts = [f"*{len(words)}\r\n"] + [f"${len(word)}\r\n{word}\r\n" for word in words]
    return "".join(parts).encode()


class Link:
    """The operator's connection, without a client library's time."""

    def __init__(self, server: RedisServer) -> None:
        self.socket = socket(AF_UNIX)
        self.socket.connect(str(server.socket))
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

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


def staged(name: str, lines: Sequence[str]) -> list[bytes]:
    """The calls of STAGE, encoded beforehand: Python would be what is measured."""
    parts = (lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK))
    head = ["CERTAUTH.POLICY", "STAGE", name, "OF", str(len(lines)), "LINES"]
    return [encode([*head, *part]) for part in parts]


def send(link: Link, name: str, lines: Sequence[str], calls: Sequence[bytes], *words: str) -> None:
    """Stages and commits; `words` is "LOAD", "1"."""
    for call in calls:
        link.socket.sendall(call)
        link.read()
    link.call("CERTAUTH.POLICY", "COMMIT", name, str(len(lines)), *words)


# ---- The main thread -----------------------------------------------------------------------------


@dataclass
class Pings:
    longest: float = 0.0  # seconds


@contextmanager
def pinging(server: RedisServer) -> Iterator[Pings]:
    """PINGs all the time on a connection of its own, in a thread that does nothing else."""
    found, stop = Pings(), threading.Event()

    def run() -> None:
        ping = encode(["PING"])
        with Link(server) as link:
            while not stop.wait(0.0005):
                began = time.perf_counter()
                link.socket.sendall(ping)
                link.read()
                found.longest = max(found.longest, time.perf_counter() - began)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def longest_pings(work: Callable[[], object], *servers: RedisServer) -> list[float]:
    """The longest PING of each server while `work` is done, in milliseconds."""
    with ExitStack() as stack:
        pings = [stack.enter_context(pinging(server)) for server in servers]
        work()
    return [one.longest * 1e3 for one in pings]
