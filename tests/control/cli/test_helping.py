"""control/cli/helping.py: what each command says of itself, and where its options may come from."""

import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from control.cli.helping import EXAMPLES, SECTIONS
from control.cli.main import main
from control.service import SETTINGS


def run(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, words, env=env)


def leaves(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in sorted(group.commands):
        one = group.commands[name]
        if isinstance(one, click.Group):
            yield from leaves(one, (*words, name))
        else:
            yield (*words, name)


COMMANDS = list(leaves(main))


def found(words: tuple[str, ...]) -> tuple[click.Command, click.Context]:
    """A command as the program finds it."""
    context = click.Context(main, info_name="redis-certauth")
    command: click.Command | None = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(context, word)
        assert command is not None, words
        context = click.Context(command, info_name=word, parent=context)
    assert command is not None
    return command, context


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_that_it_understands(words: tuple[str, ...]) -> None:
    """In its help; and its parser takes each of them: options that are there, all arguments."""
    shown = run(*words, "--help").output
    assert "Example" in shown
    for example in EXAMPLES[" ".join(words)]:
        command, context = found(words)
        typed = shlex.split(example.split(" >")[0].split(" <")[0])
        assert tuple(typed[: len(words)]) == words, example
        parsed, rest, _ = command.make_parser(context).parse_args(typed[len(words) :])
        assert not rest, example
        needed = [one for one in command.params if isinstance(one, click.Argument) and one.required]
        assert all(parsed.get(one.name or "") for one in needed), example


def test_no_example_is_of_no_command() -> None:
    """Nor does a section list what is not there; each command stands in one."""
    assert EXAMPLES.keys() == {" ".join(words) for words in COMMANDS}
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(main.commands)


def test_help_lists_commands_in_groups() -> None:
    """In this order, each with what it is for, whole sentences on 80 columns."""
    shown = run("--help").output
    assert [line[:-1] for line in shown.splitlines() if line[:-1] in SECTIONS] == [*SECTIONS]
    assert "..." not in shown.replace("[ARGS]...", "")
    assert max(map(len, shown.splitlines())) <= 80


def variables() -> list[str]:
    told: list[str] = []
    for words in COMMANDS:
        command, _ = found(words)
        for option in command.params:
            if isinstance(option, click.Option) and option.envvar:
                told.append(str(option.envvar))
    return told


def test_every_option_has_a_variable_of_its_own() -> None:
    """None is also a setting of the control plane; those of all commands are the same ones."""
    everywhere = {f"CERTAUTH_{name}" for name in ("PROFILE", "URL", "CA", "CERT", "KEY",
                                                  "USERNAME", "OUTPUT")}  # fmt: skip
    told = [one for one in variables() if one not in everywhere]
    assert len(told) == len(set(told))
    assert not {*told, *everywhere} & {f"CERTAUTH_{name.upper()}" for name in SETTINGS}


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line counts first; of an option that may be given again, each line is one."""
    command, context = found(("user", "create"))

    def values(*typed: str) -> dict[str, object]:
        with context.scope(cleanup=False):
            command.parse_args(context, ["alice", *typed])
        return context.params

    monkeypatch.setenv("CERTAUTH_USER_CREATE_ROLE", "DB Viewer\nwriters")
    monkeypatch.setenv("CERTAUTH_URL", "https://a:1")
    assert values()["field_role"] == ("DB Viewer", "writers")
    assert values("--role", "x")["field_role"] == ("x",)
    assert values()["url"] == "https://a:1"
    assert values("--url", "https://b:1")["url"] == "https://b:1"


def test_a_wrong_variable_is_told_as_the_option_is() -> None:
    """Before anything is asked of the API."""
    refused = run("log", env={"CERTAUTH_LOG_LIMIT": "many", "CERTAUTH_URL": "https://127.0.0.1:1"})
    assert refused.exit_code == 2
    assert "'--limit': 'many' is not a valid integer" in refused.output
