"""The servers that the module is tested on: the installed one, and those of Debian's newer suites.

`python -m tests.kit.servers` fetches what is missing into a cache (`$CERTAUTH_CACHE`, by default
`~/.cache/redis-certauth/servers`) and prints what there is. For each release line (Redis 8.6,
Valkey 9.1, ...) that a suite carries, the newest package is unpacked there beside the libraries it
needs, its own libc included, and started through that libc's loader: nothing is installed. The
mirror is the one this machine's apt uses, and apt checks the signatures.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUITES = ("trixie", "sid", "experimental")
PACKAGES = {"redis": "redis-tools", "valkey": "valkey-tools"}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Unavailable(Exception):
    """A server cannot be had here; the text says why."""


@dataclass(frozen=True)
class Server:
    """A server program: `argv` and then its options start it."""

    name: str  # "redis" or "valkey"
    version: str  # "8.0.6"
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"

    @property
    def release(self) -> tuple[int, ...]:
        """The version to compare with: `server.release >= (7, 2)`."""
        return tuple(int(part) for part in self.version.split(".")[:3])

    @property
    def line(self) -> str:
        return f"{self.name}-{self.release[0]}.{self.release[1]}"


def cache() -> Path:
    default = Path.home() / ".cache" / "redis-certauth" / "servers"
    return Path(os.environ.get("CERTAUTH_CACHE", default))


def identify(argv: tuple[str, ...]) -> Server:
    """Asks a program what it is. Unavailable where it does not run or is not a server."""
    try:
        run = subprocess.run([*argv, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Unavailable(f"{argv[-1]} does not run: {problem}") from problem
    # Valkey 7.2 does not say its name.
    found = re.match(r"(?:(Redis|Valkey) s|S)erver v=([0-9.]+)", run.stdout)
    if not found:
        raise Unavailable(f"{argv[-1]} is not a server: {(run.stdout + run.stderr).strip()[:200]}")
    return Server((found[1] or "Valkey").lower(), found[2], argv)


def installed() -> Server:
    """The server on PATH, or what set-up put beside this interpreter."""
    path = f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}"
    program = shutil.which("redis-server", path=path)
    if program is None:
        raise Unavailable("no redis-server on PATH: run `make build`")
    return identify((program,))


def unpacked(root: Path) -> Server:
    """The server in a folder of unpacked packages."""
    loader = next(root.glob("usr/lib/*/ld-linux*.so.*"), None)
    program = next((p for p in root.glob("usr/bin/*-server")), None)
    if loader is None or program is None:
        raise Unavailable(f"{root} holds no server")
    return identify((str(loader), "--library-path", str(loader.parent), str(program)))


@functools.cache
def survey() -> tuple[tuple[Server, ...], tuple[str, ...]]:
    """What can be started here, the installed server first, and what the cache holds in vain."""
    there, broken = [installed()], []
    for folder in sorted(cache().glob("*-*.*")):
        try:
            there.append(unpacked(folder))
        except Unavailable as problem:
            broken.append(f"not run: {folder.name}: {problem}")
    return tuple(there), tuple(broken)


def servers() -> tuple[Server, ...]:
    """All that can be started here, the installed one first. Fetches nothing."""
    return survey()[0]


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        # apt's warnings come before its errors.
        reason = next((line for line in lines if line.startswith("E:")), lines[-1])
        raise Unavailable(f"{argv[0]}: {reason}")
    return done.stdout


def targets() -> list[tuple[str, str]]:
    """Where this machine's own apt configuration has Debian from, and of which release."""
    if not shutil.which("apt-get"):
        raise Unavailable("no apt-get on this machine")
    wanted = ("Created-By: Packages", "Origin: Debian", "Label: Debian")
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", *wanted)
    found = re.findall(r"^(\S+) (\S+)$", listed, re.MULTILINE)
    if not found:
        raise Unavailable("apt knows no Debian mirror on this machine (or run `apt-get update`)")
    return found


