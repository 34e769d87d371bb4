"""/v1/certauth/patterns: many certificates by one line."""

from typing import Any

import pytest
import redis

from tests.kit.node import Start, turned_away, who
from tests.kit.plane import FULL, Plane, enrolled_node, operator
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, wait_until

PATTERNS = "/v1/certauth/patterns"
TEMPLATE = "spiffe://acme/ns/{ns}/sa/{sa}"
APP = {"name": "apps", "kind": "uri", "template": TEMPLATE, "user": "app:{ns}:{sa}"}
SHOP = {"name": "shop", "kind": "uri", "template": "spiffe://acme/ns/shop/sa/{sa}", "user": "shop"}
LINE = f"pattern uri {TEMPLATE} app:{{ns}}:{{sa}}"


def granted(api: ControlPlane, *acls: str, role: int = 6) -> int:
    """A database on which the role has these ACLs. The uid of the first."""
    made = [
        api.ok("POST /v1/redis_acls", {"name": f"acl {number}", "acl": acl})["uid"]
        for number, acl in enumerate(acls)
    ]
    given = [{"role_uid": role, "redis_acl_uid": uid} for uid in made]
    api.database(roles_permissions=given)
    return int(made[0])


def of_patterns(api: ControlPlane, uid: int = 1) -> set[str]:
    return {line for line in api.lines(uid) if line.startswith("pattern ")}


# ---- Rows ----------------------------------------------------------------------------------------


def test_a_pattern_is_made_read_changed_and_deleted(api: ControlPlane, pki: Pki) -> None:
    """In canonical spelling, and with an event for each."""
    api.trust(pki.ca, login=False)
    name = pki.ca.certificate.subject.rfc4514_string()
    options = {"from": ["10.1.2.3/32", "::1"], "session": "60m", "comment": "ours", "ca": name}
    made = api.ok(f"POST {PATTERNS}", {**APP, **options, "role_uids": [6, 6]})
    assert made == {
        **APP, "uid": 1, "role_uids": [6], "ca": pki.ca.key_id, "from": ["10.1.2.3", "::1"],
        "session": "1h", "comment": "ours",
    }  # fmt: skip
    assert api.ok(f"GET {PATTERNS}") == [made]
    again = api.ok(f"PUT {PATTERNS}/1", made)
    assert {**again, "ignored": []} == {**made, "ignored": []}
    bare = api.ok(f"PUT {PATTERNS}/1", {"from": [], "session": "", "ca": "", "comment": ""})
    assert bare == api.ok(f"GET {PATTERNS}/1") == {
        **APP, "uid": 1, "role_uids": [6], "ca": "", "from": [], "session": "", "comment": "",
    }  # fmt: skip
    api.ok(f"DELETE {PATTERNS}/1")
    assert api(f"GET {PATTERNS}/1").status == 404
    told = [one for one in api.ok("GET /v1/logs") if one["type"].startswith("pattern_")]
    assert [one["type"] for one in told] == [
        "pattern_created", "pattern_updated", "pattern_updated", "pattern_deleted"
    ]  # fmt: skip
    assert told[0]["pattern_name"] == "apps"


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"template": "spiffe://acme/x"}, 400, "invalid_param", "has a placeholder"),
        ({"template": "{a}{b}"}, 400, "invalid_param", "followed by another placeholder"),
        ({"kind": "key"}, 400, "invalid_schema", "kind"),
        ({"user": "app:{pod}"}, 400, "invalid_param", "{pod}"),
        ({"user": "{sa}"}, 400, "invalid_param", "starts with a word"),
        ({"user": "certauth-x:{sa}"}, 400, "invalid_param", "reserved for this product"),
        ({"user": "nobody", "role_uids": []}, 400, "invalid_param", "no certificate user 'nobody'"),
        ({"user": "shop"}, 400, "invalid_param", "role_uids"),
        ({"role_uids": [77]}, 400, "invalid_param", "there is no role 77"),
        ({"ca": "none"}, 400, "invalid_param", "no trusted CA"),
        ({"from": ["x"]}, 400, "invalid_param", "pattern"),
        ({"session": "1w"}, 400, "invalid_schema", "session"),
        ({"shared": True}, 400, "unknown_field", "shared"),
    ],
)
def test_a_bad_pattern_is_refused_with_its_field(
    api: ControlPlane, fields: dict[str, Any], status: int, code: str, words: str
) -> None:
    """And nothing is made."""
    answer = api(f"POST {PATTERNS}", {**APP, "role_uids": [6], **fields})
    assert (answer.status, answer.code) == (status, code)
    assert words in answer.text
    assert api.ok(f"GET {PATTERNS}") == []


