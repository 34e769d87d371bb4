"""The REST API behind the proxies that do TLS for it: real ones, as docs/operating.md configures
them."""

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from control.service import Config
from tests.kit.plane import Https, initialised
from tests.kit.siege import listens, serving
from tests.kit.support import ROOT, Cert, Pki, root, scratch, wait_until

pytestmark = pytest.mark.slow
PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
MODULES = ("mpm_event", "authz_core", "ssl", "headers", "proxy", "proxy_http")


@dataclass(frozen=True)
class Proxy:
    """A program, what stands in its snippet for the port, how its configuration file is made of the
    snippet, how it is started with that, and the form of the header."""

    program: str
    package: str
    port: str
    header: str
    written: Callable[[Path, str], str]
    words: Callable[[Path], list[str]]
    form: Callable[[Cert], str]


def nginx_file(folder: Path, snippet: str) -> str:
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off; {paths}\n{snippet}}}\n"
    )


def apache_file(folder: Path, snippet: str) -> str:
    loaded = [
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in MODULES
    ]
    port = snippet.partition("127.0.0.1:")[2].partition(">")[0]
    general = [
        f"ServerRoot {folder}", "ServerName localhost", f"PidFile {folder}/pid",
        f"ErrorLog {folder}/errors", f"DefaultRuntimeDir {folder}", f"Listen 127.0.0.1:{port}",
    ]  # fmt: skip
    return "\n".join([*loaded, *general, snippet])


def haproxy_file(_: Path, snippet: str) -> str:
    times = "timeout connect 20s\n    timeout client 60s\n    timeout server 60s"
    return f"defaults\n    {times}\n{snippet}"


PROXIES = {
    "nginx": Proxy(
        "nginx", "nginx-light", "listen 443 ssl", "X-SSL-Client-Escaped-Cert", nginx_file,
        lambda folder: ["-p", str(folder), "-c", str(folder / "conf")],
        lambda cert: quote(cert.pem.decode()),
    ),
    "apache": Proxy(
        "apache2", "apache2-bin", "<VirtualHost *:443>", "X-SSL-Client-Cert", apache_file,
        lambda folder: ["-X", "-f", str(folder / "conf")],
        lambda cert: cert.pem.decode().strip().replace("\n", " "),
    ),
    "haproxy": Proxy(
        "haproxy", "haproxy", "bind :443 ssl", "X-SSL-Client-DER", haproxy_file,
        lambda folder: ["-db", "-f", str(folder / "conf")],
        lambda cert: "".join(cert.pem.decode().splitlines()[1:-1]),
    ),
}  # fmt: skip


def snippet_of(name: str, port: int, pki: Pki, config: Config) -> str:
    """As it stands in the docs, with the places of this test."""
    text = (ROOT / "docs" / "operating.md").read_text()
    snippet = text.partition(f"```{name}\n")[2].partition("```")[0]
    chain, key = pki.server.files
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    (folder / "api.pem").write_bytes(Path(chain).read_bytes() + Path(key).read_bytes())
    (folder / "clients.pem").write_bytes(pki.ca.pem)
    shown = PROXIES[name].port
    assert shown in snippet
    places = {
        shown: shown.replace("*:443", f"127.0.0.1:{port}").replace(" :443", f" 127.0.0.1:{port}")
        .replace(" 443", f" 127.0.0.1:{port}"),
        f"/etc/{PROXIES[name].program}/api.crt": chain,
        f"/etc/{PROXIES[name].program}/api.key": key,
        "/etc/haproxy": str(folder),
        "/run/redis-certauth/proxy.sock": config.proxy_socket,
    }  # fmt: skip
    for what, real in places.items():
        snippet = snippet.replace(what, real)
    assert "/etc/" not in snippet
    return snippet


@contextlib.contextmanager
def running(name: str, config: Config, pki: Pki, port: int) -> Iterator[None]:
    """The proxy in the foreground."""
    proxy = PROXIES[name]
    found = shutil.which(proxy.program, path=PLACES)
    assert found, f"no {name} here: run `make setup-all`, or install '{proxy.package}'"
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    snippet = snippet_of(name, port, pki, config)
    (folder / "conf").write_text(proxy.written(folder, snippet))
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [found, *proxy.words(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        there = replace(config, port=port)
        wait_until(lambda: process.poll() is not None or listens(there), f"{name} listens")
        assert process.poll() is None, (folder / "log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_hands_over_certificate_and_address(tmp_path: Path, pki: Pki, name: str) -> None:
    """alice is who she is, a stranger is told so, and headers that a client makes up count for
    nothing."""
    header = PROXIES[name].header
    config = replace(
        initialised(tmp_path / "control"),
        proxy_socket=f"{tempfile.mkdtemp(dir=scratch())}/proxy.sock",
        proxy_header=header,
    )
    with socket.socket() as picked:
        picked.bind(("127.0.0.1", 0))
        port = picked.getsockname()[1]
    with serving(config), Https(config) as api:
        trust = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        assert api("PUT /v1/cluster/update_cert", trust | {"trust_grows": True}).status == 200
        assert api("PUT /v1/cluster", {"mtls_certificate_authentication": True}).status == 200
        alice = {"auth_method": "certificate", "certificate_subject_line": "CN=alice,OU=eng,O=acme"}
        assert api("POST /v1/users", {"name": "alice", "role": "db_viewer", **alice}).status == 200
        with running(name, config, pki, port):
            assert through(port, pki, pki.alice) == (200, {"role": "db_viewer"})
            stranger = root("CN=Strange CA").issue("CN=alice,OU=eng,O=acme")
            assert through(port, pki, stranger)[0] == 401
            assert through(port, pki, None)[0] == 401
            shown = PROXIES[name].form(pki.alice)
            for spelling in (header, header.replace("-", "_")):
                forged = [f"{spelling}: {shown}", "X-Real-IP: 6.6.6.6"]
                assert through(port, pki, None, *forged)[0] == 401
                assert through(port, pki, stranger, *forged)[0] == 401
                assert through(port, pki, pki.alice, *forged)[0] == 200
            wrong = ["Authorization: Basic YWRtaW46d3Jvbmc=", "X-Real-IP: 6.6.6.6"]
            assert through(port, pki, None, *wrong)[0] == 401
        failed = [one for one in api("GET /v1/logs").json if one["type"] == "login_failed"]
        assert {one.get("address") for one in failed} == {"127.0.0.1"}


def through(port: int, pki: Pki, cert: Cert | None, *headers: str) -> tuple[int, Any]:
    """What curl gets from the proxy."""
    anchor = Path(tempfile.mkdtemp(dir=scratch())) / "ca"
    anchor.write_bytes(pki.server_ca.pem)
    command = ["curl", "-sS", "--cacert", str(anchor), "-w", "\n%{http_code}"]
    command += [f"https://localhost:{port}/v1/users/role"]
    for one in headers:
        command += ["-H", one]
    if cert:
        chain, key = cert.files
        command += ["--cert", chain, "--key", key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)
