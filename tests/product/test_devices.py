"""From a birth certificate to a Redis user: docs/devices.md as it stands, and strongSwan's pki."""

import os
import shutil
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.kit.pages import blocks, section
from tests.kit.plane import enrolled_node
from tests.kit.servers import Server, Unavailable
from tests.kit.site import COMMAND, Site
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
    assert said.count("device:SN-1\n") == 2, said
    (person,) = site.api("GET /v1/certauth/certificates?user=alice")
    assert person["enrolled_by"] == 1
    found = site.api("GET /v1/certauth/certificates?user=device:SN-1")
    assert len(found) == 2
    assert len({one["key"] for one in found}) == 1


@pytest.fixture(scope="module")
def swan() -> StrongSwan:
    try:
        return fetched()
    except (Unavailable, OSError) as problem:
        pytest.skip(str(problem))


def curl(site: Site, operation: str, *more: str) -> bytes:
    """What an operation of EST answers, as DER."""
    command = ["curl", "-sS", "--fail-with-body", "--cacert", str(site.config.home / "ca.crt")]
    done = subprocess.run(
        [*command, *more, f"{site.url}/.well-known/est/{operation}"], capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return b64decode(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_strongswan_fetches_the_cas_and_renews(site: Site, swan: StrongSwan) -> None:
    """As the page has it. What the birth certificate has brought, by curl, renews itself by
    strongSwan; the birth certificate does not."""
    shown = section(PAGE, "strongSwan")
    shutil.rmtree(swan.work)
    swan.work.mkdir()
    maker = root("CN=Acme Devices,O=Acme")
    birth = maker.issue("CN=sensor,2.5.4.5=SN-1,O=Acme")
    (site.folder / "acme-devices.pem").write_bytes(maker.pem)
    site.ok("issuer", "create", "sensors", "--manufacturer-ca", "acme-devices.pem", "--renewable",
            "--rule", "user:alice subject.O=Acme")  # fmt: skip
    shutil.copy(site.config.home / "ca.crt", swan.work / "ca.crt")
    place = ["--url", site.url, "--cacert", "/device/ca.crt"]
    done = swan.run("--estca", *place, "--caout", "/device/cas", "--outform", "pem")
    assert done.returncode == 0, done.stderr.decode()
    assert len(list(swan.work.glob("cas*"))) == 2

    def openssl(*arguments: str) -> None:
        command = ["openssl", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    request, key = str(swan.work / "request.der"), str(swan.work / "redis.key")
    openssl("req", "-new", "-newkey", "rsa:2048", "-noenc", "-subj", "/", "-keyout", key,
            "-outform", "DER", "-out", request)  # fmt: skip
    body = b64encode(Path(request).read_bytes()).decode()
    files = ["--cert", birth.files[0], "--key", birth.files[1]]
    answer = curl(site, "simpleenroll", *files, "-H", "Content-Type: application/pkcs10",
                  "--data-binary", body)  # fmt: skip
    (swan.work / "answer.p7").write_bytes(answer)
    openssl("pkcs7", "-inform", "DER", "-in", str(swan.work / "answer.p7"), "-print_certs", "-out",
            str(swan.work / "redis.crt"))  # fmt: skip
    openssl("x509", "-in", str(swan.work / "redis.crt"), "-x509toreq", "-copy_extensions", "copy",
            "-key", key, "-out", str(swan.work / "renewal.pem"))  # fmt: skip
    openssl("req", "-in", str(swan.work / "renewal.pem"), "-outform", "DER", "-out",
            str(swan.work / "renewal.der"))  # fmt: skip
    (swan.work / "birth.crt").write_bytes(birth.pem)
    (swan.work / "birth.key").write_bytes(birth.key_pem)

    def renew(name: str) -> "subprocess.CompletedProcess[bytes]":
        return swan.run("--est", *place, "--in", "/device/renewal.der", "--cert",
                        f"/device/{name}.crt", "--key", f"/device/{name}.key", "--outform",
                        "pem")  # fmt: skip

    done = renew("birth")
    assert (done.returncode, b"HTTP 403" in done.stderr) == (1, True), done.stderr.decode()
    done = renew("redis")
    assert done.returncode == 0, done.stderr.decode()
    assert b"-----BEGIN CERTIFICATE-----" in done.stdout
    found = site.api("GET /v1/certauth/certificates?user=alice")
    assert len([one for one in found if one["enrolled_by"]]) == 2
    for word in ("--estca", "--est", "--caout", "--cert", "--key", "--in", "--outform"):
        assert f"{word} " in shown
