"""docs/operating.md: the walk and the incident as they stand there, on a real server."""

import json
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from control import service
from control.cli import options
from control.cli.main import main
from control.service import Config
from control.service.config import PASSPHRASE
from tests.kit.command_line import write_profiles
from tests.kit.node import is_open, mapping, show, status, who
from tests.kit.pages import blocks, section
from tests.kit.plane import (
    NAMES,
    Https,
    Serving,
    certificate_user,
    database,
    enrolled_node,
    initialised,
    operator,
)
from tests.kit.postgres import postgres
from tests.kit.rest import ADMIN
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, RedisServer, days, free_port, scratch, wait_until

Said = Callable[[str], str]
PASSWORDS = ("How to move from passwords to certificates", "docs/howto-passwords.md")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """A control plane that runs, and a profile that says where."""
    made = initialised(tmp_path / "home")
    write_profiles(tmp_path, made)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(options, "is_terminal", lambda: True)
    monkeypatch.chdir(tempfile.mkdtemp(dir=scratch()))
    with service.running(made):
        yield made


def steps(title: str, name: str = "docs/operating.md") -> list[str]:
    """The commands below a heading, in their order."""
    shown = [block for block in blocks(name, "sh") if block in section(name, title)]
    return "".join(shown).replace("\\\n", "").splitlines()


def run(line: str, code: int = 0) -> str:
    """One command of the paper, typed by somebody who answers yes; what it prints."""
    line, _, file = line.partition(" > ")
    words = shlex.split(line)
    assert words[0] == "redis-certauth"
    done = CliRunner().invoke(main, words[1:], input="y\n")
    assert done.exit_code == code, (line, done.output)
    if file:
        Path(file).write_text(done.stdout)
    return done.output


def client(server: RedisServer, cert: Cert | None, name: str = "", password: str = "") -> Any:
    """A connection that stays; by password where one is given."""
    login = {"username": name, "password": password} if name else {}
    return server.client(cert, single_connection_client=True, **login)


def refused(server: RedisServer, *login: Any) -> bool:
    try:
        client(server, *login).acl_whoami()
    except (redis.AuthenticationError, redis.ResponseError, redis.ConnectionError, OSError):
        return True
    return False


def status_is_active() -> None:
    """A change that is under way is "active-change-pending"."""
    show = "redis-certauth db show orders --json"
    wait_until(lambda: json.loads(run(show))["status"] == "active", "it is in step")


def eventually(line: str, *parts: str) -> str:
    """Waits until a command prints a line with all of these; all that it prints."""

    def there() -> bool:
        return any(all(part in one for part in parts) for one in run(line).splitlines())

    wait_until(there, f"{line} says {parts}")
    return run(line)


def test_the_way_from_passwords_to_certificates(
    start: Any, installed: Server, config: Config, pki: Pki
) -> None:
    """Shadow does nothing and tells who would be refused; each dry run names who then loses what;
    each step takes from those, and from nobody else."""
    users = ["user app on >secret ~* &* +@all", "user old on >ancient ~* &* +@all"]
    server = enrolled_node(
        start, installed, config.home, pki, config=[*users, "tls-auth-clients optional"]
    )
    app = pki.ca.issue("CN=app,OU=eng,O=acme")
    Path("users.acl").write_text("user app on #5e88 ~* &* +@all\n")
    Path("certificates").mkdir()
    Path("certificates/app.pem").write_bytes(app.pem)
    Path("clients.pem").write_bytes(pki.ca.pem)
    Path("servers.pem").write_bytes(pki.server_ca.pem)
    walk = [line.replace("10.0.0.5:6379", f"127.0.0.1:{server.port}")
            for line in steps(*PASSWORDS)]  # fmt: skip
    imported, trusted, applied, created, look, try_leave, leave, try_refuse, refuse = walk
    for line in (imported, trusted, applied, created):
        run(line)
    status_is_active()

    with_both = client(server, app, "app", "secret")
    with_password = client(server, None, "app", "secret")
    stranger = client(server, pki.bob, "old", "ancient")
    assert with_both.acl_whoami() == with_password.acl_whoami() == "app"
    told = eventually(look, "client_would_refuse", "no_binding", "CN=bob,OU=eng,O=acme")
    assert "CN=app" not in told
    told = run(try_leave)
    assert "user app loses its password (1 passwords)" in told
    assert "user old" not in told
    assert "app from 127.0.0.1 -> leave (no_certificate)" in told
    assert "CN=app" not in told
    assert is_open(with_password)
    run(leave)
    status_is_active()
    wait_until(lambda: not is_open(with_password), "the password is gone")
    assert is_open(with_both)
    assert is_open(stranger)
    assert client(server, app).acl_whoami() == "app"
    assert refused(server, None, "app", "secret")
    assert client(server, pki.bob, "old", "ancient").acl_whoami() == "old"

    told = run(try_refuse)
    assert "old from 127.0.0.1 (CN=bob,OU=eng,O=acme) -> refuse (no_binding)" in told
    assert "loses" not in told
    run(refuse)
    status_is_active()
    wait_until(lambda: not is_open(stranger), "strangers go")
    assert refused(server, pki.bob, "old", "ancient")
    assert is_open(with_both)
    assert client(server, None, "old", "ancient").acl_whoami() == "old"


