"""/v1/certauth/certificates and /v1/certauth/profiles: clients' certificates, those issued here and
those seen at logins, and what those issued here are like.

A CSR's signature is the proof that its sender holds the key, which never comes here."""

import time
from dataclasses import asdict, replace
from typing import Annotated, Any, get_args

from flask import Blueprint, Response, current_app, g, request
from pydantic import Field, StringConstraints

from control.api.logs import END, LIMIT, moment
from control.api.models import Answer, Body, Many, ObjectName, Uid, UserName, words
from control.api.revocation import RevocationAnswer
from control.api.revocation import render as rendered_revocation
from control.api.roles import check_administrator
from control.api.web import (
    CHANGING,
    LISTING,
    answer,
    caller,
    flag,
    found,
    guard,
    in_field,
    needs,
    number,
    sorting,
    store,
    unchanged,
)
from control.domain import issuing
from control.errors import Refusal, forbidden, invalid
from control.records import KeyUsage, Profile, User
from control.reports import CertificateState, ClientCertificate
from control.store import CERTIFICATE_SORTS, InventoryFilter, revoking_lines

Template = Annotated[str, StringConstraints(max_length=512)]


class ProfileBody(Body):
    name: ObjectName = ""
    lifetime: Annotated[int, Field(ge=3600, le=366 * 86400)] = 86400  # seconds
    subject: Template = ""
    sans: Annotated[Many[Template], Field(max_length=16)] = []
    key_usage: Annotated[Many[KeyUsage], Field(min_length=1)] = ["digital_signature"]
    role_uids: Many[Uid] = []

    IGNORED = words("uid")


class NewProfileBody(ProfileBody):
    name: ObjectName
    uid: Uid = 0

    IGNORED = frozenset()


class IssueBody(Body):
    csr: Annotated[str, StringConstraints(max_length=65536)]
    user: UserName = ""
    profile: ObjectName = ""


class ProfileAnswer(Answer):
    uid: int
    name: str
    lifetime: int
    subject: str
    sans: list[str]
    key_usage: list[KeyUsage]
    role_uids: list[int]


class ClientCertificateAnswer(Answer):
    """`certificate`, as clients present it, where it was issued here; not in lists. `serves`: its
    extended key usage is not for clients alone."""

    cert: str
    key: str
    ca: str
    issuer: str
    serial: str
    subject: str
    user: str
    not_before: int
    not_after: int
    issued: bool
    profile: str
    last_login: int
    bdb_uid: int
    node: str
    serves: bool
    sans: list[str]
    enrolled_by: int
    ocsp: str
    state: str = ""
    certificate: str = ""
    revocation: RevocationAnswer | None = None


blueprint = Blueprint("issuing", __name__)


# ---- Certificates ----


@blueprint.post("/v1/certauth/certificates")
@needs("any", takes=IssueBody, answers=ClientCertificateAnswer, query=CHANGING)
def issue(sent: IssueBody) -> Response:
    """For the caller's own user; who may change users may ask for another one. Without `profile`,
    that of the certificate that the caller logs in with. A dry run hands no certificate out."""
    user = whose(sent.user)
    authority = current_app.extensions["authority"]()
    login = certificate_of_login()
    profile = sent.profile or (login.profile if login else "") or "default"
    policies = current_app.extensions["policies"]
    made = issuing.issue(policies, guard().decide, authority, user, profile, sent.csr, login)
    return answer({**render(made), "certificate": "" if flag("dry_run") else made.pem})


def whose(name: str) -> User:
    """The user that a certificate is to be for. Raises Refusal 403, 404."""
    own = caller().user
    if not name or name == own.name:
        return store().objects.get(User, own.uid)
    if not caller().may("update_user"):
        raise forbidden("unauthorized_action", "you may request certificates for yourself only")
    found = store().objects.user_by_login(name)
    if found is None or found.name != name:
        raise Refusal(404, "user_not_exist", f"there is no user '{name}'")
    check_administrator(*store().objects.roles_of(found))
    return found


def certificate_of_login() -> ClientCertificate | None:
    try:
        return store().inventory.get(caller().cert)
    except Refusal:
        return None


