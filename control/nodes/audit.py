"""Who did what: the log of each node goes into the event log, and that into a file for other tools.

A node keeps its last 4,096 entries (CERTAUTH.LOG). `Collector` moves them into the store, together
with how far it has come, in one transaction: no entry is there twice, and where some were lost
before they could be read, an entry of its own says so, `client_log_gap`.

`Follower` appends the event log to a file of JSON lines. It goes on behind the last line that is
there, so the file holds what /v1/logs does, whichever process it came from, and for longer.
"""

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from control.ages import Pulse
from control.nodes import topology
from control.nodes.auditing import ENDS, Auditor
from control.records import Cluster, Database, EventDetail, Severity, rendered_time
from control.reports import ClientCertificate, Event, Position
from control.store import UNAVAILABLE_ERRORS, Store, first_line

log = logging.getLogger(__name__)

PAGE_ENTRIES = 1000  # entries at a time
PAGES_PER_VISIT = 6  # of one node in a row: more than it keeps
FOLLOW_SECONDS = 1.0  # between two looks at the event log
STALLED_SECONDS = 30.0  # without a good one, after which the file stands still
FILE_BYTES = 64 << 20  # of a file, which then is renamed to .1, that one to .2, …
FILES_KEPT = 10  # besides the present file
INFO_EVENTS = frozenset(
    {"login", "choose", "left", "would-login", "would-choose", "would-leave", "peer-joined"}
)
REFUSED_NOW_SECONDS = 5.0  # after the last refusal at a door of nodes: it is said of now
REFUSAL_KEEP_SECONDS = 70.0  # a node tells of the same refusal once a minute
ENDS_SECONDS = 60  # for so long a node tells how connections end, after it was asked
STRANGERS = 16  # at the doors of one node, of whom more than their number is kept
RESTARTED = "the server was started again; what happened after its last entry here is not known"
OVERWRITTEN = "more happened than the server keeps until it is read"


