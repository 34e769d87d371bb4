"""What only the machine can do to a server: a control group, a file system mounted below it. Where
it may not be asked for that, the test is skipped, and says why."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.kit.support import wait_until

ROOT = Path("/sys/fs/cgroup")


def own_group() -> tuple[Path, str]:
    """The folder of the control group that counts our memory, and its file of the limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            found = ROOT / "memory" / group[1:]  # in a container, often a name of the host's
            return found if found.exists() else ROOT / "memory", "memory.limit_in_bytes"
    return ROOT, "memory.max"


@contextmanager
def memory_group(most: int) -> Iterator[Path]:
    """A control group that may take so many bytes, to be given processes by its `cgroup.procs`."""
    above, limit = own_group()
    group = above / f"certauth-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(most))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group for memory can be made here: {error}")
    try:
        yield group
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (above / "cgroup.procs").write_text(left)
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "nobody is in it", 30)
        group.rmdir()


@contextmanager
def mounted(place: Path, *how: str) -> Iterator[None]:
    """A file system mounted at `place` by mount(8) with `how`."""
    done = subprocess.run(["mount", *how, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
