"""A search over everything that the person may see: names, subjects, SANs, fingerprints."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, render_template, request

from control.ui.ask import ask, may
from control.ui.users import known_by

blueprint = Blueprint("search", __name__, url_prefix="/ui/search")
SHOWN = 20  # of each kind


@dataclass(frozen=True)
class Hits:
    """What was found of a kind: address, name, and what it is; `more` is the list of all."""

    title: str
    found: list[tuple[str, str, str]]
    more: str = ""


@blueprint.get("")
def show() -> Any:
    text = request.args.get("q", "").strip()
    return render_template("search.html", text=text, kinds=list(searched(text)) if text else [])


def searched(text: str) -> Iterator[Hits]:
    for title, permission, call, place, what in (
        ("Users", "view_all_users_info", "/v1/users", "users", known_by),
        ("Databases", "view_all_bdbs_info", "/v1/bdbs", "databases", lambda one: one["status"]),
        ("Roles", "view_all_roles_info", "/v1/roles", "roles", lambda one: one["management"]),
        ("ACLs", "view_all_redis_acls_info", "/v1/redis_acls", "acls", lambda one: one["acl"]),
        ("Patterns", "view_all_users_info", "/v1/certauth/patterns", "patterns",
         lambda one: one["template"]),
    ):  # fmt: skip
        if may(permission):
            found = ask(f"GET {call}", search=text, limit=SHOWN + 1)
            yield hits(title, place, text, [
                (f"/ui/{place}/{one['uid']}", one["name"], what(one)) for one in found
            ])  # fmt: skip
    if may("view_all_users_info"):
        yield hits("Certificates", "certificates", text, of_certificates(text))
    if may("view_cluster_info"):
        yield Hits("CAs", of_authorities(text))


def hits(title: str, place: str, text: str, found: list[tuple[str, str, str]]) -> Hits:
    more = f"/ui/{place}/" if len(found) > SHOWN else ""
    return Hits(title, found[:SHOWN], more)


def plain(text: str) -> str:
    """A fingerprint or a serial number, as programs print them, as they are kept here."""
    found = text.replace(":", "").replace(" ", "").lower()
    return found if len(found) >= 8 and not set(found) - set("0123456789abcdef") else ""


def of_certificates(text: str) -> list[tuple[str, str, str]]:
    found = ask("GET /v1/certauth/certificates", search=text, limit=SHOWN + 1)
    return [(f"/ui/certificates/{one['cert']}", one["subject"] or ", ".join(one["sans"]),
             f"of {one['user']}") for one in found]  # fmt: skip


def of_authorities(text: str) -> list[tuple[str, str, str]]:
    digits = plain(text)
    return [
        (f"/ui/cas/{one['ca']}", one["subject"] or one["ca"], f"until {one['not_after']}")
        for one in ask("GET /v1/certauth/ca")["cas"]
        if text.lower() in one["subject"].lower() or (digits and one["ca"].startswith(digits))
    ]
