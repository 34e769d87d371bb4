"""/v1/certauth: what Redis Enterprise does not have: who a certificate is, and how far each server
has followed."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any, Literal

from flask import Blueprint, Response, current_app
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from control.ages import rendered, seconds
from control.api.models import Answer, Body, Many, Pem, Sha256, Uid
from control.api.system import plane_faults
from control.api.web import answer, guard, in_field, needs, rehearsed, store, warn
from control.domain import preview
from control.errors import Refusal, invalid, refused
from control.nodes.client import NodeError
from control.nodes.protocol import PROTOCOL, cannot, protocol_of, version_of
from control.nodes.trials import refusal
from control.nodes.waiting import servers
from control.pki.pem import printable
from control.pki.reading import certificates_in, render_all
from control.policy import core, patterns
from control.policy.decision import render_decision
from control.records import Database, Pattern, Target, User, rendered_time
from control.reports import ClientCertificate, NewRules, Node
from control.store import InventoryFilter, Stage


class KnownBody(Body):
    """What the event log has of a certificate."""

    subject: Annotated[str, StringConstraints(max_length=65536)] = ""
    serial: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,64}$")]
    cert: Sha256
    key: Sha256
    ca: Sha256 | None = None
    not_after: Annotated[int, Field(ge=0, le=253_402_300_799)] = 0
    sans: Many[Annotated[str, StringConstraints(max_length=4096)]] = []


class ExplainBody(Body):
    certificate: Pem = ""
    known: KnownBody | None = None
    address: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    time: Annotated[int, Field(ge=0, le=253_402_300_799)] | None = None
    bdb_uid: Uid | None = None


class ChangeBody(Body):
    """A request. What is in its body, its own model checks."""

    method: Literal["POST", "PUT", "DELETE"]
    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]{1,255}$")]
    body: dict[str, Any] | None = None


class PreviewBody(Body):
    changes: Annotated[Many[ChangeBody], Field(min_length=1, max_length=1000)]


class ServerAnswer(BaseModel):
    """A node of a database. `lag` is in generations; `last_error_time` in seconds since 1970; `age`
    in seconds since it was last looked at, null for never. `hold` is why nothing is sent
    to it, "" where it is kept in step. `module` is the version of its module, `protocol` what that
    speaks (0: not known), `cannot` what it cannot do therefore."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    bdb_name: str
    address: str
    in_step: bool
    generation: int
    digest: str
    lag: int
    error: str
    hold: str
    last_error: str
    last_error_time: int
    software: str
    module: str
    protocol: int
    cannot: list[str]
    trust: str
    certificate_subject: str
    certificate_issuer: str
    certificate_serial: str
    certificate_not_after: str
    age: float | None


class ServersAnswer(Answer):
    """`leader` is the control plane that last began to speak to them, and `epoch` counts them;
    `leader_age` the seconds since it last said so, null for never. `faults` is what keeps the
    control plane that answers from its work. `hold`: why nothing is sent to them. `version` and
    `protocol` are those of the control plane that answers."""

    version: str
    protocol: int
    leader: str
    epoch: int
    leader_age: float | None
    faults: list[str]
    hold: str
    nodes: list[ServerAnswer]


class ExplainAnswer(Answer):
    action: str
    reason: str
    user: str | None
    users: list[str]
    line: str | None
    trace: list[str]
    certificate: dict[str, Any] | None


class RefusedAnew(BaseModel):
    """`user` is "" where it is about nobody."""

    model_config = ConfigDict(strict=True, extra="forbid")
    user: str
    line: str
    why: str


class PreviewOfNode(BaseModel):
    """`ending` are sessions that would be closed; `users` those whose password would go; `refused`
    are users of the change whom this server refuses, and why."""

    model_config = ConfigDict(strict=True, extra="forbid")
    address: str
    error: str
    sessions: int
    ends: int
    ending: list[dict[str, Any]]
    users: list[dict[str, Any]]
    refused: list[RefusedAnew]


class EffectAnswer(BaseModel):
    """What a change does, in a sentence; `cuts`: somebody is cut off; `grave`: many are, or others
    than so far are trusted."""

    model_config = ConfigDict(strict=True, extra="forbid")
    text: str
    cuts: bool
    grave: bool


class PreviewOfDatabase(BaseModel):
    """`added` and `removed` are policy lines; `effects` the same in words, the gravest first. All
    lists end at a thousand; the numbers say how many there are."""

    model_config = ConfigDict(strict=True, extra="forbid")
    bdb_uid: int
    bdb_name: str
    added: list[str]
    removed: list[str]
    lines_added: int
    lines_removed: int
    nodes: list[PreviewOfNode]
    certificates: list[dict[str, Any]]
    certificates_changed: int
    certificates_unknown: int
    effects: list[EffectAnswer]


class PreviewAnswer(Answer):
    """A database for each whose policy would change."""

    databases: list[PreviewOfDatabase]


