"""A policy that a node has no memory for is refused while the node can still say so."""

import resource
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from tests.kit.machine import memory_group
from tests.kit.node import Start, enrolled, journal, load, patch, refused, status, usual, who
from tests.kit.servers import Server
from tests.kit.support import Pki, RedisServer, wait_until

pytestmark = pytest.mark.few_servers

MEBIBYTE = 1 << 20
USERS = 50_000


def lines(first: int, users: int) -> list[str]:
    return [
        line
        for i in range(first, first + users)
        for line in (
            f"bind subject CN=client-number-{i:08d}-of-the-department,OU=engineering,O=acme u{i}",
            f"user u{i} on +@read ~k{i}:*",
        )
    ]


def commit(server: RedisServer, users: int, generation: int) -> None:
    """A patch that brings so many users, by stages."""
    admin = server.admin(socket_timeout=60)
    stage = f"stage-{generation}"
    for first in range(0, users, 2500):
        added = [f"+{line}" for line in lines(first, min(2500, users - first))]
        admin.execute_command("CERTAUTH.POLICY", "STAGE", stage, "OF", 2 * users, "LINES", *added)
    options = ("PATCH", generation - 1, generation)
    admin.execute_command("CERTAUTH.POLICY", "COMMIT", stage, 2 * users, *options)


def limit(server: RedisServer, more: int) -> tuple[int, int]:
    """From now on the server may take so many bytes more. Returns what its limits were."""
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    return resource.prlimit(server.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def memory(server: RedisServer) -> int:
    return int(server.admin().info("certauth")["certauth_memory"])


def test_a_policy_that_does_not_fit_is_refused_with_the_figure(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Nothing of it is on the disk, the old policy is in force, the next start is as ever; and what
    takes rights away, or is small, is taken while memory is short."""
    server = enrolled(start, server_kind, pki)
    before, kept = journal(server).read_bytes(), memory(server)
    limit(server, 64 * MEBIBYTE)
    with refused(r"MEMORY the change takes about \d+ MB more, and this node has \d+ MB left"):
        commit(server, USERS, 2)
    assert journal(server).read_bytes() == before
    assert (status(server.admin())["generation"], memory(server)) == (1, kept)
    patch(server.admin(), 1, 2, ["+bind cn x alice"])
    assert who(server, pki.alice) == "alice"
    server.kill()
    server.start()
    assert status(server.admin())["generation"] == 2
    assert who(server, pki.alice) == "alice"


@pytest.mark.slow
def test_a_control_group_bounds_it_too(server_kind: Server, start: Start, pki: Pki) -> None:
    """The kernel would end the server in the middle of the change, and, with the change in the
    journal, at each start after that. In a container it is this that limits it."""
    server = enrolled(start, server_kind, pki)
    before = journal(server).read_bytes()
    with memory_group(64 * MEBIBYTE) as group:
        (group / "cgroup.procs").write_text(str(server.pid))
        with refused(r"MEMORY the change takes about \d+ MB more, and this node has \d\d? MB left"):
            commit(server, USERS, 2)
        assert journal(server).read_bytes() == before
        patch(server.admin(), 1, 2, ["+bind cn x alice"])
        server.kill()
        server.start()
        (group / "cgroup.procs").write_text(str(server.pid))
        assert status(server.admin())["generation"] == 2
        assert who(server, pki.alice) == "alice"
        server.kill()


@pytest.mark.slow
def test_a_policy_that_fits_is_counted_and_loads_again(
    installed: Server, start: Start, pki: Pki
) -> None:
    """INFO says what it takes, the same after a restart, and not less than what it does take."""
    server = enrolled(start, installed, pki)
    own = server.admin()
    used = own.info("memory")["used_memory"]
    commit(server, USERS, 2)
    assert own.info("memory")["used_memory"] - used < memory(server) < 2000 * USERS
    counted = memory(server)
    server.kill()
    server.start()
    assert memory(server) == counted

    def detached() -> bool:
        with suppress(redis.ResponseError):  # BUSY: its users are still being made
            load(server.admin(), 3, usual(pki))
        return int(status(server.admin())["generation"]) == 3

    wait_until(detached, "the policy is the small one again", 30)
    assert memory(server) < 20_000


def test_users_that_would_displace_the_data_are_refused(
    server_kind: Server, start: Start, pki: Pki
) -> None:
    """Where maxmemory is set, a policy takes a quarter of it at most: no key of anybody's is
    evicted for it, and none is refused its place."""
    config = ["maxmemory 24mb", "maxmemory-policy allkeys-lru"]
    server = enrolled(start, server_kind, pki, config=config)
    own = server.admin()
    own.execute_command("DEBUG", "POPULATE", 1000, "key", 4000)
    keys = own.dbsize()
    with refused(r"MEMORY the policy would take about \d+ MB, .* quarter of maxmemory .24 MB."):
        commit(server, 10_000, 2)
    assert own.dbsize() == keys
    assert status(own)["generation"] == 1
