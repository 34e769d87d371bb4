"""/v1/certauth/responders: who is asked, by OCSP, about the certificates of which CA; and the
answers of our own CAs, for everybody."""

import base64
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated, Any

from flask import Blueprint, Response, current_app, request
from pydantic import Field, StringConstraints

from control.api.identities import ca_named
from control.api.models import Answer, Body, ObjectName, Uid, words
from control.api.web import (
    CHANGING,
    LISTING,
    PUBLIC,
    answer,
    found,
    in_field,
    needs,
    rehearsing,
    store,
    unchanged,
)
from control.domain import responders, revocation
from control.records import Responder, Stale, rendered_time
from control.reports import ResponderFigures

Named = Annotated[str, StringConstraints(max_length=1024)]
BYTES = 4096  # of a question
TYPE = "application/ocsp-response"


class ResponderBody(Body):
    name: ObjectName = ""
    ca: Named = ""
    url: Annotated[str, StringConstraints(max_length=2048)] = ""
    interval: Annotated[int, Field(ge=10, le=10**9)] = 3600  # seconds
    stale: Stale = "warn"
    nonce: bool = False

    IGNORED = words("uid good revoked unanswered overdue asked age next_update problem")


class NewResponderBody(ResponderBody):
    name: ObjectName
    ca: Named
    uid: Uid = 0

    IGNORED = ResponderBody.IGNORED - {"uid"}


class ResponderAnswer(Answer):
    """`asked`: when it was last asked, and `age` how many seconds ago. `next_update`: when the
    first of its answers expires."""

    uid: int
    name: str
    ca: str
    url: str
    interval: int
    stale: Stale
    nonce: bool
    good: int
    revoked: int
    unanswered: int
    overdue: int
    asked: str
    age: int
    next_update: str
    problem: str


blueprint = Blueprint("responders", __name__)


@blueprint.get("/v1/certauth/responders")
@needs("view_cluster_info", answers=list[ResponderAnswer], query=LISTING)
def read_all() -> Response:
    figures = store().responders.figures()
    return answer([render(one, figures) for one in found(Responder)])


@blueprint.get("/v1/certauth/responders/<int(max=2147483647):uid>")
@needs("view_cluster_info", answers=ResponderAnswer)
def read(uid: int) -> Response:
    return shown(store().objects.get(Responder, uid))


@blueprint.post("/v1/certauth/responders")
@needs("update_cluster", takes=NewResponderBody, answers=ResponderAnswer, query=CHANGING)
def create(sent: NewResponderBody) -> Response:
    """Asks it about one certificate first, where any is known."""
    made = changed(Responder(sent.uid, sent.name, ""), sent)
    check(made)
    return shown(store().objects.create(made))


@blueprint.put("/v1/certauth/responders/<int(max=2147483647):uid>")
@needs("update_cluster", takes=ResponderBody, answers=ResponderAnswer, query=CHANGING)
def update(uid: int, sent: ResponderBody) -> Response:
    """Another CA, URL or rule of nonces is tried first, as a new one is."""
    before = store().objects.get(Responder, uid)
    made = changed(before, sent)
    if (made.ca, made.url, made.nonce) != (before.ca, before.url, before.nonce):
        check(made)
    return shown(store().objects.update(Responder, uid, lambda now: changed(unchanged(now), sent)))


@blueprint.delete("/v1/certauth/responders/<int(max=2147483647):uid>")
@needs("update_cluster", query=CHANGING)
def delete(uid: int) -> Response:
    """It is asked no more; what only it has revoked is revoked no more."""
    store().objects.delete(Responder, uid, unchanged)
    return answer({})


def check(made: Responder) -> None:
    """Raises CrlError where it does not answer as it should; a preview fetches nothing."""
    if not rehearsing():
        responders.check(store(), made, int(time.time()))


def changed(before: Responder, sent: ResponderBody) -> Responder:
    """With what the request says. Raises Refusal 400, CrlError."""
    values = {name: value for name, value in sent.sent().items() if name != "uid"}
    if "ca" in values:
        values["ca"] = in_field("ca", lambda: ca_named(sent.ca))
    if values.get("url"):
        responders.check_url(values["url"])
    return replace(before, **values)


def shown(one: Responder) -> Response:
    return answer(render(one, store().responders.figures()), one)


def render(one: Responder, figures: dict[int, ResponderFigures]) -> dict[str, Any]:
    said = figures.get(one.uid, ResponderFigures())
    return {
        **asdict(one),
        **asdict(said),
        "asked": rendered_time(said.asked) if said.asked else "",
        "age": max(0, int(time.time()) - said.asked) if said.asked else 0,
        "next_update": rendered_time(said.next_update) if said.next_update else "",
    }


# ---- Our own -------------------------------------------------------------------------------------


@blueprint.post("/v1/certauth/ca/<key>/ocsp")
@needs(PUBLIC, answers=TYPE)
def own_answer(key: str) -> Response:
    """What a CA of ours says of one of its certificates (RFC 6960)."""
    large = (request.content_length or 0) > BYTES
    return said(key, lambda: b"" if large else request.get_data())


@blueprint.get("/v1/certauth/ca/<key>/ocsp/<path:asked>")
@needs(PUBLIC, answers=TYPE)
def own_answer_to_get(key: str, asked: str) -> Response:
    """The same, for a question in base64."""
    return said(key, lambda: base64.b64decode(asked) if len(asked) <= 2 * BYTES else b"")


def said(key: str, asked: Callable[[], bytes]) -> Response:
    signers = current_app.extensions["signers"]()
    return Response(revocation.answered(store(), signers, key, asked), mimetype=TYPE)
