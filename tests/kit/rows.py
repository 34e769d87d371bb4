"""Rows of a store, and what must hold between them."""

import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from control.policy import core
from control.records import RolePermission
from control.store import Store, engine, versions
from tests.kit.rest import database, user

ADMIN = user(1, "admin", auth_method="regular", role_uids=(1,), certificate_subject_line="")


def granted(made: Store, *users: str) -> None:
    """Database 1, on which role 6 has Full Access, and users with that role."""
    given = (RolePermission(6, 1),)
    made.objects.create(
        database(
            0,
            tls_mode="enabled",
            default_user=True,
            enforce_client_authentication="disabled",
            roles_permissions=given,
        )
    )
    for name in users:
        made.objects.create(user(0, name))


def replayed(made: Store, uid: int = 1) -> set[str]:
    """The policy that the log leads to, from nothing."""
    changes = made.policies.changes(uid, 0, "")
    assert changes is not None
    lines: set[str] = set()
    for change in changes:
        assert not lines & set(change.added)
        assert lines >= set(change.removed)
        lines = (lines - set(change.removed)) | set(change.added)
        assert change.digest == core.digest(lines)
    return lines


def read_while_written(reader: Store, writer: Store, changes: int) -> None:
    """Reads policies of database 1 while another thread makes changes; each is of one moment."""
    done = threading.Event()

    def write() -> None:
        for i in range(changes):
            writer.objects.create(user(0, f"u{i}"))
        done.set()

    writing = threading.Thread(target=write)
    writing.start()
    while not done.is_set():
        target, lines = reader.policies.whole(1)
        assert target.digest == core.digest(lines)
    writing.join()


def cut(dumped: dict[str, Any], schema: str, folder: Path) -> dict[str, Any]:
    """What an older version would have said: its tables, with the columns that they had."""
    older = engine.make_engine(sa.make_url(f"sqlite:///{folder}/{schema}.db"))
    with older.begin() as connection:
        versions.migrate(connection, schema)
        found = sa.inspect(connection)
        had = {t: {c["name"] for c in found.get_columns(t)} for t in found.get_table_names()}
    older.dispose()
    tables = {}
    for name, content in dumped["tables"].items():
        places = [i for i, c in enumerate(content["columns"]) if c in had.get(name, ())]
        if places:
            rows = [[row[i] for i in places] for row in content["rows"]]
            tables[name] = {"columns": [content["columns"][i] for i in places], "rows": rows}
    return {"schema": schema, "tables": tables}
