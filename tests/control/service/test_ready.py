"""The unit's `Type=notify`."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from control.service.ready import tell
from tests.kit.support import ROOT


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_hears_it(tmp_path: Path, abstract: bool) -> None:
    """On a socket in the file system, or an abstract one, as containers have."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(f"\0{name}" if abstract else name)
        tell("READY=1", {"NOTIFY_SOCKET": f"@{name}" if abstract else name})
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("place", ["", "vsock:2:1", "/nowhere/notify"])
def test_without_a_manager_nothing_happens(place: str) -> None:
    tell("READY=1", {"NOTIFY_SOCKET": place} if place else {})


def test_the_unit_waits_for_it_and_is_hardened() -> None:
    unit = (ROOT / "packaging/redis-certauth.service").read_text()
    for line in (
        "Type=notify",
        "Restart=on-failure",
        "MemoryDenyWriteExecute=true",
        "NoNewPrivileges=true",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
    ):
        assert line in unit.splitlines()


ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(not ANALYZE, reason="no systemd-analyze here")
def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    """No line that it does not know, and an exposure of at most 2.0 of 10."""
    text = (ROOT / "packaging/redis-certauth.service").read_text()
    unit = tmp_path / "redis-certauth.service"
    unit.write_text(text.replace("/usr/bin/redis-certauth", "/bin/true"))
    done = subprocess.run([ANALYZE, "verify", "--man=no", unit], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, ours) == (0, [])
    judged = [ANALYZE, "security", "--offline=true", "--threshold=20", "--no-pager", unit]
    done = subprocess.run(judged, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    assert subprocess.run(judged, capture_output=True).returncode != 0
