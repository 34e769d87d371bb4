"""The entrypoint of the server's image: however people call it, the module is loaded or nothing
runs. Without an engine: the script, with a server that says how it was called. And its health
check, with a server that says what a test wants."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
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


# ---- The health check and its user ---------------------------------------------------------------


@pytest.fixture
def sealed() -> Iterator[Path]:
    """An image whose configuration its user cannot write, as it runs: what the entrypoint writes is
    in `run`."""
    folder = Path(tempfile.mkdtemp(prefix="sealed", dir="/tmp"))
    text = (ROOT / "module/entrypoint").read_text()
    text = text.replace("/etc/certauth/redis.conf", f"{folder}/conf/ours.conf")
    (folder / "entrypoint").write_text(text.replace("RUN=/run/certauth", f"RUN={folder}/run"))
    (folder / "redis-server").write_text('#!/bin/sh\necho "$@"\n')
    for name in ("entrypoint", "redis-server"):
        (folder / name).chmod(0o755)
    for name in ("conf", "run"):
        (folder / name).mkdir()
    (folder / "conf/ours.conf").write_text(LOADS)
    (folder / "run").chmod(0o777)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def sealed_call(folder: Path, *words: str) -> str:
    """What the server is called with, where the user is not the owner of the configuration."""
    for path in (folder / "conf").iterdir():
        path.chmod(0o444)
    (folder / "conf").chmod(0o555)
    someone = {"user": 65534} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [folder / "entrypoint", *words], capture_output=True, text=True,
        env={"PATH": f"{folder}:/usr/bin:/bin"}, **someone,
    )  # type: ignore[call-overload]  # fmt: skip
    assert done.returncode == 0, done.stderr
    return str(done.stdout.strip())


def test_the_health_user_has_a_password_of_this_start(sealed: Path) -> None:
    """It is in a file of the server's user alone, and another one at the next start."""
    seen = set()
    for _ in range(2):
        called = sealed_call(sealed, "--maxmemory", "1gb")
        file = sealed / "run/health"
        hashed = hashlib.sha256(file.read_text().strip().encode()).hexdigest()
        user = f"--user certauth-health on #{hashed} resetchannels -@all +ping +info"
        assert called == f"{sealed}/conf/ours.conf {user} --maxmemory 1gb"
        assert file.stat().st_mode & 0o777 == 0o600
        seen.add(hashed)
    assert len(seen) == 2


@pytest.mark.parametrize("text", ["aclfile /x.acl\n", "include /other.conf\n"])
def test_no_health_user_beside_an_aclfile(sealed: Path, text: str) -> None:
    """A server with both does not start; an included file may name one."""
    (sealed / "conf/mine.conf").write_text(LOADS + text)
    assert sealed_call(sealed, f"{sealed}/conf/mine.conf") == f"{sealed}/conf/mine.conf"
    assert not (sealed / "run/health").exists()
    given = ("--AclFile", "/x.acl")
    assert sealed_call(sealed, *given) == f"{sealed}/conf/ours.conf --AclFile /x.acl"


def test_no_health_user_where_a_rewrite_would_keep_it(image: Path, tmp_path: Path) -> None:
    """CONFIG REWRITE would write it down, and the next start would have it twice."""
    entrypoint = image / "entrypoint"
    (tmp_path / "run").mkdir()
    entrypoint.write_text(entrypoint.read_text().replace("RUN=/run/certauth", f"RUN={image}/run"))
    (image / "run/health").write_text("of an earlier start")
    assert called(image, "").stdout == f"redis-server {image}/ours.conf\n"
    assert not (image / "run/health").exists()


def asked(tmp_path: Path, *said: str, password: bool = True, word: str = "") -> tuple[int, str]:
    """The health check of a server that says this."""
    script = (ROOT / "module/health").read_text()
    assert script.count("/run/certauth/health") == 1
    (tmp_path / "health").write_text(script.replace("/run/certauth/health", f"{tmp_path}/secret"))
    heard = tmp_path / "heard"
    lines = "".join(f"echo '{line}'\n" for line in said)
    (tmp_path / "redis-cli").write_text(f"#!/bin/sh\ncat >{heard}\n{lines}")
    for name in ("health", "redis-cli"):
        (tmp_path / name).chmod(0o755)
    if password:
        (tmp_path / "secret").write_text("s3cret\n")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        [tmp_path / "health", *word.split()], capture_output=True, text=True, env=environment
    )
    assert ("AUTH certauth-health s3cret" in heard.read_text()) == (password and word != "live")
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (["OK", "PONG", "loading:0", "certauth_journal:ok"], ""),
        (["OK", "PONG", "loading:0", "certauth_journal:lost"], ""),
        (["OK", "PONG", "loading:0", "certauth_journal:damaged"], "the journal is damaged"),
        (["OK", "LOADING", "loading:1", "certauth_journal:ok"], "loads its data"),
        (["OK", "PONG", "loading:1", "certauth_journal:ok"], "loads its data"),
        (["OK", "MASTERDOWN Link", "loading:0", "certauth_journal:ok"], "without its master"),
        (["BUSY Redis is busy running a script."], "a script keeps the server"),
        (["OK", "PONG", "loading:0"], "the module does not answer"),
        (["Could not connect to Redis at /run/certauth/redis.sock"], "does not answer"),
        ([], "does not answer: nothing"),
    ],
    ids=str,
)
def test_health_is_what_the_server_says(tmp_path: Path, said: list[str], reason: str) -> None:
    code, printed = asked(tmp_path, *said)
    assert code == bool(reason)
    assert reason in printed
    assert reason or not printed


@pytest.mark.parametrize(
    ("said", "code"), [("NOAUTH Authentication required.", 0), ("LOADING data", 1), ("PONG", 0)]
)
def test_without_a_login_health_is_an_answer(tmp_path: Path, said: str, code: int) -> None:
    """That of a configuration of somebody's own, which has no health user."""
    assert asked(tmp_path, said, password=False)[0] == code


@pytest.mark.parametrize("said", ["NOAUTH", "LOADING", "BUSY", "MASTERDOWN", "PONG"])
def test_whoever_answers_is_alive(tmp_path: Path, said: str) -> None:
    """A supervisor kills what does not answer, and nobody else."""
    assert asked(tmp_path, said, word="live") == (0, "")
    assert asked(tmp_path, "Could not connect", word="live")[0] == 1
