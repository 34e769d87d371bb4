"""Files that somebody names on the command line, or in a file for `apply`: read by the one reader
(control/pki/reading.py), so that what is wrong with one is said before anything is sent."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from control.pki import reading
from control.pki.guarded import CertificateError

Found = TypeVar("Found")


def certificates(file: Path) -> str:
    """PEM of the certificates of a file. Raises click.ClickException."""
    return reading.render_all(_read(file, reading.certificates_in))


def private_key(file: Path) -> str:
    """PEM of the private key of a file. Raises click.ClickException."""
    return _read(file, reading.key_in)


def lists(file: Path) -> str:
    """The revocation lists of a file as an upload: of one, the base64, which is shorter than PEM.
    Raises click.ClickException."""
    ders = _read(file, reading.lists_in)
    if len(ders) == 1:
        return base64.b64encode(ders[0]).decode()
    return "".join(reading.render(der, "X509 CRL") for der in ders)


def text(file: Path) -> str:
    """A text: UTF-8, or UTF-16 with its mark, as Windows writes it. Raises click.ClickException."""
    try:
        return decoded(file.read_bytes())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{file}: {error}") from error


def decoded(content: bytes) -> str:
    """Raises ValueError."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _read(file: Path, read: Callable[[bytes], Found]) -> Found:
    try:
        return read(file.read_bytes())
    except (OSError, CertificateError) as error:
        raise click.ClickException(f"{file}: {error}") from error
