"""PINGs one after the other: what they waited for, whatever else the machine does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tests.kit.support import RedisServer


def worked(server: RedisServer) -> float:
    """Seconds of processor time of the main thread, since it began (sched-stats.rst, Linux)."""
    account = Path(f"/proc/{server.pid}/task/{server.pid}/schedstat")
    return int(account.read_text().split()[0]) / 1e9


@contextmanager
def pinging(
    server: RedisServer, turn: Callable[[Callable[[], None]], None], **options: Any
) -> Iterator[None]:
    """Calls `turn` again and again, in a thread of its own, with what sends a PING on one
    connection and waits for the answer."""
    stop = threading.Event()
    client: Any = server.admin(**options, single_connection_client=True)
    client.ping()

    def ping() -> None:
        with suppress(redis.ResponseError):  # on Redis 7.0, to try again: an answer
            client.ping()

    def run() -> None:
        while not stop.is_set():
            turn(ping)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def pinged(server: RedisServer, **options: Any) -> Iterator[Callable[[], float]]:
    """Sends PING after PING; the function says how long the main thread was at work before it
    answered the slowest one since it was asked last: seconds."""
    worst = [0.0]

    def turn(ping: Callable[[], None]) -> None:
        before = worked(server)
        ping()
        worst[0] = max(worst[0], worked(server) - before)

    def longest() -> float:
        found, worst[0] = worst[0], 0.0
        return found

    with pinging(server, turn, **options):
        yield longest


@contextmanager
def counting_turns(server: RedisServer) -> Iterator[list[int]]:
    """How many PINGs have been answered, one after the other: each takes a turn of the server's
    event loop."""
    turns = [0]

    def turn(ping: Callable[[], None]) -> None:
        ping()
        turns[0] += 1

    with pinging(server, turn, socket_timeout=100):
        yield turns
