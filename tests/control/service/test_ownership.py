"""Who owns what commands on the control plane's folder leave there: its owner, also where root has
typed them, since the control plane runs as that user."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from control.cli.main import main

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
SERVICE = 54321  # a user that nobody is


def run(*words: str | Path, home: Path, typed: str = "") -> None:
    done = CliRunner().invoke(main, [*map(str, words), "--home", str(home)], input=typed)
    assert done.exit_code == 0, done.output


def owners(home: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_uid for path in home.iterdir()}


def test_what_root_makes_is_the_services(tmp_path: Path) -> None:
    """`init`, the CA of clients made and replaced, a password, a backup restored elsewhere."""
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home, other):
        folder.mkdir(mode=0o700)
        os.chown(folder, SERVICE, SERVICE)
    run("init", "--name", "acme", "--admin", "a", "--password-stdin", home=home, typed="secret\n")
    run("ca", "create", home=home)
    run("ca", "create", "--replace", home=home)
    run("set-password", "a", "--password-stdin", home=home, typed="another\n")
    run("backup", tmp_path / "b.tar.gz", home=home)
    run("restore", tmp_path / "b.tar.gz", home=other)
    for folder in (home, other):
        found = owners(folder)
        assert {"ca.key", "control.db", "clients.pem", "bootstrap"} <= found.keys()
        assert set(found.values()) == {SERVICE}, found


def test_a_link_in_the_folder_leads_nowhere(tmp_path: Path) -> None:
    """The service's user gets no file of root's by a link, or a second name, in its folder."""
    home, secret = tmp_path / "home", tmp_path / "secret"
    home.mkdir()
    secret.write_text("root's")
    os.link(secret, home / "second")
    (home / "link").symlink_to(secret)
    os.chown(home, SERVICE, SERVICE)
    run("init", "--name", "acme", "--admin", "a", "--password-stdin", home=home, typed="secret\n")
    assert secret.stat().st_uid == 0


def test_a_folder_of_root_stays_roots(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run("init", "--name", "acme", "--admin", "a", "--password-stdin", home=home, typed="secret\n")
    assert set(owners(home).values()) == {0}
