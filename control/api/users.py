"""/v1/users: people and programs, by password (for this API only) or by certificate."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control.api import enterprise
from control.api.identities import IdentityBody, identities
from control.api.models import Answer, Body, Email, Many, Uid, UserName, words
from control.api.roles import check_administrator
from control.api.web import (
    CHANGING,
    LISTING,
    answer,
    caller,
    found,
    in_field,
    needs,
    rehearsing,
    store,
    synced,
    unchanged,
    warn,
)
from control.domain import passwords
from control.errors import forbidden, invalid
from control.policy import bindings, core, pasted, refusals, taking
from control.policy import lines as policy
from control.records import (
    BUILTIN_ROLES,
    AuthMethod,
    Management,
    Password,
    Role,
    User,
    rendered_time,
)

# A sentence has room in it; argon2 takes as long for any length.
NewPassword = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class UserBody(Body):
    name: UserName = ""
    email: Email = ""
    auth_method: AuthMethod = "regular"
    # Longer ones would not fit into the index of a PostgreSQL table.
    certificate_subject_line: Annotated[str, StringConstraints(max_length=512)] = ""
    certificate_identities: Annotated[list[IdentityBody], Field(max_length=64)] = []
    password: NewPassword = ""
    role: Management = "none"
    role_uids: Many[Uid] = []

    IGNORED = words("""
        uid account_id action_uid alert_bdb_backup bdbs_email_alerts cluster_email_alerts
        email_alerts last_login note off_on password_issue_date status
    """)
    HELD = enterprise.USER_HELD


class NewUserBody(UserBody):
    uid: Uid = 0

    IGNORED = UserBody.IGNORED - {"uid"}


class OffBody(BaseModel):
    """A server that refuses the user's rules, or an identity of it."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    address: str
    why: str


class UserAnswer(Answer):
    """`off_on`: the servers that refuse the user's rules, so that it is off there, or an identity
    of it, by which it is nobody there. `note`: what a user without a role cannot do."""

    uid: int
    name: str
    email: str
    auth_method: AuthMethod
    certificate_subject_line: str
    certificate_identities: list[IdentityBody]
    role: Management
    role_uids: list[int]
    status: Literal["active", "locked", "password_expired"]
    password_issue_date: str = ""
    last_login: int = 0
    off_on: list[OffBody] = []
    note: str = ""


class UserRoleAnswer(Answer):
    role: Management


blueprint = Blueprint("users", __name__)
# What `role` shows where a user has several; the field knows only one.
RANKS: tuple[Management, ...] = (
    "admin", "cluster_member", "user_manager", "db_member", "cluster_viewer", "db_viewer", "none"
)  # fmt: skip
NO_ROLE = (
    "no role: no rights on any database, and none in this API (Redis Enterprise would make this "
    "user a db_viewer); give it role_uids"
)
OWN = {"name", "password"}  # what a user may change about itself


@blueprint.get("/v1/users")
@needs("view_all_users_info", answers=list[UserAnswer], query=(*LISTING, "role_uid"))
def read_all() -> Response:
    managements = {role.uid: role.management for role in store().objects.all(Role)}
    off = off_on()
    return answer([render(user, managements, off) for user in found(User)])


@blueprint.get("/v1/users/<int(max=2147483647):uid>")
@needs("view_user_info", own=True, answers=UserAnswer)
def read(uid: int) -> Response:
    return shown(store().objects.get(User, uid))


@blueprint.get("/v1/users/role")
@needs("any", answers=UserRoleAnswer)
def read_role() -> Response:
    """Who am I: the role of the caller."""
    return answer({"role": rendered(caller().user)["role"]})


@blueprint.post("/v1/users")
@needs("create_new_user", takes=NewUserBody, answers=UserAnswer, query=CHANGING)
def create(sent: NewUserBody) -> Response:
    return shown(synced(store().objects.create(new_user(sent))))


@blueprint.put("/v1/users/<int(max=2147483647):uid>")
@needs("update_user", own=True, takes=UserBody, answers=UserAnswer, query=CHANGING)
def update(uid: int, sent: UserBody) -> Response:
    user = store().objects.get(User, uid)
    check_own(user, sent)
    changes = prepared(sent, user)

    def change(user: User) -> User:
        changed = changed_user(unchanged(user), changes)
        if caller().user.uid != uid or changed.role_uids != user.role_uids:
            check_administrator(*store().objects.roles_of(user), *store().objects.roles_of(changed))
        return changed

    return shown(synced(store().objects.update(User, uid, change)))


@blueprint.delete("/v1/users/<int(max=2147483647):uid>")
@needs("delete_user", query=CHANGING)
def delete(uid: int) -> Response:
    store().objects.delete(
        User, uid, lambda user: check_administrator(*store().objects.roles_of(unchanged(user)))
    )
    return answer(synced({}))


def new_user(sent: NewUserBody) -> User:
    """The user that a request asks for. Raises Refusal."""
    nobody = User(sent.uid, sent.name or sent.email, "regular", ())
    if not nobody.name:
        raise invalid("missing_field", "name: this field is missing; email can replace it")
    user = changed_user(nobody, prepared(sent, nobody))
    check_administrator(*store().objects.roles_of(user))
    return user


