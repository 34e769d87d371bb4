"""How far the servers are, and what has happened."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

import click
from rich.console import Console
from rich.progress import Progress

from control.cli.client import Client
from control.cli.options import connected
from control.cli.output import AS_JSON, clean, echo, render_events

SERVERS = (
    "bdb_name", "address", "in_step", "age", "generation", "lag", "software", "module", "trust",
    "certificate_not_after", "error",
)  # fmt: skip
POLL_SECONDS = 0.2  # seconds between two questions while show_waiting


@click.command("status")
@click.option("--wait", type=float, default=0.0, help="At most so many seconds, for all servers.")
@AS_JSON
@connected
def status_command(ask: Client, wait: float, as_json: bool) -> None:
    """Show how far each server has followed, and how many seconds ago that was seen. Exits with 1
    where one is behind or not known, where nothing is sent to them, or where the control plane does
    not do its work."""
    found = wait_for_servers(ask, wait)
    if as_json:
        echo(found, True)
    else:
        echo(found["nodes"], False, SERVERS)
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


@click.command("log")
@click.argument("ticket", required=False)
@click.option("--type", "kinds", default="",
              help="Only of these types (with commas), or of all that begin so.")  # fmt: skip
@click.option("--since", help="A time of ISO 8601, in UTC.")
@click.option("--search", help="Only with this in a subject, a SAN or another text.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1),
              help="The last ones.")  # fmt: skip
@AS_JSON
@connected
def log_command(
    ask: Client, ticket: str | None, kinds: str, since: str | None, search: str | None,
    limit: int, as_json: bool,
) -> None:  # fmt: skip
    """Show what happened, the newest last: changes, logins and refusals, here and on all nodes.
    With TICKET, the refusal that a client was told of by it."""
    search = ticket or search
    query = {"order": "desc", **({"stime": since} if since else {})}
    query |= {"search": search} if search else {}
    found = ask("GET", f"/v1/logs?{urlencode(query)}")
    begin = tuple(kinds.split(","))
    wanted = [one for one in found if one["type"].startswith(begin)][:limit][::-1]
    if as_json:
        click.echo(json.dumps(wanted, indent=2))
        return
    for line in render_events(wanted):
        click.echo(clean(line))