def test_who_may_change_users_may_change_patterns(api: ControlPlane) -> None:
    """And nobody else; what makes an administrator's rights takes an administrator."""
    manager, viewer = api.password_user("m", "user_manager"), api.password_user("v", "db_viewer")
    assert api(f"POST {PATTERNS}", APP, auth=viewer).status == 403
    assert api(f"GET {PATTERNS}", auth=viewer).status == 403
    api.ok(f"POST {PATTERNS}", APP, auth=manager)
    assert api(f"PUT {PATTERNS}/1", {"role_uids": [1]}, auth=manager).status == 403
    api.ok(f"PUT {PATTERNS}/1", {"role_uids": [1]})
    assert api(f"DELETE {PATTERNS}/1", auth=manager).status == 403
    api.ok(f"DELETE {PATTERNS}/1")


def test_two_editors_of_a_pattern(api: ControlPlane) -> None:
    """If-Match refuses who has seen another state; a dry run changes nothing."""
    api.ok(f"POST {PATTERNS}", APP)
    tag = {"If-Match": api(f"GET {PATTERNS}/1").headers["ETag"]}
    api.ok(f"PUT {PATTERNS}/1?dry_run", {"comment": "x"}, headers=tag)
    api.ok(f"PUT {PATTERNS}/1", {"comment": "x"}, headers=tag)
    answer = api(f"PUT {PATTERNS}/1", {"comment": "y"}, headers=tag)
    assert (answer.status, answer.code) == (409, "config_edit_conflict")


# ---- Lines ---------------------------------------------------------------------------------------


def test_the_rights_of_a_pattern_are_those_of_its_roles(api: ControlPlane) -> None:
    """One line on each database where its roles have ACLs; several ACLs become selectors, and the
    line follows each change."""
    acl = granted(api, "~{ns}:* +@read", "&{sa} +@pubsub")
    api.database("other", 6381)
    api.ok(f"POST {PATTERNS}", {**APP, "role_uids": [6]})
    assert of_patterns(api) == {f"{LINE} on (~{{ns}}:* +@read) (&{{sa}} +@pubsub)"}
    assert not of_patterns(api, 2)
    api.ok("PUT /v1/bdbs/1", {"roles_permissions": [{"role_uid": 6, "redis_acl_uid": acl}]})
    assert of_patterns(api) == {f"{LINE} on ~{{ns}}:* +@read"}
    api.ok(f"PUT /v1/redis_acls/{acl}", {"acl": "~{ns}:{sa}:* +@all"})
    assert of_patterns(api) == {f"{LINE} on ~{{ns}}:{{sa}}:* +@all"}
    api.ok(f"PUT {PATTERNS}/1", {"session": "8h"})
    assert of_patterns(api) == {f"{LINE} session=8h on ~{{ns}}:{{sa}}:* +@all"}
    api.ok(f"PUT {PATTERNS}/1", {"role_uids": []})
    assert not of_patterns(api)


def test_a_pattern_to_one_user_is_where_that_user_has_rights(api: ControlPlane) -> None:
    """It follows the user, its name included; the user stays while a pattern names it."""
    granted(api, "~shop:* +@read")
    user = api.certificate_user("shop", "CN=shop", role_uids=[6])["uid"]
    api.ok(f"POST {PATTERNS}", SHOP)
    line = "pattern uri spiffe://acme/ns/shop/sa/{sa} shop"
    assert of_patterns(api) == {line}
    api.ok(f"PUT /v1/users/{user}", {"role_uids": []})
    assert not of_patterns(api)
    api.ok(f"PUT /v1/users/{user}", {"role_uids": [6], "name": "market"})
    assert of_patterns(api) == {line.replace(" shop", " market")}
    assert api.ok(f"GET {PATTERNS}/1")["user"] == "market"
    regular = {"auth_method": "regular", "password": "the secret"}
    for request, body in (("DELETE", None), ("PUT", regular), ("PUT", {"name": "a{x}"})):
        answer = api(f"{request} /v1/users/{user}", body)
        assert (answer.status, answer.code) == (406, "user_in_use")
        assert "shop" in answer.text
    api.ok(f"DELETE {PATTERNS}/1")
    assert not of_patterns(api)
    api.ok(f"DELETE /v1/users/{user}")


def test_a_role_of_a_pattern_stays(api: ControlPlane) -> None:
    """The message names the pattern."""
    role = api.ok("POST /v1/roles", {"name": "devices"})["uid"]
    api.ok(f"POST {PATTERNS}", {**APP, "role_uids": [role]})
    answer = api(f"DELETE /v1/roles/{role}")
    assert (answer.status, answer.code) == (406, "role_in_use")
    assert "patterns have this role: apps" in answer.text
    api.ok(f"DELETE {PATTERNS}/1")
    api.ok(f"DELETE /v1/roles/{role}")


