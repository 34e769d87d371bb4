"""What a service is expected to do: settings that are told when they are wrong, secrets by file,
logs for machines, probes without a login."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from control import service
from control.api import system
from control.cli.main import main
from control.service import Config, ServiceError, health, logs, serving
from tests.kit.plane import Https, initialised
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import free_port, wait_until

URL = "postgresql://certauth:secret@127.0.0.1/certauth"


def load(home: Path, text: str = "", **environment: str) -> Config:
    (home / "certauth.toml").write_text(text)
    (home / "certauth.toml").chmod(0o600)
    return service.load_config(home, environment)


def secret(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


# ---- Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("ui_port = 9443", {}, "'port' and 'ui_port' are the same port"),
        ("port = 1\nui_port = 1", {}, "'port' and 'ui_port' are the same port"),
        (f"database = '{URL}'\ndatabase_file = 'x'", {}, "contradict each other"),
        ("database_file = 'x'", {"CERTAUTH_DATABASE": URL}, "contradict each other"),
        ("log_file = 'audit.jsonl'", {}, "'log_file' and 'audit_file' are the same file"),
        ("log_level = 'loud'", {}, "'log_level': 'loud' is not debug or info"),
        ("log_format = 'xml'", {}, "'log_format': 'xml' is not text or json"),
        ("request_log = 1", {}, "'request_log': 1 is not true or false"),
        ("", {"CERTAUTH_REQUEST_LOG": "maybe"}, "'request_log': 'maybe' is not true or false"),
        ("", {"CERTAUTH_PORT": "tcp://10.0.0.1:443"}, "not a number; Kubernetes .* false"),
        ("database_file = 'none'", {}, "database_file .*none: "),
    ],
)
def test_settings_that_are_wrong_or_contradict_each_other(
    tmp_path: Path, text: str, environment: dict[str, str], message: str
) -> None:
    """Nothing is guessed, in the file or in the environment."""
    with pytest.raises(ServiceError, match=message):
        load(tmp_path, text, **environment)


def test_an_unknown_variable_is_told(tmp_path: Path) -> None:
    """With what may be meant; not those of the command line, nor what Kubernetes sets for a Service
    of that name."""
    others = dict.fromkeys(("CERTAUTH_PROFILE", "CERTAUTH_SERVICE_HOST", "CERTAUTH_PORT_443_TCP"))
    known = dict.fromkeys(others, "x") | {"CERTAUTH_HOST": "127.0.0.1", "PATH": "/"}
    assert load(tmp_path, **known).warnings == ()
    (text,) = load(tmp_path, CERTAUTH_PROT="9443").warnings
    assert text == "CERTAUTH_PROT in the environment is not a setting: is CERTAUTH_PORT meant?"


def test_a_password_that_others_can_read_is_told(tmp_path: Path) -> None:
    """In certauth.toml, which others may read as long as there is none in it."""
    (tmp_path / "certauth.toml").write_text(f"database = '{URL}'")
    (tmp_path / "certauth.toml").chmod(0o644)
    (text,) = service.load_config(tmp_path, {}).warnings
    assert text.startswith("others can read ")
    assert "secret" not in text
    (tmp_path / "certauth.toml").chmod(0o600)
    assert service.load_config(tmp_path, {}).warnings == ()


def test_secrets_come_from_files_and_from_systemd(tmp_path: Path) -> None:
    """A file is for its owner alone, or, where it is somebody else's, for us by our group."""
    file = secret(tmp_path / "url", f"{URL}\n")
    for config in (
        load(tmp_path, f"database_file = '{file}'"),
        load(tmp_path, CERTAUTH_DATABASE_FILE=file),
    ):
        assert config.url == URL
    given = tmp_path / "credentials"
    given.mkdir()
    secret(given / "database", URL, 0o400)
    secret(given / "ca_passphrase", "a long one", 0o400)
    config = load(tmp_path, CREDENTIALS_DIRECTORY=str(given))
    assert (config.url, config.passphrase()) == (URL, "a long one")
    assert load(tmp_path, "database = ''", CREDENTIALS_DIRECTORY=str(given)).url != URL
    os.chmod(file, 0o640)
    with pytest.raises(ServiceError, match=r"database_file: others can read .*chmod 600"):
        load(tmp_path, f"database_file = '{file}'")
    if os.getuid() == 0:  # as a secret of Kubernetes, which root has mounted for our group
        os.chown(file, 12345, -1)
        assert load(tmp_path, f"database_file = '{file}'").url == URL
    secret(tmp_path / "url", "")
    with pytest.raises(ServiceError, match="it is empty"):
        load(tmp_path, f"database_file = '{file}'")


