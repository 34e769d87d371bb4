"""What people install: wheel and sdist of the control plane, the module's Debian package."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.service import Config
from control.service.conf_files import directives
from control.service.redis_conf import Files, edited
from tests.kit.node import Start, load, usual, who
from tests.kit.plane import Https
from tests.kit.rest import ADMIN
from tests.kit.servers import Server
from tests.kit.support import ROOT, Pki, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return str(done.stdout)


# ---- The control plane ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist, and the wheel that was built from it, of a tree without products."""
    tree, out = tmp_path_factory.mktemp("tree") / "src", tmp_path_factory.mktemp("dist")
    products = shutil.ignore_patterns(".*", "build", "*.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=products)
    run(Path(sys.executable).parent / "pyproject-build", "--outdir", out, tree)
    return out


@pytest.fixture(scope="module")
def installed_command(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`redis-certauth` of the wheel, in an empty venv."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    (wheel,) = built.glob("*.whl")
    run(folder / "bin/pip", "install", "--quiet", wheel, timeout=300)
    run(folder / "bin/pip", "check")
    return folder / "bin" / "redis-certauth"


def test_the_sdist_holds_sources_alone(built: Path) -> None:
    """All that build.py compiles is in it, and nothing that it makes."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "module").glob("*.[ch]")}
    assert sources | {"build.py", "setup.py", "pyproject.toml", "LICENSE"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".key", ".db"))]


def test_the_wheel_holds_the_control_plane_alone(built: Path) -> None:
    """Every file of control/, the core among them, for every Python from 3.11 on."""
    (wheel,) = built.glob("*.whl")
    assert f"redis_certauth-{VERSION}-cp311-abi3-linux_" in wheel.name
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "control").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == files | {"control/_core.abi3.so"}


@pytest.fixture
def home(installed_command: Path, tmp_path: Path) -> Iterator[Config]:
    """What the installed command has made, and serves."""
    config = Config(tmp_path / "home", "localhost", free_port())
    name, password = ADMIN
    init = [installed_command, "init", "--home", config.home, "--admin", name, "--password-stdin"]
    run(*init, input=password, cwd=tmp_path)
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [installed_command, "serve", "--home", config.home],
        env={"CERTAUTH_PORT": str(config.port), "CERTAUTH_HOST": "127.0.0.1"},
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        wait_until(lambda: "listens on" in (tmp_path / "log").read_text(), "it serves", 30)
        yield config
    finally:
        process.terminate()
        assert process.wait(20) == 0
        log.close()


def test_the_installed_command_works(installed_command: Path, home: Config, pki: Pki) -> None:
    """In an empty venv it is of this version, serves, and its core decides as that of the tree."""
    assert run(installed_command, "--version").strip().endswith(VERSION)
    with Https(home) as ask:
        assert ask("GET /v1/cluster").status == 200
        answer = ask("POST /v1/certauth/explain", {"certificate": pki.alice.pem.decode()})
        assert (answer.json["action"], answer.json["reason"]) == ("refuse", "untrusted_issuer")


# ---- The module ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .deb that `make deb` makes."""
    return Path(run(ROOT / ".ci/deb", tmp_path_factory.mktemp("deb")).strip())


def test_the_package_says_what_it_is(package: Path) -> None:
    """Name, version, and the libraries that the module is linked with."""
    said = run("dpkg-deb", "--info", package)
    assert "Package: redis-certauth-module\n" in said
    assert f" Version: {VERSION}\n" in said
    depends = re.search(r"^ Depends: (.*)$", said, re.MULTILINE)
    assert depends
    assert {one.split()[0] for one in depends[1].split(", ")} >= {"libc6"}
    assert "libssl3" in depends[1]


def test_it_brings_lines_to_append_and_its_documentation(package: Path, tmp_path: Path) -> None:
    """The lines are what `node enrol` writes, no file in /etc: nothing is changed by itself."""
    run("dpkg-deb", "--extract", package, tmp_path)
    assert not (tmp_path / "etc").exists()
    text = (tmp_path / "usr/share/redis-certauth-module/certauth.conf").read_text()
    journal, bootstrap = Path("/var/lib/redis/certauth"), Path("/etc/redis/certauth-bootstrap")
    files = Files(Path("/usr/lib/redis/modules/certauth.so"), journal, bootstrap)
    said = [" ".join(line.words) for line in directives(text)]
    assert sorted(said) == sorted(files.lines)
    assert edited(text, files) == text
    assert (tmp_path / "usr/share/doc/redis-certauth-module/module.md").exists()


def test_a_removal_warns_where_a_configuration_loads_it(tmp_path: Path) -> None:
    """The server would not start again; other configurations are not a reason to say anything."""
    prerm, etc = ROOT / "packaging/prerm-module", tmp_path / "etc/redis"
    etc.mkdir(parents=True)

    def warned(what: str) -> str:
        done = subprocess.run(
            [prerm, what], capture_output=True, text=True, check=True,
            env={**os.environ, "CERTAUTH_ROOT": str(tmp_path)},
        )  # fmt: skip
        return done.stderr

    (etc / "redis.conf").write_text("# loadmodule /usr/lib/redis/modules/certauth.so journal /j\n")
    assert warned("remove") == ""
    (etc / "redis.conf").write_text("loadmodule /usr/lib/redis/modules/certauth.so journal /j\n")
    assert "/etc/redis/redis.conf loads the module" in warned("remove")
    assert warned("upgrade") == ""


def test_a_server_loads_the_installed_module(
    package: Path, start: Start, installed: Server, pki: Pki, tmp_path: Path
) -> None:
    """dpkg puts it where the snippet says, below another root here; alice is in."""
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").touch()
    run("dpkg", f"--root={tmp_path}", "--force-depends", "--force-not-root",
        "--log=/dev/null", "--install", package)  # fmt: skip
    snippet = (tmp_path / "usr/share/redis-certauth-module/certauth.conf").read_text()
    line = re.search(r"^loadmodule (\S+) journal ", snippet, re.MULTILINE)
    assert line
    module = tmp_path / line[1].removeprefix("/")
    assert (tmp_path / "usr/lib/valkey/modules/certauth.so").resolve() == module
    server = start(installed, module=None, config=[f"loadmodule {module} journal journal"])
    load(server.admin(), 1, usual(pki))
    assert (who(server, pki.alice), who(server, pki.bob)) == ("alice", None)


# ---- The control plane's package ----------------------------------------------------------------


def test_the_control_planes_package_runs(tmp_path: Path) -> None:
    """Its command finds the packages that it brings, beside the unit, its user and the pages."""
    package = Path(run(ROOT / ".ci/deb-control", tmp_path, timeout=390).strip().splitlines()[-1])
    assert package.name.startswith(f"redis-certauth_{VERSION}_")
    said = run("dpkg-deb", "--info", package)
    major, minor = sys.version_info[:2]
    assert f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})" in said
    root = tmp_path / "root"
    run("dpkg-deb", "--extract", package, root)
    for name in (
        "usr/lib/systemd/system/redis-certauth.service",
        "usr/lib/sysusers.d/redis-certauth.conf",
        "usr/share/doc/redis-certauth/operating.md",
        "usr/share/man/man1/redis-certauth.1.gz",
        "usr/share/man/man1/redis-certauth-user.1.gz",
    ):
        assert (root / name).is_file(), name
    assert not list(root.rglob("__pycache__"))
    script = (root / "usr/bin/redis-certauth").read_text()
    script = script.replace("/usr/lib/redis-certauth", str(root / "usr/lib/redis-certauth"))
    version = run(sys.executable, "-EsP", "-c", script, "--version", cwd=tmp_path)
    assert version.strip().endswith(VERSION)


