"""What Redis Enterprise's clients ask about the cluster itself, as far as there is a truth to tell.

The cluster is the control plane, and its only node (uid 1) is the process that answers. The Redis
and Valkey servers are not nodes of it: they are listed with their databases. There are no shards,
and the licence has no limit. The first administrator is made on the machine itself (`redis-certauth
init`), so nothing can be bootstrapped from here, and anyone who comes first over the network
becomes nobody."""

import math
import os
import platform
import time
from importlib.metadata import version
from typing import Any, Literal

from flask import Blueprint, Response, current_app
from pydantic import BaseModel, ConfigDict

from control.ages import OLD, as_of_now
from control.api.bdbs import enumerated, node_status, oldest, status
from control.api.models import Answer, Body, words
from control.api.web import PUBLIC, Rule, answer, authorise, flag, needs, store
from control.errors import conflict, missing, refused
from control.policy import core
from control.records import Database, RedisAcl, Role, User, rendered_time


class BootstrapBody(Body):
    """What POST /v1/bootstrap/… takes on Redis Enterprise; nothing of it is looked at."""

    IGNORED = words("""
        action cluster credentials node license dns_suffixes policy recovery_filename envoy
        required_version retry_count_max retry_time cnm_https_port crdb certificates
    """)

    OPTIONAL = True


class NodeAnswer(Answer):
    uid: int
    status: Literal["active", "down"]
    software_version: str
    os_version: str
    architecture: str
    cores: int
    shard_count: int
    shard_list: list[int]


