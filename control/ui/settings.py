"""The settings of the control plane itself: how people log in, and what locks them out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask import Blueprint, render_template, request

from control.errors import Refusal
from control.ui import changes, objects
from control.ui.ask import answer, may
from control.ui.changes import Change, Item
from control.ui.fields import Field, Flag, Number, Pick, words
from control.ui.objects import Kind


def part(place: str, title: str, api: str, fields: Sequence[Field]) -> Kind:
    """The settings of one call of the API."""
    return Kind("cluster", title, "", place, api, ("update_cluster",) * 3, (), fields)


LOGINS = part(
    "logins", "Logging in", "/v1/cluster",
    (
        Flag("mtls_certificate_authentication", "Log in here by certificate"),
        Pick(
            "mtls_client_cert_subject_validation_type", "Only listed subjects log in here",
            "The list itself is edited by the API or by redis-certauth apply.",
            choices=words(disabled="no", san_cn="by CN or SAN", full_subject="by subject"),
        ),
        Flag("control_plane_basic_authentication", "Log in here by password"),
        Flag(
            "password_complexity", "Passwords need letters, digits and other characters",
            "And no password may be the name of its user, forwards or backwards.",
        ),
        Number("password_min_length", "Least length of passwords", "Counts with the line above."),
        Number("password_expiration_duration", "Passwords end after", "Days; 0: never."),
        Pick(
            "min_control_TLS_version", "Oldest TLS version of this page and the API",
            choices=words(**{"1.2": "1.2", "1.3": "1.3"}),
        ),
        Flag("options_method_forbidden", "Refuse the HTTP method OPTIONS"),
        Number("log_retention", "Changes stay in the event log for", "Days."),
    ),
)  # fmt: skip
LOCKOUT = part(
    "lockout", "Lockout and new databases", "/v1/cluster/policy",
    (
        Number("login_lockout_threshold", "Wrong passwords that lock a user", "0: none does."),
        Number(
            "login_lockout_counter_reset_after", "Wrong passwords are forgotten after", "Seconds."
        ),
        Number(
            "login_lockout_duration", "A lock lasts",
            "Seconds; 0: until somebody sets a new password.",
        ),
        Flag("master_healthcheck_api_auth", "The health check of the master needs a login"),
        Pick(
            "acl_pubsub_default", "Channels of an ACL that names none",
            "A change is one of all policies.",
            choices=words(resetchannels="none", allchannels="all"),
        ),
        Flag("db_conns_auditing", "Connections of new databases are audited"),
    ),
)  # fmt: skip
PARTS: Mapping[str, Kind] = {one.place: one for one in (LOGINS, LOCKOUT)}
# What calls of the API have, and this page does not: see docs/ui.md.
ELSEWHERE = ("mtls_authorized_subjects", "alert_settings")
ADDRESS = "/ui/settings/"
blueprint = Blueprint("settings", __name__, url_prefix="/ui/settings")


@dataclass(frozen=True)
class Card:
    """A form of the page, as it is shown."""

    kind: Kind
    etag: str
    item: Item
    values: Mapping[str, Any]
    wrong: Mapping[str, str]


@blueprint.get("/")
def show() -> Any:
    return page()


@blueprint.post("/<any(logins, lockout):place>")
def update(place: str) -> Any:
    kind = PARTS[place]
    now, etag = answer(f"GET {kind.api}").content, request.form.get("etag", "")
    try:
        body = objects.carried_body() or objects.changed(kind, now)
        change = Change(
            "PUT", kind.api, body, f"Change the settings: {kind.title}",
            "The settings were changed.", ADDRESS, etag, name="settings", was=now,
            fields=kind.fields,
        )  # fmt: skip
        return changes.run(change, {"body": json.dumps(body), "etag": etag}, lambda _: ADDRESS)
    except Refusal as error:
        if not objects.is_of_the_form(error):
            raise
        return page(kind, error)


def page(sent: Kind | None = None, error: Refusal | None = None) -> Any:
    """Both forms; after an `error`, that which was sent as it was sent."""
    cards, problems = [], list[tuple[str, str, str]]()
    for kind in PARTS.values():
        found, again = answer(f"GET {kind.api}"), kind is sent
        wrong = changes.problems(error, kind.labels) if again and error else []
        values = objects.values(kind, found.content, again)
        named = {name: text for name, _, text in wrong if name}
        cards.append(Card(kind, found.etag, found.content, values, named))
        problems += wrong
    shown = render_template(
        "settings.html", cards=cards, errors=problems, editable=may("update_cluster")
    )
    return shown, error.status if error else HTTPStatus.OK
