"""Which version of the tables a database has, and how it gets those of this version (Alembic)."""

from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from control.errors import Refusal
from control.store.errors import Unfit

MIGRATIONS = Path(__file__).parent / "migrations"
# PostgreSQL's advisory lock of the process that makes or changes the tables.
MIGRATION_LOCK_ID = 0x63657274
VERSION_TABLE = "alembic_version"
READ_VERSION = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608 (a constant)


def migrate(connection: sa.Connection, target: str) -> None:
    """Brings the tables to the version `target`, or to "head"."""
    # Two processes that open a new database at once would both make its tables. SQLite's BEGIN
    # IMMEDIATE keeps them apart; PostgreSQL needs this lock, which ends with the transaction.
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK_ID)))
        if sa.inspect(connection).has_table(VERSION_TABLE):
            # Before any other table, as in `check_own_version`: then neither deadlocks the other.
            connection.exec_driver_sql(f"{READ_VERSION} FOR UPDATE")
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


@cache
def known_versions() -> tuple[str, ...]:
    """The versions of the tables that this program knows, its own first."""
    scripts = ScriptDirectory.from_config(_alembic())
    return tuple(script.revision for script in scripts.walk_revisions())


def read_version(connection: sa.Connection) -> str:
    """The version of a database that has tables."""
    return str(connection.exec_driver_sql(READ_VERSION).scalar() or "")


def find_version(connection: sa.Connection, newer: bool = False) -> str:
    """The version of a database; "" for an empty one. Raises Unfit where the tables are not of a
    control plane, or are of a newer version (unless `newer`)."""
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return ""
    if VERSION_TABLE not in tables or "cluster" not in tables:
        named = ", ".join(sorted(tables)[:5])
        text = f"it holds other tables ({named}) and no control plane: give one of its own"
        raise Unfit(text)
    found = read_version(connection)
    if not newer and found not in known_versions():
        raise Unfit(f"the database {describe_newer(found)}")
    return found


def describe_newer(version: str) -> str:
    """The end of a sentence about a database or backup of a version that is not known here."""
    known = known_versions()[0]
    return (
        f"was made by a newer version of redis-certauth (its schema is {version[:40]}, and this "
        f"version knows those up to {known}): use that version"
    )


def empty_database() -> Unfit:
    """The error where a control plane was expected."""
    return Unfit("the database is empty: there is no control plane in it")


def check_version(found: str, make: bool, settle: bool) -> None:
    """Raises Unfit where a database of this version cannot be opened so: see Store."""
    if not found and not make:
        raise empty_database()
    if found and not settle and found != known_versions()[0]:
        text = f"the database is of an older version (schema {found}): `serve` of this one, once"
        raise Unfit(f"{text}, brings it up to date; a backup can be made before")


def check_own_version(connection: sa.Connection, lock: str = "") -> None:
    """Raises Refusal 503 where the tables are not of this version. With `lock`, no other process
    can change them before the transaction ends."""
    lock = lock if connection.dialect.name == "postgresql" else ""
    found = str(connection.exec_driver_sql(READ_VERSION + lock).scalar() or "")
    if found != known_versions()[0]:
        text = f"another version of redis-certauth has changed the database (its schema is {found}"
        own = f", this one's {known_versions()[0]}): nothing is written; start that version instead"
        raise Refusal(503, "other_schema", text + own)
