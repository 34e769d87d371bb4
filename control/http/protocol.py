"""HTTP/1.1 with limits and deadlines: uvicorn's parser, and our answers.

uvicorn is pinned exactly: HttpToolsProtocol is not public, and another release may change it.
"""

import asyncio
import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from control.errors import Refusal, invalid

CHUNK = 16384  # One TLS record: what is decrypted, parsed and counted in one go.

Headers = list[tuple[bytes, bytes]]


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


class Deadline:
    """One timer, which can be set again."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float, then: Callable[[], None]) -> None:
        """Calls `then` after so many seconds, instead of what was set before."""
        self.cancel()
        self._timer = self._loop.call_later(seconds, then)

    def cancel(self) -> None:
        """Nothing is called any more until it is set again."""
        if self._timer is not None:
            self._timer.cancel()


class Phase(enum.Enum):
    """What the connection waits for: a request, its blank line, the rest of its body, the app's
    answer."""

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

    def __init__(
        self, limits: Limits, config: Config, server: ServerState, state: dict[str, Any]
    ) -> None:
        super().__init__(config=config, server_state=server, app_state=state)
        self._limits = limits
        self._phase = Phase.IDLE
        self._fed = self._body = 0
        self._refusal = BAD_REQUEST
        self._reading, self._writing = Deadline(self.loop), Deadline(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Limits what waits to be sent, and the time until the first request's headers are here."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=self._limits.write_buffer)
        self._reading.set(self._limits.header_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels both deadlines, which would keep the connection in memory."""
        self._reading.cancel()
        self._writing.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and answers 431 or 413 where a request is longer than the limits."""
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
        """Refuses a request that comes before the last one's answer (pipelining). Raises
        Unacceptable, as the parser's other calls do."""
        if self._phase is Phase.APP:
            raise Unacceptable
        super().on_message_begin()
        self._phase = Phase.HEADERS
        self._reading.set(self._limits.header_seconds, lambda: self._refuse(LATE))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header, and refuses trailers (RFC 9110 6.5)."""
        if self._phase is Phase.BODY:  # A trailer; merged, it would pass for a header.
            raise Unacceptable
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuses what the headers show to be wrong, before the app sees the request."""
        if refusal := self._fault():
            self._refusal = refusal
            raise Unacceptable
        super().on_headers_complete()
        self._phase = Phase.BODY
        self._reading.set(self._limits.body_seconds, lambda: self._refuse(LATE))

    def on_body(self, body: bytes) -> None:
        """Takes a part of the body, up to `body_bytes` in all."""
        self._body += len(body)
        if self._body > self._limits.body_bytes:
            self._refusal = self._too_large()
            raise Unacceptable
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: the app has no deadline."""
        self._phase = Phase.APP
        self._reading.cancel()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begins to count again for the next request on the same connection."""
        super().on_response_complete()
        self._phase, self._fed, self._body = Phase.IDLE, 0, 0
        self._reading.set(self._limits.idle_seconds, self.transport.close)

    def pause_writing(self) -> None:
        """The reader is slow: it has `write_seconds` to empty the buffer."""
        super().pause_writing()
        self._writing.set(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader has emptied the buffer in time."""
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
        ):  # httptools accepts "HTTP/2.0" and "HTTP/0.9" here.
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
