"""`redis-certauth node enrol`: from a plain redis.conf to a node that takes its policy."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from control.cli.main import main
from control.service.conf_files import EnrolError, directives, setting
from control.service.redis_conf import Files, edited
from tests.kit.node import status, who
from tests.kit.plane import Plane, operator
from tests.kit.policies import OPERATOR
from tests.kit.servers import servers
from tests.kit.support import MODULE, Pki, RedisServer, free_port, wait_until

FILES = Files(Path("/m/certauth.so"), Path("/d/certauth"), Path("/etc/boot"))
LINES = [
    "loadmodule /m/certauth.so journal /d/certauth bootstrap /etc/boot",
    "tls-ca-cert-dir /d/certauth/ca",
    "user default off resetpass",
]
LOAD, TRUST, DEFAULT = LINES


# ---- redis.conf ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([], LINES, id="empty"),
        pytest.param(["port 0", "# loadmodule /m/certauth.so"],
                     ["port 0", "# loadmodule /m/certauth.so", *LINES], id="a comment"),
        pytest.param(["loadmodule /old/certauth.so journal x", "save ''"],
                     [LOAD, "save ''", TRUST, DEFAULT], id="another version"),
        pytest.param(['LoadModule "/m/other.so"'], ['LoadModule "/m/other.so"', *LINES],
                     id="another module"),
        pytest.param(['tls-ca-cert-dir "/d/certauth/ca"'],
                     ['tls-ca-cert-dir "/d/certauth/ca"', LOAD, DEFAULT], id="rewritten"),
        pytest.param(["user default off sanitize-payload -@all"],
                     ["user default off sanitize-payload -@all", LOAD, TRUST], id="off"),
        pytest.param(["aclfile /etc/users.acl"], ["aclfile /etc/users.acl", LOAD, TRUST],
                     id="users in an aclfile"),
    ],
)  # fmt: skip
def test_redis_conf_has_each_line_once(before: list[str], after: list[str]) -> None:
    """What is there stays, what is missing is added, and a second time changes nothing."""
    text = edited("".join(f"{line}\n" for line in before), FILES)
    assert text.splitlines() == after
    assert edited(text, FILES) == text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tls-ca-cert-dir /etc/ssl/certs", "line 2: tls-ca-cert-dir is /etc/ssl/certs"),
        ("user default on nopass ~* +@all", "line 2: `user default` is on"),
    ],
)
def test_what_the_operator_has_said_is_not_overwritten(line: str, message: str) -> None:
    """Two settings would mean something else than before: a person decides."""
    with pytest.raises(EnrolError, match=message):
        edited(f"port 0\n{line}\n", FILES)


def test_default_can_be_kept() -> None:
    """Where clients without a certificate are to use it."""
    text = edited("user default on nopass ~* +@all\n", FILES, keep_default=True)
    assert text.splitlines() == ["user default on nopass ~* +@all", LOAD, TRUST]


@pytest.mark.parametrize("path", ["relative", "/with blank", "/with'quote"])
def test_paths_that_config_rewrite_would_lose(path: str) -> None:
    """The server writes the line back without its quotes."""
    with pytest.raises(EnrolError, match="an absolute path without blanks"):
        edited("", Files(FILES.module, Path(path), FILES.bootstrap))


def test_the_setting_that_counts() -> None:
    """The last line, and the first name that is there."""
    text = "tls-port 1\ntls-port 2\ntls-cert-file a\ntls-client-cert-file 'b c'\n"
    lines = list(directives(text))
    assert setting(lines, "tls-port") == "2"
    assert setting(lines, "tls-client-cert-file", "tls-cert-file") == "b c"
    assert setting(lines, "dir") == ""


# ---- The command ---------------------------------------------------------------------------------


def enrol(plane: Plane, port: int, *options: str) -> Result:
    words = ["node", "enrol", f"127.0.0.1:{port}", "--home", str(plane.config.home)]
    return CliRunner().invoke(main, [*words, "--module", str(MODULE), *options])


@pytest.fixture
def make() -> Iterator[Any]:
    """A server that is not started, with its redis.conf as an operator writes it."""
    made: list[RedisServer] = []

    def server(pki: Pki, *config: str) -> RedisServer:
        operators = f"user {OPERATOR} on >{OPERATOR} ~* &* +@all"
        server = RedisServer(servers()[-1], pki, trust=[], config=[*config, operators])
        server.port = free_port()
        server.conf.write_text("\n".join(server.lines()) + "\n")
        server.lines = lambda: server.conf.read_text().splitlines()  # type: ignore[method-assign]
        made.append(server)
        return server

    yield server
    for one in made:
        one.stop()


def test_a_server_is_enrolled_by_one_command(plane: Plane, make: Any, pki: Pki) -> None:
    """Its redis.conf gets the lines and keeps its mode, nobody is let in before the first policy,
    and once registered it is in step. A second time there is nothing to do."""
    server = make(pki)
    server.conf.chmod(0o640)
    done = enrol(plane, server.port, "--config", str(server.conf))
    assert (done.exit_code, done.output) == (0, f"{server.conf}: restart the server\n")
    assert stat.S_IMODE(server.conf.stat().st_mode) == 0o640
    text = server.conf.read_text()
    again = enrol(plane, server.port, "--config", str(server.conf))
    assert (again.exit_code, again.output) == (0, f"{server.conf}: nothing to do\n")
    assert server.conf.read_text() == text
    assert [name for name in os.listdir(server.directory) if name.startswith(".")] == []
    server.start()
    assert who(server, pki.alice) is None
    plane.register(server)
    plane.in_step()
    assert who(server, pki.alice) == "alice"


def test_the_lines_for_a_server_elsewhere(plane: Plane) -> None:
    """Without --config they are printed, with what belongs into the bootstrap file."""
    said = enrol(plane, 6379, "--journal", "/d/certauth", "--bootstrap", "/etc/boot").output
    for line in (f"loadmodule {MODULE} journal /d/certauth bootstrap /etc/boot", TRUST, DEFAULT):
        assert line in said.splitlines()
    assert (plane.config.home / "bootstrap").read_text() in said
    assert "user certauth-control on" in said


def test_a_new_replica_is_bound_by_its_own_key(plane: Plane, make: Any, pki: Pki) -> None:
    """With --db an enforced primary takes it from its first connection, and it is found."""
    links = ("tls-replication yes", "repl-diskless-sync-delay 0")
    first = make(pki, *links)
    enrol(plane, first.port, "--config", str(first.conf))
    first.start()
    plane.register(first, allow_trust_on_internal_links=True)
    plane.in_step()
    own = Pki(pki.ca, pki.server_ca)
    late = make(own, *links, f"replicaof 127.0.0.1 {first.port}")
    done = enrol(plane, late.port, "--config", str(late.conf), "--db", "orders")
    assert own.server.key_id in done.output
    late.start()
    address = f"127.0.0.1:{late.port}"
    wait_until(lambda: address in names(plane), "it is found", 20)
    plane.in_step(deadline=20)
    admin: Any = operator(late)
    wait_until(lambda: admin.info("replication")["master_link_status"] == "up", "it replicates")
    assert status(operator(late))["generation"] > 0
    assert who(late, pki.alice) == "alice"


@pytest.mark.parametrize("shape", ["main", "included", "conf.d"])
def test_it_starts_again_after_a_rewrite(
    plane: Plane, make: Any, pki: Pki, tmp_path: Path, shape: str
) -> None:
    """Whatever of the settings stands in an included file, CONFIG REWRITE and a restart leave a
    node that is in step: a Sentinel sends it at each failover."""
    server = make(pki)
    lines = server.conf.read_text().splitlines()
    if shape != "main":
        moved = [line for line in lines if line.startswith(("tls-cert-file", "tls-key-file"))]
        (tmp_path / "conf.d").mkdir()
        (tmp_path / "conf.d/tls.conf").write_text("\n".join(moved))
        name = tmp_path / ("conf.d/tls.conf" if shape == "included" else "conf.d/*.conf")
        kept = [line for line in lines if line not in moved]
        server.conf.write_text("\n".join([f"include {name}", *kept]))
    done = enrol(plane, server.port, "--config", str(server.conf), "--db", "")
    assert done.exit_code == 0, done.output
    server.start()
    plane.register(server)
    plane.in_step()
    for _ in range(2):
        operator(server).config_rewrite()
        server.stop()
        server.start()
        assert who(server, pki.alice) == "alice"
    plane.in_step()
    assert enrol(plane, server.port, "--config", str(server.conf)).output.endswith("do\n")


@pytest.mark.parametrize("line", ["loadmodule {module} journal /j", "user default off"])
def test_what_a_rewrite_would_double_is_refused(
    plane: Plane, make: Any, pki: Pki, tmp_path: Path, line: str
) -> None:
    """It is named, with its file and its line, and nothing is written."""
    server, more = make(pki), tmp_path / "certauth.conf"
    more.write_text("# ours\n" + line.format(module=MODULE) + "\n")
    text = server.conf.read_text() + f"include {more}\n"
    server.conf.write_text(text)
    done = enrol(plane, server.port, "--config", str(server.conf))
    assert done.exit_code == 1
    assert f"{more}, line 2: CONFIG REWRITE" in done.output
    assert server.conf.read_text() == text


def test_what_the_servers_user_cannot_read_is_named(plane: Plane, make: Any, pki: Pki) -> None:
    """The key of root alone, a CA that is not there: the server would not start, so nothing is
    written. redis.conf says by its owner who the server runs as."""
    server = make(pki)
    text = server.conf.read_text() + "tls-ca-cert-file /nowhere/ca.crt\n"
    server.conf.write_text(text)
    done = enrol(plane, server.port, "--config", str(server.conf))
    assert "tls-ca-cert-file /nowhere/ca.crt: there is no /nowhere" in done.output
    assert (done.exit_code, server.conf.read_text()) == (1, text)


def names(plane: Plane) -> set[str]:
    return {node["address"] for node in plane.ok("GET /v1/bdbs/1")["nodes"]}


def test_the_key_of_a_server_that_runs_elsewhere(plane: Plane, make: Any, pki: Pki) -> None:
    """It is taken from its handshake, which has to be that of a server of this database."""
    server, stranger = make(pki), make(Pki())
    server.start()
    stranger.start()
    plane.register(server, tls_mode="disabled")
    done = enrol(plane, server.port, "--db", "orders")
    assert done.exit_code == 0
    assert plane.ok("GET /v1/bdbs/1")["node_keys"] == [pki.server.key_id]
    refused = enrol(plane, stranger.port, "--db", "orders")
    assert refused.exit_code == 1
    assert "certificate verify failed" in refused.output
    assert plane.ok("GET /v1/bdbs/1")["node_keys"] == [pki.server.key_id]


def test_mistakes_are_told_and_nothing_is_written(plane: Plane, make: Any, pki: Pki) -> None:
    """Another server's redis.conf, a database that is not there, an address that is none."""
    server = make(pki)
    text = server.conf.read_text()
    conf = ("--config", str(server.conf))
    for done, code, words in (
        (enrol(plane, 1, *conf), 1, f"it has tls-port {server.port}, not 1"),
        (enrol(plane, server.port, *conf, "--db", "x"), 1, "there is no database 'x'"),
        (enrol(plane, 0), 2, "is not a HOST:PORT"),
    ):
        assert (done.exit_code, words in done.output) == (code, True), done.output
    assert server.conf.read_text() == text
