"""`redis-certauth quickstart`: a server that knows its clients by their certificates, on loopback,
with a CA for development, and what to type to see it."""

import base64
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click

from control import core
from control.ca import Issued, issue, new_ca, write_private
from control.sync import Access, Node, NodeError

MODULE = Path(__file__).resolve().parent.parent / "module" / "certauth.so"
LOOPBACK = "127.0.0.1"
NAMES = ("localhost", LOOPBACK, "::1")
OLDEST = (7, 0, 6)
DEADLINE = 30.0  # seconds until a server answers that loads its data first
YEAR = timedelta(days=365)


class QuickstartError(Exception):
    """Why it does not start, in one line, for the person who typed the command."""


@dataclass(frozen=True)
class Options:
    """What the command line says: where everything is kept, the port of the server, its binary."""

    home: Path
    redis_port: int
    server: str


def run(options: Options) -> None:
    """Runs until SIGINT or SIGTERM. Raises QuickstartError, then nothing was left running."""
    server = check_server(options.server)
    with home(options.home) as directory:
        check_port(options.redis_port)
        pki = Pki(directory / "pki")
        with redis_server(server, directory, options.redis_port, pki) as process:
            access = pki.access("admin", options.redis_port)
            wait_ready(process, access, directory)
            load_policy(access, policy_lines(pki), directory)
            with ready_file(directory, options, pki):
                click.echo(walk_through(options, directory, pki))
                wait_for_end(process, directory)


# ---- Before anything is started ------------------------------------------------------------------


