"""The lease: which process speaks to the servers. It ends by the clock of the database."""

import math

import sqlalchemy as sa

from control.store.errors import Replaced
from control.store.kernel import Kernel
from control.store.rows import database_time
from control.store.schema import lease
from control.store.statements import CLOCKS

KEEP_LEASE = (
    sa.select(lease.c.epoch).where(lease.c.epoch == sa.bindparam("mine")).with_for_update(read=True)
)


class Lease:
    """One row, which at most one process holds."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def take(self, holder: str, seconds: float) -> int:
        """Makes a process the leader for so many seconds, or for longer where it is the leader
        already. Returns its epoch, which is higher than that of each leader before it, and which
        its writes must show; 0 where another process has the lease."""
        values = {"me": holder, "lasts": int(seconds * 1000)}
        with self._kernel.write_statement() as connection:
            statement = TAKE_LEASE[connection.dialect.name]
            return int(connection.scalar(statement, values) or 0)

    def raise_epoch(self, holder: str, epoch: int, above: int) -> int:
        """A higher epoch for the leader with this epoch: above what a server has seen, which is
        ahead of a database that was lost or comes from a backup. Raises Replaced."""
        where = (lease.c.holder == holder) & (lease.c.epoch == epoch)
        raised = sa.update(lease).where(where).values(epoch=max(above, epoch) + 1)
        with self._kernel.write_statement() as connection:
            found = connection.scalar(raised.returning(lease.c.epoch))
        if found is None:
            raise Replaced
        return int(found)

    def end(self, holder: str) -> None:
        """Lets another process take it at once."""
        with self._kernel.write_statement() as connection:
            connection.execute(sa.update(lease).where(lease.c.holder == holder).values(expires=0))

    def leader(self) -> tuple[str, int]:
        """The last process that took the lease, and its epoch; "" and 0 before any did."""

        def read() -> tuple[str, int]:
            with self._kernel.read() as connection:
                row = connection.execute(sa.select(lease.c.holder, lease.c.epoch)).one()
                return row.holder, row.epoch

        return self._kernel.remember("leader", read, lambda found, _: found)

    def silence(self) -> float:
        """Seconds since a control plane last took or renewed the lease; infinity before."""

        def read() -> float:
            with self._kernel.read() as connection:
                renewed = connection.scalar(sa.select(lease.c.renewed))
                return (database_time(connection) - renewed) / 1000 if renewed else math.inf

        return self._kernel.remember("silence", read, lambda found, seconds: found + seconds)


def check_lease(connection: sa.Connection, epoch: int) -> None:
    """Until this transaction ends, no other process can take the lease. Raises Replaced where
    another process has it than the process that took it with this epoch."""
    if connection.scalar(KEEP_LEASE, {"mine": epoch}) is None:
        raise Replaced


def _take_statement(clock: str) -> sa.Update:
    """A lease that ends later than one can, comes from a clock that was set back since: it is
    free."""
    now = sa.literal_column(clock, sa.BigInteger)
    me: sa.BindParameter[str] = sa.bindparam("me")
    until = now + sa.bindparam("lasts", type_=sa.BigInteger)
    mine = lease.c.holder == me
    return (
        sa.update(lease)
        .where(mine | ~lease.c.expires.between(now, until))
        .values(epoch=sa.case((mine, lease.c.epoch), else_=lease.c.epoch + 1))
        .values(holder=me, expires=until, renewed=now)
        .returning(lease.c.epoch)
    )


TAKE_LEASE = {dialect: _take_statement(clock) for dialect, clock in CLOCKS.items()}
