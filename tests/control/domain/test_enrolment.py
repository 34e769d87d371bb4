"""/v1/certauth/enrol: a token brings the certificate that the rules say, and nobody another's."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from control.domain import enrolment, following
from control.pki.issue import CLOCK_SKEW
from control.pki.pem import split_pem
from control.policy import core
from control.records import Issuer
from control.store import events
from tests.kit.https_site import HttpsSite, https_site
from tests.kit.issuing import Prepared, begun, csr, uris
from tests.kit.rest import Answer, ControlPlane
from tests.kit.support import Pki, wait_until
from tests.kit.tokens import AUDIENCE, ISSUER, jwk, jwks, token

ENROL, ISSUERS = "POST /v1/certauth/enrol", "/v1/certauth/issuers"
ALICE = "CN=alice,OU=eng,O=acme"
CART = "spiffe://acme/ns/shop/sa/cart"
POD = {"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart"}}}
SPIFFE = "uri:spiffe://acme/ns/{kubernetes.io.namespace}/sa/{kubernetes.io.serviceaccount.name}"
RULES = [
    {"identity": SPIFFE, "claims": {"kubernetes.io.namespace": "shop"}, "lifetime": 900},
    {"identity": "subject:CN={repository},O=github", "claims": {"ref": "refs/heads/main"}},
    {"identity": "user:{sub}"},
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A control plane with a CA of clients, users alice and root (who administers) and ci (by
    subject), a pattern for pods, a database, and an issuer with three rules."""
    folder = tmp_path_factory.mktemp("prepared")
    authority, made = begun(folder)
    made.certificate_user("alice", ALICE, role_uids=[8])
    made.certificate_user("ci", "CN=acme/cart,O=github", role_uids=[8])
    made.ok("POST /v1/certauth/patterns", {
        "name": "pods", "kind": "uri", "template": "spiffe://acme/ns/{ns}/sa/{sa}",
        "user": "pod:{ns}:{sa}", "role_uids": [8]})  # fmt: skip
    made.database(tls_mode="enabled", roles_permissions=[{"role_uid": 8, "redis_acl_uid": 2}])
    issuer = {"name": "k8s", "url": ISSUER, "audiences": [AUDIENCE], "algorithms": ["ES256"]}
    made.ok(f"POST {ISSUERS}", {**issuer, "jwks": jwks(), "rules": RULES})
    made.close()
    return Prepared(authority, (folder / "control.db").read_bytes())


@pytest.fixture
def api(tmp_path: Path, prepared: Prepared) -> Iterator[ControlPlane]:
    with prepared.opened(tmp_path) as made:
        yield made


def enrol(api: ControlPlane, text: str, request: str = "") -> Answer:
    """Without any other login."""
    return api(ENROL, {"token": text, "csr": request or csr()}, auth=None)


def enrolled(api: ControlPlane, text: str, request: str = "") -> Any:
    answer = enrol(api, text, request)
    assert answer.status == 200, answer.json
    return answer.json


def refused(answer: Answer, status: int, code: str) -> bool:
    return (answer.status, answer.code) == (status, code)


def rules(api: ControlPlane, *new: dict[str, Any], **more: Any) -> None:
    api.ok(f"PUT {ISSUERS}/1", {"rules": list(new), **more})


# ---- Enrolled ----


