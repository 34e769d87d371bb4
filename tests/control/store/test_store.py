"""control/store: rows, transactions, policy logs."""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control import store
from control.errors import Refusal
from control.policy import core
from control.records import (
    Certificate,
    Cluster,
    Database,
    Endpoint,
    Issuer,
    RedisAcl,
    Role,
    RolePermission,
    User,
)
from control.reports import IssuerKeys, Node
from control.store import Replaced, Store
from tests.kit.rest import database, user
from tests.kit.rows import ADMIN, granted, read_while_written, replayed
from tests.kit.support import Pki, wait_until


@pytest.fixture
def made(url: str) -> Iterator[Store]:
    """A store with one administrator."""
    opened = Store(url)
    opened.settings.initialise(Cluster("acme", "id", 1), ADMIN)
    yield opened
    opened.close()


EMPTY = f"0:{0:064x}"


def refusal(error: "pytest.ExceptionInfo[Refusal]") -> tuple[int, str]:
    return error.value.status, error.value.error_code


# ---- The file ----


def test_the_migrations_make_the_tables_that_the_code_uses(url: str) -> None:
    """Alembic finds no difference between a new database and the tables of schema.py."""
    Store(url).close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, store.schema.metadata) == []
    engine.dispose()


def test_issuers_and_their_keys_outlive_the_migration_of_their_tables(url: str) -> None:
    """To 0030: they are made again, and the keys went with them where they went first."""
    engine = store.engine.make_engine(sa.make_url(url))
    with engine.connect() as connection:
        store.versions.migrate(connection, "0028")
        for uid in (1, 2):
            row = f"{uid}, 'i{uid}', 'https//i{uid}', '[]', '[]', 60, '', '', '', 3600, '[]'"
            connection.execute(sa.text(f"INSERT INTO issuers VALUES ({row})"))
        connection.execute(sa.text("INSERT INTO issuer_keys VALUES (2, 'keys', 5, 6, 'p')"))
        connection.commit()
    engine.dispose()
    made = Store(url)
    found = made.objects.all(Issuer)
    assert [(one.uid, one.url, one.manufacturer_ca) for one in found] == [
        (1, "https//i1", ""), (2, "https//i2", ""),
    ]  # fmt: skip
    assert not any(one.renewable for one in found)
    assert made.issuers.all_keys() == {2: IssuerKeys(2, "keys", 5, 6, "p")}
    made.close()


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """It holds a private key and password hashes; so do its journals."""
    old = os.umask(0)
    try:
        opened = Store(f"sqlite:///{tmp_path}/control.db")
        opened.settings.initialise(Cluster("acme", "id", 1), ADMIN)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        opened.close()
    finally:
        os.umask(old)
    assert set(modes.values()) == {0o600}
    assert "control.db-wal" in modes


def test_a_store_in_memory_is_refused() -> None:
    """It would be another one in each thread."""
    with pytest.raises(ValueError, match="needs a file"):
        Store("sqlite://")


def test_a_store_is_initialised_once(made: Store) -> None:
    """A second `init` changes nothing."""
    with pytest.raises(Refusal) as error:
        made.settings.initialise(Cluster("other", "id", 1), ADMIN)
    assert refusal(error) == (406, "already_initialised")
    assert made.settings.cluster().name == "acme"


def test_before_init_nothing_can_be_changed(url: str) -> None:
    """The error says what to run."""
    opened = Store(url)
    with pytest.raises(Refusal, match="redis-certauth init"):
        opened.objects.create(Role(0, "x", "none"))
    with pytest.raises(Refusal, match="redis-certauth init"):
        opened.settings.cluster()
    opened.close()


def test_what_was_written_is_there_after_opening_again(made: Store, url: str) -> None:
    """Every record comes back equal."""
    granted(made, "alice")
    again = Store(url)
    assert again.settings.cluster() == made.settings.cluster()
    assert again.objects.all(User) == made.objects.all(User)
    assert again.objects.all(Role) == made.objects.all(Role)
    assert again.objects.all(RedisAcl) == made.objects.all(RedisAcl)
    assert again.objects.all(Database) == made.objects.all(Database)
    again.close()


# ---- Records ----


def test_a_uid_is_never_given_twice(made: Store) -> None:
    """Also not that of a record that was deleted, or one above a uid that somebody chose."""
    first = made.objects.create(user(0, "a"))
    made.objects.delete(User, first.uid)
    assert made.objects.create(user(0, "b")).uid == first.uid + 1
    assert made.objects.create(user(100, "c")).uid == 100
    assert made.objects.create(user(0, "d")).uid == 101


