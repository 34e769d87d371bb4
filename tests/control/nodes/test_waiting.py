"""control/nodes/waiting.py: `?wait_for_sync`, without servers: reports of a worker are played."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from control.api.openapi import declared
from control.nodes import waiting
from control.nodes.waiting import IN_FORCE
from control.policy import refusals
from control.records import Database
from control.reports import Node, Refused
from tests.kit.rest import ControlPlane
from tests.kit.support import Pki

WAIT = "wait_for_sync=10"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ControlPlane]:
    """With database 1, on which administrators have rights."""
    made = ControlPlane(tmp_path)
    given = [{"role_uid": 1, "redis_acl_uid": 1}]
    made.database(enforce_client_authentication="disabled", roles_permissions=given)
    yield made
    made.close()


def report(api: ControlPlane, generation: int, error: str = "", port: int = 6380) -> None:
    api.store.nodes.report(1, [Node(1, f"127.0.0.1:{port}", generation, not error, error)])


def certified(name: str) -> dict[str, object]:
    subject = {"auth_method": "certificate", "certificate_subject_line": f"CN={name}"}
    return {"name": name, "role": "admin", **subject}


def test_the_answer_comes_when_the_servers_hold_the_change(api: ControlPlane) -> None:
    """Anyone who writes down that they do wakes the request."""
    report(api, 1)
    other = threading.Timer(0.3, lambda: report(api, 2))
    begun = time.monotonic()
    other.start()
    answer = api.ok(f"POST /v1/users?{WAIT}", certified("alice"))
    assert "pending" not in answer
    assert time.monotonic() - begun >= 0.3
    other.join()


def test_when_the_time_is_over_the_answer_says_what_is_missing(api: ControlPlane) -> None:
    """202: the change is made, and which server does not hold it, and why."""
    report(api, 1)
    answer = api("POST /v1/users?wait_for_sync=0.05", certified("alice"))
    assert (answer.status, answer.json["name"]) == (202, "alice")
    assert answer.json["pending"] == ["127.0.0.1:6380: generation 1, and not yet 2"]
    report(api, 1, "LINES 1 bad")
    answer = api("PUT /v1/users/2?wait_for_sync=0", {"name": "bob"})
    assert answer.json["pending"] == ["127.0.0.1:6380: LINES 1 bad"]
    assert api.ok("GET /v1/users/2")["name"] == "bob"


def test_a_server_that_was_never_looked_at_is_missing(api: ControlPlane) -> None:
    """As after its database was given other endpoints: what was found of the old ones says
    nothing of them, whenever it is written down."""
    report(api, 1)
    before = api.store.objects.get(Database, 1)
    ends = {"endpoints": [{"addr": ["127.0.0.1"], "port": 6381}]}
    pending = ["127.0.0.1:6380: generation 0, and not yet 1"]
    assert api("PUT /v1/bdbs/1?wait_for_sync=0", ends).json["pending"] == pending
    api.store.nodes.report(
        1, [Node(1, "127.0.0.1:6380", 1, True)], of=before
    )  # a worker that was late
    assert api("PUT /v1/bdbs/1?wait_for_sync=0.05", {"name": "new"}).json["pending"] == pending
    now = api.store.objects.get(Database, 1)
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6381", 0, False, "not reached yet")], of=now)
    pending = ["127.0.0.1:6381: not reached yet"]
    assert api("PUT /v1/bdbs/1?wait_for_sync=0.05", {"name": "new"}).json["pending"] == pending
    report(api, 1, port=6381)
    assert api(f"PUT /v1/bdbs/1?{WAIT}", {"name": "again"}).status == 200


def test_what_moves_no_policy_does_not_wait(api: ControlPlane) -> None:
    """A password user, a role, a rehearsal: all of them at once, whatever the servers do."""
    report(api, 0, "UNREACHABLE")
    assert api(f"POST /v1/users?{WAIT}", {"name": "bob", "password": "bob's own"}).status == 200
    assert api(f"POST /v1/roles?{WAIT}", {"name": "ops", "management": "none"}).status == 200
    assert api(f"POST /v1/users?{WAIT}&dry_run", certified("alice")).status == 200
    assert api(f"PUT /v1/redis_acls/2?{WAIT}", {"acl": "+@read ~x:*"}).status == 200


def test_a_removal_is_waited_for(api: ControlPlane) -> None:
    """Of a database, until its last server is given back."""
    report(api, 1)
    answer = api("DELETE /v1/bdbs/1?wait_for_sync=0.05")
    assert answer.status == 202
    behind = "127.0.0.1:6380: generation 1, and not yet 3"
    assert answer.json["pending"] == ["bdb 1 ('orders') is not removed yet", behind]
    assert answer.headers[IN_FORCE] == "0/1"
    assert api(f"GET /v1/actions/{answer.json['action_uid']}").status == 200
    other = threading.Timer(0.1, lambda: api.store.nodes.forget_database(1, 0))
    api.database("other", 6390)
    api.store.nodes.report(2, [Node(2, "127.0.0.1:6390", 1, True)])
    other.start()
    waiting.wait_for_sync(api.store, {1: range(2, 3)}, 10)
    assert api("GET /v1/bdbs/1").status == 404
    other.join()


@pytest.mark.parametrize("text", ["", "-1", "61", "100", "1e3", "nan", "²", "1.2345", "yes"])
def test_a_time_that_is_none_changes_nothing(api: ControlPlane, text: str) -> None:
    """400, before anything is done."""
    before = api.store.revision()
    answer = api(f"POST /v1/users?wait_for_sync={text}", certified("alice"))
    assert (answer.status, answer.code) == (400, "invalid_param")
    assert "wait_for_sync" in answer.text
    assert api.store.revision() == before


def test_a_change_that_is_sent_again_is_no_more_in_force_than_the_first_time(
    api: ControlPlane, pki: Pki
) -> None:
    """A client that lost the first answer sends it again: nothing new is to follow, and it is still
    not in force where it was not."""
    trusted = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
    calls: tuple[tuple[str, Any], ...] = (
        ("POST /v1/certauth/bulk", {"users": [certified("bob")], "key": "once"}),
        ("POST /v1/certauth/revocations", {"cert": "ab" * 32}),
        ("POST /v1/certauth/locks", {"network": "203.0.113.7"}),
        ("PUT /v1/cluster/update_cert", trusted),
        ("PUT /v1/bdbs/1", {"allow_trust_on_internal_links": True}),
        ("PUT /v1/users/2", {"certificate_subject_line": "CN=robert"}),
    )
    for call, body in calls:
        before = api.store.policies.target(1).generation
        report(api, before)
        for _ in range(2):
            answer = api(f"{call}?wait_for_sync=0.05", body)
            assert (answer.status, answer.headers[IN_FORCE]) == (202, "0/1"), (call, answer.json)
        last = api.store.policies.target(1).generation
        report(api, last)
        answer = api(f"{call}?wait_for_sync=0.05", body)
        assert (answer.status, answer.headers[IN_FORCE]) == (200, "1/1"), call
        assert api.store.policies.target(1).generation == last > before
    for call, body in calls:
        assert IN_FORCE not in api(f"{call}?dry_run", body).headers, call
    api.database("gone", 6391)
    api.store.nodes.report(2, [Node(2, "127.0.0.1:6391", 1, False, "UNREACHABLE")])
    api.ok("DELETE /v1/bdbs/2")
    assert api(f"{calls[1][0]}?wait_for_sync=0.05", calls[1][1]).headers[IN_FORCE] == "1/1"


def test_only_so_many_wait(api: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is told at once what is missing, so that threads are left for others."""
    monkeypatch.setattr(waiting, "_PLACES", threading.BoundedSemaphore(1))
    report(api, 1)
    with waiting._PLACES:
        begun = time.monotonic()
        assert api(f"POST /v1/users?{WAIT}", certified("alice")).status == 202
        assert time.monotonic() - begun < 5
    report(api, 2)
    assert api(f"PUT /v1/users/2?{WAIT}", {"email": "a@acme.org"}).status == 200