def test_config_check_says_what_is_and_what_is_wrong(tmp_path: Path) -> None:
    """Each setting with where it is from, without passwords; exit code 1 for what keeps it from
    starting."""
    config = initialised(tmp_path / "control")
    words = ["config", "check", "--home", str(config.home)]
    done = CliRunner().invoke(main, words, env={"CERTAUTH_HOST": "127.0.0.1"})
    assert done.exit_code == 0, done.output
    assert "host = 127.0.0.1 (CERTAUTH_HOST)\n" in done.output
    assert "port = 9443 (default)\n" in done.output
    (config.home / "certauth.toml").write_text(f"database = '{URL}?connect_timeout=1'")
    done = CliRunner().invoke(main, words, env={"CERTAUTH_PROT": "1"})
    assert done.exit_code == 1
    assert "secret" not in done.output
    assert f"database = {URL.replace('secret', '***')}" in done.output
    assert "cannot open the database" in done.output
    assert "warning: CERTAUTH_PROT" in done.output
    (config.home / "certauth.toml").write_text("port = 'x'")
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.output) == (1, "Error: setting 'port': 'x' is not a number\n")


# ---- The log -------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """Whose log is a file; the log of the tests is as it was afterwards."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield Config(tmp_path, log_file="log")
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    logging.raiseExceptions = True
    logging.getLogger("control.requests").disabled = False


log = logging.getLogger("control.test")


def lines(config: Config) -> list[str]:
    return (config.home / "log").read_text().splitlines()


def test_json_lines_hold_what_text_does(config: Config) -> None:
    """One object a line, also of a traceback and of what a stranger has sent."""
    logs.configure(replace(config, log_format="json"))
    try:
        raise ValueError("of a\nfew lines")
    except ValueError:
        log.exception("it failed: %s", "x\ny")
    (line,) = lines(config)
    told = json.loads(line)
    assert told["level"] == "error"
    assert told["logger"] == "control.test"
    assert told["message"] == "it failed: x\ny"
    assert "Traceback" in told["exception"]
    assert told["time"].endswith("Z")


def test_attack_a_stranger_writes_no_line_of_the_log(config: Config) -> None:
    """Line ends and escapes in a name are shown as what they are."""
    logs.configure(config)
    log.warning("%s is refused", "x\n2026-12-01 INFO all is well\x1b[2J\u2028y")
    (line,) = lines(config)
    assert r"x\x0a2026-12-01 INFO all is well\x1b[2J\x2028y is refused" in line


