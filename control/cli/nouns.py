"""The commands of the API's objects, out of one table: `redis-certauth user list` and the like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from control.cli import client
from control.cli.client import Client
from control.cli.completing import names_of
from control.cli.helping import Group
from control.cli.identities import (
    SUBJECT,
    fields_of,
    given_identities,
    identity_group,
    with_identities,
)
from control.cli.objects import NOUNS, Field, Noun
from control.cli.options import (
    Command,
    change,
    connected,
    edit,
    makes_change,
)
from control.cli.output import IDENTITIES, clean, echo, with_output


def with_fields(noun: Noun, edits: bool = False) -> Callable[[Command], Command]:
    """Gives a command an option for each field of the noun; with `edits`, also those that add to a
    list and remove from it."""

    def add(command: Command) -> Command:
        for field in reversed(noun.fields):
            for option in reversed(field.declare_edits() if edits and field.edited else ()):
                command = option(command)
            command = field.declare()(command)
        return with_identities(command) if noun.identities else command

    return add


def body(ask: Client, noun: Noun, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the command line has, as the request has them."""
    identities = given_identities({**given})
    values = {field: given[field.parameter] for field in noun.fields}
    there = {field: one for field, one in values.items() if one not in (None, ())}
    return fields_of(identities) | {
        field.name: field.read(ask, one)
        for field, one in there.items()
        if one is not False or field.kind is bool
    }


Edits = dict[Field, tuple[list[Any], list[Any]]]  # what is added to a list, and removed from it


def edits_of(ask: Client, noun: Noun, given: Mapping[str, Any]) -> Edits:
    """What --add-… and --remove-… say. Raises click.UsageError beside an option for all of it."""
    found: Edits = {}
    for field in noun.fields:
        more, less = (given.get(f"{verb}_{field.parameter}", ()) for verb in ("add", "remove"))
        if (more or less) and given[field.parameter]:
            raise click.UsageError(
                f"--{field.option} is the whole list: it goes with neither --add-{field.option} "
                f"nor --remove-{field.option}"
            )
        if more or less:
            found[field] = (field.read(ask, more), field.read(ask, less))
    return found


def is_meant(there: Any, one: Any) -> bool:
    """An object of a list may have fields that nobody types, such as a uid."""
    if isinstance(one, dict):
        return all(there.get(name) == value for name, value in one.items())
    return bool(there == one)


def edited(field: Field, there: list[Any], more: list[Any], less: list[Any]) -> list[Any]:
    """Raises click.UsageError where what is removed is not there."""
    for one in less:
        if not any(is_meant(other, one) for other in there):
            raise click.UsageError(f"--remove-{field.option}: there is no such {field.option}")
    kept = [other for other in there if not any(is_meant(other, one) for one in less)]
    return kept + [one for one in more if not any(is_meant(other, one) for other in kept)]


def say_replaced(noun: Noun, there: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
    """Who gives one member of a list may have meant to add it."""
    options = {field.name: field.option for field in noun.fields if field.edited}
    for name, option in options.items():
        gone = [one for one in there.get(name, ())
                if not any(is_meant(one, other) for other in sent.get(name, (one,)))]  # fmt: skip
        if gone:
            text = f"--{option} replaces the whole list: {len(gone)} of it go; --add-{option} adds"
            click.echo(text, err=True)
    gone = [one for one in there.get(IDENTITIES, ()) if one not in sent.get(IDENTITIES, (one,))]
    if gone:
        text = f"this replaces all identities: {len(gone)} go; `user identity add` adds"
        click.echo(clean(text), err=True)


def update_body(ask: Client, noun: Noun, given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The body of an update, without edits of lists."""
    return body(ask, noun, given) | ({"name": name} if name else {})


def change_one(ask: Client, noun: Noun, path: str, sent: dict[str, Any], edits: Edits) -> Any:
    """Raises click.UsageError where nothing would change."""
    if not sent and not edits:
        raise click.UsageError("nothing to change: give an option")

    def made(there: dict[str, Any]) -> dict[str, Any]:
        say_replaced(noun, there, sent)
        lists = {field.name: edited(field, there[field.name], *both)
                 for field, both in edits.items()}  # fmt: skip
        return sent | lists

    return edit(ask, path, made)


LABELS = {"acl": "ACL", "db": "database", "cert-profile": "certificate profile",
          "issuer": "token issuer", "trust-source": "trust source",
          "responder": "OCSP responder"}  # fmt: skip
LISTS = (
    "An option that takes a list replaces the whole list; options that begin with --add- or "
    "--remove- change single entries."
)


def one_of_a_kind(noun: Noun, group: click.Group) -> None:
    """show, update."""

    @group.command()
    @with_output
    @connected
    def show(ask: Client) -> None:
        """Show these settings."""
        echo(ask("GET", noun.path))

    @group.command()
    @with_fields(noun)
    @makes_change
    @with_output
    @connected
    def update(ask: Client, **given: Any) -> None:
        """Change the settings that the options name, and show the result."""
        echo(change_one(ask, noun, noun.path, update_body(ask, noun, given, ""), {}))


def collection(noun: Noun, group: click.Group) -> None:
    """list, show, create, update, delete."""
    label = LABELS.get(noun.name, noun.name)
    named = click.argument("name", shell_complete=names_of(noun.path))

    def path_of(ask: Client, name: str) -> str:
        return client.item(noun.path, ask.named(noun.path, name)["uid"])

    @group.command("list", help=f"List all {label}s.")
    @with_output
    @connected
    def list_all(ask: Client) -> None:
        echo(ask("GET", noun.path), noun.columns)

    @group.command(help=f"Show one {label}, by name or uid.")
    @named
    @with_output
    @connected
    def show(ask: Client, name: str) -> None:
        echo(ask("GET", path_of(ask, name)))

    @group.command(help=f"Create a new {label}, and show it.")
    @click.argument("name")
    @with_fields(noun)
    @makes_change
    @with_output
    @connected
    def create(ask: Client, name: str, **given: Any) -> None:
        for field in noun.fields:
            if field.needed and not given[field.parameter]:
                raise click.UsageError(f"which {field.option}? --{field.option}: {field.help}")
        sent = {"name": name, **body(ask, noun, given)}
        if sent.keys() & {IDENTITIES, SUBJECT}:
            sent.setdefault("auth_method", "certificate")
        echo(change(ask, "POST", noun.path, sent))

    @group.command(help=f"Change one {label}, and show it. {LISTS}")
    @named
    @click.option("--rename", default="", help="New name.")
    @with_fields(noun, edits=True)
    @makes_change
    @with_output
    @connected
    def update(ask: Client, name: str, rename: str, **given: Any) -> None:
        path, sent = path_of(ask, name), update_body(ask, noun, given, rename)
        echo(change_one(ask, noun, path, sent, edits_of(ask, noun, given)))

    @group.command(help=f"Delete one {label}, by name or uid.")
    @named
    @makes_change
    @connected
    def delete(ask: Client, name: str) -> None:
        path = path_of(ask, name)
        change(ask, "DELETE", path, question=f"Delete {noun.name} '{name}'?")


def group_of(noun: Noun) -> click.Group:
    """The commands of a noun."""
    group = Group(noun.name, help=noun.help)
    (collection if noun.columns else one_of_a_kind)(noun, group)
    if noun.identities:
        group.add_command(identity_group)
    return group


def named(name: str) -> click.Group:
    """The group of the noun of that name."""
    return group_of(next(noun for noun in NOUNS if noun.name == name))
