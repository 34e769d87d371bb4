"""control/service: backup and restore, the way back for passwords, a new certificate of the API;
and databases that older versions have made."""

import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from control import service, store
from control.api.app import create_app
from control.domain.passwords import new_password
from control.errors import Refusal
from control.policy import core
from control.records import API, Database, User
from control.service import Config, ServiceError, backups
from control.store import Store
from tests.kit.rest import ADMIN, ControlPlane, peer_cert
from tests.kit.support import Pki

NAMES = ("localhost", "127.0.0.1")


class Served(ControlPlane):
    """The control plane of a folder that `init` or `restore` has made."""

    def __init__(self, config: Config) -> None:
        self.store = Store(config.url)
        rotate = lambda: service.rotate(config, self.store)  # noqa: E731
        self.app = create_app(self.store, peer_cert, rotate)
        self.client = self.app.test_client()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config(tmp_path / "home")
    service.init(made, "acme", *ADMIN, NAMES)
    return made


@pytest.fixture
def api(config: Config) -> Iterator[Served]:
    made = Served(config)
    yield made
    made.close()


# ---- Backup and restore ----


def test_the_cas_of_clients_are_in_the_backup(config: Config, api: Served, tmp_path: Path) -> None:
    """The issuing CA, its root, and its predecessor; each for its owner only."""
    for again in (False, True):
        service.create_ca(config, "", "ec", again)
    made = sorted(config.home.glob("clients*.pem"))
    assert len(made) == 3
    service.backup(config, tmp_path / "backup")
    restored = Config(tmp_path / "restored")
    service.restore(restored, tmp_path / "backup")
    for file in made:
        back = restored.home / file.name
        assert back.read_bytes() == file.read_bytes()
        assert stat.S_IMODE(back.stat().st_mode) == 0o600


