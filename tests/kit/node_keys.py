"""Servers that show certificates of a PKI of their own, and get new ones in place."""

import os
import socket
import ssl
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from control.policy import core
from tests.kit.support import CLIENT, SERVER, Cert, Key, Pki, RedisServer

NAMES = ("dns:localhost", "ip:127.0.0.1", "ip:::1")


def rsa_key() -> Key:
    return rsa.generate_private_key(65537, 2048)


def server_cert(pki: Pki, key: Key | None = None, **options: Any) -> Cert:
    eku = options.pop("eku", (SERVER, CLIENT))
    return pki.server_ca.issue("CN=localhost", san=NAMES, eku=eku, key=key, **options)


def own_pki(pki: Pki, cert: Cert) -> Pki:
    """The same CAs, and this certificate for the server, in files of its own."""
    made = Pki(pki.ca, pki.server_ca)
    made.__dict__["server"] = cert
    return made


def put(place: str, content: bytes) -> None:
    """A file in place of another one, as `mv` does it."""
    new = Path(f"{place}.new")
    new.write_bytes(content)
    os.replace(new, place)


def renew(files: tuple[str, str], cert: Cert) -> None:
    put(files[1], cert.key_pem)
    put(files[0], cert.presented)


def key_at(port: int, authorities: Path) -> str:
    """The key of the certificate that a server shows to anyone who comes now."""
    context = ssl.create_default_context(cafile=str(authorities))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return core.identity(wrapped.getpeercert(binary_form=True) or b"").key


def shown(server: RedisServer) -> str:
    return key_at(server.port, server.directory / "trust.pem")
