"""control/cli/completing.py: what a shell is told; it runs in real shells in test_terminal.py."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from control.cli.completing import SHELLS, VARIABLE
from control.cli.main import main
from control.service import Config
from tests.kit.rest import ADMIN

Complete = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "redis-certauth").mkdir()
    return tmp_path


def completed(*words: str) -> list[str]:
    """What fits behind these words; the last one is not whole."""
    shell = ShellComplete(main, {}, "redis-certauth", VARIABLE)
    return [one.value for one in shell.get_completions(list(words[:-1]), words[-1])]


def profile(folder: Path, config: Config, login: str) -> None:
    file = folder / "redis-certauth" / "config.toml"
    url = f'url = "https://127.0.0.1:{config.port}"\nca = "{config.home}/ca.crt"\n'
    file.write_text(f"[default]\n{url}{login}[other]\n{url}")
    file.chmod(0o600)


def test_names_of_objects_are_completed(folder: Path, config: Config) -> None:
    """Of commands and of options, from the API; those that begin so."""
    profile(folder, config, f'username = "{ADMIN[0]}"\npassword = "{ADMIN[1]}"\n')
    for words in (("role", "create", "readers"), ("role", "create", "riders")):
        assert CliRunner().invoke(main, words).exit_code == 0
    assert completed("user", "show", "") == [ADMIN[0]]
    assert completed("role", "show", "read") == ["readers"]
    assert completed("user", "create", "x", "--role", "r") == ["readers", "riders"]
    assert completed("user", "update", "x", "--add-role", "re") == ["readers"]
    assert completed("log", "--user", "a") == [ADMIN[0]]
    assert completed("user", "list", "--profile", "o") == ["other"]
    assert completed("context", "use", "d") == ["default"]
    assert completed("user", "list", "-o", "") == ["table", "wide", "json", "yaml", "name"]


@pytest.mark.parametrize(
    "login", ["", f'username = "{ADMIN[0]}"\n', f'username = "{ADMIN[0]}"\npassword = "x"\n']
)
def test_what_cannot_be_asked_completes_nothing(folder: Path, config: Config, login: str) -> None:
    """Nobody is asked for a password in the middle of a line, and no error is printed there."""
    profile(folder, config, login)
    assert completed("user", "show", "") == []


def test_without_a_profile_nothing_is_completed(folder: Path) -> None:
    """Nor where the API is not there, or the file is not TOML."""
    assert completed("user", "show", "") == []
    assert completed("user", "show", "--url", "https://127.0.0.1:1", "") == []
    (folder / "redis-certauth" / "config.toml").write_text("[")
    assert completed("user", "show", "") == []
    assert completed("context", "use", "") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_script(shell: str) -> None:
    """It calls this program for words; another shell is refused."""
    shown = CliRunner().invoke(main, ["completion", shell])
    assert (shown.exit_code, f"{VARIABLE}={shell}_complete" in shown.output) == (0, True)
    assert CliRunner().invoke(main, ["completion", "csh"]).exit_code == 2


@pytest.mark.slow
def test_bash_completes(folder: Path) -> None:
    """By the script, in a real one."""
    script = """
        eval "$(redis-certauth completion bash)"
        COMP_WORDS=(redis-certauth locko) COMP_CWORD=1
        _redis_certauth_completion redis-certauth
        echo "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=240,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.stdout.split() == ["lockout"], done.stderr


def test_every_name_of_an_object_is_completed() -> None:
    """An argument called `name` of a command about something that is there."""
    for noun in ("user", "role", "acl", "db", "pattern", "cert-profile"):
        group = main.commands[noun]
        assert isinstance(group, click.Group)
        for verb in ("show", "update", "delete"):
            (name,) = [one for one in group.commands[verb].params if one.name == "name"]
            assert name._custom_shell_complete is not None, (noun, verb)
