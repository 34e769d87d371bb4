"""OCSP responders: one whose answers tests make, and openssl's own."""

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.kit.https_site import served
from tests.kit.support import Cert, free_port

SIGNING = ExtendedKeyUsageOID.OCSP_SIGNING
STATUS = {
    "good": ocsp.OCSPCertStatus.GOOD,
    "revoked": ocsp.OCSPCertStatus.REVOKED,
    "unknown": ocsp.OCSPCertStatus.UNKNOWN,
}
Answering = Callable[[bytes], bytes]


def said(
    cert: Cert,
    ca: Cert,
    status: str = "good",
    *,
    signer: Cert | None = None,
    sent: Sequence[Cert] = (),
    named: ocsp.OCSPResponderEncoding = ocsp.OCSPResponderEncoding.HASH,
    start: datetime | None = None,
    end: datetime | None = None,
    undated: bool = False,
    nonce: bytes = b"",
    algorithm: Any = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """DER of what `ca`, or a `signer` in its place, says of a certificate: good for a day."""
    now, signer = datetime.now(UTC).replace(microsecond=0), signer or ca
    revoked = status == "revoked"
    start = start or now
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert.certificate, ca.certificate, algorithm or hashes.SHA1(), STATUS[status],
        start, None if undated else end or start + timedelta(days=1),
        now if revoked else None, None,
    )  # fmt: skip
    builder = builder.responder_id(named, signer.certificate)
    if sent:
        builder = builder.certificates([one.certificate for one in sent])
    for one, critical in extensions:
        builder = builder.add_extension(one, critical)
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), False)
    key: Any = signer.key
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def delegate(ca: Cert, **options: Any) -> Cert:
    """A certificate that lets its holder answer for the CA."""
    return ca.issue("CN=answers", **{"eku": (SIGNING,), **options})


@dataclass
class Responder:
    """`answering` makes an answer of a question, both DER; `asked` are the questions so far."""

    url: str
    answering: Answering
    status: int = 200
    asked: list[bytes] = field(default_factory=list)


@contextmanager
def responder(answering: Answering) -> Iterator[Responder]:
    """On loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/ocsp-request"
            found.asked.append(content)
            self.send_response(found.status)
            if found.status == 302:
                self.send_header("Location", found.url)
            self.end_headers()
            self.wfile.write(found.answering(content))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Responder(f"http://127.0.0.1:{server.server_address[1]}/ocsp", answering)
    with served(server):
        yield found


@dataclass
class OpenSsl:
    """`openssl ocsp` as a responder of a CA, whose delegate signs. It knows what it was told."""

    folder: Path
    ca: Cert
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @contextmanager
    def running(self, good: Sequence[Cert], revoked: Sequence[Cert] = ()) -> Iterator[None]:
        """Its index is these. It listens on all addresses: it takes a number, and no address."""
        told = [("V", "", one) for one in good] + [("R", "260101000000Z", one) for one in revoked]
        lines = (
            f"{state}\t491231235959Z\t{when}\t{one.serial.upper()}\tunknown\t/CN={one.serial}\n"
            for state, when, one in told  # no subject may be there twice
        )
        (self.folder / "index.txt").write_text("".join(lines))
        (self.folder / "ca.pem").write_bytes(self.ca.pem)
        crt, key = delegate(self.ca).files
        command = ["openssl", "ocsp", "-index", self.folder / "index.txt", "-port", self.port,
                   "-CA", self.folder / "ca.pem", "-rsigner", crt, "-rkey", key, "-nmin",
                   "60"]  # fmt: skip
        process = subprocess.Popen(
            [str(one) for one in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        try:
            assert process.stdout
            line, before = "", list[str]()
            while "waiting for OCSP" not in line:
                line = process.stdout.readline()
                before.append(line)
                assert line, before
            yield
        finally:
            process.terminate()
            process.wait(20)
            process.stdout.close()  # type: ignore[union-attr]
