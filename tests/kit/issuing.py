"""What tests of issuing and of enrolment share: a control plane that was set up once, with a CA of
clients, and requests for certificates."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from control.domain import issuing
from control.pki.pem import Issued
from tests.kit.rest import ControlPlane


@dataclass(frozen=True)
class Prepared:
    """A CA of clients, and the file of the database of a control plane that trusts it."""

    authority: Issued
    database: bytes

    @contextmanager
    def opened(self, folder: Path) -> Iterator[ControlPlane]:
        """The control plane as it was then, in this folder; it issues by the CA."""
        made = ControlPlane(folder, self.database)
        made.app.extensions["authority"] = lambda: self.authority
        yield made
        made.close()


def begun(folder: Path) -> tuple[Issued, ControlPlane]:
    """A new CA of clients, and a control plane that trusts it, with a role `apps` (uid 8)."""
    issuing.create(folder, "acme", "", "ec", lambda _: None)
    authority, made = issuing.Authority(folder, lambda: "")(), ControlPlane(folder)
    trusted = {"name": "mtls_trusted_ca", "certificate": authority.certificate}
    made.ok("PUT /v1/cluster/update_cert", trusted)
    made.ok("POST /v1/roles", {"name": "apps", "management": "none"})
    return authority, made


def csr(subject: str = "", key: Any = None, *extensions: Any) -> str:
    """PEM of a request, by a new EC key unless one is given; `subject` as RFC 4514."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string(subject) if subject else x509.Name([])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def uris(*names: str) -> x509.SubjectAlternativeName:
    """The extension that asks for these URIs."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(one) for one in names])
