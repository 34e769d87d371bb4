"""control/store on PostgreSQL: the laws of test_store*.py, several processes, backups to and
from SQLite. A private server is started for it, and ended with the module."""

import gc
import inspect
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from control import service
from control.errors import Refusal
from control.records import Cluster, Role, User
from control.service import Config, ServiceError
from control.service.home import open_store
from control.store import Store
from control.store.backup import dump_tables
from tests.control.store import test_store, test_store_certificates
from tests.kit.postgres import PASSWORD, Postgres, Served, postgres
from tests.kit.rest import ADMIN, user
from tests.kit.rows import ADMIN as FIRST
from tests.kit.rows import granted, read_while_written, replayed
from tests.kit.support import free_port, wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


@pytest.fixture
def url(running: Postgres) -> Iterator[str]:
    """An empty database. What its test leaves to the garbage collector is collected with it, and
    not in a later test, which would fail by the warning."""
    yield running.new()
    gc.collect()


@pytest.fixture
def config(tmp_path: Path, url: str) -> Config:
    """What `init` makes, its rows in PostgreSQL."""
    made = Config(tmp_path / "home", database=url)
    service.init(made, "acme", *ADMIN, ("localhost",))
    return made


pytestmark = [
    pytest.mark.slow,
    # Some of the store's tests leave a second store to the garbage collector, where psycopg warns.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Anyone who collects this module finds them in it, where `url` is another database.
LAWS = {
    name: law
    for module in (test_store, test_store_certificates)
    for name, law in vars(module).items()
    if name.startswith("test_")
    and {"made", "peopled", "url"} & set(inspect.signature(law).parameters)
}
globals().update({"made": test_store.made, "peopled": test_store_certificates.peopled, **LAWS})


@pytest.fixture
def server(running: Postgres) -> sa.URL:
    return running.url


def test_the_laws_are_those_of_the_store() -> None:
    """Most of its tests are here; those about SQLite's file are not."""
    assert len(LAWS) > 40
    assert "test_writers_in_many_threads_lose_nothing" in LAWS
    assert "test_the_file_is_for_its_owner_only" not in LAWS


def test_a_database_that_does_not_answer_is_an_error_without_its_password(
    tmp_path: Path, server: sa.URL
) -> None:
    """In one line, for a wrong password, a wrong port and a database that is not there."""
    for wrong in (
        server.set(password="another secret"),
        server.set(port=free_port()),
        server.set(database="none"),
    ):
        config = Config(tmp_path, database=wrong.render_as_string(hide_password=False))
        with pytest.raises(ServiceError, match="cannot open the database") as error:
            open_store(config)
        assert "secret" not in str(error.value)
        assert PASSWORD not in str(error.value)
        assert "\n" not in str(error.value)


def test_processes_that_open_a_new_database_at_once_make_its_tables_once(url: str) -> None:
    """Anyone who comes second finds them there."""
    errors: list[Exception] = []

    def work() -> None:
        try:
            Store(url).close()
        except Exception as error:
            errors.append(error)

    together(work, 4)
    assert errors == []
    Store(url).close()


def together(work: Any, count: int) -> None:
    """Runs it in so many threads, to their end."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_processes_that_write_at_once_lose_nothing(url: str) -> None:
    """Two stores with four threads each change users, and one user all of them: each change is a
    generation, and none is overwritten."""
    made = Store(url)
    made.settings.initialise(Cluster("acme", "id", 1), FIRST)
    granted(made, "shared")
    stores, errors, number = [made, Store(url)], [], iter(range(1000))
    turn = iter(stores * 4)

    def work() -> None:
        mine = next(turn)
        try:
            for _ in range(10):
                mine.objects.create(user(0, f"u{next(number)}"))
                mine.objects.update(User, 2, lambda found: replace(found, email=f"{found.email}x"))
        except Exception as error:
            errors.append(error)

    together(work, 8)
    assert errors == []
    assert made.objects.get(User, 2).email == "x" * 80
    assert made.policies.target(1).generation == 82
    assert replayed(made) == set(made.policies.whole(1)[1])
    for store in stores:
        store.close()


def test_a_reader_sees_one_moment_while_another_process_writes(url: str) -> None:
    """Lines and digest belong together."""
    made, other = Store(url), Store(url)
    made.settings.initialise(Cluster("acme", "id", 1), FIRST)
    granted(made)
    read_while_written(made, other, 50)
    made.close()
    other.close()


def test_of_two_editors_the_second_is_told(config: Config) -> None:
    """Each at a control plane of its own; nothing of the first is overwritten."""
    one, two = Served(config), Served(config)
    one.certificate_user("alice", "CN=alice")
    seen = two("GET /v1/users/2").headers["ETag"]
    one.ok("PUT /v1/users/2", {"email": "a@acme.org"}, headers={"If-Match": seen})
    late = two("PUT /v1/users/2", {"email": "b@acme.org"}, headers={"If-Match": seen})
    assert late.status == 409
    assert two.ok("GET /v1/users/2")["email"] == "a@acme.org"
    one.close()
    two.close()


def test_backups_go_from_either_database_to_the_other(
    config: Config, tmp_path: Path, running: Postgres, url: str
) -> None:
    """From PostgreSQL to SQLite, and back into an empty PostgreSQL: rows, generations and what is
    made next are the same."""
    made = Served(config)
    made.certificate_user("alice", "CN=alice", role="db_viewer")
    made.password_user("bob", "none")
    made.database(
        enforce_client_authentication="disabled",
        roles_permissions=[{"role_uid": 5, "redis_acl_uid": 1}],
    )
    before = all_rows(made.store)
    with made.store.request.dry_run():
        ops = made.store.objects.create(Role(0, "ops", "none")).uid
    assert all_rows(made.store) == before
    service.backup(config, tmp_path / "one")
    lite = Config(tmp_path / "lite")
    service.restore(lite, tmp_path / "one")
    service.backup(lite, tmp_path / "two")
    again = running.new()
    back = Config(tmp_path / "back", database=again)
    service.restore(back, tmp_path / "two")
    for other in (Served(lite), Served(back)):
        assert all_rows(other.store) == before
        assert other.store.policies.whole(1) == made.store.policies.whole(1)
        assert other.store.policies.changes(1, 0, "") == made.store.policies.changes(1, 0, "")
        logs, wanted = (
            [one for one in store.ok("GET /v1/logs") if one["type"] not in OF_BACKUPS]
            for store in (other, made)
        )
        assert logs == wanted
        numbers = [number for number, _ in other.store.events.after(0, 1000).events]
        assert numbers == sorted(set(numbers))  # PostgreSQL leaves out what a dry run took
        assert other.certificate_user("carol", "CN=carol")["uid"] == 4
        assert other.store.objects.create(Role(0, "ops", "none")).uid == ops
        other.close()
    with pytest.raises(ServiceError, match="the database holds a control plane already"):
        service.restore(Config(tmp_path / "more", database=url), tmp_path / "one")
    made.close()


OF_BACKUPS = ("restored", "backup_made")  # events that are about the copy itself


def all_rows(store: Store) -> Any:
    """All rows, but for what a restore makes again or adds, and the revision, which counts each
    opening."""
    tables = store.dump()["tables"]
    at = tables["events"]["columns"].index("type")
    kept = [row for row in tables["events"]["rows"] if row[at] not in OF_BACKUPS]
    tables["events"]["rows"] = kept
    (cluster,) = tables["cluster"]["rows"]
    named = dict(zip(tables["cluster"]["columns"], cluster, strict=True))
    for name in ("jwt_key", "revision", "stores", "hold"):
        del named[name]
    return {**tables, "cluster": named}


def test_an_older_process_writes_nothing_beside_a_newer_one(config: Config, url: str) -> None:
    """Not even what it began before: it holds the tables as they are until it has ended, so that a
    newer one waits for it; and neither waits for ever."""
    made = Served(config)
    with made.store._kernel.change() as connection:
        newer = threading.Thread(target=upgrade, args=(config.url,))
        newer.start()
        connection.execute(sa.text("UPDATE cluster SET name = 'before'"))
    newer.join(10)
    assert not newer.is_alive()
    for change in (
        lambda: made.store.events.note("after"),
        lambda: made.store.lease.take("us", 3),
        lambda: made.store.settings.configure(lambda now: replace(now, name="after")),
    ):
        with pytest.raises(Refusal, match="another version of redis-certauth has changed"):
            change()
    assert made("POST /v1/roles", {"name": "x"}).code == "other_schema"
    assert made.store.settings.cluster().name == "before"
    made.close()


def upgrade(url: str) -> None:
    """As a migration begins and ends."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("SELECT version_num FROM alembic_version FOR UPDATE")
        connection.exec_driver_sql("ALTER TABLE cluster ADD COLUMN more TEXT")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()


def test_a_backup_may_compute_for_long_between_two_statements(url: str) -> None:
    """On a busy machine PostgreSQL ended it in the middle, after the two seconds of others."""
    store, asked = Store(url), "SHOW idle_in_transaction_session_timeout"
    with store._kernel.read() as connection:
        assert connection.exec_driver_sql(asked).scalar() == "2s"
        dump_tables(connection)
        assert connection.exec_driver_sql(asked).scalar() == "1min"
    store.close()


def test_others_are_heard_outside_of_a_transaction(url: str) -> None:
    """Within one PostgreSQL tells nothing, and ends it two seconds later, again and again."""
    made, other, heard = Store(url), Store(url), threading.Event()
    made.settings.initialise(Cluster("acme", "id", 1), FIRST)
    made.listen(heard.set)
    question = sa.text("SELECT state FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    engine = sa.create_engine(url)

    def states() -> list[str]:
        with engine.connect() as connection:
            return list(connection.scalars(question))

    wait_until(lambda: states() not in ([], ["active"]), "it listens")
    assert states() == ["idle"]
    heard.clear()
    other.objects.create(user(0, "b"))
    assert heard.wait(20)
    engine.dispose()
    other.close()
    made.close()


def test_a_refused_change_leaves_nothing(url: str) -> None:
    """PostgreSQL ends a transaction at its first error; the next one is none the worse."""
    made = Store(url)
    made.settings.initialise(Cluster("acme", "id", 1), FIRST)
    before = made.revision()
    for _ in range(3):
        with pytest.raises(Refusal):
            made.objects.create(user(1, "b"))
    assert made.revision() == before
    assert made.objects.create(user(0, "b")).uid == 2
    made.close()
