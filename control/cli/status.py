"""How far the servers are, and what has happened."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import click
from rich.console import Console
from rich.progress import Progress

from control.cli.client import Client
from control.cli.completing import names_of
from control.cli.options import connected
from control.cli.output import as_data, clean, echo, echo_data, render_events, with_output

SERVERS = (
    "bdb_name", "address", "in_step", "age", "generation", "lag", "software", "module", "trust",
    "certificate_not_after", "error",
)  # fmt: skip
POLL_SECONDS = 0.2  # seconds between two questions while show_waiting


@click.command("status")
@click.option(
    "--wait",
    type=float,
    default=0.0,
    help="Wait at most this many seconds until all servers follow.",
)
@with_output
@connected
def status_command(ask: Client, wait: float) -> None:
    """Show how far each server has followed, and how many seconds ago that was seen. Exits with 1
    where one is behind or not known, where nothing is sent to them, or where the control plane does
    not do its work."""
    found = wait_for_servers(ask, wait)
    if as_data():
        echo_data(found)
    else:
        echo(found["nodes"], SERVERS)
    for text, addresses in older(found["nodes"]).items():
        click.echo(clean(f"{', '.join(addresses)}: {text}"), err=True)
    for fault in found["faults"]:
        click.echo(clean(fault), err=True)
    if hold := found["hold"]:
        raise click.ClickException(f"on hold: {clean(hold)}; see redis-certauth release")
    if behind := [one for one in found["nodes"] if not one["in_step"]]:
        raise click.ClickException(f"{len(behind)} of {len(found['nodes'])} servers are behind")
    if found["faults"]:
        raise click.ClickException("the control plane does not do its work")


def older(nodes: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What servers cannot do since their module is of another version: the text, and which."""
    found: dict[str, list[str]] = {}
    for one in nodes:
        for text in one.get("cannot", []):
            found.setdefault(text, []).append(one["address"])
    return found


def wait_for_servers(ask: Client, seconds: float) -> dict[str, Any]:
    """What the API says of the servers, once they are in step or the time is over; meanwhile a bar
    shows how many are, where somebody looks at standard error."""
    end = time.monotonic() + seconds
    console = Console(stderr=True)
    shown = console.is_terminal and seconds > 0
    with Progress(console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task("servers in step")
        while True:
            found: dict[str, Any] = ask("GET", "/v1/certauth/nodes")
            done = sum(one["in_step"] for one in found["nodes"])
            progress.update(task, completed=done, total=len(found["nodes"]))
            if found["hold"] or done == len(found["nodes"]) or time.monotonic() >= end:
                return found
            time.sleep(POLL_SECONDS)


PAGE = 1000  # events in one answer
FOLLOW_SECONDS = 1.0  # seconds between two questions while following
LATE_SECONDS = 60
AGO = re.compile(r"(\d{1,9})([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """A time as the API takes it; 2h is two hours ago."""
    if not text:
        return text
    if not (ago := AGO.fullmatch(text)):
        return iso(text)
    then = datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
    return then.isoformat(timespec="seconds")


def iso(text: str) -> str:
    """As it is. Raises click.BadParameter for anything but a time."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is not a time such as 2026-12-24T18:00:00, nor 2h or 7d for so long ago"
        ) from None
    return text


@click.command("log")
@click.argument("ticket", required=False)
@click.option("--type", "kinds", default="",
              help="Only these types of events, or types that begin with this text; separate "
                   "them by commas.")  # fmt: skip
@click.option("--user", help="Only events by or about this user.",
              shell_complete=names_of("/v1/users"))  # fmt: skip
@click.option("--db", help="Only events of this database.",
              shell_complete=names_of("/v1/bdbs"))  # fmt: skip
@click.option("--since", callback=moment, help="Start: a time (ISO 8601, UTC), or 2h, 7d ago.")
@click.option("--until", callback=moment, help="End: a time, written like that of --since.")
@click.option("--search", help="Only events with this text in a subject, a SAN or another field.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1),
              help="Show at most this many events, the latest ones.")  # fmt: skip
@click.option("--follow", "-f", is_flag=True, help="Keep printing new events, until Ctrl-C.")
@with_output
@connected
def log_command(
    ask: Client, ticket: str | None, kinds: str, user: str | None, db: str | None,
    since: str | None, until: str | None, search: str | None, limit: int, follow: bool,
) -> None:  # fmt: skip
    """Show what happened, the newest last: changes, logins and refusals, here and on all nodes.
    With TICKET (a client gets it with a refusal), show that refusal.

    With --follow and --json each event is a line of JSON."""
    if follow and until:
        raise click.UsageError("--follow goes on without an end: it does not go with --until")
    given = {
        "type": kinds,
        "user": user,
        "search": ticket or search,
        "stime": since,
        "etime": until,
    }
    query = {name: value for name, value in given.items() if value}
    wanted = last_events(ask, query, db, limit)
    if ticket and not wanted and not follow:
        raise click.ClickException(f"no refusal in the log has the ticket '{clean(ticket)}'")
    if not follow:
        show_events(wanted, False)
        return
    show_events(wanted, True)
    for event in news(ask, query, db, wanted):
        show_events([event], True)


def last_events(
    ask: Client, query: Mapping[str, str], db: str | None, limit: int
) -> list[dict[str, Any]]:
    """The last ones, the newest last. The API does not know databases here: their events are
    picked out page by page."""
    found: list[dict[str, Any]] = []
    for offset in range(0, 1 << 30, PAGE):
        size = PAGE if db else min(limit, PAGE)
        sent = {**query, "order": "desc", "limit": size, "offset": offset}
        page = ask("GET", f"/v1/logs?{urlencode(sent)}")
        found += [one for one in page if is_of(one, db)]
        if len(found) >= limit or len(page) < size:
            break
    return found[:limit][::-1]


def is_of(event: Mapping[str, Any], db: str | None) -> bool:
    """Whether an event is about that database."""
    return not db or event.get("bdb_name") == db


def news(
    ask: Client, query: Mapping[str, str], db: str | None, shown: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What happens from now on, each event once. The last while is asked for again each time:
    what happens on a node is told here a little later."""
    seen = Counter(map(json.dumps, shown))
    newest = shown[-1]["time"] if shown else datetime.now(UTC).isoformat()
    old = bool(shown)  # whether the first answer has what was there before
    while True:
        begin = datetime.fromisoformat(newest) - timedelta(seconds=LATE_SECONDS)
        sent = {**query, "stime": begin.isoformat(timespec="seconds"), "order": "asc"}
        found = [one for one in ask("GET", f"/v1/logs?{urlencode(sent)}") if is_of(one, db)]
        told = Counter[str]()
        for one in found:
            text = json.dumps(one)
            told[text] += 1
            is_before = old and one["time"] < newest
            if told[text] > seen[text] and not is_before:
                yield one
        seen, old = told, False
        newest = max([newest, *(one["time"] for one in found)])
        time.sleep(FOLLOW_SECONDS)


def show_events(events: list[dict[str, Any]], one_by_one: bool) -> None:
    """Prints events; `one_by_one` as JSON lines where data is wanted."""
    if as_data() and not one_by_one:
        echo_data(events)
        return
    for event, line in zip(events, render_events(events), strict=True):
        click.echo(json.dumps(event) if as_data() else clean(line))
