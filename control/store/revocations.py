"""What administrators have revoked, and whether anybody has revoked a certificate."""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from control.errors import missing
from control.records import EventDetail, Reason
from control.reports import Revocation
from control.store.events import note
from control.store.inventory import named_by
from control.store.kernel import Kernel
from control.store.lines import all_databases, await_policies
from control.store.revoking import (
    ADMINISTRATOR_SOURCE,
    add_revocations,
    follow_revocations,
    revocation_of,
    revocations_of,
)
from control.store.schema import revocations
from control.store.statements import select_among


class Revocations:
    """A revocation is a canonical `revoke` line; it holds here and on every database."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def revoke(self, lines: Sequence[str], reason: Reason) -> tuple[Revocation, ...]:
        """Revokes, and returns what is kept for these lines; one that was revoked already stays as
        it was."""
        with self._kernel.change() as connection:
            there = {row.line for row in revocations_of(connection, ADMINISTRATOR_SOURCE, lines)}
            fresh = [line for line in dict.fromkeys(lines) if line not in there]
            add_revocations(connection, ADMINISTRATOR_SOURCE, fresh, reason)
            if fresh:
                note(connection, "revoked", "WARNING", reason=reason, **_about(connection, fresh))
            follow_revocations(connection, all_databases(connection), fresh)
            await_policies(connection)
            rows = revocations_of(connection, ADMINISTRATOR_SOURCE, lines)
            return tuple(map(revocation_of, rows))

    def keep(self, held: Iterable[str], **where: EventDetail) -> None:
        """Revokes what a server holds as revoked and this store does not know: it was revoked after
        the backup that this store is from. `where` goes into the event log."""
        with self._kernel.change() as connection:
            lines = [line for line in held if line.startswith("revoke ")]
            known = connection.execute(select_among(revocations, "line"), {"line": lines})
            fresh = sorted(set(lines) - {row.line for row in known})
            if not fresh:
                return
            add_revocations(connection, ADMINISTRATOR_SOURCE, fresh, "unspecified")
            note(connection, "revocations_kept", "WARNING", lines=fresh, **where)
            follow_revocations(connection, all_databases(connection), fresh)

    def restore(self, uid: int) -> None:
        """Takes a revocation back. Raises Refusal 404."""
        mine = (revocations.c.id == uid) & (revocations.c.source == ADMINISTRATOR_SOURCE)
        with self._kernel.change() as connection:
            row = connection.execute(sa.select(revocations).where(mine)).first()
            if row is None:
                raise missing(f"revocation {uid}")
            connection.execute(sa.delete(revocations).where(mine))
            about = _about(connection, [row.line])
            note(connection, "revocation_removed", "WARNING", **about)
            follow_revocations(connection, all_databases(connection), [row.line])

    def page(self, limit: int, offset: int) -> tuple[Revocation, ...]:
        """What administrators have revoked, the newest first."""
        query = sa.select(revocations).where(revocations.c.source == ADMINISTRATOR_SOURCE)
        query = query.order_by(revocations.c.id.desc()).limit(limit).offset(offset)
        with self._kernel.read() as connection:
            return tuple(map(revocation_of, connection.execute(query)))

    def of(self, lines: Sequence[str]) -> tuple[Revocation, ...]:
        """Those of these lines that administrators have revoked."""
        with self._kernel.read() as connection:
            rows = revocations_of(connection, ADMINISTRATOR_SOURCE, lines)
            return tuple(map(revocation_of, rows))

    def of_ca(self, ca: str) -> tuple[Revocation, ...]:
        """The certificates of a CA, by its key id, that administrators have revoked by serial."""
        mine = revocations.c.source == ADMINISTRATOR_SOURCE
        begins = revocations.c.line.startswith(f"revoke serial {ca} ")
        query = sa.select(revocations).where(mine & begins).order_by(revocations.c.id)
        with self._kernel.read() as connection:
            return tuple(map(revocation_of, connection.execute(query)))

    def exist(self) -> bool:
        """Whether anybody has revoked anything."""

        def load() -> tuple[bool]:
            with self._kernel.read() as connection:
                return (connection.execute(sa.select(revocations).limit(1)).first() is not None,)

        return self._kernel.cache.recall("revocations", load)[0]

    def first_of(self, lines: Sequence[str]) -> Revocation | None:
        """The first revocation by an administrator that is one of these lines."""
        with self._kernel.read() as connection:
            rows = revocations_of(connection, ADMINISTRATOR_SOURCE, lines)
            return min(map(revocation_of, rows), key=lambda one: one.uid, default=None)

    def any_of(self, lines: Sequence[str]) -> bool:
        """Whether anybody has revoked any of these lines."""
        return bool(self.among(lines))

    def among(self, lines: Sequence[str]) -> tuple[str, ...]:
        """Those of these lines that anybody has revoked: administrators, or a CA by its list."""
        with self._kernel.read() as connection:
            rows = connection.execute(select_among(revocations, "line"), {"line": list(lines)})
            return tuple(sorted({row.line for row in rows}))


def _about(connection: sa.Connection, lines: Sequence[str]) -> dict[str, EventDetail]:
    """Lines for the event log, with the subjects and users of the certificates that are known."""
    known = named_by(connection, lines).values()
    subjects = [one.subject or one.cert for one in known]
    told: dict[str, EventDetail] = {"lines": list(lines)}
    return told | ({"subjects": subjects, "users": [one.user for one in known]} if known else {})
