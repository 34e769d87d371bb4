"""Certificates of clients that are not for clients alone, by their extended key usage: where only a
TLS handshake decides, such a one is good enough for a node. Anyone who can change that is told."""

from typing import Any

import click
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from control.cli import options
from control.policy import core
from tests.kit.browser import Browser
from tests.kit.certs import authority_line
from tests.kit.node import Start, mapping, who
from tests.kit.plane import Plane, enrolled_node
from tests.kit.policies import make_node, policy_of
from tests.kit.servers import Server
from tests.kit.support import CLIENT, SERVER, Pki, RedisServer, root, wait_until

ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
OTHER = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.4")  # e-mail
# Extended key usages, and whether a node could show a certificate with them.
USAGES: dict[str, tuple[Any, bool]] = {
    "none": (None, True),
    "any": ((CLIENT, ANY), True),
    "both": ((SERVER, CLIENT), True),
    "client": ((CLIENT,), False),
    "client and e-mail": ((CLIENT, OTHER), False),
}
TEXT = "not clientAuth alone"
INVENTORY = "GET /v1/certauth/certificates"
UNRESTRICTED = "certificates of clients by the CA 'CN=Root CA,O=acme' are not restricted to clients"


@pytest.mark.parametrize("usage", USAGES)
def test_explain_says_which_certificates_are_not_for_clients_alone(pki: Pki, usage: str) -> None:
    """No extended key usage, any, or serverAuth beside clientAuth; other usages do not count."""
    eku, serves = USAGES[usage]
    cert = pki.ca.issue("CN=alice", eku=eku)
    decided = core.Policy([authority_line(pki.ca)]).decide(cert.pem)
    assert decided.leaf
    assert decided.leaf.client
    assert decided.leaf.serves is serves
    assert any(TEXT in line for line in decided.trace) is serves


@pytest.mark.few_servers
def test_the_log_of_a_node_tells_them_apart(server_kind: Server, start: Start, pki: Pki) -> None:
    """So that an inventory can be kept of what logs in."""
    node = make_node(start, server_kind, *policy_of(pki), pki=pki)
    subject = "CN=alice,OU=eng,O=acme"
    for eku, _ in USAGES.values():
        assert who(node.server, pki.ca.issue(subject, eku=eku)) == "alice"
    entries = [mapping(one) for one in mapping(node.call("CERTAUTH.LOG"))["entries"]]
    told = [one["serves"] == 1 for one in entries if one["event"] == "login"]
    assert told == [serves for _, serves in USAGES.values()]


@pytest.fixture
def server(plane: Plane, start: Start, installed: Server, pki: Pki) -> RedisServer:
    """A node in step, and a login of alice's that could be a node's, and one that could not."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(node)
    plane.in_step()
    for eku in ((CLIENT,), (SERVER, CLIENT)):
        assert who(node, pki.ca.issue("CN=alice,OU=eng,O=acme", eku=eku)) == "alice"
    wait_until(lambda: len(plane.ok(f"{INVENTORY}?user=alice")) == 2, "both are known")
    return node


def test_the_inventory_has_them_and_the_upload_of_their_ca_warns(
    plane: Plane, server: RedisServer, pki: Pki
) -> None:
    """In REST and on the page: which they are, and with each answer to their CA how many; a CA
    without such certificates is taken without a word."""
    assert {one["serves"] for one in plane.ok(f"{INVENTORY}?user=alice")} == {True, False}
    (one,) = plane.ok(f"{INVENTORY}?serves")
    assert one["serves"] is True
    body = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode(), "trust_grows": True}
    (text,) = plane.ok("PUT /v1/cluster/update_cert", body)["warnings"]
    assert text.startswith(f"1 {UNRESTRICTED}")
    assert "such as the certificate of alice" in text
    own = [{"client_cert": pki.ca.pem.decode()}]
    changed = plane.ok("PUT /v1/bdbs/1", {"authentication_ssl_client_certs": own})
    assert changed["warnings"] == [text]
    assert "warnings" not in plane.ok("PUT /v1/bdbs/1", {"default_user": False})
    fresh = Pki().ca
    body["certificate"] = fresh.pem.decode()
    assert "warnings" not in plane.ok("PUT /v1/cluster/update_cert", body)


def test_the_page_and_the_command_line_warn(
    plane: Plane, server: RedisServer, pki: Pki, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each where it is seen: in the list, at the certificate, and when the CA is uploaded."""
    browser = Browser(plane)
    browser.log_in()
    mark = "not for clients alone"
    assert browser.get("/ui/certificates/").text.count(mark) == 1
    (one,) = plane.ok(f"{INVENTORY}?serves")
    assert mark in browser.get(f"/ui/certificates/{one['cert']}").text
    page = browser.send(browser.get("/ui/cas/"), "/ui/cas/add", pem=root("CN=New").pem.decode())
    page = browser.send(page, "/ui/cas/add", trust_grows="on", confirm="New")
    assert f"1 {UNRESTRICTED}" in page.text
    said: Any = lambda *_: {"warnings": ["mind \x1b this"]}  # noqa: E731
    with click.Context(click.Command("change")) as context:
        context.meta[options.NO_WAITING] = True
        options.change(said, "PUT", "/v1/cluster/certificates", {}, scripts=True)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "warning: mind \\1B this\n")
