"""control/api/cluster.py: /v1/cluster."""

from typing import Any

import pytest

from tests.kit.rest import ControlPlane
from tests.kit.support import Pki


def test_a_new_cluster_has_redis_enterprises_defaults(api: ControlPlane) -> None:
    """Everything about certificates is off, and passwords are on."""
    found = api.ok("GET /v1/cluster")
    created, alerts = found.pop("created_time"), found.pop("alert_settings")
    assert all(one["enabled"] for one in alerts.values())
    assert len(created) == 20
    assert created.endswith("Z")
    assert found == {
        "name": "acme",
        "mtls_certificate_authentication": False,
        "mtls_client_cert_subject_validation_type": "disabled",
        "mtls_authorized_subjects": [],
        "control_plane_basic_authentication": True,
        "password_complexity": False,
        "password_min_length": 8,
        "password_expiration_duration": 0,
        "max_certificate_lifetime": 0,
        "required_extended_key_usages": [],
        "required_certificate_policies": [],
        "min_key_bits": 0,
        "min_tls_version": "",
        "several_names": "refuse",
        "min_control_TLS_version": "1.2",
        "min_data_TLS_version": "1.2",
        "options_method_forbidden": False,
        "log_retention": 400,
    }


def test_only_what_is_sent_changes(api: ControlPlane) -> None:
    """A PUT is partial, and answers the whole."""
    subjects = [{"CN": "a", "OU": ["x", "y"], "O": "o", "L": "l", "ST": "s", "C": "DE"}]
    api.ok("PUT /v1/cluster", {"mtls_authorized_subjects": subjects})
    body = {"mtls_client_cert_subject_validation_type": "san_cn"}
    changed = api.ok("PUT /v1/cluster", body)
    assert changed["mtls_authorized_subjects"] == subjects
    assert changed["mtls_client_cert_subject_validation_type"] == "san_cn"
    assert changed == api.ok("GET /v1/cluster")


def test_a_dry_run_changes_nothing(api: ControlPlane) -> None:
    """But answers what the change would, and its errors."""
    body: dict[str, Any] = {"mtls_client_cert_subject_validation_type": "san_cn"}
    before = api.ok("GET /v1/cluster")
    assert api.ok("PUT /v1/cluster?dry_run", body) == {**before, **body}
    assert api.ok("GET /v1/cluster") == before
    body = {"mtls_certificate_authentication": True}
    assert api("PUT /v1/cluster?dry_run", body).code == "missing_certificate"


def test_certificate_login_needs_the_ca_first(api: ControlPlane, pki: Pki) -> None:
    """Switched on without one, nobody could come in."""
    on = {"mtls_certificate_authentication": True}
    answer = api("PUT /v1/cluster", on)
    assert (answer.status, answer.code) == (406, "missing_certificate")
    assert not api.ok("GET /v1/cluster")["mtls_certificate_authentication"]
    api.trust(pki.ca, login=False)
    assert api.ok("PUT /v1/cluster", on)["mtls_certificate_authentication"]


def test_fields_of_redis_enterprise_that_mean_nothing_here_are_listed(api: ControlPlane) -> None:
    """Accepted, so that scripts go on, and not silently."""
    answer = api.ok("PUT /v1/cluster", {"rack_aware": True, "name": "other"})
    assert answer["ignored"] == ["name", "rack_aware"]
    assert answer["name"] == "acme"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mtls_certificate_authentication": "yes"}, "mtls_certificate_authentication"),
        ({"mtls_certificate_authentication": 1}, "mtls_certificate_authentication"),
        ({"mtls_certificate_authentication": None}, "mtls_certificate_authentication"),
        ({"mtls_certificate_autentication": True}, "mtls_certificate_autentication"),
        ({"mtls_client_cert_subject_validation_type": "x"},
         "mtls_client_cert_subject_validation_type"),
        ({"mtls_authorized_subjects": {}}, "mtls_authorized_subjects"),
        ({"mtls_authorized_subjects": ["CN=a"]}, "mtls_authorized_subjects.0"),
        ({"mtls_authorized_subjects": [{"OU": ["a"]}]}, "mtls_authorized_subjects.0.CN"),
        ({"mtls_authorized_subjects": [{"CN": ""}]}, "mtls_authorized_subjects.0.CN"),
        ({"mtls_authorized_subjects": [{"CN": "a", "OU": "b"}]}, "mtls_authorized_subjects.0.OU"),
        ({"mtls_authorized_subjects": [{"CN": "a", "UID": "b"}]}, "mtls_authorized_subjects.0.UID"),
        ({"password_min_length": 7}, "password_min_length"),
        ({"password_min_length": 257}, "password_min_length"),
        ({"password_expiration_duration": -1}, "password_expiration_duration"),
        ({"jwt_key": "x"}, "jwt_key"),
        ({"mtls_authorized_subjects": [{"CN": "a\0b"}]}, "mtls_authorized_subjects"),
        ({"mtls_authorized_subjects": [{"CN": "a\ud800"}]}, "mtls_authorized_subjects.0.CN"),
    ],
)  # fmt: skip
def test_a_bad_field_is_a_400_with_its_name(api: ControlPlane, body: Any, field: str) -> None:
    """Wrong types, unknown names, values that no certificate can have; nothing changes."""
    before = api.ok("GET /v1/cluster")
    answer = api("PUT /v1/cluster", body)
    assert answer.status == 400
    assert answer.text.startswith(f"{field}: ")
    assert api.ok("GET /v1/cluster") == before


# ---- /v1/cluster/policy ----


def test_the_lockout_policy_has_redis_enterprises_defaults(api: ControlPlane) -> None:
    """Five wrong passwords, fifteen minutes, half an hour."""
    assert api.ok("GET /v1/cluster/policy") == {
        "login_lockout_threshold": 5,
        "login_lockout_counter_reset_after": 900,
        "login_lockout_duration": 1800,
        "master_healthcheck_api_auth": True,
        "acl_pubsub_default": "resetchannels",
        "db_conns_auditing": False,
    }


def test_the_policy_is_changed_in_part(api: ControlPlane) -> None:
    """What is sent changes; what means nothing here is listed; a rehearsal changes nothing."""
    before = api.ok("GET /v1/cluster/policy")
    body = {"login_lockout_threshold": 3, "slave_ha": True}
    changed = {**before, "login_lockout_threshold": 3}
    answer = {**changed, "ignored": ["slave_ha"]}
    assert api.ok("PUT /v1/cluster/policy?dry_run", body) == answer
    assert api.ok("GET /v1/cluster/policy") == before
    assert api.ok("PUT /v1/cluster/policy", body) == answer
    assert api.ok("GET /v1/cluster/policy") == changed


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"login_lockout_threshold": -1}, "login_lockout_threshold"),
        ({"login_lockout_threshold": "5"}, "login_lockout_threshold"),
        ({"login_lockout_duration": 10**10}, "login_lockout_duration"),
        ({"login_lockout": 5}, "login_lockout"),
    ],
)
def test_a_bad_policy_is_a_400_with_the_field(api: ControlPlane, body: Any, field: str) -> None:
    """And nothing changes."""
    answer = api("PUT /v1/cluster/policy", body)
    assert answer.status == 400
    assert answer.text.startswith(f"{field}: ")
    assert api.ok("GET /v1/cluster/policy")["login_lockout_threshold"] == 5
