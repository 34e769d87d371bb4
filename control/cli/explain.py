"""`redis-certauth explain`: who a certificate would be, and why."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from control.cli import files
from control.cli.options import FILE, asking, connection
from control.cli.output import as_data, clean, echo_data, render_explanation, with_output
from control.policy import core
from control.policy.decision import render_decision


@click.command("explain")
@click.argument("certificate", type=FILE)
@click.option("--policy", type=FILE, help="Use this file of policy lines instead of the API.")
@click.option("--db", help="Name of the database (default: a login to the API).")
@click.option("--address", help="The client's IP address, for lines with from=.")
@click.option("--time", "when", type=click.DateTime(), help="Another time than now, in UTC.")
@with_output
@connection
def explain_command(
    profile: str | None, options: Mapping[str, str | None], certificate: Path, policy: Path | None,
    db: str | None, address: str | None, when: datetime | None,
) -> None:  # fmt: skip
    """Show which user CERTIFICATE would be, and why. Exits with 1 if it would be refused.

    CERTIFICATE is PEM, DER or PKCS#7: the leaf first, then its intermediate CAs.
    """
    now = int(when.replace(tzinfo=UTC).timestamp()) if when else None
    if policy:
        found = explained_by(policy, certificate, now, address)
    else:
        sent = {"certificate": files.certificates(certificate), "address": address, "time": now}
        with asking(profile, options) as ask:
            sent["bdb_uid"] = ask.named("/v1/bdbs", db)["uid"] if db else None
            there = {name: value for name, value in sent.items() if value is not None}
            found = ask("POST", "/v1/certauth/explain", there)
    if as_data():
        echo_data(found)
    else:
        click.echo(clean("\n".join(render_explanation(found))))
        for warning in found.get("warnings", ()):
            click.echo(clean(f"warning: {warning}"), err=True)
    sys.exit(0 if found["users"] else 1)


def explained_by(
    policy: Path, certificate: Path, now: int | None, address: str | None
) -> dict[str, Any]:
    """As the API explains, by a file."""
    try:
        presented = files.certificates(certificate).encode()
        decision = read_policy(numbered_lines(policy)).decide(presented, now, address)
    except (core.CoreError, OSError) as error:
        raise click.ClickException(str(error)) from error
    return render_decision(decision)


def numbered_lines(file: Path) -> dict[int, str]:
    """The lines of a policy file, by their number. Comments and empty lines do not count as lines.
    Raises click.ClickException."""
    lines = enumerate(files.text(file).split("\n"), 1)
    found = {number: line.removesuffix("\r") for number, line in lines}
    return {number: line for number, line in found.items() if line and line[0] != "#"}


def read_policy(lines: Mapping[int, str]) -> core.Policy:
    """Lines by their number in a file, which a problem names; 0 is a problem of no line. Raises
    core.PolicyError."""
    try:
        return core.Policy(lines.values())
    except core.PolicyError as error:
        numbers = (0, *lines)
        problems = tuple((numbers[index], text) for index, text in error.problems)
        raise core.PolicyError(problems, error.count) from error
