"""The web page in a real browser, Debian's chromium: with client certificates, without scripts, by
keyboard, on a phone, in the dark; and what an accessibility checker says of each page.

`python -m tests.ui.test_ui_browser HOME FOLDER` takes the pictures of docs/ui.md, of what `make
run` has started with its folder HOME."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, expect

from tests.kit.chromium import Site
from tests.kit.driver import chromium, open_page
from tests.kit.rest import ADMIN
from tests.kit.support import Cert

pytestmark = pytest.mark.slow
PLACES = (
    "", "onboard/", "search?q=a", "databases/", "databases/new", "databases/1", "users/",
    "users/new", "users/2", "roles/",
    "roles/1", "acls/", "acls/2", "cas/", "demands/", "sessions/", "certificates/", "explain/",
    "audit/", "password", "nothing", "databases/1/policy", "profiles/", "profiles/1", "settings/",
    "responders/",
)  # fmt: skip
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as made:
        yield made


@pytest.fixture
def visit(browser: Chromium, visited: Site) -> Iterator[Callable[..., BrowserContext]]:
    """`visit(cert, **options)`: a fresh profile, whose connections show a certificate. Whatever
    the policy of content forbids, or a script gets wrong, fails the test."""
    contexts, complaints = [], []

    def make(cert: Cert | None = None, **options: Any) -> BrowserContext:
        if cert:
            crt, key = cert.files
            shown = {"origin": visited.base, "certPath": crt, "keyPath": key}
            options["client_certificates"] = [shown]
        context = browser.new_context(ignore_https_errors=True, base_url=visited.base, **options)
        context.set_default_timeout(20_000)
        context.on("console", lambda told: complaints.append(f"{told.type}: {told.text}"))
        context.on("weberror", lambda told: complaints.append(str(told.error)))
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()
    # A page that answers 401 or 404 is told on the console, and is meant.
    assert [one for one in complaints if "Failed to load resource" not in one] == []


def by_certificate(context: BrowserContext, name: str = "alice") -> Page:
    page = context.new_page()
    open_page(page, "/ui/")
    page.get_by_role("button", name=f"Log in as {name}").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    return page


def by_password(context: BrowserContext) -> Page:
    page = context.new_page()
    open_page(page, "/ui/")
    page.get_by_label("User name").fill(ADMIN[0])
    page.get_by_role("textbox", name="Password").fill(ADMIN[1])
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    return page


def test_a_certificate_logs_in(visited: Site, visit: Callable[..., BrowserContext]) -> None:
    """At a click, as its user with its rights; and out again. One of nobody does not."""
    page = by_certificate(visit(visited.pki.alice))
    expect(page.get_by_role("banner")).to_contain_text("alice by certificate")
    page.get_by_role("link", name="Users").click()
    expect(page.get_by_role("link", name="Add a user")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    open_page(page, "/ui/users/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")

    page = by_certificate(visit(visited.pki.bob), "bob")
    expect(page.get_by_role("link", name="Users", exact=True)).to_have_count(0)
    assert open_page(page, "/ui/users/").status == 403  # type: ignore[union-attr]

    page = visit(visited.pki.ca.issue("CN=nobody,O=acme")).new_page()
    open_page(page, "/ui/")
    expect(page.get_by_text("Nobody logs in with it: refused: no_binding")).to_be_visible()


def test_a_change_is_shown_made_and_searched_for(visit: Callable[..., BrowserContext]) -> None:
    """By password, from the form over the preview to the list."""
    page = by_password(visit())
    page.get_by_role("link", name="ACLs").click()
    page.get_by_role("link", name="Read Only").click()
    page.get_by_label("Rules").fill("+@read ~orders:*")
    page.get_by_role("button", name="Review changes").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Change the ACL Read Only?")
    expect(page.get_by_role("list", name="What it does on orders")).to_contain_text(
        "alice has other rights on orders: +@read ~* becomes +@read ~orders:*"
    )
    page.get_by_text("Policy lines: 1 come, 1 go").click()
    lines = page.get_by_role("list", name="Policy lines")
    expect(lines).to_contain_text("+ user alice on +@read ~orders:*")
    page.get_by_role("button", name="Change the ACL Read Only").click()
    expect(page.get_by_role("status")).to_contain_text("The ACL Read Only was changed.")
    page.get_by_role("link", name="Users", exact=True).click()
    page.get_by_label("Search Users").fill("ALI")
    page.get_by_label("Search Users").press("Enter")
    expect(page.locator("tbody tr")).to_have_count(1)


def test_it_works_without_scripts(visited: Site, visit: Callable[..., BrowserContext]) -> None:
    """Login, reading, and a change."""
    page = by_certificate(visit(visited.pki.alice, java_script_enabled=False))
    page.get_by_role("link", name="Roles").click()
    page.get_by_role("link", name="Add a role").click()
    page.get_by_label("Name").fill("readers")
    page.get_by_role("button", name="Review changes").click()
    page.get_by_role("button", name="Add the role readers").click()
    expect(page.get_by_role("status")).to_contain_text("The role readers was added.")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Remove the role readers").click()
    expect(page.get_by_role("status")).to_contain_text("The role readers was removed.")


def test_a_file_is_read_into_its_field(
    visited: Site, visit: Callable[..., BrowserContext], tmp_path: Path
) -> None:
    """With scripts before it is sent, without them when it is: both explain it."""
    file = tmp_path / "alice.pem"
    file.write_bytes(visited.pki.alice.pem)
    for scripts in (True, False):
        page = by_certificate(visit(visited.pki.alice, java_script_enabled=scripts))
        open_page(page, "/ui/explain/")
        page.get_by_label("Or a file with it").set_input_files(file)
        if scripts:
            text = visited.pki.alice.pem.decode()
            expect(page.get_by_label("Certificate (PEM)")).to_have_value(text)
        page.get_by_role("button", name="Explain").click()
        expect(page.get_by_role("heading", name="orders")).to_be_visible()
        expect(page.locator("main")).to_contain_text("logs in as alice")


def test_a_dropped_certificate_shows_what_it_holds(
    visited: Site, visit: Callable[..., BrowserContext]
) -> None:
    """DER too; one identity is chosen, and Enter still shows what the whole form would do."""
    page = by_certificate(visit(visited.pki.alice))
    open_page(page, "/ui/users/new")
    page.get_by_label("Name (needed)").fill("pod")
    page.get_by_role("checkbox", name="None", exact=True).check()
    leaf = visited.pki.ca.issue("CN=pod", san=("uri:urn:pod",))
    dropped = page.evaluate_handle(
        """bytes => {
            const held = new DataTransfer();
            held.items.add(new File([new Uint8Array(bytes)], "pod.der"));
            return held;
        }""",
        list(leaf.der),
    )
    page.dispatch_event("#certificate", "drop", {"dataTransfer": dropped})
    page.get_by_role("checkbox", name="uri urn:pod").check()
    page.get_by_label("Name (needed)").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Add the user pod?")
    page.get_by_role("button", name="Add the user pod").click()
    expect(page.locator("main")).to_contain_text("uri urn:pod")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Remove the user pod").click()
    expect(page.get_by_role("status")).to_contain_text("The user pod was removed.")


def test_the_keyboard_is_enough(visit: Callable[..., BrowserContext]) -> None:
    """The first stop is the way past the menu; errors take the focus, and lead to their field."""
    page = by_password(visit())
    open_page(page, "/ui/roles/new")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "name"
    page.keyboard.type("a<b")
    page.keyboard.press("Enter")
    expect(page.locator("#problems")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#name"
    assert page.evaluate("document.getElementById('name').getAttribute('aria-invalid')") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_accessibility_checker_finds_nothing(
    visited: Site, visit: Callable[..., BrowserContext], scheme: str
) -> None:
    """axe-core's rules for WCAG 2.2 A and AA and for good practice, on each page and in both
    palettes."""
    context = visit(visited.pki.alice, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    open_page(page, "/ui/login")
    found = violations(page)
    page.get_by_role("button", name="Log in as alice").click()
    for place in PLACES:
        open_page(page, f"/ui/{place}")
        found += violations(page)
    open_page(page, "/ui/acls/3")
    page.get_by_label("Rules").fill(f"+@read ~{scheme}:*")
    page.get_by_role("button", name="Review changes").click()
    found += violations(page)
    open_page(page, "/ui/users/new")
    page.get_by_role("button", name="Review changes").click()
    found += violations(page)
    open_page(page, "/ui/explain/")
    page.get_by_label("Certificate (PEM)").fill(visited.pki.bob.pem.decode())
    page.get_by_role("button", name="Explain").click()
    found += violations(page)
    assert found == []


def violations(page: Page) -> list[str]:
    results = Axe().run(page)
    return [
        f"{page.url}: {one['id']}: {one['help']}: {[node['html'] for node in one['nodes']][:3]}"
        for one in results.response["violations"]
    ]


def test_a_phone_scrolls_one_way(visited: Site, visit: Callable[..., BrowserContext]) -> None:
    """No page is wider than the screen."""
    page = by_certificate(visit(visited.pki.alice, viewport=PHONE))
    for place in PLACES:
        open_page(page, f"/ui/{place}")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= PHONE["width"], place


# ---- The pictures of docs/ui.md ------------------------------------------------------------------


def take_pictures(home: Path, folder: Path) -> None:
    """Of each place, and two of another kind: one in the dark, one on a phone."""
    ready = json.loads((home / "ready.json").read_text())
    with chromium() as browser:
        usual: dict[str, Any] = {"viewport": {"width": 1280, "height": 480}}
        for options, places in (
            (usual, ("", "onboard/", "databases/1", "users/", "roles/", "acls/", "cas/",
                     "sessions/", "certificates/")),
            ({**usual, "color_scheme": "dark"}, ("",)),
            ({"viewport": PHONE}, ("users/2",)),
        ):  # fmt: skip
            context = browser.new_context(
                ignore_https_errors=True, base_url=ready["ui_url"].removesuffix("/ui/"), **options
            )
            page = context.new_page()
            page.goto("/ui/login")
            page.screenshot(path=folder / "login.png")
            page.get_by_label("User name").fill(ready["admin_username"])
            page.get_by_role("textbox", name="Password").fill(ready["admin_password"])
            page.get_by_role("button", name="Log in").click()
            for place in places:
                page.goto(f"/ui/{place}")
                name = place.partition("/")[0] or "overview"
                kind = "dark" if "color_scheme" in options else ""
                kind = "phone" if options["viewport"] == PHONE else kind
                page.screenshot(path=folder / f"{kind or name}.png", full_page=True)
            if options is usual:
                page.goto("/ui/audit/?kind=client_refused,login_failed&since=2026-01-01")
                page.screenshot(path=folder / "audit.png")
                page.locator("tbody").get_by_role("link", name="Explain").first.click()
                page.screenshot(path=folder / "explain.png", full_page=True)
                page.goto("/ui/users/3/")
                page.get_by_role("button", name="Delete").click()
                page.screenshot(path=folder / "preview.png", full_page=True)
            context.close()


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), Path(sys.argv[2]))
