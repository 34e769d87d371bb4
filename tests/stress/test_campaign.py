"""tests/kit/campaign.py: a minute of generated requests to every operation by every role, on each
kind of database. `python -m tests.kit.campaign SECONDS` goes on for longer."""

import subprocess
import sys

import pytest

from tests.kit.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_campaign_finds_nothing(database: str) -> None:
    """No 5xx, no error or answer but as it is described, no secret in an answer, in the log or in
    audit.jsonl, no operation that a role has not sent; and the server is there to be stopped."""
    command = [sys.executable, "-m", "tests.kit.campaign", "60", "1", database]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5000:]}"
    assert "\n0 findings\n" in done.stdout
    assert " operations by 9 roles\n" in done.stdout
