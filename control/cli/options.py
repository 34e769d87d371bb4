"""What commands have in common: how the API is reached, and how a change is made."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from rich.console import Console

from control.cli import apply, client, making, renewal
from control.cli.client import ApiError, Client, ProfileError
from control.cli.output import clean, render_preview

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

CONNECTION = (
    click.option("--profile", envvar="CERTAUTH_PROFILE", help="A table of config.toml."),
    click.option("--url", help="Of the API: https://host:9443"),
    click.option("--ca", help="PEM file of the CA that the API's certificate is from."),
    click.option("--cert", help="PEM file of your certificate."),
    click.option("--key", help="PEM file of its key."),
    click.option("--username", help="Log in by password instead."),
)


@contextmanager
def reporting() -> Iterator[None]:
    """Exits with 1 where the API refuses, with 2 where the profile is wrong."""
    try:
        yield
    except (ProfileError, apply.PolicyFileError) as error:
        raise click.UsageError(str(error)) from error
    except (ApiError, renewal.RenewalError) as error:
        raise click.ClickException(clean(str(error))) from error


@contextmanager
def asking(profile: str | None, options: Mapping[str, str | None]) -> Iterator[Client]:
    """A client by the options of CONNECTION; exits as `reporting` does."""
    with reporting(), Client(choose_profile(profile, options)) as ask:
        yield ask


def connection(command: Command) -> Callable[..., Any]:
    """Gives a command the options of CONNECTION: `profile`, and the others as `options`."""

    @wraps(command)
    def run(profile: str | None, **arguments: Any) -> None:
        options = {name: arguments.pop(name) for name in ("url", "ca", "cert", "key", "username")}
        command(profile, options, **arguments)

    for option in reversed(CONNECTION):
        run = option(run)
    return run


def connected(command: Command) -> Callable[..., Any]:
    """Gives a command a client as its first argument."""

    @wraps(command)
    def run(profile: str | None, options: Mapping[str, str | None], **arguments: Any) -> None:
        with asking(profile, options) as ask:
            command(ask, **arguments)
        if click.get_current_context().meta.get(BEHIND):
            sys.exit(NOT_IN_FORCE)

    return connection(run)


WAIT_SECONDS = 5.0  # seconds for the servers, before it is said that they are still to follow
NOT_IN_FORCE = 3  # the exit status where a server does not hold a change then
BEHIND, NO_WAITING = "certauth.behind", "certauth.hasty"  # in the context of a command


def skip_waiting(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    context.meta[NO_WAITING] = wanted


DRY_RUN = click.option("--dry-run", is_flag=True, help="Say what it would do; change nothing.")
NO_WAIT = click.option(
    "--no-wait", is_flag=True, expose_value=False, callback=skip_waiting,
    help=f"Do not wait for the servers. Else: {WAIT_SECONDS:g} seconds, and exit status "
    f"{NOT_IN_FORCE} where one does not hold the change then.",
)  # fmt: skip


def change(ask: Client, dry_run: bool, method: str, path: str, sent: Any = None,
           match: str = "") -> Any:  # fmt: skip
    """Makes a change, waits for the servers, and returns the API's answer; or, of a dry run, says
    what it would do, and returns None. `match`: the ETag of the state that it is for."""
    if not dry_run:
        found = make_change(ask, method, path, sent, match)
        for warning in found.get("warnings", ()) if isinstance(found, dict) else ():
            click.echo(clean(f"warning: {warning}"), err=True)
        return found
    rehearsal = making.Rehearsal(ask)
    rehearsal(method, path, sent)
    show_preview(rehearsal.preview())
    return None


def make_change(ask: Client, method: str, path: str, sent: Any = None, match: str = "") -> Any:
    """Makes a change and says on how many servers it is in force, and why not on others."""
    with show_waiting():
        found = ask(method, with_wait(path, wait_seconds()), sent, match)
    follow(found.pop("in_force", ""), found.pop("pending", []))
    return found


def wait_seconds() -> float:
    """For the servers, after a change; none where the user does not want to wait."""
    return 0.0 if click.get_current_context().meta[NO_WAITING] else WAIT_SECONDS


def with_wait(path: str, seconds: float) -> str:
    return f"{path}{'&' if '?' in path else '?'}wait_for_sync={seconds:g}"


@contextmanager
def show_waiting() -> Iterator[None]:
    """A line that says so, where somebody looks at standard error."""
    console = Console(stderr=True)
    shown = console.status("until the servers hold it") if console.is_terminal else nullcontext()
    with shown:
        yield


def follow(in_force: str, pending: Sequence[str]) -> None:
    """Says on standard error how far the servers are with a change; what is pending decides about
    the exit status, unless nobody wanted to wait."""
    done, _, all_ = in_force.partition("/")
    if in_force not in ("", "0/0"):
        click.echo(f"in force on {done} of {all_} servers", err=True)
    for one in pending:
        click.echo(clean(f"pending: {one}"), err=True)
    meta = click.get_current_context().meta
    meta[BEHIND] = meta.get(BEHIND) or bool(pending and not meta[NO_WAITING])


def show_preview(databases: Sequence[Mapping[str, Any]]) -> None:
    for line in render_preview(databases):
        click.echo(clean(line))


def choose_profile(name: str | None, options: Mapping[str, str | None]) -> client.Profile:
    """The profile by name, else `default` where there is one, under the options. The password of a
    user who has none in the profile is asked for."""
    profile = _profile(name, options)
    if profile.username and not profile.cert and not profile.password:
        password = ask_password(f"Password of {profile.username}")
        if not password:
            raise click.UsageError(f"--username {profile.username}: a password is missing")
        return client.overridden(profile, {"password": password})
    return profile


def choose_address(name: str | None, options: Mapping[str, str | None]) -> client.Profile:
    """The same for calls that need no login, and without one."""
    found = _profile(name, options)
    return client.Profile(url=found.url, ca=found.ca)


def _profile(name: str | None, options: Mapping[str, str | None]) -> client.Profile:
    file = client.config_file()
    found = client.load_profile(file, name or "default") if name or file.exists() else None
    return client.overridden(found or client.Profile(), options)


def ask_password(prompt: str, twice: bool = False) -> str:
    """A password from a prompt, or from a line of standard input where that is not a terminal."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    found: str = click.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
    return found


def choice(of: Any) -> click.Choice[str]:
    return click.Choice(get_args(of))
