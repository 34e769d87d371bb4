"""/v1/certauth/locks: who is locked is nobody, here and on databases, until the lock ends."""

import time

import pytest

from control.domain import revocation
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import Pki

LOCKS = "/v1/certauth/locks"
ALICE = "CN=alice,OU=eng,O=acme"


def held(api: ControlPlane) -> set[str]:
    return {line for line in api.lines(1) if line.startswith("lock ")}


def kinds(api: ControlPlane) -> list[str]:
    return [one["type"] for one in api.ok("GET /v1/logs") if one["type"].startswith("lock")]


def test_who_is_locked_is_nobody_until_it_is_taken_back(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """In each way: at the next request here, as a line of each database, and in explain; nothing
    else of either changes."""
    api, before = api_with_alice, api_with_alice.lines(1)
    uid = next(one["uid"] for one in api.ok("GET /v1/users") if one["name"] == "alice")
    root = pki.ca.certificate.subject.rfc4514_string()
    for body, line in [
        ({"user": "alice"}, "lock user alice"),
        ({"user_uid": uid}, "lock user alice"),
        ({"identity": {"subject": "CN = alice, OU = eng, O = acme"}}, f"lock subject {ALICE}"),
        ({"identity": {"key": pki.alice.key_id.upper()}}, f"lock key {pki.alice.key_id}"),
        ({"ca": root}, f"lock ca {pki.ca.key_id}"),
        ({"ca": pki.ca.key_id}, f"lock ca {pki.ca.key_id}"),
    ]:
        made = api.ok(f"POST {LOCKS}", {**body, "reason": "lost laptop"})
        assert (made["line"], made["reason"]) == (line, "lost laptop")
        assert "end" not in made
        told = " ".join(made.get("warnings", ()))
        assert ("as RFC 4514 writes it" in told) == ("CN = alice" in str(body))
        shown = {name: made[name] for name in ("uid", "line", "reason", "time")}
        assert api.ok(f"GET {LOCKS}/{made['uid']}") == shown
        assert api.ok(f"GET {LOCKS}") == [shown]
        assert set(api.lines(1)) - set(before) == {line}
        assert api.role(pki.alice) == "locked", body
        for where in ({}, {"bdb_uid": 1}):
            asked = {"certificate": pki.alice.pem.decode(), **where}
            told = api.ok("POST /v1/certauth/explain", asked)
            assert told["reason"] == "locked", (body, where)
            assert any("by the line: lock " in step for step in told["trace"])
        api.ok(f"DELETE {LOCKS}/{made['uid']}")
        assert set(api.lines(1)) == set(before)
        assert api.role(pki.alice) == "admin"
        assert api(f"DELETE {LOCKS}/{made['uid']}").status == 404
        assert api(f"GET {LOCKS}/{made['uid']}").status == 404
    assert kinds(api) == ["locked", "lock_removed"] * 6


def test_a_locked_user_has_no_password_and_no_token_either(api: ControlPlane) -> None:
    """A right password is not a way past it; a wrong one is told nothing."""
    api.ok("POST /v1/users", {"name": "bob", "password": "long enough 1", "role": "admin"})
    token = api.ok(
        "POST /v1/users/authorize", {"username": "bob", "password": "long enough 1"}, auth=None
    )["access_token"]
    made = api.ok(f"POST {LOCKS}", {"user": "bob"})
    answer = api("GET /v1/users", auth=("bob", "long enough 1"))
    assert (answer.status, answer.code) == (401, "locked")
    assert api("GET /v1/users", auth=("bob", "wrong")).code == "invalid_credentials"
    assert (
        api("GET /v1/users", auth=None, headers={"Authorization": f"JWT {token}"}).code == "locked"
    )
    api.ok(f"DELETE {LOCKS}/{made['uid']}")
    assert api("GET /v1/users", auth=("bob", "long enough 1")).status == 200


def test_a_lock_ends_on_time_and_gives_no_more_than_was(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """What was taken from the user meanwhile stays taken."""
    api = api_with_alice
    made = api.ok(f"POST {LOCKS}", {"user": "alice", "seconds": 3600})
    assert made["end"]
    now = int(time.time())
    revocation.look(api.store, list, now + 3590)
    assert held(api) == {"lock user alice"}
    api.ok("PUT /v1/bdbs/1", {"roles_permissions": []})
    revocation.look(api.store, list, now + 3700)
    assert held(api) == set()
    assert not any(line.startswith(("bind ", "user alice")) for line in api.lines(1))
    assert api.ok(f"GET {LOCKS}") == []
    assert kinds(api) == ["locked", "lock_ended"]


def test_locking_twice_is_one_lock_for_the_longer_time(api_with_alice: ControlPlane) -> None:
    """So a second press of the button never lets anybody in earlier."""
    api, body = api_with_alice, {"user": "alice"}
    first = api.ok(f"POST {LOCKS}", {**body, "seconds": 3600, "reason": "one"})
    again = api.ok(f"POST {LOCKS}", {**body, "seconds": 60, "reason": "two"})
    assert (again["uid"], again["end"], again["reason"]) == (first["uid"], first["end"], "two")
    longer = api.ok(f"POST {LOCKS}", {**body, "seconds": 7200})
    assert longer["end"] > first["end"]
    assert "end" not in api.ok(f"POST {LOCKS}", body)
    assert "end" not in api.ok(f"POST {LOCKS}", {**body, "seconds": 60})
    assert len(api.ok(f"GET {LOCKS}")) == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "send one of: user"),
        ({"reason": "x"}, "send one of: user"),
        ({"user": "alice", "network": "10.0.0.0/8"}, "send one of: user"),
        ({"user": "default"}, "user: 'default' is the user of clients without a certificate"),
        ({"user": "a b"}, "user: not the name of an ACL user"),
        ({"network": "10.0.0.1/8"}, "network: '10.0.0.1/8' has bits set behind its prefix"),
        ({"network": "all"}, "network: lock network takes an address or a network"),
        ({"ca": "CN=Unknown"}, "ca: no trusted CA is called 'CN=Unknown'"),
        ({"identity": {}}, "identity: "),
        ({"identity": {"cn": "a", "uri": "b:c"}}, "identity: "),
        ({"identity": {"cn": "a", "session": "8h"}}, "identity: a lock takes no options"),
        ({"identity": {"attributes": "OU=eng"}}, "identity: lock takes user, ca, network"),
        ({"user": "alice", "seconds": -1}, "seconds"),
    ],
)
def test_what_is_no_lock_is_refused(api: ControlPlane, body: object, problem: str) -> None:
    answer = api(f"POST {LOCKS}", body)
    assert answer.status == 400
    assert problem in answer.json["description"]


