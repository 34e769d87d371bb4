"""strongSwan's pki, an EST client of others: Debian 13 has one that speaks EST (5.9.11 or newer).

It is unpacked beside its own libc and libraries, as servers of newer suites are, and run in there
by chroot, since it looks for its plugins at one place; so it needs root."""

import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.kit.servers import Apt, Unavailable, cache

SUITE = "trixie"
PACKAGES = ("libstrongswan-standard-plugins", "strongswan-pki")
MERGED = ("bin", "lib", "lib64", "sbin")
DEVICES = ("random", "urandom")


@dataclass(frozen=True)
class Pki:
    """`run` has it work on files of the folder `device`, as its path is within."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "device"

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        command = ["chroot", str(self.root), "/usr/bin/pki", *arguments]
        return subprocess.run(command, capture_output=True, timeout=100, cwd="/")


def fetched() -> Pki:
    """The unpacked program, fetched once. Raises Unavailable where it cannot be had here."""
    if os.geteuid() or not shutil.which("chroot"):
        raise Unavailable("strongSwan's pki of a newer Debian runs by chroot, which needs root")
    place = cache().parent / f"strongswan-{SUITE}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch") as name:
            work, root = Path(name), Path(name) / "root"
            root.mkdir()
            apt = Apt(work, suites=(SUITE,))
            for package in PACKAGES:
                apt.unpack(package, SUITE, root)
            for one in MERGED:
                if not (root / one).exists():
                    (root / one).symlink_to(f"usr/{one}")
            (root / "device").mkdir()
            (root / "dev").mkdir(exist_ok=True)
            for one in DEVICES:
                as_here = os.stat(f"/dev/{one}").st_rdev
                os.mknod(root / "dev" / one, stat.S_IFCHR | 0o666, as_here)
            root.rename(place)
    made = Pki(place)
    asked = made.run("--help")
    if b"--est " not in asked.stdout + asked.stderr:
        raise Unavailable(f"this pki speaks no EST: {asked.stderr[-300:].decode(errors='replace')}")
    return made
