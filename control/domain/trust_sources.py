"""CAs that are followed: those of the cluster, or of a database, as a file, a site or a SPIFFE
bundle endpoint has them.

A source owns the CAs that it gave, and no others: those that administrators have put beside them
stay, and what they took away does not come back by itself. What a source says is taken by itself
only as far as it was allowed to: so many CAs may come or go at once (`most`), and from some to none
never. All else waits for an administrator, who has seen it. What cannot be read changes nothing.
"""

import hashlib
import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from control import records
from control.domain import revocation
from control.domain.enrolment import AGAIN, PROBLEM, check_url
from control.errors import Refusal, conflict, missing
from control.pki import spiffe, trust
from control.pki.guarded import CertificateError, CrlError
from control.pki.pem import identity_of, pem_to_ders
from control.pki.reading import certificates_in, render_all
from control.pki.uploads import check_clients, check_trust
from control.records import TRUSTED_CA, Certificate, Database, TrustSource
from control.reports import TrustState
from control.store import Store

BYTES = 1 << 20
SOON = 10  # seconds between two looks, at least, whatever a bundle's hint says
CLUSTER = 0  # the place of those databases that have no CAs of their own, and of the REST API


class SourceError(ValueError):
    """Why what a source gives is not taken by itself."""


@dataclass(frozen=True)
class Place:
    """The certificates of the cluster or of a database, PEM, and what they are for."""

    pem: str
    uses: records.CaUses

    @property
    def trust(self) -> records.Trust:
        """By use: CAs, anchors, pins. Nothing where there is no certificate."""
        return trust.stored(self.pem, self.uses) if self.pem else records.Trust()


@dataclass(frozen=True)
class Plan:
    """What a source would change: certificates that come and go, DER, and the place after it."""

    comes: tuple[bytes, ...]
    goes: tuple[bytes, ...]
    before: Place
    after: Place


# ---- Reading -------------------------------------------------------------------------------------


def check_location(location: str) -> None:
    """Raises ValueError where nothing could be read from there."""
    if not location.startswith("/"):
        check_url(location)
    elif ".." in PurePosixPath(location).parts or not location.isprintable():
        raise ValueError(
            "location: must be the full path of a file, such as /etc/certauth/trust.pem"
        )


def read(source: TrustSource) -> spiffe.Bundle:
    """What a source says at this moment. Raises CertificateError."""
    try:
        content = (
            _content(source.location)
            if source.location.startswith("/")
            else revocation.fetch(source.location, "*/*", BYTES, source.ca)
        )
    except CrlError as error:
        raise CertificateError(str(error)) from error
    except OSError as error:
        raise CertificateError(f"{source.location}: {error.strerror}") from error
    if spiffe.is_bundle(content):
        return spiffe.read(content)
    return spiffe.Bundle(tuple(dict.fromkeys(certificates_in(content))))