def test_a_pod_comes_to_be_the_user_of_its_pattern(api: ControlPlane) -> None:
    """By the SPIFFE ID that its token's claims come to, which is all that its certificate says; on
    the database it is the user of the pattern. For as long as the rule says, for the key of the
    CSR; the event log has whose token it was."""
    key = ec.generate_private_key(ec.SECP256R1())
    found = enrolled(api, token(sub="system:serviceaccount:shop:cart", **POD), csr(key=key))
    assert found["user"] == "pod:shop:cart"
    leaf = x509.load_pem_x509_certificate(split_pem(found["certificate"])[0].encode())
    assert leaf.public_key() == key.public_key()
    says = core.identity(found["certificate"].encode())
    assert says.subject == ""
    assert says.sans == (("uri", "spiffe://acme/ns/shop/sa/cart"),)
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    assert 900 <= says.not_after - says.not_before <= 900 + CLOCK_SKEW.seconds + 5
    asked = {"certificate": found["certificate"], "bdb_uid": 1}
    assert api.ok("POST /v1/certauth/explain", asked)["user"] == "pod:shop:cart"
    (event,) = [one for one in api.ok("GET /v1/logs") if one["type"] == "certificate_issued"]
    assert event["issuer_name"] == "k8s"
    assert event["token_subject"] == "system:serviceaccount:shop:cart"
    assert 'certauth_enrolments_total{issuer="k8s",reason=""}' in metrics(api)


def metrics(api: ControlPlane) -> str:
    return str(api.client.get("/metrics", auth=("admin", "the administrator's password")).text)


def test_a_job_comes_to_be_a_user_by_its_subject(api: ControlPlane) -> None:
    """A user that has exactly this subject; another branch has no rule, another repository no
    user."""
    claims = {"repository": "acme/cart", "ref": "refs/heads/main", "sub": "repo:acme/cart"}
    found = enrolled(api, token(**claims))
    assert (found["user"], found["subject"]) == ("ci", "CN=acme/cart,O=github")
    other = enrol(api, token(**{**claims, "repository": "acme/cart2"}))
    assert refused(other, 406, "certificate_of_nobody")
    branch = enrol(api, token(**{**claims, "ref": "refs/heads/x"}))
    assert refused(branch, 406, "certificate_of_nobody")  # user:{sub}, whom nobody knows


def test_a_person_comes_to_be_the_user_of_that_name(api: ControlPlane) -> None:
    """With the names that the profile gives it."""
    found = enrolled(api, token(sub="alice"))
    assert (found["user"], found["subject"], found["profile"]) == ("alice", ALICE, "default")


@pytest.mark.parametrize("sub", ["Alice", "alice ", "bob", "admin", "pod:shop:cart", "alice@acme"])
def test_nobody_else_is_alice(api: ControlPlane, sub: str) -> None:
    """Nor a user that logs in by password, or that a pattern makes."""
    answer = enrol(api, token(sub=sub))
    assert answer.code in ("certificate_of_nobody", "token_claim_value")
    assert enrol(api, token(sub="alice")).status == 200


def test_the_lifetime_is_the_shorter_one_of_rule_and_profile(api: ControlPlane) -> None:
    api.ok("PUT /v1/certauth/profiles/1", {"lifetime": 3600})
    for lifetime, least in ((7200, 3600), (300, 300)):
        rules(api, {"identity": "user:{sub}", "lifetime": lifetime})
        found = enrolled(api, token(sub="alice"))
        life = found["not_after"] - found["not_before"]
        assert least <= life <= least + CLOCK_SKEW.seconds + 5


# ---- Refused ----


def test_a_csr_for_another_name_is_refused(api: ControlPlane) -> None:
    """It is not answered with something else; one that asks for the right names is."""
    alice = token(sub="alice")
    for asked in (csr("CN=bob,OU=eng,O=acme"), csr(ALICE, None, uris(CART))):
        assert refused(enrol(api, alice, asked), 400, "invalid_certificate")
    pod = token(**POD)
    for asked in (csr("CN=alice"), csr("", None, uris(f"{CART}s")),
                  csr("", None, uris(CART, "spiffe://acme/x"))):  # fmt: skip
        assert refused(enrol(api, pod, asked), 400, "invalid_certificate")
    assert enrolled(api, alice, csr(ALICE))["user"] == "alice"
    assert enrolled(api, pod, csr("", None, uris(CART)))["user"]


