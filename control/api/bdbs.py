"""/v1/bdbs and /v2/bdbs: the Redis and Valkey deployments whose users are managed here."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, request

from control.ages import as_of_now, rendered
from control.api import auditing, demands, rotation
from control.api.bdb_models import BdbAnswer, BdbBody, BdbPasswordBody, BdbV2Body, NewBdbBody
from control.api.cluster import rendered_subjects, subjects
from control.api.models import Answer
from control.api.web import (
    CHANGING,
    LISTING,
    answer,
    caller,
    flag,
    found,
    needs,
    store,
    synced,
    unchanged,
    warn,
)
from control.errors import Refusal, conflict, invalid, refused
from control.pki import trust
from control.pki.uploads import check_authorities, check_clients, doubts, read_bundle
from control.records import Database, Endpoint, RolePermission, Target, Trust, rendered_time
from control.reports import Node


class Started(Answer):
    """See /v1/actions."""

    action_uid: str = ""


blueprint = Blueprint("bdbs", __name__)
STATES = ("active", "active-change-pending", "delete-pending")
# Fields that say whom a database trusts.
TRUSTED = {"authentication_ssl_client_certs", "client_cas", "pinned_certificates"}


@blueprint.get("/v1/bdbs")
@needs(
    "view_all_bdbs_info",
    scoped=True,
    answers=list[BdbAnswer],
    query=("fields", "extended", *LISTING),
)
def read_all() -> Response:
    """Who has a role for some databases sees those: `limit` counts all of them."""
    seen = (one for one in found(Database) if caller().may_on("view_all_bdbs_info", one.uid))
    return answer([only(shown(database)) for database in seen])


@blueprint.get("/v1/bdbs/<int(max=2147483647):uid>")
@needs("view_bdb_info", scoped=True, answers=BdbAnswer, query=("fields", "extended"))
def read(uid: int) -> Response:
    database = store().objects.get(Database, uid)
    return answer(only(shown(database)), database)


@blueprint.post("/v1/bdbs")
@needs("create_bdb", takes=NewBdbBody, answers=BdbAnswer, query=CHANGING)
def create(sent: NewBdbBody) -> Response:
    return created(sent)


@blueprint.post("/v2/bdbs")
@needs("create_bdb", takes=BdbV2Body, answers=BdbAnswer, query=CHANGING)
def create_v2(sent: BdbV2Body) -> Response:
    return created(sent.bdb)


def created(sent: NewBdbBody) -> Response:
    empty = Database(sent.uid, sent.name, created=int(time.time()))
    empty = auditing.for_new(empty, sent.sent(), store().settings.cluster())
    database = trusting(empty, following(empty, prepared(sent), sent), sent)
    made = synced(store().objects.create(database))
    rotation.warn_of_serving(rotation.trust_of(made))
    if database.authentication_ssl_client_certs:
        rotation.warn_of_pins(Trust(), made)
    # A dry run leaves nothing behind that could be asked about.
    unmade = flag("dry_run")
    return answer(render(made, Target(0, ""), "", (), ()) if unmade else shown(made), made)


@blueprint.put("/v1/bdbs/<int(max=2147483647):uid>")
@needs("update_bdb", scoped=True, takes=BdbBody, answers=BdbAnswer, query=(*CHANGING, "force"))
def update(uid: int, sent: BdbBody) -> Response:
    try:
        return updated(uid, sent)
    except Refusal as error:
        if error.error_code != "port_unavailable" or caller().may("view_bdb_info"):
            raise
        # Whose it is names a database that this caller may not know of.
        text = (
            "endpoints: one of these servers belongs to another database: a server has one policy"
        )
        raise refused("port_unavailable", text) from None


def updated(uid: int, sent: BdbBody) -> Response:
    changes = prepared(sent)
    check_there(store().objects.get(Database, uid))

    def change(database: Database) -> Database:
        check_there(database)
        changed = trusting(unchanged(database), following(database, changes, sent), sent)
        if changed.refuses and not database.refuses:
            check_enforceable(changed, store().nodes.of(uid))
        return changed

    if demands.FIELDS & sent.sent().keys():
        demands.check_sessions(lambda stage: stage.objects.update(Database, uid, change))
    before = rotation.trust_of(store().objects.get(Database, uid))
    users = cut_off(uid, changes, sent)
    changed = synced(store().objects.update(Database, uid, change))
    rotation.note(users)
    if changes.get("authentication_ssl_client_certs"):
        rotation.warn_of_serving(rotation.trust_of(changed))
    if changed.authentication_ssl_client_certs and TRUSTED & sent.sent().keys():
        rotation.warn_of_pins(before, changed)
    return answer(shown(changed), changed)


def cut_off(uid: int, changes: dict[str, Any], sent: BdbBody) -> list[str]:
    """See rotation.check."""
    now = store().objects.get(Database, uid)
    after = trusting(now, following(now, changes, sent), sent)
    return rotation.check(rotation.trust_of(now), rotation.trust_of(after), {uid})


def following(before: Database, changes: dict[str, Any], sent: BdbBody) -> Database:
    """With the fields of a request. Raises Refusal 400."""
    return replace(
        before,
        **changes,
        demands=demands.demanded(before.demands, sent),
        audit_settings=auditing.settled(before.audit_settings, sent.sent()),
    )


def trusting(before: Database, after: Database, sent: BdbBody) -> Database:
    """With what each of its CAs is for, as the request and what is stored say. Raises
    CertificateError, Refusal 409 where more would be trusted than was agreed to: by a database
    whose CAs are the cluster's, what it brings first is its own to say."""
    said = sent.sent()
    if not TRUSTED & said.keys():
        return after
    clients, pinned = said.get("client_cas"), said.get("pinned_certificates")
    stored = "".join(before.authentication_ssl_client_certs)
    own = "".join(after.authentication_ssl_client_certs)
    known = trust.stored(stored, before.client_ca_uses)
    after = replace(after, client_ca_uses=trust.settled(known, own, clients, pinned))
    if stored:
        rotation.check_growth(known, rotation.trust_of(after), sent.trust_grows)
    return after


