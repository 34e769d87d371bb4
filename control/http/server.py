"""The HTTPS front: TLS, HTTP/1.1 and its limits in one event loop, the WSGI app in a thread pool.

    TCP ──Connection──▶ plain bytes ──HttpProtocol──▶ whole request ──Bridge──▶ WSGI app in a thread
          TLS, pyOpenSSL               limits, uvicorn                 environ

A slow or silent peer holds a few kilobytes in the loop and never a thread: the app is called only
when a request is complete. TLS asks for a client certificate and accepts whatever is presented.
Who that is, and whether it may come in, the core decides on every request: see `peer_cert`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ipaddress
import json
import logging
import math
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import formatdate
from io import BytesIO
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, unquote_to_bytes
from wsgiref.types import WSGIApplication, WSGIEnvironment

from OpenSSL import SSL, crypto
from uvicorn import Config
from uvicorn.middleware.wsgi import build_environ
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState
from werkzeug.wrappers import Response

from control.errors import Refusal, invalid

THREADS = 16  # The app waits for SQLite, OpenSSL and argon2, which give up the GIL.
BACKLOG = 512  # Connections that the kernel holds while the loop is busy.
CHUNK = 16384  # One TLS record: what is decrypted, parsed and counted in one go.

TLS_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}  # what may be the least

PEER_KEY = "redis_certauth.peer"
PROXY_CERTIFICATE = b"x-ssl-client-escaped-cert"
PROXY_ADDRESS = b"x-real-ip"
PEM_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Listen:
    """Where to listen. A host with a colon is IPv6, and IPv6 only; port 0 lets the kernel pick."""

    host: str
    port: int


@dataclass(frozen=True)
class Limits:
    """What one peer, and all of them together, may cost. Sizes in bytes, times in seconds."""

    connections: int = 800  # Below the usual limit of 1024 descriptors: accept never runs dry.
    connections_per_source: int = 256  # One address (IPv6: one /64) leaves room for the others.
    handshake_seconds: float = 5  # From accept to the end of the handshake: half-open peers.
    header_bytes: int = 65536  # httptools has no limit of its own: 61 MB were taken (measured).
    header_seconds: float = 10  # From the first byte of a request to its blank line: slowloris.
    body_bytes: int = 1 << 20  # The largest upload is a bundle of certificates, far below.
    body_seconds: float = 15  # From the blank line to the last byte: slow bodies.
    idle_seconds: float = 30  # Between two requests of a kept-alive connection.
    write_buffer: int = 65536  # Encrypted bytes that may wait for one reader.
    write_seconds: float = 30  # A reader that does not empty that buffer in time is cut.
    linger_seconds: float = 1  # After our close, for the peer to read our last words.


@dataclass(frozen=True)
class PeerCertificates:
    """What the client presented and proved to hold the key of; nothing else about it is checked.

    `leaf` is DER; `chain` is the whole presented path as DER, the leaf first.
    """

    leaf: bytes
    chain: tuple[bytes, ...]


def peer_cert(environ: WSGIEnvironment) -> PeerCertificates | None:
    """The certificates that this request's client presented, None when it presented none.

    The one seam between the front and the app. No header that a client sends reaches it.
    """
    return cast("PeerCertificates | None", environ.get(PEER_KEY))


BAD_REQUEST = invalid("bad_request", "this is not a well-formed HTTP/1.1 request")
PLAIN_HTTP = invalid("https_only", "this port speaks HTTPS only: use https:// in the URL")
NO_UPGRADE = Refusal(501, "not_implemented", "CONNECT and protocol upgrades are not served here")
LATE = Refusal(408, "request_timeout", "the request did not arrive in time")
BROKEN = Refusal(500, "internal_error", "the control plane failed; its log says why")


def rendered(refusal: Refusal) -> tuple[Headers, bytes]:
    """Headers and body of an answer that the front makes itself; the connection closes after it."""
    text = refusal.description
    body = {"error_code": refusal.error_code, "description": text, "message": text}
    content = json.dumps(body).encode()
    length = str(len(content)).encode()
    close = (b"connection", b"close")
    return [(b"content-type", b"application/json"), (b"content-length", length), close], content


def on_the_wire(refusal: Refusal) -> bytes:
    """The same answer as a whole HTTP/1.1 response."""
    headers, content = rendered(refusal)
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return STATUS_LINE[refusal.status] + lines + b"\r\n" + content


def tls_context(
    chain: bytes, key: bytes, tls_min: str = "1.2", authorities: Sequence[bytes] | None = None
) -> SSL.Context:
    """A context that shows the certificate of `chain` (PEM, leaf first) with `key` (PEM), from the
    TLS version `tls_min` on, one of TLS_VERSIONS.

    It asks for a client certificate and takes any, for the core to decide. With `authorities`, the
    DER of CAs, it says that those of them are meant, which is what a browser offers its user then
    (RFC 8446 4.2.4); and does not ask where there is none. It resumes nothing: a resumed session
    would skip the client's proof and outlive the certificate (RFC 8446 2.2).
    Raises ValueError when the certificate or the key cannot be read or do not belong together.
    """
    pem = crypto.FILETYPE_PEM
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(TLS_VERSIONS[tls_min])
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_cipher_list(b"ECDHE+AESGCM:ECDHE+CHACHA20")
    if authorities is None or authorities:
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    # Nobody asks what OpenSSL makes of the path, and 22 forged CAs with RSA-16384 keys in it held
    # the loop for 75 ms a handshake (measured); at depth 0 it is 6 ms. The app sees the whole path.
    context.set_verify_depth(0)
    try:
        found = [crypto.load_certificate(pem, one) for one in PEM_CERTIFICATE.findall(chain)]
        leaf, *above = [certificate.to_cryptography() for certificate in found]
        context.use_certificate(leaf)
        for certificate in above:
            context.add_extra_chain_cert(certificate)
        for der in authorities or ():
            named = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
            context.add_client_ca(named.to_cryptography())
        # The empty passphrase keeps OpenSSL from asking for one on the terminal. A key that is not
        # the certificate's own is refused by use_privatekey.
        private = crypto.load_privatekey(pem, key, b"").to_cryptography_key()
        context.use_privatekey(cast("Any", private))
    except (crypto.Error, SSL.Error, ValueError) as error:
        raise ValueError(
            "the server's certificate or its key cannot be used: both must be PEM, the key "
            f"without a passphrase, and the key must be the certificate's own ({error})"
        ) from error
    return context


class Deadline:
    """One timer, set anew as often as one likes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float, then: Callable[[], None]) -> None:
        self.cancel()
        self._timer = self._loop.call_later(seconds, then)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Gate:
    """Counts the open connections, in all and by source."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._warned = -60.0

    def admit(self, source: str) -> bool:
        """Whether one more may come from this source; if so, it is counted until released."""
        full = self._open.total() >= self._limits.connections
        if full or self._open[source] >= self._limits.connections_per_source:
            if time.monotonic() - self._warned >= 60:
                self._warned = time.monotonic()
                which = "in all" if full else "from one source"
                log.warning("too many connections %s: one from %s was closed", which, source)
            return False
        self._open[source] += 1
        return True

    def release(self, source: str) -> None:
        self._open[source] -= 1
        if not self._open[source]:
            del self._open[source]


@dataclass
class Front:
    """What all connections share. `context` is replaced as a whole, never changed."""

    context: SSL.Context
    limits: Limits
    config: Config
    gate: Gate
    http: ServerState = field(default_factory=ServerState)
    connections: set[Connection] = field(default_factory=set)


class Phase(enum.Enum):
    IDLE = enum.auto()
    HEADERS = enum.auto()
    BODY = enum.auto()
    APP = enum.auto()


class Unacceptable(Exception):
    """Stops the parser; the protocol knows which answer is due."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with limits and deadlines, and with answers in JSON.

    There is no pipelining: a client that does not wait for its answer gets the first one, and then
    the connection closes (RFC 9112 9.3.2 has it try again). So nothing queues here.
    """

    def __init__(self, front: Front, state: dict[str, Any]) -> None:
        super().__init__(config=front.config, server_state=front.http, app_state=state)
        self._limits = front.limits
        self._phase = Phase.IDLE
        self._fed = self._body = 0
        self._refusal = BAD_REQUEST
        self._reading, self._writing = Deadline(self.loop), Deadline(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=self._limits.write_buffer)
        self._reading.set(self._limits.header_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading.cancel()
        self._writing.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._fed += len(data)
        super().data_received(data)
        # Counted raw, since the parser shows neither a header before its end nor chunk framing.
        limit = self._limits.header_bytes
        if self._phase in (Phase.IDLE, Phase.HEADERS):
            if self._fed > limit:
                self._refuse(self._too_long())
        elif self._fed > limit + 2 * self._limits.body_bytes:
            self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        if self._phase is Phase.APP:
            raise Unacceptable
        super().on_message_begin()
        self._phase = Phase.HEADERS
        self._reading.set(self._limits.header_seconds, lambda: self._refuse(LATE))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is Phase.BODY:  # A trailer; merged, it would pass for a header.
            raise Unacceptable
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if refusal := self._fault():
            self._refusal = refusal
            raise Unacceptable
        super().on_headers_complete()
        self._phase = Phase.BODY
        self._reading.set(self._limits.body_seconds, lambda: self._refuse(LATE))

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        if self._body > self._limits.body_bytes:
            self._refusal = self._too_large()
            raise Unacceptable
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = Phase.APP
        self._reading.cancel()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._phase, self._fed, self._body = Phase.IDLE, 0, 0
        self._reading.set(self._limits.idle_seconds, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing.set(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._writing.cancel()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this for whatever the parser, or one of the hooks above, does not take."""
        if self._phase is Phase.APP:
            self.cycle.keep_alive = False
            self.transport.pause_reading()
        else:
            self._refuse(self._refusal)

    def _fault(self) -> Refusal | None:
        """What is wrong with the headers just read, if anything."""
        if self.parser.should_upgrade():
            return NO_UPGRADE
        lines = [self.url, *(name + value for name, value in self.headers)]
        if sum(len(line) + len(": \r\n") for line in lines) > self._limits.header_bytes:
            return self._too_long()
        version = self.parser.get_http_version()
        if version not in (
            "1.0",
            "1.1",
        ):  # httptools takes "HTTP/2.0" and "HTTP/0.9" in this place.
            return BAD_REQUEST
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and version == "1.1"):  # RFC 9112 3.2.
            return BAD_REQUEST
        lengths = [int(value) for name, value in self.headers if name == b"content-length"]
        return self._too_large() if max(lengths, default=0) > self._limits.body_bytes else None

    def _too_long(self) -> Refusal:
        text = f"the request's headers are larger than {self._limits.header_bytes} bytes"
        return Refusal(431, "headers_too_large", text)

    def _too_large(self) -> Refusal:
        text = f"the request's body is larger than {self._limits.body_bytes} bytes"
        return Refusal(413, "body_too_large", text)

    def _refuse(self, refusal: Refusal) -> None:
        if not self.transport.is_closing():
            self.transport.write(on_the_wire(refusal))
            self.transport.close()