class BootstrapStatus(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    state: Literal["completed"]
    start_time: str
    end_time: str


class BootstrapAnswer(Answer):
    bootstrap_status: BootstrapStatus
    local_node_info: dict[str, Any]


class HealthcheckAnswer(Answer):
    """`inactive` comes with a 503."""

    status: Literal["active", "inactive"]


class ProbeAnswer(Answer):
    """`waiting` comes with a 503."""

    status: Literal["live", "ready", "waiting"]


class CheckAnswer(Answer):
    cluster_test_result: bool
    nodes: list[dict[str, Any]]


class StatsAnswer(Answer):
    """Counts of this moment; no history is kept."""

    time: str
    users: int
    roles: int
    redis_acls: int
    bdbs: int
    servers: int
    servers_in_step: int


class LicenseAnswer(Answer):
    """None is needed: it has no limit and no end. The numbers are the greatest that clients of
    Redis Enterprise can hold."""

    license: str
    key: str
    owner: str
    cluster_name: str
    expired: bool
    activation_date: str
    expiration_date: str
    features: list[str]
    shards_limit: int
    ram_shards_limit: int
    ram_shards_in_use: int
    flash_shards_limit: int
    flash_shards_in_use: int


class HealthAnswer(Answer):
    """By the schema of Redis Enterprise; `faults` of the node and `description` are ours."""

    fqdn: str
    status: Literal["ok", "warning", "error"]
    license: dict[str, Any]
    certificates: list[dict[str, Any]]
    nodes: list[dict[str, Any]]
    active_alerts: list[dict[str, str]]
    database_infos: list[dict[str, Any]]


blueprint = Blueprint("system", __name__)
NODE = 1
UNLIMITED = 2**31 - 1
NEVER = "9999-12-31T23:59:59Z"


@blueprint.get("/v1/bootstrap")
@needs("any", answers=BootstrapAnswer)
def bootstrap() -> Response:
    created = rendered_time(store().settings.cluster().created)
    done = {"state": "completed", "start_time": created, "end_time": created}
    return answer({"bootstrap_status": done, "local_node_info": node()})


@blueprint.post("/v1/bootstrap/<action>")
@needs("any", takes=BootstrapBody)
def start_bootstrap(action: str, sent: BootstrapBody) -> Response:
    """Always a 409: this control plane has its administrator already."""
    raise conflict("already_initialised", f"'{action}': `redis-certauth init` has done this")


@blueprint.post("/v1/bootstrap/validate/<action>")
@needs("any", takes=BootstrapBody)
def validate_bootstrap(action: str, sent: BootstrapBody) -> Response:
    """Always a 406, for the same reason."""
    raise refused("already_initialised", f"'{action}': `redis-certauth init` has done this")


@blueprint.get("/v1/nodes")
@needs("view_all_nodes_info", answers=list[NodeAnswer])
def read_nodes() -> Response:
    return answer([node()])


@blueprint.get("/v1/nodes/<int(max=2147483647):uid>")
@needs("view_node_info", answers=NodeAnswer)
def read_node(uid: int) -> Response:
    if uid != NODE:
        raise missing(f"node {uid}: the only node is {NODE}, this control plane")
    return answer(node())


@blueprint.get("/v1/license")
@needs("view_license", scoped=True, answers=LicenseAnswer)
def read_license() -> Response:
    """Unlimited: none is needed."""
    cluster = store().settings.cluster()
    return answer(
        {
            "license": "",
            "key": "",
            "owner": "",
            "cluster_name": cluster.name,
            "expired": False,
            "activation_date": rendered_time(cluster.created),
            "expiration_date": NEVER,
            "features": [],
            "shards_limit": UNLIMITED,
            "ram_shards_limit": UNLIMITED,
            "ram_shards_in_use": 0,
            "flash_shards_limit": UNLIMITED,
            "flash_shards_in_use": 0,
        }
    )


@blueprint.get("/v1/local/node/master_healthcheck")
@needs(PUBLIC, answers=HealthcheckAnswer)
def master_healthcheck() -> Response:
    """For load balancers: a 503 where this control plane does not do its work. Without a login
    where master_healthcheck_api_auth is off."""
    if store().settings.cluster().master_healthcheck_api_auth:
        authorise(Rule("view_cluster_info"))
    faults = plane_faults()
    response = answer({"status": "inactive" if faults else "active"})
    response.status_code = 503 if faults else 200
    return response


@blueprint.get("/livez")
@needs(PUBLIC, answers=ProbeAnswer)
def live() -> Response:
    """Whether this process answers at all; behind the front, control/http/bridge.py does."""
    return answer({"status": "live"})


@blueprint.get("/readyz")
@needs(PUBLIC, answers=ProbeAnswer)
def ready() -> Response:
    """Whether requests should be sent here: a 503 where this control plane does not do its work.
    Anybody may ask, so it does not say why."""
    faults = plane_faults()
    response = answer({"status": "waiting" if faults else "ready"})
    response.status_code = 503 if faults else 200
    return response


@blueprint.get("/v1/cluster/check")
@needs("view_all_nodes_checks", answers=CheckAnswer)
def check() -> Response:
    """Whether this control plane does its work, certificates are in date and every server holds its
    policy."""
    faults = [*plane_faults(), *certificate_faults(), *database_faults()]
    found = {"node_uid": NODE, "result": not faults}
    result = {**found, "error": "; ".join(faults)[:4000]} if faults else found
    return answer({"cluster_test_result": not faults, "nodes": [result]})


@blueprint.get("/v1/cluster/stats")
@needs("view_cluster_stats", answers=StatsAnswer, query=("interval", "stime", "etime"))
def stats() -> Response:
    """As they are now, whatever span of time the query names."""
    databases = store().objects.all(Database)
    servers = [
        node_status(as_of_now(node), store().policies.target(one.uid))
        for one in databases
        for node in store().nodes.of(one.uid)
    ]
    return answer(
        {
            "time": rendered_time(int(time.time())),
            "users": store().objects.count(User),
            "roles": store().objects.count(Role),
            "redis_acls": store().objects.count(RedisAcl),
            "bdbs": len(databases),
            "servers": len(servers),
            "servers_in_step": servers.count("active"),
        }
    )


@blueprint.get("/v4/cluster/health")
@needs("view_cluster_info", answers=HealthAnswer, query=("issues_only",))
def health() -> Response:
    """With `issues_only`, without the databases that are active and the certificates in date."""
    everything, now = not flag("issues_only"), rendered_time(int(time.time()))
    faults, database_alerts = plane_faults(), database_faults()
    own_alerts = [*faults, *certificate_faults()]
    infos = [
        shown
        for one in store().objects.all(Database)
        if (shown := database_health(one)) and (everything or shown["status"] != "active")
    ]
    worst = "error" if own_alerts else "warning" if database_alerts else "ok"
    return answer(
        {
            "fqdn": store().settings.cluster().name,
            "status": worst,
            "license": {
                "expired": False,
                "valid_until": NEVER,
                **dict.fromkeys(
                    ("shards_limit", "ram_shards_limit", "flex_shards_limit"), UNLIMITED
                ),
                **dict.fromkeys(("shards_in_use", "ram_shards_in_use", "flex_shards_in_use"), 0),
            },
            "certificates": [one for one in certificates() if everything or one["expired"]],
            "nodes": [node_health(faults)],
            "active_alerts": [alert("cluster_fault", "ERROR", one, now) for one in own_alerts]
            + [alert("bdb_not_in_step", "WARNING", one, now) for one in database_alerts],
            "database_infos": infos,
        }
    )


def alert(name: str, severity: str, description: str, now: str) -> dict[str, str]:
    """Nobody writes down since when something is so: it is so now."""
    return {"name": name, "severity": severity, "active_since": now, "description": description}


def node_health(faults: list[str]) -> dict[str, Any]:
    """The control plane, which keeps no data: it has no memory and no shards to tell of."""
    state = "down" if faults else "active"
    memory = ("free_provisional_ram", "free_ram", "overbooking_depth")
    return {
        "id": str(NODE), "uid": NODE, "status": state, "detailed_status": state, "faults": faults,
        "role": "leader", "version": version("redis-certauth"), "in_maintenance": False,
        "quorum_only": True, "observed_at": int(time.time()), "services": [], "shards": [],
        "memory": dict.fromkeys((*memory, "total_provisional_ram", "total_ram"), 0),
        "ephemeral_memory_path": "", "ephemeral_memory_size": 0,
        "persistent_memory_path": "", "persistent_memory_size": 0, "active_alerts": [],
    }  # fmt: skip


def database_health(database: Database) -> dict[str, Any]:
    """`down` where no server can be reached."""
    known = tuple(map(as_of_now, store().nodes.of(database.uid)))
    told = status(database, store().policies.target(database.uid), known)
    reached = any(not node.error for node in known)
    replicas = any("replica" in node.role for node in known if not node.error)
    return {
        "id": str(database.uid), "uid": database.uid, "name": database.name,
        "status": "active" if told == "active" else "warning" if reached else "down",
        "detailed_status": enumerated(told), "description": told, "version": oldest(known),
        "high_availability": {"status": "up" if replicas else "disabled"},
    }  # fmt: skip


def node() -> dict[str, Any]:
    return {
        "uid": NODE,
        "status": "down" if plane_faults() else "active",
        "software_version": version("redis-certauth"),
        "os_version": platform.platform(),
        "architecture": platform.machine(),
        "cores": os.cpu_count() or 1,
        "shard_count": 0,
        "shard_list": [],
    }


def certificates() -> list[dict[str, Any]]:
    """The first of each name: the server's own, or the first CA of clients."""
    named = {name: one.certificate for name, one in store().settings.certificates().items()}
    pems = named | current_app.extensions["own"]()
    found = {name: core.identity(pem.encode()).not_after for name, pem in pems.items()}
    return [
        {"type": name, "valid_until": rendered_time(end), "expired": end < time.time()}
        for name, end in found.items()
    ]


def certificate_faults() -> list[str]:
    return [f"certificate '{one['type']}' has expired" for one in certificates() if one["expired"]]


def plane_faults() -> list[str]:
    """What keeps this control plane from its work: a part of it that stands still, or that none
    speaks to the servers."""
    faults: list[str] = current_app.extensions["pulse"].faults()
    silence = store().lease.silence()
    if silence > OLD:
        since = f"since {silence:.0f} seconds" if silence < math.inf else "since the start"
        faults.append(f"no control plane speaks to the servers, {since}: none holds the lease")
    return faults


def database_status(database: Database) -> str:
    known = tuple(map(as_of_now, store().nodes.of(database.uid)))
    return status(database, store().policies.target(database.uid), known)


def database_faults() -> list[str]:
    states = [(one, database_status(one)) for one in store().objects.all(Database)]
    return [f"bdb {one.uid} ('{one.name}'): {state}" for one, state in states if state != "active"]
