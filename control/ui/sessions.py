"""Who is connected to which server, as whom, by which certificate; and to end a session."""

from http import HTTPStatus
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request

from control.errors import invalid
from control.ui.ask import ask, may
from control.ui.fields import is_number

blueprint = Blueprint("sessions", __name__, url_prefix="/ui/sessions")
LIMIT = 200  # of each server


@blueprint.get("/")
def show() -> Any:
    user, chosen = request.args.get("user", "").strip(), request.args.get("bdb", "")
    found = ask("GET /v1/certauth/sessions", user=user or None, bdb=chosen or None, limit=LIMIT)
    databases = ask("GET /v1/bdbs", fields="uid,name") if may("view_all_bdbs_info") else []
    return render_template(
        "sessions.html", **found, user=user, chosen=chosen, databases=databases, limit=LIMIT,
        locks=ask("GET /v1/certauth/locks"),
    )  # fmt: skip


@blueprint.post("/end")
def end() -> Any:
    sent = request.form
    numbers = {name: sent.get(name, "") for name in ("bdb_uid", "id")}
    if not all(map(is_number, numbers.values())):
        raise invalid("invalid_param", "which session?")
    body = {name: int(one) for name, one in numbers.items()}
    where = {"node": sent.get("node", ""), "cert": sent.get("cert", "")}
    ask("DELETE /v1/certauth/sessions", {**body, **where})
    flash(f"The session {body['id']} on {where['node']} is ended. Its client may come again.")
    return redirect("/ui/sessions/", HTTPStatus.SEE_OTHER)
