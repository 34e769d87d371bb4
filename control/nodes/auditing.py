"""Tells an auditor of connections to databases, in the records of Redis Enterprise: `new_conn`,
`auth`, `close_conn`, one JSON object a line, over TCP or a stream socket; or each as a message of
syslog. `Auditor.queue_records` gets what nodes have logged, from the process that visits them.

As there, the databases come first: nothing waits for an auditor. What waits for one is in memory
and bounded; what had to be dropped is counted in the event log.
"""

import ipaddress
import json
import logging
import os
import select
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from control.records import AuditSettings, AuditSink, Database
from control.store import UNAVAILABLE_ERRORS, Store

log = logging.getLogger(__name__)

# What becomes of a client, and the result in an `auth` record: 0 AUTHENTICATION_FAILED, 2 … NOT
# REQUIRED, 8 … OK, 10 … CBA_PENDING.
BEGINS = {
    "login": 8, "choose": 10, "left": 2, "refused": 0, "full": 0, "would-login": 2,
    "would-choose": 2, "would-leave": 2, "would-refuse": 2,
}  # fmt: skip
GOES_ON = {"closed": 0, "ended": 0, "strayed": 0}  # an established one that may not stay
NO_CONNECTION = "handshake"  # its TLS has failed: there never was a connection
ENDS = "disconnected"
CONNECTIONS_KNOWN = 100_000  # connections of one node whose beginning was told
TIMEOUT = 10.0  # seconds, for the auditor to take a record
LINGER_SECONDS = 2.0  # at the end, for what waits
DROPPED_EVENT_SECONDS = 60.0  # between two events about what was dropped
PRIORITY = 13 * 8 + 6  # of syslog: log audit, informational

Key = tuple[int, str]  # a database's uid and a node's address


@dataclass
class SinkFigures:
    """What this process has done for its auditor since it began, in records and bytes. Names are
    those of Redis Enterprise's metrics, behind `audit_sink_`."""

    sent_messages: int = 0
    sent_bytes: int = 0
    dropped_messages: int = 0
    dropped_bytes: int = 0
    dropped_queue_full_messages: int = 0
    dropped_record_too_large_messages: int = 0
    dropped_disconnected_messages: int = 0
    dropped_queue_disabled_messages: int = 0
    connect_events: int = 0
    disconnect_events: int = 0
    reconnect_attempts: int = 0
    reconnect_attempts_exhausted: int = 0
    pending_bytes: int = 0
    queue_high_watermark_bytes: int = 0
    connected_workers: int = 0
    last_sent: float | None = None  # by time.monotonic, as is the next one
    waiting_since: float | None = None  # of what waits now


@dataclass
class Connection:
    """One whose beginning was told: by which settings, and whether its last record was wanted."""

    settings: AuditSettings
    wanted: bool


def is_wanted(settings: AuditSettings, user: str, address: str) -> bool:
    """Whether both filters let a record about this user (""; nobody) and address through."""
    names, addresses = settings.username_filter, settings.source_ip_filter
    if names.enabled:
        listed = user in names.usernames
        passes = listed == (names.filter_type == "inclusive")
        if not (passes if user else names.allow_while_username_unknown):
            return False
    if addresses.enabled:
        listed = _is_among(address, (*addresses.ip_addresses, *addresses.cidr_ranges))
        return listed == (addresses.filter_type == "inclusive")
    return True


