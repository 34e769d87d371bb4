"""The control plane as a service: its folder, its settings, `init` and `serve`.

HOME/certauth.toml     settings, optional
HOME/control.db        what it knows (unless `database` says otherwise)
HOME/ca.crt, .key      its own CA: of its certificates, and of whatever an operator issues with it
HOME/clients.pem       the CA of clients, where there is one: see control/domain/issuing.py
HOME/control.crt, .key what it shows to nodes
HOME/bootstrap         what nodes take as `loadmodule … bootstrap FILE`: who writes their policy
"""

import base64
import gzip
import io
import json
import logging
import os
import shutil
import signal
import socket
import ssl
import tarfile
import tempfile
import threading
import time
import tomllib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from wsgiref.types import WSGIApplication

from control.ages import Pulse
from control.api.app import create_app, init_cluster
from control.domain import issuing
from control.domain.issuing import Authority
from control.domain.passwords import check_new, new_password
from control.domain.revocation import Lists, Signer
from control.errors import Refusal, invalid, missing, refused
from control.http.server import TLS_VERSIONS, Limits, Listen, Server, peer_cert
from control.nodes.audit import Collector, Follower
from control.nodes.sync import HELD, TWICE, Identity, NodeError, Worker, ahead, take
from control.nodes.waiting import servers
from control.pki import ca, trust
from control.pki.ca import CertificateError, KeyType
from control.policy import core
from control.records import API, TRUSTED_CA, Certificate, Database, User, rendered_time
from control.service import enrol as enrolling
from control.store import Restore, Store, Unfit, dump, load
from control.ui.app import create_ui

log = logging.getLogger(__name__)

CA_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=90)  # of our own certificates; renewed at two thirds
CHECK = 3600.0  # seconds between two looks at their age
STILL = 300.0  # seconds without a good one
WATCH = 60.0  # seconds between two looks at the ages of clients' certificates
# People are fewer than programs, and both fronts together stay below 1024 descriptors.
UI_LIMITS = Limits(connections=100, connections_per_source=64)
# What it takes to write a policy and to see what came of it. Who writes one makes ACL users, so the
# module asks for `acl|setuser`; keys and all other commands are not the control plane's business.
CONTROL_RULES = (
    "on resetpass +acl|setuser +acl|list +certauth.policy +certauth.log +certauth.sessions "
    "+certauth.explain +certauth.whoami +client|kill +info|server +cluster|shards"
)


class ServiceError(Exception):
    """Why it does not start, in one line, for the person who typed the command."""


@dataclass(frozen=True)
class Config:
    """Where it lives and listens. `ui_port` is that of the web page, 0 for none. `database` is a
    URL as SQLAlchemy reads it; `tls_min` the least TLS version that is spoken. Seen from `home`:
    `proxy_socket` a path for a proxy to connect to, `audit_file` the event log as JSON lines, none
    where it is empty. The keys of CAs are encrypted where there is a `ca_passphrase`, or a
    `ca_passphrase_file` that has it in a line."""

    home: Path
    host: str = "0.0.0.0"  # noqa: S104 (an API is there to be reached)
    port: int = 9443
    database: str = ""
    tls_min: str = "1.2"
    proxy_socket: str = ""
    audit_file: str = "audit.jsonl"
    ui_port: int = 0
    ca_passphrase_file: str = ""
    ca_passphrase: str = field(default="", repr=False)

    def passphrase(self) -> str:
        """ "" where there is none. Raises ServiceError, also where others can read the file."""
        if self.ca_passphrase or not self.ca_passphrase_file:
            return self.ca_passphrase
        file = self.home / self.ca_passphrase_file
        try:
            found = file.read_text().rstrip("\r\n")
            if file.stat().st_mode & 0o077:
                raise ServiceError(f"others can read the CAs' passphrase: chmod 600 {file}")
        except (OSError, ValueError) as error:
            raise ServiceError(f"ca_passphrase_file {file}: {error}") from error
        if not found:
            raise ServiceError(f"ca_passphrase_file {file}: there is no passphrase in it")
        return found

    @property
    def proxy(self) -> Path | None:
        return self.home / self.proxy_socket if self.proxy_socket else None

    @property
    def url(self) -> str:
        return self.database or f"sqlite:///{self.home / 'control.db'}"

    @property
    def identity(self) -> Identity:
        return Identity(self.home / "control.crt", self.home / "control.key")


