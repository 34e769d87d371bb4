"""The policies of databases: what their nodes are to hold, and how each generation differs."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from control.policy import core, taking
from control.policy import lines as policy
from control.records import Change, Target, User
from control.reports import PolicyLine
from control.store.kernel import Kernel
from control.store.lines import (
    LAST_OWNER,
    LAST_USER,
    PATTERN_OWNERS,
    all_databases,
    group_grants,
    read_target,
    refresh_databases,
)
from control.store.pieces import do_piece
from control.store.revoking import REVOKE_OWNER
from control.store.schema import bdbs, patterns, policy_lines, policy_log, renderings, users
from control.store.statements import GRANTS_WITHOUT_LINE
from control.words import LineOwner


class Policies:
    """Read here; every change of other records writes the lines that follow from it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def target(self, bdb_uid: int) -> Target:
        """What the nodes of a database are to hold. Raises Refusal 404."""

        def load() -> Target:
            with self._kernel.read() as connection:
                return read_target(connection, bdb_uid)

        return self._kernel.cache.recall(("target", bdb_uid), load)

    def targets(self) -> dict[int, Target]:
        """The targets of all databases, by uid."""

        def read() -> dict[int, Target]:
            query = sa.select(bdbs.c.uid, bdbs.c.generation, bdbs.c.digest)
            with self._kernel.read() as connection:
                rows = connection.execute(query)
                return {row.uid: Target(row.generation, row.digest) for row in rows}

        return self._kernel.remember("targets", read)

    def whole(self, bdb_uid: int) -> tuple[Target, tuple[str, ...]]:
        """The target of a database and all its lines, sorted, at one moment. Raises Refusal 404."""
        with self._kernel.read() as connection:
            target = read_target(connection, bdb_uid)
            where = policy_lines.c.bdb_uid == bdb_uid
            lines = connection.scalars(sa.select(policy_lines.c.line).where(where))
            return target, tuple(sorted(lines))

    def page(
        self, bdb_uid: int, owner: LineOwner | None, text: str, limit: int, offset: int
    ) -> tuple[PolicyLine, ...]:
        """Some lines of a policy, in any case those that hold `text`: the database's own first,
        then those of users and patterns, by uid, and revocations last."""
        found: list[PolicyLine] = []
        with self._kernel.read() as connection:
            for one in (owner,) if owner else OWNERS:
                where = _lines_for(bdb_uid, one, text)
                if offset and offset >= (count := _counted(connection, where)):
                    offset -= count
                    continue
                query = sa.select(policy_lines).where(*where).order_by(*BY_OWNER)
                rows = connection.execute(query.limit(limit - len(found)).offset(offset)).all()
                found, offset = found + _named(connection, one, rows), 0
        return tuple(found)

    def count(self, bdb_uid: int, owner: LineOwner | None, text: str) -> int:
        """How many lines `page` would find without a limit."""
        with self._kernel.read() as connection:
            owners = (owner,) if owner else OWNERS
            return sum(_counted(connection, _lines_for(bdb_uid, one, text)) for one in owners)

    def changes(self, bdb_uid: int, generation: int, digest: str) -> tuple[Change, ...] | None:
        """What leads to the target from a generation that a node reports, with its digest.
        Generation 0 is the empty policy. None where this is not a generation of this policy, or the
        log does not reach back to it: then the node needs the whole policy."""
        log = policy_log.c
        with self._kernel.read() as connection:
            target = read_target(connection, bdb_uid)
            if (generation, digest) == (target.generation, target.digest):
                return ()  # asked each second: for a node in step the log is not read
            where = (log.bdb_uid == bdb_uid) & (log.generation >= generation)
            rows = connection.execute(sa.select(policy_log).where(where).order_by(log.generation))
            found = [Change(r.generation, r.digest, r.added, r.removed) for r in rows]
        if generation and (not found or found[0].generation != generation):
            return None
        if generation and found.pop(0).digest != digest:
            return None
        reached = len(found) == target.generation - generation
        return tuple(found) if reached else None

    def added(self, bdb_uid: int, generations: range) -> frozenset[str]:
        """The lines that these generations of a policy have added to it."""
        log = policy_log.c
        which = log.generation.between(generations.start, generations.stop - 1)
        where = (log.bdb_uid == bdb_uid) & which
        with self._kernel.read() as connection:
            found = connection.scalars(sa.select(log.added).where(where))
            return frozenset(line for lines in found for line in lines)

    def rules(self, bdb_uid: int, user: str) -> str:
        """The ACL rules that the policy of a database gives to a user, a pattern's user and a node
        included, as its lines spell them, without `on`; "" of a user who is not in the policy."""

        with self._kernel.read() as connection:
            return _rules(connection, bdb_uid, user)

    def not_synced(self, bdb_uid: int) -> tuple[User, ...]:
        """Users with rights on a database and without a line there: password users, and those with
        a name that servers refuse, from before this version refused it."""

        def read() -> tuple[User, ...]:
            with self._kernel.read() as connection:
                found = group_grants(connection.execute(GRANTS_WITHOUT_LINE, {"bdb": bdb_uid}))
                named = (user for _, (user, *_) in found)
                return tuple(
                    user
                    for user in named
                    if user.auth_method == "regular" or not policy.is_name(user.name)
                )

        return self._kernel.remember(("not_synced", bdb_uid), read)

    def refresh(self) -> None:
        """Renders all lines again: another version may have written them otherwise. Where there are
        many users, theirs are left to `do_piece`."""
        with self._kernel.change() as connection:
            refresh_databases(connection, all_databases(connection))

    def unfinished(self) -> frozenset[int]:
        """The databases where lines are still to be rendered."""

        def read() -> frozenset[int]:
            with self._kernel.read() as connection:
                return frozenset(connection.scalars(sa.select(renderings.c.bdb_uid)))

        return self._kernel.remember("unfinished", read)

    def do_piece(self) -> bool:
        """Renders some of the lines that a change has left, or that it left when it was cut off.
        Whether any are left."""
        return bool(self.unfinished() and do_piece(self._kernel))


