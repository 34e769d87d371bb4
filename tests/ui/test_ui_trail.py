"""control/ui/audit.py, onboard.py, repair.py, revert.py, login.py: what was done is found, taken
along and undone; an application comes on one page; a login ends everywhere."""

import csv
import io
import json
from typing import Any

import pytest

from control.ui import changes, onboard, revert
from tests.kit.browser import ALICE, Browser, by_certificate
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import Pki, days, root


@pytest.fixture(autouse=True)
def nobody_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no servers here to wait for."""
    monkeypatch.setattr(changes, "WAIT", 0)


# ---- Audit ---------------------------------------------------------------------------------------


def test_the_audit_names_objects_and_values(api: ControlPlane, admin: Browser) -> None:
    """With a link while they are there, and what was and is."""
    api.ok("POST /v1/roles", {"name": "ops"})
    uid = api.ok("GET /v1/roles")[-1]["uid"]
    api.ok(f"PUT /v1/roles/{uid}", {"name": "dev"})
    page = admin.get("/ui/audit/?kind=user_,role_&search=ROLE_UPDATED")
    assert f'<a href="/ui/roles/{uid}">dev</a>' in page.html
    assert "name ops → dev" in page.text
    api.ok(f"DELETE /v1/roles/{uid}")
    page = admin.get("/ui/audit/?type=role_deleted")
    assert "dev" in page.text
    assert f"/ui/roles/{uid}" not in page.html
    assert "No event fits." in admin.get("/ui/audit/?search=nobody-of-this-name").text
    page = admin.get("/ui/audit/?since=yesterday")
    assert (
        page.status,
        "From: must be an ISO 8601 time, such as 2026-12-24T18:00" in page.text,
    ) == (
        400,
        True,
    )


def test_the_audit_is_taken_along(api: ControlPlane, admin: Browser) -> None:
    """As it was filtered; no cell is a formula."""
    api.ok("POST /v1/redis_acls", {"name": "evil", "acl": "+get ~*"})
    uid = api.ok("GET /v1/redis_acls")[-1]["uid"]
    api.ok(f"PUT /v1/redis_acls/{uid}", {"name": "-evil"})
    answer = admin.get("/ui/audit/export.csv?kind=redis_acl_").response
    assert answer.headers["Content-Disposition"] == 'attachment; filename="audit.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["type"] for row in rows] == ["redis_acl_updated", "redis_acl_created"]
    assert (rows[0]["object"], rows[0]["change"]) == ("'-evil", "name: evil -> -evil")
    lines = admin.get("/ui/audit/export.jsonl?kind=redis_acl_").response.text.splitlines()
    assert json.loads(lines[0])["after"] == ['"-evil"']
    assert admin.get("/ui/audit/export.xml").status == 404


def test_lists_are_taken_along(api: ControlPlane, admin: Browser) -> None:
    """All of it, and not the page."""
    for number in range(60):
        api.ok("POST /v1/roles", {"name": f"Role {number:02}"})
    page = admin.get("/ui/roles/?search=role+")
    assert "1–50 of 60" in page.text
    rows = admin.get("/ui/roles/export.csv?search=role+").response.text.splitlines()
    assert (rows[0], len(rows)) == ("Name,Management", 61)


# ---- Undo ----------------------------------------------------------------------------------------


def test_a_change_of_identities_is_undone(api: ControlPlane, admin: Browser) -> None:
    """The log has them as records, the API takes them as JSON."""
    first = [{"subject": "CN=a"}, {"uri": "urn:a", "session": "8h"}]
    api.ok("POST /v1/users", {"name": "a", "auth_method": "certificate", "role": "none",
                              "certificate_identities": first})  # fmt: skip
    api.ok("PUT /v1/users/2", {"certificate_identities": [{"dns": "a.acme"}]})
    page = admin.get("/ui/users/2")
    body = page.html.partition('name="body" value="')[2].partition('"')[0].replace("&#34;", '"')
    assert json.loads(body) == {"certificate_identities": first}
    etag = page.form("/ui/users/2")["etag"]
    csrf = page.form("/ui/users/2")["csrf"]
    page = admin.post("/ui/users/2", csrf=csrf, etag=etag, body=body)
    assert page.title == "Change the user a?"
    admin.send(page, "/ui/users/2")
    assert api.ok("GET /v1/users/2")["certificate_identities"] == first


@pytest.mark.parametrize(
    ("fields", "before"),
    [(["name", "passwords"], ['"a"', ""]), (["acl"], ['"+get…']), (["jwt_key"], ['"x"']), ([], [])],
)
def test_what_the_log_has_not_whole_is_not_undone(fields: list[str], before: list[str]) -> None:
    """Half of a change would be another one."""
    event: dict[str, Any] = {"type": "user_updated", "fields": fields, "before": before}
    assert revert.body_of(event, {}) is None


# ---- Onboarding ----------------------------------------------------------------------------------

FORM = {"name": "cart", "identities": "CN=cart,O=acme", "bdb": "1", "acl": "own",
        "rules": "+@read  ~cart:*"}  # fmt: skip


def test_an_application_comes_on_one_page(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """An ACL, a role, a grant and a user, after one review."""
    api.trust(pki.ca)
    api.database(tls_mode="enabled")
    page = admin.send(admin.get("/ui/onboard/"), "/ui/onboard/", **FORM)
    assert page.title == "Onboard cart?"
    assert "cart gets orders with +@read ~cart:*" in page.text
    assert len(api.ok("GET /v1/users")) == 1
    page = admin.send(page, "/ui/onboard/")
    assert "cart is on orders." in page.text
    user = api.ok("GET /v1/users")[-1]
    assert user["certificate_identities"] == [{"subject": "CN=cart,O=acme"}]
    (grant,) = api.ok("GET /v1/bdbs/1")["roles_permissions"]
    assert [grant["role_uid"]] == user["role_uids"]
    assert api.ok(f"GET /v1/redis_acls/{grant['redis_acl_uid']}")["acl"] == "+@read ~cart:*"


def test_what_is_missing_stands_at_its_field(api: ControlPlane, admin: Browser) -> None:
    """Nothing is made, and what was typed stays."""
    api.database()
    for change, field, why in (
        ({"name": ""}, "name", "what is the application called?"),
        ({"identities": ""}, "certificate", "give its certificate"),
        ({"certificate": "x"}, "certificate", "no certificate"),
        ({"bdb": ""}, "bdb", "choose a database"),
        ({"acl": ""}, "acl", "choose what it may do"),
        ({"rules": ""}, "rules", "which rights?"),
    ):
        page = admin.send(admin.get("/ui/onboard/"), "/ui/onboard/", **{**FORM, **change})
        assert (page.status, why in page.text) == (400, True), page.text
        assert f'href="#{field}"' in page.html
    for wish in ("x", "[]", "{}", '{"name": 1}'):
        page = admin.send(admin.get("/ui/onboard/"), "/ui/onboard/", wish=wish)
        assert (page.status, "this form is none of this page" in page.text) == (400, True)
    assert len(api.ok("GET /v1/roles")) == 7


def test_what_fails_half_way_is_taken_back(
    api: ControlPlane, admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is refused after its ACL, role and grant were made: they go again."""
    api.database()
    page = admin.send(admin.get("/ui/onboard/"), "/ui/onboard/", **FORM)
    real = changes.answer

    def refusing(call: str, *args: Any, **more: Any) -> Any:
        if call == "POST /v1/users":
            raise changes.refused("too_late", "it is refused now")
        return real(call, *args, **more)

    monkeypatch.setattr(changes, "answer", refusing)
    page = admin.send(page, "/ui/onboard/")
    assert "it is refused now" in page.text
    assert len(api.ok("GET /v1/roles")) == 7
    assert len(api.ok("GET /v1/redis_acls")) == 3
    assert api.ok("GET /v1/bdbs/1")["roles_permissions"] == []


