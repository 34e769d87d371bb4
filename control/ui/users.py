"""Users: who they are by which certificate or password, and the roles that they hold."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from flask import flash, redirect, request

from control.policy import bindings, core
from control.records import rendered_time
from control.ui import audit, objects
from control.ui.ask import ask, may
from control.ui.changes import Item
from control.ui.fields import Field, Identities, Leaf, Many, Pick
from control.ui.objects import Column, Kind


def roles() -> Iterator[tuple[str, str]]:
    return ((str(one["uid"]), one["name"]) for one in ask("GET /v1/roles"))


def methods() -> Iterator[tuple[str, str]]:
    yield "certificate", "by certificate"
    yield "regular", "by password, here only"


def needs_password(now: Item, body: Item) -> bool:
    method = body.get("auth_method", now.get("auth_method", "regular"))
    return method == "regular" and now.get("auth_method") != "regular"


def seen(user: Item) -> str:
    return rendered_time(user["last_login"]) if user.get("last_login") else "never"


def more(user: Item) -> dict[str, Any]:
    """Its identities, each with how many of its certificates have it; None: that is not known."""
    known: list[Item] = []
    if may("view_all_users_info"):
        known = ask("GET /v1/certauth/certificates", user=user["name"], limit=MATCHED)
    names = [names_of(one) for one in known]
    written = zip(identities_of(user), user["certificate_identities"], strict=True)
    shown = [(line, matched(one, names)) for line, one in written]
    return {
        "identities": shown, "certificates": known[:SHOWN], "rights": rights(user),
        "refusals": refusals(user),
    }  # fmt: skip


def rights(user: Item) -> list[tuple[Item, str, str, str]]:
    """What it may do where: database, role, ACL, rules."""
    if not (may("view_all_bdbs_info") and may("view_all_redis_acls_info")):
        return []
    names = dict(roles()) if may("view_all_roles_info") else {}
    acls = {one["uid"]: one for one in ask("GET /v1/redis_acls")}
    return [
        (one, names.get(str(grant["role_uid"]), ""), acls[grant["redis_acl_uid"]]["name"],
         acls[grant["redis_acl_uid"]]["acl"])
        for one in ask("GET /v1/bdbs", fields="uid,name,roles_permissions")
        for grant in one["roles_permissions"]
        if grant["role_uid"] in user["role_uids"]
    ]  # fmt: skip


def refusals(user: Item) -> list[Item]:
    """The last times that somebody with its name in the certificate was refused."""
    if not may("view_logged_events") or user["auth_method"] != "certificate":
        return []
    found = ask("GET /v1/logs", type="client_refused", search=user["name"], order="desc", limit=5)
    return [audit.told(one) for one in found]


def named(name: str) -> Item | None:
    """The user with this name, where the person may see that."""
    if not name or not may("view_all_users_info"):
        return None
    found = ask("GET /v1/users", search=name, limit=100)
    return next((one for one in found if one["name"] == name), None)


SHOWN, MATCHED = 20, 1000  # certificates of a user


def names_of(one: Item) -> set[tuple[str, str]]:
    """Kinds and values that a certificate of the inventory has."""
    sans = (tuple(san.split(":", 1)) for san in one["sans"] if ":" in san)
    names = (("cn", name) for name in core.common_names(one["subject"]))
    own = (("subject", one["subject"]), ("key", one["key"]), ("cert", one["cert"]))
    return {*own, *names, *((kind, value) for kind, value in sans)}


def matched(identity: Item, known: Sequence[set[tuple[str, str]]]) -> int | None:
    kind = bindings.kind_of(identity)
    if kind in bindings.SCANNED:
        return None
    return sum((kind, bindings.value_of(identity)) in names for names in known)


def identities_of(user: Item) -> list[str]:
    """A line for each. A user without the right to see others has them too: they are its own."""
    return [bindings.written(one) for one in user["certificate_identities"]]


def known_by(user: Item) -> str:
    """The first of them, a subject without the word, and how many more there are."""
    first, *others = identities_of(user) or [""]
    text = user["certificate_subject_line"] or first
    return f"{text} and {len(others)} more" if others else text


def doable() -> Iterator[tuple[str, str]]:
    """What can be done with several users at once, see control/ui/chosen.py."""
    if may("update_user") and may("view_all_roles_info"):
        known = list(roles())
        yield from ((f"add-{uid}", f"Add the role {name}") for uid, name in known)
        yield from ((f"remove-{uid}", f"Remove the role {name}") for uid, name in known)
    if may("delete_user"):
        yield "delete", "Delete"


KIND = Kind(
    "user",
    "Users",
    "People and programs. Who has a certificate is that user here and on each database where its "
    "roles give it rights; who has a password is a user of this page and the API only.",
    "users",
    "/v1/users",
    ("create_new_user", "update_user", "delete_user"),
    (
        Column("Logs in", lambda user: dict(methods())[user["auth_method"]], sort="auth_method"),
        Column("Certificate", known_by, code=True),
        Column("Management", lambda user: user["role"]),
        Column(
            "Status",
            lambda user: user["status"].replace("_", " "),
            lambda user: "good" if user["status"] == "active" else "bad",
        ),
        Column("Last login", seen, sort="last_login", when=lambda user: user.get("last_login", 0)),
    ),
    (
        Field("name", "Name", required=True),
        Pick("auth_method", "Logs in", choices=methods),
        Field(
            "certificate_subject_line",
            "Subject of the certificate",
            "As RFC 4514 has it, such as CN=alice,OU=eng,O=acme; only for who logs in by "
            "certificate.",
        ),
        Leaf(
            "certificate",
            "From a certificate",
            "Drop or paste one that the user has, and choose what it is known by: what the CA "
            "itself decides. No key.",
        ),
        Identities(
            "certificate_identities",
            "Other identities",
            "One per line; a certificate with any of them is this user: uri spiffe://acme/cart, "
            "dns, email, ip, upn, cn, key or cert (SHA-256), attributes OU=eng. Behind it, if you "
            'like: from=10.0.0.0/8 session=8h ca=NAME shared comment="…".',
        ),
        Field("email", "E-mail address", "May be left out; logs in like the name."),
        Many(
            "role_uids",
            "Roles",
            "A user has the rights of its roles, and no others. The role None gives none in this "
            "control plane.",
            required=True,
            choices=roles,
        ),
    ),
    "user.html",
    more,
    needs_password,
    noun_in_log="user",
    filters=(Pick("role_uid", "Role", choices=roles),),
    chosen=doable,
)
blueprint = objects.blueprint_of(KIND)


@blueprint.post("/<int(max=2147483647):uid>/password")
def set_password(uid: int) -> Any:
    """Another password, instead of all that the user has."""
    name = ask(f"GET /v1/users/{uid}")["name"]
    sent = {"username": name, "new_password": request.form.get("new_password", "")}
    ask("PUT /v1/users/password", sent)
    flash(f"The user {name} has a new password.")
    return redirect(f"/ui/users/{uid}", HTTPStatus.SEE_OTHER)
