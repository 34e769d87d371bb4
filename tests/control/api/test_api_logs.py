"""control/api/logs.py: /v1/logs, the event log."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from control.domain.counters import BURST
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import Pki


def types(api: ControlPlane, query: str = "") -> list[str]:
    """But for the administrator's login, which is there once a minute."""
    found = [event["type"] for event in api.ok(f"GET /v1/logs{query}")]
    return [one for one in found if one != "login"]


def last(api: ControlPlane) -> dict[str, Any]:
    found = api.ok("GET /v1/logs?order=desc&limit=1")
    assert isinstance(found[0], dict)
    return found[0]


def test_every_change_is_told_with_who_made_it(api: ControlPlane, pki: Pki) -> None:
    """And with the fields that changed, as they were and as they are, but never a password."""
    api.ok("POST /v1/users", {"name": "bob", "password": "the secret"})
    told = last(api)
    assert told.pop("time").endswith("Z")
    assert told == {
        "type": "user_created",
        "severity": "INFO",
        "originating_username": "admin",
        "originating_address": "127.0.0.1",
        "user_uid": 2,
        "user_name": "bob",
    }
    api.ok("PUT /v1/users/2", {"name": "robert", "password": "another secret"})
    told = last(api)
    assert told["fields"] == ["name", "passwords"]
    assert (told["before"], told["after"]) == (['"bob"', ""], ['"robert"', ""])
    api.ok("DELETE /v1/users/2")
    api.ok("PUT /v1/cluster", {"password_min_length": 9})
    api.ok("PUT /v1/cluster/policy", {"login_lockout_threshold": 6})
    api.trust(pki.ca)
    api.ok("DELETE /v1/cluster/certificates/mtls_trusted_ca")
    api.ok("POST /v1/roles", {"name": "ops"})
    api.ok("POST /v1/redis_acls", {"name": "get", "acl": "+get ~*"})
    api.database()
    api.ok("PUT /v1/bdbs/1", {"name": "orders2"})
    api.ok("DELETE /v1/bdbs/1")
    api.ok("DELETE /v1/bdbs/1")
    assert types(api) == [
        "cluster_created", "user_created", "user_updated", "user_deleted", "cluster_updated",
        "cluster_updated", "certificate_updated", "cluster_updated", "certificate_deleted",
        "role_created", "redis_acl_created", "bdb_created", "bdb_updated", "bdb_updated",
        "bdb_deleted",
    ]  # fmt: skip
    assert "secret" not in str(api.ok("GET /v1/logs"))


def test_a_change_of_cas_names_them(api: ControlPlane, pki: Pki) -> None:
    """By subject and SHA-256: those that came, and those that went."""
    api.trust(pki.ca)
    ours = f"CN=Root CA,O=acme, SHA-256 {pki.ca.fingerprint}"
    (one,) = api.ok("GET /v1/logs?type=certificate_updated")
    assert (one["added"], "removed" in one) == ([ours], False)


def test_a_long_value_is_cut(api: ControlPlane) -> None:
    """It cannot fill the log."""
    rules = " ".join(f"~a-longer-key-{number}:*" for number in range(450))
    api.ok("PUT /v1/redis_acls/2", {"acl": f"+get {rules}"})
    (before,), (after,) = last(api)["before"], last(api)["after"]
    assert before == '"+@read ~*"'
    assert (len(after), after[-1]) == (4001, "…")


def test_the_log_of_one_object(api: ControlPlane) -> None:
    """And of no other of its kind, nor of one of another kind with its number."""
    for name in "ab":
        api.ok("POST /v1/roles", {"name": name})
        api.ok("POST /v1/redis_acls", {"name": name, "acl": "+get"})
    uid = api.ok("GET /v1/roles")[-1]["uid"]
    api.ok(f"PUT /v1/roles/{uid}", {"name": "c"})
    assert types(api, f"?object=role/{uid}") == ["role_created", "role_updated"]
    assert types(api, "?object=role/77") == []
    for wrong in ("role", "role/x", "nothing/1", "user/-1"):
        answer = api(f"GET /v1/logs?object={wrong}")
        assert (answer.status, answer.code) == (400, "invalid_param")
        assert "object: must look like user/5" in answer.json["description"]


