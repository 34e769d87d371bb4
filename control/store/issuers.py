"""What was fetched of the keys of issuers; the issuers themselves are among the objects."""

import sqlalchemy as sa

from control.records import Issuer
from control.reports import IssuerKeys
from control.store.events import note
from control.store.followed import issuer_keys
from control.store.kernel import Kernel
from control.store.rows import read_records, values_of
from control.store.statements import insert_into


class Issuers:
    """Keys are read again by every enrolment: one that was taken back counts nowhere any more."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def keys(self, uid: int) -> IssuerKeys:
        """Of the issuer with this uid; without any where none were fetched yet."""
        with self._kernel.read() as connection:
            return _read(connection, uid)

    def all_keys(self) -> dict[int, IssuerKeys]:
        """The same of all issuers, by uid."""
        with self._kernel.read() as connection:
            rows = connection.execute(sa.select(issuer_keys))
            return {row.issuer_uid: IssuerKeys(**row._mapping) for row in rows}

    def record_keys(self, issuer: Issuer, found: IssuerKeys) -> None:
        """Remembers what a fetch for this issuer has brought; without keys, the ones from before
        stay. Does nothing where the issuer was changed or deleted while the fetch was under way.
        The event log has each change of the keys, and each problem once."""
        with self._kernel.log() as connection:
            if issuer not in read_records(connection, Issuer):
                return
            before = _read(connection, found.issuer_uid)
            made = found if found.jwks else IssuerKeys(
                found.issuer_uid, before.jwks, before.fetched, found.tried, found.problem
            )  # fmt: skip
            where = issuer_keys.c.issuer_uid == found.issuer_uid
            connection.execute(sa.delete(issuer_keys).where(where))
            connection.execute(insert_into(issuer_keys), values_of(issuer_keys, made))
            if made.jwks != before.jwks:
                note(connection, "issuer_keys_changed", issuer_uid=made.issuer_uid)
            if made.problem and made.problem != before.problem:
                note(
                    connection, "issuer_not_fetched", "WARNING", issuer_uid=made.issuer_uid,
                    description=made.problem,
                )  # fmt: skip


def _read(connection: sa.Connection, uid: int) -> IssuerKeys:
    query = sa.select(issuer_keys).where(issuer_keys.c.issuer_uid == uid)
    row = connection.execute(query).first()
    return IssuerKeys(**row._mapping) if row else IssuerKeys(uid)
