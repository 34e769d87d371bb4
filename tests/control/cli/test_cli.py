"""The command line: what it prints, and what it exits with."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from control.cli.main import main
from control.cli.output import clean
from control.service import Config
from tests.kit.node import authority, status
from tests.kit.plane import Https, enrolled_node, initialised
from tests.kit.rest import ADMIN
from tests.kit.support import ROOT, Pki, RedisServer, days, free_port, wait_until

COMMAND = (str(Path(sys.executable).parent / "redis-certauth"),)


def run(*arguments: object, text: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], input=text)


# ---- explain -------------------------------------------------------------------------------------


@pytest.fixture
def policy(tmp_path: Path, pki: Pki) -> Path:
    """alice is alice; from one network only."""
    file = tmp_path / "policy"
    lines = (
        "# who may come in",
        "set enforce on",
        authority(pki.ca),
        'bind subject "CN=alice,OU=eng,O=acme" alice from=10.0.0.0/8',
        "",
        "user alice on ~* +@all",
    )
    file.write_text("\n".join(lines) + "\n")
    return file


def test_an_explanation_of_who_comes_in(policy: Path, pki: Pki) -> None:
    """It names the user and the line, and exits with 0."""
    found = run("explain", pki.alice.files[0], "--policy", policy, "--address", "10.1.2.3")
    assert found.exit_code == 0
    assert found.output.splitlines()[-1] == "decision: login alice"
    assert "bind subject CN=alice,OU=eng,O=acme alice from=10.0.0.0/8" in found.output


def test_an_explanation_of_who_does_not(policy: Path, pki: Pki, tmp_path: Path) -> None:
    """It names the reason, and exits with 1."""
    leaf = tmp_path / "bob.der"
    leaf.write_bytes(pki.bob.der)
    late = pki.ca.issue("CN=alice,OU=eng,O=acme", not_before=days(-9), not_after=days(-1))
    for certificate, address, reason in (
        (leaf, "10.1.2.3", "no_binding"),
        (pki.alice.files[0], "192.0.2.1", "address"),
        (late.files[0], "10.1.2.3", "expired"),
    ):
        found = run("explain", certificate, "--policy", policy, "--address", address)
        assert found.exit_code == 1
        assert found.output.splitlines()[-1] == "decision: refuse"
        assert f"{reason}:" in found.output


@pytest.mark.parametrize(
    ("policy_text", "certificate", "message"),
    [
        ("set enforce on\n\nbind cn\n", None, "line 3: "),
        ("set enforce on\n", b"hello", "certificate"),
        ("set enforce on\n", b"", "certificate"),
        ("\udcff\n", None, "policy"),
    ],
    ids=["bad lines", "no certificate", "nothing", "no text"],
)
def test_what_cannot_be_explained_is_said(
    tmp_path: Path, pki: Pki, policy_text: str, certificate: bytes | None, message: str
) -> None:
    """Lines and certificates that do not parse are one clear error, and no decision."""
    (tmp_path / "policy").write_bytes(policy_text.encode("utf-8", "surrogateescape"))
    (tmp_path / "leaf").write_bytes(pki.alice.pem if certificate is None else certificate)
    found = run("explain", tmp_path / "leaf", "--policy", tmp_path / "policy")
    assert found.exit_code == 1
    assert found.output.startswith("Error: ")
    assert "decision" not in found.output
    assert message in found.output


def test_attack_a_text_that_steers_the_terminal() -> None:
    """What cannot be printed is shown as bytes in hex, not as something else that looks like it."""
    assert clean("a\xa0b\x1b[2J\u202e\n") == "a\\C2\\A0b\\1B[2J\\E2\\80\\AE\n"
    assert clean("jos\u00e9 \\ x") == "jos\u00e9 \\ x"


def test_an_explanation_without_a_server_says_so_first(tmp_path: Path, pki: Pki) -> None:
    """Anyone who reads no further than one line knows that no handshake was asked."""
    (tmp_path / "policy").write_text(f"set enforce on\n{authority(pki.ca)}\n")
    found = run("explain", pki.alice.files[0], "--policy", tmp_path / "policy")
    assert found.output.startswith("the TLS handshake was not asked (")
    assert "to change it: add the line: bind subject CN=alice,OU=eng,O=acme <user>" in found.output


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path, pki: Pki) -> None:
    """Comments and empty lines are lines of the file too."""
    (tmp_path / "policy").write_text("# one\n\nset enforce on\nbind cn\nset enforce\n")
    found = run("explain", pki.alice.files[0], "--policy", tmp_path / "policy")
    assert "line 4: " in found.output
    assert "line 5: " in found.output


# ---- init ----------------------------------------------------------------------------------------


def test_init_says_what_to_do_next(tmp_path: Path) -> None:
    """What it made, and the three steps that lead to a database."""
    home = tmp_path / "control"
    found = run("init", "--home", home, "--password-stdin", text="secret\n")
    assert found.exit_code == 0, found.output
    module = ROOT / "module" / "certauth.so"
    assert f"loadmodule {module} journal certauth bootstrap " in found.output
    assert "tls-ca-cert-dir certauth/ca" in found.output
    assert f"redis-certauth serve --home {home}" in found.output
    assert f"curl --cacert {home}/ca.crt -u admin https://localhost:9443/v1/cluster" in found.output
    assert "secret" not in found.output


def test_the_password_is_asked_for_twice(tmp_path: Path) -> None:
    """A slip is asked for again, and what was typed is not shown."""
    text = "slip\nslap\nsecret\nsecret\n"
    found = run("init", "--home", tmp_path, "--admin", "root", text=text)
    assert found.exit_code == 0, found.output
    assert "Password of root" in found.output
    assert "do not match" in found.output
    assert "secret" not in found.output


@pytest.mark.parametrize(
    ("text", "message"), [("", "password: "), ("x\n", "holds a control plane")]
)
def test_init_refuses_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    """No password; a folder that has one already."""
    if text:
        initialised(tmp_path)
    found = run("init", "--home", tmp_path, "--password-stdin", text=text)
    assert found.exit_code == 1
    assert found.output.startswith("Error: ")
    assert message in found.output
    assert found.output.count("\n") == 1


# ---- serve ---------------------------------------------------------------------------------------


@contextmanager
def served(config: Config) -> Iterator[subprocess.Popen[str]]:
    """`redis-certauth serve` with the port from the environment."""
    environment = {**os.environ, "CERTAUTH_HOST": config.host, "CERTAUTH_PORT": str(config.port)}
    process = subprocess.Popen(
        [*COMMAND, "serve", "--home", str(config.home)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_until_it_is_told_to_stop(tmp_path: Path, number: int) -> None:
    """It says on standard error where it listens, answers there, and ends with 0."""
    config = initialised(tmp_path / "control")
    with served(config) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert f"https://127.0.0.1:{config.port}" in first
        assert first[:4].isdigit()
        with Https(config) as api:
            assert api("GET /v1/cluster").status == 200
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert output == ""
    assert "Traceback" not in errors


def test_an_operator_gets_from_init_to_a_database(
    tmp_path: Path, start: object, installed: object, pki: Pki
) -> None:
    """By what `init` prints and the REST API alone; `serve` logs what becomes of the node."""
    home = tmp_path / "control"
    text = f"{ADMIN[1]}\n"
    made = run("init", "--home", home, "--admin", ADMIN[0], "--password-stdin", text=text)
    assert made.exit_code == 0
    config = Config(home, "127.0.0.1", free_port())
    node: RedisServer = enrolled_node(start, installed, config.home, pki)  # type: ignore[arg-type]
    database = {
        "name": "orders",
        "endpoints": [{"addr": ["127.0.0.1"], "port": node.port}],
        "tls_server_ca": pki.server_ca.pem.decode(),
        "default_user": True,
    }
    with served(config) as process, Https(config) as api:
        assert process.stderr is not None
        process.stderr.readline()
        assert api("POST /v1/bdbs", database).status == 200
        wait_until(lambda: api("GET /v1/bdbs/1").json["status"] == "active", "it is in step")
        assert f"127.0.0.1:{node.port} of 'orders': in step" in process.stderr.readline()
    assert status(node.admin())["generation"] == 1


@pytest.mark.parametrize("case", ["no init", "bad setting"])
def test_serve_refuses_in_one_line(tmp_path: Path, case: str) -> None:
    """Nothing to serve; a setting that is none."""
    # In a process of its own: `serve` takes over the signals of the process that it runs in.
    found = subprocess.run(
        [*COMMAND, "serve", "--home", str(tmp_path)],
        env={**os.environ, "CERTAUTH_PORT": "0" if case == "bad setting" else "1"},
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("Error: ")
    assert ("redis-certauth init" if case == "no init" else "'port'") in found.stderr
    assert found.stderr.count("\n") == 1


# ---- On the machine itself -----------------------------------------------------------------------


def test_a_restored_control_plane_serves_what_was_backed_up(tmp_path: Path) -> None:
    """To anyone who asks with the old password; the file is for its owner only."""
    config = initialised(tmp_path / "control")
    file = tmp_path / "backup"
    assert run("backup", file, "--home", config.home).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    there = Config(tmp_path / "there", "127.0.0.1", free_port())
    assert run("restore", file, "--home", there.home).exit_code == 0
    with served(there) as process, Https(there) as api:
        assert process.stderr is not None
        process.stderr.readline()
        assert api("GET /v1/cluster").json["name"] == "acme"


def test_the_way_back_lets_passwords_in_again(tmp_path: Path, pki: Pki) -> None:
    """Refused while they are switched off; taken at once after `allow-passwords`; and a password
    that is set counts."""
    config = initialised(tmp_path)
    with served(config) as process, Https(config) as api, Https(config, pki.alice) as by_cert:
        assert process.stderr is not None
        process.stderr.readline()
        trusted = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        api("PUT /v1/cluster/update_cert", trusted)
        api("PUT /v1/cluster", {"mtls_certificate_authentication": True})
        subject = pki.alice.certificate.subject.rfc4514_string()
        alice = {"name": "alice", "certificate_subject_line": subject, "role": "admin"}
        api("POST /v1/users", {**alice, "auth_method": "certificate"})
        off = {"control_plane_basic_authentication": False}
        assert by_cert("GET /v1/users/role").json == {"role": "admin"}
        assert by_cert("PUT /v1/cluster", off).status == 200
        assert api("GET /v1/cluster").code == "basic_authentication_disabled"
        found = run("allow-passwords", "--home", tmp_path)
        assert (found.exit_code, found.output) == (0, "")
        wait_until(lambda: api("GET /v1/cluster").status == 200, "passwords are taken")
        changes = [one for one in api("GET /v1/logs").json if one["type"] == "cluster_updated"]
        assert changes[-1]["originating_address"] == "this machine"
        text = "another one 2\n"
        found = run("set-password", ADMIN[0], "--home", tmp_path, "--password-stdin", text=text)
        assert (found.exit_code, found.output) == (0, "")
        wait_until(lambda: api("GET /v1/cluster").status == 401, "the old password is void")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["backup", "{tmp}/exists", "--home", "{tmp}/home"], "exists"),
        (["backup", "{tmp}/new", "--home", "{tmp}/none"], "redis-certauth init"),
        (["restore", "{tmp}/exists", "--home", "{tmp}/home"], "holds a control plane already"),
        (["restore", "{tmp}/exists", "--home", "{tmp}/none"], "is not a backup"),
        (["allow-passwords", "--home", "{tmp}/none"], "redis-certauth init"),
        (["set-password", "nobody", "--home", "{tmp}/home", "--password-stdin"], "'nobody'"),
        (["set-password", ADMIN[0], "--home", "{tmp}/home", "--password-stdin"], "password"),
    ],
)
def test_the_machine_itself_refuses_in_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    """What would overwrite, what is not there, what is not a password; and nothing is made."""
    initialised(tmp_path / "home")
    (tmp_path / "exists").write_text("mine")
    found = run(*(one.format(tmp=tmp_path) for one in arguments), text="\n")
    assert found.exit_code == 1
    assert found.output.startswith("Error: ")
    assert message in found.output
    assert found.output.count("\n") == 1
    assert (tmp_path / "exists").read_text() == "mine"
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "none" / "ca.key").exists()


def test_every_command_has_help() -> None:
    """The list of commands, and each one's options."""
    assert run("--help").exit_code == 0
    for name in main.commands:
        assert name in run("--help").output
        assert run(name, "--help").exit_code == 0
