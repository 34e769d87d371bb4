"""From a whole request to the WSGI app in a thread, and its answer back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from io import BytesIO
from typing import Any, cast
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication, WSGIEnvironment

from uvicorn.middleware.wsgi import build_environ
from werkzeug.wrappers import Response

from control.errors import Refusal, invalid
from control.http import forwarded
from control.http.protocol import BROKEN, CHUNK, Headers, rendered

log = logging.getLogger(__name__)

PEER_KEY = "redis_certauth.peer"
LIVE_ANSWER = b'{"status": "live"}\n'
LIVE_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(LIVE_ANSWER)).encode()),
]
PROXY_CERTIFICATE = b"x-ssl-client-escaped-cert"
PROXY_ADDRESS = b"x-real-ip"
READING = ("GET", "HEAD", "OPTIONS")
LIVE = "/livez"  # whether this process answers, for a supervisor that restarts it
Scope = MutableMapping[str, Any]


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


class Bridge:
    """The app that uvicorn sees: ASGI outside, WSGI in a thread inside, whole bodies only.
    Requests that only read have threads of their own: where a lock on the database holds up all
    changes, these wait for each other alone."""

    def __init__(
        self, app: WSGIApplication, reading: ThreadPoolExecutor, changing: ThreadPoolExecutor
    ) -> None:
        self._app = app
        self._reading, self._changing = reading, changing

    async def __call__(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Scope]],
        send: Callable[[Scope], Awaitable[None]],
    ) -> None:
        """One request by ASGI 3.0. A client that leaves before its body is whole gets no answer,
        and the app never sees it; what it raises, but Refusal, is a 500."""
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
        if scope["raw_path"] == LIVE.encode() and scope["method"] in ("GET", "HEAD"):
            # Here and not in a thread: these may all wait for a database that hangs.
            return 200, [*LIVE_HEADERS], LIVE_ANSWER
        try:
            environ = environ_of(scope, body)
            loop = asyncio.get_running_loop()
            pool = self._reading if scope["method"] in READING else self._changing
            return await loop.run_in_executor(pool, call, self._app, environ)
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
    done = [PROXY_CERTIFICATE, PROXY_ADDRESS, b"transfer-encoding", b"content-length"]
    peer, address = scope["state"].get("peer"), (scope["client"] or ("",))[0]
    if scope["state"].get("proxied"):
        header = scope["state"].get("proxy_header", PROXY_CERTIFICATE)
        peer, address = from_proxy(scope["headers"], header)
        done.append(header)
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


def from_proxy(headers: Headers, name: bytes) -> tuple[PeerCertificates | None, str]:
    """The client's certificates, out of the header of this name, and its address.

    Only for the proxy's own socket, and only of the one header that the proxy is known to set: what
    other header a client sends, the proxy may pass on. An address that the proxy does not name is
    empty, which no `from=` of a policy admits. Raises Refusal for two headers, or one that holds no
    certificate."""
    certificates = [value for one, value in headers if one == name]
    addresses = [value for one, value in headers if one == PROXY_ADDRESS]
    address = addresses[0].decode("latin-1") if len(addresses) == 1 else ""
    if not certificates:
        return None, address
    try:
        (value,) = certificates
        found = forwarded.chain(value.decode("ascii"))
    except ValueError as error:
        raise invalid("bad_request", "the proxy sent a certificate that cannot be read") from error
    return (PeerCertificates(found[0], found) if found else None), address
