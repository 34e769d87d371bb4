"""`cert request --token-file`: from a token to its own keys in Redis, and in time again; the
commands and files of issuers."""

import json
import stat
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from click.testing import CliRunner

from control.cli import enrolling, renewal
from control.cli.client import Profile
from control.cli.main import main
from control.domain import issuing
from control.pki.issue import chain_to_present, open_authority
from control.pki.keys import is_for_key
from control.pki.request import Leaf, issue_requested, new_request, read_request
from control.policy import core
from tests.kit.plane import enrolled_node
from tests.kit.servers import Server
from tests.kit.site import Site, here
from tests.kit.support import Pki, free_port, root, wait_until
from tests.kit.tokens import AUDIENCE, ISSUER, jwks, token

POD = {"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart"}}}
RULE = (
    "uri:spiffe://acme/ns/{kubernetes.io.namespace}/sa/{kubernetes.io.serviceaccount.name} "
    "kubernetes.io.namespace=shop lifetime:900 profile:default"
)


@pytest.fixture
def pods(site: Site) -> Site:
    """A site with an issuer, and a pattern for what its tokens come to be."""
    (site.folder / "jwks.json").write_text(jwks())
    site.ok("role", "create", "pods", "--management", "none")
    site.ok("acl", "create", "own-keys", "--rules", "+@all ~{ns}:{sa}:*")
    site.ok("pattern", "create", "pods", "--kind", "uri", "--role", "pods",
            "--template", "spiffe://acme/ns/{ns}/sa/{sa}", "--user", "pod:{ns}:{sa}")  # fmt: skip
    site.ok("issuer", "create", "k8s", "--issuer-url", ISSUER, "--audience", AUDIENCE,
            "--algorithm", "ES256", "--jwks", "jwks.json", "--rule", RULE)  # fmt: skip
    return site


def database(site: Site, port: int, *more: str) -> None:
    site.ok("db", "create", "orders", "--endpoint", f"127.0.0.1:{port}", "--no-wait",
            "--tls-mode", "enabled", "--grant", "pods=own-keys", *more)  # fmt: skip


def put(site: Site, **claims: Any) -> Path:
    """The file that a platform keeps a token in."""
    file = site.folder / "token"
    file.write_text(token(**{**POD, **claims}) + "\n")
    return file


def request(site: Site, *more: str) -> Any:
    return site.run("cert", "request", "--token-file", "token", "--out", "cart", *more)


def wish(site: Site, *run: str) -> enrolling.Wish:
    files = renewal.Files(site.folder / "cart.crt", site.folder / "cart.key")
    profile = Profile(site.url, str(site.config.home / "ca.crt"))
    return enrolling.Wish(profile, site.folder / "token", files, "ec", run)


def test_a_token_leads_to_its_own_keys(pods: Site, start: Any, installed: Server, pki: Pki) -> None:
    """One command, and no secret before: redis-cli and redis-py are the pod's user, read what is
    its own and nothing else's. A pod of another namespace, or with another audience, gets nothing;
    and without a certificate the server lets nobody in."""
    site = pods
    server = enrolled_node(start, installed, site.config.home, pki)
    (site.folder / "servers.crt").write_bytes(pki.server_ca.pem)
    database(site, server.port, "--server-ca", "servers.crt")
    wait_until(lambda: site.api("GET /v1/bdbs/1")["status"] == "active", "in step", 30)
    assert list(site.folder.glob("cart.*")) == []
    put(site)
    assert "cart.crt: until 20" in site.ok(
        "cert", "request", "--token-file", "token", "--out", "cart"
    )
    assert stat.S_IMODE((site.folder / "cart.key").stat().st_mode) == 0o600
    client = server.client(here(site, "cart"))
    assert client.acl_whoami() == "pod:shop:cart"
    client.set("shop:cart:1", "hello")
    done = server.cli("GET", "shop:cart:1", cert=here(site, "cart"))
    assert done.stdout == "hello\n"
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.get("shop:billing:1")
    with pytest.raises(redis.ConnectionError):
        server.client().get("shop:cart:1")
    for claims, code in (
        ({"kubernetes.io": {"namespace": "evil", "serviceaccount": {"name": "cart"}}},
         "token_no_rule"),
        ({"aud": "vault"}, "token_audience"),
        ({"name": "k9"}, "token_key_unknown"),
    ):  # fmt: skip
        put(site, **claims)
        done = site.run("cert", "request", "--token-file", "token", "--out", "other")
        assert (done.exit_code, code in done.output) == (1, True), done.output
    assert list(site.folder.glob("other.*")) == []