def test_a_chosen_uid_that_is_taken_is_a_conflict(made: Store) -> None:
    """The record that has it stays."""
    with pytest.raises(Refusal) as error:
        made.objects.create(user(1, "b"))
    assert refusal(error) == (409, "uid_exists")
    assert made.objects.get(User, 1).name == "admin"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "alice"}, "name_already_exists"),
        ({"email": "a@b.c"}, "email_already_exists"),
        ({"certificate_subject_line": "CN=alice,O=acme"},
         "certificate_subject_line_already_exists"),
    ],
)  # fmt: skip
def test_what_must_be_unique_is_a_conflict(made: Store, fields: Any, code: str) -> None:
    """For a new user and for a changed one; a user does not conflict with itself."""
    alice = made.objects.create(user(0, "alice", email="a@b.c"))
    bob = made.objects.create(user(0, "bob"))
    with pytest.raises(Refusal) as error:
        made.objects.create(user(0, **{"name": "carol", **fields}))
    assert refusal(error) == (409, code)
    with pytest.raises(Refusal) as error:
        made.objects.update(User, bob.uid, lambda found: replace(found, **fields))
    assert refusal(error) == (409, code)
    assert made.objects.update(User, alice.uid, lambda found: replace(found, **fields)) == alice


def test_many_users_without_an_email_are_no_conflict(made: Store) -> None:
    """The empty address is nobody's."""
    made.objects.create(user(0, "a"))
    made.objects.create(user(0, "b"))
    assert made.objects.user_by_login("") is None


def test_a_name_logs_in_before_the_same_email(made: Store) -> None:
    """A user cannot take over another's login by its address."""
    named = made.objects.create(user(0, "x@acme.org"))
    made.objects.create(user(0, "other", email="x@acme.org"))
    assert made.objects.user_by_login("x@acme.org") == named
    made.objects.delete(User, named.uid)
    found = made.objects.user_by_login("x@acme.org")
    assert found is not None
    assert found.name == "other"


@pytest.mark.parametrize("kind", [User, Role, RedisAcl, Database])
def test_what_is_not_there_is_a_404(made: Store, kind: Any) -> None:
    """Reading, changing and deleting say so alike."""
    for act in (
        lambda: made.objects.get(kind, 99),
        lambda: made.objects.update(kind, 99, lambda found: found),
        lambda: made.objects.delete(kind, 99),
    ):
        with pytest.raises(Refusal) as error:
            act()
        assert refusal(error) == (404, "not_found")


def test_references_must_exist(made: Store) -> None:
    """A role of a user, and role and ACL of a database; the message names what is missing."""
    with pytest.raises(Refusal, match="role_uids: there is no role 99"):
        made.objects.create(user(0, role_uids=(6, 99)))
    for pair, missing in (((99, 1), "role 99"), ((6, 99), "redis_acl 99")):
        with pytest.raises(Refusal, match=f"roles_permissions: there is no {missing}"):
            made.objects.create(database(0, roles_permissions=(RolePermission(*pair),)))


def test_two_databases_cannot_share_a_server(made: Store) -> None:
    """A server has one policy."""
    made.objects.create(database(0, [1, 2]))
    with pytest.raises(Refusal) as error:
        made.objects.create(database(0, [2, 3]))
    assert refusal(error) == (406, "port_unavailable")
    made.objects.update(Database, 1, lambda found: replace(found, name="renamed"))


def test_a_dry_run_does_everything_and_nothing(made: Store) -> None:
    """It raises what the real run would, returns what that would, and changes nothing."""
    granted(made, "alice")
    before = (made.revision(), made.policies.target(1), made.dump())
    with made.request.dry_run():
        bob = made.objects.create(user(0, "bob"))
        made.objects.update(User, 2, lambda found: replace(found, name="x"))
        made.events.note("session_ended", bdb_uid=1)
        with pytest.raises(Refusal):
            made.objects.create(user(0, "alice"))
    assert (made.revision(), made.policies.target(1), made.dump()) == before
    assert bob.uid == made.objects.create(user(0, "bob")).uid


def test_a_change_that_fails_half_way_changes_nothing(made: Store) -> None:
    """The rows written before the error are gone with it."""
    granted(made, "alice")
    before = (made.revision(), made.policies.target(1), made.objects.all(User))

    def fail(_: User) -> User:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made.objects.update(User, 2, fail)
    with pytest.raises(core.CoreError):
        made.objects.update(User, 2, lambda found: replace(found, name="a b"))
    assert (made.revision(), made.policies.target(1), made.objects.all(User)) == before


def test_a_role_that_is_held_stays(made: Store) -> None:
    """The message names who holds it; unheld, it goes with its rights on databases."""
    made.objects.create(Role(20, "ops", "none"))
    made.objects.create(user(0, "alice", role_uids=(20,)))
    made.objects.create(
        database(0, roles_permissions=(RolePermission(20, 1), RolePermission(6, 1)))
    )
    with pytest.raises(Refusal, match="alice") as error:
        made.objects.delete(Role, 20)
    assert refusal(error) == (406, "role_in_use")
    made.objects.delete(User, 2)
    made.objects.delete(Role, 20)
    assert made.objects.get(Database, 1).roles_permissions == (RolePermission(6, 1),)


