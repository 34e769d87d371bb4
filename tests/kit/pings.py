"""How long a server's main thread is at work before it answers a PING: whatever else the machine
does."""

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
def pinged(server: RedisServer, **options: Any) -> Iterator[Callable[[], float]]:
    """Sends PING after PING; the function says how long the main thread was at work before it
    answered the slowest one since it was asked last: seconds."""
    stop, worst = threading.Event(), [0.0]
    client: Any = server.admin(**options, single_connection_client=True)
    client.ping()

    def run() -> None:
        while not stop.is_set():
            before = worked(server)
            with suppress(redis.ResponseError):  # on Redis 7.0, to try again: an answer
                client.ping()
            worst[0] = max(worst[0], worked(server) - before)

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
