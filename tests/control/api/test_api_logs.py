"""control/api/logs.py: /v1/logs, the event log."""

from typing import Any

import pytest

from control.domain.guard import BURST
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
    """And with the names of the fields that changed, never what is in them."""
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
    assert last(api)["fields"] == ["name", "passwords"]
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