@blueprint.delete("/v1/bdbs/<int(max=2147483647):uid>")
@needs("delete_bdb", scoped=True, answers=Started, query=CHANGING)
def delete(uid: int) -> Response:
    """The first time, the nodes are detached and the database then goes; a second time while one of
    them cannot be reached, it goes at once."""
    if store().objects.get(Database, uid).deleting:
        store().nodes.forget_database(uid)
    else:
        store().objects.delete(Database, uid, unchanged)
    action = synced(store().actions.recent(uid, 1))
    # That of a dry run is forgotten, and the last one is of another change.
    return answer({"action_uid": action[0].uid} if action and not flag("dry_run") else {})


@blueprint.delete("/v1/bdbs/<int(max=2147483647):uid>/nodes/<address>")
@needs("update_bdb", scoped=True, query=CHANGING)
def forget_node(uid: int, address: str) -> Response:
    """A server that was found and has gone for good. One that is there is found again."""
    store().nodes.forget(uid, address)
    return answer({})


@blueprint.route("/v1/bdbs/<int(max=2147483647):uid>/passwords", methods=["PUT", "POST", "DELETE"])
@needs("update_bdb", scoped=True, takes=BdbPasswordBody)
def passwords(uid: int, sent: BdbPasswordBody) -> Response:
    """Always a 406: Redis Enterprise sets the default user's password here."""
    store().objects.get(Database, uid)
    raise password_refusal()


