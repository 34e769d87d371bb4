"""A container engine, and the images that ours are built on, for the tests marked `docker`.

`python -m tests.kit.engine` runs those tests on the engine that answers (DOCKER_HOST, or the usual
socket), or on a dockerd of its own, with its data in build/docker, which it stops afterwards. A
base image that cannot be pulled is made by debootstrap, from the mirror that this machine's apt
uses, and imported under its name: Debian's build of the same programs, in the same places.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound

from tests.kit.servers import KEYRING, Unavailable, mirror, run

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / "build" / "docker"
BUILD_IMAGE = "redis-certauth-build"  # what this machine's mirrors and proxies are known to
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
DEADLINE = 60.0  # seconds until a dockerd answers


def defaults() -> dict[str, str]:
    """The base images that the Dockerfile names, without digests: PYTHON_IMAGE, SERVER_IMAGE."""
    text = (ROOT / "Dockerfile").read_text()
    return dict(re.findall(r"^ARG (PYTHON_IMAGE|SERVER_IMAGE)=([^\s@]+)", text, re.MULTILINE))


PYTHON_IMAGE, VALKEY_IMAGE = defaults()["PYTHON_IMAGE"], defaults()["SERVER_IMAGE"]
REDIS_IMAGE = "redis:8.0-bookworm"


# ---- The engine ----------------------------------------------------------------------------------


def answers(host: str | None = None) -> bool:
    try:
        client = docker.DockerClient(base_url=host) if host else docker.from_env()
        with contextlib.closing(client):
            return bool(client.ping())
    except DockerException:
        return False


@contextmanager
def engine() -> Iterator[str | None]:
    """The DOCKER_HOST of an engine that answers; None where the environment leads to one. Raises
    Unavailable."""
    if answers():
        yield None
        return
    if not shutil.which("dockerd"):
        raise Unavailable("no container engine answers, and there is no dockerd to start")
    if os.geteuid():
        raise Unavailable("no container engine answers, and only root can start dockerd")
    STATE.mkdir(parents=True, exist_ok=True)
    # The path of a socket is at most 107 bytes long.
    with tempfile.TemporaryDirectory(prefix="certauth-docker") as name:
        host, log = f"unix://{name}/socket", STATE / "log"
        command = ["dockerd", "--host", host, "--data-root", str(STATE / "data")]
        command += ["--exec-root", f"{name}/exec", "--pidfile", f"{name}/pid"]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            end = time.monotonic() + DEADLINE
            while not answers(host):
                if process.poll() is not None or time.monotonic() > end:
                    last = (log.read_text().strip().splitlines() or ["nothing"])[-1]
                    raise Unavailable(f"dockerd does not start here; it said: {last}")
                time.sleep(0.1)
            yield host
        finally:
            process.terminate()
            process.wait()
            for left in Path(name).glob("exec/netns/*"):  # dockerd leaves it mounted
                subprocess.run(["umount", str(left)], check=False)


# ---- Base images ---------------------------------------------------------------------------------


def bases(client: docker.DockerClient) -> None:
    """Brings what the images are built on. Raises Unavailable."""
    if absent(client, PYTHON_IMAGE):
        with bootstrapped(
            "bookworm", "ca-certificates,openssl,netbase,tzdata,python3-venv,python3-dev"
        ) as root:
            stand_in(client, PYTHON_IMAGE, root)
    wanted = [image for image in (VALKEY_IMAGE, REDIS_IMAGE) if absent(client, image)]
    if wanted:
        with bootstrapped("trixie", "redis-tools,valkey-tools") as root:
            (root / "data").mkdir()
            os.chown(root / "data", 999, 999)
            for image in wanted:
                # Called by this name, the checker of each is its server.
                name = "valkey" if "valkey" in image else "redis"
                for link, program in (("server", "check-rdb"), ("cli", "cli")):
                    place = root / "usr/local/bin" / f"redis-{link}"
                    place.unlink(missing_ok=True)
                    place.symlink_to(f"/usr/bin/{name}-{program}")
                stand_in(client, image, root, "WORKDIR /data", "VOLUME /data")
    compiler(client)


def absent(client: docker.DockerClient, image: str) -> bool:
    """Whether an image is neither there nor to be pulled."""
    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            client.images.pull(image)
        except DockerException:
            return True
    return False


@contextmanager
def bootstrapped(suite: str, packages: str) -> Iterator[Path]:
    """A minimal Debian with these packages, which does not know where they came from."""
    if not shutil.which("debootstrap"):
        raise Unavailable("a base image cannot be pulled, and there is no debootstrap to make it")
    with tempfile.TemporaryDirectory(dir=STATE.parent, prefix="root") as name:
        root = Path(name)
        print(f"{suite}: no base image to be pulled, so debootstrap makes one", flush=True)
        checked = [f"--keyring={KEYRING}"] if KEYRING.exists() else []
        run("debootstrap", "--variant=minbase", *checked, f"--include={packages}", suite, name,
            mirror())  # fmt: skip
        (root / "etc/apt/sources.list").write_text("")
        for left in ("var/lib/apt/lists", "var/cache/apt"):
            shutil.rmtree(root / left)
        yield root


def stand_in(client: docker.DockerClient, image: str, root: Path, *changes: str) -> None:
    name, _, tag = image.partition(":")
    with tempfile.TemporaryFile(dir=STATE.parent) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(root, arcname=".")
        file.seek(0)
        client.api.import_image_from_data(file, repository=name, tag=tag, changes=list(changes))


def compiler(client: docker.DockerClient) -> None:
    """BUILD_IMAGE: the base of Python with what this machine knows of mirrors and authorities.
    Nothing of it is in a result."""
    files = {"Dockerfile": f"FROM {PYTHON_IMAGE}\nCOPY etc /etc\n", "etc/pip.conf": pip_settings()}
    if CERTIFICATES.exists():
        files["etc/ssl/certs/ca-certificates.crt"] = CERTIFICATES.read_text()
    with contextlib.suppress(Unavailable):  # not a Debian: the base has its own mirror
        files["etc/apt/sources.list"] = f"deb {mirror()} bookworm main\n"
    client.images.build(
        fileobj=packed(files), custom_context=True, tag=BUILD_IMAGE, network_mode="host"
    )


def pip_settings() -> str:
    """This machine's, without what lies on its disk."""
    found = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    lines = ["[global]"]
    for name, value in re.findall(r"^global\.(\S+)='(.*)'$", found.stdout, re.MULTILINE):
        if name in {"index-url", "extra-index-url", "trusted-host"} and "file:" not in value:
            lines.append(f"{name} = {value}")
    return "\n".join([*lines, f"cert = {CERTIFICATES}"]) + "\n"


def packed(files: dict[str, str], owner: int = 0, mode: int = 0o644) -> io.BytesIO:
    """A tar archive of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            entry.uid = entry.gid = owner
            archive.addfile(entry, io.BytesIO(content))
    packed.seek(0)
    return packed


if __name__ == "__main__":
    try:
        with engine() as host:
            environment = {**os.environ, "DOCKER_HOST": host} if host else dict(os.environ)
            with contextlib.closing(docker.DockerClient.from_env(environment=environment)) as found:
                bases(found)
            tests = [sys.executable, "-m", "pytest", "-m", "docker", *sys.argv[1:]]
            sys.exit(subprocess.run(tests, cwd=ROOT, env=environment).returncode)
    except Unavailable as problem:
        sys.exit(f"test-docker: {problem}")
