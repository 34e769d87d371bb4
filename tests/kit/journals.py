"""A journal of the core, without a server."""

from pathlib import Path
from typing import Any

from control._core import ffi, lib


class Refused(Exception):
    """The core said no; the text is its reason."""


def span(text: bytes) -> Any:
    """A borrowed span: `text` must outlive it."""
    return ffi.new("span *", {"ptr": ffi.from_buffer("uint8_t[]", text), "len": len(text)})[0]


def text_of(value: Any) -> str:
    return bytes(ffi.buffer(value.ptr, value.len)).decode()


class Journal:
    """An open journal and the policy that it keeps."""

    def __init__(self, directory: Path) -> None:
        why, last = ffi.new("fault *"), ffi.new("stamp *")
        self.policy = ffi.gc(lib.policy_new(), lib.policy_free)
        self.handle = lib.journal_open(str(directory).encode(), self.policy, last, why)
        if not self.handle:
            raise Refused(ffi.string(why.text).decode())
        self.last = (last.generation, last.epoch, ffi.string(last.owner).decode())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        lib.journal_close(self.handle)

    def append(
        self, *added: str, remove: tuple[str, ...] = (), generation: int = 1, owner: str = "prod/3"
    ) -> None:
        """Puts a change on disk and, once that is done, in force."""
        change = lib.patch_new(self.policy, lib.FROM_JOURNAL)
        for put, lines in ((lib.patch_remove, remove), (lib.patch_add, added)):
            for line in map(str.encode, lines):
                put(change, span(line), 1)
        assert lib.patch_finish(change, False), problem(change)
        why = ffi.new("fault *")
        stamp = ffi.new("stamp *", {"generation": generation, "epoch": 2, "owner": owner.encode()})
        if not lib.journal_append(self.handle, self.policy, change, stamp, why):
            lib.patch_free(change)
            raise Refused(ffi.string(why.text).decode())
        lib.policy_commit(self.policy, change)

    def look(self) -> None:
        """Looks whether it is still on the disk, and writes again what was lost."""
        why = ffi.new("fault *")
        if not lib.journal_look(self.handle, self.policy, why):
            raise Refused(ffi.string(why.text).decode())

    @property
    def lines(self) -> set[str]:
        rules = (lib.policy_rule(self.policy, i) for i in range(lib.policy_rules(self.policy)))
        return {text_of(lib.rule_text(rule)) for rule in rules}

    @property
    def digest(self) -> str:
        return digest_text(lib.policy_digest(self.policy))

    @property
    def damage(self) -> str:
        return said(lib.journal_damage(self.handle))

    @property
    def notice(self) -> str:
        return said(lib.journal_notice(self.handle))

    @property
    def empty(self) -> bool:
        return bool(lib.journal_empty(self.handle))


def said(text: Any) -> str:
    return ffi.string(text).decode() if text else ""


def problem(change: Any) -> str:
    return said(lib.patch_problem_text(change, 0, ffi.new("size_t *")))


def digest_text(value: Any) -> str:
    text = ffi.new("char[]", lib.DIGEST_TEXT)
    lib.digest_print(ffi.new("digest *", value), text)
    return said(text)
