"""A plot of logins and refusals over time, as the numbers of an SVG: columns that stand on each
other. What it shows stands in a table beside it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 180, 44, 22, 8


@dataclass(frozen=True)
class Bar:
    """A part of a column: what it counts, and where it is."""

    kind: str  # "logins" or "refusals"
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Plot:
    """`scale` are values of the axis and their y; `marks` texts below it and their x."""

    bars: Sequence[Bar]
    scale: Sequence[tuple[int, float]]
    marks: Sequence[tuple[str, float]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    floor: float = HEIGHT - BOTTOM


def plotted(spans: Sequence[tuple[str, int, int]]) -> Plot:
    """Of spans of time: what each is called, and how many came in and were refused."""
    top = _ceiling(max((logins + refusals for _, logins, refusals in spans), default=0))
    room = HEIGHT - BOTTOM - TOP
    wide = (WIDTH - LEFT) / max(1, len(spans))
    bars = []
    for number, (name, logins, refusals) in enumerate(spans):
        y = float(HEIGHT - BOTTOM)
        for kind, count in (("logins", logins), ("refusals", refusals)):
            tall = room * count / top
            y -= tall
            if count:
                title = f"{name}: {count:,} {kind}"
                x, width = round(LEFT + number * wide + 1, 2), round(wide - 2, 2)
                bars.append(Bar(kind, x, round(y, 2), width, round(tall, 2), title))
    scale = [(value, round(HEIGHT - BOTTOM - room * value / top, 2)) for value in _values(top)]
    every = max(1, len(spans) // 6)
    marks = [(name, round(LEFT + i * wide, 2)) for i, (name, _, _) in enumerate(spans)][::every]
    return Plot(bars, scale, marks)


def _ceiling(most: int) -> int:
    """The first of 2, 4, 6, 8, 10, 20, 40, … that is no less."""
    step = 1
    while True:
        for one in (2, 4, 6, 8, 10):
            if one * step >= most:
                return one * step
        step *= 10


def _values(top: int) -> tuple[int, ...]:
    return (0, top // 2, top)


def by_reason(found: Iterable[Mapping[str, object]]) -> dict[str, int]:
    """How often each reason was why, the most frequent first."""
    counts: dict[str, int] = {}
    for one in found:
        if one["reason"]:
            reason = str(one["reason"])
            counts[reason] = counts.get(reason, 0) + int(str(one["count"]))
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
