"""What is known of the servers of databases, as the worker that holds the lease reports it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from control.errors import missing, refused
from control.policy.peers import waits_for
from control.records import Database
from control.reports import Node
from control.store.checks import endpoint_addresses
from control.store.events import note
from control.store.holds import forget_hold
from control.store.kernel import Kernel
from control.store.lease import check_lease
from control.store.lines import refresh_databases
from control.store.objects import REACH_FIELDS
from control.store.rows import (
    database_time,
    differences,
    differing_fields,
    find_record,
    read_nodes,
    record_exists,
    select_nodes,
    time_before,
    values_of,
)
from control.store.schema import actions, bdbs, nodes
from control.store.statements import insert_into


class Nodes:
    """Reports do not count up the revision, unless they change a policy; those who wait for them
    are woken, see `wait_for_report`."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # ---- Reading ----

    def of(self, bdb_uid: int) -> tuple[Node, ...]:
        """What is known of the servers of a database, by address."""

        def read() -> tuple[Node, ...]:
            with self._kernel.read() as connection:
                return read_nodes(connection, bdb_uid)

        return self._kernel.remember(("nodes", bdb_uid), read, _older)

    def refusing(self) -> tuple[Node, ...]:
        """The servers that refuse a part of their policy."""

        def read() -> tuple[Node, ...]:
            with self._kernel.read() as connection:
                return select_nodes(connection, nodes.c.refused != ())

        return self._kernel.remember("refusing", read, _older)

    def gone(self) -> tuple[Node, ...]:
        """The servers that are to be forgotten."""
        with self._kernel.read() as connection:
            return select_nodes(connection, nodes.c.origin == "gone")

    # ---- What the worker reports ----

    def report(
        self, bdb_uid: int, found: Sequence[Node], epoch: int = 0, of: Database | None = None
    ) -> None:
        """Replaces what is known of the servers of a database, and binds them as each other's
        peers. Writes nothing where nothing is new, the database is gone, or it is reached in other
        ways by now than when it was `of`. Raises Replaced, see Lease.take."""
        before = {node.address: node for node in self.of(bdb_uid)}
        after = {node.address: node for node in found}
        changed = [node for address, node in after.items() if before.get(address) != node]
        gone = [address for address in before if address not in after]
        if not changed and not gone:
            return
        rebound = _peers(before.values()) != _peers(found)
        rebound = rebound or waits_for(before.values()) != waits_for(found)
        with self._kernel.change() if rebound else self._kernel.transaction() as connection:
            check_lease(connection, epoch)
            if not _is_reached_as(connection, bdb_uid, of):
                return
            _replace_rows(connection, bdb_uid, changed, gone)
            if rebound:
                _drop_keys(connection, bdb_uid, before.values(), found)
                refresh_databases(connection, [bdb_uid], own=True)
            self._kernel.notify_others(connection)
        self._kernel.reports.count_up()

    def record_looks(self, ages: Mapping[int, Mapping[str, float]], epoch: int) -> None:
        """Writes down when servers were looked at (by database and address: seconds ago), where
        nothing else about them is new. Raises Replaced, see Lease.take."""
        where = (nodes.c.bdb_uid == sa.bindparam("of")) & (nodes.c.address == sa.bindparam("at"))
        with self._kernel.transaction() as connection:
            check_lease(connection, epoch)
            now = database_time(connection)
            rows = [
                {"of": uid, "at": address, "when": time_before(now, age)}
                for uid, servers in ages.items()
                for address, age in servers.items()
            ]
            when = sa.bindparam("when", type_=sa.BigInteger)
            connection.execute(sa.update(nodes).where(where).values(looked=when), rows)

    def forget(self, bdb_uid: int, address: str) -> None:
        """Marks a server that will never come back. Raises Refusal 404, or 406 where it is an
        endpoint of the database."""
        with self._kernel.change() as connection:
            database = find_record(connection, Database, bdb_uid)
            if address not in {node.address for node in read_nodes(connection, bdb_uid)}:
                raise missing(f"node '{address}' of bdb {bdb_uid}")
            if address in endpoint_addresses(database):
                raise refused(
                    "node_is_endpoint", f"{address} is an endpoint: PUT the endpoints without it"
                )
            where = (nodes.c.bdb_uid == bdb_uid) & (nodes.c.address == address)
            connection.execute(sa.update(nodes).where(where).values(origin="gone"))
            forget_hold(connection, bdb_uid, address)
            note(connection, "node_forgotten", bdb_uid=bdb_uid, address=address)

    def forget_database(self, uid: int, epoch: int | None = None) -> None:
        """Removes a database whose nodes are detached, or will never come back. Of its actions the
        deletion stays, for clients that wait for it. With an epoch, raises Replaced as `report`."""
        with self._kernel.change() as connection:
            if epoch is not None:
                check_lease(connection, epoch)
            over = (actions.c.bdb_uid == uid) & (actions.c.name != "delete_bdb")
            connection.execute(sa.delete(actions).where(over))
            connection.execute(sa.delete(bdbs).where(bdbs.c.uid == uid))
            note(connection, "bdb_deleted", bdb_uid=uid)
        self._kernel.reports.count_up()

    # ---- Waiting ----

    def report_count(self) -> int:
        """Counts what `report` writes, as far as this process hears of it."""
        return self._kernel.reports.count

    def wait_for_report(self, seen: int, seconds: float) -> None:
        """Returns when `report_count` is not `seen` any more, or after so many seconds."""
        self._kernel.listen_to_others()
        self._kernel.reports.wait(seen, seconds)