def test_the_incident_at_three_in_the_morning(
    start: Any, installed: Server, config: Config, pki: Pki
) -> None:
    """Three commands say who, why and since when; the cure is rehearsed, and works."""
    server = enrolled_node(start, installed, config.home, pki)
    Path("clients.pem").write_bytes(pki.ca.pem)
    Path("servers.pem").write_bytes(pki.server_ca.pem)
    renewed = pki.ca.issue("CN=app,OU=ops,O=acme")
    Path("app.crt").write_bytes(renewed.pem)
    run("redis-certauth ca set clients.pem")
    run("redis-certauth user create app --auth-method certificate --role None "
        "--subject CN=app,OU=eng,O=acme")  # fmt: skip
    run(f"redis-certauth db create orders --endpoint 127.0.0.1:{server.port} --tls-mode enabled "
        "--server-ca servers.pem --grant 'None=Full Access'")  # fmt: skip
    status_is_active()
    assert refused(server, renewed)
    who, why, since, rehearse, cure = steps("Refused at three in the morning")
    told = eventually(who, "client_refused", "no_binding", "subject=CN=app,OU=ops,O=acme")
    assert f"node=127.0.0.1:{server.port}" in told
    assert "address=127.0.0.1" in told
    told = run(why, code=1)
    nearest = "nearest: bind subject CN=app,OU=eng,O=acme app: the certificate has OU=ops, "
    assert f"{nearest}the line has OU=eng" in told
    paper = " ".join(section("docs/operating.md", "Refused at three in the morning").split())
    assert f"`{nearest}the line has OU=eng`" in paper
    told = run(since)
    assert " user_created " in told
    assert "originating_username=admin user_name=app" in told
    told = run(rehearse)
    assert "app is now known by subject CN=app,OU=ops,O=acme" in told
    assert refused(server, renewed)
    run(cure)
    wait_until(lambda: not refused(server, renewed), "it is in")

    ended = pki.ca.issue("CN=app,OU=ops,O=acme", not_before=days(-9), not_after=days(-1))
    assert refused(server, ended)
    told = eventually(who, "client_handshake", "reason=expired", "subject=CN=app,OU=ops,O=acme")
    assert "detail=certificate has expired, at depth 0" in told
    assert f"serial={ended.serial}" in told
    Path("app.crt").write_bytes(ended.pem)
    told = run(why, code=1)
    first = "the TLS handshake refuses it, at security level 2: certificate has expired, at depth 0"
    assert told.startswith(f"on 127.0.0.1:{server.port}, {first}\n")
    assert told.endswith("to change it: renew the certificate\ndecision: refuse\n")
    assert f"`{first}`" in paper
    assert "`to change it: renew the certificate`" in paper