def check_server(name: str) -> str:
    """The path of the server's binary. Refuses one that is too old or has no TLS."""
    # `make` puts the server of Debian's redis-tools beside the interpreter, under its usual name.
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}")
    if path is None:
        raise QuickstartError(f"no server: '{name}' is not found; install one, or give --server")
    found = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", found)
    if version is None:
        raise QuickstartError(f"{path} is no Redis or Valkey server; it says: {found.strip()[:80]}")
    number = tuple(int(part) for part in version.groups()[1:])
    if number < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise QuickstartError(
            f"{path} is {version[1]} {'.'.join(map(str, number))}: {needed} or later is needed"
        )
    # A server without TLS does not know the first of these; none knows the second, so it stops.
    trial = subprocess.run(
        [path, "-"], input="tls-port 0\ncertauth-trial yes\n", capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if "certauth-trial" not in trial.stdout + trial.stderr:
        raise QuickstartError(f"{path} has no TLS: take a build with it, such as Debian's")
    return path


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise QuickstartError(
                f"port {port} on {LOOPBACK}: {reason}; choose another with --redis-port"
            ) from error


@contextmanager
def home(directory: Path) -> Iterator[Path]:
    """Everything is kept below here; one quickstart at a time."""
    directory = directory.absolute()
    try:
        for folder in (".", "pki", "redis", "redis/certauth", "redis/certauth/ca"):
            (directory / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise QuickstartError(f"cannot write {error.filename}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield directory
    except BlockingIOError as error:
        raise QuickstartError(f"another quickstart runs on {directory}") from error
    finally:
        os.close(lock)


# ---- Certificates --------------------------------------------------------------------------------


class Pki:
    """A CA for development and what it has issued, in `NAME.crt` and `NAME.key`. What is there and
    good for another day is kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        made = new_ca([("O", "redis-certauth quickstart"), ("CN", "development CA")], 10 * YEAR)
        self.ca = self._keep("ca", lambda: made)
        self._leaf("server", [("CN", "localhost")], names=NAMES)
        for name in ("admin", "alice", "nobody"):
            self._leaf(name, [("O", "acme"), ("OU", "engineering"), ("CN", name)])

    def _leaf(self, name: str, subject: list[tuple[str, str]], names: tuple[str, ...] = ()) -> None:
        def make() -> Issued:
            return issue(self.ca, subject, server_names=names, client=True, lifetime=YEAR)

        self._keep(name, make)

    def _keep(self, name: str, make: Callable[[], Issued]) -> Issued:
        certificate, key = self.certificate(name), self.key(name)
        if certificate.exists() and key.exists():
            kept = Issued(certificate.read_text(), key.read_text())
            if core.identity(kept.certificate.encode()).not_after > time.time() + 86400:
                return kept
        made = make()
        write_private(key, made.key)
        certificate.write_text(made.certificate)
        return made

    @property
    def ca_line(self) -> str:
        return f"ca {base64.b64encode(ssl.PEM_cert_to_DER_cert(self.ca.certificate)).decode()}"

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def access(self, name: str, port: int) -> Access:
        """To the server, as `name`."""
        return Access(
            LOOPBACK, port, self.certificate("ca"), self.certificate(name), self.key(name)
        )


# ---- The server ----------------------------------------------------------------------------------


def configuration(port: int, pki: Pki) -> str:
    """The server's redis.conf; it is started in its own folder, which relative paths mean. The
    module's arguments may hold no blank: CONFIG REWRITE would lose their quotes."""
    quoted = {name: core.quote(str(path)) for name, path in {
        "module": MODULE, "ca": pki.certificate("ca"), "crt": pki.certificate("server"),
        "key": pki.key("server"),
    }.items()}  # fmt: skip
    return (
        f"bind {LOOPBACK}\nport 0\ntls-port {port}\n"
        f"tls-cert-file {quoted['crt']}\ntls-key-file {quoted['key']}\n"
        f"tls-ca-cert-file {quoted['ca']}\ntls-ca-cert-dir certauth/ca\n"
        f"loadmodule {quoted['module']} journal certauth bootstrap bootstrap\n"
    )


def bootstrap(pki: Pki) -> str:
    """What counts whatever the policy says: the one who writes it."""
    admin = core.identity(pki.certificate("admin").read_bytes())
    lines = (
        pki.ca_line,
        f"bind key {admin.key} admin",
        "user admin on ~* &* +@all",
    )
    return "\n".join(lines) + "\n"


@contextmanager
def redis_server(
    binary: str, directory: Path, port: int, pki: Pki
) -> Iterator[subprocess.Popen[bytes]]:
    """The running server, stopped at the end."""
    folder = directory / "redis"
    (folder / "redis.conf").write_text(configuration(port, pki))
    (folder / "bootstrap").write_text(bootstrap(pki))
    # Its own session: a Ctrl-C is for us, and we stop it. The kernel does where we are killed.
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", binary, "redis.conf"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def died(directory: Path) -> QuickstartError:
    log = (directory / "redis" / "log").read_text(errors="replace").strip().splitlines()
    return QuickstartError("the server has ended; it said last: " + " / ".join(log[-3:]))


def wait_ready(process: subprocess.Popen[bytes], access: Access, directory: Path) -> None:
    end = time.monotonic() + DEADLINE
    while True:
        if process.poll() is not None:
            raise died(directory)
        node = Node(access)
        try:
            node.status()
            return
        except NodeError as error:
            if time.monotonic() > end:
                raise QuickstartError(f"the server does not answer: {error}") from error
            time.sleep(0.05)
        finally:
            node.close()


def policy_lines(pki: Pki) -> list[str]:
    """Who is who: alice by her whole subject, and nobody by no certificate at all."""
    alice = core.identity(pki.certificate("alice").read_bytes())
    return [
        "set enforce on",
        "set tls-client-auth optional",
        pki.ca_line,
        f"bind subject {core.quote(alice.subject)} alice",
        "user alice on ~* &* +@all -@admin -@dangerous",
        "user default adopt off",
    ]


def load_policy(access: Access, lines: list[str], directory: Path) -> None:
    """The first start loads a policy; later ones find it in the node's journal."""
    (directory / "policy").write_text("\n".join(lines) + "\n")
    node = Node(access)
    try:
        if node.status().generation == 0:
            node.load(1, lines)
    except NodeError as error:
        raise QuickstartError(f"the server does not take the policy: {error}") from error
    finally:
        node.close()


# ---- For the person ------------------------------------------------------------------------------


@contextmanager
def ready_file(directory: Path, options: Options, pki: Pki) -> Iterator[None]:
    """ready.json is there exactly while all is up."""
    path = directory / "ready.json"
    facts = {
        "redis_host": LOOPBACK,
        "redis_port": options.redis_port,
        "ca": str(pki.certificate("ca")),
        "admin_cert": str(pki.certificate("admin")),
        "admin_key": str(pki.key("admin")),
        "alice_cert": str(pki.certificate("alice")),
        "alice_key": str(pki.key("alice")),
        "pid": os.getpid(),
    }
    write_private(path, json.dumps(facts, indent=2) + "\n")
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def cli(options: Options, pki: Pki, name: str, *words: str) -> str:
    """A redis-cli command line that can be copied into a shell."""
    access = pki.access(name, options.redis_port)
    files = ["--cacert", access.ca, "--cert", access.certificate, "--key", access.key]
    return shlex.join(["redis-cli", "--tls", "-p", str(access.port), *map(str, files), *words])


def walk_through(options: Options, directory: Path, pki: Pki) -> str:
    program = shlex.quote(sys.argv[0])
    nobody = shlex.quote(str(pki.certificate("nobody")))
    policy = shlex.quote(str(directory / "policy"))
    return f"""
A Redis server listens on {LOOPBACK}:{options.redis_port}. Who a client is, its certificate says.

1. alice's certificate is the ACL user alice: this prints "alice".
   {cli(options, pki, "alice", "ACL", "WHOAMI")}

2. A certificate of the same CA that no line binds is refused: the server closes the connection.
   {cli(options, pki, "nobody", "PING")}

3. Why, and what would change it. The server and this command run the same compiled decision.
   {program} explain {nobody} --policy {policy}

4. What the server has counted.
   {cli(options, pki, "admin", "INFO", "certauth")}

Ctrl-C stops it; the same command brings it back as it was. All of it is in {directory}
"""


def wait_for_end(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Returns at SIGINT or SIGTERM; raises where the server ends by itself."""
    stopped = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    while not stopped:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
            raise died(directory)
