"""`redis-certauth serve` in outages of its database and its disk: when it starts, while it runs,
and that it always ends."""

import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from control import service
from control.service import Config, ServiceError, home
from control.store import Away, Store
from tests.kit.node import Start, who
from tests.kit.plane import (
    NAMES,
    Serving,
    certificate_user,
    database,
    enrolled_node,
    frozen,
    initialised,
)
from tests.kit.postgres import Postgres, postgres
from tests.kit.rest import ADMIN
from tests.kit.servers import Server
from tests.kit.support import Pki, free_port, wait_until

BAR_SECONDS = 5.0  # from SIGTERM to the end
SLACK_SECONDS = 5.0  # for a machine that gives this process little time
BAR_LINES = 100  # of the log, in a minute


# ---- A renewal that cannot be written ------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "database"])
def test_a_renewal_that_cannot_be_written_is_a_warning_until_the_last_day(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only mount, a full disk: the start goes on with a certificate that is good for days;
    on the last day it says what is wrong, and does not start."""
    config = initialised(tmp_path / "control")
    made = Store(config.url)
    monkeypatch.setattr(home, "_old", lambda _: True)

    def fails(*_: Any) -> None:
        if what == "file":
            raise OSError(30, "Read-only file system", "control.crt")
        raise Away("disk is full")

    monkeypatch.setattr(home, "write_private", fails)
    if what == "database":
        monkeypatch.setattr(home, "write_private", lambda *_: None)
        monkeypatch.setattr(type(made.settings), "put_certificates", fails)
    try:
        home.renew(config, made)
        why = "control.crt: Read-only file system" if what == "file" else "disk is full"
        assert re.search(r"is not renewed, though it ends in (89\.9|90\.0) days", caplog.text)
        assert why in caplog.text
        monkeypatch.setattr(home, "LAST_DAY", 100 * 86_400)
        with pytest.raises((OSError, Away), match=why.split(": ")[-1]):
            home.renew(config, made)
    finally:
        made.close()


# ---- The start -----------------------------------------------------------------------------------


def test_a_database_that_may_come_is_waited_for(tmp_path: Path) -> None:
    """A server that is not up yet, a lock, a disk; not a path or tables that are wrong."""
    config = initialised(tmp_path / "control")
    later = replace(config, database=f"postgresql://certauth:x@127.0.0.1:{free_port()}/none")
    with pytest.raises(service.DatabaseAway), service.running(later):
        pass
    (tmp_path / "text").write_text("no database" * 100)
    for path in (tmp_path / "none/control.db", tmp_path / "text"):
        wrong = replace(config, database=f"sqlite:///{path}")
        with pytest.raises(ServiceError) as error, service.running(wrong):
            pass
        assert not isinstance(error.value, service.DatabaseAway)


# ---- Outages of PostgreSQL -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


Outage = Callable[[Postgres, Config], Any]


@contextmanager
def killed(running: Postgres, _: Config) -> Iterator[None]:
    running.kill()
    yield
    running.start()


@contextmanager
def hanging(running: Postgres, _: Config) -> Iterator[None]:
    with running.frozen():
        yield


@contextmanager
def locked(_: Postgres, config: Config) -> Iterator[None]:
    """By a person who has gone for lunch."""
    engine = sa.create_engine(config.database)
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM cluster FOR UPDATE")
        connection.exec_driver_sql("SELECT * FROM lease FOR UPDATE")
        yield
    engine.dispose()


@contextmanager
def read_only(running: Postgres, config: Config) -> Iterator[None]:
    """It has failed over, and is a standby now."""
    name = sa.make_url(config.database).database
    engine = sa.create_engine(running.url, isolation_level="AUTOCOMMIT")
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        connection.exec_driver_sql(end)
        yield
        connection.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        connection.exec_driver_sql(end)
    engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("outage", [killed, hanging, locked, read_only])
def test_an_outage_of_postgresql(
    outage: Outage, running: Postgres, start: Start, installed: Server, pki: Pki, tmp_path: Path
) -> None:
    """Changes are refused with a 503 and Retry-After, nodes go on, the log has few lines, it goes
    on by itself; told to stop meanwhile it ends within 5 seconds, and started meanwhile it waits,
    and can be stopped too."""
    config = Config(tmp_path / "home", "127.0.0.1", free_port(), running.new())
    service.init(config, "acme", *ADMIN, NAMES)
    serving_ = Serving(config)
    try:
        ca = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        serving_.ok("PUT /v1/cluster/update_cert", ca)
        serving_.ok("POST /v1/users", certificate_user("alice"))
        server = enrolled_node(start, installed, config.home, pki)
        serving_.ok("POST /v1/bdbs?wait_for_sync=20", database(server))
        log, begun = config.home / "log", time.monotonic()
        before = len(log.read_text().splitlines())
        with outage(running, config):
            for _ in range(3):
                answer = serving_.api("POST /v1/users", certificate_user("bob"))
                assert (answer.status, answer.code) == (503, "database_unavailable")
                assert answer.headers["Retry-After"]
            assert who(server, pki.ca.issue("CN=alice")) == "alice"
            wait_until(lambda: time.monotonic() > begun + 30, "half a minute", 60)
            lines = len(log.read_text().splitlines()) - before
            print(f"\n{outage.__name__}: {lines} lines in half a minute")
            assert lines <= BAR_LINES / 2
        wait_until(
            lambda: serving_.api("POST /v1/users", certificate_user("bob")).status == 200,
            "it goes on", 60,
        )  # fmt: skip
        with outage(running, config):
            ends(serving_.process)
            if outage is not read_only:  # which can be read, and so be started on
                waiting = started(config)
                wait_until(lambda: "it waits for its database" in log.read_text(), "it waits", 60)
                ends(waiting)
        serving_.start()
        assert {"bob", "alice"} <= {one["name"] for one in serving_.ok("GET /v1/users")}
    finally:
        serving_.kill()


def ends(process: "subprocess.Popen[Any]") -> None:
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    print(f"ended after {time.monotonic() - begun:.1f} s")
    assert time.monotonic() - begun < BAR_SECONDS + SLACK_SECONDS


def started(config: Config) -> "subprocess.Popen[Any]":
    """`serve`, without waiting until it answers."""
    made = Serving.__new__(Serving)
    made.config, made._before = config, ""
    return made.begin()


# ---- A lock on SQLite, a node that hangs ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_ends_while_a_lock_is_held_and_while_a_node_hangs(
    start: Start, installed: Server, pki: Pki, tmp_path: Path
) -> None:
    """Each within 5 seconds, with a change under way."""
    config = initialised(tmp_path / "control")
    serving_ = Serving(config)
    try:
        ca = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
        serving_.ok("PUT /v1/cluster/update_cert", ca)
        server = enrolled_node(start, installed, config.home, pki)
        serving_.ok("POST /v1/bdbs?wait_for_sync=20", database(server))
        with frozen(server):
            serving_.ok("POST /v1/users", certificate_user("alice"))
            ends(serving_.process)
        serving_.start()
        held = sqlite3.connect(config.home / "control.db", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        ends(serving_.process)
        held.execute("ROLLBACK")
        held.close()
    finally:
        serving_.kill()
