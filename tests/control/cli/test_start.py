"""What the command line loads: not the server, where a command has no use for it."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from control.cli.helping import LONGEST
from control.cli.table import TABLE, Program
from control.cli.table import main as program

assert isinstance(program, Program)
main: Program = program

CODE = """
import sys, types
sys.argv = ["redis-certauth", *{arguments}]
from control.cli.start import main
try:
    main()
except SystemExit as error:
    assert not error.code, error
heavy = {{"sqlalchemy", "flask", "pydantic", "redis", "rich.color", "cryptography",
         "control.records"}}
waiting = {{name for name in ("control.service", "http.client", "yaml")
           if name in sys.modules and type(sys.modules[name]) is types.ModuleType}}
print("loaded:", *sorted(heavy & sys.modules.keys() | waiting))
"""


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], ["user", "show", "--help"], ["cluster", "update", "--help"]],
    ids=" ".join,
)
def test_a_command_loads_what_it_uses(arguments: list[str]) -> None:
    code = CODE.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_the_table_says_what_the_commands_say() -> None:
    """The program's help is printed from the table, which loads no command."""
    context = click.Context(main, info_name="redis-certauth")
    said = {name: main.commands[name].get_short_help_str(LONGEST) for name in TABLE}
    assert main.short_helps(context) == said
    assert {name: main.commands[name].name for name in TABLE} == {name: name for name in TABLE}
    assert not [name for name in TABLE if main.commands[name].hidden]


def test_a_command_that_is_not_there_loads_nothing() -> None:
    refused = CliRunner().invoke(main, ["users"])
    assert refused.exit_code == 2
    assert "No such command 'users'" in refused.output
