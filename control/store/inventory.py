"""Certificates of clients that were issued here, or have logged in."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from control.errors import conflict, forbidden, missing
from control.policy.taking import RESERVED
from control.reports import CertificateFigures, ClientCertificate, Enrolment
from control.store.events import EVENTS_PER_TYPE, note
from control.store.followed import enrolments
from control.store.kernel import Kernel
from control.store.rows import values_of
from control.store.schema import client_certificates, patterns, revocations, users
from control.store.sorting import order_of
from control.store.statements import insert_into, select_among

# A certificate ends soon in the last quarter of its life, or so long before its end if that is
# less.
EXPIRY_WARNING_SECONDS = 30 * 86400
ENDED_CERT_KEEP_SECONDS = 90 * 86400
LAST_LOGIN_LAG_SECONDS = 60  # the record of a certificate's last login may be so much older


@dataclass(frozen=True)
class InventoryFilter:
    """Which certificates to find: those that fit all that is given. Times are seconds since
    1970."""

    of_user: str | None = None  # the name of the user
    from_ca: str | None = None  # the key id of the CA that issued it
    good_at: int | None = None  # has not ended by this time
    ends_by: int | None = None  # ends, or has ended, by this time
    ends_soon: int | None = None  # at this time, is good, ends soon, and has no successor
    also_serves: bool = False  # only certificates that are not for clients alone
    search: str = ""  # a part of its subject or of one of its SANs, in any case
    states: tuple[str, ...] = ()  # one of these at `now`
    now: int = 0


class Inventory:
    """Nothing here decides about a login: it is for people and for renewal."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # ---- Reading ----

    def find(
        self, wanted: InventoryFilter, limit: int, offset: int = 0, sort: str = "not_after"
    ) -> tuple[ClientCertificate, ...]:
        """Certificates, by `sort` (see CERTIFICATE_SORTS)."""
        table = client_certificates
        query = sa.select(table, _state(wanted.now or int(time.time())))
        query = query.where(*_conditions(wanted))
        query = query.order_by(*order_of(table, sort)).limit(limit).offset(offset)
        with self._kernel.read() as connection:
            return tuple(map(_certificate, connection.execute(query)))

    def count(self, wanted: InventoryFilter) -> int | None:
        """How many `find` would find without a limit; None where each would have to be looked at
        for that."""
        if wanted.states or wanted.ends_soon is not None:
            return None
        with self._kernel.read() as connection:
            return int(connection.scalar(_count(*_conditions(wanted))) or 0)

    def get(self, cert: str) -> ClientCertificate:
        """By the SHA-256 of its DER, in hex. Raises Refusal 404."""
        table = client_certificates
        query = sa.select(table, _state(int(time.time()))).where(table.c.cert == cert)
        with self._kernel.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise missing("such certificate")
        return _certificate(row)

    def by_serial(self, ca: str, serial: str) -> ClientCertificate | None:
        """The certificate with this number (hex) of the CA with this key id."""
        table = client_certificates
        where = (table.c.ca == ca) & (table.c.serial == serial)
        with self._kernel.read() as connection:
            row = connection.execute(sa.select(table).where(where).limit(1)).first()
            return _certificate(row) if row else None

    def revoked(self, lines: Sequence[str]) -> dict[str, ClientCertificate]:
        """The known certificates that `revoke` lines are about, by the line: one for each."""
        with self._kernel.read() as connection:
            return named_by(connection, lines)

    def count_issued(self, user: str, now: int) -> int:
        """The number of good certificates of a user that were issued here."""
        where = _conditions(InventoryFilter(of_user=user, good_at=now))
        query = _count(client_certificates.c.issued, *where)
        with self._kernel.read() as connection:
            return int(connection.scalar(query) or 0)

    def figures(self, now: int) -> CertificateFigures:
        """For metrics: how many are good, end soon, have ended; and when the next one ends."""
        ends = client_certificates.c.not_after
        counts = (_is_good(now), _ends_soon(now), ends.between(1, now))
        with self._kernel.read() as connection:
            first = connection.scalar(sa.select(sa.func.min(ends)).where(ends > now))
            valid, soon, over = (int(connection.scalar(_count(of)) or 0) for of in counts)
            return CertificateFigures(valid, soon, over, first or 0)

    # ---- Writing ----

    def record_seen(self, *seen: ClientCertificate) -> None:
        """Remembers certificates that have logged in, each with its `last_login`, `bdb_uid` and
        `node`. What is known already stays; writes nothing where the known last login is less than
        LAST_LOGIN_LAG_SECONDS older."""
        latest: dict[str, ClientCertificate] = {}
        for certificate in seen:
            latest[certificate.cert] = _merge(latest.get(certificate.cert), certificate)
        with self._kernel.read() as connection:
            news = _select_news(_read(connection, latest), latest)
        if not news:
            return
        with self._kernel.log() as connection:
            known = _read(connection, news)
            for cert, certificate in _select_news(known, news).items():
                old = known.get(cert)
                _put(connection, old, _merge(old, certificate))

    def record_issued(
        self,
        issued: ClientCertificate,
        unless: Sequence[str] = (),
        by: Enrolment | None = None,
    ) -> None:
        """Remembers a certificate that was issued here, and writes it to the event log, with the
        token or certificate that it was issued for. Raises Refusal 403 where any of the lines
        `unless` has been revoked meanwhile: what was revoked must not live on in a new certificate;
        409 where the token was used before."""
        with self._kernel.log() as connection:
            rows = connection.execute(select_among(revocations, "line"), {"line": list(unless)})
            if rows.first():
                raise forbidden("unauthorized_action", "the certificate or its key is revoked")
            if by and by.digest:
                _use_up(connection, by)
            _put(connection, None, issued)
            shown = {"token_subject": by.subject, "by_cert": by.cert} if by else {}
            named = {"issuer_name": by.issuer} if by and by.issuer else {}
            token = named | {name: said for name, said in shown.items() if said}
            note(
                connection, "certificate_issued", user_name=issued.user, subject=issued.subject,
                serial=issued.serial, cert=issued.cert, profile_name=issued.profile,
                severity="INFO", **token,
            )  # fmt: skip

    def check_unused(self, by: Enrolment) -> None:
        """Raises Refusal 409 where the token was used for this key before."""
        with self._kernel.read() as connection:
            _check_unused(connection, by)

    def watch(self, now: int) -> None:
        """Writes to the event log, once for each, which certificates end soon and have no
        successor, those that end first before the others, and at most as many at a time as the log
        holds. Forgets certificates that ended ENDED_CERT_KEEP_SECONDS ago."""
        table = client_certificates
        due = _ends_soon(now) & ~table.c.warned
        old = table.c.not_after.between(1, now - ENDED_CERT_KEEP_SECONDS)
        with self._kernel.read() as connection:
            work = sa.select(table.c.cert).where(due | old)
            if connection.execute(work.limit(1)).first() is None:
                return
        with self._kernel.log() as connection:
            first = sa.select(table).where(due).order_by(table.c.not_after).limit(EVENTS_PER_TYPE)
            for row in connection.execute(first).all():
                where = table.c.cert == row.cert
                connection.execute(sa.update(table).where(where).values(warned=True))
                note(
                    connection, "certificate_expiring", "WARNING", user_name=row.user,
                    subject=row.subject, serial=row.serial, cert=row.cert, not_after=row.not_after,
                )  # fmt: skip
            connection.execute(sa.delete(table).where(old))


