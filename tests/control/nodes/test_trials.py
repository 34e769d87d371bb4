"""control/nodes/trials.py: ACL rules are tried on the servers before they are stored or granted."""

from dataclasses import replace
from typing import Any

import pytest

from control.nodes import trials
from control.nodes.trials import Trials
from control.records import Database, RedisAcl, RolePermission
from tests.kit.browser import Browser
from tests.kit.node import Start, who
from tests.kit.plane import Plane, enrolled_node, frozen
from tests.kit.rest import ControlPlane, user
from tests.kit.servers import Server, servers
from tests.kit.support import Pki, RedisServer, wait_until

BAD = "+@all -@dangeros ~x:*"
CODE = (406, "redis_acl_refused")
NEWER = "+hexpire ~*"  # not of Redis 7.0 and Valkey 8.1


def enrol(plane: Plane, start: Start, kind: Server, pki: Pki, **options: Any) -> RedisServer:
    return enrolled_node(start, kind, plane.config.home, pki, **options)


def named(server: RedisServer) -> str:
    """A server, as a refusal names it."""
    kind = server.server
    return f"server 127.0.0.1:{server.port} ({kind.name.capitalize()} {kind.version})"


def test_a_typo_is_refused_where_it_is_saved(
    plane: Plane, server_kind: Server, start: Start, pki: Pki
) -> None:
    """Made, changed, rehearsed and previewed; also where the server enforces nothing yet."""
    node = enrol(plane, start, server_kind, pki)
    plane.register(node)
    plane.in_step()
    refused_everywhere(plane, node)
    plane.ok("PUT /v1/bdbs/1", {"tls_mode": "disabled"})
    plane.in_step()
    refused_everywhere(plane, node)
    plane.ok("POST /v1/redis_acls", {"name": "good", "acl": BAD.replace("eros", "erous")})
    assert plane.status() == "active"


def refused_everywhere(plane: Plane, node: RedisServer) -> None:
    why = f"{named(node)} refuses '-@dangeros': Unknown command or category name in ACL"
    acl = {"name": "oops", "acl": BAD}
    for call, body in (
        ("POST /v1/redis_acls", acl),
        ("POST /v1/redis_acls?dry_run", acl),
        ("POST /v1/redis_acls/validate", acl),
        ("PUT /v1/redis_acls/2", {"acl": BAD}),
    ):
        answer = plane(call, body)
        assert ((answer.status, answer.code), answer.text) == (CODE, why), call
    change = {"method": "POST", "path": "/v1/redis_acls", "body": acl}
    answer = plane("POST /v1/certauth/preview", {"changes": [change]})
    assert (answer.status, answer.code) == CODE
    assert answer.text == f"changes.0 (POST /v1/redis_acls): {why}"
    assert [one["acl"] for one in plane.ok("GET /v1/redis_acls")][1:] == [
        "+@read ~*", "+@all -@dangerous ~*"
    ]  # fmt: skip


def grant(acl: int, role: int = 6) -> dict[str, Any]:
    return {"roles_permissions": [{"role_uid": role, "redis_acl_uid": acl}]}


def test_each_server_of_a_database_has_to_take_what_is_granted(
    plane: Plane, start: Start, pki: Pki
) -> None:
    """An ACL that some server takes can be stored; a database is given it where all of its servers
    take it, and the refusal names each of the others. To a user's role likewise."""
    nodes = [enrol(plane, start, kind, pki) for kind in servers()]
    other = next(enrol(plane, start, one, pki) for one in servers() if knows_hexpire(one))
    plane.register(*nodes)
    plane.register(other, name="new")
    plane.in_step(1)
    plane.in_step(2)
    acl = plane.ok("POST /v1/redis_acls", {"name": "fields", "acl": NEWER})["uid"]
    old = [one for one in nodes if not knows_hexpire(one.server)]
    assert 0 < len(old) < len(nodes)
    for call, body in (("PUT /v1/bdbs/1", grant(acl)), ("PUT /v1/bdbs/1?dry_run", grant(acl))):
        answer = plane(call, body)
        assert (answer.status, answer.code) == CODE
        for node in old:
            assert f"{named(node)} refuses '+hexpire': Unknown command" in answer.text
        assert answer.text.count("refuses") == len(old)
    assert plane.ok("GET /v1/bdbs/1")["roles_permissions"] != grant(acl)["roles_permissions"]
    plane.ok("PUT /v1/bdbs/2", grant(acl))
    plane.in_step(2)


def knows_hexpire(kind: Server) -> bool:
    return kind.release >= ((7, 4) if kind.name == "redis" else (9, 0))