def test_each_change_says_on_how_many_servers_it_is_in_force(api: ControlPlane, pki: Pki) -> None:
    """Revocations and CAs too, whose answers have no room for it; and 202 where somebody waits for
    what is not. What concerns no server says nothing, nor does what is only asked."""
    api.store.nodes.report(1, [Node(1, f"127.0.0.1:{port}", 1, True) for port in (6380, 6381)])
    revoked = {"cert": pki.alice.certificate.fingerprint(SHA256()).hex()}
    trusted = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
    for call, body in (
        ("POST /v1/certauth/revocations", revoked),
        ("PUT /v1/cluster/update_cert", trusted),
        ("POST /v1/users", certified("alice")),
        ("DELETE /v1/users/2", None),
        ("DELETE /v1/certauth/revocations/1", None),
    ):
        last = api.store.policies.target(1).generation
        api.store.nodes.report(
            1, [Node(1, f"127.0.0.1:{port}", last, True) for port in (6380, 6381)]
        )
        answer = api(f"{call}?wait_for_sync=0.05", body)
        assert (answer.status, answer.headers[IN_FORCE]) == (202, "0/2"), call
    last = api.store.policies.target(1).generation
    away = Node(1, "127.0.0.1:6381", last - 1, False, "UNREACHABLE")
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", last, True), away])
    assert api("PUT /v1/bdbs/1", {"name": "new"}).headers[IN_FORCE] == "1/2"
    for call, body in (("POST /v1/users?dry_run", certified("bob")), ("GET /v1/users", None)):
        assert IN_FORCE not in api(call, body).headers


