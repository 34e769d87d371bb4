"""What a process does while its database is away: it does not queue up for it, and its log does not
fill up."""

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from control.store.errors import UNAVAILABLE_ERRORS, Away, Locked

log = logging.getLogger(__name__)

LINE_SECONDS = 60.0  # between two lines of the log about one outage
PAUSE_SECONDS = 2.0  # between two tries of a database that does not answer
TRY_SECONDS = 20.0  # for which nobody else tries to have a lock while one does, who waits for it
# SQLSTATEs: of a lock that was not had in time; and those after which a connection is good for
# nothing: the server is a standby now (read-only), or is being shut down.
LOCKED = "55P03"
GONE = ("25006", "57P01", "57P02", "57P03", "57P05")


class Outage:
    """Of all that a process asks its database. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._away = ""  # why it does not answer; then few are let through
        self._locked = ""  # the same, of those who would write
        self._next_try = 0.0
        self._begun: dict[bool, float] = {}  # whether it was a write → when it first failed
        self._told, self._said, self._failures = -math.inf, False, 0
        self._worked = False  # before that, anyone who opens the database says what is wrong

    @contextmanager
    def watch(self, writes: bool) -> Iterator[None]:
        """Around a statement or a transaction. Raises Away where the database did not answer a
        moment ago, or (for who `writes`) was locked: nobody waits for it then, except who finds out
        whether it is back."""
        self._check(writes)
        try:
            yield
        except UNAVAILABLE_ERRORS as error:
            if not isinstance(error, Away):
                self._failed(error, writes)
            raise
        except BaseException:
            if writes:  # it is not the database: the next one tries
                self._next_try = 0.0
            raise
        self._worked = True
        if self._begun:
            self._succeeded(writes)

    def check(self, writes: bool) -> bool:
        """Raises what `watch` raises, for who is about to wait for something else first. Whether it
        is not known to work."""
        why = self._away or (self._locked if writes else "")
        if why and time.monotonic() < self._next_try:
            raise (Away if self._away else Locked)(why)
        return bool(why)

    def _check(self, writes: bool) -> None:
        if not (self._away or self._locked):
            return
        with self._lock:
            if self.check(writes):
                pause = PAUSE_SECONDS if self._away else TRY_SECONDS
                self._next_try = time.monotonic() + pause

    def _failed(self, error: Exception, writes: bool) -> None:
        reason, now = first_line(error), time.monotonic()
        if not self._worked:
            return
        with self._lock:
            if is_away(error):
                # At once the first time: it may be the connection alone that is gone.
                self._next_try = now + PAUSE_SECONDS if self._away else now
                self._away = reason
            elif is_locked(error):
                self._locked, self._next_try = reason, now + PAUSE_SECONDS
            begins = not self._begun
            self._begun.setdefault(writes, now)
            self._failures += 1
            if now < self._told + LINE_SECONDS:  # also of one that was over in between
                return
            self._told, self._said, failures = now, True, self._failures
            since = now - min(self._begun.values())
        if begins:
            log.error("the database does not do it: %s", reason)
        else:
            text = "the database does not do it, since %.0f seconds, %d times: %s"
            log.error(text, since, failures, reason)

    def _succeeded(self, writes: bool) -> None:
        """One that takes no writes can still be read, so only a write ends such an outage."""
        with self._lock:
            self._away, self._locked = "", "" if writes else self._locked
            if not self._begun or (not writes and True in self._begun):
                return
            since = time.monotonic() - min(self._begun.values())
            failures, self._failures, self._begun = self._failures, 0, {}
            said, self._said = self._said, False
        if said:
            text = "the database does it again, after %.0f seconds, %d times"
            log.warning(text, since, failures)


def first_line(error: Exception) -> str:
    """What the driver says, without the statement and its values."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def is_away(error: Exception) -> bool:
    """Whether the database did not answer, so that asking again would take as long."""
    if isinstance(error, sa.exc.DBAPIError):
        # SQLite's file is there or is not, and says so at once.
        is_remote = not type(error.orig).__module__.startswith("sqlite3")
        return is_remote and sqlstate(error.orig) is None
    return isinstance(error, sa.exc.TimeoutError)


def is_locked(error: Exception) -> bool:
    """Whether somebody holds a lock for longer than anybody waits for it."""
    if isinstance(error, Locked):
        return True
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    return sqlstate(error.orig) == LOCKED or "is locked" in str(error.orig)


def sqlstate(error: object) -> Any:
    """The code with which PostgreSQL has refused; None where it did not answer."""
    return getattr(error, "sqlstate", None)
