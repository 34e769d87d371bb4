"""control/service/signals.py: what signals ask of a process, whatever it is doing meanwhile."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from control.service import signals
from control.service.signals import END_SECONDS
from tests.kit.support import wait_until

WAITS = """
import sys, threading, time, importlib.util
spec = importlib.util.spec_from_file_location("signals", {file!r})  # alone: it is there sooner
found = importlib.util.module_from_spec(spec)
spec.loader.exec_module(found)
stop_on_signal = found.stop_on_signal
def reload():
    print("reload", flush=True)
    if len(sys.argv) > 1:
        raise OSError("no such file")
stop = stop_on_signal(reload, patience={patience})
print("ready", flush=True)
stop.wait()
print("stops", flush=True)
{after}
"""

LATE = """
import os
class Late:
    def __del__(self, kill=os.kill, write=os.write, process=os.getpid()):
        for number in (1, 2, 15):
            kill(process, number)
        write(1, b"late\\n")
sys.late = Late()  # goes after the interpreter let go of signals
"""


def run(after: str = "", patience: float = 0, *words: str) -> "subprocess.Popen[str]":
    code = WAITS.format(file=signals.__file__, patience=patience, after=after)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def ended() -> "Iterator[list[subprocess.Popen[str]]]":
    """Processes that do not outlive the test."""
    made: list[subprocess.Popen[str]] = []
    yield made
    for process in made:
        if process.poll() is None:
            process.kill()
        process.communicate()


Ended = list["subprocess.Popen[str]"]


def test_any_number_of_signals_at_once_ends_it(ended: Ended) -> None:
    """A supervisor signals the group and the child, Ctrl-C is held down: no handler waits for a
    lock that another one holds."""
    for _ in range(5):
        process = run()
        ended.append(process)
        for _ in range(200):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "stops\n", "")


def test_a_signal_while_the_interpreter_ends_kills_nothing(ended: Ended) -> None:
    """Ctrl-C behind a SIGTERM, SIGHUP of a logrotate: the interpreter has put the default action
    back by then, wherever it finds a handler."""
    process = run(LATE)
    ended.append(process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "stops\nlate\n", "")


@pytest.mark.parametrize(
    "hangs",
    [
        "time.sleep(60)",
        "threading.Thread(target=time.sleep, args=(60,), name='a server').start()",
        "threading.Thread(target=lambda: time.sleep(60), name='a server').start(); time.sleep(60)",
    ],
)
def test_it_ends_in_time_whatever_hangs(ended: Ended, hangs: str) -> None:
    """With 0, since it was asked to; the log names what was not waited for."""
    process = run(hangs, 0.5)
    ended.append(process)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert time.monotonic() - begun < 30
    assert "it ends now, and does not wait for: " in errors
    assert ("a server" in errors) == ("a server" in hangs)


def test_the_time_to_the_end_is_below_what_supervisors_give() -> None:
    """The bar is 5 seconds in every outage."""
    assert END_SECONDS < 5


def test_nobody_has_to_read_the_log_for_it_to_end(ended: Ended) -> None:
    """Standard error is a full pipe."""
    fill = "import os; os.set_blocking(2, False)\ntry:\n    while True: os.write(2, b'x' * 4096)\n"
    fill += "except BlockingIOError: os.set_blocking(2, True)\ntime.sleep(60)"
    process = run(fill, 0.5)
    ended.append(process)
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.poll() == 0, "it has ended", 30)


def test_sighup_ends_nothing(ended: Ended) -> None:
    """As logrotate and `systemctl reload` send it; also where what it asks for fails."""
    for words in ((), ("fails",)):
        process = run("", 0, *words)
        ended.append(process)
        assert process.stdout
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "reload\n"
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output) == (0, "stops\n")
        assert ("the settings stay as they were" in errors) == bool(words)
