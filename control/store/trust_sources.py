"""What came of following CAs; the sources themselves are among the objects."""

import sqlalchemy as sa

from control.records import EventDetail, TrustSource
from control.reports import TrustState
from control.store.events import note
from control.store.followed import trust_states
from control.store.kernel import Kernel
from control.store.rows import read_records, values_of
from control.store.statements import insert_into


class TrustSources:
    """The state of each source, one row."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def state(self, uid: int) -> TrustState:
        """Of the source with this uid; an empty one where it was never read."""
        with self._kernel.read() as connection:
            return _read(connection, uid)

    def states(self) -> dict[int, TrustState]:
        """Of all sources that were read, by uid."""
        with self._kernel.read() as connection:
            rows = connection.execute(sa.select(trust_states))
            return {row.source_uid: TrustState(**row._mapping) for row in rows}

    def record(self, source: TrustSource, made: TrustState, **changed: EventDetail) -> None:
        """Remembers what came of a look at this source. Does nothing where the source was changed
        or deleted meanwhile. The event log has each change of CAs, with what is `changed`, each
        that waits, and each problem once."""
        with self._kernel.log() as connection:
            if source not in read_records(connection, TrustSource):
                return
            before = _read(connection, made.source_uid)
            where = trust_states.c.source_uid == made.source_uid
            connection.execute(sa.delete(trust_states).where(where))
            connection.execute(insert_into(trust_states), values_of(trust_states, made))
            about: dict[str, EventDetail] = {
                "trust_source_uid": source.uid, "trust_source_name": source.name,
            }  # fmt: skip
            if changed:
                note(connection, "trust_source_changed", "WARNING", **about, **changed)
            if made.problem and made.problem != before.problem:
                kind = "waiting" if made.pending != before.pending else "not_read"
                note(
                    connection, f"trust_source_{kind}", "WARNING", **about, description=made.problem
                )


def _read(connection: sa.Connection, uid: int) -> TrustState:
    query = sa.select(trust_states).where(trust_states.c.source_uid == uid)
    row = connection.execute(query).first()
    return TrustState(**row._mapping) if row else TrustState(uid)
