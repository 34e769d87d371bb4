"""The tasks of docs/ui.md in a real Chromium, on a real server, each with its clicks counted: an
upper limit, from the menu to the end. Typing is not a click."""

import base64
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Locator, Page, expect

from control import service
from tests.kit.browser import ALICE
from tests.kit.driver import chromium, open_page
from tests.kit.node import Start
from tests.kit.plane import Https, enrolled_node, initialised
from tests.kit.rest import ADMIN
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, free_port, wait_until

pytestmark = pytest.mark.slow
PATIENCE = 30_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as made:
        yield made


class Person:
    """Somebody at the page, whose clicks are counted."""

    def __init__(self, page: Page) -> None:
        self.page, self.clicks = page, 0

    def goto(self, address: str) -> None:
        open_page(self.page, address)

    def click(self, what: Locator) -> None:
        what.click()
        self.clicks += 1

    def button(self, name: str) -> None:
        self.click(self.page.get_by_role("button", name=name))

    def link(self, name: str) -> None:
        self.click(self.page.get_by_role("link", name=name, exact=True).first)

    def says(self, text: str) -> None:
        expect(self.page.locator("main")).to_contain_text(text)


class World:
    """A control plane with its page, a server with the database `orders`, and alice on it."""

    def __init__(self, config: service.Config, node: RedisServer, api: Https, pki: Pki) -> None:
        self.base = f"https://localhost:{config.ui_port}"
        self.node, self.api, self.pki = node, api, pki

    def ok(self, call: str, body: Any = None) -> Any:
        answer = self.api(call, body)
        assert answer.status == 200, answer.json
        return answer.json

    def in_step(self) -> None:
        wait_until(lambda: self.ok("GET /v1/bdbs/1")["status"] == "active", "in step", 30)

    def who(self, cert: Cert) -> str:
        return str(self.node.client(cert).execute_command("ACL", "WHOAMI"))

    def refuses(self, cert: Cert) -> None:
        with pytest.raises(redis.ConnectionError):
            self.node.client(cert).ping()


@pytest.fixture
def world(tmp_path: Path, start: Start, installed: Server, pki: Pki) -> Iterator[World]:
    config = replace(initialised(tmp_path / "control"), ui_port=free_port())
    node = enrolled_node(start, installed, config.home, pki)
    with service.running(config), Https(config) as api:
        found = World(config, node, api, pki)
        found.ok("PUT /v1/cluster/update_cert",
                 {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()})  # fmt: skip
        found.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
        found.ok("POST /v1/users", {"name": "alice", "auth_method": "certificate", "role": "admin",
                                    "certificate_subject_line": ALICE})  # fmt: skip
        found.ok("POST /v1/bdbs", {
            "name": "orders", "tls_mode": "enabled",
            "endpoints": [{"addr": ["127.0.0.1"], "port": node.port}],
            "tls_server_ca": pki.server_ca.pem.decode(),
            "roles_permissions": [{"role_uid": 1, "redis_acl_uid": 1}],
        })  # fmt: skip
        found.in_step()
        yield found


