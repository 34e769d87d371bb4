"""A server's configuration as it lies on this machine: its lines through all `include`s, and
whether the server's user can read what they name."""

import glob
import os
import pwd
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Files that a server opens at its start, and cannot do without.
OPENED = (
    "tls-cert-file", "tls-key-file", "tls-client-cert-file", "tls-client-key-file",
    "tls-ca-cert-file", "tls-dh-params-file", "aclfile",
)  # fmt: skip
DEPTH = 16
# The units that distributions ship, which say where the server may write, and what it may load.
UNITS = ("usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system")
BLANKS = " \t\r\n\v\f\0"
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}


class EnrolError(Exception):
    """Why the server does not start with this configuration, or would not start again, and what to
    do about it."""


@dataclass(frozen=True)
class Line:
    """A line that says something: its file, its number from 0, and its words, the first in small
    letters."""

    file: Path
    number: int
    words: tuple[str, ...]

    @property
    def place(self) -> str:
        """File and line number, from 1, for messages."""
        return f"{self.file}, line {self.number + 1}"


def split(line: str) -> list[str] | None:
    """The words of a line as the server reads them (sdssplitargs), None where it does not: a quote
    that does not end, or text right behind one."""
    words, at = [], 0
    line = line.strip(" \t\r\n")
    while at < len(line):
        if line[at] in BLANKS:
            at += 1
            continue
        word, at = _word(line, at)
        if word is None:
            return None
        words.append(word)
    return words


def _word(line: str, at: int) -> tuple[str | None, int]:
    """The word that begins there, and where it ends."""
    said, quote = "", ""
    while at < len(line):
        one, two = line[at], line[at : at + 2]
        at += 1
        if quote == '"' and (code := re.match(r"\\x([0-9a-fA-F]{2})", line[at - 1 :])):
            said, at = said + chr(int(code[1], 16)), at + 3
        elif (quote == '"' and one == "\\" and len(two) == 2) or (quote == "'" and two == "\\'"):
            said, at = said + (ESCAPED.get(two[1], two[1]) if quote == '"' else "'"), at + 1
        elif quote and one == quote:
            return (said, at) if line[at : at + 1].strip(BLANKS) == "" else (None, at)
        elif not quote and one in "\"'":
            quote = one
        elif not quote and one in BLANKS:
            return said, at
        else:
            said += one
    return (None if quote else said), at


def directives(text: str, file: Path = Path("redis.conf")) -> Iterator[Line]:
    """The lines of one file that say something. Raises EnrolError where the server cannot read
    one."""
    for number, line in enumerate(text.split("\n")):
        if not line.strip(" \t\r\n") or line.lstrip(" \t\r\n").startswith("#"):
            continue
        words = split(line)
        if words is None:
            raise EnrolError(f"{file}, line {number + 1}: a quote does not end where the word ends")
        if words:
            yield Line(file, number, (words[0].lower(), *words[1:]))


def read(path: Path) -> str:
    """A file in whatever encoding; what is not UTF-8 survives being written. Raises OSError."""
    return path.read_bytes().decode(errors="surrogateescape")


def configuration(main: Path, text: str) -> list[Line]:
    """The lines that count, in their order, those of included files where they are included.
    `text` is that of `main`. Raises EnrolError, also for what CONFIG REWRITE would double: it
    writes modules and users into the main file, wherever they stood, and then the server does not
    start."""
    found = list(_through(main, text, (main.resolve(),)))
    for line in found:
        if line.file != main and line.words[0] in ("loadmodule", "user"):
            raise EnrolError(
                f"{line.place}: CONFIG REWRITE, which Sentinels send at each failover, writes this "
                f"`{line.words[0]}` line into {main} as well, and the server does not start with "
                "both: move the line there"
            )
    return found


def _through(file: Path, text: str, above: tuple[Path, ...]) -> Iterator[Line]:
    for line in directives(text, file):
        if line.words[0] != "include":
            yield line
            continue
        for name in line.words[1:]:
            for path in _included(line, name):
                if path.resolve() in above or len(above) > DEPTH:
                    raise EnrolError(f"{line.place}: {path} includes itself")
                yield from _through(path, read(path), (*above, path.resolve()))


def _included(line: Line, name: str) -> list[Path]:
    if not name.startswith("/"):
        raise EnrolError(
            f"{line.place}: {name} is seen from where the server starts: write its absolute path"
        )
    if any(one in name for one in "*?["):
        return [Path(one) for one in sorted(glob.glob(name))]
    if not Path(name).is_file():
        raise EnrolError(f"{line.place}: there is no file {name}")
    return [Path(name)]


def setting(lines: Sequence[Line], *names: str) -> str:
    """The value of the first of these settings that is there, as the server takes it: the last
    line counts. "" where none is."""
    found = {line.words[0]: line.words[1] for line in lines if len(line.words) > 1}
    return next((found[name] for name in names if found.get(name)), "")


