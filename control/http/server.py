"""The HTTPS front: TLS, HTTP/1.1 and its limits in one event loop, the WSGI app in threads.

    TCP ──Connection──▶ plain bytes ──HttpProtocol──▶ whole request ──Bridge──▶ WSGI app in a thread
          TLS, pyOpenSSL               limits, uvicorn                 environ

Connection is in tls.py, HttpProtocol in protocol.py, Bridge in bridge.py.

A slow or silent peer holds a few kilobytes in the loop and never a thread: the app is called only
when a request is complete. TLS asks for a client certificate and accepts whatever is presented.
Who that is, and whether it may come in, the core decides on every request: see `peer_cert`.
"""

import asyncio
import logging
import math
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from wsgiref.types import WSGIApplication

from uvicorn import Config

from control.http.bridge import PROXY_CERTIFICATE, Bridge
from control.http.protocol import HttpProtocol, Limits
from control.http.tls import Connection, Front, Gate, tls_context

# Each for reading and for changes. The app waits for SQLite, OpenSSL and argon2, which give up the
# GIL.
THREADS = 16
BACKLOG = 512  # Connections that the kernel holds while the loop is busy.
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listen:
    """Where to listen. A host with a colon is IPv6, and IPv6 only; port 0 lets the kernel pick."""

    host: str
    port: int


def bind_unix(path: Path) -> socket.socket:
    """Binds the proxy's socket, for this user and group only; one left over is replaced. Raises
    OSError that names the path."""
    if path.is_socket():
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o660)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return listener


class Server:
    """Serves a WSGI app over HTTPS from a background thread. Started and stopped once."""

    def __init__(
        self,
        app: WSGIApplication,
        listen: Listen,
        certificate: bytes,
        key: bytes,
        *,
        tls_min: str = "1.2",
        proxy_socket: Path | None = None,
        proxy_header: str = "",
        authorities: Sequence[bytes] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Prepares; nothing is bound yet. `certificate` is a PEM chain, leaf first, `key` PEM.

        `tls_min` is the least TLS version that is spoken, one of TLS_VERSIONS.
        With `proxy_socket`, plain HTTP is served on that unix socket as well, to a proxy that does
        TLS in front. Only what comes over it may name a client's certificate and address, in
        X-SSL-Client-Escaped-Cert (or the header `proxy_header`) and X-Real-IP: nobody but the proxy
        may reach its directory.
        `authorities`: see tls_context.
        Raises ValueError for a certificate or a key that cannot be used.
        """
        self._listen = listen
        self._tls_min = tls_min
        self._proxy_socket = proxy_socket
        self._proxy_header = proxy_header.lower().encode() or PROXY_CERTIFICATE
        self._pools = [
            ThreadPoolExecutor(THREADS, thread_name_prefix=name) for name in ("request", "change")
        ]
        limits = limits or Limits()
        config = Config(
            Bridge(app, *self._pools),
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # Not a line for each bad request: attackers would fill the log.
            access_log=False,
            # Only a spare: any byte, even an empty line, stops uvicorn's clock, but not ours.
            timeout_keep_alive=math.ceil(limits.idle_seconds) + 1,
            proxy_headers=False,  # On by default, for 127.0.0.1: a header would set the address.
        )
        config.load()
        context = tls_context(certificate, key, tls_min, authorities)
        self._front = Front(context, limits, config, Gate(limits))
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._stopping = asyncio.Event()
        self._grace = 0.0

    def start(self) -> int:
        """Binds, then serves. The port really bound; OSError, and nothing started, if taken."""
        family = socket.AF_INET6 if ":" in self._listen.host else socket.AF_INET
        address = (self._listen.host, self._listen.port)
        listener = socket.create_server(address, family=family, backlog=BACKLOG)
        try:
            proxy = bind_unix(self._proxy_socket) if self._proxy_socket else None
        except OSError:
            listener.close()
            raise
        # Accepted connections inherit it. asyncio would not: the socket's protocol says 0, not TCP.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = int(listener.getsockname()[1])
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, proxy)), name="https", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        return port

    def stop(self, grace: float = 5) -> None:
        """Takes no more connections, gives requests in flight `grace` seconds, then closes.

        A thread of the app that takes longer is not ended, but nobody waits for its answer.
        """
        if self._thread is not None and self._thread.is_alive():
            self._grace = grace
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def replace_certificate(
        self,
        certificate: bytes,
        key: bytes,
        authorities: Sequence[bytes] | None = None,
        tls_min: str = "1.2",
    ) -> None:
        """Shows this certificate (PEM chain, key PEM) from the next handshake on, and asks for
        those of other `authorities`, see tls_context. `tls_min` may ask for a newer version than
        this server was made with, never for an older one.

        For any thread. Connections that are open stay. Raises ValueError, and keeps the old one,
        when the new one cannot be used.
        """
        self._front.context = tls_context(
            certificate, key, max(tls_min, self._tls_min), authorities
        )

    async def _serve(self, listener: socket.socket, proxy: socket.socket | None) -> None:
        front, loop = self._front, asyncio.get_running_loop()
        self._loop = loop
        servers = [
            await loop.create_server(lambda: Connection(front), sock=listener, backlog=BACKLOG)
        ]
        if proxy is not None:
            limits, config, http = front.limits, front.config, front.http
            trusted = {"proxied": True, "proxy_header": self._proxy_header}
            servers.append(
                await loop.create_unix_server(
                    lambda: HttpProtocol(limits, config, http, trusted), sock=proxy
                )
            )
        self._ready.set()
        await self._stopping.wait()
        for server in servers:
            server.close()
        for connection in [*front.connections, *front.http.connections]:
            connection.shutdown()
        end = loop.time() + self._grace
        while (front.connections or front.http.connections) and loop.time() < end:
            await asyncio.sleep(0.02)
        for connection in list(front.connections):
            connection.abort()
        for protocol in list(front.http.connections):
            protocol.transport.abort()
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        if self._proxy_socket is not None:
            self._proxy_socket.unlink(missing_ok=True)