def test_what_was_changed_is_kept_for_a_time(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it is; what is older than the setting says goes, and nothing else."""
    monkeypatch.setattr("control.store.events.EVENTS_PER_TYPE", 5)
    monkeypatch.setattr("control.store.events.TRIM_BATCH", 1)
    for number in range(8):
        api.ok("POST /v1/roles", {"name": f"r{number}"})
    assert types(api).count("role_created") == 8
    for wrong in (0, 36_501):
        assert api("PUT /v1/cluster", {"log_retention": wrong}).status == 400
    api.ok("PUT /v1/cluster", {"log_retention": 10})
    later = SimpleNamespace(time=lambda: time.time() + 11 * 86400)
    monkeypatch.setattr("control.store.events.time", later)
    api.ok("POST /v1/roles", {"name": "late"})
    found = [one.get("role_name") for one in api.ok("GET /v1/logs?type=role_")]
    assert found == ["late"]


def test_what_was_refused_or_rehearsed_is_no_change(api: ControlPlane) -> None:
    """The log is written with the change, or not at all."""
    api("POST /v1/roles", {"name": "Admin"})
    api("DELETE /v1/users/1")
    api.ok("POST /v1/roles?dry_run", {"name": "ops"})
    assert types(api) == ["cluster_created"]


def test_failed_logins_are_told(api: ControlPlane, pki: Pki) -> None:
    """By password with the name that was tried, by certificate with the reason; not the password.
    The lock that comes of it too."""
    api.password_user("bob", "none")
    for _ in range(5):
        api("GET /v1/users/role", auth=("bob", "wrong guess"))
    found = api.ok("GET /v1/logs?order=desc")
    assert [event["type"] for event in found[:2]] == ["user_locked", "login_failed"]
    assert found[1]["username"] == "bob"
    assert found[1]["address"] == "127.0.0.1"
    assert found[1]["severity"] == "WARNING"
    assert "wrong guess" not in str(found)
    api.trust(pki.ca)
    api("GET /v1/users/role", cert=pki.bob)
    assert last(api)["reason"] == "no_binding"
    api("GET /v1/users/role", auth="Bearer x")
    assert last(api)["reason"] == "invalid_token"


def test_a_login_is_told_with_how_and_from_where(api: ControlPlane, pki: Pki) -> None:
    """And a change that came by certificate names the certificate."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice,OU=eng,O=acme", role="admin")
    api.ok("POST /v1/roles", {"name": "ops"}, cert=pki.alice)
    login, made = api.ok("GET /v1/logs")[-2:]
    serial = f"{pki.alice.certificate.serial_number:x}"
    assert (login["type"], login["by"], login["severity"]) == ("login", "certificate", "INFO")
    for one in (login, made):
        assert one["originating_username"] == "alice"
        assert one["originating_address"] == "127.0.0.1"
        assert one["originating_serial"].lstrip("0") == serial
        assert one["originating_issuer"] == pki.ca.certificate.subject.rfc4514_string()
    api.ok("POST /v1/roles", {"name": "ops2"})
    assert "originating_serial" not in last(api)


def test_strangers_certificates_are_told_so_often_only(api: ControlPlane, pki: Pki) -> None:
    """Each would be a write that costs them nothing."""
    api.trust(pki.ca)
    for _ in range(BURST + 10):
        api("GET /v1/users/role", cert=pki.bob)
    assert BURST <= types(api).count("login_failed") < BURST + 10


def test_failed_logins_do_not_wash_away_what_administrators_did(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each type has its own room in the log, and the oldest of it go."""
    monkeypatch.setattr("control.store.events.EVENTS_PER_TYPE", 20)
    monkeypatch.setattr("control.store.events.TRIM_BATCH", 10)
    for number in range(95):
        api.store.logins.failed(0, number, username=str(number))
    found = api.ok("GET /v1/logs")
    assert found[0]["type"] == "cluster_created"
    names = [event["username"] for event in found if event["type"] == "login_failed"]
    assert 20 <= len(names) < 30
    assert names[-1] == "94"


def test_the_log_is_read_in_parts(api: ControlPlane) -> None:
    """Forwards and backwards, by number and by time."""
    for name in "abc":
        api.ok("POST /v1/roles", {"name": name})
    names = [event.get("role_name") for event in api.ok("GET /v1/logs?limit=2&offset=2")]
    assert names == ["a", "b"]
    names = [event.get("role_name") for event in api.ok("GET /v1/logs?order=desc&limit=2")]
    assert names == ["c", "b"]
    assert len(types(api, "?stime=2001-01-01T00:00:00Z&etime=2100-01-01T00:00:00Z")) == 4
    assert types(api, "?stime=2100-01-01") == []
    assert types(api, "?etime=2001-01-01T00:00:00%2B02:00") == []


@pytest.mark.parametrize(
    "query",
    [
        "stime=yesterday", "stime=", "etime=9999-99-99", "order=up", "limit=-1", "limit=x",
        "offset=1.5", "limit=99999999999999999999", "stime=0001-01-01T00:00:00%2B23:59", "limit=²",
    ],
)  # fmt: skip
def test_a_bad_query_is_a_400_with_its_name(api: ControlPlane, query: str) -> None:
    """Not everything instead."""
    answer = api(f"GET /v1/logs?{query}")
    if query.startswith("stime=0001"):
        assert answer.status == 200
    else:
        assert (answer.status, answer.code) == (400, "invalid_param")
        assert answer.text.startswith(query.partition("=")[0] + ": ")


def test_a_db_viewer_sees_no_log(api: ControlPlane) -> None:
    """Every other viewer does."""
    viewer = api.password_user("viewer", "db_viewer")
    assert api("GET /v1/logs", auth=viewer).status == 403
    assert api("GET /v1/logs", auth=ADMIN).status == 200
