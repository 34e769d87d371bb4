"""control/ui: who gets into the web page and how, what other sites cannot do with it, and what each
page keeps to."""

import http.client
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from itsdangerous import TimestampSigner
from OpenSSL import SSL

from control import service
from control.domain.passwords import hash_password
from control.records import Password, User
from control.ui import login
from control.ui.app import HEADERS, create_ui
from control.ui.login import IDLE, OPEN
from tests.kit.browser import ALICE, BASE, Browser, Page, by_certificate
from tests.kit.plane import Https, initialised
from tests.kit.rest import ADMIN, ControlPlane, peer_cert
from tests.kit.support import Cert, Pki, days, free_port, root, wait_until


@pytest.fixture
def alice(api: ControlPlane, pki: Pki) -> Cert:
    """Alice's certificate; she may see everything and change nothing."""
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE, role="cluster_viewer")
    return pki.alice


def user_of(page: Page) -> str:
    """Whom the frame of a page names; "" where nobody has logged in."""
    found = re.search(r'<form class="me".*?<span>(.*?)</span>', page.html, re.DOTALL)
    return re.sub(r"<[^>]*>", "", found[1]).strip() if found else ""


# ---- Logging in ----------------------------------------------------------------------------------


def test_a_password_logs_in_and_out_again(browser: Browser) -> None:
    """With the name, to the page that was asked for; afterwards nobody is there."""
    asked = browser.get("/ui/roles/?search=a")
    assert asked.status == 401
    assert asked.title == "Log in"
    page = browser.send(asked, "/ui/login", username=ADMIN[0], password=ADMIN[1])
    assert (page.status, page.title, user_of(page)) == (200, "Roles", "admin by password")
    assert 'value="a"' in page.html
    assert browser.send(page, "/ui/logout").title == "Log in"
    assert browser.get("/ui/roles/").status == 401


def test_a_login_that_stood_open_for_hours_is_shown_again(browser: Browser) -> None:
    """It has to be filled in once more, and leads to where it was to lead."""
    page = browser.get("/ui/roles/")
    browser.client.delete_cookie("__Host-certauth", domain="localhost")
    late = browser.send(page, "/ui/login", username=ADMIN[0], password=ADMIN[1])
    assert (late.status, late.title) == (403, "Log in")
    page = browser.send(late, "/ui/login", username=ADMIN[0], password=ADMIN[1])
    assert (page.status, page.title) == (200, "Roles")


def test_a_wrong_password_is_refused_as_by_the_api(api: ControlPlane, browser: Browser) -> None:
    """With its words; and after too many of them the right one too."""
    for _ in range(5):
        page = browser.log_in(password="wrong")
        assert (page.status, user_of(page)) == (401, "")
        assert "wrong user name or password" in page.text
    assert browser.log_in().status == 401
    assert api("GET /v1/users").code == "invalid_credentials"


def test_nobody_without_a_login(api: ControlPlane, browser: Browser) -> None:
    """Every address but the login, and what it is made of, answers with the login; no change is
    made."""
    api.database()
    for rule in browser.app.url_map.iter_rules():
        if rule.endpoint in OPEN | {"static", "root"}:
            continue
        address = re.sub(r"<[^>]*>", "1", rule.rule)
        for method in (rule.methods or set()) & {"GET", "POST"}:
            page = browser.open(method, address)
            if method == "GET":
                assert (page.status, page.title) == (401, "Log in"), address
                assert page.response.headers["WWW-Authenticate"] == "Form"
            else:
                assert page.status == 401, address
    assert len(api.ok("GET /v1/bdbs")) == 1


def test_a_certificate_logs_in_at_a_click(api: ControlPlane, alice: Cert) -> None:
    """The login says whose it is. By itself it shows no page: other sites could use it too."""
    browser = Browser(api, alice)
    page = browser.get("/ui/")
    assert page.status == 401
    assert "Log in as alice" in page.text
    page = by_certificate(browser)
    assert (page.status, user_of(page)) == (200, "alice by certificate")
    assert browser.send(page, "/ui/logout").title == "Log in"
    assert browser.get("/ui/").status == 401


