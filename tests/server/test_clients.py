"""The snippets of docs/clients.md, each logged in by certificate; and what that page says of each
client that is refused, whose certificate is renewed, or whose connection is closed."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.kit.node import JOURNAL, Start, authority, load, patch, reasons, status
from tests.kit.policies import OPERATOR
from tests.kit.servers import Server
from tests.kit.support import ROOT, Cert, Pki, RedisServer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLIENTS = ("redis-py", "valkey-glide", "node-redis", "ioredis")
NODE = {"node-redis", "ioredis"}
SOON = 30  # seconds; libraries back off for up to two
ALICE = "CN=alice,O=acme"
# What each needs beside ACL WHOAMI, to connect and to come back.
RIGHTS = {"valkey-glide": "+info +ping"}
# Appended to a snippet in place of its end: for each line it reads it says who it is.
LOOPS = {
    "redis-py": (
        "",
        """
import sys
for _ in sys.stdin:
    try:
        print(client.acl_whoami(), flush=True)
    except redis.RedisError as error:
        print("error:", error, flush=True)
""",
    ),
    "valkey-glide": (
        "    await client.close()\n",
        """\
    import sys
    while await asyncio.to_thread(sys.stdin.readline):
        try:
            print((await client.custom_command(["ACL", "WHOAMI"])).decode(), flush=True)
        except Exception as error:
            print("error:", error, flush=True)
    await client.close()
""",
    ),
    "node-redis": (
        "client.destroy();\n",
        """
import { createInterface } from "node:readline";
for await (const _ of createInterface({ input: process.stdin }))
  await client.sendCommand(["ACL", "WHOAMI"])
    .then(console.log, (error) => console.log("error: " + error.message));
client.destroy();
""",
    ),
    "ioredis": (
        "client.disconnect();\n",
        """
import { createInterface } from "node:readline";
for await (const _ of createInterface({ input: process.stdin }))
  await client.call("ACL", "WHOAMI")
    .then(console.log, (error) => console.log("error: " + error.message));
client.disconnect();
""",
    ),
}


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder with npm's packages for the clients of Node.js, within the ranges of
    tests/server/clients."""
    if not shutil.which("npm"):
        pytest.fail("no npm on PATH: run `make setup-all`")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    if int(version[1:].split(".")[0]) < 20:
        pytest.fail(f"these clients are for Node.js 20 or later, and here is {version.strip()}")
    folder = ROOT / "build" / "clients"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests/server/clients/package.json", folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "node_modules"


def snippet(client: str) -> str:
    """The block below the client's heading."""
    text = (ROOT / "docs/clients.md").read_text()
    found = re.search(rf"^## {client}$.*?```\w+\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@dataclass
class Site:
    """A server that knows alice, and a folder with her files, named as the page names them."""

    node: RedisServer
    folder: Path
    pki: Pki
    operator: str | None = None

    def __post_init__(self) -> None:
        self.admin = self.node.admin(username=self.operator, password=self.operator)
        (self.folder / "ca.crt").write_bytes(self.pki.server_ca.pem)
        self.write(self.pki.ca.issue(ALICE))

    def allow(self, rights: str) -> None:
        rules = f"user alice on ~* &* +acl|whoami {rights}".strip()
        lines = ["set enforce on", authority(self.pki.ca), f"bind subject {ALICE} alice", rules]
        load(self.admin, 1, lines)

    def write(self, cert: Cert) -> None:
        self.cert = cert
        (self.folder / "alice.crt").write_bytes(cert.presented)
        (self.folder / "alice.key").write_bytes(cert.key_pem)

    def renew(self) -> None:
        """Other files in place of the old ones; the old certificate's connections end."""
        old = self.cert.fingerprint
        self.write(self.pki.ca.issue(ALICE))
        now = int(status(self.admin)["generation"])
        patch(self.admin, now, now + 1, [f"+revoke cert {old}"])

    def refused(self, reason: str) -> int:
        return reasons(self.admin)[reason]


@pytest.fixture
def site(start: Start, installed: Server, pki: Pki, tmp_path: Path) -> Site:
    return Site(start(installed, module=JOURNAL), tmp_path, pki)


class Program:
    """A client's snippet at work, asked by lines."""

    def __init__(self, client: str, site: Site, modules: Path) -> None:
        end, loop = LOOPS[client]
        text = snippet(client).replace("6379", str(site.node.port))
        assert end in text
        text = text.replace(end, loop) if end else text + loop
        file = site.folder / ("program.mjs" if client in NODE else "program.py")
        file.write_text(text)
        if client in NODE and not (site.folder / "node_modules").exists():
            (site.folder / "node_modules").symlink_to(modules)
        command = ["node"] if client in NODE else [sys.executable, "-u"]
        self.output, self.errors = site.folder / "output", site.folder / "errors"
        with self.output.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [*command, str(file)], cwd=site.folder, stdin=subprocess.PIPE, stdout=out,
                stderr=err, text=True,
            )  # fmt: skip

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def said(self) -> list[str]:
        return self.output.read_text().splitlines()

    def ask(self) -> str:
        """Who it is now, or "error: …"; "" where it does not answer soon."""
        before = len(self.said)
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        try:
            return str(wait_until(lambda: self.said[before:], "an answer", 5)[0])
        except AssertionError:
            return ""

    def is_alice(self) -> None:
        """Waits for the first thing that it says."""
        wait_until(lambda: self.said or self.process.poll() is not None, "it says who it is", SOON)
        assert self.said[:1] == ["alice"], self.errors.read_text()


