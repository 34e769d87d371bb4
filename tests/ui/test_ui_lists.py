"""control/ui/lists.py, chosen.py: lists are sorted, tell times, and several users are changed at
once."""

import re
from html import unescape
from typing import Any

import pytest

from control.ui import changes, chosen, lists
from control.ui.app import create_ui
from tests.kit.browser import Browser, Page
from tests.kit.rest import ControlPlane, peer_cert

DAY = 86_400


@pytest.fixture(autouse=True)
def nobody_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no servers here to wait for."""
    monkeypatch.setattr(changes, "WAIT", 0)


@pytest.fixture
def people(api: ControlPlane) -> list[int]:
    """Their uids: zoe, bob and eve may read the database orders, eve is a DB Viewer too."""
    made = [{"name": name, "auth_method": "certificate", "certificate_subject_line": f"CN={name}",
             "role_uids": [4, 5] if name == "eve" else [4]}
            for name in ("zoe", "bob", "eve")]  # fmt: skip
    found = api.ok("POST /v1/certauth/bulk", {"users": made})["users"]
    grant = {"role_uid": 4, "redis_acl_uid": 2}
    api.database(tls_mode="disabled", roles_permissions=[grant])
    return [one["uid"] for one in found]


def rows(page: Page) -> list[str]:
    """The names of a list, in its order."""
    return re.findall(r'<th scope="row"><a [^>]*>(?:<code>)?(.*?)<', page.html)


def links(page: Page) -> dict[str, str]:
    """The heads by which a list is sorted."""
    found = re.findall(r'<th scope="col"[^>]*><a href="([^"]*)">(.*?)</a>', page.html)
    return {label: unescape(address) for address, label in found}


def test_a_head_sorts_its_list_and_turns_it(
    api: ControlPlane, admin: Browser, people: list[int]
) -> None:
    """With what it is filtered by, on its pages, and in its file; the head says so to a reader of
    the screen."""
    page = admin.get("/ui/users/?role_uid=4")
    assert links(page).keys() == {"Name", "Logs in", "Last login"}
    assert "aria-sort" not in page.html
    page = admin.get(links(page)["Name"])
    assert (rows(page), 'aria-sort="ascending"' in page.html) == (["bob", "eve", "zoe"], True)
    page = admin.get(links(page)["Name"])
    assert (rows(page), 'aria-sort="descending"' in page.html) == (["zoe", "eve", "bob"], True)
    file = re.search(r'href="([^"]*export.csv[^"]*)"', page.html)
    assert file
    text = admin.get(unescape(file[1])).html
    assert [line.partition(",")[0] for line in text.splitlines()] == ["Name", "zoe", "eve", "bob"]
    for wrong in ("passwords", "email", "--name", "name desc"):
        assert admin.get(f"/ui/users/?sort={wrong}").status == 200  # as without


def test_each_head_that_is_offered_sorts(admin: Browser, people: list[int]) -> None:
    """Of every list: what the page offers, the API takes, either way."""
    offered = 0
    for place in ("users", "roles", "acls", "databases", "patterns", "certificates"):
        page = admin.get(f"/ui/{place}/")
        names = {address.partition("sort=")[2] for address in links(page).values()}
        for name in names:
            for sort in (name, f"-{name}"):
                assert admin.get(f"/ui/{place}/?sort={sort}").status == 200, (place, sort)
        offered += len(names)
    assert offered >= 6


def test_a_time_is_told_as_people_do_and_exactly(api: ControlPlane, admin: Browser) -> None:
    """What one reads, and what stands behind it."""
    now = 1_800_000_000
    for away, told in (
        (0, "just now"), (30, "in a moment"), (-119, "just now"), (-120, "2 minutes ago"),
        (7200, "in 2 hours"), (-47 * 3600, "47 hours ago"), (20 * DAY, "in 20 days"),
        (-100 * DAY, "3 months ago"), (800 * DAY, "in 2 years"),
    ):  # fmt: skip
        assert lists.ago(now + away, now) == told
    assert lists.ago("2027-01-15T08:00:00Z", now) == "just now"
    assert lists.ago("-62167219200 seconds since 1970") == "-62167219200 seconds since 1970"
    page = admin.get("/ui/users/")
    found = re.search(r'<time datetime="([^"]*)" title="([^"]*) UTC">just now</time>', page.html)
    assert found
    assert found[1] == found[2].replace(" ", "T") + "Z"


def picked(browser: Browser, action: str, *uids: int, **fields: Any) -> Page:
    """The preview for users who were chosen in the list."""
    page = browser.get("/ui/users/")
    sent = {"uid": [str(uid) for uid in uids], "do": action, **fields}
    return browser.send(page, "/ui/users/chosen", **sent)


def roles_of(api: ControlPlane, uids: list[int]) -> list[list[int]]:
    return [api.ok(f"GET /v1/users/{uid}")["role_uids"] for uid in uids]


def test_a_role_is_added_to_and_removed_from_several(
    api: ControlPlane, admin: Browser, people: list[int]
) -> None:
    """By one preview and one confirmation, which says who loses what; who has the role already, or
    is not chosen, is left alone."""
    page = picked(admin, "add-5", *people)
    assert page.title == "Add the role DB Viewer: 2 users?"
    assert "Users zoe, bob" in page.text
    assert roles_of(api, people) == [[4], [4], [4, 5]]
    page = admin.send(page, "/ui/users/chosen")
    assert "Add the role DB Viewer: done for 2 users." in page.text
    assert roles_of(api, people) == [[4, 5]] * 3
    page = picked(admin, "remove-4", *people[:2])
    assert 'class="danger"' in page.html
    assert (
        "Remove the role DB Member: done for 2 users." in admin.send(page, "/ui/users/chosen").text
    )
    assert roles_of(api, people) == [[5], [5], [4, 5]]
    page = picked(admin, "add-5", *people)
    assert "Add the role DB Viewer: nothing to do for those that were chosen." in page.text


def test_several_are_deleted_at_once(api: ControlPlane, admin: Browser, people: list[int]) -> None:
    """One of them that is gone meanwhile stops nothing; the last administrator stays."""
    page = picked(admin, "delete", *people[:2], 999)
    assert page.title == "Delete: 2 users?"
    assert len(api.ok("GET /v1/users")) == 4
    assert "Delete: done for 2 users." in admin.send(page, "/ui/users/chosen").text
    assert [one["name"] for one in api.ok("GET /v1/users")] == ["admin", "eve"]
    page = picked(admin, "delete", 1, people[2])
    assert page.status >= 400
    assert [one["name"] for one in api.ok("GET /v1/users")] == ["admin", "eve"]


def test_what_changed_meanwhile_is_shown_again(
    api: ControlPlane, admin: Browser, people: list[int]
) -> None:
    """Somebody gave one of them another role: it is not lost, and is agreed to first."""
    page = picked(admin, "add-5", *people[:2])
    api.ok(f"PUT /v1/users/{people[0]}", {"role_uids": [4, 3]})
    page = admin.send(page, "/ui/users/chosen")
    assert (page.status, "Review it again" in page.text) == (409, True)
    assert [sorted(one) for one in roles_of(api, people[:2])] == [[3, 4], [4]]
    admin.send(page, "/ui/users/chosen")
    assert [sorted(one) for one in roles_of(api, people[:2])] == [[3, 4, 5], [4, 5]]


def test_one_that_is_refused_takes_the_others_back(
    api: ControlPlane, admin: Browser, people: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of roles. What was deleted stays so, and the page says how many were."""
    page, real = picked(admin, "add-5", *people[:2]), changes.make_last

    def fails(*args: Any) -> Any:
        raise changes.conflict("config_edit_conflict", "somebody was faster")

    monkeypatch.setattr(changes, "make_last", fails)
    page = admin.send(page, "/ui/users/chosen")
    assert (page.status, "somebody was faster" in page.text) == (409, True)
    assert roles_of(api, people) == [[4], [4], [4, 5]]
    page = admin.send(picked(admin, "delete", *people[:2]), "/ui/users/chosen")
    assert "somebody was faster: 1 of 2 were done before that" in page.text
    monkeypatch.setattr(changes, "make_last", real)
    assert [one["name"] for one in api.ok("GET /v1/users")] == ["admin", "bob", "eve"]


def test_what_is_sent_of_several_is_checked(
    api: ControlPlane, admin: Browser, people: list[int]
) -> None:
    """No user, too many, no action, an action that there is not, a role that there is not; and who
    may not change users is offered nothing, and refused."""
    for action, uids, said in (
        ("delete", (), "choose from 1 to 200 users"),
        ("delete", tuple(range(1, 1 + chosen.MOST + 1)), "choose from 1 to 200 users"),
        ("", people, "choose what is to be done"), ("drop-4", people, "choose what is to be done"),
        ("add-x", people, "choose what is to be done"), ("add-99", people, "role 99"),
    ):  # fmt: skip
        page = picked(admin, action, *uids)
        assert (page.status in (400, 404), said in page.text) == (True, True), (action, page.text)
    viewer = Browser(api, app=create_ui(api.app, peer_cert))
    viewer.log_in(*api.password_user("carl", "cluster_viewer"))
    token = viewer.get("/ui/").form("/ui/logout")["csrf"][0]
    sent = {"csrf": token, "uid": str(people[0]), "do": "delete"}
    assert viewer.post("/ui/users/chosen", **sent).status == 403
    assert len(api.ok("GET /v1/users")) == 5
