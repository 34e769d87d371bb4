"""Mutants of certificates, lines and names, in memory that ends at an unreadable page: a named
refusal or a valid result, never a crash. See hostile.py."""

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests.kit.support import ROOT, wait_until

PEM_WITH_PASSWORD = """-----BEGIN CERTIFICATE-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF

MIIBPDCB5KADAgECAg==
-----END CERTIFICATE-----
"""
ASK = f"""
import tests.conftest
from control.policy import core
try:
    core.identity({PEM_WITH_PASSWORD!r}.encode())
except core.CoreError as refused:
    print("refused:", refused)
"""


def run(what: str, seed: int, count: int) -> set[str]:
    """The outcomes of so many mutants in a process of its own, without a terminal."""
    command = [sys.executable, "-m", "tests.kit.hostile", what, str(seed), str(count)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert done.returncode == 0, (
        f"{what} {seed} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    )
    return set(done.stdout.split("\n")[0].split(" "))


def test_the_page_behind_the_input_is_unreadable() -> None:
    """Else the other tests of this file could not fail."""
    command = [sys.executable, "-m", "tests.kit.hostile", "overrun", "0", "0"]
    # ASan, where the tests run beside it, would turn the signal into a report.
    options = f"{os.environ.get('ASAN_OPTIONS', '')}:handle_segv=0"
    environment = {**os.environ, "ASAN_OPTIONS": options}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=100)
    assert done.returncode == -signal.SIGSEGV


@pytest.mark.parametrize("seed", range(4))
def test_mutants_of_certificates(seed: int) -> None:
    """Half of them are signed again, so that they come through to the decision."""
    reasons = run("certificates", seed, 3000)
    assert {"malformed", "bad_string", "matched", "no_binding"} <= reasons


def test_mutants_of_pem_texts() -> None:
    """Broken blocks, headers and base64."""
    assert "matched" in run("pems", 1, 3000)


@pytest.mark.parametrize("seed", range(3))
def test_mutants_of_lines(seed: int) -> None:
    """What is taken says the same when its canonical text is read again: a journal replays."""
    assert run("lines", seed, 8000) == {"taken", "refused"}


@pytest.mark.parametrize("seed", range(2))
def test_mutants_of_names(seed: int) -> None:
    """What is taken is printed and read back."""
    assert run("names", seed, 10_000) == {"taken", "refused"}


def test_attack_a_pem_text_that_asks_for_a_password() -> None:
    """libcrypto would ask for it on the terminal, and a server started from one would wait for the
    answer in its main thread."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ASK])
    said = b""

    def answered() -> bool:
        nonlocal said
        with suppress(OSError):  # EIO: the child has closed its end
            said += os.read(terminal, 4096)
        return b"\n" in said or b"phrase" in said

    try:
        wait_until(answered, "an answer")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    assert b"refused: " in said
    assert b"phrase" not in said
