"""/v1/certauth/revocations and crls: what is revoked, by administrators and by CAs' own lists; and
the list of our own CA, for everybody."""

import base64
import time
from dataclasses import replace
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import Field, StringConstraints

from control.api.models import Answer, Body, Pem, Uid, words
from control.api.web import (
    CHANGING,
    PUBLIC,
    answer,
    in_field,
    needs,
    number,
    store,
    unchanged,
    warn,
)
from control.domain import revocation
from control.errors import Refusal, invalid, missing
from control.pki import crl
from control.pki.guarded import CertificateError
from control.pki.pem import identity_of, is_issued_by, pem_to_ders, printable
from control.policy import core, pasted
from control.records import Reason, Stale, User, rendered_time
from control.reports import ClientCertificate, Revocation, RevocationList
from control.store import InventoryFilter

# As programs print them; see control/policy/pasted.py.
Hash = Annotated[str, StringConstraints(max_length=200)]
Serial = Annotated[str, StringConstraints(max_length=300)]


class RevokeBody(Body):
    """One of: a certificate; `ca` and `serial`; `cert`; `key`; a user."""

    certificate: Pem = ""
    ca: Hash = ""
    serial: Serial = ""
    cert: Hash = ""
    key: Hash = ""
    user_uid: Uid = 0
    reason: Reason = "unspecified"


class CrlBody(Body):
    url: Annotated[str, StringConstraints(max_length=2048)] = ""
    interval: Annotated[int, Field(ge=60, le=10**9)] = 3600  # seconds
    stale: Stale = "warn"

    IGNORED = words("""
        uid issuer ca scope number this_update next_update overdue entries last_fetch problem
        ignored
    """)


class NewCrlBody(CrlBody):
    crl: Pem = ""
    authorities: Pem = ""


class RevocationAnswer(Answer):
    uid: int
    line: str
    reason: Reason
    time: str
    cert: str = ""
    subject: str = ""
    user: str = ""


class RevocationsAnswer(Answer):
    revocations: list[RevocationAnswer]


class CrlAnswer(Answer):
    uid: int
    issuer: str
    ca: str
    scope: str
    number: str
    this_update: str
    next_update: str
    overdue: bool
    entries: int
    stale: Stale
    url: str
    interval: int
    last_fetch: str = ""
    problem: str = ""


class ImportedAnswer(CrlAnswer):
    """The first list of what was sent; `others` are those behind it, each with a record of its
    own."""

    others: list[CrlAnswer] = []


blueprint = Blueprint("revocation", __name__)
PAGE = 1000
KNOWN = 10_000  # certificates of one user


@blueprint.get("/v1/certauth/revocations")
@needs("view_cluster_info", answers=list[RevocationAnswer], query=("limit", "offset"))
def read_all() -> Response:
    """What administrators have revoked, the newest first."""
    limit, offset = min(number("limit", PAGE), PAGE), number("offset", 0)
    found = store().revocations.page(limit, offset)
    known = store().inventory.revoked([one.line for one in found])
    return answer([render(one, known.get(one.line)) for one in found])


@blueprint.post("/v1/certauth/revocations")
@needs("revoke_certificates", takes=RevokeBody, answers=RevocationsAnswer, query=CHANGING)
def revoke(sent: RevokeBody) -> Response:
    """Revokes a certificate, all that are known of a user, or a key: on every database, and here.
    Sessions end within about a second."""
    made = store().revocations.revoke(lines(sent), sent.reason)
    if "user_uid" in sent.model_fields_set:
        # Again, for one of the user's that was issued meanwhile: none can be after that.
        made = store().revocations.revoke(lines(sent), sent.reason)
    known = store().inventory.revoked([one.line for one in made])
    return answer({"revocations": [render(one, known.get(one.line)) for one in made]})


@blueprint.delete("/v1/certauth/revocations/<int(max=2147483647):uid>")
@needs("revoke_certificates", query=CHANGING)
def restore(uid: int) -> Response:
    """Takes a revocation back."""
    store().revocations.restore(uid)
    return answer({})


def lines(sent: RevokeBody) -> list[str]:
    """The `revoke` lines that a request is for, canonical. Raises Refusal."""
    ways = sent.model_fields_set - {"reason"}
    if ways == {"ca", "serial"}:
        ca = in_field("ca", lambda: pasted.fingerprint(sent.ca))
        serial = in_field("serial", lambda: pasted.serial(sent.serial))
        return [in_field("serial", lambda: core.canonical(f"revoke serial {ca} {serial}"))]
    if ways == {"cert"} or ways == {"key"}:
        way = ways.pop()
        value = in_field(way, lambda: pasted.fingerprint(getattr(sent, way)))
        return [core.canonical(f"revoke {way} {value}")]
    if ways == {"certificate"}:
        return of_certificates(sent.certificate)
    if ways == {"user_uid"}:
        return of_all(store().objects.get(User, sent.user_uid))
    raise invalid("invalid_param", "send one of: certificate; ca and serial; cert; key; user_uid")


def of_certificates(pem: str) -> list[str]:
    """Of the first certificate, and of each other one that is not a CA above it: a file of several
    clients' certificates revokes them all. What a client brings is read as servers read it.
    Raises Refusal, CertificateError."""
    found = dict.fromkeys(pem_to_ders(pem))
    if not found:
        raise CertificateError("not a certificate in PEM or DER form")
    first, *others = found
    leaves = [first, *(one for one in others if not identity_of(one).ca)]
    above = [one for one in others if one not in leaves]
    known = [*above, *store().settings.authorities()]
    for one in leaves[1:]:
        warn(f"'{printable(identity_of(one).subject)}' comes after the first certificate, and "
             "is not a CA: it is revoked too")  # fmt: skip
    for one in above:
        if not any(is_issued_by(below, one) for below in found if below != one):
            warn(f"'{printable(identity_of(one).subject)}' is a CA that did not issue any of "
                 "the other certificates: it is not revoked")  # fmt: skip
    return [of_leaf(one, known) for one in leaves]