def test_a_token_is_good_for_a_key_once(api: ControlPlane) -> None:
    """An eavesdropper gets nothing with the same two; another spelling of the signature is the
    same token. A new key may use it again, as a pod does that begins again."""
    text, key = token(sub="alice"), ec.generate_private_key(ec.SECP256R1())
    enrolled(api, text, csr(key=key))
    assert refused(enrol(api, text, csr(key=key)), 409, "token_used")
    assert refused(enrol(api, text, csr(ALICE, key)), 409, "token_used")
    other = malleable(text)
    assert other != text
    assert refused(enrol(api, other, csr(key=key)), 409, "token_used")
    assert enrol(api, token(sub="alice", jti="2"), csr(key=key)).status == 200
    assert enrol(api, text).status == 200
    assert len(api.ok("GET /v1/certauth/certificates?user=alice")) == 3


def malleable(text: str) -> str:
    """The same token with ECDSA's other signature (r, n - s), which is as good."""
    head, _, signature = text.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    other = order - int.from_bytes(raw[32:], "big")
    made = raw[:32] + other.to_bytes(32, "big")
    return f"{head}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


def test_used_tokens_are_remembered_for_as_long_as_they_are_good(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer: the table does not grow."""
    enrolled(api, token(sub="alice", exp=int(time.time()) + 5))
    ((_, expires),) = rows(api)
    assert expires > time.time() + 60
    later = time.time() + 400
    monkeypatch.setattr(time, "time", lambda: later)
    enrolled(api, token(sub="alice", exp=int(later) + 600, iat=None))
    assert len(rows(api)) == 1


def rows(api: ControlPlane) -> Any:
    return api.store.dump()["tables"]["enrolments"]["rows"]


WRONG: list[tuple[dict[str, Any], str, int]] = [
    ({"iss": "https://evil.example"}, "token_issuer", 401),
    ({"aud": "somebody"}, "token_audience", 401),
    ({"exp": 1}, "token_expired", 401),
    ({"name": "k2"}, "token_key_unknown", 401),
    ({"header": {"crit": ["x"]}}, "token_header", 401),
    ({"sub": "a b"}, "token_claim_value", 403),
]


def test_what_is_wrong_with_a_token_has_a_name(api: ControlPlane) -> None:
    """In the answer, in the event log and in the numbers; nothing of the token is there."""
    for claims, code, status in WRONG:
        text = token(**claims)
        assert refused(enrol(api, text), status, code)
        (event, *_) = api.ok("GET /v1/logs?order=desc&limit=1")
        assert (event["type"], event["reason"]) == ("enrolment_refused", code)
        assert text.split(".")[1] not in json.dumps(event)
        assert f'reason="{code}"' in metrics(api)
    assert enrolled(api, token())["user"] == "alice"


def test_without_a_rule_a_good_token_is_nobody(api: ControlPlane) -> None:
    rules(api, {"identity": "user:{sub}", "claims": {"team": "db"}})
    assert refused(enrol(api, token(sub="alice")), 403, "token_no_rule")
    assert enrolled(api, token(sub="alice", team="db"))["user"] == "alice"


def test_an_issuer_that_is_deleted_enrols_nobody(api: ControlPlane) -> None:
    assert enrol(api, token()).status == 200
    api.ok(f"DELETE {ISSUERS}/1")
    assert refused(enrol(api, token()), 401, "token_issuer")


def test_after_a_restore_tokens_enrol_nobody_until_its_release(api: ControlPlane) -> None:
    """The issuer may have been deleted since the backup, and the token used."""
    api.store.settings.configure(lambda now: replace(now, hold="restored from a backup"))
    answer = enrol(api, token())
    assert refused(answer, 503, "on_hold")
    assert answer.text.endswith("redis-certauth release: restored from a backup")
    assert rows(api) == []
    api.store.settings.release()
    assert enrolled(api, token())["user"] == "alice"


def test_the_profile_of_a_rule_is_for_those_with_its_roles(api: ControlPlane) -> None:
    """Those that a pattern makes hold the roles of the pattern."""
    api.ok("POST /v1/certauth/profiles", {"name": "viewers", "role_uids": [5]})
    api.ok("POST /v1/certauth/profiles", {"name": "apps", "role_uids": [8]})
    for name, status in (("viewers", 403), ("apps", 200)):
        rules(api, {"identity": SPIFFE, "profile": name})
        assert enrol(api, token(**POD)).status == status
        rules(api, {"identity": "user:{sub}", "profile": name})
        assert enrol(api, token()).status == status


def test_an_identity_of_several_users_is_refused(api: ControlPlane) -> None:
    """The client would choose; a token says one."""
    shared = [{"uri": "spiffe://acme/both", "shared": True}]
    for name in ("one", "two"):
        api.ok("POST /v1/users", {"name": name, "auth_method": "certificate", "role_uids": [8],
                                  "certificate_identities": shared})  # fmt: skip
    rules(api, {"identity": "uri:spiffe://acme/{sub}"})
    assert refused(enrol(api, token(sub="both")), 406, "certificate_of_several")
    alone = [{"uri": "spiffe://acme/one"}]
    api.ok("POST /v1/users", {"name": "three", "auth_method": "certificate", "role_uids": [8],
                              "certificate_identities": alone})  # fmt: skip
    assert enrolled(api, token(sub="one"))["user"] == "three"


def test_a_key_that_was_revoked_gets_nothing(api: ControlPlane) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    found = enrolled(api, token(), csr(key=key))
    api.ok("POST /v1/certauth/revocations", {"key": found["key"]})
    answer = enrol(api, token(jti="2"), csr(key=key))
    assert answer.code in ("unauthorized_action", "certificate_not_accepted")
    assert enrol(api, token(jti="2")).status == 200


def test_no_login_helps_and_none_is_needed(api: ControlPlane) -> None:
    """An administrator's password makes no bad token good."""
    answer = api(ENROL, {"token": token(aud="x"), "csr": csr()})
    assert refused(answer, 401, "token_audience")


def test_a_dry_run_hands_nothing_out_and_uses_nothing_up(api: ControlPlane) -> None:
    text, request = token(), csr()
    body = {"token": text, "csr": request}
    assert api.ok(f"{ENROL}?dry_run", body, auth=None)["certificate"] == ""
    assert enrolled(api, text, request)["certificate"]


# ---- Issuers ----


def test_an_issuer_is_shown_as_it_was_made(api: ControlPlane) -> None:
    (found,) = api.ok(f"GET {ISSUERS}")
    assert found == api.ok(f"GET {ISSUERS}/1")
    assert (found["name"], found["url"], found["keys"]) == ("k8s", ISSUER, 1)
    assert found["rules"][0] == {**RULES[0], "profile": "default", "every_token": False}
    assert found["rules"][2] == {"identity": "user:{sub}", "claims": {}, "profile": "default",
                                 "lifetime": 3600, "every_token": False}  # fmt: skip
    again = {name: one for name, one in found.items() if name != "uid"}
    assert api.ok(f"PUT {ISSUERS}/1", again)["rules"] == found["rules"]


@pytest.mark.parametrize(
    "rule",
    [
        {"identity": "user:alice"},
        {"identity": "uri:spiffe://acme/cart", "claims": {"aud": AUDIENCE}},
        {"identity": "subject:CN=alice,O={iss}", "claims": {"iss": ISSUER}},
    ],
    ids=["user", "audience", "issuer"],
)
def test_attack_a_rule_that_makes_one_user_of_every_token(
    api: ControlPlane, rule: dict[str, Any]
) -> None:
    """All tokens of an issuer have its `iss` and an audience, so strangers at a public issuer would
    be alice: refused as it is saved, at making and at changing, unless the rule says so itself. One
    claim that tells tokens apart is enough."""
    other = {"name": "other", "url": "https://other.example", "audiences": [AUDIENCE],
             "jwks": jwks()}  # fmt: skip
    for request, more in ((f"PUT {ISSUERS}/1", {}), (f"POST {ISSUERS}", other)):
        answer = api(request, {**more, "rules": [{"identity": "user:{sub}"}, rule]})
        assert refused(answer, 406, "trust_grows"), answer.json
        assert f"rule '{rule['identity']}' names no claim" in answer.text
        assert "every_token: true" in answer.text
    assert [one["identity"] for one in api.ok(f"GET {ISSUERS}/1")["rules"]] == [
        one["identity"] for one in RULES
    ]
    rules(api, {**rule, "claims": {**rule.get("claims", {}), "sub": "alice"}})
    rules(api, {**rule, "every_token": True})
    (kept,) = api.ok(f"GET {ISSUERS}/1")["rules"]
    assert kept["every_token"] is True


UNCLEAR: list[tuple[dict[str, Any], str]] = [
    ({"audiences": []}, "invalid_param"),
    ({"algorithms": ["HS256"]}, "invalid_schema"),
    ({"algorithms": ["none"]}, "invalid_schema"),
    ({"algorithms": []}, "invalid_schema"),
    ({"clock_skew": 3600}, "invalid_schema"),
    ({"jwks": '{"keys": []}'}, "invalid_param"),
    ({"jwks": jwks(jwk(d="AAAA"))}, "invalid_param"),
    ({"jwks": "", "url": "http://issuer.example"}, "invalid_param"),
    ({"jwks": "", "url": "issuer"}, "invalid_param"),
    ({"jwks": "", "jwks_url": "http://issuer.example/keys"}, "invalid_param"),
    ({"jwks": "", "jwks_url": "https://a:b@issuer.example/keys"}, "invalid_param"),
    ({"url": ""}, "invalid_param"),
    ({"ca": "hello"}, "invalid_certificate"),
    ({"rules": [{"identity": "{sub}"}]}, "invalid_param"),
    ({"rules": [{"identity": "user:{sub}", "profile": "none"}]}, "invalid_param"),
    ({"rules": [{"identity": "user:{sub}", "lifetime": 60}]}, "invalid_schema"),
    ({"rules": [{"claims": {}}]}, "missing_field"),
    ({"rules": [{"identity": "user:{sub}", "claims": {"a": ""}}]}, "invalid_schema"),
]


def test_an_issuer_that_means_nothing_clear_is_refused(api: ControlPlane) -> None:
    """And stays as it was."""
    for fields, code in UNCLEAR:
        answer = api(f"PUT {ISSUERS}/1", fields)
        assert refused(answer, 400, code), answer.json
    assert enrol(api, token()).status == 200


def test_two_issuers_have_two_names_and_urls(api: ControlPlane) -> None:
    body = {"name": "k8s2", "url": f"{ISSUER}/2", "audiences": ["x"], "jwks": jwks()}
    assert api(f"POST {ISSUERS}", {**body, "name": "k8s"}).code == "name_already_exists"
    assert api(f"POST {ISSUERS}", {**body, "url": ISSUER}).code == "url_already_exists"
    assert api.ok(f"POST {ISSUERS}", body)["uid"] == 2


# ---- Keys that are fetched ----


@pytest.fixture
def site(pki: Pki) -> Iterator[HttpsSite]:
    with https_site(pki) as found:
        found.put("/keys", jwks())
        document = {"issuer": found.url, "jwks_uri": f"{found.url}/keys"}
        found.put("/.well-known/openid-configuration", json.dumps(document))
        yield found


def follow(api: ControlPlane, site: HttpsSite, **more: Any) -> Issuer:
    """An issuer whose keys are fetched from the site."""
    body = {"name": "idp", "url": site.url, "audiences": [AUDIENCE], "ca": site.ca,
            "rules": [{"identity": "user:{sub}"}]}  # fmt: skip
    uid = api.ok(f"POST {ISSUERS}", {**body, **more})["uid"]
    return api.store.objects.get(Issuer, uid)


def look(api: ControlPlane, seconds: float = 0) -> Any:
    following.look(api.store, int(time.time() + seconds))
    return api.ok(f"GET {ISSUERS}/2")


def test_keys_are_fetched_by_discovery(api: ControlPlane, site: HttpsSite) -> None:
    follow(api, site)
    assert api.ok(f"GET {ISSUERS}/2")["keys"] == 0
    found = look(api)
    assert (found["keys"], found["problem"], found["fetched"] != "") == (1, "", True)
    assert site.asked == ["/.well-known/openid-configuration", "/keys"]
    assert enrolled(api, token(iss=site.url))["user"] == "alice"
    look(api, 3000)
    assert len(site.asked) == 2
    look(api, 3601)
    assert len(site.asked) == 4
    assert 'certauth_issuer_fetch_failed{issuer="idp"} 0' in metrics(api)


def test_keys_that_rotate_are_taken_when_a_token_names_one(
    api: ControlPlane, site: HttpsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seldom, for strangers send such tokens too; and one that is taken back counts no more."""
    follow(api, site)
    look(api)
    site.put("/keys", jwks(jwk("k2")))
    new = token(iss=site.url, name="k2")
    assert refused(enrol(api, new), 401, "token_key_unknown")  # it was asked just now
    later = time.time() + enrolment.EAGER
    monkeypatch.setattr(time, "time", lambda: later)
    assert enrolled(api, new)["user"] == "alice"
    asked = len(site.asked)
    for _ in range(3):
        assert refused(enrol(api, token(iss=site.url, name="k1")), 401, "token_key_unknown")
    assert len(site.asked) == asked
    events = [one["type"] for one in api.ok("GET /v1/logs")]
    assert events.count("issuer_keys_changed") == 2
    much = later + 2 * enrolment.EAGER
    monkeypatch.setattr(time, "time", lambda: much)
    for _ in range(3):  # a dry run is rolled back, and asks no more often for it
        body = {"token": token(iss=site.url, name="k1"), "csr": csr()}
        assert refused(api(f"{ENROL}?dry_run", body, auth=None), 401, "token_key_unknown")
    assert len(site.asked) == asked + 2


@pytest.mark.parametrize(
    ("path", "status", "content", "why"),
    [
        ("/keys", 500, b"", "answered 500"),
        ("/keys", 302, b"https://127.0.0.1:1/", "redirects are not followed"),
        ("/keys", 200, b"rubbish", "not JSON"),
        ("/keys", 200, b'{"keys": []}', "no public key"),
        ("/keys", 200, b"x" * (257 << 10), "more than 262144 bytes"),
        ("/.well-known/openid-configuration", 200, b"rubbish", "no issuer and jwks_uri"),
        ("/.well-known/openid-configuration", 200,
         b'{"issuer": "https://evil.example", "jwks_uri": "https://evil.example/keys"}',
         "it is of another issuer"),
    ],
    ids=range(7),
)  # fmt: skip
def test_an_issuer_that_gives_rubbish_keeps_the_keys_that_it_gave(
    api: ControlPlane, site: HttpsSite, path: str, status: int, content: bytes, why: str
) -> None:
    """It is told once, and tried again soon; after a week its keys count no more."""
    follow(api, site)
    look(api)
    before = site.pages[path]
    site.put(path, content, status)
    for seconds in (3700, 3770):
        found = look(api, seconds)
        assert why in found["problem"]
        assert found["keys"] == 1
    events = [one for one in api.ok("GET /v1/logs") if one["type"] == "issuer_not_fetched"]
    assert len(events) == 1
    assert enrolled(api, token(iss=site.url))["user"] == "alice"
    assert 'certauth_issuer_fetch_failed{issuer="idp"} 1' in metrics(api)
    site.pages[path] = before
    assert look(api, 3840)["problem"] == ""


def test_keys_of_an_issuer_that_is_gone_end(
    api: ControlPlane, site: HttpsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has taken back meanwhile, nobody here could know."""
    follow(api, site)
    look(api)
    site.put("/keys", b"", 500)
    later = time.time() + enrolment.STALE + 1
    monkeypatch.setattr(time, "time", lambda: later)
    late = token(iss=site.url, exp=int(later) + 600, iat=None)
    assert refused(enrol(api, late), 401, "token_key_unknown")


def test_a_document_cannot_lead_away_from_https(api: ControlPlane, site: HttpsSite) -> None:
    """Nor to where clouds keep credentials."""
    issuer = follow(api, site)
    for address, why in (
        (site.url.replace("https", "http") + "/keys", "over https only"),
        ("https://169.254.169.254/keys", "never fetches from such an address"),
        ("file:///etc/passwd", "must look like http"),
    ):
        document = {"issuer": site.url, "jwks_uri": address}
        site.put("/.well-known/openid-configuration", json.dumps(document))
        api.store.issuers.record_keys(issuer, enrolment.IssuerKeys(2, tried=0, problem="x"))
        assert why in look(api)["problem"]


def test_a_site_of_another_ca_is_not_believed(api: ControlPlane, site: HttpsSite) -> None:
    follow(api, site, ca="")
    assert "certificate" in look(api)["problem"]
    api.ok(f"PUT {ISSUERS}/2", {"ca": site.ca})
    assert look(api, 100)["keys"] == 1


def test_the_thread_asks_without_being_told(api: ControlPlane, site: HttpsSite) -> None:
    thread = following.Sources(api.store)
    thread.start()
    try:
        follow(api, site)
        wait_until(lambda: api.ok(f"GET {ISSUERS}/2")["keys"] == 1, "its keys are there", 30)
    finally:
        thread.stop()


# ---- Attacks: keys and networks that count no more ----


def test_attack_keys_of_the_address_before_count_for_no_other(
    api: ControlPlane, site: HttpsSite
) -> None:
    """An issuer that moves, or is another one from now on, is not vouched for by keys that were
    fetched where it was; those of the new address count as soon as they are there."""
    follow(api, site)
    look(api)
    assert enrol(api, token(iss=site.url)).status == 200
    for moved in (
        {"jwks_url": f"{site.url}/elsewhere"},
        {"jwks_url": ""},
        {"url": f"{site.url}/tenant"},
    ):
        api.ok(f"PUT {ISSUERS}/2", moved)
        found = api.ok(f"GET {ISSUERS}/2")
        assert (found["keys"], found["fetched"]) == (0, ""), moved
        text = token(iss=found["url"])
        assert enrol(api, text).code == "token_key_unknown", moved
        if "jwks_url" in moved and not moved["jwks_url"]:
            assert look(api)["keys"] == 1
            assert enrol(api, token(iss=site.url, jti="2")).status == 200


def test_what_is_no_matter_of_keys_leaves_them(api: ControlPlane, site: HttpsSite) -> None:
    follow(api, site)
    look(api)
    api.ok(f"PUT {ISSUERS}/2", {"clock_skew": 30, "name": "other", "jwks_url": ""})
    assert enrol(api, token(iss=site.url)).status == 200


def test_attack_a_fetch_that_was_under_way_brings_no_keys_of_the_address_before(
    api: ControlPlane, site: HttpsSite
) -> None:
    """It may take half a minute, and the address may have been left for a reason."""
    before = follow(api, site)
    api.ok(f"PUT {ISSUERS}/2", {"jwks_url": f"{site.url}/elsewhere"})
    enrolment.refresh(api.store, before, int(time.time()))
    assert api.ok(f"GET {ISSUERS}/2")["keys"] == 0
    assert enrol(api, token(iss=site.url)).code == "token_key_unknown"
    api.ok(f"DELETE {ISSUERS}/2")
    enrolment.refresh(api.store, before, int(time.time()))
    assert api.store.issuers.all_keys() == {}


def test_attack_nobody_enrols_from_a_locked_network(api: ControlPlane) -> None:
    """A lock of a network closes this way in like every other."""
    made = api.store.locks.add("lock network 10.0.0.0/8", "", 0)
    there: dict[str, Any] = {"environ_overrides": {"REMOTE_ADDR": "10.1.2.3"}}
    text, request = token(), csr()
    body = {"token": text, "csr": request}
    assert refused(api(ENROL, body, auth=None, **there), 401, "locked")
    assert rows(api) == []
    assert 'certauth_enrolments_total{issuer="",reason="locked"}' in metrics(api)
    api.store.locks.remove(made.uid)
    assert api(ENROL, body, auth=None, **there).status == 200


@pytest.mark.parametrize("line", ["lock user alice", f"lock subject {ALICE}", "lock cn alice"])
def test_attack_who_is_locked_does_not_enrol(api: ControlPlane, line: str) -> None:
    """Or a certificate of the time of the lock would be good when it ends."""
    made = api.store.locks.add(line, "", 0)
    assert refused(enrol(api, token()), 406, "certificate_not_accepted")
    api.store.locks.remove(made.uid)
    assert enrol(api, token()).status == 200


def test_attack_a_pod_that_is_locked_does_not_enrol(api: ControlPlane) -> None:
    for line in ("lock user pod:shop:cart", "lock uri spiffe://acme/ns/shop/sa/cart"):
        made = api.store.locks.add(line, "", 0)
        answer = enrol(api, token(**POD))
        assert answer.code in ("certificate_not_accepted", "certificate_of_nobody"), line
        api.store.locks.remove(made.uid)
    assert enrol(api, token(**POD)).status == 200


def test_attack_two_requests_at_once_bring_one_certificate(api: ControlPlane) -> None:
    """Of one token and one key, however many ask."""
    body = {"token": token(), "csr": csr()}
    found: list[int] = []

    def ask() -> None:
        answer = api.app.test_client().post("/v1/certauth/enrol", json=body)
        found.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(found) == [200, 409, 409, 409]
    assert len(api.ok("GET /v1/certauth/certificates?user=alice")) == 1


def test_attack_a_longer_clock_skew_makes_no_used_token_good(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that were used are remembered for as long as any setting may let them be good."""
    text, request = token(exp=int(time.time()) + 5), csr()
    enrolled(api, text, request)
    later = time.time() + 100
    monkeypatch.setattr(time, "time", lambda: later)
    enrolled(api, token(sub="alice", exp=int(later) + 600, iat=None))
    api.ok(f"PUT {ISSUERS}/1", {"clock_skew": 300})
    assert refused(enrol(api, text, request), 409, "token_used")


def test_attack_a_claim_in_two_ways_skips_no_rule(api: ControlPlane) -> None:
    """Who can add a claim would choose the rule that counts."""
    rules(api, {"identity": "uri:spiffe://acme/ns/{kubernetes.io.namespace}/sa/cart",
                "claims": {"a.b": "x"}}, {"identity": "user:{sub}"})  # fmt: skip
    twice = {"a": {"b": "x"}, "a.b": "y"}
    assert refused(enrol(api, token(**twice)), 401, "token_claims")
    assert enrol(api, token(a={"b": "y"})).status == 200


def test_attack_strangers_fill_no_event_log(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they are refused is kept as failed logins are: so many, and not for a year."""
    monkeypatch.setattr(events, "EVENTS_PER_TYPE", 5)
    monkeypatch.setattr(events, "TRIM_BATCH", 1)
    kinds = ("enrolment_refused", "issuer_not_fetched", "trust_source_not_read",
             "trust_source_waiting")  # fmt: skip
    for kind in kinds:
        for _ in range(10):
            api.store.events.note(kind, "WARNING", reason="x")
    found = [one["type"] for one in api.ok("GET /v1/logs?limit=1000")]
    assert {kind: found.count(kind) for kind in kinds} == dict.fromkeys(kinds, 5)


def test_attack_a_problem_is_not_as_long_as_the_issuer_likes(
    api: ControlPlane, site: HttpsSite
) -> None:
    """Its discovery document names an address, which is told where nothing is there."""
    document = {"issuer": site.url, "jwks_uri": f"{site.url}/{'x' * 50_000}"}
    site.put("/.well-known/openid-configuration", json.dumps(document))
    follow(api, site)
    problem = look(api)["problem"]
    assert 0 < len(problem) <= enrolment.PROBLEM