SETTINGS = {
    "host": str, "port": int, "database": str, "tls_min": str, "proxy_socket": str,
    "audit_file": str, "ui_port": int, "ca_passphrase_file": str,
}  # fmt: skip
PASSPHRASE = "CERTAUTH_CA_PASSPHRASE"  # noqa: S105 (a variable's name)


def load_config(home: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """HOME/certauth.toml, then the environment over it: CERTAUTH_ and the setting's name. Raises
    ServiceError naming the setting that is wrong."""
    path = home / "certauth.toml"
    try:
        found = tomllib.loads(path.read_text()) if path.exists() else {}
    except (ValueError, OSError) as error:  # no TOML, no UTF-8, no such file
        raise ServiceError(f"{path}: {error}") from error
    for name in found.keys() - SETTINGS.keys():
        raise ServiceError(f"{path}: no setting '{name}'; there are {', '.join(SETTINGS)}")
    for name, kind in SETTINGS.items():
        value = environment.get(f"CERTAUTH_{name.upper()}")
        if value is not None:
            found[name] = int(value) if kind is int and value.isdecimal() else value
    for name, kind in SETTINGS.items():
        if name in found and type(found[name]) is not kind:
            wanted = "number" if kind is int else "text"
            raise ServiceError(f"setting '{name}': {found[name]!r} is no {wanted}")
    if not 0 < found.get("port", 1) < 65536:
        raise ServiceError(f"setting 'port': {found['port']} is no port from 1 to 65535")
    if not 0 <= found.get("ui_port", 0) < 65536:
        raise ServiceError(f"setting 'ui_port': {found['ui_port']} is no port, nor 0 for none")
    if found.get("tls_min", "1.2") not in TLS_VERSIONS:
        versions = " or ".join(TLS_VERSIONS)
        raise ServiceError(f"setting 'tls_min': '{found['tls_min']}' is not {versions}")
    found["ca_passphrase"] = environment.get(PASSPHRASE, "")
    return replace(Config(home.absolute()), **found)


# ---- init ----------------------------------------------------------------------------------------


def init(config: Config, name: str, admin: str, password: str, names: Sequence[str]) -> None:
    """Makes the folder: the CA, our certificates, the first administrator. `names` are those under
    which the API is reached. Raises ServiceError; what was there is never overwritten."""
    try:
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (config.home / "ca.key").exists():
            raise ServiceError(f"{config.home} holds a control plane already")
        authority = ca.new_ca([("O", name), ("CN", "redis-certauth CA")], CA_LIFETIME)
        _administrator(config, name, admin, password, _api_certificate(authority, names))
        control = ca.issue(
            authority, [("O", name), ("CN", "control")], client=True, lifetime=LIFETIME
        )
        (config.home / "bootstrap").write_text(bootstrap(authority, control))
        (config.home / "control.crt").write_text(control.certificate)
        ca.write_private(config.home / "control.key", control.key)
        (config.home / "ca.crt").write_text(authority.certificate)
        # The CA's key comes last: where it is, everything else is.
        key = ca.seal_key(authority.key, config.passphrase())
        ca.write_private(config.home / "ca.key", key)
    except ValueError as error:
        raise ServiceError(f"no certificate can be made: {error}") from error
    except OSError as error:
        raise ServiceError(f"cannot write {error.filename}: {error.strerror}") from error


def _open(config: Config, make: bool = False, settle: bool = True) -> Store:
    with _opening(config):
        return Store(config.url, make, settle)


@contextmanager
def _opening(config: Config) -> Iterator[None]:
    """What is wrong with the database, in one line."""
    if "?" in str(config.home) and not config.database:
        raise ServiceError(f"{config.home}: a '?' would end the path in the database's URL")
    try:
        yield
    except (Refusal, Unfit) as error:
        raise ServiceError(str(error)) from error
    except Exception as error:  # whatever the driver of that database raises
        reason = str(error).splitlines()[0]  # the URL is not in it, nor its password
        raise ServiceError(f"cannot open the database: {reason}") from error


def _api_certificate(authority: ca.Issued, names: Sequence[str]) -> Certificate:
    subject = [("CN", names[0])]
    issued = ca.issue(authority, subject, server_names=names, lifetime=LIFETIME)
    return Certificate(API, issued.certificate + authority.certificate, issued.key)


def _administrator(config: Config, name: str, admin: str, password: str, api: Certificate) -> None:
    store = _open(config, make=True)
    try:
        init_cluster(store, name, admin, password)
        store.settings.put_certificates([api])
    except Refusal as error:
        raise ServiceError(error.description) from error
    finally:
        store.close()


def ca_line(certificate: str) -> str:
    """The policy line of a CA, whose certificate is PEM."""
    return f"ca {base64.b64encode(ssl.PEM_cert_to_DER_cert(certificate)).decode()}"


def bootstrap(authority: ca.Issued, control: ca.Issued) -> str:
    """What counts on a node whatever its policy says. By key, which outlives the certificate."""
    key = core.identity(control.certificate.encode()).key
    lines = (
        "# Who writes this node's policy: the control plane, known by its key.",
        ca_line(authority.certificate),
        f"bind key {key} certauth-control",
        f"user certauth-control {CONTROL_RULES}",
    )
    return "\n".join(lines) + "\n"


# ---- Enrolling nodes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolment:
    """A server at `host`:`port`, and what is to be done for it. `conf` is its redis.conf on this
    machine, None where that is elsewhere; `database` the name of the one whose node it is to be,
    "" for none yet."""

    host: str
    port: int
    module: Path
    conf: Path | None = None
    journal: Path | None = None
    bootstrap: Path | None = None
    database: str = ""
    keep_default: bool = False


def enrol(config: Config, node: Enrolment) -> str:
    """Writes into redis.conf what makes the server a node of ours, or says it, and binds the key
    that the server shows other nodes. What was done, for a person. Raises ServiceError."""
    with _at_work(config) as store:
        try:
            return _enrol(config, store, node)
        except enrolling.EnrolError as error:
            raise ServiceError(f"{node.conf or 'redis.conf'}: {error}") from error
        except OSError as error:
            raise ServiceError(f"{error.filename or node.host}: {error.strerror}") from error


def _enrol(config: Config, store: Store, node: Enrolment) -> str:
    text = node.conf.read_text() if node.conf else ""
    files = _files(node, text)
    lines = bootstrap(authority_of(config), _control(config))
    port = enrolling.setting(text, "tls-port")
    if node.conf and port != str(node.port):
        there = f"tls-port {port}" if port else "no tls-port"
        raise enrolling.EnrolError(f"it has {there}, not {node.port}: is it this server's?")
    said = [_bind_node(config, store, node, text)] if node.database else []
    if node.conf is None:
        shown = enrolling.edited("", files, node.keep_default)
        return "\n".join([f"# {files.bootstrap}", lines, "# redis.conf", shown, *said])
    after = enrolling.edited(text, files, node.keep_default)
    changed = enrolling.prepare(node.conf, files, after, lines)
    said.insert(0, f"{node.conf}: {'restart the server' if changed else 'nothing to do'}")
    if enrolling.setting(text, "aclfile") and not node.keep_default:
        said.append(f"Put `{enrolling.DEFAULT_OFF}` into its aclfile, which holds its users.")
    return "\n".join(said)


def _files(node: Enrolment, text: str) -> enrolling.Files:
    """By default beside what redis.conf names, or where packages have it."""
    data = Path(enrolling.setting(text, "dir") or "/var/lib/redis")
    conf = node.conf.absolute().parent if node.conf else Path("/etc/redis")
    journal, lines = (
        node.journal or data / "certauth",
        node.bootstrap or conf / "certauth-bootstrap",
    )
    return enrolling.Files(node.module, journal, lines)


def _control(config: Config) -> ca.Issued:
    return ca.Issued(config.identity.certificate.read_text(), config.identity.key.read_text())


def _bind_node(config: Config, store: Store, node: Enrolment, text: str) -> str:
    """Lets a server in as a peer of the nodes of a database, before it has ever been one: by the
    key that it shows where it connects, and by the one that it shows where others connect."""
    found = [one for one in store.objects.all(Database) if one.name == node.database]
    if not found:
        raise ServiceError(f"there is no database '{node.database}'")
    authorities = found[0].tls_server_ca or (config.home / "ca.crt").read_text()
    named = (enrolling.setting(text, f"tls-{kind}-file") for kind in ("client-cert", "cert"))
    shown = {file: Path(file).read_bytes() for file in named if file}
    keys = []
    for place, found_there in (shown or {node.host: _shown(config, node, authorities)}).items():
        try:
            keys.append(core.identity(found_there).key)
        except core.CoreError as error:
            raise ServiceError(f"{place}: no certificate: {error}") from error
    if not set(keys) <= set(found[0].node_keys):
        store.objects.update(
            Database, found[0].uid,
            lambda one: replace(one, node_keys=tuple(dict.fromkeys((*one.node_keys, *keys)))),
        )  # fmt: skip
    told = " and ".join(dict.fromkeys(keys))
    return f"Its key {told} may be a peer of the nodes of '{node.database}'."


def _shown(config: Config, node: Enrolment, authorities: str) -> bytes:
    """DER of the certificate of a server that runs, which is from one of these CAs (PEM)."""
    context = ssl.create_default_context(cadata=authorities)
    context.load_cert_chain(config.identity.certificate, config.identity.key)
    try:
        with (
            socket.create_connection((node.host, node.port), 5) as plain,
            context.wrap_socket(plain, server_hostname=node.host) as tls,
        ):
            return tls.getpeercert(binary_form=True) or b""
    except OSError as error:  # of TLS too
        raise ServiceError(
            f"{node.host}:{node.port}: its certificate cannot be read: {error}; start it first, or "
            "name its redis.conf"
        ) from error


def enrol_sentinel(config: Config, host: str, port: int, conf: Path | None) -> str:
    """Writes what makes a Sentinel one of ours into its configuration, or says it. What was done,
    for a person. Raises ServiceError."""
    try:
        return _enrol_sentinel(config, host, port, conf)
    except enrolling.EnrolError as error:
        raise ServiceError(f"{conf or 'sentinel.conf'}: {error}") from error
    except OSError as error:
        raise ServiceError(f"{error.filename or conf}: {error.strerror}") from error


def _enrol_sentinel(config: Config, host: str, port: int, conf: Path | None) -> str:
    key = config.identity.key.read_text()
    with_password = (enrolling.CONTROL, enrolling.WATCHER)
    passwords = {name: ca.secret_of(key, name) for name in with_password}
    text = conf.read_text() if conf else ""
    there = enrolling.setting(text, "tls-port")
    if conf and there != str(port):
        said = f"tls-port {there}" if there else "no tls-port"
        raise enrolling.EnrolError(f"it has {said}, not {port}: is it this Sentinel's?")
    folder = conf.absolute().parent if conf else Path("/etc/redis")
    aclfile = folder / (enrolling.setting(text, "aclfile") or "certauth-sentinel.acl")
    after, moved = enrolling.sentinel_edited(text, aclfile, passwords[enrolling.WATCHER])
    before = aclfile.read_text() if conf and aclfile.exists() else moved
    users = enrolling.sentinel_users(passwords, before)
    trust = TRUSTS.format(ca=config.home / "ca.crt")
    if conf is None:
        return "\n".join([f"# {aclfile}", users, "# sentinel.conf", after, trust])
    owner = conf.stat()
    pending = after != text or not aclfile.exists() or aclfile.read_text() != users
    if pending and _listens(host, port):
        raise ServiceError(f"{host}:{port}: stop the Sentinel first: it writes its file itself")
    changed = [enrolling.write(aclfile, users, owner), enrolling.write(conf, after, owner)]
    done = [f"{conf}: {'start the Sentinel' if any(changed) else 'nothing to do'}"]
    trusted = enrolling.setting(text, "tls-ca-cert-file")
    known = (folder / trusted).read_text() if trusted else ""
    ours = (config.home / "ca.crt").read_text().strip()
    return "\n".join(done if ours in known else [*done, trust])


TRUSTS = (
    "Its tls-ca-cert-file has to hold {ca}, the CAs of the servers and of the other Sentinels, and "
    "those of applications."
)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 2).close()
    except OSError:
        return False
    return True


