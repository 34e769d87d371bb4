"""What a person at the command line waits for: its start, and the plan of a large file."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory

from tests.bench.lab import Lab, by_turns
from tests.bench.report import Answer

NUMBER, TITLE = 8, "The command line"
HOW = """Processor time, user and system, of whole processes. The floor of a start is a process that
imports click. The plan is of a file that declares users, beside what is there already, without the
request that asks for it; and of twice as many."""
START = "import sys; sys.argv = ['redis-certauth', *sys.argv[1:]]; "
PLAN = """
import sys
from pathlib import Path
from control.cli import apply, loading, planning
with loading.uncollected():
    wanted = apply.read(Path(sys.argv[1]))
    there = {"roles": {"readers": {"name": "readers"}}}
    there["users"] = {name: apply.normal("users", one) for name, one in wanted["users"].items()}
    found = {section: there.get(section, {}) for section in apply.SECTIONS}
    assert planning.plan(wanted, found, "", prune=False) == []
"""
USER = """- name: person{0}
  auth_method: certificate
  certificate_identities: [{{uri: spiffe://acme/person{0}}}]
  roles: [readers]
"""


def processor(code: str, *arguments: str) -> float:
    """Milliseconds of a process that runs this."""
    before = getrusage(RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, *arguments], check=True,
                   stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "dumb"})  # fmt: skip
    after = getrusage(RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent * 1e3


def starts(lab: Lab, answer: Answer) -> None:
    code = f"{START}from control.cli.start import main; main()"
    arms: dict[str, Callable[[], float]] = {"import click": partial(processor, "import click")}
    for words in ("--version", "--help", "user list --help"):
        arms[words] = partial(processor, code, *words.split())
    rows = [answer.row("", "processor time of a start, ms", arm, values)
            for arm, values in by_turns(lab.rounds, arms).items()]  # fmt: skip
    for row in rows[2:]:
        answer.bar(row, 150)
        answer.bar(row, 2, rows[0])


def plans(lab: Lab, answer: Answer, folder: Path) -> None:
    count = lab.size(50_000, 1_000)
    arms: dict[str, Callable[[], float]] = {}
    for users in (count, 2 * count):
        file = folder / f"{users}.yaml"
        file.write_text("users:\n" + "".join(USER.format(number) for number in range(users)))
        arms[f"{users:,} users"] = partial(processor, PLAN, str(file))
    rows = [answer.row("", "processor time of a plan, ms", arm, values)
            for arm, values in by_turns(lab.rounds, arms).items()]  # fmt: skip
    answer.bar(rows[1], 10_000)
    answer.bar(rows[1], 2.2, rows[0])


def run(lab: Lab, answer: Answer) -> None:
    starts(lab, answer)
    with TemporaryDirectory() as folder:
        plans(lab, answer, Path(folder))