def test_the_cures_of_explain_are_cures(
    start: Any, installed: Server, config: Config, pki: Pki
) -> None:
    """Each command that explain prints, with its placeholders filled in, lets the client in."""
    server = enrolled_node(start, installed, config.home, pki)
    Path("servers.pem").write_bytes(pki.server_ca.pem)
    Path("none.pem").write_bytes(pki.server_ca.pem)
    Path("all.pem").write_bytes(pki.server_ca.pem + pki.ca.pem)
    Path("app.crt").write_bytes(pki.alice.pem)
    run("redis-certauth ca set none.pem")
    run("redis-certauth user create app --auth-method certificate --role None --subject CN=x")
    run(f"redis-certauth db create orders --endpoint 127.0.0.1:{server.port} --tls-mode enabled "
        "--server-ca servers.pem --grant 'None=Full Access'")  # fmt: skip
    filled = {"<file with all CAs>": "all.pem", "<user>": "app", "<database>": "orders"}

    def cured(reason: str) -> None:
        """Does what explain advises."""
        status_is_active()
        told = run("redis-certauth explain app.crt --db orders", code=1)
        assert f"\n{reason}: " in told
        advised = re.search(r"^to change it: .*?(redis-certauth ('.*?'|[^',\n])+)", told, re.M)
        assert advised, told
        command = advised[1]
        for name, word in filled.items():
            command = command.replace(name, word)
        run(command)

    cured("untrusted_issuer")
    cured("no_binding")
    status_is_active()
    assert client(server, pki.alice).acl_whoami() == "app"
    run("redis-certauth db update orders --validation san_cn")
    cured("gate")
    status_is_active()
    assert client(server, pki.alice).acl_whoami() == "app"
    run("redis-certauth db update orders --tls-mode disabled")
    cured("off")
    status_is_active()
    assert client(server, pki.alice).acl_whoami() == "app"


# ---- Outages of the control plane ----------------------------------------------------------------


def by_its_administrator(server: RedisServer, line: str, **values: object) -> Any:
    """A line of the paper for redis-cli; `values` stand for its numbers and variables."""
    words = shlex.split(line)
    assert words[:3] == ["redis-cli", "-s", "redis.sock"]
    names = "|".join(values) or "-"
    said = re.sub(rf"\$?\b({names})\b", lambda found: str(values[found[1]]), " ".join(words[3:]))
    left, _, changes = said.partition(" LINES")
    return operator(server).execute_command(
        *left.split(), *(["LINES", *filter(None, [changes.strip()])] if "LINES" in said else [])
    )


@pytest.fixture
def alone(tmp_path: Path) -> Config:
    """The folder of a control plane, whose CAs have a passphrase."""
    made = replace(Config(tmp_path / "home", "127.0.0.1", free_port()), ca_passphrase="lost soon")
    service.init(made, "acme", *ADMIN, NAMES)
    return made


def in_step(config: Config, deadline: float = 30) -> None:
    def there() -> bool:
        with Https(config) as api:
            nodes = api("GET /v1/certauth/nodes").json["nodes"]
        return bool(nodes) and all(one["in_step"] for one in nodes)

    wait_until(there, "the servers are in step", deadline)


def known(config: Config, pki: Pki, *servers: RedisServer, name: str = "orders") -> None:
    """Alice, and a database of these servers."""
    with Https(config) as api:
        trust = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        assert api("PUT /v1/cluster/update_cert", trust).status == 200
        api("POST /v1/users", certificate_user("alice"))
        made = api("POST /v1/bdbs", {**database(*servers), "name": name})
        assert made.status == 200, made.json


def says(config: Config, words: str) -> None:
    def there() -> bool:
        with Https(config) as api:
            return any(words in one["status_text"] for one in api("GET /v1/bdbs").json)

    wait_until(there, f"a database says {words}", 30)


