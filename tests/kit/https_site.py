"""A site with https on loopback, whose pages tests may change while it runs."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

from tests.kit.support import Pki


@dataclass
class HttpsSite:
    """`pages`: what is at each path, and its status; `asked`: the paths in their order."""

    url: str
    ca: str  # PEM of the CA of its certificate
    pages: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, path: str, content: str | bytes, status: int = 200) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.pages[path] = (status, data)


@contextmanager
def served(server: HTTPServer) -> Iterator[int]:
    """Its port, at which it answers meanwhile."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def https_site(pki: Pki) -> Iterator[HttpsSite]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            status, content = found.pages.get(self.path, (404, b""))
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", content.decode())
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pki.server.files)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_address[1]}"
    found = HttpsSite(url, pki.server_ca.pem.decode())
    with served(server):
        yield found
