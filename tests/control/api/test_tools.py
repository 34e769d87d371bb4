"""Calls in the order in which public tools of Redis Enterprise make them: each passes, or ends in a
sentence that names what to send instead."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis_enterprise

from control.api.absent import not_here
from control.http.server import Listen, Server
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import SERVER, Pki, root


def test_vaults_plugin(api: ControlPlane) -> None:
    """Its sequence: read, make a user with a role that is bound to an ACL on a database, rotate its
    password, take all of it away. With the ACL of its configuration, or with a role that is
    there."""
    api.database("orders")
    assert api.ok("GET /v1/cluster")["name"] == "acme"
    acl = next(one for one in api.ok("GET /v1/redis_acls") if one["name"] == "Not Dangerous")
    database = next(one for one in api.ok("GET /v1/bdbs") if one["name"] == "orders")
    role = api.ok("POST /v1/roles", {"name": "orders-v-1", "management": "db_member"})
    bound = [*database["roles_permissions"]]
    bound.append({"role_uid": role["uid"], "redis_acl_uid": acl["uid"]})
    path = f"/v1/bdbs/{database['uid']}"
    assert api.ok(f"PUT {path}", {"roles_permissions": bound})["roles_permissions"] == bound
    user = {
        "name": "v-token-orders-x7Kc2-1764625418".lower(), "password": "aB3-" * 5,
        "role_uids": [role["uid"]], "email_alerts": False, "auth_method": "regular",
    }  # fmt: skip
    made = api.ok("POST /v1/users", user)
    named = next(one for one in api.ok("GET /v1/users") if one["name"] == user["name"])
    assert named["uid"] == made["uid"]
    api.ok(f"PUT /v1/users/{made['uid']}", {"password": "Secret-2"})
    login = (str(user["name"]), "Secret-2")
    assert api.ok("GET /v1/users/role", auth=login) == {"role": "db_member"}
    assert [one["uid"] for one in api.ok("GET /v1/bdbs/1")["not_synced"]] == [made["uid"]]
    api.ok(f"DELETE /v1/users/{made['uid']}")
    api.ok(f"DELETE /v1/roles/{role['uid']}")
    assert api.ok(f"GET {path}")["roles_permissions"] == []


def test_vaults_set_up_of_a_database(api: ControlPlane) -> None:
    """Its script makes one by size: refused with the field that is missing here."""
    assert api.ok("GET /v1/bootstrap")["bootstrap_status"]["state"] == "completed"
    answer = api("POST /v1/bdbs", {"name": "db1", "memory_size": 1024, "type": "redis"})
    assert (answer.status, answer.code) == (400, "missing_field")
    assert answer.text.startswith("endpoints")


def test_scripts_for_certificates_by_full_subject(api: ControlPlane, pki: Pki) -> None:
    """Trust a CA, switch login and the allow list on, make the user, log in by certificate; what of
    theirs is refused says what to send."""
    leaf = root("CN=leaf").issue("CN=redis", eku=(SERVER,))
    wrong = {"name": "mtls_trusted_ca", "certificate": leaf.pem.decode()}
    answer = api("PUT /v1/cluster/certificates", {"certificates": [wrong]})
    assert (answer.status, answer.code) == (400, "invalid_certificate")
    assert "CA" in answer.text
    entry = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
    api.ok("PUT /v1/cluster/certificates", {"certificates": [entry]})
    settings = {
        "mtls_certificate_authentication": True,
        "mtls_client_cert_subject_validation_type": "full_subject",
        "mtls_authorized_subjects": [{"CN": "abc", "O": "acme", "OU": ["ops"], "C": "US"}],
    }
    assert api.ok("PUT /v1/cluster", settings)["mtls_certificate_authentication"] is True
    api.ok("POST /v1/roles", {"name": "abc-role", "management": "admin"})
    uid = next(one["uid"] for one in api.ok("GET /v1/roles") if one["name"] == "abc-role")
    api.certificate_user("abc-user", "CN=abc, OU=ops, O=acme, C=US", role_uids=[uid])
    abc = pki.ca.issue("CN=abc,OU=ops,O=acme,C=US")
    assert api.ok("GET /v1/users/role", cert=abc) == {"role": "admin"}
    other = api("GET /v1/users/role", cert=pki.ca.issue("CN=abc,OU=dev,O=acme,C=US"))
    assert other.status == 401
    entry["certificate"] = root("CN=another").pem.decode()
    again = api("PUT /v1/cluster/certificates", {"certificates": [{**entry, "trust_grows": True}]})
    assert again.status == 406


def test_scripts_for_mtls_on_a_database(api: ControlPlane, pki: Pki) -> None:
    """An ACL, a role, a user, the chain of CAs on the database; a role's uid by its name."""
    api.ok("POST /v1/redis_acls", {"name": "abc-acl", "acl": "+@all ~abc:*"})
    acl = next(one["uid"] for one in api.ok("GET /v1/redis_acls") if one["name"] == "abc-acl")
    api.ok("POST /v1/roles", {"name": "abc-role", "management": "none"})
    role = next(one["uid"] for one in api.ok("GET /v1/roles") if one["name"] == "abc-role")
    api.certificate_user("abc-user", "CN=abc", role_uids=[role])
    api.database()
    changed = api.ok(
        "PUT /v1/bdbs/1",
        {
            "tls_mode": "enabled",
            "enforce_client_authentication": "enabled",
            "authentication_ssl_client_certs": [{"client_cert": pki.ca.pem.decode()}],
            "roles_permissions": [{"role_uid": role, "redis_acl_uid": acl}],
            "default_user": False,
        },
    )
    assert changed["roles_permissions"] == [{"role_uid": role, "redis_acl_uid": acl}]
    assert "bind subject CN=abc abc-user" in api.lines()