@dataclass(frozen=True)
class Ours:
    """Whose logins are not events: the control plane comes once a minute. From another address, its
    key is somebody else's."""

    address: str
    key: str

    def is_in(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry of CERTAUTH.LOG is of the control plane's own connection."""
        whose = entry["address"], entry["key"]
        return entry["event"] in ("login", ENDS) and whose == (self.address, self.key)


Command = Callable[..., Any]  # a node's reply to words, maps as dicts
Key = tuple[int, str]  # a database's uid and a node's address


@dataclass
class Doors:
    """Whom a node has refused where only nodes come in: how many, when that number last climbed,
    and who they were: by door, key and reason until when that counts, and what is said."""

    count: int | None = None
    climbed: float = -math.inf
    told: dict[tuple[str, str, str], tuple[float, str]] = field(default_factory=dict)

    def take(self, entry: Mapping[str, Any]) -> None:
        """Remembers an entry `peer-refused` of CERTAUTH.LOG for REFUSAL_KEEP_SECONDS; of more than
        STRANGERS the oldest is forgotten."""
        who = entry["key"] or entry["address"] or ""
        shown = entry["subject"] or "somebody"
        key = f"key {entry['key']}, " if entry["key"] else ""
        where = "at the cluster bus" if entry["door"] == "bus" else "where this node connects to"
        text = f"{shown} ({key}{entry['address']}) {where}: {entry['reason']}"
        self.told.pop((entry["door"], who, entry["reason"]), None)  # the newest is the last
        until = time.monotonic() + REFUSAL_KEEP_SECONDS
        self.told[entry["door"], who, entry["reason"]] = until, text
        while len(self.told) > STRANGERS:
            del self.told[next(iter(self.told))]

    def counts(self, count: int) -> None:
        """Takes the node's own number of refusals (`peers_refused` of INFO). Only when that climbs
        are refusals of now."""
        if self.count is not None and count > self.count:
            self.climbed = time.monotonic()
        self.count = count

    def now(self, known: Container[str]) -> list[str]:
        """Who is refused at the moment, but for keys that are `known` by now."""
        now = time.monotonic()
        if now > self.climbed + REFUSED_NOW_SECONDS:
            return []
        lately = [(one, text) for one, (until, text) in list(self.told.items()) if now < until]
        return [text for (_, key, reason), text in lately
                if reason != "no_binding" or key not in known]  # fmt: skip


# ---- From the nodes into the store ---------------------------------------------------------------


@dataclass
class Collector:
    """Collects from nodes, from each by one thread at a time. `figures` are the numbers of INFO
    certauth as they were last read, without the prefix. `auditor` hears of what was collected."""

    store: Store
    auditor: Auditor | None = None
    figures: dict[Key, dict[str, int]] = field(default_factory=dict)
    doors: dict[Key, Doors] = field(default_factory=dict)
    _problems: dict[Key, str] = field(default_factory=dict)
    _without_ends: dict[Key, str] = field(default_factory=dict)  # the start with an older module

    def collect(
        self, database: Database, address: str, command: Command, ours: Ours | None = None
    ) -> None:
        """Reads what a node has to tell. Never raises: its caller keeps nodes in step, which
        matters more."""
        key, problem = (database.uid, address), ""
        try:
            self._entries(database, address, command, ours)
            found = self.figures[key] = _numbers(command("INFO", "server", "certauth"))
            self.doors.setdefault(key, Doors()).counts(found.get("peers_refused", 0))
        except UNAVAILABLE_ERRORS as error:  # says nothing about the node
            log.debug("%s: its log is not read: %s", address, first_line(error))
            return
        except Exception as error:  # of the node
            problem = str(error) or type(error).__name__
            self.figures.pop(key, None)
        if problem and problem != self._problems.get(key):
            log.warning("%s of '%s': its log is not read: %s", address, database.name, problem)
        self._problems[key] = problem

    def _entries(
        self, database: Database, address: str, command: Command, ours: Ours | None
    ) -> None:
        before = self.store.events.position(database.uid, address)
        for _ in range(PAGES_PER_VISIT):
            reply = _complete(self._read(database, address, command, before))
            after, found = _page(database, address, before, reply, ours)
            if after == before or not self.store.events.collect(
                database.uid, address, before, after, found
            ):
                return  # nothing new, or another process was faster
            if self.auditor:
                theirs = [one for one in reply["entries"] if not (ours and ours.is_in(one))]
                self.auditor.queue_records(database, address, theirs)
            seen = (_seen(database, address, entry) for entry in reply["entries"])
            self.store.inventory.record_seen(*filter(None, seen))
            for entry in reply["entries"]:
                if entry["event"] == "peer-refused":
                    self.doors.setdefault((database.uid, address), Doors()).take(entry)
            before = after

    def _read(
        self, database: Database, address: str, command: Command, before: Position
    ) -> Mapping[str, Any]:
        """A page of a node's log. Where an auditor is to hear of it, the node tells of ends too; a
        module of an older version does not know how."""
        words: list[Any] = ["CERTAUTH.LOG", "SINCE", before.seq, "COUNT", PAGE_ENTRIES]
        key, audited = (database.uid, address), database.audit_settings.audit_mode != "disabled"
        if not (self.auditor and audited) or self._without_ends.get(key, "") == (
            before.boot or "-"
        ):
            return cast("Mapping[str, Any]", command(*words))
        try:
            return cast("Mapping[str, Any]", command(*words, "ENDS", ENDS_SECONDS))
        except Exception as error:
            if "takes SINCE" not in str(error):
                raise
        reply = cast("Mapping[str, Any]", command(*words))
        self._without_ends[key] = reply["boot"]
        return reply


# What the entries of an older module do not have.
UNSAID = dict.fromkeys(
    ("address", "ca", "cert", "client", "detail", "door", "issuer", "key", "ocsp", "reason",
     "serial", "subject", "ticket", "user"), "",
)  # fmt: skip


def _complete(reply: Mapping[str, Any]) -> dict[str, Any]:
    entries = [{**UNSAID, "not_after": 0, **one} for one in reply["entries"]]
    return {**reply, "entries": entries}


def _page(
    database: Database,
    address: str,
    before: Position,
    reply: Mapping[str, Any],
    ours: Ours | None = None,
) -> tuple[Position, list[Event]]:
    """How far a reply of CERTAUTH.LOG leads, and its entries as events, the oldest first."""
    where: dict[str, EventDetail] = {
        "bdb_uid": database.uid, "bdb_name": database.name, "node": address,
    }  # fmt: skip
    if before.boot and reply["boot"] != before.boot:
        return Position(reply["boot"], 0), [_gap(where, 0, RESTARTED)]
    entries = reply["entries"]
    lost = [_gap(where, reply["lost"], OVERWRITTEN)] if reply["lost"] else []
    last = entries[-1]["seq"] if entries else before.seq
    told = [
        _event(where, one)
        for one in entries
        if one["event"] != ENDS and not (ours and ours.is_in(one))
    ]
    return Position(reply["boot"], last), [*lost, *told]


def _gap(where: dict[str, EventDetail], lost: int, why: str) -> Event:
    """`lost` 0: nobody knows how many."""
    detail = {**where, "lost": lost, "description": why}
    return Event(int(time.time()), "client_log_gap", "WARNING", detail)


def _seen(database: Database, address: str, entry: Mapping[str, Any]) -> ClientCertificate | None:
    """The certificate of a login, for the inventory. (Its beginning is not in a node's log.)"""
    if entry["event"] != "login" or not entry["cert"]:
        return None
    now = entry["time_us"] // 1_000_000
    return ClientCertificate(
        entry["cert"], entry["key"], entry["ca"] or "", entry["issuer"], entry["serial"],
        entry["subject"], entry["user"], not_before=0, not_after=entry["not_after"], first=now,
        last_login=now, bdb_uid=database.uid, node=address, serves=bool(entry.get("serves")),
        sans=tuple(entry.get("sans", ())), ocsp=entry["ocsp"] or "",
    )  # fmt: skip


EVENT_FIELDS = {"user": "username"}  # as other events call it


def _event(where: dict[str, EventDetail], entry: Mapping[str, Any]) -> Event:
    """An entry of CERTAUTH.LOG as an event. What it does not know is left out."""
    kind = entry["event"]
    told = {
        EVENT_FIELDS.get(name, name): value
        for name, value in entry.items()
        if value not in ("", None, []) and name != "ocsp"
    }
    del told["event"]
    severity: Severity = "INFO" if kind in INFO_EVENTS else "WARNING"
    whose = "client_" if entry["client"] or kind == "handshake" else "node_"
    if kind.startswith("peer"):  # at a door of the nodes
        whose = ""
    elif whose == "node_":  # what it found when it looked again at what it depends on
        del told["client"], told["reason"]
        told["description"] = told.pop("detail", "")
    name = f"{whose}{kind.replace('-', '_')}"
    return Event(entry["time_us"] // 1_000_000, name, severity, {**where, **told})


def _numbers(info: str) -> dict[str, int]:
    prefix, found = "certauth_", topology.fields(info)
    return {
        name.removeprefix(prefix): int(value)
        for name, value in found.items()
        if name.startswith(prefix) and value.isdecimal()
    }


# ---- From the store into a file ------------------------------------------------------------------


def render(event: Event) -> dict[str, Any]:
    """As /v1/logs shows it."""
    told = {"time": rendered_time(event.time), "type": event.type, "severity": event.severity}
    return {**event.detail, **told}


class Follower(threading.Thread):
    """Appends the event log to `path`, one JSON object a line, its number in the log as `id`."""

    def __init__(self, store: Store, path: Path, pulse: Pulse | None = None) -> None:
        super().__init__(name="audit", daemon=True)
        self._store, self._path, self._pulse = store, path, pulse or Pulse()
        self._stopping = threading.Event()
        self._problem = ""

    def run(self) -> None:
        """Writes every FOLLOW_SECONDS, and once more at the end."""
        self._pulse.expect("audit", STALLED_SECONDS)
        while not self._stopping.wait(FOLLOW_SECONDS):
            self._follow()
        self._follow()

    def stop(self) -> None:
        """Returns when what was there to write is written."""
        self._stopping.set()
        self.join()

    def _follow(self) -> None:
        problem = ""
        try:
            while follow(self._store, self._path) == PAGE_ENTRIES:
                pass
            self._pulse.beat("audit")
        except UNAVAILABLE_ERRORS as error:
            self._pulse.fail("audit", first_line(error))
            return
        except Exception as error:  # a full disk
            problem = str(error) or type(error).__name__
            self._pulse.fail("audit", problem)
        if problem and problem != self._problem:
            log.warning("%s is not written, and will be when it can: %s", self._path, problem)
        self._problem = problem


def follow(store: Store, path: Path) -> int:
    """Writes the events behind the last one in the file, at most PAGE_ENTRIES; how many there were.
    All that there are, where the store is another one since, as after a restore."""
    cluster = store.settings.cluster()
    last = _known(*_last(path), cluster)
    found = store.events.after(last, PAGE_ENTRIES)
    if last > found.newest:
        last = 0
        found = store.events.after(last, PAGE_ENTRIES)

    def line(number: int, event: Event) -> dict[str, Any]:
        return {"id": number, "store": cluster.store_of(number), **render(event)}

    lines = [line(*one) for one in found.events]
    if last < found.dropped and last:
        lines.insert(0, line(last, _hole(found.dropped)))
    if lines:
        _append(path, map(json.dumps, lines))
    return len(found.events)


def _known(store: str, number: int, cluster: Cluster) -> int:
    """The last event of this store that stands in a file whose last line is that one: of a store
    that this one was before, nothing behind the backup."""
    begins = dict(cluster.stores)
    if not store or not begins:  # of an older version
        return number
    if store not in begins:
        return 0
    later = [first for first in begins.values() if first > begins[store]]
    return min([number, *(first - 1 for first in later)])


def _hole(dropped: int) -> Event:
    why = f"entries up to {dropped} had to go before they were written here"
    return Event(int(time.time()), "log_gap", "WARNING", {"description": why})


def _append(path: Path, lines: Iterable[str]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with open(os.open(path, flags, 0o600), "a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
        full = file.tell() >= FILE_BYTES
    if full:
        _rotate(path)


def _rotate(path: Path) -> None:
    for number in range(FILES_KEPT - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))


def _last(path: Path) -> tuple[str, int]:
    """The store and the number of the last whole line; what a crash has left of one behind it is
    cut off."""
    for file in (path, path.with_name(f"{path.name}.1")):
        if file.exists() and (end := _end(file)):
            line = json.loads(end)
            return line.get("store", ""), int(line["id"])
    return "", 0


TAIL_BYTES = 1 << 20  # hold at least one whole line


def _end(path: Path) -> bytes:
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read().split(b"\n")
        if lines[-1]:
            file.truncate(size - len(lines[-1]))
        return lines[-2] if len(lines) > 1 else b""