def test_a_second_certificate_is_for_the_same_key(pods: Site) -> None:
    """So that anyone who reads both files has a pair that fits; for a token that is new, and not
    for the old one. The mode of the certificate's file stays. Without a token there is nothing."""
    database(pods, free_port())
    for content, why in ((None, "No such file"), ("", "no token"), ("x" * 70000, "no token")):
        if content is not None:
            (pods.folder / "token").write_text(content)
        done = request(pods)
        assert (done.exit_code, why in done.output) == (1, True), done.output
    assert list(pods.folder.glob("cart.*")) == []
    put(pods)
    done = request(pods)
    assert done.exit_code == 0, done.output
    key, certificate = (pods.folder / f"cart.{kind}" for kind in ("key", "crt"))
    before, first = key.read_text(), certificate.read_text()
    certificate.chmod(0o640)
    done = request(pods)
    assert (done.exit_code, "token_used" in done.output) == (1, True)
    assert certificate.read_text() == first
    put(pods, jti="2")
    done = request(pods)
    assert done.exit_code == 0, done.output
    assert certificate.read_text() != first
    assert stat.S_IMODE(certificate.stat().st_mode) == 0o640
    assert key.read_text() == before
    assert is_for_key(certificate.read_text(), before)


def aged(site: Site) -> int:
    """Puts a certificate for the key into its file that has lived nine tenths; when it ends."""
    authority = open_authority((site.config.home / issuing.CLIENTS).read_text(), "")
    made = new_request("ec", (site.folder / "cart.key").read_text())
    leaf = Leaf("CN=old", (), ("digital_signature",), timedelta(hours=1))
    begin = datetime.now(UTC) - timedelta(minutes=54)
    pem = issue_requested(authority, read_request(made.certificate), leaf, begin)
    (site.folder / "cart.crt").write_text(pem + chain_to_present(authority))
    return end(site)


def end(site: Site) -> int:
    return core.identity((site.folder / "cart.crt").read_bytes()).not_after


