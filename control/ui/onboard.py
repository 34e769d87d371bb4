"""An application on one page: its certificate or CSR, the database and the rights; then one review.

What it takes are four calls of the API: an ACL, a role, the grant on the database, and the user.
They are shown together, and made together: where one is refused, those before it are taken back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Blueprint, flash, render_template, request

from control.domain.guard import denied
from control.errors import Refusal, invalid, missing
from control.pki.guarded import CertificateError
from control.pki.pem import printable_name
from control.pki.reading import as_text
from control.pki.request import read_request
from control.policy import bindings, core
from control.ui import changes
from control.ui.ask import ask, may, who
from control.ui.changes import Call, Change, Item
from control.ui.fields import Held, Identities, chosen, held, is_number

blueprint = Blueprint("onboard", __name__, url_prefix="/ui/onboard")
LABELS = {
    "name": "Name", "certificate": "Certificate or CSR", "identities": "Identities",
    "bdb": "Database", "acl": "Rights", "rules": "Rules of its own",
}  # fmt: skip
NEEDS = ("create_new_user", "create_role", "update_bdb", "create_redis_acl")
OWN = "own"  # the choice of rules that are typed
CSR = "CERTIFICATE REQUEST"


@dataclass(frozen=True)
class Wish:
    """What the form says. `csr` is one to issue a certificate for."""

    name: str
    identities: Sequence[Item]
    bdb: int
    acl: int | None
    rules: str
    csr: str


@blueprint.get("/")
def show() -> Any:
    allowed()
    given = request.args
    by = [given["identity"]] if given.get("identity") else []
    return page({"name": given.get("name", ""), "identities": "\n".join(by),
                 "bdb": given.get("bdb", "")}, Held())  # fmt: skip


@blueprint.post("/")
def review() -> Any:
    allowed()
    if "wish" in request.form:
        return agreed(carried())
    pem = given()
    typed = {name: request.form.get(name, "").strip() for name in LABELS}
    shown = held_in(pem)
    typed["name"] = typed["name"] or suggested(shown)
    if "more" in request.form:
        return page(typed, shown)
    try:
        return agreed(read(typed, pem))
    except Refusal as error:
        if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise
        return page(typed, shown, error)


def carried() -> Wish:
    """What the form of the review brings back. Raises Refusal 400."""
    try:
        return Wish(**json.loads(request.form["wish"]))
    except (ValueError, TypeError, RecursionError):
        raise invalid("invalid_param", "this form is none of this page") from None


def allowed() -> None:
    for permission in NEEDS:
        if not may(permission):
            raise denied(who(), permission)


def given() -> str:
    text, file = request.form.get("certificate", "").strip(), request.files.get("file")
    return text or (as_text(file.read()) if file else "")


def held_in(pem: str) -> Held:
    """What a certificate or a CSR holds; the identity that names it best is chosen, where nobody
    has chosen yet."""
    by = chosen(request.form)
    if CSR in pem:
        return of_request(pem)
    found = held(pem.encode(), by)
    if by or not found.lines:
        return found
    best = min(found.lines, key=rank)[0]
    lines = [(line, line == best, doubt) for line, _, doubt in found.lines]
    return Held(found.pem, found.subject, lines, found.wrong)


def rank(line: tuple[str, bool, str]) -> int:
    """A URI names a program; a subject names nearly everything; the rest is for who knows why."""
    kinds = ("uri", "subject", "dns", "cn", "upn", "email")
    kind = line[0].partition(" ")[0]
    return (kinds.index(kind) if kind in kinds else len(kinds)) + 10 * bool(line[2])


def of_request(pem: str) -> Held:
    try:
        subject = printable_name(read_request(pem).subject)
    except CertificateError as error:
        return Held(pem, wrong=str(error))
    line = bindings.written({"subject": subject}) if subject else ""
    return Held(pem, subject, [(line, True, "")] if line else [])


def suggested(found: Held) -> str:
    """A name for it: its CN, or the last part of its URI."""
    for line, is_chosen, _ in found.lines:
        kind, _, value = line.partition(" ")
        if is_chosen and kind == "uri":
            return value.rstrip("/").rpartition("/")[2]
    return (*core.common_names(found.subject), "")[0] if found.subject else ""


def read(typed: dict[str, str], pem: str) -> Wish:
    """Raises Refusal 400, which begins with the field's name."""
    if not typed["name"]:
        raise invalid("invalid_param", "name: what is the application called?")
    wrong = held_in(pem).wrong
    if wrong:
        raise invalid("invalid_param", f"certificate: {wrong}")
    identities = identified(typed, pem)
    if not is_number(typed["bdb"]):
        raise invalid("invalid_param", "bdb: choose a database")
    if typed["acl"] == OWN and not typed["rules"]:
        raise invalid("invalid_param", "rules: which rights? Such as +@read ~orders:*")
    if typed["acl"] != OWN and not is_number(typed["acl"]):
        raise invalid("invalid_param", "acl: choose what it may do")
    acl = None if typed["acl"] == OWN else int(typed["acl"])
    rules = " ".join(typed["rules"].split())
    return Wish(typed["name"], identities, int(typed["bdb"]), acl, rules, pem if CSR in pem else "")


