"""How long a change takes to be on the servers, with a real control plane and real servers."""

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from control.service import Config
from control.store import Store
from control.store.schema import cluster_table, counters, user_roles, users
from tests.bench.lab import Lab
from tests.bench.report import Answer
from tests.kit.node import who
from tests.kit.plane import Https, Serving, enrolled_node, initialised
from tests.kit.rest import user
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, wait_until

NUMBER, TITLE = 6, "Propagation"
HOW = """From `POST /v1/users?wait_for_sync=30` until its answer, and until the new user has
logged in by its certificate on one of the servers, another one each time. On the newest server
there is here; every server has all lines. 50 servers with 100,000 users are 5,000,000 lines and
as many ACL users: that was not run."""
GROUNDS = ((1, 100), (3, 100), (50, 100), (1, 100_000), (3, 100_000))  # servers, users
RUNS = 40
BATCH = 10_000


@dataclass
class Measured:
    """Milliseconds of each run."""

    changed: list[float] = field(default_factory=list)  # until the answer
    known: list[float] = field(default_factory=list)  # until the login, with it


def populate(config: Config, count: int) -> None:
    """So many users with rights, faster than one by one."""
    store = Store(config.url)
    with store._kernel.transaction() as connection:
        for start in range(0, count, BATCH):
            found = [user(n, f"user{n}") for n in range(start + 2, min(start + BATCH, count) + 2)]
            names = [column.name for column in users.c]
            rows = [{name: getattr(one, name) for name in names} for one in found]
            connection.execute(sa.insert(users), rows)
            held = [{"user_uid": one.uid, "role_uid": 1} for one in found]
            connection.execute(sa.insert(user_roles), held)
        where = counters.c.name == "user"
        connection.execute(sa.update(counters).where(where).values(last=count + 2))
        connection.execute(sa.update(cluster_table).values(revision=cluster_table.c.revision + 1))
    store.close()


def measure(kind: Server, pki: Pki, nodes: int, count: int, certs: list[Cert]) -> Measured:
    made: list[RedisServer] = []

    def start(server: Server, **options: object) -> RedisServer:
        made.append(RedisServer(server, options.pop("pki"), **options))  # type: ignore[arg-type]
        return made[-1].start()

    with tempfile.TemporaryDirectory() as folder:
        config = initialised(Path(folder) / "control")
        populate(config, count)
        serving = Serving(config)
        try:
            running = [enrolled_node(start, kind, config.home, pki) for _ in range(nodes)]
            with Https(config) as api:
                register(api, pki, running)
                return timed(api, running, certs)
        finally:
            serving.kill()
            for server in made:
                server.stop()


def register(api: Https, pki: Pki, running: list[RedisServer]) -> None:
    ca = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
    api("PUT /v1/cluster/update_cert", ca)
    api.connection.sock.settimeout(120)  # all lines of all users are made
    ends = [{"addr": ["127.0.0.1"], "port": server.port} for server in running]
    fields = {"name": "orders", "endpoints": ends, "tls_mode": "enabled"}
    fields["tls_server_ca"] = pki.server_ca.pem.decode()
    fields["roles_permissions"] = [{"role_uid": 1, "redis_acl_uid": 1}]
    answer = api("POST /v1/bdbs", fields)
    assert answer.status == 200, answer.json

    def done() -> bool:
        found = api("GET /v1/certauth/nodes").json["nodes"]
        return all(one["in_step"] for one in found)

    wait_until(done, "the servers have their first policy", 300)


def timed(api: Https, running: list[RedisServer], certs: list[Cert]) -> Measured:
    found = Measured()
    for number, cert in enumerate(certs):
        name = f"new{number}"
        body = {"name": name, "role": "admin", "auth_method": "certificate"}
        body["certificate_subject_line"] = f"CN={name}"
        begun = time.perf_counter()
        answer = api("POST /v1/users?wait_for_sync=30", body)
        found.changed.append((time.perf_counter() - begun) * 1000)
        assert answer.status == 200, answer.json
        assert who(running[number % len(running)], cert) == name
        found.known.append((time.perf_counter() - begun) * 1000)
    return found


def run(lab: Lab, answer: Answer) -> None:
    kind = lab.servers[-1]
    certs = [lab.pki.ca.issue(f"CN=new{number}") for number in range(lab.size(RUNS, 2))]
    for nodes, size in GROUNDS:
        running, count = min(nodes, lab.size(nodes, 2)), lab.size(size, 10)
        found = measure(kind, lab.pki, running, count, certs)
        arm = f"servers: {running}, users: {count:,}"
        answer.row(kind, "until the answer, ms", arm, found.changed)
        answer.row(kind, "until the login, ms", arm, found.known)
