"""`redis-certauth policy check` and `load`: a policy file, and a server without a control plane."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from control.cli.main import main
from control.nodes import alone, client
from control.nodes.client import UNREACHABLE, NodeError
from tests.kit.node import (
    JOURNAL,
    Start,
    authority,
    bind,
    bootstrap,
    load,
    nothing_changes,
    show,
    status,
    who,
)
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer

Load = Callable[..., Result]


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in words])


@pytest.fixture
def admin(pki: Pki) -> Cert:
    return pki.ca.issue("CN=admin,O=acme")


@pytest.fixture
def lines(pki: Pki, admin: Cert) -> list[str]:
    """alice is alice, and the administrator who loads it stays one."""
    return [
        "# who may come in", "set enforce on", authority(pki.ca), "", bind(pki.alice, "alice"),
        "user alice on ~* &* +@all", bind(admin, "admin"), "user admin on ~* &* +@all",
    ]  # fmt: skip


@pytest.fixture
def load_file(tmp_path: Path, pki: Pki, admin: Cert) -> Load:
    """`policy load` of these lines into a server, by the administrator's certificate."""

    def run_it(server: RedisServer, lines: list[str], *more: str, cert: Cert = admin) -> Result:
        (tmp_path / "policy").write_text("".join(f"{line}\n" for line in lines))
        (tmp_path / "ca").write_bytes(pki.server_ca.pem)
        options = ("--server-ca", tmp_path / "ca", "--cert", cert.files[0], "--key", cert.files[1])
        where = f"localhost:{server.port}"
        return run("policy", "load", tmp_path / "policy", where, *options, *more)

    return run_it


def generation(server: RedisServer) -> int:
    return int(status(server.admin())["generation"])


# ---- check ---------------------------------------------------------------------------------------


def test_a_good_file_is_described(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "policy").write_text("\r\n".join(lines))
    found = run("policy", "check", tmp_path / "policy")
    assert found.exit_code == 0, found.output
    assert found.output.startswith(f"{tmp_path}/policy: 6 lines, set enforce on, digest 6:")


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    """By its number as an editor counts, with what is wrong; and it exits with 1."""
    file = tmp_path / "policy"
    file.write_text("# one\n\nset enforce on\nbind cn\nuser a on ~* +@all\nset enforce perhaps\n")
    found = run("policy", "check", file)
    assert found.exit_code == 1
    first, second = found.stderr.splitlines()
    assert first.startswith(f"Error: {file}:4: ")
    assert second.startswith(f"{file}:6: ")
    assert found.stdout == ""


@pytest.mark.parametrize("hidden", ["\u2028", "\x0b", "\x1c", "\x85"], ids=ascii)
def test_attack_a_line_within_a_line(tmp_path: Path, hidden: str) -> None:
    """What looks like a part of a line, or a comment, is never a line of its own."""
    for text in (f"bind cn a a{hidden}user b on +@all\n", f"# a{hidden}bind cn\n"):
        (tmp_path / "policy").write_text(text)
        found = run("policy", "check", tmp_path / "policy")
        assert found.exit_code == (0 if text[0] == "#" else 1), found.output


@pytest.mark.parametrize(
    ("without", "warning"),
    [
        ("set enforce", "the policy admits and refuses nobody"),
        ("ca ", "no certificate becomes a user"),
        ("user alice", "no `user` line for 'alice'"),
    ],
)
def test_what_may_not_be_meant_is_a_warning(
    tmp_path: Path, lines: list[str], without: str, warning: str
) -> None:
    file = tmp_path / "policy"
    file.write_text("\n".join(one for one in lines if not one.startswith(without)))
    found = run("policy", "check", file)
    assert found.exit_code == 0
    assert warning in found.stderr
    file.write_text("\n".join(lines))
    assert run("policy", "check", file).stderr == ""


# ---- load ----------------------------------------------------------------------------------------


