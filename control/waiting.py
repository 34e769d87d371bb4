"""Waiting until the servers hold a change: `?wait_for_sync`, whichever process speaks to them."""

import threading
import time
from collections.abc import Iterator, Mapping

from control.errors import Refusal
from control.records import Database, Node
from control.store import Store

LONGEST = 60.0  # seconds that a request may wait
POLL = 0.05  # seconds between two looks, where the database does not tell of other processes
# Requests that wait at a time: each has a thread, and the others have to be answered too.
_PLACES = threading.BoundedSemaphore(12)


def wait_for_sync(store: Store, moved: Mapping[int, int], seconds: float) -> list[str]:
    """Waits until every server of these databases (uid → generation) holds the policy of that
    generation or a later one; or until one that is being removed is gone. What is missing after so
    many seconds; at once, where too many requests wait already."""
    if not _PLACES.acquire(blocking=False):
        return _missing(store, moved)
    try:
        end = time.monotonic() + seconds
        while True:
            seen = store.reports()
            missing, left = _missing(store, moved), end - time.monotonic()
            if not missing or left <= 0:
                return missing
            store.await_report(seen, min(left, POLL))
            store.enter()  # the changes of others are to be seen
    finally:
        _PLACES.release()


def servers(store: Store, database: Database) -> tuple[Node, ...]:
    """What is known of the servers of a database; of its endpoints, where nothing is known yet."""
    known = store.nodes(database.uid)
    named = dict.fromkeys(f"{end.hosts[0]}:{end.port}" for end in database.endpoints)
    new = (Node(database.uid, address, 0, False, "not reached yet") for address in named)
    return known or tuple(new)


def _missing(store: Store, moved: Mapping[int, int]) -> list[str]:
    return [text for uid, generation in moved.items() for text in _behind(store, uid, generation)]


def _behind(store: Store, uid: int, generation: int) -> Iterator[str]:
    """Which servers of a database are behind a generation of its policy, and why."""
    try:
        database = store.get(Database, uid)
    except Refusal:
        return  # it is gone
    if database.deleting:
        yield f"bdb {uid} ('{database.name}') is not removed yet"
    for node in servers(store, database):
        if node.origin in ("leaving", "gone"):
            continue  # it is given back, in its own time
        holds = node.in_step and not node.error.startswith("TRUST")
        if node.error and not holds:
            yield f"{node.address}: {node.error}"
        elif node.generation < generation and not database.deleting:
            yield f"{node.address}: generation {node.generation}, and not yet {generation}"
