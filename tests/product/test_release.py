"""A release: the version stands in pyproject.toml and everywhere else the same, and `make release`
builds and checks all that would be published."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from control.policy import core
from tests.kit.pages import page
from tests.kit.support import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# Where a version of ours stands, beside pyproject.toml, and how.
PLACES = {
    "Dockerfile": r"^ARG VERSION=(.*)$",
    "packaging/kubernetes/base/kustomization.yaml": r"newTag: ([\w.-]+)",
    "packaging/kubernetes/module/kustomization.yaml": r"newTag: ([\w.-]+)",
    "docs/kubernetes.md": r"certauth-(?:control|server|module):(\d[\w.-]*)",
}


@pytest.mark.parametrize("name", PLACES)
def test_the_version_is_the_same_everywhere(name: str) -> None:
    """pyproject.toml owns it: what cannot read it there repeats it."""
    assert set(re.findall(PLACES[name], page(name), re.MULTILINE)) == {VERSION}


def test_the_version_has_its_notes_and_its_row() -> None:
    """How to upgrade to it and its limits come first in its changelog; docs/servers.md has what it
    speaks."""
    notes = re.split(rf"^## \[{re.escape(VERSION)}\].*$", page("CHANGELOG.md"), flags=re.M)[1]
    notes = re.split(r"^### ", notes, flags=re.M)[0]
    assert re.findall(r"^\*\*(.+?)\.?\*\*", notes, re.M) == ["Upgrade from 0.1.0", "Known limits"]
    assert len(notes.split()) < 400  # two minutes
    assert f"| {VERSION} | {core.PROTOCOL} | " in page("docs/servers.md")


# ---- What may be released ------------------------------------------------------------------------

Git = Callable[..., str]
CHANGES = f"## [Unreleased]\n\n## [{VERSION}] - 2026-12-01\n\n### Added\n\n* All.\n"


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "core.hooksPath=/dev/null")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A commit with the tag of its version and a changelog."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/release", tmp_path / ".ci")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def commit(tree: Path) -> None:
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "x", "--allow-empty")
    git(tree, "tag", "-f", f"v{VERSION}")


def ready(tree: Path) -> tuple[int, str]:
    done = subprocess.run([tree / ".ci/release", "ready"], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_commit_with_its_tag_and_notes_may_be_released(tree: Path) -> None:
    assert ready(tree) == (0, f"release: {VERSION} may be released\n")


def test_what_may_not_be_released_is_said(tree: Path) -> None:
    """A file that no commit has; another tag; a changelog without the version, or with entries that
    belong to it."""
    (tree / "new").write_text("")
    assert ready(tree) == (
        1, "release: the tree is not clean: commit or remove what git status names\n"
    )  # fmt: skip
    commit(tree)
    git(tree, "tag", "-d", f"v{VERSION}")
    git(tree, "tag", f"v{VERSION}0")
    code, said = ready(tree)
    assert (code, said.startswith(f"release: this commit has no tag v{VERSION}: ")) == (1, True)
    for text, problem in (
        (CHANGES.replace(VERSION, "9.9.9"), f"CHANGELOG.md has no section '## [{VERSION}] - DATE'"),
        (CHANGES.replace(" - 2026-12-01", ""), "CHANGELOG.md has no section"),
        (CHANGES.replace("d]\n", "d]\n\n### Fixed\n\n* It.\n", 1), "entries under Unreleased"),
    ):
        (tree / "CHANGELOG.md").write_text(text)
        commit(tree)
        code, said = ready(tree)
        assert (code, problem in said) == (1, True), said


# ---- All of it -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_make_release_builds_and_checks_all_of_it(tmp_path: Path) -> None:
    """In a clone of what is tracked here, with the tag; then a wheel that was changed behind the
    build is refused."""
    if not (ROOT / ".git").exists():
        pytest.skip("an archive without git")
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    tree = tmp_path / "tree"
    for name in names:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    git(tree, "init", "-q")
    commit(tree)
    made = subprocess.run(
        ["make", "release", f"PYTHON={sys.executable}"], cwd=tree, capture_output=True, text=True,
        env={name: os.environ[name] for name in os.environ if not name.startswith("CERTAUTH_")},
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    assert made.stdout.endswith("Nothing was published.\n")
    dist = tree / "build/dist"
    sums = dict(reversed(line.split()) for line in (dist / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == {one.name for one in dist.iterdir()} - {"SHA256SUMS"}
    assert len(sums) == 4
    assert (tree / "build/site/html/index.html").exists()
    (wheel,) = dist.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes().replace(b"redis_certauth-0", b"redis_certauth-9"))
    check = [sys.executable, tree / ".ci/released", VERSION, dist]
    assert subprocess.run(check, capture_output=True).returncode == 1
