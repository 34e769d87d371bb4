"""control/cli/contexts.py: the profiles of config.toml, listed, chosen and changed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from control.cli import client, options
from control.cli.main import main

Run = Callable[..., Result]
TEXT = """\
# ours
[default]
url = "https://a:1"   # the old one
username = "admin"
password = "p"

[prod]
url = "https://b:1"
# its certificate
cert = "me.crt"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = tmp_path / "redis-certauth" / "config.toml"
    found.parent.mkdir()
    found.write_text(TEXT)
    found.chmod(0o600)
    return found


def run(*words: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["context", *words], input=text)


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def test_profiles_are_listed_without_their_passwords(file: Path) -> None:
    """The current profile has a mark; a password is kept, and not shown."""
    listed = ok(run("list"))
    assert [line.split()[:3] for line in listed.splitlines()[1:]] == [
        ["*", "default", "https://a:1"],
        ["prod", "https://b:1", "me.crt"],
    ]
    assert json.loads(ok(run("show", "--json"))) == {
        "name": "default", "url": "https://a:1", "username": "admin", "password": "(kept)",
    }  # fmt: skip


def test_a_profile_is_shown_with_whole_paths(file: Path) -> None:
    """Its files have the names of fields that hold hashes elsewhere, which tables shorten."""
    ca = "/etc/redis-certauth/pki/production.crt"
    run("set", "prod", "--ca", ca)
    assert ["ca", ca] in [line.split() for line in ok(run("show", "prod")).splitlines()]


def test_a_profile_is_chosen(file: Path) -> None:
    """From then on it is the one of every command that names none; one that is not there cannot
    be."""
    ok(run("use", "prod"))
    assert client.chosen(None, {}).url == "https://b:1"
    assert client.chosen("default", {}).url == "https://a:1"
    refused = run("use", "none")
    assert refused.exit_code == 2
    assert "no profile 'none'; there are: default, prod" in refused.output
    assert ok(run("list", "-o", "name")) == "default\nprod\n"


def test_a_profile_is_changed_and_the_rest_of_the_file_stays(file: Path, tmp_path: Path) -> None:
    """Comments and the order of tables too; files get their whole path."""
    ok(run("set", "default", "--url", "https://c:1"))
    assert file.read_text() == TEXT.replace('"https://a:1"   # the old one', '"https://c:1"')
    assert file.stat().st_mode & 0o777 == 0o600
    ok(run("set", "a b", "--url", "https://d:1", "--ca", str(tmp_path / "x" / ".." / "ca.crt")))
    made = client.load_profile(file, "a b")
    assert (made.url, Path(made.ca).is_absolute()) == ("https://d:1", True)
    ok(run("delete", "prod", "--yes"))
    assert client.profiles(file) == ["default", "a b"]
    assert file.read_text().startswith("# ours\n[default]\n")


def test_deleting_a_profile_asks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody, or else it is refused with what a script says; a no leaves it."""
    refused = run("delete", "prod")
    assert refused.exit_code == 1
    assert "no terminal to ask on: nothing is changed; say --yes" in refused.output
    monkeypatch.setattr(options, "is_terminal", lambda: True)
    assert run("delete", "prod", text="n\n").exit_code == 1
    assert client.profiles(file) == ["default", "prod"]
    ok(run("delete", "prod", text="y\n"))
    assert client.profiles(file) == ["default"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('default = {url = "https://a:1"}\n', "edit it by hand"),
        ("[default\n", "config.toml"),
    ],
)
def test_a_file_that_is_written_otherwise_is_left_alone(
    file: Path, text: str, message: str
) -> None:
    """What this cannot change without losing something, it does not change."""
    file.write_text(text)
    refused = run("set", "default", "--url", "https://b:1")
    assert (refused.exit_code, message in refused.output) == (2, True), refused.output
    assert file.read_text() == text


def test_the_first_profile_makes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its owner only. Without one, and without a variable, a command says what to do."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    lost = CliRunner().invoke(main, ["user", "list"])
    assert lost.exit_code == 2
    assert "no API is named: say --url, set CERTAUTH_URL, or make a profile with" in lost.output
    assert ok(run("list")).split() == ["CURRENT", "NAME", "URL", "LOGIN"]
    ok(run("set", "default", "--url", "https://a:1"))
    made = tmp_path / "redis-certauth" / "config.toml"
    assert (made.stat().st_mode & 0o777, client.profiles(made)) == (0o600, ["default"])
    assert run("set", "default").exit_code == 2
