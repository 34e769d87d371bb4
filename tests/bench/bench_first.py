"""How soon a client has its first authenticated answer: by certificate and by password."""

import asyncio
import selectors
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from statistics import median, quantiles
from typing import Self

from tests.bench.bench_login import PASSWORD, with_module
from tests.bench.lab import Lab, by_turns, keep, visits
from tests.bench.report import Answer
from tests.kit.servers import Server
from tests.kit.support import RedisServer

NUMBER, TITLE = 2, "The first command"
HOW = """From connect(2) to the answer to GET, by a client that waits for each answer, as client
libraries do. A certificate saves the round trip of AUTH: over mutual TLS it replaces AUTH on top
of the certificate; over TLS without one it also adds a signature and its check. On loopback a
round trip is two changes of process; so the same is measured through a relay that delays bytes by
half of 1 ms each way, as two machines of one region are apart (a connection's own round trip
included). Mutual TLS and no login at all is the floor."""
LIMIT = 0.9
ROUND_TRIP = 0.001  # seconds


class Relay:
    """Before a server's port: all bytes come half a round trip late, and the first ones of a
    connection one round trip more, which is that of connect(2)."""

    def __init__(self, server: RedisServer) -> None:
        self.to, self.port = server.port, 0
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        # epoll(7), the usual selector, waits for whole milliseconds only.
        with asyncio.Runner(
            loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
        ) as runner:
            runner.run(self.serve())

    async def serve(self) -> None:
        self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self.end.wait()
        server.close()
        await asyncio.gather(*self.tasks)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        await asyncio.sleep(ROUND_TRIP)
        answers, questions = await asyncio.open_connection("127.0.0.1", self.to)
        await asyncio.gather(self.carry(reader, questions), self.carry(answers, writer))

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.loop.call_later(ROUND_TRIP / 2, writer.write, data)
        await asyncio.sleep(ROUND_TRIP / 2)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def __enter__(self) -> Self:
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join()


def middle_and_tail(run: Callable[[], list[float]]) -> tuple[float, float]:
    """p50 and p99, in milliseconds."""
    took = run()
    return median(took) * 1e3, quantiles(took, n=100, method="inclusive")[98] * 1e3


def measure(kind: Server, lab: Lab, answer: Answer) -> None:
    known = keep([lab.pki.alice])
    commands = (f"AUTH alice {PASSWORD}", "GET x")
    with ExitStack() as stack:
        users = [f"user alice on >{PASSWORD} ~* &* +@all"]
        stock = stack.enter_context(RedisServer(kind, lab.pki, config=users))
        module = with_module(kind, lab, stack)
        far_stock = stack.enter_context(Relay(stock)).port
        far_module = stack.enter_context(Relay(module)).port
        for where, ports, count in (
            ("on loopback", (stock.port, module.port), lab.size(100, 10)),
            ("at 1 ms", (far_stock, far_module), lab.size(50, 10)),
        ):
            old, new = ports
            arms = {
                "password over mutual TLS": partial(
                    visits, stock, count, known, *commands, port=old
                ),
                "certificate": partial(visits, module, count, known, "GET x", port=new),
                "password, no certificate": partial(
                    visits, stock, count, None, *commands, port=old
                ),
                "mutual TLS, no login": partial(visits, stock, count, known, "GET x", port=old),
            }
            turns = {name: partial(middle_and_tail, arm) for name, arm in arms.items()}
            found = by_turns(2 * lab.rounds, turns)
            tell(kind, answer, where, found)


def tell(
    kind: Server, answer: Answer, where: str, found: dict[str, list[tuple[float, float]]]
) -> None:
    for index, part in enumerate(("p50", "p99")):
        what = f"connect to first authenticated answer {where}, {part}, ms"
        rows = [
            answer.row(kind, what, arm, [one[index] for one in values])
            for arm, values in found.items()
        ]
        if part == "p50":
            for over in (rows[0], rows[2]):
                answer.bar(rows[1], LIMIT, over)


def run(lab: Lab, answer: Answer) -> None:
    for kind in lab.servers:
        measure(kind, lab, answer)
