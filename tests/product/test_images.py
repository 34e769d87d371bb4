"""What is around the images, without an engine: how the control plane's one starts, its list of
packages, its labels, and the command that pins its bases."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.kit.support import ROOT

HOME = "/var/lib/certauth"


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """A PATH with the entrypoint, whose control plane lives in `home`, and a `redis-certauth` that
    writes down how it was called; `init` makes the key."""
    (tmp_path / "home").mkdir()
    text = (ROOT / "packaging/control-entrypoint").read_text()
    assert text.count(HOME) == 1
    (tmp_path / "entrypoint").write_text(text.replace(HOME, f"{tmp_path}/home"))
    (tmp_path / "redis-certauth").write_text(
        "#!/bin/sh\n"
        f'echo "$@" >>{tmp_path}/calls\n'
        f"env >{tmp_path}/environment\n"
        f'[ "$1" != init ] || {{ cat >{tmp_path}/password; [ ! -e {tmp_path}/fails ] || exit 1; '
        f": >{tmp_path}/home/ca.key; }}\n"
    )
    for name in ("entrypoint", "redis-certauth"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "secret").write_text("a long password\n")
    return tmp_path


def start(control: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [control / "entrypoint", *words], capture_output=True, text=True,
        env={"PATH": f"{control}:/usr/bin:/bin", **environment},
    )  # fmt: skip


def calls(control: Path) -> list[str]:
    file = control / "calls"
    return file.read_text().splitlines() if file.exists() else []


SERVE = ("serve", "--home", HOME)


def test_a_first_start_makes_a_control_plane(control: Path) -> None:
    """Once; what said how is not seen by what runs then."""
    given = {
        "CERTAUTH_INIT_PASSWORD_FILE": f"{control}/secret",
        "CERTAUTH_INIT_API_NAMES": "control.example 10.0.0.1",
        "CERTAUTH_INIT_NAME": "acme",
        "CERTAUTH_INIT_ADMIN": "root",
    }
    for _ in range(2):
        assert start(control, *SERVE, **given).returncode == 0
    assert calls(control) == [
        f"init --home {control}/home --name acme --admin root --api-name control.example "
        "--api-name 10.0.0.1 --password-stdin",
        " ".join(SERVE),
        " ".join(SERVE),
    ]
    assert (control / "password").read_text() == "a long password\n"
    assert "CERTAUTH_INIT" not in (control / "environment").read_text()
    assert [path.name for path in (control / "home").iterdir()] == ["ca.key"]


def test_without_the_password_nothing_is_made(control: Path) -> None:
    """`serve` says itself what is missing; a file that cannot be read ends the start."""
    assert start(control, *SERVE).returncode == 0
    assert calls(control) == [" ".join(SERVE)]
    done = start(control, *SERVE, CERTAUTH_INIT_PASSWORD_FILE=f"{control}/none")
    assert done.returncode == 64
    assert "cannot read" in done.stderr
    assert calls(control) == [" ".join(SERVE)]


def test_another_command_makes_nothing(control: Path) -> None:
    given = {"CERTAUTH_INIT_PASSWORD_FILE": f"{control}/secret"}
    assert start(control, "status", "--wait", "5", **given).returncode == 0
    assert calls(control) == ["status --wait 5"]


def test_an_interrupted_first_start_begins_again(control: Path) -> None:
    """The database of the half-made control plane goes; that of a whole one never does."""
    given = {"CERTAUTH_INIT_PASSWORD_FILE": f"{control}/secret"}
    (control / "fails").touch()
    (control / "home/control.db").write_text("kept: it is of nobody's first start")
    assert start(control, *SERVE, **given).returncode == 1
    assert (control / "home/control.db").exists()
    (control / "fails").unlink()
    assert start(control, *SERVE, **given).returncode == 0
    assert not (control / "home/control.db").exists()
    assert not (control / "home/first-start").exists()
    (control / "home/control.db").write_text("whole")
    assert start(control, *SERVE, **given).returncode == 0
    assert (control / "home/control.db").read_text() == "whole"


def test_the_list_of_packages_names_each_with_its_version(tmp_path: Path) -> None:
    """SPDX, as scanners read it; two lists of the same packages are the same."""
    folder = tmp_path / "Some_Thing-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.2\nLicense-Expression: MIT\n"
    )
    command = [sys.executable, ROOT / "packaging/sbom", tmp_path]
    made = [
        json.loads(subprocess.check_output(command, env={"SOURCE_DATE_EPOCH": "86400"}))
        for _ in range(2)
    ]
    assert made[0] == made[1]
    assert made[0]["spdxVersion"] == "SPDX-2.3"
    assert made[0]["creationInfo"]["created"] == "1970-01-02T00:00:00Z"
    (package,) = made[0]["packages"]
    assert (package["name"], package["versionInfo"]) == ("Some_Thing", "1.2")
    assert package["licenseDeclared"] == "MIT"
    assert package["externalRefs"][0]["referenceLocator"] == "pkg:pypi/some-thing@1.2"


def test_the_images_have_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^ARG VERSION=(.*)$", text, re.MULTILINE)) == {version}
    assert text.count("image.version=") == text.count("image.licenses=") == 3


DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A Dockerfile, the command that pins its bases, and an engine that pulls everything."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/bases").write_text((ROOT / ".ci/bases").read_text())
    (tmp_path / "Dockerfile").write_text((ROOT / "Dockerfile").read_text())
    (tmp_path / "docker").write_text(
        '#!/bin/sh\n[ "$1" != pull ] || exit 0\n'
        f'for tag; do :; done; echo "${{tag%%:*}}@{DIGEST}"\n'
    )
    for name in (".ci/bases", "docker"):
        (tmp_path / name).chmod(0o755)
    return tmp_path


def pin(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / ".ci/bases"], capture_output=True, text=True,
        env={"PATH": f"{checkout}:/usr/bin:/bin"},
    )  # fmt: skip


def test_the_bases_are_pinned_by_digest(checkout: Path) -> None:
    """The tag stays readable before the digest; a second time nothing changes; nothing else of the
    Dockerfile does."""
    before = (checkout / "Dockerfile").read_text()
    assert pin(checkout).returncode == 0
    pinned = (checkout / "Dockerfile").read_text()
    for argument in ("SERVER_IMAGE", "PYTHON_IMAGE"):
        assert re.search(rf"^ARG {argument}=[^@\s]+:[^@\s]+@{DIGEST}$", pinned, re.MULTILINE)
    assert pinned.replace(f"@{DIGEST}", "") == re.sub(r"(?<=\S)@sha256:\w{64}", "", before)
    assert pin(checkout).stdout.count("as it was") == 2
    assert (checkout / "Dockerfile").read_text() == pinned


@pytest.mark.parametrize(
    ("engine", "reason"),
    [("exit 1", "cannot be pulled"), ('[ "$1" = pull ] || echo', "comes from no registry")],
)
def test_what_has_no_digest_is_not_pinned(checkout: Path, engine: str, reason: str) -> None:
    before = (checkout / "Dockerfile").read_text()
    (checkout / "docker").write_text(f"#!/bin/sh\n{engine}\n")
    done = pin(checkout)
    assert done.returncode == 1
    assert reason in done.stderr
    assert (checkout / "Dockerfile").read_text() == before
