"""/v1/certauth/revocations, crls, and our own list: what is revoked is nobody, here and on
databases."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from control.domain import revocation
from control.pki import crl
from control.pki.crl import CrlError
from control.pki.issue import new_ca
from control.pki.pem import pem_to_ders
from control.policy import core
from control.reports import ClientCertificate
from tests.kit import crls
from tests.kit.crls import point
from tests.kit.https_site import served
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import Cert, Pki, days, root
from tests.kit.twins import twin

REVOCATIONS, CRLS = "/v1/certauth/revocations", "/v1/certauth/crls"
ALICE = "CN=alice,OU=eng,O=acme"


def revoke_lines(api: ControlPlane, uid: int = 1) -> set[str]:
    return {line for line in api.lines(uid) if line.startswith("revoke ")}


def seen(cert: Cert, user: str, **fields: Any) -> ClientCertificate:
    """A certificate as the inventory has it."""
    usual: dict[str, Any] = {
        "cert": cert.fingerprint, "key": cert.key_id, "serial": cert.serial, "issuer": "CN=Root CA",
        "ca": cert.above[0].key_id, "subject": ALICE, "user": user, "not_before": 0, "first": 0,
        "not_after": int(time.time()) + 1000,
    }  # fmt: skip
    return ClientCertificate(**{**usual, **fields})


# ---- Administrators ----


@pytest.mark.parametrize("by", ["certificate", "serial", "cert", "key"])
def test_what_is_revoked_is_nobody_until_it_is_taken_back(
    api_with_alice: ControlPlane, pki: Pki, by: str
) -> None:
    """By its PEM, its number, its hash or its key: at the next request here, and as a line of each
    database; other certificates stay what they are."""
    api, cert = api_with_alice, pki.alice
    other = pki.ca.issue(ALICE)
    body, line = {
        "certificate": (
            {"certificate": cert.pem.decode()},
            f"revoke serial {pki.ca.key_id} {cert.serial}",
        ),
        "serial": (
            {"ca": pki.ca.key_id.upper(), "serial": f"00{cert.serial.upper()}"},
            f"revoke serial {pki.ca.key_id} {cert.serial}",
        ),
        "cert": ({"cert": cert.fingerprint}, f"revoke cert {cert.fingerprint}"),
        "key": ({"key": cert.key_id}, f"revoke key {cert.key_id}"),
    }[by]
    made = api.ok(f"POST {REVOCATIONS}", {**body, "reason": "keyCompromise"})["revocations"]
    assert [(one["line"], one["reason"]) for one in made] == [(line, "keyCompromise")]
    assert revoke_lines(api) == {line}
    assert (api.role(cert), api.role(other)) == ("revoked", "admin")
    explained = api.ok("POST /v1/certauth/explain", {"certificate": cert.pem.decode()})
    assert explained["reason"] == "revoked"
    assert api.ok(f"GET {REVOCATIONS}") == made
    api.ok(f"DELETE {REVOCATIONS}/{made[0]['uid']}")
    assert (revoke_lines(api), api.role(cert)) == (set(), "admin")
    assert api(f"DELETE {REVOCATIONS}/{made[0]['uid']}").status == 404


def test_revoking_twice_is_revoking_once(api_with_alice: ControlPlane, pki: Pki) -> None:
    """The answer is the same, and the policy has no next generation."""
    api = api_with_alice
    body = {"key": pki.alice.key_id, "reason": "superseded"}
    first = api.ok(f"POST {REVOCATIONS}", body)["revocations"]
    target = api.store.policies.target(1)
    again = api.ok(f"POST {REVOCATIONS}", {**body, "reason": "keyCompromise"})
    assert again["revocations"] == first
    assert api.store.policies.target(1) == target


def test_all_certificates_of_a_user_are_those_that_are_known(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """Issued here or seen at a login, by number where the CA is known; not those that have ended,
    nor another user's."""
    api = api_with_alice
    second, unknown, bobs, old = (pki.ca.issue(ALICE) for _ in range(4))
    api.store.inventory.record_seen(
        seen(pki.alice, "alice"), seen(second, "alice"), seen(unknown, "alice", ca=""),
        seen(bobs, "bob"), seen(old, "alice", not_after=int(time.time()) - 10),
    )  # fmt: skip
    uid = next(one["uid"] for one in api.ok("GET /v1/users") if one["name"] == "alice")
    api.ok(f"POST {REVOCATIONS}", {"user_uid": uid})
    serials = {f"revoke serial {pki.ca.key_id} {one.serial}" for one in (pki.alice, second)}
    assert revoke_lines(api) == serials | {f"revoke cert {unknown.fingerprint}"}
    assert api.role(pki.alice) == api.role(second) == api.role(unknown) == "revoked"
    assert api.role(bobs) == "admin"  # the record says bob, the subject says alice