def _check_home(config: Config) -> None:
    if not (config.home / "ca.key").exists():
        raise ServiceError(f"{config.home} holds no control plane: run `redis-certauth init` first")


# ---- serve ---------------------------------------------------------------------------------------


@contextmanager
def running(config: Config) -> Iterator[Server]:
    """The control plane at work: API and sync. Raises ServiceError, then nothing was started."""
    _check_home(config)
    with ExitStack() as stack:
        store = _open(config)
        stack.callback(store.close)
        try:
            renew(config, store)
            authorities = (config.home / "ca.crt").read_text()
            authority = Authority(config.home, config.passphrase)
            if (config.home / issuing.CLIENTS).exists():
                authority()
        except OSError as error:
            raise ServiceError(f"{error.filename}: {error.strerror}") from error
        except Refusal as error:
            raise ServiceError(error.description) from error
        api = store.settings.certificates()[API]
        collector, pulse = Collector(store), Pulse()
        worker = Worker(store, config.identity, authorities, collector, pulse)
        app = create_app(
            store,
            peer_cert,
            rotate=lambda: rotate(config, store),
            authority=authority,
            ask=worker.ask,
            figures=collector.figures,
            pulse=pulse,
            own=lambda: own_certificates(config),
        )
        fronts = [_front(config, app, api)]
        stack.callback(fronts[0].stop)
        if config.ui_port:
            fronts.append(_ui(config, create_ui(app, peer_cert), store))
            stack.callback(fronts[1].stop)
        if config.audit_file:
            follower = Follower(store, config.home / config.audit_file, pulse)
            begin(stack, follower)  # ends behind the others
        begin(stack, worker)
        begin(stack, _Keeper(config, store, fronts, pulse))
        begin(stack, Lists(store, lambda: _signers(config), pulse))
        yield fronts[0]


