"""The event log: what was changed here, who logged in, and what nodes have logged."""

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from control.records import Database, EventDetail, Severity
from control.reports import Event, EventPage, Outcome, Position
from control.store.kernel import Kernel
from control.store.rows import record_exists
from control.store.schema import cluster_table, counters, events, log_positions
from control.store.statements import COUNT_DROPPED, DROPPED_COUNTER, insert_into
from control.store.transaction import state_of

# Kept of each type that others can cause, so that failed logins cannot push out what administrators
# did. What these did is kept for a time that is a setting, and so many at most.
EVENTS_PER_TYPE = 1_000
CLIENT_EVENTS_PER_TYPE = 10_000  # of the types `client_…`, which nodes report
CHANGES_PER_TYPE = 1_000_000
COUNTED = (
    "client_", "peer_", "node_", "login", "logout", "certificate_expiring", "log_gap",
    "enrolment_refused", "issuer_not_fetched", "trust_source_not_read", "trust_source_waiting",
    "ocsp_",
)  # fmt: skip
DAY = 86400  # seconds
TRIM_BATCH = 100  # so many more may be there before the oldest are deleted
LOGIN_EVENT_TYPES = ("login", "client_login", "client_choose")
REFUSAL_EVENT_TYPES = ("login_failed", "client_refused", "client_handshake")
USER_FIELDS = ("originating_username", "username", "user_name")


class Events:
    """Readers that page by number miss no event: see Kernel.log."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def note(self, kind: str, severity: Severity = "INFO", **detail: EventDetail) -> None:
        """Writes an event that belongs to no change."""
        with self._kernel.log() as connection:
            note(connection, kind, severity, **detail)

    # ---- From the logs of nodes ----

    def position(self, bdb_uid: int, address: str) -> Position:
        """How far a node's log has been read."""
        with self._kernel.read() as connection:
            return _position(connection, bdb_uid, address)

    def collect(
        self,
        bdb_uid: int,
        address: str,
        before: Position,
        after: Position,
        found: Sequence[Event],
    ) -> bool:
        """Takes over what a node's log has between two positions. False, with nothing done, where
        another process was faster, or the database is gone."""
        with self._kernel.log() as connection:
            there = record_exists(connection, Database, bdb_uid)
            if not there or _position(connection, bdb_uid, address) != before:
                return False
            of_node = (log_positions.c.bdb_uid == bdb_uid) & (log_positions.c.address == address)
            connection.execute(sa.delete(log_positions).where(of_node))
            values = {"bdb_uid": bdb_uid, "address": address, **vars(after)}
            connection.execute(sa.insert(log_positions).values(**values))
            if found:
                connection.execute(sa.insert(events), [vars(event) for event in found])
                _trim(connection)
        return True

    # ---- Reading ----

    def after(self, number: int, limit: int) -> EventPage:
        """The events after this number, in the order in which they were written."""
        query = sa.select(events).where(events.c.id > number).order_by(events.c.id).limit(limit)
        with self._kernel.read() as connection:
            rows = connection.execute(query).all()
            newest = connection.scalar(sa.select(sa.func.max(events.c.id))) or 0
            dropped = connection.scalar(
                sa.select(counters.c.last).where(counters.c.name == DROPPED_COUNTER)
            )
        found = ((row.id, _event(row)) for row in rows)
        return EventPage(newest, dropped or 0, tuple(found))

    def between(
        self,
        since: int,
        until: int,
        newest_first: bool,
        limit: int,
        offset: int,
        types: Sequence[str] = ("",),
        user: str = "",
        search: str = "",
        of: tuple[str, int] | None = None,
    ) -> tuple[Event, ...]:
        """The events between two times, both included. `types`: prefixes of the wanted types;
        `user`: the name of a user whom an event is by or about; `search`: a part of its type, of a
        subject, of a SAN or of another text in it, in any case; `of`: the noun and the uid of the
        object that was changed."""
        order = events.c.id.desc() if newest_first else events.c.id
        kind = (events.c.type.startswith(prefix, autoescape=True) for prefix in types)
        where = events.c.time.between(since, until) & sa.or_(*kind)
        if search:
            text = json.dumps(search, ensure_ascii=False)[1:-1]  # as it stands in the detail
            stored = sa.type_coerce(events.c.detail, sa.Text)
            in_type = events.c.type.icontains(search, autoescape=True)
            where &= stored.icontains(text, autoescape=True) | in_type
        if of:
            where &= events.c.type.startswith(f"{of[0]}_", autoescape=True)
        with self._kernel.read() as connection:
            if user:
                detail = _detail(connection)
                where &= sa.or_(*(detail[name].as_string() == user for name in USER_FIELDS))
            if of:
                where &= _detail(connection)[f"{of[0]}_uid"].as_integer() == of[1]
            query = sa.select(events).where(where).order_by(order).limit(limit).offset(offset)
            return tuple(map(_event, connection.execute(query)))

    def last_times(self, types: Sequence[str]) -> dict[str, int]:
        """When the last event of each of these types was written, where there is one."""
        last = sa.select(sa.func.max(events.c.id)).where(events.c.type.in_(types))
        query = sa.select(events.c.type, events.c.time).where(
            events.c.id.in_(last.group_by(events.c.type))
        )
        with self._kernel.read() as connection:
            return {row.type: row.time for row in connection.execute(query)}

    def history(self, since: int, until: int, step: int) -> tuple[Outcome, ...]:
        """The numbers of logins and refusals between two times, the second not included: here and
        on the nodes, by spans of `step` seconds and by reason."""
        begins = events.c.time - (events.c.time - since) % step
        is_login = events.c.type.in_(LOGIN_EVENT_TYPES)
        count = sa.func.count().label("count_of")
        with self._kernel.read() as connection:
            reason = sa.case((is_login, ""), else_=_detail(connection)["reason"].as_string())
            query = sa.select(begins.label("begins"), reason.label("reason"), count)
            query = query.where(events.c.type.in_([*LOGIN_EVENT_TYPES, *REFUSAL_EVENT_TYPES]))
            query = query.where(events.c.time >= since, events.c.time < until)
            query = query.group_by("begins", "reason").order_by("begins", "reason")
            rows = connection.execute(query)
            return tuple(Outcome(row.begins, row.reason or "", row.count_of) for row in rows)