blueprint = Blueprint("certauth", __name__)
UNKNOWN = "unknown_algorithm"
UNNAMED = "<pattern>"  # of a cure
HELD = 10  # seconds of a preview: on PostgreSQL all who want to change something wait meanwhile


@blueprint.post("/v1/certauth/explain")
@needs("explain_certificates", takes=ExplainBody, answers=ExplainAnswer)
def explain(sent: ExplainBody) -> Response:
    """Who a certificate is, and why: for the REST API, or on a database. Of one that is only known
    from the event log, on a database."""
    if sent.certificate:
        sent = sent.model_copy(update={"certificate": in_field("certificate", presented(sent))})
    decided = in_field("certificate", lambda: decide(sent))
    told = render_decision(decided, names(decided, sent))
    asks = sent.bdb_uid is not None and sent.certificate and sent.time is None
    return answer(with_pattern(with_handshakes(told, sent) if asks else told))


def with_pattern(told: dict[str, Any]) -> dict[str, Any]:
    """An explanation whose cure names the pattern of the line, which the core cannot know."""
    if not any(UNNAMED in one for one in told["trace"]):
        return told
    pattern = patterns.of_line(told["line"] or "", store().objects.all(Pattern))
    if pattern is None:
        return told
    name = shlex.quote(pattern.name)
    return {**told, "trace": [one.replace(UNNAMED, name, 1) for one in told["trace"]]}


def presented(sent: ExplainBody) -> Callable[[], str]:
    """The certificates of a request as a client presents them, PEM, the leaf first."""

    def read() -> str:
        leaf, *others = certificates_in(sent.certificate.encode("utf-8", "replace"))
        clients = [one for one in map(core.identity, others) if not one.ca]
        if clients:
            names = ", ".join(f"'{printable(one.subject)}'" for one in clients)
            warn(f"only the first certificate is explained: {names} behind it is not a CA")
        return render_all([leaf, *others])

    return read


def with_handshakes(told: dict[str, Any], sent: ExplainBody) -> dict[str, Any]:
    """An explanation with what each server says that its TLS handshake does, before the steps; and
    refused where the handshakes of all that say so refuse. Of algorithms that the OpenSSL here does
    not know, a server's word counts."""
    words = [sent.certificate, *([sent.address] if sent.address else [])]
    ask = current_app.extensions["ask"]
    said = ask(sent.bdb_uid, lambda command: command("CERTAUTH.EXPLAIN", *words))
    known = {
        address: one
        for address, one in said.items()
        if not isinstance(one, NodeError) and one["trace"][0].startswith("the TLS handshake ")
    }
    if not known:
        return told
    first = [f"on {address}, {one['trace'][0]}" for address, one in known.items()]
    refused = [one for one in known.values() if is_refused_by_handshake(one)]
    if len(refused) < len(known) and told["reason"] != UNKNOWN:
        return {**told, "trace": [*first, *told["trace"][1:]]}
    one = min(known.values(), key=lambda one: (is_refused_by_handshake(one), not takes(one)))
    return {**told, **decision_of(one), "trace": [*first, *one["trace"][1:]]}


def decision_of(said: dict[str, Any]) -> dict[str, Any]:
    """A server's decision as an explanation has it. Of several users it names the first."""
    line, user = said.get("line"), said.get("user")
    users = core.users_of(str(line)) if said["decision"] == "choose" else [user] if user else []
    one = user if said["decision"] == "login" else None
    return {"action": said["decision"], "reason": said["reason"], "user": one, "users": list(users),
            "line": line}  # fmt: skip


def takes(said: dict[str, Any]) -> bool:
    return str(said["trace"][0]).startswith("the TLS handshake takes it")


def is_refused_by_handshake(said: dict[str, Any]) -> bool:
    passed = takes(said) or said["trace"][0].startswith("the TLS handshake was not asked")
    return said["decision"] == "refuse" and not passed


@blueprint.post("/v1/certauth/preview")
@needs("explain_certificates", takes=PreviewBody, answers=PreviewAnswer)
def preview_changes(sent: PreviewBody) -> Response:
    """What these requests would do, one after the other, and nothing is done."""
    new: list[tuple[int, NewRules]] = []
    found = preview.differences(store(), lambda stage: new.extend(make(stage, sent)))
    check_rules(new, sent)
    known = preview.clients(store().inventory.find(InventoryFilter(), limit=preview.CERTIFICATES))
    ask, now = current_app.extensions["ask"], int(time.time())
    return answer(
        {
            "databases": [
                preview.told(one, known, servers_of(one.database), ask, now) for one in found
            ]
        }
    )


def servers_of(database: Database) -> list[Node]:
    """Its nodes that have a policy."""
    return [node for node in store().nodes.of(database.uid) if node.role != "sentinel"]


