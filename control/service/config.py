"""Settings: HOME/certauth.toml, and the environment over it."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from control.http.tls import TLS_VERSIONS
from control.nodes.client import Identity


class ServiceError(Exception):
    """Why it does not start, in one line, for the person who typed the command."""


class DatabaseAway(ServiceError):
    """The database cannot be opened now, and may be there by itself later."""


@dataclass(frozen=True)
class Config:
    """Where it lives and listens. `ui_port` is that of the web page, 0 for none. `database` is a
    URL as SQLAlchemy reads it; `tls_min` the least TLS version that is spoken. Seen from `home`:
    `proxy_socket` a path for a proxy to connect to, which names certificates in the header
    `proxy_header`; `audit_file` the event log as JSON lines, none
    where it is empty. The keys of CAs are encrypted where there is a `ca_passphrase`, or a
    `ca_passphrase_file` that has it in a line, as `database_file` has the URL. The log goes to
    `log_file`, or to standard error. `public_url` is where others reach the API: certificates that
    are issued here name it for OCSP and for their list. `sources` is where each setting was found,
    `warnings` what may not have been meant."""

    home: Path
    host: str = "0.0.0.0"  # noqa: S104 (an API is there to be reached)
    port: int = 9443
    database: str = ""
    tls_min: str = "1.2"
    proxy_socket: str = ""
    proxy_header: str = "X-SSL-Client-Escaped-Cert"
    audit_file: str = "audit.jsonl"
    ui_port: int = 0
    ca_passphrase_file: str = ""
    ca_passphrase: str = field(default="", repr=False)
    database_file: str = ""
    log_level: str = "info"
    log_format: str = "text"
    log_file: str = ""
    request_log: bool = False
    public_url: str = ""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def passphrase(self) -> str:
        """ "" where there is none. Raises ServiceError, also where others can read the file."""
        if self.ca_passphrase or not self.ca_passphrase_file:
            return self.ca_passphrase
        return secret(self, "ca_passphrase_file")

    @property
    def proxy(self) -> Path | None:
        """The path of the proxy's socket; None where no proxy is expected."""
        return self.home / self.proxy_socket if self.proxy_socket else None

    @property
    def url(self) -> str:
        """Of the database: as configured, else SQLite's file control.db in `home`."""
        return self.database or f"sqlite:///{self.home / 'control.db'}"

    @property
    def identity(self) -> Identity:
        """The files of the certificate that nodes are shown; they may not be there yet."""
        return Identity(self.home / "control.crt", self.home / "control.key")


SETTINGS = {
    "host": str, "port": int, "database": str, "tls_min": str, "proxy_socket": str,
    "proxy_header": str,
    "audit_file": str, "ui_port": int, "ca_passphrase_file": str, "database_file": str,
    "log_level": str, "log_format": str, "log_file": str, "request_log": bool,
    "public_url": str,
}  # fmt: skip
PREFIX = "CERTAUTH_"
PASSPHRASE = "CERTAUTH_CA_PASSPHRASE"  # noqa: S105 (a variable's name)
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # of systemd: LoadCredential=
# Of the command line, see control/cli; and what Kubernetes sets for a Service of this name.
OTHERS = re.compile(
    r"(PROFILE|URL|CA|CERT|KEY|USERNAME|OUTPUT|CA_PASSPHRASE|(SERVICE|PORT|USER|ROLE|ACL|DB|PATTERN"
    r"|CERT|CRL|SESSION|CLUSTER|LOCKOUT|LOCK|FORECAST|ISSUER|TRUST_SOURCE|RESPONDER|ACCEPT|CONTEXT|APPLY|EXPORT|IMPORT|EXPLAIN|POLICY|STATUS)_.*)"
)
KINDS = {int: "a number", str: "text", bool: "true or false"}
WORDS = {
    "tls_min": TLS_VERSIONS,
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": ("text", "json"),
}


