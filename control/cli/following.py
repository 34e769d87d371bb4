"""CAs that are followed: accepting what is more than they may change by themselves."""

import click

from control.cli import client
from control.cli.certificates import FORCE, with_force
from control.cli.client import Client
from control.cli.options import NO_WAIT, connected, make_change
from control.cli.output import clean

SOURCES = "/v1/certauth/trust_sources"


@click.command("accept")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@FORCE
@NO_WAIT
@connected
def accept_command(ask: Client, name: str, yes: bool, force: bool) -> None:
    """Show which CAs would be added and removed, and apply that after a question."""
    found = ask.named(SOURCES, name)
    waits = found["waits"]
    if waits is None:
        click.echo("nothing waits")
        return
    for word, names in (("+", waits["added"]), ("-", waits["removed"])):
        for one in names:
            click.echo(clean(f"{word} {one}"))
    if not yes:
        click.confirm("Put that in force?", abort=True, err=True)
    path = with_force(f"{client.item(SOURCES, found['uid'])}/accept", force)
    make_change(ask, "POST", path, {"digest": waits["digest"]})
