"""What the command line loads: not the server, where a command has no use for it."""

import subprocess
import sys

import pytest

CODE = """
import sys
sys.argv = ["redis-certauth", *{arguments}]
from control.cli.start import main
try:
    main()
except SystemExit as error:
    assert not error.code, error
print("loaded:", *sorted({{"sqlalchemy", "flask", "pydantic", "redis"}} & sys.modules.keys()))
"""


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["user", "show", "--help"]])
def test_a_command_loads_what_it_uses(arguments: list[str]) -> None:
    code = CODE.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
