"""Chains shown to a real server, and what it says of each."""

import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import redis

from tests.kit.chains import Shown, Table
from tests.kit.policies import LOGIN, Node, Start, make_node
from tests.kit.servers import Server
from tests.kit.support import TlsPeer

# What explain and the server do not agree on, and why.
LOADED = "OpenSSL does not load it into a client, so that nobody can show it with OpenSSL."


EXCEPTIONS: dict[str, str] = {
    "constraints twice": LOADED,
    "key usage that does not parse": LOADED,
    "SAN that does not parse": LOADED,
}


def peer(node: Node, shown: Shown) -> TlsPeer:
    """A client whose own end takes whatever it is given."""
    made = TlsPeer(node.server, None, None)
    made.context.set_ciphers("DEFAULT:@SECLEVEL=0")
    made.context.load_cert_chain(*shown.files)
    return made


def chains_node(start: Start, kind: Server, made: Table, managed: bool) -> Node:
    """Under the table's policy, whose CAs are all that the server trusts where it is `managed`."""
    trust = [] if managed else made.trust
    node = make_node(start, kind, pki=made.pki, trust=trust, tls_auth_clients="yes")
    if managed:
        folder = Path(node.server.directory) / "certauth" / "ca"
        node.admin.config_set("tls-ca-cert-dir", str(folder))
    node.load(made.lines)
    assert node.outcome(made.pki.ca.issue("CN=alice")) == LOGIN  # so that its TLS context is known
    return node


def told_of(node: Node, shown: Shown) -> tuple[str, str, str | None, str]:
    """Decision, reason, user and the first line of the trace. What the server's own libcrypto does
    not even parse is said in an error; the handshake cannot take it either."""
    try:
        told = node.explain(shown.pem, "127.0.0.1")
    except redis.ResponseError as error:
        if "does not parse" not in str(error):
            raise
        return "refuse", "malformed", None, "the TLS handshake refuses it, at all"
    return told["decision"], told["reason"], told["user"], told["trace"][0]


COUNTED = "handshakes_refused_"


def shake(made: TlsPeer, source: str = "127.0.0.1") -> bool:
    """Comes from `source`, and stays until the server has had its say. Was a PING answered?"""
    plain = socket.create_connection(made.address, timeout=10, source_address=(source, 0))
    with suppress(OSError), closing(plain):
        wrapped = made.context.wrap_socket(plain, server_hostname="localhost")
        with closing(wrapped):
            wrapped.sendall(b"PING\r\n")
            return wrapped.recv(1) == b"+"
    return False


def sources() -> Iterator[str]:
    """Addresses of loopback, another one each time: one client is told of once a minute."""
    return (f"127.1.{n // 250}.{n % 250 + 1}" for n in count())


def without(node: Node, version: str | None = None) -> TlsPeer:
    return node.server.tls(None, version)