@pytest.fixture
def person(world: World, browser: Chromium) -> Iterator[Callable[..., Person]]:
    """By password, which costs no click here: logging in is a task of its own."""
    contexts = []

    def make(cert: Cert | None = None) -> Person:
        options: dict[str, Any] = {}
        if cert:
            crt, key = cert.files
            shown = {"origin": world.base, "certPath": crt, "keyPath": key}
            options["client_certificates"] = [shown]
        context = browser.new_context(ignore_https_errors=True, base_url=world.base, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        Person(page).goto("/ui/")
        if cert is None:
            page.get_by_label("User name").fill(ADMIN[0])
            page.get_by_role("textbox", name="Password").fill(ADMIN[1])
            page.get_by_role("textbox", name="Password").press("Enter")
            expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        return Person(page)

    expect.set_options(timeout=PATIENCE)
    yield make
    for context in contexts:
        context.close()


def drop(page: Page, field: str, content: bytes, name: str) -> None:
    """A file that is dragged from the desktop."""
    dropped = page.evaluate_handle(
        """([bytes, name]) => {
            const held = new DataTransfer();
            held.items.add(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], name));
            return held;
        }""",
        [base64.b64encode(content).decode(), name],
    )
    page.dispatch_event(field, "drop", {"dataTransfer": dropped})


def test_logging_in_takes_one_click(world: World, person: Callable[..., Person]) -> None:
    """By certificate, to where one wanted to be."""
    one = person(world.pki.alice)
    one.button("Log in as alice")
    expect(one.page.get_by_role("heading", level=1)).to_have_text("Overview")
    assert one.clicks == 1


def test_an_application_is_onboarded_in_six_clicks(
    world: World, person: Callable[..., Person]
) -> None:
    """From its certificate, with rights of its own; then it is in."""
    leaf = world.pki.ca.issue("CN=cart,O=acme", san=("uri:spiffe://acme/cart",))
    one = person()
    one.link("Onboard")
    drop(one.page, "#certificate", leaf.pem, "cart.pem")
    expect(one.page.get_by_role("textbox", name="Name")).to_have_value("cart")
    expect(one.page.get_by_role("checkbox", name="uri spiffe://acme/cart")).to_be_checked()
    one.page.get_by_label("Rules of its own", exact=True).last.fill("+@read +acl|whoami ~cart:*")
    one.button("Review")
    one.says("cart gets orders with +@read +acl|whoami ~cart:*")
    one.button("Onboard cart")
    one.says("cart is on orders.")
    assert one.clicks <= 6
    world.in_step()
    assert world.who(leaf) == "cart"
    world.refuses(world.pki.ca.issue("CN=cart,O=acme", san=("uri:spiffe://acme/car",)))
    (user,) = [u for u in world.ok("GET /v1/users") if u["name"] == "cart"]
    assert user["certificate_identities"] == [{"uri": "spiffe://acme/cart"}]
    grants = world.ok("GET /v1/bdbs/1")["roles_permissions"]
    assert [grant["role_uid"] in user["role_uids"] for grant in grants] == [False, True]


def test_a_refusal_is_repaired_in_three_clicks(world: World, person: Callable[..., Person]) -> None:
    """The user has nearly this subject: what needs attention leads to the button that corrects it,
    and then the client is in."""
    typo = {"name": "typo", "auth_method": "certificate", "role": "admin",
            "certificate_subject_line": "CN=typo,OU=Prod,O=acme"}  # fmt: skip
    world.ok("POST /v1/users", typo)
    world.in_step()
    leaf = world.pki.ca.issue("CN=typo,OU=prod,O=acme")
    world.refuses(leaf)
    wait_until(lambda: world.ok("GET /v1/logs?type=client_refused"), "the refusal is told", 30)
    one = person()
    one.says("CN=typo,OU=prod,O=acme was refused on orders once")
    one.click(one.page.get_by_role("link", name="Repair"))
    failed = one.page.locator(".steps .failed")
    one.click(one.page.get_by_text("Step by step"))
    one.clicks -= 1  # only to see that the failed step is marked
    expect(failed).to_contain_text("no_binding")
    one.button("Correct typo's identity")
    one.says("typo is now known by subject CN=typo,OU=prod,O=acme")
    one.button("Change the user typo")
    one.says("The user typo was changed.")
    assert one.clicks <= 3
    world.in_step()
    assert world.who(leaf) == "typo"
    wait_until(lambda: world.ok("GET /v1/logs?type=client_login&search=typo"), "it is told", 30)
    one.goto("/ui/")
    expect(one.page.get_by_role("link", name="Repair")).to_have_count(0)


def test_a_stolen_certificate_is_revoked_in_four_clicks(
    world: World, person: Callable[..., Person]
) -> None:
    """Found by its user, revoked with its session named before, and its page says so then."""
    alice = world.node.tls(world.pki.alice).connect()
    assert alice.command("ACL", "WHOAMI") == b"alice"
    wait_until(lambda: world.ok("GET /v1/certauth/certificates?user=alice"), "it is known", 30)
    one = person()
    one.page.get_by_label("Search everything").fill("alice")
    one.page.get_by_label("Search everything").press("Enter")
    one.click(one.page.get_by_role("link", name=ALICE))
    one.button("Revoke")
    one.says("1 session ends on orders: alice from 127.0.0.1")
    danger = one.page.get_by_role("button", name=f"Revoke {ALICE}")
    expect(danger).to_have_class("danger")
    one.click(danger)
    one.says(f"{ALICE} is revoked.")
    with alice, pytest.raises(ConnectionError):
        alice.command("PING")
    one.link(ALICE)
    assert one.clicks <= 4
    one.says("revoked unspecified, at ")
    expect(one.page.get_by_role("button", name="Take the revocation back")).to_be_visible()
    expect(one.page.get_by_role("button", name="Revoke", exact=True)).to_have_count(0)


def test_a_change_is_undone_in_three_clicks(world: World, person: Callable[..., Person]) -> None:
    """From the page of the object: its history, and the change before."""
    world.ok("PUT /v1/redis_acls/2", {"acl": "+@read ~orders:*"})
    one = person()
    one.goto("/ui/acls/")
    one.link("Read Only")
    one.says("+@read ~* → +@read ~orders:*")
    one.click(one.page.get_by_role("button", name="Undo the change of"))
    one.button("Change the ACL Read Only")
    one.says("The ACL Read Only was changed.")
    assert one.clicks <= 3
    assert world.ok("GET /v1/redis_acls/2")["acl"] == "+@read ~*"


def test_what_was_typed_outlives_the_login(world: World, person: Callable[..., Person]) -> None:
    """The cookie goes while somebody types: after the login the same form goes on."""
    one = person()
    one.goto("/ui/roles/new")
    one.page.get_by_label("Name").fill("readers")
    one.page.context.clear_cookies()
    one.button("Review changes")
    one.says("Your input is kept")
    one.page.get_by_label("User name").fill(ADMIN[0])
    one.page.get_by_role("textbox", name="Password").fill(ADMIN[1])
    one.button("Log in")
    one.button("Go on")
    expect(one.page.get_by_role("heading", level=1)).to_have_text("Add the role readers?")
    one.button("Add the role readers")
    one.says("The role readers was added.")


def test_the_audit_is_live_and_keeps_ones_place(
    world: World, person: Callable[..., Person]
) -> None:
    """What is open stays open while a new event comes in at the top."""
    one = person()
    one.goto("/ui/audit/?follow=on&kind=user_")
    row = one.page.locator("tbody tr").filter(has_text="alice")
    world.ok("PUT /v1/users/2", {"email": "alice@acme.example"})
    changed = one.page.locator("tbody tr").filter(has_text="alice@acme.example")
    expect(changed).to_have_count(1)
    changed.locator("summary").click()
    expect(changed.locator("details")).to_have_attribute("open", "")
    world.ok(
        "POST /v1/users", {"name": "newcomer", "password": "A long 1 password", "role": "none"}
    )
    expect(one.page.locator("tbody tr").first).to_contain_text("newcomer")
    expect(changed.locator("details")).to_have_attribute("open", "")
    expect(row).to_have_count(2)


def test_the_pages_own_recipe_makes_a_csr_that_is_taken(
    world: World, person: Callable[..., Person], tmp_path: Path
) -> None:
    """As it stands there, for a user whose subject is more than a CN; the CA comes with init."""
    one = person(world.pki.alice)
    one.button("Log in as alice")
    one.goto("/ui/certificates/")
    one.click(one.page.get_by_text("Issue a certificate"))
    one.click(one.page.get_by_text("How a CSR is made"))
    recipe = one.page.locator("[data-copy='the command']").inner_text()
    subprocess.run(recipe.split(), cwd=tmp_path, check=True, capture_output=True)
    drop(one.page, "#csr", (tmp_path / "client.csr").read_bytes(), "client.csr")
    one.button("Issue it")
    expect(one.page.locator("main")).to_contain_text("has no CA of clients")
