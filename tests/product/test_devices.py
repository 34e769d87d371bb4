"""From a birth certificate to a Redis user: docs/devices.md as it stands, and strongSwan's pki."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kit.node import who
from tests.kit.pages import blocks, section
from tests.kit.plane import enrolled_node
from tests.kit.servers import Server, Unavailable
from tests.kit.site import COMMAND, Site, here
from tests.kit.strongswan import Pki as StrongSwan
from tests.kit.strongswan import fetched
from tests.kit.support import Pki, root, wait_until
from tests.kit.tokens import AUDIENCE, ISSUER, jwks, token

PAGE = "docs/devices.md"


@pytest.fixture
def server(site: Site, start: Any, installed: Server, pki: Pki) -> Any:
    """One that the database `readings` has, with a policy in force."""
    made = enrolled_node(start, installed, site.config.home, pki)
    (site.folder / "servers.crt").write_bytes(pki.server_ca.pem)
    site.ok("db", "create", "readings", "--endpoint", f"127.0.0.1:{made.port}",
            "--tls-mode", "enabled", "--server-ca", "servers.crt", "--no-wait")  # fmt: skip
    (site.folder / "jwks.json").write_text(jwks())
    site.ok("issuer", "create", "people", "--issuer-url", ISSUER, "--audience", AUDIENCE,
            "--algorithm", "ES256", "--jwks", "jwks.json", "--rule", "user:{sub}",
            "--renewable")  # fmt: skip
    shutil.copy(site.config.home / "ca.crt", site.folder / "ca.crt")
    return made


def script_of(pieces: list[str], site: Site, port: int) -> str:
    """Commands of the page, for the places of this machine."""
    script = "\n".join(pieces)
    for shown, real in (
        ("https://certauth.acme.example:9443", site.url),
        ("-h redis.acme.example -p 6379", f"-h 127.0.0.1 -p {port}"),
    ):
        script = script.replace(shown, real)
    assert "acme.example" not in script
    return script


def run(script: str, folder: Path, tmp_path: Path) -> str:
    """What it prints; it may fail nowhere."""
    commands = tmp_path / "bin"
    commands.mkdir(exist_ok=True)
    (commands / "redis-certauth").symlink_to(COMMAND)
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_page_leads_a_device_to_a_redis_user(site: Site, server: Any, tmp_path: Path) -> None:
    """Each command as it stands, but for names and places: the device has its own keys and no
    others, by its birth certificate and after the renewal; and somebody enrols by a token."""
    maker = root("CN=Acme Devices,O=Acme")
    birth = maker.issue("CN=sensor,2.5.4.5=SN-1,O=Acme")
    (site.folder / "acme-devices.pem").write_bytes(maker.pem)
    (site.folder / "birth.crt").write_bytes(birth.presented)
    (site.folder / "birth.key").write_bytes(birth.key_pem)
    (site.folder / "token").write_text(token())
    wait_until(lambda: site.api("GET /v1/bdbs/1")["status"] == "active", "in step", 30)
    once, enrols, asks, renews, by_token = blocks(PAGE, "sh")
    again = "redis ACL WHOAMI\n"
    said = run(script_of([once, enrols, asks, renews, again, by_token], site, server.port),
               site.folder, tmp_path)  # fmt: skip
    assert "device:SN-1\nOK\nNOPERM" in said, said
    assert said.rstrip().endswith("device:SN-1"), said
    assert who(server, here_at(site, "person")) is not None
    found = site.api("GET /v1/certauth/certificates?user=device:SN-1")
    assert len(found) == 2
    assert len({one["key"] for one in found}) == 1


def here_at(site: Site, name: str) -> Any:
    """Certificate and key of a name; those above it come from `cacerts`."""
    with open(site.folder / f"{name}.crt", "a") as file:
        file.write((site.folder / "cas.pem").read_text())
    return here(site, name)


@pytest.fixture(scope="module")
def swan() -> StrongSwan:
    try:
        return fetched()
    except (Unavailable, OSError) as problem:
        pytest.skip(str(problem))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_strongswan_enrols_and_renews(site: Site, server: Any, swan: StrongSwan) -> None:
    """As the page has it: its cacerts, a token as password, and the certificate by itself. A token
    that is good for nothing brings nothing."""
    shown = section(PAGE, "strongSwan")
    shutil.rmtree(swan.work)
    swan.work.mkdir()
    shutil.copy(site.folder / "ca.crt", swan.work / "ca.crt")
    place = ["--url", site.url, "--cacert", "/work/ca.crt"]
    done = swan.run("--estca", *place, "--caout", "/work/cas", "--outform", "pem")
    assert done.returncode == 0, done.stderr.decode()
    cas = sorted(swan.work.glob("cas*"))
    assert len(cas) == 2, [one.name for one in swan.work.iterdir()]

    def request(name: str, *source: str) -> str:
        command = ["openssl", *source, "-outform", "DER", "-out", str(swan.work / name)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return f"/work/{name}"

    key = str(swan.work / "redis.key")
    first = request("request.der", "req", "-new", "-newkey", "rsa:2048", "-noenc", "-subj", "/",
                    "-keyout", key)  # fmt: skip

    def enrol(text: str) -> "subprocess.CompletedProcess[bytes]":
        return swan.run("--est", *place, "--in", first, "--userpass", f"anybody:{text}",
                        "--outform", "pem")  # fmt: skip

    assert enrol(token(exp=1)).returncode != 0
    done = enrol(token())
    assert done.returncode == 0, done.stderr.decode()
    certificate = swan.work / "redis.crt"
    certificate.write_bytes(done.stdout)
    renewal = request("renewal.der", "x509", "-in", str(certificate), "-x509toreq",
                      "-copy_extensions", "copy", "-key", key)  # fmt: skip
    done = swan.run("--est", *place, "--in", renewal, "--cert", "/work/redis.crt", "--key",
                    "/work/redis.key", "--outform", "pem")  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout != certificate.read_bytes()
    found = site.api("GET /v1/certauth/certificates?user=alice")
    assert len([one for one in found if one["enrolled_by"]]) == 2
    for word in ("--estca", "--est", "--userpass", "--caout", "--cert", "--key", "--in"):
        assert f"{word} " in shown
