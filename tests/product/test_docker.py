"""The two images and compose.yaml, on a container engine: `make test-docker`."""

import contextlib
import json
import os
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