class Bridge:
    """The app that uvicorn sees: ASGI outside, WSGI in a thread inside, whole bodies only."""

    def __init__(self, app: WSGIApplication, pool: ThreadPoolExecutor) -> None:
        self._app = app
        self._pool = pool

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Scope]],
        send: Callable[[Scope], Awaitable[None]],
    ) -> None:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        status, headers, content = await self._answer(scope, bytes(body))
        headers.append((b"date", formatdate(usegmt=True).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        step = 4 * CHUNK  # Slices, for a slow reader to be noticed between two of them.
        for start in range(0, len(content) or 1, step):
            piece, more = content[start : start + step], start + step < len(content)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    async def _answer(self, scope: Scope, body: bytes) -> tuple[int, Headers, bytes]:
        try:
            environ = environ_of(scope, body)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, call, self._app, environ)
        except Refusal as refusal:
            return refusal.status, *rendered(refusal)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            return BROKEN.status, *rendered(BROKEN)


def call(app: WSGIApplication, environ: WSGIEnvironment) -> tuple[int, Headers, bytes]:
    """Runs the app to its end: status, headers and the whole content."""
    response = Response.from_app(app, environ, buffered=True)
    pairs = response.headers.to_wsgi_list()
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    return response.status_code, headers, response.get_data()


def environ_of(scope: Scope, body: bytes) -> WSGIEnvironment:
    """The WSGI environment (PEP 3333) of a complete request.

    A header with an underscore in its name is dropped: in the environment it could not be told
    from the one with a hyphen, which a proxy may have set. So is the framing that is done with.
    """
    peer, address = scope["state"].get("peer"), (scope["client"] or ("",))[0]
    if scope["state"].get("proxied"):
        peer, address = from_proxy(scope["headers"])
    done = (PROXY_CERTIFICATE, PROXY_ADDRESS, b"transfer-encoding", b"content-length")
    headers = [pair for pair in scope["headers"] if pair[0] not in done and b"_" not in pair[0]]
    kept = cast("Any", {**scope, "headers": headers, "scheme": "https"})
    return {
        **build_environ(kept, cast("Any", None), BytesIO(body)),
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "SERVER_PORT": str(scope["server"][1] or 443),
        "REMOTE_ADDR": address,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.multiprocess": False,
        PEER_KEY: peer,
    }


def from_proxy(headers: Headers) -> tuple[PeerCertificates | None, str]:
    """The client's certificate (nginx: $ssl_client_escaped_cert) and address ($remote_addr).

    Only for the proxy's own socket. An address that the proxy does not name is empty, which no
    `from=` of a policy admits. Raises Refusal for two certificates, or one that is not PEM.
    """
    certificates = [value for name, value in headers if name == PROXY_CERTIFICATE]
    addresses = [value for name, value in headers if name == PROXY_ADDRESS]
    address = addresses[0].decode("latin-1") if len(addresses) == 1 else ""
    if not certificates:
        return None, address
    try:
        (escaped,) = certificates
        leaf = ssl.PEM_cert_to_DER_cert(unquote(escaped.decode("ascii")))
    except ValueError as error:
        raise invalid("bad_request", "the proxy sent a certificate that cannot be read") from error
    return PeerCertificates(leaf, (leaf,)), address


class Connection(asyncio.Transport, asyncio.Protocol):
    """One accepted TCP connection: a protocol that decrypts, and a transport that encrypts."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        self._front = front
        self._deadline = Deadline(asyncio.get_running_loop())
        self._source: str | None = None
        self._tls: SSL.Connection | None = None
        self._http: HttpProtocol | None = None
        self._paused = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        source = source_of(self._raw.get_extra_info("peername"))
        if not self._front.gate.admit(source):
            self._raw.abort()
            return
        self._source = source
        self._front.connections.add(self)
        self._deadline.set(self._front.limits.handshake_seconds, self._raw.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._deadline.cancel()
        if self._source is not None:
            self._front.gate.release(self._source)
            self._front.connections.discard(self)
        if self._http is not None:
            self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._tls is None:
            if data[:1].isalpha():  # The first letter of GET or POST; a handshake starts with 22.
                self._raw.write(on_the_wire(PLAIN_HTTP))
                self.close()
                return
            # Not before now, so that a certificate just replaced is not shown once more.
            self._tls = SSL.Connection(self._front.context, None)
            self._tls.set_accept_state()
        self._tls.bio_write(data)
        self._pump(self._tls)

    def _pump(self, tls: SSL.Connection) -> None:
        try:
            http = self._http or self._handshake(tls)
            while not (self._closing or self._paused):
                http.data_received(tls.recv(CHUNK))
        except SSL.WantReadError:
            self._flush(tls)
        except SSL.Error as error:  # Also the peer's close_notify, which is no error.
            log.debug("TLS with %s ended: %r", self._source, error)
            self.close()

    def _handshake(self, tls: SSL.Connection) -> HttpProtocol:
        tls.do_handshake()
        self._deadline.cancel()
        self._http = HttpProtocol(self._front, {"peer": presented(tls)})
        self._http.connection_made(self)
        return self._http

    def _flush(self, tls: SSL.Connection) -> None:
        with contextlib.suppress(SSL.WantReadError):
            while True:
                self._raw.write(tls.bio_read(4 * CHUNK))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypts and sends; nothing after close()."""
        if data and self._tls is not None and not self._closing:
            self._tls.sendall(bytes(data))
            self._flush(self._tls)

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self._raw.abort()

    def close(self) -> None:
        """Ends our side, and reads on for a moment.

        A socket closed with unread bytes in it resets the connection, and the reset overtakes the
        answer: the peer would never see why it was refused.
        """
        if self._closing:
            return
        self._closing = True
        if self._tls is not None:
            with contextlib.suppress(SSL.Error):
                self._tls.shutdown()
            self._flush(self._tls)
        with contextlib.suppress(OSError):  # The peer has reset it, and we are about to hear so.
            self._raw.write_eof()
        self._raw.resume_reading()
        limits, unsent = self._front.limits, self._raw.get_write_buffer_size()
        seconds = limits.write_seconds if unsent else limits.linger_seconds
        self._deadline.set(seconds, self._raw.abort)

    def shutdown(self) -> None:
        """The server stops: a request in flight is answered first, everything else ends."""
        if self._http is not None:
            self._http.shutdown()
        else:
            self._raw.abort()

    def pause_reading(self) -> None:
        self._paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self._raw.resume_reading()
        if self._tls is not None:  # Records that came before the pause.
            asyncio.get_running_loop().call_soon(self._pump, self._tls)

    def pause_writing(self) -> None:
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        if self._http is not None:
            self._http.resume_writing()


def presented(tls: SSL.Connection) -> PeerCertificates | None:
    """What the client presented in its handshake, None when it presented nothing."""
    leaf = tls.get_peer_certificate()
    if leaf is None:
        return None
    # On the server's side the chain does not hold the leaf (SSL_get_peer_cert_chain(3)).
    path = [leaf, *(tls.get_peer_cert_chain() or ())]
    chain = tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, one) for one in path)
    return PeerCertificates(chain[0], chain)


