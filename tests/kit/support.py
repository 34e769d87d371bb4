"""What the tests share: certificates of every kind, servers that stop by themselves, clients."""

import ipaddress
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.kit.servers import Server

ROOT = Path(__file__).resolve().parents[2]
# CERTAUTH_BUILD: another build than the usual one, see `make test-sanitize`.
MODULE = ROOT / os.environ.get("CERTAUTH_BUILD", "") / "module" / "certauth.so"
SANITIZERS = ("ERROR: AddressSanitizer", ": runtime error: ")


def wait_until(predicate: Callable[[], Any], what: str, deadline: float = 10) -> Any:
    """Returns what `predicate` returns once that is true. After `deadline` seconds the test fails
    with `what`, the condition in words."""
    end = time.monotonic() + deadline
    while True:
        if value := predicate():
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.01)


# ---- Certificates --------------------------------------------------------------------------------

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Attribute = tuple[str | x509.ObjectIdentifier, str] | tuple[str | x509.ObjectIdentifier, str, str]
# A name: RFC 4514 text, most specific RDN first; or its RDNs in the order of the certificate, each
# a list of (type, value[, string type such as "BMPString"]), nothing checked; or its DER.
Name = str | Sequence[Sequence[Attribute]] | bytes

NAME_TYPES = {
    "CN": NameOID.COMMON_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "C": NameOID.COUNTRY_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "UID": NameOID.USER_ID,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}
UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


def der(tag: int, *content: bytes) -> bytes:
    """One DER element."""
    body = b"".join(content)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + body


def der_elements(content: bytes) -> Iterator[bytes]:
    """The elements that stand one after the other in `content`."""
    while content:
        head, length = 2, content[1]
        if length & 0x80:
            head = 2 + (length & 0x7F)
            length = int.from_bytes(content[2:head])
        yield content[: head + length]
        content = content[head + length :]


def der_content(element: bytes) -> bytes:
    return element[2 + (element[1] & 0x7F if element[1] & 0x80 else 0) :]


def _attribute(kind: str | x509.ObjectIdentifier, value: str, text: str = "UTF8String") -> Any:
    oid = NAME_TYPES[kind] if isinstance(kind, str) else kind
    return x509.NameAttribute(oid, value, _type=_ASN1Type[text], _validate=False)


def name_of(name: Name) -> x509.Name:
    if isinstance(name, str):
        return x509.Name.from_rfc4514_string(name)
    if isinstance(name, bytes):
        return x509.Name([])  # the DER is put in its place when the certificate is signed
    return x509.Name(
        [x509.RelativeDistinguishedName([_attribute(*one) for one in rdn]) for rdn in name]
    )


def san_of(text: str) -> x509.GeneralName:
    """`dns:`, `uri:`, `email:`, `ip:`, `upn:` or `dn:` and a value, unchecked where it can be."""
    kind, value = text.split(":", 1)
    match kind:
        case "dns":
            return x509.DNSName._init_without_validation(value)
        case "uri":
            return x509.UniformResourceIdentifier._init_without_validation(value)
        case "email":
            return x509.RFC822Name._init_without_validation(value)
        case "ip":
            return x509.IPAddress(ipaddress.ip_address(value))
        case "upn":
            return x509.OtherName(UPN, der(0x0C, value.encode()))
        case "dn":
            return x509.DirectoryName(name_of(value))
    raise ValueError(f"no kind of SAN: {kind}")


