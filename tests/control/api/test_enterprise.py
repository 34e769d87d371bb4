"""control/api/enterprise.py: each field of Redis Enterprise's objects is kept, taken for capacity,
or refused by name. tests/kit/enterprise_fields.txt is the list, from its documentation and from
what a cluster has shown."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from control.api import models
from control.api.bdb_models import BdbBody
from control.api.cluster import ClusterBody, PolicyBody
from control.api.redis_acls import RedisAclBody
from control.api.roles import RoleBody
from control.api.users import UserBody
from control.errors import Refusal
from tests.kit.rest import ADMIN, Answer, ControlPlane

TABLE = Path(__file__).parents[2] / "kit" / "enterprise_fields.txt"
# Of each object: its body, and the call that changes one.
OBJECTS: dict[str, tuple[type[models.Body], str]] = {
    "bdb": (BdbBody, "PUT /v1/bdbs/1"),
    "cluster": (ClusterBody, "PUT /v1/cluster"),
    "cluster_settings": (PolicyBody, "PUT /v1/cluster/policy"),
    "user": (UserBody, "PUT /v1/users/2"),
    "role": (RoleBody, "PUT /v1/roles/8"),
    "redis_acl": (RedisAclBody, "PUT /v1/redis_acls/4"),
}
OLDER = {"ssl"}  # names that are read as another field


def table() -> dict[str, dict[str, tuple[str, Any]]]:
    """Object → field → where it is from, and a value."""
    found: dict[str, dict[str, tuple[str, Any]]] = {}
    for line in TABLE.read_text().splitlines():
        if not line.startswith("#"):
            kind, name, source, value = line.split(" ", 3)
            found.setdefault(kind, {})[name] = (source, json.loads(value))
    return found


FIELDS = table()
HELD = [(kind, name) for kind, (body, _) in OBJECTS.items() for name in sorted(body.HELD)]
VALUES: list[Any] = [True, False, None, 0, 1, 99, "", "x", "enabled", "required", [], ["x"], {}]


@pytest.fixture
def objects(api: ControlPlane) -> ControlPlane:
    """One of each."""
    api.ok("POST /v1/roles", {"name": "ops", "management": "none"})
    api.ok("POST /v1/redis_acls", {"name": "reads", "acl": "+@read ~*"})
    api.password_user("bob", "none")
    api.database()
    return api


def put(api: ControlPlane, kind: str, fields: dict[str, Any]) -> Answer:
    return api(OBJECTS[kind][1], fields)


@pytest.mark.parametrize("kind", OBJECTS)
def test_every_field_of_redis_enterprise_is_known(kind: str) -> None:
    """None is a 400, whatever release a client is made for."""
    body, _ = OBJECTS[kind]
    known = body.model_fields.keys() | body.IGNORED | body.HELD.keys() | OLDER
    assert FIELDS[kind].keys() - known == set()
    assert body.IGNORED & body.HELD.keys() == set()
    assert body.HELD.keys() & body.model_fields.keys() == set()


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_whole_object_of_a_cluster_is_taken(objects: ControlPlane, kind: str) -> None:
    """As scripts move them: read there, sent here. Nothing that says who may do what is among the
    ignored."""
    whole = {name: value for name, (_, value) in FIELDS[kind].items()}
    whole.pop("password_hash_method", None)
    answer = put(objects, kind, whole)
    assert answer.status == 200, answer.json
    assert not OBJECTS[kind][0].HELD.keys() & set(answer.json.get("ignored", []))


@pytest.mark.parametrize("kind", [kind for kind in OBJECTS if kind not in ("role", "redis_acl")])
def test_the_recorded_object_is_taken(objects: ControlPlane, kind: str) -> None:
    """Only what a cluster has shown of itself."""
    shown = {name: value for name, (source, value) in FIELDS[kind].items() if source == "recorded"}
    assert put(objects, kind, shown).status == 200


def is_kept(name: str, value: Any, shown: dict[str, Any]) -> bool:
    """Whether an answer of 200 to this field says what is so."""
    if name == "ssl":
        return (shown["tls_mode"] == "enabled") == value
    if name in ("password", "endpoints"):  # not shown; shown with more fields
        return True
    if name == "resources":  # none
        return bool(value == [])
    if name == "role":
        return bool(shown["role"] == value) or shown["role_uids"] == []
    if name.endswith("authorized_subjects"):  # an attribute that is empty is none
        whole = [{key: one for key, one in each.items() if one not in ("", [])} for each in value]
        return bool(shown[name] == whole)
    if isinstance(value, dict):  # the rest stays as it is; some of an alert's are ignored
        known = value.keys() & shown[name].keys()
        return all(is_kept(one, value[one], shown[name]) for one in known)
    return type(shown[name]) is type(value) and bool(shown[name] == value)


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_answered_with_200_is_so(objects: ControlPlane, kind: str) -> None:
    """For every field and many values of it: the answer shows the value, or the field is one that
    says nothing about who may do what, or the value holds anyway. All others are refused, and the
    text begins with the field's name."""
    body, _ = OBJECTS[kind]
    for name, (_, usual) in FIELDS[kind].items():
        if name in body.IGNORED | body.HELD.keys():
            continue  # the same for all: see above and below
        for value in [*VALUES, usual, "1.3", "allchannels"]:
            answer = put(objects, kind, {name: value})
            if answer.status == 200:
                assert is_kept(name, value, answer.json), (name, value, answer.json)
            else:
                assert answer.status in (400, 406, 409), (name, value)
                assert answer.text.startswith((name, "a field")) or answer.status != 400, (
                    answer.json
                )


