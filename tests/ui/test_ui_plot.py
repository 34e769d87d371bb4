"""control/ui/plot.py: what is drawn is what was counted, and stays within its frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.ui.plot import HEIGHT, LEFT, WIDTH, by_reason, plotted

COUNTS = st.integers(min_value=0, max_value=10**9)


@given(st.lists(st.tuples(st.text(max_size=5), COUNTS, COUNTS), max_size=60))
def test_columns_stand_on_the_floor_and_end_below_the_top(
    spans: list[tuple[str, int, int]],
) -> None:
    """Each part is as tall as its count, refusals stand on logins, nothing leaves the frame."""
    plot = plotted(spans)
    top = plot.scale[-1][0]
    assert top >= max((logins + refusals for _, logins, refusals in spans), default=0)
    kinds = ("logins", "refusals")
    pairs = (pair for _, *both in spans for pair in zip(kinds, both, strict=True))
    counts = [(kind, count) for kind, count in pairs if count]
    assert len(plot.bars) == len(counts)
    room = plot.floor - plot.scale[-1][1]
    for bar, (kind, count) in zip(plot.bars, counts, strict=True):
        assert bar.kind == kind
        assert bar.height == pytest.approx(room * count / top, abs=0.01)
        assert LEFT <= bar.x <= bar.x + bar.width <= WIDTH
        assert 0 <= bar.y <= bar.y + bar.height <= HEIGHT
    assert all(0 <= y <= HEIGHT for _, y in plot.scale)
    assert all(LEFT <= x <= WIDTH for _, x in plot.marks)


def test_the_axis_ends_at_a_round_number() -> None:
    """That halves."""
    for most, top in ((0, 2), (1, 2), (3, 4), (9, 10), (11, 20), (41, 60), (99, 100), (801, 1000)):
        assert [value for value, _ in plotted([("x", most, 0)]).scale] == [0, top // 2, top]


def test_reasons_are_summed_the_most_frequent_first() -> None:
    """Logins have none."""
    found = [
        {"time": 1, "reason": "", "count": 9},
        {"time": 1, "reason": "expired", "count": 1},
        {"time": 2, "reason": "no_binding", "count": 2},
        {"time": 3, "reason": "no_binding", "count": 3},
    ]
    assert list(by_reason(found).items()) == [("no_binding", 5), ("expired", 1)]
