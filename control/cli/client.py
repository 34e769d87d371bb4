"""A client of the REST API, for the command line: profiles, one connection, errors with names."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from control.http import verify
from control.pki import pem

# Collections in which the API looks a name up itself.
SEARCHED = ("/v1/users", "/v1/roles", "/v1/redis_acls", "/v1/bdbs", "/v1/certauth/patterns")
# What people call them, where that is not the last part of the path.
CALLED = {"bdbs": "databases", "redis_acls": "ACLs", "profiles": "certificate profiles"}
TIMEOUT = 30.0  # seconds, for each read and write


class ProfileError(Exception):
    """Why there is nobody to ask, or no way to log in, for anyone who typed the command."""


class ApiError(Exception):
    """What the API says where it does not do what it was asked, or that it cannot be reached.
    `status` is 0, and `error_code` is `unreachable`, where there was no answer."""

    def __init__(self, status: int, error_code: str, description: str) -> None:
        super().__init__(f"{description} ({error_code})")
        self.status, self.error_code, self.description = status, error_code, description


@dataclass(frozen=True)
class Profile:
    """Where the API is, by which CA it is known (PEM file; "" for those of the system), and who
    asks: by certificate and key (PEM files), or by user name and password."""

    url: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""
    username: str = ""
    password: str = ""


PATHS = ("ca", "cert", "key")
NAMES = tuple(field.name for field in fields(Profile))


def config_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Where contexts are kept. By the XDG Base Directory Specification."""
    base = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "redis-certauth" / "config.toml"


def current_file(file: Path) -> Path:
    """Beside config.toml: the name of the profile that counts where none is named."""
    return file.with_name("context")


def current(file: Path) -> str:
    """That name; `default` where nobody has chosen one."""
    chosen_one = current_file(file)
    return (chosen_one.read_text().strip() if chosen_one.exists() else "") or "default"


def tables(file: Path) -> dict[str, dict[str, str]]:
    """The profiles of a file as they are written. Raises ProfileError."""
    try:
        found = tomllib.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise ProfileError(f"{file}: {error}") from error
    return {name: one for name, one in found.items() if isinstance(one, dict)}


def _check(file: Path, name: str, profile: Mapping[str, object]) -> None:
    for key, value in profile.items():
        if key not in NAMES or not isinstance(value, str):
            raise ProfileError(
                f"{file}: profile '{name}': '{key}' is not one of the texts {', '.join(NAMES)}"
            )


def profiles(file: Path) -> list[str]:
    """Their names. Raises ProfileError."""
    return list(tables(file))


def load_profile(file: Path, name: str) -> Profile:
    """The table `name` of a TOML file; relative paths are relative to that file's folder. Raises
    ProfileError, also where a file with a password can be read by others."""
    found = tables(file)
    if name not in found:
        raise ProfileError(f"{file}: no profile '{name}'; there are: {', '.join(found) or 'none'}")
    profile = found[name]
    _check(file, name, profile)
    if "password" in profile and file.stat().st_mode & 0o077:
        raise ProfileError(f"{file} holds a password and others can read it: chmod 600 {file}")
    folder = file.parent
    paths = {one: str(folder / Path(profile[one]).expanduser()) for one in PATHS if one in profile}
    return Profile(**(profile | paths))


def chosen(name: str | None, options: Mapping[str, str | None]) -> Profile:
    """The profile by name, else the current one where there is a file, under the options. Raises
    ProfileError."""
    file = config_file()
    there = name or file.exists()
    found = load_profile(file, name or current(file)) if there else Profile()
    profile = overridden(found, options)
    if not profile.url:
        raise ProfileError(
            "no API is named: say --url, set CERTAUTH_URL, or make a profile with "
            "redis-certauth context set default --url https://host:9443"
        )
    return profile


def overridden(profile: Profile, options: Mapping[str, str | None]) -> Profile:
    """With what the command line says instead. Another way to log in replaces the profile's; and a
    password goes nowhere but to where the profile sends it."""
    given = {name: value for name, value in options.items() if value}
    if "username" in given:
        profile = replace(profile, cert="", key="", password="")
    elif "cert" in given:
        profile = replace(profile, key="", username="", password="")
    if "url" in given and given["url"] != profile.url:
        profile = replace(profile, password="")
    return replace(profile, **given)


def called(path: str) -> str:
    """A collection of the API, in words: /v1/redis_acls is ACLs."""
    last = path.rpartition("/")[2]
    return CALLED.get(last, last.replace("_", " "))


