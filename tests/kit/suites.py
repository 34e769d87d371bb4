"""The servers' own test suites, run with the module loaded.

Debian's source packages carry them (`tests/`, in Tcl). `python -m tests.kit.suites` fetches the
suite of each server's version into the cache, beside the server; `Suite` runs units of one over
TLS, against that server."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.kit.servers import Apt, Server, Unavailable, cache, run, servers
from tests.kit.support import MODULE, free_port

# Units that are not run, each by the first pattern that it matches, with the reason.
LEFT_OUT = {
    "unit/moduleapi/*": "needs the modules of tests/modules, which would have to be compiled",
    "unit/cluster*": "starts many servers for each check, and knows nothing of users",
    "unit/fuzzer": "sends random commands, those that stop a server among them",
    "unit/oom-score-adj": "needs rights over /proc that a container may not have",
    "unit/mptcp": "needs a kernel with MPTCP",
    "unit/client-eviction": "takes minutes, and counts the memory of clients to the byte",
    "unit/max*": "takes minutes, and counts memory to the byte",
    "unit/memefficiency": "takes minutes, and counts memory to the byte",
    "unit/hashexpire": "takes minutes, and is about data and nothing else",
    "unit/geo": "takes minutes, and is about data and nothing else",
    "unit/hyperloglog": "takes minutes, and is about data and nothing else",
    "unit/type/list*": "takes minutes, and is about data and nothing else",
    "integration/*cli": "is about redis-cli",
    "integration/*benchmark": "is about redis-benchmark",
    "integration/cross-version-*": "needs a second version of the server",
    "integration/*rdb*": "is about bytes of RDB files",
    "integration/corrupt-dump*": "is about bytes of RDB files",
    "integration/convert-*": "is about bytes of RDB files",
    "integration/aof*": "is about AOF files",
    "integration/dismiss-mem": "is about memory given back to the system",
    "integration/*psync*": "takes minutes, and is about replication offsets",
    "integration/replication": "takes minutes; replication-2 and -4 are run",
    "integration/replication-3": "takes minutes; replication-2 and -4 are run",
    "integration/replication-buffer": "takes minutes, and counts memory to the byte",
    "integration/replication-rdbchannel*": "takes minutes, and counts memory to the byte",
    "integration/dual-channel-replication": "takes minutes, and counts memory to the byte",
    "vectorset/*": "needs Python modules of its own",
}

# Checks that are to fail with the module, whatever the policy says of strangers, by "server: name".
DIFFERENT = {
    "*: TLS: Auto-authenticate *": "the module switches the server's own login by certificate off",
    "*: TLS: * user cannot auto-authenticate via certificate": "the same",
    "*: TLS: Certificate CN with an embedded NUL *": "the module refuses such a certificate",
    "*: TLS: Verify tls-cert-file is also used as a client cert if none specified": (
        "the replica has another certificate than its master, and the policy does not know its key"
    ),
    "*: Check if maxclients works refusing connections": (
        "expects nine of ten connections; the module keeps two for administrators"
    ),
    "*: SLOWLOG - Certain commands are omitted that contain sensitive information": (
        "counts the entries; the module reads a TLS setting that changes, which is one (CONFIG GET)"
    ),
    "redis-7.0.*: ACL load and save*": (
        "expects that ACL LOAD closes its own client; the module's closes those alone that lose"
    ),
}

# What a program of `src/` is in the copy that is run. With the module each server finds in its
# folder the journal that was prepared, before its first client comes. Checks may start two in one.
PROGRAM = """\
#!/bin/sh
folder=$(sed -n 's/^dir "\\{{0,1\\}}\\([^"]*\\).*/\\1/p' "$1" 2>/dev/null)
if [ -n "$CERTAUTH_JOURNAL" ] && [ -d "$folder" ] && ! grep -q '^loadmodule.*certauth' "$1"; then
    cp -r "$CERTAUTH_JOURNAL" "$folder/certauth.$$"
    echo "loadmodule {module} journal certauth.$$" >>"$1"
fi
exec {argv} "$@"
"""
TOOLS = ("server", "cli", "benchmark", "check-aof", "check-rdb", "sentinel")


def folder_of(server: Server) -> Path:
    return cache() / "suites" / str(server)


def missing() -> str | None:
    """What a suite needs of this machine and is not there."""
    if shutil.which("tclsh") is None:
        return "tclsh (package tcl) is missing: run `make test-all`"
    said = subprocess.run(
        ["tclsh"], input="package require tls", capture_output=True, text=True
    ).stderr
    return "Tcl's TLS (package tcl-tls) is missing: run `make test-all`" if said else None


def fetch() -> list[str]:
    """Brings the suites that are not in the cache. Returns a line for each that cannot be had."""
    wanted = [server for server in servers() if not folder_of(server).exists()]
    if not wanted:
        return []
    missed = []
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".fetch") as name:
        work = Path(name)
        try:
            apt = Apt(work, "deb-src")
            listing = run("apt-cache", *apt.options, "madison", "redis", "valkey")
        except Unavailable as problem:
            return [f"not run: suites of {', '.join(map(str, wanted))}: {problem}"]
        for server in wanted:
            try:
                bring(server, apt, listing, work / str(server))
            except (Unavailable, OSError) as problem:
                missed.append(f"not run: suite of {server}: {problem}")
    return missed


def bring(server: Server, apt: Apt, listing: str, work: Path) -> None:
    """Fetches one suite by way of `work`. Debian may have patched a server since: what counts is
    the suite as its authors released it, which outlives Debian's own part of a source package."""
    found = re.search(
        rf"^ *{server.name} \| *((?:\d+:)?{re.escape(server.version)}[-+]\S*) ",
        listing,
        re.MULTILINE,
    )
    if not found:
        raise Unavailable("no source package of that version")
    (work / "suite").mkdir(parents=True)
    how = ["--quiet", "--download-only", "--tar-only", "source", f"{server.name}={found[1]}"]
    run("env", "-C", str(work), "apt-get", *apt.options, *how)
    (archive,) = work.glob("*.orig.tar.*")
    parts = ["--wildcards", "*/tests", "*/utils"]
    run("tar", "-xf", str(archive), "-C", str(work / "suite"), "--strip-components=1", *parts)
    folder_of(server).parent.mkdir(exist_ok=True)
    (work / "suite").rename(folder_of(server))