def _is_among(address: str, ranges: tuple[str, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # not known
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return any(
        int(mapped) >> mapped.max_prefixlen - length in begins
        for (version, length), begins in _by_length(ranges).items()
        if version == mapped.version
    )


@lru_cache(64)
def _by_length(ranges: tuple[str, ...]) -> Mapping[tuple[int, int], set[int]]:
    """Ranges by version and length of prefix. Kept: a full filter, read for each record, would
    hold up the visit of the node, and with that its policy."""
    found: dict[tuple[int, int], set[int]] = {}
    for one in ranges:
        network = ipaddress.ip_network(one, strict=False)
        begin = int(network.network_address) >> network.max_prefixlen - network.prefixlen
        found.setdefault((network.version, network.prefixlen), set()).add(begin)
    return found


class Auditor(threading.Thread):
    """`queue_records` is for any thread, but of a node for one at a time."""

    def __init__(self, store: Store) -> None:
        super().__init__(name="auditor", daemon=True)
        self._store = store
        self._known: dict[Key, OrderedDict[int, Connection]] = {}
        self._waiting: deque[tuple[int, str]] = deque()  # time, record
        self._bytes = 0
        self._more = threading.Condition()
        self._ending = False
        self._seq = 0
        self._socket: socket.socket | None = None
        self._to: AuditSink | None = None
        self._attempts, self._next_attempt = 0, 0.0
        self._dropped, self._why, self._next_told = 0, "", 0.0
        self.figures = SinkFigures()

    # ---- What nodes have logged ----

    def queue_records(
        self, database: Database, address: str, entries: Iterable[Mapping[str, Any]]
    ) -> None:
        """Queues the records of these entries of a node's log, as far as they are wanted."""
        sink, key = self._store.settings.cluster().audit_sink, (database.uid, address)
        if sink is None or database.audit_settings.audit_mode == "disabled":
            self._known.pop(key, None)
            return
        if key not in self._known:
            self._forget_gone()
        known = self._known.setdefault(key, OrderedDict())
        rules_of = cache(lambda user: self._rules(database, user))
        for entry in entries:
            for record in _records(database, address, entry, known):
                if record.get("username"):
                    record |= rules_of(record["username"])
                self._put(sink, entry["time_us"] // 1_000_000, record)

    def _rules(self, database: Database, user: str) -> dict[str, str]:
        """The `acl-rules` of a record: those that the policy gives to the user. None of a user of
        the server's own, whose rules are not known here."""
        try:
            rules = self._store.policies.rules(database.uid, user)
        except UNAVAILABLE_ERRORS:
            return {}
        return {"acl-rules": rules} if rules else {}

    def _forget_gone(self) -> None:
        """What was known of the connections of databases that were removed."""
        there = {one.uid for one in self._store.objects.all(Database)}
        for key in [one for one in list(self._known) if one[0] not in there]:
            self._known.pop(key, None)

    def _put(self, sink: AuditSink, when: int, record: dict[str, Any]) -> None:
        with self._more:
            told = {**record, "audit_worker_id": 0, "audit_seq": self._seq}
            self._seq += 1
            text = json.dumps(told)
            if self._bytes + len(text) > sink.audit_queue_max_bytes:
                is_large = len(text) > sink.audit_queue_max_bytes
                reason = "record_too_large" if is_large else "queue_full"
                self._drop(1, len(text), reason, "more wait than audit_queue_max_bytes")
                return
            self._waiting.append((when, text))
            self._count_pending(len(text))
            self._more.notify()

    def _count_pending(self, more: int) -> None:
        self._bytes += more
        figures = self.figures
        figures.pending_bytes = self._bytes
        if not self._bytes:
            figures.waiting_since = None
        elif more < 0 or figures.waiting_since is None:  # what is behind it waits from now on
            figures.waiting_since = time.monotonic()
        highest = max(figures.queue_high_watermark_bytes, self._bytes)
        figures.queue_high_watermark_bytes = highest

    # ---- To the auditor ----

    def run(self) -> None:
        """Delivers what waits until `stop`, then for at most LINGER_SECONDS more."""
        while not self._ending:
            with self._more:
                self._more.wait_for(lambda: self._waiting or self._ending, timeout=1.0)
            if self._socket and _has_gone(self._socket):
                self._close()
            self._deliver()
        end = time.monotonic() + LINGER_SECONDS
        while self._waiting and time.monotonic() < end and self._deliver():
            pass
        self._close()

    def stop(self) -> None:
        """Returns when what waits is told, or after LINGER_SECONDS."""
        with self._more:
            self._ending = True
            self._more.notify()
        self.join()

    def _deliver(self) -> bool:
        """Tells what waits; False where something of it still does."""
        try:
            sink = self._store.settings.cluster().audit_sink
        except UNAVAILABLE_ERRORS:
            sink = self._to
        if sink != self._to:
            self._close()
            self._to, self._attempts, self._next_attempt = sink, 0, 0.0
        if sink is None:
            self._clear("queue_disabled", "the auditor was deleted")
        while sink and self._waiting:
            if not self._is_connected(sink):
                break
            when, text = self._waiting[0]
            try:
                self._send(sink, when, text)
            except OSError as error:
                self._failed(sink, error)
                break
            with self._more:
                self._waiting.popleft()
                self._count_pending(-len(text))
            self.figures.sent_messages += 1
            self.figures.sent_bytes += len(text)
            self.figures.last_sent = time.monotonic()
        self._tell_dropped()
        return not self._waiting

    def _is_connected(self, sink: AuditSink) -> bool:
        if self._socket and not _has_gone(self._socket):
            return True
        self._close()
        most = sink.audit_reconnect_max_attempts
        if most and self._attempts >= most:
            self._clear("disconnected", "audit_reconnect_max_attempts are used up")
            return False
        if time.monotonic() < self._next_attempt:
            if not self._ending:
                with self._more:
                    self._more.wait_for(lambda: self._ending, timeout=0.2)
            return False
        self.figures.reconnect_attempts += 1
        try:
            self._socket = _connected(sink)
        except OSError as error:
            self._failed(sink, error)
            return False
        self._attempts = 0
        self.figures.connect_events += 1
        self.figures.connected_workers = 1
        log.info("the auditor at %s hears of connections", sink.audit_address)
        return True

    def _failed(self, sink: AuditSink, error: OSError) -> None:
        self._close()
        self._next_attempt = time.monotonic() + sink.audit_reconnect_interval
        self._attempts += 1
        self.figures.reconnect_attempts_exhausted += (
            self._attempts == sink.audit_reconnect_max_attempts
        )
        if self._attempts == 1:
            why = error.strerror or str(error) or type(error).__name__
            log.warning("the auditor at %s is not reached: %s", sink.audit_address, why)
            self._note("audit_sink_unreachable", address=sink.audit_address, description=why)

    def _send(self, sink: AuditSink, when: int, text: str) -> None:
        if self._socket is None:
            raise OSError("not connected")
        if sink.audit_protocol != "syslog":
            content = f"{text}\n".encode()
        elif sink.audit_port:  # RFC 5424, with its length before it (RFC 6587)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
            who = f"{socket.gethostname()} redis-certauth {os.getpid()} audit -"
            message = f"<{PRIORITY}>1 {stamp} {who} {text}".encode()
            content = str(len(message)).encode() + b" " + message
        else:  # as syslog(3) writes to /dev/log
            stamp = time.strftime("%b %e %H:%M:%S", time.localtime(when))
            content = f"<{PRIORITY}>{stamp} redis-certauth[{os.getpid()}]: {text}".encode()
        self._socket.sendall(content)

    def _close(self) -> None:
        if self._socket:
            with suppress(OSError):
                self._socket.close()
            self.figures.disconnect_events += 1
            self.figures.connected_workers = 0
        self._socket = None

    # ---- What was dropped ----

    def _clear(self, reason: str, why: str) -> None:
        with self._more:
            self._drop(len(self._waiting), self._bytes, reason, why)
            self._waiting.clear()
            self._count_pending(-self._bytes)

    def _drop(self, count: int, size: int, reason: str, why: str) -> None:
        self._dropped += count
        self._why = why if count else self._why
        name = f"dropped_{reason}_messages"
        setattr(self.figures, name, getattr(self.figures, name) + count)
        self.figures.dropped_messages += count
        self.figures.dropped_bytes += size

    def _tell_dropped(self) -> None:
        if not self._dropped or time.monotonic() < self._next_told:
            return
        with self._more:
            lost, why = self._dropped, self._why
            self._dropped = 0
        self._next_told = time.monotonic() + DROPPED_EVENT_SECONDS
        log.warning("%d records for the auditor were dropped: %s", lost, why)
        self._note("audit_records_dropped", lost=lost, description=why)

    def _note(self, kind: str, **detail: Any) -> None:
        try:
            self._store.events.note(kind, "WARNING", **detail)
        except UNAVAILABLE_ERRORS:
            log.debug("the event log does not take '%s'", kind)


def _records(
    database: Database,
    node: str,
    entry: Mapping[str, Any],
    known: OrderedDict[int, Connection],
) -> Iterable[dict[str, Any]]:
    """The records of an entry that pass the filters: those in force when the connection began."""
    event, client, user = entry["event"], entry["client"], entry["user"] or ""
    if not client and event != NO_CONNECTION:
        return  # of the node itself, or at a door of nodes
    found = known.get(client)
    settings = found.settings if found else database.audit_settings
    wanted = is_wanted(settings, user, entry["address"] or "")
    when, about = {"ts": entry["time_us"] // 1_000_000}, _about(database, node, entry)
    if event == ENDS:
        if found.wanted if found else wanted:
            yield {**when, "close_conn": about}
        known.pop(client, None)
        return
    if event in BEGINS:
        if wanted and not (found and found.wanted):
            yield {**when, "new_conn": about}
        known[client] = replace(found, wanted=wanted) if found else Connection(settings, wanted)
        if len(known) > CONNECTIONS_KNOWN:
            known.popitem(last=False)
    status = {**BEGINS, **GOES_ON, NO_CONNECTION: 0}.get(event)
    if wanted and status is not None:
        said = {"status": status, "username": user, "identity": f"user:{user}" if user else ""}
        yield {**when, "action": "auth", **about, **said}


def _about(database: Database, node: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    host, _, port = node.rpartition(":")
    return {
        "id": entry["client"],
        "srcip": entry["address"] or "",
        "srcp": str(entry.get("port") or ""),
        "trgip": host.strip("[]"),
        "trgp": port,
        "bdb_name": database.name,
        "bdb_uid": str(database.uid),
    }


def _connected(sink: AuditSink) -> socket.socket:
    """Raises OSError."""
    if sink.audit_port:
        return socket.create_connection((sink.audit_address, sink.audit_port), TIMEOUT)
    kind = socket.SOCK_DGRAM if sink.audit_protocol == "syslog" else socket.SOCK_STREAM
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.settimeout(TIMEOUT)
        made.connect(sink.audit_address)
    except OSError:
        made.close()
        raise
    return made


def _has_gone(connection: socket.socket) -> bool:
    """Whether the auditor has closed it: a record that is sent then would be lost without a word.
    What it sends is dropped."""
    if connection.type == socket.SOCK_DGRAM:
        return False
    try:
        while select.select([connection], [], [], 0)[0]:
            if not connection.recv(4096):
                return True
    except OSError:
        return True
    return False
