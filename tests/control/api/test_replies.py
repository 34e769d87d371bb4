"""Answers against schemas: our own document is valid OpenAPI and says what is answered, and answers
have the fields and types that Redis Enterprise documents for the same calls."""

from datetime import datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from control.reports import Node
from tests.kit.rest import ControlPlane
from tests.kit.support import Pki

# Of the OpenAPI document of RS 8.2: field, type (or values), and ! where it is required.
DOCUMENTED = {
    "user": "uid! integer, name! string, role! management, role_uids! integers, auth_method! "
    "regular|certificate|entraid|sso, email string, certificate_subject_line string, email_alerts "
    "boolean, bdbs_email_alerts strings, cluster_email_alerts boolean, last_login integer, status "
    "active|locked|password_expired, password_issue_date time, action_uid string, account_id "
    "integer",
    "role": "uid! integer, name! string, management! management, resources resources, action_uid "
    "string, account_id integer",
    "redis_acl": "uid integer, name string, acl string, min_version string, max_version string, "
    "account_id integer, action_uid string",
    "server_certificate": "bdb_uid string, cert string, not_before time, not_after time",
    "certificates": "api_cert string, mtls_trusted_ca_cert string",
    "own_role": "role management",
    "permissions": "api_permissions strings, ui_permissions strings",
    "health": "fqdn! string, status! ok|warning|error, license! license_health, certificates! "
    "certificate_health*, nodes! node_health*, active_alerts! alert*, database_infos! "
    "database_health*",
    "license_health": "expired! boolean, shards_in_use! integer, ram_shards_in_use! integer, "
    "flex_shards_in_use! integer, shards_limit! integer, ram_shards_limit! integer, "
    "flex_shards_limit! integer, valid_until! string",
    "certificate_health": "type! string, expired! boolean, valid_until! string",
    "alert": "name! string, active_since! string, severity string, threshold string",
    "node_health": "id! string, status! active|warning|down, detailed_status! "
    "down|provisioning|decommissioning|active, role! leader|follower, version! string, shards! "
    "any*, memory! memory, observed_at! integer, services! any*, ephemeral_memory_path! string, "
    "ephemeral_memory_size! number, persistent_memory_path! string, persistent_memory_size! "
    "number, quorum_only! boolean, in_maintenance! boolean, active_alerts alert*",
    "memory": "total_ram! integer, free_ram! integer, free_provisional_ram! integer, "
    "total_provisional_ram! integer, overbooking_depth! integer",
    "database_health": "id! string, name! string, status! active|warning|down, detailed_status! "
    "bdb_status, version! string, high_availability! availability",
    "availability": "status! string",
    # Of its pages, which are not schemas.
    "bdb": "uid! integer, name! string, status! bdb_status, action_uid string, type "
    "redis|memcached, port integer, version string, created_time time, tls_mode "
    "enabled|disabled|replica_ssl, enforce_client_authentication enabled|disabled, default_user "
    "boolean, db_conns_auditing boolean",
    "license": "license string, expired boolean, activation_date time, expiration_date time, key "
    "string, features strings, owner string, shards_limit integer, cluster_name string",
    "cluster_alert": "change_time time, change_value any, enabled boolean, state boolean, severity "
    "DEBUG|INFO|WARNING|ERROR|CRITICAL, threshold string",
    "auditing": "audit_address string, audit_port integer, audit_protocol TCP|local, "
    "audit_reconnect_interval integer, audit_reconnect_max_attempts integer",
}
VALUES = {
    "management": "admin cluster_member cluster_viewer db_member db_viewer user_manager none",
    "bdb_status": "pending active active-change-pending delete-pending import-pending "
    "creation-failed recovery",
}
TYPES: dict[str, Any] = {
    "string": {"type": "string"}, "integer": {"type": "integer"}, "number": {"type": "number"},
    "boolean": {"type": "boolean"}, "any": {}, "time": {"type": "string", "format": "date-time"},
    "strings": {"type": "array", "items": {"type": "string"}},
    "integers": {"type": "array", "items": {"type": "integer"}},
    "resources": {"type": "array", "items": {"type": "object", "required": ["type", "uids"]}},
}  # fmt: skip
# "METHOD path" → a schema; with *, a list; with {}, by name.
CALLS = {
    "/v1/users": "user*", "/v1/users/2": "user", "/v1/users/role": "own_role",
    "/v1/users/permissions": "permissions{}", "/v1/users/permissions/db_viewer": "permissions{}",
    "/v1/roles": "role*", "/v1/roles/8": "role", "/v1/redis_acls": "redis_acl*",
    "/v1/redis_acls/1": "redis_acl", "/v1/bdbs": "bdb*", "/v1/bdbs/1": "bdb",
    "/v1/bdbs/certificates": "server_certificate*",
    "/v1/bdbs/1/certificates": "server_certificate",
    "/v1/cluster/certificates": "certificates", "/v4/cluster/health": "health",
    "/v1/license": "license", "/v1/cluster/alerts": "cluster_alert{}",
    "/v1/cluster/alerts/cluster_certs_about_to_expire": "cluster_alert",
    "/v1/cluster/auditing/db_conns": "auditing",
}  # fmt: skip


def schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a word of the tables above."""
    if kind.endswith("*"):
        return {"type": "array", "items": schema(kind[:-1])}
    if kind.endswith("{}"):
        return {"type": "object", "additionalProperties": schema(kind[:-2])}
    if kind in TYPES:
        return dict(TYPES[kind])
    if kind in VALUES or "|" in kind:
        return {"enum": VALUES[kind].split() if kind in VALUES else kind.split("|")}
    fields = [one.strip().split() for one in DOCUMENTED[kind].split(", ")]
    return {
        "type": "object",
        "properties": {name.rstrip("!"): schema(of) for name, of in fields},
        "required": [name[:-1] for name, _ in fields if name.endswith("!")],
    }


@pytest.fixture
def full(api: ControlPlane, pki: Pki) -> ControlPlane:
    """With one of each, and a server that is behind."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice", role_uids=[6])
    api.password_user("bob", "db_viewer")
    sink = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": 9}
    api.ok("PUT /v1/cluster/auditing/db_conns", sink)
    api.database()
    scope = [{"type": "db", "uids": ["1"]}]
    api.ok("POST /v1/roles", {"name": "some", "management": "db_viewer", "resources": scope})
    api.store.nodes.report(
        1,
        [
            Node(
                1, "127.0.0.1:6380", 0, False, "UNREACHABLE Error 111",
                certificate=pki.server.pem.decode(),
            )
        ],
    )  # fmt: skip
    return api


def is_time(text: object) -> bool:
    return not isinstance(text, str) or bool(datetime.fromisoformat(text))


def problems(wanted: dict[str, Any], found: Any) -> list[str]:
    checker = Draft202012Validator.FORMAT_CHECKER
    checker.checks("date-time", ValueError)(is_time)
    made = Draft202012Validator(wanted, format_checker=checker)
    return [f"{one.json_path}: {one.message}" for one in made.iter_errors(found)]


@pytest.mark.parametrize("path", CALLS)
def test_an_answer_is_as_redis_enterprise_documents_it(full: ControlPlane, path: str) -> None:
    """Required fields are there, and each has the documented type or one of the values."""
    if path == "/v1/cluster/certificates":  # none of the API's own here
        assert problems(schema("certificates"), full.ok(f"GET {path}")) == []
        return
    assert problems(schema(CALLS[path]), full.ok(f"GET {path}")) == []


MADE: dict[str, tuple[Any, Any]] = {  # what makes one of each, and changes it
    "user": (
        {
            "name": "carol", "email": "c@acme.com", "password": "carol's", "role_uids": [6],
            "email_alerts": True, "bdbs_email_alerts": ["1"], "cluster_email_alerts": False,
        },
        {"email": "carol@acme.com"},
    ),
    "role": ({"name": "ops", "management": "none"}, {"name": "operators"}),
    "redis_acl": ({"name": "gets", "acl": "+get ~*"}, {"acl": "+set ~*"}),
}  # fmt: skip
ERROR = {
    "type": "object",
    "required": ["error_code", "description"],
    "properties": {"error_code": {"type": "string"}, "description": {"type": "string"}},
}


@pytest.mark.parametrize("kind", MADE)
def test_an_answer_to_a_change_is_as_redis_enterprise_documents_it(
    full: ControlPlane, kind: str
) -> None:
    """A new one, in earnest and dry; changed; deleted; and the refusals on the way, by status."""
    body, change = MADE[kind]
    path, shape = f"/v1/{kind}s", schema(kind)
    assert problems(shape, full.ok(f"POST {path}?dry_run", body)) == []
    made = full.ok(f"POST {path}", body)
    assert problems(shape, made) == []
    one = f"{path}/{made['uid']}"
    assert problems(shape, full.ok(f"PUT {one}", change)) == []
    if kind == "redis_acl":
        tried = full.ok(f"POST {path}/validate", body | {"name": "other"})
        assert problems(shape, tried) == []
    assert problems({"type": "object"}, full.ok(f"DELETE {one}")) == []
    again = full.ok(f"POST {path}", body)
    for call, sent, status in (
        (f"POST {path}", body, 409), (f"POST {path}", {"name": 1}, 400), (f"GET {one}", None, 404),
        (f"PUT {one}", change, 404), (f"DELETE {one}", None, 404),
        (f"PUT {path}/{again['uid']}", {"name": 1}, 400),
    ):  # fmt: skip
        answer = full(call, sent)
        assert (answer.status, problems(ERROR, answer.json)) == (status, []), call


def test_a_schema_that_is_broken_is_seen(full: ControlPlane) -> None:
    """The tables above can fail: a sentence as a status, a missing field, a number as text."""
    one = full.ok("GET /v1/bdbs/1")
    assert one["status_text"].startswith("127.0.0.1:6380: UNREACHABLE")
    for change in ({"status": one["status_text"]}, {"uid": "1"}, {"created_time": "soon"}):
        assert problems(schema("bdb"), one | change)
    del one["name"]
    assert problems(schema("bdb"), one)


def test_our_document_is_openapi(api: ControlPlane) -> None:
    """By a validator that is not ours."""
    document = api.ok("GET /openapi.json", auth=None)
    assert [one.message for one in OpenAPIV31SpecValidator(document).iter_errors()] == []
    document["info"] = {}
    assert list(OpenAPIV31SpecValidator(document).iter_errors())


def test_answers_are_as_our_document_says(full: ControlPlane) -> None:
    """Each of the calls above, by the schema that the document has for it."""
    document = full.ok("GET /openapi.json", auth=None)
    for path in [*CALLS, "/v1/cluster", "/v1/cluster/policy", "/v1/nodes", "/v1/logs"]:
        route = full.app.url_map.bind("").match(path, return_rule=True)[0].rule
        name = route.replace("<int(max=2147483647):uid>", "{uid}")
        name = name.replace("<name>", "{name}").replace("<role>", "{role}")
        found = document["paths"][name]["get"]["responses"]["200"]["content"]
        wanted = {**found["application/json"]["schema"], "components": document["components"]}
        assert problems(wanted, full.ok(f"GET {path}")) == [], path
