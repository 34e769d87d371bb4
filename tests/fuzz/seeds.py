"""Inputs to begin with, made of the tests' own cases: what they parse, and what they refuse.

`python -m tests.fuzz.seeds FOLDER` writes FOLDER/<target>/<hash>.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from tests.core import (
    test_attributes,
    test_differential,
    test_journal,
    test_line,
    test_pattern,
    test_text,
)

ROOT = Path(__file__).resolve().parents[2]


# About the leaf of policy.c.
PARTS = [
    "set enforce on\nbind attributes OU=eng,O=acme a\nbind attributes O=acme b\nuser a on",
    "set enforce on\nbind attributes CN=alice,OU=eng a\nbind extension 1.2.3=cart a\nuser a on",
    "set enforce on\nbind attribute O=acme a\nset several-names same\nbind uri x a b\nuser a on",
]


def strings(value: object) -> Iterator[bytes]:
    """All texts of a case, however deep."""
    if isinstance(value, str):
        yield value.encode(errors="surrogatepass")
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from strings(each)


def cases(*modules: ModuleType) -> Iterator[bytes]:
    for module in modules:
        for function in vars(module).values():
            for mark in getattr(function, "pytestmark", []):
                if mark.name == "parametrize":
                    yield from strings(mark.args[1])


def documented() -> Iterator[bytes]:
    """The policies of docs/policy.md."""
    for block in (ROOT / "docs/policy.md").read_text().split("```policy\n")[1:]:
        yield block.split("```")[0].encode()


def certificates() -> Iterator[bytes]:
    yield from test_differential.vectors()
    yield from test_differential.generated(300)
    for rdns in test_attributes.FITS.values():
        yield test_attributes.subject(*rdns)
    for content in (*test_attributes.TEXTS.values(), *test_attributes.NO_TEXTS.values()):
        yield test_attributes.holding(content, b"cart")


def changes() -> list[bytes]:
    cast = sorted({*cases(test_line, test_pattern)})
    return [*documented(), *map(str.encode, PARTS), *cast]


def patches() -> Iterator[bytes]:
    """A policy, and a change that takes its first line and brings another."""
    every = changes()
    for base, other in pairwise(every):
        first = base.split(b"\n")[0]
        yield base + b"\0-" + first + b"\n+" + other.split(b"\n")[0]


def journals() -> Iterator[bytes]:
    alice, user = test_journal.ALICE, test_journal.USER
    sum_after = test_journal.digest_of(alice, user)
    added = test_journal.record(1, "+" + alice, "+" + user, digest=sum_after)
    yield b"\0" * 6 + test_journal.sealed(added)
    for number, text in enumerate(changes()):
        lines = b"".join(b"+" + line + b"\n" for line in text.splitlines())
        head = b"\1" + number.to_bytes(4, "big")[1:] + bytes([number % 8, 0])
        yield head + lines + b"\0-" + lines[1:]


def seeds() -> dict[str, Iterable[bytes]]:
    return {
        "certificate": certificates(),
        "text": cases(test_text),
        "policy": patches(),
        "journal": journals(),
    }


def write(folder: Path) -> None:
    for target, inputs in seeds().items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for data in inputs:
            (folder / target / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
