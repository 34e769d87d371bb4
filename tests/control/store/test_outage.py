"""A database that is away, hangs, is locked, full or read-only: nobody waits for it for long,
nobody queues up for it, what is in memory is still read, and the log has a line a minute."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from control.records import Cluster
from control.reports import Node as Seen
from control.store import UNAVAILABLE_ERRORS, Away, Store, outage, patience
from control.store.outage import Outage
from tests.kit.postgres import Postgres, postgres
from tests.kit.rest import ADMIN, Answer, ControlPlane
from tests.kit.rows import ADMIN as FIRST
from tests.kit.support import wait_until

# ---- One line a minute, and no queue -------------------------------------------------------------


class Remote(Exception):
    """What a driver raises where a server does not answer."""


GONE = sa.exc.OperationalError("SELECT 'a secret'", {}, Remote("the server\nis gone"))
FULL = sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("disk is full"))


def opened() -> Outage:
    """Of a database that was there."""
    made = Outage()
    works(made)
    return made


LOCKED = sa.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))


def fails(of: Outage, error: Exception, writes: bool = False) -> None:
    with pytest.raises(type(error)), of.watch(writes):
        raise error


def works(of: Outage, writes: bool = False) -> None:
    with of.watch(writes):
        pass


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == outage.__name__]


def test_an_outage_is_a_line_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many meet it: when it begins, as long as it lasts, and when it is over; without the
    statement and its values."""
    caplog.set_level(logging.INFO)
    found = opened()
    for _ in range(100):
        fails(found, FULL, writes=True)
    (line,) = lines(caplog)
    assert line.startswith("the database does not do it: ")
    assert "disk is full" in line
    works(found, writes=False)  # it can be read, which is not an end of that
    assert len(lines(caplog)) == 1
    monkeypatch.setattr(outage, "LINE_SECONDS", 0)
    fails(found, FULL, writes=True)
    assert ", 101 times: " in lines(caplog)[-1]
    works(found, writes=True)
    assert lines(caplog)[-1].startswith("the database does it again, after 0 seconds, 101 times")
    works(found, writes=True)
    assert len(lines(caplog)) == 3
    assert "secret" not in caplog.text


def test_one_that_was_never_there_is_told_by_whoever_opens_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which may be again and again, as long as a start waits for it."""
    made = Outage()
    fails(made, GONE)
    fails(made, GONE)
    assert lines(caplog) == []


def test_nobody_queues_up_for_a_server_that_does_not_answer() -> None:
    """One may find out whether the connection alone was gone, and then one now and then; all others
    are told at once. Where it works again, everybody is let through."""
    found = opened()
    fails(found, GONE)
    fails(found, GONE)
    for writes in (False, True):
        with pytest.raises(Away, match=r"the server$"), found.watch(writes):
            raise AssertionError
    found._next_try = 0.0
    works(found)
    for _ in range(3):
        works(found)


def test_nobody_queues_up_for_a_lock_that_somebody_holds() -> None:
    """One now and then finds out whether it is still held; who reads does not notice."""
    found = opened()
    fails(found, LOCKED, writes=True)
    with pytest.raises(Away, match="is locked"), found.watch(writes=True):
        raise AssertionError
    works(found, writes=False)
    with pytest.raises(Away), found.watch(writes=True):
        raise AssertionError
    found._next_try = 0.0
    works(found, writes=True)
    works(found, writes=True)


def test_a_database_that_refuses_is_asked_again_at_once() -> None:
    """A full disk does not keep others from reading, nor from trying."""
    found = opened()
    for _ in range(3):
        fails(found, FULL, writes=True)
    works(found)


def test_one_writer_waits_for_a_lock_and_the_others_give_up_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one writer at a time. While another process is it, who writes reads a 503 that
    says so, says when to try again, and is of nothing half done; not one after the other, which
    would be a hang for the last of them. Who reads notices nothing."""
    monkeypatch.setattr(patience, "FILE_LOCK_SECONDS", 2.0)
    api = ControlPlane(tmp_path)
    pool: Any = api.store._kernel._connections
    held = sqlite3.connect(pool._engine.url.database, isolation_level=None)
    answers = list[Answer]()

    def write(number: int) -> None:
        answers.append(api(f"{CHANGES[number % 3][0]}", CHANGES[number % 3][1]))

    held.execute("BEGIN IMMEDIATE")
    before = api.store.revision()
    try:
        threads = [threading.Thread(target=write, args=[number]) for number in range(6)]
        for thread in threads:
            thread.start()
        assert api.ok("GET /v1/users")
        for thread in threads:
            thread.join(60)
        assert [(one.status, one.code) for one in answers] == [(503, "database_unavailable")] * 6
        for one in answers:
            assert "locks the control plane" in one.text
            assert one.headers["Retry-After"]
        # Those who tried for themselves: all who had to wait for one of them gave up with it.
        assert 1 <= pool._outage._failures < 3
        assert api.store.revision() == before
    finally:
        held.execute("ROLLBACK")
        held.close()
    wait_until(lambda: api(*CHANGES[0]).status == 200, "it takes changes again", 30)
    api.close()


CHANGES: list[tuple[str, Any]] = [
    ("POST /v1/users", {"name": "eve", "password": "the password", "role": "none"}),
    ("POST /v1/certauth/locks", {"network": "203.0.113.7"}),
    ("POST /v1/roles?dry_run", {"name": "ops"}),
]


# ---- Memory --------------------------------------------------------------------------------------


