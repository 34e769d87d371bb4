"""The tests' own tools: what every other test counts on."""

import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, ServerDied, days, der, root

Start = Callable[..., RedisServer]

MODULE_SOURCE = """
__attribute__((visibility("default"))) int RedisModule_OnLoad(void *ctx, void **argv, int argc);
int RedisModule_OnLoad(void *ctx, void **argv, int argc) {
    int (*get)(const char *, void *) = *(int (**)(const char *, void *))ctx;
    int (*init)(void *, const char *, int, int);
    (void)argv; (void)argc;
    get("RedisModule_SetModuleAttribs", &init);
    init(ctx, "tiny", 1, 1);
    return 0;
}
"""


@pytest.fixture(scope="module")
def tiny_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.c").write_text(MODULE_SOURCE)
    command = ["cc", "-shared", "-fPIC", "-o", folder / "tiny.so", folder / "tiny.c"]
    subprocess.run(command, check=True)
    return folder / "tiny.so"


def test_every_server_speaks_mutual_tls(server_kind: Server, start: Start, pki: Pki) -> None:
    """A client whose certificate the server trusts gets in; another CA's, and none, do not."""
    server = start(server_kind, tls_auth_clients="yes")
    assert server.client(pki.alice).ping()
    assert server.cli("PING", cert=pki.alice).stdout == "PONG\n"
    with pytest.raises(redis.ConnectionError):
        server.client(root("CN=Stranger").issue()).ping()
    with pytest.raises(redis.ConnectionError):
        server.client().ping()


def test_every_server_loads_a_module(server_kind: Server, start: Start, tiny_module: Path) -> None:
    """A module that this machine's compiler made loads, whatever libc the server came with."""
    server = start(server_kind, config=[f"loadmodule {tiny_module}"], io_threads=4)
    assert "tiny" in [module["name"] for module in server.admin().module_list()]


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_session_resumes(installed: Server, start: Start, pki: Pki, version: str) -> None:
    """A second connection with the first one's session skips the handshake."""
    peer = start(installed).tls(pki.alice, version)
    with peer.connect() as first:
        assert first.command("PING") == b"PONG"
        assert not first.resumed
        with peer.connect(first.session) as second:
            assert second.command("ECHO", b"\0x") == b"\0x"
            assert second.resumed


def test_a_server_comes_back_with_its_files(installed: Server, start: Start) -> None:
    """After a kill the same folder and port serve again."""
    server = start(installed, config=["appendonly yes", "appendfsync always"])
    port = server.port
    server.admin().set("k", "v")
    server.kill()
    assert not server.running
    server.start()
    assert (server.port, server.admin().get("k")) == (port, "v")


def test_a_server_that_does_not_start_says_why(installed: Server, pki: Pki) -> None:
    """A bad configuration is an error with the server's own words."""
    with pytest.raises(ServerDied, match="no-such-setting"):
        RedisServer(installed, pki, config=["no-such-setting yes"]).start()


def test_nothing_is_left_running(installed: Server, pki: Pki) -> None:
    """The process is gone when the `with` ends, and its log is still there to be shown."""
    with RedisServer(installed, pki) as server:
        pid = server.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert "Ready to accept connections" in server.log


def test_a_failing_test_shows_the_log(tmp_path: Path) -> None:
    """The report of a failure holds the log of the server of that test."""
    folder = Path(__file__).parents[2]
    (tmp_path / "test_red.py").write_text(
        "def test_red(start, installed):\n    start(installed)\n    assert False\n"
    )
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "."]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1, run.stdout
    assert "log of redis-" in run.stdout
    assert "Ready to accept connections" in run.stdout


def test_certificates_of_every_kind(pki: Pki) -> None:
    """Names keep order and string types; raw DER goes in unchecked, under a good signature."""
    between = pki.ca.authority(not_after=days(2))
    rdns = [[("O", "acme")], [("OU", "b", "BMPString"), ("UID", "x")], [("CN", "a\0b")]]
    leaf = between.issue(rdns, san=["uri:spiffe://acme/x", "upn:a@acme"], serial=0x0ABC)
    assert [len(rdn) for rdn in leaf.certificate.subject.rdns] == [1, 2, 1]
    assert leaf.serial == "0abc"
    assert leaf.presented.count(b"BEGIN") == 2
    leaf.certificate.verify_directly_issued_by(between.certificate)
    raw = der(0x30, der(0x31, der(0x30, bytes.fromhex("0603550403"), der(0x0C, b"\xff\xfe"))))
    odd = pki.ca.issue(raw)
    assert raw in odd.der
    assert ssl.PEM_cert_to_DER_cert(odd.pem.decode()) == odd.der
