"""control/ui/login.py: check_form, for each form that the page has. A new one is found here by
itself: from the routes of the application, and from its templates."""

import re
from collections.abc import Iterator

from tests.kit.browser import Browser
from tests.kit.rest import ControlPlane
from tests.kit.support import ROOT

TEMPLATES = ROOT / "control/ui/templates"
FORM = re.compile(r"<form\b(?P<tag>[^>]*)>(?P<body>.*?)</form>", re.DOTALL)


def addresses(browser: Browser) -> Iterator[str]:
    """One of each route that takes a form."""
    for rule in browser.app.url_map.iter_rules():
        if "POST" in (rule.methods or ()):
            first = re.sub(r"<any\((\w+)[^>]*>", r"\1", rule.rule)
            yield re.sub(r"<[^>]*>", "1", first)


def test_no_form_is_taken_without_the_token_of_its_session(
    api: ControlPlane, admin: Browser
) -> None:
    """Whatever it is for: without one, with an empty one, with a wrong one, and with that of
    somebody else's session, it is refused, and nothing is changed."""
    found = sorted(addresses(admin))
    assert {"/ui/logout", "/ui/login", "/ui/users/new", "/ui/users/chosen"} <= set(found)
    other = Browser(api, app=admin.app)
    other.log_in()
    theirs = other.get("/ui/").form("/ui/logout")["csrf"][0]
    ours = admin.get("/ui/").form("/ui/logout")["csrf"][0]
    assert theirs != ours
    before = api.store.revision()
    for address in found:
        for token in ({}, {"csrf": ""}, {"csrf": ours[:-1]}, {"csrf": theirs}):
            page = admin.open("POST", address, data=token)
            told = "not_our_form" in page.html or "this form is not from this page" in page.html
            assert (page.status, told) == (403, True), (address, token)
    assert api.store.revision() == before
    assert admin.get("/ui/").status == 200  # nobody was logged out


def test_with_its_token_each_form_comes_further(admin: Browser) -> None:
    """So that what is refused above is refused for the token, and for nothing else."""
    token = admin.get("/ui/").form("/ui/logout")["csrf"][0]
    for address in sorted(set(addresses(admin)) - {"/ui/logout", "/ui/login"}):
        page = admin.open("POST", address, data={"csrf": token})
        assert "not_our_form" not in page.html, address
        assert "this form is not from this page" not in page.html, address


def test_each_form_of_a_template_carries_the_token() -> None:
    """One that does not would never work; one that is sent by GET must not carry it: addresses
    are kept and shown."""
    sent = 0
    for path in sorted(TEMPLATES.glob("*.html")):
        for form in FORM.finditer(path.read_text()):
            posts = 'method="post"' in form["tag"]
            carries = 'name="csrf"' in form["body"] or "hidden()" in form["body"]
            assert posts == carries, (path.name, form["tag"])
            sent += posts
    assert sent > 15