def test_a_preview_says_what_a_pattern_would_do(api: ControlPlane) -> None:
    """Its line, and nothing is made."""
    granted(api, "~{ns}:* +@read")
    change = {"method": "POST", "path": PATTERNS, "body": {**APP, "role_uids": [6]}}
    (told,) = api.ok("POST /v1/certauth/preview", {"changes": [change]})["databases"]
    assert told["added"] == [f"{LINE} on ~{{ns}}:* +@read"]
    assert api.ok(f"GET {PATTERNS}") == []


# ---- What cannot be together ---------------------------------------------------------------------


def test_a_template_under_the_same_cas_is_one_pattern(api: ControlPlane, pki: Pki) -> None:
    """Under another CA it is another line."""
    api.trust(pki.ca, login=False)
    api.ok(f"POST {PATTERNS}", APP)
    answer = api(f"POST {PATTERNS}", {**APP, "name": "b"})
    assert (answer.status, answer.code) == (409, "pattern_already_exists")
    assert "'apps'" in answer.text
    assert api(f"POST {PATTERNS}", {**APP, "template": "{ns}/{sa}"}).code == "name_already_exists"
    api.ok(f"POST {PATTERNS}", {**APP, "name": "b", "ca": pki.ca.key_id})


def test_patterns_of_one_word_have_the_same_users_and_roles(api: ControlPlane) -> None:
    """Two trust domains may make the same users; a word belongs to one kind of them."""
    api.ok(f"POST {PATTERNS}", {**APP, "role_uids": [6]})
    twin = {**APP, "name": "twin", "template": "spiffe://b.acme/ns/{ns}/sa/{sa}"}
    for fields in ({"role_uids": []}, {"role_uids": [6], "user": "app:{sa}"}):
        answer = api(f"POST {PATTERNS}", {**twin, **fields})
        assert (answer.status, answer.code) == (409, "pattern_users_collide")
        assert "'apps'" in answer.text
    api.ok(f"POST {PATTERNS}", {**twin, "role_uids": [6]})
    assert api(f"PUT {PATTERNS}/1", {"role_uids": []}).code == "pattern_users_collide"


def test_the_word_of_a_pattern_begins_no_users_name(api: ControlPlane) -> None:
    """Whichever of the two comes first; password users are not ACL users."""
    api.password_user("app:y", "none")
    user = api.certificate_user("app:x", "CN=x")["uid"]
    answer = api(f"POST {PATTERNS}", APP)
    assert (answer.status, answer.code) == (409, "name_of_pattern")
    assert "'apps'" in answer.text
    assert "'app:x'" in answer.text
    api.ok(f"PUT /v1/users/{user}", {"name": "APP:x"})
    api.ok(f"POST {PATTERNS}", APP)
    answer = api(f"PUT /v1/users/{user}", {"name": "app:x"})
    assert (answer.status, answer.code) == (409, "name_of_pattern")
    assert "'apps'" in answer.text


def test_an_acl_that_a_pattern_cannot_have_is_refused_by_name(api: ControlPlane) -> None:
    """Whichever change would bring them together, and nothing is changed."""
    acl = granted(api, "~{ns}:* +@read")
    bad = api.ok("POST /v1/redis_acls", {"name": "pods", "acl": "~{pod}:* +@read"})["uid"]
    given = [{"role_uid": 6, "redis_acl_uid": uid} for uid in (acl, bad)]
    api.ok(f"POST {PATTERNS}", {**APP, "role_uids": [6]})
    lines = of_patterns(api)
    role = api.ok("POST /v1/roles", {"name": "pods"})["uid"]
    given.append({"role_uid": role, "redis_acl_uid": bad})
    api.ok("PUT /v1/bdbs/1", {"roles_permissions": [given[0], given[2]]})
    for request, body in (
        (f"PUT /v1/redis_acls/{acl}", {"acl": "~{pod}:*"}),
        (f"PUT /v1/redis_acls/{acl}", {"acl": "~{ns}* +get"}),
        ("PUT /v1/bdbs/1", {"roles_permissions": given}),
        (f"PUT {PATTERNS}/1", {"role_uids": [6, role]}),
        (f"PUT {PATTERNS}/1", {"user": "app:{sa}"}),
    ):
        answer = api(request, body)
        assert (answer.status, answer.code) == (406, "pattern_acl_refused"), request
        assert "pattern 'apps': ACL '" in answer.text
    assert of_patterns(api) == lines


