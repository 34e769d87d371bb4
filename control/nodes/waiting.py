"""Waiting until the servers hold a change: `?wait_for_sync`, whichever process speaks to them."""

import threading
import time
from collections.abc import Iterator, Mapping

from control.ages import as_of_now
from control.errors import Refusal
from control.policy import refusals
from control.records import Database
from control.reports import Node
from control.store import NOT_REACHED, Store

LONGEST = 60.0  # seconds that a request may wait
TOTAL = "X-Total-Count"  # the header that says how many there are of what a list shows some of
IN_FORCE = "Certauth-In-Force"  # the header that says on how many of how many servers a change is
UNFINISHED = "the lines of its users are not all there yet"
POLL = 0.05  # seconds between two looks, where the database does not tell of other processes
# Requests that wait at a time: each has a thread, and the others have to be answered too.
_PLACES = threading.BoundedSemaphore(12)


def wait_for_sync(store: Store, moved: Mapping[int, range], seconds: float) -> list[str]:
    """Waits until every server of these databases (uid → generations that were made) holds the
    policy of the last of them or a later one; or until one that is being removed is gone. What is
    missing after so many seconds; at once, where too many requests wait already."""
    if not _PLACES.acquire(blocking=False):
        return missing(store, moved)
    try:
        end = time.monotonic() + seconds
        while True:
            seen = store.nodes.report_count()
            pending, left = missing(store, moved), end - time.monotonic()
            if not pending or left <= 0:
                return pending
            store.nodes.wait_for_report(seen, min(left, POLL))
            store.request.enter()  # the changes of others are to be seen
    finally:
        _PLACES.release()


def servers(store: Store, database: Database) -> tuple[Node, ...]:
    """What is known now of the servers of a database; of its endpoints, where nothing is known
    yet."""
    known = tuple(map(as_of_now, store.nodes.of(database.uid)))
    named = dict.fromkeys(end.address for end in database.endpoints)
    new = (Node(database.uid, address, 0, False, NOT_REACHED) for address in named)
    return known or tuple(new)


def in_force(store: Store, moved: Mapping[int, range]) -> str:
    """Of the servers of these databases: how many hold what was changed, and how many there are, as
    "2/3"."""
    found = [why for uid, made in moved.items() for _, why in _followers(store, uid, made)]
    return f"{found.count('')}/{len(found)}"


def missing(store: Store, moved: Mapping[int, range]) -> list[str]:
    """Which servers of these databases do not hold what was changed, and why."""
    return [text for uid, made in moved.items() for text in _behind(store, uid, made)]


def _behind(store: Store, uid: int, made: range) -> Iterator[str]:
    """Which servers of a database do not hold what these generations changed, and why."""
    try:
        database = store.objects.get(Database, uid)
    except Refusal:
        return  # it is gone
    if database.deleting:
        yield f"bdb {uid} ('{database.name}') is not removed yet"
    if is_unfinished(store, uid):
        yield f"bdb {uid} ('{database.name}'): {UNFINISHED}"
    for address, why in _followers(store, uid, made):
        if why:
            yield f"{address}: {why}"


def is_unfinished(store: Store, uid: int) -> bool:
    """Whether lines of users that this request has changed are still to be rendered."""
    return uid in store.request.unfinished() and uid in store.policies.unfinished()


def _followers(store: Store, uid: int, made: range) -> Iterator[tuple[str, str]]:
    """The servers of a database, by address, and why one does not hold what was changed: ""."""
    try:
        database = store.objects.get(Database, uid)
    except Refusal:
        return
    generation = made.stop - 1
    unfinished = UNFINISHED if is_unfinished(store, uid) else ""
    if uid in store.request.unfinished():  # others did the rest, as later generations
        generation = store.policies.target(uid).generation
    for node in servers(store, database):
        if node.origin in ("leaving", "gone"):
            continue  # it is given back, in its own time
        holds = node.in_step and not node.error.startswith("TRUST")
        why = node.error if not holds else ""
        given_back = database.deleting and node.generation == 0  # or never ours
        if not why and node.generation < generation and not given_back:
            why = f"generation {node.generation}, and not yet {generation}"
        yield node.address, why or unfinished or _refused(store, node, made)


def _refused(store: Store, node: Node, made: range) -> str:
    """What a server does not take of what was changed."""
    new = store.policies.added(node.bdb_uid, made) if node.refused else frozenset()
    return refusals.said(one for one in node.refused if one.line in new)