def of_leaf(der: bytes, known: list[bytes]) -> str:
    """By its number where its CA is known here, was sent behind it, or was seen at a login: our
    own CA's list can say that. By its hash elsewhere, which holds for the certificate with another
    ECDSA signature as well."""
    leaf = identity_of(der)
    issuer = crl.issuer_of(der, known) or seen_issuer(leaf.cert)
    by_number = issuer and leaf.serial
    return f"revoke serial {issuer} {leaf.serial}" if by_number else f"revoke cert {leaf.cert}"


def seen_issuer(cert: str) -> str:
    """The key id of the CA of a certificate that has logged in; "" where it has not."""
    try:
        return store().inventory.get(cert).ca
    except Refusal:
        return ""


def of_all(user: User) -> list[str]:
    """Of all certificates of a user that are known here. Raises Refusal where there is none."""
    good = InventoryFilter(of_user=user.name, good_at=int(time.time()))
    found = store().inventory.find(good, limit=KNOWN)
    if not found:
        raise missing(f"good certificate of user '{user.name}' known here")
    return [
        f"revoke serial {one.ca} {one.serial}" if one.ca else f"revoke cert {one.cert}"
        for one in found
    ]


def render(one: Revocation, known: ClientCertificate | None) -> dict[str, Any]:
    """With the certificate that it is about, where that is known here."""
    told = {"uid": one.uid, "line": one.line, "reason": one.reason, "time": rendered_time(one.time)}
    names = ("cert", "subject", "user")
    return {**told, **{name: getattr(known, name) if known else "" for name in names}}


# ---- Lists of other CAs --------------------------------------------------------------------------


@blueprint.get("/v1/certauth/crls")
@needs("view_cluster_info", answers=list[CrlAnswer])
def read_crls() -> Response:
    entries = store().crls.entry_counts()
    return answer([rendered(one, entries.get(one.uid, 0)) for one in store().crls.all()])


@blueprint.get("/v1/certauth/crls/<int(max=2147483647):uid>")
@needs("view_cluster_info", answers=CrlAnswer)
def read_crl(uid: int) -> Response:
    return shown(store().crls.get(uid))


@blueprint.post("/v1/certauth/crls")
@needs("update_cluster", takes=NewCrlBody, answers=ImportedAnswer, query=CHANGING)
def import_crl(sent: NewCrlBody) -> Response:
    """Takes CAs' lists, sent or fetched, each in place of the one before it: all that the file
    holds, or none."""
    settings = {name: value for name, value in sent.sent().items() if name in SETTINGS}
    if sent.url:
        revocation.check_url(sent.url)
    wish = revocation.Wish(settings, sent.authorities)
    if not sent.crl and not sent.url:
        raise invalid("missing_field", "send crl, url or both")
    if sent.crl:
        taken = revocation.take(store(), sent.crl.encode(), wish, int(time.time()))
    else:
        taken = revocation.fetched(store(), sent.url, wish)
    entries = store().crls.entry_counts()
    first, *others = (rendered(one, entries.get(one.uid, 0)) for one in taken)
    return answer({**first, **({"others": others} if others else {})}, taken[0])


@blueprint.put("/v1/certauth/crls/<int(max=2147483647):uid>")
@needs("update_cluster", takes=CrlBody, answers=CrlAnswer, query=CHANGING)
def update_crl(uid: int, sent: CrlBody) -> Response:
    """Where a list is fetched from, how often, and what happens when it is overdue."""
    if sent.url:
        revocation.check_url(sent.url)
    return shown(store().crls.update(uid, lambda now: replace(unchanged(now), **sent.sent())))


@blueprint.delete("/v1/certauth/crls/<int(max=2147483647):uid>")
@needs("update_cluster", query=CHANGING)
def delete_crl(uid: int) -> Response:
    """Forgets a list: what only it has revoked is revoked no more."""
    store().crls.delete(uid)
    return answer({})


SETTINGS = CrlBody.model_fields.keys()


def shown(one: RevocationList) -> Response:
    return answer(rendered(one, store().crls.entry_counts().get(one.uid, 0)), one)


def rendered(one: RevocationList, entries: int) -> dict[str, Any]:
    names = ("uid", "issuer", "ca", "scope", "number", "overdue", "stale", "url", "interval")
    return {
        **{name: getattr(one, name) for name in names},
        "this_update": rendered_time(one.this_update),
        "next_update": rendered_time(one.next_update),
        "entries": entries,
        "last_fetch": rendered_time(one.tried) if one.tried else "",
        "problem": one.problem,
    }


# ---- Our own -------------------------------------------------------------------------------------


@blueprint.get("/v1/certauth/ca/<key>.crl")
@needs(PUBLIC, answers="application/pkix-crl")
def own_crl(key: str) -> Response:
    """The revocation list of a CA of ours, DER."""
    return Response(own(key), mimetype="application/pkix-crl")


@blueprint.get("/v1/certauth/ca/<key>.pem")
@needs(PUBLIC, answers="application/x-pem-file")
def own_crl_pem(key: str) -> Response:
    """The same in PEM."""
    return Response(crl.pem(own(key)), mimetype="application/x-pem-file")


def own(key: str) -> bytes:
    found = store().crls.published(key)
    if found is None:
        raise missing("CA of this control plane with that key")
    return base64.b64decode(found.der)
