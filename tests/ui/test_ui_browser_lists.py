"""The lists of the web page in a real browser: columns, sorting on a phone, times, several users at
once."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, expect

from tests.kit.chromium import Site
from tests.kit.driver import chromium, open_page

pytestmark = pytest.mark.slow
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as made:
        yield made


@pytest.fixture
def context(browser: Chromium, visited: Site) -> Iterator[BrowserContext]:
    """Alice's, in another time zone than the servers'."""
    crt, key = visited.pki.alice.files
    made = browser.new_context(
        ignore_https_errors=True, base_url=visited.base, timezone_id="Asia/Tokyo", locale="en-GB",
        client_certificates=[{"origin": visited.base, "certPath": crt, "keyPath": key}],
    )  # fmt: skip
    made.set_default_timeout(20_000)
    yield made
    made.close()


def logged_in(context: BrowserContext) -> Page:
    page = context.new_page()
    open_page(page, "/ui/")
    page.get_by_role("button", name="Log in as alice").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    return page


def test_a_browser_remembers_the_columns(context: BrowserContext) -> None:
    """Of this list and no other; the name of a row always stays."""
    page = logged_in(context)
    open_page(page, "/ui/users/")
    page.get_by_text("Columns", exact=True).click()
    expect(page.get_by_role("checkbox", name="Management")).to_be_checked()
    expect(page.get_by_role("checkbox", name="Name", exact=True)).to_have_count(0)
    page.get_by_role("checkbox", name="Management").uncheck()
    head = page.get_by_role("columnheader", name="Management")
    expect(head).to_have_count(0)
    open_page(page, "/ui/roles/")
    expect(page.get_by_role("columnheader", name="Management")).to_be_visible()
    open_page(page, "/ui/users/?sort=-name")
    expect(page.get_by_role("columnheader", name="Name")).to_be_visible()
    expect(head).to_have_count(0)
    page.get_by_text("Columns", exact=True).click()
    page.get_by_role("checkbox", name="Management").check()
    expect(head).to_be_visible()


def test_a_time_is_shown_by_the_readers_clock(context: BrowserContext) -> None:
    """And exactly, for who points at it."""
    page = logged_in(context)
    open_page(page, "/ui/users/")
    moment = page.locator("tbody time").first
    expect(moment).to_have_text(re.compile("just now|minutes? ago"))
    expect(moment).to_have_attribute("title", re.compile(r"(GMT\+9|JST).* UTC\)"))


def test_all_of_a_page_are_chosen(context: BrowserContext) -> None:
    """By one tick, up to the preview; nothing is done before that is agreed to."""
    page = logged_in(context)
    open_page(page, "/ui/users/")
    page.get_by_role("checkbox", name="Choose all on this page").check()
    rows = page.locator("tbody tr").count()
    expect(page.locator("td.tick input:checked")).to_have_count(rows)
    page.get_by_label("With those that are chosen").select_option(label="Add the role DB Viewer")
    page.get_by_role("button", name="Review changes").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Add the role DB Viewer: ")


def test_a_phone_sorts_and_cuts_nothing_off(context: BrowserContext) -> None:
    """At 390 px: the heads that sort are in reach, and no text is wider than its place."""
    page = logged_in(context)
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    open_page(page, "/ui/users/")
    page.get_by_role("link", name="Last login").click()
    assert "sort=last_login" in page.url
    for place in ("", "users/", "users/2", "databases/1", "databases/1/policy", "certificates/",
                  "sessions/", "audit/", "settings/", "profiles/", "cas/"):  # fmt: skip
        open_page(page, f"/ui/{place}")
        cut = page.evaluate("""() => [...document.querySelectorAll("main *")].filter((one) => {
            const box = one.getBoundingClientRect();
            const meant = one.closest(".unseen, thead, .wide") && !one.closest(".plot");
            if (!box.width || meant) return false;
            return box.right > innerWidth + 1 || box.left < -1;
        }).map((one) => one.outerHTML.slice(0, 120))""")
        assert cut == [], place
        out = page.evaluate("""() => [...document.querySelectorAll(".plot text")].filter((one) => {
            const box = one.getBoundingClientRect();
            const plot = one.closest("svg").getBoundingClientRect();
            return box.right > plot.right + 1 || box.left < plot.left - 1;
        }).map((one) => one.textContent)""")
        assert out == [], place
