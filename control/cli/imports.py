"""`redis-certauth import`: a file for `apply` out of what another system has."""

from __future__ import annotations

from pathlib import Path

import click

from control.cli import apply, enterprise, files, importers
from control.cli.client import Client
from control.cli.helping import Group
from control.cli.options import FILE, FOLDER, Command, choice, connected
from control.cli.output import clean


@click.group("import", cls=Group)
def import_group() -> None:
    """Create a file for `apply` from another system's configuration, and report what could not be
    converted."""


def print_import(found: importers.Import) -> None:
    """The file, which also says what is not in it; and that on the terminal."""
    # On one line each: the rest of a note must not become a part of the file.
    lines = [clean(line.replace("\n", " ")) for line in importers.lines(found.notes)]
    for line in lines:
        click.echo(f"# {line}")
    click.echo(apply.dump(found.state), nl=False)
    for line in lines:
        click.echo(line, err=True)


def with_subjects(command: Command) -> Command:
    """Gives a command the options that say which subject a user's certificate has."""
    for option in (
        click.option("--subject", "template", default="",
                     help="Subject of all certificates, with {} in place of the name: "
                          "CN={},O=acme"),
        click.option("--certificates", type=FOLDER, help="Take the subjects from these "
                                                         "certificate files."),
    ):  # fmt: skip
        command = option(command)
    return command


def subjects_from(
    folder: Path | None, template: str
) -> tuple[importers.Import, importers.Subjects]:
    """The subjects by user's name, from certificates in a folder or from a template, and notes of
    the files that are not certificates."""
    found = sorted(one for one in folder.iterdir() if one.is_file()) if folder else []
    notes = importers.Import()
    contents_of = ((one.name, one.read_bytes()) for one in found)
    return notes, importers.subjects_of(contents_of, template, notes)


@import_group.command("acl")
@click.argument("file", type=FILE)
@click.option("--of", type=choice(importers.Of), default="CN", show_default=True,
              help="Value of tls-auth-clients-user.")  # fmt: skip
@with_subjects
def import_acl(file: Path, of: importers.Of, certificates: Path | None, template: str) -> None:
    """FILE is the aclfile of a server with tls-auth-clients-user, or its ACL LIST."""
    notes, by_cn = subjects_from(certificates, template)
    if of == "URI" and (certificates or template):
        raise click.UsageError("--of URI: the URI is the identity; --subject and --certificates "
                               "are for CN")  # fmt: skip
    found = importers.from_acl_file(files.text(file), by_cn if of == "CN" else None)
    print_import(importers.Import(found.state, notes.notes + found.notes))


@import_group.command("pg-ident")
@click.argument("file", type=FILE)
@with_subjects
def import_pg_ident(file: Path, certificates: Path | None, template: str) -> None:
    """FILE is a pg_ident.conf with maps for certificates."""
    notes, subjects = subjects_from(certificates, template)
    found = importers.from_pg_ident(files.text(file), subjects)
    print_import(importers.Import(found.state, notes.notes + found.notes))


@import_group.command("enterprise")
@connected
def import_enterprise(ask: Client) -> None:
    """From a Redis Enterprise cluster, whose REST API the connection options name."""
    ours = (apply.CA, apply.PATTERNS, apply.PROFILES, apply.REVOCATIONS, apply.CRLS)
    paths = {name: one.path for name, one in apply.SECTIONS.items() if name not in ours}
    answers = {name: ask("GET", path) for name, path in paths.items()}
    answers["certificates"] = ask("GET", apply.SECTIONS[apply.CA].path)
    known = {name: one.known for name, one in apply.SECTIONS.items()}
    print_import(enterprise.from_enterprise(answers, known))
