"""/v1/certauth: what Redis Enterprise does not have: who a certificate is, and how far each server
has followed."""

import time
from typing import Any

from flask import Blueprint, Response, current_app

from control import core, preview
from control.answers import ExplainAnswer, PreviewAnswer, ServersAnswer
from control.errors import Refusal, invalid, refused
from control.models import ExplainBody, KnownBody, PreviewBody
from control.records import ClientCertificate, Database, Node, Target, User
from control.store import Store
from control.sync import NodeError
from control.waiting import servers
from control.web import answer, guard, in_field, needs, rehearsed, store

blueprint = Blueprint("certauth", __name__)
HELD = 10  # seconds of a preview: all who want to change something wait meanwhile


@blueprint.post("/v1/certauth/explain")
@needs("explain_certificates", takes=ExplainBody, answers=ExplainAnswer)
def explain(sent: ExplainBody) -> Response:
    """Who a certificate is, and why: for the REST API, or on a database. Of one that is only known
    from the event log, on a database."""
    decided = in_field("certificate", lambda: decide(sent))
    told = core.told(decided, names(decided, sent))
    asks = sent.bdb_uid is not None and sent.certificate and sent.time is None
    return answer(with_handshakes(told, sent) if asks else told)


def with_handshakes(told: dict[str, Any], sent: ExplainBody) -> dict[str, Any]:
    """An explanation with what each server says that its TLS handshake does, before the steps; and
    refused where the handshakes of all that say so refuse."""
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
    if len(refused) < len(known):
        return {**told, "trace": [*first, *told["trace"][1:]]}
    one = refused[0]
    nobody = {"action": "refuse", "reason": one["reason"], "user": None, "users": [], "line": None}
    return {**told, **nobody, "trace": [*first, *one["trace"][1:]]}


def is_refused_by_handshake(said: dict[str, Any]) -> bool:
    passed = ("the TLS handshake takes it", "the TLS handshake was not asked")
    return said["decision"] == "refuse" and not said["trace"][0].startswith(passed)


@blueprint.post("/v1/certauth/preview")
@needs("explain_certificates", takes=PreviewBody, answers=PreviewAnswer)
def preview_changes(sent: PreviewBody) -> Response:
    """What these requests would do, one after the other, and nothing is done."""
    found = preview.differences(store(), lambda stage: make(stage, sent))
    known = preview.clients(store().client_certificates(limit=preview.CERTIFICATES))
    ask, now = current_app.extensions["ask"], int(time.time())
    return answer(
        {
            "databases": [
                preview.told(one, known, servers_of(one.database), ask, now) for one in found
            ]
        }
    )


def servers_of(database: Database) -> list[str]:
    """The addresses of its nodes that have a policy."""
    nodes = store().nodes(database.uid)
    return [node.address for node in nodes if node.role != "sentinel"]


def make(stage: Store, sent: PreviewBody) -> None:
    end = time.monotonic() + HELD
    for number, one in enumerate(sent.changes):
        if time.monotonic() > end:
            text = f"{number} of the {len(sent.changes)} changes took {HELD} seconds: send fewer"
            raise refused("preview_too_long", text)
        try:
            rehearsed(stage, one.method, one.path, one.body)
        except Refusal as error:
            text = f"changes.{number} ({one.method} {one.path}): {error.description}"
            raise Refusal(error.status, error.error_code, text) from error


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
    )  # fmt: skip


def database_policy(uid: int) -> core.Policy:
    """The policy of a database, as its nodes are to have it."""
    return store().recall(("policy", uid), lambda: core.Policy(store().policy(uid)[1]))


def names(decided: core.Decision, sent: ExplainBody) -> list[str]:
    """The users of a decision by name: the REST API's own policy calls them by uid."""
    if sent.bdb_uid is not None:
        return list(decided.users)
    return [store().get(User, int(uid)).name for uid in decided.users]


@blueprint.get("/v1/certauth/nodes")
@needs("view_all_bdbs_info", answers=ServersAnswer)
def nodes() -> Response:
    """Every server, and which control plane speaks to them."""
    holder, epoch = store().leader()
    targets = store().targets()
    found = [
        rendered_node(node, database, targets[database.uid])
        for database in store().all(Database)
        if database.uid in targets
        for node in servers(store(), database)
    ]
    hold = store().cluster().hold
    return answer({"leader": holder, "epoch": epoch, "hold": hold, "nodes": found})


def rendered_node(node: Node, database: Database, target: Target) -> dict[str, Any]:
    return {
        "bdb_uid": database.uid,
        "bdb_name": database.name,
        "address": node.address,
        "in_step": node.in_step and node.generation == target.generation and not node.error,
        "generation": node.generation,
        "digest": node.digest,
        "lag": max(0, target.generation - node.generation),
        "error": node.error,
        "last_error": node.last_error,
        "last_error_time": node.last_error_time,
        "software": node.software,
        "module": node.module,
        "trust": node.detail,
    }
