"""control/ui/settings.py and profiles.py: what the API can, the page can."""

import re

import pytest

from control.api.cluster import ClusterBody, PolicyBody
from control.api.demands import DemandsBody
from control.api.issuing import ProfileBody
from control.ui import changes, profiles, settings
from tests.kit.browser import Browser
from tests.kit.rest import ControlPlane
from tests.kit.support import ROOT


@pytest.fixture(autouse=True)
def nobody_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no servers here to wait for."""
    monkeypatch.setattr(changes, "WAIT", 0)


def test_settings_are_changed_like_anything_else(api: ControlPlane, admin: Browser) -> None:
    """Shown first, each as it is and will be; only what was changed is sent."""
    address = "/ui/settings/logins"
    page = admin.get("/ui/settings/")
    sent = {"password_complexity": "on", "password_min_length": "12", "log_retention": "30"}
    page = admin.send(page, address, **sent)
    assert page.title == "Change the settings: Logging in?"
    assert "Least length of passwords 8 12" in page.text
    assert "Oldest TLS version" not in page.text
    assert api.ok("GET /v1/cluster")["log_retention"] == 400
    page = admin.send(page, address)
    assert "The settings were changed." in page.text
    now = api.ok("GET /v1/cluster")
    assert (now["password_complexity"], now["password_min_length"], now["log_retention"]) == (
        True, 12, 30
    )  # fmt: skip
    event = api.ok("GET /v1/logs?type=cluster_updated&order=desc&limit=1")[0]
    assert set(event["fields"]) == sent.keys()
    sent = {"acl_pubsub_default": "allchannels", "login_lockout_duration": "60"}
    page = admin.send(admin.get("/ui/settings/"), "/ui/settings/lockout", **sent)
    assert "Channels of an ACL that names none none all" in page.text
    admin.send(page, "/ui/settings/lockout", confirm="settings")
    policy = api.ok("GET /v1/cluster/policy")
    assert (policy["acl_pubsub_default"], policy["login_lockout_duration"]) == ("allchannels", 60)


def test_what_is_wrong_stands_at_its_field(api: ControlPlane, admin: Browser) -> None:
    """With what was typed; a setting by which nobody could log in any more is refused."""
    for name, value, said in (
        ("password_min_length", "many", "'many' is not a whole number"),
        ("password_min_length", "3", "greater than or equal to 8"),
        ("password_min_length", "", "valid integer"), ("log_retention", "0", "equal to 1"),
    ):  # fmt: skip
        page = admin.send(admin.get("/ui/settings/"), "/ui/settings/logins", **{name: value})
        assert page.status == 400
        wrong = re.search(rf'id="wrong-{name}">([^<]*)<', page.html)
        assert wrong, page.text
        assert said in wrong[1].replace("&#39;", "'")
        assert f'name="{name}" value="{value}"' in page.html
    fields = {**admin.get("/ui/settings/").form("/ui/settings/logins")}
    del fields["control_plane_basic_authentication"]
    page = admin.post("/ui/settings/logins", **fields)
    assert (page.status, api.ok("GET /v1/cluster")["control_plane_basic_authentication"]) == (
        406, True
    )  # fmt: skip
    assert admin.send(admin.get("/ui/settings/"), "/ui/settings/logins").status == 400


def test_who_may_only_look_sees_no_form(api: ControlPlane, admin: Browser) -> None:
    viewer = Browser(api, app=admin.app)
    viewer.log_in(*api.password_user("carl", "cluster_viewer"))
    page = viewer.get("/ui/settings/")
    assert "Log in here by password yes" in page.text
    assert 'action="/ui/settings/' not in page.html
    token = page.form("/ui/logout")["csrf"][0]
    sent = viewer.post("/ui/settings/lockout", csrf=token, login_lockout_threshold="1")
    assert sent.status == 403
    assert 'href="/ui/profiles/new"' not in viewer.get("/ui/profiles/").html
    assert viewer.get("/ui/profiles/new").status == 403


def test_a_profile_is_made_changed_and_removed(api: ControlPlane, admin: Browser) -> None:
    new = "/ui/profiles/new"
    sent = {"name": "pods", "lifetime": "7200", "sans": "uri:spiffe://acme/{name}\ndns:{name}.acme"}
    page = admin.send(admin.get(new), new, key_usage=["key_agreement"], role_uids=["4"], **sent)
    assert page.title == "Add the profile pods?"
    page = admin.send(page, new)
    made = api.ok("GET /v1/certauth/profiles?name=pods")[0]
    assert made == {
        "uid": made["uid"], "name": "pods", "lifetime": 7200, "subject": "",
        "sans": ["uri:spiffe://acme/{name}", "dns:{name}.acme"], "key_usage": ["key_agreement"],
        "role_uids": [4],
    }  # fmt: skip
    one = f"/ui/profiles/{made['uid']}"
    assert "2 hours" in admin.get("/ui/profiles/?search=po").text
    page = admin.send(admin.get(one), one, lifetime="86400")
    assert "Lifetime 7200 86400" in page.text
    assert "was changed." in admin.send(page, one).text
    assert api.ok(f"GET /v1/certauth/profiles/{made['uid']}") == {**made, "lifetime": 86400}
    for name, value in (("lifetime", "5"), ("subject", "CN={nobody}"), ("sans", "x:y")):
        page = admin.send(admin.get(one), one, **{name: value})
        assert (page.status, f'id="wrong-{name}"' in page.html) == (400, True), (name, page.text)
    page = admin.send(admin.get(one), f"{one}/remove")
    assert "was removed." in admin.send(page, f"{one}/remove").text
    assert api(f"GET /v1/certauth/profiles/{made['uid']}").status == 404


def test_what_the_api_can_the_page_can() -> None:
    """Each field of these calls has its place in a form, or is named in docs/ui.md."""
    demands = {*DemandsBody.model_fields, "min_data_TLS_version"}  # a page of their own
    fields = {name for one in settings.PARTS.values() for name in one.labels}
    known = {*ClusterBody.model_fields, *PolicyBody.model_fields} - demands
    assert known - fields == set(settings.ELSEWHERE)
    assert fields <= known
    text = (ROOT / "docs/ui.md").read_text()
    assert all(f"`{name}`" in text for name in settings.ELSEWHERE)
    assert set(profiles.KIND.labels) == ProfileBody.model_fields.keys()