def test_a_load_is_in_force(
    installed: Server, start: Start, pki: Pki, lines: list[str], load_file: Load
) -> None:
    """The first policy of a server, then another, then the same again, which changes nothing."""
    server = start(installed, module=JOURNAL)
    assert who(server, pki.alice) == "default"
    found = load_file(server, lines)
    assert found.exit_code == 0, found.output
    assert f"localhost:{server.port}: generation 1 is in force (connections " in found.stdout
    assert (who(server, pki.alice), who(server, pki.bob)) == ("alice", None)
    more = [*lines, bind(pki.bob, "bob"), "user bob on +@connection +acl|whoami"]
    assert "generation 2 is in force" in load_file(server, more).stdout
    assert who(server, pki.bob) == "bob"
    assert "generation 2 is in force (it was before)" in load_file(server, more).stdout
    assert generation(server) == 2


def test_an_empty_server_is_loaded_by_the_bootstrap_files_administrator(
    installed: Server, start: Start, pki: Pki, admin: Cert, lines: list[str], load_file: Load,
    tmp_path: Path,
) -> None:  # fmt: skip
    """`default` is off before the first policy; anyone else is told what is missing."""
    held = (authority(pki.ca), bind(admin, "admin"), "user admin on +@all")
    server = start(installed, module=bootstrap(tmp_path, *held), config=["user default off"])
    refused = load_file(server, lines, cert=pki.bob)
    assert refused.exit_code == 1
    assert "no line and no bootstrap file binds this certificate" in refused.stderr
    mine = [line for line in lines if "admin" not in line]
    assert load_file(server, mine).exit_code == 0
    assert who(server, pki.alice) == "alice"


REFUSED: dict[str, Callable[[list[str]], list[str]]] = {
    "policy:9: ": lambda lines: [*lines, "bind cn"],
    # The file's number: the first line is a comment.
    "LINES 1 bad, nothing changed; line 10: ": lambda lines: [*lines, "", "user x on +nosuch"],
    "LOCKOUT ": lambda lines: [one for one in lines if not one.endswith(" admin")],
    "EMPTY ": lambda _: ["# nothing"],
}


def test_what_is_refused_changes_nothing(
    installed: Server, start: Start, pki: Pki, lines: list[str], load_file: Load
) -> None:
    server = start(installed, module=JOURNAL)
    assert load_file(server, lines).exit_code == 0
    with nothing_changes(server, pki):
        for problem, change in REFUSED.items():
            found = load_file(server, change(lines))
            assert (found.exit_code, found.stdout) == (1, "")
            assert problem in found.stderr


def test_a_control_planes_server_is_left_alone(
    installed: Server, start: Start, pki: Pki, lines: list[str], load_file: Load
) -> None:
    """OWNED, unless it is forced."""
    server = start(installed, module=JOURNAL)
    owned = [line for line in lines if line and line[0] != "#"]
    load(server.admin(), 5, owned, "OWNER", "plane/1", "EPOCH", "3")
    more = [*lines, "user z on +ping"]
    with nothing_changes(server, pki):
        found = load_file(server, more)
        assert (found.exit_code, "OWNED " in found.stderr) == (1, True), found.stderr
    assert load_file(server, more, "--force").exit_code == 0
    assert "user z on +ping" in show(server.admin())


def test_a_server_that_falls_silent_is_not_called_loaded(
    installed: Server, start: Start, lines: list[str], load_file: Load,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The reply is lost: nobody says that the policy is in force, and a second run finds it so."""
    server = start(installed, module=JOURNAL)
    real = client.Node.load

    def lose(*words: object, **more: object) -> None:
        real(*words, **more)  # type: ignore[arg-type]
        raise NodeError(UNREACHABLE, "timed out")

    monkeypatch.setattr(alone.Node, "load", lose)
    found = load_file(server, lines)
    assert (found.exit_code, found.stdout) == (1, "")
    assert "did not confirm the policy (timed out)" in found.stderr
    assert "is in force (it was before)" in load_file(server, lines).stdout


def test_a_server_of_another_ca_gets_nothing(
    installed: Server, start: Start, pki: Pki, lines: list[str], load_file: Load
) -> None:
    server = start(installed, module=JOURNAL)
    server_ca, pki.server_ca = pki.server_ca, pki.ca
    try:
        found = load_file(server, lines)
    finally:
        pki.server_ca = server_ca
    assert found.exit_code == 1
    assert "certificate verify failed" in found.stderr
    assert generation(server) == 0
