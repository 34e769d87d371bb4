"""docs/concepts.md and docs/migrating.md: what they show is run, and is as they say."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from control import service
from tests.kit.node import Start, rules
from tests.kit.plane import enrolled_node, initialised
from tests.kit.policies import OPERATOR
from tests.kit.rest import ADMIN
from tests.kit.servers import Server, servers
from tests.kit.support import ROOT, Pki, RedisServer, free_port, wait_until

COMMAND = Path(sys.executable).parent / "redis-certauth"


def blocks(name: str, heading: str = "") -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a page, or of one section of it."""
    text = (ROOT / "docs" / name).read_text()
    if heading:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def bash(script: str, folder: Path, **environment: str) -> str:
    """What it prints, standard error included. Fails where a command of it does."""
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


# ---- docs/concepts.md ----------------------------------------------------------------------------


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Its folder, and the ports that the paper has → those that it has here."""
    home, ports = tmp_path / "home", {"6380": str(free_port()), "9443": str(free_port())}
    command = [COMMAND, "quickstart", "--home", home]
    command += ["--redis-port", ports["6380"], "--api-port", ports["9443"]]
    command += ["--ui-port", str(free_port())]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: (home / "ready.json").exists() or process.poll() is not None, "it is up", 40
        )
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield home, ports
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_each_concept_shows_what_it_says(quickstart: tuple[Path, dict[str, str]]) -> None:
    """Each command prints the block below it, and every concept has one."""
    home, ports = quickstart
    (_, preamble), *shown = blocks("concepts.md")
    commands, expected = shown[::2], shown[1::2]
    assert {language for language, _ in commands} == {"sh"}
    assert {language for language, _ in expected} == {"text"}
    page = (ROOT / "docs/concepts.md").read_text()
    assert len(commands) == len(re.findall(r"^\*\*", page, re.MULTILINE))
    for (_, command), (_, printed) in zip(commands, expected, strict=True):
        script = preamble + command
        for paper, real in ports.items():
            script = script.replace(paper, real)
        assert bash(script, home).strip() == printed.strip(), command


# ---- docs/migrating.md ---------------------------------------------------------------------------

API = """
api() {
    method=$1 path=$2; shift 2
    curl -sS --fail-with-body --cacert plane/ca.crt -u "$LOGIN" -X "$method" \
        "https://localhost:$PORT$path" "$@"
}
"""


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[service.Config]:
    config = initialised(tmp_path / "plane")
    with service.running(config):
        yield config


def call(plane: service.Config, script: str) -> str:
    return bash(API + script, plane.home.parent, LOGIN=":".join(ADMIN), PORT=str(plane.port))


def trust(plane: service.Config, pki: Pki) -> None:
    pem = json.dumps({"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()})
    call(plane, f"api PUT /v1/cluster/update_cert --json '{pem}'")


def active(plane: service.Config) -> None:
    def status() -> bool:
        return bool(json.loads(call(plane, "api GET /v1/bdbs/1"))["status"] == "active")

    wait_until(status, "the node has the policy")


def who(client: redis.Redis) -> str:
    try:
        return str(client.acl_whoami())
    except redis.AuthenticationError:
        return "WRONGPASS"
    except redis.ConnectionError:
        return "closed"


def test_from_passwords_nobody_is_locked_out(
    plane: service.Config, start: Start, installed: Server, pki: Pki, tmp_path: Path
) -> None:
    """Step by step: whose password works, whose certificate, and that it all goes back."""
    node = enrolled_node(
        start, installed, plane.home, pki,
        config=["user alice on >old ~* &* +@all", "user bob on >old ~* &* +@all"],
        tls_auth_clients="optional",
    )  # fmt: skip
    trust(plane, pki)
    register, user, leave, refuse = (text for _, text in blocks("migrating.md", "From passwords"))
    ca = json.dumps(pki.server_ca.pem.decode())[1:-1]
    register = register.replace("6379", str(node.port))
    register = register.replace('"name"', f'"tls_server_ca": "{ca}",\n    "name"')

    def seen() -> tuple[str, ...]:
        """alice by certificate, by password; bob by password; nobody's certificate."""
        clients = (
            node.client(pki.alice),
            node.client(username="alice", password="old"),
            node.client(username="bob", password="old"),
            node.client(pki.bob),
        )
        return tuple(who(client) for client in clients)

    call(plane, register)
    active(plane)
    call(plane, user)
    active(plane)
    assert seen() == ("default", "alice", "bob", "default")
    call(plane, leave)
    active(plane)
    assert seen() == ("alice", "WRONGPASS", "bob", "default")
    call(plane, """api PUT /v1/bdbs/1 --json '{"enforcement": "shadow"}'""")
    active(plane)
    assert seen() == ("default", "alice", "bob", "default")
    call(plane, leave)
    call(plane, refuse)
    active(plane)
    assert seen() == ("alice", "closed", "closed", "closed")