@pytest.fixture
def logged_in(
    request: pytest.FixtureRequest, site: Site, modules: Path
) -> Iterator[tuple[str, Site, Program]]:
    client = request.param
    site.allow(RIGHTS.get(client, ""))
    with Program(client, site, modules) as program:
        program.is_alice()
        yield client, site, program


every = pytest.mark.parametrize("logged_in", CLIENTS, indirect=True)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_snippet_says_alice(client: str, site: Site, modules: Path) -> None:
    """As it stands on the page, and it ends by itself."""
    site.allow(RIGHTS.get(client, ""))
    suffix = "mjs" if client in NODE else "py"
    (site.folder / f"snippet.{suffix}").write_text(
        snippet(client).replace("6379", str(site.node.port))
    )
    (site.folder / "node_modules").symlink_to(modules)
    command = ["node" if client in NODE else sys.executable, f"snippet.{suffix}"]
    done = subprocess.run(command, cwd=site.folder, capture_output=True, text=True, timeout=SOON)
    assert (done.stdout, done.returncode) == ("alice\n", 0), done.stderr


def test_redis_cli_says_alice_and_tries_once(site: Site) -> None:
    """The line of the page; one attempt and exit status 1 where it is refused."""
    site.allow("")
    line = snippet("redis-cli").replace("6379", str(site.node.port))

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", line], cwd=site.folder, capture_output=True, text=True)

    assert run().stdout == "alice\n"
    site.write(site.pki.ca.issue("CN=nobody,O=acme"))
    done = run()
    assert done.returncode == 1
    assert "Server closed the connection" in done.stdout + done.stderr
    assert site.refused("no_binding") == 1


# How each ends, or goes on, and what it says.
REFUSED: dict[str, tuple[bool, str]] = {
    "redis-py": (True, "redis.exceptions.ConnectionError: Connection closed by server"),
    "valkey-glide": (True, "ClosingError"),
    "node-redis": (False, "Socket closed unexpectedly"),
    "ioredis": (False, ""),  # the end of a connection is not an error to it, a reset one is
}


@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_refused_client_does(client: str, site: Site, modules: Path) -> None:
    """It gives up with an error, or tries on; it is never anybody."""
    site.allow("")
    site.write(site.pki.ca.issue("CN=nobody,O=acme"))
    ends, words = REFUSED[client]
    with Program(client, site, modules) as program:
        if ends:
            assert wait_until(lambda: program.process.poll() is not None, "it gives up", SOON)
        else:
            wait_until(lambda: site.refused("no_binding") > 4, "it tries on", SOON)
            assert program.process.poll() is None
        assert words in program.errors.read_text()
        assert "alice" not in program.said
        assert site.refused("no_binding") >= 1


@every
def test_a_closed_client_comes_back(logged_in: tuple[str, Site, Program]) -> None:
    """As alice again, without a password, after CLIENT KILL and after a restart of the server."""
    _, site, program = logged_in
    assert site.admin.execute_command("CLIENT", "KILL", "USER", "alice") == 1
    wait_until(lambda: program.ask() == "alice", "it is back", SOON)
    site.node.stop()
    site.node.start()
    wait_until(lambda: program.ask() == "alice", "it is back", SOON)


@every
def test_renewed_files(logged_in: tuple[str, Site, Program]) -> None:
    """Clients that read them for each connection come back with them; those that hold the old
    certificate are refused, and a new client comes in."""
    client, site, program = logged_in
    site.renew()
    if client not in NODE:
        wait_until(lambda: program.ask() == "alice", "it is back with the new certificate", SOON)
        return
    wait_until(lambda: site.refused("revoked") > 2, "it tries with the old certificate", SOON)
    with Program(client, site, ROOT / "build/clients/node_modules") as again:
        again.is_alice()


@pytest.mark.parametrize("rights", ["", "+info"])
def test_glide_needs_two_rights(rights: str, site: Site, modules: Path) -> None:
    """Without INFO it does not come in; without PING it does not come back."""
    site.allow(rights)
    with Program("valkey-glide", site, modules) as program:
        if not rights:
            assert wait_until(lambda: program.process.poll() is not None, "it gives up", SOON)
            assert "no permissions to run the 'info' command" in program.errors.read_text()
            return
        program.is_alice()
        before = int(site.admin.info("stats")["total_connections_received"])
        assert site.admin.execute_command("CLIENT", "KILL", "USER", "alice") == 1

        def attempts() -> int:
            return int(site.admin.info("stats")["total_connections_received"]) - before

        wait_until(lambda: attempts() > 2, "it tries", SOON)
        assert program.ask() != "alice"


def test_an_old_password_is_refused(
    start: Start, installed: Server, pki: Pki, tmp_path: Path
) -> None:
    """Where `default` is off, a client that still sends its password gets an error; without it,
    its certificate is enough."""
    operator = f"user {OPERATOR} on >{OPERATOR} ~* &* +@all"
    node = start(installed, module=JOURNAL, config=[operator, "user default off"])
    site = Site(node, tmp_path, pki, OPERATOR)
    site.allow("")
    assert node.client(site.cert).acl_whoami() == "alice"
    with pytest.raises(redis.AuthenticationError):
        node.client(site.cert, password="old").acl_whoami()
