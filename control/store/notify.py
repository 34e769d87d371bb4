"""Who is told of a change: other processes by PostgreSQL's NOTIFY, threads of this one that
wait."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from control.store.outage import first_line

log = logging.getLogger(__name__)

NOTIFY_CHANNEL = "certauth"
LISTEN_SECONDS = 0.5  # between two looks at whether it is to end


def notify_others(connection: sa.Connection, sender: str) -> None:
    """Wakes the other processes when this transaction has ended; SQLite cannot do that. `sender`
    lets a process recognise its own notifications."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(NOTIFY_CHANNEL, sender)))


class NotificationListener(threading.Thread):
    """Calls `changed` when another process notifies, and when it has a new connection, since it may
    have missed something. It has a connection of its own outside of transactions, within which
    PostgreSQL delivers nothing. `engine` commits each statement."""

    def __init__(self, engine: sa.Engine, sender: str, changed: Callable[[], None]) -> None:
        super().__init__(name="listener", daemon=True)
        self._engine = engine
        self._own_sender, self._changed = sender, changed
        self._stopping, self._missed = threading.Event(), False

    def run(self) -> None:
        """Listens until `stop`, and connects again a second after an error."""
        while not self._stopping.is_set():
            try:
                with self._engine.connect() as connection:
                    self._listen(connection)
            except Exception as error:  # whatever the driver raises
                if not self._missed:  # an outage is told by those who ask
                    reason = first_line(error)
                    log.warning("other control planes are not heard at once: %s", reason)
                self._missed = True
                self._stopping.wait(1)

    def _listen(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"LISTEN {NOTIFY_CHANNEL}")
        driver: Any = connection.connection.driver_connection
        connection.detach()  # the pool is for connections that do not listen
        if self._missed:
            self._missed = False
            self._changed()
        while not self._stopping.is_set():
            for note in driver.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                if note.payload != self._own_sender:
                    self._changed()

    def stop(self) -> None:
        """Returns when the thread has ended, or shortly after LISTEN_SECONDS without it."""
        self._stopping.set()
        # Where it waits for a database that hangs, it goes with the process.
        self.join(LISTEN_SECONDS + 1)


class ReportCounter:
    """Counts the reports about nodes that this process knows of, and wakes those that wait."""

    def __init__(self) -> None:
        self._condition, self.count = threading.Condition(), 0

    def count_up(self) -> None:
        """A report about a node was stored: wakes each thread in `wait`."""
        with self._condition:
            self.count += 1
            self._condition.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Returns when the count is not `seen` any more, or after so many seconds."""
        with self._condition:
            self._condition.wait_for(lambda: self.count != seen, seconds)
