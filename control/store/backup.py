"""Dumps of all rows, as JSON, and stores that come back from them."""

import secrets
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from control.errors import refused
from control.records import Certificate, EventDetail, rendered_time
from control.store.engine import allow_long_idle, make_engine
from control.store.errors import Unfit
from control.store.holds import put_on_hold
from control.store.rows import delete_certificate, is_initialised, read_cluster, values_of
from control.store.schema import certificates, cluster_table, events, lease, metadata, nodes
from control.store.statements import insert_into
from control.store.versions import (
    VERSION_TABLE,
    describe_newer,
    empty_database,
    find_version,
    known_versions,
    migrate,
    read_version,
)

UNFINISHED = "the database holds tables of a control plane that was never made: give another one"
ON_HOLD = "nothing is sent to the servers until redis-certauth release"


@dataclass(frozen=True)
class Restore:
    """How a store comes back from a backup: when that was made, in seconds since 1970; who asked
    for it; and the API's certificate that it gets, unless it keeps that of the backup."""

    made: int
    by: str
    api: Certificate | None = None


def dump(url: str) -> dict[str, Any]:
    """As Store.dump, of a database of any version: nothing is brought up to date, and nobody has to
    wait. Raises Unfit where there is no control plane in it."""
    engine = make_engine(sa.make_url(url), make=False)
    try:
        with engine.connect() as connection:
            if not find_version(connection, newer=True):
                raise empty_database()
            return dump_tables(connection)
    finally:
        engine.dispose()


def look(url: str) -> str:
    """The version of the tables of a database, which this program knows. Raises Unfit where there
    is not a control plane in it, or one of a newer version."""
    engine = make_engine(sa.make_url(url), make=False)
    try:
        with engine.connect() as connection:
            found = find_version(connection)
            if not found:
                raise empty_database()
            return found
    finally:
        engine.dispose()


def dump_tables(connection: sa.Connection) -> dict[str, Any]:
    """The tables as they are there, which another version may have made."""
    allow_long_idle(connection)
    there = sa.MetaData()
    there.reflect(connection)
    found: dict[str, Any] = {}
    for table in there.sorted_tables:
        if table.name == VERSION_TABLE:
            continue
        columns = [column for column in table.c if _is_kept(column)]
        rows = connection.execute(sa.select(*columns).order_by(*table.primary_key))
        values = [list(row) for row in rows]
        found[table.name] = {"columns": [column.name for column in columns], "rows": values}
    return {"schema": read_version(connection), "tables": found}


def _is_kept(column: sa.Column[Any]) -> bool:
    """Row numbers are given again, except those of events, which clients know."""
    if column.name != "id" or column.table.name == "events":
        return True
    ours = metadata.tables.get(column.table.name)
    return ours is None or ours.c.id.autoincrement is False


def load(url: str, dumped: dict[str, Any], restore: Restore | None = None) -> None:
    """Fills an empty database from a dump, also one of an older version. Tokens become void. With
    `restore`, the store begins on hold. Raises Refusal where the database holds a control plane;
    Unfit where it holds something else, or where the dump is of a newer version."""
    engine = make_engine(sa.make_url(url))
    try:
        with engine.execution_options(writer=True).connect() as connection, connection.begin():
            _check_empty(connection, str(dumped["schema"]))
            try:
                _load_tables(connection, dumped)
            except Exception as error:
                text = f"its rows do not fit together: {str(error).splitlines()[0]}"
                raise Unfit(text) from error
            if restore:
                _begin_on_hold(connection, restore)
    finally:
        engine.dispose()


def _check_empty(connection: sa.Connection, version: str) -> None:
    """Raises Refusal or Unfit where a dump of this version cannot be loaded there."""
    found = find_version(connection)
    if found and is_initialised(connection):
        raise refused("already_initialised", "the database holds a control plane already")
    if found:
        raise Unfit(UNFINISHED)
    if version not in known_versions():
        raise Unfit(f"the backup {describe_newer(version)}")


def _load_tables(connection: sa.Connection, dumped: dict[str, Any]) -> None:
    allow_long_idle(connection)
    migrate(connection, dumped["schema"])
    for name, content in dumped["tables"].items():
        columns = content["columns"]
        rows = [dict(zip(columns, row, strict=True)) for row in content["rows"]]
        table = sa.table(name, *map(sa.column, columns))
        connection.execute(sa.delete(table))  # what making the tables has put there
        if rows:
            connection.execute(sa.insert(table), rows)
    if connection.dialect.name == "postgresql":  # its sequence does not see ids that are given
        last = "SELECT setval(pg_get_serial_sequence('events', 'id'), max(id)) FROM events"
        connection.exec_driver_sql(f"{last} HAVING max(id) > 0")
    migrate(connection, "head")
    connection.execute(sa.update(cluster_table).values(jwt_key=secrets.token_hex(32)))
    # These times are of the other database's clock.
    connection.execute(sa.update(lease).values(expires=0, renewed=0))
    connection.execute(sa.update(nodes).values(looked=0))


def _begin_on_hold(connection: sa.Connection, restore: Restore) -> None:
    """Nothing is sent to the servers before somebody has seen what they hold."""
    now = int(time.time())
    why = f"restored from a backup of {rendered_time(restore.made)}"
    last_event = connection.scalar(sa.select(sa.func.max(events.c.id))) or 0
    before = read_cluster(connection)
    stores = (*before.stores, (secrets.token_hex(8), last_event + 1))
    connection.execute(sa.update(cluster_table).values(stores=stores))
    put_on_hold(connection, why)
    if restore.api:
        delete_certificate(connection, restore.api.name)
        connection.execute(insert_into(certificates), values_of(certificates, restore.api))
    detail: dict[str, EventDetail] = {
        "originating_username": restore.by, "backup_time": rendered_time(restore.made),
        "backup_age": max(0, now - restore.made), "description": ON_HOLD,
    }  # fmt: skip
    values = {"time": now, "type": "restored", "severity": "WARNING", "detail": detail}
    connection.execute(insert_into(events), values)
