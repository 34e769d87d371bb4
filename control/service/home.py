"""The folder of a control plane: making it, its own CA, and the certificates that it shows."""

import base64
import errno
import logging
import os
import ssl
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from control.api.app import init_cluster
from control.domain import issuing
from control.errors import Refusal, refused
from control.pki.files import write_private
from control.pki.issue import issue_certificate, new_ca, reissue_certificate, renew_certificate
from control.pki.keys import open_key, seal_key
from control.pki.pem import CertificateError, Issued, split_pem
from control.policy import core
from control.records import API, Certificate
from control.service.config import Config, DatabaseAway, ServiceError
from control.store import UNAVAILABLE_ERRORS, Store, Unfit, first_line

CA_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=90)  # of our own certificates; renewed at two thirds
LAST_DAY = 86_400  # seconds before its end from which a certificate must be renewed for a start
log = logging.getLogger(__name__)
# What it takes to write a policy and to see what came of it. Who writes one makes ACL users, so the
# module asks for `acl|setuser`; keys and all other commands are not the control plane's business.
CONTROL_RULES = (
    "on resetpass +acl|setuser +acl|list +certauth.policy +certauth.log +certauth.sessions "
    "+certauth.explain +certauth.whoami +client|kill +info +cluster|shards"
)


# ---- init ----------------------------------------------------------------------------------------


def init(config: Config, name: str, admin: str, password: str, names: Sequence[str]) -> None:
    """Makes the folder: the CA, our certificates, the first administrator. `names` are those under
    which the API is reached. Raises ServiceError; what was there is never overwritten."""
    try:
        config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (config.home / "ca.key").exists():
            raise ServiceError(f"{config.home} holds a control plane already")
        authority = new_ca([("O", name), ("CN", "redis-certauth CA")], CA_LIFETIME)
        _administrator(config, name, admin, password, api_certificate(authority, names))
        control = issue_certificate(
            authority, [("O", name), ("CN", "control")], client=True, lifetime=LIFETIME
        )
        (config.home / "bootstrap").write_text(bootstrap(authority, control))
        (config.home / "control.crt").write_text(control.certificate)
        write_private(config.home / "control.key", control.key)
        (config.home / "ca.crt").write_text(authority.certificate)
        # The CA's key comes last: where it is, everything else is.
        key = seal_key(authority.key, config.passphrase())
        write_private(config.home / "ca.key", key)
        hand_over(config.home)
    except ValueError as error:
        raise ServiceError(f"no certificate can be made: {error}") from error
    except OSError as error:
        raise ServiceError(f"cannot write {error.filename}: {error.strerror}") from error


def hand_over(home: Path) -> None:
    """Gives what root has made in this folder to its owner, who the control plane runs as. Raises
    OSError."""
    if os.geteuid():
        return
    owner = home.stat()
    for path in home.iterdir():
        found = path.lstat()
        # Neither a link nor a second name, which could lead to a file that is not of this folder.
        if not found.st_uid and stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def open_store(config: Config, make: bool = False, settle: bool = True) -> Store:
    """Opens the configured database; `make` and `settle` as Store has them. The caller closes it.
    Raises ServiceError, DatabaseAway where trying again may help."""
    with database_errors(config):
        return Store(config.url, make, settle)


@contextmanager
def database_errors(config: Config) -> Iterator[None]:
    """What is wrong with the database, in one line."""
    if "?" in str(config.home) and not config.database:
        raise ServiceError(f"{config.home}: a '?' would end the path in the database's URL")
    try:
        yield
    except (Refusal, Unfit) as error:
        raise ServiceError(str(error)) from error
    except Exception as error:  # whatever the driver of that database raises
        reason = first_line(error)  # the URL is not in it, nor its password
        kind = DatabaseAway if _may_come(error) else ServiceError
        raise kind(f"cannot open the database: {reason}") from error


def _may_come(error: Exception) -> bool:
    """Its server is not up yet, its disk is full or read-only, somebody holds its lock."""
    if isinstance(error, OSError):
        return error.errno in (errno.EROFS, errno.ENOSPC)
    return isinstance(error, UNAVAILABLE_ERRORS) and "unable to open" not in str(error)


def api_certificate(authority: Issued, names: Sequence[str]) -> Certificate:
    """A new certificate of our own CA for the API, with a new key, for LIFETIME; `names` are DNS
    names or addresses, the first is also the common name. Raises ValueError."""
    subject = [("CN", names[0])]
    issued = issue_certificate(authority, subject, server_names=names, lifetime=LIFETIME)
    return Certificate(API, issued.certificate + authority.certificate, issued.key)