def test_a_restored_control_plane_is_the_one_that_was_backed_up(
    config: Config, api: Served, pki: Pki, tmp_path: Path
) -> None:
    """Rows, policies with their generations, CA and keys; taken while it runs."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice, OU=eng, O=acme", role="db_viewer")
    api.password_user("bob", "none")
    api.database(roles_permissions=[{"role_uid": 5, "redis_acl_uid": 1}])
    token = api.ok("POST /v1/users/authorize")["access_token"]
    paths = ("users", "roles", "redis_acls", "bdbs", "cluster", "cluster/certificates", "logs")
    api.ok("GET /v1/users/role", cert=pki.alice)
    before = {path: api.ok(f"GET /v1/{path}") for path in paths}
    service.backup(config, tmp_path / "backup")
    api.ok("POST /v1/roles", {"name": "after"})

    there = Config(tmp_path / "there")
    service.restore(there, tmp_path / "backup")
    restored = Served(there)
    before["logs"] += restored.ok("GET /v1/logs?type=restored")
    assert {path: restored.ok(f"GET /v1/{path}") for path in paths} == before
    assert restored.store.policies.whole(1) == api.store.policies.whole(1)
    assert restored.store.policies.changes(1, 0, "") == api.store.policies.changes(1, 0, "")
    assert restored.ok("GET /v1/users/role", cert=pki.alice) == {"role": "db_viewer"}
    assert restored.certificate_user("carol", "CN=carol")["uid"] == 4
    assert restored("GET /v1/users/role", auth=f"JWT {token}").code == "invalid_token"
    restored.close()
    for name in backups.BACKUP_FILES:
        assert (there.home / name).read_bytes() == (config.home / name).read_bytes()


def test_a_backup_is_for_its_owner_only(config: Config, tmp_path: Path) -> None:
    """It holds the keys of everything; so does what it is restored to."""
    service.backup(config, tmp_path / "backup")
    service.restore(Config(tmp_path / "there"), tmp_path / "backup")
    for file in (tmp_path / "backup", *(tmp_path / "there").iterdir()):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_nothing_is_overwritten(config: Config, tmp_path: Path) -> None:
    """Neither a backup, nor a control plane by its folder or by its database."""
    file = tmp_path / "backup"
    service.backup(config, file)
    content = file.read_bytes()
    with pytest.raises(ServiceError, match="exists"):
        service.backup(config, file)
    assert file.read_bytes() == content
    with pytest.raises(ServiceError, match="holds a control plane already"):
        service.restore(config, file)
    (config.home / "ca.key").rename(tmp_path / "ca.key")
    with pytest.raises(ServiceError, match="the database holds a control plane already"):
        service.restore(config, file)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: b"hello",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:200] + b"x" + whole[201:],
    ],
)
def test_a_damaged_backup_makes_nothing(config: Config, tmp_path: Path, spoil: Any) -> None:
    """And a good one is taken afterwards."""
    service.backup(config, tmp_path / "backup")
    bad, there = tmp_path / "bad", Config(tmp_path / "there")
    bad.write_bytes(spoil((tmp_path / "backup").read_bytes()))
    with pytest.raises(ServiceError, match="is not a backup, or a damaged one"):
        service.restore(there, bad)
    assert not (there.home / "ca.key").exists()
    service.restore(there, tmp_path / "backup")


def test_a_backup_of_something_else_is_refused(config: Config, tmp_path: Path) -> None:
    """An archive with other files in it, which are not looked at."""
    with tarfile.open(tmp_path / "other", "w:gz") as tar:
        tar.add(config.home / "ca.crt", "../ca.crt")
    with pytest.raises(ServiceError, match="is not a backup"):
        service.restore(Config(tmp_path / "there"), tmp_path / "other")
    with pytest.raises(ServiceError, match="No such file"):
        service.restore(Config(tmp_path / "there"), tmp_path / "nothing")


def test_without_a_control_plane_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    """And no file is left behind."""
    for call in (
        lambda: service.backup(Config(tmp_path / "none"), tmp_path / "backup"),
        lambda: service.allow_passwords(Config(tmp_path / "none")),
        lambda: service.set_password(Config(tmp_path / "none"), "admin", "x"),
    ):
        with pytest.raises(ServiceError, match="holds no control plane"):
            call()
    assert list(tmp_path.iterdir()) == []


# ---- The way back ----


def test_passwords_come_back_on_the_machine_itself(config: Config, api: Served, pki: Pki) -> None:
    """For an administrator whose certificate is lost; the running control plane follows."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice, OU=eng, O=acme", role="admin")
    api.ok("GET /v1/users/role", cert=pki.alice)
    api.ok("PUT /v1/cluster", {"control_plane_basic_authentication": False})
    assert api("GET /v1/cluster").code == "basic_authentication_disabled"
    service.allow_passwords(config)
    assert api.ok("GET /v1/cluster")["control_plane_basic_authentication"] is True


def test_a_password_is_set_on_the_machine_itself(config: Config, api: Served) -> None:
    """Instead of those that were forgotten, and the user is unlocked."""
    for _ in range(5):
        api("GET /v1/cluster", auth=("admin", "wrong"))
    assert api("GET /v1/cluster").status == 401
    service.set_password(config, "admin", "new")
    assert api("GET /v1/cluster", auth=("admin", "new")).status == 200
    assert api("GET /v1/cluster").status == 401
    service.set_password(config, "admin", "new")


def test_a_password_that_cannot_be_set_says_why(config: Config, api: Served) -> None:
    """Nobody's, a certificate user's, one that the rules do not allow."""
    api.certificate_user("alice", "CN=alice")
    api.ok("PUT /v1/cluster", {"password_complexity": True})
    for name, text in (
        ("nobody", "no user 'nobody'"),
        ("alice", "logs in by certificate"),
        ("admin", "at least 8 characters"),
    ):
        with pytest.raises(ServiceError, match=text):
            service.set_password(config, name, "x")
    assert api("GET /v1/cluster").status == 200


# ---- A new certificate ----


def test_the_api_gets_a_new_certificate_and_key(config: Config, api: Served) -> None:
    """For the same names, from the same CA; the body may be left out."""
    for body in ({}, {"name": "api"}, None):
        before = api.store.settings.certificates()[API]
        old = core.identity(before.certificate.encode())
        assert api.ok("POST /v1/cluster/certificates/rotate", body) == {}
        after = api.store.settings.certificates()[API]
        new = core.identity(after.certificate.encode())
        assert (new.subject, new.sans) == (old.subject, old.sans)
        assert new.key != old.key
        assert after.key != before.key
        assert after.certificate.endswith((config.home / "ca.crt").read_text())