def test_a_certificate_of_nobody_is_offered_the_password(
    api: ControlPlane, alice: Cert, pki: Pki
) -> None:
    """And told why; a password logs in all the same."""
    stranger = root("CN=Stranger").issue(ALICE)
    cases = {
        "no_binding": pki.bob,
        "expired": pki.ca.issue(ALICE, not_before=days(-2), not_after=days(-1)),
        "untrusted_issuer": stranger,
    }
    for reason, cert in cases.items():
        browser = Browser(api, cert)
        page = browser.get("/ui/login")
        assert f"Nobody logs in with it: refused: {reason}:" in page.text
        assert "Log in as" not in page.text
        assert "password" in page.form("/ui/login")
        csrf = page.form("/ui/login")["csrf"]
        refused = browser.post("/ui/login", csrf=csrf)
        assert (refused.status, user_of(refused)) == (401, ""), reason
        assert user_of(browser.log_in()) == "admin by password"


def test_a_session_by_certificate_is_that_certificates(
    api: ControlPlane, alice: Cert, pki: Pki
) -> None:
    """On a connection that shows another one, or none, its cookie is worth nothing."""
    api.certificate_user("bob", "CN=bob,OU=eng,O=acme", role="admin")
    for other in (pki.bob, pki.ca.issue(ALICE), None):
        browser = Browser(api, alice)
        assert by_certificate(browser).status == 200
        browser.cert = other
        page = browser.get("/ui/")
        assert (page.status, user_of(page)) == (401, "")
        browser.cert = alice
        assert browser.get("/ui/").status == 401  # it is over


def test_what_ends_a_session(api: ControlPlane, pki: Pki, alice: Cert) -> None:
    """A revoked certificate, a user that is gone, another password, a locked user, passwords that
    are not taken any more: each with the next request."""

    def certificate() -> Browser:
        browser = Browser(api, alice)
        assert by_certificate(browser).status == 200
        return browser

    def password() -> Browser:
        browser = Browser(api)
        assert browser.log_in("bob", "bob's").status == 200
        return browser

    api.password_user("bob", "cluster_viewer")
    bob = api.store.objects.user_by_login("bob")
    assert bob
    entry = {"certificate": alice.pem.decode()}
    cases: list[tuple[Callable[[], Browser], str, Any]] = [
        (password, f"PUT /v1/users/{bob.uid}", {"password": "bob's other"}),
        (certificate, "POST /v1/certauth/revocations", entry),
    ]
    for log_in, call, body in cases:
        browser = log_in()
        api.ok(call, body)
        assert browser.get("/ui/").status == 401, call
    api.ok(f"PUT /v1/users/{bob.uid}", {"password": "bob's"})
    browser = password()
    for _ in range(5):
        assert api("GET /v1/users/role", auth=("bob", "wrong")).status == 401
    assert browser.get("/ui/").status == 401
    api.ok(f"PUT /v1/users/{bob.uid}", {"password": "bob's third"})
    api.ok(f"PUT /v1/users/{bob.uid}", {"password": "bob's"})
    api.ok("DELETE /v1/certauth/revocations/1")
    both = [certificate(), password()]
    for uid in (2, bob.uid):
        api.ok(f"DELETE /v1/users/{uid}")
    assert [one.get("/ui/").status for one in both] == [401, 401]


def test_a_role_that_changed_counts_at_once(api: ControlPlane) -> None:
    """Nothing of it is in the session."""
    api.password_user("bob", "admin")
    browser = Browser(api)
    browser.log_in("bob", "bob's")
    assert browser.get("/ui/users/").status == 200
    api.ok("PUT /v1/users/2", {"role": "db_viewer"})
    assert browser.get("/ui/users/").status == 403


