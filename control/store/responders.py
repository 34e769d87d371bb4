"""What OCSP responders have said; the responders themselves are among the objects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from control.pki.issue import CLOCK_SKEW
from control.records import EventDetail, Responder
from control.reports import OcspAnswer, ResponderFigures
from control.store.events import note
from control.store.followed import ocsp_answers
from control.store.inventory import named_by
from control.store.kernel import Kernel
from control.store.revoking import follow_responder
from control.store.rows import read_records, values_of
from control.store.schema import client_certificates
from control.store.statements import insert_into, select_among

SKEW = int(CLOCK_SKEW.total_seconds())


@dataclass(frozen=True)
class Question:
    """A certificate that a responder is to be asked about, and what it has said of it so far."""

    url: str  # that the certificate names; ""
    before: OcspAnswer


class Responders:
    """One row for each certificate that a responder was asked about."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def due(self, responder: Responder, now: int, limit: int) -> tuple[Question, ...]:
        """The certificates that are good and that the responder should be asked about now: those
        that it was never asked about first."""
        known, said = client_certificates.c, ocsp_answers.c
        mine = (said.responder_uid == responder.uid) & (said.serial == known.serial)
        good = sa.or_(known.not_after == 0, known.not_after > now) & (known.serial != "")
        query = (
            sa.select(known.serial, sa.func.max(known.not_after), sa.func.max(known.ocsp))
            .select_from(client_certificates.outerjoin(ocsp_answers, mine))
            .where(known.ca == responder.ca, good, sa.func.coalesce(said.due, 0) <= now)
            .group_by(known.serial, said.due)
            .order_by(sa.func.coalesce(said.due, 0), known.serial)
            .limit(limit)
        )
        with self._kernel.read() as connection:
            found = [tuple(row) for row in connection.execute(query)]
            before = _read(connection, responder, [serial for serial, _, _ in found])
        return tuple(
            Question(url, before.get(serial) or OcspAnswer(responder.uid, serial, ends))
            for serial, ends, url in found
        )

    def record(self, responder: Responder, said: Sequence[OcspAnswer]) -> None:
        """Remembers what came of questions, and revokes what has to be. Does nothing where the
        responder was changed or deleted meanwhile."""
        with self._kernel.read() as connection:
            before = _read(connection, responder, [one.serial for one in said])
        moved = any(_effect(one) != _effect(before.get(one.serial)) for one in said)
        with self._kernel.change() if moved else self._kernel.log() as connection:
            if responder not in read_records(connection, Responder):
                return
            _note_problems(connection, responder, said)
            _write(connection, responder, said)
            if moved:
                _note_revoked(connection, responder, before, said)
                follow_responder(connection, responder)

    def settle(self, responder: Responder, now: int) -> None:
        """Marks the answers that should have been followed by others, which has the effect that the
        responder is set to, and forgets certificates that have ended."""
        table = ocsp_answers.c
        mine = table.responder_uid == responder.uid
        old = mine & (table.next_update + SKEW <= now) & ~table.overdue & (table.problem != "")
        ended = mine & table.ends.between(1, now)
        with self._kernel.read() as connection:
            if (
                connection.execute(sa.select(table.serial).where(old | ended).limit(1)).first()
                is None
            ):
                return
        with self._kernel.change() as connection:
            if responder not in read_records(connection, Responder):
                return
            connection.execute(sa.delete(ocsp_answers).where(ended))
            marked = connection.execute(sa.update(ocsp_answers).where(old).values(overdue=True))
            if marked.rowcount:
                note(
                    connection, "ocsp_stale", "WARNING", **_about(responder),
                    count=marked.rowcount, stale=responder.stale,
                )  # fmt: skip
            follow_responder(connection, responder)

    def figures(self) -> dict[int, ResponderFigures]:
        """Of all responders that were asked, by uid."""
        table = ocsp_answers.c

        def count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
            return sa.func.sum(sa.case((condition, 1), else_=0))

        query = sa.select(
            table.responder_uid,
            count(table.status == "good").label("good"),
            count(table.status == "revoked").label("revoked"),
            count(table.status == "").label("unanswered"),
            count(table.overdue).label("overdue"),
            sa.func.max(table.asked).label("asked"),
            sa.func.min(sa.case((table.next_update > 0, table.next_update))).label("next_update"),
        ).group_by(table.responder_uid)
        problems = sa.select(table.responder_uid, table.problem).where(table.problem != "")
        with self._kernel.read() as connection:
            last = {row[0]: row[1] for row in connection.execute(problems.order_by(table.asked))}
            rows = [row._asdict() for row in connection.execute(query)]
        return {
            uid: ResponderFigures(
                **{name: int(value or 0) for name, value in row.items()}, problem=last.get(uid, "")
            )
            for row in rows
            for uid in [row.pop("responder_uid")]
        }


def _effect(one: OcspAnswer | None) -> tuple[bool, bool]:
    return (one.status == "revoked", one.overdue) if one else (False, False)


def _read(
    connection: sa.Connection, responder: Responder, serials: Sequence[str]
) -> dict[str, OcspAnswer]:
    mine = ocsp_answers.c.responder_uid == responder.uid
    rows = connection.execute(
        select_among(ocsp_answers, "serial").where(mine), {"serial": list(serials)}
    )
    return {row.serial: OcspAnswer(**row._mapping) for row in rows}


def _write(connection: sa.Connection, responder: Responder, said: Sequence[OcspAnswer]) -> None:
    mine = ocsp_answers.c.responder_uid == responder.uid
    there = ocsp_answers.c.serial.in_([one.serial for one in said])
    connection.execute(sa.delete(ocsp_answers).where(mine & there))
    connection.execute(insert_into(ocsp_answers), [values_of(ocsp_answers, one) for one in said])


def _about(responder: Responder) -> dict[str, EventDetail]:
    return {"responder_uid": responder.uid, "responder_name": responder.name}


def _note_problems(
    connection: sa.Connection, responder: Responder, said: Iterable[OcspAnswer]
) -> None:
    """Each reason once, however many certificates it is about."""
    for problem in sorted({one.problem for one in said if one.problem}):
        same = (ocsp_answers.c.responder_uid == responder.uid) & (ocsp_answers.c.problem == problem)
        known = connection.execute(sa.select(ocsp_answers.c.serial).where(same).limit(1)).first()
        if known is None:
            about = _about(responder)
            note(connection, "ocsp_not_answered", "WARNING", **about, description=problem)


def _note_revoked(
    connection: sa.Connection,
    responder: Responder,
    before: Mapping[str, OcspAnswer],
    said: Iterable[OcspAnswer],
) -> None:
    def is_revoked(one: OcspAnswer | None) -> bool:
        return one is not None and one.status == "revoked"

    for one in said:
        if is_revoked(one) == is_revoked(before.get(one.serial)):
            continue
        line = f"revoke serial {responder.ca} {one.serial}"
        known = named_by(connection, [line]).get(line)
        whose: dict[str, Any] = {"subject": known.subject, "user_name": known.user} if known else {}
        kind = "ocsp_revoked" if is_revoked(one) else "ocsp_revocation_removed"
        note(connection, kind, "WARNING", **_about(responder), serial=one.serial, **whose)