def test_what_is_not_ours_is_not_rotated(api: Served, pki: Pki) -> None:
    """Another certificate, or one that an administrator has put there."""
    path = "POST /v1/cluster/certificates/rotate"
    for name in ("mtls_trusted_ca", "proxy", "x"):
        answer = api(path, {"name": name})
        assert (answer.status, answer.code) == (403, "unsupported_certificate")
    own = {"name": "api", "certificate": (pki.server.pem + pki.server_ca.pem).decode()}
    api.ok("PUT /v1/cluster/update_cert", {**own, "key": pki.server.key_pem.decode()})
    answer = api(path)
    assert (answer.status, answer.code) == (406, "unsupported_certificate")
    assert api.store.settings.certificates()[API].key == pki.server.key_pem.decode()


def test_without_a_ca_nothing_is_rotated(tmp_path: Path) -> None:
    """An application that is given none says so."""
    made = ControlPlane(tmp_path)
    answer = made("POST /v1/cluster/certificates/rotate")
    assert (answer.status, answer.code) == (406, "unsupported_certificate")
    made.close()


# ---- Older databases ----


def older(url: str) -> dict[str, Any]:
    """What the first version's `dump` would have said of a cluster with two users."""
    hashes = new_password("secret").hash
    settings = {
        "id": 1, "revision": 7, "name": "acme", "identifier": "i", "created": 1,
        "mtls_certificate_authentication": False,
        "mtls_client_cert_subject_validation_type": "disabled", "mtls_authorized_subjects": "[]",
        "control_plane_basic_authentication": True,
    }  # fmt: skip
    user = {
        "uid": 1, "name": "admin", "auth_method": "regular", "email": "",
        "certificate_subject_line": "", "password_hash": hashes, "password_issued": 5,
        "last_login": 0,
    }  # fmt: skip
    alice = {
        **user, "uid": 2, "name": "alice", "auth_method": "certificate", "password_hash": "",
        "certificate_subject_line": "CN=alice", "password_issued": 0,
    }  # fmt: skip
    tables = {
        "cluster": [settings],
        "roles": [{"uid": 1, "name": "Admin", "management": "admin"}],
        "users": [user, alice],
        "user_roles": [{"user_uid": 1, "role_uid": 1}, {"user_uid": 2, "role_uid": 1}],
    }
    return {
        "schema": "0001",
        "tables": {
            name: {"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]}
            for name, rows in tables.items()
        },
    }


def test_a_database_of_the_first_version_goes_on(tmp_path: Path) -> None:
    """Passwords log in, roles stay, new settings have their defaults, tokens can be made; a backup
    of it can be restored."""
    url = f"sqlite:///{tmp_path}/control.db"
    store.load(url, older(url))
    opened = Store(url)
    admin, alice = opened.objects.all(User)
    assert [password.issued for password in admin.passwords] == [5]
    assert (alice.passwords, alice.role_uids, alice.locked) == ((), (1,), 0)
    cluster = opened.settings.cluster()
    assert (cluster.login_lockout_threshold, cluster.password_min_length) == (5, 8)
    assert cluster.master_healthcheck_api_auth is True
    assert len(cluster.jwt_key) == 64
    assert opened.objects.all(Database) == ()
    opened.close()
    with pytest.raises(Refusal, match="holds a control plane already"):
        store.load(url, older(url))


def test_an_old_database_is_brought_up_to_date_when_it_is_opened(tmp_path: Path) -> None:
    """Without a backup in between."""
    url = f"sqlite:///{tmp_path}/control.db"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        store.versions.migrate(connection, "0001")
        for name, content in older(url)["tables"].items():
            table = sa.table(name, *map(sa.column, content["columns"]))
            rows = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
            connection.execute(sa.insert(table), rows)
    engine.dispose()
    opened = Store(url)
    assert [user.name for user in opened.objects.all(User)] == ["admin", "alice"]
    assert len(opened.settings.cluster().jwt_key) == 64
    opened.close()