def test_a_user_without_known_certificates_is_a_404(api: ControlPlane) -> None:
    """Nothing was revoked, and the answer does not look as if something had been."""
    assert api(f"POST {REVOCATIONS}", {"user_uid": 1}).status == 404
    assert api(f"POST {REVOCATIONS}", {"user_uid": 99}).status == 404


def test_null_is_no_certificate(api: ControlPlane) -> None:
    """Nor a hash, a number or a user: said of the field, as everywhere."""
    for name in ("certificate", "cert", "key", "user_uid"):
        answer = api(f"POST {REVOCATIONS}", {name: None})
        assert (answer.status, answer.code) == (400, "invalid_schema")
        assert answer.text.startswith(f"{name}: ")


def test_the_certificate_of_an_unknown_ca_is_revoked_by_its_hash(
    api: ControlPlane, pki: Pki
) -> None:
    """Without its CA's key nobody can say whose number it is."""
    made = api.ok(f"POST {REVOCATIONS}", {"certificate": pki.alice.pem.decode()})["revocations"]
    assert made[0]["line"] == f"revoke cert {pki.alice.fingerprint}"


def test_a_revoked_intermediate_ends_logins_under_it(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """Its key, its hash or its number: the CA above the leaf that is only presented counts too."""
    api, between = api_with_alice, pki.ca.authority()
    cert = between.issue(ALICE)
    for body in ({"key": between.key_id}, {"certificate": between.pem.decode()}):
        assert api.role(cert) == "admin"
        made = api.ok(f"POST {REVOCATIONS}", body)["revocations"]
        assert api.role(cert) == "ca_revoked"
        api.ok(f"DELETE {REVOCATIONS}/{made[0]['uid']}")


def test_attack_a_revoked_certificate_comes_to_the_api_with_another_signature(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """The holder's, or that of a CA above it: by the hash of the DER that was revoked."""
    api, between = api_with_alice, pki.ca.authority()
    below = between.issue(ALICE)
    other = Cert(below.certificate, below.key, (twin(between), pki.ca))
    for revoked, shown, reason in (
        (pki.alice, twin(pki.alice), "revoked"),
        (below, twin(below), "revoked"),
        (between, other, "ca_revoked"),
    ):
        assert api.role(shown) == "admin"
        made = api.ok(f"POST {REVOCATIONS}", {"cert": revoked.fingerprint})["revocations"]
        assert api.role(shown) == reason
        api.ok(f"DELETE {REVOCATIONS}/{made[0]['uid']}")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"reason": "superseded"}, {"ca": "a" * 64}, {"serial": "01"},
        {"cert": "a" * 64, "key": "b" * 64}, {"cert": "a" * 63}, {"key": "x" * 64},
        {"ca": "a" * 64, "serial": ":"}, {"certificate": "hello"}, {"user_uid": 0},
        {"key": "a" * 64, "reason": "removeFromCRL"},
    ],
)  # fmt: skip
def test_a_request_that_says_no_one_thing_is_refused(
    api: ControlPlane, body: dict[str, Any]
) -> None:
    """Nothing, half of it, two things, or what is not a hash, number, certificate or reason."""
    assert api(f"POST {REVOCATIONS}", body).status == 400
    assert api.ok(f"GET {REVOCATIONS}") == []


def test_who_may_revoke(api: ControlPlane) -> None:
    """Administrators; a user manager could shut them out. Every viewer may look."""
    for name, may in (("user_manager", False), ("db_member", False), ("admin", True)):
        auth = ADMIN if may else api.password_user(name, name)
        answer = api(f"POST {REVOCATIONS}", {"key": name.encode().hex().ljust(64, "0")}, auth=auth)
        assert answer.status == (200 if may else 403)
        assert api(f"GET {REVOCATIONS}", auth=auth).status == 200
        crl_answer = api(f"POST {CRLS}", {"crl": "AAAA"}, auth=auth)
        assert crl_answer.status == (400 if may else 403)


