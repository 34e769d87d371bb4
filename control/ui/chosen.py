"""What is done with several users that were chosen in the list: one preview, one confirmation."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from flask import Blueprint, flash, redirect, request

from control.errors import Refusal, invalid
from control.ui import changes
from control.ui.ask import ask
from control.ui.changes import Call, Change, Item
from control.ui.fields import is_number

blueprint = Blueprint("chosen", __name__, url_prefix="/ui/users")
MOST = 200  # users of one change: a page of the list has fewer
NAMED = 20  # users whose names stand above the preview
LIST = "/ui/users/"


@blueprint.post("/chosen")
def change() -> Any:
    """A role more, a role less, or the end of them."""
    action = request.form.get("do", "")
    found = users()
    doing, calls = calls_of(action, found)
    if not calls:
        flash(f"{doing}: nothing to do for those that were chosen.", "behind")
        return redirect(LIST, HTTPStatus.SEE_OTHER)
    (*first, last), count = calls, f"{len(calls)} user{'s' if len(calls) > 1 else ''}"
    uids = ",".join(str(user["uid"]) for user in found)
    made = Change(
        last.method, last.path, last.body, f"{doing}: {count}", f"{doing}: done for {count}.",
        LIST, name=count, facts=[("Users", names(found, calls))], first=tuple(first),
    )  # fmt: skip
    return changes.run(made, {"do": action, "uid": uids}, lambda _: LIST)


def users() -> list[Item]:
    """Those that were chosen, as they are now; who is gone meanwhile is left out. Raises Refusal
    400."""
    sent = ",".join(request.form.getlist("uid")).split(",")
    uids = sorted({int(one) for one in sent if is_number(one)})
    if not 0 < len(uids) <= MOST:
        raise invalid("invalid_param", f"choose from 1 to {MOST} users in the list")
    return [one for uid in uids if (one := there(uid))]


def there(uid: int) -> Item | None:
    try:
        found: Item = ask(f"GET /v1/users/{uid}")
    except Refusal as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return None
    return found


def calls_of(action: str, found: Sequence[Item]) -> tuple[str, list[Call]]:
    """What is to be done, in words, and a call for each user whom it changes. Raises Refusal."""
    if action == "delete":
        return "Delete", [Call("DELETE", path_of(user), None) for user in found]
    word, _, text = action.partition("-")
    if word not in ("add", "remove") or not is_number(text):
        raise invalid("invalid_param", "choose what is to be done with these users")
    role, adds = ask(f"GET /v1/roles/{int(text)}"), word == "add"
    calls = [
        with_roles(user, {*user["role_uids"]} ^ {role["uid"]})
        for user in found
        if (role["uid"] in user["role_uids"]) != adds
    ]
    return f"{'Add' if adds else 'Remove'} the role {role['name']}", calls


def with_roles(user: Item, roles: set[int]) -> Call:
    """Undone, it has those of before."""
    path = path_of(user)
    undo = Call("PUT", path, {"role_uids": user["role_uids"]})
    return Call("PUT", path, {"role_uids": sorted(roles)}, undo)


def path_of(user: Item) -> str:
    return f"/v1/users/{user['uid']}"


def names(found: Sequence[Item], calls: Sequence[Call]) -> str:
    """Whom it changes."""
    changed = {call.path for call in calls}
    told = [user["name"] for user in found if path_of(user) in changed]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return ", ".join(told[:NAMED]) + more
