"""From a token to a Redis user: docs/enrolment.md as it stands, and a real OpenID provider."""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import redis
import yaml

from control.cli.main import main
from control.domain import enrolment
from tests.kit.node import who
from tests.kit.pages import blocks
from tests.kit.plane import enrolled_node
from tests.kit.servers import Server, cache
from tests.kit.site import COMMAND, Site, here
from tests.kit.support import ROOT, Pki, free_port, wait_until
from tests.kit.tokens import ISSUER, jwk, jwks, token

PAGE = "docs/enrolment.md"
POD = {"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart"}}}


# ---- The page ------------------------------------------------------------------------------------


def test_the_manifest_runs_the_command_of_the_page() -> None:
    """Its arguments are those of the page, and the command takes them; the token is for the
    audience of the issuer, and its file is where the command looks."""
    (text,) = blocks(PAGE, "yaml")
    pod = yaml.safe_load(text)["spec"]
    (sidecar,) = pod["initContainers"]
    command: click.Command = main
    words = list(sidecar["args"])
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    context = command.make_context("request", words)
    assert context.params["daemon"]
    file = Path(context.params["token_file"])
    mounts = {one["name"]: one["mountPath"] for one in sidecar["volumeMounts"]}
    (volume,) = [one for one in pod["volumes"] if one["name"] == "token"]
    source = volume["projected"]["sources"][0]["serviceAccountToken"]
    assert str(file) == f"{mounts['token']}/{source['path']}"
    shell = "".join(blocks(PAGE, "sh"))
    assert f"--audience {source['audience']} " in shell
    for word in sidecar["args"]:
        assert word.replace("=", " ", 1) in shell
    assert context.params["out"] == f"{mounts['certs']}/redis"


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder with the command, and a kubectl that knows what a cluster publishes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "redis-certauth").symlink_to(COMMAND)
    (tmp_path / "jwks").write_text(jwks(jwk("k1", "RS256")))
    (tmp_path / "openid").write_text(json.dumps({"issuer": ISSUER}))
    kubectl = folder / "kubectl"
    kubectl.write_text(
        f"#!/bin/sh\ncase $3 in\n/openid/v1/jwks) cat {tmp_path}/jwks;;\n"
        f"/.well-known/openid-configuration) cat {tmp_path}/openid;;\n*) exit 1;;\nesac\n"
    )
    kubectl.chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_page_leads_from_an_empty_pod_to_a_redis_user(
    site: Site, start: Any, installed: Server, pki: Pki, commands: Path, tmp_path: Path
) -> None:
    """Each command as it stands, but for names and places of this machine; the pod has a token and
    two public files, and in the end its own keys and no others."""
    server = enrolled_node(start, installed, site.config.home, pki)
    (site.folder / "servers.crt").write_bytes(pki.server_ca.pem)
    site.ok("db", "create", "orders", "--endpoint", f"127.0.0.1:{server.port}",
            "--tls-mode", "enabled", "--server-ca", "servers.crt", "--no-wait")  # fmt: skip
    pod = tmp_path / "pod"
    for name in ("certs", "etc", "token"):
        (pod / name).mkdir(parents=True)
    shutil.copy(site.config.home / "ca.crt", pod / "etc" / "ca.crt")
    shutil.copy(site.folder / "servers.crt", pod / "etc" / "servers.crt")
    (pod / "token" / "token").write_text(token(algorithm="RS256", **POD))
    once, enrols, asks, *others = blocks(PAGE, "sh")
    for shown, real in (
        ("/var/run/secrets/redis", f"{pod}/token"),
        ("/certs/", f"{pod}/certs/"),
        ("/etc/certauth/", f"{pod}/etc/"),
        ("https://certauth.acme.example:9443", site.url),
        ("-h redis.acme.example -p 6379", f"-h 127.0.0.1 -p {server.port}"),
    ):
        assert shown in enrols + asks
        enrols, asks = enrols.replace(shown, real), asks.replace(shown, real)
    end = "\nkill %1\nwait\n"
    script = "set -eu\n" + once + "".join(others) + enrols + asks + end
    path = f"{commands}:{os.environ['PATH']}"
    wait_until(lambda: site.api("GET /v1/bdbs/1")["status"] == "active", "in step", 30)
    log = tmp_path / "log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=site.folder, env={**os.environ, "PATH": path},
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        code = process.wait(400)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        code = process.wait()
    assert code == 0, log.read_text()
    assert re.search(r"^pod:shop:cart\nOK\nhello\nNOPERM", log.read_text(), re.MULTILINE)
    names = {one["name"] for one in site.api("GET /v1/certauth/issuers")}
    assert names == set(re.findall(r"issuer create (\S+)", "".join([once, *others])))