def prepared(sent: BdbBody) -> dict[str, Any]:
    """The fields of a request as changes of a record. Raises Refusal, CertificateError."""
    # These are not fields of a record.
    ours = {"uid", "client_cas", "pinned_certificates", "trust_grows", *demands.FIELDS}
    ours |= {"audit_settings", "db_conns_auditing"}
    changes = {name: value for name, value in sent.sent().items() if name not in ours}
    if "endpoints" in changes:
        changes["endpoints"] = endpoints(sent)
    if "authorized_subjects" in changes:
        changes["authorized_subjects"] = subjects("authorized_subjects", sent.authorized_subjects)
    if "authentication_ssl_client_certs" in changes:
        changes["authentication_ssl_client_certs"] = client_certificates(sent)
    if "roles_permissions" in changes:
        changes["roles_permissions"] = roles_permissions(sent)
    if "node_addresses" in changes:
        changes["node_addresses"] = tuple(sorted(sent.node_addresses.items()))
    if "node_keys" in changes:
        changes["node_keys"] = tuple(dict.fromkeys(sent.node_keys))
    if sent.tls_server_ca:
        changes["tls_server_ca"] = check_authorities(sent.tls_server_ca)
        for doubt in doubts(sent.tls_server_ca):
            warn(f"tls_server_ca: {doubt}")
    return changes


def check_there(database: Database) -> None:
    """Raises Refusal 409 while the servers are being given back: what is set then is never so."""
    if database.deleting:
        raise conflict("busy", f"bdb {database.uid} is delete-pending: it cannot be changed")


def check_enforceable(database: Database, nodes: Sequence[Node]) -> None:
    """Raises Refusal 409 where a server's policy is another control plane's, or where enforcement
    would cut off a node's peer that is not bound."""
    owned = [f"{node.address}: {node.error}" for node in nodes if node.error.startswith("OWNED")]
    if owned:
        raise refused(
            "node_owned", f"{'; '.join(owned)}: remove the server from that database first"
        )
    found = [node for node in nodes if node.origin == "found" and not node.is_peer]
    unbound = [f"{node.address} ({node.error or 'not in step yet'})" for node in found]
    if unbound and not database.allow_unbound_peers:
        raise refused(
            "peer_unbound",
            f"{', '.join(unbound)}: the servers name it as one of their nodes, but it never had "
            "the policy, so enforcement would cut it off: enrol it, check that the control "
            "plane can reach it (node_addresses), or send allow_unbound_peers",
        )


def endpoints(sent: BdbBody) -> tuple[Endpoint, ...]:
    found = tuple(Endpoint(tuple(one.addr), one.port, one.dns_name) for one in sent.endpoints)
    for index, endpoint in enumerate(found):
        if not endpoint.addr and not endpoint.dns_name:
            raise invalid(
                "missing_field",
                f"endpoints.{index}.addr: the address of the server is missing: send addr or "
                "dns_name",
            )
    return found


def client_certificates(sent: BdbBody) -> tuple[str, ...]:
    """One certificate an entry: a chain may be sent in one, or spread over several."""
    found = "\n".join(entry.client_cert for entry in sent.authentication_ssl_client_certs)
    if not found:
        return ()
    for _, why in read_bundle(found).left_out:
        warn(why)
    return check_clients(found, sent.pinned_certificates)


def roles_permissions(sent: BdbBody) -> tuple[RolePermission, ...]:
    entries = ((entry.role_uid, entry.redis_acl_uid) for entry in sent.roles_permissions)
    return tuple(RolePermission(*entry) for entry in dict.fromkeys(entries))


def password_refusal() -> Refusal:
    return refused(
        "passwords_not_managed",
        "clients of a database are known by their certificates: a password of its default user is "
        "set on the servers themselves",
    )


def only(shown: dict[str, Any]) -> dict[str, Any]:
    """Those fields that the request asks for with ?fields=a,b; all where it does not."""
    if "fields" not in request.args:
        return shown
    wanted = request.args["fields"].split(",")
    return {name: value for name, value in shown.items() if name in wanted}


def shown(database: Database) -> dict[str, Any]:
    uid = database.uid
    left = [{"uid": user.uid, "name": user.name} for user in store().policies.not_synced(uid)]
    action = store().actions.recent(uid, 1)
    action_uid = action[0].uid if action else ""
    known = tuple(map(as_of_now, store().nodes.of(uid)))
    return render(database, store().policies.target(uid), action_uid, known, left)


