"""Great numbers: nobody is mistaken for another, memory stays flat, and the right ones get in.

10,000 live sessions and 100,000 logins are in test_endurance.py, who besieges the API in
test_front_attacks.py.
"""

import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kit.plane import initialised
from tests.kit.policies import Start, gone, make_node, policy_of
from tests.kit.servers import Server
from tests.kit.siege import ATTACKS, Siege, probe, serving
from tests.kit.storm import Storm, open_files, pairs, resident, storm
from tests.kit.support import Cert, Pki, RedisServer, TlsPeer, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1 << 20


class Knocking:
    """alice, who logs in again and again meanwhile; how long each of that took, in seconds."""

    def __init__(self, peer: TlsPeer) -> None:
        self._peer, self._over = peer, threading.Event()
        self.took: list[float] = []
        self.wrong: list[Any] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Knocking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            begun = time.monotonic()
            with self._peer.connect() as connection:
                who = connection.command("ACL", "WHOAMI")
            self.took.append(time.monotonic() - begun)
            if who != b"alice":
                self.wrong.append(who)

    def __str__(self) -> str:
        middle, longest = statistics.median(self.took) * 1000, max(self.took) * 1000
        return f"alice: {len(self.took)} logins, median {middle:.0f} ms, longest {longest:.0f} ms"


def memory(server: RedisServer) -> tuple[float, float]:
    """Of the process, and of what the server counts itself; in MiB."""
    admin = server.admin(username="operator", password="operator")
    used = float(admin.info("memory")["used_memory"]) / MIB
    admin.close()
    return resident(server.pid), used


# ---- Refusals ------------------------------------------------------------------------------------

OPEN = ["protected-mode no"]  # Redis 7.0's lets 127.0.0.1 in, and no other address of the loopback
REFUSALS, A_SECOND, WARM, ALONE = 60_000, 1_000, 10_000, 20_000


@pytest.mark.parametrize("io_threads", [1, 4])
def test_a_thousand_refusals_a_second_for_a_minute(
    server_kind: Server, start: Start, pki: Pki, io_threads: int
) -> None:
    """Each is refused and counted, alice comes in meanwhile, nothing is left of any, and memory is
    flat: against the same server without the module, whose clients leave by themselves."""
    strangers = pairs([pki.bob])
    node = make_node(start, server_kind, *policy_of(pki), io_threads=io_threads, config=OPEN)
    assert storm(node.server, strangers, WARM).refused == WARM
    before = memory(node.server)
    with Knocking(node.server.tls(pki.alice)) as alice:
        seen = storm(node.server, strangers, REFUSALS, A_SECOND)
    after = memory(node.server)
    growth = after[0] - before[0]
    alone = left_by_the_server(server_kind, start, pki, io_threads, strangers)
    print(
        f"\n{server_kind}, io-threads {io_threads}: {seen.refused} in {seen.seconds:.0f} s, "
        f"{seen.rate:.0f} a second, slowest {seen.longest * 1000:.0f} ms; {alice}; "
        f"RSS {before[0]:.1f} to {after[0]:.1f} MiB, used {before[1]:.2f} to {after[1]:.2f}; "
        f"without the module {alone:+.1f} MiB for {ALONE}"
    )
    assert (seen.refused, seen.named, seen.others, seen.failed) == (REFUSALS, 0, 0, 0)
    counters = node.counters()
    assert counters["refused"] == counters["refused_no_binding"] == WARM + REFUSALS
    assert counters["api_certificates"] == 0
    assert not alice.wrong
    assert "may not be" not in node.server.log  # who is refused has strayed from nothing
    gone(node, "sessions", 1)
    assert growth < 8 + max(0.0, alone) * REFUSALS / ALONE
    assert after[1] - before[1] < 2


def left_by_the_server(
    kind: Server, start: Start, pki: Pki, io_threads: int, strangers: Any
) -> float:
    """MiB that its process grows by for so many clients, without the module."""
    server = start(kind, io_threads=io_threads, config=OPEN)
    assert storm(server, strangers, WARM).others == WARM  # they are `default`
    before = resident(server.pid)
    assert storm(server, strangers, ALONE).others == ALONE
    return resident(server.pid) - before


# ---- Storms --------------------------------------------------------------------------------------

MANY = 5_000


@pytest.fixture(scope="module")
def crowd() -> tuple[Pki, list[Cert]]:
    """A CA, and certificates all different, each with a key of its own."""
    pki = Pki()
    return pki, [pki.ca.issue(f"CN=u{number}") for number in range(MANY)]


@pytest.mark.parametrize("io_threads", [1, 4])
def test_storms_of_certificates_that_are_all_different(
    server_kind: Server, start: Start, crowd: tuple[Pki, list[Cert]], io_threads: int
) -> None:
    """5,000 at once, again and again, every second of whom is somebody: each of these is itself,
    none of the others comes in, and from the second storm on memory is flat."""
    pki, certs = crowd
    some = [f"u{number}" for number in range(0, MANY, 2)]
    lines = [f"bind subject CN={name} {name}" for name in some]
    lines += [f"user {name} on +acl|whoami" for name in some]
    node = make_node(start, server_kind, pki=pki, io_threads=io_threads, config=OPEN)
    node.load(policy_of(pki, *lines))
    file = pairs(certs)
    storms: list[Storm] = []
    after: list[tuple[float, float]] = []
    for _ in range(5):
        storms.append(storm(node.server, file, MANY, threads=32))
        after.append(memory(node.server))
    rates = ", ".join(f"{one.rate:.0f}" for one in storms)
    print(
        f"\n{server_kind}, io-threads {io_threads}: 5 storms of {MANY} at {rates} a second, "
        f"slowest {max(one.longest for one in storms) * 1000:.0f} ms; RSS after each "
        f"{', '.join(f'{one[0]:.1f}' for one in after)} MiB"
    )
    for one in storms:
        assert (one.named, one.others, one.refused, one.failed) == (MANY // 2, 0, MANY // 2, 0)
    counters = node.counters()
    assert counters["logins"] == counters["refused_no_binding"] == 5 * MANY // 2
    assert counters["api_certificates"] == 0
    gone(node, "sessions", 1)
    assert after[-1][0] - after[1][0] < 8
    assert after[-1][1] - after[1][1] < 2


# ---- The API -------------------------------------------------------------------------------------


def test_sieges_of_the_api_leave_no_memory_behind(tmp_path: Path) -> None:
    """Each of the attacks of test_front_attacks.py, 200 slow or silent peers at a time, once and
    twice again: everybody else is answered, and from the second time on memory is flat."""
    config = initialised(tmp_path / "control")
    after = []
    with serving(config) as process:
        for _ in range(3):
            for attack in ATTACKS.values():
                # The last attack's connections count until the server has seen their end.
                wait_until(lambda: open_files(process.pid) < 60, "they are gone", 60)
                with Siege(config, attack):
                    assert [probe(config) for _ in range(10)] == [200] * 10
                    time.sleep(2)
            after.append(resident(process.pid))
    sizes = ", ".join(f"{one:.1f}" for one in after)
    print(f"\nRSS after each round of {len(ATTACKS)} attacks: {sizes} MiB")
    assert after[2] - after[1] < 8
