"""`redis-certauth quickstart`, the real command: what it makes, what it prints, how it ends."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from control.cli import quickstart
from control.cli.quickstart import QuickstartError
from tests.kit.support import free_port, scratch, wait_until

COMMAND = str(Path(sys.executable).parent / "redis-certauth")
START = 40  # seconds: its own deadline for a server that loads its data is 30


def within(folder: Path) -> dict[int, str]:
    """Processes that work in a folder: pid → command."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if folder in Path(os.readlink(process / "cwd")).parents:
                found[int(process.name)] = (process / "comm").read_text().strip()
    return found


class Quickstart:
    """The command on one folder, in a process group of its own, as a terminal starts it."""

    def __init__(self, home: Path, *options: str, redis_port: int = 0, api_port: int = 0) -> None:
        self.home = home
        self.redis_port, self.api_port = redis_port or free_port(), api_port or free_port()
        ports = ["--redis-port", str(self.redis_port), "--api-port", str(self.api_port)]
        ports += ["--ui-port", str(free_port())]
        # In files, so that they can be read while it runs.
        self.stdout, self.stderr = (Path(tempfile.mkdtemp(dir=scratch())) / "file" for _ in "12")
        with self.stdout.open("w") as out, self.stderr.open("w") as err:
            self.process = subprocess.Popen(
                [COMMAND, "quickstart", "--home", str(home), *ports, *options],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, process_group=0,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self.stdout.read_text()

    @property
    def errors(self) -> str:
        return self.stderr.read_text()

    def wait_ready(self) -> "Quickstart":
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"it has ended: {self.output}{self.errors}")
            with suppress(FileNotFoundError):  # one that was killed leaves its own behind
                return bool(self.ready["pid"] == self.process.pid)
            return False

        wait_until(ready, "ready.json is there", START)
        return self

    @property
    def ready(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / "ready.json").read_text())
        return found

    def finish(self) -> int:
        """Waits for its end; its exit status."""
        return self.process.wait(START)

    def stop(self, number: int = signal.SIGTERM, group: bool = False) -> int:
        if group:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.finish()

    def server(self) -> int:
        """The pid of its server."""
        (pid,) = (pid for pid, name in within(self.home).items() if "redis" in name)
        return pid

    # -- clients

    def redis(self, name: str) -> redis.Redis:
        ready = self.ready
        return redis.Redis(
            host=ready["redis_host"], port=ready["redis_port"], ssl=True, decode_responses=True,
            ssl_ca_certs=ready["ca"], ssl_certfile=ready[f"{name}_cert"],
            ssl_keyfile=ready[f"{name}_key"], retry=Retry(NoBackoff(), 0),
        )  # fmt: skip

    def api(self, path: str) -> Any:
        """What the REST API answers to admin's certificate."""
        ready = self.ready
        context = ssl.create_default_context(cafile=ready["ca"])
        context.load_cert_chain(ready["admin_cert"], ready["admin_key"])
        connection = http.client.HTTPSConnection("127.0.0.1", self.api_port, context=context)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        found = json.loads(answer.read())
        connection.close()
        return found


Run = Callable[..., Quickstart]


@contextmanager
def starter(folder: Path) -> Iterator[Run]:
    made: list[Quickstart] = []

    def start(home: Path | None = None, *options: str, **ports: int) -> Quickstart:
        made.append(Quickstart(home or folder / "home", *options, **ports))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.finish()
    for one in made:
        if folder in one.home.parents:
            try:
                wait_until(lambda home=one.home: not within(home), "nothing works in its folder")
            finally:
                for pid in within(one.home):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """`run(home, *options)`: a started command. Whatever is left of it is ended after the test."""
    with starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """One that is up, for tests that do not end it."""
    with starter(tmp_path_factory.mktemp("up")) as start:
        yield start().wait_ready()


def printed(output: str) -> list[str]:
    """The commands of the walk-through, as they stand there."""
    return re.findall(r"^   (\S.*)$", output, re.MULTILINE)


def bash(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20)


# ---- What it makes -------------------------------------------------------------------------------