def days(count: float) -> datetime:
    """So many days from now (negative: ago)."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=count)


@dataclass(frozen=True)
class Cert:
    """A certificate with its key and the certificates above it, its issuer first."""

    certificate: x509.Certificate
    key: Key
    above: tuple["Cert", ...] = ()

    @cached_property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @cached_property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @cached_property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @cached_property
    def key_id(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, in hex: how policy lines name a CA or a key."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(self.spki)
        return digest.finalize().hex()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def serial(self) -> str:
        """In hex, as policy lines have it: whole bytes without leading zero bytes."""
        number = self.certificate.serial_number
        return number.to_bytes((number.bit_length() + 7) // 8 or 1).hex()

    @property
    def presented(self) -> bytes:
        """PEM of what a client sends: the leaf and the intermediates above it, without the root."""
        return b"".join(cert.pem for cert in (self, *self.above) if not cert.self_signed)

    @property
    def self_signed(self) -> bool:
        return self.certificate.issuer == self.certificate.subject

    @cached_property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @cached_property
    def files(self) -> tuple[str, str]:
        """Paths of certificate (with its intermediates) and key, in a folder that the session
        removes."""
        place = Path(tempfile.mkdtemp(dir=scratch()))
        (place / "crt").write_bytes(self.presented or self.pem)
        (place / "key").touch(0o600)
        (place / "key").write_bytes(self.key_pem)
        return str(place / "crt"), str(place / "key")

    # The defaults make an ordinary client's leaf.
    def issue(
        self,
        subject: Name = "CN=alice,OU=eng,O=acme",
        *,
        san: Iterable[str | x509.GeneralName] = (),
        eku: Sequence[x509.ObjectIdentifier] | None = (CLIENT,),
        ca: bool = False,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        serial: int | None = None,
        key: Key | None = None,
        extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
        fields: dict[int, bytes] | None = None,
    ) -> "Cert":
        """A certificate that this one signs, no matter whether it may. `eku=None` leaves the
        extension out. `extensions` are added to, or replace, the usual ones; (type, critical).
        `fields` puts raw DER in place of elements of the TBSCertificate, see `tampered`."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        made = _sign(
            self.certificate, self.key, subject, key, _extensions(ca, eku, san, extensions),
            not_before, not_after, serial,
        )  # fmt: skip
        if isinstance(subject, bytes):
            fields = {5: subject, **(fields or {})}
        if fields:
            made = tampered(made, self.key, fields)
        return Cert(made, key, (self, *self.above))

    def authority(self, subject: Name = "CN=Intermediate CA", **options: Any) -> "Cert":
        """An intermediate under this CA: the options of `issue`."""
        return self.issue(subject, eku=None, ca=True, **options)


def _extensions(
    ca: bool,
    eku: Sequence[x509.ObjectIdentifier] | None,
    san: Iterable[str | x509.GeneralName],
    more: Iterable[tuple[x509.ExtensionType, bool]],
) -> list[tuple[x509.ExtensionType, bool]]:
    names = [san_of(name) if isinstance(name, str) else name for name in san]
    usual: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(ca, None), True)]
    if eku is not None:
        usual.append((x509.ExtendedKeyUsage(eku), False))
    if names:
        usual.append((x509.SubjectAlternativeName(names), False))
    more = list(more)
    replaced = {extension.oid for extension, _ in more}
    return [(one, critical) for one, critical in usual if one.oid not in replaced] + more


