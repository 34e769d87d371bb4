"""`redis-certauth apply`: prints the plan, rehearses it, and makes the changes."""

from __future__ import annotations

import sys
from http import HTTPStatus
from pathlib import Path

import click

from control.cli import apply, batches, making
from control.cli.client import ApiError, Client
from control.cli.options import (
    FILE,
    NO_WAIT,
    connected,
    follow,
    show_preview,
    wait_seconds,
)
from control.cli.output import clean, render_refusals
from control.cli.status import wait_for_servers


@click.command("apply")
@click.option("--file", "-f", required=True, type=FILE, help="The declared state, YAML.")
@click.option("--dry-run", is_flag=True, help="Print the plan and what it would do, and end.")
@click.option("--prune", is_flag=True, help="Delete what the file's lists do not have.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@NO_WAIT
@connected
def apply_command(ask: Client, file: Path, dry_run: bool, prune: bool, yes: bool) -> None:
    """Apply the state declared in FILE. Prints the plan first, and changes nothing where the API or
    a server would refuse a part of it."""
    wanted = apply.read(file)
    steps = apply.plan(wanted, apply.fetch(ask), ask.whoami() if prune else "", prune)
    if not steps:
        click.echo("nothing to do")
        return
    for step in steps:
        click.echo(clean(str(step)))
    steps = [making.with_password(step) for step in steps]
    if len(steps) <= making.MOST:
        rehearsal = making.Rehearsal(ask)
        for step in steps:
            making.carry_out(rehearsal, step)
        if dry_run:
            show_preview(rehearsal.preview())
            return
        rehearse(rehearsal)
    elif dry_run:
        click.echo(f"{len(steps)} changes: what more than {making.MOST} would do is not foreseen")
        return
    if not yes:
        click.confirm(f"Make these {len(steps)} changes?", abort=True, err=True)
    changes, made = making.Changes(ask), 0
    for batch in batches.batches(steps):
        try:
            batches.carry_out(changes, batch)
        except ApiError as error:
            said = f"{batches.title(batch)}: {error.description}"
            where = f"{said}; {made} of {len(steps)} changes are made"
            raise ApiError(error.status, error.error_code, where) from error
        made += len(batch)
        show_progress(made, len(steps))
    click.echo(f"{len(steps)} changes made")
    if changes.moved:
        follow_all(ask)


def show_progress(made: int, all_: int) -> None:
    """A line that is written over and over, where somebody looks at standard error."""
    if all_ > making.MOST and sys.stderr.isatty():
        click.echo(f"\r{made} of {all_} changes", err=True, nl=made == all_)


@click.command("export")
@connected
def export_command(ask: Client) -> None:
    """Print what there is, as a file for `apply`: there it is not a change. Passwords are not in
    it."""
    click.echo(apply.dump(apply.exported(apply.fetch(ask))), nl=False)


UNSEEN = ("preview_too_long", "insufficient_permissions")  # then each step is tried by itself


def rehearse(rehearsal: making.Rehearsal) -> None:
    """Raises ApiError where the API would refuse a step, click.ClickException where a server
    would."""
    if len(rehearsal.changes) > making.MOST:
        return
    try:
        found = rehearsal.preview()
    except ApiError as error:
        if error.error_code in UNSEEN:
            return
        text = f"{error.description}; nothing is changed"
        raise ApiError(error.status, error.error_code, text) from error
    nodes = (node for database in found for node in database["nodes"])
    texts = [text for node in nodes for text in render_refusals(node)]
    if texts:
        raise click.ClickException(clean("; ".join([*texts, "nothing is changed"])))


def follow_all(ask: Client) -> None:
    """Waits for all servers, after changes that are of several databases."""
    try:
        servers = wait_for_servers(ask, wait_seconds())["nodes"]
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        follow("", [f"how far the servers are is not yours to see: {error.description}"])
        return
    pending = [
        f"{one['address']}: {one['error'] or 'it has not followed yet'}"
        for one in servers
        if not one["in_step"]
    ]
    follow(f"{len(servers) - len(pending)}/{len(servers)}", pending)
