"""`redis-certauth apply`: prints the plan, rehearses it, and makes the changes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from control.cli import apply, batches, loading, making, planning
from control.cli.client import ApiError, Client
from control.cli.options import (
    DRY,
    DRY_RUN,
    EXACT,
    INPUT_TAKEN,
    LINES_TOO,
    NO_WAIT,
    UNSEEN,
    YES,
    colour_of,
    confirm,
    connected,
    follow,
    has_flag,
    show_preview,
    show_warnings,
    wait_seconds,
)
from control.cli.output import (
    as_data,
    clean,
    colour,
    echo_data,
    render_cuts,
    render_refusals,
    with_output,
)
from control.cli.status import wait_for_servers

CHANGES = 2  # the exit status of a dry run with changes, where it is asked for


def _takes_input(context: click.Context, _: click.Parameter, given: tuple[Path, ...]) -> Any:
    """Standard input is the file then: no password is read from it."""
    context.meta[INPUT_TAKEN] = apply.STDIN in given
    if len([one for one in given if one == apply.STDIN]) > 1:
        raise click.UsageError("-f - is there twice, and standard input only once")
    return given


def _exact(context: click.Context, _: click.Parameter, wanted: bool) -> bool:
    context.meta[EXACT] = wanted
    return wanted


@click.command("apply")
@click.option("--file", "-f", "given", required=True, multiple=True, callback=_takes_input,
              type=click.Path(exists=True, allow_dash=True, path_type=Path),
              help="YAML file with the state to apply, a folder of *.yaml, or - for standard "
              "input; you can repeat this option.")  # fmt: skip
@DRY_RUN
@LINES_TOO
@click.option("--detailed-exitcode", is_flag=True, callback=_exact, expose_value=False,
              help="With --dry-run: exit with 2 if something would change, 0 if nothing would "
              "change, 1 on an error.")  # fmt: skip
@click.option(
    "--prune", is_flag=True, help="Delete objects that are missing from the file's lists."
)
@YES
@NO_WAIT
@with_output
@connected
def apply_command(ask: Client, given: tuple[Path, ...], prune: bool) -> None:
    """Apply the state declared in FILE. Prints the plan first, and changes nothing where the API or
    a server would refuse a part of it."""
    if has_flag(EXACT) and not has_flag(DRY):
        raise click.UsageError("--detailed-exitcode goes with --dry-run")
    with loading.uncollected():
        wanted = apply.read_all(apply.files_of(given))
        steps = planning.plan(wanted, apply.fetch(ask), ask.whoami() if prune else "", prune)
    if has_flag(DRY):
        show_plan(steps, foreseen(ask, steps))
        sys.exit(CHANGES if steps and has_flag(EXACT) else 0)
    if not steps:
        show_plan(steps, [])
        follow_all(ask, changed=False)
        return
    print_steps(steps)
    steps = [making.with_password(step) for step in steps]
    for line in render_cuts(rehearse(rehearsed(ask, steps)), trust=True):
        click.echo(colour(clean(f"! {line}"), "red"), err=True)
    confirm(f"Make these {len(steps)} changes?")
    changes, made = making.Changes(ask), 0
    for batch in batches.batches(steps):
        try:
            batches.carry_out(changes, batch)
        except ApiError as error:
            said = f"{batches.title(batch)}: {error.description}"
            where = f"{said}; {made} of {len(steps)} changes are made"
            raise ApiError(error.status, error.error_code, where) from error
        told = [f"{batches.title(batch)}: {text}" for text in changes.warnings]
        show_warnings({"warnings": told})
        changes.warnings.clear()
        made += len(batch)
        show_progress(made, len(steps))
    click.echo(f"{len(steps)} changes made", err=as_data())
    if changes.moved:
        follow_all(ask)


def show_progress(made: int, all_: int) -> None:
    """A line that is written over and over, where somebody looks at standard error."""
    if all_ > making.MOST and sys.stderr.isatty():
        click.echo(f"\r{made} of {all_} changes", err=True, nl=made == all_)


def show_plan(steps: Sequence[planning.Step], databases: list[dict[str, Any]]) -> None:
    """What is to be done, and what that would do."""
    if as_data():
        echo_data({"changes": [step.data() for step in steps], "databases": databases})
    elif not steps:
        click.echo("nothing to do")
    else:
        print_steps(steps)
        show_preview(databases)


def print_steps(steps: Sequence[planning.Step]) -> None:
    """A plan, on standard output; on standard error where that is for data."""
    for step in steps:
        for line in clean(str(step)).split("\n"):
            click.echo(colour(line, colour_of(line)), err=as_data())


@click.command("export")
@connected
def export_command(ask: Client) -> None:
    """Print the current state as a file for `apply`. Passwords, and revocation lists that came
    as files, are not in it."""
    for one in ask("GET", apply.SECTIONS[apply.CRLS].path):
        if not one["url"]:
            text = f"not in it: the revocation list of {one['issuer']}, which came as a file"
            click.echo(clean(text), err=True)
    click.echo(apply.dump(apply.exported(apply.fetch(ask))), nl=False)


def foreseen(ask: Client, steps: Sequence[planning.Step]) -> list[dict[str, Any]]:
    """What the steps would do; said where they are too many for a preview. Raises ApiError,
    PolicyFileError."""
    if len(steps) <= making.MOST:
        return rehearsed(ask, steps).preview()
    text = f"{len(steps)} changes: what more than {making.MOST} would do is not foreseen"
    click.echo(text, err=True)
    return []


def rehearsed(ask: Client, steps: Sequence[planning.Step]) -> making.Rehearsal:
    """Raises ApiError, PolicyFileError."""
    rehearsal = making.Rehearsal(ask)
    for step in steps if len(steps) <= making.MOST else ():
        if step.section not in making.UNFORETOLD:
            making.carry_out(rehearsal, making.with_password(step))
    return rehearsal


def rehearse(rehearsal: making.Rehearsal) -> list[dict[str, Any]]:
    """What the changes would do, as far as anybody can say. Raises ApiError where the API would
    refuse a step, click.ClickException where a server would."""
    if not rehearsal.changes:
        return []
    try:
        found = rehearsal.preview()
    except ApiError as error:
        if error.error_code in UNSEEN:
            return []
        text = f"{error.description}; nothing is changed"
        raise ApiError(error.status, error.error_code, text) from error
    nodes = (node for database in found for node in database["nodes"])
    texts = [text for node in nodes for text in render_refusals(node)]
    if texts:
        raise click.ClickException(clean("; ".join([*texts, "nothing is changed"])))
    return found


def follow_all(ask: Client, changed: bool = True) -> None:
    """Waits for all servers, after changes that are of several databases; or where nothing is
    `changed`, since what was written down before may not be in force yet."""
    try:
        servers = wait_for_servers(ask, wait_seconds())["nodes"]
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        if not changed:
            return
        follow("", [f"how far the servers are is not yours to see: {error.description}"])
        return
    pending = [
        f"{one['address']}: {one['error'] or 'it has not followed yet'}"
        for one in servers
        if not one["in_step"]
    ]
    follow(f"{len(servers) - len(pending)}/{len(servers)}", pending)
