"""The last changes of databases, as Redis Enterprise's `actions`."""

import secrets
import time
from typing import Any

import sqlalchemy as sa

from control.errors import missing
from control.reports import Action
from control.store.kernel import Kernel
from control.store.schema import actions
from control.store.statements import insert_into

ACTIONS_KEPT = 1_000
TRIM_BATCH = 100  # so many more may be there before the oldest are deleted


class Actions:
    """Each change of a database is one action, which is done when the servers hold it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def recent(self, bdb_uid: int | None = None, limit: int = ACTIONS_KEPT) -> tuple[Action, ...]:
        """The last changes of databases, or of one database, the newest first."""
        query = sa.select(actions).order_by(actions.c.id.desc()).limit(limit)
        query = query if bdb_uid is None else query.where(actions.c.bdb_uid == bdb_uid)

        def read() -> tuple[Action, ...]:
            with self._kernel.read() as connection:
                return tuple(_action(row) for row in connection.execute(query))

        return self._kernel.remember(("actions", bdb_uid, limit), read)

    def get(self, uid: str) -> Action:
        """Raises Refusal 404."""
        with self._kernel.read() as connection:
            row = connection.execute(sa.select(actions).where(actions.c.uid == uid)).first()
        if row is None:
            raise missing("such action")
        return _action(row)


def write_action(connection: sa.Connection, bdb_uid: int, name: str, generation: int) -> None:
    """Adds an action that is done when the servers hold this generation; trims the oldest."""
    values: dict[str, Any] = {"uid": secrets.token_hex(16), "bdb_uid": bdb_uid, "name": name}
    values |= {"generation": generation, "created": int(time.time())}
    last = connection.execute(insert_into(actions), values).inserted_primary_key
    if last and last[0] % TRIM_BATCH == 0:
        old = actions.c.id <= last[0] - ACTIONS_KEPT
        connection.execute(sa.delete(actions).where(old))


def _action(row: sa.Row[Any]) -> Action:
    return Action(row.uid, row.bdb_uid, row.name, row.generation, row.created)
