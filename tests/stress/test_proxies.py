"""Proxies in front of the REST API, as docs/operating.md configures them: HAProxy and Apache, where
they are installed. nginx is in test_front_attacks.py; Envoy and Traefik, which Debian does not
have, are pinned by what they send, in tests/control/http/test_forwarded.py."""

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from control.service import Config
from tests.kit.plane import Https, initialised
from tests.kit.siege import listens, serving
from tests.kit.support import Cert, Pki, root, scratch, wait_until

pytestmark = pytest.mark.slow
PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
Command = Callable[[Path, Path, int, Pki, str], list[str]]


def haproxy(found: Path, folder: Path, port: int, pki: Pki, sock: str) -> list[str]:
    (folder / "pair").write_bytes(pki.server.pem + pki.server.key_pem)
    (folder / "ca").write_bytes(pki.server_ca.pem)
    (folder / "conf").write_text(f"""
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
frontend api
    bind 127.0.0.1:{port} ssl crt {folder}/pair ca-file {folder}/ca verify optional \
crt-ignore-err all ca-ignore-err all
    http-request set-header X-SSL-Client-DER %[ssl_c_der,base64]
    http-request set-header X-Real-IP %[src]
    default_backend certauth
backend certauth
    server certauth unix@{sock}
""")
    return [str(found), "-db", "-f", str(folder / "conf")]


def apache(found: Path, folder: Path, port: int, pki: Pki, sock: str) -> list[str]:
    chain, key = pki.server.files
    modules = found.parents[1] / "lib" / "apache2" / "modules"
    names = ("mpm_event", "authz_core", "ssl", "headers", "proxy", "proxy_http")
    loaded = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in names)
    folder.chmod(0o755)
    (folder / "conf").write_text(f"""
ServerName localhost
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ErrorLog /dev/stderr
User www-data
Group root
Mutex file:{folder}
{loaded}
Listen 127.0.0.1:{port}
<VirtualHost *:{port}>
    SSLEngine on
    SSLCertificateFile {chain}
    SSLCertificateKeyFile {key}
    SSLVerifyClient optional_no_ca
    RequestHeader set X-SSL-Client-Cert "%{{SSL_CLIENT_CERT}}s"
    RequestHeader set X-Real-IP "%{{REMOTE_ADDR}}s"
    ProxyPass / unix:{sock}|http://localhost/
</VirtualHost>
""")
    return [str(found), "-DFOREGROUND", "-f", str(folder / "conf")]


PROXIES: dict[str, tuple[str, str, Command]] = {
    "haproxy": ("haproxy", "X-SSL-Client-DER", haproxy),
    "apache": ("apache2", "X-SSL-Client-Cert", apache),
}


@contextlib.contextmanager
def proxy(name: str, config: Config, pki: Pki, port: int) -> Iterator[None]:
    binary, _, command = PROXIES[name]
    found = shutil.which(binary) or shutil.which(binary, path=PLACES)
    if found is None:
        pytest.skip(f"no {binary} here")
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    words = command(Path(found), folder, port, pki, config.proxy_socket)
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        there = replace(config, port=port)
        wait_until(lambda: process.poll() is not None or listens(there), f"{binary} listens")
        assert process.poll() is None, (folder / "log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_hands_over_certificate_and_address(tmp_path: Path, pki: Pki, name: str) -> None:
    """alice is who she is, a stranger is told so, and headers that a client makes up count for
    nothing: those of this proxy, and those of others."""
    config = initialised(tmp_path / "control")
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    folder.chmod(0o755)
    header = PROXIES[name][1]
    config = replace(config, proxy_socket=f"{folder}/proxy.sock", proxy_header=header)
    with socket.socket() as picked:
        picked.bind(("127.0.0.1", 0))
        port = picked.getsockname()[1]
    with serving(config), Https(config) as api:
        trusted = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        assert api("PUT /v1/cluster/update_cert", trusted).status == 200
        assert api("PUT /v1/cluster", {"mtls_certificate_authentication": True}).status == 200
        alice = {"auth_method": "certificate", "certificate_subject_line": "CN=alice,OU=eng,O=acme"}
        assert api("POST /v1/users", {"name": "alice", "role": "db_viewer", **alice}).status == 200
        with proxy(name, config, pki, port):
            assert through(port, pki, pki.alice) == (200, {"role": "db_viewer"})
            stranger = root("CN=Strange CA").issue("CN=alice,OU=eng,O=acme")
            assert through(port, pki, stranger)[0] == 401
            status, said = through(port, pki, None)
            assert (status, said["error_code"]) == (401, "missing_credentials")
            escaped = quote(pki.alice.pem.decode())
            for forged in (header, header.replace("-", "_"), "X-SSL-Client-Escaped-Cert"):
                sent = [f"{forged}: {escaped}", "X-Real-IP: 6.6.6.6"]
                assert through(port, pki, None, *sent)[0] == 401
        failed = [one for one in api("GET /v1/logs").json if one["type"] == "login_failed"]
        assert {one.get("address") for one in failed} == {"127.0.0.1"}


def through(port: int, pki: Pki, cert: Cert | None, *headers: str) -> tuple[int, Any]:
    """What curl gets from the proxy."""
    anchor = Path(tempfile.mkdtemp(dir=scratch())) / "ca"
    anchor.write_bytes(pki.server_ca.pem)
    command = ["curl", "-sS", "--cacert", str(anchor), "-w", "\n%{http_code}"]
    command += [f"https://localhost:{port}/v1/users/role"]
    for header in headers:
        command += ["-H", header]
    if cert:
        chain, key = cert.files
        command += ["--cert", chain, "--key", key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)