# ---- Who reads it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """Who a server runs as."""

    uid: int
    groups: frozenset[int]

    @property
    def name(self) -> str:
        """Of the password database; `uid N` where that does not know it."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


def person(owner: os.stat_result) -> Person:
    """The owner of a file, with all groups that the system knows them to be in."""
    try:
        known = pwd.getpwuid(owner.st_uid)
        groups = os.getgrouplist(known.pw_name, known.pw_gid)
    except KeyError:
        groups = [owner.st_gid]
    return Person(owner.st_uid, frozenset(groups))


def fault(who: Person, path: Path) -> str:
    """Why this person cannot read a file, "" where they can, or where we cannot tell. Modes alone
    are looked at, of the file and of all folders above it."""
    path = Path(os.path.realpath(path))
    for one in [*reversed(path.parents), path]:
        try:
            found = one.stat()
        except FileNotFoundError:
            return f"there is no {one}"
        except PermissionError:
            return "" if os.geteuid() != who.uid else f"{one} may not be looked into"
        needed = stat.S_IROTH if one == path else stat.S_IXOTH
        if who.uid and not found.st_mode & _shifted(needed, who, found):
            what = "" if one == path else f": {one} may not be entered"
            return f"{who.name}, who the server runs as, may not read it{what}"
    return ""


def _shifted(bit: int, who: Person, found: os.stat_result) -> int:
    if found.st_uid == who.uid:
        return bit << 6
    return bit << 3 if found.st_gid in who.groups else bit


def unreadable(lines: Sequence[Line], who: Person) -> Iterator[str]:
    """What of the files that the server opens at its start it cannot read, in words."""
    for name in OPENED:
        value = setting(lines, name)
        if value.startswith("/") and (why := fault(who, Path(value))):
            yield f"{name} {value}: {why}"


# ---- The distribution's unit ---------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """What a systemd unit lets its server do: folders that it may write to, and map code from.
    None where it says nothing."""

    file: Path
    writable: tuple[str, ...] | None
    executable: tuple[str, ...] | None
    home_hidden: bool

    def forbids(self, module: Path, journal: Path) -> Iterator[str]:
        """Which of them it does not let the server use, in words."""
        if self.executable is not None and not _below(module, self.executable):
            yield (
                f"{self.file} lets the server load no module from {module.parent}: put it into "
                "/usr/lib/redis/modules, and say --module"
            )
        hidden = self.home_hidden and _below(journal, ("/home", "/root", "/run/user"))
        if hidden or (self.writable is not None and not _below(journal, self.writable)):
            yield f"{self.file} lets the server write nothing to {journal}: say another --journal"


def _below(path: Path, folders: Sequence[str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def unit_of(conf: Path, root: Path = Path("/")) -> Unit | None:
    """The unit of this machine whose server reads that configuration, with its drop-ins."""
    for folder in UNITS:
        for file in sorted((root / folder).glob("*.service")):
            try:
                text = read(file)
            except OSError:
                continue
            for instance in _instances(file, text, conf):
                names = dict.fromkeys((file.name, file.name.replace("@.", f"@{instance}.")))
                drop_ins = [
                    one
                    for name in names
                    for one in sorted((root / "etc/systemd/system").glob(f"{name}.d/*.conf"))
                ]
                whole = "\n".join([text, *map(read, drop_ins)])
                return _unit(file, whole.replace("%i", instance).replace("%I", instance))
    return None


def _instances(file: Path, text: str, conf: Path) -> Iterator[str]:
    """Of which instance that is the configuration, where the unit is a template such as
    redis-server@.service; "" where it is none. Nothing where it is another server's."""
    for said in re.findall(r"^ExecStart=.*$", text, re.MULTILINE):
        for word in said.split()[1:]:
            pattern = re.escape(word)
            if file.name.endswith("@.service"):
                pattern = re.sub("%[iI]", "(?P<instance>.+)", pattern, count=1)
            if found := re.fullmatch(pattern, str(conf)):
                yield found.groupdict().get("instance", "")


def another(conf: Path, journal: Path) -> Path | None:
    """The configuration beside this one whose server has the same journal, as instances of one
    template unit may: they share their `dir`. One journal is one server's."""
    for other in sorted(conf.parent.glob("*.conf")):
        try:
            lines = [] if other.samefile(conf) else list(directives(read(other), other))
        except (OSError, EnrolError):
            continue  # a file of something else
        folder = Path(setting(lines, "dir"))
        for line in lines:
            named = dict(zip(line.words[2::2], line.words[3::2], strict=False))
            loads = line.words[0] == "loadmodule" and line.words[1:2] != ()
            if loads and "journal" in named and folder / named["journal"] == journal:
                return other
    return None


def _unit(file: Path, text: str) -> Unit:
    def paths(*names: str) -> tuple[str, ...]:
        said = re.findall(rf"^(?:{'|'.join(names)})=(.*)$", text, re.MULTILINE)
        return tuple(one.lstrip("-+") for line in said for one in line.split())

    strict = re.search(r"^ProtectSystem=strict\s*$", text, re.MULTILINE)
    homes = re.search(r"^ProtectHome=(true|yes|1|tmpfs|read-only)\s*$", text, re.MULTILINE)
    writable = ("ReadWritePaths", "ReadWriteDirectories", "StateDirectory")
    return Unit(
        file,
        paths(*writable) if strict else None,
        paths("ExecPaths") if paths("NoExecPaths") else None,
        bool(homes),
    )
