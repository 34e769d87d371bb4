"""Chromium, driven by playwright, which only `make test-all` brings."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, Response, sync_playwright


@contextmanager
def chromium() -> Iterator[Chromium]:
    """The system's, without its sandbox where this is root."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        yield browser
        browser.close()


def open_page(page: Page, address: str) -> Response | None:
    """Again where Chromium says that the network has changed: a test beside this one makes and
    removes interfaces of its own."""
    for _ in range(9):
        try:
            return page.goto(address)
        except PlaywrightError as error:
            if "ERR_NETWORK_CHANGED" not in str(error):
                raise
    return page.goto(address)
