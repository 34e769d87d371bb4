"""Who did what, here and on every node: the event log, filtered, and followed."""

import re
from typing import Any

from flask import Blueprint, render_template, request

from control.errors import Refusal
from control.ui.ask import ask
from control.ui.objects import offset_of

blueprint = Blueprint("audit", __name__, url_prefix="/ui/audit")
PAGE = 50
# What is asked for most: beginnings of types, and what they are called.
KINDS = (
    ("", "everything"),
    ("client_refused,client_handshake,login_failed", "refused logins"),
    ("client_login,client_choose,login", "logins"),
    ("client_", "all of clients of databases"),
    ("user_,role_,redis_acl_,profile_,pattern_", "changes of users, patterns, roles and ACLs"),
    ("bdb_,node_", "changes of databases"),
    ("cluster_,certificate_,ca_", "settings and certificates"),
    ("revo,crl_,lock", "revocations and locks"),
)
FILTERS = ("kind", "type", "user", "search", "since", "until")
OWN = {"time", "type", "severity", "reason", "bdb_name", "node", "username", "address"}
DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?Z?)?")


@blueprint.get("/")
def show() -> Any:
    chosen = {name: request.args.get(name, "").strip() for name in FILTERS}
    offset, error, found = offset_of(request.args), None, []
    try:
        found = ask(
            "GET /v1/logs", type=chosen["type"] or chosen["kind"] or None,
            user=chosen["user"] or None, search=chosen["search"] or None,
            stime=chosen["since"] or None, etime=chosen["until"] or None, order="desc",
            limit=PAGE + 1, offset=offset,
        )  # fmt: skip
    except Refusal as refused:
        if refused.status != 400:
            raise
        error = refused
    page = render_template(
        "audit.html", events=[told(one) for one in found[:PAGE]], more=len(found) > PAGE,
        offset=offset, limit=PAGE, chosen=chosen, kinds=KINDS, error=error,
        args={name: value for name, value in chosen.items() if value},
        follow="follow" in request.args,
    )  # fmt: skip
    return page, error.status if error else 200


def told(event: dict[str, Any]) -> dict[str, Any]:
    """An event as its row shows it."""
    names = ("originating_username", "username", "user_name", "subject")
    found = [*(event[name] for name in names if event.get(name)), *event.get("sans", ())]
    who = (*found, "")[0]
    where = event.get("node") or event.get("originating_address") or event.get("address", "")
    name = event.get("bdb_name", "")
    rest = {key: value for key, value in event.items() if key not in OWN and value != ""}
    return {
        "time": event["time"],
        "type": event["type"],
        "severity": event["severity"],
        "who": who,
        "where": f"{name}, {where}" if name else where,
        "reason": event.get("reason", ""),
        "rest": {key: ", ".join(v) if isinstance(v, list) else v for key, v in rest.items()},
        "explain": explained(event),
    }


def explained(event: dict[str, Any]) -> dict[str, Any] | None:
    """The query that has /ui/explain say why a client was refused."""
    known = ("serial", "cert", "key")
    if event["type"] not in ("client_refused", "client_would_refuse"):
        return None
    if not all(event.get(name) for name in known):
        return None
    names = ("subject", *known, "sans", "ca", "not_after", "bdb_uid", "address")
    return {name: event[name] for name in names if event.get(name)}