# ---- A real provider -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider() -> Path:
    """The folder with npm's oidc-provider, which is fetched once."""
    folder = cache().parent / "oidc"
    if not (folder / "node_modules" / "oidc-provider").exists():
        if not shutil.which("npm"):
            pytest.skip("there is no npm")
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "oidc-provider@9"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
        if done.returncode:
            pytest.skip(f"npm does not bring oidc-provider: {done.stderr[-300:]}")
    shutil.copy(ROOT / "tests" / "kit" / "oidc.mjs", folder / "oidc.mjs")
    return folder


@contextmanager
def providing(folder: Path, port: int, pki: Pki, kid: str) -> Iterator[None]:
    """It runs, with new keys."""
    command = ["node", "oidc.mjs", str(port), *pki.server.files, kid]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert any("ready" in line for line in process.stdout)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def access_token(port: int, pki: Pki) -> str:
    """As a program gets it there: by its own credentials."""
    login = b64encode(b"cart:a%20secret%20of%20the%20test%27s").decode()
    asked = urllib.request.Request(
        f"https://127.0.0.1:{port}/token",
        b"grant_type=client_credentials",
        {"Authorization": f"Basic {login}"},
    )
    context = ssl.create_default_context(cadata=pki.server_ca.pem.decode())
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with urllib.request.urlopen(asked, context=context, timeout=30) as answer:
        return str(json.load(answer)["access_token"])


@pytest.mark.slow
def test_a_real_provider_enrols_and_rotates(
    site: Site, start: Any, installed: Server, pki: Pki, provider: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By discovery: its access token is a Redis user. With other keys it is again, and a token from
    before is refused; while it is away, those that are known still count."""
    monkeypatch.setattr(enrolment, "EAGER", 0)
    server = enrolled_node(start, installed, site.config.home, pki)
    (site.folder / "servers.crt").write_bytes(pki.server_ca.pem)
    site.ok("role", "create", "apps", "--management", "none")
    site.ok("acl", "create", "cart", "--rules", "+@all ~cart:*")
    site.ok("db", "create", "orders", "--endpoint", f"127.0.0.1:{server.port}", "--tls-mode",
            "enabled", "--server-ca", "servers.crt", "--grant", "apps=cart")  # fmt: skip
    site.ok("user", "create", "cart", "--auth-method", "certificate", "--subject", "CN=cart",
            "--role", "apps")  # fmt: skip
    port = free_port()
    site.ok("issuer", "create", "idp", "--issuer-url", f"https://127.0.0.1:{port}",
            "--audience", "redis-certauth", "--issuer-ca", "servers.crt",
            "--rule", "user:{sub}")  # fmt: skip
    file = site.folder / "token"

    def enrol(name: str) -> Any:
        return site.run("cert", "request", "--token-file", file, "--out", name)

    with providing(provider, port, pki, "k1"):
        file.write_text(access_token(port, pki))
        done = enrol("one")
        assert done.exit_code == 0, done.output
        second = access_token(port, pki)
    wait_until(lambda: site.api("GET /v1/bdbs/1")["status"] == "active", "in step", 30)
    assert who(server, here(site, "one")) == "cart"
    client = server.client(here(site, "one"))
    client.set("cart:1", "x")
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.set("other:1", "x")
    file.write_text(second)
    assert enrol("two").exit_code == 0  # it is away
    with providing(provider, port, pki, "k2"):
        third = access_token(port, pki)
        file.write_text(third)
        done = enrol("three")
        assert done.exit_code == 0, done.output
        file.write_text(second)
        done = enrol("four")
        assert (done.exit_code, "token_key_unknown" in done.output) == (1, True)
    assert site.api("GET /v1/certauth/issuers/1")["keys"] == 1