def test_revocations_survive_what_else_changes(api_with_alice: ControlPlane, pki: Pki) -> None:
    """A database that changes, one that is new, and users that change keep and get the lines; one
    that is being removed loses them."""
    api = api_with_alice
    api.ok(f"POST {REVOCATIONS}", {"key": pki.alice.key_id})
    line = {f"revoke key {pki.alice.key_id}"}
    api.ok("PUT /v1/bdbs/1", {"default_user": True})
    api.database("other", 6399)
    assert revoke_lines(api, 1) == revoke_lines(api, 2) == line
    api.ok("DELETE /v1/bdbs/2")
    assert revoke_lines(api, 2) == set()


def test_the_event_log_says_who_revoked_what(api_with_alice: ControlPlane, pki: Pki) -> None:
    """With the reason."""
    api = api_with_alice
    api.ok(f"POST {REVOCATIONS}", {"key": pki.alice.key_id, "reason": "keyCompromise"})
    event = [one for one in api.ok("GET /v1/logs") if one["type"] == "revoked"][-1]
    assert event["originating_username"] == "admin"
    assert event["lines"] == [f"revoke key {pki.alice.key_id}"]
    assert (event["reason"], event["severity"]) == ("keyCompromise", "WARNING")


# ---- Lists of CAs ----


def imported(api: ControlPlane, der: bytes, **fields: Any) -> Any:
    made = api.ok(f"POST {CRLS}", {"crl": crls.text(der), **fields})
    return {name: value for name, value in made.items() if name not in ("in_force", "pending")}


def line_of(cert: Cert) -> str:
    return f"revoke serial {cert.above[0].key_id} {cert.serial}"


def test_a_list_revokes_where_its_ca_is_trusted(api_with_alice: ControlPlane, pki: Pki) -> None:
    """Here, and on databases that trust the CA; a database with CAs of its own is not told."""
    api, other = api_with_alice, root("CN=Other")
    own = [{"client_cert": other.pem.decode()}]
    api.database("other", 6399, authentication_ssl_client_certs=own)
    made = imported(api, crls.crl(pki.ca, pki.alice, number=12))
    assert (made["issuer"], made["number"], made["entries"]) == ("CN=Root CA,O=acme", "12", 1)
    assert (revoke_lines(api, 1), revoke_lines(api, 2)) == ({line_of(pki.alice)}, set())
    assert api.role(pki.alice) == "revoked"
    assert api.ok(f"GET {CRLS}") == [made] == [api.ok(f"GET {CRLS}/{made['uid']}")]
    api.ok(f"DELETE {CRLS}/{made['uid']}")
    assert (revoke_lines(api, 1), api.role(pki.alice)) == (set(), "admin")
    assert api(f"GET {CRLS}/{made['uid']}").status == 404


