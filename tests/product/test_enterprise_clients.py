"""Clients that were made for Redis Enterprise, as their packages are, over the wire: each call
passes, or fails with a sentence that says what there is not or what to send."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.api.app import create_app
from control.http.bridge import peer_cert
from control.http.server import Listen, Server
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import Pki

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the clients, as a user would make it."""
    made = tmp_path_factory.mktemp("clients") / "venv"
    subprocess.run([sys.executable, "-m", "venv", made], check=True, timeout=300)
    words = ["install", "-q", "ansible-core", "redis-enterprise-python"]
    done = subprocess.run([made / "bin/pip", *words], capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"the clients cannot be installed: {done.stderr[-300:]}")
    return made / "bin"


@pytest.fixture
def url(api: ControlPlane, pki: Pki) -> Iterator[str]:
    """Of a front of this control plane, which takes certificates."""
    app = create_app(api.store, peer_cert)
    server = Server(app, Listen("127.0.0.1", 0), pki.server.pem, pki.server.key_pem)
    yield f"https://localhost:{server.start()}"
    server.stop()


# ---- redis-enterprise-python ---------------------------------------------------------------------

# Runs there: each read by name, and what is written, with the client's own models.
CALLS = """
import inspect, json, os, urllib3, swagger_client as client, swagger_client.api as apis
urllib3.disable_warnings()
settings = client.Configuration()
settings.host, settings.verify_ssl = os.environ["URL"], False
settings.username, settings.password = os.environ["NAME"], os.environ["PASSWORD"]
made = client.ApiClient(settings)
groups = [one(made) for _, one in inspect.getmembers(apis, inspect.isclass)]
found = {}

def call(name, *args, **kwargs):
    group = next(one for one in groups if hasattr(one, name))
    try:
        answer = made.sanitize_for_serialization(getattr(group, name)(*args, **kwargs))
        found[name] = [200, answer]
    except client.rest.ApiException as error:
        found[name] = [error.status, json.loads(error.body)]

for group in groups:
    for name, _ in inspect.getmembers(group, inspect.ismethod):
        if name.startswith("get_") and not name.endswith("_with_http_info"):
            words = inspect.signature(getattr(group, name)).parameters
            call(name, *(1 for word in words if word != "kwargs"))
user = {"name": "eve", "email": "e@acme.com", "password": "p", "role_uids": [5]}
call("post_v1_users", body=user)
call("put_v1_users_password", body={"username": "eve", "new_password": "q"})
call("post_v1_users_password", body={"username": "eve", "new_password": "r"})
call("put_v1_bdbs_uid", 1, body={"name": "bills"})
call("put_v1_bdbs_uid_passwords", 1, body={"password": "x"})
call("post_v1_bdbs", body={"name": "new", "memory_size": 1024})
call("post_v1_bdbs_uid_command", 1, body={"command": "ping"})
call("post_v1_bdbs_uid_actions_import", 1, body={})
call("delete_v1_users", 2)
print(json.dumps(found))
"""
REFUSED = {
    "put_v1_bdbs_uid_passwords": (406, "by their certificates"),
    "post_v1_bdbs": (400, "endpoints"),
    "post_v1_bdbs_uid_command": (404, "commands go to the servers"),
    "post_v1_bdbs_uid_actions_import": (404, "data is moved on the servers"),
    "get_v1_crdb": (404, "no Active-Active"),
    "get_v1_bdbs_uid_actions_recover": (404, "recovered on the servers"),
    "get_v1_bdbs_uid_actions_optimize_shards_placement": (404, "/v2/actions"),
}


@pytest.mark.timeout(900)
def test_redis_enterprise_python(packages: Path, api: ControlPlane, url: str) -> None:
    """All that it reads, by the methods that it was generated with, and what it writes."""
    api.database("orders")
    given = {**os.environ, "URL": url, "NAME": ADMIN[0], "PASSWORD": ADMIN[1]}
    done = subprocess.run(
        [packages / "python", "-c", CALLS], env=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, (status, answer) in found.items():
        if name not in REFUSED:
            assert status == 200, (name, answer)
            continue
        wanted, text = REFUSED[name]
        assert status == wanted, (name, answer)
        assert text in answer["description"], (name, answer)
    assert REFUSED.keys() <= found.keys()
    assert found["get_v1_bdbs"][1][0]["name"] == "orders"
    assert api.ok("GET /v1/bdbs/1")["name"] == "bills"
    assert [one["name"] for one in api.ok("GET /v1/users")] == ["admin"]


# ---- ansible -------------------------------------------------------------------------------------

ASKING = {"validate_certs": False, "body_format": "json", "return_content": True}


def task(name: str, **fields: Any) -> dict[str, Any]:
    """A call, and the answer under this name."""
    return {"ansible.builtin.uri": {**ASKING, **fields}, "register": name}


@pytest.mark.timeout(900)
def test_ansibles_uri(
    packages: Path, api: ControlPlane, url: str, pki: Pki, tmp_path: Path
) -> None:
    """A playbook that asks by challenge and unasked, by password and by certificate; that makes a
    user once, whether it runs once or twice."""
    api.trust(pki.ca)
    api.certificate_user("alice", pki.alice.certificate.subject.rfc4514_string(), role_uids=[1])
    login = {"url_username": ADMIN[0], "url_password": ADMIN[1]}
    cert, key = pki.alice.files
    body = {"name": "ops", "email": "ops@acme.com", "password": "Secret-1", "role": "db_viewer"}
    tasks = [
        task("challenged", url=f"{url}/v1/cluster", **login),
        task("forced", url=f"{url}/v1/users", force_basic_auth=True, **login),
        task("certified", url=f"{url}/v1/users/role", client_cert=str(cert), client_key=str(key)),
        task("made", url=f"{url}/v1/users", method="POST", body=body, force_basic_auth=True,
             status_code=[200, 409], **login),
        {"ansible.builtin.debug": {"msg": "RESULT {{ [challenged.json.name, forced.json | length, "
                                   "certified.json.role, made.status] | to_json }}"}},
    ]  # fmt: skip
    play = tmp_path / "play.yml"  # JSON is YAML
    play.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    said = []
    for _ in range(2):
        done = subprocess.run(
            [packages / "ansible-playbook", "-c", "local", "-i", "localhost,",
             "-e", f"ansible_python_interpreter={packages / 'python'}", play],
            env={**os.environ, "HOME": str(tmp_path), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(next(one for one in done.stdout.splitlines() if "RESULT" in one))
    assert r"[\"acme\", 2, \"admin\", 200]" in said[0]
    assert r"[\"acme\", 3, \"admin\", 409]" in said[1]


# ---- redis-enterprise ----------------------------------------------------------------------------


def test_redis_enterprise_has_no_other_methods(api: ControlPlane, url: str) -> None:
    """Each of its typed methods, whatever its version has: all of them read."""
    redis_enterprise = pytest.importorskip("redis_enterprise")
    api.database("orders")
    client = redis_enterprise.EnterpriseClient(
        base_url=url, username=ADMIN[0], password=ADMIN[1], insecure=True
    )
    called = []
    for name, method in inspect.getmembers(client, callable):
        if not name.endswith("_sync") or name.split("_")[0] in ("get", "post", "put", "delete"):
            continue
        assert method(*[1] * (name in ("database_sync", "node_sync"))), name
        called.append(name)
    assert len(called) >= 8
    with pytest.raises(ValueError, match="not found"):  # its own words for each 404
        client.get_sync("/v1/proxies")