SECURE = re.compile(
    r"auth|tls|\bssl|cert|cipher|passw|_pass|encrypt|audit|acl|forbidden|commands|secur|mtls|lockout|"
    r"_hash|hashing|sasl|names|subjects|mask|credential|http_support|external|read_only|hide"
)
# Each of these has such a word in its name, and is about something that there is not here.
HARMLESS = {
    "authentication_admin_pass": "the replication links of Redis Enterprise's own proxies",
    "ccs_internode_encryption": "the cluster's internal store",
    "expose_hostnames_for_all_suffixes": "names of endpoints",
    "multi_commands_opt": "a proxy's batches",
    "proxy_certificate": "a proxy that is not here",
    "syncer_certificate": "a syncer that is not here",
    "s3_ca_cert": "nothing is sent to S3",
    "smtp_password": "no mail is sent",
    "smtp_tls_mode": "no mail is sent",
    "smtp_use_tls": "no mail is sent",
    "control_cipher_suites_tls_1_3": "only answers have it",
    "sentinel_cipher_suites_tls_1_3": "only answers have it",
    "password_issue_date": "only answers have it",
    "use_external_ipv6": "addresses of services",
}


@pytest.mark.parametrize("kind", OBJECTS)
def test_no_setting_of_security_is_ignored(kind: str) -> None:
    """Only what is named here, with why, although its name sounds like one."""
    body, _ = OBJECTS[kind]
    suspect = {name for name in body.IGNORED if SECURE.search(name)}
    assert suspect - HARMLESS.keys() == set()


@pytest.mark.parametrize(("kind", "name"), HELD)
def test_a_setting_that_is_none_here_is_refused_by_name(kind: str, name: str) -> None:
    """406, and what holds, and why; a value that holds is not a field that is ignored."""
    body, _ = OBJECTS[kind]
    holds = body.HELD[name].values
    for value in [*VALUES, *holds]:
        content = json.dumps({name: value}).encode()
        if any(type(one) is type(value) and one == value for one in holds):
            assert models.parse(body, content)[1] == []
            continue
        with pytest.raises(Refusal, match=f"^{name}: this setting is not kept here") as refused:
            models.parse(body, content)
        assert (refused.value.status, refused.value.error_code) == (406, "unsupported_setting")


def test_a_refused_setting_takes_the_whole_request_with_it(objects: ControlPlane) -> None:
    """Also within another object, and for a new one."""
    sent = {"name": "other", "mtls_allow_weak_hashing": True}
    assert objects("PUT /v1/bdbs/1", sent).code == "unsupported_setting"
    assert objects.ok("GET /v1/bdbs/1")["name"] == "orders"
    new = {**sent, "endpoints": [{"addr": ["127.0.0.1"], "port": 1}]}
    assert objects("POST /v1/bdbs", new).code == "unsupported_setting"
    assert objects("POST /v2/bdbs", {"bdb": new}).code == "unsupported_setting"
    assert len(objects.ok("GET /v1/bdbs")) == 1


# ---- Those that are kept under Redis Enterprise's name -------------------------------------------


def test_min_data_tls_version_is_the_demand(objects: ControlPlane) -> None:
    """One setting by two names; an object that is sent back with one of them changed is taken."""
    shown = objects.ok("PUT /v1/cluster", {"min_data_TLS_version": "1.3"})
    assert (shown["min_data_TLS_version"], shown["min_tls_version"]) == ("1.3", "1.3")
    assert "set min-tls 1.3" in objects.lines()
    shown.pop("ignored", None)
    again = objects.ok("PUT /v1/cluster", shown | {"min_tls_version": ""})
    again.pop("ignored")
    assert (again["min_data_TLS_version"], again["min_tls_version"]) == ("1.2", "")
    again = objects.ok("PUT /v1/cluster", again | {"min_data_TLS_version": "1.3"})
    again.pop("ignored")
    assert again["min_tls_version"] == "1.3"
    both = {"min_data_TLS_version": "1.2", "min_tls_version": ""}
    assert objects("PUT /v1/cluster", both).code == "invalid_param"
    assert (
        objects.ok("PUT /v1/cluster", {"min_data_TLS_version": "1.2"})["min_tls_version"] == "1.2"
    )


