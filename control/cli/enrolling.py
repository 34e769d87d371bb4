"""A certificate for a token that the platform keeps in a file: a workload's first, and all that
follow. Nothing secret has to be there before.

The key is made here and stays here: it is the same for as long as its file is there, so that
a reader of both files has a pair that fits. A token can be used once for a key, so each renewal
needs a new token in the file, which the platform puts there; until then it is tried again.
"""

import logging
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from control.cli import client, renewal
from control.cli.client import ApiError, Client, ProfileError
from control.cli.renewal import Files, RenewalError
from control.pki.files import replace_file
from control.pki.keys import KeyType, is_for_key
from control.pki.request import new_request

log = logging.getLogger(__name__)
ENROL = "/v1/certauth/enrol"
TOKEN_BYTES = 64 << 10
RUN_SECONDS = 60.0  # for the command that is told of a new certificate


@dataclass(frozen=True)
class Wish:
    """Where the API is (`profile`, without a login), where the token is, where key and certificate
    are to be, and which command is to be told."""

    profile: client.Profile
    token: Path
    files: Files
    key_type: KeyType
    run: tuple[str, ...] = ()


def enrol(wish: Wish) -> Files:
    """Has a certificate issued for the token and the key that is there, or for a new one, and puts
    it in its place by one rename. Raises RenewalError, ApiError, ProfileError."""
    files = wish.files
    try:
        key = renewal.private_key(files.key) if files.key.exists() else ""
        made = new_request(wish.key_type, key)
        body = {"token": _token(wish.token), "csr": made.certificate}
        with Client(wish.profile, public=True) as ask:
            found = str(ask("POST", ENROL, body)["certificate"])
        if not is_for_key(found, made.key):
            raise RenewalError("the API has answered with a certificate for another key")
        if not key:
            _write_key(files.key, made.key)
        replace_file(files.certificate, found, files.key.stat())
    except OSError as error:
        raise RenewalError(f"{error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise RenewalError(f"{files.key}: {error}") from error
    if wish.run:
        _tell(wish.run)
    return files


def _token(file: Path) -> str:
    with open(file, encoding="utf-8", errors="replace") as source:
        found = source.read(TOKEN_BYTES + 1).strip()
    if not found or len(found) > TOKEN_BYTES:
        raise RenewalError(f"{file}: there is no token in it")
    return found


def _write_key(file: Path, text: str) -> None:
    """Before the certificate: what is there without the other is not a pair yet."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w") as out:
        out.write(text)


def _tell(command: tuple[str, ...]) -> None:
    """Its failure is the command's own: the certificate is there."""
    try:
        done = subprocess.run(command, timeout=RUN_SECONDS, check=False, stdin=subprocess.DEVNULL)
        problem = f"exit status {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        log.warning("%s: %s", command[0], problem)


def keep(wish: Wish, stop: threading.Event) -> None:
    """Enrols, unless a certificate for the key is there, and renews in time until `stop`. What goes
    wrong is logged and tried again."""
    failures = 0
    while not _is_there(wish.files) and not stop.is_set():
        try:
            log.info("%s is there", enrol(wish).certificate)
        except (RenewalError, ApiError, ProfileError) as error:
            failures += 1
            log.warning("%s is not there yet: %s", wish.files.certificate, error)
            wait = renewal.patience(client.Profile(cert=str(wish.files.certificate)), failures)
            renewal.wait_until(time.time() + wait, stop)
    if not stop.is_set():
        shown = client.Profile(cert=str(wish.files.certificate))
        renewal.keep(shown, "", stop, partial(enrol, wish))


def _is_there(files: Files) -> bool:
    try:
        certificate = files.certificate.read_text()
        return is_for_key(certificate, renewal.private_key(files.key))
    except (OSError, ValueError, RenewalError):
        return False
