"""/v1/certauth/locks: whom administrators hold out for the time being."""

import time
from typing import Annotated, Any

from flask import Blueprint, Response, request
from pydantic import Field, StringConstraints

from control.api.identities import IdentityBody
from control.api.models import Answer, Body, Filled, Uid, Value
from control.api.web import (
    CHANGING,
    answer,
    caller,
    guard,
    in_field,
    needs,
    rehearsing,
    store,
    warn,
)
from control.errors import conflict, invalid
from control.nodes.protocol import protocol_of
from control.policy import bindings, core, locks, pasted
from control.records import Database, Pattern, User, rendered_time
from control.reports import Lock

Ca = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Network = Annotated[str, StringConstraints(min_length=1, max_length=100)]
MODULE = 2  # the protocol of modules that know locks


class LockBody(Body):
    """One of: a user, by name or uid; an identity; a CA; a network."""

    user: Filled = ""
    user_uid: Uid = 0
    identity: IdentityBody | None = None
    ca: Ca = ""
    network: Network = ""
    reason: Value = ""
    seconds: Annotated[int, Field(ge=0, le=10**9)] = 0  # until it ends; 0: until it is taken back


class LockAnswer(Answer):
    uid: int
    line: str
    reason: str
    time: str
    end: str = ""


blueprint = Blueprint("locks", __name__)


@blueprint.get("/v1/certauth/locks")
@needs("view_cluster_info", answers=list[LockAnswer])
def read_all() -> Response:
    """Those that hold."""
    return answer([render(one) for one in store().locks.all()])


@blueprint.get("/v1/certauth/locks/<int(max=2147483647):uid>")
@needs("view_cluster_info", answers=LockAnswer)
def read(uid: int) -> Response:
    return answer(render(store().locks.get(uid)))


@blueprint.post("/v1/certauth/locks")
@needs("revoke_certificates", takes=LockBody, answers=LockAnswer, query=CHANGING)
def create(sent: LockBody) -> Response:
    """Locks, here and on every database: whom it concerns is out within about a second, and stays
    out. Nothing else changes, so that all is as it was when it ends."""
    line = line_of(sent)
    if not rehearsing() and guard().locked_by(line, request, caller()):
        raise conflict(
            "lock_concerns_you",
            f"'{line}' would lock you out: ask another administrator to create this lock",
        )
    _warn_of_older_modules()
    end = int(time.time()) + sent.seconds if sent.seconds else 0
    return answer(render(store().locks.add(line, sent.reason, end)))


@blueprint.delete("/v1/certauth/locks/<int(max=2147483647):uid>")
@needs("revoke_certificates", query=CHANGING)
def delete(uid: int) -> Response:
    """Takes a lock back."""
    store().locks.remove(uid)
    return answer({})


def line_of(sent: LockBody) -> str:
    """The `lock` line that a request is for, canonical. Raises Refusal."""
    ways = sent.model_fields_set - {"reason", "seconds"}
    if len(ways) != 1:
        raise invalid("invalid_param", "send one of: user; user_uid; identity; ca; network")
    way = ways.pop()
    if way == "user_uid":
        return locks.user_line(store().objects.get(User, sent.user_uid).name)
    if way == "user":
        return in_field(way, lambda: of_user(sent.user))
    if way == "identity" and sent.identity:
        given = sent.identity.said()
        return in_field(way, lambda: of_identity(given))
    if way == "ca":
        return in_field(way, lambda: core.canonical(f"lock ca {key_of(sent.ca)}"))
    return in_field(way, lambda: core.canonical(f"lock network {core.quote(sent.network)}"))


def of_user(name: str) -> str:
    if name == "default":
        raise ValueError(
            "'default' is the user of clients without a certificate: lock their network instead"
        )
    line = locks.user_line(name)
    word = name.partition(":")[0] + ":"
    made = any(one.user.startswith(word) for one in store().objects.all(Pattern))
    known = store().objects.user_by_login(name)  # or by its e-mail address, which no lock names
    if not made and (known is None or known.name != name):
        warn(
            f"the control plane has no user '{name}': the lock applies to users of this name on "
            "the servers"
        )
    return line


def of_identity(given: dict[str, Any]) -> str:
    if len(given) != 1:
        raise ValueError("a lock takes no options: send only the kind and its value")
    one = bindings.read(given)
    if one.kind == "subject" and (remark := pasted.name(given["subject"]).remark):
        warn(f"identity: {remark}")
    return core.canonical(f"lock {one.kind} {core.quote(one.value)}")


def key_of(text: str) -> str:
    """Of a CA that is trusted, by what it is called; or any key id."""
    trusted = [core.identity(der) for der in store().settings.authorities()]
    try:
        return bindings.ca_among(text, trusted)
    except ValueError as unknown:
        try:
            key = pasted.fingerprint(text)
        except ValueError:
            raise unknown from None
        warn(
            f"the CA with key id {key} is not trusted here; certificates below it are locked anyway"
        )
        return key


def _warn_of_older_modules() -> None:
    known = [one for bdb in store().objects.all(Database) for one in store().nodes.of(bdb.uid)]
    older = sorted({one.address for one in known if 0 < protocol_of(one.module) < MODULE})
    if older:
        warn(f"{', '.join(older)}: the module on this server is too old for locks. Other policy "
             "lines shut out every client that this lock may concern; for a CA or a network, "
             "every client. Upgrade the module")  # fmt: skip


def render(one: Lock) -> dict[str, Any]:
    end = {"end": rendered_time(one.end)} if one.end else {}
    return {
        "uid": one.uid,
        "line": one.line,
        "reason": one.reason,
        "time": rendered_time(one.time),
        **end,
    }