# Who lines are for, in the order of pages, and the range of `owner` that is theirs.
OWNERS: dict[LineOwner, tuple[int, int]] = {
    "database": (0, 0),
    "user": (1, LAST_USER),
    "pattern": (PATTERN_OWNERS, LAST_OWNER),
    "revocations": (REVOKE_OWNER, REVOKE_OWNER),
}
BY_OWNER = (policy_lines.c.owner, policy_lines.c.id)


def _lines_for(bdb_uid: int, owner: LineOwner, text: str) -> list[sa.ColumnElement[bool]]:
    column, (first, last) = policy_lines.c, OWNERS[owner]
    found = [column.bdb_uid == bdb_uid, column.owner.between(first, last)]
    return [*found, column.line.icontains(text, autoescape=True)] if text else found


def _counted(connection: sa.Connection, where: list[sa.ColumnElement[bool]]) -> int:
    counted = sa.select(sa.func.count()).select_from(policy_lines).where(*where)
    return int(connection.scalar(counted) or 0)


def _named(
    connection: sa.Connection, owner: LineOwner, rows: Sequence[sa.Row[Any]]
) -> list[PolicyLine]:
    """Lines with the names of those whom they are for."""
    table = {"user": users, "pattern": patterns}.get(owner)
    if table is None:
        return [PolicyLine(row.line, owner, 0, "") for row in rows]
    uids = [row.owner % PATTERN_OWNERS for row in rows]
    query = sa.select(table.c.uid, table.c.name).where(table.c.uid.in_(set(uids)))
    names = {row.uid: row.name for row in connection.execute(query)}
    return [
        PolicyLine(row.line, owner, uid, names.get(uid, ""))
        for row, uid in zip(rows, uids, strict=True)
    ]


def _rules(connection: sa.Connection, bdb_uid: int, user: str) -> str:
    uid = connection.scalar(sa.select(users.c.uid).where(users.c.name == user))
    made = policy_lines.c.owner > PATTERN_OWNERS if ":" in user else policy_lines.c.owner == 0
    where = (policy_lines.c.bdb_uid == bdb_uid) & (made | (policy_lines.c.owner == uid))
    lines = connection.scalars(sa.select(policy_lines.c.line).where(where)).all()
    spelled = core.quote(user)
    for line in lines:
        if line.startswith("user ") and taking.user_of(line) in (user, spelled):
            return policy.rules_of(line).removeprefix("on ")
    found = (taking.made_rules(line, user) for line in lines if line.startswith("pattern "))
    return next(filter(None, found), "").removeprefix("on ")