def test_a_user_whom_a_server_refuses_is_not_in_force(api: ControlPlane) -> None:
    """The server holds the generation; the user's change is pending there, and nobody else's."""
    made = api("POST /v1/users", certified("alice"))
    assert made.headers[IN_FORCE] == "0/1"
    (line,) = (one for one in api.lines() if one.startswith("user alice"))
    off = Refused(line, "user alice off", "Unknown command", "alice")
    generation = api.store.policies.target(1).generation
    node = Node(1, "127.0.0.1:6380", generation, True, "REFUSED user alice", refused=(off,))
    api.store.nodes.report(1, [node])
    api.ok("PUT /v1/bdbs/1?wait_for_sync=5", {"name": "renamed"})
    moved = {1: range(generation, generation + 1)}
    why = "127.0.0.1:6380: REFUSED user alice is off here: Unknown command"
    assert waiting.wait_for_sync(api.store, moved, 0) == [why]
    assert waiting.in_force(api.store, moved) == "0/1"
    assert api.ok("GET /v1/users/2")["off_on"][0]["why"] == "Unknown command"


def test_an_identity_that_a_server_refuses_is_said_of_its_users(api: ControlPlane) -> None:
    """As a module does that is older than its kind: where, and by what they are nobody there; they
    are on by all else that they have, and of other users nothing is said."""
    part = {"attributes": "OU=eng", "shared": True}
    for name in ("cart", "web"):
        identities = [{"cn": name}, part]
        body = {**certified(name), "certificate_identities": identities}
        del body["certificate_subject_line"]
        api.ok("POST /v1/users", body)
    api.ok("POST /v1/users", certified("other"))
    (line,) = (one for one in api.lines() if one.startswith("bind attributes"))
    (refused,) = refusals.blamed(f"1 problems; line 1: no {line[5:15]}", [f"+{line}"], (), ()) or ()
    assert refusals.deviation([refused]) == {line: -1}
    generation = api.store.policies.target(1).generation
    node = Node(1, "127.0.0.1:6380", generation, True, "REFUSED x", refused=(refused,))
    api.store.nodes.report(1, [node])
    why = f"'{line}' does not hold: no attributes"
    told = [{"bdb_uid": 1, "address": "127.0.0.1:6380", "why": why}]
    users = {one["name"]: one.get("off_on", []) for one in api.ok("GET /v1/users")}
    assert users == {"admin": [], "cart": told, "web": told, "other": []}
    assert api.ok("GET /v1/users/3")["off_on"] == told
    api.store.nodes.report(1, [replace(node, error="", refused=())])
    assert "off_on" not in api.ok("GET /v1/users/3")


def test_every_changing_route_takes_it(api: ControlPlane) -> None:
    """Whatever it changes; and none that changes nothing: as with `dry_run` (test_query.py)."""
    for route, rule, _ in declared(api.app):
        assert ("wait_for_sync" in rule.query) == ("dry_run" in rule.query), route.rule


def test_the_body_says_how_far_a_change_is_where_it_is_ours(api: ControlPlane) -> None:
    """Of calls below /v1/certauth at once, of Redis Enterprise's where somebody waits: the servers
    that do not hold it, and why. A 202 is only for those who have waited."""
    away = Node(1, "127.0.0.1:6381", 1, False, "UNREACHABLE refused")
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", 1, True), away])
    made = api("POST /v1/certauth/revocations", {"cert": "ab" * 32})
    assert (made.status, made.json["in_force"], made.headers[IN_FORCE]) == (200, "0/2", "0/2")
    pending = ["127.0.0.1:6380: generation 1, and not yet 2", "127.0.0.1:6381: UNREACHABLE refused"]
    assert made.json["pending"] == pending
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", 3, True), away])
    gone = api("DELETE /v1/certauth/revocations/1?wait_for_sync=0")
    assert (gone.status, gone.json) == (202, {"in_force": "1/2", "pending": pending[1:]})
    assert "in_force" not in api.ok("POST /v1/users", certified("alice"))
    api.store.nodes.report(1, [Node(1, "127.0.0.1:6380", 9, True)])
    assert api.ok("PUT /v1/users/2?wait_for_sync=5", certified("bob"))["in_force"] == "1/1"
    assert "in_force" not in api.ok("GET /v1/certauth/nodes")
