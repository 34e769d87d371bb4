"""`redis-certauth quickstart`: a server that knows its clients by their certificates and the
control plane beside it, on loopback, set up through the REST API as an operator would.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import click

from control import service
from control.cli.client import ApiError, Client, Profile
from control.domain import issuing
from control.nodes.client import Access, Node, NodeError
from control.pki.files import write_private
from control.pki.issue import chain_to_present, issue_certificate
from control.pki.pem import Issued
from control.policy import core
from control.service import Config, ServiceError

# In a checkout; or where the Debian package puts it.
MODULES = (
    Path(__file__).resolve().parents[2] / "module" / "certauth.so",
    Path("/usr/lib/redis/modules/certauth.so"),
)
MODULE = next((path for path in MODULES if path.exists()), MODULES[-1])
LOOPBACK = "127.0.0.1"
NAMES = ("localhost", LOOPBACK, "::1")
ADMIN = "quickstart"  # who logs in by password; `admin` does by certificate
OLDEST = (7, 0, 6)
DEADLINE = 30.0  # seconds until a server answers that loads its data first
YEAR = timedelta(days=365)


class QuickstartError(Exception):
    """Why it does not start, in one line, for the person who typed the command."""


@dataclass(frozen=True)
class Options:
    """What the command line says: where everything is kept, the ports, the server's binary."""

    home: Path
    redis_port: int
    api_port: int
    ui_port: int
    server: str


def run(options: Options) -> None:
    """Runs until SIGINT or SIGTERM. Raises QuickstartError, then nothing was left running."""
    check_interrupt = interrupt_by_signals()
    server = check_server(options.server)
    check_port(options.redis_port, "--redis-port")
    check_port(options.api_port, "--api-port")
    check_port(options.ui_port, "--ui-port")
    with home(options.home) as directory, contextlib.ExitStack() as stack:
        options = replace(options, home=directory)
        control = directory / "control"
        config = Config(control, LOOPBACK, options.api_port, ui_port=options.ui_port)
        password = administrator(config)
        pki = Pki(directory / "pki", config)
        process = stack.enter_context(redis_server(server, options, pki))
        wait_ready(process, pki.access(options.redis_port), config, directory)
        try:
            stack.enter_context(service.running(config))
        except ServiceError as error:
            raise QuickstartError(str(error)) from error
        url, ca = f"https://{LOOPBACK}:{options.api_port}", str(pki.certificate("ca"))
        profile = Profile(url, ca, username=ADMIN, password=password)
        try:
            with Client(profile) as ask:
                set_up(ask, options, pki)
        except ApiError as error:
            raise QuickstartError(str(error)) from error
        stop = service.stop_on_signal()  # before anybody can read that all is up
        check_interrupt()
        stack.enter_context(ready_file(options, pki, password))
        click.echo(walk_through(options, pki, password))
        while not stop.wait(0.2):
            if process.poll() is not None:
                raise died(directory)


# ---- Before anything is started ------------------------------------------------------------------


def interrupt_by_signals() -> Callable[[], None]:
    """From now on SIGINT and SIGTERM raise KeyboardInterrupt. Python drops an exception that a
    finalizer raises, and a signal may come within one: the function that this returns raises it
    again. Called in the main thread."""
    interrupted = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    return check


def check_server(name: str) -> str:
    """The path of the server's binary. Refuses one that is too old or has no TLS."""
    # `make` puts the server of Debian's redis-tools beside the interpreter, under its usual name.
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}")
    if path is None:
        raise QuickstartError(f"no server: '{name}' is not found; install one, or give --server")
    found = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", found)
    if version is None:
        raise QuickstartError(
            f"{path} is not a Redis or Valkey server; it says: {found.strip()[:80]}"
        )
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
    if not MODULE.exists():
        raise QuickstartError(f"no module: there is no {MODULE}; install its Debian package")
    return path