def _content(path: str) -> bytes:
    """Of a file, and of nothing else that a path may lead to: a device, or a pipe, which waits."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise CertificateError(f"{path}: it is not a file")
        found = file.read(BYTES + 1)
    if len(found) > BYTES:
        raise CertificateError(f"{path}: more than {BYTES} bytes")
    return found


# ---- Planning ------------------------------------------------------------------------------------


def place_of(store: Store, bdb_uid: int) -> Place:
    """Raises Refusal 404."""
    if bdb_uid == CLUSTER:
        found = store.settings.certificates().get(TRUSTED_CA)
        return Place(found.certificate, found.uses) if found else Place("", records.CaUses())
    database = store.objects.get(Database, bdb_uid)
    if database.deleting:
        raise missing(f"bdb {bdb_uid}")
    return Place("".join(database.authentication_ssl_client_certs), database.client_ca_uses)


def plan(store: Store, source: TrustSource, given: Collection[str], cas: Collection[bytes]) -> Plan:
    """What it would change that a source gives these CAs, and gave those before (SHA-256). Raises
    CertificateError, Refusal."""
    place = place_of(store, source.bdb_uid)
    there = pem_to_ders(place.pem) if place.pem else []
    said = {identity_of(der).cert for der in cas}
    gone = set(given) - said - _given_by_others(store, source)
    stays = [der for der in there if identity_of(der).cert not in gone]
    comes = [der for der in cas if identity_of(der).cert not in given and der not in there]
    pem = render_all([*stays, *comes])
    checked = "".join((check_trust if source.bdb_uid == CLUSTER else check_clients)(pem))
    uses = trust.settled(place.trust, checked)
    goes = [der for der in there if der not in stays]
    return Plan(tuple(comes), tuple(goes), place, Place(checked, uses))


def _given_by_others(store: Store, source: TrustSource) -> set[str]:
    states = store.trust_sources.states()
    return {
        cert
        for one in store.objects.all(TrustSource)
        if one.uid != source.uid and one.bdb_uid == source.bdb_uid and one.uid in states
        for cert in states[one.uid].given
    }


def check_bounds(source: TrustSource, found: Plan) -> None:
    """Raises SourceError where it is more than a source may change by itself."""
    for count, what in ((len(found.comes), "come"), (len(found.goes), "go")):
        if count > source.most:
            raise SourceError(f"{count} CAs would {what} at once, and {source.most} may")
    if source.bdb_uid != CLUSTER and found.comes and not found.before.pem:
        raise SourceError("the database has no CAs of its own: those of the cluster would go")
    if found.before.trust.cas and not found.after.trust.cas:
        raise SourceError("no CA of clients would be left")


def named(ders: Collection[bytes]) -> list[str]:
    """The subjects of certificates, DER, in RFC 4514, for messages. Raises core.CoreError."""
    return [identity_of(der).subject for der in ders]


# ---- Taking over ---------------------------------------------------------------------------------


def put(store: Store, source: TrustSource, found: Plan, by_itself: bool = False) -> None:
    """Puts a plan in force, unless the place has changed since; `by_itself`: nor where the source
    was changed or deleted since it was read. Raises Refusal."""

    def check(now: Place) -> None:
        if now != found.before:
            raise conflict(
                "config_edit_conflict", "the CAs at this place have changed in the meantime"
            )
        if by_itself and source not in store.objects.all(TrustSource):
            raise conflict("config_edit_conflict", "the trust source was changed in the meantime")

    if source.bdb_uid == CLUSTER:

        def settle(one: Certificate) -> Certificate:
            check(place_of(store, CLUSTER))
            return one

        made = Certificate(TRUSTED_CA, found.after.pem, uses=found.after.uses)
        store.settings.put_certificates([made], settle)
        return

    def change(database: Database) -> Database:
        pem = "".join(database.authentication_ssl_client_certs)
        check(Place(pem, database.client_ca_uses))
        certificates = tuple(map(_pem, pem_to_ders(found.after.pem)))
        return replace(database, authentication_ssl_client_certs=certificates,
                       client_ca_uses=found.after.uses)  # fmt: skip

    store.objects.update(Database, source.bdb_uid, change)


def _pem(der: bytes) -> str:
    return render_all([der])


def taken(bundle: spiffe.Bundle, source: TrustSource, now: int) -> TrustState:
    """What is known of a source whose CAs are in force."""
    certs = tuple(sorted(identity_of(der).cert for der in bundle.cas))
    return TrustState(source.uid, certs, bundle.sequence, bundle.hint, now, now)


def follow(store: Store, source: TrustSource, now: int) -> TrustState:
    """Reads a source, and takes over what it may change by itself; remembers what came of it."""
    state = store.trust_sources.state(source.uid)
    try:
        bundle = read(source)
        if bundle.sequence < state.sequence:
            raise SourceError(f"the bundle is older ({bundle.sequence}) than the one before")
        found = plan(store, source, state.given, bundle.cas)
        detail: dict[str, Any] = {}
        try:
            check_bounds(source, found)
        except SourceError as error:
            made = waiting(state, found, bundle, str(error), now)
        else:
            made = taken(bundle, source, now)
            if found.comes or found.goes:
                put(store, source, found, by_itself=True)
                detail = {"added": named(found.comes), "removed": named(found.goes)}
        store.trust_sources.record(source, made, **detail)
    except (ValueError, Refusal) as error:  # CertificateError, SourceError, CoreError too
        made = replace(state, tried=now, problem=str(error)[:PROBLEM])
        store.trust_sources.record(source, made)
    return made


def waiting(
    state: TrustState, found: Plan, bundle: spiffe.Bundle, why: str, now: int
) -> TrustState:
    """A change that an administrator has to accept: it is shown, and nothing is in force of it."""
    pending = render_all(list(bundle.cas))
    return replace(
        state, tried=now, fetched=now, problem=f"an administrator has to accept it: {why}",
        pending=pending,
    )  # fmt: skip


def digest_of(state: TrustState) -> str:
    """What an administrator accepts is called by, "" of nothing."""
    return hashlib.sha256(state.pending.encode()).hexdigest() if state.pending else ""


def is_due(source: TrustSource, state: TrustState, now: int) -> bool:
    """Whether the source should be asked at `now` (seconds since 1970): after its interval or what
    its bundle hints at, whichever is shorter but not below SOON; after a failed attempt at most
    AGAIN seconds."""
    interval = min(source.interval, max(SOON, state.hint)) if state.hint else source.interval
    return now >= state.tried + (min(interval, AGAIN) if state.problem else interval)
