"""/v1/certauth/patterns: many certificates by one line, each a user of its own, or all one user."""

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import ConfigDict, Field, StringConstraints

from control.api.identities import Session, Text, ca_named
from control.api.models import Answer, Body, Many, ObjectName, Uid, words
from control.api.roles import check_administrator
from control.api.web import (
    CHANGING,
    LISTING,
    answer,
    found,
    in_field,
    needs,
    store,
    synced,
    unchanged,
)
from control.errors import invalid
from control.policy import patterns as policy
from control.records import Pattern, PatternKind, Role

Named = Annotated[str, StringConstraints(max_length=1024)]


class PatternBody(Body):
    name: ObjectName = ""
    kind: PatternKind = "uri"
    template: Text = ""
    user: Text = ""
    role_uids: Many[Uid] = []
    ca: Named = ""
    from_: Annotated[list[Text], Field(alias="from", max_length=64)] = []
    session: Session = ""
    comment: Annotated[str, StringConstraints(max_length=255)] = ""

    IGNORED = words("uid")


class NewPatternBody(PatternBody):
    name: ObjectName
    kind: PatternKind
    template: Text
    user: Text
    uid: Uid = 0

    IGNORED = frozenset()


class PatternAnswer(Answer):
    model_config = ConfigDict(strict=True, extra="forbid")
    uid: int
    name: str
    kind: PatternKind
    template: str
    user: str
    role_uids: list[int]
    ca: str
    from_: Annotated[list[str], Field(alias="from")]
    session: str
    comment: str


blueprint = Blueprint("patterns", __name__)


@blueprint.get("/v1/certauth/patterns")
@needs("view_all_users_info", answers=list[PatternAnswer], query=LISTING)
def read_all() -> Response:
    return answer([render(one) for one in found(Pattern)])


@blueprint.get("/v1/certauth/patterns/<int(max=2147483647):uid>")
@needs("view_user_info", answers=PatternAnswer)
def read(uid: int) -> Response:
    return shown(store().objects.get(Pattern, uid))


@blueprint.post("/v1/certauth/patterns")
@needs("create_new_user", takes=NewPatternBody, answers=PatternAnswer, query=CHANGING)
def create(sent: NewPatternBody) -> Response:
    made = changed(Pattern(sent.uid, sent.name, sent.kind, sent.template, sent.user), sent)
    check_administrator(*roles_of(made))
    return shown(synced(store().objects.create(made)))


@blueprint.put("/v1/certauth/patterns/<int(max=2147483647):uid>")
@needs("update_user", takes=PatternBody, answers=PatternAnswer, query=CHANGING)
def update(uid: int, sent: PatternBody) -> Response:
    def change(pattern: Pattern) -> Pattern:
        made = changed(unchanged(pattern), sent)
        check_administrator(*roles_of(pattern), *roles_of(made))
        return made

    return shown(synced(store().objects.update(Pattern, uid, change)))


@blueprint.delete("/v1/certauth/patterns/<int(max=2147483647):uid>")
@needs("delete_user", query=CHANGING)
def delete(uid: int) -> Response:
    store().objects.delete(
        Pattern, uid, lambda pattern: check_administrator(*roles_of(unchanged(pattern)))
    )
    return answer(synced({}))


def changed(pattern: Pattern, sent: PatternBody) -> Pattern:
    """With what the request says, in canonical spelling. Raises Refusal 400 where that is not a
    line of a policy."""
    values = {name: value for name, value in sent.sent().items() if name != "uid"}
    if "from_" in values:
        values["networks"] = tuple(values.pop("from_"))
    if "role_uids" in values:
        values["role_uids"] = tuple(sorted(set(values["role_uids"])))
    made = in_field("pattern", partial(spelled, replace(pattern, **values), values.get("ca", "")))
    if made.role_uids and not policy.makes(made):
        raise invalid(
            "invalid_param",
            f"role_uids: user '{made.user}' has roles of its own, whatever certificate it comes "
            "with; a pattern has roles where its user has a placeholder",
        )
    return made


def spelled(pattern: Pattern, ca: str) -> Pattern:
    """`ca` is what a request calls the CA; "" where it names none. Raises ValueError."""
    return policy.spelled(replace(pattern, ca=ca_named(ca)) if ca else pattern)


def roles_of(pattern: Pattern) -> tuple[Role, ...]:
    """Whose rights its certificates have."""
    if policy.makes(pattern):
        return tuple(role for role in store().objects.all(Role) if role.uid in pattern.role_uids)
    user = store().objects.user_by_login(pattern.user)
    return store().objects.roles_of(user) if user else ()


def shown(pattern: Pattern) -> Response:
    return answer(render(pattern), pattern)


def render(pattern: Pattern) -> dict[str, Any]:
    return {
        "uid": pattern.uid,
        "name": pattern.name,
        "kind": pattern.kind,
        "template": pattern.template,
        "user": pattern.user,
        "role_uids": list(pattern.role_uids),
        "ca": pattern.ca,
        "from": list(pattern.networks),
        "session": pattern.session,
        "comment": pattern.comment,
    }
