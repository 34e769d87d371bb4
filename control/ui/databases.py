"""Databases: the Redis and Valkey deployments that are looked after, and who may do what there."""

from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from flask import flash, redirect

from control.ui import demands, objects
from control.ui.ask import ask, may
from control.ui.changes import Item
from control.ui.fields import (
    Area,
    Certificates,
    Endpoints,
    Field,
    Fingerprints,
    Flag,
    Grants,
    Pick,
    words,
)
from control.ui.objects import Column, Kind
from control.ui.users import roles


def acls() -> Iterator[tuple[str, str]]:
    return ((str(one["uid"]), one["name"]) for one in ask("GET /v1/redis_acls"))


def more(database: Item) -> dict[str, Any]:
    found: dict[str, Any] = {"servers": servers([database]), "entering": []}
    if may("view_all_roles_info") and may("view_all_redis_acls_info"):
        names = {one["uid"]: one["name"] for one in ask("GET /v1/roles")}
        rules = {one["uid"]: one for one in ask("GET /v1/redis_acls")}
        found["entering"] = [
            (one["role_uid"], names[one["role_uid"]], rules[one["redis_acl_uid"]])
            for one in database["roles_permissions"]
        ]
    return found


def servers(databases: Sequence[Item]) -> list[Item]:
    """The nodes of these databases, as /v1/certauth/nodes shows them, each with its role."""
    roles = {(one["uid"], node["address"]): node["role"]
             for one in databases for node in one["nodes"]}  # fmt: skip
    uids = {one["uid"] for one in databases}
    found = ask("GET /v1/certauth/nodes")["nodes"]
    return [
        {**node, "role": roles.get((node["bdb_uid"], node["address"]), "")}
        for node in found
        if node["bdb_uid"] in uids
    ]


def health(database: Item) -> str:
    if database["status_text"]:
        return "bad"
    return "good" if database["status"] == "active" else "warn"


def summed(database: Item) -> str:
    """How many of its servers are in step."""
    nodes = database["nodes"]
    return f"{sum(node['status'] == 'active' for node in nodes)} of {len(nodes)}"


class DatabaseGrants(Grants):
    others = staticmethod(acls)


KIND = Kind(
    "database",
    "Databases",
    "Redis and Valkey deployments that run somewhere. All servers of one are found from any of "
    "them, and kept in step.",
    "databases",
    "/v1/bdbs",
    ("create_bdb", "update_bdb", "delete_bdb"),
    (
        Column("Status", lambda database: database["status_text"] or database["status"], health),
        Column("Servers in step", summed),
        Column("Enforcement", lambda database: enforced(database)),
        Column("Generation", lambda database: str(database["generation"])),
    ),
    (
        Field("name", "Name", "Letters, digits, dots, hyphens.", required=True),
        Endpoints(
            "endpoints",
            "Servers",
            "One HOST:PORT a line; behind it, where the certificate has another name, that name.",
            required=True,
        ),
        Pick(
            "tls_mode",
            "Certificates count",
            choices=words(enabled="yes", disabled="not at all", replica_ssl="between nodes only"),
        ),
        Pick(
            "enforcement",
            "Enforcement",
            "Where certificates count. Shadow decides and logs, and does nothing.",
            choices=words(
                refuse="refuse whose certificate is nobody's",
                leave="leave everybody else as they are",
                shadow="shadow",
            ),
        ),
        Pick(
            "enforce_client_authentication",
            "A client needs a certificate",
            choices=words(enabled="yes", disabled="no"),
        ),
        Pick(
            "client_cert_subject_validation_type",
            "Only listed subjects",
            "The list itself is edited by the API or by redis-certauth apply.",
            choices=words(disabled="no", san_cn="by CN or SAN", full_subject="by subject"),
        ),
        DatabaseGrants(
            "roles_permissions", "Rights", "Who holds the role may do what the ACL says.",
            choices=roles,
        ),
        Certificates(
            "authentication_ssl_client_certs",
            "CAs of clients, of its own",
            "PEM. Without any, those of the cluster count. A client's own certificate among them "
            "is pinned: it is trusted by itself.",
        ),
        Fingerprints(
            "pinned_certificates",
            "Pinned certificates",
            "SHA-256, one per line, of clients' certificates that say CA:TRUE. Certificates that "
            "are not CAs need not be named.",
        ),
        *demands.fields_of(inherited=True),
        Area("tls_server_ca", "CA of its servers", "PEM. Without one, the control plane's own CA."),
        Field("tls_server_name", "Name that its servers' certificates show"),
        Field("sentinel_master", "Master", "Where its Sentinels watch several."),
        Flag("default_user", "The user default stays as the operator made it"),
        Flag("adopt_users", "Take over users of the same names that a server has already"),
        Flag("allow_unbound_peers", "Enforce also where a node's peer is not bound"),
        Flag(
            "allow_trust_on_internal_links",
            "CAs of clients are trusted on links between nodes as well",
        ),
    ),
    "database.html",
    more,
    noun_in_log="bdb",
)  # fmt: skip
blueprint = objects.blueprint_of(KIND)


def enforced(database: Item) -> str:
    return str(database["enforcement"]) if database["tls_mode"] == "enabled" else "off"


@blueprint.post("/<int(max=2147483647):uid>/nodes/<address>/forget")
def forget(uid: int, address: str) -> Any:
    """A server that was found and has gone for good."""
    ask(f"DELETE /v1/bdbs/{uid}/nodes/{address}")
    flash(f"{address} is forgotten.")
    return redirect(f"/ui/databases/{uid}", HTTPStatus.SEE_OTHER)