def test_ssl_is_tls_mode(objects: ControlPlane, pki: Any) -> None:
    """true is `enabled`; what says less than it, or contradicts it, is refused."""
    objects.trust(pki.ca)
    assert objects.ok("PUT /v1/bdbs/1", {"ssl": True})["tls_mode"] == "enabled"
    for body in ({"ssl": False}, {"ssl": True, "tls_mode": "disabled"}, {"ssl": "yes"}):
        answer = objects("PUT /v1/bdbs/1", body)
        assert (answer.status, answer.text.partition(":")[0]) == (406, "ssl")
    shown = objects.ok("PUT /v1/bdbs/1", {"ssl": False, "tls_mode": "disabled"})
    assert shown["tls_mode"] == "disabled"


def test_options_is_forbidden_where_that_is_asked(api: ControlPlane) -> None:
    """On every address, with or without a login; other methods go on."""
    assert api.client.options("/v1/users", auth=ADMIN).status_code == 200
    api.ok("PUT /v1/cluster", {"options_method_forbidden": True})
    assert api("OPTIONS /v1/users").status == 405
    refused = api("OPTIONS /v1/users", auth=None)
    assert (refused.status, refused.code) == (405, "method_not_allowed")
    assert api("GET /v1/users").status == 200
    api.ok("PUT /v1/cluster", {"options_method_forbidden": False})
    assert api.client.options("/v1/users", auth=ADMIN).status_code == 200


def test_channels_of_acls_that_name_none_are_a_setting(api: ControlPlane) -> None:
    """`allchannels` opens them, at once and for all, in each selector too; an ACL that names any
    channel keeps to it."""
    for name, acl in (("a", "+@all ~*"), ("b", "+get &x"), ("c", "+get (+publish) (+set &y)")):
        api.ok("POST /v1/redis_acls", {"name": name, "acl": acl})
        api.ok("POST /v1/roles", {"name": name, "management": "none"})
    grants = [{"role_uid": uid, "redis_acl_uid": uid - 4} for uid in (8, 9, 10)]
    api.database(roles_permissions=grants)
    for uid, name in ((8, "a"), (9, "b"), (10, "c")):
        api.certificate_user(name, f"CN={name}", role_uids=[uid])
    closed = {"user a on +@all ~*", "user b on +get &x", "user c on +get (+publish) (+set &y)"}
    assert closed <= api.lines()
    generation = api.ok("GET /v1/bdbs/1")["generation"]
    assert api.ok("GET /v1/cluster/policy")["acl_pubsub_default"] == "resetchannels"
    api.ok("PUT /v1/cluster/policy", {"acl_pubsub_default": "allchannels"})
    opened = {
        "user a on +@all ~* &*", "user b on +get &x", "user c on +get (+publish &*) (+set &y) &*",
    }  # fmt: skip
    assert opened <= api.lines()
    assert api.ok("GET /v1/bdbs/1")["generation"] > generation
    api.ok("PUT /v1/cluster/policy", {"acl_pubsub_default": "resetchannels"})
    assert closed <= api.lines()
    assert api("PUT /v1/cluster/policy", {"acl_pubsub_default": "open"}).status == 400


# ---- What is read can be sent back ---------------------------------------------------------------


