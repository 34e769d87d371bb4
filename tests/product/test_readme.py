"""README.md, "Quick start: the module alone": run as it stands, on a port of its own."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import redis

from tests.kit.pages import page, section
from tests.kit.support import MODULE, free_port

TITLE = "Quick start: the module alone"
BIN = Path(sys.executable).parent


def blocks() -> list[str]:
    return [part.split("```")[0] for part in section("README.md", TITLE).split("```sh\n")[1:]]


def run(script: str, folder: Path) -> str:
    """What it prints. Fails where a command of it does."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_newcomer_maps_a_name_to_a_user(tmp_path: Path) -> None:
    """alice is alice and bob is nobody, by the commands of the page. What the checkout has already
    (`make build`, the place of the module) and the port are this test's."""
    set_up, tried = blocks()
    port = str(free_port())
    build, path, *rest = set_up.splitlines()
    assert build == "make build"
    assert path == 'export PATH="$PWD/.venv/bin:$PATH" MODULE="$PWD/module/certauth.so"'
    here = f"export MODULE='{MODULE}'\n"
    script = "\n".join(rest).replace("6379", port)
    tried = tried.replace("--tls", f"--tls -p {port}")
    try:
        run(here + script, tmp_path)
        said = run(tried, tmp_path / "try")
    finally:
        left = redis.Redis(unix_socket_path=str(tmp_path / "try/admin.sock"))
        with suppress(redis.ConnectionError):
            left.shutdown(nosave=True)
        left.close()
    assert said.startswith("alice\n"), said
    assert "Server closed the connection" in said
    assert "no_binding" in said


def test_it_is_short() -> None:
    """The bars of the first page: 1,200 words in all, and 300 of prose until alice is in."""
    text = page("README.md")
    assert len(text.split()) < 1200
    first = text.split("\n## Quick start: with")[0]
    prose = re.sub(r"```.*?```|^\|.*?$", "", first, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) < 300