def test_a_session_ends_by_itself(admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing was asked for a while; and after hours, also where it is used."""
    ahead = IDLE - 5
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: int(time.time()) + ahead)
    assert admin.get("/ui/").status == 200
    ahead = IDLE + 5
    assert admin.get("/ui/").status == 401
    assert admin.log_in().status == 200
    monkeypatch.setattr(login, "LONGEST", 0)
    page = admin.get("/ui/")
    assert (page.status, "Your login has ended" in page.text) == (401, True)


def test_a_session_is_renewed_while_passwords_are_taken(
    api: ControlPlane, alice: Cert, admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token lives for minutes only; when there are to be no passwords, it gets no other one."""
    monkeypatch.setattr(login, "RENEW", 0)
    assert admin.get("/ui/").status == 200
    api.ok("PUT /v1/users/2", {"role": "admin"})
    assert by_certificate(Browser(api, alice)).status == 200
    api.ok("PUT /v1/cluster", {"control_plane_basic_authentication": False})
    assert admin.get("/ui/").status == 401
    assert "this API does not accept passwords" in admin.log_in().text


def test_an_expired_password_is_changed_at_the_login(api: ControlPlane) -> None:
    """With the old one, and with no other."""
    bob = api.password_user("bob", "cluster_viewer")
    api.ok("PUT /v1/cluster", {"password_expiration_duration": 10})
    old = Password(hash_password(bob[1]), issued=1)
    api.store.objects.update(User, 2, lambda now: replace(now, passwords=(old,)))
    browser = Browser(api)
    page = browser.log_in(*bob)
    assert page.status == 401
    assert "new_password" in page.form("/ui/login")
    fields = {"username": "bob", "new_password": "bob's next"}
    wrong = browser.send(page, "/ui/login", password="wrong", **fields)
    assert wrong.status == 401
    page = browser.send(wrong, "/ui/login", password=bob[1], **fields)
    assert user_of(page) == "bob by password"
    assert Browser(api).log_in("bob", "bob's next").status == 200


def test_ones_own_password(api: ControlPlane) -> None:
    """Needs the one of now, keeps this login, and ends the others."""
    bob = api.password_user("bob", "none")
    browser, other = Browser(api), Browser(api)
    browser.log_in(*bob)
    other.log_in(*bob)
    page = browser.get("/ui/password")
    wrong = browser.send(page, "/ui/password", password="wrong", new_password="next")
    assert wrong.status == 401
    page = browser.send(wrong, "/ui/password", password=bob[1], new_password="bob's next")
    assert "You have a new password." in page.text
    assert other.get("/ui/").status == 401


# ---- Other sites ---------------------------------------------------------------------------------


def posts(browser: Browser) -> Iterator[str]:
    """The addresses that forms are sent to."""
    for rule in browser.app.url_map.iter_rules():
        if "POST" in (rule.methods or ()):
            yield re.sub(r"<[^>]*>", "1", rule.rule)


def test_forms_of_other_sites_are_refused(api: ControlPlane, alice: Cert) -> None:
    """Whatever they bring but the token of this session, and wherever they go; and with the token
    from an address that is not ours. Also by certificate, which browsers show unasked."""
    api.ok("PUT /v1/users/2", {"role": "admin"})
    browser, other = Browser(api, alice), Browser(api)
    token = by_certificate(browser).form("/ui/logout")["csrf"][0]
    foreign = other.log_in().form("/ui/logout")["csrf"][0]
    before = api.store.revision()
    for address in posts(browser):
        for sent in ({}, {"csrf": ""}, {"csrf": foreign}, {"csrf": "ä"}):
            assert browser.open("POST", address, data=sent).status == 403, address
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": f"{BASE}:9443"},
        ):
            page = browser.open("POST", address, data={"csrf": token}, headers=headers)
            assert page.status == 403, (address, headers)
    assert api.store.revision() == before
    headers = {"Origin": BASE}
    assert browser.open("POST", "/ui/logout", data={"csrf": token}, headers=headers).status == 303


def test_who_has_no_token_can_send_none(browser: Browser) -> None:
    """Before the first form of ours no token is right: so nobody is logged in as somebody else."""
    for sent in ("", " ", "None"):
        given = {"csrf": sent, "username": ADMIN[0], "password": ADMIN[1]}
        page = browser.open("POST", "/ui/login", data=given)
        assert (page.status, "is not from this page" in page.text) == (403, True), sent
    assert browser.get("/ui/").status == 401


def test_a_link_from_another_site_ends_no_session(admin: Browser) -> None:
    """The browser leaves the cookie behind: it is sent on, to ask again from here."""
    elsewhere = admin.app.test_client()
    headers = {"Sec-Fetch-Site": "cross-site"}
    response = elsewhere.get("/ui/users/?search=a", base_url=BASE, headers=headers)
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert 'content="0; url=/ui/users/?search=a"' in response.text
    assert admin.get("/ui/users/").status == 200