def test_an_acl_that_a_database_names_stays(made: Store) -> None:
    """Its users would silently lose their rights, or gain them with the next ACL of that uid."""
    made.objects.create(database(0, roles_permissions=(RolePermission(6, 2),)))
    with pytest.raises(Refusal, match="db") as error:
        made.objects.delete(RedisAcl, 2)
    assert refusal(error) == (406, "redis_acl_in_use")
    made.objects.update(Database, 1, lambda found: replace(found, roles_permissions=()))
    made.objects.delete(RedisAcl, 2)


# ---- Administrators ----


def test_the_last_administrator_stays(made: Store) -> None:
    """Neither deleting it nor changing its role is possible; with another one, both are."""
    for act in (
        lambda: made.objects.delete(User, 1),
        lambda: made.objects.update(User, 1, lambda found: replace(found, role_uids=(5,))),
    ):
        with pytest.raises(Refusal) as error:
            act()
        assert refusal(error) == (406, "change_last_admin_role_not_allowed")
    made.objects.create(replace(ADMIN, uid=0, name="other"))
    made.objects.delete(User, 1)


def test_an_administrator_who_cannot_log_in_is_none(made: Store) -> None:
    """A certificate user without the CA, or one that never came in, is not enough."""
    made.objects.create(user(0, "alice", role_uids=(1,)))
    with pytest.raises(Refusal) as error:
        made.objects.delete(User, 1)
    assert refusal(error) == (406, "no_administrator_login")


def test_passwords_are_given_up_only_after_a_certificate_login(made: Store, pki: Pki) -> None:
    """And then that login can no longer be taken away."""
    made.settings.put_certificates([Certificate("mtls_trusted_ca", pki.ca.pem.decode())])
    made.settings.configure(lambda found: replace(found, mtls_certificate_authentication=True))
    made.objects.create(user(0, "alice", role_uids=(1,)))

    def no_passwords(found: Cluster) -> Cluster:
        return replace(found, control_plane_basic_authentication=False)

    with pytest.raises(Refusal) as error:
        made.settings.configure(no_passwords)
    assert refusal(error) == (406, "no_administrator_login")
    made.logins.succeeded(2, 1, "certificate")
    made.settings.configure(no_passwords)
    for act in (
        lambda: made.objects.delete(User, 2),
        lambda: made.settings.delete_certificate("mtls_trusted_ca"),
        lambda: made.settings.configure(
            lambda c: replace(c, mtls_certificate_authentication=False)
        ),
    ):
        with pytest.raises(Refusal) as error:
            act()
        assert refusal(error) == (406, "no_administrator_login")


# ---- Policies ----


def test_a_policy_is_what_its_log_leads_to(made: Store) -> None:
    """Users come, change and go: log, lines and digest say the same."""
    granted(made, "alice", "bob")
    made.objects.update(User, 2, lambda found: replace(found, name="carol"))
    made.objects.update(RedisAcl, 2, lambda found: replace(found, acl="+get ~x"))
    given = (RolePermission(6, 2), RolePermission(6, 3))
    made.objects.update(Database, 1, lambda found: replace(found, roles_permissions=given))
    made.objects.update(RedisAcl, 2, lambda found: replace(found, acl="+get ~y"))
    made.objects.delete(User, 3)
    target, lines = made.policies.whole(1)
    assert replayed(made) == set(lines)
    assert core.Policy(lines).digest == target.digest == made.policies.target(1).digest
    assert core.canonical('user carol on "(+get ~y)" "(+@all -@dangerous ~*)"') in lines
    assert not any("bob" in line for line in lines)


def test_a_change_without_a_line_makes_no_generation(made: Store) -> None:
    """Names of roles, addresses of users, users without rights: nodes need not know."""
    granted(made, "alice")
    before = made.policies.target(1)
    made.objects.update(User, 2, lambda found: replace(found, email="a@b.c"))
    made.objects.update(Database, 1, lambda found: replace(found, name="renamed"))
    made.objects.create(user(0, "nobody", role_uids=(5,)))
    made.objects.create(Role(0, "more", "db_viewer"))
    assert made.policies.target(1) == before


def test_one_change_is_one_generation_of_each_database_it_concerns(made: Store) -> None:
    """And of no other."""
    granted(made)
    made.objects.create(database(0, [2], roles_permissions=(RolePermission(6, 2),)))
    made.objects.create(database(0, [3], roles_permissions=(RolePermission(5, 1),)))
    before = [made.policies.target(uid).generation for uid in (1, 2, 3)]
    made.objects.create(user(0, "alice"))
    after = [made.policies.target(uid).generation for uid in (1, 2, 3)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 0]