def named_by(connection: sa.Connection, lines: Iterable[str]) -> dict[str, ClientCertificate]:
    """See Inventory.revoked."""
    values = {line.rpartition(" ")[2] for line in lines if line.startswith("revoke ")}
    column = client_certificates.c
    found = dict[str, ClientCertificate]()
    for some in _batched(sorted(values), 300):
        where = sa.or_(*(one.in_(some) for one in (column.serial, column.cert, column.key)))
        for row in connection.execute(sa.select(client_certificates).where(where)):
            found.update(dict.fromkeys(revoking_lines(_certificate(row)), _certificate(row)))
    return {line: found[line] for line in lines if line in found}


def revoking_lines(one: ClientCertificate) -> tuple[str, ...]:
    """The lines that revoke a certificate."""
    return (
        f"revoke serial {one.ca} {one.serial}",
        f"revoke cert {one.cert}",
        f"revoke key {one.key}",
    )


def _batched(values: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    """Consecutive slices of at most `size` values, so that a statement stays below SQLite's limit
    of parameters."""
    return (values[at : at + size] for at in range(0, len(values), size))


# ---- Conditions ----


def _check_unused(connection: sa.Connection, by: Enrolment) -> None:
    found = sa.select(enrolments.c.digest).where(enrolments.c.digest == by.digest)
    if connection.execute(found).first():
        raise conflict(
            "token_used",
            "a certificate was already issued for this token and this key: fetch a new token",
        )


def _use_up(connection: sa.Connection, by: Enrolment) -> None:
    """`expires` has the longest clock skew in it that an issuer may have: a token is remembered
    for as long as it can be good, also where the issuer's own skew is longer later."""
    _check_unused(connection, by)
    old = enrolments.c.expires < int(time.time())
    connection.execute(sa.delete(enrolments).where(old))
    values = {"digest": by.digest, "expires": by.expires}
    connection.execute(insert_into(enrolments), values)


def _state(now: int) -> sa.ColumnElement[str]:
    """See CertificateState. It costs an index look-up for each of its words."""
    ends = client_certificates.c.not_after
    return sa.case(
        (_is_revoked(), "revoked"),
        (ends.between(1, now), "expired"),
        (_is_orphan(), "orphaned"),
        (_has_successor(), "superseded"),
        (_is_near_its_end(now), "expiring"),
        else_="valid",
    ).label("state")


def _is_revoked() -> sa.ColumnElement[bool]:
    one = client_certificates.c
    lines = ("revoke serial " + one.ca + " " + one.serial, "revoke cert " + one.cert,
             "revoke key " + one.key)  # fmt: skip
    return sa.or_(*(sa.exists(sa.select(revocations.c.id).where(revocations.c.line == line))
                    for line in lines))  # fmt: skip


def _is_orphan() -> sa.ColumnElement[bool]:
    """Of a user that is not there any more. Where a pattern makes users, nobody knows."""
    known = sa.exists(sa.select(users.c.uid).where(users.c.name == client_certificates.c.user))
    makes_users = sa.exists(sa.select(patterns.c.uid).where(patterns.c.user.contains("{")))
    ours = client_certificates.c.user.startswith(RESERVED)
    return ~known & ~makes_users & ~ours


def _conditions(wanted: InventoryFilter) -> list[sa.ColumnElement[bool]]:
    column, found = client_certificates.c, []
    if wanted.of_user is not None:
        found.append(column.user == wanted.of_user)
    if wanted.from_ca is not None:
        found.append(column.ca == wanted.from_ca)
    if wanted.good_at is not None:
        found.append(_is_good(wanted.good_at))
    if wanted.ends_by is not None:
        found.append(column.not_after.between(1, wanted.ends_by))
    if wanted.ends_soon is not None:
        found.append(_ends_soon(wanted.ends_soon))
    if wanted.also_serves:
        found.append(column.serves)
    if wanted.states:
        found.append(_state(wanted.now or int(time.time())).in_(wanted.states))
    if wanted.search:
        where = (column.subject, sa.type_coerce(column.sans, sa.Text), column.user)
        texts = [one.icontains(wanted.search, autoescape=True) for one in where]
        found.append(sa.or_(*texts, *_by_digits(wanted.search)))
    return found


def _by_digits(text: str) -> list[sa.ColumnElement[bool]]:
    """By the beginning of a fingerprint or a key id, or by a serial number, as programs print
    them."""
    digits = text.replace(":", "").replace(" ", "").lower()
    if len(digits) < 8 or set(digits) - set("0123456789abcdef"):
        return []
    column = client_certificates.c
    starts = (one.startswith(digits) for one in (column.cert, column.key))
    return [*starts, column.serial == digits]


def _is_good(now: int) -> sa.ColumnElement[bool]:
    ends = client_certificates.c.not_after
    return (ends == 0) | (ends > now)


def _ends_soon(now: int) -> sa.ColumnElement[bool]:
    """Those near their end that somebody has to do something about: not revoked, of a user that is
    still there, and without a successor."""
    return _is_near_its_end(now) & ~_has_successor() & ~_is_revoked() & ~_is_orphan()


def _has_successor() -> sa.ColumnElement[bool]:
    """A certificate of the same user that ends later, and has the same key or came after this one
    was last used."""
    one, other = client_certificates.c, client_certificates.alias("successor")
    follows = (other.c.key == one.key) | (other.c.first > one.last_login)
    later = (other.c.user == one.user) & (other.c.not_after > one.not_after)
    return sa.exists(sa.select(other.c.cert).where(later, follows))


def _is_near_its_end(now: int) -> sa.ColumnElement[bool]:
    """In the last quarter of its life, or in its last EXPIRY_WARNING_SECONDS where that is less."""
    one = client_certificates.c
    quarter = (one.not_after - one.not_before) // 4
    warning = sa.case((quarter < EXPIRY_WARNING_SECONDS, quarter), else_=EXPIRY_WARNING_SECONDS)
    in_reach = one.not_after.between(now + 1, now + EXPIRY_WARNING_SECONDS)  # uses the index
    return in_reach & (one.not_after < now + warning)


def _count(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(client_certificates).where(*where)


# ---- Rows ----


def _certificate(row: sa.Row[Any]) -> ClientCertificate:
    return ClientCertificate(**{k: v for k, v in row._mapping.items() if k != "warned"})


def _read(connection: sa.Connection, certs: Iterable[str]) -> dict[str, ClientCertificate]:
    """What is known of these certificates, by their hashes."""
    rows = connection.execute(select_among(client_certificates, "cert"), {"cert": list(certs)})
    return {row.cert: _certificate(row) for row in rows}


def _merge(known: ClientCertificate | None, seen: ClientCertificate) -> ClientCertificate:
    """What is known of a certificate after it was seen again. A login may know less of it than its
    issuer, and they may come in any order."""
    if known is None:
        return seen
    names = (
        "ca", "key", "issuer", "not_before", "not_after", "serves", "sans", "enrolled_by", "ocsp",
    )  # fmt: skip
    found = replace(known, **{name: getattr(known, name) or getattr(seen, name) for name in names})
    found = replace(found, first=min(known.first, seen.first))
    if seen.last_login < known.last_login:
        return found
    last = ("user", "last_login", "bdb_uid", "node")
    return replace(found, **{name: getattr(seen, name) for name in last})


def _select_news(
    known: dict[str, ClientCertificate], seen: dict[str, ClientCertificate]
) -> dict[str, ClientCertificate]:
    """Those of `seen` that are unknown, or whose last login is worth writing."""

    def is_new(certificate: ClientCertificate) -> bool:
        old = known.get(certificate.cert)
        return old is None or certificate.last_login >= old.last_login + LAST_LOGIN_LAG_SECONDS

    return {cert: certificate for cert, certificate in seen.items() if is_new(certificate)}


def _put(
    connection: sa.Connection, known: ClientCertificate | None, now: ClientCertificate
) -> None:
    table, values = client_certificates, values_of(client_certificates, now)
    if known is None:
        connection.execute(insert_into(table), {**values, "warned": False})
    else:
        connection.execute(sa.update(table).where(table.c.cert == now.cert).values(**values))