def test_a_new_database_is_asked_at_its_endpoints(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """Before it is registered, the ACLs that it is to grant are tried where it will be: nothing is
    stored that its server refuses. Where none is there yet, it is what any version knows."""
    acl = plane.ok("POST /v1/redis_acls", {"name": "fields", "acl": NEWER})["uid"]
    node = enrol(plane, start, installed, pki)
    ends = {"endpoints": [{"addr": ["127.0.0.1"], "port": node.port}]}
    there = {"tls_mode": "enabled", "tls_server_ca": pki.server_ca.pem.decode(), **ends}
    answer = plane("POST /v1/bdbs", {"name": "orders", **there, **grant(acl)})
    assert (answer.status, answer.code) == CODE
    assert answer.text.startswith(f"{named(node)} refuses '+hexpire'")
    assert plane.ok("GET /v1/bdbs") == []
    node.stop()
    assert plane("POST /v1/bdbs", {"name": "orders", **there, **grant(acl)}).status == 200


def test_a_server_that_is_down_is_judged_by_its_version(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """What its version does not know is refused with that reason; what it knows is stored, and so
    is what only a module can know."""
    node = enrol(plane, start, installed, pki)
    plane.register(node)
    plane.in_step()
    node.stop()
    plane.says("UNREACHABLE")
    plane.ok("PUT /v1/bdbs/1", grant(2))
    for acl, text in (
        (NEWER, f"{named(node)} does not answer, and knows no '+hexpire'"),
        (BAD, "no server of 'orders' answers, and none knows '-@dangeros'"),
    ):
        answer = plane("PUT /v1/redis_acls/2", {"acl": acl})
        assert ((answer.status, answer.code), answer.text) == (CODE, text)
    for acl in ("+hset ~*", "+ft.search ~*", "+@search ~*", "+select|0", "-config|get"):
        plane.ok("PUT /v1/redis_acls/2", {"acl": acl})


def test_a_server_that_hangs_is_not_waited_for(
    plane: Plane, installed: Server, start: Start, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others say what they say, and for that one its version; a typo is a refusal all the same,
    and what is good is stored."""
    monkeypatch.setattr(trials, "TRIAL_SECONDS", 0.3)
    nodes = [enrol(plane, start, installed, pki) for _ in range(2)]
    plane.register(*nodes, **grant(2))
    plane.in_step()
    with frozen(nodes[0]):
        answer = plane("PUT /v1/redis_acls/2", {"acl": BAD})
        assert (answer.status, answer.code) == CODE
        assert answer.text.startswith(f"{named(nodes[1])} refuses '-@dangeros'")
        answer = plane("PUT /v1/redis_acls/2", {"acl": NEWER})
        assert f"{named(nodes[0])} does not answer, and knows no '+hexpire'" in answer.text
        assert f"{named(nodes[1])} refuses '+hexpire'" in answer.text
        plane.ok("PUT /v1/redis_acls/2", {"acl": "+get ~*"})


def test_without_any_server_what_no_version_knows_is_refused(api: ControlPlane) -> None:
    """No database; and one without servers."""
    answer = api("POST /v1/redis_acls", {"name": "oops", "acl": BAD})
    assert (answer.status, answer.code) == CODE
    assert answer.text == "no version of Redis or Valkey knows '-@dangeros'"
    api.ok("POST /v1/redis_acls", {"name": "fields", "acl": NEWER})  # uid 4
    api.database("none", **grant(4), enforce_client_authentication="disabled")
    answer = api("PUT /v1/redis_acls/4", {"acl": "+@read +gett ~*"})
    assert (answer.status, answer.code) == CODE
    assert answer.text == "no server of 'none' answers, and none knows '+gett'"


def test_rules_from_before_stay_as_they_were(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """As after an upgrade: that user alone is off, and what has nothing to do with them can be
    changed. Anyone who is given them again, or changes them to others that are bad, is told."""
    node = enrol(plane, start, installed, pki)
    uid = plane.register(node)
    old = plane.store.objects.create(RedisAcl(0, "old", BAD))
    plane.store.objects.update(Database, uid, lambda now: granting(now, old.uid))
    plane.store.objects.create(user(0, "bob", certificate_subject_line="CN=bob,OU=eng,O=acme"))
    plane.says("REFUSED user bob is off here")
    assert who(node, pki.alice) == "alice"
    for call, body in (
        ("PUT /v1/bdbs/1", {"name": "renamed", "adopt_users": True}),
        ("PUT /v1/users/3", {"email": "bob@acme.example"}),
        (f"PUT /v1/redis_acls/{old.uid}", {"name": "older"}),
        ("POST /v1/users", {"name": "carol", "password": "carol's own", "role": "none"}),
    ):
        assert plane(call, body).status == 200, call
    subject = {"auth_method": "certificate", "certificate_subject_line": "CN=dave"}
    for call, body in (
        ("POST /v1/users", {"name": "dave", "role": "none", **subject}),
        ("PUT /v1/users/2", {"role_uids": [1, 6]}),
        (f"PUT /v1/redis_acls/{old.uid}", {"acl": BAD + " ~y"}),
    ):
        answer = plane(call, body)
        assert (answer.status, answer.code) == CODE, call
        assert "-@dangeros" in answer.text
    assert plane.ok("DELETE /v1/users/3") == {}
    wait_until(lambda: plane.status() == "active", "nobody is off any more")


def granting(database: Database, acl: int) -> Database:
    given = (*database.roles_permissions, RolePermission(6, acl))
    return replace(database, roles_permissions=given)


def test_rules_are_tried_once_and_not_for_each_user(
    plane: Plane, installed: Server, start: Start, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand users of a role cost one question; after a while it is asked again."""
    node = enrol(plane, start, installed, pki)
    plane.register(node, **grant(2))
    plane.in_step()
    asked: list[Any] = []
    tried = trials.tried
    monkeypatch.setattr(trials, "tried", lambda *given: asked.append(given) or tried(*given))
    plane.app.extensions["trials"] = Trials()
    for number in range(3):
        plane.certificate_user(f"user{number}", f"CN=user{number}", role="none")
    assert len(asked) == 1
    monkeypatch.setattr(trials, "GOOD", 0.0)
    plane.app.extensions["trials"] = Trials()
    plane.certificate_user("user8", "CN=user8", role="none")
    plane.certificate_user("user9", "CN=user9", role="none")
    assert len(asked) == 3


# ---- Previews ------------------------------------------------------------------------------------


def previewed(plane: Plane, request: str, body: Any = None) -> Any:
    """What the one server says that a change would do."""
    method, path = request.split()
    change = {"method": method, "path": path, **({} if body is None else {"body": body})}
    found = plane.ok("POST /v1/certauth/preview", {"changes": [change]})["databases"]
    return found[0]["nodes"][0]


def test_a_preview_knows_whom_a_server_holds_off(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """The server holds `user bob off` in place of the line that it refuses: what goes and comes
    is told of the policy as that server has it, and what it refused before stands in nobody's
    way."""
    node = enrol(plane, start, installed, pki)
    uid = plane.register(node)
    old = plane.store.objects.create(RedisAcl(0, "old", BAD))
    plane.store.objects.update(Database, uid, lambda now: granting(now, old.uid))
    plane.store.objects.create(user(0, "bob", certificate_subject_line="CN=bob,OU=eng,O=acme"))
    plane.says("REFUSED user bob is off here")
    for request, body in (
        ("DELETE /v1/users/3", None),
        (f"PUT /v1/redis_acls/{old.uid}", {"acl": "+get ~*"}),
        ("PUT /v1/bdbs/1", {"adopt_users": True}),
        ("POST /v1/certauth/revocations", {"key": pki.alice.key_id}),
    ):
        found = previewed(plane, request, body)
        assert (found["error"], found["refused"]) == ("", []), request
    assert plane.status().startswith(f"127.0.0.1:{node.port}: REFUSED")


def test_a_preview_that_a_server_refuses_cannot_be_confirmed(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """As where it has a user of that name by itself: the page says so, and has no button; sent
    without it, the form changes nothing. The others' part of the change is told all the same."""
    node = enrol(plane, start, installed, pki, config=["user carol on nopass ~* +get"])
    plane.register(node, **grant(2))
    plane.in_step()
    subject = {"auth_method": "certificate", "certificate_subject_line": "CN=carol,O=acme"}
    carol = {"name": "carol", "role": "none", **subject}
    found = previewed(plane, "POST /v1/users", carol)
    (refused,) = found["refused"]
    assert (refused["user"], found["error"]) == ("carol", "")
    assert refused["why"].startswith("the server has a user of this name already")
    browser = Browser(plane)
    browser.log_in()
    fields = {**subject, "name": "carol", "role_uids": ["6"]}
    page = browser.send(browser.get("/ui/users/new"), "/ui/users/new", **fields)
    assert f"127.0.0.1:{node.port} refuses the user carol: the server has a user" in page.text
    assert "it cannot be confirmed" in page.text
    assert "<button" not in page.html.partition('<div class="actions">')[2].partition("</div>")[0]
    page = browser.send(page, "/ui/users/new")
    assert page.status == 406
    assert "cannot be confirmed" in page.text
    assert [one["name"] for one in plane.ok("GET /v1/users")] == ["admin", "alice"]
    plane.ok("PUT /v1/bdbs/1?wait_for_sync=10", {"adopt_users": True})
    page = browser.send(browser.get("/ui/users/new"), "/ui/users/new", **fields)
    assert "was added" in browser.send(page, "/ui/users/new").text


def test_the_page_says_at_its_field_what_a_server_refuses(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """The form comes again as it was typed, and nothing is stored."""
    node = enrol(plane, start, installed, pki)
    plane.register(node)
    plane.in_step()
    browser = Browser(plane)
    browser.log_in()
    page = browser.send(browser.get("/ui/acls/new"), "/ui/acls/new", name="oops", acl=BAD)
    assert page.status == 406
    assert f"{named(node)} refuses '-@dangeros'" in page.text
    assert BAD in page.html
    assert len(plane.ok("GET /v1/redis_acls")) == 3


def test_a_refusal_names_a_few_and_says_how_many_there_are() -> None:
    """Each once."""
    texts = [f"server {number} refuses it" for number in (1, 2, 3, 4, 5, 5, 6, 7)]
    said = trials.refusal(trials.Problem(1, "on +x", text) for text in texts)
    assert said.description.endswith("; server 5 refuses it; and 2 more")
    assert trials.listed(texts[:2]) == "server 1 refuses it; server 2 refuses it"
