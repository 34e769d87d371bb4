"""The web page in a Chromium that holds certificates in its own store, as a person's browser does:
which of them it offers, the server's TLS says."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from tests.kit.chromium import Site
from tests.kit.support import Cert, Pki

pytestmark = pytest.mark.slow


@contextmanager
def person(folder: Path, page: Site, *certs: Cert) -> Iterator[BrowserContext]:
    """Trusts the page's CA and holds these certificates. Shows the first that fits
    what the server asks for, where a person would be asked to choose."""
    fill(folder, str(page.authority), certs)
    policy = {"AutoSelectCertificateForUrls": [json.dumps({"pattern": page.base, "filter": {}})]}
    command = under_policy(folder, json.dumps(policy))
    with sync_playwright() as playwright:
        made = playwright.chromium.launch_persistent_context(
            str(folder / "profile"), executable_path=command, args=["--no-sandbox"],
            base_url=page.base,
        )  # fmt: skip
        made.set_default_timeout(20_000)
        yield made
        made.close()


def fill(folder: Path, authority: str, certs: Sequence[Cert]) -> None:
    """The store of certificates, where Chromium looks for it."""
    store = folder / ".pki" / "nssdb"
    store.mkdir(parents=True)
    place = ("-d", f"sql:{store}")
    run("certutil", *place, "-N", "--empty-password")
    run("certutil", *place, "-A", "-n", "server", "-t", "C,,", "-i", authority)
    for number, cert in enumerate(certs):
        crt, key = cert.files
        file = str(folder / f"{number}.p12")
        run("openssl", "pkcs12", "-export", "-in", crt, "-inkey", key, "-out", file,
            "-passout", "pass:x", "-name", f"client {number}")  # fmt: skip
        run("pk12util", *place, "-i", file, "-W", "x")


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def under_policy(folder: Path, policy: str) -> str:
    """A command that runs Chromium under a policy. Its place is fixed, below /etc, so the command
    sees a folder of ours there, in a mount namespace of its own."""
    managed = folder / "etc" / "policies" / "managed"
    managed.mkdir(parents=True)
    (managed / "policy.json").write_text(policy)
    chromium = shutil.which("chromium")
    bound = f'mount --bind {shlex.quote(str(folder / "etc"))} /etc/chromium && exec {chromium} "$@"'
    command = folder / "chromium"
    command.write_text(
        f"#!/bin/sh\nexport HOME={shlex.quote(str(folder))}\n"
        f'exec unshare --map-root-user --mount sh -c {shlex.quote(bound)} chromium "$@"\n'
    )
    command.chmod(0o700)
    return str(command)


def first_page(context: BrowserContext) -> Page:
    page = context.new_page()
    page.goto("/ui/")
    return page


def test_only_certificates_that_fit_are_offered(visited: Site, tmp_path: Path, pki: Pki) -> None:
    """Of two in the store, the one of a CA that is named, though the other was there first; alone,
    that other one is not shown at all."""
    stranger = pki.server_ca.issue("CN=alice,OU=eng,O=acme")
    with person(tmp_path / "both", visited, stranger, pki.alice) as context:
        page = first_page(context)
        page.get_by_role("button", name="Log in as alice").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    with person(tmp_path / "one", visited, stranger) as context:
        page = first_page(context)
        expect(page.get_by_label("User name")).to_be_visible()
        expect(page.get_by_text("Nobody logs in with it")).to_have_count(0)
        expect(page.get_by_role("button", name="Log in as alice")).to_have_count(0)
