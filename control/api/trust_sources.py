"""/v1/certauth/trust_sources: CAs of the cluster or of a database that are followed.

Making one reads it and puts in force what it says, as an upload does; so does accepting what it
says later, where that is more than it may change by itself."""

import time
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Annotated, Any

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control.api import rotation
from control.api.models import Answer, Body, ObjectName, Pem, Sha256, Uid, words
from control.api.web import (
    CHANGING,
    LISTING,
    answer,
    flag,
    found,
    in_field,
    needs,
    store,
    unchanged,
    warn,
)
from control.domain import trust_sources
from control.errors import Refusal, conflict, refused
from control.pki import spiffe
from control.pki.pem import identity_of, pem_to_ders
from control.pki.uploads import check_authorities
from control.records import Database, TrustSource, rendered_time
from control.reports import TrustState
from control.store import UNAVAILABLE_ERRORS

Location = Annotated[str, StringConstraints(max_length=1024)]


class TrustSourceBody(Body):
    name: ObjectName = ""
    location: Location = ""
    ca: Pem = ""
    interval: Annotated[int, Field(ge=10, le=86400)] = 300
    most: Annotated[int, Field(ge=0, le=1000)] = 2
    trust_grows: bool = False

    IGNORED = words("uid bdb_uid cas fetched age problem waits")


class NewTrustSourceBody(TrustSourceBody):
    name: ObjectName
    location: Location
    bdb_uid: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    uid: Uid = 0

    IGNORED = words("cas fetched age problem waits")


class AcceptBody(Body):
    digest: Sha256


class WaitingAnswer(BaseModel):
    """What waits for an administrator: `digest` is what it is accepted by."""

    model_config = ConfigDict(strict=True, extra="forbid")
    digest: str
    added: list[str]
    removed: list[str]


class TrustSourceAnswer(Answer):
    """`cas`: the SHA-256 of the CAs that it gave. `fetched`: when it was last read well, and `age`
    how many seconds ago. `problem`: why the last look brought nothing, or what waits."""

    uid: int
    name: str
    location: str
    bdb_uid: int
    ca: str
    interval: int
    most: int
    cas: list[str]
    fetched: str
    age: int
    problem: str
    waits: WaitingAnswer | None


blueprint = Blueprint("trust_sources", __name__)


@blueprint.get("/v1/certauth/trust_sources")
@needs("view_cluster_info", answers=list[TrustSourceAnswer], query=LISTING)
def read_all() -> Response:
    return answer([render(one) for one in found(TrustSource)])


@blueprint.get("/v1/certauth/trust_sources/<int(max=2147483647):uid>")
@needs("view_cluster_info", answers=TrustSourceAnswer)
def read(uid: int) -> Response:
    return shown(store().objects.get(TrustSource, uid))


@blueprint.post("/v1/certauth/trust_sources")
@needs("update_cluster", takes=NewTrustSourceBody, answers=TrustSourceAnswer,
       query=(*CHANGING, "force"))  # fmt: skip
def create(sent: NewTrustSourceBody) -> Response:
    """Reads it at once; what it gives is in force with the answer."""
    in_field("location", lambda: trust_sources.check_location(sent.location))
    ca = check_authorities(sent.ca) if sent.ca else ""
    made = TrustSource(
        sent.uid, sent.name, sent.location, sent.bdb_uid, ca, sent.interval, sent.most
    )
    bundle = trust_sources.read(made)
    planned = trust_sources.plan(store(), made, (), bundle.cas)
    rotation.check_growth(planned.before.trust, planned.after.trust, sent.trust_grows)
    check_promise(None, made, sent.trust_grows)
    users = cut(made, planned)
    made = store().objects.create(made)
    try:
        take_over(made, planned, bundle, users)
    except Exception:
        with suppress(Refusal, *UNAVAILABLE_ERRORS):  # not half of what was asked for
            store().objects.delete(TrustSource, made.uid)
        raise
    if flag("dry_run"):
        for subject in trust_sources.named(planned.comes):
            warn(f"this CA would be trusted: {subject}")
    return shown(made)


