"""Backups: everything that a control plane is made of in one file, and back."""

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from control.domain import issuing
from control.nodes.takeover import ahead
from control.pki.files import write_private
from control.records import API, Certificate, rendered_time
from control.service.config import Config, ServiceError
from control.service.home import (
    api_certificate,
    at_work,
    authority_of,
    check_home,
    database_errors,
    hand_over,
    open_store,
)
from control.store import Restore, dump, load

BACKUP_FILES = ("bootstrap", "ca.crt", "control.crt", "control.key", "ca.key")
ROWS_FILE = "rows.json"
DAMAGE_ERRORS = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


def backup(config: Config, file: Path) -> None:
    """Writes rows, CA and keys into one new file, which is for its owner only (0600); not the
    settings. The control plane may be running: the rows are of one moment. Raises ServiceError."""
    check_home(config)
    with database_errors(config):
        contents = {ROWS_FILE: json.dumps(dump(config.url)).encode()}
    try:
        names = [*BACKUP_FILES, *(one.name for one in config.home.glob("clients*.pem"))]
        contents |= {name: (config.home / name).read_bytes() for name in names}
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
            _pack(raw, contents)
            raw.flush()
            os.fsync(raw.fileno())
    except OSError as error:
        raise ServiceError(f"{error.filename}: {error.strerror}") from error
    with suppress(ServiceError), at_work(config) as store:  # of another version: it tells nobody
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
        api = _api_for_names(config, staged, found, names) if names else None
        _fill(config, found, api)
        for name in sorted(found.files, key=lambda one: one == "ca.key"):  # the CA's key comes last
            (staged / name).rename(config.home / name)
        hand_over(config.home)
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
        store = open_store(there, settle=False)
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
        rows = json.loads(contents.pop(ROWS_FILE))
        for table in rows["tables"].values():
            dict.fromkeys(table["columns"]), table["rows"]
        return _Backup(contents, {"schema": rows["schema"], "tables": rows["tables"]}, made)
    except (*DAMAGE_ERRORS, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ServiceError(f"{file} is not a backup, or a damaged one") from error
    except OSError as error:
        raise ServiceError(f"{error.filename or file}: {error.strerror or error}") from error


def _put(found: _Backup, home: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in found.files.items():
        write_private(home / name, content.decode())


def _fill(config: Config, found: _Backup, api: Certificate | None) -> None:
    come = Restore(found.made, f"uid {os.getuid()}", api)
    with database_errors(config):
        load(config.url, found.rows, come)


def _api_for_names(
    config: Config, staged: Path, found: _Backup, names: Sequence[str]
) -> Certificate:
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
        return api_certificate(authority, names)
    except ValueError as error:
        raise ServiceError(f"--api-name: no certificate can be made: {error}") from error


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
        names = [*(ROWS_FILE, *BACKUP_FILES), *filter(issuing.FILES.fullmatch, tar.getnames())]
        found = ((name, tar.extractfile(name)) for name in names)
        contents = {name: entry.read() for name, entry in found if entry}
        return contents, int(tar.getmember(ROWS_FILE).mtime)