def test_from_enterprise_by_apply(plane: service.Config, pki: Pki, tmp_path: Path) -> None:
    """Its API being ours, a control plane stands in for it: CA, user, role and ACL come over by
    their names, and a second run has nothing to do."""
    old = initialised(tmp_path / "old" / "plane")
    config = tmp_path / "redis-certauth" / "config.toml"
    config.parent.mkdir()
    name, password = ADMIN
    for profile, where in (("default", plane), ("enterprise", old)):
        with config.open("a") as file:
            file.write(
                f'[{profile}]\nurl = "https://localhost:{where.port}"\nca = "{where.home}/ca.crt"\n'
                f'username = "{name}"\npassword = "{password}"\n'
            )
    config.chmod(0o600)
    ((_, script),) = blocks("migrating.md", "From Redis Enterprise")
    with service.running(old):
        trust(old, pki)
        call(old, """
            api POST /v1/redis_acls --json '{"name": "orders", "acl": "+@read ~orders:*"}'
            api POST /v1/roles --json '{"name": "readers", "management": "none"}'
            api POST /v1/users --json '{"name": "john", "auth_method": "certificate",
                "role_uids": [4], "certificate_subject_line": "CN=John Doe, O=Acme"}'
        """)  # fmt: skip
        said = bash(script, tmp_path, XDG_CONFIG_HOME=str(tmp_path))
        assert "create users 'john'" in said
        assert "nothing to do" in bash(script, tmp_path, XDG_CONFIG_HOME=str(tmp_path))
    users = {one["name"]: one for one in json.loads(call(plane, "api GET /v1/users"))}
    assert users["john"]["certificate_subject_line"].replace(" ", "") == "CN=JohnDoe,O=Acme"
    acls = {one["name"]: one["acl"] for one in json.loads(call(plane, "api GET /v1/redis_acls"))}
    assert acls["orders"] == "+@read ~orders:*"


# The first releases that have that setting.
FIRST = {"redis": (8, 6), "valkey": (9, 1)}
NATIVE = [
    pytest.param(kind, id=str(kind), marks=pytest.mark.servers)
    for kind in servers()
    if kind.release >= FIRST[kind.name]
]


@pytest.mark.parametrize("kind", NATIVE)
def test_from_tls_auth_clients_user(kind: Server, start: Start, pki: Pki, tmp_path: Path) -> None:
    """The server's own login by CN; then the policy that the page makes of its users: alice stays
    alice, by the module, and a CN from elsewhere does not come in."""
    operator = f"user {OPERATOR} on >{OPERATOR} ~* &* +@all"
    users = [operator, "user admin on ~* &* +@all"]
    users += ["user alice on ~* &* +@read +acl|whoami", "tls-auth-clients-user CN"]
    node: RedisServer = start(kind, module=("journal", "journal"), config=users)
    admin = node.admin(username=OPERATOR, password=OPERATOR)
    assert who(node.client(pki.alice)) == "alice"
    (tmp_path / "clients.crt").write_bytes(pki.ca.pem)
    (tmp_path / "ca.crt").write_bytes(pki.server_ca.pem)
    for place, text in zip(("admin.crt", "admin.key"), pki.ca.issue("CN=admin").files, strict=True):
        (tmp_path / place).write_bytes(Path(text).read_bytes())
    ((_, script),) = blocks("migrating.md", "From `tls-auth-clients-user`")
    local = f"redis-cli -s {node.socket} --user {OPERATOR} --pass {OPERATOR} --no-auth-warning"
    script = script.replace("localhost:6379", f"localhost:{node.port}")
    bash(script.replace("redis-cli", local), tmp_path)
    assert (tmp_path / "policy").read_text().count("bind cn alice alice") == 1
    assert admin.config_get("tls-auth-clients-user") == {"tls-auth-clients-user": "off"}
    assert who(node.client(pki.alice)) == "alice"
    assert who(node.client(pki.bob)) == "closed"
    assert "+acl|whoami" in str(rules(admin, "alice"))