def check_rules(new: Sequence[tuple[int, NewRules]], sent: PreviewBody) -> None:
    """Raises Refusal 406 where a server refuses ACL rules that these changes would bring: as the
    change itself does."""
    trials, ask = current_app.extensions["trials"], current_app.extensions["ask"]
    seen: set[tuple[int, str]] = set()
    for number, wanted in new:
        rules = frozenset(one for one in wanted.rules if (wanted.bdb_uid, one) not in seen)
        seen.update((wanted.bdb_uid, one) for one in rules)
        if problems := trials.problems(ask, [replace(wanted, rules=rules)] if rules else []):
            raise about(sent, number, refusal(problems))


def about(sent: PreviewBody, number: int, error: Refusal) -> Refusal:
    """What is refused of one of the changes, and which it is."""
    one = sent.changes[number]
    text = f"changes.{number} ({one.method} {one.path}): {error.description}"
    return Refusal(error.status, error.error_code, text)


def make(stage: Stage, sent: PreviewBody) -> list[tuple[int, NewRules]]:
    """Makes the changes. The ACL rules that are to be tried before, and which change has them."""
    new: list[tuple[int, NewRules]] = []
    end = time.monotonic() + HELD
    for number, one in enumerate(sent.changes):
        if time.monotonic() > end:
            text = f"{number} of the {len(sent.changes)} changes took {HELD} seconds: send fewer"
            raise refused("preview_too_long", text)
        try:
            rehearsed(stage, one.method, one.path, one.body)
        except Refusal as error:
            raise about(sent, number, error) from error
        new += ((number, wanted) for wanted in stage.untried)
        stage.untried.clear()
    return new


def decide(sent: ExplainBody) -> core.Decision:
    """By the very functions that decide about clients. Raises CoreError, Refusal 404."""
    if sent.known:
        known, policy = client_certificate(sent.known), database_policy(sent.bdb_uid or 0)
        return policy.decide_known(known, sent.time, sent.address)
    if not sent.certificate:
        raise invalid("missing_field", "certificate: this field is missing")
    pem = sent.certificate.encode()
    if sent.bdb_uid is None:
        return guard().decide(pem, sent.time, sent.address)
    return database_policy(sent.bdb_uid).decide(pem, sent.time, sent.address, managed=True)


def client_certificate(sent: KnownBody) -> ClientCertificate:
    return ClientCertificate(
        cert=sent.cert, key=sent.key, ca=sent.ca or "", issuer="", serial=sent.serial,
        subject=sent.subject, user="", not_before=0, not_after=sent.not_after, first=0,
        sans=tuple(sent.sans),
    )  # fmt: skip


def database_policy(uid: int) -> core.Policy:
    """The policy of a database, as its nodes are to have it."""
    return store().recall(("policy", uid), lambda: core.Policy(store().policies.whole(uid)[1]))


def names(decided: core.Decision, sent: ExplainBody) -> list[str]:
    """The users of a decision by name: the REST API's own policy calls them by uid."""
    if sent.bdb_uid is not None:
        return list(decided.users)
    return [store().objects.get(User, int(uid)).name for uid in decided.users]


@blueprint.get("/v1/certauth/nodes")
@needs("view_all_bdbs_info", answers=ServersAnswer)
def nodes() -> Response:
    """Every server, and which control plane speaks to them."""
    (holder, epoch), silence = store().lease.leader(), store().lease.silence()
    targets, holds = store().policies.targets(), store().holds.all()
    held = {(one.bdb_uid, one.address): one.why for one in holds if one.state != "released"}
    found = [
        rendered_node(node, database, targets[database.uid], held)
        for database in store().objects.all(Database)
        if database.uid in targets
        for node in servers(store(), database)
    ]
    leader = {"leader": holder, "epoch": epoch, "leader_age": seconds(silence)}
    hold = store().settings.cluster().hold
    ours = {"version": version("redis-certauth"), "protocol": PROTOCOL}
    return answer({**ours, **leader, "faults": plane_faults(), "hold": hold, "nodes": found})


def rendered_node(
    node: Node, database: Database, target: Target, held: Mapping[tuple[int, str], str]
) -> dict[str, Any]:
    return {
        "bdb_uid": database.uid,
        "bdb_name": database.name,
        "address": node.address,
        "in_step": node.follows(target) and not node.error,
        "generation": node.generation,
        "digest": node.digest,
        "lag": max(0, target.generation - node.generation),
        "error": node.error,
        "hold": held.get((database.uid, node.address), ""),
        "last_error": node.last_error,
        "last_error_time": node.last_error_time,
        "software": node.software,
        "module": version_of(node.module),
        "protocol": protocol_of(node.module),
        "cannot": cannot(node.module),
        "trust": node.detail,
        "age": rendered(node),
        **rendered_certificate(node),
    }


def rendered_certificate(node: Node) -> dict[str, str]:
    """That the node shows; empty before it was reached."""
    shown = core.identity(node.certificate.encode()) if node.certificate else None
    return {
        "certificate_subject": shown.subject if shown else "",
        "certificate_issuer": shown.issuer if shown else "",
        "certificate_serial": shown.serial if shown else "",
        "certificate_not_after": rendered_time(shown.not_after) if shown else "",
    }