def test_nobody_locks_himself_out(api_with_alice: ControlPlane, pki: Pki) -> None:
    """By name, certificate, CA or address; who else is locked by the same line is another's."""
    api = api_with_alice
    for body in (
        {"user": "alice"},
        {"identity": {"cn": "alice"}},
        {"ca": pki.ca.key_id},
        {"network": "127.0.0.0/8"},
    ):
        answer = api(f"POST {LOCKS}", body, cert=pki.alice)
        assert (answer.status, answer.code) == (409, "lock_concerns_you"), body
    assert api(f"POST {LOCKS}", {"user": "bob"}, cert=pki.alice).status == 200
    assert api(f"POST {LOCKS}", {"network": "0.0.0.0/0"}).code == "lock_concerns_you"


def test_a_name_that_nobody_has_is_told(api_with_alice: ControlPlane) -> None:
    """A lock that is misspelt holds nobody out."""
    warned = api_with_alice.ok(f"POST {LOCKS}", {"user": "alcie"})["warnings"]
    assert "no user 'alcie':" in warned[0]
    assert "warnings" not in api_with_alice.ok(f"POST {LOCKS}", {"user": "alice"})


def test_attack_a_locked_user_is_not_let_in_by_another_name(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """Who may change users, and not locks, could give a locked user another name."""
    api = api_with_alice
    pam = api.password_user("pam", "user_manager")
    bob = api.ok(
        "POST /v1/users", {"name": "bob", "password": "long enough 1", "role": "db_viewer"}
    )
    made = api.ok(f"POST {LOCKS}", {"user": "bob", "seconds": 3600, "reason": "why"})
    assert api(f"PUT /v1/users/{bob['uid']}", {"name": "robert"}, auth=pam).status == 200
    assert api("GET /v1/bdbs", auth=("robert", "long enough 1")).code == "locked"
    found = {one["line"]: one for one in api.ok(f"GET {LOCKS}")}
    assert set(found) == {"lock user bob", "lock user robert"}
    for one in found.values():
        assert (one["reason"], one["end"]) == ("why", made["end"])
    uid = next(one["uid"] for one in api.ok("GET /v1/users") if one["name"] == "alice")
    api.ok(f"POST {LOCKS}", {"user": "alice"})
    api.ok(f"PUT /v1/users/{uid}", {"name": "alicia"})
    assert api.role(pki.alice) == "locked"
    assert "lock user alicia" in held(api)
    for one in api.ok(f"GET {LOCKS}"):
        api.ok(f"DELETE {LOCKS}/{one['uid']}")
    assert api.role(pki.alice) == "admin"
    assert api("GET /v1/bdbs", auth=("robert", "long enough 1")).status == 200


def test_a_new_name_that_is_locked_longer_stays_so(api: ControlPlane) -> None:
    bob = api.ok(
        "POST /v1/users", {"name": "bob", "password": "long enough 1", "role": "db_viewer"}
    )
    api.ok(f"POST {LOCKS}", {"user": "robert"})
    api.ok(f"POST {LOCKS}", {"user": "bob", "seconds": 60})
    api.ok(f"PUT /v1/users/{bob['uid']}", {"name": "robert"})
    found = {one["line"]: one.get("end", "") for one in api.ok(f"GET {LOCKS}")}
    assert found["lock user robert"] == ""


def test_a_lock_of_an_address_of_mail_is_told(api: ControlPlane) -> None:
    """It is how somebody may log in, and not a name: such a lock holds nobody out."""
    api.ok("POST /v1/users", {"name": "bob", "email": "bob@acme.example",
                              "password": "long enough 1", "role": "db_viewer"})  # fmt: skip
    warned = api.ok(f"POST {LOCKS}", {"user": "bob@acme.example"})["warnings"]
    assert "no user 'bob@acme.example':" in warned[0]


def test_only_an_administrator_locks(api: ControlPlane) -> None:
    api.ok("POST /v1/users", {"name": "pam", "password": "long enough 1", "role": "user_manager"})
    answer = api(f"POST {LOCKS}", {"user": "bob"}, auth=("pam", "long enough 1"))
    assert (answer.status, answer.code) == (403, "insufficient_permissions")
    assert api(f"GET {LOCKS}", auth=("pam", "long enough 1")).status == 200


def test_a_dry_run_locks_nobody(api_with_alice: ControlPlane, pki: Pki) -> None:
    api_with_alice.ok(f"POST {LOCKS}?dry_run", {"user": "alice"})
    assert api_with_alice.role(pki.alice) == "admin"
    assert ADMIN
