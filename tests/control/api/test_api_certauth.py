"""control/api/certauth.py: explanations by the code that decides; how far each server is."""

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from control.nodes.client import NodeError
from control.nodes.protocol import LACKS, NEWER, PROTOCOL, cannot, protocol_of, version_of, written
from control.records import rendered_time
from control.reports import Node
from tests.kit.chains import rsa_key, sign
from tests.kit.rest import ControlPlane
from tests.kit.support import Cert, Pki, days

EXPLAIN = "POST /v1/certauth/explain"


@pytest.fixture
def api(api: ControlPlane, pki: Pki) -> ControlPlane:
    api.alice_reads(pki.ca)
    return api


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


def test_attack_a_weak_certificate_on_the_rest_api(api: ControlPlane, pki: Pki) -> None:
    """What every server's handshake refuses is not a way in here, and explain says the same."""
    for weak in (
        sign(pki.ca, "CN=alice,OU=eng,O=acme", rsa_key(1024)),
        sign(pki.ca, "CN=alice,OU=eng,O=acme", pki.alice.key, hashes.SHA1()),
    ):
        assert api("GET /v1/users/role", cert=weak).code == "weak"
        assert api.ok(EXPLAIN, question(weak))["reason"] == "weak"
        trace = api.ok(EXPLAIN, question(weak, bdb_uid=1))["trace"]
        assert trace[0].startswith("the TLS handshake was not asked")
        assert any("below security level 2" in line for line in trace)


def test_explain_asks_the_servers_of_a_database(api: ControlPlane, pki: Pki) -> None:
    """What each says of its handshake comes first, and what all refuse is refused; one that cannot
    be reached, or is of an older version, says nothing."""
    good = {"decision": "login", "reason": "matched", "trace": ["the TLS handshake takes it", "x"]}
    bad = {
        "decision": "refuse",
        "reason": "expired",
        "trace": ["the TLS handshake refuses it", "y", "to change it: z"],
    }
    old = {"decision": "login", "reason": "matched", "trace": ["subject CN=alice"]}
    unasked = "the TLS handshake was not asked (CERTAUTH.EXPLAIN on a server asks its own)"
    asked: list[tuple[Any, ...]] = []

    def explained(**said: Any) -> Any:
        def ask(uid: int, question: Any) -> Any:
            question(lambda *words: asked.append((uid, *words)))
            return said

        api.app.extensions["ask"] = ask
        return api.ok(EXPLAIN, question(pki.alice, bdb_uid=1, address="10.0.0.1"))

    found = explained(a=good, b=bad, c=NodeError("UNREACHABLE", "away"), d=old)
    assert (found["action"], found["reason"], found["user"]) == ("login", "matched", "alice")
    assert found["trace"][:3] == [
        "on a, the TLS handshake takes it", "on b, the TLS handshake refuses it",
        "subject CN=alice,OU=eng,O=acme, issued by " + found["certificate"]["issuer"]
        + found["trace"][2].partition(found["certificate"]["issuer"])[2],
    ]  # fmt: skip
    found = explained(b=bad, c=NodeError("UNREACHABLE", "away"), e=bad)
    assert (found["action"], found["reason"], found["user"]) == ("refuse", "expired", None)
    assert found["trace"] == [
        "on b, the TLS handshake refuses it", "on e, the TLS handshake refuses it", "y",
        "to change it: z",
    ]  # fmt: skip
    for said in ({}, {"c": NodeError("UNREACHABLE", "away")}, {"d": old}):
        found = explained(**said)
        assert found["action"] == "login"
        assert found["trace"][0].startswith(unasked)
    assert asked[0] == (1, "CERTAUTH.EXPLAIN", pki.alice.presented.decode(), "10.0.0.1")


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


# ---- /v1/certauth/nodes --------------------------------------------------------------------------


def test_each_server_tells_how_far_it_is(api: ControlPlane, pki: Pki) -> None:
    """Its generation, digest and versions; how many generations it lags; the error of now, and
    the last one when that is over. One that nobody has looked at is there too."""
    (new,) = api.ok("GET /v1/certauth/nodes")["nodes"]
    assert (new["address"], new["error"]) == ("127.0.0.1:6380", "not reached yet")
    assert (new["in_step"], new["lag"]) == (False, 1)
    seen = Node(1, "127.0.0.1:6380", 1, True, digest="1:ab", software="redis 8.6.3", module="1",
                certificate=pki.server.pem.decode())  # fmt: skip
    ends = int(pki.server.certificate.not_valid_after_utc.timestamp())
    api.store.nodes.report(1, [replace(seen, last_error="UNREACHABLE", last_error_time=7)])
    api.ok("PUT /v1/bdbs/1", {"default_user": True})
    answer = api.ok("GET /v1/certauth/nodes")
    assert 0 <= answer["nodes"][0].pop("age") < 5
    (fault,) = answer.pop("faults")
    assert fault.startswith("no control plane speaks to the servers")
    assert answer == {
        "version": version("redis-certauth"),
        "protocol": PROTOCOL,
        "leader": "",
        "epoch": 0,
        "leader_age": None,
        "hold": "",
        "nodes": [
            {
                "bdb_uid": 1,
                "bdb_name": "orders",
                "address": "127.0.0.1:6380",
                "in_step": False,
                "generation": 1,
                "digest": "1:ab",
                "lag": 1,
                "error": "",
                "hold": "",
                "last_error": "UNREACHABLE",
                "last_error_time": 7,
                "software": "redis 8.6.3",
                "module": "1",
                "protocol": 1,
                "cannot": [*LACKS[1]],
                "trust": "",
                "certificate_subject": "CN=localhost",
                "certificate_issuer": "CN=Server CA",
                "certificate_serial": pki.server.serial,
                "certificate_not_after": rendered_time(ends),
            }
        ],
    }
    assert api.store.lease.take("here:1", 3) == 1
    api.store.nodes.report(1, [replace(seen, generation=2)], 1)
    found = api.ok("GET /v1/certauth/nodes")
    assert (found["leader"], found["epoch"], found["faults"]) == ("here:1", 1, [])
    assert 0 <= found["leader_age"] < 5
    assert (found["nodes"][0]["in_step"], found["nodes"][0]["lag"]) == (True, 0)


def test_each_module_says_what_it_speaks_and_what_it_cannot_do_therefore() -> None:
    """Nothing of a module that is as old as we are, or of a server without one; of one that says
    nothing what the first one could not; a newer one wants a newer control plane."""
    assert cannot(written("1.2.3", PROTOCOL)) == []
    assert cannot("") == []
    assert (version_of("1"), protocol_of("1"), protocol_of("")) == ("1", 1, 0)
    assert cannot("1") == [text for one in range(1, PROTOCOL) for text in LACKS[one]]
    newer = written("9.0.0", PROTOCOL + 1)
    assert (version_of(newer), protocol_of(newer)) == ("9.0.0", PROTOCOL + 1)
    assert cannot(newer) == [NEWER]
    assert set(LACKS) == set(range(1, PROTOCOL))


def test_servers_are_for_who_may_see_databases(api: ControlPlane) -> None:
    """A viewer may, and somebody without a role may not."""
    viewer, nobody = api.password_user("v", "db_viewer"), api.password_user("n", "none")
    assert api("GET /v1/certauth/nodes", auth=viewer).status == 200
    assert api("GET /v1/certauth/nodes", auth=nobody).status == 403
