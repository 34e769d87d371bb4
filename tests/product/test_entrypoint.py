"""The entrypoint of the server's image: however people call it, the module is loaded or nothing
runs. Without an engine: the script, with a server that says how it was called."""

import subprocess
from pathlib import Path

import pytest

from tests.kit.support import ROOT

OURS = "/etc/certauth/redis.conf"
LOADS = "port 0\nloadmodule /usr/local/lib/certauth.so journal /j\n"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A PATH with a server, and the entrypoint with its configuration in this folder."""
    (tmp_path / "ours.conf").write_text(LOADS)
    for name in ("redis-server", "redis-cli"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    text = (ROOT / "module/entrypoint").read_text()
    assert text.count(f"OURS={OURS}") == 1
    (tmp_path / "entrypoint").write_text(text.replace(OURS, str(tmp_path / "ours.conf")))
    (tmp_path / "entrypoint").chmod(0o755)
    return tmp_path


def called(image: Path, words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path or f"{image}:/usr/bin:/bin"}
    command = [image / "entrypoint", *words.format(image).split(" ")] if words else [
        image / "entrypoint"
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ("", "{0}/ours.conf"),
        ("--maxmemory 1gb", "{0}/ours.conf --maxmemory 1gb"),
        ("redis-server", "{0}/ours.conf"),
        ("redis-server --appendonly yes", "{0}/ours.conf --appendonly yes"),
        ("valkey-server --appendonly yes", "{0}/ours.conf --appendonly yes"),
        ("/usr/local/bin/redis-server --save  ", "{0}/ours.conf --save  "),
        ("redis-server {0}/ours.conf --port 1", "{0}/ours.conf --port 1"),
        ("{0}/ours.conf --port 1", "{0}/ours.conf --port 1"),
        ("redis-server {0}/mine.conf", "{0}/mine.conf"),
        ("{0}/mine.conf --port 1", "{0}/mine.conf --port 1"),
        ("--loadmodule /other.so", "{0}/ours.conf --loadmodule /other.so"),
        ("--version", "--version"),
        ("redis-server --help", "--help"),
    ],
)
def test_a_server_starts_with_the_module(image: Path, words: str, runs: str) -> None:
    """Options, a server's name, a configuration: each way that people start official images."""
    (image / "mine.conf").write_text(
        '# mine\n  LoadModule "/usr/local/lib/certauth.so" journal /j\n'
    )
    done = called(image, words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"redis-server {runs.format(image)}\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("redis-server {0}/bare.conf", "bare.conf does not load the module"),
        ("{0}/bare.conf --port 1", "bare.conf does not load the module"),
        ("{0}/comment.conf", "comment.conf does not load the module"),
        ("{0}/includes.conf", "would not start after CONFIG REWRITE"),
        ("{0}/missing.conf", "missing.conf cannot be read"),
        ("redis-server -", "standard input"),
        ("redis-server {0}/ours.conf -", "standard input"),
        ("redis-server --port 1 --sentinel", "a Sentinel loads no module"),
        ("redis-sentinel /etc/sentinel.conf", "a Sentinel loads no module"),
        ("-p 7000", "-p is not an option of a server"),
    ],
)
def test_no_server_starts_without_the_module(image: Path, words: str, reason: str) -> None:
    """It says why, and nothing runs."""
    (image / "bare.conf").write_text("port 6379\n")
    (image / "comment.conf").write_text("# loadmodule /usr/local/lib/certauth.so journal /j\n")
    (image / "includes.conf").write_text(f"include {image}/ours.conf\n")
    done = called(image, words)
    assert (done.returncode, done.stdout) == (64, "")
    assert reason in done.stderr


def test_another_command_is_that_command(image: Path) -> None:
    done = called(image, "redis-cli PING")
    assert done.stdout == "redis-cli PING\n"


def test_an_image_without_a_server_says_so(image: Path) -> None:
    (image / "redis-server").unlink()
    done = called(image, "--port 1", path=str(image))
    assert done.returncode == 64
    assert "there is no server in this image" in done.stderr
