"""What commands have in common: how the API is reached, and how a change is agreed to and made."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from control.cli import apply, client, making, renewal
from control.cli.client import ApiError, Client, ProfileError
from control.cli.completing import profiles
from control.cli.output import (
    as_data,
    clean,
    colour,
    echo_data,
    error_console,
    render_cuts,
    render_doubts,
    render_preview,
)

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def host_and_port(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:
    """Callback of an option: HOST:PORT, also with IPv6 in brackets. Raises BadParameter."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"'{value}' is not a HOST:PORT", ctx, param)
    return host.strip("[]"), int(port)


def _of_api(name: str, text: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", envvar=f"CERTAUTH_{name.upper()}", show_envvar=True, help=text)


CONNECTION = (
    click.option("--profile", "--context", "profile", envvar="CERTAUTH_PROFILE", show_envvar=True,
                 shell_complete=profiles, help="Profile in config.toml to use; see `context`."),
    _of_api("url", "Address of the API: https://host:9443"),
    _of_api("ca", "PEM file of the CA that issued the API's certificate."),
    _of_api("cert", "PEM file of your certificate."),
    _of_api("key", "PEM file of your certificate's private key."),
    _of_api("username", "Log in with this user name and a password instead."),
)  # fmt: skip


@contextmanager
def reporting() -> Iterator[None]:
    """Exits with 1 where the API refuses, with 2 where the profile is wrong: with 1 there as well
    where 2 is to mean something else."""
    try:
        yield
    except (ProfileError, apply.PolicyFileError) as error:
        if has_flag(EXACT):
            raise click.ClickException(str(error)) from error
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
# In the context of a command:
BEHIND, NO_WAITING = "certauth.behind", "certauth.hasty"
DRY, LINES, AGREED = "certauth.dry", "certauth.lines", "certauth.agreed"
EXACT, INPUT_TAKEN = "certauth.exact", "certauth.input"


def _flag(option: str, key: str, text: str) -> Callable[[Command], Command]:
    """A flag that anyone who makes a change looks up in the context."""

    def keep(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        context.meta[key] = wanted

    return click.option(option, is_flag=True, expose_value=False, callback=keep, help=text)


NO_WAIT = _flag(
    "--no-wait", NO_WAITING,
    f"Do not wait for the servers. By default the command waits {WAIT_SECONDS:g} seconds, and "
    f"exits with {NOT_IN_FORCE} if a server does not have the change by then.",
)  # fmt: skip
YES = _flag("--yes", AGREED, "Do not ask for confirmation.")
LINES_TOO = _flag("--lines", LINES, "With --dry-run: show the policy lines too.")
DRY_RUN = _flag("--dry-run", DRY, "Show what the command would change, and change nothing.")


def makes_change(command: Command) -> Command:
    """Gives a command the options that `change` obeys."""
    for option in (
        NO_WAIT,
        YES,
        LINES_TOO,
        DRY_RUN,
    ):
        command = option(command)
    return command


def has_flag(key: str) -> bool:
    """Whether the command line has this flag."""
    return bool(click.get_current_context().meta.get(key))


def change(ask: Client, method: str, path: str, sent: Any = None, match: str = "",
           question: str = "", scripts: bool = False) -> Any:  # fmt: skip
    """Makes a change, waits for the servers, and returns the API's answer; or, of a dry run, says
    what it would do, and returns None. `match`: the ETag of the state that it is for. Asks before
    where somebody is cut off by it, and always where there is a `question`; `scripts`: it is made
    also where there is nobody to ask. Raises ApiError, click.ClickException, click.Abort."""
    if path.startswith(making.FETCHED):
        return change_fetched(ask, method, path, sent, match, question)
    if has_flag(DRY):
        show_preview(preview(ask, method, path, sent))
        return None
    if not has_flag(AGREED) and (is_terminal() or not scripts):
        agree(ask, method, path, sent, question)
    found = make_change(ask, method, path, sent, match)
    show_warnings(found)
    return found


def change_fetched(
    ask: Client, method: str, path: str, sent: Any, match: str, question: str
) -> Any:
    """The same for what no preview makes: the call's own dry run says what it would do."""
    if has_flag(DRY):
        found = ask(method, f"{path}?dry_run", sent, match)
        show_warnings(found if found.get("warnings") else {"warnings": [NO_CAS]})
        return None
    if question:
        confirm(question)
    found = make_change(ask, method, path, sent, match)
    show_warnings(found)
    return found


NO_CAS = "no CA would come or go by it"


def show_warnings(found: Any) -> None:
    """The warnings of an answer, on standard error."""
    for warning in found.get("warnings", ()) if isinstance(found, dict) else ():
        click.echo(clean(f"warning: {warning}"), err=True)


ABOUT = re.compile(r"changes\.\d+ \([^)]*\): ")  # how the preview begins what is refused


def preview(ask: Client, method: str, path: str, sent: Any) -> list[dict[str, Any]]:
    """What a change would do. Raises ApiError, in the words of the change itself."""
    rehearsal = making.Rehearsal(ask)
    rehearsal(method, path.partition("?")[0], sent)
    try:
        return rehearsal.preview()
    except ApiError as error:
        text = ABOUT.sub("", error.description, count=1)
        raise ApiError(error.status, error.error_code, text) from error


# Then nobody can say what a change would do: it takes too long, or is not this caller's to know.
UNSEEN = ("preview_too_long", "insufficient_permissions")


def agree(ask: Client, method: str, path: str, sent: Any, question: str) -> None:
    """Asks, where it has to. A doubt is for people alone: a script goes on where a server is down,
    or where what a change would do is not its user's to know."""
    try:
        found = preview(ask, method, path, sent)
        cut, doubts = list(render_cuts(found)), list(render_doubts(found))
        texts = list(render_preview(found)) if cut or doubts else []
    except ApiError as error:
        if error.error_code not in UNSEEN:
            raise
        cut, doubts = [], [f"nobody can say what this cuts off: {error.description}"]
        texts = doubts = doubts if method != "POST" else []
    for text in texts:
        click.echo(clean(text), err=True)
    if cut or question or (doubts and is_terminal()):
        confirm(question or "Go on?", "; ".join(cut))


def is_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


def confirm(question: str, why: str = "") -> None:
    """Raises click.Abort where the answer is no, click.ClickException where nobody can answer: a
    script says --yes. `why` is for it."""
    if has_flag(AGREED):
        return
    if not is_terminal():
        because = f" ({clean(why)})" if why else ""
        raise click.ClickException(
            f"this asks first{because}, and there is no terminal to ask on: nothing is changed; "
            "say --yes to do it without"
        )
    click.confirm(question, abort=True, err=True)


TRIES = 5  # where others change the same object at the same time


def edit(ask: Client, path: str, made: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Reads, changes and writes, with the ETag of what was read: of two editors the second reads
    again, and nothing is lost. Raises what `change` does."""
    for tries_left in reversed(range(TRIES)):
        found, etag = ask.read(path)
        try:
            return change(ask, "PUT", path, made(found), etag)
        except ApiError as error:
            if error.error_code != "config_edit_conflict" or not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def make_change(ask: Client, method: str, path: str, sent: Any = None, match: str = "") -> Any:
    """Makes a change and says on how many servers it is in force, and why not on others."""
    with show_waiting():
        found = ask(method, with_wait(path, wait_seconds()), sent, match)
    follow(found.pop("in_force", ""), found.pop("pending", []))
    return found


def wait_seconds() -> float:
    """For the servers, after a change; none where the user does not want to wait."""
    return 0.0 if has_flag(NO_WAITING) else WAIT_SECONDS


def with_wait(path: str, seconds: float) -> str:
    """The path of a call that waits so many seconds until the servers do what it says."""
    return f"{path}{'&' if '?' in path else '?'}wait_for_sync={seconds:g}"


@contextmanager
def show_waiting() -> Iterator[None]:
    """A line that says so, where somebody looks at standard error."""
    if not sys.stderr.isatty():
        yield
        return
    with error_console().status("until the servers hold it"):
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
    meta[BEHIND] = meta.get(BEHIND) or bool(pending and not meta.get(NO_WAITING))


def show_preview(databases: Sequence[Mapping[str, Any]]) -> None:
    """What a change does to databases, for people or as data."""
    if as_data():
        echo_data(databases)
        return
    for line in render_preview(databases, has_flag(LINES)):
        click.echo(colour(clean(line), colour_of(line)))


def colour_of(line: str) -> str | None:
    """Of a line of a preview or a plan, by how it begins."""
    begin = line.strip()[:2]
    return {"- ": "red", "! ": "red", "+ ": "green", "~ ": "yellow"}.get(begin)


def choose_profile(name: str | None, options: Mapping[str, str | None]) -> client.Profile:
    """The profile by name, else the current one, under the options. The password of a
    user who has none in the profile is asked for."""
    profile = client.chosen(name, options)
    if profile.username and not profile.cert and not profile.password:
        password = ask_password(f"Password of {profile.username}")
        if not password:
            raise click.UsageError(
                f"--username {profile.username}: a password is missing: it is asked for on a "
                "terminal; else the first line of standard input is it"
            )
        return client.overridden(profile, {"password": password})
    return profile


def choose_address(name: str | None, options: Mapping[str, str | None]) -> client.Profile:
    """The same for calls that need no login, and without one."""
    found = client.chosen(name, options)
    return client.Profile(url=found.url, ca=found.ca)


def ask_password(prompt: str, twice: bool = False) -> str:
    """A password from a prompt, or from a line of standard input where that is not a terminal."""
    if has_flag(INPUT_TAKEN):
        raise click.UsageError(
            "standard input is the file (-f -), so no password can be read from "
            "it: log in by certificate, or keep the password in a profile"
        )
    if not is_terminal():
        return sys.stdin.readline().rstrip("\r\n")
    found: str = click.prompt(prompt, hide_input=True, confirmation_prompt=twice, err=True)
    return found


def choice(of: Any) -> click.Choice[str]:
    """The values of a Literal, as a type of an option."""
    return click.Choice(get_args(of))