@pytest.mark.parametrize(
    ("calls", "missing"),
    [
        (  # PyPI redis-enterprise, its typed methods
            ["/v1/cluster", "/v1/cluster/stats", "/v1/bdbs", "/v1/bdbs/1", "/v1/nodes",
             "/v1/nodes/1", "/v1/users", "/v1/license"],
            [],
        ),
        (  # PyPI redis-enterprise-python
            ["/v1/users", "/v1/users/1", "/v1/bdbs", "/v1/cluster/certificates"],
            [],
        ),
        (  # redisctl
            ["/v1/cluster", "/v1/cluster/policy", "/v1/cluster/certificates", "/v1/cluster/alerts",
             "/v1/cluster/auditing/db_conns", "/v1/users", "/v1/users/permissions", "/v1/roles",
             "/v1/redis_acls", "/v1/bdbs", "/v1/bdbs/1", "/v1/logs", "/v1/actions", "/v2/actions",
             "/v1/nodes", "/v1/bootstrap", "/v1/jsonschema", "/v1/license"],
            ["/v1/shards", "/v1/proxies/1", "/v1/modules", "/v2/modules", "/v1/services",
             "/v1/job_scheduler", "/v1/ocsp", "/v1/ocsp/status", "/v1/crdbs", "/v1/crdb_tasks",
             "/v1/cm_settings", "/v1/bdb_groups", "/v1/suffix/x", "/v1/suffixes",
             "/v1/diagnostics", "/v1/debuginfo/all", "/v1/migrations/1", "/v1/usage_report",
             "/v1/endpoints/stats", "/v1/local/services", "/v1/bdbs/1/shards", "/v1/bdbs/1/stats",
             "/v1/bdbs/alerts", "/v1/bdbs/1/modules", "/v1/bdbs/1/actions/import",
             "/v1/nodes/1/actions", "/v1/bdbs/1/availability", "/v1/users/1/sessions",
             "/v1/nodes/status",
             "/v1/nodes/alerts/1", "/v1/nodes/stats",
             "/v1/cluster/actions", "/v1/cluster/debuginfo", "/v4/db/1/health"],
        ),
    ],
    ids=["redis-enterprise", "redis-enterprise-python", "redisctl"],
)  # fmt: skip
def test_what_clients_read(api: ControlPlane, calls: list[str], missing: list[str]) -> None:
    """Each path of theirs that docs/migrating.md says works; each other one is a 404 that says what
    there is not, and not that somebody has mistyped it."""
    api.database()
    sink = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": 9}
    api.ok("PUT /v1/cluster/auditing/db_conns", sink)
    for path in calls:
        api.ok(f"GET {path}")
    for path in missing:
        answer = api(f"GET {path}")
        assert (answer.status, answer.code) == (404, "not_found"), path
        assert answer.text == not_here(path) != "", path
    for path in ("/v1/shard", "/shards", "/v1", "/v1/roles/1/actions", "/vx/shards"):
        assert not_here(path) == ""
    assert api("GET /v1/shard").text.startswith("this address does not exist")
    answer = api("PATCH /v1/users/1", {"name": "x"})
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.text.startswith("PATCH is not")


def test_redis_enterprise_python_changes(api: ControlPlane) -> None:
    """Passwords of users are set; those of a database are a 406 that says who sets them."""
    api.password_user("bob", "db_viewer")
    api.ok("PUT /v1/users/password", {"username": "bob", "new_password": "bob's new"})
    api.ok("GET /v1/users/role", auth=("bob", "bob's new"))
    api.database()
    answer = api("PUT /v1/bdbs/1/passwords", {"password": "x"})
    assert (answer.status, answer.code) == (406, "passwords_not_managed")


