"""Servers to which nothing is sent before somebody has seen what they hold: after a restore, and
where the database itself went back to an older state."""

from collections.abc import Iterable

import sqlalchemy as sa

from control.reports import Hold
from control.store.events import note
from control.store.kernel import Kernel
from control.store.lease import check_lease
from control.store.rows import read_cluster, values_of
from control.store.schema import cluster_table, holds, nodes
from control.store.statements import insert_into, select_all

NOT_REACHED = "not reached yet"
WENT_BACK = (
    "the database went back to an older state, as after a point-in-time recovery or a failover to "
    "a standby that lagged: change {found} is its last, and {known} was seen before"
)


class Holds:
    """They are rows of their own: the worker replaces those of nodes with all that it reports."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def all(self) -> tuple[Hold, ...]:
        """Every server that is held, or was released and has not got its policy yet."""

        def load() -> tuple[tuple[Hold, ...]]:
            with self._kernel.read() as connection:
                rows = connection.execute(select_all(holds))
                return (tuple(Hold(**row._mapping) for row in rows),)

        return self._kernel.cache.recall("holds", load)[0]

    def get(self, bdb_uid: int, address: str) -> Hold | None:
        """That of one server of a database."""
        mine = (one for one in self.all() if (one.bdb_uid, one.address) == (bdb_uid, address))
        return next(mine, None)

    def see(self, hold: Hold, epoch: int) -> None:
        """Writes down what a server holds. Raises Replaced, see Lease.take."""
        with self._kernel.change() as connection:
            check_lease(connection, epoch)
            _put(connection, [hold])

    def end(self, hold: Hold, epoch: int) -> None:
        """The server is kept in step again. Raises Replaced, see Lease.take."""
        with self._kernel.change() as connection:
            check_lease(connection, epoch)
            connection.execute(sa.delete(holds).where(_is(hold)))

    def begin_if_older(self) -> None:
        """Puts everything on hold where the database went back behind what this process has seen of
        it. Its revision goes above that, so that no process takes what it has in memory for what is
        there."""
        self._kernel.revision()
        known, found = self._kernel.fallen
        if not known:
            return
        with self._kernel.change() as connection:
            now = connection.scalar(sa.select(cluster_table.c.revision)) or 0
            older = now - 1 < known  # unless only a server that lags was asked before
            if older:
                connection.execute(sa.update(cluster_table).values(revision=known + 1))
            if older and not read_cluster(connection).hold:
                why = WENT_BACK.format(known=known, found=found)
                put_on_hold(connection, why)
                note(connection, "database_went_back", "WARNING", revision=found,
                     seen_revision=known, description=why)  # fmt: skip
        self._kernel.fallen = (0, 0)


def put_on_hold(connection: sa.Connection, why: str) -> None:
    """Nothing is sent to any server before somebody has seen what it holds."""
    connection.execute(sa.update(cluster_table).values(hold=why))
    unseen = {"in_step": False, "generation": 0, "digest": "", "error": NOT_REACHED}
    connection.execute(sa.update(nodes).values(**unseen))
    connection.execute(sa.delete(holds))
    rows = connection.execute(sa.select(nodes.c.bdb_uid, nodes.c.address))
    _put(connection, [Hold(row.bdb_uid, row.address, why) for row in rows])


def release_holds(connection: sa.Connection, force: bool) -> None:
    """Those that were looked at get the policy of here, unless they hold something else by then; by
    `force` also those that another control plane has taken, whatever they hold."""
    looked_at = holds.c.state == "seen"
    connection.execute(sa.update(holds).where(looked_at).values(state="released"))
    if force:
        rows = connection.execute(sa.select(nodes).where(nodes.c.outbid > 0))
        _put(connection, [Hold(row.bdb_uid, row.address, "", "released") for row in rows])


def forget_hold(connection: sa.Connection, bdb_uid: int, address: str) -> None:
    """Of a server that will never come back."""
    connection.execute(sa.delete(holds).where(_is(Hold(bdb_uid, address, ""))))


def _is(hold: Hold) -> sa.ColumnElement[bool]:
    return (holds.c.bdb_uid == hold.bdb_uid) & (holds.c.address == hold.address)


def _put(connection: sa.Connection, found: Iterable[Hold]) -> None:
    for one in found:
        connection.execute(sa.delete(holds).where(_is(one)))
        connection.execute(insert_into(holds), values_of(holds, one))
