"""control/ui/changes.py, objects.py, cas.py: a change is shown before it is made, and what is made
is what was shown."""

import io
import re
from html import unescape
from typing import Any

import pytest

from control.api.bdbs import BdbBody
from control.api.demands import NOTHING, DemandsBody, rendered
from control.ui import changes, databases, revert
from tests.kit.browser import ALICE, Browser, Page, by_certificate
from tests.kit.rest import ControlPlane
from tests.kit.support import ROOT, Pki, root

BROKEN = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
GRANT = {"role_uid": 4, "redis_acl_uid": 2}


@pytest.fixture(autouse=True)
def nobody_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no servers here to wait for."""
    monkeypatch.setattr(changes, "WAIT", 0)


@pytest.fixture
def orders(api: ControlPlane, pki: Pki) -> Any:
    """A database where alice may read."""
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE, role="db_member")
    return api.database(tls_mode="enabled", roles_permissions=[GRANT])


def edited(browser: Browser, address: str, **fields: Any) -> Page:
    """The form of an object, filled in and sent: the preview, or the form with what is wrong."""
    return browser.send(browser.get(address), address, **fields)


def test_nothing_is_done_before_it_is_agreed_to(
    api: ControlPlane, admin: Browser, orders: Any
) -> None:
    """The preview shows the lines; then exactly they come and go."""
    before, revision = api.lines(), api.store.revision()
    page = edited(admin, "/ui/acls/2", acl="+@read  ~orders:*\n+ping")
    assert page.title == "Change the ACL Read Only?"
    assert "alice has other rights on orders: +@read ~* becomes +@read ~orders:* +ping" in page.text
    assert "No session ends" in page.text
    assert "Policy lines: 1 come, 1 go" in page.text
    assert "Rules +@read ~* +@read ~orders:* +ping" in page.text
    assert "comes: + user alice on +@read ~orders:* +ping" in page.text
    assert (api.lines(), api.store.revision()) == (before, revision)
    page = admin.send(page, "/ui/acls/2")
    assert "The ACL Read Only was changed." in page.text
    (new,) = api.lines() - before
    assert new.startswith("user alice ")
    assert "+ping" in new
    assert api.ok("GET /v1/redis_acls/2")["acl"] == "+@read ~orders:* +ping"


def test_only_what_changed_is_sent(api: ControlPlane, admin: Browser, orders: Any) -> None:
    """So that fields without a place in the form stay, and the log names no other."""
    subjects = [{"CN": "alice", "O": "acme", "OU": ["eng"]}]
    addresses = {"10.0.0.5:6379": "127.0.0.1:6379"}
    api.ok("PUT /v1/bdbs/1", {"authorized_subjects": subjects, "node_addresses": addresses})
    page = edited(admin, "/ui/databases/1", adopt_users="on")
    admin.send(page, "/ui/databases/1")
    now = api.ok("GET /v1/bdbs/1")
    assert now["adopt_users"]
    assert (now["authorized_subjects"], now["node_addresses"]) == (subjects, addresses)
    event = api.ok("GET /v1/logs?type=bdb_updated&order=desc&limit=1")[0]
    assert event["fields"] == ["adopt_users"]
    page = edited(admin, "/ui/databases/1")
    assert (page.status, "the form says what is there already" in page.text) == (400, True)


DEMANDED: dict[str, tuple[tuple[str, Any], ...]] = {
    # field → what is typed, and what it is then
    "max_certificate_lifetime": (("3600", 3600), ("0", 0), ("", None)),
    "required_extended_key_usages": (
        ("clientAuth, 1.2.3", ["1.2.3", "1.3.6.1.5.5.7.3.2"]), ("none", []), ("", None),
    ),
    "required_certificate_policies": (("1.2.3", ["1.2.3"]), ("none", []), ("", None)),
    "min_key_bits": (("3072", 3072), ("0", 0), ("", None)),
    "min_tls_version": (("1.3", "1.3"), ("any", ""), ("cluster", None)),
    "several_names": (("same", "same"), ("refuse", "refuse"), ("cluster", None)),
}  # fmt: skip


def test_what_is_demanded_has_its_fields(
    api: ControlPlane, admin: Browser, orders: dict[str, Any]
) -> None:
    """Each that the API has, with what is nothing apart from what the cluster demands; undone by
    the history; what is wrong stands at its field."""
    assert DEMANDED.keys() == DemandsBody.model_fields.keys()
    for at in range(3):
        page = edited(admin, "/ui/databases/1", **{n: one[at][0] for n, one in DEMANDED.items()})
        page = admin.send(page, "/ui/databases/1")
        assert "was changed." in page.text, page.text
        now = api.ok("GET /v1/bdbs/1")
        assert {name: now[name] for name in DEMANDED} == {n: s[at][1] for n, s in DEMANDED.items()}
    event = api.ok("GET /v1/logs?type=bdb_updated&order=desc&limit=1")[0]
    assert revert.body_of(event, now) == {name: one[1][1] for name, one in DEMANDED.items()}
    page = edited(admin, "/ui/databases/1", min_key_bits="many")
    assert (page.status, "'many' is not a whole number" in page.text) == (400, True)
    new = {"name": "bills", "endpoints": "10.0.0.5:6379"}
    new |= {name: steps[1][0] for name, steps in DEMANDED.items()}
    page = admin.send(edited(admin, "/ui/databases/new", **new), "/ui/databases/new")
    made = api.ok("GET /v1/bdbs")[-1]
    assert {name: made[name] for name in DEMANDED} == {n: s[1][1] for n, s in DEMANDED.items()}


def test_what_the_cluster_demands_has_a_page(
    api: ControlPlane, admin: Browser, orders: dict[str, Any]
) -> None:
    """The same fields; lines come on databases that say nothing. It is undone by the history, and
    what is wrong stands at its field."""
    address, nothing = "/ui/demands/", rendered(NOTHING)
    for at in range(2):
        page = edited(admin, address, **{n: one[at][0] for n, one in DEMANDED.items()})
        assert api.ok("GET /v1/cluster")["min_key_bits"] == (0, 3072)[at]  # shown first
        page = admin.send(page, address)
        assert "The demands were changed." in page.text, page.text
        now = api.ok("GET /v1/cluster")
        assert {name: now[name] for name in DEMANDED} == {n: s[at][1] for n, s in DEMANDED.items()}
        assert ("set min-key-bits 3072" in api.lines()) == (at == 0)
    assert page.text.count("Undo") == 1, page.text  # the other one is undone already
    fields = dict(re.findall(r'name="(csrf|etag|body)" value="([^"]*)"', page.html))
    fields["body"] = unescape(fields["body"])  # the last form of the page
    admin.send(admin.post(address, **fields), address)
    assert api.ok("GET /v1/cluster")["min_key_bits"] == 3072
    page = edited(admin, address, **dict.fromkeys(DEMANDED, ""))
    admin.send(page, address)
    now = api.ok("GET /v1/cluster")
    assert {name: now[name] for name in DEMANDED} == nothing
    page = edited(admin, address, min_key_bits="many")
    assert (page.status, "'many' is not a whole number" in page.text) == (400, True)
    page = edited(admin, address, required_certificate_policies="1.2.x")
    assert (page.status, "required_certificate_policies" in page.text) == (400, True)


def test_a_demand_that_cuts_somebody_off_is_agreed_to(
    api: ControlPlane, admin: Browser, orders: dict[str, Any], pki: Pki
) -> None:
    """As ?force does it: here it is the administrator's own certificate."""
    api.ok("PUT /v1/users/2", {"role": "admin"})
    api.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
    browser = Browser(api, pki.alice)
    assert by_certificate(browser).status == 200
    address = "/ui/demands/"
    page = edited(browser, address, min_key_bits="16384")
    page = browser.send(page, address)
    assert page.status == 406
    assert "your own certificate does not meet these demands: key_too_small" in page.text
    assert api.ok("GET /v1/cluster")["min_key_bits"] == 0
    browser.send(page, address, force="on")
    assert api.ok("GET /v1/cluster")["min_key_bits"] == 16384


