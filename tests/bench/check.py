"""`python -m tests.bench.check [NEW [OLD]]`: compares a report of `make bench` with the last one.

Only ratios are compared, since both arms of one ran by turns on one machine: absolute figures are
of another machine, or of another hour. Exits with 1 where a ratio is more than MOST times worse."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MOST = 1.3
ROOT = Path(__file__).parents[2]
NEW, OLD = ROOT / "build/bench/report.md", ROOT / "docs/bench/report.md"
VALUE = re.compile(r"([\d.,]+), (?:\*\*not )?reached")
Ratios = dict[tuple[str, str], tuple[float, bool]]


def ratios(text: str) -> Ratios:
    """By what it is and on which server: the value, and whether more is better."""
    return dict(_ratios(text))


def _ratios(text: str) -> Iterator[tuple[tuple[str, str], tuple[float, bool]]]:
    servers: list[str] = []
    for line in text.splitlines():
        what, *cells = [cell.strip() for cell in line.split("|")[1:-1]] or [""]
        if what == "what" and cells[:1] == ["bar"]:
            servers = cells[1:]
        elif " / " in what and cells:
            for server, cell in zip(servers, cells[1:], strict=False):
                if found := VALUE.match(cell):
                    value = float(found[1].replace(",", ""))
                    yield (what, server), (value, cells[0].startswith("≥"))


def worse(new: Ratios, old: Ratios) -> Iterator[str]:
    """A sentence for each ratio of both that is more than MOST times worse."""
    for (what, server), (value, more_is_better) in new.items():
        if (what, server) not in old:
            continue
        was = old[what, server][0]
        low, high = (value, was) if more_is_better else (was, value)
        if high > MOST * low:
            times = f"{high / low:.2f} times worse" if low else "worse"
            on = f" on {server}" if server else ""
            yield f"{what}{on}: {value:g}, and was {was:g}: {times}, more than {MOST:g}"


def main() -> None:
    files = [*map(Path, sys.argv[1:]), *(NEW, OLD)[len(sys.argv) - 1 :]]
    new, old = (ratios(file.read_text()) for file in files)
    common = new.keys() & old.keys()
    if not common:
        sys.exit(f"{files[0]} and {files[1]} have no ratio in common")
    if found := list(worse(new, old)):
        sys.exit("\n".join(found))
    print(f"{len(common)} ratios, none more than {MOST:g} times worse")


if __name__ == "__main__":
    main()