def load_config(home: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """HOME/certauth.toml, then the environment over it: CERTAUTH_ and the setting's name; and then
    what files and systemd's credentials hold. Raises ServiceError naming the setting that is
    wrong."""
    path = home / "certauth.toml"
    try:
        found = tomllib.loads(path.read_text()) if path.exists() else {}
    except (ValueError, OSError) as error:  # no TOML, no UTF-8, no such file
        raise ServiceError(f"{path}: {error}") from error
    for name in found.keys() - SETTINGS.keys():
        raise ServiceError(f"{path}: no setting '{name}'; there are {', '.join(SETTINGS)}")
    sources = dict.fromkeys(found, str(path))
    for name, kind in SETTINGS.items():
        value = environment.get(f"{PREFIX}{name.upper()}")
        if value is not None:
            found[name] = _typed(kind, value)
            sources[name] = f"{PREFIX}{name.upper()}"
    _check(found)
    given = Path(environment.get(CREDENTIALS) or "/nowhere")
    for name in ("database", "ca_passphrase"):
        file = f"{name}_file"
        if not {name, file} & found.keys() and (given / name).exists():
            found[file], sources[file] = str(given / name), f"systemd's credential {name}"
    made = replace(Config(home.absolute()), **found, ca_passphrase=environment.get(PASSPHRASE, ""))
    if made.database_file:
        made = replace(made, database=secret(made, "database_file"))
    return replace(made, sources=sources, warnings=tuple(_warnings(path, found, environment)))


def secret(config: Config, setting: str) -> str:
    """The line in the file that a setting names. Raises ServiceError, also where others can read
    the file."""
    file = config.home / str(getattr(config, setting))
    try:
        found, seen = file.read_text().rstrip("\r\n"), file.stat()
    except (OSError, ValueError) as error:
        raise ServiceError(f"{setting} {file}: {error}") from error
    # One that is mounted for us, as a secret of Kubernetes is, belongs to root and to our group.
    mounted = seen.st_uid != os.getuid()
    if seen.st_mode & (0o037 if mounted else 0o077):
        raise ServiceError(f"{setting}: others can read the secret: chmod 600 {file}")
    if not found:
        raise ServiceError(f"{setting} {file}: it is empty")
    return found


def _typed(kind: type, text: str) -> object:
    if kind is int and text.isdecimal():
        return int(text)
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    return text


def _check(found: Mapping[str, Any]) -> None:
    """Raises ServiceError for the first setting that is wrong, or that contradicts another."""
    for name, kind in SETTINGS.items():
        if name in found and type(found[name]) is not kind:
            hint = SERVICE_LINKS if str(found[name]).startswith("tcp://") else ""
            raise ServiceError(f"setting '{name}': {found[name]!r} is not {KINDS[kind]}{hint}")
    if not 0 < found.get("port", 1) < 65536:
        raise ServiceError(f"setting 'port': {found['port']} is not a port from 1 to 65535")
    if not 0 <= found.get("ui_port", 0) < 65536:
        raise ServiceError(f"setting 'ui_port': {found['ui_port']} is not a port, nor 0 for none")
    for name, words in WORDS.items():
        if name in found and found[name] not in words:
            raise ServiceError(f"setting '{name}': '{found[name]}' is not {' or '.join(words)}")
    if not re.fullmatch("[A-Za-z][A-Za-z0-9-]*", found.get("proxy_header", "X")):
        name = found["proxy_header"]
        raise ServiceError(f"setting 'proxy_header': '{name}' is not like X-Ssl-Client-Cert")
    if found.get("ui_port", 0) == found.get("port", Config.port):
        raise ServiceError("settings 'port' and 'ui_port' are the same port")
    if not re.fullmatch(r"https?://[!-~]+[^/\s]", found.get("public_url") or "http://x.y"):
        url = found["public_url"]
        raise ServiceError(f"setting 'public_url': '{url}' is not like http://pki.acme.example")
    if found.get("database") and found.get("database_file"):
        raise ServiceError("settings 'database' and 'database_file' contradict each other")
    if found.get("log_file") and found["log_file"] == found.get("audit_file", Config.audit_file):
        raise ServiceError("settings 'log_file' and 'audit_file' are the same file")


SERVICE_LINKS = "; Kubernetes sets it for a Service named certauth: enableServiceLinks: false"


def _warnings(
    path: Path, found: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[str]:
    """What is taken, and may not have been meant."""
    for name in sorted(environment):
        known = name.removeprefix(PREFIX)
        if name == known or known.lower() in SETTINGS or OTHERS.fullmatch(known):
            continue
        near = difflib.get_close_matches(known.lower(), SETTINGS, 1)
        meant = f": is {PREFIX}{near[0].upper()} meant?" if near else ""
        yield f"{name} in the environment is not a setting{meant}"
    holds = "@" in str(found.get("database", "")) and path.exists()
    if holds and path.stat().st_mode & 0o077 and "database" in path.read_text():
        yield f"others can read {path}, and the password of the database in it: chmod 600 {path}"
