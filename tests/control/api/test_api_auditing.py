"""control/api/auditing.py: who the auditor is, and of which connections it hears."""

from typing import Any

import pytest

from tests.kit.rest import ControlPlane

SINK = "/v1/cluster/auditing/db_conns"
TCP = {"audit_protocol": "TCP", "audit_address": "127.0.0.1", "audit_port": 12345}
INVALID = "audit_settings_invalid_"
DEFAULTS = {
    "audit_reconnect_interval": 1,
    "audit_reconnect_max_attempts": 0,
    "audit_queue_max_bytes": 524_288,
}


@pytest.fixture
def audited(api: ControlPlane) -> ControlPlane:
    """With an auditor, and a database that it does not hear of."""
    api.ok(f"PUT {SINK}", TCP)
    api.database()
    return api


def settings(api: ControlPlane) -> Any:
    return api.ok("GET /v1/bdbs/1")["audit_settings"]


def test_the_auditor_is_what_was_put_there(api: ControlPlane) -> None:
    """With Redis Enterprise's defaults; what is not sent stays; 404 before and after."""
    for call in ("GET", "DELETE"):
        answer = api(f"{call} {SINK}")
        assert (answer.status, answer.code) == (404, "db_conns_audit_config_not_found")
    assert api.ok(f"PUT {SINK}", TCP) == TCP | DEFAULTS
    changed = api.ok(f"PUT {SINK}", {"audit_reconnect_interval": 5})
    assert changed == TCP | DEFAULTS | {"audit_reconnect_interval": 5}
    assert api.ok(f"GET {SINK}") == changed
    assert api.ok(f"PUT {SINK}?dry_run", {"audit_port": 9})["audit_port"] == 9
    assert api.ok(f"GET {SINK}") == changed
    local = {"audit_protocol": "local", "audit_address": "/run/audit.sock"}
    assert api.ok(f"PUT {SINK}", local) == {**DEFAULTS, **local, "audit_reconnect_interval": 5}
    for path, port in (("/dev/log", {}), ("siem.example.com", {"audit_port": 601})):
        syslog = {"audit_protocol": "syslog", "audit_address": path, **port}
        assert api.ok(f"PUT {SINK}", syslog)["audit_address"] == path
    assert api.ok(f"DELETE {SINK}") == {}
    assert api(f"GET {SINK}").status == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "db_conns_auditing_missing_config"),
        ({"audit_protocol": "TCP"}, "db_conns_auditing_missing_config"),
        ({**TCP, "audit_port": 0}, "invalid_schema"),
        ({"audit_protocol": "TCP", "audit_address": "h"}, "db_conns_auditing_missing_config"),
        ({"audit_protocol": "syslog", "audit_address": "h"}, "db_conns_auditing_missing_config"),
        ({**TCP, "audit_protocol": "local"}, "db_conns_auditing_bad_address"),
        ({**TCP, "audit_address": "/run/x"}, "db_conns_auditing_bad_address"),
        ({**TCP, "audit_address": "a b"}, "db_conns_auditing_bad_address"),
        ({**TCP, "audit_address": "/x", "audit_protocol": "local"}, "db_conns_auditing_bad_config"),
        ({**TCP, "audit_protocol": "UDP"}, "invalid_schema"),
        ({**TCP, "audit_queue_max_bytes": -1}, "invalid_schema"),
        ({**TCP, "audit_reconnect_interval": "1"}, "invalid_schema"),
        ({**TCP, "audit_port": None}, "invalid_schema"),
        ({**TCP, "audit_tls": True}, "unknown_field"),
    ],
)
def test_what_goes_nowhere_is_no_auditor(
    api: ControlPlane, body: dict[str, Any], code: str
) -> None:
    """400, with Redis Enterprise's code where it has one; nothing is kept."""
    answer = api(f"PUT {SINK}", body)
    assert (answer.status, answer.code) == (400, code)
    assert api(f"GET {SINK}").status == 404


def test_only_an_administrator_says_who_hears(api: ControlPlane) -> None:
    member = api.password_user("m", "cluster_member")
    assert api(f"PUT {SINK}", TCP, auth=member).status == 403
    api.ok(f"PUT {SINK}", TCP)
    assert api.ok(f"GET {SINK}", auth=member) == TCP | DEFAULTS
    assert api(f"DELETE {SINK}", auth=member).status == 403


def test_no_database_is_audited_without_an_auditor(api: ControlPlane) -> None:
    """406 by either name and for the cluster's default; and no auditor goes that is needed."""
    api.database()
    on: Any = {"audit_settings": {"audit_mode": "connection"}}
    for call, body in (
        ("PUT /v1/bdbs/1", on),
        ("PUT /v1/bdbs/1", {"db_conns_auditing": True}),
        ("PUT /v1/cluster/policy", {"db_conns_auditing": True}),
    ):
        answer = api(call, body)
        assert (answer.status, answer.code) == (406, "audit_settings_config_missing")
    api.ok(f"PUT {SINK}", TCP)
    api.ok("PUT /v1/bdbs/1", on)
    code = "cannot_delete_audit_config_when_bdb_enabled"
    assert (api(f"DELETE {SINK}").status, api(f"DELETE {SINK}").code) == (406, code)
    api.ok("PUT /v1/bdbs/1", {"audit_settings": {"audit_mode": "disabled"}})
    api.ok("PUT /v1/cluster/policy", {"db_conns_auditing": True})
    assert api(f"DELETE {SINK}").code == "cannot_delete_audit_config_when_policy_enabled"
    api.ok("PUT /v1/cluster/policy", {"db_conns_auditing": False})
    api.ok(f"DELETE {SINK}")


