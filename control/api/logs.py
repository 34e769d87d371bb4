"""/v1/logs and /v1/certauth/history: who changed what, and who could not log in."""

import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict

from control.api.models import Answer
from control.api.web import answer, needs, number, store
from control.errors import invalid
from control.nodes.audit import render


class EventAnswer(BaseModel):
    """And more, by type: whom or what it is about, and who did it."""

    model_config = ConfigDict(strict=True, extra="allow")
    time: str
    type: str
    severity: Literal["INFO", "WARNING"]


class OutcomeAnswer(Answer):
    time: int
    reason: str
    count: int


blueprint = Blueprint("logs", __name__)
END = 253_402_300_799  # the last second of the year 9999
LIMIT = 10_000
HOUR, DAY = 3600, 86400  # seconds
SPANS = 1000
TYPES = 50  # of events in a query


@blueprint.get("/v1/logs")
@needs(
    "view_logged_events",
    answers=list[EventAnswer],
    query=("stime", "etime", "type", "user", "object", "search", "order", "limit", "offset"),
)
def read() -> Response:
    """The oldest first, or (order=desc) the newest. What was changed here is kept for the cluster's
    `log_retention`; of what others cause, the last thousand of each type, and the last ten thousand
    of what clients of databases do (`client_…`)."""
    order = request.args.get("order", "asc")
    if order not in ("asc", "desc"):
        raise invalid("invalid_param", "order: must be asc or desc")
    found = store().events.between(
        moment("stime", 0), moment("etime", END), order == "desc",
        number("limit", LIMIT), number("offset", 0),
        request.args.get("type", "").split(",")[:TYPES], request.args.get("user", ""),
        request.args.get("search", ""), subject(),
    )  # fmt: skip
    return answer([render(event) for event in found])


OBJECT = re.compile(r"(user|role|redis_acl|bdb|pattern|profile|responder)/([0-9]{1,10})")


def subject() -> tuple[str, int] | None:
    """The object that the query asks about."""
    text = request.args.get("object")
    if text is None:
        return None
    if (found := OBJECT.fullmatch(text)) is None:
        raise invalid("invalid_param", "object: must look like user/5")
    return found[1], int(found[2])


@blueprint.get("/v1/certauth/history")
@needs("view_logged_events", answers=list[OutcomeAnswer], query=("stime", "etime", "step"))
def history() -> Response:
    """How many logins and refusals there were, by time and reason: of the last day by the hour,
    unless the query says otherwise."""
    until, step = moment("etime", int(time.time()) + 1), number("step", HOUR)
    since = moment("stime", until - DAY)
    if not 0 < until - since <= SPANS * step:
        raise invalid("invalid_param", f"step: the time range must hold 1 to {SPANS} steps")
    return answer([asdict(one) for one in store().events.history(since, until, step)])


def moment(name: str, default: int) -> int:
    """A time of the query, as seconds since 1970. Without a zone it is UTC."""
    text = request.args.get(name)
    if text is None:
        return default
    try:
        found = datetime.fromisoformat(text)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return int(found.timestamp())
    except (ValueError, OverflowError):
        raise invalid("invalid_param", f"{name}: must be an ISO 8601 time") from None
