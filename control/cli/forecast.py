"""What ends, and who gets in no more then."""

from typing import Any

import click

from control.cli.client import Client
from control.cli.options import connected
from control.cli.output import as_data, echo, echo_data, with_output

PARTS = {
    "losses": ("Who loses access", ("time", "bdb_name", "user", "subject", "reason", "last")),
    "cas": ("CAs that end", ("time", "subject", "ca")),
    "crls": ("Revocation lists that become overdue", ("time", "uid", "issuer", "stale")),
    "nodes": ("Servers whose certificate ends", ("time", "bdb_name", "address")),
    "without_client_auth": (
        "Certificates that a public CA renews for servers alone",
        ("time", "user", "subject", "issuer"),
    ),
}


@click.command("forecast")
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True,
              help="Number of days to look ahead.")  # fmt: skip
@with_output
@connected
def forecast_command(ask: Client, days: int) -> None:
    """Show who will lose access in the coming days, as far as certificates are known."""
    found: dict[str, Any] = ask("GET", f"/v1/certauth/forecast?days={days}")
    if as_data():
        echo_data(found)
        return
    for name, (title, columns) in PARTS.items():
        if found[name]:
            click.echo(f"{title}:")
            echo(found[name], columns)
    if found["losses_count"] > len(found["losses"]):
        click.echo(f"The first {len(found['losses'])} of {found['losses_count']}.")
    if not any(found[name] for name in PARTS):
        click.echo(f"Nothing that is known ends until {found['until']}.")
