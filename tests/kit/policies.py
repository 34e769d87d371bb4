"""What the tests of the module on real servers share: a node with a policy, the one table of
certificates and what becomes of them, and TLS handshakes taken step by step."""

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import redis
from cryptography import x509

from tests.kit.certs import authority_line
from tests.kit.servers import Server
from tests.kit.support import (
    MODULE,
    SERVER,
    Cert,
    Name,
    Pki,
    RedisServer,
    TlsConnection,
    TlsPeer,
    root,
    wait_until,
)

Start = Callable[..., RedisServer]

# An ACL user of the operator's own: `default` may be off.
OPERATOR = "operator"
# What the module's user without rights is called.
NOBODY = "certauth\trefused"
# How a connection that the server closes looks to its client, now or at the next read. Not a
# timeout, which is a connection that nobody closed.
CLOSED = (ConnectionError, ssl.SSLError)


@dataclass(frozen=True)
class Outcome:
    """What became of a connection, and why; `user` is the ACL user that it holds, None where it was
    closed. The action "handshake" is the server's own TLS saying no, before the module is asked."""

    action: str
    reason: str
    user: str | None = None


LOGIN = Outcome("login", "matched", "alice")
CHOOSE = Outcome("choose", "matched", NOBODY)
HANDSHAKE = Outcome("handshake", "-")


def refuse(reason: str) -> Outcome:
    return Outcome("refuse", reason)


def leave(reason: str) -> Outcome:
    return Outcome("leave", reason, "default")


# ---- A node --------------------------------------------------------------------------------------


def pairs(reply: Any) -> dict[str, Any]:
    """A RESP2 map: names and values in turn."""
    if isinstance(reply, dict):
        return reply
    texts = [one.decode() if isinstance(one, bytes) else one for one in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def closed(connection: TlsConnection) -> bool:
    """Has the server closed it? Waits for that as long as the socket's timeout."""
    try:
        connection.read()
    except CLOSED:
        return True
    return False


def whoami(connection: TlsConnection) -> dict[str, Any]:
    reply = pairs(connection.command("CERTAUTH.WHOAMI"))
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in reply.items()}


class Node:
    """A server with the module, and the operator's connection to it over the unix socket."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.generation = 0

    @property
    def admin(self) -> redis.Redis:
        """A new connection after each start of the server."""
        for client in self.server.clients:
            if client.connection_pool.connection_kwargs.get("username") == OPERATOR:
                return client
        return self.server.admin(username=OPERATOR, password=OPERATOR)

    # -- policy

    def load(self, lines: Iterable[str], *options: str) -> dict[str, Any]:
        """Makes these lines the policy."""
        reply = self.write("LOAD", self.generation + 1, *options, "LINES", *lines)
        self.generation += 1
        return reply

    def patch(self, *changes: str) -> dict[str, Any]:
        """Adds `+line`s and takes `-line`s away."""
        reply = self.write("PATCH", self.generation, self.generation + 1, "LINES", *changes)
        self.generation += 1
        return reply

    def write(self, *words: str | int) -> dict[str, Any]:
        return pairs(self.call("CERTAUTH.POLICY", *words))

    def call(self, *words: str | int | bytes) -> Any:
        """A command of the operator's, its reply as the server gives it."""
        execute: Any = self.admin.execute_command
        return execute(*words)

    def explain(self, pem: bytes, *address: str) -> dict[str, Any]:
        return pairs(self.call("CERTAUTH.EXPLAIN", pem, *address))

    # -- what shows

    def counters(self) -> dict[str, int]:
        """The numbers of INFO certauth, without their prefix."""
        found = self.admin.info("certauth")
        prefix = "certauth_"
        return {k.removeprefix(prefix): v for k, v in found.items() if isinstance(v, int)}

    @contextmanager
    def counting(self) -> Iterator[dict[str, int]]:
        """Fills in, at its end, which counters of outcomes have moved, and by how much."""
        before, moved = self.counters(), dict[str, int]()
        yield moved
        after = self.counters()
        for name in ("logins", "refused", *(name for name in after if name.startswith("refused_"))):
            if after[name] != before[name]:
                moved[name] = after[name] - before[name]

    def acl_log(self) -> dict[str, Any]:
        """The newest entry of ACL LOG; empty without one."""
        entries = self.call("ACL", "LOG", 1)
        return pairs(entries[0]) if entries else {}

    # -- connections

    def connect(self, cert: Cert | None = None, version: str | None = None) -> TlsConnection:
        return self.server.tls(cert, version).connect()

    def outcome(
        self,
        cert: Cert | None = None,
        peer: TlsPeer | None = None,
        session: ssl.SSLSession | None = None,
        held: ExitStack | None = None,
    ) -> Outcome:
        """Connects and says what became of it. Asserts that the counters and ACL LOG tell the same,
        and that `session`, if given, was resumed. Disconnects unless `held` is to do so."""
        self.admin.acl_log_reset()
        with self.counting() as moved:
            who = self._who(peer or self.server.tls(cert), session, held)
        if who is None:
            return self._refused(moved)
        # Anyone who is not refused is in no counter of refusals.
        login = who["reason"] == "matched" and who["user"] != NOBODY
        assert moved == ({"logins": 1} if login else {})
        assert not self.acl_log()
        action = "login" if login else "choose" if who["user"] == NOBODY else "leave"
        return Outcome(action, who["reason"], who["user"])

    @staticmethod
    def _who(
        peer: TlsPeer, session: ssl.SSLSession | None, held: ExitStack | None
    ) -> dict[str, Any] | None:
        with suppress(*CLOSED), ExitStack() as own:
            connection = (held or own).enter_context(peer.connect(session))
            assert connection.resumed == (session is not None)
            return whoami(connection)
        return None

    def _refused(self, moved: Mapping[str, int]) -> Outcome:
        if not moved:
            assert not self.acl_log()
            return HANDSHAKE
        reasons = [name.removeprefix("refused_") for name in moved if name.startswith("refused_")]
        assert moved == {"refused": 1, **{f"refused_{reason}": 1 for reason in reasons}}
        entry = self.acl_log()
        assert (entry["reason"], entry["context"]) == ("auth", "module")
        assert [entry["object"]] == reasons
        return refuse(reasons[0])


