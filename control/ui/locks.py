"""The red button: to hold a user out, and to take that back."""

from typing import Any

from flask import Blueprint, request

from control.errors import invalid
from control.ui import changes
from control.ui.ask import ask
from control.ui.changes import Change
from control.ui.fields import is_number

blueprint = Blueprint("locks", __name__, url_prefix="/ui/locks")
LOCKS = "/v1/certauth/locks"


@blueprint.post("/of/<int(max=2147483647):uid>")
def lock(uid: int) -> Any:
    """Of a user, for some hours or until it is taken back."""
    name = ask(f"GET /v1/users/{uid}")["name"]
    hours, reason = request.form.get("hours", "").strip(), request.form.get("reason", "").strip()
    if hours and not is_number(hours):
        raise invalid("invalid_param", "hours: a whole number is expected, or nothing")
    body = {"user_uid": uid, "reason": reason, "seconds": int(hours or 0) * 3600}
    change = Change("POST", LOCKS, body, f"Lock {name}", f"{name} is locked.", f"/ui/users/{uid}")
    return changes.run(change, {"hours": hours, "reason": reason}, lambda _: "/ui/sessions/")


@blueprint.post("/<int(max=2147483647):uid>/end")
def end(uid: int) -> Any:
    path = f"{LOCKS}/{uid}"
    line = ask(f"GET {path}")["line"]
    change = Change(
        "DELETE", path, None, f"Take back: {line}", "The lock is taken back.", "/ui/sessions/"
    )
    return changes.run(change, {}, lambda _: "/ui/sessions/")
