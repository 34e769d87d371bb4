"""control/cli/manual.py: the manual pages, out of the help of the commands."""

import shutil
import subprocess
from pathlib import Path

import pytest

from control.cli import manual
from control.cli.helping import EXAMPLES
from control.cli.main import main


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("man")
    manual.write(folder / "man1")
    return {file.name: file.read_text() for file in sorted((folder / "man1").iterdir())}


def test_every_command_has_a_page(pages: dict[str, str]) -> None:
    """And the program one, which names them all."""
    expected = {f"redis-certauth-{name}.1" for name in main.commands}
    assert pages.keys() == {*expected, "redis-certauth.1"}
    for name in main.commands:
        assert manual.escaped(f"redis-certauth-{name}") in pages["redis-certauth.1"]


def test_pages_have_examples_options_and_variables(pages: dict[str, str]) -> None:
    """Those that help has."""
    for words, examples in EXAMPLES.items():
        for example in examples:
            page = pages[f"redis-certauth-{words.split()[0]}.1"]
            assert manual.escaped(f"redis-certauth {example}") in page
    assert "[env var: CERTAUTH_USER_IDENTITY_ADD_URI]" in pages["redis-certauth-user.1"]


def test_what_troff_would_obey_is_text() -> None:
    """A line that begins with a dot, a backslash, a hyphen that is copied into a shell."""
    assert manual.escaped(".so x\n'x\n\\fB --yes") == "\\&.so x\n\\&'x\n\\efB \\-\\-yes"


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_troff_has_nothing_to_complain_of(tmp_path: Path) -> None:
    """On any page."""
    manual.write(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        done = subprocess.run(
            ["groff", "-man", "-ww", "-z", file], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, ""), file.name