def _older(found: tuple[Node, ...], seconds: float) -> tuple[Node, ...]:
    return tuple(replace(node, age=node.age + seconds) for node in found)


def _is_reached_as(connection: sa.Connection, bdb_uid: int, of: Database | None) -> bool:
    """Whether a database is there, and is reached as it was when it was `of`."""
    if not record_exists(connection, Database, bdb_uid):
        return False
    now = find_record(connection, Database, bdb_uid)
    return not (of and REACH_FIELDS & set(differing_fields(of, now)))


def _replace_rows(
    connection: sa.Connection, bdb_uid: int, changed: Sequence[Node], gone: Sequence[str]
) -> None:
    """A server that was marked as gone meanwhile is only forgotten when it is not reported any
    more."""
    marked = {node.address for node in read_nodes(connection, bdb_uid) if node.origin == "gone"}
    old = nodes.c.address.in_([*gone, *(node.address for node in changed)])
    connection.execute(sa.delete(nodes).where(nodes.c.bdb_uid == bdb_uid, old))
    if changed:
        new = (replace(n, origin="gone") if n.address in marked else n for n in changed)
        now = database_time(connection)
        rows = [values_of(nodes, node) | {"looked": time_before(now, node.age)} for node in new]
        connection.execute(insert_into(nodes), rows)


def _drop_keys(
    connection: sa.Connection, bdb_uid: int, before: Iterable[Node], found: Iterable[Node]
) -> None:
    """Of a database's `node_keys`, takes out those that a server without the module showed which is
    not looked at any more: with it, what was seen of them would be forgotten, and they would be
    bound again."""
    database = find_record(connection, Database, bdb_uid)
    stock = {node.key for node in before if not node.is_peer} - {node.key for node in found}
    kept = tuple(key for key in database.node_keys if key not in stock)
    if kept == database.node_keys:
        return
    changed = replace(database, node_keys=kept)
    where = bdbs.c.uid == bdb_uid
    connection.execute(sa.update(bdbs).where(where).values(node_keys=kept))
    detail = {"bdb_name": database.name, **differences(database, changed)}
    note(connection, "bdb_updated", "INFO", bdb_uid=bdb_uid, **detail)


def _peers(servers: Iterable[Node]) -> set[tuple[str | bool, ...]]:
    """What the `bind` lines for a database's nodes are made from."""
    return {
        (*node.keys, node.is_peer, node.role, node.software, node.origin)
        for node in servers
        if node.key
    }