@dataclass(frozen=True)
class Outcome:
    """What came of a run: checks passed; those that failed and are not DIFFERENT, each as "name in
    unit"; how many servers said that they run the module."""

    passed: int
    failed: frozenset[str]
    loaded: int

    @property
    def units(self) -> list[str]:
        """The units in which a check failed."""
        return sorted({name.rpartition(" in ")[2] for name in self.failed})


class Suite:
    """A copy of the suite of `server` in `work`. Its servers listen on loopback."""

    def __init__(self, server: Server, work: Path) -> None:
        self.server, self.tree = server, work
        # It looks for free ports from here on, each with one above it by 10,000, for a cluster.
        self.port = 10_000 + free_port() % 20_000
        shutil.copytree(folder_of(server), work, symlinks=True, dirs_exist_ok=True)
        (work / "src").mkdir()
        program = Path(server.argv[-1])
        for tool in TOOLS:
            name = f"{server.name}-{tool}"
            path = program.with_name(name)
            argv = (*server.argv[:-1], str(path) if path.exists() else shutil.which(name) or name)
            script = work / "src" / name
            script.write_text(PROGRAM.format(module=MODULE, argv=" ".join(argv)))
            script.chmod(0o755)
        self._make_certificates()

    def _make_certificates(self) -> None:
        """By the suite's own script, but for the DH group: it would look for a prime of its own."""
        (self.tree / "tests/tls").mkdir(exist_ok=True)
        group = ["-algorithm", "DH", "-pkeyopt", "group:ffdhe2048"]
        file = self.tree / f"tests/tls/{self.server.name}.dh"
        run("openssl", "genpkey", "-genparam", *group, "-out", str(file))
        run("env", "-C", str(self.tree), "bash", "utils/gen-test-certs.sh")

    def units(self) -> list[str]:
        """Those that are run, in the suite's order."""
        listed = self._helper("--list-tests")[1].split()
        return [unit for unit in listed if not any(fnmatch(unit, pattern) for pattern in LEFT_OUT)]

    def run(self, units: Iterable[str], journal: Path | None = None) -> Outcome:
        """Runs units, with the module and a copy of this journal if there is one. Checks that the
        suite itself calls slow are left out. AssertionError if the run came to no end."""
        wanted = [word for unit in units for word in ("--single", unit)]
        status, said = self._helper(
            "--tls", "--durable", "--dont-clean", "--clients", "2", "--timeout", "600",
            "--tags", "-slow -large-memory", "--baseport", str(self.port), "--portcount", "100",
            *wanted, journal=journal,
        )  # fmt: skip
        said += f"exit status {status}"
        undone = set(wanted[1::2]) - set(re.findall(r"done\]: (\S+) \(", said))
        assert not undone, f"{undone}; {said[-2000:]}"
        errors = re.findall(r"^\[err\]: .*", said, re.MULTILINE)
        failed = re.findall(r"^\[err\]: (.*) in tests/(\S+)\.tcl$", said, re.MULTILINE)
        assert (len(failed), bool(failed)) == (len(errors), bool(status)), (errors, said[-2000:])
        logs = (self.tree / "tests/tmp").glob("*/stdout")
        return Outcome(
            len(re.findall(r"^\[ok\]", said, re.MULTILINE)),
            frozenset(
                f"{name} in {unit}"
                for name, unit in failed
                if not any(fnmatch(f"{self.server}: {name}", pattern) for pattern in DIFFERENT)
            ),
            sum("certauth runs on" in log.read_text(errors="replace") for log in logs),
        )

    def _helper(self, *options: str, journal: Path | None = None) -> tuple[int, str]:
        """The suite's program: its exit status, and what it printed, without colours."""
        shutil.rmtree(self.tree / "tests/tmp", ignore_errors=True)
        (self.tree / "tests/tmp").mkdir()
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "tclsh", "tests/test_helper.tcl", *options],
            cwd=self.tree, env={**os.environ, "CERTAUTH_JOURNAL": str(journal or "")},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            said = process.communicate()[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the suite's servers with it
        return process.returncode, re.sub(r"\x1b\[[0-9;]*m", "", said)


if __name__ == "__main__":
    unavailable = fetch()
    print(*(folder_of(one) for one in servers() if folder_of(one).exists()), *unavailable, sep="\n")