def test_a_database_that_comes_to_trust_a_ca_gets_its_list(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """And loses it with the CA."""
    api, other = api_with_alice, root("CN=Other")
    imported(api, crls.crl(pki.ca, pki.alice))
    own = [{"client_cert": other.pem.decode()}]
    api.ok("PUT /v1/bdbs/1", {"authentication_ssl_client_certs": own})
    assert revoke_lines(api) == set()
    api.ok("PUT /v1/bdbs/1", {"authentication_ssl_client_certs": [], "trust_grows": True})
    assert revoke_lines(api) == {line_of(pki.alice)}
    entry = {"name": "mtls_trusted_ca", "certificate": other.pem.decode(), "trust_grows": True}
    api.ok("PUT /v1/cluster/update_cert?force", entry)
    assert revoke_lines(api) == set()


def test_the_next_list_is_a_patch_of_what_changed(api_with_alice: ControlPlane, pki: Pki) -> None:
    """One entry of thousands that comes is one line that comes, first; one that goes, one that
    goes."""
    api = api_with_alice
    many = [crls.entry(number) for number in range(1, 3001)]
    imported(api, crls.crl(pki.ca, *many, number=1))
    before = api.store.policies.target(1)
    imported(api, crls.crl(pki.ca, *many[1:], pki.alice, number=2))
    takes, gives = api.store.policies.changes(1, before.generation, before.digest) or ()
    assert (takes.added, takes.removed) == ((line_of(pki.alice),), ())
    assert (gives.added, gives.removed) == ((), (f"revoke serial {pki.ca.key_id} 01",))
    imported(api, crls.crl(pki.ca, *many[1:], pki.alice, number=3))
    assert api.store.policies.target(1).generation == gives.generation


@pytest.mark.slow
def test_a_hundred_thousand_entries_of_which_one_changes(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """A list as large CAs have it: the next one is one line for each database."""
    api = api_with_alice
    many = [crls.entry(2**150 + number) for number in range(100_000)]
    (uploaded,) = revocation.take(
        api.store, crls.crl(pki.ca, *many), revocation.Wish({}), int(time.time())
    )
    assert api.store.crls.entry_counts()[uploaded.uid] == 100_000
    before = api.store.policies.target(1)
    der = crls.crl(pki.ca, *many[1:], pki.alice, number=2)
    revocation.take(api.store, der, revocation.Wish({}), int(time.time()))
    takes, gives = api.store.policies.changes(1, before.generation, before.digest) or ()
    assert (len(takes.added), len(takes.removed)) == (1, 0)
    assert (len(gives.added), len(gives.removed)) == (0, 1)


def test_what_two_have_revoked_stays_until_both_take_it_back(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """An administrator and the CA, or two parts of a list: one line, which goes with the last."""
    api = api_with_alice
    by_hand = api.ok(f"POST {REVOCATIONS}", {"certificate": pki.alice.pem.decode()})
    by_hand = by_hand["revocations"][0]["uid"]
    whole = imported(api, crls.crl(pki.ca, pki.alice))["uid"]
    part = imported(
        api, crls.crl(pki.ca, pki.alice, extensions=[point(only_contains_user_certs=True)])
    )["uid"]
    assert whole != part
    for path in (f"{REVOCATIONS}/{by_hand}", f"{CRLS}/{whole}"):
        api.ok(f"DELETE {path}")
        assert revoke_lines(api) == {line_of(pki.alice)}
        assert api.role(pki.alice) == "revoked"
    api.ok(f"DELETE {CRLS}/{part}")
    assert (revoke_lines(api), api.role(pki.alice)) == (set(), "admin")


def test_an_older_list_is_refused(api_with_alice: ControlPlane, pki: Pki) -> None:
    """Sent again, it would give back what was revoked since; by number, and by time where a CA
    does not number. The same one again is fine."""
    api = api_with_alice
    old = crls.crl(pki.ca, number=3, start=days(-0.5))
    new = crls.crl(pki.ca, pki.alice, number=4)
    imported(api, old)
    imported(api, new)
    imported(api, new)
    answer = api(f"POST {CRLS}", {"crl": crls.text(old)})
    assert (answer.status, answer.code) == (409, "crl_older")
    assert api.role(pki.alice) == "revoked"
    stale = crls.crl(pki.ca, number=5, start=days(-0.5))
    assert api(f"POST {CRLS}", {"crl": crls.text(stale)}).code == "crl_older"


def test_a_bad_list_changes_nothing(api_with_alice: ControlPlane, pki: Pki) -> None:
    """The last good one holds; the answer says by name what is wrong."""
    api = api_with_alice
    made = imported(api, crls.crl(pki.ca, pki.alice))
    target = api.store.policies.target(1)
    bad = {
        "crl_signature": crls.crl(pki.ca, signer=root("CN=x")),
        "crl_expired": crls.crl(pki.ca, start=days(-3), end=days(-2)),
        "crl_delta": crls.crl(pki.ca, extensions=[(x509.DeltaCRLIndicator(1), True)]),
        "crl_malformed": b"hello",
        "crl_unknown_issuer": crls.crl(root("CN=Stranger")),
    }
    for code, der in bad.items():
        answer = api(f"POST {CRLS}", {"crl": crls.text(der)})
        assert (answer.status, answer.code) == (400, code)
    assert api(f"POST {CRLS}", {"stale": "warn"}).code == "missing_field"
    assert (api.ok(f"GET {CRLS}"), api.store.policies.target(1)) == ([made], target)


def test_the_list_of_a_presented_intermediate(api_with_alice: ControlPlane, pki: Pki) -> None:
    """Its certificate is sent along, and has to come from a trusted CA; the next list needs it no
    more."""
    api, between = api_with_alice, pki.ca.authority("CN=Between")
    cert = between.issue(ALICE)
    der = crls.crl(between, cert)
    assert api(f"POST {CRLS}", {"crl": crls.text(der)}).code == "crl_unknown_issuer"
    stranger = root("CN=Between").pem.decode()
    assert api(f"POST {CRLS}", {"crl": crls.text(der), "authorities": stranger}).code == (
        "crl_authority"
    )
    imported(api, der, authorities=between.pem.decode())
    assert revoke_lines(api) == {line_of(cert)}
    assert api.role(cert) == "revoked"


# ---- Overdue ----


def aged(api: ControlPlane, seconds: float) -> None:
    """The look of the control plane's thread, so much later."""
    revocation.look(api.store, lambda: (), int(time.time() + seconds))


@pytest.mark.parametrize("stale", ["warn", "refuse"])
def test_an_overdue_list_warns_or_refuses(
    api_with_alice: ControlPlane, pki: Pki, stale: str
) -> None:
    """`refuse`: nobody of that CA is anybody until a new list is there, by a line that says that
    the CA's key is revoked. `warn`: the last list goes on holding. An event says so, once."""
    api, bob = api_with_alice, pki.ca.issue(ALICE)
    uid = imported(api, crls.crl(pki.ca, pki.alice, number=1), stale=stale)["uid"]
    aged(api, 86400 - 60)
    assert api.role(bob) == "admin"
    aged(api, 86400 + 60)
    aged(api, 86400 + 120)
    blocked = {f"revoke key {pki.ca.key_id}"} if stale == "refuse" else set()
    assert revoke_lines(api) == {line_of(pki.alice)} | blocked
    assert api.role(bob) == ("ca_revoked" if stale == "refuse" else "admin")
    assert api.role(pki.alice) == "ca_revoked" if blocked else "revoked"
    shown = api.ok(f"GET {CRLS}/{uid}")
    assert (shown["overdue"], shown["stale"]) == (True, stale)
    events = [one for one in api.ok("GET /v1/logs") if one["type"] == "crl_stale"]
    assert [(one["stale"], one["severity"]) for one in events] == [(stale, "WARNING")]
    made = imported(api, crls.crl(pki.ca, pki.alice, number=2, end=days(3)))
    assert (made["overdue"], made["stale"]) == (False, stale)
    assert (api.role(bob), api.role(pki.alice)) == ("admin", "revoked")


def test_the_choice_may_change_while_a_list_is_overdue(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """At once, in both directions."""
    api = api_with_alice
    uid = imported(api, crls.crl(pki.ca))["uid"]
    aged(api, 2 * 86400)
    for stale, expected in (("refuse", "ca_revoked"), ("warn", "admin"), ("refuse", "ca_revoked")):
        api.ok(f"PUT {CRLS}/{uid}", {"stale": stale})
        assert api.role(pki.alice) == expected
    api.ok(f"DELETE {CRLS}/{uid}")
    assert (revoke_lines(api), api.role(pki.alice)) == (set(), "admin")


def test_an_overdue_intermediate_refuses_only_its_own(
    api_with_alice: ControlPlane, pki: Pki
) -> None:
    """The root above it, and what that has issued itself, stay."""
    api, between = api_with_alice, pki.ca.authority("CN=Between")
    imported(api, crls.crl(between), authorities=between.pem.decode(), stale="refuse")
    aged(api, 2 * 86400)
    assert api.role(between.issue(ALICE)) == "ca_revoked"
    assert api.role(pki.alice) == "admin"


# ---- Fetching ----


class Site(http.server.ThreadingHTTPServer):
    """What answers at a URL; `answer` is (status, headers, body)."""

    daemon_threads = True
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")
    asked: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site = self.server
        assert isinstance(site, Site)
        site.asked.append(self.path)
        status, headers, body = site.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(body: bytes = b"", status: int = 200, **headers: str) -> Iterator[tuple[Site, str]]:
    server = Site(("127.0.0.1", 0), Handler)
    server.answer, server.asked = (status, headers, body), []
    with served(server) as port:
        yield server, f"http://127.0.0.1:{port}/ca.crl?x=1"


def test_a_list_is_fetched_at_once_and_on_time(api_with_alice: ControlPlane, pki: Pki) -> None:
    """The answer to the request is the list; then it is fetched again when its interval is over,
    and not before."""
    api = api_with_alice
    with site(crls.crl(pki.ca, number=1)) as (server, url):
        made = api.ok(f"POST {CRLS}", {"url": url, "interval": 600})
        assert (made["url"], made["number"], made["problem"]) == (url, "1", "")
        assert made["last_fetch"]
        server.answer = (200, {}, crls.crl(pki.ca, pki.alice, number=2))
        aged(api, 500)
        assert (api.role(pki.alice), server.asked) == ("admin", ["/ca.crl?x=1"])
        aged(api, 601)
        assert (api.role(pki.alice), len(server.asked)) == ("revoked", 2)
        api.ok(f"PUT {CRLS}/{made['uid']}", {"url": ""})
        aged(api, 9999)
        assert len(server.asked) == 2


def test_a_fetch_that_fails_keeps_the_last_list(api_with_alice: ControlPlane, pki: Pki) -> None:
    """It is tried again after a minute; the list says why, and the event log says it once."""
    api = api_with_alice
    with site(crls.crl(pki.ca, pki.alice, number=1)) as (server, url):
        uid = api.ok(f"POST {CRLS}", {"url": url, "interval": 600})["uid"]
        server.answer = (500, {}, b"secret")
        aged(api, 601)
        shown = api.ok(f"GET {CRLS}/{uid}")
        assert "answered 500" in shown["problem"]
        assert "secret" not in str(shown)
        aged(api, 630)
        assert len(server.asked) == 2
        aged(api, 662)
        assert len(server.asked) == 3
        assert api.role(pki.alice) == "revoked"
        server.answer = (200, {}, crls.crl(root("CN=Stranger")))
        aged(api, 730)
        assert "CN=Stranger" in api.ok(f"GET {CRLS}/{uid}")["problem"]
        server.answer = (200, {}, crls.crl(pki.ca, number=2))
        aged(api, 800)
        assert (api.ok(f"GET {CRLS}/{uid}")["problem"], api.role(pki.alice)) == ("", "admin")
    events = [one for one in api.ok("GET /v1/logs") if one["type"] == "crl_not_fetched"]
    assert len(events) == 2


def test_another_list_at_the_url_is_no_next_one(api_with_alice: ControlPlane, pki: Pki) -> None:
    """A trusted CA's, but not the requested one."""
    api, other = api_with_alice, root("CN=Other")
    api.trust(pki.ca, other)
    with site(crls.crl(pki.ca, pki.alice)) as (server, url):
        uid = api.ok(f"POST {CRLS}", {"url": url, "interval": 60})["uid"]
        server.answer = (200, {}, crls.crl(other))
        aged(api, 70)
        assert "not the one of" in api.ok(f"GET {CRLS}/{uid}")["problem"]
    assert len(api.ok(f"GET {CRLS}")) == 1
    assert api.role(pki.alice) == "revoked"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://ca/x.crl", "gopher://x/", "http://", "http:///x", "ca.crl",
        "http://user:secret@ca/x.crl", "http://ca/a b", "http://ca/\r\nX: y", "http://ca:99999/x",
        "http://169.254.169.254/latest/meta-data", "http://[fe80::1]/x", "http://0.0.0.0/x",
        "http://[::ffff:169.254.169.254]/x", "http://224.0.0.1/", "http://[fd00:ec2::254]/x",
        "http://[64:ff9b::a9fe:a9fe]/x", "http://[2002:a9fe:a9fe::1]/x",
    ],
)  # fmt: skip
def test_a_url_that_is_not_fetched_from(api: ControlPlane, url: str) -> None:
    """Other schemes, passwords, line ends, and addresses of one machine's neighbours only."""
    answer = api(f"POST {CRLS}", {"url": url})
    assert (answer.status, answer.code) == (400, "crl_url")
    assert "secret" not in answer.text


def test_a_host_that_is_no_name_is_told(api: ControlPlane) -> None:
    """Python's resolver has an error of another kind for it."""
    answer = api(f"POST {CRLS}", {"url": "http://a..b/x"})
    assert (answer.status, answer.code) == (400, "crl_fetch")


def test_a_redirect_is_not_followed() -> None:
    """It could lead to where an administrator would never have sent us."""
    with site(b"inside") as (inner, target), site(status=302, Location=target) as (_, url):
        with pytest.raises(CrlError, match=r"answered 302 \(redirects are not followed\)"):
            revocation.fetch(url)
        assert inner.asked == []


def test_a_list_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """By size, and by time, also where each byte comes soon enough."""
    with site(b"x" * 2000) as (_, url):
        monkeypatch.setattr(revocation, "BYTES", 1000)
        with pytest.raises(CrlError, match="more than 1000 bytes"):
            revocation.fetch(url)
        monkeypatch.setattr(revocation, "BYTES", 2000)
        assert len(revocation.fetch(url)) == 2000


def test_a_site_that_drips_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte at a time would hold a thread for ever."""
    monkeypatch.setattr(revocation, "SECONDS", 0.5)
    stop = threading.Event()

    class Drip(Handler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            while not stop.wait(0.05):
                self.wfile.write(b"x")

    server = Site(("127.0.0.1", 0), Drip)
    with served(server) as port:
        try:
            with pytest.raises(CrlError, match="not there after"):
                revocation.fetch(f"http://127.0.0.1:{port}/")
        finally:
            stop.set()


def test_attack_an_error_repeats_nothing_of_an_answer() -> None:
    """An address inside, of something that is not a web site, could be read that way."""

    class Banner(Handler):
        def do_GET(self) -> None:
            self.wfile.write(b"SSH-2.0-secret banner\r\n")

    with served(Site(("127.0.0.1", 0), Banner)) as port:
        with pytest.raises(CrlError, match="it does not speak HTTP") as caught:
            revocation.fetch(f"http://127.0.0.1:{port}/")
        assert "secret" not in str(caught.value)


def test_attack_a_name_of_many_silent_addresses_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each may take PATIENCE, all of them no more than a fetch may."""
    clock = [0.0]
    found = [(0, 0, 0, "", (f"127.0.0.{one}", 80)) for one in range(1, 100)]

    def silent(*_: Any, timeout: float) -> None:
        clock[0] += timeout
        raise TimeoutError("timed out")

    monkeypatch.setattr(revocation.socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(revocation.socket, "create_connection", silent)
    monkeypatch.setattr(revocation.time, "monotonic", lambda: clock[0])
    with pytest.raises(CrlError, match="timed out"):
        revocation.fetch("http://ca.example/x")
    assert clock[0] <= revocation.SECONDS


def test_nobody_at_the_url_says_so() -> None:
    """With the system's reason."""
    with site() as (_, url):
        pass
    with pytest.raises(CrlError, match="refused"):
        revocation.fetch(url)


# ---- Our own list ----


def test_our_own_list_is_there_for_everybody(api: ControlPlane) -> None:
    """DER and PEM with their types, without a login, signed by the CA, numbered upwards; signed
    again when something was revoked or a day is over, and otherwise the same."""
    ours = new_ca([("CN", "ours")], timedelta(days=99))
    (der_of_ca,) = pem_to_ders(ours.certificate)
    signer = revocation.Signer(ours.certificate, lambda: ours)
    key = core.identity(der_of_ca).key
    now = int(datetime.now(UTC).timestamp())
    path = f"/v1/certauth/ca/{key}"
    assert api.client.get(f"{path}.crl").status_code == 404

    def published(at: int) -> crl.Crl:
        revocation.look(api.store, lambda: (signer,), at)
        found = api.client.get(f"{path}.crl")
        assert (found.status_code, found.mimetype) == (200, "application/pkix-crl")
        pem = api.client.get(f"{path}.pem")
        assert pem.mimetype == "application/x-pem-file"
        assert crl.read(pem.data, [der_of_ca], at) == crl.read(found.data, [der_of_ca], at)
        return crl.read(found.data, [der_of_ca], at)

    first = published(now)
    assert (first.serials, published(now + 3600)) == (frozenset(), first)
    body = {"ca": key, "serial": "0a", "reason": "keyCompromise"}
    made = api.ok(f"POST {REVOCATIONS}", body)["revocations"]
    second = published(now)
    assert (second.serials, second.number > first.number) == ({"0a"}, True)
    third = published(now + 86400)
    assert (third.serials, third.number > second.number) == ({"0a"}, True)
    api.ok(f"DELETE {REVOCATIONS}/{made[0]['uid']}")
    fourth = published(now + 86400)
    assert (fourth.serials, fourth.number > third.number) == (frozenset(), True)