class Client:
    """One kept-alive connection; `client("PUT", "/v1/cluster", {…})` is the answer's JSON."""

    def __init__(self, profile: Profile, public: bool = False, timeout: float = TIMEOUT) -> None:
        """`public`: for calls that need no login; `timeout`: seconds, for each read and write.
        Raises ProfileError where the profile is not
        whole, or its files cannot be used."""
        parts = urlsplit(profile.url)
        try:
            port = parts.port or 443
        except ValueError:
            port = 0
        if parts.scheme != "https" or not parts.hostname or not port or parts.path.strip("/"):
            raise ProfileError(f"url: '{profile.url}' is not like https://host:9443")
        self.profile = profile
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        context = _context(profile)
        if not profile.cert and not public:
            if not profile.username:
                raise ProfileError("nobody to log in as: give cert and key, or username")
            login = f"{profile.username}:{profile.password}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        self._connection = http.client.HTTPSConnection(
            parts.hostname, port, timeout=timeout, context=context
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def __call__(self, method: str, path: str, body: object = None, match: str = "") -> Any:
        """`match` is the ETag of the state that a change is for. Raises ApiError."""
        return self._exchange(method, path, body, {"If-Match": match} if match else {})[0]

    def read(self, path: str) -> tuple[Any, str]:
        """What is there, and its ETag. Raises ApiError."""
        return self._exchange("GET", path, None, {})

    def _exchange(
        self, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> tuple[Any, str]:
        text = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, text, {**self._headers, **headers})
            response = self._connection.getresponse()
            status, content = response.status, response.read()
            etag = response.getheader("ETag", "")
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = f"{self.profile.url} cannot be reached: {_trouble(error)}"
            raise ApiError(0, "unreachable", reason) from error
        return _answer(status, content), etag

    def named(self, path: str, name: str) -> dict[str, Any]:
        """The object of a collection by its name, or else by its uid. Raises ApiError 404."""
        if path in SEARCHED:
            found = self("GET", f"{path}?name={quote(name, safe='')}") or self._by_uid(path, name)
        else:
            found = self("GET", path)
        for same in ("name", "uid"):
            those = [one for one in found if str(one[same]) == name]
            if len(those) == 1:
                return dict(those[0])
            if those:
                uids = ", ".join(str(one["uid"]) for one in those)
                raise ApiError(409, "ambiguous_name", f"'{name}' has uids {uids}: say which")
        raise ApiError(404, "not_found", f"'{name}' is not among the {called(path)}")

    def _by_uid(self, path: str, uid: str) -> list[dict[str, Any]]:
        """The object with this uid, where there is one. Raises ApiError."""
        if not (uid.isascii() and uid.isdecimal() and int(uid) < 2**31):
            return []
        try:
            return [self("GET", item(path, int(uid)))]
        except ApiError as error:
            if error.status != 404:
                raise
            return []

    def whoami(self) -> str:
        """The name of the user who asks; "" where it cannot be told. Raises ApiError."""
        if not self.profile.cert:
            return self.profile.username
        text = Path(self.profile.cert).read_text(errors="replace")
        leaf = "".join(pem.split_pem(text))
        return str(self("POST", "/v1/certauth/explain", {"certificate": leaf})["user"] or "")


def _context(profile: Profile) -> ssl.SSLContext:
    try:
        context = verify.verifying(cafile=profile.ca or None)
        if profile.cert:
            context.load_cert_chain(profile.cert, profile.key or None, password=_no_passphrase)
    except OSError as error:  # an ssl.SSLError too
        files = ", ".join(getattr(profile, name) for name in PATHS if getattr(profile, name))
        text = _which(profile) or f"{files}: {error.strerror or error}"
        raise ProfileError(text) from error
    return context


def _trouble(error: Exception) -> str:
    """Why there is no connection, without numbers and lines of OpenSSL's sources."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted: {error.verify_message}; "
            "--ca names the file of the CA that it is from"
        )
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    return str(error)


def _which(profile: Profile) -> str:
    """Which of the files is not as Python's TLS wants it: it takes PEM alone. "" where all are."""
    problems = list[str]()
    for name, of in (("ca", "CERTIFICATE"), ("cert", "CERTIFICATE"), ("key", "PRIVATE KEY")):
        file = getattr(profile, name)
        try:
            content = Path(file).read_bytes() if file else b""
        except OSError as error:
            problems.append(f"{file}: {error.strerror}")
            continue
        if file and f"{of}-----".encode() not in content:
            problems.append(f"--{name} {file}: PEM is wanted, with a {of} in it")
    return "; ".join(problems)


def _no_passphrase() -> str:
    raise ProfileError("the key is encrypted: keep it in a file of its own, in the clear and 0600")


def _answer(status: int, content: bytes) -> Any:
    try:
        found = json.loads(content)
    except ValueError:
        raise ApiError(status, "no_json", f"HTTP {status}, and no JSON: is it this API?") from None
    if status >= 400:
        said = found if isinstance(found, dict) else {}
        code = str(said.get("error_code", f"http_{status}"))
        raise ApiError(status, code, str(said.get("description", f"HTTP {status}")))
    return found


def item(path: str, key: object) -> str:
    """The path of one object of a collection."""
    return f"{path}/{quote(str(key), safe='')}"