def render(
    database: Database,
    target: Target,
    action_uid: str,
    nodes: Sequence[Node],
    not_synced: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "uid": database.uid,
        "name": database.name,
        "status": enumerated(status(database, target, nodes)),
        "status_text": said if (said := status(database, target, nodes)) not in STATES else "",
        "created_time": rendered_time(database.created),
        "action_uid": action_uid,
        "type": "redis",
        "port": next((one.port for one in database.endpoints), 0),
        "version": oldest(nodes),
        "endpoints": [rendered_endpoint(database, i) for i in range(len(database.endpoints))],
        "tls_mode": database.tls_mode,
        "enforce_client_authentication": database.enforce_client_authentication,
        "client_cert_subject_validation_type": database.client_cert_subject_validation_type,
        "authorized_subjects": rendered_subjects(database.authorized_subjects),
        "authentication_ssl_client_certs": [
            {"client_cert": pem} for pem in database.authentication_ssl_client_certs
        ],
        "pinned_certificates": list(database.client_ca_uses.pins),
        "roles_permissions": [
            {"role_uid": given.role_uid, "redis_acl_uid": given.redis_acl_uid}
            for given in database.roles_permissions
        ],
        "default_user": database.default_user,
        "tls_server_ca": database.tls_server_ca,
        "tls_server_name": database.tls_server_name,
        "node_addresses": dict(database.node_addresses),
        "node_keys": list(database.node_keys),
        "sentinel_master": database.sentinel_master,
        "allow_unbound_peers": database.allow_unbound_peers,
        "allow_trust_on_internal_links": database.allow_trust_on_internal_links,
        "enforcement": database.enforcement,
        "adopt_users": database.adopt_users,
        **demands.rendered(database.demands),
        **auditing.rendered(database.audit_settings),
        "generation": target.generation,
        "nodes": [rendered_node(node, target) for node in nodes],
        "refused": [
            {"address": node.address, "user": one.user, "line": one.line, "why": one.why}
            for node in nodes
            for one in node.refused
            if one.why
        ],
        "not_synced": list(not_synced),
    }


def oldest(nodes: Sequence[Node]) -> str:
    """The oldest version that a server of a database runs; "" while none was seen."""
    versions = (node.software.partition(" ")[2] for node in nodes if node.role != "sentinel")
    numbered = ((*map(int, re.findall(r"\d+", one)), one) for one in versions if one)
    return str(min(numbered, key=lambda one: one[:-1], default=("",))[-1])


def rendered_endpoint(database: Database, index: int) -> dict[str, Any]:
    endpoint = database.endpoints[index]
    return {
        "uid": f"{database.uid}:{index + 1}",
        "addr": list(endpoint.addr),
        "port": endpoint.port,
        "dns_name": endpoint.dns_name,
    }


def rendered_node(node: Node, target: Target) -> dict[str, Any]:
    return {
        "address": node.address,
        "status": node_status(node, target),
        "generation": node.generation,
        "role": node.role,
        "origin": node.origin,
        "detail": node.detail,
        "age": rendered(node),
    }


def node_status(node: Node, target: Target) -> str:
    if node.error:
        return node.error
    return "active" if node.follows(target) else "active-change-pending"


def enumerated(text: str) -> str:
    """A status by the enumeration of Redis Enterprise: what is not a state of it is a change
    that is on its way."""
    return text if text in STATES else "active-change-pending"


def status(database: Database, target: Target, nodes: Sequence[Node]) -> str:
    """`active` where every node holds the policy, and that is whole; else what is missing, the
    worst first."""
    if database.deleting:
        return "delete-pending"
    for node in nodes:
        if node.error:
            return f"{node.address}: {node.error}"
    states = {node_status(node, target) for node in nodes}
    whole = database.uid not in store().policies.unfinished()
    return "active" if whole and states == {"active"} else "active-change-pending"