def _administrator(config: Config, name: str, admin: str, password: str, api: Certificate) -> None:
    store = open_store(config, make=True)
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


def bootstrap(authority: Issued, control: Issued) -> str:
    """What counts on a node whatever its policy says. By key, which outlives the certificate."""
    key = core.identity(control.certificate.encode()).key
    lines = (
        "# Who writes this node's policy: the control plane, known by its key.",
        ca_line(authority.certificate),
        f"bind key {key} certauth-control",
        f"user certauth-control {CONTROL_RULES}",
    )
    return "\n".join(lines) + "\n"


def control_certificate(config: Config) -> Issued:
    """What we show to nodes, read from the files. Raises OSError."""
    return Issued(config.identity.certificate.read_text(), config.identity.key.read_text())


def check_home(config: Config) -> None:
    """Raises ServiceError where `init` has not finished in this folder: it writes ca.key last."""
    if not (config.home / "ca.key").exists():
        raise ServiceError(f"{config.home} holds no control plane: run `redis-certauth init` first")


def own_certificates(config: Config) -> dict[str, str]:
    """What we show to nodes, and our CAs, which are files: by name."""
    files = {"control": config.identity.certificate, "own_ca": config.home / "ca.crt"}
    if (config.home / issuing.CLIENTS).exists():
        files["clients_ca"] = config.home / issuing.CLIENTS
    return {name: issuing.certificate_of(file.read_text()) for name, file in files.items()}


def renew(config: Config, store: Store) -> None:
    """Renews what our own CA has issued to us, with the same keys, at two thirds of its life. A
    certificate of the API that an administrator has put there is theirs to renew. What cannot be
    written is a warning, as long as the certificate has more than LAST_DAY; then raises OSError, or
    what the store raises."""
    authority = authority_of(config)
    file = config.identity.certificate
    control = control_certificate(config)
    if _old(control.certificate):
        with _warned("what is shown to servers", control.certificate):
            write_private(file, renew_certificate(authority, control, LIFETIME))
    lines = bootstrap(authority, control)  # by the key, which stays
    if (config.home / "bootstrap").read_text() != lines:  # of an older version
        with _warned("the bootstrap file", control.certificate):
            (config.home / "bootstrap").write_text(lines)
    api = store.settings.certificates().get(API)
    if api and _old(api.certificate) and authority.certificate in api.certificate:
        renewed = renew_certificate(authority, Issued(api.certificate, api.key), LIFETIME)
        new = replace(api, certificate=renewed + authority.certificate)
        with _warned("the API's certificate", api.certificate):
            store.settings.put_certificates([new])


@contextmanager
def _warned(what: str, certificate: str) -> Iterator[None]:
    """A read-only or full disk is no reason not to start with a certificate that is good."""
    try:
        yield
    except (OSError, *UNAVAILABLE_ERRORS) as error:
        left = core.identity(certificate.encode()).not_after - time.time()
        if left <= LAST_DAY:
            raise
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else ""
        text = "%s is not renewed, though it ends in %.1f days: %s"
        log.warning(text, what, left / 86_400, why or first_line(error))


def authority_of(config: Config) -> Issued:
    """Our own CA: the first of ca.crt, behind which others may stand that clients of the API are to
    trust. Raises ServiceError where its passphrase is missing or wrong."""
    file, key = config.home / "ca.crt", (config.home / "ca.key").read_text()
    certificates = split_pem(file.read_text())
    if not certificates:
        raise ServiceError(f"{file} holds no certificate: put the control plane's own CA there")
    try:
        return Issued(certificates[0], open_key(key, config.passphrase()))
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
    issued = reissue_certificate(authority, api.certificate, LIFETIME)
    store.settings.put_certificates(
        [Certificate(API, issued.certificate + authority.certificate, issued.key)]
    )


def _old(certificate: str) -> bool:
    found = core.identity(certificate.encode())
    return time.time() > found.not_before + (found.not_after - found.not_before) * 2 / 3


# ---- The way back, and backups ---------------------------------------------------------------


@contextmanager
def at_work(config: Config) -> Iterator[Store]:
    """The store, for somebody on the machine itself: nothing is brought up to date or computed
    again, so nobody waits for it. Refusals come out as ServiceError."""
    check_home(config)
    store = open_store(config, settle=False)
    store.request.act_as(f"uid {os.getuid()}", address="this machine")
    try:
        yield store
    except Refusal as error:
        raise ServiceError(error.description) from error
    finally:
        store.close()