def identified(typed: dict[str, str], pem: str) -> list[Item]:
    field = Identities("identities", "")
    found: list[Item] = field.read(request.form)
    if not found and CSR in pem:
        found = [{"subject": f"CN={typed['name']}"}]
    if not found:
        raise invalid("invalid_param", "certificate: give its certificate, and choose by what it "
                      "is known; or type an identity")  # fmt: skip
    return found


# ---- The change ----------------------------------------------------------------------------------


def agreed(wish: Wish) -> Any:
    change = changed(wish)
    carried = {"wish": json.dumps(vars(wish))}
    return changes.run(change, carried, lambda made: issued(wish, made))


def changed(wish: Wish) -> Change:
    """The user comes last, so that it is not there without its rights."""
    database = ask(f"GET /v1/bdbs/{wish.bdb}")
    roles, acls = ask("GET /v1/roles"), ask("GET /v1/redis_acls")
    role, acl = free(roles), wish.acl or free(acls)
    first = []
    if wish.acl is None:
        body = {"uid": acl, "name": called(wish.name, acls), "acl": wish.rules}
        first.append(undoable("/v1/redis_acls", body))
    elif not any(one["uid"] == acl for one in acls):
        raise missing("such ACL")
    first.append(undoable("/v1/roles", {"uid": role, "name": called(wish.name, roles),
                                        "management": "none"}))  # fmt: skip
    path, before = f"/v1/bdbs/{wish.bdb}", database["roles_permissions"]
    grants = [*before, {"role_uid": role, "redis_acl_uid": acl}]
    undo = Call("PUT", path, {"roles_permissions": before})
    first.append(Call("PUT", path, {"roles_permissions": grants}, undo))
    body = {"name": wish.name, "auth_method": "certificate", "role_uids": [role],
            "certificate_identities": list(wish.identities)}  # fmt: skip
    named = {one["uid"]: one["name"] for one in acls}
    known_by = ", ".join(map(bindings.written, wish.identities))
    facts = [("Application", wish.name), ("Known by", known_by), ("Database", database["name"]),
             ("Rights", wish.rules or named[acl])]  # fmt: skip
    if wish.csr:
        facts.append(("Certificate", "is issued from the CSR, by the profile default"))
    return Change(
        "POST", "/v1/users", body, f"Onboard {wish.name}", f"{wish.name} is on {database['name']}.",
        "/ui/onboard/", name=wish.name, first=tuple(first), facts=facts,
    )  # fmt: skip


def undoable(path: str, body: Item) -> Call:
    return Call("POST", path, body, Call("DELETE", f"{path}/{body['uid']}", None))


def free(objects: Sequence[Item]) -> int:
    return max((one["uid"] for one in objects), default=0) + 1


def called(name: str, others: Sequence[Item]) -> str:
    """The application's name, where no other object of the kind has it."""
    taken = {one["name"] for one in others}
    numbered = (f"{name} {number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def issued(wish: Wish, made: Any) -> str:
    """Where to go then: the certificate, where one was asked for."""
    if not wish.csr:
        return f"/ui/users/{made['uid']}"
    try:
        found = ask("POST /v1/certauth/certificates", {"csr": wish.csr, "user": wish.name})
    except Refusal as error:
        flash(f"No certificate was issued: {error.description}", "behind")
        return f"/ui/users/{made['uid']}"
    return f"/ui/certificates/{found['cert']}"


# ---- The page ------------------------------------------------------------------------------------


def page(typed: dict[str, str], shown: Held, error: Refusal | None = None) -> Any:
    wrong = changes.problems(error, LABELS) if error else []
    databases = ask("GET /v1/bdbs", fields="uid,name")
    text = render_template(
        "onboard.html", typed=typed, held=shown, errors=wrong,
        wrong={name: text for name, _, text in wrong if name},
        databases=[(str(one["uid"]), one["name"]) for one in databases],
        acls=[(str(one["uid"]), one["name"], one["acl"]) for one in ask("GET /v1/redis_acls")],
        own=OWN,
    )  # fmt: skip
    return text, error.status if error else HTTPStatus.OK
