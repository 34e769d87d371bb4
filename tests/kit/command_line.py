"""The command line beside a control plane that runs: fixtures `config`, `profiles` and `run`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from control import service
from control.cli.main import main
from control.service import Config
from tests.kit.plane import initialised
from tests.kit.rest import ADMIN

Run = Callable[..., Result]


def write_profiles(folder: Path, config: Config) -> Path:
    """The file of profiles in XDG_CONFIG_HOME=`folder`: `default` is the administrator, by
    password. Only its owner may read it, or the command line does not."""
    file = folder / "redis-certauth" / "config.toml"
    file.parent.mkdir(parents=True)
    url = f'url = "https://127.0.0.1:{config.port}"\nca = "{config.home}/ca.crt"\n'
    login = f'username = "{ADMIN[0]}"\npassword = "{ADMIN[1]}"\n'
    file.write_text(f"[default]\n{url}{login}")
    file.chmod(0o600)
    return file


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """Of a control plane that runs, and knows its first administrator only."""
    made = initialised(tmp_path / "home")
    with service.running(made):
        yield made


@pytest.fixture
def profiles(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of profiles that the command line reads."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return write_profiles(tmp_path, config)


@pytest.fixture
def run(profiles: Path) -> Run:
    """The command line, as the administrator: `run("user", "list", text="typed in")`."""

    def call(*words: object, text: str | None = None) -> Result:
        return CliRunner().invoke(main, [str(one) for one in words], input=text)

    return call