def test_onboarding_needs_all_of_its_rights(api: ControlPlane, pki: Pki) -> None:
    """The page is refused by the API's own words where one of them is missing."""
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE, role="user_manager")
    browser = Browser(api, pki.alice)
    by_certificate(browser)
    page = browser.get("/ui/onboard/")
    assert page.status == 403
    assert any(need in page.text for need in onboard.NEEDS)


# ---- Repair --------------------------------------------------------------------------------------


def test_a_correction_of_nobody_is_refused(api: ControlPlane, admin: Browser) -> None:
    """An identity that is not there, and a number that is none."""
    api.certificate_user("alice", ALICE)
    csrf = admin.get("/ui/").form("/ui/logout")["csrf"]
    sent = {"csrf": csrf, "uid": "2", "old": "subject CN=other", "new": "CN=new"}
    page = admin.post("/ui/repair/identity", **sent)
    assert (page.status, "there is no identity 'subject CN=other'" in page.text) == (404, True)
    page = admin.post("/ui/repair/identity", **{**sent, "uid": "x"})
    assert (page.status, "which user?" in page.text) == (400, True)
    page = admin.post("/ui/repair/identity", **{**sent, "old": f"subject {ALICE}"})
    assert page.title == "Change the user alice?"
    assert f"{ALICE} subject CN=new" in page.text


def test_a_refused_certificate_has_its_cures(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """By the reason: a revocation that is taken back, a CA that is trusted, a new certificate."""
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE)
    api.ok("POST /v1/certauth/revocations", {"key": pki.alice.key_id})
    stranger = root("CN=Other CA")
    old = pki.ca.issue(ALICE, not_before=days(-9), not_after=days(-1))
    chain = stranger.issue("CN=x").pem + stranger.pem
    for pem, cure in (
        (pki.alice.pem, "Take the revocation back"), (chain, "Trust the CA that was given"),
        (stranger.issue("CN=x").pem, "Add the CA that issued it"), (old.pem, "Issue alice another"),
        (pki.bob.pem, "Make a user from it"),
    ):  # fmt: skip
        page = admin.send(admin.get("/ui/explain/"), "/ui/explain/", pem=pem.decode())
        assert cure in page.text, page.text
        assert 'class="failed"' in page.html