@pytest.fixture
def away(api: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    """Its database is gone, after the administrator has looked at what there is."""
    api.database()
    api.store.nodes.report(1, [Seen(1, "127.0.0.1:6380", 1, True)], api.store.lease.take("us", 60))
    for call in LOOKS:
        assert api(call).status == 200

    def gone(*_: Any) -> Any:
        raise Away("gone")

    for name in ("read", "begin", "write", "write_statement", "read_revision"):
        monkeypatch.setattr(api.store._kernel._connections, name, gone)
    api.store._kernel._latest = (api.store._kernel._latest[0], time.monotonic() - 100)
    return api


LOOKS = ("GET /v1/users", "GET /v1/bdbs", "GET /v1/cluster", "GET /v1/certauth/nodes",
         "GET /v1/local/node/master_healthcheck")  # fmt: skip


def test_what_is_in_memory_is_read_and_nothing_changed(
    away: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says how old it may be; after five minutes there is none any more."""
    for call in LOOKS:
        found = away(call)
        assert found.status == 200
        assert 99 <= int(found.headers["Age"]) < 200
    for call in ("GET /v1/logs", "POST /v1/roles", "DELETE /v1/users/1", "PUT /v1/users/1"):
        answer = away(call, {"name": "x"})
        assert (answer.status, answer.code) == (503, "database_unavailable")
        assert answer.headers["Retry-After"]
    monkeypatch.setattr("control.store.kernel.MEMORY_SECONDS", 50)
    assert away("GET /v1/users").status == 503


def test_attack_passwords_cannot_be_guessed_meanwhile(away: ControlPlane) -> None:
    """What cannot be counted in the database is counted in memory: the right one, after too many
    wrong ones, is wrong as well."""
    threshold = 5
    for number in range(threshold):
        assert away("GET /v1/users").status == 200
        answer = away("GET /v1/users", auth=(ADMIN[0], f"guess {number}"))
        assert (answer.status, answer.code) == (401, "invalid_credentials")
    assert away("GET /v1/users").code == "invalid_credentials"


# ---- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


@pytest.fixture
def made(running: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(patience, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(patience, "LOCK_SECONDS", 1)
    store = Store(running.new())
    store.settings.initialise(Cluster("acme", "id", 1), FIRST)
    yield store
    store.close()


def rename(store: Store, name: str) -> None:
    store.settings.configure(lambda now: replace(now, name=name))


def refusal(store: Store) -> Exception:
    with pytest.raises(UNAVAILABLE_ERRORS) as error:
        store.revision()
    return error.value


def back(store: Store) -> None:
    """Waits until it takes changes again."""

    def works_again() -> bool:
        try:
            rename(store, "again")
        except UNAVAILABLE_ERRORS:
            return False
        return True

    wait_until(works_again, "it takes changes again", 30)


@pytest.mark.slow
def test_a_server_that_hangs_is_given_up(made: Store, running: Postgres) -> None:
    """Reads and writes, on connections that are open, and new ones; then others are told at once.
    It goes on by itself."""
    with running.frozen():
        for ask in (made.revision, lambda: rename(made, "x")):
            begun = time.monotonic()
            with pytest.raises(UNAVAILABLE_ERRORS):
                ask()
            assert time.monotonic() - begun < 20
        begun = time.monotonic()
        wait_until(lambda: isinstance(refusal(made), Away), "others are told at once", 20)
    back(made)
    assert made.settings.cluster().name == "again"


@pytest.mark.slow
def test_a_lock_that_somebody_holds_is_not_waited_for_for_long(
    made: Store, running: Postgres
) -> None:
    """The change is not made afterwards either; what reads goes on meanwhile."""
    before = made.settings.cluster().name
    other = sa.create_engine(made._kernel._connections._engine.url)  # type: ignore[attr-defined]
    with other.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM cluster FOR UPDATE")
        with pytest.raises(UNAVAILABLE_ERRORS, match="lock timeout"):
            rename(made, "behind the back")
        assert made.settings.cluster().name == before
    other.dispose()
    assert made.settings.cluster().name == before
    back(made)


@pytest.mark.slow
def test_writers_give_a_lock_up_together(made: Store, running: Postgres) -> None:
    """As with SQLite: they wait for each other, and not for the lock one after the other."""
    other = sa.create_engine(made._kernel._connections._engine.url)  # type: ignore[attr-defined]
    errors = list[BaseException]()

    def write() -> None:
        with pytest.raises(UNAVAILABLE_ERRORS) as error:
            rename(made, "behind the back")
        errors.append(error.value)

    with other.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM cluster FOR UPDATE")
        threads = [threading.Thread(target=write) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    other.dispose()
    assert len(errors) == 6
    assert all(outage.is_locked(one) for one in errors if isinstance(one, Exception))
    assert len([one for one in errors if not isinstance(one, Away)]) < 3
    back(made)


@pytest.mark.slow
def test_a_server_that_has_become_a_standby_is_left(made: Store, running: Postgres) -> None:
    """Its connections would all be read-only for ever: they are replaced at the first refusal."""
    engine = sa.create_engine(running.url, isolation_level="AUTOCOMMIT")
    name = made._kernel._connections._engine.url.database  # type: ignore[attr-defined]
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        connection.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        for _ in range(3):
            with pytest.raises(UNAVAILABLE_ERRORS):
                rename(made, "x")
        connection.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    engine.dispose()
    rename(made, "at once")
    assert made.settings.cluster().name == "at once"


@pytest.mark.slow
def test_threads_that_meet_an_outage_at_once_are_one_line(
    made: Store, running: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed and started again: all of them go on."""
    running.kill()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                made.revision()
            except UNAVAILABLE_ERRORS:
                stop.wait(0.01)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: lines(caplog), "it is told")
    running.start()
    back(made)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(lines(caplog)) == 2, lines(caplog)
