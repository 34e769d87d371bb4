"""/v1/certauth: what Redis Enterprise does not have."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint, Response

from control import core
from control.answers import ExplainAnswer
from control.models import ExplainBody
from control.records import User
from control.web import answer, guard, in_field, needs, store

blueprint = Blueprint("certauth", __name__)


@blueprint.post("/v1/certauth/explain")
@needs("explain_certificates", takes=ExplainBody, answers=ExplainAnswer)
def explain(sent: ExplainBody) -> Response:
    """Who a certificate is, and why: for the REST API, or on a database."""
    decided = in_field("certificate", lambda: decide(sent))
    return answer(render(decided, names(decided, sent)))


def decide(sent: ExplainBody) -> core.Decision:
    """By the very functions that decide about clients. Raises CoreError, Refusal 404."""
    pem = sent.certificate.encode()
    if sent.bdb_uid is None:
        return guard().decide(pem, sent.time, sent.address)
    return database_policy(sent.bdb_uid).decide(pem, sent.time, sent.address)


def database_policy(uid: int) -> core.Policy:
    """The policy of a database, as its nodes are to have it."""
    return store().recall(("policy", uid), lambda: core.Policy(store().policy(uid)[1]))


def names(decided: core.Decision, sent: ExplainBody) -> list[str]:
    """The users of a decision by name: the REST API's own policy calls them by uid."""
    if sent.bdb_uid is not None:
        return list(decided.users)
    return [store().get(User, int(uid)).name for uid in decided.users]


def render(decided: core.Decision, users: list[str]) -> dict[str, Any]:
    return {
        "action": decided.action,
        "reason": decided.reason,
        "user": users[0] if decided.action == "login" else None,
        "users": users,
        "line": decided.line,
        "trace": list(decided.trace),
        "certificate": asdict(decided.leaf) if decided.leaf else None,
    }