def test_a_role_given_and_taken_moves_the_user_between_databases(made: Store) -> None:
    """The lines follow the roles, both ways in one change."""
    granted(made)
    made.objects.create(database(0, [2], roles_permissions=(RolePermission(5, 1),)))
    made.objects.create(user(0, "alice"))
    made.objects.update(User, 2, lambda found: replace(found, role_uids=(5,)))
    assert not any("alice" in line for line in made.policies.whole(1)[1])
    assert any("alice" in line for line in made.policies.whole(2)[1])


def test_the_cluster_ca_is_for_databases_without_their_own(made: Store, pki: Pki) -> None:
    """A database's own list replaces it, and uploading a CA changes the others' policies."""
    granted(made)
    own = (pki.server_ca.pem.decode(),)
    made.objects.create(database(0, [2], authentication_ssl_client_certs=own))
    made.settings.put_certificates([Certificate("mtls_trusted_ca", pki.ca.pem.decode())])
    cas = [
        [line for line in made.policies.whole(uid)[1] if line.startswith("ca ")] for uid in (1, 2)
    ]
    assert [core.canonical(line) for line in cas[0]] == cas[0]
    assert [len(lines) for lines in cas] == [1, 1]
    assert cas[0] != cas[1]
    made.settings.delete_certificate("mtls_trusted_ca")
    assert not any(line.startswith("ca ") for line in made.policies.whole(1)[1])
    assert replayed(made) == set(made.policies.whole(1)[1])


def test_a_database_that_demands_certificates_needs_a_ca(made: Store, pki: Pki) -> None:
    """Nobody could come in; what is not about that can be changed even if the CA went later."""
    demanding = database(0, tls_mode="enabled")
    with pytest.raises(Refusal) as error:
        made.objects.create(demanding)
    assert refusal(error) == (406, "missing_certificate")
    made.settings.put_certificates([Certificate("mtls_trusted_ca", pki.ca.pem.decode())])
    made.objects.create(demanding)
    made.settings.delete_certificate("mtls_trusted_ca")
    made.objects.update(Database, 1, lambda found: replace(found, name="renamed"))


def test_a_database_being_removed_has_no_lines(made: Store) -> None:
    """Its nodes are to let go of everything; then the row goes, and its log."""
    granted(made, "alice")
    made.objects.delete(Database, 1)
    assert made.objects.get(Database, 1).deleting
    assert made.policies.whole(1) == (made.policies.target(1), ())
    assert made.policies.target(1).digest == EMPTY
    assert replayed(made) == set()
    made.nodes.forget_database(1)
    assert made.objects.all(Database) == ()
    with pytest.raises(Refusal):
        made.policies.whole(1)


def test_changes_since_a_generation_are_what_a_node_is_short_of(made: Store) -> None:
    """From each generation with its digest, exactly the later ones."""
    granted(made, "a", "b", "c")
    log = made.policies.changes(1, 0, "")
    assert log is not None
    assert [change.generation for change in log] == [1, 2, 3, 4]
    for change in log:
        assert (
            made.policies.changes(1, change.generation, change.digest) == log[change.generation :]
        )


def test_a_node_with_another_history_gets_no_changes(made: Store) -> None:
    """A generation with another digest, one of the future: the whole policy is needed."""
    granted(made, "a", "b")
    log = made.policies.changes(1, 0, "")
    assert log is not None
    assert made.policies.changes(1, 2, log[0].digest) is None
    assert made.policies.changes(1, 3, log[2].digest) == ()
    assert made.policies.changes(1, 4, log[2].digest) is None


