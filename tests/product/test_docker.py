"""The two images and compose.yaml, on a container engine: `make test-docker`."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container
from docker.types import Healthcheck

from control.service import Config
from tests.kit.engine import BUILD_IMAGE, PYTHON_IMAGE, REDIS_IMAGE, VALKEY_IMAGE, packed
from tests.kit.plane import Https
from tests.kit.rest import ADMIN
from tests.kit.support import CLIENT, ROOT, SERVER, Cert, free_port, root, scratch, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

CONTROL, NODE = "redis-certauth-control", "redis-certauth-server"  # as compose.yaml names them
SERVERS = {"valkey": VALKEY_IMAGE, "redis": REDIS_IMAGE}
MACHINE = {"network_mode": "host", "rm": True}
HARDENED: dict[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
QUICK = Healthcheck(interval=500_000_000)  # ns
SOON = 60  # seconds
JOHN = "CN=John Doe, OU=Engineering, O=Acme"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    """That of `python -m tests.kit.engine`."""
    with contextlib.closing(docker.from_env(timeout=300)) as client:
        yield client


@pytest.fixture(scope="module")
def images(engine: docker.DockerClient) -> dict[str, str]:
    """Both targets, the server's on each base: name → tag."""
    made = {"control": CONTROL, "valkey": NODE, "redis": f"{NODE}-redis"}
    for name, tag in made.items():
        arguments = {"BUILD_IMAGE": BUILD_IMAGE}
        if name in SERVERS:
            arguments["SERVER_IMAGE"] = SERVERS[name]
        target = "control" if name == "control" else "server"
        engine.images.build(path=str(ROOT), tag=tag, target=target, buildargs=arguments, **MACHINE)
    return made


def ran(engine: docker.DockerClient, image: str, script: str, **options: Any) -> tuple[int, str]:
    """The exit status of a shell in a container of that image, and what it has printed."""
    container = engine.containers.create(
        image, ["-euc", script], entrypoint="sh", **{"user": "0", **options}
    )
    try:
        container.start()
        status = container.wait(timeout=SOON)["StatusCode"]
        return int(status), str(container.logs().decode())
    finally:
        container.remove(force=True, v=True)


def said(engine: docker.DockerClient, image: str, script: str, **options: Any) -> str:
    """What it prints, where it succeeds."""
    status, printed = ran(engine, image, script, **options)
    assert status == 0, printed
    return printed


# ---- What is in them -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["control", "valkey", "redis"])
def test_an_image_holds_what_runs_and_no_more(
    engine: docker.DockerClient, images: dict[str, str], name: str
) -> None:
    """No compiler, no source, no pip of ours; a user without rights; a health check."""
    config = engine.images.get(images[name]).attrs["Config"]
    assert config["User"] == "999:999"
    assert config["Healthcheck"]["Test"]
    assert list(config["Volumes"])[-1:] == ["/var/lib/certauth"]
    tools = "for one in cc gcc c++ as ld make; do command -v $one || true; done"
    assert said(engine, images[name], tools) == ""
    places = "/src /tools /opt/certauth/lib/*/site-packages/pip"
    left = f"for one in {places}; do ls -d $one 2>/dev/null || true; done"
    assert said(engine, images[name], left) == ""


@pytest.mark.parametrize("name", ["control", "valkey", "redis"])
def test_nothing_of_the_machine_is_baked_in(
    engine: docker.DockerClient, images: dict[str, str], name: str
) -> None:
    """/etc is the base's but for the server's configuration: no pip.conf, no mirror, no CA."""
    base = SERVERS.get(name, PYTHON_IMAGE)
    sums = "find /etc -xdev -type f -exec sha256sum {} + | grep -vE '/etc/(host|resolv)' | sort"
    before, after = (set(said(engine, one, sums).splitlines()) for one in (base, images[name]))
    assert {line.split()[1] for line in before ^ after} == (
        set() if name == "control" else {"/etc/certauth/redis.conf"}
    )
    history = json.dumps(engine.images.get(images[name]).history())
    assert BUILD_IMAGE not in history
    assert "BUILD_IMAGE" not in history


