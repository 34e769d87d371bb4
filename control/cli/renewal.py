"""A client's own certificate, in its files: how it comes there, and how it is renewed in time.

A renewed certificate is for the same key, and is put in place of the old one by one rename: so
anyone who reads the two files, one after the other and at whatever moment, has a pair that fits.
Who wants another key asks for a certificate in new files.
"""

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from control.cli import client
from control.cli.client import ApiError, Client, ProfileError
from control.pki.files import rewrite_file
from control.pki.keys import KeyType, is_for_key
from control.pki.pem import Issued, split_pem
from control.pki.request import new_request
from control.policy import core

log = logging.getLogger(__name__)

CERTIFICATES = "/v1/certauth/certificates"
DUE = 2 / 3  # of its life
JITTER = 0.05  # of its life: as much earlier at most, so that not all come at once
RETRY, PATIENCE = 10.0, 3600.0  # seconds, at first and at most
LOOK = 60.0  # seconds: a machine that slept finds out what time it is


class RenewalError(Exception):
    """Why there is no new certificate, for anyone who typed the command."""


@dataclass(frozen=True)
class Files:
    """Where the certificate and its key are; they may be one file."""

    certificate: Path
    key: Path


def request(ask: Client, files: Files, user: str, kind: str, key_type: KeyType) -> None:
    """Makes a key, and has a certificate issued for it: for `user`, or for who asks, by the
    certificate profile `kind`. Neither file may be there yet; none is where it fails. Raises
    RenewalError, ApiError."""
    for file in (files.certificate, files.key):
        if file.exists() or file.is_symlink():
            raise RenewalError(f"{file} is there already, and nothing is overwritten")
        if not os.access(file.parent, os.W_OK):
            raise RenewalError(f"{file} cannot be written: is there the folder {file.parent}?")
    made = new_request(key_type)
    certificate = _issued(ask, made, {"user": user} if user else {}, kind)
    written: list[Path] = []
    try:
        for file, text, mode in (
            (files.key, made.key, 0o600), (files.certificate, certificate, 0o644)
        ):  # fmt: skip
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            written.append(file)
            with open(handle, "w") as out:
                out.write(text)
    except OSError as error:
        for file in written:
            file.unlink(missing_ok=True)
        raise RenewalError(f"{files.certificate}, {files.key}: {error.strerror}") from error


def renew(profile: client.Profile, kind: str) -> Files:
    """Renews the certificate that a profile logs in with, in its place. Raises RenewalError,
    ApiError, ProfileError."""
    files = Files(Path(profile.cert), Path(profile.key or profile.cert))
    try:
        key = private_key(files.key)
        made = new_request("ec", key)
        with Client(profile) as ask:
            certificate = _issued(ask, made, {}, kind)
        one_file = files.key.resolve() == files.certificate.resolve()
        rewrite_file(files.certificate, certificate + (key if one_file else ""))
    except OSError as error:
        raise RenewalError(f"{error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise RenewalError(f"{files.certificate}, {files.key}: {error}") from error
    return files


def _issued(ask: Client, made: Issued, whose: dict[str, str], kind: str) -> str:
    """The certificate, PEM, with those above it that are to be presented."""
    body = {"csr": made.certificate, **whose} | ({"profile": kind} if kind else {})
    found = str(ask("POST", CERTIFICATES, body)["certificate"])
    if not is_for_key(found, made.key):
        raise RenewalError("the API has answered with a certificate for another key")
    return found


def private_key(file: Path) -> str:
    """The private key within a PEM file. Raises OSError, RenewalError."""
    key = r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----\n?"
    found = re.search(key, file.read_text(), re.DOTALL)
    if found is None:
        raise RenewalError(f"{file}: there is no private key in it")
    return found[0]


def _public(text: bytes) -> bytes:
    """The certificates within a PEM text."""
    return "".join(split_pem(text.decode(errors="replace"))).encode()


def end_of(files: Files) -> int:
    """When the certificate ends, in seconds since 1970."""
    return core.identity(_public(files.certificate.read_bytes())).not_after


# ---- In time -------------------------------------------------------------------------------------


def keep(
    profile: client.Profile,
    kind: str,
    stop: threading.Event,
    obtain: Callable[[], Files] | None = None,
) -> None:
    """Renews, or calls `obtain`, at two thirds of the certificate's life, and again and again until
    `stop`. What goes wrong is logged and tried again, later and later, also when the certificate
    has ended: it may be replaced by hand. Raises RenewalError where there is no certificate at the
    start."""
    failures, at = 0, due(profile)
    obtain = obtain or partial(renew, profile, kind)
    while not wait_until(at, stop):
        try:
            if time.time() >= (at := due(profile)) or failures:
                files = obtain()
                log.info("%s is renewed", files.certificate)
                at = max(due(profile), time.time() + RETRY)  # a CA that ends gives ever less
            failures = 0
        except (RenewalError, ApiError, ProfileError) as error:
            failures += 1
            at = time.time() + patience(profile, failures)
            log.warning("%s is not renewed: %s", profile.cert, error)


def due(profile: client.Profile) -> float:
    """When to renew what a profile logs in with, in seconds since 1970. Raises RenewalError."""
    try:
        found = core.identity(_public(Path(profile.cert).read_bytes()))
    except OSError as error:
        raise RenewalError(f"{error.filename}: {error.strerror}") from error
    except core.CoreError as error:
        raise RenewalError(f"{profile.cert}: {error}") from error
    part = DUE - random.uniform(0, JITTER)  # noqa: S311 (jitter)
    return found.not_before + (found.not_after - found.not_before) * part


def patience(profile: client.Profile, failures: int) -> float:
    """Longer each time; but several times within what is left."""
    try:
        left = core.identity(_public(Path(profile.cert).read_bytes())).not_after - time.time()
    except (OSError, core.CoreError):
        left = 0.0
    most = min(PATIENCE, max(RETRY, left / 6)) if left > 0 else PATIENCE
    pause = min(most, RETRY * 2.0 ** min(failures - 1, 10))
    return pause * random.uniform(0.5, 1)  # noqa: S311 (jitter)


def wait_until(at: float, stop: threading.Event) -> bool:
    """Until that time of the clock; true where it is to stop."""
    while (left := at - time.time()) > 0:
        if stop.wait(min(left, LOOK)):
            return True
    return stop.is_set()