def test_settings_are_merged(audited: ControlPlane) -> None:
    """As documented: what is not sent stays, also within a filter."""
    full = {
        "audit_mode": "connection",
        "username_filter": {
            "enabled": True,
            "usernames": ["alice", "bob"],
            "filter_type": "exclusive",
            "allow_while_username_unknown": True,
        },
        "source_ip_filter": {
            "enabled": True,
            "ip_addresses": ["::1", "10.0.0.1"],
            "cidr_ranges": ["10.20.0.0/16"],
            "filter_type": "inclusive",
        },
        "max_total_key_bytes": 0,
    }
    shown = audited.ok("PUT /v1/bdbs/1", {"audit_settings": full})
    assert (shown["audit_settings"], shown["db_conns_auditing"]) == (full, True)
    audited.ok("PUT /v1/bdbs/1", {"audit_settings": {"username_filter": {"enabled": False}}})
    full["username_filter"] = {**dict(full["username_filter"]), "enabled": False}  # type: ignore[call-overload]
    assert settings(audited) == full
    again = audited.ok("GET /v1/bdbs/1")
    sent = {name: again[name] for name in ("audit_settings", "db_conns_auditing", "created_time")}
    assert audited.ok("PUT /v1/bdbs/1", sent)["audit_settings"] == full


def test_the_older_name_is_the_mode(audited: ControlPlane) -> None:
    """`db_conns_auditing`, of a database and of new ones. Where both are sent, `audit_mode` wins:
    an object that was read can be sent back with it changed. But what the older name switches on
    is not left off by a 200."""

    def mode(flag: bool, audit_mode: str) -> Any:
        body: Any = {"db_conns_auditing": flag, "audit_settings": {"audit_mode": audit_mode}}
        answer = audited("PUT /v1/bdbs/1", body)
        return answer.code or settings(audited)["audit_mode"]

    shown = audited.ok("PUT /v1/bdbs/1", {"db_conns_auditing": True})
    assert shown["audit_settings"]["audit_mode"] == "connection"
    assert mode(False, "connection") == "connection"
    assert mode(True, "disabled") == "disabled"
    assert mode(True, "disabled") == "invalid_param"
    assert mode(False, "connection") == "connection"
    audited.ok("PUT /v1/cluster/policy", {"db_conns_auditing": True})
    assert audited.database("new", 6381)["db_conns_auditing"] is True
    assert audited.database("not", 6382, db_conns_auditing=False)["db_conns_auditing"] is False
    mute = audited.database("mute", 6383, audit_settings={"audit_mode": "disabled"})
    assert mute["db_conns_auditing"] is False


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"audit_mode": "connection_and_crud"}, 406, "unsupported_setting"),
        ({"username_filter": {"enabled": True}}, 400, "audit_settings_empty_filter_list"),
        ({"source_ip_filter": {"enabled": True}}, 400, "audit_settings_empty_filter_list"),
        ({"source_ip_filter": {"ip_addresses": ["10.0.0.0/8"]}}, 400, INVALID + "ip_address"),
        ({"source_ip_filter": {"cidr_ranges": ["10.0.0.1/8"]}}, 400, INVALID + "cidr_range"),
        ({"source_ip_filter": {"cidr_ranges": ["x"]}}, 400, INVALID + "cidr_range"),
        (
            {"source_ip_filter": {"ip_addresses": ["::1"] * 500, "cidr_ranges": ["::/8"] * 13}},
            400,
            "audit_settings_filter_list_too_large",
        ),
        ({"username_filter": {"usernames": ["a"] * 513}}, 400, "invalid_schema"),
        ({"username_filter": {"usernames": ["<a>"]}}, 400, "invalid_schema"),
        ({"username_filter": {"filter_type": "some"}}, 400, "invalid_schema"),
        ({"username_filter": {"name": "a"}}, 400, "unknown_field"),
        ({"max_total_key_bytes": -1}, 400, "invalid_schema"),
        ({"audit_mode": "all"}, 400, "invalid_schema"),
        ({"mode": "connection"}, 400, "unknown_field"),
        (None, 400, "invalid_schema"),
        ([], 400, "invalid_schema"),
    ],
)  # fmt: skip
def test_a_filter_that_cannot_be_meant_is_refused(
    audited: ControlPlane, sent: Any, status: int, code: str
) -> None:
    """With the documented code; and nothing of it is kept."""
    before = settings(audited)
    answer = audited("PUT /v1/bdbs/1", {"audit_settings": sent})
    assert (answer.status, answer.code) == (status, code), answer.json
    assert answer.text.startswith("audit_settings")
    assert settings(audited) == before