def source_of(peername: tuple[Any, ...] | None) -> str:
    """Who a connection counts for: the IPv4 address, or the IPv6 /64 that one host may own."""
    if peername is None:  # Gone already.
        return ""
    address = ipaddress.ip_address(peername[0].partition("%")[0])
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


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
        authorities: Sequence[bytes] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Prepares; nothing is bound yet. `certificate` is a PEM chain, leaf first, `key` PEM.

        `tls_min` is the least TLS version that is spoken, one of TLS_VERSIONS.
        With `proxy_socket`, plain HTTP is served on that unix socket as well, to a proxy that does
        TLS in front. Only what comes over it may name a client's certificate and address, in
        X-SSL-Client-Escaped-Cert and X-Real-IP: nobody but the proxy may reach its directory.
        `authorities`: see tls_context.
        Raises ValueError for a certificate or a key that cannot be used.
        """
        self._listen = listen
        self._tls_min = tls_min
        self._proxy_socket = proxy_socket
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
        limits = limits or Limits()
        config = Config(
            Bridge(app, self._pool),
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # Not a line for each bad request: attackers would fill the log.
            access_log=False,
            # Only a spare: any byte, be it an empty line, stops uvicorn's clock, but not ours.
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
        self, certificate: bytes, key: bytes, authorities: Sequence[bytes] | None = None
    ) -> None:
        """Shows this certificate (PEM chain, key PEM) from the next handshake on, and asks for
        those of other `authorities`, see tls_context.

        For any thread. Connections that are open stay. Raises ValueError, and keeps the old one,
        when the new one cannot be used.
        """
        self._front.context = tls_context(certificate, key, self._tls_min, authorities)

    async def _serve(self, listener: socket.socket, proxy: socket.socket | None) -> None:
        front, loop = self._front, asyncio.get_running_loop()
        self._loop = loop
        servers = [
            await loop.create_server(lambda: Connection(front), sock=listener, backlog=BACKLOG)
        ]
        if proxy is not None:
            trusted = {"proxied": True}
            servers.append(
                await loop.create_unix_server(lambda: HttpProtocol(front, trusted), sock=proxy)
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
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._proxy_socket is not None:
            self._proxy_socket.unlink(missing_ok=True)