def check_port(port: int, option: str) -> None:
    """Raises QuickstartError where nothing can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise QuickstartError(
                f"port {port} on {LOOPBACK}: {reason}; choose another with {option}"
            ) from error


@contextmanager
def home(directory: Path) -> Iterator[Path]:
    """Everything is kept below here; one quickstart at a time."""
    directory = directory.absolute()
    try:
        for folder in (".", "control", "pki", "redis", "redis/certauth", "redis/certauth/ca"):
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


def fresh(certificate: Path) -> bool:
    """Whether a certificate is good for another day."""
    return core.identity(certificate.read_bytes()).not_after > time.time() + 86400


class Pki:
    """What the CAs of the control plane, its own and that of clients, have issued for this, in
    `NAME.crt` and `NAME.key`. What is there and good for another day is kept."""

    def __init__(self, directory: Path, config: Config) -> None:
        self.directory = directory
        self.ca = service.authority_of(config)
        self.certificate("ca").write_text(self.ca.certificate)
        self._leaf(self.ca, "server", [("CN", "localhost")], names=NAMES)
        clients = issuing.Authority(config.home, config.passphrase)()
        self.certificate("clients").write_text(clients.certificate)
        for name in ("admin", "alice", "nobody"):
            self._leaf(clients, name, [("O", "acme"), ("OU", "engineering"), ("CN", name)])

    def _leaf(
        self, ca: Issued, name: str, subject: list[tuple[str, str]], names: tuple[str, ...] = ()
    ) -> None:
        certificate, key = self.certificate(name), self.key(name)
        if certificate.exists() and key.exists() and fresh(certificate):
            return
        made = issue_certificate(ca, subject, server_names=names, client=True, lifetime=YEAR)
        write_private(key, made.key)
        certificate.write_text(made.certificate + chain_to_present(ca))

    def subject(self, name: str) -> str:
        """The subject of somebody's certificate."""
        return core.identity(self.certificate(name).read_bytes()).subject

    def certificate(self, name: str) -> Path:
        """The path of somebody's certificate."""
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The path of the key of that certificate."""
        return self.directory / f"{name}.key"

    def access(self, port: int) -> Access:
        """To the server."""
        return Access(LOOPBACK, port, self.ca.certificate)


# ---- The server ----------------------------------------------------------------------------------


def configuration(options: Options, pki: Pki) -> str:
    """The server's redis.conf; it is started in its own folder, which relative paths mean. The
    module's arguments may hold no blank: CONFIG REWRITE would lose their quotes."""
    files = (pki.certificate("server"), pki.key("server"), pki.certificate("ca"), MODULE)
    certificate, key, ca, module = (core.quote(str(path)) for path in files)
    return (
        f"bind {LOOPBACK}\nport 0\ntls-port {options.redis_port}\n"
        f"tls-cert-file {certificate}\ntls-key-file {key}\n"
        f"tls-ca-cert-file {ca}\ntls-ca-cert-dir certauth/ca\n"
        # Else a server that cannot save (a full disk) would go on, no matter who tells it to stop.
        "shutdown-on-sigterm force\n"
        f"loadmodule {module} journal certauth bootstrap bootstrap\n"
    )


@contextmanager
def redis_server(binary: str, options: Options, pki: Pki) -> Iterator[subprocess.Popen[bytes]]:
    """The running server, stopped at the end."""
    folder = options.home / "redis"
    (folder / "redis.conf").write_text(configuration(options, pki))
    shutil.copyfile(options.home / "control" / "bootstrap", folder / "bootstrap")
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
    """The error of a server that has ended, with its last words."""
    log = (directory / "redis" / "log").read_text(errors="replace").strip().splitlines()
    return QuickstartError("the server has ended; it said last: " + " / ".join(log[-3:]))


def wait_ready(
    process: subprocess.Popen[bytes], access: Access, config: Config, directory: Path
) -> None:
    """Waits until the server answers. Raises QuickstartError where it ends, or after DEADLINE
    seconds."""
    end = time.monotonic() + DEADLINE
    while True:
        if process.poll() is not None:
            raise died(directory)
        node = Node(access, config.identity)
        try:
            node.status()
            return
        except NodeError as error:
            if time.monotonic() > end:
                raise QuickstartError(f"the server does not answer: {error}") from error
            time.sleep(0.05)
        finally:
            node.close()


# ---- The control plane ---------------------------------------------------------------------------


def administrator(config: Config) -> str:
    """The password of the first administrator, who is made at the first start, as the CA of clients
    is."""
    file = config.home / "admin.password"
    if not (config.home / "ca.key").exists():
        for left in config.home.iterdir():  # by a first start that was killed
            left.unlink()
        write_private(file, secrets.token_urlsafe(18))
    try:
        if not (config.home / "ca.key").exists():
            service.init(config, "quickstart", ADMIN, file.read_text(), NAMES)
        if not (config.home / issuing.CLIENTS).exists():
            service.create_ca(config, "", "ec", again=False)
    except ServiceError as error:
        raise QuickstartError(str(error)) from error
    return file.read_text()