def own_certificates(config: Config) -> dict[str, str]:
    """What we show to nodes, and our CAs, which are files: by name."""
    files = {"control": config.identity.certificate, "own_ca": config.home / "ca.crt"}
    if (config.home / issuing.CLIENTS).exists():
        files["clients_ca"] = config.home / issuing.CLIENTS
    return {name: issuing.certificate_of(file.read_text()) for name, file in files.items()}


def _signers(config: Config) -> list[Signer]:
    """The CAs of clients that are or were here, each of which has a revocation list."""

    def signer(file: Path) -> Signer:
        text = file.read_text()
        return Signer(issuing.certificate_of(text), lambda: ca.unseal(text, config.passphrase()))

    return [signer(file) for file in issuing.files(config.home)]


class _Startable(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...


def begin(stack: ExitStack, one: _Startable) -> None:
    """Starts it, to be stopped with the stack."""
    one.start()
    stack.callback(one.stop)


def _front(config: Config, app: WSGIApplication, api: Certificate) -> Server:
    listen = Listen(config.host, config.port)
    shown = (api.certificate.encode(), api.key.encode())
    front = Server(app, listen, *shown, tls_min=config.tls_min, proxy_socket=config.proxy)
    return _started(front, listen)


def _ui(config: Config, app: WSGIApplication, store: Store) -> Server:
    """The front of the web page, whose TLS names the CAs that people may log in from."""
    listen, api = Listen(config.host, config.ui_port), store.settings.certificates()[API]
    shown = (api.certificate.encode(), api.key.encode())
    asked = login_authorities(store)
    front = Server(
        app, listen, *shown, tls_min=config.tls_min, authorities=asked, limits=UI_LIMITS
    )
    return _started(front, listen)


def login_authorities(store: Store) -> tuple[bytes, ...]:
    """DER of the CAs whose certificates log in here; none where none does."""
    settings = store.settings
    return settings.trust().cas if settings.cluster().mtls_certificate_authentication else ()


def _started(front: Server, listen: Listen) -> Server:
    try:
        front.start()
    except OSError as error:
        where = error.filename or f"{listen.host}:{listen.port}"
        raise ServiceError(f"cannot listen on {where}: {error.strerror}") from error
    return front


class _Keeper(threading.Thread):
    """Shows the API's certificate of the moment, names the CAs of the moment where there is a web
    page, renews ours before they end, and has the event log tell which of clients' end soon.
    `fronts` are that of the API, and that of the page."""

    def __init__(
        self, config: Config, store: Store, fronts: Sequence[Server], pulse: Pulse
    ) -> None:
        super().__init__(name="keeper", daemon=True)
        self._config, self._store, self._fronts = config, store, fronts
        self._pulse = pulse
        self._shown: list[object] = [None for _ in fronts]
        self._wake, self._stopping = threading.Event(), False
        store.listen(self._wake.set)

    def run(self) -> None:
        self._pulse.expect("certificates", STILL)
        checked = watched = time.monotonic()
        while not self._stopping:
            self._wake.wait(min(WATCH, CHECK))
            self._wake.clear()
            try:
                if time.monotonic() > checked + CHECK:
                    checked = time.monotonic()
                    renew(self._config, self._store)
                self._show()
                if time.monotonic() > watched + WATCH:
                    watched = time.monotonic()
                    self._store.inventory.watch(int(time.time()))
                self._pulse.beat("certificates")
            except Exception as error:
                log.exception("our certificates are looked at again later, after an error")
                self._pulse.fail("certificates", str(error) or type(error).__name__)

    def _show(self) -> None:
        api = self._store.settings.certificates().get(API)
        for number, front in enumerate(self._fronts if api else ()):
            authorities = login_authorities(self._store) if number else None
            if api and self._shown[number] != (api, authorities):
                shown = (api.certificate.encode(), api.key.encode())
                front.replace_certificate(*shown, authorities)
                self._shown[number] = (api, authorities)

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self.join()


def renew(config: Config, store: Store) -> None:
    """Renews what our own CA has issued to us, with the same keys, at two thirds of its life. A
    certificate of the API that an administrator has put there is theirs to renew."""
    authority = authority_of(config)
    file = config.identity.certificate
    if _old(file.read_text()):
        key = config.identity.key.read_text()
        ca.write_private(file, ca.renew(authority, ca.Issued(file.read_text(), key), LIFETIME))
    lines = bootstrap(authority, _control(config))
    if (config.home / "bootstrap").read_text() != lines:  # of an older version
        (config.home / "bootstrap").write_text(lines)
    api = store.settings.certificates().get(API)
    if api and _old(api.certificate) and authority.certificate in api.certificate:
        renewed = ca.renew(authority, ca.Issued(api.certificate, api.key), LIFETIME)
        store.settings.put_certificates([replace(api, certificate=renewed + authority.certificate)])


def authority_of(config: Config) -> ca.Issued:
    """Our own CA. Raises ServiceError where its passphrase is missing or wrong."""
    certificate, key = (config.home / "ca.crt").read_text(), (config.home / "ca.key").read_text()
    try:
        return ca.Issued(certificate, ca.open_key(key, config.passphrase()))
    except CertificateError as error:
        raise ServiceError(f"{config.home / 'ca.key'}: {error}") from error


def rotate(config: Config, store: Store) -> None:
    """Gives the API a new certificate, with a new key, for the names that it has. Raises Refusal
    406 where an administrator has put one there that is not from our own CA."""
    authority, api = authority_of(config), store.settings.certificates()[API]
    if authority.certificate not in api.certificate:
        raise refused(
            "unsupported_certificate",
            f"'{API}' is not from this control plane's own CA: put a new one in its place",
        )
    issued = ca.reissue(authority, api.certificate, LIFETIME)
    store.settings.put_certificates(
        [Certificate(API, issued.certificate + authority.certificate, issued.key)]
    )


def _old(certificate: str) -> bool:
    found = core.identity(certificate.encode())
    return time.time() > found.not_before + (found.not_after - found.not_before) * 2 / 3


# ---- The CA of clients ---------------------------------------------------------------------------


def create_ca(config: Config, name: str, key_type: KeyType, again: bool) -> None:
    """Makes a CA of clients, and has `mtls_trusted_ca` trust it too. `name` is its organisation, ""
    for that of the cluster; `again`: instead of the one that is there. Raises ServiceError."""
    with _ca_to_be(config, again) as store:
        named = name or store.settings.cluster().name
        issuing.create(
            config.home, named, config.passphrase(), key_type, lambda pem: trust_too(store, pem)
        )


def import_ca(config: Config, certificates: str, key: str, again: bool) -> None:
    """Takes a CA from elsewhere instead: PEM of its certificate and those above it, and of its key,
    which may have the passphrase of this control plane. Else as `create_ca`."""
    with _ca_to_be(config, again) as store:
        issuing.adopt(
            config.home, certificates, key, config.passphrase(), lambda pem: trust_too(store, pem)
        )


@contextmanager
def _ca_to_be(config: Config, again: bool) -> Iterator[Store]:
    with _at_work(config) as store:
        if (config.home / issuing.CLIENTS).exists() and not again:
            raise ServiceError(
                f"{config.home} holds a CA of clients already; --replace puts another one in its "
                "place, and both are trusted then"
            )
        try:
            yield store
        except ValueError as error:
            raise ServiceError(str(error)) from error
        except OSError as error:
            raise ServiceError(f"{error.filename}: {error.strerror}") from error


def trust_too(store: Store, pem: str) -> None:
    """Adds CA certificates to `mtls_trusted_ca`. Raises Refusal."""
    found = store.settings.certificates().get(TRUSTED_CA)
    trusted = ca.together(found.certificate if found else "", pem)
    uses = trust.settled(store.settings.trust(), trusted)
    store.settings.put_certificates([Certificate(TRUSTED_CA, trusted, uses=uses)])


def take_node(config: Config, address: str) -> str:
    """Takes over a node whose policy belongs to a control plane that is gone. What was done, for
    a person. Raises ServiceError."""
    with _at_work(config) as store:
        try:
            return take(store, config.identity, (config.home / "ca.crt").read_text(), address)
        except NodeError as error:
            raise ServiceError(f"{address}: {error}") from error


# ---- The way back, and backups ---------------------------------------------------------------


@contextmanager
def _at_work(config: Config) -> Iterator[Store]:
    """The store, for somebody on the machine itself: nothing is brought up to date or computed
    again, so nobody waits for it. Refusals come out as ServiceError."""
    _check_home(config)
    store = _open(config, settle=False)
    store.request.act_as(f"uid {os.getuid()}", address="this machine")
    try:
        yield store
    except Refusal as error:
        raise ServiceError(error.description) from error
    finally:
        store.close()


def allow_passwords(config: Config) -> None:
    """Switches control_plane_basic_authentication on again, for an administrator whose certificate
    does not come in any more. A running control plane follows at once."""
    with _at_work(config) as store:
        store.settings.configure(lambda now: replace(now, control_plane_basic_authentication=True))


def set_password(config: Config, name: str, password: str) -> None:
    """Gives a password user this password instead of all others, and unlocks it."""
    with _at_work(config) as store:
        user = store.objects.user_by_login(name)
        if user is None:
            raise missing(f"user '{name}'")
        if user.auth_method != "regular":
            raise invalid("invalid_param", f"'{user.name}' logs in by certificate")
        if not password:
            raise invalid("missing_field", "password: it must not be empty")
        check_new(password, replace(user, passwords=()), store.settings.cluster())
        made = new_password(password)
        store.objects.update(User, user.uid, lambda now: replace(now, passwords=(made,), locked=0))


FILES = ("bootstrap", "ca.crt", "control.crt", "control.key", "ca.key")
ROWS = "rows.json"
DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


def backup(config: Config, file: Path) -> None:
    """Writes rows, CA and keys into one new file, which is for its owner only (0600); not the
    settings. The control plane may be running: the rows are of one moment. Raises ServiceError."""
    _check_home(config)
    with _opening(config):
        contents = {ROWS: json.dumps(dump(config.url)).encode()}
    try:
        names = [*FILES, *(one.name for one in config.home.glob("clients*.pem"))]
        contents |= {name: (config.home / name).read_bytes() for name in names}
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
            _pack(raw, contents)
            raw.flush()
            os.fsync(raw.fileno())
    except OSError as error:
        raise ServiceError(f"{error.filename}: {error.strerror}") from error
    with suppress(ServiceError), _at_work(config) as store:  # of another version: it tells nobody
        store.events.note("backup_made", file=str(file.absolute()))


def restore(config: Config, file: Path, names: Sequence[str] = ()) -> str:
    """Makes the control plane of a backup, in a folder and a database that hold none; on hold, see
    `release`. `names`: those under which the API is reached from now on. Tokens made before are
    void. What was done, for a person. Raises ServiceError; then nothing was."""
    if (config.home / "ca.key").exists():
        raise ServiceError(f"{config.home} holds a control plane already")
    found = _unpacked(file)
    staged, rows = config.home / ".restoring", config.home / "control.db"
    made, fresh = not config.home.exists(), not rows.exists()
    try:
        _put(found, staged)
        api = _named(config, staged, found, names) if names else None
        _fill(config, found, api)
        for name in sorted(found.files, key=lambda one: one == "ca.key"):  # the CA's key comes last
            (staged / name).rename(config.home / name)
    except OSError as error:
        raise ServiceError(f"{error.filename or file}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if fresh and not (config.home / "ca.key").exists():
            rows.unlink(missing_ok=True)
        if made:
            with suppress(OSError):  # it is not empty
                config.home.rmdir()
    age = timedelta(seconds=max(0, int(time.time()) - found.made))
    return RESTORED.format(time=rendered_time(found.made), age=age, home=config.home)


RESTORED = """\
Restored from a backup of {time}, {age} ago. It is on hold: nothing is sent to the servers.

1. The control plane that the backup is of must not run any more.
2. redis-certauth serve --home {home}
3. redis-certauth status says what each server holds, and what would be taken back; revocations that
   servers hold are kept.
4. redis-certauth release --home {home}
"""


def would_restore(config: Config, file: Path) -> str:
    """What a restore would take back from the servers that the backup knows, for a person. Nothing
    is written, here or there. Raises ServiceError."""
    found = _unpacked(file)
    with tempfile.TemporaryDirectory() as folder:
        there = replace(config, home=Path(folder), database="")
        _put(found, there.home)
        _fill(there, found, None)
        store = _open(there, settle=False)
        try:
            looks = ahead(store, there.identity, (there.home / "ca.crt").read_text())
            said = [f"{address} of '{database.name}': {text}" for address, database, text in looks]
        finally:
            store.close()
    time_of = rendered_time(found.made)
    return "\n".join([f"a backup of {time_of}", *(said or ["it knows no servers"])])


@dataclass(frozen=True)
class _Backup:
    """What a backup holds: its files by their names, its rows, and when it was made."""

    files: dict[str, bytes]
    rows: dict[str, Any]
    made: int


def _unpacked(file: Path) -> _Backup:
    try:
        contents, made = _unpack(file)
        rows = json.loads(contents.pop(ROWS))
        for table in rows["tables"].values():
            dict.fromkeys(table["columns"]), table["rows"]
        return _Backup(contents, {"schema": rows["schema"], "tables": rows["tables"]}, made)
    except (*DAMAGE, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ServiceError(f"{file} is no backup, or a damaged one") from error
    except OSError as error:
        raise ServiceError(f"{error.filename or file}: {error.strerror or error}") from error


def _put(found: _Backup, home: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in found.files.items():
        ca.write_private(home / name, content.decode())


def _fill(config: Config, found: _Backup, api: Certificate | None) -> None:
    come = Restore(found.made, f"uid {os.getuid()}", api)
    with _opening(config):
        load(config.url, found.rows, come)


def _named(config: Config, staged: Path, found: _Backup, names: Sequence[str]) -> Certificate:
    """The API's certificate for other names."""
    table = found.rows["tables"]["certificates"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    shown = next((row["certificate"] for row in rows if row["name"] == API), "")
    authority = authority_of(replace(config, home=staged, ca_passphrase=config.passphrase()))
    if authority.certificate not in shown:
        raise ServiceError(
            "--api-name: the API's certificate is not from this control plane's own CA: restore "
            "without it, then put one for the new names there (redis-certauth cert set)"
        )
    try:
        return _api_certificate(authority, names)
    except ValueError as error:
        raise ServiceError(f"--api-name: no certificate can be made: {error}") from error


def release(config: Config, force: bool) -> None:
    """Ends what `restore` began with, or that another control plane has outbid this one: from now
    on the servers are brought to what is known here. Raises ServiceError, also (unless by `force`)
    where a server was not looked at, or where somebody else goes on writing to it."""
    with _at_work(config) as store:
        found = [(one, node) for one in store.objects.all(Database) for node in servers(store, one)]
        hold = store.settings.cluster().hold
        if not hold and not any(n.error.startswith(TWICE) for _, n in found):
            raise ServiceError("it is not on hold: the servers are kept in step")
        unseen = [
            f"{node.address} of '{database.name}': {node.error}"
            for database, node in found
            if node.error and not node.error.startswith(HELD)
        ]
        if unseen and not force:
            raise ServiceError("\n".join([UNSEEN, *unseen]))
        store.settings.release()


UNSEEN = (
    "what these servers hold was not seen, or somebody else writes to them; start `serve` and look "
    "at `status` first, or release by --force:"
)


def _pack(raw: BinaryIO, contents: Mapping[str, bytes]) -> None:
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            tar.addfile(entry, io.BytesIO(content))


def _unpack(file: Path) -> tuple[dict[str, bytes], int]:
    """What the backup holds, by the names that it is to have: nothing else of it is looked at; and
    when it was made."""
    with tarfile.open(file, "r:gz") as tar:
        names = [*(ROWS, *FILES), *filter(issuing.FILES.fullmatch, tar.getnames())]
        found = ((name, tar.extractfile(name)) for name in names)
        contents = {name: entry.read() for name, entry in found if entry}
        return contents, int(tar.getmember(ROWS).mtime)


def serve(config: Config) -> None:
    """Runs until SIGINT or SIGTERM."""
    stop = told_to_stop()
    with running(config):
        log.info("the REST API listens on https://%s:%d", config.host, config.port)
        if config.ui_port:
            log.info("the web page is https://%s:%d/ui", config.host, config.ui_port)
        stop.wait()


def told_to_stop() -> threading.Event:
    """Set by SIGINT and SIGTERM from now on, which do nothing else any more."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
