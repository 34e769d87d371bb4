"""What `make run` asks of a machine, and what only developing asks of it: .ci/setup."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.support import ROOT

TOOLS = ("sh", "cat", "cc", "cp", "dirname", "flock", "id", "ln", "mkdir", "rm", "sed", "sha256sum",
         "sort", "touch", "tr")  # fmt: skip

# Answers as the interpreter does, and writes down what it would install.
PYTHON = """#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip") shift 2; echo "$*" >>installed ;;
"build.py "*) touch built ;;
*) exec {python} "$@" ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A folder with .ci/setup, and a PATH on which only `TOOLS`, a server and Python are."""

    folder: Path

    def setup(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / "tree/.ci/setup", *words], capture_output=True, text=True,
            env={"PATH": str(self.folder / "bin"), "PYTHON": str(self.folder / "bin/python3")},
        )  # fmt: skip

    def installed(self) -> list[str]:
        file = self.folder / "tree/installed"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "tree/.ci").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / ".ci/setup", tmp_path / "tree/.ci")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "tree")
    for name in TOOLS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or os.devnull)
    for name, text in {
        "python3": PYTHON.format(python=sys.executable),
        "redis-server": "#!/bin/sh\n",
        "redis-cli": "#!/bin/sh\n",
    }.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return Machine(tmp_path)


@pytest.mark.parametrize("what", [(), ("dist",)], ids=["run", "dist"])
def test_a_user_needs_no_developers_tools(machine: Machine, what: tuple[str, ...]) -> None:
    """A compiler, headers, Python and a server are enough, for anybody: neither root nor apt-get is
    here. What is installed is what the wheel depends on."""
    done = machine.setup(*what)
    assert done.returncode == 0, done.stderr
    first, *others = machine.installed()
    assert "--editable . setuptools" in first
    assert [one.split()[-1] for one in others] == [r"build>=1.2,<2"] * bool(what)
    assert "dev" not in " ".join(machine.installed())
    assert (machine.folder / "tree/built").exists()


def test_a_second_time_there_is_nothing_to_install(machine: Machine) -> None:
    machine.setup()
    before = machine.installed()
    assert machine.setup().returncode == 0
    assert machine.installed() == before


def test_a_developer_is_told_what_is_missing(machine: Machine) -> None:
    """By name, and before anything is installed."""
    done = machine.setup("dev")
    assert done.returncode == 1
    assert "clang" in done.stderr
    assert "curl" in done.stderr
    assert not machine.installed()


def test_a_developers_environment_stays_one(machine: Machine) -> None:
    """`make run` after `make test` takes nothing away, and installs nothing."""
    for name in ("clang", "openssl", "curl"):
        (machine.folder / "bin" / name).write_text("#!/bin/sh\ncat >/dev/null\n")
        (machine.folder / "bin" / name).chmod(0o755)
    assert machine.setup("dev").returncode == 0
    before = machine.installed()
    assert before
    assert "--editable .[dev]" in before[-1]
    assert machine.setup().returncode == 0
    assert machine.installed() == before


def test_a_machine_without_a_server_is_told_so(machine: Machine) -> None:
    (machine.folder / "bin/redis-cli").unlink()
    done = machine.setup()
    assert done.returncode == 1
    assert "missing here, by their Debian names: redis-tools" in done.stderr
