"""TLS clients by hand: hellos byte by byte, and sessions that are resumed."""

import contextlib
import datetime
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kit.policies import Node
from tests.kit.support import Cert, TlsPeer

DAY = datetime.timedelta(days=1)


NOW = datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True)
class Identity:
    """A certificate with its key; `issuer` has signed it, itself for a root."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def issue(
    name: str, issuer: Identity | None = None, *, ca: bool = False, until: int = 1
) -> Identity:
    """A certificate for `name` that ends `until` days from now, self-signed without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    addresses = [x509.IPAddress(ip_address(text)) for text in ("127.0.0.1", "::1")]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 10 * DAY)
        .not_valid_after(NOW + until * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    )
    return Identity(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


ROOT = issue("root", ca=True)


def context(client: tuple[str, str] | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cadata=ROOT.pem.decode())
    if client:
        made.load_cert_chain(*client)
    return made


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    half = context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


# How a TLS session comes back: the version, and whether the client takes tickets.
RESUMPTIONS = {
    "1.2 id": ("TLSv1_2", False),
    "1.2 ticket": ("TLSv1_2", True),
    "1.3 ticket": ("TLSv1_3", True),
}


# ---- Resumed sessions ----------------------------------------------------------------------------


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """Connections stay open to the end of the test: both sides forget a TLS 1.2 session whose
    connection breaks off."""
    with ExitStack() as stack:
        yield stack


def resumable(node: Node, cert: Cert, how: str) -> TlsPeer:
    version, tickets = RESUMPTIONS[how]
    peer = node.server.tls(cert, version)
    if not tickets:
        peer.context.options |= ssl.OP_NO_TICKET
    return peer


def session_of(
    held: ExitStack, peer: TlsPeer, session: ssl.SSLSession | None = None, user: str = "alice"
) -> ssl.SSLSession:
    """Logs in, by a full handshake or from a session, and gives what this connection resumes by."""
    connection = held.enter_context(peer.connect(session))
    assert connection.command("ACL", "WHOAMI") == user.encode()
    assert connection.resumed == (session is not None)
    return connection.session
