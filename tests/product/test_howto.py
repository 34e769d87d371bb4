"""docs/howto-*.md: the commands of each page, in their order, on a control plane and a server; then
the client of the page is in, or is out. Other pages of that kind are run where their subject is
tested: see RUN_BY."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from control import service
from control.cli.main import main
from control.service import Config
from tests.kit.node import Start, who
from tests.kit.pages import blocks, page, section
from tests.kit.plane import enrolled_node, initialised
from tests.kit.rest import ADMIN
from tests.kit.servers import Server
from tests.kit.support import ROOT, Cert, Pki, RedisServer, wait_until

BIN = Path(sys.executable).parent

RUN_BY = {
    "howto-node-certificates.md": "tests/control/nodes/test_six.py",
    "howto-passwords.md": "tests/product/test_operating.py",
    "howto-rotate-ca.md": "tests/control/domain/test_rotation.py",
    "howto-upgrade.md": None,  # has no command to run
}


@dataclass
class Place:
    """A control plane with the database `orders` of one server, and a folder with a profile."""

    config: Config
    server: RedisServer
    folder: Path

    def run(self, script: str) -> str:
        """What it prints. Fails where a command of it does. Our own commands run in this process,
        since a second is too long for each."""
        if "$(" in script:
            return self.shell(script)
        said = [self.one(line) for line in script.replace("\\\n", "").splitlines()]
        return "".join(said)

    def one(self, line: str) -> str:
        command, _, file = line.partition(" > ")
        words = shlex.split(command)
        if words[0] != "redis-certauth":
            return self.shell(line)
        done = CliRunner().invoke(main, words[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        if file:
            Path(file).write_text(done.stdout)
        return done.output

    def shell(self, script: str) -> str:
        path = f"{BIN}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder,
            env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def write(self, **files: bytes) -> None:
        for name, content in files.items():
            (self.folder / name.replace("__", "-").replace("_", ".")).write_bytes(content)


@pytest.fixture
def place(
    tmp_path: Path, start: Start, installed: Server, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    config = initialised(tmp_path / "home")
    service.create_ca(config, "", "ec", again=False)
    folder = tmp_path / "here"
    profile = folder / "redis-certauth/config.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text(
        f'[default]\nurl = "https://127.0.0.1:{config.port}"\nca = "{config.home}/ca.crt"\n'
        f'username = "{ADMIN[0]}"\npassword = "{ADMIN[1]}"\n'
    )
    profile.chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.chdir(folder)
    server = enrolled_node(start, installed, config.home, pki)
    with service.running(config):
        made = Place(config, server, folder)
        made.write(servers_pem=pki.server_ca.pem)
        made.run(
            f"redis-certauth db create orders --endpoint 127.0.0.1:{server.port} "
            "--server-ca servers.pem --tls-mode enabled --grant 'DB Member=Full Access' "
            "--grant 'DB Viewer=Full Access'"
        )
        yield made


@dataclass(frozen=True)
class Client:
    """What the page's client shows, and who it is then."""

    san: str
    user: str
    files: Callable[[Cert, Cert], dict[str, bytes]]


PAGES = {
    "howto-cert-manager.md": Client(
        "dns:billing.shop.svc", "billing",
        lambda ca, leaf: {"clients_crt": ca.pem, "tls_crt": leaf.pem},
    ),
    "howto-spire.md": Client(
        "uri:spiffe://acme/ns/shop/sa/cart", "cart",
        lambda ca, leaf: {"bundle_pem": ca.pem, "tls_crt": leaf.pem},
    ),
    "howto-adcs.md": Client(
        "upn:jane@corp.acme.example", "jane",
        lambda ca, leaf: {"ca_cer": der(ca), "jane_crt": leaf.pem},
    ),
    "howto-vault.md": Client(
        "dns:billing.shop.example", "billing",
        lambda ca, leaf: {"vault__ca_pem": ca.pem, "billing_pem": leaf.pem + ca.pem},
    ),
}  # fmt: skip


def der(cert: Cert) -> bytes:
    return cert.certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("name", PAGES)
