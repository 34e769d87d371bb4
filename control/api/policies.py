"""/v1/certauth/policies: what the servers of a database are to hold, line by line."""

from typing import cast, get_args

from flask import Blueprint, Response, g, request
from pydantic import BaseModel, ConfigDict

from control.api.models import Answer
from control.api.web import answer, needs, number, store
from control.errors import invalid
from control.words import LineOwner


class PolicyLineAnswer(BaseModel):
    """`owner` is whom the line is for; `owner_uid` and `owner_name` are of the user or pattern."""

    model_config = ConfigDict(strict=True, extra="forbid")
    line: str
    owner: LineOwner
    owner_uid: int
    owner_name: str


class PolicyPageAnswer(Answer):
    """Some lines of a policy; `generation` and `digest` are of all of it."""

    bdb_uid: int
    generation: int
    digest: str
    lines: list[PolicyLineAnswer]


blueprint = Blueprint("policies", __name__)
PAGE, MOST = 1_000, 10_000  # lines of an answer


@blueprint.get("/v1/certauth/policies/<int(max=2147483647):uid>")
@needs(
    "explain_certificates", answers=PolicyPageAnswer, query=("owner", "search", "limit", "offset")
)  # fmt: skip
def read(uid: int) -> Response:
    """The database's own lines first, then those of users and patterns, and revocations last."""
    target, owner = store().policies.target(uid), owner_asked()
    text, limit = request.args.get("search", ""), min(number("limit", PAGE), MOST)
    found = store().policies.page(uid, owner, text, limit, number("offset", 0))
    g.total = store().policies.count(uid, owner, text)
    whole = {"bdb_uid": uid, "generation": target.generation, "digest": target.digest}
    return answer({**whole, "lines": [vars(one) for one in found]})


def owner_asked() -> LineOwner | None:
    """Raises Refusal 400."""
    text = request.args.get("owner", "")
    if text and text not in get_args(LineOwner):
        raise invalid("invalid_param", f"owner: give one of {', '.join(get_args(LineOwner))}")
    return cast(LineOwner, text) if text else None
