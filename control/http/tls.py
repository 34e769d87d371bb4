"""TLS over one TCP connection each. Any client certificate is accepted here: the core judges it."""

import asyncio
import contextlib
import ipaddress
import logging
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from OpenSSL import SSL, crypto
from OpenSSL._util import ffi as openssl_ffi
from OpenSSL._util import lib as openssl
from uvicorn import Config
from uvicorn.server import ServerState

from control._core import ffi, lib
from control.http.bridge import PeerCertificates
from control.http.protocol import CHUNK, PLAIN_HTTP, Deadline, HttpProtocol, Limits, on_the_wire

log = logging.getLogger(__name__)

TLS_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}  # what may be the lowest
TAKE_ANY = ffi.addressof(lib, "take_any")  # pyOpenSSL would make a callback: see build.py
PEM_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


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
        # In pyOpenSSL's own cffi, and by its own call, of which set_verify is a wrapper.
        address = int(ffi.cast("uintptr_t", TAKE_ANY))
        take_any = openssl_ffi.cast("int (*)(int, X509_STORE_CTX *)", address)
        openssl.SSL_CTX_set_verify(context._context, SSL.VERIFY_PEER, take_any)
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
        # A key that is not the certificate's own is refused by use_privatekey.
        if b"ENCRYPTED" in key:  # OpenSSL would ask for its passphrase on the terminal
            raise ValueError("it is encrypted")
        private = crypto.load_privatekey(pem, key).to_cryptography_key()
        context.use_privatekey(cast("Any", private))
    except (crypto.Error, SSL.Error, ValueError) as error:
        raise ValueError(
            "the server's certificate or its key cannot be used: both must be PEM, the key "
            f"without a passphrase, and the key must be the certificate's own ({error})"
        ) from error
    return context


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
        """A connection from this source has ended that `admit` had counted."""
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
    connections: "set[Connection]" = field(default_factory=set)


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
        """Of the TCP connection: closes it where the gate is full; else the handshake's time
        begins."""
        self._raw = cast("asyncio.Transport", transport)
        source = source_of(self._raw.get_extra_info("peername"))
        if not self._front.gate.admit(source):
            self._raw.abort()
            return
        self._source = source
        self._front.connections.add(self)
        self._deadline.set(self._front.limits.handshake_seconds, self._raw.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of the TCP connection: frees its place at the gate, and tells HTTP."""
        self._closing = True
        self._deadline.cancel()
        if self._source is not None:
            self._front.gate.release(self._source)
            self._front.connections.discard(self)
        if self._http is not None:
            self._http.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of TCP: decrypted for HTTP, or answered in plain text where they are plain HTTP."""
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
        except SSL.Error as error:  # Also the peer's close_notify, which is not an error.
            log.debug("TLS with %s ended: %r", self._source, error)
            self.close()

    def _handshake(self, tls: SSL.Connection) -> HttpProtocol:
        tls.do_handshake()
        self._deadline.cancel()
        front, state = self._front, {"peer": presented(tls)}
        self._http = HttpProtocol(front.limits, front.config, front.http, state)
        self._http.connection_made(self)
        return self._http

    def _flush(self, tls: SSL.Connection) -> None:
        with contextlib.suppress(SSL.WantReadError):
            while True:
                self._raw.write(tls.bio_read(4 * CHUNK))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of the TCP connection, such as its peer's address; `peer` is in the ASGI state
        instead."""
        return self._raw.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Of the TCP connection, in bytes that are encrypted already."""
        self._raw.set_write_buffer_limits(high, low)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypts and sends; nothing after close()."""
        if data and self._tls is not None and not self._closing:
            self._tls.sendall(bytes(data))
            self._flush(self._tls)

    def is_closing(self) -> bool:
        """Also before the TCP connection is closed: `close` reads on for a moment."""
        return self._closing

    def abort(self) -> None:
        """Resets the TCP connection; what waits to be sent is lost."""
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
        """HTTP takes no more: TCP is not read either, so the peer's window fills."""
        self._paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Reads TCP again, after the records that are here already."""
        self._paused = False
        self._raw.resume_reading()
        if self._tls is not None:  # Records that came before the pause.
            asyncio.get_running_loop().call_soon(self._pump, self._tls)

    def pause_writing(self) -> None:
        """The peer reads slowly: HTTP sets a deadline."""
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        """The peer has read: HTTP may write on."""
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