@pytest.mark.parametrize(
    "path", ["/%5Cevil.example/", "/%09/evil.example/", "//evil.example/", "/%5C%5Cevil.example"]
)
def test_a_link_from_another_site_leads_nowhere_else(browser: Browser, path: str) -> None:
    """What browsers take for another host's address is not where they are sent on to."""
    response = browser.get(path, headers={"Sec-Fetch-Site": "cross-site"})
    assert 'content="0; url=/ui/"' in response.html
    assert "evil" not in response.html


@pytest.mark.parametrize(
    "back",
    ["https://evil.example/", "//evil.example/", "/ui//x.example", "/\\x.example", "/ui/\n", ""],
)
def test_the_login_leads_nowhere_else(browser: Browser, back: str) -> None:
    """Whatever a link to it says."""
    page = browser.get("/ui/login")
    sent = {**page.form("/ui/login"), "username": ADMIN[0], "password": ADMIN[1], "back": back}
    response = browser.open("POST", "/ui/login", data=sent).response
    assert (response.status_code, response.headers["Location"]) == (303, "/ui/")


def test_the_cookie_is_for_nobody_else(browser: Browser) -> None:
    """Not for scripts, other sites, plain HTTP or other hosts; a login gets another session."""
    page = browser.get("/ui/login")
    first = page.form("/ui/login")["csrf"]
    sent = {**page.form("/ui/login"), "username": ADMIN[0], "password": ADMIN[1]}
    response = browser.open("POST", "/ui/login", data=sent).response
    name, _, rest = response.headers["Set-Cookie"].partition("=")
    flags = {part.strip() for part in rest.split(";")[1:]}
    assert name == "__Host-certauth"
    assert flags >= {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"}
    assert not any(flag.startswith("Domain") for flag in flags)
    assert browser.get("/ui/").form("/ui/logout")["csrf"] != first


def test_a_cookie_that_we_did_not_make_is_none(api: ControlPlane, admin: Browser) -> None:
    """Also one that another control plane has made."""
    cookie = admin.client.get_cookie("__Host-certauth", path="/")
    assert cookie
    value = cookie.value
    said, _, seal = value.rpartition(".")
    # Not its last character: base64 leaves bits of that unused, and two may mean the same.
    changed = f"{said}.{'A' if seal[0] != 'A' else 'B'}{seal[1:]}"
    forged = [changed, "x", "", value.partition(".")[0]]
    other = create_ui(api.app, peer_cert)
    other.config["SECRET_KEY"] = b"another key"
    for app, text in [*((admin.app, one) for one in forged), (other, value)]:
        client = app.test_client()
        client.set_cookie("__Host-certauth", text, path="/", domain="localhost", secure=True)
        assert client.get("/ui/", base_url=BASE).status_code == 401
    assert admin.get("/ui/").status == 200


def test_a_token_of_the_page_is_one_of_the_api_and_a_session_is_not(
    api: ControlPlane, admin: Browser
) -> None:
    """The cookie as it stands opens nothing on the other port."""
    cookie = admin.client.get_cookie("__Host-certauth", path="/")
    assert cookie
    assert api("GET /v1/users", auth=f"Bearer {cookie.value}").code == "invalid_token"


def test_headers_are_everywhere(api: ControlPlane, admin: Browser) -> None:
    """On pages, errors and files: no framing, no foreign content, nothing kept in caches."""
    policy = HEADERS["Content-Security-Policy"]
    for part in (
        "default-src 'none'", "style-src 'self'", "script-src 'self'", "img-src 'self' data:",
        "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'",
    ):  # fmt: skip
        assert part in policy
    assert "unsafe" not in policy
    for address in ("/ui/", "/ui/login", "/ui/nothing", "/ui/users/99", "/ui/static/ui.css", "/"):
        headers = admin.get(address).response.headers
        assert {name: headers.get(name) for name in HEADERS} == HEADERS, address
        kept = "static" in address
        assert headers["Cache-Control"] == ("private, max-age=3600" if kept else "no-store")


def test_headers_of_a_request_choose_no_certificate_and_no_login(
    api: ControlPlane, alice: Cert
) -> None:
    """Nothing that a client sends is handed on to the API."""
    browser, bob = Browser(api), api.password_user("bob", "cluster_viewer")
    headers = {
        "Authorization": "Basic YWRtaW46dGhlIGFkbWluaXN0cmF0b3IncyBwYXNzd29yZA==",
        "X-SSL-Client-Escaped-Cert": "x",
        "X-Real-IP": "10.0.0.1",
    }
    assert browser.get("/ui/users/", headers=headers).status == 401
    assert api("GET /v1/users", auth=headers["Authorization"]).status == 200
    assert browser.log_in(*bob).status == 200
    assert browser.get("/ui/users/", headers=headers).status == 403


# ---- Rights --------------------------------------------------------------------------------------


def test_a_viewer_changes_nothing(api: ControlPlane, alice: Cert) -> None:
    """Forms are not offered, and refused with the API's own 403 where one is sent all the same."""
    api.database()
    browser = Browser(api, alice)
    token = by_certificate(browser).form("/ui/logout")["csrf"][0]
    before = api.store.revision()
    for place, call in (
        ("roles", "PUT /v1/roles/1"),
        ("acls", "PUT /v1/redis_acls/2"),
        ("databases", "PUT /v1/bdbs/1"),
    ):
        uid = call.rpartition("/")[2]
        page = browser.get(f"/ui/{place}/{uid}")
        assert page.status == 200
        assert page.html.count("<form") == 2  # to search, and to log out
        refused = browser.post(f"/ui/{place}/{uid}", csrf=token, name="x", body='{"name": "x"}')
        said = api(call, {"name": "x"}, cert=alice)
        assert browser.get(f"/ui/{place}/new").status == 403
        assert (refused.status, said.status) == (403, 403), place
        assert "which the management of user 'alice' (cluster_viewer) does not give" in refused.text
        assert "does not give" in said.text
    assert browser.get("/ui/users/").status == 403
    assert browser.post("/ui/cas/add", csrf=token, pem="x").status in (400, 403)
    assert api.store.revision() == before


def test_who_may_do_nothing_sees_an_overview(api: ControlPlane) -> None:
    """And what they may: their password."""
    bob = api.password_user("bob", "none")
    browser = Browser(api)
    page = browser.log_in(*bob)
    assert page.status == 200
    assert "Databases" not in page.text
    for address in ("users", "databases", "roles", "acls", "cas"):
        assert browser.get(f"/ui/{address}/").status == 403


def test_the_log_names_who_did_it(api: ControlPlane, admin: Browser) -> None:
    """As for the API: the person, and where they came from."""
    page = admin.send(admin.get("/ui/roles/new"), "/ui/roles/new", name="ops")
    admin.send(page, "/ui/roles/new")
    (event,) = api.ok("GET /v1/logs?type=role_created")
    assert event["originating_username"] == "admin"
    assert event["originating_address"] == "127.0.0.1"


# ---- Errors --------------------------------------------------------------------------------------


def test_errors_are_pages(admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """In HTML, with their status; of a bug, nothing is told."""
    cases = {
        "/ui/nothing": 404, "/nothing": 404, "/ui/users/99": 404, "/ui/users/x": 404,
        "/ui/cas/add": 405, "/ui/static/../app.py": 404,
    }  # fmt: skip
    for address, status in cases.items():
        page = admin.get(address)
        assert page.status == status, address
        assert page.response.mimetype == "text/html"
        assert page.title

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("control.ui.overview.chart", fail)
    page = admin.get("/ui/")
    assert page.status == 500
    assert "secret" not in page.html
    assert admin.open("POST", "/ui/roles/new", data=b"x" * (2 << 20)).status in (403, 413)


def test_what_is_no_number_and_no_name_is_no_failure(
    admin: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    """Addresses and fields that no form of ours makes are told so, and fill no log with traces."""
    many = "9" * 5000
    for path in (
        "/ui/certificates/a%3Fb",
        "/ui/certificates/a%252Fb",
        f"/ui/explain/?cert=a&not_after={many}",
    ):
        assert admin.get(path).status < 500, path[:60]
    token = admin.get("/ui/").form("/ui/logout")["csrf"]
    sent: list[tuple[str, dict[str, str]]] = [
        ("/ui/databases/1/nodes/a%3Fb/forget", {}),
        ("/ui/sessions/end", {"bdb_uid": many, "id": "1"}),
        ("/ui/databases/new", {"roles_permissions": many, "roles_permissions.acl": "1"}),
        ("/ui/users/new", {"role_uids": many}),
        ("/ui/users/new", {"body": "[" * 100_000}),
    ]
    for path, fields in sent:
        assert admin.post(path, csrf=token, **fields).status in (400, 404), path
    assert "a page failed" not in caplog.text


def test_names_are_text(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """Whatever stands in a record, an address, a form or a certificate."""
    evil = "<script>x</script>"
    api.ok("POST /v1/redis_acls", {"name": "get", "acl": f"+get ~{evil} ~&"})
    api.certificate_user("alice", "CN=\\<script\\>x\\</script\\>,O=acme", role="none",
                         email="a<b>'\"&@x.y")  # fmt: skip
    api.trust(pki.ca)
    stranger = Browser(api, pki.ca.issue([[("CN", evil)]]))
    query = urlencode({"search": evil})
    pages = [
        admin.get(address)
        for address in (
            "/ui/acls/", "/ui/acls/4", "/ui/users/", "/ui/users/2", f"/ui/users/?{query}",
            f"/ui/{evil}", f"/ui/?range={evil}",
        )
    ]  # fmt: skip
    new = admin.get("/ui/users/new")
    pages.append(admin.send(new, "/ui/users/new", name=evil, email=f'"><{evil}'))
    pages.append(stranger.get("/ui/login"))
    pages.append(stranger.log_in(name=f'">{evil}', password="x"))
    for page in pages:
        assert "<script>x" not in page.html, page.title
        assert "<b>" not in page.html
    assert evil in pages[0].text
    assert r"CN=\<script\>x\</script\>" in pages[-2].text


# ---- What each page keeps to ---------------------------------------------------------------------


class Outline(HTMLParser):
    """What matters of a page to who does not see it, or uses no mouse."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.labels: set[str] = set()
        self._within = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag == "label":
            self.labels.add(found.get("for", ""))

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def check_page(page: Page) -> None:
    """One heading, labels for all fields, heads of tables with their scope, ids that are there once
    and references that lead to one; nothing that the policy of content forbids."""
    found = Outline(page.html)
    assert [one.get("lang") for one in found.all("html")] == ["en"]
    assert len(found.all("h1")) == len(found.all("main")) == 1
    assert page.text
    ids = Counter(attributes["id"] for _, attributes in found.tags if "id" in attributes)
    assert [one for one, times in ids.items() if times > 1] == []
    for name in ("aria-describedby", "aria-labelledby", "for"):
        for _, attributes in found.tags:
            for id in attributes.get(name, "").split():
                assert id in ids, f"{name} {id}"
    for _, attributes in found.tags:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    for field in found.all("input", "select", "textarea"):
        if field.get("type") != "hidden":
            assert field.get("id", "") in found.labels or field.get("aria-label"), field
    assert all(one.get("scope") in ("col", "row") for one in found.all("th"))
    for tag, attributes in found.tags:
        assert "style" not in attributes, tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert "srcdoc" not in attributes
    assert all("src" in one for one in found.all("script"))
    assert found.all("style") == []
    sources = [one["src"] for one in found.all("script", "img")]
    sources += [one["href"] for one in found.all("link")]
    assert all(one.startswith("/ui/static/") for one in sources)
    assert all("csrf" in page.form(one["action"]) for one in found.all("form")
               if one.get("method") == "post")  # fmt: skip


def test_every_page_keeps_to_the_same(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """Whatever can be opened, and what forms answer: for screen readers, keyboards, and the policy
    of content."""
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE, role="admin")
    api.database(roles_permissions=[{"role_uid": 1, "redis_acl_uid": 1}])
    pages = []
    for rule in admin.app.url_map.iter_rules():
        if "GET" in (rule.methods or ()) and rule.endpoint not in ("static", "root", "login.show"):
            pages.append(admin.get(re.sub(r"<[^>]*>", "1", rule.rule)))
    assert len(pages) > 12
    pages += [
        admin.send(admin.get(f"/ui/{place}/1"), f"/ui/{place}/1", name="")
        for place in ("users", "roles", "acls", "databases")
    ]
    page = admin.get("/ui/databases/1")
    pages.append(admin.send(page, "/ui/databases/1", tls_mode="enabled"))
    pages.append(admin.send(admin.get("/ui/users/2"), "/ui/users/2/remove"))
    pages.append(Browser(api, pki.alice).get("/ui/login"))
    pages.append(Browser(api).log_in(password="wrong"))
    files = [page for page in pages if page.response.mimetype != "text/html"]
    assert len(files) == 8  # CSV of each list
    for page in pages:
        if page not in files:
            check_page(page)


def test_the_menu_says_where_one_is(admin: Browser) -> None:
    """For who does not see its colour."""
    for place, label in (("users", "Users"), ("databases", "Databases"), ("cas", "CAs")):
        page = admin.get(f"/ui/{place}/")
        assert re.findall(r'aria-current="page">(\w+)<', page.html) == [label]


# ---- The port ------------------------------------------------------------------------------------


def asked_for(port: int) -> list[str] | None:
    """The CAs that the port's TLS names; None where it asks for no certificate."""
    names: list[str] = []
    asked = []
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)

    def told(connection: SSL.Connection, where: int, _: int) -> None:
        state = connection.get_state_string()
        if b"certificate request" in state:
            asked.append(True)

    context.set_info_callback(told)
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        connection = SSL.Connection(context, plain)
        connection.set_connect_state()
        plain.settimeout(None)
        connection.do_handshake()
        names += [name.CN for name in connection.get_client_ca_list()]
    return names if asked else None


def opened(
    config: service.Config, cert: Cert | None, path: str, **sent: str
) -> tuple[int, str, str]:
    """Status, text and cookie of a page on its port, as a browser asks for it."""
    context = ssl.create_default_context(cafile=str(config.home / "ca.crt"))
    if cert:
        context.load_cert_chain(*cert.files)
    connection = http.client.HTTPSConnection(
        "127.0.0.1", config.ui_port, timeout=10, context=context
    )
    cookie = {"Cookie": sent.pop("cookie")} if "cookie" in sent else {}
    form = {"Content-Type": "application/x-www-form-urlencoded", **cookie}
    if sent:
        connection.request("POST", path, urlencode(sent), form)
    else:
        connection.request("GET", path, headers=cookie)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text, (response.headers["Set-Cookie"] or "").partition(";")[0]


def test_the_port_names_the_cas_and_a_certificate_logs_in(tmp_path: Path, pki: Pki) -> None:
    """Of the moment: none before any is trusted, and then no certificate is asked for. The API's
    own port goes on taking what is shown."""
    config = replace(initialised(tmp_path / "control"), ui_port=free_port())
    with service.running(config), Https(config) as api:
        assert asked_for(config.ui_port) is None
        entry = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        assert api("PUT /v1/cluster/update_cert", entry).status == 200
        assert api("PUT /v1/cluster", {"mtls_certificate_authentication": True}).status == 200
        subject = {"auth_method": "certificate", "certificate_subject_line": ALICE}
        assert api("POST /v1/users", {"name": "alice", **subject, "role": "admin"}).status == 200
        ca = re.search(r"CN=([^,]*)", pki.ca.certificate.subject.rfc4514_string())
        assert ca
        wait_until(lambda: asked_for(config.ui_port) == [ca[1]], "the port names the CA")
        assert asked_for(config.port) == []

        status, text, cookie = opened(config, pki.alice, "/ui/")
        assert status == 401
        assert "Log in as alice" in text
        token = re.search(r'name="csrf" value="(.*?)"', text)
        assert token
        sent = {"csrf": token[1], "back": "/ui/users/", "cookie": cookie}
        status, _, cookie = opened(config, pki.alice, "/ui/login", **sent)
        assert status == 303
        status, text, _ = opened(config, pki.alice, "/ui/users/", cookie=cookie)
        assert status == 200
        assert "alice" in text
        assert opened(config, None, "/ui/users/", cookie=cookie)[0] == 401
        assert opened(config, pki.bob, "/ui/users/", cookie=cookie)[0] == 401


def test_without_a_port_there_is_no_page(tmp_path: Path) -> None:
    """It is off unless it is asked for, and never on the API's port."""
    config = initialised(tmp_path / "control")
    assert config.ui_port == 0
    with service.running(config), Https(config) as api:
        assert api("GET /ui/").status == 404


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    """Then nothing is started."""
    config = initialised(tmp_path / "control")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = replace(config, ui_port=taken.getsockname()[1])
        with (
            pytest.raises(service.ServiceError, match=f"127.0.0.1:{config.ui_port}: Address"),
            service.running(config),
        ):
            pass
    with socket.create_server(("127.0.0.1", config.port)):
        pass  # the API's port is free again