@blueprint.put("/v1/certauth/trust_sources/<int(max=2147483647):uid>")
@needs("update_cluster", takes=TrustSourceBody, answers=TrustSourceAnswer, query=CHANGING)
def update(uid: int, sent: TrustSourceBody) -> Response:
    """Another location is read when it is due, and may change as much as any look may."""
    ours = ("uid", "trust_grows")
    values = {name: value for name, value in sent.sent().items() if name not in ours}
    if "location" in values:
        in_field("location", lambda: trust_sources.check_location(sent.location))
    if values.get("ca"):
        values["ca"] = check_authorities(values["ca"])

    def change(before: TrustSource) -> TrustSource:
        changed = replace(unchanged(before), **values)
        check_promise(before, changed, sent.trust_grows)
        return changed

    return shown(store().objects.update(TrustSource, uid, change))


@blueprint.delete("/v1/certauth/trust_sources/<int(max=2147483647):uid>")
@needs("update_cluster", query=CHANGING)
def delete(uid: int) -> Response:
    """It is followed no more. The CAs that it gave stay, until an administrator takes them away."""
    store().objects.delete(TrustSource, uid, unchanged)
    return answer({})


@blueprint.post("/v1/certauth/trust_sources/<int(max=2147483647):uid>/accept")
@needs("update_cluster", takes=AcceptBody, answers=TrustSourceAnswer, query=(*CHANGING, "force"))
def accept(uid: int, sent: AcceptBody) -> Response:
    """Puts in force what waits, and nothing else: not what the source may say by now."""
    source = store().objects.get(TrustSource, uid)
    state = store().trust_sources.state(uid)
    if trust_sources.digest_of(state) != sent.digest:
        raise conflict(
            "trust_source_changed",
            "the waiting change is another one by now: read the trust source again",
        )
    bundle = spiffe.Bundle(tuple(pem_to_ders(state.pending)), state.sequence, state.hint)
    planned = trust_sources.plan(store(), source, state.given, bundle.cas)
    take_over(source, planned, bundle, cut(source, planned))
    return shown(source)


def check_promise(before: TrustSource | None, after: TrustSource, agreed: bool) -> None:
    """Raises Refusal 406 where a source could bring more CAs by itself than so far, from then on
    and without a further question, unless that was agreed to."""
    known = before is not None and before.location == after.location
    if agreed or after.most <= (before.most if before and known else 0):
        return
    raise refused(
        "trust_grows",
        f"'{after.name}' could add CAs of clients without an administrator, from "
        f"{after.location}: up to {after.most} at each check. If you want that, send "
        "trust_grows: true (redis-certauth: --trust-grows); with most: 0, an administrator "
        "accepts each CA",
    )


def cut(source: TrustSource, planned: trust_sources.Plan) -> list[str]:
    """The users who lose their CA. Raises Refusal 409 where there are some, without ?force."""
    if source.bdb_uid == trust_sources.CLUSTER:
        return rotation.check_cluster(planned.after.trust)
    # One without CAs of its own has those of the cluster so far.
    before = rotation.trust_of(store().objects.get(Database, source.bdb_uid))
    return rotation.check(before, planned.after.trust, {source.bdb_uid})


def take_over(
    source: TrustSource,
    planned: trust_sources.Plan,
    bundle: spiffe.Bundle,
    users: list[str],
) -> None:
    detail: dict[str, Any] = {}
    if planned.comes or planned.goes:
        trust_sources.put(store(), source, planned)
        detail = {
            "added": trust_sources.named(planned.comes),
            "removed": trust_sources.named(planned.goes),
        }
    state = trust_sources.taken(bundle, source, int(time.time()))
    store().trust_sources.record(source, state, **detail)
    rotation.note(users)


def shown(source: TrustSource) -> Response:
    return answer(render(source), source)


def render(source: TrustSource) -> dict[str, Any]:
    state = store().trust_sources.state(source.uid)
    return {
        **asdict(source),
        "cas": list(state.given),
        "fetched": rendered_time(state.fetched) if state.fetched else "",
        "age": max(0, int(time.time()) - state.fetched) if state.fetched else 0,
        "problem": state.problem,
        "waits": waiting(state),
    }


def waiting(state: TrustState) -> dict[str, Any] | None:
    if not state.pending:
        return None
    ders = pem_to_ders(state.pending)
    said = {identity_of(der).cert: der for der in ders}
    known = {identity_of(der).cert: der for der in store().settings.authorities()}
    gone = [cert for cert in state.given if cert not in said]
    return {
        "digest": trust_sources.digest_of(state),
        "added": trust_sources.named([said[cert] for cert in said if cert not in state.given]),
        "removed": [identity_of(known[cert]).subject if cert in known else cert for cert in gone],
    }
