"""One connection to one node: Redis, Valkey or a Sentinel, over mutual TLS. Only this file speaks
to servers."""

import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from control.http.verify import verifying
from control.nodes import topology
from control.nodes.topology import NodeInfo, Status
from control.pki.keys import derive_secret
from control.policy import core
from control.records import Target
from control.reports import Node as Seen

RECONNECT_SECONDS = 60.0  # between two connections to a node, made as a client makes them
COMMAND_SECONDS = 30.0  # at most for one command, of a node that answers a byte at a time
CALL_LINES = 1000  # policy lines in one command: some 2 ms of the node's time
CALL_BYTES = 1 << 20  # bytes of them
CONTROL_USER = "certauth-control"  # our user on a node, and on a Sentinel
UNREACHABLE = "UNREACHABLE"  # the code of a node that cannot be reached
SLOW = "SLOW"  # the code of a node that takes long to write a policy down
MODULE = "MODULE"  # the code of a server without the module


class NodeError(Exception):
    """A node that cannot be reached (`code` is UNREACHABLE), or what it answers: `code` is the
    first word of its error, such as LINES, OWNED, BASE or BUSY."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Identity:
    """What we show to nodes: paths of a PEM certificate and its key."""

    certificate: Path
    key: Path

    def password(self) -> str:
        """Of our user on Sentinels, which know no certificates."""
        return derive_secret(self.key.read_text(), CONTROL_USER)


@dataclass(frozen=True)
class Access:
    """How a node is reached: its address, PEM of the CAs that its certificate may come from, and
    the name that it must show (by default the host)."""

    host: str
    port: int
    authorities: str
    server_name: str = ""


class _NamedConnection(redis.SSLConnection):
    """Connects to one address and expects another name in the certificate."""

    def __init__(self, access: Access, identity: Identity, **options: Any) -> None:
        super().__init__(host=access.host, port=access.port, **options)
        self._access, self._identity = access, identity
        # No CLIENT SETINFO: it is not ours to run, and the node would log each try.
        self.lib_name = self.lib_version = self.driver_info = None

    def _connect(self) -> Any:
        """Reads its files first: a node without room ends those that keep it waiting."""
        # Not redis-py's own context, which verifies as the interpreter would.
        self._context = verifying(cadata=self._access.authorities)
        self._context.load_cert_chain(self._identity.certificate, self._identity.key)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        return super()._connect()  # type: ignore[no-untyped-call]

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        name = self._access.server_name or self.host
        return self._context.wrap_socket(sock, server_hostname=name)


class Node:
    """One connection to a node, opened at the first call, and replaced each minute. Calls raise
    NodeError. `shut` is why the last new connection failed, where the old one goes on."""

    def __init__(self, access: Access, identity: Identity, timeout: float = 5) -> None:
        self._access, self._identity, self._timeout = access, identity, timeout
        self._calls: dict[int, float] = {}  # those under way: thread → when it began
        self._sentinel = False
        self.shut = ""
        # The user that a Sentinel gives a client which has not logged in, if that user may
        # administrate it; None: not tried yet.
        self.admits: str | None = None
        self._came = time.monotonic()
        self._key_told = ""  # the key that it last reported to show
        self._next: Node | None = None  # while it is opened
        self._connect(named=False)

    def _connect(self, named: bool) -> None:
        """`named`: it is a Sentinel that asks for a password."""
        access, identity, timeout = self._access, self._identity, self._timeout
        self._named = named
        pool = redis.ConnectionPool(
            connection_class=_NamedConnection,
            access=access,
            identity=identity,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            decode_responses=True,
            username=CONTROL_USER if named else None,
            password=identity.password() if named else None,
            # A retry of its own would hide a refusal, and count it several times on the node.
            retry=Retry(NoBackoff(), 0),
        )
        self._client: Any = redis.Redis.from_pool(pool)
        self._client.response_callbacks.clear()  # replies as the node sends them
        self._pool = pool

    def close(self) -> None:
        """Closes the connection; another call opens it again."""
        self._client.close()

    def come_again(self, told: str | None = None) -> None:
        """Connects again as a client would, where that is due, or where the node reports (`told`)
        another key than it showed us. An old connection does not show that ports, addresses,
        certificates or trust have changed since."""
        now = time.monotonic()
        tried = self.admits is not None or not self._sentinel
        other = told and told not in (self._key_told, self.key())
        self._key_told = told or self._key_told
        if tried and not self.shut and not other and now < self._came + RECONNECT_SECONDS:
            return
        new = self._next = Node(self._access, self._identity, self._timeout)
        try:
            if self._sentinel:
                self.admits = new.admitted()
            new.info("server")
        except NodeError as error:
            self.shut = error.text
            new.close()
            return
        finally:
            self._next = None
        old, self._client, self._pool = self._pool, new._client, new._pool
        self._named = new._named
        self._came, self.shut = now, ""
        old.disconnect(inuse_connections=False)  # another thread may ask something

    def cut_overdue(self, now: float) -> None:
        """Ends the connections where a command takes longer than any may: the timeout of a socket
        starts again with each byte. Called by another thread than the thread that waits."""
        if new := self._next:
            new.cut_overdue(now)
        if any(now > began + COMMAND_SECONDS for began in list(self._calls.values())):
            for connection in list(self._pool._in_use_connections):
                with suppress(OSError, TypeError):  # None: not connected
                    # Not SSLSocket's own, which is not for two threads.
                    socket.socket.shutdown(connection._sock, socket.SHUT_RDWR)

    def command(self, *words: str | int) -> Any:
        """One command's reply, maps as dicts."""
        self._calls[threading.get_ident()] = time.monotonic()
        try:
            return self._client.execute_command(*words)
        except redis.ResponseError as error:
            code, _, rest = str(error).partition(" ")
            known = code.isupper() and code != "ERR"
            raise NodeError(code if known else "ERR", rest if known else str(error)) from error
        except redis.AuthenticationError as error:
            raise NodeError("NOAUTH", STRANGE) from error
        # ValueError: not a host name, such as a..b, or a reply that is not UTF-8.
        except (redis.RedisError, ValueError) as error:
            raise NodeError(UNREACHABLE, str(error)) from error
        finally:
            del self._calls[threading.get_ident()]

    def status(self) -> Status:
        """Raises NodeError, MODULE from a server that runs without certauth."""
        try:
            found = topology.mapping(self.command("CERTAUTH.POLICY", "STATUS"))
        except NodeError as error:
            if error.text.startswith("unknown command"):
                raise NodeError(MODULE, WITHOUT) from error
            raise
        known = Status.__dataclass_fields__
        return Status(**{name: found[name] for name in known if name in found})

    def info(self, *sections: str) -> str:
        """INFO; on a Sentinel that asks for a password, as its user for us."""
        for last in (False, True):
            try:
                return str(self.command("INFO", *sections))
            except NodeError as error:
                if last or error.code != "NOAUTH":
                    raise
            self._client.close()
            self._connect(not self._named)
        raise AssertionError

    def admitted(self) -> str:
        """The user that a Sentinel gives us before we log in, if that user may administrate it, as
        then may anybody whose certificate its handshake trusts; "" if not."""
        try:
            user = str(self.command("ACL", "WHOAMI"))
            tried = self.command("ACL", "DRYRUN", user, "SENTINEL", "REMOVE", "x")
        except NodeError as error:
            if error.code == UNREACHABLE:
                raise
            return ""
        return user if tried == "OK" else ""

    def read_info(self, wide: bool, master: str = "") -> NodeInfo:
        """What it reports of itself and of others; `wide`: of the whole cluster too. A Sentinel
        reports of `master`."""
        found = topology.node_info(topology.fields(self.info(*topology.SECTIONS)))
        self._sentinel = found.role == "sentinel"
        if self._sentinel:
            return self._watched(found, master)
        if found.in_cluster and wide:
            told = self.command("CLUSTER", "SHARDS")
            others, failed = topology.shards(told), topology.shards(told, failed=True)
            return replace(found, names=found.names | others, failed=failed)
        return found

    def _watched(self, seen: NodeInfo, master: str) -> NodeInfo:
        masters = self.command("SENTINEL", "MASTERS")
        try:
            name = topology.watched(masters, master)
        except ValueError as error:
            raise NodeError("SENTINEL", str(error)) from error
        one = [found for found in masters if topology.mapping(found)["name"] == name]
        others = [self.command("SENTINEL", what, name) for what in ("REPLICAS", "SENTINELS")]
        (its,) = topology.listed(one) or ("",)
        return replace(seen, names=topology.listed(one, *others), master=its)

    def key(self) -> str:
        """SHA-256 of the key of the certificate that it shows, in hex."""
        return core.identity(self._certificate()).key

    def with_certificate(self, seen: Seen) -> Seen:
        """With the certificate that it shows."""
        der = self._certificate()
        pem = ssl.DER_cert_to_PEM_cert(der)
        return replace(seen, key=core.identity(der).key, certificate=pem)

    def _certificate(self) -> bytes:
        found: bytes = self._socket(lambda one: one.getpeercert(binary_form=True))
        return found

    def own_address(self) -> str:
        """The IP address from which we connect, unless something on the way changes it; "" where
        the connection is gone."""
        try:
            address = self._socket(lambda one: one.getsockname())[0]
        except (redis.RedisError, OSError):
            return ""
        found = ip_address(address.partition("%")[0])
        return str(getattr(found, "ipv4_mapped", None) or found)

    def _socket(self, question: Callable[[Any], Any]) -> Any:
        pool = self._pool
        connection: Any = pool.get_connection()
        try:
            return question(connection._sock)
        finally:
            pool.release(connection)

    def show(self) -> tuple[str, ...]:
        """The lines in force, canonical, sorted. Read again from the start where the policy changes
        meanwhile; NodeError where it does each time."""
        for last in (False, False, True):
            try:
                return tuple(sorted(self._pages()))
            except NodeError as error:
                if last or error.code != "CURSOR":
                    raise
        raise AssertionError

    def _pages(self) -> Iterator[str]:
        cursor = None
        while cursor != "0":
            cursor, lines = self.command(
                "CERTAUTH.POLICY", "SHOW", "COUNT", CALL_LINES, "CURSOR", cursor or "0"
            )
            yield from lines

    def load(
        self, target: Target, lines: Iterable[str], owner: str, epoch: int, force: bool = False
    ) -> Any:
        """Makes `lines` the whole policy; returns the reply when it is on the node's disk and in
        force."""
        stamp = _stamp(target, owner, epoch) + ["FORCE"] * force
        return self._write(["LOAD", target.generation, *stamp], list(lines))

    def patch(
        self, base: int, target: Target, changes: Iterable[str], owner: str, epoch: int
    ) -> None:
        """Adds and takes away `+line`s and `-line`s; as `load`."""
        stamp = _stamp(target, owner, epoch)
        self._write(["PATCH", base, target.generation, *stamp], list(changes))

    def _write(self, words: Sequence[str | int], lines: Sequence[str]) -> Any:
        """In one call, or staged, so that no call holds the node for long. Raises NodeError, SLOW
        from a node that answers others meanwhile: it waits for its disk."""
        try:
            return self._send(words, lines)
        except NodeError as error:
            if isinstance(error.__cause__, redis.TimeoutError) and self._answers():
                raise NodeError(SLOW, WRITING) from error
            raise

    def _answers(self) -> bool:
        other = Node(self._access, self._identity, self._timeout)
        try:
            return bool(other.info("server"))
        except NodeError:
            return False
        finally:
            other.close()

    def _send(self, words: Sequence[str | int], lines: Sequence[str]) -> Any:
        parts = tuple(_parts(lines))
        if len(parts) == 1:
            return self.command("CERTAUTH.POLICY", *words, "LINES", *lines)
        name = secrets.token_hex(16)
        for part in parts:
            self.command("CERTAUTH.POLICY", "STAGE", name, "OF", len(lines), "LINES", *part)
        return self.command("CERTAUTH.POLICY", "COMMIT", name, len(lines), *words)


def _parts(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    """The lines, as many in each part as one call takes; at least one part."""
    start = size = 0
    for at, line in enumerate(lines):
        length = len(line.encode())
        if at > start and (at - start == CALL_LINES or size + length > CALL_BYTES):
            yield lines[start:at]
            start, size = at, 0
        size += length
    yield lines[start:]


WRITING = (
    "this server answers, but has not confirmed the change yet: it waits for its journal's disk"
)


WITHOUT = (
    "this server runs without certauth: it serves the data that it replicates to anybody whom its "
    "own ACLs admit; load the module, or take it out of the topology"
)


STRANGE = (
    "this server does not know the control plane: it runs without certauth, or without the control "
    "plane's bootstrap file; or it is a Sentinel that redis-certauth sentinel enrol has to see"
)


def _stamp(target: Target, owner: str, epoch: int) -> list[str]:
    return ["OWNER", owner, "EPOCH", str(epoch), "DIGEST", target.digest]