def test_who_may_not_change_the_demands_sees_them(api: ControlPlane, admin: Browser) -> None:
    """Without a form, and without a way to send one."""
    api.ok("PUT /v1/cluster", {"min_key_bits": 3072})
    browser = Browser(api)
    browser.log_in(*api.password_user("bob", "cluster_viewer"))
    page = browser.get("/ui/demands/")
    assert ("3072" in page.text, "Review changes" in page.text) == (True, False)
    page = browser.post("/ui/demands/", csrf=page.form("/ui/logout")["csrf"], min_key_bits="0")
    assert (page.status, api.ok("GET /v1/cluster")["min_key_bits"]) == (403, 3072)


def test_what_the_form_of_databases_lacks_is_documented() -> None:
    """What REST can and the page cannot."""
    text = (ROOT / "docs/ui.md").read_text().partition("have no place in the form: ")[2]
    told = set(re.findall(r"`(\w+)`", text.partition(".")[0]))
    shown = {field.name for field in databases.KIND.fields}
    other = {"client_cas", "trust_grows"}  # two spellings of what the form has
    assert BdbBody.model_fields.keys() - shown == told | other


def test_each_kind_is_made_changed_and_removed(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """By forms alone."""
    api.trust(pki.ca)
    forms: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
        "roles": ({"name": "ops", "management": "db_viewer"}, {"name": "dev"}, "/v1/roles"),
        "acls": ({"name": "get", "acl": "+get ~*"}, {"acl": "+get +set ~*"}, "/v1/redis_acls"),
        "users": (
            {"name": "carol", "auth_method": "certificate", "role_uids": ["5", "6"],
             "certificate_subject_line": "CN=carol,O=acme"},
            {"email": "carol@acme.example"},
            "/v1/users",
        ),
        "patterns": (
            {"name": "devices", "kind": "dns", "template": "{id}.iot.acme", "user": "device:{id}",
             "role_uids": ["5"], "from": "10.0.0.0/8, ::1", "session": "8h"},
            {"comment": "of the plant"},
            "/v1/certauth/patterns",
        ),
        "responders": (
            {"name": "theirs", "ca": pki.ca.key_id, "url": "http://ocsp.acme.example/",
             "interval": "600", "stale": "refuse"},
            {"nonce": "on", "stale": "warn"},
            "/v1/certauth/responders",
        ),
        "databases": (
            {"name": "bills", "endpoints": "10.0.0.5:6379\n[::1]:6380 redis.example",
             "tls_mode": "enabled", "roles_permissions": ["4", "", ""],
             "roles_permissions.acl": ["2", "", ""]},
            {"default_user": "on"},
            "/v1/bdbs",
        ),
    }  # fmt: skip
    for place, (first, change, path) in forms.items():
        page = edited(admin, f"/ui/{place}/new", **first)
        assert page.title == f"Add the {page.title.split()[2]} {first['name']}?", page.text
        page = admin.send(page, f"/ui/{place}/new")
        assert "was added." in page.text
        made = api.ok(f"GET {path}")[-1]
        assert made["name"] == first["name"]
        address = f"/ui/{place}/{made['uid']}"
        page = admin.send(edited(admin, address, **change), address)
        assert "was changed." in page.text, page.text
        now = api.ok(f"GET {path}/{made['uid']}")
        for name, value in change.items():
            assert now[name] == (True if value == "on" else value)
        page = admin.send(admin.get(address), f"{address}/remove")
        assert page.title.startswith("Remove the ")
        page = admin.send(page, f"{address}/remove", confirm=first["name"])
        assert "was removed." in page.text
    (database,) = api.ok("GET /v1/bdbs")
    assert database["endpoints"][1]["addr"] == ["::1"]
    assert database["endpoints"][1]["dns_name"] == "redis.example"
    assert database["roles_permissions"] == [GRANT]
    assert database["status"] == "delete-pending"