def test_no_user_has_an_acl_with_placeholders(api: ControlPlane) -> None:
    """Whichever change would bring them together. Braces of which no pattern fills in anything are
    what they are to a server: hash tags of a cluster."""
    acl = granted(api, "~{ns}:* +@read")
    user = api.certificate_user("alice", "CN=alice", role_uids=[6])["uid"]
    assert "user alice on ~{ns}:* +@read" in api.lines()
    answer = api(f"POST {PATTERNS}", {**APP, "role_uids": [6]})
    assert (answer.status, answer.code) == (406, "acl_has_placeholders")
    for name in ("'alice'", "'acl 0'", "'apps'", "{ns}"):
        assert name in answer.text
    api.ok(f"PUT /v1/users/{user}", {"role_uids": [5]})
    api.ok(f"POST {PATTERNS}", {**APP, "role_uids": [6]})
    given = [{"role_uid": role, "redis_acl_uid": acl} for role in (5, 6)]
    for request, body in (
        (f"PUT /v1/users/{user}", {"role_uids": [5, 6]}),
        ("PUT /v1/bdbs/1", {"roles_permissions": given}),
    ):
        answer = api(request, body)
        assert (answer.status, answer.code) == (406, "acl_has_placeholders"), request


# ---- Real servers --------------------------------------------------------------------------------


def node_of(plane: Plane, kind: Server, start: Start, pki: Pki, **fields: Any) -> RedisServer:
    """A server of a database on which the role None has the ACL of devices."""
    node = enrolled_node(start, kind, plane.config.home, pki)
    acl = plane.ok("POST /v1/redis_acls", {"name": "own", "acl": "~{id}:* +@all -@admin"})["uid"]
    given = [FULL, {"role_uid": 6, "redis_acl_uid": acl}]
    plane.register(node, roles_permissions=given, **fields)
    return node


DEVICES = {"name": "devices", "kind": "subject", "template": "CN={id},OU=devices"}
DEVICES |= {"user": "device:{id}"}


def test_each_device_is_a_user_with_its_own_keys(
    plane: Plane, server_kind: Server, start: Start, pki: Pki
) -> None:
    """By one line; another device's keys are not its own, another OU is nobody, and a pattern that
    goes ends the session."""
    node = node_of(plane, server_kind, start, pki)
    made = {**DEVICES, "role_uids": [6]}
    plane.ok(f"POST {PATTERNS}?wait_for_sync=10", made)
    one, two = (pki.ca.issue(f"CN={name},OU=devices") for name in ("d1", "d2"))
    with node.tls(one).connect() as client:
        assert client.command("ACL", "WHOAMI") == b"device:d1"
        assert client.command("SET", "d1:x", "1") == b"OK"
        with pytest.raises(redis.ResponseError, match="NOPERM|permission"):
            client.command("SET", "d2:x", "1")
        assert who(node, two) == "device:d2"
        stranger = pki.ca.issue("CN=d1,OU=laptops")
        assert turned_away(node, stranger, operator(node)) == "no_binding"
        plane.ok(f"DELETE {PATTERNS}/1?wait_for_sync=10")
        wait_until(lambda: who(node, one) is None, "the device is nobody")
        assert_ended(client)


def assert_ended(client: Any) -> None:
    with pytest.raises((redis.ResponseError, OSError)):
        client.command("GET", "d1:x")


def test_many_certificates_are_one_user(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """Under another name too, without a refused login; what is in another namespace is nobody."""
    node = node_of(plane, installed, start, pki)
    user = plane.certificate_user("shop", "CN=shop", role="admin")["uid"]
    plane.ok(f"POST {PATTERNS}?wait_for_sync=10", SHOP)
    pods = [
        pki.ca.issue(f"CN=pod-{name}", san=(f"uri:spiffe://acme/ns/shop/sa/{name}",))
        for name in ("cart", "pay", "mail")
    ]
    assert {who(node, pod) for pod in pods} == {"shop"}
    other = pki.ca.issue("CN=pod", san=("uri:spiffe://acme/ns/bank/sa/cart",))
    assert turned_away(node, other, operator(node)) == "no_binding"
    plane.ok(f"PUT /v1/users/{user}?wait_for_sync=10", {"name": "market"})
    assert {who(node, pod) for pod in pods} == {"market"}


def test_a_pattern_that_a_server_refuses_costs_that_pattern(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """The server has a user of its own by a name that the pattern would make: its certificates are
    refused there, even where strangers may stay, and all others come in."""
    node = node_of(plane, installed, start, pki, default_user=True)
    operator(node).execute_command("ACL", "SETUSER", "device:d9", "on", "+@all", "~*", "nopass")
    plane.ok(f"POST {PATTERNS}", {**DEVICES, "role_uids": [6]})
    carol = pki.ca.issue("CN=carol")
    plane.user(carol, "carol")
    wait_until(lambda: who(node, carol) == "carol", "carol comes in")
    assert "REFUSED 'pattern subject" in plane.says("REFUSED")
    assert who(node, pki.ca.issue("CN=stranger")) == "default"
    device = pki.ca.issue("CN=d9,OU=devices")
    assert turned_away(node, device, operator(node)) == "user_missing"