def note(
    connection: sa.Connection, kind: str, severity: Severity = "INFO", **detail: EventDetail
) -> None:
    """Writes an event, with who makes the change; trims the oldest."""
    detail = {**state_of(connection).actor, **detail}
    values = {"time": int(time.time()), "type": kind, "severity": severity, "detail": detail}
    last = connection.execute(insert_into(events), values).inserted_primary_key
    if last and last[0] % TRIM_BATCH == 0:
        _trim(connection)


def note_all(
    connection: sa.Connection, kind: str, details: Iterable[dict[str, EventDetail]]
) -> None:
    """Writes an event for each of these details, and trims the oldest."""
    fixed = {"time": int(time.time()), "type": kind, "severity": "INFO"}
    actor = state_of(connection).actor
    rows = [{**fixed, "detail": {**actor, **detail}} for detail in details]
    if rows:
        connection.execute(insert_into(events), rows)
        _trim(connection)


def _trim(connection: sa.Connection) -> None:
    days = connection.scalar(sa.select(cluster_table.c.log_retention)) or 0
    since = int(time.time()) - days * DAY
    for kind in connection.scalars(sa.select(events.c.type).distinct()).all():
        of_kind = sa.select(events.c.id).where(events.c.type == kind).order_by(events.c.id.desc())
        kept = CLIENT_EVENTS_PER_TYPE if kind.startswith("client_") else EVENTS_PER_TYPE
        kept = kept if kind.startswith(COUNTED) else CHANGES_PER_TYPE
        oldest = connection.scalar(of_kind.limit(1).offset(kept))
        if oldest is None and not kind.startswith(COUNTED):
            oldest = _last_before(connection, kind, since)
        if oldest is not None:
            old = (events.c.type == kind) & (events.c.id <= oldest)
            connection.execute(sa.delete(events).where(old))
            connection.execute(COUNT_DROPPED, {"name": DROPPED_COUNTER, "number": oldest})


def _last_before(connection: sa.Connection, kind: str, since: int) -> int | None:
    """The number of the last event of a type that is older than this; None where none is, which is
    told by the first one."""
    first = sa.select(events.c.time).where(events.c.type == kind).order_by(events.c.id).limit(1)
    if (connection.scalar(first) or since) >= since:
        return None
    old = (events.c.type == kind) & (events.c.time < since)
    last: int | None = connection.scalar(sa.select(sa.func.max(events.c.id)).where(old))
    return last


def _event(row: sa.Row[Any]) -> Event:
    return Event(row.time, row.type, row.severity, row.detail)


def _detail(connection: sa.Connection) -> Any:
    """The detail of an event, as JSON that can be queried by name. PostgreSQL must be told that the
    text is JSON; SQLite reads it as JSON anyway."""
    column = events.c.detail
    is_postgresql = connection.dialect.name == "postgresql"
    return sa.type_coerce(sa.cast(column, sa.JSON) if is_postgresql else column, sa.JSON)


def _position(connection: sa.Connection, bdb_uid: int, address: str) -> Position:
    found = log_positions.c
    query = sa.select(found.boot, found.seq).where(found.bdb_uid == bdb_uid)
    row = connection.execute(query.where(found.address == address)).first()
    return Position(row.boot, row.seq) if row else Position()
