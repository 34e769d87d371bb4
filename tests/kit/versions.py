"""Earlier versions, built from the history of this repository."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.kit.support import ROOT

FIRST_RELEASE = "0c758e8"  # 0.1.0, which says no version and no protocol


def module_of(commit: str) -> Path:
    """The module of a commit; made once. Skips where there is no history, as in an archive."""
    folder = ROOT / "build" / "versions" / commit
    module = folder / "module" / "certauth.so"
    if not module.exists():
        packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
        if packed.returncode:
            pytest.skip(f"no commit {commit} here: {packed.stderr.decode().strip()}")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
            tar.extractall(folder, filter="data")
        made = subprocess.run(
            [sys.executable, "build.py"], cwd=folder, capture_output=True, text=True
        )
        assert made.returncode == 0, made.stderr
    return module
