"""What benches find, and the report of it: Markdown, and a plot for each question.

A bench measures arms side by side, in rounds that take turns, and tells the value of each round.
What counts are ratios of one round: what else the machine does then slows down all arms alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from matplotlib import use

use("Agg")  # before pyplot looks for a screen

from matplotlib import pyplot


@dataclass(frozen=True)
class Row:
    """One arm on one server: a value for each round. `measure` says what, with its unit."""

    server: str
    measure: str
    arm: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Bar:
    """What was to be reached, and what was. `least`: the value is to be at least the limit."""

    server: str
    what: str
    value: float
    limit: float
    least: bool = False

    @property
    def reached(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass
class Answer:
    """To one question. Benches fill it; what could not be measured becomes a note."""

    number: int
    title: str
    how: str
    rows: list[Row] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, server: object, measure: str, arm: str, values: Iterable[float]) -> Row:
        """The first arm of a server and measure is what the others are compared with."""
        self.rows.append(Row(str(server), measure, arm, tuple(values)))
        return self.rows[-1]

    def bar(self, row: Row, limit: float, over: Row | None = None, least: bool = False) -> None:
        """Of the median; with `over`, of the ratio to it."""
        value = median(ratios(row, over) if over else row.values)
        what = f"{row.arm} / {over.arm}: {row.measure}" if over else f"{row.arm}: {row.measure}"
        self.bars.append(Bar(row.server, what, value, limit, least))

    def worst(self, row: Row, limit: float) -> None:
        """Of the largest value."""
        what = f"{row.arm}, the worst of {len(row.values)}: {row.measure}"
        self.bars.append(Bar(row.server, what, max(row.values), limit))


def ratios(row: Row, over: Row) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(row.values, over.values, strict=True)]


def quarters(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float], digits: str = "") -> str:
    low, middle, high = (format(v, digits) if digits else number(v) for v in quarters(values))
    return middle if low == middle == high else f"{middle} ({low} to {high})"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    ruler = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ruler, *lines])


def names(values: Iterable[str]) -> list[str]:
    """Each once, in their order."""
    return list(dict.fromkeys(values))


def cell(row: Row, first: Row) -> str:
    """Median and quartiles, and the ratio to the first arm where both have rounds."""
    rounds = row is not first and 1 < len(row.values) == len(first.values)
    return spread(row.values) + (f", × {spread(ratios(row, first), '.3f')}" if rounds else "")


def measured(rows: Sequence[Row]) -> str:
    """The table of one measure: a line for each arm, a column for each server."""
    servers, lines = names(row.server for row in rows), []
    for arm in names(row.arm for row in rows):
        line = [arm]
        for server in servers:
            arms = {row.arm: row for row in rows if row.server == server}
            line.append(cell(arms[arm], next(iter(arms.values()))) if arm in arms else "")
        lines.append(line)
    return table(("arm", *servers), lines)


def verdicts(bars: Sequence[Bar]) -> str:
    """A line for each thing that was to be reached, a column for each server."""
    servers, lines = names(bar.server for bar in bars), []
    for what in names(bar.what for bar in bars):
        found = {bar.server: bar for bar in bars if bar.what == what}
        bar = next(iter(found.values()))
        line = [what, f"{'≥' if bar.least else '≤'} {bar.limit:,}"]
        lines.append(line + [verdict(found[one]) if one in found else "" for one in servers])
    return table(("what", "bar", *servers), lines)


def verdict(bar: Bar) -> str:
    """A ratio to three places: the bars need them."""
    value = number(bar.value) if bar.value >= 10 else f"{bar.value:.3f}"
    return f"{value}, {'reached' if bar.reached else '**not reached**'}"


def plot(answer: Answer, file: Path) -> None:
    """A panel for each measure; a mark for each round, a line for the median."""
    measures = names(row.measure for row in answer.rows)
    heights = [sum(row.measure == measure for row in answer.rows) for measure in measures]
    figure, panels = pyplot.subplots(
        len(measures), squeeze=False, layout="constrained", height_ratios=heights,
        figsize=(9, 0.6 * len(measures) + 0.24 * sum(heights)),
    )  # fmt: skip
    for panel, measure in zip(panels[:, 0], measures, strict=True):
        rows = [row for row in answer.rows if row.measure == measure][::-1]
        arms = names(row.arm for row in rows[::-1])
        for at, row in enumerate(rows):
            colour = f"C{arms.index(row.arm) % 10}"
            panel.plot(row.values, [at] * len(row.values), ".", color=colour, alpha=0.5)
            panel.plot(median(row.values), at, "|", color=colour, markersize=13, markeredgewidth=3)
        panel.set_yticks(range(len(rows)), [f"{row.server}, {row.arm}" for row in rows], fontsize=7)
        panel.set_xlim(left=0)
        panel.set_title(measure, fontsize=9, loc="left")
        panel.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


def section(answer: Answer, picture: str) -> str:
    parts = [f"## {answer.number}. {answer.title}", answer.how]
    parts += [verdicts(answer.bars)] if answer.bars else []
    for measure in names(row.measure for row in answer.rows):
        rows = [row for row in answer.rows if row.measure == measure]
        parts += [f"**{measure[0].upper()}{measure[1:]}**", measured(rows)]
    parts += [f"![{answer.title}]({picture})"] if answer.rows else []
    parts += ["\n".join(f"* {note}" for note in answer.notes)] if answer.notes else []
    return "\n\n".join(parts)


def write(answers: Sequence[Answer], head: str, folder: Path) -> Path:
    """Writes report.md and the plots beside it; returns the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [head]
    for answer in answers:
        picture = f"{answer.number}.png"
        if answer.rows:
            plot(answer, folder / picture)
        parts.append(section(answer, picture))
    report = folder / "report.md"
    report.write_text("\n\n".join(parts) + "\n")
    return report