def test_its_releases_are_the_pinned_ones(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """What is installed stands in constraints.txt, which names no more."""
    script = (
        "python3 -c 'from importlib.metadata import distributions\n"
        'for one in distributions(): print(f"{one.name}=={one.version}")\''
    )
    installed = (
        said(engine, images["control"], script, user="999").lower().replace("_", "-").split()
    )
    lock = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    pinned = [line.split()[0] for line in lock.splitlines() if "==" in line]
    ours = {line for line in installed if not line.startswith("redis-certauth==")}
    assert set(pinned) - ours <= {"async-timeout==5.0.1"}  # which Python had from 3.11.3 on
    assert ours <= set(pinned)


def test_it_writes_nothing_outside_of_its_volume(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """The control plane's folder is made on a read-only file system, by its own user."""
    options: dict[str, Any] = {**HARDENED, "user": None}
    script = (
        "echo 'a long password' | redis-certauth init --home /var/lib/certauth --password-stdin"
    )
    assert "'admin'" in said(engine, images["control"], script, **options)
    as_root = {**options, "user": "0"}
    status, printed = ran(engine, images["control"], "echo x >/opt/certauth/x", **as_root)
    assert status
    assert "Read-only file system" in printed


# ---- The walk-through ----------------------------------------------------------------------------


@dataclass
class Site:
    """Containers of one network: a control plane and a server, each with its volumes."""

    engine: docker.DockerClient
    images: dict[str, str]
    server: str
    network: Any
    containers: dict[str, Container] = field(default_factory=dict)
    volumes: dict[str, Any] = field(default_factory=dict)
    ca: Cert = field(default_factory=lambda: root("CN=Acme Clients,O=Acme"))
    servers: Cert = field(default_factory=lambda: root("CN=Acme Servers,O=Acme"))

    def volume(self, name: str) -> str:
        if name not in self.volumes:
            self.volumes[name] = self.engine.volumes.create()
        return str(self.volumes[name].name)

    def mounts(self, **places: str) -> dict[str, dict[str, str]]:
        return {self.volume(name): {"bind": place, "mode": "rw"} for name, place in places.items()}

    # -- the control plane

    def init(self) -> None:
        script = (
            f"cd /var/lib/certauth; echo {shlex.quote(ADMIN[1])} | redis-certauth init --home . "
            f"--admin {ADMIN[0]} --api-name control --api-name localhost --password-stdin "
            ">/dev/null; cat ca.crt bootstrap"
        )
        volumes = self.mounts(control="/var/lib/certauth")
        text = said(self.engine, self.images["control"], script, user=None, volumes=volumes,
                    **HARDENED)  # fmt: skip
        certificate, end, bootstrap = text.partition("-----END CERTIFICATE-----\n")
        self.home = Path(tempfile.mkdtemp(dir=scratch()))
        (self.home / "ca.crt").write_text(certificate + end)
        node = self.servers.issue("CN=node", san=("dns:node",), eku=(SERVER, CLIENT))
        files = {"bootstrap": bootstrap, "server.crt": node.pem.decode(),
                 "server.key": node.key_pem.decode()}  # fmt: skip
        holder = self.engine.containers.create(
            self.images["control"], volumes=self.mounts(tls="/tls")
        )
        holder.put_archive("/tls", packed(files, owner=999, mode=0o600))
        holder.remove(v=False)

    def start(self, name: str) -> None:
        """A new container: all that it knows is in its volumes."""
        if name == "control":
            image, port, places = self.images["control"], 9443, {"control": "/var/lib/certauth"}
        else:
            image, port = self.images[self.server], 6379
            places = {"data": "/data", "policy": "/var/lib/certauth", "tls": "/tls"}
        self.containers[name] = self.engine.containers.run(
            image, name=f"{self.network.name}-{name}", hostname=name, detach=True,
            network=self.network.name, volumes=self.mounts(**places), healthcheck=QUICK,
            ports={f"{port}/tcp": ("127.0.0.1", None)},
            tmpfs={"/tmp": "", "/run/certauth": "uid=999,mode=700"}, **HARDENED,
        )  # fmt: skip
        self.network.disconnect(self.containers[name])
        self.network.connect(self.containers[name], aliases=[name])
        self.healthy(name)

    def healthy(self, name: str) -> None:
        def status() -> bool:
            container = self.containers[name]
            container.reload()
            assert container.status == "running", container.logs().decode()
            return bool(container.attrs["State"]["Health"]["Status"] == "healthy")

        wait_until(status, f"{name} is healthy", SOON)

    def kill(self, name: str) -> None:
        self.containers[name].kill()
        self.containers[name].wait()

    def revive(self, name: str) -> None:
        self.containers[name].start()
        self.healthy(name)

    def replace(self, name: str) -> None:
        self.containers.pop(name).remove(force=True)
        self.start(name)

    def end(self) -> None:
        for container in self.containers.values():
            container.remove(force=True, v=True)
        self.network.remove()
        for volume in self.volumes.values():
            volume.remove(force=True)

    # -- clients

    def port(self, name: str) -> int:
        container = self.containers[name]
        container.reload()
        ((bound,),) = (one for one in container.ports.values() if one)
        return int(bound["HostPort"])

    def api(self, request: str, body: Any = None, cert: Cert | None = None) -> Any:
        with Https(Config(self.home, "localhost", self.port("control")), cert) as ask:
            return ask(request, body)

    def ok(self, request: str, body: Any = None, cert: Cert | None = None) -> Any:
        answer = self.api(request, body, cert)
        assert answer.status == 200, answer.json
        return answer.json

    def redis(self, cert: Cert, *words: str) -> str:
        """What `redis-cli` prints, beside the server."""
        certificate, key = (Path(file).read_text() for file in cert.files)
        holder = self.engine.containers.create(
            self.images[self.server], network=self.network.name, entrypoint="redis-cli",
            command=["--tls", "-h", "node", "--cacert", "/data/ca", "--cert", "/data/crt",
                     "--key", "/data/key", *(words or ("ACL", "WHOAMI"))],
        )  # fmt: skip
        files = {"ca": self.servers.pem.decode(), "crt": certificate, "key": key}
        holder.put_archive("/data", packed(files, owner=999, mode=0o600))
        holder.start()
        holder.wait(timeout=SOON)
        printed = holder.logs().decode().strip()
        holder.remove(v=True)
        return str(printed)

    def active(self) -> int:
        """Waits until the node has the policy; its generation."""

        def status() -> bool:
            return all(one["status"] == "active" for one in self.ok("GET /v1/bdbs"))

        wait_until(status, "the node has the policy", SOON)
        return int(self.ok("GET /v1/bdbs")[0]["generation"])


@pytest.fixture(params=SERVERS)
def site(
    request: pytest.FixtureRequest, engine: docker.DockerClient, images: dict[str, str]
) -> Iterator[Site]:
    network = engine.networks.create(f"certauth-{os.getpid()}-{request.param}")
    made = Site(engine, images, request.param, network)
    try:
        yield made
    finally:
        made.end()


def test_the_walk_through_across_containers(site: Site) -> None:
    """CA, certificate login, database, user: john is in by REST and at the server, his twins are
    not; and so it stays when both are killed, and when new containers get the old volumes."""
    site.init()
    site.start("node")
    site.start("control")
    entry = {"CN": "John Doe", "OU": ["Engineering"], "O": "Acme"}
    gate = {"client_cert_subject_validation_type": "full_subject", "authorized_subjects": [entry]}
    site.ok("PUT /v1/cluster/update_cert",
            {"name": "mtls_trusted_ca", "certificate": site.ca.pem.decode()})  # fmt: skip
    site.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
    database = {
        "name": "orders",
        "endpoints": [{"addr": ["node"], "port": 6379}],
        "tls_mode": "enabled",
        "enforce_client_authentication": "enabled",
        "tls_server_ca": site.servers.pem.decode(),
        "roles_permissions": [{"role_uid": 1, "redis_acl_uid": 1}],
        **gate,
    }
    site.ok("POST /v1/bdbs", database)
    site.ok("POST /v1/users", {"name": "john", "auth_method": "certificate", "role": "admin",
                               "certificate_subject_line": JOHN})  # fmt: skip
    generation = site.active()
    john = site.ca.issue("CN=John Doe,OU=Engineering,O=Acme")
    mallory = site.ca.issue("CN=Mallory,OU=Engineering,O=Acme")
    stranger = root("CN=Acme Clients,O=Acme").issue("CN=John Doe,OU=Engineering,O=Acme")

    def holds() -> None:
        assert site.redis(john) == "john"
        assert site.redis(john, "GET", "order") == "paid"
        assert "closed the connection" in site.redis(mallory)
        assert "john" not in site.redis(stranger)
        assert site.ok("GET /v1/users/role", cert=john) == {"role": "admin"}
        assert site.api("GET /v1/users/role", cert=mallory).code == "no_binding"
        assert site.api("GET /v1/users/role", cert=stranger).code == "untrusted_issuer"
        assert site.active() == generation

    assert site.redis(john, "SET", "order", "paid") == "OK"
    assert site.redis(john, "SAVE") == "OK"
    holds()
    site.kill("control")
    site.kill("node")
    site.revive("node")
    assert site.redis(john) == "john"  # the node needs no control plane
    assert "closed the connection" in site.redis(mallory)
    site.revive("control")
    holds()
    site.replace("node")
    site.replace("control")
    holds()
    site.ok("DELETE /v1/users/2")
    wait_until(lambda: "closed the connection" in site.redis(john), "john is out", SOON)


# ---- However it is started -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(engine: docker.DockerClient, images: dict[str, str]) -> Iterator[str]:
    """A volume for /tls: a certificate, its key, and a bootstrap file that names nobody; and
    configurations: our lines, a bare one, and one that includes ours."""
    volume = engine.volumes.create()
    script = """
        cd /tls
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -keyout server.key -out server.crt -subj /CN=node 2>/dev/null
        echo '# nobody' >bootstrap
        echo 'port 6379' >bare.conf
        echo 'include /etc/certauth/redis.conf' >includes.conf
        chown 999:999 *
    """
    mounted = {volume.name: {"bind": "/tls", "mode": "rw"}}
    said(engine, images["control"], script, volumes=mounted)
    said(engine, images["valkey"], "cp /etc/certauth/redis.conf /tls/mine.conf", volumes=mounted)
    yield str(volume.name)
    volume.remove(force=True)


WAYS: dict[str, tuple[list[str], dict[str, Any], int | None]] = {
    # How it is called, how it is run: and with what it ends, None where it serves.
    "as it is": ([], {}, None),
    "options": (["--maxmemory", "1gb"], {}, None),
    "the server's name": (["redis-server"], {}, None),
    "its name and options": (["valkey-server", "--appendonly", "yes"], {}, None),
    "our configuration": (["redis-server", "/etc/certauth/redis.conf", "--save", ""], {}, None),
    "one of one's own": (["/tls/mine.conf"], {}, None),
    "a plain port": (["--port", "6380", "--protected-mode", "no"], {}, None),
    "the same port, plain": (["--port", "6379"], {}, 1),
    "read-only": ([], {**HARDENED}, None),
    "as root": (["--appendonly", "yes"], {"user": "0"}, None),
    "128 MB of memory": ([], {"mem_limit": "128m"}, None),
    "a bare configuration": (["/tls/bare.conf"], {}, 64),
    "one that includes ours": (["/tls/includes.conf"], {}, 64),
    "a Sentinel": (["redis-sentinel", "/tls/mine.conf"], {}, 64),
    "the same, by option": (["redis-server", "/tls/mine.conf", "--sentinel"], {}, 64),
    "no keys": ([], {"volumes": {}}, 1),
    "the module twice": (
        ["--loadmodule", "/usr/local/lib/certauth.so", "journal", "/data/j"], {}, 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("way", WAYS)
def test_however_it_is_started_it_enforces_or_does_not_run(
    engine: docker.DockerClient, images: dict[str, str], keys: str, name: str, way: str
) -> None:
    """With the module, TLS and nobody as `default`; or it ends and says why."""
    words, options, ends = WAYS[way]
    container = engine.containers.create(
        images[name], words, healthcheck=QUICK,
        **{"volumes": {keys: {"bind": "/tls", "mode": "rw"}},
           "tmpfs": {"/run/certauth": "uid=999,mode=700"}, **options},
    )  # fmt: skip
    try:
        container.start()
        if ends is not None:
            status = container.wait(timeout=SOON)["StatusCode"]
            assert (status, bool(container.logs())) == (ends, True)
            return
        health(container, "healthy")
        probe = """
            s=/run/certauth/redis.sock
            redis-cli -s $s CERTAUTH.WHOAMI | grep reason
            redis-cli -s $s PING; redis-cli PING; redis-cli -p 6380 SET x 1
            redis-cli --tls --insecure PING
        """
        printed = container.exec_run(["sh", "-c", probe]).output.decode()
        assert "reason" in printed, "the module answers"
        assert "PONG" not in printed
        assert "OK" not in printed
        assert "NOAUTH" in printed
    finally:
        container.remove(force=True, v=True)


def health(container: Container, wanted: str) -> str:
    """Waits until the engine says so; what the check has said last."""

    def is_wanted() -> bool:
        container.reload()
        assert container.status == "running", container.logs().decode()
        return bool(container.attrs["State"]["Health"]["Status"] == wanted)

    wait_until(is_wanted, f"it is {wanted}", SOON)
    return str(container.attrs["State"]["Health"]["Log"][-1]["Output"])


def test_a_base_without_a_server_is_none(engine: docker.DockerClient) -> None:
    """The build fails, and says what is missing."""
    arguments = {"BUILD_IMAGE": BUILD_IMAGE, "SERVER_IMAGE": PYTHON_IMAGE}
    with pytest.raises(docker.errors.BuildError) as failed:
        engine.images.build(path=str(ROOT), target="server", buildargs=arguments, **MACHINE)
    log = "".join(str(line.get("stream", "")) for line in failed.value.build_log)
    assert "there is no server in this image" in log


@pytest.mark.parametrize("name", SERVERS)
def test_a_damaged_journal_and_a_loading_server_are_no_health(
    engine: docker.DockerClient, images: dict[str, str], keys: str, name: str
) -> None:
    """Each is told by the check; the server is alive all the same."""
    policy = engine.volumes.create()
    mounts = {
        keys: {"bind": "/tls", "mode": "ro"},
        policy.name: {"bind": "/var/lib/certauth", "mode": "rw"},
    }
    tmpfs = {"/run/certauth": "uid=999,mode=700"}
    damage = "mkdir -p /p/journal; echo damage >/p/journal/policy; chown -R 999:999 /p/journal"
    said(engine, images[name], damage, volumes={policy.name: {"bind": "/p", "mode": "rw"}})
    container = engine.containers.run(
        images[name], detach=True, volumes=mounts, tmpfs=tmpfs, healthcheck=QUICK
    )
    try:
        assert "the journal is damaged" in health(container, "unhealthy")
        assert container.exec_run(["certauth-health", "live"]).exit_code == 0
    finally:
        container.remove(force=True)
        policy.remove(force=True)
    data = engine.volumes.create()
    filled = {"/data": data.name}
    script = """
        redis-server --port 7000 --enable-debug-command yes --save '' --dir /data \
            --daemonize yes >/dev/null
        until redis-cli -p 7000 DEBUG POPULATE 20000 >/dev/null 2>&1; do :; done
        redis-cli -p 7000 SAVE
        chown 999:999 /data/*
    """
    volumes = {volume: {"bind": place, "mode": "rw"} for place, volume in filled.items()}
    said(engine, images[name], script, volumes=volumes)
    container = engine.containers.run(
        images[name], ["--key-load-delay", "10000", "--loading-process-events-interval-bytes",
                       "1024"], detach=True, tmpfs=tmpfs, healthcheck=QUICK,
        volumes={**volumes, keys: {"bind": "/tls", "mode": "ro"}},
    )  # fmt: skip
    try:
        assert "loads its data" in health(container, "unhealthy")
        assert container.exec_run(["certauth-health", "live"]).exit_code == 0
    finally:
        container.remove(force=True)
        data.remove(force=True)


def test_the_control_planes_health_is_that_of_its_port(
    engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """Of certauth.toml too. It makes itself at the first start, and what it runs is compiled."""
    volume = engine.volumes.create()
    mounted = {volume.name: {"bind": "/var/lib/certauth", "mode": "rw"}}
    script = "echo 'port = 9555' >certauth.toml; echo 'a long password' >password; chown 999 *"
    said(engine, images["control"], f"cd /var/lib/certauth; {script}", volumes=mounted)
    container = engine.containers.run(
        images["control"], detach=True, volumes=mounted, healthcheck=QUICK, tmpfs={"/tmp": ""},
        environment={"CERTAUTH_INIT_PASSWORD_FILE": "/var/lib/certauth/password"}, **HARDENED,
    )  # fmt: skip
    try:
        health(container, "healthy")
        assert "https://0.0.0.0:9555" in container.logs().decode()
        compiled = "ls /opt/certauth/lib/python3*/site-packages/sqlalchemy/__pycache__/*.pyc"
        assert container.exec_run(["sh", "-c", compiled]).exit_code == 0
        listed = container.exec_run(["cat", "/usr/share/doc/redis-certauth/sbom.spdx.json"]).output
        assert {"redis-certauth", "SQLAlchemy"} <= {
            one["name"] for one in json.loads(listed)["packages"]
        }
    finally:
        container.remove(force=True)
        volume.remove(force=True)


# ---- docs/images.md, word by word ----------------------------------------------------------------

# `docker build` with what this machine's mirrors are known to; docker-compose where compose is no
# plugin.
SHIM = """#!/bin/sh
case $1 in
build) shift; exec {docker} build --network host --build-arg BUILD_IMAGE={build} "$@" ;;
compose) shift
    [ "$1" != run ] || {{ shift; set -- run -T "$@"; }}
    exec {compose} "$@" ;;
esac
exec {docker} "$@"
"""


@pytest.mark.timeout(1800)
def test_the_page_does_what_it_says(
    engine: docker.DockerClient, images: dict[str, str], tmp_path: Path
) -> None:
    """Both blocks of commands, as they stand but for the ports of this machine: alice and bob are
    in, nobody is not."""
    page = (ROOT / "docs/images.md").read_text()
    compose, by_hand = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[:2]
    shim = tmp_path / "bin/docker"
    shim.parent.mkdir()
    docker_command = shutil.which("docker")
    shim.write_text(SHIM.format(docker=docker_command, build=BUILD_IMAGE,
                                compose=shlex.join(compose_command())))  # fmt: skip
    shim.chmod(0o755)
    api, server = free_port(), free_port()
    ports = {name: str(free_port()) for name in ("API_PORT", "UI_PORT", "REDIS_PORT")}
    environment = {
        **os.environ, **ports, "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "CHECKOUT": str(ROOT), "BUILD_IMAGE": BUILD_IMAGE, "DOCKER_BUILDKIT": "0",
        "PYTHON_IMAGE": PYTHON_IMAGE, "SERVER_IMAGE": VALKEY_IMAGE, # old ones pass on empty words
        "COMPOSE_PROJECT_NAME": f"certauth-page-{os.getpid()}",
    }  # fmt: skip

    def follow(text: str, folder: Path, seconds: int) -> list[str]:
        text = text.replace(":9443:9443", f":{api}:9443").replace(
            "localhost:9443", f"localhost:{api}"
        )
        text = text.replace(":6379:6379", f":{server}:6379")
        done = subprocess.run(["sh", "-euc", text], cwd=folder, env=environment, text=True,
                              capture_output=True, timeout=seconds)  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return (done.stdout + done.stderr).splitlines()

    here = subprocess.run([docker_command, "ps", "--all", "--format", "{{.Names}}"],
                          capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    assert not {"certauth-control", "certauth-node"} & set(here), "the page's containers are there"
    try:
        printed = follow(by_hand, tmp_path, 900)
        assert printed[-1] == "bob" or "bob" in printed
        printed = follow(compose, ROOT, 900)
        assert {"OK", "paid"} <= {line.strip('"') for line in printed}
        assert any("closed the connection" in line for line in printed)
    finally:
        ends = [
            "docker rm --force certauth-control certauth-node",
            "docker network rm certauth",
            "docker volume rm certauth-plane certauth-tls certauth-data certauth-policy "
            "certauth-bob",
            "docker compose down --volumes --timeout 3",
        ]
        flat = " ".join(page.split())
        assert all(end in flat for end in ends[:3])
        for end in ends:
            subprocess.run(["sh", "-c", end], cwd=ROOT, env=environment, capture_output=True)


# ---- compose.yaml --------------------------------------------------------------------------------


def compose_command() -> list[str]:
    """The plugin, or the program of before."""
    plugin = ["docker", "compose"]
    if (
        shutil.which("docker")
        and not subprocess.run([*plugin, "version"], capture_output=True).returncode
    ):
        return plugin
    return ["docker-compose"]


@dataclass
class Compose:
    """`docker compose` on a project of its own."""

    project: str
    environment: dict[str, str]

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*compose_command(), "-p", self.project, *words], cwd=ROOT, env=self.environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    def alice(self, *words: str) -> str:
        return self("run", "--rm", "-T", "alice", *words)


@pytest.fixture
def compose(images: dict[str, str]) -> Iterator[Compose]:
    ports = {name: str(free_port()) for name in ("REDIS_PORT", "API_PORT", "UI_PORT")}
    made = Compose(f"certauth-{os.getpid()}", {**os.environ, **ports})
    try:
        yield made
    finally:
        made("down", "--volumes", "--timeout", "3")


def test_compose_brings_alice_in(compose: Compose, engine: docker.DockerClient) -> None:
    """`up` gives a control plane, a primary, its replica, and alice in on both; nobody stays out.
    After a kill, and with new containers on the old volumes, what she wrote is there."""
    compose("up", "--no-build", "--detach")
    project = {"label": f"com.docker.compose.project={compose.project}"}
    (alice,) = engine.containers.list(
        all=True, filters={"label": [project["label"], "com.docker.compose.service=alice"]}
    )
    alice.wait(timeout=SOON)
    assert alice.logs().decode().strip() == "alice"
    assert compose.alice("SET", "orders:1", "paid") == "OK"
    assert compose.alice("-h", "replica", "GET", "orders:1") == "paid"
    nobody = ["--cert", "/clients/nobody.crt", "--key", "/clients/nobody.key"]
    assert "PONG" not in subprocess.run(
        [*compose_command(), "-p", compose.project, "run", "--rm", "-T", "alice", *nobody, "PING"],
        cwd=ROOT, env=compose.environment, capture_output=True, text=True, timeout=300,
    ).stdout  # fmt: skip
    for container in engine.containers.list(filters=project):
        container.kill()
    compose("up", "--no-build", "--detach")
    assert compose.alice("GET", "orders:1") == "paid"
    compose("down", "--timeout", "10")
    compose("up", "--no-build", "--detach")
    assert compose.alice("ACL", "WHOAMI") == "alice"
    assert compose.alice("GET", "orders:1") == "paid"


# ---- The Debian package --------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_the_debian_package_on_a_server_of_its_own(
    engine: docker.DockerClient, images: dict[str, str], name: str
) -> None:
    """dpkg installs it where the server's image lacks it, its dependencies being there; its lines
    are a configuration that starts, and the module answers."""
    folder = Path(tempfile.mkdtemp(dir=scratch()))
    made = subprocess.run([ROOT / ".ci/deb", folder], capture_output=True, text=True, check=True)
    file = Path(made.stdout.strip())
    script = """
        dpkg --install /tmp/module.deb >/dev/null
        install -d -o 999 -g 999 /var/lib/redis/certauth /var/lib/redis/certauth/ca /etc/redis
        echo '# no line' >/etc/redis/certauth-bootstrap
        grep -v '^user ' /usr/share/redis-certauth-module/certauth.conf >/tmp/redis.conf
        redis-server /tmp/redis.conf --port 7000 & server=$!
        until redis-cli -p 7000 PING 2>&1 | grep -q PONG; do kill -0 $server; sleep 0.1; done
        redis-cli -p 7000 CERTAUTH.POLICY STATUS | head -6
    """
    container = engine.containers.create(SERVERS[name], ["-euc", script], entrypoint="sh", user="0")
    try:
        with tarfile.open(folder / "module.tar", "w") as archive:
            archive.add(file, arcname="module.deb")
        container.put_archive("/tmp", (folder / "module.tar").read_bytes())
        container.start()
        code = container.wait(timeout=SOON)["StatusCode"]
        printed = container.logs().decode()
        assert code == 0, printed
        assert "generation" in printed
    finally:
        container.remove(force=True, v=True)
