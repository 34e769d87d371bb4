"""`redis-certauth context`: the profiles of config.toml, each of which says where an API is and who
asks; and which of them counts where a command names none."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import click

from control.cli import client
from control.cli.client import PATHS, ProfileError
from control.cli.completing import profiles
from control.cli.helping import Group
from control.cli.options import CONNECTION, YES, Command, confirm, reporting
from control.cli.output import echo, with_output

NAME = click.argument("name", shell_complete=profiles)


@click.group("context", cls=Group)
def context_group() -> None:
    """Profiles in config.toml: which API to use, and how to log in."""


@context_group.command("list")
@with_output
def list_all() -> None:
    """List the profiles; a * marks the current one."""
    with reporting():
        file = client.config_file()
        found = client.tables(file) if file.exists() else {}
        current = client.current(file)
    rows = [{"current": "*" * (name == current), "name": name, **shown(one)}
            for name, one in found.items()]  # fmt: skip
    echo(rows, ("current", "name", "url", "login"))


def shown(profile: Mapping[str, str]) -> dict[str, str]:
    """Without its password."""
    login = profile.get("cert") or profile.get("username", "")
    profile = {key: str(one) for key, one in profile.items()}
    return {"url": profile.get("url", ""), "login": login, "ca": profile.get("ca", "")}


@context_group.command("show")
@click.argument("name", required=False, shell_complete=profiles)
@with_output
def show(name: str | None) -> None:
    """Show a profile (default: the current one), without its password."""
    with reporting():
        file = client.config_file()
        name = name or client.current(file)
        found = vars(client.load_profile(file, name))
    hidden = {**found, "password": "(kept)" if found["password"] else ""}
    echo({"name": name, **{key: one for key, one in hidden.items() if one}})


@context_group.command("use")
@NAME
def use(name: str) -> None:
    """Make a profile the current one. Commands without --profile use it."""
    with reporting():
        file = client.config_file()
        client.load_profile(file, name)
        client.current_file(file).write_text(f"{name}\n")
    click.echo(f"now '{name}'", err=True)


def of_profile(command: Command) -> Command:
    """The options that say what is in a profile."""
    for option in reversed(CONNECTION[1:]):
        command = option(command)
    return command


@context_group.command("set")
@NAME
@of_profile
def set_one(name: str, **options: str | None) -> None:
    """Create a profile, or change one. Paths of files are stored as absolute paths."""
    sent = {key: str(Path(one).expanduser().absolute()) if key in PATHS else one
            for key, one in options.items() if one is not None}  # fmt: skip
    if not sent:
        raise click.UsageError("nothing to keep: give an option, such as --url")
    with reporting():
        file = client.config_file()
        there = client.tables(file) if file.exists() else {}
        write(file, name, {**there.get(name, {}), **sent})
    click.echo(f"kept '{name}' in {file}", err=True)


@context_group.command("delete")
@NAME
@YES
def delete(name: str) -> None:
    """Delete a profile. The files that it names stay."""
    with reporting():
        file = client.config_file()
        if name not in client.tables(file):
            raise ProfileError(f"{file}: no profile '{name}'")
        confirm(f"Forget the profile '{name}'?")
        write(file, name, None)


def write(file: Path, name: str, profile: Mapping[str, str] | None) -> None:
    """Changes one table of the file and leaves everything else, comments too, as it is. Raises
    ProfileError where the file is not written as we can change it."""
    text = file.read_text() if file.exists() else ""
    found = tomllib.loads(text)
    made = replaced(text, name, profile)
    wanted = {key: one for key, one in found.items() if key != name}
    wanted |= {name: dict(profile)} if profile is not None else {}
    try:
        agrees = tomllib.loads(made) == wanted
    except tomllib.TOMLDecodeError:
        agrees = False
    if not agrees:
        raise ProfileError(f"{file} is not written so that this can change it: edit it by hand")
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.touch(0o600)
    new.write_text(made)
    new.chmod(file.stat().st_mode & 0o777 if file.exists() else 0o600)
    new.replace(file)


def replaced(text: str, name: str, profile: Mapping[str, str] | None) -> str:
    """The text with this table instead of the one of that name, at its place or at the end."""
    lines = text.splitlines()
    heads = [index for index, line in enumerate(lines) if line.strip().startswith("[")]
    begin = next((index for index in heads if named(lines[index]) == name), len(lines))
    end = next((index for index in heads if index > begin), len(lines))
    key = name if name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)
    made = []
    if profile is not None:
        made = [f"[{key}]", *(f"{one} = {quoted(value)}" for one, value in profile.items())]
        comments = [line for line in lines[begin:end] if line.strip().startswith("#")]
        made += [*comments, ""] if end < len(lines) else comments
    return "\n".join([*lines[:begin], *made, *lines[end:]]) + "\n"


def quoted(value: str) -> str:
    """A string of TOML, in which DEL has to be escaped, unlike in JSON."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def named(head: str) -> str:
    """The name of a table by its line; "" where it is none of ours."""
    try:
        return next(iter(tomllib.loads(head)), "")
    except tomllib.TOMLDecodeError:
        return ""