@blueprint.get("/v1/certauth/certificates")
@needs(
    "view_all_users_info",
    answers=list[ClientCertificateAnswer],
    query=(
        "user",
        "ca",
        "expires_before",
        "expiring",
        "serves",
        "state",
        "search",
        "sort",
        "limit",
        "offset",
    ),
)
def read_all() -> Response:
    """Those that end first, first, unless `sort` says otherwise."""
    wanted = InventoryFilter(
        of_user=request.args.get("user"),
        from_ca=request.args.get("ca"),
        ends_by=moment("expires_before", END) if "expires_before" in request.args else None,
        ends_soon=int(time.time()) if flag("expiring") else None,
        also_serves=flag("serves"),
        search=request.args.get("search", ""),
        states=states(),
    )
    limit, offset = number("limit", LIMIT), number("offset", 0)
    found = store().inventory.find(wanted, limit, offset, sorting(CERTIFICATE_SORTS))
    if "limit" in request.args and (total := store().inventory.count(wanted)) is not None:
        g.total = total
    return answer([render(one) for one in found])


def states() -> tuple[str, ...]:
    """Those that the query asks for. Raises Refusal 400."""
    text = request.args.get("state", "")
    found = tuple(text.split(",")) if text else ()
    if wrong := set(found) - set(get_args(CertificateState)):
        known = ", ".join(get_args(CertificateState))
        raise invalid("invalid_param", f"state: '{min(wrong)}' is none of {known}")
    return found


@blueprint.get("/v1/certauth/certificates/<cert>")
@needs("view_all_users_info", answers=ClientCertificateAnswer)
def read(cert: str) -> Response:
    """By the SHA-256 of the certificate, in hex."""
    found = store().inventory.get(cert)
    return answer({**render(found), "certificate": found.pem, "revocation": revoked(found)})


def revoked(one: ClientCertificate) -> dict[str, Any] | None:
    """What an administrator has revoked it by; None where none has, or only a CA's list."""
    found = store().revocations.of(revoking_lines(one))
    return rendered_revocation(found[0], one) if found else None


def render(one: ClientCertificate) -> dict[str, Any]:
    shown = asdict(one)
    del shown["pem"], shown["first"]
    return {**shown, "sans": list(one.sans)}


# ---- Profiles ----


@blueprint.get("/v1/certauth/profiles")
@needs("view_cluster_info", answers=list[ProfileAnswer], query=LISTING)
def read_profiles() -> Response:
    return answer([asdict(one) for one in found(Profile)])


@blueprint.get("/v1/certauth/profiles/<int(max=2147483647):uid>")
@needs("view_cluster_info", answers=ProfileAnswer)
def read_profile(uid: int) -> Response:
    return shown(store().objects.get(Profile, uid))


@blueprint.post("/v1/certauth/profiles")
@needs("update_cluster", takes=NewProfileBody, answers=ProfileAnswer, query=CHANGING)
def create_profile(sent: NewProfileBody) -> Response:
    made = changed(Profile(sent.uid, sent.name), sent)
    return shown(store().objects.create(made))


@blueprint.put("/v1/certauth/profiles/<int(max=2147483647):uid>")
@needs("update_cluster", takes=ProfileBody, answers=ProfileAnswer, query=CHANGING)
def update_profile(uid: int, sent: ProfileBody) -> Response:
    """What was issued before stays as it is."""

    def change(profile: Profile) -> Profile:
        return changed(unchanged(profile), sent)

    return shown(store().objects.update(Profile, uid, change))


@blueprint.delete("/v1/certauth/profiles/<int(max=2147483647):uid>")
@needs("update_cluster", query=CHANGING)
def delete_profile(uid: int) -> Response:
    store().objects.delete(Profile, uid, unchanged)
    return answer({})


def changed(profile: Profile, sent: ProfileBody) -> Profile:
    """With what the request says. Raises Refusal 400 where no certificate could be like that."""
    values = {name: value for name, value in sent.sent().items() if name != "uid"}
    lists = ("sans", "key_usage", "role_uids")
    values |= {name: tuple(dict.fromkeys(values[name])) for name in lists if name in values}
    made = replace(profile, **values)
    in_field("subject", lambda: issuing.check_subject(made))
    in_field("sans", lambda: issuing.check_sans(made))
    return made


def shown(profile: Profile) -> Response:
    return answer(asdict(profile), profile)
