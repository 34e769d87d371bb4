"""Holding somebody out for the time being."""

import re
from typing import Any

import click

from control.cli.client import Client
from control.cli.helping import Group
from control.cli.options import change, connected, makes_change
from control.cli.output import echo, with_output
from control.policy import bindings

LOCKS = "/v1/certauth/locks"
COLUMNS = ("uid", "line", "reason", "time", "end")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group("lock", cls=Group)
def lock_group() -> None:
    """Locks, which shut clients out for a time."""


def seconds(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """Of a time as policy lines have it."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if found is None:
        raise click.BadParameter("a whole number with s, m, h or d is expected, such as 8h")
    return int(found[1]) * SECONDS[found[2]]


@lock_group.command("create")
@click.option("--user", help="Lock every certificate that may be this user.")
@click.option(
    "--identity", help="Lock certificates with this identity: kind and value, such as 'uri a:b'."
)
@click.option("--client-ca", help="Lock all certificates below this CA (name or key id).")
@click.option("--network", help="Lock all clients from this address or network.")
@click.option("--for", "seconds", callback=seconds, metavar="TIME",
              help="How long the lock lasts, such as 8h (default: until you delete "
                   "it).")  # fmt: skip
@click.option("--reason", help="Reason, shown to people who read the lock.")
@makes_change
@with_output
@connected
def create(
    ask: Client, user: str | None, identity: str | None, client_ca: str | None,
    network: str | None, seconds: int | None, reason: str | None,
) -> None:  # fmt: skip
    """Shut out the clients that one of the options names. Their sessions end at once, and they
    cannot log in until the lock ends."""
    given = {"user": user, "identity": identity and _identity(identity), "ca": client_ca,
             "network": network}  # fmt: skip
    body: dict[str, Any] = {name: value for name, value in given.items() if value}
    if len(body) != 1:
        raise click.UsageError("say whom: --user, --identity, --client-ca or --network")
    more = {"seconds": seconds, "reason": reason}
    body |= {name: value for name, value in more.items() if value is not None}
    if made := change(ask, "POST", LOCKS, body, scripts=True):
        echo(made)


def _identity(text: str) -> dict[str, Any]:
    try:
        return bindings.typed(text)
    except ValueError as error:
        raise click.UsageError(f"--identity: {error}") from error


@lock_group.command("list")
@with_output
@connected
def list_all(ask: Client) -> None:
    """List the locks in force."""
    echo(ask("GET", LOCKS), COLUMNS)


@lock_group.command("delete")
@click.argument("uid", type=int)
@makes_change
@connected
def delete(ask: Client, uid: int) -> None:
    """Delete the lock UID. Its clients can log in again, unless something else refuses them."""
    change(ask, "DELETE", f"{LOCKS}/{uid}")
