"""`redis-certauth session`: who is connected to the servers, and how to end that; and `whoami`."""

from typing import Any
from urllib.parse import urlencode

import click

from control.cli.client import Client
from control.cli.completing import names_of
from control.cli.helping import Group
from control.cli.options import DRY, DRY_RUN, YES, confirm, connected, has_flag
from control.cli.output import as_data, clean, echo, echo_data, wanted_format, with_output

SESSIONS = "/v1/certauth/sessions"
COLUMNS = ("user", "bdb_name", "node", "id", "address", "since", "subject")
DB = click.option(
    "--db", help="Only sessions of this database.", shell_complete=names_of("/v1/bdbs")
)
USER = click.option(
    "--user", help="Only certificates of this user.", shell_complete=names_of("/v1/users")
)


@click.group("session", cls=Group)
def session_group() -> None:
    """Clients that are connected to the servers now, and their certificates."""


def found_sessions(ask: Client, db: str | None, user: str | None) -> dict[str, Any]:
    """The sessions of a database or of a user, and the servers that do not say theirs."""
    query: dict[str, Any] = {"user": user} if user else {}
    query |= {"bdb": ask.named("/v1/bdbs", db)["uid"]} if db else {}
    found: dict[str, Any] = ask("GET", f"{SESSIONS}?{urlencode(query)}")
    return found


def say_missing(found: dict[str, Any]) -> None:
    """Says on standard error which sessions are not shown."""
    for one in found["silent"]:
        click.echo(clean(f"{one['node']} of '{one['bdb_name']}' does not say: {one['error']}"),
                   err=True)  # fmt: skip
    if found["more"]:
        click.echo("there are more: these are the first 1,000 of each server", err=True)


@session_group.command("list")
@DB
@USER
@with_output
@connected
def list_all(ask: Client, db: str | None, user: str | None) -> None:
    """List the sessions of all servers. Servers that do not answer are named."""
    found = found_sessions(ask, db, user)
    if as_data():
        echo_data(found)
        return
    rows = found["sessions"]
    if wanted_format() == "name":  # as `session end` takes it
        rows = [{"name": f"{one['node']} {one['id']}"} for one in rows]
    echo(rows, COLUMNS)
    say_missing(found)


@session_group.command("end")
@click.argument("node", required=False)
@click.argument("id_", metavar="ID", type=int, required=False)
@DB
@USER
@DRY_RUN
@YES
@connected
def end(ask: Client, node: str | None, id_: int | None, db: str | None, user: str | None) -> None:
    """End the session ID on the server NODE, or all sessions of --user or --db. A client can
    reconnect: to prevent that, revoke its certificate."""
    if (node is None) != (id_ is None) or not (node or user or db):
        raise click.UsageError("which session? Give NODE and ID, as `session list` has them, or "
                               "--user or --db")  # fmt: skip
    found = found_sessions(ask, db, user)
    those = [
        one for one in found["sessions"] if node is None or (one["node"], one["id"]) == (node, id_)
    ]
    say_missing(found)
    if not those:
        raise click.ClickException("there is no such session")
    for one in those:
        click.echo(clean(f"{one['user'] or 'nobody'} from {one['address'] or 'a unix socket'} on "
                         f"{one['bdb_name']} ({one['node']} {one['id']})"), err=True)  # fmt: skip
    if has_flag(DRY):
        return
    confirm(f"End {len(those)} session{'' if len(those) == 1 else 's'}?")
    for one in those:
        names = ("bdb_uid", "node", "id")
        ask("DELETE", SESSIONS, {**{name: one[name] for name in names}, "cert": one["cert"] or ""})
    click.echo(f"ended: {len(those)}", err=True)


@click.command("whoami")
@with_output
@connected
def whoami_command(ask: Client) -> None:
    """Show how the API sees you: which user, which rights, and how you logged in."""
    role = ask("GET", "/v1/users/role")["role"]
    login = ask.profile.cert or "password"
    echo({"user": ask.whoami() or "(not told)", "role": role, "login": login,
          "url": ask.profile.url})  # fmt: skip