def test_a_new_users_password_is_asked_for_last(api: ControlPlane, admin: Browser) -> None:
    """It stands in no page, and what the rules say against it is said there."""
    api.ok("PUT /v1/cluster", {"password_complexity": True})
    page = edited(admin, "/ui/users/new", name="bob", auth_method="regular", role_uids=["6"])
    page = admin.send(page, "/ui/users/new", password="short")
    assert page.status == 400
    assert "it needs at least 8 characters" in page.text
    assert "short" not in page.html
    page = admin.send(page, "/ui/users/new", password="A long 1 password")
    assert "The user bob was added." in page.text
    assert Browser(api, app=admin.app).log_in("bob", "A long 1 password").status == 200
    page = admin.get("/ui/users/2")
    page = admin.send(page, "/ui/users/2/password", new_password="Another 1 password")
    assert "The user bob has a new password." in page.text
    assert Browser(api, app=admin.app).log_in("bob", "Another 1 password").status == 200


def test_the_page_asks_for_a_role(api: ControlPlane, admin: Browser) -> None:
    """Of a new user, and of one that has none; what was typed is still there, and nobody is made or
    changed."""
    form = {"name": "bob", "auth_method": "certificate", "certificate_subject_line": "CN=bob"}
    page = edited(admin, "/ui/users/new", **form)
    assert (page.status, "choose at least one" in page.text) == (400, True)
    assert 'value="CN=bob"' in page.html
    assert len(api.ok("GET /v1/users")) == 1
    api.certificate_user("bob", "CN=bob")
    page = admin.get("/ui/users/2")
    assert "no role: no rights on any database" in page.text
    page = edited(admin, "/ui/users/2", email="bob@acme.example")
    assert (page.status, "choose at least one" in page.text) == (400, True)
    assert api.ok("GET /v1/users/2")["email"] == ""
    page = edited(admin, "/ui/users/2", role_uids=["6"])
    admin.send(page, "/ui/users/2")
    assert api.ok("GET /v1/users/2")["role_uids"] == [6]