def test_levels_and_repeated_lines(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line is written ten times a minute at most, and then counted."""
    logs.configure(replace(config, log_level="warning"))
    log.info("quiet")
    for _ in range(50):
        log.warning("again and again")
    assert len(lines(config)) == logs.REPEATS
    monkeypatch.setattr(logs, "REPEAT_SECONDS", 0)
    log.warning("again and again")
    assert lines(config)[-1].endswith("again and again (40 times more)")


def test_the_log_is_opened_again(tmp_path: Path, config: Config) -> None:
    """After logrotate has moved it away; with settings that are read again, and those that need a
    restart are named. With a wrong file all stays as it was."""
    home = tmp_path
    (home / "certauth.toml").write_text("log_file = 'log'")
    began = service.load_config(home, {})
    logs.configure(began)
    log.info("before")
    (home / "log").rename(home / "log.1")
    log.info("still there")
    (home / "certauth.toml").write_text("log_file = 'log'\nlog_format = 'json'\nport = 1")
    serving.reload(began)
    log.info("after")
    assert len((home / "log.1").read_text().splitlines()) == 2
    told = [json.loads(line)["message"] for line in lines(config)]
    assert told[1:] == ["these settings count from the next start on: port", "after"]
    (home / "certauth.toml").write_text("log_file = 'none/log'")
    with pytest.raises(ServiceError, match="log_file .*none/log: No such file"):
        serving.reload(began)
    log.info("goes on")
    assert json.loads(lines(config)[-1])["message"] == "goes on"


def test_the_log_of_requests(config: Config, api: ControlPlane) -> None:
    """Off unless it is asked for; who, from where, what, how long; nothing of queries and
    bodies."""
    logs.configure(config)
    api.ok("GET /v1/cluster")
    assert lines(config) == []
    logs.configure(replace(config, request_log=True, log_format="json"))
    api.ok("GET /v1/logs?type=login")
    api("GET /v1/%0ax", auth=None)
    first, second = map(json.loads, lines(config))
    assert (first["method"], first["path"], first["status"]) == ("GET", "/v1/logs", 200)
    assert (first["username"], first["address"]) == (ADMIN[0], "127.0.0.1")
    assert first["milliseconds"] >= 0
    assert "type=login" not in json.dumps(first)
    assert (second["path"], second["username"]) == ("/v1/\nx", "")
    assert second["status"] >= 400


# ---- Probes --------------------------------------------------------------------------------------


def test_probes_need_no_login(tmp_path: Path) -> None:
    """Live is what answers; ready is a control plane that does its work."""
    config = initialised(tmp_path / "control")
    with service.running(config), Https(config) as ask:
        assert ask("GET /livez").json == {"status": "live"}


def test_who_is_not_ready_says_so(api: ControlPlane) -> None:
    """With a 503, and to strangers without the reason."""
    answer = api("GET /readyz", auth=None)
    assert (answer.status, answer.json) == (503, {"status": "waiting"})
    api.store.lease.take("us", 60)
    assert api.ok("GET /readyz", auth=None) == {"status": "ready"}
    assert api.ok("GET /livez", auth=None) == {"status": "live"}


def test_health_asks_where_the_settings_say(tmp_path: Path) -> None:
    """Host and port of certauth.toml, or of the environment over it; and who does not answer is
    told with the reason."""
    config = initialised(tmp_path / "control")
    (config.home / "certauth.toml").write_text(f"host = '127.0.0.1'\nport = {config.port}\n")
    assert "does not answer: [Errno" in service.fault(config.home, "/livez", {})
    with service.running(config):
        assert service.fault(config.home, "/livez", {}) == ""
        wait_until(lambda: service.fault(config.home, "/readyz", {}) == "", "it is ready", 30)
        elsewhere = {"CERTAUTH_PORT": str(free_port())}
        assert "does not answer" in service.fault(config.home, "/livez", elsewhere)
        file = Path(health.__file__)
        done = subprocess.run([sys.executable, "-I", file, config.home, "--live"])
        assert done.returncode == 0
        command = CliRunner().invoke(main, ["health", "--home", str(config.home)])
        assert (command.exit_code, command.output) == (0, "")
    done = subprocess.run([sys.executable, "-I", file, config.home], capture_output=True, text=True)
    assert (done.returncode, done.stderr[:43]) == (1, "certauth: the control plane does not answer")
    command = CliRunner().invoke(main, ["health", "--home", str(config.home), "--live"])
    assert command.exit_code == 1
    assert "does not answer" in command.output


def test_health_says_what_the_control_plane_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 503 is not health; settings that cannot be read are none either."""
    config = initialised(tmp_path / "control")
    here = {"CERTAUTH_HOST": "127.0.0.1", "CERTAUTH_PORT": str(config.port)}
    monkeypatch.setattr(system, "plane_faults", lambda: ["it rests"])
    with service.running(config):
        assert service.fault(config.home, "/readyz", here) == "the control plane is waiting"
        assert service.fault(config.home, "/livez", here) == ""
    (config.home / "certauth.toml").write_text("port = 'x'")
    assert "does not answer: invalid literal" in service.fault(config.home, "/readyz", {})
