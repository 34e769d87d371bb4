"""No input breaks a law of the core: a moment of `make fuzz`, which is for hours."""

import pytest

from tests.fuzz.__main__ import TARGETS, WORK, run, told


@pytest.mark.timeout(300)  # clang builds the core first
def test_three_seconds_of_each_target_break_no_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates, names, policies and journals, made by libFuzzer under ASan and UBSan."""
    monkeypatch.delenv("LD_PRELOAD", raising=False)  # clang has an ASan of its own
    assert run(3) == [], "\n".join((WORK / f"{each}.log").read_text() for each in TARGETS)
    assert all("cov:" in told(target) for target in TARGETS)
