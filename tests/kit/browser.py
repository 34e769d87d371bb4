"""A browser without scripts, for tests of the web page: it follows redirects and sends forms."""

import re
from html import unescape
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from control.ui.app import create_ui
from tests.kit.rest import ADMIN, PEER, ControlPlane, peer_cert, presented
from tests.kit.support import Cert

BASE = "https://localhost"
ALICE = "CN=alice,OU=eng,O=acme"  # the subject of pki.alice


class Form(HTMLParser):
    """The fields of one form, as a browser would send them."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[tuple[str, str]] = []
        self._select: str | None = None
        self._options: list[tuple[str, bool]] = []
        self._area: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        name, kind = found.get("name", ""), found.get("type", "text")
        if tag == "input" and name and kind != "file":
            if kind not in ("checkbox", "radio") or "checked" in found:
                self.fields.append((name, found.get("value", "on" if kind == "checkbox" else "")))
        elif tag == "select":
            self._select, self._options = name, []
        elif tag == "option":
            self._options.append((found.get("value", ""), "selected" in found))
        elif tag == "textarea":
            self._area = name
            self.fields.append((name, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "select" and self._select is not None:
            chosen = [value for value, selected in self._options if selected]
            first = [value for value, _ in self._options[:1]]
            self.fields += [(self._select, value) for value in (chosen or first)[:1]]
        if tag == "textarea":
            self._area = None

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            name, value = self.fields[-1]
            self.fields[-1] = (name, value + data.removeprefix("\n") if not value else value + data)


class Page:
    """An answer, read as a person would."""

    def __init__(self, response: TestResponse) -> None:
        self.response, self.status, self.html = response, response.status_code, response.text

    @property
    def text(self) -> str:
        """Without its tags."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.html)).split())

    @property
    def title(self) -> str:
        found = re.search(r"<h1>(.*?)</h1>", self.html, re.DOTALL)
        return unescape(found[1]) if found else ""

    def form(self, action: str) -> dict[str, list[str]]:
        """The fields of the form with this action: name → values."""
        found = re.search(
            rf'<form[^>]*action="{re.escape(action)}".*?</form>', self.html, re.DOTALL
        )
        assert found, f"no form {action} on: {self.text}"
        parser = Form()
        parser.feed(found[0])
        fields: dict[str, list[str]] = {}
        for name, value in parser.fields:
            fields.setdefault(name, []).append(value)
        return fields


class Browser:
    """One, with its cookies; `cert` is what its connection shows."""

    def __init__(self, api: ControlPlane, cert: Cert | None = None, app: Flask | None = None):
        self.app = app or create_ui(api.app, peer_cert)
        self.client, self.cert = self.app.test_client(), cert

    def open(self, method: str, path: str, **options: Any) -> Page:
        if self.cert is not None:
            options["environ_overrides"] = {PEER: presented(self.cert)}
        headers = {"Sec-Fetch-Site": "same-origin", **options.pop("headers", {})}
        response = self.client.open(
            path, method=method, base_url=BASE, headers=headers, buffered=True, **options
        )
        return Page(response)

    def get(self, path: str, **options: Any) -> Page:
        return self.open("GET", path, **options)

    def post(self, path: str, **fields: Any) -> Page:
        """A form that was sent as it is; where that leads."""
        page = self.open("POST", path, data=fields)
        if page.status == 303:
            return self.get(page.response.headers["Location"])
        return page

    def send(self, page: Page, action: str, **changed: Any) -> Page:
        """A form of a page, filled in."""
        return self.post(action, **{**page.form(action), **changed})

    def log_in(self, name: str = ADMIN[0], password: str = ADMIN[1]) -> Page:
        page = self.get("/ui/login")
        return self.send(page, "/ui/login", username=name, password=password)


def by_certificate(browser: Browser) -> Page:
    """The button of the login."""
    page = browser.get("/ui/login")
    return browser.post("/ui/login", csrf=page.form("/ui/login")["csrf"], back="/ui/")