def make_node(start: Start, kind: Server, *lines: str, **options: Any) -> Node:
    """A running server with the module, in force these lines; without any, no policy at all. The
    options are those of RedisServer."""
    config = [f"user {OPERATOR} on >{OPERATOR} ~* &* +@all", *options.pop("config", ())]
    module = ["journal", "certauth", *options.pop("module", ())]
    node = Node(start(kind, module=module, config=config, **options))
    if lines:
        node.load(lines)
    return node


def policy_of(pki: Pki, *lines: str) -> list[str]:
    """An enforced policy that trusts the usual CA, in which alice is alice and bob is nobody."""
    return [
        "set enforce on", authority_line(pki.ca), 'bind subject "CN=alice,OU=eng,O=acme" alice',
        "user alice on ~* &* +@all", *lines,
    ]  # fmt: skip


BIND_ALICE = 'bind subject "CN=alice,OU=eng,O=acme" alice'
BIND_BOB = 'bind subject "CN=bob,OU=eng,O=acme" bob'
USER_BOB = "user bob on ~* &* +@all"


def client_id(connection: TlsConnection) -> int:
    """Asserts that it lives, by answering."""
    answer = connection.command("CLIENT", "ID")
    assert isinstance(answer, int)
    return answer


def gone(node: Node, name: str, value: int = 0) -> None:
    """Waits until a number of INFO certauth is what it should be."""
    wait_until(lambda: node.counters()[name] == value, f"{name} is {value}")