def test_the_client_of_the_page_is_in(place: Place, pki: Pki, name: str) -> None:
    """Its certificate is nobody before, and the user of the page after the last command."""
    client = PAGES[name]
    leaf = pki.ca.issue("CN=client", san=[client.san])
    place.write(**client.files(pki.ca, leaf))
    assert who(place.server, leaf) is None
    *commands, explain = blocks(f"docs/{name}", "sh")
    for command in commands:
        place.run(command)
    wait_until(lambda: who(place.server, leaf) == client.user, f"it is {client.user}", 30)
    assert f"decision: login {client.user}\n" in place.run(explain)


def test_a_stolen_key_is_out(place: Place) -> None:
    """The session that the thief has is closed, the certificate and the key are refused, and the
    user's new certificate is in."""
    place.run(
        "redis-certauth user create alice --subject CN=alice,O=acme --role 'DB Member'\n"
        "redis-certauth cert request --user alice"
    )

    def ask(name: str, *words: str) -> str:
        keys = ["--cert", f"{place.folder}/{name}.crt", "--key", f"{place.folder}/{name}.key"]
        return place.server.cli(*keys, *words).stdout.strip()

    wait_until(lambda: ask("alice", "ACL", "WHOAMI") == "alice", "alice is in", 30)
    steps = blocks("docs/howto-stolen-key.md", "sh")
    place.run(steps[0])
    assert ask("alice", "PING") != "PONG"
    place.run(steps[1])
    assert "alice" in place.run(steps[2])
    place.run(steps[3])
    wait_until(lambda: ask("alice-new", "ACL", "WHOAMI") == "alice", "the new one is in", 30)
    assert ask("alice", "PING") != "PONG"


def console_commands() -> Iterator[tuple[str, str]]:
    """Page and command: what `sh` blocks do not hold, since it wants another program's server."""
    for path in sorted(ROOT.glob("docs/howto-*.md")):
        for block in blocks(f"docs/{path.name}", "console"):
            joined = block.replace("\\\n", "")
            yield from ((path.name, line) for line in joined.splitlines() if line)


def test_a_command_that_is_not_run_is_named(tmp_path: Path, pki: Pki) -> None:
    """Commands against a PKI of the reader's: ours are parsed, OpenSSL's run on such a file, and
    all others are named in docs/assurance.md, with the reason."""
    named = section("docs/assurance.md", "Commands of the how-to pages that are not run")
    listed = set(re.findall(r"^\| `(howto-[\w-]+\.md)` \| `([^`]+)`", named, re.MULTILINE))
    met = set()
    chain = pkcs12.serialize_key_and_certificates(
        b"jane", pki.alice.key, pki.alice.certificate, None, serialization.NoEncryption()
    )
    (tmp_path / "jane.pfx").write_bytes(chain)
    for name, line in console_commands():
        words = line.split()
        if words[0] == "redis-certauth":
            assert parsed(words[1:]) == [], line
        elif words[0] == "openssl":
            again = [*shlex.split(line), "-passin", "pass:"]
            subprocess.run(again, cwd=tmp_path, check=True, capture_output=True, timeout=30)
        else:
            found = {one for one in listed if one[0] == name and line.startswith(one[1])}
            assert found, f"{name}: {line}"
            met |= found
    assert met == listed
    assert b"BEGIN CERTIFICATE" in (tmp_path / "jane.crt").read_bytes()
    assert b"PRIVATE KEY" in (tmp_path / "jane.key").read_bytes()


def parsed(words: list[str]) -> list[str]:
    """What the command line's parser does not know of these words."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        command = command.commands[words[0]]
        context, words = click.Context(command, parent=context), words[1:]
    _, rest, _ = command.make_parser(context).parse_args(words)
    return rest


def test_every_page_is_run() -> None:
    """A page of that kind is run here, or by the test that RUN_BY names, which reads it."""
    pages = {path.name for path in ROOT.glob("docs/howto-*.md")}
    assert pages == {*PAGES, *RUN_BY, "howto-stolen-key.md"}
    for name, test in RUN_BY.items():
        if test is None:
            assert not re.search("^ *```sh$", page(f"docs/{name}"), re.MULTILINE)
        else:
            assert name in (ROOT / test).read_text()