def _sign(
    issuer: x509.Certificate | None,
    signer: Key,
    subject: Name,
    key: Key,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    serial: int | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_of(subject))
        .issuer_name(issuer.subject if issuer else name_of(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(not_before or days(-1))
        .not_valid_after(not_after or days(30))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    # Those of later algorithms have a hash of their own.
    return builder.sign(signer, hashes.SHA256() if isinstance(signer, Key) else None)


def tampered(made: x509.Certificate, signer: Key, fields: dict[int, bytes]) -> x509.Certificate:
    """The certificate with raw DER in place of elements of its TBSCertificate, signed again.
    Counted from 0: version, serial, algorithm, issuer, validity, subject, key, extensions."""
    elements = list(der_elements(der_content(made.tbs_certificate_bytes)))
    for index, raw in fields.items():
        elements[index] = raw
    return x509.load_der_x509_certificate(signed_tbs(elements, signer))


def signed_tbs(elements: Sequence[bytes], signer: Key) -> bytes:
    """DER of a certificate out of its TBSCertificate's elements; nothing checked. The signer has an
    EC key."""
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    tbs = der(0x30, *elements)
    signature = signer.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return der(0x30, tbs, elements[2], der(0x03, b"\0", signature))


def root(subject: Name = "CN=Root CA,O=acme", key: Key | None = None, **options: Any) -> Cert:
    """A self-signed CA. Options: not_before, not_after, serial."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    return Cert(_sign(None, key, subject, key, _extensions(True, None, (), ()), **options), key)


@dataclass
class Pki:
    """The usual cast: one client CA, one CA of servers, a server certificate."""

    ca: Cert = field(default_factory=root)
    server_ca: Cert = field(default_factory=lambda: root("CN=Server CA"))

    @cached_property
    def server(self) -> Cert:
        names = ("dns:localhost", "ip:127.0.0.1", "ip:::1")
        return self.server_ca.issue("CN=localhost", san=names, eku=(SERVER, CLIENT))

    @cached_property
    def alice(self) -> Cert:
        return self.ca.issue("CN=alice,OU=eng,O=acme")

    @cached_property
    def bob(self) -> Cert:
        return self.ca.issue("CN=bob,OU=eng,O=acme")


# ---- Servers -------------------------------------------------------------------------------------

_scratch: list[str] = []
# Of the test that is running: what the report of a failure shows the logs of.
started: list["RedisServer"] = []


def scratch() -> str:
    """A short path (a unix socket's is at most 107 bytes long), removed with the session."""
    if not _scratch:
        _scratch.append(tempfile.mkdtemp(prefix="certauth-"))
    return _scratch[0]


def remove_scratch() -> None:
    for place in _scratch:
        shutil.rmtree(place, ignore_errors=True)
    _scratch.clear()


def free_port() -> int:
    """One that the kernel picks; nothing keeps it from being taken before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerDied(Exception):
    """The server ended while it should have started; the text is its log."""


class RedisServer:
    """A server with TLS on a loopback port and a unix socket, stopped at the end of the `with`.

    `trust`: the CAs of clients that the handshake accepts. `module`: the arguments of certauth.so,
    or None for a server without it. `config`: more lines of redis.conf. The folder outlives
    `stop`, so that a second `start` finds what the first one wrote. Start it from a thread that
    lives as long as it: the kernel ends it with that thread.
    """

    def __init__(
        self,
        server: Server,
        pki: Pki,
        *,
        trust: Sequence[Cert] | None = None,
        module: Sequence[str] | None = None,
        config: Sequence[str] = (),
        tls_auth_clients: str = "optional",
        io_threads: int = 1,
        plain: bool = False,
    ) -> None:
        self.server, self.pki = server, pki
        self.trust = [pki.ca] if trust is None else list(trust)
        self.module, self.config = module, list(config)
        self.tls_auth_clients, self.io_threads, self.plain = tls_auth_clients, io_threads, plain
        self.directory = Path(tempfile.mkdtemp(dir=scratch()))
        self.socket = self.directory / "socket"
        self.log_file = self.directory / "log"
        self.port = self.plain_port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.clients: list[redis.Redis] = []

    # -- start and stop

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, wait: bool = True) -> Self:
        """Starts it, again after `stop` or `kill`: on the same port if that is still free."""
        for _ in range(5):
            self.port = self.port or free_port()
            self.plain_port = self.plain_port or (free_port() if self.plain else 0)
            self._spawn()
            try:
                if wait:
                    self.wait_ready()
                return self
            except ServerDied as death:
                self.process = None
                if "Address already in use" not in str(death):
                    raise
                self.port = self.plain_port = 0
        raise ServerDied("no free port after five tries")

    def _spawn(self) -> None:
        self.conf.write_text("\n".join(self.lines()) + "\n")
        self.log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                # Not even a test run that is killed leaves a server behind.
                ["setpriv", "--pdeathsig", "KILL", *self.server.argv, str(self.conf)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
            )  # fmt: skip
        if self not in started:
            started.append(self)

    @property
    def conf(self) -> Path:
        return self.directory / "redis.conf"

    def lines(self) -> list[str]:
        """The configuration that it is started with."""
        crt, key = self.pki.server.files
        trust = self.directory / "trust.pem"
        trust.write_bytes(b"".join(ca.pem for ca in self.trust) + self.pki.server_ca.pem)
        lines = [
            f"port {self.plain_port}", f"tls-port {self.port}", "bind 127.0.0.1",
            f"tls-cert-file {crt}", f"tls-key-file {key}", f"tls-ca-cert-file {trust}",
            f"tls-auth-clients {self.tls_auth_clients}", f"unixsocket {self.socket}",
            f"dir {self.directory}", 'save ""', f"io-threads {self.io_threads}",
            "enable-debug-command local", *self.config,
        ]  # fmt: skip
        if self.module is not None:
            lines.append(" ".join(["loadmodule", str(MODULE), *self.module]))
        return lines

    def wait_ready(self, deadline: float = 20) -> None:
        def ready() -> bool:
            if self.process is None or self.process.poll() is not None:
                raise ServerDied(self.log)
            return "Ready to accept connections" in self.log

        wait_until(ready, "the server is ready", deadline)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        """What it has written since it was last started."""
        with open(self.log_file, "rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="backslashreplace")

    def stop(self, deadline: float = 10) -> int | None:
        """Ends it by SIGTERM, or SIGKILL after the deadline. Returns its exit status."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        if self.process is None:
            return None
        self.process.terminate()
        try:
            return self._ended(self.process.wait(deadline))
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Ends it by SIGKILL: a crash, as far as its files are concerned."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        return self._ended(self.process.wait(10))

    def _ended(self, status: int) -> int:
        """What ASan or UBSan said of it fails the test, also where its end passed for a refusal."""
        assert not any(said in self.log for said in SANITIZERS), self.log[-20_000:]
        return status

    # -- clients

    def client(self, cert: Cert | None = None, **options: Any) -> redis.Redis:
        """A TLS client that shows `cert`, or none. It never retries. Closed with the server."""
        crt, key = cert.files if cert else (None, None)
        return self._client(
            host="127.0.0.1", port=self.port, ssl=True, ssl_certfile=crt, ssl_keyfile=key,
            ssl_ca_certs=str(self.directory / "trust.pem"), **options,
        )  # fmt: skip

    def admin(self, **options: Any) -> redis.Redis:
        """Over the unix socket, which the module leaves alone."""
        return self._client(unix_socket_path=str(self.socket), **options)

    def plain_client(self, **options: Any) -> redis.Redis:
        """Without TLS; the server is made with `plain=True`."""
        return self._client(host="127.0.0.1", port=self.plain_port, **options)

    def _client(self, **options: Any) -> redis.Redis:
        usual = {"decode_responses": True, "socket_timeout": 10, "retry": Retry(NoBackoff(), 0)}
        client = redis.Redis(**{**usual, **options})
        self.clients.append(client)
        return client

    def tls(self, cert: Cert | None = None, version: str | None = None) -> "TlsPeer":
        """For tests of the handshake and of resumed sessions."""
        return TlsPeer(self, cert, version)

    def cli(
        self, *arguments: str, cert: Cert | None = None, timeout: float = 20
    ) -> subprocess.CompletedProcess[str]:
        """Runs redis-cli, as a person would."""
        files = ["--cert", cert.files[0], "--key", cert.files[1]] if cert else []
        trust = ["--cacert", str(self.directory / "trust.pem")]
        command = ["redis-cli", "-p", str(self.port), "--tls", *trust, *files, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


class TlsPeer:
    """Connections that share one TLS context, so that a session of one may resume in another."""

    def __init__(self, server: RedisServer, cert: Cert | None, version: str | None) -> None:
        self.address = ("127.0.0.1", server.port)
        self.context = ssl.create_default_context(cafile=str(server.directory / "trust.pem"))
        if cert:
            self.context.load_cert_chain(*cert.files)
        if version:  # "TLSv1_2" or "TLSv1_3"
            wanted = ssl.TLSVersion[version]
            self.context.minimum_version = self.context.maximum_version = wanted

    def connect(self, session: ssl.SSLSession | None = None) -> "TlsConnection":
        """Shakes hands; with `session`, tries to resume it (`.resumed` says whether it did)."""
        plain = socket.create_connection(self.address, timeout=10)
        try:
            wrapped = self.context.wrap_socket(plain, server_hostname="localhost", session=session)
        except BaseException:
            plain.close()
            raise
        return TlsConnection(wrapped)


class TlsConnection:
    """One connection that speaks RESP2. On TLS 1.3 it has a session once a reply was read."""

    def __init__(self, wrapped: ssl.SSLSocket) -> None:
        self.socket = wrapped
        self.stream: IO[bytes] = wrapped.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    @property
    def session(self) -> ssl.SSLSession:
        session = self.socket.session
        assert session is not None
        return session

    @property
    def resumed(self) -> bool:
        return bool(self.socket.session_reused)

    def send(self, *words: str | bytes) -> None:
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        body = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self.socket.sendall(b"*%d\r\n%s" % (len(parts), body))

    def read(self) -> Any:
        """One reply: bytes, int, None or a list. An error reply is raised as redis-py would.
        ConnectionError where the server has closed the connection."""
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed by the server")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest
            case b"-":
                raise redis.ResponseError(rest.decode())
            case b":":
                return int(rest)
            case b"$":
                return self.stream.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
            case b"*":
                return [self.read() for _ in range(int(rest))] if int(rest) >= 0 else None
        raise AssertionError(f"no RESP2: {line!r}")

    def command(self, *words: str | bytes) -> Any:
        self.send(*words)
        return self.read()
