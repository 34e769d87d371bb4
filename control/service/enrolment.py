"""Enrolling servers and Sentinels: their configuration, and the keys that they are known by."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from control.http.verify import verifying
from control.pki.keys import derive_secret
from control.policy import core
from control.records import Database
from control.service import conf_files, redis_conf
from control.service.config import Config, ServiceError
from control.service.home import at_work, authority_of, bootstrap, control_certificate
from control.store import Store

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
    with at_work(config) as store:
        try:
            return _enrol(config, store, node)
        except conf_files.EnrolError as error:
            raise ServiceError(f"{node.conf or 'redis.conf'}: {error}") from error
        except OSError as error:
            raise ServiceError(f"{error.filename or node.host}: {error.strerror}") from error


def _enrol(config: Config, store: Store, node: Enrolment) -> str:
    conf = node.conf.absolute() if node.conf else None
    text = conf_files.read(conf) if conf else ""
    found = conf_files.configuration(conf, text) if conf else []
    files = _files(node, found)
    lines = bootstrap(authority_of(config), control_certificate(config))
    port = conf_files.setting(found, "tls-port")
    if conf and port != str(node.port):
        there = f"tls-port {port}" if port else "no tls-port"
        raise conf_files.EnrolError(f"it has {there}, not {node.port}: is it this server's?")
    if conf is None:
        said = [_bind_node(config, store, node, found)] if node.database else []
        shown = redis_conf.edited("", files, node.keep_default)
        return "\n".join([f"# {files.bootstrap}", lines, "# redis.conf", shown, *said])
    after = redis_conf.edited(text, files, node.keep_default, conf)
    owner = _owner(conf, found)
    _check(conf, files, found, owner)
    said = [_bind_node(config, store, node, found)] if node.database else []
    changed = redis_conf.prepare(conf, files, after, lines, owner)
    said.insert(0, f"{node.conf}: {'restart the server' if changed else 'nothing to do'}")
    if conf_files.setting(found, "aclfile") and not node.keep_default:
        said.append(f"Put `{redis_conf.DEFAULT_OFF}` into its aclfile, which holds its users.")
    return "\n".join(said)


def _owner(conf: Path, found: Sequence[conf_files.Line]) -> os.stat_result:
    """Who the server runs as: the owner of its data, or of its configuration."""
    data = Path(conf_files.setting(found, "dir") or "/var/lib/redis")
    owner = conf.stat()
    return data.stat() if not owner.st_uid and data.is_absolute() and data.is_dir() else owner


def _check(
    conf: Path, files: redis_conf.Files, found: Sequence[conf_files.Line], owner: os.stat_result
) -> None:
    """Raises EnrolError where the server would not start with our lines."""
    who = conf_files.person(owner)
    faults = list(conf_files.unreadable(found, who))
    if why := conf_files.fault(who, files.module):
        faults.append(f"the module {files.module}: {why}")
    elif not files.module.stat().st_mode & 0o111:
        faults.append(f"the module {files.module} is not executable: chmod +x it")
    if other := conf_files.another(conf, files.journal):
        faults.append(f"{files.journal} is the journal of {other}'s server: say another --journal")
    if unit := conf_files.unit_of(conf):
        faults += unit.forbids(files.module, files.journal)
    if faults:
        raise conf_files.EnrolError("\n".join(["the server would not start:", *faults]))


def _files(node: Enrolment, found: Sequence[conf_files.Line]) -> redis_conf.Files:
    """By default beside what redis.conf names, or where packages have it."""
    data = Path(conf_files.setting(found, "dir") or "/var/lib/redis")
    conf = node.conf.absolute().parent if node.conf else Path("/etc/redis")
    journal, lines = (
        node.journal or data / "certauth",
        node.bootstrap or conf / "certauth-bootstrap",
    )
    return redis_conf.Files(node.module, journal, lines)


def _bind_node(
    config: Config, store: Store, node: Enrolment, lines: Sequence[conf_files.Line]
) -> str:
    """Admits a server as a peer of the nodes of a database before it has ever been one: by the key
    that it shows where it connects, and by the key that it shows where others connect."""
    found = [one for one in store.objects.all(Database) if one.name == node.database]
    if not found:
        raise ServiceError(f"there is no database '{node.database}'")
    authorities = found[0].tls_server_ca or (config.home / "ca.crt").read_text()
    named = (conf_files.setting(lines, f"tls-{kind}-file") for kind in ("client-cert", "cert"))
    shown = {file: Path(file).read_bytes() for file in named if file}
    shown = shown or {node.host: _server_certificate(config, node, authorities)}
    keys = []
    for place, certificate in shown.items():
        try:
            keys.append(core.identity(certificate).key)
        except core.CoreError as error:
            raise ServiceError(f"{place}: no certificate: {error}") from error
    if not set(keys) <= set(found[0].node_keys):
        store.objects.update(
            Database, found[0].uid,
            lambda one: replace(one, node_keys=tuple(dict.fromkeys((*one.node_keys, *keys)))),
        )  # fmt: skip
    told = " and ".join(dict.fromkeys(keys))
    return f"Its key {told} may be a peer of the nodes of '{node.database}'."


def _server_certificate(config: Config, node: Enrolment, authorities: str) -> bytes:
    """DER of the certificate of a server that runs, which is from one of these CAs (PEM)."""
    context = verifying(cadata=authorities)
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
    except conf_files.EnrolError as error:
        raise ServiceError(f"{conf or 'sentinel.conf'}: {error}") from error
    except OSError as error:
        raise ServiceError(f"{error.filename or conf}: {error.strerror}") from error


def _enrol_sentinel(config: Config, host: str, port: int, conf: Path | None) -> str:
    key = config.identity.key.read_text()
    with_password = (redis_conf.CONTROL, redis_conf.WATCHER)
    passwords = {name: derive_secret(key, name) for name in with_password}
    text = conf_files.read(conf) if conf else ""
    found = list(conf_files.directives(text, conf or Path("sentinel.conf")))
    there = conf_files.setting(found, "tls-port")
    if conf and there != str(port):
        said = f"tls-port {there}" if there else "no tls-port"
        raise conf_files.EnrolError(f"it has {said}, not {port}: is it this Sentinel's?")
    folder = conf.absolute().parent if conf else Path("/etc/redis")
    aclfile = folder / (conf_files.setting(found, "aclfile") or "certauth-sentinel.acl")
    after, moved = redis_conf.sentinel_edited(
        text, aclfile, passwords[redis_conf.WATCHER], conf or Path("sentinel.conf")
    )
    before = conf_files.read(aclfile) if conf and aclfile.exists() else moved
    users = redis_conf.sentinel_users(passwords, before)
    trust = TRUSTS.format(ca=config.home / "ca.crt")
    if conf is None:
        return "\n".join([f"# {aclfile}", users, "# sentinel.conf", after, trust])
    owner = conf.stat()
    pending = after != text or not aclfile.exists() or conf_files.read(aclfile) != users
    if pending and _listens(host, port):
        raise ServiceError(f"{host}:{port}: stop the Sentinel first: it writes its file itself")
    changed = [redis_conf.write(aclfile, users, owner), redis_conf.write(conf, after, owner)]
    done = [f"{conf}: {'start the Sentinel' if any(changed) else 'nothing to do'}"]
    trusted = conf_files.setting(found, "tls-ca-cert-file")
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
