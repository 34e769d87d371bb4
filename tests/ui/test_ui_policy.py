"""control/ui/policy.py: the policy of a database is read on the page, in pages."""

import re
from typing import Any

from control.ui import policy
from tests.kit.browser import ALICE, Browser
from tests.kit.rest import ControlPlane
from tests.kit.support import ROOT, Pki

POLICY = "/ui/databases/1/policy"


def filled(api: ControlPlane, pki: Pki, users: int = 60) -> None:
    api.trust(pki.ca)
    api.certificate_user("alice", ALICE, role_uids=[4])
    made = [{"name": f"u{n}", "auth_method": "certificate", "role_uids": [4],
             "certificate_subject_line": f"CN=u{n},O=acme"} for n in range(users)]  # fmt: skip
    api.ok("POST /v1/certauth/bulk", {"users": made})
    api.database(tls_mode="enabled", roles_permissions=[{"role_uid": 4, "redis_acl_uid": 2}])
    api.ok("POST /v1/certauth/revocations", {"ca": pki.ca.key_id, "serial": "0a"})
    api.ok("POST /v1/certauth/locks", {"user": "u7", "reason": "lost"})


def test_each_line_is_read_with_what_it_means_and_whose_it_is(
    api: ControlPlane, admin: Browser, pki: Pki
) -> None:
    """From the page of its database; a CA by its name and not by its bytes."""
    filled(api, pki)
    database = admin.get("/ui/databases/1")
    assert f'href="{POLICY}"' in database.html
    page = admin.get(POLICY)
    ca = pki.ca.certificate.subject.rfc4514_string()
    assert f"ca … {ca} {policy.MEANINGS['ca']} CAs" in page.text
    assert f'href="/ui/cas/{pki.ca.key_id}"' in page.html
    assert f"lock user u7 {policy.MEANINGS['lock']} locks" in page.text
    assert f"set enforce on {policy.SETTINGS['enforce']} this database" in page.text
    page = admin.get(f"{POLICY}?search=cn%3dalice")
    assert f"bind subject {ALICE} alice {policy.MEANINGS['bind']} alice" in page.text
    assert f'href="/ui/users/{api.ok("GET /v1/users?name=alice")[0]["uid"]}"' in page.html
    assert page.html.count('<th scope="row">') == 1
    page = admin.get(f"{POLICY}?owner=revocations")
    assert f"revoke serial {pki.ca.key_id} 0a" in page.text
    assert "No line holds that." in admin.get(f"{POLICY}?search=nobody").text
    assert "127.0.0.1:6380 does not hold this generation yet" in page.text


def test_a_large_one_is_never_shown_whole(api: ControlPlane, admin: Browser, pki: Pki) -> None:
    """Fifty lines a page; its pages together are all of it."""
    filled(api, pki)
    seen: list[str] = []
    for offset in range(0, 200, policy.PAGE):
        page = admin.get(f"{POLICY}?offset={offset}")
        rows = re.findall(r'<th scope="row"><code>(.*?)</code>', page.html)
        assert len(rows) <= policy.PAGE
        assert (f"of {len(api.lines())}" in page.text) == bool(rows)
        seen += rows
    assert len(seen) == len(api.lines()) > 2 * policy.PAGE


def test_who_may_not_see_users_gets_no_link_to_them(
    api: ControlPlane, admin: Browser, pki: Pki
) -> None:
    """And who may not explain certificates sees no policy, nor a link to it."""
    filled(api, pki, 1)

    def seen_by(role: str, address: str) -> Any:
        browser = Browser(api)
        browser.log_in(*api.password_user(role, role))
        return browser.get(address)

    page = seen_by("db_member", f"{POLICY}?owner=user")
    assert ("bind subject" in page.text, 'href="/ui/users/' in page.html) == (True, False)
    page = seen_by("cluster_viewer", "/ui/databases/1")
    assert (page.status, POLICY in page.html) == (200, False)
    assert seen_by("db_viewer", POLICY).status == 403


def test_every_kind_of_line_is_explained() -> None:
    """Those that the core reads, and the settings of docs/policy.md."""
    types = (ROOT / "module/core/line.c").read_text().partition("} TYPES[LINE_TYPES] = {")[2]
    read = set(re.findall(r'= \{"(\w+)", read_', types.partition("};")[0]))
    assert set(policy.MEANINGS) == read
    table = (ROOT / "docs/policy.md").read_text().partition("### `set`")[2].partition("####")[0]
    assert set(policy.SETTINGS) == set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE))