URI = "uri spiffe://acme/cart"


def test_identities_are_lines_of_a_form(api: ControlPlane, admin: Browser) -> None:
    """Beside the subject, which is one of them; all that a form does not say goes."""
    page = edited(
        admin, "/ui/users/new", name="cart", auth_method="certificate", role_uids=["6"],
        certificate_identities=f"{URI} session=8h\r\n\r\nCN=John Doe, O=acme from=10.0.0.0/8",
    )  # fmt: skip
    page = admin.send(page, "/ui/users/new")
    none = "no known certificates"
    assert f"Identities {URI} session=8h {none} subject CN=John Doe,O=acme from=" in page.text
    both = api.ok("GET /v1/users/2")["certificate_identities"]
    assert both[0] == {"uri": "spiffe://acme/cart", "session": "8h"}
    assert both[1] == {"subject": "CN=John Doe,O=acme", "from": ["10.0.0.0/8"]}
    for typed, told in (
        ({"certificate_subject_line": "CN=cart"}, [{"subject": "CN=cart"}, *both]),
        ({"email": "cart@acme.example"}, [{"subject": "CN=cart"}, *both]),
        ({"certificate_identities": "dns a.acme"}, [{"subject": "CN=cart"}, {"dns": "a.acme"}]),
        ({"certificate_subject_line": ""}, [{"dns": "a.acme"}]),
        ({"certificate_subject_line": "CN=b", "certificate_identities": ""}, [{"subject": "CN=b"}]),
    ):
        page = edited(admin, "/ui/users/2", **typed)
        assert page.title == "Change the user cart?", page.text
        admin.send(page, "/ui/users/2")
        assert api.ok("GET /v1/users/2")["certificate_identities"] == told
    assert "CN=b" in admin.get("/ui/users/").text