def mirror() -> str:
    """The Debian mirror of this machine."""
    return targets()[0][0]


class Apt:
    """An apt of its own, in `work`: it knows the suites, and no package is installed in it, so
    that it resolves a package down to its libc. The machine's apt is left alone. With `deb-src` it
    knows the sources of the suites and of the machine's own release."""

    def __init__(self, work: Path, kind: str = "deb", suites: Sequence[str] = SUITES) -> None:
        self.archives = work / "archives"
        for folder in (work / "lists/partial", self.archives / "partial"):
            folder.mkdir(parents=True)
        (work / "status").touch()
        # A machine without Debian's keyring has apt's own keys to check with, or refuses.
        signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
        site = mirror()
        own = [name for where, name in targets() if where == site and kind == "deb-src"]
        (work / "sources.list").write_text(
            "".join(f"{kind} {signed}{site} {suite} main\n" for suite in {*suites, *own})
        )
        settings = {
            "Dir::State::Lists": work / "lists",
            "Dir::State::status": work / "status",
            "Dir::Cache": work,
            "Dir::Cache::archives": self.archives,
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Acquire::Languages": "none",
            # No hooks of the machine's: they are about the machine's own packages and cache.
            "APT::Update::Post-Invoke": "",
        }
        self.options = [f"-o{name}={value}" for name, value in settings.items()]
        run("apt-get", *self.options, "--quiet", "update", "--error-on=any")

    def newest(self) -> dict[str, tuple[str, str]]:
        """For each release line ("redis-8.6"): the package and version, and the suite it is in."""
        listing = run("apt-cache", *self.options, "madison", *PACKAGES.values())
        lines: dict[str, tuple[str, str]] = {}
        for row in reversed(listing.splitlines()):  # of each package newest first, so: last wins
            package, version, source = (field.strip() for field in row.split("|"))
            name = next(name for name, tools in PACKAGES.items() if tools == package)
            upstream = re.match(r"(?:\d+:)?(\d+\.\d+)", version)
            suite = next((suite for suite in SUITES if f" {suite}/main " in source), None)
            if upstream and suite:
                lines[f"{name}-{upstream[1]}"] = (f"{package}={version}", suite)
        return lines

    def unpack(self, package: str, suite: str, root: Path) -> None:
        """Fetches a package with all it depends on, and unpacks them in `root`."""
        for old in self.archives.glob("*.deb"):
            old.unlink()
        how = ["--quiet", "--yes", "--download-only", "--no-install-recommends", "-t", suite]
        run("apt-get", *self.options, *how, "install", package)
        for archive in sorted(self.archives.glob("*.deb")):
            run("dpkg", "-x", str(archive), str(root))
        # Under this name the program is the server.
        for checker in list(root.glob("usr/bin/*-check-rdb")):
            (checker.parent / checker.name.replace("check-rdb", "server")).symlink_to(checker.name)
        shutil.rmtree(root / "usr/share", ignore_errors=True)


def fetch() -> list[str]:
    """Brings every release line that is not in the cache yet. Returns a line for each one that
    could not be had."""
    missed = []
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".fetch") as name:
        work = Path(name)
        try:
            apt = Apt(work)
            lines = apt.newest()
        except Unavailable as problem:
            return [f"not run: servers of {', '.join(SUITES)} not in the cache: {problem}"]
        for line, (package, suite) in sorted(lines.items()):
            if (cache() / line).exists() or line == installed().line:
                continue
            try:
                apt.unpack(package, suite, work / line)
                unpacked(work / line)
                (work / line).rename(cache() / line)
            except (Unavailable, OSError) as problem:
                missed.append(f"not run: {line}: {problem}")
    return missed


if __name__ == "__main__":
    unavailable = fetch()
    found, broken = survey()
    print(*found, *unavailable, *broken, sep="\n")
