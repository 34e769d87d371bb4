"""control/cli/renewal.py, the real commands against a running control plane and a real server."""

import json
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from control.cli import client, renewal
from control.cli.renewal import Files, RenewalError
from control.domain import issuing
from control.pki.issue import chain_to_present, open_authority
from control.pki.keys import KEY_TYPES, KeyType, is_for_key
from control.pki.request import Leaf, issue_requested, new_request, read_request
from control.pki.trust import read_trust
from control.policy import core
from control.policy import lines as policy
from tests.kit.node import JOURNAL, Start, load, who
from tests.kit.plane import enrolled_node
from tests.kit.servers import Server
from tests.kit.site import (
    COMMAND,
    SUBJECT,
    InPlace,
    Site,
    here,
)
from tests.kit.support import Pki, wait_until


def end(file: Path) -> int:
    return core.identity(file.read_bytes()).not_after


def aged(site: Site, name: str = "alice", life: float = 0.9) -> int:
    """Puts a certificate into NAME.crt, for the key in NAME.key, that has lived so much of a day;
    when it ends."""
    authority = open_authority((site.config.home / issuing.CLIENTS).read_text(), "")
    file = site.folder / f"{name}.crt"
    request = read_request(new_request("ec", (site.folder / f"{name}.key").read_text()).certificate)
    leaf = Leaf(SUBJECT, (), ("digital_signature",), timedelta(days=1))
    start = datetime.now(UTC) - timedelta(days=life)
    pem = issue_requested(authority, request, leaf, start) + chain_to_present(authority)
    file.write_text(pem)
    return end(file)


LOGIN = ("--cert", "alice.crt", "--key", "alice.key")


# ---- request -------------------------------------------------------------------------------------


def test_a_certificate_that_was_requested_logs_in(
    site: Site, start: Any, installed: Server, pki: Pki
) -> None:
    """`cert request --user alice` makes two files, with which alice is alice on a server and in the
    REST API; and so she is when the certificate is renewed."""
    server = enrolled_node(start, installed, site.config.home, pki)
    database = {
        "name": "orders", "endpoints": [{"addr": ["127.0.0.1"], "port": server.port}],
        "tls_mode": "enabled", "tls_server_ca": pki.server_ca.pem.decode(),
        "roles_permissions": [{"role_uid": 1, "redis_acl_uid": 1}],
    }  # fmt: skip
    site.api("POST /v1/bdbs", database)
    wait_until(lambda: site.api("GET /v1/bdbs/1")["status"] == "active", "in step")
    assert "alice.crt: until 20" in site.ok("cert", "request", "--user", "alice")
    key, certificate = site.folder / "alice.key", site.folder / "alice.crt"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert who(server, here(site)) == "alice"
    site.ok("user", "show", "alice", *LOGIN)
    before, old = key.read_text(), aged(site)
    assert who(server, here(site)) == "alice"
    assert "alice.crt: until 20" in site.ok("cert", "renew", *LOGIN)
    assert key.read_text() == before
    assert end(certificate) > old
    assert who(server, here(site)) == "alice"
    found = json.loads(site.ok("cert", "list", "--user", "alice", "--json"))
    assert [one["issued"] for one in found].count(True) == 2
    assert "alice" in site.ok("cert", "list")

    def seen_there() -> bool:
        now = core.identity(certificate.read_bytes()).cert
        one = site.api(f"GET /v1/certauth/certificates/{now}")
        return (one["bdb_uid"], one["node"]) == (1, f"127.0.0.1:{server.port}")

    wait_until(seen_there, "the inventory knows the server", 30)


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_keys_are_made_here_and_stay_here(site: Site, key_type: KeyType) -> None:
    """Of each kind; what was sent holds none."""
    sent: list[Any] = []
    files = Files(site.folder / "alice.crt", site.folder / "alice.key")
    with client.Client(client.load_profile(config_of(site), "default")) as ask:

        def watched(method: str, path: str, body: Any) -> Any:
            sent.append(body)
            return ask(method, path, body)

        renewal.request(watched, files, "alice", "", key_type)  # type: ignore[arg-type]
    assert is_for_key(files.certificate.read_text(), files.key.read_text())
    assert "PRIVATE" not in json.dumps(sent)
    assert json.loads(site.ok("cluster", "show", "--json", *LOGIN))["name"] == "acme"


def config_of(site: Site) -> Path:
    return site.folder / "redis-certauth" / "config.toml"


def test_nothing_is_overwritten(site: Site) -> None:
    """Neither key nor certificate; and nothing is asked for then."""
    for name in ("alice.crt", "alice.key"):
        (site.folder / name).write_text("mine")
        done = site.run("cert", "request", "--user", "alice")
        assert (done.exit_code, f"{name} is there already" in done.output) == (1, True)
        assert (site.folder / name).read_text() == "mine"
        (site.folder / name).unlink()
    assert site.api("GET /v1/certauth/certificates") == []