def alice(pki: Pki) -> Cert:
    return pki.ca.issue("CN=alice")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_database_is_away(start: Any, installed: Server, tmp_path: Path, pki: Pki) -> None:
    """Clients log in, changes are refused and not made; a certificate is revoked on the node
    itself; once the database is back the control plane goes on, and that line was a drift."""
    title = "The database is away"
    (shown,) = [one for one in blocks("docs/operating.md", "toml")
                if one in section("docs/operating.md", title)]  # fmt: skip
    options = tomllib.loads(shown)["database"].partition("?")[2]
    with postgres() as running:
        config = Config(tmp_path / "home", "127.0.0.1", free_port(), f"{running.new()}?{options}")
        service.init(config, "acme", *ADMIN, NAMES)
        serving = Serving(config)
        try:
            server = enrolled_node(start, installed, config.home, pki)
            known(config, pki, server)
            in_step(config)
            running.kill()
            for call in (("GET /v1/users", None), ("POST /v1/users", certificate_user("bob"))):
                answer = serving.api(*call)
                assert (answer.status, answer.code) == (503, "database_unavailable")
            assert who(server, alice(pki)) == "alice"
            lost = alice(pki)
            look, revoke = (one.strip() for one in steps(title))
            now = mapping(by_its_administrator(server, look))
            by_its_administrator(
                server, revoke, **{"8": now["generation"] + 1, "7": now["generation"]},
                owner=now["owner"], hash=lost.fingerprint,
            )  # fmt: skip
            assert who(server, lost) is None
            assert who(server, alice(pki)) == "alice"
            running.start()
            wait_until(lambda: serving.api("GET /v1/users").status == 200, "it answers", 30)
            wait_until(lambda: who(server, lost) == "alice", "the line is taken back", 30)
            (drift,) = serving.ok("GET /v1/logs?type=node_drift")
            assert drift["unknown_lines"] == [f"revoke cert {lost.fingerprint}"]
            sent = {"certificate": lost.pem.decode()}
            serving.ok("POST /v1/certauth/revocations?wait_for_sync=20", sent)
            assert who(server, lost) is None
        finally:
            serving.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_passphrase_is_lost(
    start: Any, installed: Server, alone: Config, pki: Pki, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """It does not start without; with a new CA it does, knows what it knew, and the nodes take it
    when they have the new bootstrap file. Clients log in all the time."""
    server = enrolled_node(start, installed, alone.home, pki)
    with service.running(alone):
        known(alone, pki, server)
        in_step(alone)
    lost = replace(alone, ca_passphrase="")
    with pytest.raises(service.ServiceError, match=r"ca\.key"), service.running(lost):
        pass
    asking = replace(alone, home=tmp_path / "client")  # with the CA that the API is still from
    asking.home.mkdir()
    shutil.copy(alone.home / "ca.crt", asking.home)
    make, copy, _ = steps("The passphrase of the CAs is lost")
    monkeypatch.setenv(PASSPHRASE, "another one")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(make)[1:]
    done = CliRunner().invoke(main, words, input="a password for nobody\n")
    assert done.exit_code == 0, done.output
    line = copy.replace("/var/lib/certauth", str(alone.home))
    assert subprocess.run(shlex.split(line), check=True).returncode == 0
    new = replace(alone, ca_passphrase="another one")
    assert server.module is not None
    with service.running(new):
        wait_until(lambda: "active" not in statuses(asking), "the node does not know it", 30)
        assert who(server, alice(pki)) == "alice"
        server.stop()
        server.start()
        in_step(asking)
        assert who(server, alice(pki)) == "alice"


def statuses(config: Config) -> list[str]:
    with Https(config) as api:
        found = api("GET /v1/bdbs").json
        return [one["status_text"] or one["status"] for one in found]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_everything_of_the_control_plane_is_lost(
    start: Any, installed: Server, alone: Config, pki: Pki, tmp_path: Path
) -> None:
    """The node still says what there was; taken over, it is the new control plane's. Clients log in
    all the time."""
    server = enrolled_node(start, installed, alone.home, pki)
    with service.running(alone):
        known(alone, pki, server)
        in_step(alone)
    new = initialised(tmp_path / "new")
    (alone.home / "bootstrap").write_text((new.home / "bootstrap").read_text())
    server.stop()
    server.start()
    assert who(server, alice(pki)) == "alice"
    (take,) = (one.strip() for one in steps("Everything of the control plane is lost"))
    with service.running(new):
        known(new, pki, server)
        says(new, "OWNED this node's policy belongs to")
        lines = show(operator(server))
        assert "bind subject CN=alice alice" in lines
        address = f"127.0.0.1:{server.port}"
        words = shlex.split(take.replace("10.0.0.5:6379", address))[1:-1]
        done = CliRunner().invoke(main, [*words, str(new.home)], input="y\n")
        assert done.exit_code == 0, done.output
        in_step(new)
        assert who(server, alice(pki)) == "alice"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cloned_node(start: Any, installed: Server, alone: Config, pki: Pki) -> None:
    """In another database it is said to be that of the first one, until its journal is gone; the
    first one is not touched."""
    first = enrolled_node(start, installed, alone.home, pki)
    clone = enrolled_node(start, installed, alone.home, pki)
    assert first.module is not None
    assert clone.module is not None
    with service.running(alone):
        known(alone, pki, first)
        in_step(alone)
        clone.stop()
        file = Path(clone.module[1], "policy")
        shutil.copy(Path(first.module[1], "policy"), file)
        clone.start()
        known(alone, pki, clone, name="cloned")
        says(alone, "OWNED this node's policy belongs to bdb 1 ('orders')")
        clone.stop()
        file.unlink()
        for left in file.parent.parent.glob(f"{file.parent.name}.enrolled"):
            left.unlink()
        clone.start()
        in_step(alone)
        assert status(operator(clone))["owner"].endswith("/2")
        assert status(operator(first))["owner"].endswith("/1")
