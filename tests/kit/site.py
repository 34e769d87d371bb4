"""A control plane with a CA of clients, and the commands that ask it for certificates."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from control import service
from control.cli import client
from control.cli.main import main
from control.service import Config
from tests.kit.command_line import write_profiles
from tests.kit.plane import Https, initialised

COMMAND = str(Path(sys.executable).parent / "redis-certauth")


SUBJECT = "CN=alice,OU=eng,O=acme"


@dataclass
class Site:
    """A control plane that runs and issues, and a folder with a profile for its administrator."""

    config: Config
    folder: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.config.port}"

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(main, [str(one) for one in arguments])

    def ok(self, *arguments: object) -> str:
        done = self.run(*arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    def profile(self, name: str = "alice") -> client.Profile:
        """Logs in by the certificate in NAME.crt."""
        files = (str(self.folder / f"{name}.{kind}") for kind in ("crt", "key"))
        return client.Profile(self.url, str(self.config.home / "ca.crt"), *files)

    def api(self, request: str, body: Any = None) -> Any:
        with Https(self.config) as api:
            answer = api(request, body)
        assert answer.status == 200, answer.json
        return answer.json


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    config = initialised(tmp_path / "home")
    service.create_ca(config, "", "ec", again=False)
    folder = tmp_path / "client"
    write_profiles(folder, config)
    with service.running(config):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
        monkeypatch.chdir(folder)
        made = Site(config, folder)
        made.api("PUT /v1/cluster", {"mtls_certificate_authentication": True})
        login = {"auth_method": "certificate", "certificate_subject_line": SUBJECT}
        made.api("POST /v1/users", {"name": "alice", "role_uids": [1], **login})
        yield made


@dataclass(frozen=True)
class InPlace:
    """The files themselves, for tests.support's clients."""

    files: tuple[str, str]


def here(site: Site, name: str = "alice") -> Any:
    return InPlace((str(site.folder / f"{name}.crt"), str(site.folder / f"{name}.key")))