def test_a_request_that_is_refused_leaves_no_file(site: Site) -> None:
    """And says why."""
    done = site.run("cert", "request", "--user", "carol")
    assert (done.exit_code, "there is no user 'carol'" in done.output) == (1, True)
    assert list(site.folder.glob("carol*")) == []
    done = site.run("cert", "request")
    assert (done.exit_code, "--out" in done.output) == (2, True)


def test_files_that_cannot_be_written_are_said_before_anything_is_asked(site: Site) -> None:
    """No certificate is issued for a key that could not be kept."""
    done = site.run("cert", "request", "--user", "alice", "--out", "none/alice")
    assert (done.exit_code, "is there the folder none?" in done.output) == (1, True)
    assert site.api("GET /v1/certauth/certificates") == []


def test_a_certificate_that_cannot_be_written_leaves_no_key(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair or nothing."""
    real = os.open

    def full(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("alice.crt"):
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr(renewal.os, "open", full)
    done = site.run("cert", "request", "--user", "alice")
    assert (done.exit_code, "No space left" in done.output) == (1, True)
    assert list(site.folder.glob("alice.*")) == []


def test_another_key_is_asked_for_in_new_files(site: Site) -> None:
    """By the certificate that one has; the old pair stays as it is, and good."""
    site.ok("cert", "request", "--user", "alice")
    site.ok("cert", "request", "--out", "new", *LOGIN)
    keys = {(site.folder / f"{name}.key").read_text() for name in ("alice", "new")}
    assert len(keys) == 2
    site.ok("cert", "renew", *LOGIN)
    site.ok("cert", "renew", "--cert", "new.crt", "--key", "new.key")


# ---- renew ---------------------------------------------------------------------------------------


def test_a_renewal_keeps_mode_and_link(site: Site) -> None:
    """Anyone who could read the certificate can read it still, and a symbolic link stays one."""
    site.ok("cert", "request", "--user", "alice")
    real, link = site.folder / "real.crt", site.folder / "alice.crt"
    os.replace(link, real)
    link.symlink_to(real)
    real.chmod(0o644)
    before = real.read_text()
    renewal.renew(site.profile(), "")
    assert link.is_symlink()
    assert real.read_text() != before
    assert stat.S_IMODE(real.stat().st_mode) == 0o644


def test_certificate_and_key_may_be_in_one_file(site: Site) -> None:
    """It has both afterwards."""
    site.ok("cert", "request", "--user", "alice")
    one = site.folder / "one.pem"
    one.write_text(
        (site.folder / "alice.key").read_text() + (site.folder / "alice.crt").read_text()
    )
    one.chmod(0o600)
    old = one.read_text()
    site.ok("cert", "renew", "--cert", "one.pem")
    new = one.read_text()
    assert new != old
    assert is_for_key(new, new[new.index("-----BEGIN PRIVATE KEY") :])
    site.ok("user", "show", "alice", "--cert", "one.pem")
    assert stat.S_IMODE(one.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda site: aged(site, life=1.1), "expired"),
        (lambda site: (site.folder / "alice.key").write_text("hello"), "alice.key"),
        (lambda site: site.api("PUT /v1/users/2", {"certificate_subject_line": "CN=a"}), "no_bind"),
        (
            lambda site: site.api(
                "PUT /v1/cluster", {"mtls_certificate_authentication": False}
            ),
            "certificate_authentication_disabled",
        ),
    ],
)  # fmt: skip
def test_a_renewal_that_fails_leaves_the_files(
    site: Site, change: Callable[[Site], Any], reason: str
) -> None:
    """As they were, with the reason."""
    site.ok("cert", "request", "--user", "alice")
    change(site)
    before = [file.read_bytes() for file in sorted(site.folder.glob("alice.*"))]
    done = site.run("cert", "renew", *LOGIN)
    assert done.exit_code in (1, 2)
    assert reason in done.output
    assert [file.read_bytes() for file in sorted(site.folder.glob("alice.*"))] == before


def test_whoever_reads_the_pair_has_one_that_fits(site: Site) -> None:
    """While it is renewed over and over, in whichever order the two files are read."""
    site.ok("cert", "request", "--user", "alice")
    done, problems, count = threading.Event(), [], 0

    def read() -> None:
        nonlocal count
        while not done.is_set():
            for order in (("crt", "key"), ("key", "crt")):
                found = {kind: (site.folder / f"alice.{kind}").read_text() for kind in order}
                count += 1
                if not is_for_key(found["crt"], found["key"]):
                    problems.append(found)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(5):
            renewal.renew(site.profile(), "")
    finally:
        done.set()
        reader.join()
    assert problems == []
    assert count > 10


# ---- In time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("life", "due"), [(0.0, False), (0.6, False), (0.68, True), (1.1, True)])
def test_renewal_is_due_at_two_thirds_of_the_life(site: Site, life: float, due: bool) -> None:
    """Up to a twentieth earlier, so that not all come at once."""
    site.ok("cert", "request", "--user", "alice")
    aged(site, life=life)
    assert (renewal.due(site.profile()) <= time.time()) == due


@pytest.fixture
def daemon(site: Site) -> Iterator[subprocess.Popen[str]]:
    """`cert renew --daemon` on a certificate of nine tenths of its life."""
    site.ok("cert", "request", "--user", "alice")
    aged(site)
    made = subprocess.Popen(
        [COMMAND, "cert", "renew", "--daemon", *LOGIN], stderr=subprocess.PIPE, text=True
    )
    yield made
    made.kill()
    made.wait()


def test_the_daemon_renews_in_time_and_ends_when_told(
    site: Site, daemon: subprocess.Popen[str], start: Any, installed: Server, pki: Pki
) -> None:
    """What is nearly over is renewed at once; then it waits, and logs in at a server meanwhile."""
    file = site.folder / "alice.crt"
    old = end(file)
    wait_until(lambda: end(file) > old, "it is renewed", 30)
    new = file.read_text()
    assert daemon.poll() is None
    site.ok("user", "show", "alice", *LOGIN)
    daemon.send_signal(signal.SIGTERM)
    assert "alice.crt is renewed" in daemon.communicate(timeout=20)[1]
    assert daemon.returncode == 0
    assert file.read_text() == new


def test_the_daemon_tries_again_until_it_works(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the certificate is nobody's at first."""
    site.ok("cert", "request", "--user", "alice")
    old = aged(site)
    site.api("PUT /v1/users/2", {"certificate_subject_line": "CN=other"})
    monkeypatch.setattr(renewal, "RETRY", 0.1)
    stop = threading.Event()
    thread = threading.Thread(target=renewal.keep, args=(site.profile(), "", stop))
    thread.start()
    try:
        wait_until(lambda: refusals(site), "it was refused")
        assert end(site.folder / "alice.crt") == old
        site.api("PUT /v1/users/2", {"certificate_subject_line": SUBJECT})
        wait_until(lambda: end(site.folder / "alice.crt") > old, "it is renewed", 30)
    finally:
        stop.set()
        thread.join()


def refusals(site: Site) -> list[Any]:
    return [e for e in site.api("GET /v1/logs") if e["type"] == "login_failed"]


def test_retries_come_later_and_later_but_within_what_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour apart at most; a sixth of what is left; when it has ended, an hour."""
    site.ok("cert", "request", "--user", "alice")
    monkeypatch.setattr(renewal.random, "uniform", lambda low, high: high)
    aged(site, life=0.5)
    pauses = [renewal.patience(site.profile(), failures) for failures in (1, 2, 3, 20)]
    assert pauses == [10, 20, 40, 3600]
    aged(site, life=0.99)
    assert 10 < renewal.patience(site.profile(), 20) < 86400 * 0.01 / 6 + 1
    aged(site, life=1.5)
    assert renewal.patience(site.profile(), 20) == 3600


def test_a_daemon_without_a_certificate_does_not_start(site: Site) -> None:
    """Nor one that logs in by password."""
    with pytest.raises(RenewalError, match="alice.crt"):
        renewal.keep(site.profile(), "", threading.Event())
    done = site.run("cert", "renew", "--daemon")
    assert (done.exit_code, "--cert and --key" in done.output) == (2, True)


# ---- On every server -----------------------------------------------------------------------------


def test_what_is_issued_logs_in_and_a_renewal_too(
    server_kind: Server, start: Start, pki: Pki, tmp_path: Path
) -> None:
    """From a CA of each kind of key, below its root, with keys of each kind; and as nobody else."""
    server = start(server_kind, module=JOURNAL, trust=[])
    server.admin().config_set("tls-ca-cert-dir", str(server.directory / "journal" / "ca"))
    lines = ["set enforce on", f'bind subject "{SUBJECT}" alice', "user alice on ~* +@all"]
    files: list[Any] = []
    for key_type in KEY_TYPES:
        home = tmp_path / key_type
        home.mkdir()
        issuing.create(home, key_type, "", key_type, lambda _: None)
        authority = issuing.Authority(home, lambda: "")()
        lines += policy.trust_lines(read_trust(authority.certificate))
        made = new_request(key_type)
        for number, life in enumerate((1, 2)):
            leaf = Leaf(SUBJECT, (), ("digital_signature",), timedelta(days=life))
            pem = issue_requested(authority, read_request(made.certificate), leaf)
            (home / f"{number}.crt").write_text(pem + chain_to_present(authority))
            (home / "key").write_text(made.key)
            files.append(InPlace((str(home / f"{number}.crt"), str(home / "key"))))
    load(server.admin(), 1, lines)
    assert [who(server, one) for one in files] == ["alice"] * 6
    assert who(server, pki.alice) is None
