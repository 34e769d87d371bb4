"""/v1/users/authorize, refresh_jwt, password and permissions: logging in, and what comes of it."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control.api import enterprise
from control.api.models import Answer, Body, UserName, words
from control.api.roles import check_administrator
from control.api.users import NewPassword
from control.api.web import (
    CHANGING,
    PUBLIC,
    answer,
    caller,
    guard,
    login,
    needs,
    store,
    unchanged,
)
from control.domain import passwords, tokens
from control.domain.guard import PERMISSIONS
from control.domain.passwords import PASSWORDS
from control.errors import Refusal, forbidden, invalid, missing, unauthorized
from control.records import BUILTIN_ROLES, Password, User


class AuthorizeBody(Body):
    username: Annotated[str, StringConstraints(max_length=1024)] = ""
    password: Annotated[str, StringConstraints(max_length=1024)] = ""
    ttl: Annotated[int, Field(ge=1, le=86400)] = 300  # seconds

    OPTIONAL = True


class RefreshBody(Body):
    ttl: Annotated[int, Field(ge=1, le=86400)] = 300  # seconds

    OPTIONAL = True


class NewPasswordBody(Body):
    IGNORED = words("old_password")  # as on Redis Enterprise, whose older clients send it
    HELD = enterprise.USER_HELD

    username: UserName = ""  # by default the caller's own
    new_password: NewPassword


class OldPasswordBody(Body):
    username: UserName = ""
    old_password: Annotated[str, StringConstraints(max_length=1024)]


class TokenAnswer(Answer):
    access_token: str


class PermissionsOfRole(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    api_permissions: list[str]
    ui_permissions: list[str]


blueprint = Blueprint("login", __name__)


@blueprint.post("/v1/users/authorize")
@needs(PUBLIC, takes=AuthorizeBody, answers=TokenAnswer)
def authorize(sent: AuthorizeBody) -> Response:
    """A token for a user name and a password: as Basic, or in the body as older clients send it. A
    certificate gets none: the token would outlive the certificate."""
    if sent.username or sent.password:
        address = request.remote_addr or ""
        found = guard().by_password(sent.username, sent.password, address, expired=False)
    else:
        found = login()
    if found.by != "password":
        raise forbidden("password_login_required", "tokens are made for passwords only")
    return answer({"access_token": tokens.make(found.user, store().settings.cluster(), sent.ttl)})


@blueprint.post("/v1/users/refresh_jwt")
@needs("any", takes=RefreshBody, answers=TokenAnswer)
def refresh(sent: RefreshBody) -> Response:
    """Another token for one that is still good, as long as passwords are taken and have not
    expired."""
    cluster, user = store().settings.cluster(), caller().user
    if caller().by != "token":
        raise unauthorized("invalid_token", "send the token: Authorization: JWT or Bearer")
    if not cluster.control_plane_basic_authentication:
        raise unauthorized(
            "basic_authentication_disabled", "this API does not accept passwords any more"
        )
    if passwords.status(user, cluster) == "password_expired":
        raise unauthorized("password_expired", "your password has expired: set a new one")
    return answer({"access_token": tokens.make(user, cluster, sent.ttl, caller().login)})


@blueprint.delete("/v1/certauth/token")
@needs("any")
def end_token() -> Response:
    """Ends the login of the token that asks: that token, and all that were renewed from it."""
    if caller().by != "token" or not caller().login:
        raise unauthorized("invalid_token", "send the token: Authorization: JWT or Bearer")
    store().logins.end(caller().login, int(time.time()) + tokens.LONGEST)
    return answer({})


@blueprint.put("/v1/users/password")
@needs("any", expired=True, takes=NewPasswordBody, query=CHANGING)
def replace_password(sent: NewPasswordBody) -> Response:
    """In place of all that the user had. Without `username`, the caller's own."""
    user = whose(sent.username)
    password = checked(sent.new_password, user)
    return changed(user, lambda now: replace(now, passwords=(password,), locked=0))


@blueprint.post("/v1/users/password")
@needs("any", takes=NewPasswordBody, query=CHANGING)
def add_password(sent: NewPasswordBody) -> Response:
    """One more, so that clients can move from one to the other."""
    user = whose(sent.username)
    password = checked(sent.new_password, user)

    def change(now: User) -> User:
        if len(now.passwords) >= PASSWORDS:
            raise invalid(
                "too_many_passwords", f"a user has at most {PASSWORDS} passwords: delete one first"
            )
        return replace(now, passwords=(*now.passwords, password), locked=0)

    return changed(user, change)


@blueprint.delete("/v1/users/password")
@needs("any", takes=OldPasswordBody, query=CHANGING)
def delete_password(sent: OldPasswordBody) -> Response:
    """`old_password` stops counting."""
    user = whose(sent.username)
    gone = guard().which(user, sent.old_password)
    if gone is None:
        raise missing("such password of this user")

    def change(now: User) -> User:
        left = tuple(one for one in now.passwords if one != gone)
        if not left:
            raise invalid("cannot_delete_last_password", "it is the only password of this user")
        return replace(now, passwords=left)

    return changed(user, change)


@blueprint.get("/v1/users/permissions")
@needs("any", answers=dict[str, PermissionsOfRole])
def read_permissions() -> Response:
    return answer({role.management: permissions(role.management) for role in BUILTIN_ROLES})


@blueprint.get("/v1/users/permissions/<role>")
@needs("any", answers=dict[str, PermissionsOfRole])
def read_permissions_of(role: str) -> Response:
    if role not in {one.management for one in BUILTIN_ROLES}:
        raise missing("such management role")
    return answer({role: permissions(role)})


def permissions(management: str) -> dict[str, Any]:
    """The web page has no permissions of its own: it asks this API."""
    held = sorted(name for name, roles in PERMISSIONS.items() if management in roles)
    return {"api_permissions": [name for name in held if name != "any"], "ui_permissions": []}


def whose(username: str) -> User:
    """The user whose password is to change. Raises Refusal 403, 404 or 400."""
    own = caller().user
    if not username or username in (own.name, own.email):
        user = store().objects.get(User, own.uid)
    elif not caller().may("update_user"):
        raise forbidden("unauthorized_action", "you may change your own password only")
    else:
        found = store().objects.user_by_login(username)
        if found is None:
            raise Refusal(404, "user_not_exist", "this user does not exist")
        user = found
        check_administrator(*store().objects.roles_of(user))
    if user.auth_method != "regular":
        raise invalid("invalid_param", "certificate users have no password")
    return user


def checked(password: str, user: User) -> Password:
    passwords.check_new(password, user, store().settings.cluster())
    return passwords.new_password(password)


def changed(user: User, change: Callable[[User], User]) -> Response:
    store().objects.update(User, user.uid, lambda now: change(unchanged(now)))
    return answer({})
