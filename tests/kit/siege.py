"""Hostile peers in front of the HTTPS server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self

from control.service import Config
from tests.kit.plane import Https
from tests.kit.support import wait_until
from tests.kit.tls_client import client_hello

COMMAND = Path(sys.executable).parent / "redis-certauth"


PEERS = 200


HEAD = b"POST /v1/users HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def serving(config: Config) -> Iterator[subprocess.Popen[bytes]]:
    """The control plane as a process of its own, as an operator starts it."""
    command = [str(COMMAND), "serve", "--home", str(config.home)]
    names = ("host", "port", "proxy_socket", "proxy_header")
    settings = {name: getattr(config, name) for name in names}
    (config.home / "certauth.toml").write_text(
        "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    )
    with open(config.home / "log", "w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or listens(config), "the API listens", 60)
        assert process.poll() is None, (config.home / "log").read_text()
        yield process
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert "Traceback" not in (config.home / "log").read_text()


def listens(config: Config) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((config.host, config.port), 1):
        return True
    return False


def probe(config: Config) -> int:
    """The status of a request on a connection of its own."""
    with Https(config) as api:
        return api("GET /v1/cluster").status


# ---- Two hundred peers ---------------------------------------------------------------------------


class Siege:
    """Two hundred connections that do the same, each opened again when the server has cut it."""

    def __init__(self, config: Config, attack: Attack) -> None:
        self._config, self._attack = config, attack
        self._context = ssl.create_default_context(cafile=str(config.home / "ca.crt"))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.opened = 0

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            wait_until(lambda: self.opened >= PEERS, "all peers are there", 60)
        except BaseException:
            self.__exit__()  # else its thread and its connections are there in all later tests
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        peers = [asyncio.create_task(self._peer()) for _ in range(PEERS)]
        await self._over.wait()
        for peer in peers:
            peer.cancel()
        await asyncio.gather(*peers, return_exceptions=True)

    async def _peer(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # Cut, perhaps by a reset.
                await self._attack(self)
            await asyncio.sleep(0.05)

    async def peer(self, sent: bytes, tls: bool, drip: bool = False) -> None:
        """One connection, held until the server ends it; `drip` sends a byte each second."""
        secured = {"ssl": self._context, "server_hostname": "localhost"}
        options: dict[str, Any] = secured if tls else {}
        reader, writer = await asyncio.open_connection(
            self._config.host, self._config.port, **options
        )
        try:
            writer.write(sent)
            await writer.drain()
            self.opened += 1
            while drip and not reader.at_eof():
                writer.write(b"a")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(65536), 1)
            while await reader.read(65536):
                pass
        finally:
            writer.transport.abort()

    async def stay(self, sent: bytes) -> None:
        """A whole request; then the answer is read, and our side never closes."""
        reader, writer = await asyncio.open_connection(
            self._config.host, self._config.port, ssl=self._context, server_hostname="localhost"
        )
        try:
            writer.write(sent)
            self.opened += 1
            await reader.readuntil(b"\r\n\r\n")
            while not writer.transport.is_closing():
                await asyncio.sleep(0.2)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.transport.abort()


Attack = Callable[[Siege], Awaitable[None]]


ONCE = b"GET /v1/cluster HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


ATTACKS: dict[str, Attack] = {
    "TCP only": lambda siege: siege.peer(b"", tls=False),
    "half a ClientHello": lambda siege: siege.peer(client_hello()[:60], tls=False),
    "ClientHello, then silence": lambda siege: siege.peer(client_hello(), tls=False),
    "TLS, then silence": lambda siege: siege.peer(b"", tls=True),
    "slow headers": lambda siege: siege.peer(HEAD + b"X: ", tls=True, drip=True),
    "slow body": lambda siege: siege.peer(
        HEAD + b"Content-Length: 9999\r\n\r\n", tls=True, drip=True
    ),
    "plain HTTP": lambda siege: siege.peer(ONCE, tls=False),
    "never closes": lambda siege: siege.stay(ONCE),
}