def test_each_object_can_be_sent_back_as_it_was_read(objects: ControlPlane, pki: Any) -> None:
    """200 for each, and nothing is otherwise than before; nor is anything but what it says to be
    ignored."""
    api = objects
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice", role_uids=[8])
    scope = [{"type": "db", "uids": ["1"]}]
    api.ok("POST /v1/roles", {"name": "some", "management": "db_viewer", "resources": scope})
    sink = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": 9}
    api.ok("PUT /v1/cluster/auditing/db_conns", sink)
    api.ok("PUT /v1/bdbs/1", {
        "tls_mode": "enabled", "db_conns_auditing": True,
        "authentication_ssl_client_certs": [{"client_cert": pki.ca.pem.decode()}],
        "client_cert_subject_validation_type": "full_subject",
        "authorized_subjects": [{"CN": "alice", "OU": ["a", "b"], "O": "acme"}],
        "roles_permissions": [{"role_uid": 8, "redis_acl_uid": 4}],
    })  # fmt: skip
    uri = "spiffe://acme/sa/{sa}"
    pattern = {"name": "apps", "kind": "uri", "template": uri, "user": "app:{sa}"}
    api.ok("POST /v1/certauth/patterns", pattern)
    for path in (
        "/v1/bdbs/1", "/v1/cluster", "/v1/cluster/policy", "/v1/cluster/auditing/db_conns",
        "/v1/users/1", "/v1/users/2", "/v1/users/3", "/v1/roles/8", "/v1/roles/9",
        "/v1/redis_acls/4", "/v1/certauth/patterns/1",
    ):  # fmt: skip
        before = api.ok(f"GET {path}")
        answer = api(f"PUT {path}", before)
        assert answer.status == 200, (path, answer.json)
        after = api.ok(f"GET {path}")
        for told in (before, after):
            told.pop("action_uid", "")  # of the last change
        assert after == before, path
        assert set(answer.json.get("ignored", [])) <= before.keys() | {"action_uid"}, path


# ---- One field at a time, in each place that has one ---------------------------------------------

WRONG: list[Any] = [None, True, 7, -1, "x", "", [], ["x"], {}, {"x": 1}]


def places(body: Any) -> list[tuple[Any, ...]]:
    """The way to each field of a body, also of objects within it."""
    items = body.items() if isinstance(body, dict) else enumerate(body)
    found: list[tuple[Any, ...]] = []
    for key, value in items:
        found.append((key,))
        if isinstance(value, dict | list):
            found += [(key, *rest) for rest in places(value)]
    return found


def changed(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of the body with another value there."""
    copy = json.loads(json.dumps(body))
    *way, last = place
    at = copy
    for step in way:
        at = at[step]
    at[last] = value
    return copy


def at(body: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        if isinstance(body, dict) and step not in body:
            return None
        if isinstance(body, list) and step >= len(body):
            return None
        body = body[step]
    return body


NESTED: dict[str, Any] = {
    "PUT /v1/bdbs/1": {
        "audit_settings": {
            "audit_mode": "connection",
            "username_filter": {
                "enabled": True, "usernames": ["alice"], "filter_type": "exclusive",
                "allow_while_username_unknown": True,
            },
            "source_ip_filter": {
                "enabled": True, "ip_addresses": ["10.0.0.1"], "cidr_ranges": ["10.1.0.0/16"],
                "filter_type": "inclusive",
            },
            "max_total_key_bytes": 5,
        },
        "authorized_subjects": [{"CN": "a", "OU": ["b"], "O": "c", "L": "d", "ST": "e", "C": "DE"}],
        "roles_permissions": [{"role_uid": 8, "redis_acl_uid": 4}],
    },
    "PUT /v1/cluster": {
        "mtls_authorized_subjects": [{"CN": "a", "OU": ["b"], "O": "c", "C": "DE"}],
        "alert_settings": {
            "cluster_certs_about_to_expire": {"enabled": True, "threshold": "30"},
            "cluster_ca_cert_about_to_expire": {"enabled": False, "threshold": "80"},
        },
    },
    "PUT /v1/cluster/auditing/db_conns": {
        "audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": 9,
        "audit_reconnect_interval": 2, "audit_reconnect_max_attempts": 3,
        "audit_queue_max_bytes": 4_000,
    },
    "PUT /v1/roles/9": {
        "name": "some", "management": "db_viewer",
        "resources": [{"type": "db", "uids": ["1"]}],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [pytest.param(one, marks=[pytest.mark.slow] if "bdbs" in one else []) for one in NESTED],
)
def test_a_field_within_a_field_is_kept_or_refused(objects: ControlPlane, call: str) -> None:
    """Each in turn with values of the wrong type and kind: a 200 shows the value that was sent, and
    all else is a refusal that names the outermost field."""
    scope = [{"type": "db", "uids": ["1"]}]
    objects.ok("POST /v1/roles", {"name": "some", "management": "db_viewer", "resources": scope})
    sink = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": 9}
    objects.ok("PUT /v1/cluster/auditing/db_conns", sink)
    body = NESTED[call]
    shown = objects.ok(call, body)
    assert all(at(shown, place) is not None for place in places(body))
    for place in places(body):
        for value in WRONG:
            sent = changed(body, place, value)
            answer = objects(call, sent)
            if answer.status == 200:
                assert is_kept(str(place[0]), sent[place[0]], answer.json), (place, value)
                objects.ok(call, body)
            else:
                assert answer.status in (400, 406, 501), (place, value, answer.json)
                assert answer.text.startswith(str(place[0])), (place, value, answer.json)