# ---- Both ----------------------------------------------------------------------------------------


def made_in(tree: Path, umask: int) -> dict[str, str]:
    """The hashes of what is released of a copy of the tree, whose modes that umask has left."""
    products = shutil.ignore_patterns(
        ".git", ".venv", ".*cache", "build", "*.so", "*.egg-info", "__pycache__"
    )
    shutil.copytree(ROOT, tree, ignore=products)
    for path in tree.rglob("*"):
        path.chmod(path.stat().st_mode & ~umask)
        path.touch()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    build = Path(sys.executable).parent / "pyproject-build"
    for command in (
        [sys.executable, "build.py"],
        [tree / ".ci/deb", "out"],
        [build, "--no-isolation", "--outdir", "out"],
    ):
        run(*command, cwd=tree, env=environment, umask=umask)
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tree / "out").iterdir()
    }


def test_two_builds_of_a_package_are_the_same_bytes(tmp_path: Path) -> None:
    """In folders of different names and depths, one after the other, with different umasks."""
    first = made_in(tmp_path / "a", 0o022)
    assert {Path(name).suffix for name in first} == {".deb", ".whl", ".gz"}
    assert first == made_in(tmp_path / "somewhere" / "else", 0o077)


def test_what_is_released_has_the_time_of_its_commit(tmp_path: Path) -> None:
    """git's, or that of the files where git has packed them; or as the environment says."""
    for name in ("Makefile", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    os.utime(tmp_path / "CHANGELOG.md", (1700000001, 1700000001))

    def times(**environment: str) -> list[str]:
        given = {"PATH": os.environ["PATH"], "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
        said = run("make", "--dry-run", "dist", "deb", cwd=tmp_path, env={**given, **environment})
        return re.findall(r"^SOURCE_DATE_EPOCH=(\S*) \S+", said, re.MULTILINE)

    assert times() == ["1700000001"] * 3
    person = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    commit = {**os.environ, "GIT_AUTHOR_DATE": "@1700000002 +0000"}
    commit["GIT_COMMITTER_DATE"] = "@1700000003 +0000"
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", *person, "commit", "--quiet", "--allow-empty", "--message", "one", cwd=tmp_path,
        env=commit)  # fmt: skip
    assert times() == ["1700000003"] * 3
    assert times(SOURCE_DATE_EPOCH="1700000004") == ["1700000004"] * 3
