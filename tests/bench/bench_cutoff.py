"""How soon a revoked certificate's connections are closed among thousands, and what the others feel
of it."""

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Self

from tests.bench.lab import Lab, Link, driver, keep, longest_pings
from tests.bench.report import Answer, Row
from tests.kit.node import JOURNAL, load, usual
from tests.kit.servers import Server
from tests.kit.support import Cert, RedisServer

NUMBER, TITLE = 5, "Cut-off"
HOW = """10,000 live TLS sessions of 100 certificates, 100 sessions each, and one more of a
certificate that is alone. Closed is when the client's socket says so. A change that names nobody
has all sessions decided again before its reply. Meanwhile another client PINGs all the time, on
this server and on an idle one: that one's longest PING is the machine's own."""
SESSIONS, CERTIFICATES, TIMES = 10_000, 100, 20
CLOSED, PING = 100, 10  # milliseconds
LONGEST = "the longest PING meanwhile, ms"


class Held:
    """Connections that a driver holds."""

    def __init__(self, server: RedisServer, count: int, certificates: Sequence[Cert]) -> None:
        words = [driver(), "hold", str(server.port), str(server.directory / "trust.pem")]
        words += [str(count), str(keep(certificates)), "PING"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def next_closed(self) -> float:
        """When it was, as time.monotonic()."""
        return int(self.line().split()[1]) / 1e9

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


@dataclass
class Ground:
    """A server with its sessions, one that idles, and the policy's generation."""

    server: RedisServer
    idle: RedisServer
    generation: int = 1

    def patch(self, line: str) -> float:
        """Milliseconds until the reply, which comes after all sessions were decided again."""
        base = self.generation
        self.generation += 1
        with Link(self.server) as link:
            began = time.monotonic()
            link.call("CERTAUTH.POLICY", "PATCH", str(base), str(base + 1), "LINES", line)
            return (time.monotonic() - began) * 1e3

    def revoke(self, cert: Cert, sessions: Held, count: int) -> float:
        """Milliseconds from the call until the last of its connections is closed."""
        began = time.monotonic()
        self.patch(f"+revoke cert {cert.fingerprint}")
        return max(sessions.next_closed() - began for _ in range(count)) * 1e3

    def felt(self, work: Callable[[], float]) -> tuple[float, float, float]:
        """What the work says, and the longest PING meanwhile here and on the idle server."""
        told: list[float] = []
        here, there = longest_pings(lambda: told.append(work()), self.server, self.idle)
        return told[0], here, there


def tell(
    kind: Server, answer: Answer, what: str, took: str, found: Sequence[tuple[float, float, float]]
) -> Row:
    """Returns the row of the times."""
    times, here, there = zip(*found, strict=True)
    longest = f"{what}: {LONGEST}"
    answer.row(kind, longest, "an idle server", there)
    answer.worst(answer.row(kind, longest, "this server", here), PING)
    return answer.row(kind, took, what, times)


def measure(kind: Server, lab: Lab, answer: Answer) -> None:
    each, times = lab.size(SESSIONS // CERTIFICATES, 2), lab.size(TIMES, 2)
    count = each * CERTIFICATES
    alone, shared = ([lab.pki.ca.issue() for _ in range(n)] for n in (times, CERTIFICATES))
    with ExitStack() as stack:
        config = [f"maxclients {SESSIONS + 1000}"]
        made = [RedisServer(kind, lab.pki, module=JOURNAL, config=config) for _ in range(2)]
        server, idle = map(stack.enter_context, made)
        ground = Ground(server, idle)
        lines = [*usual(lab.pki), "bind subject CN=alice,OU=eng,O=acme alice"]
        load(server.admin(), 1, lines)
        crowd = stack.enter_context(Held(server, count, shared))
        few = stack.enter_context(Held(server, times, alone))
        one = [ground.felt(partial(ground.revoke, cert, few, 1)) for cert in alone]
        what = f"1 of {count:,} sessions revoked"
        answer.worst(tell(kind, answer, what, "until it is closed, ms", one), CLOSED)
        decided = [
            ground.felt(partial(ground.patch, f"+bind cn nobody-{n} alice")) for n in range(times)
        ]
        what = f"a change that leaves {count:,} sessions"
        tell(kind, answer, what, "until all are decided again, ms", decided)
        many = [
            ground.felt(partial(ground.revoke, cert, crowd, each))
            for cert in shared[: lab.size(10, 2)]
        ]
        what = f"{each} of {count:,} sessions revoked at once"
        tell(kind, answer, what, "until the last is closed, ms", many)


def run(lab: Lab, answer: Answer) -> None:
    for kind in lab.servers:
        measure(kind, lab, answer)