def test_ready_says_all_that_a_client_needs(up: Quickstart) -> None:
    """Each entry is right, files are there, and only the owner reads it or any key."""
    ready = up.ready
    assert ready["pid"] == up.process.pid
    assert ready["redis_host"] == "127.0.0.1"
    assert ready["redis_port"] == up.redis_port
    assert ready["api_url"] == f"https://127.0.0.1:{up.api_port}"
    assert (ready["admin_username"], bool(ready["admin_password"])) == ("quickstart", True)
    pki = up.home / "pki"
    for name in ("admin", "alice"):
        assert ready[f"{name}_cert"] == str(pki / f"{name}.crt")
        assert ready[f"{name}_key"] == str(pki / f"{name}.key")
    assert ready["ca"] == str(pki / "ca.crt")
    secret = [*up.home.rglob("*.key"), up.home / "ready.json"]
    secret += [*up.home.rglob("*.password"), *up.home.rglob("control.db*")]
    secret += up.home.rglob("clients*.pem")
    assert {stat.S_IMODE(file.stat().st_mode) for file in secret} == {0o600}
    assert len([file for file in secret if file.suffix == ".key"]) == 6
    for file in up.home.rglob("*"):
        if file.is_file() and file not in secret:
            assert b"PRIVATE KEY" not in file.read_bytes()
            assert ready["admin_password"].encode() not in file.read_bytes()


