"""What signals ask of a process: to end, or to read its settings again.

A signal handler of Python runs between any two steps of the main thread, also of another handler:
one that takes a lock can wait for itself for ever. So the interpreter writes the signals' numbers
into a pipe, and a thread of its own does what they ask for.
"""

import atexit
import logging
import os
import signal
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

END_SECONDS = 4.0  # from a signal to the end, whatever hangs; systemd and Kubernetes wait longer
LAST_WORDS_SECONDS = 0.3  # for a line of the log that nobody may read
ENDS = (signal.SIGINT, signal.SIGTERM)
ALL = (*ENDS, signal.SIGHUP)


def stop_on_signal(
    reload: Callable[[], None] | None = None, patience: float = 0
) -> threading.Event:
    """Set by SIGINT and SIGTERM from now on, which do nothing else any more. With `reload`, SIGHUP
    calls it, in a thread. With `patience`, the process ends so many seconds after the first of
    them, whatever it waits for. Called in the main thread."""
    stop = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in ALL if reload else ENDS:
        signal.signal(number, lambda *_: None)
    atexit.register(_ignore_signals)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(
        target=_listen, args=(reader, stop, reload, patience), name="signals", daemon=True
    ).start()
    return stop


def _ignore_signals() -> None:
    """While the interpreter ends it puts back the default action of each signal that has a handler:
    the next one would kill the process. Blocked first, because Python prints an error for a signal
    that comes while its handler changes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    for number in ALL:
        signal.signal(number, signal.SIG_IGN)


def _listen(
    reader: int, stop: threading.Event, reload: Callable[[], None] | None, patience: float
) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, ALL)  # the main thread has the handlers
    while numbers := os.read(reader, 64):
        if any(number in numbers for number in ENDS):
            if patience and not stop.is_set():
                threading.Thread(target=_end, args=(patience,), name="end", daemon=True).start()
            stop.set()
        elif reload and signal.SIGHUP in numbers:
            try:
                reload()
            except Exception as error:
                log.error("the settings stay as they were: %s", error)


def _end(patience: float) -> None:
    time.sleep(patience)
    # In a thread that nobody waits for: where nobody reads the log, its line waits for ever.
    threading.Thread(target=_say_what_hangs, daemon=True).start()
    time.sleep(LAST_WORDS_SECONDS)
    os._exit(0)


def _say_what_hangs() -> None:
    """What waits then is a database or a server: what is acknowledged is on their disks."""
    ours = ("signals", "end", threading.current_thread().name)
    names = sorted(one.name for one in threading.enumerate() if one.name not in ours)
    log.warning("it ends now, and does not wait for: %s", ", ".join(names))