def set_up(ask: Client, options: Options, pki: Pki) -> None:
    """At the first start three steps: certificate logins on, the database, its users. Later only
    the port is brought up to date. Returns when the server has the policy."""
    endpoints = [{"addr": [LOOPBACK], "port": options.redis_port}]
    found = ask("GET", "/v1/bdbs")
    if not found:
        first_set_up(ask, endpoints, pki)
    elif [{"addr": one["addr"], "port": one["port"]} for one in found[0]["endpoints"]] != endpoints:
        ask("PUT", f"/v1/bdbs/{found[0]['uid']}", {"endpoints": endpoints})
    end = time.monotonic() + DEADLINE
    while (database := ask("GET", "/v1/bdbs")[0])["status"] != "active":
        for node in database["nodes"]:
            if node["origin"] == "leaving":  # the same server, where it listened before
                ask("DELETE", f"/v1/bdbs/{database['uid']}/nodes/{node['address']}")
        if time.monotonic() > end:
            status = database["status_text"] or database["status"]
            raise QuickstartError(f"the server does not follow the control plane: {status}")
        time.sleep(0.05)


def first_set_up(ask: Client, endpoints: list[dict[str, Any]], pki: Pki) -> None:
    """Makes the database and its users by the REST API, as an operator would."""
    ask("PUT", "/v1/cluster", {"mtls_certificate_authentication": True})
    database = {
        "name": "quickstart",
        "endpoints": endpoints,
        "tls_mode": "enabled",
        "enforce_client_authentication": "enabled",
        # Built-in roles and ACLs: an admin may do all, a db_member all that is not dangerous.
        "roles_permissions": [
            {"role_uid": 1, "redis_acl_uid": 1},
            {"role_uid": 4, "redis_acl_uid": 3},
        ],
    }
    ask("POST", "/v1/bdbs", database)
    for name, role in (("admin", 1), ("alice", 4)):
        user = {"name": name, "role_uids": [role], "auth_method": "certificate"}
        ask("POST", "/v1/users", user | {"certificate_subject_line": pki.subject(name)})


# ---- For the person ------------------------------------------------------------------------------


@contextmanager
def ready_file(options: Options, pki: Pki, password: str) -> Iterator[None]:
    """ready.json is there exactly while all is up."""
    path = options.home / "ready.json"
    facts = {
        "redis_host": LOOPBACK,
        "redis_port": options.redis_port,
        "api_url": f"https://{LOOPBACK}:{options.api_port}",
        "ui_url": f"https://{LOOPBACK}:{options.ui_port}/ui/",
        "admin_username": ADMIN,
        "admin_password": password,
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
    files = ["--cacert", pki.certificate("ca"), "--cert", pki.certificate(name)]
    port, key = str(options.redis_port), str(pki.key(name))
    return shlex.join(["redis-cli", "--tls", "-p", port, *map(str, files), "--key", key, *words])


def curl(options: Options, pki: Pki, name: str, path: str, *more: str) -> str:
    """A command line that asks the REST API by somebody's certificate."""
    url = f"https://{LOOPBACK}:{options.api_port}{path}"
    files = ["--cacert", pki.certificate("ca"), "--cert", pki.certificate(name)]
    return shlex.join(["curl", "-sS", *map(str, files), "--key", str(pki.key(name)), *more, url])


def explain_body(pki: Pki, name: str) -> str:
    """The body of a call that asks how somebody's certificate is decided."""
    return json.dumps({"certificate": pki.certificate(name).read_text(), "bdb_uid": 1})


def walk_through(options: Options, pki: Pki, password: str) -> str:
    """What the quickstart prints: what runs where, and what to try."""
    body = options.home / "explain.json"
    body.write_text(explain_body(pki, "nobody"))
    explain = curl(options, pki, "admin", "/v1/certauth/explain", "--json", f"@{body}")
    redis, api = (f"{LOOPBACK}:{port}" for port in (options.redis_port, options.api_port))
    page = f"https://{LOOPBACK}:{options.ui_port}/ui/"
    return f"""
A Redis server listens on {redis}, the REST API on {api}.
Who a client is, its certificate says.

1. alice's certificate is the ACL user alice: this prints "alice".
   {cli(options, pki, "alice", "ACL", "WHOAMI")}

2. A certificate of the same CA that no line binds is refused: the server closes the connection.
   {cli(options, pki, "nobody", "PING")}

3. Why, and what would change it. The API and the server run the same compiled decision.
   {explain}

4. The REST API knows its administrators by their certificates too.
   {curl(options, pki, "admin", "/v1/users")}

A browser shows all of it at {page}
Log in as {ADMIN}, with the password in {options.home / "ready.json"}.
It does not know the CA of that certificate yet: {pki.certificate("ca")}.

Ctrl-C stops all of it; the same command brings it back as it was.
"""