def test_the_daemon_enrols_and_renews_in_time(
    pods: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits for the token, and for a new one where the old one is used up; it tells a command of
    each certificate, and logs what a command failed with."""
    database(pods, free_port())
    caplog.set_level("INFO")
    monkeypatch.setattr(renewal, "RETRY", 0.1)
    told = pods.folder / "told"
    script = f"open({str(told)!r}, 'a').write('x'); raise SystemExit(3)"
    stop = threading.Event()
    command = wish(pods, sys.executable, "-c", script)
    thread = threading.Thread(target=enrolling.keep, args=(command, stop))
    thread.start()
    try:
        wait_until(lambda: "is not there yet" in caplog.text, "it waits for the token", 30)
        put(pods)
        wait_until(lambda: told.exists() and told.read_text() == "x", "it has enrolled", 30)
        stop.set()
        thread.join()
        stop.clear()
        old = aged(pods)
        thread = threading.Thread(target=enrolling.keep, args=(command, stop))
        thread.start()
        wait_until(lambda: "token_used" in caplog.text, "it waits for a new token", 30)
        assert end(pods) == old
        put(pods, jti="2")
        wait_until(lambda: end(pods) > old, "it has renewed", 30)
        wait_until(lambda: told.read_text() == "xx", "the command was told", 30)
        wait_until(lambda: "exit status 3" in caplog.text, "its failure is told", 30)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--daemon",), "go with --token-file"),
        (("--run", "x"), "go with --token-file"),
        (("--token-file", "token", "--user", "alice"), "the rules of the token's issuer"),
        (("--token-file", "token", "--cert-profile", "x"), "the rules of the token's issuer"),
    ],
    ids=range(4),
)
def test_options_that_mean_nothing_together_are_refused(
    arguments: tuple[str, ...], why: str
) -> None:
    done = CliRunner().invoke(main, ["cert", "request", "--out", "x", *arguments])
    assert (done.exit_code, why in done.output) == (2, True), done.output


# ---- Issuers ----


def test_issuers_are_exported_and_applied(pods: Site) -> None:
    """What is exported is not a change; another rule is one, and what a file does not have goes."""
    file = pods.folder / "state.yaml"
    state = yaml.safe_load(pods.ok("export"))
    (issuer,) = state["issuers"]
    assert issuer["rules"] == [
        {"identity": RULE.split()[0], "claims": {"kubernetes.io.namespace": "shop"},
         "profile": "default", "lifetime": 900, "every_token": False}
    ]  # fmt: skip
    file.write_text(yaml.safe_dump(state))
    assert pods.ok("apply", "-f", str(file)) == "nothing to do\n"
    short = {"name": "k8s", "url": ISSUER, "audiences": [AUDIENCE], "jwks": "jwks.json",
             "rules": [{"identity": "user:{sub}"}]}  # fmt: skip
    file.write_text(yaml.safe_dump({"issuers": [short]}))
    assert "update issuers 'k8s'" in pods.ok("apply", "-f", str(file), "--yes")
    assert pods.ok("apply", "-f", str(file)) == "nothing to do\n"
    found = json.loads(pods.ok("issuer", "show", "k8s", "--json"))
    assert [one["identity"] for one in found["rules"]] == ["user:{sub}"]
    file.write_text("issuers: []\n")
    assert "delete issuers 'k8s'" in pods.ok("apply", "-f", str(file), "--yes", "--prune")
    assert json.loads(pods.ok("issuer", "list", "--json")) == []
    create = ("issuer", "create", "x", "--issuer-url", ISSUER, "--audience", "a")
    done = pods.run(*create, "--rule", "user:alice")
    assert (done.exit_code, "(trust_grows)" in done.output) == (1, True), done.output
    pods.ok(*create, "--jwks", str(pods.folder / "jwks.json"), "--rule", "user:alice every-token")
    pods.ok("issuer", "delete", "x", "--yes")
    done = pods.run("issuer", "create", "x", "--issuer-url", ISSUER, "--audience", "a",
                    "--rule", "user:{sub} whatever")  # fmt: skip
    assert (done.exit_code, "'whatever' is not like path=value" in done.output) == (2, True)
    (pods.folder / "devices.pem").write_bytes(root("CN=Acme Devices").pem)
    words = ("--manufacturer-ca", "devices.pem", "--rule", "uri:urn:device:{subject.serialNumber}")
    pods.ok("issuer", "create", "floor", *words, "--renewable")
    state = {"issuers": yaml.safe_load(pods.ok("export"))["issuers"]}
    (issuer,) = state["issuers"]
    assert (issuer["renewable"], "audiences" in issuer and issuer["audiences"]) == (True, [])
    file.write_text(yaml.safe_dump(state))
    assert pods.ok("apply", "-f", str(file)) == "nothing to do\n"
    again = {"name": "floor", "manufacturer_ca": "devices.pem", "renewable": False}
    file.write_text(yaml.safe_dump({"issuers": [again]}))
    assert "update issuers 'floor'" in pods.ok("apply", "-f", str(file), "--yes")
    assert pods.ok("apply", "-f", str(file)) == "nothing to do\n"