def test_the_log_is_cut_and_a_node_too_far_behind_is_told(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest generations go; the newest are kept whole."""
    monkeypatch.setattr("control.store.lines.POLICY_LOG_GENERATIONS", 2)
    granted(made, "a", "b", "c")
    assert made.policies.changes(1, 0, "") is None
    rows = made.policies.changes(1, 3, digest_at(made, 3))
    assert rows is not None
    assert [change.generation for change in rows] == [4]


def digest_at(made: Store, generation: int) -> str:
    with made._kernel.read() as connection:
        where = store.schema.policy_log.c.generation == generation
        return str(connection.scalar(sa.select(store.schema.policy_log.c.digest).where(where)))


def test_lines_that_the_code_writes_otherwise_are_a_new_generation(
    made: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade that renders rows in another way, opening the store says what changed."""
    granted(made, "alice")
    before = made.policies.target(1)
    Store(url).close()
    assert made.policies.target(1) == before
    monkeypatch.setattr("control.policy.lines.database_lines", lambda *_: {"set enforce shadow"})
    Store(url).close()
    assert made.policies.target(1).generation == before.generation + 1
    assert replayed(made) == set(made.policies.whole(1)[1])


def test_a_name_from_before_it_was_refused_stops_nobody(
    made: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node would refuse its lines, and all others with them. The upgrade takes them back; who is
    left out is told with each database, and comes in under another name."""
    with monkeypatch.context() as before:
        # As it was: no check of quotes.
        before.setattr("control.policy.core.canonical", lambda line: line)
        granted(made, "alice", "o'brien", "bob")
    assert any("o'brien" in line for line in made.policies.whole(1)[1])
    Store(url).close()
    lines = made.policies.whole(1)[1]
    assert {line.split()[1] for line in lines if line.startswith("user ")} == {"alice", "bob"}
    assert core.digest(lines) == made.policies.target(1).digest
    assert [user.name for user in made.policies.not_synced(1)] == ["o'brien"]
    (left,) = made.policies.not_synced(1)
    with pytest.raises(core.CoreError, match="holds a quote"):
        made.objects.update(User, left.uid, lambda one: replace(one, name="o'hara"))
    made.objects.update(User, left.uid, lambda one: replace(one, name="obrien"))
    assert not made.policies.not_synced(1)
    assert any(line.startswith("user obrien ") for line in made.policies.whole(1)[1])


KINDS = ["create", "delete", "roles", "acl", "grants", "trust"]
ACTIONS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5)), max_size=12)


@given(actions=ACTIONS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_after_any_changes_lines_are_what_a_fresh_look_at_the_rows_gives(
    tmp_path_factory: pytest.TempPathFactory, pki: Pki, actions: list[tuple[str, int]]
) -> None:
    """Following the changes one by one ends where rendering everything again would."""
    opened = Store(f"sqlite:///{tmp_path_factory.mktemp('store')}/control.db")
    opened.settings.initialise(Cluster("acme", "id", 1), ADMIN)
    for uid in (1, 2):
        opened.objects.create(database(uid, [uid]))
    for action, number in actions:
        with_refusals(opened, pki, action, number)
    for uid in (1, 2):
        with opened._kernel.read() as connection:
            fresh = {line for _, line in store.lines.render_lines(connection, uid, own=False)}
        target, lines = opened.policies.whole(uid)
        assert set(lines) == fresh == replayed(opened, uid)
        assert target.digest == core.digest(lines)
    opened.close()


def with_refusals(opened: Store, pki: Pki, action: str, number: int) -> None:
    certificate = Certificate("mtls_trusted_ca", (pki.ca, pki.server_ca)[number % 2].pem.decode())
    given = tuple(RolePermission(6 - i, 1 + (number + i) % 3) for i in range(number % 3))
    acts: dict[str, Any] = {
        "create": lambda: opened.objects.create(
            user(10 + number, f"u{number}", role_uids=(5 + number % 2,))
        ),
        "delete": lambda: opened.objects.delete(User, 10 + number),
        "roles": lambda: opened.objects.update(
            User, 10 + number, lambda u: replace(u, role_uids=(5, 6)[: 1 + number % 2])
        ),
        "acl": lambda: opened.objects.update(
            RedisAcl, 2, lambda a: replace(a, acl=f"+get ~{number}")
        ),
        "grants": lambda: opened.objects.update(
            Database, 1 + number % 2, lambda d: replace(d, roles_permissions=given)
        ),
        "trust": lambda: opened.settings.put_certificates([certificate]),
    }
    with contextlib.suppress(Refusal):  # such as deleting a user that is not there
        acts[action]()


# ---- Nodes ----


def test_what_is_known_of_nodes_is_replaced_as_a_whole(made: Store) -> None:
    """A node that is not reported any more is gone."""
    granted(made)
    one, two = Node(1, "a:1", 3, True), Node(1, "b:1", 0, False, "connection refused")
    made.nodes.report(1, [two, one])
    assert made.nodes.of(1) == (one, two)
    made.nodes.report(1, [one])
    assert made.nodes.of(1) == (one,)


def test_a_named_key_that_a_stock_server_showed_is_not_bound_again(made: Store) -> None:
    """While the server is looked at, its row says what it is; when it is not any more, the key is
    not named any more either, or the server would be let in to all data. Others stay named."""
    granted(made)
    stock, late, ours = ("a" * 64, "b" * 64, "c" * 64)
    named = (stock, late, ours)
    made.objects.update(Database, 1, lambda one: replace(one, node_keys=named))
    seen = [
        Node(1, "a:1", 3, True, key=stock, role="replica"),
        Node(1, "b:1", 3, True, key=ours, role="replica", module="1"),
    ]
    made.nodes.report(1, seen)
    assert made.objects.get(Database, 1).node_keys == named
    made.nodes.report(1, [])
    assert made.objects.get(Database, 1).node_keys == (late, ours)
    _, lines = made.policies.whole(1)
    assert {line.split()[2] for line in lines if line.startswith("bind key ")} == {late, ours}


def test_named_keys_are_bound_when_each_endpoint_was_seen(made: Store) -> None:
    """From the very change that names a new endpoint until the report that it has the module. A
    second name of a server is not reported, and holds nothing up."""
    granted(made)
    ours, late = ("c" * 64, "b" * 64)

    def bound() -> set[str]:
        _, lines = made.policies.whole(1)
        return {line.split()[2] for line in lines if line.startswith("bind key ")}

    made.objects.update(Database, 1, lambda one: replace(one, endpoints=(Endpoint(("a",), 1),)))
    first = Node(1, "a:1", 3, True, key=ours, role="master", module="1")
    made.nodes.report(1, [first])
    made.objects.update(Database, 1, lambda one: replace(one, node_keys=(late,)))
    assert bound() == {ours, late}
    more = (Endpoint(("a",), 1), Endpoint(("b",), 1))
    made.objects.update(Database, 1, lambda one: replace(one, endpoints=more))
    assert late not in bound()
    made.nodes.report(1, [first, Node(1, "b:1", 0, False, error="UNREACHABLE no")])
    assert late not in bound()
    made.nodes.report(1, [first, Node(1, "b:1", 3, True, key="d" * 64, role="replica")])
    assert late not in bound()
    made.nodes.report(1, [first, Node(1, "b:1", 3, True, key="d" * 64, role="replica", module="1")])
    assert bound() == {ours, late, "d" * 64}
    made.nodes.report(1, [first])
    assert late in bound()


def test_a_report_of_a_database_that_is_gone_is_dropped(made: Store) -> None:
    """The worker may be slower than the administrator."""
    made.nodes.report(9, [Node(9, "a:1", 3, True)])
    assert made.nodes.of(9) == ()


def test_reports_make_no_revision(made: Store) -> None:
    """They come often, and nothing that is remembered depends on them."""
    granted(made)
    before = made.revision()
    made.nodes.report(1, [Node(1, "a:1", 3, True)])
    assert made.revision() == before


# ---- Who speaks to the servers ----


def test_one_process_has_the_lease_and_each_new_one_a_higher_epoch(made: Store, url: str) -> None:
    """Anyone who renews it keeps its epoch; another one gets it when it is given up, or over."""
    other = Store(url)
    assert (made.lease.take("a", 60), other.lease.take("b", 60)) == (1, 0)
    assert made.lease.take("a", 60) == 1
    assert made.lease.leader() == ("a", 1)
    made.lease.end("b")  # not b's to give up
    assert other.lease.take("b", 60) == 0
    made.lease.end("a")
    assert other.lease.take("b", 0.05) == 2
    wait_until(lambda: made.lease.take("a", 60), "b's time is over")
    assert other.lease.leader() == ("a", 3)
    other.close()


def test_a_lease_of_a_clock_that_was_set_back_is_over(made: Store) -> None:
    """It ends later than any lease that was taken now could."""
    assert made.lease.take("a", 3600) == 1
    assert made.lease.take("b", 3) == 2


def test_the_writes_of_who_was_replaced_are_refused(made: Store) -> None:
    """Nothing of them is there: neither what was found of a server, nor the end of a database."""
    granted(made)
    assert made.lease.take("a", 60) == 1
    made.nodes.report(1, [Node(1, "a:1", 3, True)], 1)
    made.lease.end("a")
    made.nodes.report(1, [Node(1, "a:1", 4, True)], 1)  # until somebody else has it
    assert made.lease.take("b", 60) == 2
    for old in (0, 1):
        with pytest.raises(Replaced):
            made.nodes.report(1, [Node(1, "a:1", 5, True)], old)
        with pytest.raises(Replaced):
            made.nodes.forget_database(1, old)
    assert [node.generation for node in made.nodes.of(1)] == [4]
    assert made.objects.get(Database, 1).name
    made.nodes.report(1, [Node(1, "a:1", 5, True)], 2)
    made.nodes.forget_database(1, 2)
    with pytest.raises(Refusal):
        made.objects.get(Database, 1)


def test_an_epoch_is_raised_above_what_a_server_has_seen(made: Store) -> None:
    """By its holder alone, and never lowered."""
    assert made.lease.take("a", 60) == 1
    assert made.lease.raise_epoch("a", 1, 41) == 42
    assert made.lease.take("a", 60) == 42
    assert made.lease.raise_epoch("a", 42, 7) == 43
    for holder, epoch in (("b", 43), ("a", 42)):
        with pytest.raises(Replaced):
            made.lease.raise_epoch(holder, epoch, 99)
    assert made.lease.leader() == ("a", 43)


def test_a_change_tells_which_policies_it_moved(made: Store) -> None:
    """Those of the databases whose lines it changed, through all generations of one request, and
    the database itself; none when it is a rehearsal, and none after the request."""
    granted(made)
    made.request.leave()
    made.request.enter()
    with made.request.dry_run():
        made.objects.create(user(0, "c"))
    assert made.request.moved() == {}
    made.objects.create(Role(0, "idle", "none"))
    assert made.request.moved() == {}
    made.objects.update(Database, 1, lambda found: replace(found, name="renamed"))
    last = made.policies.target(1).generation
    assert made.request.moved() == {1: range(last + 1, last + 1)}
    made.objects.create(user(0, "b"))
    made.objects.update(Database, 1, lambda found: replace(found, default_user=True))
    assert made.request.moved() == {1: range(last + 1, made.policies.target(1).generation + 1)}
    made.request.leave()
    assert made.request.moved() == {}


# ---- Threads, processes, listeners ----


def test_listeners_hear_of_each_commit_and_of_nothing_else(made: Store) -> None:
    """What they then read is the new state."""
    heard: list[int] = []
    made.listen(lambda: heard.append(len(made.objects.all(User))))
    made.objects.create(user(0, "a"))
    with made.request.dry_run():
        made.objects.create(user(0, "b"))
    with pytest.raises(Refusal):
        made.objects.create(user(0, "a"))
    assert heard == [2]


def test_another_process_on_the_same_file_is_seen_at_once(made: Store, url: str) -> None:
    """What is remembered is forgotten when anybody writes."""
    other = Store(url)
    assert made.objects.user_by_login("admin") is not None
    other.objects.update(User, 1, lambda found: replace(found, name="root"))
    assert made.objects.user_by_login("admin") is None
    assert made.objects.get(User, 1).name == "root"
    other.close()


def test_reading_again_asks_the_database_only_for_the_revision(made: Store) -> None:
    """Until something changes, records come from memory."""
    assert made.objects.get(User, 1) is made.objects.get(User, 1)
    first = made.objects.get(User, 1)
    made.objects.create(Role(0, "ops", "none"))
    assert made.objects.get(User, 1) is not first


def test_a_new_user_and_a_login_leave_what_is_remembered_of_others(made: Store) -> None:
    """Many users logging in do not make everybody read everything again."""
    made.objects.create(user(0, "a"))
    cluster, admin, a = (
        made.settings.cluster(),
        made.objects.get(User, 1),
        made.objects.get(User, 2),
    )
    login = made.objects.user_by_login("admin")
    made.logins.succeeded(2, 7, "password")
    made.objects.create(user(0, "b"))
    assert made.settings.cluster() is cluster
    assert made.objects.get(User, 1) is admin
    assert made.objects.user_by_login("admin") is login
    assert made.objects.get(User, 2) is not a
    assert made.objects.get(User, 2).last_login == 7
    assert made.objects.user_by_login("a") == made.objects.get(User, 2)


def test_a_new_user_takes_its_names_from_what_is_remembered(made: Store, pki: Pki) -> None:
    """A name counts before the same e-mail address; both orders of a client's subject are seen."""
    made.objects.create(user(0, "a", email="x@acme.org"))
    assert made.objects.user_by_login("x@acme.org") == made.objects.get(User, 2)
    leaf = core.identity(pki.ca.issue("CN=a,O=acme").der)
    assert [found.uid for found in made.objects.users_like(leaf)] == [2]
    reverse = {"certificate_subject_line": "O=acme,CN=a", "email": "y@acme.org"}
    made.objects.create(user(0, "x@acme.org", **reverse))
    assert made.objects.user_by_login("x@acme.org") == made.objects.get(User, 3)
    assert [found.uid for found in made.objects.users_like(leaf)] == [2, 3]


def test_a_request_reads_the_revision_once(made: Store, url: str) -> None:
    """What it sees is of one moment, but for its own changes; the next one sees what other
    processes did in between."""
    other = Store(url)
    made.request.enter()
    assert made.objects.user_by_login("admin") is not None
    other.objects.update(User, 1, lambda found: replace(found, name="root"))
    assert made.objects.user_by_login("admin") is not None
    made.objects.create(user(0, "mine"))
    assert made.objects.user_by_login("mine") is not None
    assert made.objects.user_by_login("admin") is None
    made.request.leave()
    other.objects.update(User, 1, lambda found: replace(found, name="admin"))
    assert made.objects.user_by_login("admin") is not None
    deadline = time.monotonic() + 5
    other.objects.update(User, 1, lambda found: replace(found, name="root"))
    while made.objects.user_by_login("root") is None:
        assert time.monotonic() < deadline
        made.request.leave()
        made.request.enter()
    made.request.leave()
    other.close()


def test_a_request_sees_at_once_what_its_own_process_did(made: Store) -> None:
    """However short before: a revocation holds for the very next request."""
    for number in range(30):
        made.request.enter()
        made.request.leave()
        thread = threading.Thread(
            target=made.objects.update,
            args=(User, 1, lambda found, n=number: replace(found, name=f"n{n}")),
        )
        thread.start()
        thread.join()
        made.request.enter()
        assert made.objects.get(User, 1).name == f"n{number}"
        made.request.leave()


def test_what_was_not_found_is_not_remembered(made: Store, pki: Pki) -> None:
    """Strangers cannot fill the memory with questions."""
    leaf = core.identity(pki.alice.der)
    for number in range(100):
        assert made.objects.user_by_login(f"nobody{number}") is None
        assert made.objects.users_like(replace(leaf, cert=str(number))) == ()
    assert len(made._kernel.cache) < 10


def test_a_revision_that_is_read_slowly_does_not_hide_a_change(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread asks, another changes something before the answer is there: the change counts."""
    kernel = made._kernel
    read = kernel._connections.read_revision

    def slowly() -> int:
        found = read()
        change = threading.Thread(
            target=made.objects.update, args=(User, 1, lambda found: replace(found, name="root"))
        )
        change.start()
        change.join()
        return found

    assert made.objects.get(User, 1).name == "admin"
    monkeypatch.setattr("control.store.kernel.REVISION_MAX_AGE_SECONDS", 60)
    kernel._latest = (made.revision(), time.monotonic() - 61)
    monkeypatch.setattr(kernel._connections, "read_revision", slowly)
    made.request.enter()
    made.request.leave()
    monkeypatch.setattr(kernel._connections, "read_revision", read)
    made.request.enter()
    assert made.objects.get(User, 1).name == "root"
    made.request.leave()


def test_a_dry_run_within_a_rehearsal_is_forgotten_at_once(made: Store) -> None:
    """What else the rehearsal changes stays until its end."""
    with made.rehearse() as stage:
        stage.objects.create(user(0, "before"))
        with stage.request.dry_run():
            stage.objects.create(user(0, "dry"))
        stage.objects.create(user(0, "after"))
        assert [one.name for one in stage.objects.all(User)] == ["admin", "before", "after"]
    assert [one.name for one in made.objects.all(User)] == ["admin"]


def test_writers_in_many_threads_lose_nothing(made: Store) -> None:
    """Each waits for its turn; generations and log are without a gap."""
    granted(made)
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for i in range(10):
                made.objects.create(user(0, f"u{number}-{i}"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert made.policies.target(1).generation == 81
    assert replayed(made) == set(made.policies.whole(1)[1])
    assert len({found.uid for found in made.objects.all(User)}) == 81


def test_a_reader_never_sees_half_a_change(made: Store) -> None:
    """Lines, generation and digest are of one moment, while a writer works."""
    granted(made)
    read_while_written(made, made, 30)


# ---- Searching and counting ----------------------------------------------------------------------


def test_records_are_found_by_parts_of_their_names(made: Store) -> None:
    """In any case, by uid, so many at a time, each with its roles; and % and _ mean themselves."""
    for number, name in enumerate(("Alice", "malice", "bob", "a_b", "a%b")):
        made.objects.create(user(0, name, email=f"{number}@acme.example" if number == 2 else ""))
    names = [found.name for found in made.objects.find(User, "ALICE", 9, 0)]
    assert names == ["Alice", "malice"]
    assert [found.name for found in made.objects.find(User, "alice", 1, 1)] == ["malice"]
    assert [found.name for found in made.objects.find(User, "_", 9, 0)] == ["a_b"]
    assert [found.name for found in made.objects.find(User, "%", 9, 0)] == ["a%b"]
    assert [found.name for found in made.objects.find(User, "acme.example", 9, 0)] == ["bob"]
    assert [found.name for found in made.objects.find(User, "cn=bob,o=", 9, 0)] == ["bob"]
    assert made.objects.find(User, "alice", 9, 0) == made.objects.all(User)[1:3]
    assert made.objects.find(User, "", 9, 0) == made.objects.all(User)
    assert [found.name for found in made.objects.find(Role, "admin", 9, 0)] == ["Admin"]


def test_the_history_counts_logins_and_refusals(made: Store) -> None:
    """By spans, the first of which begins at the first time; the last time is left out."""
    now = int(time.time())
    made.request.act_as("alice")
    made.events.note("login")
    for reason in ("no_binding", "no_binding", "expired"):
        made.events.note("client_refused", "WARNING", reason=reason, username="bob")
    made.events.note("node_drift", "WARNING", reason="none of these")
    counts = {one.reason: one.count for one in made.events.history(now - 60, now + 60, 120)}
    assert counts == {"": 1, "no_binding": 2, "expired": 1}
    assert {one.time for one in made.events.history(now - 60, now + 60, 120)} == {now - 60}
    assert made.events.history(now - 60, now, 60) == ()
    assert made.events.history(now + 60, now + 120, 60) == ()


def test_events_are_found_by_type_and_user(made: Store) -> None:
    """By the beginnings of types; by the user who did it, or whom it is about."""
    made.request.act_as("alice")
    made.events.note("role_created")
    made.request.leave()
    made.events.note("client_login", username="alice")
    made.events.note("client_refused", username="bob")

    def types(*kinds: str, by: str = "") -> list[str]:
        found = made.events.between(0, 2**40, False, 99, 0, kinds, by)
        return [one.type for one in found]

    assert types("client_", "role_") == ["role_created", "client_login", "client_refused"]
    assert types("client%") == []
    assert types("", by="alice") == ["role_created", "client_login"]
    assert types("client_", by="bob") == ["client_refused"]
    assert types("", by="nobody") == []
