"""What is revoked, by whom; and the `revoke` lines of databases that follow from that."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from control.policy import lines as policy
from control.records import Database, Reason, Responder
from control.reports import Revocation
from control.store.followed import ocsp_answers, responders
from control.store.lines import all_databases, move_lines
from control.store.rows import database_trust, find_record
from control.store.schema import crls, revocations
from control.store.statements import (
    REVOCATIONS_OF,
    REVOKE_LINES,
    SOME_REVOCATIONS_OF,
    SOME_REVOKE_LINES,
    insert_into,
)

# The source of what administrators revoke; others are uids of CAs' lists, and negative those of
# responders.
ADMINISTRATOR_SOURCE = 0
REVOKE_OWNER = -1  # the owner of all `revoke` lines of a database: several sources may ask for one
LOOKUP_BATCH = 1_000  # lines that are looked up by name; more are compared with the whole set


def follow_revocations(
    connection: sa.Connection, uids: Iterable[int], touched: Sequence[str] | None = None
) -> None:
    """Renders the `revoke` lines of these databases again, from what administrators, and the lists
    and responders of the CAs that they trust, revoke. Where only `touched` lines may have changed,
    only those."""
    lists = connection.execute(sa.select(crls.c.uid, crls.c.path)).all()
    asked = connection.execute(sa.select(responders.c.uid, responders.c.ca)).all()
    touched = None if touched is None or len(touched) > LOOKUP_BATCH else touched
    for uid in uids if touched is None or touched else ():
        database = find_record(connection, Database, uid)
        trusts = database_trust(connection, database)
        trusted = policy.key_ids(trusts)
        sources = [row.uid for row in lists if not trusted.isdisjoint(row.path)]
        sources += [-row.uid for row in asked if row.ca in trusted]
        sources = [] if database.deleting else [ADMINISTRATOR_SOURCE, *sources]
        if touched is None:
            have = connection.execute(REVOKE_LINES, {"bdb": uid})
        else:
            have = connection.execute(SOME_REVOKE_LINES, {"bdb": uid, "touched": touched})
        before = {(REVOKE_OWNER, row.line): row.id for row in have}
        wanted = {
            row.line for source in sources for row in revocations_of(connection, source, touched)
        }
        removed = () if database.deleting else policy.removed_lines(trusts)
        wanted.update(line for line in removed if touched is None or line in touched)
        move_lines(connection, uid, before, {(REVOKE_OWNER, line) for line in wanted})


def follow_responder(connection: sa.Connection, responder: Responder) -> None:
    """Revokes what a responder calls revoked and, where it is set to refuse then, the certificates
    of which its next answer should be there; nothing where it was deleted."""
    said = ocsp_answers.c
    out = said.status == "revoked"
    if responder.stale == "refuse":
        out |= said.overdue
    found = sa.select(said.serial).where(said.responder_uid == responder.uid, out)
    lines = {f"revoke serial {responder.ca} {one}" for one in connection.scalars(found)}
    added, removed = replace_source(connection, -responder.uid, lines)
    follow_revocations(connection, all_databases(connection), [*added, *removed])


def revocations_of(
    connection: sa.Connection, source: int, lines: Sequence[str] | None = None
) -> Sequence[sa.Row[Any]]:
    """The rows of what one source has revoked; with `lines`, only those."""
    if lines is None:
        return connection.execute(REVOCATIONS_OF, {"of": source}).all()
    return connection.execute(SOME_REVOCATIONS_OF, {"of": source, "lines": list(lines)}).all()


def add_revocations(
    connection: sa.Connection, source: int, lines: Iterable[str], reason: Reason
) -> None:
    """Writes down what one source revokes now."""
    shared = {"source": source, "reason": reason, "time": int(time.time())}
    rows = [{"line": line, **shared} for line in lines]
    if rows:
        connection.execute(insert_into(revocations), rows)


def replace_source(
    connection: sa.Connection, source: int, lines: set[str]
) -> tuple[list[str], list[str]]:
    """Makes `lines` all that one source has revoked. The lines that this adds, and those that it
    removes."""
    before = {row.line: row.id for row in revocations_of(connection, source)}
    added, removed = sorted(lines - before.keys()), sorted(before.keys() - lines)
    if removed:
        where = revocations.c.id == sa.bindparam("gone")
        gone = [{"gone": before[line]} for line in removed]
        connection.execute(sa.delete(revocations).where(where), gone)
    add_revocations(connection, source, added, "unspecified")
    return added, removed


def revocation_of(row: sa.Row[Any]) -> Revocation:
    """The record of a row."""
    return Revocation(row.id, row.line, row.reason, row.time)
