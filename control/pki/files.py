"""Writing files whole: a reader sees the old content or the new, and after a crash one of them is
there."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read: our user; and where that is root, the owner of
    the folder, who runs what reads it."""
    _write_whole(path, text)


def rewrite_file(path: Path, text: str) -> None:
    """Replaces a file that exists: its owner and mode stay, and a symbolic link still leads to
    it."""
    path = path.resolve(strict=True)
    _write_whole(path, text, path.stat())


def replace_file(path: Path, text: str, owner: os.stat_result, mode: int = 0o644) -> None:
    """Replaces a file, as `rewrite_file`; a new file gets the owner of `owner`, and this mode."""
    path = path.resolve()
    if path.exists():
        rewrite_file(path, text)
    else:
        _write_whole(path, text, owner, mode)


def _write_whole(
    path: Path, text: str, like: os.stat_result | None = None, mode: int | None = None
) -> None:
    """With the owner of `like`, and its mode unless another one is given; by default as
    `write_private`."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # mkstemp's mode is 0600. Bytes that were not UTF-8 when they were read stay what they were.
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            if like is None and not os.geteuid():
                folder = path.parent.stat()
                os.fchown(handle, folder.st_uid, folder.st_gid)
            if like:
                os.fchown(handle, like.st_uid, like.st_gid)
                os.fchmod(handle, stat.S_IMODE(like.st_mode) if mode is None else mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
