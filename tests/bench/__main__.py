"""`python -m tests.bench [--only 1,2] [--scale 0.1] [--server redis-8.6]`: runs the benches, and
writes build/bench/report.md with a plot for each question beside it."""

import argparse
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import (
    bench_api,
    bench_cli,
    bench_cutoff,
    bench_first,
    bench_login,
    bench_policy,
    bench_sync,
    bench_throughput,
)
from tests.bench.lab import Lab
from tests.bench.report import Answer, write
from tests.kit.servers import servers
from tests.kit.support import ROOT, remove_scratch

BENCHES = (
    bench_login, bench_first, bench_throughput, bench_policy, bench_cutoff, bench_sync, bench_api,
    bench_cli,
)  # fmt: skip
FOLDER = ROOT / "build" / "bench"


def machine() -> str:
    found = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    model = found[0].partition(":")[2].strip() if found else platform.machine()
    return f"{os.cpu_count()} × {model}, {platform.system()} {platform.release()}"


def head(lab: Lab, took: float) -> str:
    """What stands above the answers."""
    return f"""# Benchmarks

{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, in {took / 60:.0f} minutes, at scale {lab.scale:g}, on
{machine()}.
Servers: {", ".join(map(str, lab.servers))}.

Arms of one measure were run by turns in the same minutes, each in {lab.rounds} rounds or as often
as its plot has marks. A ratio is the median of the ratios of single rounds. Absolute figures are
this machine's and say nothing about another."""


def run(lab: Lab, only: set[int], folder: Path) -> Path:
    """Runs the benches of these questions (none: all); returns the report's path."""
    answers, began = [], time.monotonic()
    for bench in BENCHES:
        if only and bench.NUMBER not in only:
            continue
        answers.append(Answer(bench.NUMBER, bench.TITLE, bench.HOW))
        started = time.monotonic()
        bench.run(lab, answers[-1])
        print(f"{bench.NUMBER}. {bench.TITLE}: {time.monotonic() - started:.0f} s", flush=True)
        write(answers, head(lab, time.monotonic() - began), folder)  # what there is so far
    return folder / "report.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--only", default="", help="questions, such as 1,2")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a look; 1: to be kept")
    parser.add_argument("--server", default="", help="those whose name holds this, such as 8.6")
    told = parser.parse_args()
    kinds = [kind for kind in servers() if told.server in str(kind)]
    try:
        print(run(Lab(kinds, told.scale), {int(n) for n in told.only.split(",") if n}, FOLDER))
    finally:
        remove_scratch()


if __name__ == "__main__":
    main()
