"""docs/operating.md: the walk and the incident as they stand there, on a real server."""

import json
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from control import service
from control.cli import main
from control.service import Config
from tests.api import ADMIN
from tests.control import enrolled_node, initialised
from tests.nodes import is_open
from tests.servers import Server
from tests.support import Cert, Pki, RedisServer, days, scratch, wait_until
from tests.test_docs import blocks, section

Said = Callable[[str], str]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """A control plane that runs, and a profile that says where."""
    made = initialised(tmp_path / "home")
    profile = tmp_path / "redis-certauth" / "config.toml"
    profile.parent.mkdir()
    url = f'url = "https://127.0.0.1:{made.port}"\nca = "{made.home}/ca.crt"\n'
    profile.write_text(f'[default]\n{url}username = "{ADMIN[0]}"\npassword = "{ADMIN[1]}"\n')
    profile.chmod(0o600)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tempfile.mkdtemp(dir=scratch()))
    with service.running(made):
        yield made


def steps(title: str) -> list[str]:
    """The commands below a heading, in their order."""
    shown = [block for block in blocks("docs/operating.md", "sh")
             if block in section("docs/operating.md", title)]  # fmt: skip
    return "".join(shown).replace("\\\n", "").splitlines()


def run(line: str, code: int = 0) -> str:
    """One command of the paper; what it prints."""
    line, _, file = line.partition(" > ")
    words = shlex.split(line)
    assert words[0] == "redis-certauth"
    done = CliRunner().invoke(main, words[1:])
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
            for line in steps("From passwords to certificates")]  # fmt: skip
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
    assert "  + bind subject CN=app,OU=ops,O=acme app" in told
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