def test_everything_is_on_loopback_and_tls(up: Quickstart) -> None:
    """The server has no plain port; nobody gets in without a certificate."""
    admin = up.redis("admin")
    settings = admin.config_get("*")
    assert (settings["port"], settings["bind"]) == ("0", "127.0.0.1")
    admin.close()
    context = ssl.create_default_context(cafile=up.ready["ca"])
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 the client learns it later
    with (
        pytest.raises(OSError, match="handshake"),
        socket.create_connection(("127.0.0.1", up.redis_port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


def test_each_printed_command_works_as_printed(up: Quickstart) -> None:
    """alice is alice, nobody is refused and it is explained, admin reads the API."""
    check_walk_through(up)


def test_the_folder_may_have_any_name(run: Run, tmp_path: Path) -> None:
    """With blanks and quotes, and what a shell would take for its own; all of it works there."""
    started = run(tmp_path / 'it\'s "a b" $HOME;`x`&*' / "home").wait_ready()
    check_walk_through(started)
    assert started.stop() == 0


def check_walk_through(started: Quickstart) -> None:
    wait_until(lambda: "Ctrl-C" in started.output, "it has printed everything")
    whoami, ping, explain, users = printed(started.output)
    found = bash(whoami)
    assert (found.stdout, found.returncode) == ("alice\n", 0)
    found = bash(ping)
    assert "PONG" not in found.stdout
    assert "closed the connection" in found.stdout + found.stderr
    answer = json.loads(bash(explain).stdout)
    assert (answer["action"], answer["reason"]) == ("refuse", "no_binding")
    assert any("no `bind` or `pattern` line names it" in step for step in answer["trace"])
    names = {user["name"] for user in json.loads(bash(users).stdout)}
    assert names == {"quickstart", "admin", "alice"}


def test_the_policy_came_through_the_rest_api(up: Quickstart) -> None:
    """What the server holds is what the control plane's database says, at the same generation."""
    (database,) = up.api("/v1/bdbs")
    assert database["status"] == "active"
    admin = up.redis("admin")
    held = admin.execute_command("CERTAUTH.POLICY", "STATUS")
    assert held["generation"] == database["generation"]
    assert held["owner"].endswith("/1")
    assert admin.acl_whoami() == "admin"
    alice = up.redis("alice")
    with pytest.raises(redis.exceptions.NoPermissionError):
        alice.flushall()
    for client in (admin, alice):
        client.close()


# ---- A second start ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_a_second_start_comes_back_as_it_was(run: Run, end: str) -> None:
    """Password, certificates, data and policy, even if it was killed; another port is followed."""
    first = run().wait_ready()
    before, alice = first.ready, first.redis("alice")
    alice.set("kept", "yes")
    generation = first.api("/v1/bdbs")[0]["generation"]
    files = {file: file.read_bytes() for file in (first.home / "pki").iterdir()}
    alice.close()
    first.stop(signal.Signals[end])
    wait_until(lambda: not within(first.home), "the server has ended")
    second = run(first.home)
    after = second.wait_ready().ready
    assert second.redis_port != first.redis_port
    assert after["admin_password"] == before["admin_password"]
    assert {file: file.read_bytes() for file in (first.home / "pki").iterdir()} == files
    alice = second.redis("alice")
    assert (alice.get("kept"), alice.acl_whoami()) == ("yes", "alice")
    alice.close()
    (database,) = second.api("/v1/bdbs")
    assert (database["generation"], database["status"]) == (generation, "active")
    assert database["endpoints"][0]["port"] == second.redis_port
    assert len(second.api("/v1/users")) == 3
    assert second.stop() == 0


def test_a_first_start_that_was_killed_does_not_stand_in_the_way(run: Run, tmp_path: Path) -> None:
    """What it had begun of the control plane is made again."""
    started = run().wait_ready()
    started.stop()
    (started.home / "control" / "ca.key").unlink()  # the last file that is written there
    shutil.rmtree(started.home / "pki")
    shutil.rmtree(started.home / "redis")
    started = run().wait_ready()
    assert started.api("/v1/bdbs")[0]["status"] == "active"


def test_a_certificate_that_ends_soon_is_made_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder from a year ago works; the CA is the same."""
    started = run().wait_ready()
    started.stop()
    pki, control = started.home / "pki", started.home / "control"
    config = quickstart.Config(control)
    made = quickstart.Pki(pki, config)
    monkeypatch.setattr(quickstart, "YEAR", quickstart.timedelta(hours=1))
    (pki / "alice.crt").unlink()
    quickstart.Pki(pki, config)
    old = (pki / "alice.crt").read_bytes()
    authority = (pki / "ca.crt").read_bytes()
    started = run().wait_ready()
    assert (pki / "alice.crt").read_bytes() != old
    assert (pki / "ca.crt").read_bytes() == authority
    assert made.ca.certificate.encode() == authority
    alice = started.redis("alice")
    assert alice.acl_whoami() == "alice"
    alice.close()


# ---- How it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)],
    ids=["SIGINT", "Ctrl-C", "SIGTERM"],
)
def test_it_stops_everything_it_started(run: Run, number: int, group: bool) -> None:
    """Exit status 0, nothing said, no process left, ready.json gone."""
    started = run().wait_ready()
    assert within(started.home)
    assert started.stop(number, group) == 0
    assert within(started.home) == {}
    assert not (started.home / "ready.json").exists()
    assert started.errors == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_while_it_starts(run: Run, number: int) -> None:
    """Before all is up there is no exit status 0, and no process left either: a server whose start
    the signal has cut off ends with its parent."""
    started = run()
    wait_until(lambda: within(started.home), "the server is started", START)
    assert started.stop(number) == 1
    wait_until(lambda: within(started.home) == {}, "the server has ended")
    assert not (started.home / "ready.json").exists()
    assert "Traceback" not in started.errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_within_a_finalizer_is_not_lost(number: int) -> None:
    """Python drops what a finalizer raises, so the start goes on, and is ended at its last step."""

    class Dropped:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    assert signal.set_wakeup_fd(-1) == -1, "an earlier test has left `serve` its signals"
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    try:
        check = quickstart.interrupt_by_signals()
        check()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "unraisablehook", lambda _: None)
            made = Dropped()
            del made
        with pytest.raises(KeyboardInterrupt):
            check()
    finally:
        for one, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(one, handler)


def test_its_server_does_not_outlive_it(run: Run) -> None:
    """Not even where it is killed."""
    started = run().wait_ready()
    server = started.server()
    assert started.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: server not in within(started.home), "the server has ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_cannot_save_is_stopped_too(run: Run, number: int) -> None:
    """As where the disk is full, or the folder is gone."""
    started = run().wait_ready()
    alice, server = started.redis("alice"), started.server()
    alice.set("x", "y")
    alice.close()
    shutil.rmtree(started.home / "redis")
    assert started.stop(number) == (0 if number == signal.SIGTERM else -number)
    wait_until(lambda: not Path(f"/proc/{server}").exists(), "the server has ended")


def test_it_says_so_when_the_server_dies(run: Run) -> None:
    """With the server's last words; everything else is stopped."""
    started = run().wait_ready()
    os.kill(started.server(), signal.SIGKILL)
    assert started.finish() == 1
    assert started.errors.startswith("Error: the server has ended; it said last: ")
    assert started.errors.count("\n") == 1
    assert not (started.home / "ready.json").exists()


def test_a_server_that_does_not_start_is_told_with_its_words(run: Run, tmp_path: Path) -> None:
    """As with data that it cannot read: nothing is left running."""
    (tmp_path / "home" / "redis").mkdir(parents=True)
    (tmp_path / "home" / "redis" / "dump.rdb").write_bytes(b"no dump")
    started = run()
    assert started.finish() == 1
    assert started.errors.startswith("Error: the server has ended; it said last: ")
    assert within(started.home) == {}


# ---- Before anything is started ------------------------------------------------------------------


def refused(started: Quickstart, *words: str) -> None:
    """One clear line, exit status 1, nothing started."""
    assert started.finish() == 1
    assert started.output == ""
    assert started.errors.startswith("Error: ")
    assert started.errors.count("\n") == 1
    for word in words:
        assert word in started.errors
    assert within(started.home) == {}
    assert not (started.home / "ready.json").exists()


@pytest.mark.parametrize("which", ["redis", "api"])
def test_a_port_in_use_is_named(run: Run, which: str) -> None:
    """With the option that chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        started = run(None, **{f"{which}_port": port})
        refused(started, f"port {port} on 127.0.0.1: Address already in use", f"--{which}-port")
    assert not started.home.exists()


FAKES = {
    "no TLS": (
        "case $1 in --version) echo 'Redis server v=7.2.4 sha=0:0';; *) "
        "echo '*** FATAL CONFIG FILE ERROR ***'; echo 'Bad directive: tls-port 0'; exit 1;; esac",
        "has no TLS",
    ),
    "too old": ("echo 'Redis server v=7.0.5 sha=0:0'", "is Redis 7.0.5: 7.0.6 or later"),
    "much too old": ("echo 'Redis server v=6.2.14 sha=0:0'", "is Redis 6.2.14: 7.0.6 or later"),
    "something else": ("echo GNU bash 5; exit 0", "is not a Redis or Valkey server; it says: GNU"),
    "silent": ("exit 3", "is not a Redis or Valkey server"),
}


@pytest.mark.parametrize("kind", FAKES)
def test_a_server_that_will_not_do_is_refused(run: Run, tmp_path: Path, kind: str) -> None:
    """The line says what is wrong with which program."""
    text, words = FAKES[kind]
    program = tmp_path / "fake-server"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    started = run(None, "--server", str(program))
    refused(started, str(program), words)
    assert not started.home.exists()


def test_no_server_is_said(run: Run) -> None:
    """With the option that names one."""
    refused(run(None, "--server", "no-such-server"), "'no-such-server'", "--server")


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/below"])
def test_a_folder_that_cannot_be_written_is_named(run: Run, tmp_path: Path, name: str) -> None:
    """A file in its place or above it; a file system where nobody can."""
    (tmp_path / "file").touch()
    started = run(tmp_path / name)
    refused(started, f"cannot write {tmp_path / name}")
    assert (tmp_path / "file").read_bytes() == b""


def test_two_on_one_folder_are_one_too_many(run: Run, up: Quickstart) -> None:
    """The second is refused, and the first goes on."""
    second = run(up.home)
    assert second.finish() == 1
    assert second.output == ""
    assert second.errors == f"Error: another quickstart runs on {up.home}\n"
    assert up.ready["pid"] == up.process.pid
    assert bash(printed(up.output)[0]).stdout == "alice\n"


@pytest.mark.parametrize("options", [("--redis-port", "0"), ("--redis-port", "x"), ("--nosuch",)])
def test_a_bad_option_is_a_usage_error(tmp_path: Path, options: Sequence[str]) -> None:
    """Before anything else happens."""
    command = [COMMAND, "quickstart", "--home", str(tmp_path / "home"), *options]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    assert not (tmp_path / "home").exists()


def test_the_servers_of_the_matrix_will_do(installed: Any) -> None:
    """The check of the server passes what there is, by its name or by its path."""
    assert quickstart.check_server("redis-server") == installed.argv[0]
    assert quickstart.check_server(installed.argv[0]) == installed.argv[0]
    with pytest.raises(QuickstartError, match="not found"):
        quickstart.check_server("/no/such/server")