def test_ansibles_uri(api: ControlPlane) -> None:
    """A user that is there already is a 409 to look for; a second DELETE a 404."""
    body = {"name": "ops", "email": "ops@acme.com", "password": "Secret-1", "role": "db_viewer"}
    made = api.ok("POST /v1/users", body)
    assert api("POST /v1/users", body).status == 409
    api.ok(f"DELETE /v1/users/{made['uid']}")
    assert api(f"DELETE /v1/users/{made['uid']}").status == 404


def test_the_documented_batch_of_certificates(api: ControlPlane, pki: Pki) -> None:
    """`proxy` and `api`: ours is installed, the other one is named; one with `proxy` alone is
    refused."""
    cert, key = pki.server.pem.decode(), pki.server.key_pem.decode()
    batch = [{"name": name, "certificate": cert, "key": key} for name in ("proxy", "api")]
    said = api.ok("PUT /v1/cluster/certificates", {"certificates": batch})
    assert said["warnings"] == [
        "certificates: proxy: not installed, because this product does not use them"
    ]
    assert api.ok("GET /v1/cluster/certificates")["api_cert"] == cert
    alone = api("PUT /v1/cluster/certificates", {"certificates": batch[:1]})
    assert (alone.status, alone.code) == (403, "unknown_certificate")


# ---- Over the wire ----


@pytest.fixture
def port(api: ControlPlane, pki: Pki) -> Iterator[int]:
    """A front of this control plane, on loopback."""
    server = Server(api.app, Listen("127.0.0.1", 0), pki.server.pem, pki.server.key_pem)
    yield server.start()
    server.stop()


@pytest.fixture
def front(port: int, pki: Pki, tmp_path: Path) -> list[str]:
    """curl, with the CA and the address of a front of this control plane behind it."""
    ca = tmp_path / "ca.pem"
    ca.write_bytes(pki.server_ca.pem)
    curl = shutil.which("curl")
    assert curl, "these tests need curl"
    return [curl, "-sS", "--cacert", str(ca), f"https://localhost:{port}/v1/users/role"]


def test_the_client_of_that_name(api: ControlPlane, port: int) -> None:
    """PyPI redis-enterprise itself: each of its typed methods reads what is there, and its untyped
    ones make and delete a user; a refusal is an error of its own."""
    api.database("orders")
    url, (name, password) = f"https://localhost:{port}", ADMIN
    client = redis_enterprise.EnterpriseClient(
        base_url=url, username=name, password=password, insecure=True
    )
    assert client.cluster_info_sync()["name"] == "acme"
    assert client.cluster_stats_sync()["bdbs"] == 1
    assert client.license_sync()["expired"] is False
    assert [one["uid"] for one in client.nodes_sync()] == [client.node_sync(1)["uid"]]
    assert [one["name"] for one in client.databases_sync()] == ["orders"]
    assert client.database_sync(1)["status"] == "active-change-pending"
    assert [one["name"] for one in client.users_sync()] == ["admin"]
    body = {"name": "eve", "password": "eve's", "role": "db_viewer"}
    made = client.post_sync("/v1/users", body)
    client.delete_sync(f"/v1/users/{made['uid']}")
    with pytest.raises(Exception, match="not"):
        client.get_sync(f"/v1/users/{made['uid']}")


@pytest.mark.parametrize(
    ("option", "status", "text"),
    [("--basic", 200, "admin"), ("--anyauth", 200, "admin"), ("--digest", 401, "Digest")],
)
def test_the_challenge_as_curl_meets_it(
    front: list[str], option: str, status: int, text: str
) -> None:
    """--anyauth takes what is offered, which is Basic; Digest is not, and the refusal says why."""
    command = [*front, option, "--user", ":".join(ADMIN), "-w", "\n%{http_code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    body, _, code = done.stdout.rpartition("\n")
    assert int(code) == status
    assert text in body or status == 401


def test_digest_is_refused_with_the_reason(api: ControlPlane) -> None:
    """Anyone who sends it unasked is told what to send."""
    digest = 'Digest username="admin", realm="x", nonce="n", uri="/", response="r"'
    answer = api("GET /v1/users/role", auth=digest)
    assert (answer.status, answer.code) == (401, "bad_authorization")
    assert "Digest" in answer.text
    assert "--basic" in answer.text
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")


def test_an_exchange_that_only_knows_digest_ends(front: list[str]) -> None:
    """It is offered nothing that it knows, and does not try again and again."""
    command = [*front, "--digest", "--user", ":".join(ADMIN), "-w", "\n%{num_connects}", "-v"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.count("> GET ") <= 2