def test_somebody_elses_identity_is_not_offered(
    api: ControlPlane, admin: Browser, pki: Pki
) -> None:
    """The nearest line is alice's, and the certificate bob's; a slip of a letter is offered."""
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE, role="db_member")
    api.database(tls_mode="enabled", roles_permissions=[{"role_uid": 4, "redis_acl_uid": 2}])
    for leaf, offered in ((pki.bob, False), (pki.ca.issue("CN=Alice,OU=Eng,O=acme"), True)):
        page = admin.send(admin.get("/ui/explain/"), "/ui/explain/", pem=leaf.pem.decode())
        assert "nearest: bind subject CN=alice" in page.text
        assert ("Correct alice's identity" in page.text) == offered


# ---- Logins --------------------------------------------------------------------------------------


def test_a_logout_ends_every_copy_of_the_login(api: ControlPlane) -> None:
    """Also a token that was renewed from a stolen one; other logins of the user stay."""
    token = api.ok("POST /v1/users/authorize", {"username": ADMIN[0], "password": ADMIN[1]})
    other = api.ok("POST /v1/users/authorize", {"username": ADMIN[0], "password": ADMIN[1]})
    mine, theirs = (f"Bearer {one['access_token']}" for one in (token, other))
    stolen = api("POST /v1/users/refresh_jwt", {}, auth=mine)
    stolen = f"Bearer {stolen.json['access_token']}"
    assert api("DELETE /v1/certauth/token").code == "invalid_token"
    assert api("DELETE /v1/certauth/token", auth=mine).status == 200
    for dead in (mine, stolen):
        answer = api("GET /v1/users/role", auth=dead)
        assert (answer.status, answer.code) == (401, "invalid_token")
        assert "the token's user has logged out" in answer.json["description"]
    assert api("GET /v1/users/role", auth=theirs).status == 200


def test_a_copy_of_the_pages_cookie_dies_with_the_logout(api: ControlPlane) -> None:
    """Any client that has it is asked to log in."""
    browser, thief = Browser(api), Browser(api)
    page = browser.log_in()
    cookie = browser.client.get_cookie("__Host-certauth", domain="localhost")
    assert cookie
    thief.client.set_cookie("__Host-certauth", cookie.value, domain="localhost", secure=True)
    assert thief.get("/ui/roles/").status == 200
    browser.send(page, "/ui/logout")
    assert thief.get("/ui/roles/").status == 401


def test_a_form_waits_for_the_next_login(api: ControlPlane) -> None:
    """Without passwords, and what it does is shown before; one of another site does not wait."""
    browser = Browser(api)
    browser.log_in()
    form = browser.get("/ui/roles/new")
    browser.client.delete_cookie("__Host-certauth", domain="localhost")
    fields = {**form.form("/ui/roles/new"), "name": "ops", "digest": "x", "password": "secret"}
    page = browser.open("POST", "/ui/roles/new", data=fields)
    assert (page.status, "Your input is kept" in page.text) == (401, True)
    assert "secret" not in page.html
    page = browser.send(page, "/ui/login", username=ADMIN[0], password="wrong")
    page = browser.send(page, "/ui/login", username=ADMIN[0], password=ADMIN[1])
    assert page.title == "You are back"
    page = browser.send(page, "/ui/roles/new")
    assert page.title == "Add the role ops?"
    browser.client.delete_cookie("__Host-certauth", domain="localhost")
    cross = {"Sec-Fetch-Site": "cross-site"}
    page = browser.open("POST", "/ui/roles/new", data=fields, headers=cross)
    assert (page.status, "ops" in page.html) == (403, False)
    page = browser.open("POST", "/ui/password", data=fields)
    assert (page.status, "Your input is kept" in page.text) == (401, False)


def test_a_ca_has_a_page(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """With what one compares, where it counts, and its certificate."""
    api.trust(pki.ca)
    api.database()
    page = admin.get(f"/ui/cas/{pki.ca.key_id}")
    assert "Trusted by this page and the API, orders" in page.text
    assert pki.ca.pem.decode().strip() in page.html
    assert admin.get(f"/ui/cas/{'0' * 64}").status == 404


def test_everything_is_searched(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """By a part of a name, and a CA by its key id."""
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE)
    page = admin.get("/ui/search?q=ALIC")
    assert '<a href="/ui/users/2">alice</a>' in page.html
    assert "CN=Root CA,O=acme" in admin.get(f"/ui/search?q={pki.ca.key_id[:12]}").text
    assert "Nothing has that" in admin.get("/ui/search?q=nobody-at-all").text
