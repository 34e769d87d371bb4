"""Certificates of algorithms that not every OpenSSL knows: ML-DSA, from 3.5 on, and one that nobody
knows. Python's own `ssl` may be of an older one, so that clients here are pyOpenSSL's."""

import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from OpenSSL import SSL

from tests.kit.certs import oid
from tests.kit.support import Cert, RedisServer, root

SINCE = (3, 5)  # OpenSSL knows ML-DSA
NOBODYS = "2.16.840.1.101.3.4.3.99"


def ml_dsa(size: int = 65) -> Any:
    """A private key. Skips where `cryptography` makes none."""
    made = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")
    return getattr(made, f"MLDSA{size}PrivateKey").generate()


def later_root(subject: str = "CN=Later Root") -> Cert:
    """A CA with a key of ML-DSA-65."""
    return root(subject, key=ml_dsa())


def renamed(cert: Cert, last: int = 99, above: tuple[Cert, ...] = ()) -> Cert:
    """The certificate, its ML-DSA-65 called another algorithm: by default one that nobody knows.
    `above`: its issuer, renamed as well."""
    arc = "2.16.840.1.101.3.4.3."
    old, new = oid(f"{arc}18"), oid(f"{arc}{last}")
    assert len(old) == len(new)
    return Cert(x509.load_der_x509_certificate(cert.der.replace(old, new)), cert.key, above)


def openssl_of(server: RedisServer) -> tuple[int, int]:
    """The version of the libcrypto that a running server has loaded."""
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    (library,) = set(re.findall(r"\S+/libcrypto\.so\S*", maps))
    found = re.search(rb"OpenSSL (\d+)\.(\d+)\.\d+[ \0]", Path(library).read_bytes())
    assert found
    return int(found[1]), int(found[2])


def later_user(server: RedisServer, cert: Cert) -> str:
    """Who a client is by this certificate: its user; or "" where the server has ended it."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate_chain_file(cert.files[0])
    context.use_privatekey_file(cert.files[1])
    with socket.create_connection(("127.0.0.1", server.port)) as plain:
        # pyOpenSSL hands WantRead up where a socket has a timeout of Python's.
        plain.settimeout(None)
        client = SSL.Connection(context, plain)
        client.set_connect_state()
        with suppress(SSL.Error, ConnectionError):
            client.do_handshake()
            client.sendall(b"*2\r\n$3\r\nACL\r\n$6\r\nWHOAMI\r\n")
            _, _, name = client.recv(4096).partition(b"\r\n")
            return name.decode().strip()
    return ""
