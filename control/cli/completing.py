"""What a shell completes: the program's words, which click knows, and the names of objects, which
the API knows. A shell asks by running this program; nothing is typed in between, so nobody is asked
for a password, and whatever fails completes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import click
from click import shell_completion

from control.cli import client
from control.cli.client import ApiError, Client, ProfileError
from control.cli.helping import PROGRAM

PATIENCE = 2.0  # seconds that a person waits for a Tab
SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_REDIS_CERTAUTH_COMPLETE"
Items: TypeAlias = "list[shell_completion.CompletionItem]"
Complete = Callable[[click.Context, click.Parameter, str], Items]


def names_of(path: str, key: str = "name", within: str = "") -> Complete:
    """Completes names of the objects of a collection of the API; `within`: where in its answer."""

    def complete(context: click.Context, _: click.Parameter, typed: str) -> Items:
        return items(typed, (str(one[key]) for one in asked(context, path, within)))

    return complete


def profiles(context: click.Context, _: click.Parameter, typed: str) -> Items:
    """Completes the profiles of config.toml."""
    try:
        return items(typed, client.profiles(client.config_file()))
    except ProfileError:
        return []


def items(typed: str, names: Iterable[str]) -> Items:
    """Those of the names that begin with what was typed, for click's completion."""
    return [shell_completion.CompletionItem(name) for name in names if name.startswith(typed)]


def asked(context: click.Context, path: str, within: str) -> list[dict[str, Any]]:
    """The objects of a collection; none where the API cannot be asked without a word."""
    options = {name: context.params.get(name) for name in client.NAMES}
    try:
        profile = client.chosen(context.params.get("profile"), options)
        if not profile.cert and not profile.password:
            return []
        with Client(profile, timeout=PATIENCE) as ask:
            answer = ask("GET", path)
            found: list[dict[str, Any]] = answer[within] if within else answer
            return found
    except (ApiError, ProfileError, click.ClickException):
        return []


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL. It completes commands, options and names of objects.

    Into a file that the shell reads: for bash, of /etc/bash_completion.d or
    ~/.local/share/bash-completion/completions; for zsh, one called _redis-certauth in a folder of
    fpath; for fish, ~/.config/fish/completions/redis-certauth.fish.
    """
    if script := shell_completion.get_completion_class(shell):
        click.echo(script(context.find_root().command, {}, PROGRAM, VARIABLE).source())
