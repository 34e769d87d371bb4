"""Settings: HOME/certauth.toml, and the environment over it."""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from control.http.tls import TLS_VERSIONS
from control.nodes.client import Identity


class ServiceError(Exception):
    """Why it does not start, in one line, for the person who typed the command."""


@dataclass(frozen=True)
class Config:
    """Where it lives and listens. `ui_port` is that of the web page, 0 for none. `database` is a
    URL as SQLAlchemy reads it; `tls_min` the least TLS version that is spoken. Seen from `home`:
    `proxy_socket` a path for a proxy to connect to, which names certificates in the header
    `proxy_header`; `audit_file` the event log as JSON lines, none
    where it is empty. The keys of CAs are encrypted where there is a `ca_passphrase`, or a
    `ca_passphrase_file` that has it in a line."""

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
    "proxy_header": str,
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
    if not re.fullmatch("[A-Za-z][A-Za-z0-9-]*", found.get("proxy_header", "X")):
        name = found["proxy_header"]
        raise ServiceError(f"setting 'proxy_header': '{name}' is not like X-Ssl-Client-Cert")
    found["ca_passphrase"] = environment.get(PASSPHRASE, "")
    return replace(Config(home.absolute()), **found)
