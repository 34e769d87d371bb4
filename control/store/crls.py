"""Certificate revocation lists: those of other CAs, and those that a CA of ours publishes."""

from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa

from control.errors import conflict, missing
from control.pki.crl import Crl
from control.reports import OwnCrl, RevocationList
from control.store.events import note
from control.store.kernel import Kernel
from control.store.lines import all_databases
from control.store.revoking import (
    add_revocations,
    follow_revocations,
    replace_source,
    revocations_of,
)
from control.store.rows import differing_fields, values_of
from control.store.schema import crls, own_crls, revocations
from control.store.statements import TAKE_UID, insert_into, select_all, select_by


class Crls:
    """Of each CA the last list is kept; what it revokes holds where that CA is trusted."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # ---- Lists of other CAs ----

    def all(self) -> tuple[RevocationList, ...]:
        """The lists of other CAs, by uid."""
        with self._kernel.read() as connection:
            rows = connection.execute(select_all(crls))
            return tuple(RevocationList(**row._mapping) for row in rows)

    def get(self, uid: int) -> RevocationList:
        """Raises Refusal 404."""
        with self._kernel.read() as connection:
            return _read(connection, uid)

    def entry_counts(self) -> dict[int, int]:
        """The number of certificates that each list has revoked, by its uid."""
        query = sa.select(revocations.c.source, sa.func.count()).group_by(revocations.c.source)
        with self._kernel.read() as connection:
            return {int(source): int(count) for source, count in connection.execute(query)}

    def put(self, crl: Crl, change: Callable[[RevocationList], RevocationList]) -> RevocationList:
        """Replaces the last list of its CA, with the settings that `change` gives it. Raises
        Refusal 409 where that list is newer."""
        with self._kernel.change() as connection:
            before = _last(connection, crl)
            _check_newer(crl, before)
            made = change(_made_from(connection, crl, before))
            connection.execute(sa.delete(crls).where(crls.c.uid == made.uid))
            connection.execute(insert_into(crls), values_of(crls, made))
            lines = {f"revoke serial {key} {serial}" for key in crl.keys for serial in crl.serials}
            added, removed = replace_source(connection, made.uid, lines)
            touched = [*added, *removed] if before and before.path == made.path else None
            follow_revocations(connection, all_databases(connection), touched)
            note(
                connection,
                "crl_imported",
                crl_uid=made.uid,
                issuer=made.issuer,
                number=made.number,
                added=len(added),
                removed=len(removed),
            )
        return made

    def update(
        self, uid: int, change: Callable[[RevocationList], RevocationList]
    ) -> RevocationList:
        """Changes the settings of a list. Raises Refusal 404."""
        with self._kernel.change() as connection:
            before = _read(connection, uid)
            made = change(before)
            _write(connection, made)
            fields = differing_fields(before, made)
            note(connection, "crl_updated", crl_uid=uid, issuer=made.issuer, fields=fields)
        return made

    def delete(self, uid: int) -> None:
        """Forgets a list; what only this list has revoked is not revoked any more. Raises Refusal
        404."""
        with self._kernel.change() as connection:
            found = _read(connection, uid)
            _, removed = replace_source(connection, uid, set())
            follow_revocations(connection, all_databases(connection), removed)
            connection.execute(sa.delete(crls).where(crls.c.uid == uid))
            note(connection, "crl_deleted", "WARNING", crl_uid=uid, issuer=found.issuer)

    def record_failure(self, uid: int, now: int, problem: str) -> None:
        """Remembers a fetch that failed, and why; the event log has each reason once."""
        with self._kernel.log() as connection:
            row = connection.execute(sa.select(crls).where(crls.c.uid == uid)).first()
            if row is None:
                return
            where = crls.c.uid == uid
            connection.execute(sa.update(crls).where(where).values(tried=now, problem=problem))
            if row.problem != problem:
                note(connection, "crl_not_fetched", "WARNING", crl_uid=uid, description=problem)

    def mark_overdue(self, now: int) -> None:
        """Marks the lists whose nextUpdate has passed, which has the effect that each is set to."""
        old = (crls.c.next_update <= now) & ~crls.c.overdue
        with self._kernel.read() as connection:
            if connection.execute(sa.select(crls.c.uid).where(old)).first() is None:
                return
        with self._kernel.change() as connection:
            for row in connection.execute(sa.select(crls).where(old)).all():
                made = replace(RevocationList(**row._mapping), overdue=True)
                _write(connection, made)
                detail = {"issuer": made.issuer, "stale": made.stale}
                note(connection, "crl_stale", "WARNING", crl_uid=made.uid, **detail)

    # ---- Lists of our CAs ----

    def published(self, ca: str) -> OwnCrl | None:
        """The list that a CA of ours, by its key id, has published last."""
        with self._kernel.read() as connection:
            row = connection.execute(sa.select(own_crls).where(own_crls.c.ca == ca)).first()
            return OwnCrl(**row._mapping) if row else None

    def publish(self, crl: OwnCrl) -> None:
        """Publishes a list, unless another process has published a list with this number."""
        with self._kernel.transaction() as connection:
            older = (own_crls.c.ca == crl.ca) & (own_crls.c.number < crl.number)
            connection.execute(sa.delete(own_crls).where(older))
            there = sa.select(own_crls.c.ca).where(own_crls.c.ca == crl.ca)
            if connection.execute(there).first() is None:
                connection.execute(insert_into(own_crls), values_of(own_crls, crl))


def _read(connection: sa.Connection, uid: int) -> RevocationList:
    row = connection.execute(select_by(crls, "uid"), {"uid": uid}).first()
    if row is None:
        raise missing(f"revocation list {uid}")
    return RevocationList(**row._mapping)


def _last(connection: sa.Connection, crl: Crl) -> RevocationList | None:
    """The list that the same CA has sent before, of the same scope."""
    same = (crls.c.ca == crl.keys[0]) & (crls.c.scope == crl.scope)
    row = connection.execute(sa.select(crls).where(same)).first()
    return RevocationList(**row._mapping) if row else None


def _check_newer(crl: Crl, before: RevocationList | None) -> None:
    """An old list, sent again, must not give back what the CA has revoked since."""
    if before and (crl.number < int(before.number) or crl.this_update < before.this_update):
        raise conflict(
            "crl_older",
            f"the list that is here has number {before.number} and is newer: this one has number "
            f"{crl.number}. Where the CA has begun again, delete the old one first",
        )


def _made_from(
    connection: sa.Connection, crl: Crl, before: RevocationList | None
) -> RevocationList:
    """What `crl` says, with the uid and the settings of the list before it."""
    names = ("issuer", "keys", "path", "scope", "this_update", "next_update")
    said = {name: getattr(crl, name) for name in names}
    said |= {"ca": crl.keys[0], "number": str(crl.number), "overdue": False, "problem": ""}
    if before:
        return replace(before, **said)
    uid = connection.scalar(TAKE_UID, {"name": "crl", "uid": 0})
    return RevocationList(uid=int(uid or 0), **said)


def _write(connection: sa.Connection, crl: RevocationList) -> None:
    """Writes a list, and revokes all of its CA where it is overdue and set to refuse then."""
    values = values_of(crls, crl)
    connection.execute(sa.update(crls).where(crls.c.uid == crl.uid).values(**values))
    lines = [f"revoke key {key}" for key in crl.keys]
    there = {row.line for row in revocations_of(connection, crl.uid, lines)}
    if crl.overdue and crl.stale == "refuse":
        fresh = [line for line in lines if line not in there]
        add_revocations(connection, crl.uid, fresh, "unspecified")
    else:
        mine = (revocations.c.source == crl.uid) & revocations.c.line.in_(there)
        connection.execute(sa.delete(revocations).where(mine))
    follow_revocations(connection, all_databases(connection), lines)
