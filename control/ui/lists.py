"""The heads of lists, by which they are sorted, and times as people tell them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import request, url_for

from control.records import rendered_time

# Seconds of a unit; a time is told in the first of which it has at least two.
UNITS = (
    ("year", 31_557_600), ("month", 2_629_800), ("day", 86_400), ("hour", 3_600), ("minute", 60),
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """Of a column: `address` sorts the list by it, `order` is how it is sorted by it now."""

    label: str
    address: str = ""
    order: str = ""  # "ascending", "descending"


def sort_of(columns: Sequence[tuple[str, str]]) -> str | None:
    """By what the request wants a list sorted, of what its columns allow."""
    wanted = request.args.get("sort", "")
    allowed = {sort for _, sort in columns if sort}
    return wanted if wanted.removeprefix("-") in allowed else None


def heads(endpoint: str, columns: Sequence[tuple[str, str]], args: Mapping[str, str]) -> list[Head]:
    """Of columns, each its label and what the API calls it for `sort`, or "". `args` are those of
    the list beside that; another order begins at its first page."""
    now, found = sort_of(columns) or "", []
    others = {name: value for name, value in args.items() if name != "sort"}
    for label, sort in columns:
        order = {sort: "ascending", f"-{sort}": "descending"}.get(now, "") if sort else ""
        turned = f"-{sort}" if order == "ascending" else sort
        values: dict[str, Any] = {**others, "sort": turned}
        address = url_for(endpoint, **values) if sort else ""
        found.append(Head(label, address, order))
    return found


def seconds_of(moment: int | str) -> int:
    """A time of the API: seconds since 1970, or ISO 8601."""
    if isinstance(moment, int):
        return moment
    return int(datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp())


def exact(moment: int | str) -> str:
    return rendered_time(moment) if isinstance(moment, int) else moment


def ago(moment: int | str, now: int | None = None) -> str:
    """How long ago that was, or when it will be: "3 days ago", "in 20 minutes"."""
    try:
        away = seconds_of(moment) - int(time.time() if now is None else now)
    except ValueError:  # year 0000 of a certificate, as rendered_time has it
        return str(moment)
    for name, size in UNITS:
        if abs(away) >= 2 * size:
            count = abs(away) // size
            return f"in {count} {name}s" if away > 0 else f"{count} {name}s ago"
    return "in a moment" if away > 0 else "just now"