def test_a_user_begins_with_a_certificate(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """The form shows what it holds, and nothing is taken that nobody chose; what was typed stays.
    A later form adds what is chosen then."""
    leaf = pki.ca.issue("CN=pod,O=acme", san=("uri:urn:pod", "dns:a.acme", "dns:b.acme"))
    form = {"name": "cart", "auth_method": "certificate", "role_uids": ["6"]}
    pem = leaf.pem.decode()
    page = edited(admin, "/ui/users/new", **form, certificate=pem, more="on")
    assert page.status == 200
    for line in ("subject CN=pod,O=acme", "uri urn:pod", f"key {leaf.key_id}",
                 "dns a.acme (several of a kind"):  # fmt: skip
        assert line in page.text
    sent = page.form("/ui/users/new")
    assert (sent["name"], "certificate.by" in sent) == (["cart"], False)
    page = admin.send(page, "/ui/users/new", **{"certificate.by": ["uri urn:pod"]})
    assert page.title == "Add the user cart?", page.text
    admin.send(page, "/ui/users/new")
    assert api.ok("GET /v1/users/2")["certificate_identities"] == [{"uri": "urn:pod"}]
    page = edited(admin, "/ui/users/2", certificate=pem, more="on")
    by = [f"key {leaf.key_id}", "uri urn:pod"]
    page = admin.send(page, "/ui/users/2", **{"certificate.by": by})
    admin.send(page, "/ui/users/2")
    both = [{"uri": "urn:pod"}, {"key": leaf.key_id}]
    assert api.ok("GET /v1/users/2")["certificate_identities"] == both


def test_a_file_shows_what_it_holds_without_scripts(admin: Browser, pki: Pki) -> None:
    """PEM or DER; what is not a certificate, and what logs nobody in, is said at its field."""
    sick = pki.ca.issue("CN=a", san=[f"uri:urn:{'x' * 500}{n}" for n in range(200)])
    for content, told in (
        (pki.alice.pem, "cn alice"), (pki.alice.der, "cn alice"), (b"x", "no certificate"),
        (sick.pem, "it logs nobody in"),
    ):  # fmt: skip
        form = admin.get("/ui/users/new").form("/ui/users/new")
        data = {**form, "more": "on", "file": (io.BytesIO(content), "leaf")}
        page = admin.post("/ui/users/new", **data)
        assert (page.status, told in page.text) == (200, True), page.text


def test_a_pin_comes_by_the_form_of_its_database(api: ControlPlane, admin: Browser) -> None:
    """A certificate that says CA:TRUE is a client's own where its SHA-256 is named, however that is
    written; one that is not there is said at its field."""
    alone = root("CN=device")
    api.database()
    typed = {"authentication_ssl_client_certs": alone.pem.decode()}
    wrong = edited(admin, "/ui/databases/1", **typed, pinned_certificates="ab" * 32)
    assert '<a href="#pinned_certificates">' in wrong.html, wrong.text
    colons = ":".join(re.findall("..", alone.fingerprint.upper()))
    page = edited(admin, "/ui/databases/1", **typed, pinned_certificates=colons)
    assert "+ pin " in page.text
    assert "the certificate 'CN=device' (signed by itself" in page.text
    admin.send(page, "/ui/databases/1", confirm="orders")
    assert api.ok("GET /v1/bdbs/1")["pinned_certificates"] == [alone.fingerprint]
    assert "CN=device" in admin.get("/ui/cas/").text


def test_a_wrong_identity_stands_at_its_field(api: ControlPlane, admin: Browser) -> None:
    """With its line; one that somebody else has too; and what was typed stays."""
    other = {"name": "a", "auth_method": "certificate", "role": "none"}
    taken = [{"uri": "spiffe://acme/cart"}]
    api.ok("POST /v1/users", {**other, "certificate_identities": taken})
    form = {"name": "x", "auth_method": "certificate", "role_uids": ["6"]}
    for typed, why in (
        (f"{URI}x\nuri", "line 2: uri: a value is missing"),
        ("key ab", "64 hex digits"),
        (URI, "user 'a' has the identity"),
        ("dns a.acme ca=nobody", "no trusted CA is called 'nobody'"),
    ):
        page = edited(admin, "/ui/users/new", **form, certificate_identities=typed)
        assert page.status in (400, 409), page.text
        assert '<a href="#certificate_identities">' in page.html, page.text
        assert why in page.text
        sent = page.form("/ui/users/new")["certificate_identities"]
        assert "".join(sent).strip() == typed
    assert len(api.ok("GET /v1/users")) == 2


def test_of_two_editors_the_second_is_told(api: ControlPlane, admin: Browser, orders: Any) -> None:
    """While the form was open, or the preview: nothing of theirs is overwritten."""
    form = admin.get("/ui/acls/2")
    api.ok("PUT /v1/redis_acls/2", {"acl": "+get ~*"})
    page = admin.send(form, "/ui/acls/2", acl="+set ~*")
    assert page.status == 409
    assert "somebody else has changed this" in page.text
    page = edited(admin, "/ui/acls/2", acl="+set ~*")
    assert page.status == 200
    api.ok("PUT /v1/redis_acls/2", {"acl": "+ping ~*"})
    page = admin.send(page, "/ui/acls/2")
    assert (page.status, "somebody else has changed this" in page.text) == (409, True)
    assert api.ok("GET /v1/redis_acls/2")["acl"] == "+ping ~*"


def test_what_would_be_something_else_by_now_is_shown_again(
    api: ControlPlane, admin: Browser, orders: Any
) -> None:
    """The object is as it was, and what the change does to policies is not."""
    page = edited(admin, "/ui/users/2", role_uids=["6"])
    assert "Policy lines: 0 come, 2 go" in page.text
    api.ok("PUT /v1/redis_acls/2", {"acl": "+get ~*"})
    page = admin.send(page, "/ui/users/2")
    assert page.status == 409
    assert "The effect of this change is different now" in page.text
    assert api.ok("GET /v1/users/2")["role_uids"] == [4]
    page = admin.send(page, "/ui/users/2")
    assert "The user alice was changed." in page.text
    assert api.ok("GET /v1/users/2")["role_uids"] == [6]


def test_a_preview_that_was_not_seen_agrees_to_nothing(
    api: ControlPlane, admin: Browser, orders: Any
) -> None:
    """Another body, or a digest of somebody's own, is shown first."""
    page = edited(admin, "/ui/acls/2", acl="+set ~*")
    for changed in ({"body": '{"acl": "+@all ~*"}'}, {"digest": "0" * 64}, {"digest": ""}):
        answer = admin.send(page, "/ui/acls/2", **changed)
        assert (answer.status, answer.title) == (409, "Change the ACL Read Only?")
    assert api.ok("GET /v1/redis_acls/2")["acl"] == "+@read ~*"
    for nonsense in ("x", "[]", '"x"'):
        assert admin.send(page, "/ui/acls/2", body=nonsense).status in (400, 409)


def test_what_is_wrong_stands_at_its_field(api: ControlPlane, admin: Browser) -> None:
    """And in a summary that leads there; what was typed stays."""
    cases: list[tuple[str, dict[str, Any], str, str]] = [
        ("roles/new", {"name": "a<b"}, "name", "string should match"),
        ("roles/new", {"name": "Admin"}, "name", "another role has the name"),
        ("acls/new", {"name": "x", "acl": "+nosuch*"}, "acl", ""),
        ("users/new", {"name": "x", "auth_method": "certificate",
                       "certificate_subject_line": "CN", "role_uids": ["6"]},
         "certificate_subject_line", ""),
        ("users/new", {"name": "x", "auth_method": "regular", "email": "x", "role_uids": ["6"]},
         "email", "pattern"),
        ("databases/new", {"name": "x", "endpoints": "x"}, "endpoints", "is not a HOST:PORT"),
        ("databases/new", {"name": "x", "endpoints": "x:1", "tls_server_ca": "x"}, "", ""),
    ]  # fmt: skip
    for place, fields, name, text in cases:
        page = edited(admin, f"/ui/{place}", **fields)
        assert page.status in (400, 406, 409), fields
        assert text in page.text
        assert 'role="alert"' in page.html
        if name:
            assert f'<a href="#{name}">' in page.html, page.text
            assert f'id="wrong-{name}"' in page.html
            assert f'wrong-{name}" aria-invalid="true"' in page.html
        form = page.form(f"/ui/{place}")
        assert form["name"] == [fields["name"]]


# ---- CAs -----------------------------------------------------------------------------------------


def test_a_ca_comes_and_goes(api: ControlPlane, admin: Browser, pki: Pki, orders: Any) -> None:
    """Beside those that are there; each with the lines that it costs."""
    new = root("CN=New CA")
    page = admin.send(admin.get("/ui/cas/"), "/ui/cas/add", pem=new.pem.decode())
    assert page.title == "Trust New CA?"
    colons = ":".join(re.findall("..", new.fingerprint.upper()))
    for told in (
        "Policy lines: 1 come, 0 go",
        f"SHA-256 of the certificate {colons}",
        "Issued by itself",
        "Every certificate from the CA 'CN=New CA' (signed by itself",
    ):
        assert told in page.text
    page = admin.send(page, "/ui/cas/add", confirm="new ca")
    assert (page.status, "type 'New CA' to agree to this" in page.text) == (400, True)
    page = admin.send(page, "/ui/cas/add", confirm="New CA")
    assert "More CAs are trusted." in page.text
    assert "CN=New CA" in page.text
    assert "CN=Root CA,O=acme" in page.text
    page = admin.send(page, f"/ui/cas/{new.key_id}/remove")
    assert "Policy lines: 0 come, 1 go" in page.text
    page = admin.send(page, f"/ui/cas/{new.key_id}/remove")
    assert "is trusted no more." in page.text
    assert "CN=New CA" not in page.text.split("is trusted no more.")[1]


def test_an_intermediate_goes_and_its_root_stays_what_it_was(
    api: ControlPlane, admin: Browser, pki: Pki
) -> None:
    """Only above others: the button takes one CA away, and gives nobody anything."""
    stolen = pki.ca.authority("CN=Stolen")
    api.trust(stolen, pki.ca)
    api.database()
    address = f"/ui/cas/{stolen.key_id}/remove"
    page = admin.send(admin.get("/ui/cas/"), address)
    assert "Policy lines: 1 come, 1 go" in page.text
    page = admin.send(page, address)
    assert "is trusted no more." in page.text
    assert f"refused even if a client sends it: {stolen.key_id}" in page.text
    (left,) = api.ok("GET /v1/certauth/ca")["cas"]
    assert (left["ca"], left["admits"], left["anchors"]) == (pki.ca.key_id, [], [0, 1])


def test_a_ca_that_is_needed_goes_by_force_only(
    api: ControlPlane, admin: Browser, pki: Pki, orders: Any
) -> None:
    """And it is said whom that cuts off."""
    assert by_certificate(Browser(api, pki.alice)).status == 200
    api.ok("PUT /v1/bdbs/1", {"enforce_client_authentication": "disabled"})
    address = f"/ui/cas/{pki.ca.key_id}/remove"
    page = admin.send(admin.get("/ui/cas/"), address)
    page = admin.send(page, address)
    assert page.status == 406
    assert "still in use, by alice" in page.text
    page = admin.send(page, address, force="on")
    assert "is trusted no more." in page.text


@pytest.mark.parametrize("pem", ["", "x", BROKEN])
def test_no_ca_is_said_at_its_field(admin: Browser, pem: str) -> None:
    """Nothing changes."""
    page = admin.send(admin.get("/ui/cas/"), "/ui/cas/add", pem=pem)
    assert page.status == 400
    assert '<a href="#certificate">' in page.html


# ---- Lists ---------------------------------------------------------------------------------------


def test_lists_are_searched_and_paged(api: ControlPlane, admin: Browser) -> None:
    """Fifty at a time; a search is in any case, and its signs mean themselves."""
    for number in range(60):
        api.ok("POST /v1/roles", {"name": f"Role {number:02}"})
    page = admin.get("/ui/roles/")
    assert page.html.count('<th scope="row">') == 50
    assert 'rel="next" href="/ui/roles/?offset=50"' in page.html
    page = admin.get("/ui/roles/?offset=50")
    assert page.html.count('<th scope="row">') == 17
    assert 'rel="next"' not in page.html
    page = admin.get("/ui/roles/?search=role+1")
    assert page.html.count('<th scope="row">') == 10
    assert admin.get("/ui/roles/?search=%25").text.count("Nothing here is called that.") == 1
    for nonsense in ("-1", "x", "9" * 20, "٣"):
        assert admin.get(f"/ui/roles/?offset={nonsense}").status == 200
