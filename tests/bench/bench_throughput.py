"""What the module costs after the login: GET and SET, with it and without."""

import shutil
import subprocess
from contextlib import ExitStack
from functools import partial

from tests.bench.bench_login import with_module
from tests.bench.lab import Lab, by_turns, cpu
from tests.bench.report import Answer
from tests.kit.servers import Server
from tests.kit.support import RedisServer

NUMBER, TITLE = 3, "After the login"
HOW = """redis-benchmark over mutual TLS, 20 connections, one command under way on each, the same
tool for all servers: SET and GET of random keys, by alice where the module is and by `default`
where it is not. `no module, again` is a second server without the module: what differs there is
noise."""
RATE, COST = "requests a second", "processor time of the server a request, µs"
LIMIT = 1.02


def load(server: RedisServer, lab: Lab, test: str, count: int) -> tuple[float, float]:
    """Requests a second, and microseconds of the server's processor time each."""
    crt, key = lab.pki.alice.files
    words = ["redis-benchmark", "-p", str(server.port), "--tls", "--cert", crt, "--key", key]
    words += ["--cacert", str(server.directory / "trust.pem"), "-t", test, "-n", str(count)]
    words += ["-c", "20", "-r", "100000", "--csv"]
    before = cpu(server)
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    spent = cpu(server) - before
    rate = next(line for line in told.splitlines() if line.lower().startswith(f'"{test}"'))
    return float(rate.split(",")[1].strip('"')), spent / count * 1e6


def measure(kind: Server, lab: Lab, answer: Answer) -> None:
    count = lab.size(20_000, 1000)
    with ExitStack() as stack:
        stock = stack.enter_context(RedisServer(kind, lab.pki))
        again = stack.enter_context(RedisServer(kind, lab.pki))
        module = with_module(kind, lab, stack)
        servers = {"no module": stock, "module": module, "no module, again": again}
        for test in ("set", "get"):
            arms = {arm: partial(load, one, lab, test, count) for arm, one in servers.items()}
            for arm in arms.values():
                arm()
            found = by_turns(2 * lab.rounds, arms)
            for index, what in enumerate((RATE, COST)):
                rows = [
                    answer.row(kind, f"{test.upper()}: {what}", arm, [one[index] for one in values])
                    for arm, values in found.items()
                ]
                if what == COST:  # a rate also tells of the client, which has the other processor
                    answer.bar(rows[1], LIMIT, rows[0])


def run(lab: Lab, answer: Answer) -> None:
    if not shutil.which("redis-benchmark"):
        answer.notes.append("Not run: there is no redis-benchmark here (Debian: redis-tools).")
        return
    for kind in lab.servers:
        measure(kind, lab, answer)
