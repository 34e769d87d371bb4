"""A control plane as `redis-certauth init` makes it, and nodes that it looks after."""

import base64
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import redis
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from control import service
from control.ages import Pulse
from control.api.app import create_app
from control.nodes.audit import Collector
from control.nodes.client import Access, Node
from control.nodes.worker import Worker
from control.service import Config
from control.store import Store
from tests.kit.node import Start
from tests.kit.policies import OPERATOR
from tests.kit.rest import ADMIN, Answer, ControlPlane, peer_cert
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, free_port, scratch, wait_until

START_SECONDS = 300.0  # until `serve` answers, where everything else runs at the same time
SOON = 3  # seconds: a change is on every node within one; this machine may be busy
NAMES = ("localhost", "127.0.0.1", "::1")
FULL = {"role_uid": 1, "redis_acl_uid": 1}


def initialised(home: Path) -> Config:
    """The folder that `init` makes; its API listens on loopback."""
    config = Config(home, "127.0.0.1", free_port())
    service.init(config, "acme", *ADMIN, NAMES)
    return config


def authority_of(config: Config) -> Cert:
    """The control plane's own CA."""
    certificate = x509.load_pem_x509_certificate((config.home / "ca.crt").read_bytes())
    key = serialization.load_pem_private_key((config.home / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Cert(certificate, key)


class Plane(ControlPlane):
    """With its sync worker, and without its front: requests go to the application."""

    def __init__(self, home: Path) -> None:
        self.config = initialised(home)
        self.open()

    def open(self) -> None:
        """Starts it, again after `close`."""
        self.store = Store(self.config.url)
        collector, pulse = Collector(self.store), Pulse()
        authorities = authority_of(self.config).pem.decode()
        self.worker = Worker(self.store, self.config.identity, authorities, collector, pulse)
        self.app = create_app(
            self.store,
            peer_cert,
            ask=self.worker.ask,
            figures=collector.figures,
            pulse=pulse,
            own=lambda: service.own_certificates(self.config),
        )
        self.client = self.app.test_client()
        self.worker.start()

    def close(self) -> None:
        self.worker.stop()
        self.store.close()

    def register(self, *servers: RedisServer, name: str = "orders", **fields: Any) -> int:
        """A database of these nodes, on which administrators may do all. Its uid."""
        usual = {
            "endpoints": [{"addr": ["127.0.0.1"], "port": server.port} for server in servers],
            "tls_mode": "enabled",
            "tls_server_ca": servers[0].pki.server_ca.pem.decode(),
            "roles_permissions": [FULL],
        }
        return int(self.database(name, **{**usual, **fields})["uid"])

    def user(self, cert: Cert, name: str) -> int:
        """A user with all rights everywhere, by the certificate's subject."""
        subject = cert.certificate.subject.rfc4514_string()
        return int(self.certificate_user(name, subject, role="admin")["uid"])

    def status(self, uid: int = 1) -> str:
        """The sentence where there is one, and else the state."""
        found = self.ok(f"GET /v1/bdbs/{uid}")
        return str(found["status_text"] or found["status"])

    def in_step(self, uid: int = 1, deadline: float = 10) -> None:
        """Waits until every node of the database holds its policy."""
        wait_until(lambda: self.status(uid) == "active", f"bdb {uid} is in step", deadline)

    def says(self, words: str, uid: int = 1, deadline: float = 10) -> str:
        """Waits until the database's status holds these words; the status."""
        wait_until(lambda: words in self.status(uid), f"the status says '{words}'", deadline)
        return self.status(uid)

    def node(self, server: RedisServer) -> Node:
        """A connection of the control plane's own to a node; the caller closes it."""
        authorities = server.pki.server_ca.pem.decode()
        return Node(Access("127.0.0.1", server.port, authorities), self.config.identity)


class Https:
    """One kept-alive connection to a control plane's API, by password or by certificate."""

    def __init__(self, config: Config, cert: Cert | None = None) -> None:
        self.config, self.cert = config, cert
        context = ssl.create_default_context(cafile=str(config.home / "ca.crt"))
        if cert:
            context.load_cert_chain(*cert.files)
        self.connection = http.client.HTTPSConnection(
            config.host, config.port, timeout=20, context=context
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def __call__(self, request: str, body: Any = None) -> Answer:
        """`api("PUT /v1/cluster", {...})`"""
        method, path = request.split(" ", 1)
        headers = {"Content-Type": "application/json"}
        if self.cert is None:
            token = base64.b64encode(":".join(ADMIN).encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        text = None if body is None else json.dumps(body)
        self.connection.request(method, path, text, headers)
        response = self.connection.getresponse()
        return Answer(response.status, json.loads(response.read()), response.headers)


class Serving:
    """`redis-certauth serve` as a process of its own. `api` asks it, one request at a time. It runs
    the code `before` first."""

    def __init__(self, config: Config, before: str = "") -> None:
        self.config, self._before = config, before
        self.start()

    def start(self) -> None:
        """Also again, after `kill`. Returns when it answers."""
        self.process = self.begin()
        try:
            wait_until(self._answers, f"it answers; see {self.config.home}/log", START_SECONDS)
        except AssertionError:
            self.kill()
            raise

    def begin(self) -> "subprocess.Popen[bytes]":
        """The process, which may not answer yet."""
        environment = {**os.environ, "CERTAUTH_HOST": self.config.host}
        environment |= {
            "CERTAUTH_PORT": str(self.config.port),
            "CERTAUTH_DATABASE": self.config.url,
            "CERTAUTH_UI_PORT": str(self.config.ui_port),
        }
        code = f"{self._before}\nfrom control.cli.main import main; main()"
        command = [sys.executable, "-c", code, "serve", "--home", str(self.config.home)]
        with open(self.config.home / "log", "a") as log:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.config.home / "log").read_text()
        try:
            with Https(self.config) as api:
                return api("GET /v1/cluster").status == 200
        except OSError:
            return False

    def api(self, request: str, body: Any = None) -> Answer:
        with Https(self.config) as api:
            return api(request, body)

    def ok(self, request: str, body: Any = None) -> Any:
        """The JSON of an answer that is 200."""
        answer = self.api(request, body)
        assert answer.status == 200, answer.json
        return answer.json

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a crash, also where it is frozen."""
        self.process.kill()
        self.process.wait(20)


@contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    """A server that hangs meanwhile: its port is open, and it does not answer."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def enrolled_node(start: Start, kind: Server, home: Path, pki: Pki, **options: Any) -> RedisServer:
    """A running server as an operator enrols it: it trusts no client, but for what the module
    manages, and takes its policy from whom the bootstrap file says."""
    folder = tempfile.mkdtemp(dir=scratch())
    Path(folder, "ca").mkdir()
    more = [f"user {OPERATOR} on >{OPERATOR} ~* &* +@all", *options.pop("config", [])]
    module = options.pop("module", ())
    return start(
        kind,
        pki=pki,
        trust=options.pop("trust", []),
        module=("journal", folder, "bootstrap", str(home / "bootstrap"), *module),
        config=[f"tls-ca-cert-dir {folder}/ca", *more],
        **options,
    )


def operator(server: RedisServer) -> redis.Redis:
    """The node's own administrator, whom the policy leaves alone, logged in. `default` goes off
    with the first policy, which closes clients that it meets before AUTH: they try again."""
    client = server.admin(username=OPERATOR, password=OPERATOR)

    def logged_in() -> bool:
        with suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    wait_until(logged_in, "the operator is logged in")
    return client


def certificate_user(name: str) -> dict[str, Any]:
    subject = {"auth_method": "certificate", "certificate_subject_line": f"CN={name}"}
    return {"name": name, "role": "admin", **subject}


def database(*servers: RedisServer) -> dict[str, Any]:
    return {
        "name": "orders",
        "endpoints": [{"addr": ["127.0.0.1"], "port": server.port} for server in servers],
        "tls_mode": "enabled",
        "tls_server_ca": servers[0].pki.server_ca.pem.decode(),
        "roles_permissions": [FULL],
    }