# ---- The table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One certificate and what becomes of its connection from 127.0.0.1. `unlisted`: it is under an
    intermediate that the policy does not hold, so that only the handshake shows its path."""

    name: str
    cert: Cert
    expected: Outcome
    unlisted: bool = False


@dataclass
class Table:
    """One policy, and for every reason that a connection can show the certificates for it."""

    pki: Pki = field(default_factory=Pki)
    trust: list[Cert] = field(default_factory=list)  # of the handshake, not of the policy
    lines: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)

    def add(
        self, name: str, cert: Cert, expected: Outcome, *lines: str, unlisted: bool = False
    ) -> None:
        self.cases.append(Case(name, cert, expected, unlisted))
        self.lines += lines


def _names(table: Table) -> None:
    ca = table.pki.ca
    subject = "OU=eng,O=acme"
    table.add("subject", ca.issue(f"CN=s,{subject}"), LOGIN, f'bind subject "CN=s,{subject}" alice')
    turned = ca.issue("O=acme,OU=eng,CN=s")
    table.add("subject the other way round", turned, refuse("no_binding"))
    table.add("more than the subject", ca.issue(f"CN=s,OU=x,{subject}"), refuse("no_binding"))
    table.add("another case", ca.issue(f"CN=S,{subject}"), refuse("no_binding"), "allow CN=S")
    wide: Name = [[("O", "acme", "PrintableString")], [("OU", "eng")], [("CN", "s", "BMPString")]]
    table.add("other string types", ca.issue(wide), LOGIN)
    for kind, value in (
        ("uri", "spiffe://acme/s"), ("dns", "s.acme"), ("email", "s@acme"), ("ip", "10.1.2.3"),
        ("upn", "s@corp.acme"),
    ):  # fmt: skip
        cert = ca.issue("CN=s", san=[f"{kind}:{value}"])
        table.add(kind, cert, LOGIN, f"bind {kind} {value} alice")
    by_cert, by_key = ca.issue("CN=s"), ca.issue("CN=s")
    table.add("cert", by_cert, LOGIN, f"bind cert {by_cert.fingerprint} alice")
    table.add("key", by_key, LOGIN, f"bind key {by_key.key_id} alice")
    table.add("unmapped", ca.issue("CN=s,O=other"), refuse("no_binding"), "allow CN=s")


def _odd(table: Table) -> None:
    ca = table.pki.ca
    table.lines += ["bind cn alice alice", "allow CN=alice"]
    table.add("cn", ca.issue("CN=alice"), LOGIN)
    table.add("NUL in the CN", ca.issue([[("CN", "alice\0.evil")]]), refuse("bad_string"))
    table.add("control character", ca.issue([[("CN", "alice\n")]]), refuse("bad_string"))
    for title, names in {"first": ("alice", "mallory"), "last": ("mallory", "alice")}.items():
        rdns: Name = [[("CN", name)] for name in names]
        table.add(f"two CNs, alice {title}", ca.issue(rdns), refuse("ambiguous"))
    both = ["uri:spiffe://acme/s", "uri:spiffe://acme/t"]
    table.add("two URIs", ca.issue("CN=s", san=both), refuse("ambiguous"))
    many = [f"dns:{n}.{'x' * 50}.acme" for n in range(400)]
    table.add("too many names", ca.issue("CN=alice", san=many), refuse("too_large"))
    table.add("a CA's certificate", ca.authority("CN=alice"), refuse("key_usage"))
    table.add("a server's certificate", ca.issue("CN=alice", eku=(SERVER,)), HANDSHAKE)
    quoted = ca.issue([[("CN", "x on nopass +@all ~*")]])
    table.add("ACL rules for a name", quoted, refuse("gate"))


def _paths(table: Table) -> None:
    ca, stranger, top = table.pki.ca, root("CN=Stranger"), root("CN=Top")
    twin = root(ca.certificate.subject.rfc4514_string())
    between, below = ca.authority("CN=Between"), top.authority("CN=Below")
    alone = root("CN=alice")
    table.trust += [stranger, top, twin, alone]
    table.lines += [authority_line(below), authority_line(top, "anchor")]
    table.add("another CA", stranger.issue("CN=alice"), refuse("untrusted_issuer"))
    # OpenSSL tries the first root of this name and no other, unless the leaf says which one.
    name, serial = x509.DirectoryName(twin.certificate.subject), twin.certificate.serial_number
    which = x509.AuthorityKeyIdentifier(None, [name], serial)
    twins = twin.issue("CN=alice", extensions=[(which, False)])
    table.add("a CA of the same name", twins, refuse("untrusted_issuer"))
    table.add("signed by itself", alone, refuse("untrusted_issuer"))
    table.add("under an intermediate", between.issue("CN=alice"), LOGIN, unlisted=True)
    deep = between.authority("CN=Deep").issue("CN=alice")
    table.add("under two intermediates", deep, LOGIN, unlisted=True)
    table.add("under a trusted intermediate", below.issue("CN=alice"), LOGIN)
    table.add("under its anchor alone", top.issue("CN=alice"), refuse("untrusted_issuer"))
    here = f"bind dns here alice ca={ca.key_id}"
    table.add("of the CA asked for", ca.issue("CN=s", san=["dns:here"]), LOGIN, here)
    there = f"bind dns there alice ca={below.key_id}"
    other = ca.issue("CN=s", san=["dns:there"])
    table.add("of another CA than asked for", other, refuse("no_binding"), there)


def _revoked(table: Table) -> None:
    ca = table.pki.ca
    serial, cert, key = (ca.issue("CN=alice", serial=4000 + n) for n in range(3))
    for kind, leaf, name in (
        ("serial", serial, f"{ca.key_id} {serial.serial}"), ("cert", cert, cert.fingerprint),
        ("key", key, key.key_id),
    ):  # fmt: skip
        table.add(f"revoked {kind}", leaf, refuse("revoked"), f"revoke {kind} {name}")
    again = ca.issue("CN=alice", key=key.key)
    table.add("a new certificate of a revoked key", again, refuse("revoked"))
    other = ca.authority("CN=Sibling").issue("CN=alice", serial=4000)
    table.add("the serial of a revoked one, another CA", other, LOGIN, unlisted=True)
    for kind in ("serial", "cert", "key"):
        dead = ca.authority(f"CN=Dead {kind}")
        names = {"serial": f"{ca.key_id} {dead.serial}", "cert": dead.fingerprint}
        line = f"revoke {kind} {names.get(kind, dead.key_id)}"
        table.add(
            f"under an intermediate revoked by {kind}", dead.issue("CN=alice"),
            refuse("ca_revoked"), line, unlisted=True,
        )  # fmt: skip


def _users(table: Table) -> None:
    ca = table.pki.ca
    table.lines += ["user alice on ~* &* +@all", "user bob on ~* &* +@all", "user sleeper off"]

    def named(*sans: str) -> Cert:
        return ca.issue("CN=s", san=sans)

    table.add("outside the gate", ca.issue("CN=g", san=["dns:x"]), refuse("gate"))
    table.lines += ["bind dns one alice", "bind email two@x bob", "bind email three@x alice"]
    table.add("lines that disagree", named("dns:one", "email:two@x"), refuse("conflict"))
    table.add("lines that agree", named("dns:one", "email:three@x"), LOGIN)
    near, far = "bind dns near alice from=127.0.0.0/8", "bind dns far alice from=10.0.0.0/8,::1"
    table.add("address", named("dns:near"), LOGIN, near)
    table.add("another address", named("dns:far"), refuse("address"), far)
    table.add("user off", named("dns:off"), refuse("user_off"), "bind dns off sleeper")
    table.add("several users", named("dns:many"), CHOOSE, "bind dns many alice bob")


@cache
def table() -> Table:
    made = Table()
    made.trust.append(made.pki.ca)
    made.lines += ["set enforce on", "set gate san_cn", authority_line(made.pki.ca)]
    for part in (_names, _odd, _paths, _revoked, _users):
        part(made)
    return made


def table_node(start: Start, kind: Server, **options: Any) -> Node:
    """A node under the policy of the table."""
    one = table()
    return make_node(start, kind, *one.lines, pki=one.pki, trust=one.trust, **options)


# ---- Handshakes step by step ---------------------------------------------------------------------


class Handshake:
    """A connection whose handshake a test holds half-way, or ends in the very packet that brings
    the first commands. `source` and `host`: other addresses than the peer's."""

    def __init__(
        self,
        peer: TlsPeer,
        session: ssl.SSLSession | None = None,
        source: tuple[str, int] | None = None,
        host: str | None = None,
    ) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = peer.context.wrap_bio(
            self.incoming, self.outgoing, server_hostname="localhost", session=session
        )
        host = host or peer.address[0]
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.settimeout(10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            # Two connections may come from one port if they go to different addresses.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(source)
        self.socket.connect((host, peer.address[1]))

    def begin(self) -> None:
        """Sends the client's first message."""
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        self.flush()

    def answer(self) -> None:
        """Goes on until the client's last message is ready, which it holds back."""
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.flush()
                if not self.fill():
                    raise ConnectionError("closed within the handshake") from None

    def finish(self, commands: bytes = b"") -> None:
        """Goes on to the end; `commands` leave together with the last message."""
        self.answer()
        if commands:
            self.tls.write(commands)
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.outgoing.read())

    def fill(self) -> bool:
        """Takes what the server has sent. False at the end."""
        data = self.socket.recv(65536)
        self.incoming.write(data)
        return bool(data)

    def receive(self) -> bytes:
        """All that the server says until it closes."""
        said = b""
        with suppress(*CLOSED):
            while True:
                try:
                    chunk = self.tls.read(65536)
                    if not chunk:
                        break
                    said += chunk
                except ssl.SSLWantReadError:
                    if not self.fill():
                        break
        return said

    def close(self) -> None:
        self.socket.close()


def asks(kind: Server) -> bool:
    """Does the server ask modules before it looks at a password? (Redis 7.2; Valkey always.)"""
    return kind.name == "valkey" or kind.release >= (7, 2)


WORKER = "user worker on >secret ~* &* +@all"  # the operator's own, with a password


def bare(start: Start, kind: Server, pki: Pki, *lines: str, **options: Any) -> Node:
    """A server without the module, with the journal of a policy of these lines in its folder:
    `load` loads it."""
    config = ["enable-module-command local", WORKER, *options.pop("config", ())]
    node = make_node(start, kind, *policy_of(pki, *lines), config=config, plain=True, **options)
    node.server.stop()
    node.server.module = None
    node.server.start()
    return node


def load(node: Node, path: Path = MODULE, *more: str) -> None:
    assert node.call("MODULE", "LOAD", str(path), "journal", "certauth", *more) in ("OK", True)
