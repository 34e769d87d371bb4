"""/v1/certauth/forecast: what ends, and who gets in no more then."""

import time
from datetime import UTC, datetime, timedelta

from control.reports import ClientCertificate
from tests.kit import crls
from tests.kit.rest import ControlPlane
from tests.kit.support import Pki, days, root

ALICE = "CN=alice,OU=eng,O=acme"
PATH = "/v1/certauth/forecast"


def test_what_is_known_and_ends_is_told(api: ControlPlane) -> None:
    """Certificates, CAs, and lists that nobody renews; each until the day that is asked for."""
    short = root("CN=Short CA", not_after=days(20))
    long = root("CN=Root CA", not_after=days(400))
    api.trust(long, short)
    api.certificate_user("alice", ALICE)
    api.database(roles_permissions=[{"role_uid": 4, "redis_acl_uid": 1}], tls_mode="enabled")
    uid = next(one["uid"] for one in api.ok("GET /v1/users") if one["name"] == "alice")
    api.ok(f"PUT /v1/users/{uid}", {"role_uids": [4]})
    now = int(time.time())
    for by, end in ((long, 10), (short, 50)):
        leaf = by.issue(ALICE)
        api.store.inventory.record_seen(
            ClientCertificate(
                cert=leaf.fingerprint, key=leaf.key_id, ca=by.key_id, issuer="CN=x",
                serial=leaf.serial, subject=ALICE, user="alice", not_before=now - 1000,
                not_after=now + end * 86400, first=now - 900, last_login=now - 100,
            )
        )  # fmt: skip
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)
    api.ok("POST /v1/certauth/crls", {"crl": crls.text(crls.crl(long, end=later))})
    found = api.ok(f"GET {PATH}?days=30")
    assert [(one["user"], one["reason"], one["ca"], one["last"]) for one in found["losses"]] == [
        ("alice", "expired", "", False),
        ("alice", "ca_expired", short.key_id, True),
    ]
    assert [one["subject"] for one in found["cas"]] == ["CN=Short CA"]
    assert [(one["issuer"], one["stale"]) for one in found["crls"]] == [("CN=Root CA", "warn")]
    assert (found["losses_count"], found["nodes"], found["without_client_auth"]) == (2, [], [])
    soon = api.ok(f"GET {PATH}?days=1")
    assert (soon["losses"], soon["cas"], soon["crls"]) == ([], [], [])
    assert api.ok(f"GET {PATH}")["until"] > found["until"]
    assert api(f"GET {PATH}?days=0").code == "invalid_param"
    assert api(f"GET {PATH}?days=9999").code == "invalid_param"


def test_a_revoked_certificate_has_nothing_to_lose(api: ControlPlane, pki: Pki) -> None:
    api.trust(pki.ca)
    api.ok("POST /v1/certauth/revocations", {"key": pki.alice.key_id})
    assert api.ok(f"GET {PATH}")["losses"] == []
