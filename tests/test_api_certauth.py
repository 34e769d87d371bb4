"""control/api/certauth.py: explanations by the code that decides."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api import ControlPlane
from tests.support import Cert, Pki, days

EXPLAIN = "POST /v1/certauth/explain"


@pytest.fixture
def api(tmp_path: Path, pki: Pki) -> Iterator[ControlPlane]:
    """Alice, with Read Only on database 1."""
    made = ControlPlane(tmp_path)
    made.trust(pki.ca)
    made.certificate_user("alice", "CN=alice, OU=eng, O=acme", role="none")
    made.database(tls_mode="enabled", roles_permissions=[{"role_uid": 6, "redis_acl_uid": 2}])
    yield made
    made.close()


def question(cert: Cert, **fields: Any) -> dict[str, Any]:
    return {"certificate": cert.presented.decode(), **fields}


def test_explain_says_who_a_certificate_is_on_a_database(api: ControlPlane, pki: Pki) -> None:
    """The user, the line that decided, and what the certificate says."""
    found = api.ok(EXPLAIN, question(pki.alice, bdb_uid=1))
    assert (found["action"], found["reason"], found["user"]) == ("login", "matched", "alice")
    assert found["users"] == ["alice"]
    assert found["line"] == "bind subject CN=alice,OU=eng,O=acme alice"
    assert found["trace"]
    assert found["certificate"]["subject"] == "CN=alice,OU=eng,O=acme"
    assert found["certificate"]["cert"] == pki.alice.fingerprint


def test_explain_says_who_a_certificate_is_for_the_rest_api(api: ControlPlane, pki: Pki) -> None:
    """By name, although the policy there binds uids; and it is what a request gets."""
    found = api.ok(EXPLAIN, question(pki.alice))
    assert (found["action"], found["user"], found["users"]) == ("login", "alice", ["alice"])
    assert api("GET /v1/users/role", cert=pki.alice).status == 200


@pytest.mark.parametrize("fields", [{}, {"bdb_uid": 1}])
def test_explain_says_why_somebody_is_refused(api: ControlPlane, pki: Pki, fields: Any) -> None:
    """With the reason that the refusal has."""
    for cert, reason in (
        (pki.bob, "no_binding"),
        (pki.server_ca.issue(), "untrusted_issuer"),
        (pki.ca.issue(not_before=days(-9), not_after=days(-1)), "expired"),
    ):
        found = api.ok(EXPLAIN, question(cert, **fields))
        assert (found["action"], found["reason"], found["user"]) == ("refuse", reason, None)
        assert api("GET /v1/users/role", cert=cert).code == reason


def test_explain_can_ask_for_another_time(api: ControlPlane, pki: Pki) -> None:
    """What will be when the certificate has ended."""
    later = int(days(31).timestamp())
    found = api.ok(EXPLAIN, question(pki.alice, bdb_uid=1, time=later))
    assert found["reason"] in ("expired", "ca_expired")


def test_explain_follows_the_policy(api: ControlPlane, pki: Pki) -> None:
    """A user that was just deleted is nobody."""
    assert api.ok(EXPLAIN, question(pki.alice, bdb_uid=1))["user"] == "alice"
    api.ok("DELETE /v1/users/2")
    assert api.ok(EXPLAIN, question(pki.alice, bdb_uid=1))["reason"] == "no_binding"


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"certificate": "x"}, 400, "certificate: "),
        ({"certificate": ""}, 400, "certificate: "),
        ({"address": "x"}, 400, "certificate: not an IP address"),
        ({"bdb_uid": 9}, 404, "there is no bdb 9"),
        ({"time": "now"}, 400, "time: "),
        ({"time": 2**70}, 400, "time: "),
    ],
)
def test_a_bad_question_gets_a_clear_error(
    api: ControlPlane, pki: Pki, fields: Any, status: int, text: str
) -> None:
    """Never a 500, never a decision."""
    answer = api(EXPLAIN, {**question(pki.alice, bdb_uid=1), **fields})
    assert answer.status == status
    assert answer.text.startswith(text)
