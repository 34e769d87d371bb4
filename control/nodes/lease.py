"""Which of several control planes speaks to the servers: the holder of the lease.

The lease is a row of the store, and ends by the clock of its database. Its epoch goes up with each
new holder, and stands in every write: the store refuses that of a holder that has been replaced,
and so does each server that its successor has written to. A holder that was frozen thus changes
nothing when it wakes, whatever it was about to do.

An epoch never falls below what a server holds: where a database comes from a backup, or was lost,
the holder raises its own above it before it writes there.
"""

import os
import secrets
import socket
import threading
import time

from control.store import Replaced, Store

LEASE_SECONDS = 3.0  # after which a holder that is silent can be replaced
RENEW = 1.0  # between two renewals
LEASE_TRY_SECONDS = 0.5  # between two looks at whether it can be had


class Lease:
    """This process's part in it. Safe to use from any thread."""

    def __init__(self, store: Store) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._store = store
        self._epoch = 0  # 0: another process has it
        self._highest = 0
        self._terms = 0
        self._until = self._next = 0.0  # as time.monotonic() goes, which no freeze stops
        self._lock = threading.Lock()

    def hold(self) -> bool:
        """Takes or renews it where that is due. Whether it is ours; called at least every
        LEASE_TRY_SECONDS."""
        now = time.monotonic()
        if now >= self._next:
            epoch = self._store.lease.take(self.holder, LEASE_SECONDS)
            with self._lock:
                self._terms += epoch > 0 and epoch != self._epoch
                # From before it was asked for: we stop before anybody else begins.
                self._epoch, self._until = epoch, now + LEASE_SECONDS
                self._highest = max(self._highest, epoch)
                self._next = now + (RENEW if epoch else LEASE_TRY_SECONDS)
        return self._epoch > 0

    def lose(self) -> None:
        """Ours no more, until it is had again."""
        with self._lock:
            self._epoch, self._next = 0, 0.0

    @property
    def epoch(self) -> int:
        """For a write of now. Raises Replaced where it is not ours for certain."""
        with self._lock:
            if not self._epoch or time.monotonic() >= self._until:
                raise Replaced
            return self._epoch

    @property
    def terms(self) -> int:
        """How often this process has become the holder. Another process may have held the lease
        between two of them, also where this process was frozen and never saw that."""
        return self._terms

    @property
    def highest(self) -> int:
        """The highest epoch that this process has had."""
        return self._highest

    def confirm(self) -> None:
        """Asks the store again whether it is ours. Raises Replaced."""
        with self._lock:
            self._next = 0.0
        if not self.hold():
            raise Replaced

    def above(self, seen: int) -> int:
        """The epoch for a write to a server that has seen this one, raised above that where ours
        is lower. Raises Replaced."""
        epoch = self.epoch
        if seen <= epoch:
            return epoch
        raised = self._store.lease.raise_epoch(self.holder, epoch, seen)
        with self._lock:
            self._epoch = max(self._epoch, raised) if self._epoch else 0
            self._highest = max(self._highest, self._epoch)
        return self.epoch

    def end(self) -> None:
        """Another process can have it at once."""
        self.lose()
        self._store.lease.end(self.holder)