def prepared(sent: UserBody, user: User) -> dict[str, Any]:
    """The fields of a request as changes of a record, which is `user` so far. Hashing takes long,
    so it is done here and not while the store is locked."""
    changes = {name: value for name, value in sent.sent().items() if name != "uid"}
    role = changes.pop("role", None)
    if "role_uids" in changes:
        changes["role_uids"] = tuple(sorted(set(changes["role_uids"])))
    elif role is not None:
        changes["role_uids"] = tuple(one.uid for one in BUILTIN_ROLES if one.management == role)
    if changes.get("certificate_subject_line"):
        text = changes["certificate_subject_line"]
        read = in_field("certificate_subject_line", lambda: pasted.name(text))
        changes["certificate_subject_line"] = read.text
        if read.remark and read.text != user.certificate_subject_line:
            warn(f"certificate_subject_line: {read.remark}")
    if "certificate_identities" in changes:
        changes |= identities(changes.pop("certificate_identities"), changes)
    elif any(one.value == changes.get("certificate_subject_line") for one in user.bindings):
        del changes["certificate_subject_line"]  # what it reads, sent back
    if "password" in changes:
        password = changes.pop("password")
        after = replace(user, email=changes.get("email", user.email))
        changes |= {"passwords": (hashed(password, after),), "locked": 0}
    return changes


def hashed(password: str, user: User) -> Password:
    """A new password as it is kept. Raises Refusal 400. A rehearsal has the store locked, and
    a thousand changes: it hashes nothing."""
    if rehearsing():
        passwords.check_new(password, replace(user, passwords=()), store().settings.cluster())
        return Password("", int(time.time()))
    passwords.check_new(password, user, store().settings.cluster())
    return passwords.new_password(password)


def changed_user(user: User, changes: dict[str, Any]) -> User:
    """A user with changes made; what belongs to the other way of logging in goes. Raises Refusal
    400 where the two are mixed."""
    method = changes.get("auth_method", user.auth_method)
    if method == "certificate" and "passwords" in changes:
        raise invalid(
            "invalid_param",
            "password: certificate users have no password; for a password user send "
            '"auth_method": "regular"',
        )
    for field, name in (("certificate_subject_line",) * 2, ("bindings", "certificate_identities")):
        if method == "regular" and changes.get(field):
            raise invalid(
                "invalid_param",
                f'{name}: regular users cannot have it: send "auth_method": "certificate" too',
            )
    other: dict[str, Any] = {"certificate_subject_line": "", "bindings": ()}
    if method == "certificate":
        other = {"passwords": (), "locked": 0}
    changed = replace(user, **(other | changes))
    if changed.auth_method != user.auth_method:
        changed = replace(changed, last_login=0)
    check_complete(changed)
    return changed


def check_complete(user: User) -> None:
    if user.auth_method == "regular":
        if not user.passwords:
            raise invalid("missing_field", "password: regular users need a password")
        return
    if not user.identities:
        raise invalid(
            "missing_field",
            "certificate_subject_line: certificate users need this field or certificate_identities",
        )
    in_field("name", lambda: policy.check_user(user))


def check_own(user: User, sent: UserBody) -> None:
    """Users who do not manage users may change their own password and name; not the name where it
    is that of an ACL user on databases, since logs there would show somebody else's."""
    if caller().may("update_user"):
        return
    allowed = OWN if user.auth_method == "regular" else set()
    if refused := sorted(sent.sent().keys() - allowed):
        raise forbidden(
            "insufficient_permissions",
            "you cannot change these fields of your own user; somebody who manages "
            f"users can: {', '.join(refused)}",
        )


def shown(user: User) -> Response:
    return answer(rendered(user), user)


def rendered(user: User) -> dict[str, Any]:
    managements = {role.uid: role.management for role in store().objects.roles_of(user)}
    return render(user, managements, off_on())


def render(
    user: User, managements: dict[int, Management], off: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """`managements` by role uid, of at least the user's own roles. `off`: see `off_on`."""
    held = [managements[uid] for uid in user.role_uids if uid in managements]
    told = {
        "uid": user.uid,
        "name": user.name,
        "email": user.email,
        "auth_method": user.auth_method,
        "certificate_subject_line": next(
            (one.value for one in user.identities if one.kind == "subject"), ""
        ),
        "certificate_identities": [bindings.shown(one) for one in user.identities],
        "role": min(held, key=RANKS.index, default="none"),
        "role_uids": list(user.role_uids),
        "status": passwords.status(user, store().settings.cluster()),
    }
    if user.passwords:
        told["password_issue_date"] = rendered_time(user.passwords[-1].issued)
    if user.last_login:
        told["last_login"] = user.last_login
    if not user.role_uids:
        told["note"] = NO_ROLE
    if where := off.get(core.quote(user.name)):
        told["off_on"] = where
    return told


def off_on() -> dict[str, list[dict[str, Any]]]:
    """Where a server refuses users' rules, or identities of them; by name as policy lines spell
    it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for node in store().nodes.refusing():
        for one in node.refused:
            if one.why:
                why = one.why if one.user else f"{refusals.told(one.line)} does not hold: {one.why}"
                where = {"bdb_uid": node.bdb_uid, "address": node.address, "why": why}
                for name in (one.user,) if one.user else taking.users_of(one.line):
                    found.setdefault(name, []).append(where)
    return found
