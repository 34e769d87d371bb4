"""The command line in a terminal of 80 columns (tmux): what a person sees, presses and answers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control.cli.completing import SHELLS
from tests.kit.command_line import Run
from tests.kit.support import wait_until

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
PATIENCE = 240  # seconds: the machine may be busy
COLUMNS = 80
START = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--private", "--no-config", "-i"),
}
LOAD = {
    "bash": 'eval "$(redis-certauth completion bash)"',
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$(redis-certauth completion zsh)"',
    "fish": "redis-certauth completion fish | source",
}


class Terminal:
    """A shell in a tmux of its own."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.socket = folder / "tmux"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {
            "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "PATH": path, "PS1": "ready> ",
            "LC_ALL": "C.UTF-8", "TERM": "screen-256color",
        }  # fmt: skip
        size = ("-x", str(COLUMNS), "-y", "50")
        self.tmux("new-session", "-d", *size, *START[shell], env=environment)

    def tmux(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-f", "/dev/null", "-S", str(self.socket), *words],
            capture_output=True, text=True, env=env, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, text: str, *keys: str) -> None:
        """Text as it stands, then keys by tmux's names."""
        self.tmux("send-keys", "-l", text)
        for key in keys:
            self.tmux("send-keys", key)

    def screen(self, colours: bool = False) -> str:
        return self.tmux("capture-pane", "-p", *(("-e",) if colours else ()))

    def sees(self, text: str) -> str:
        wait_until(lambda: text in self.screen(), f"the screen has {text!r}", PATIENCE)
        return self.screen()

    def run(self, command: str) -> str:
        """What is on the screen when a command has ended; its status stands behind `status:`."""
        self.tmux("send-keys", "C-l")
        self.type(f"clear; {command}; echo sta''tus:$?", "Enter")
        return self.sees("status:")

    def close(self) -> None:
        self.tmux("kill-server")


@pytest.fixture
def terminal(tmp_path: Path, run: Run) -> Iterator[Callable[[str], Terminal]]:
    """Opens one, for the administrator, who knows the user alice."""
    words = ["user", "create", "alice", "--subject", "CN=alice,OU=engineering of everything,O=acme",
             "--role", "None"]  # fmt: skip
    made = run(*words)
    assert made.exit_code == 0, made.output
    opened: list[Terminal] = []

    def open_one(shell: str = "bash") -> Terminal:
        opened.append(Terminal(tmp_path, shell))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_a_tab_completes_words_and_names(terminal: Callable[[str], Terminal], shell: str) -> None:
    """Commands, and users whom only the API knows."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    one = terminal(shell)
    one.type(LOAD[shell], "Enter")
    one.type("echo load''ed", "Enter")
    one.sees("loaded\n")
    one.type("redis-certauth locko", "Tab")
    one.sees("redis-certauth lockout")
    one.tmux("send-keys", "C-c")
    one.type("redis-certauth user show al", "Tab")
    one.sees("redis-certauth user show alice")
    one.tmux("send-keys", "C-c")


@pytest.mark.slow
def test_a_person_works_on_eighty_columns(terminal: Callable[..., Terminal]) -> None:
    """Rows fit; a question is asked and its answer counts; a plan has colours, or none where
    NO_COLOR is set."""
    one = terminal()
    shown = one.run("redis-certauth user list")
    assert max(map(len, shown.splitlines())) <= COLUMNS
    assert "alice" in shown
    assert "CN=alice,OU=engineering" in shown
    one.type("clear; redis-certauth user delete alice; echo sta''tus:$?", "Enter")
    one.sees("Delete user 'alice'? [y/N]:")
    one.type("n", "Enter")
    assert "Aborted!" in one.sees("status:1")
    one.run("cd; echo 'roles: [{name: readers}]' >plan.yaml")
    plan = "redis-certauth apply -f ~/plan.yaml --dry-run"
    assert "+ create roles 'readers'" in one.run(plan)
    assert "\x1b[32m+ create roles 'readers'" in one.screen(colours=True)
    assert "status:0" in one.run(f"NO_COLOR=1 {plan}")
    assert "\x1b[32m" not in one.screen(colours=True)
