"""The benches run, on the installed server and very small, so that they do not rot. What they find
is not looked at here: that is for `make bench`, on a machine that does nothing else."""

import importlib
from pathlib import Path

import pytest

from tests.bench import check
from tests.kit.servers import Server
from tests.kit.support import Pki

QUESTIONS = ("login", "first", "throughput", "policy", "cutoff", "sync", "api", "cli")
TINY = 0.001


@pytest.mark.slow
@pytest.mark.timeout(600)  # valgrind is slow, and starts eight servers
@pytest.mark.parametrize("question", QUESTIONS)
def test_bench_answers(question: str, installed: Server, pki: Pki, tmp_path: Path) -> None:
    """It measures each of its arms, and the report holds all of them."""
    # Here, because only `make test-all` and `make bench` bring matplotlib.
    lab = importlib.import_module("tests.bench.lab")
    report = importlib.import_module("tests.bench.report")
    bench = importlib.import_module(f"tests.bench.bench_{question}")
    answer = report.Answer(bench.NUMBER, bench.TITLE, bench.HOW)
    bench.run(lab.Lab([installed], TINY, pki), answer)
    assert answer.rows
    text = report.write([answer], "# Benchmarks", tmp_path).read_text()
    assert all(f"\n| {row.arm} | " in text for row in answer.rows)
    assert all(bar.what in text for bar in answer.bars)
    assert (tmp_path / f"{bench.NUMBER}.png").stat().st_size > 0


REPORT = """| what | bar | redis-8.6 |  |
| --- | --- | --- | --- |
| module / none: µs | ≤ 1.02 | {}, reached | 2, **not reached** |
| reads / hello: a second | ≥ 0.8 | {}, reached |  |
| module: µs | ≤ 9 | {}, reached |  |
"""


def test_a_report_is_compared_by_ratios() -> None:
    """Both ways; an absolute figure is of its own machine and hour."""
    old = check.ratios(REPORT.format("1.000", "0.9", "5"))
    assert len(old) == 3
    for new in (REPORT.format("1.29", "0.7", "500"), REPORT.format("0.1", "9", "5"), ""):
        assert not list(check.worse(check.ratios(new), old))
    found = list(check.worse(check.ratios(REPORT.format("1.31", "0.6", "5")), old))
    assert found == [
        "module / none: µs on redis-8.6: 1.31, and was 1: 1.31 times worse, more than 1.3",
        "reads / hello: a second on redis-8.6: 0.6, and was 0.9: 1.50 times worse, more than 1.3",
    ]
