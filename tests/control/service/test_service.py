"""The control plane as a service: its folder, its settings, its certificates, start and stop."""

import socket
import ssl
import stat
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from control import service
from control.domain import issuing
from control.nodes.client import Access, Identity, Node, NodeError
from control.pki.issue import issue_certificate
from control.pki.keys import load_key
from control.pki.pem import Issued
from control.pki.trust import read_trust
from control.policy import core
from control.records import API, Certificate, Target
from control.reports import ClientCertificate
from control.service import Config, ServiceError, serving
from control.store import Store
from tests.kit.node import reasons, status
from tests.kit.plane import NAMES, Https, authority_of, enrolled_node, initialised, operator
from tests.kit.rest import ADMIN
from tests.kit.servers import Server
from tests.kit.support import SERVER, Cert, Pki, RedisServer, free_port, root, wait_until

# ---- Settings ------------------------------------------------------------------------------------


def test_the_environment_counts_before_the_file(tmp_path: Path) -> None:
    """What neither says has its default."""
    (tmp_path / "certauth.toml").write_text('host = "127.0.0.1"\nport = 1234\n')
    url = "postgresql://db.example/certauth"
    environment = {"CERTAUTH_PORT": "5678", "CERTAUTH_DATABASE": url}
    assert service.load_config(tmp_path, environment) == Config(tmp_path, "127.0.0.1", 5678, url)
    (tmp_path / "certauth.toml").unlink()
    assert service.load_config(tmp_path, {}) == Config(tmp_path)
    assert Config(tmp_path).url == f"sqlite:///{tmp_path}/control.db"


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("port = ", {}, "certauth.toml: Invalid value"),
        ("hots = '::'", {}, "no setting 'hots'; there are host, port, database, tls_min, proxy_"),
        ("port = '80'", {}, "'port': '80' is not a number"),
        ("port = true", {}, "'port': True is not a number"),
        ("port = 65536", {}, "'port': 65536 is not a port"),
        ("port = 0", {}, "'port': 0 is not a port"),
        ("ui_port = -1", {}, "'ui_port': -1 is not a port, nor 0 for none"),
        ("", {"CERTAUTH_UI_PORT": "65536"}, "'ui_port': 65536 is not a port, nor 0 for none"),
        ("host = 1", {}, "'host': 1 is not text"),
        ("", {"CERTAUTH_PORT": "http"}, "'port': 'http' is not a number"),
        ("", {"CERTAUTH_PORT": "99999"}, "'port': 99999 is not a port"),
        ("tls_min = '1.1'", {}, "'tls_min': '1.1' is not 1.2 or 1.3"),
        ("tls_min = 1.3", {}, "'tls_min': 1.3 is not text"),
        ("", {"CERTAUTH_TLS_MIN": "TLSv1.3"}, "'tls_min': 'TLSv1.3' is not 1.2 or 1.3"),
        ("proxy_socket = true", {}, "'proxy_socket': True is not text"),
        ("\udcff", {}, "certauth.toml: .*utf-8"),
    ],
)
def test_a_wrong_setting_is_named(
    tmp_path: Path, text: str, environment: dict[str, str], message: str
) -> None:
    """In the file or in the environment: nothing is guessed."""
    (tmp_path / "certauth.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ServiceError, match=message):
        service.load_config(tmp_path, environment)


# ---- init ----------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A folder that `init` has made."""
    return initialised(tmp_path / "control")


@pytest.fixture
def store(config: Config) -> Iterator[Store]:
    made = Store(config.url)
    yield made
    made.close()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_only_the_owner_reads_what_is_secret(config: Config) -> None:
    """The keys and the database, and nobody else so much as lists the folder."""

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(config.home) == 0o700
    secret = ("ca.key", "control.key", "control.db")
    assert {name: mode(config.home / name) for name in secret} == dict.fromkeys(secret, 0o600)
    for name in ("ca.crt", "control.crt", "bootstrap"):
        assert "PRIVATE" not in (config.home / name).read_text()


def test_a_second_init_changes_nothing(config: Config) -> None:
    """It is refused, no matter whom it would make the administrator."""
    before = content(config.home)
    with pytest.raises(ServiceError, match="holds a control plane already"):
        service.init(config, "other", "mallory", "password", NAMES)
    assert content(config.home) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"password": ""}, "password: "),
        ({"admin": "a&b"}, "name: "),
        ({"admin": ""}, "name: "),
        ({"names": ["exämple"]}, "no certificate can be made"),
        ({"names": ["x" * 65]}, "no certificate can be made"),
    ],
)
def test_what_cannot_be_is_refused_and_can_be_said_again(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """A refused init leaves nothing that stands in the way of a good one."""
    config = Config(tmp_path)
    good = {"name": "acme", "admin": "admin", "password": "secret", "names": NAMES}
    with pytest.raises(ServiceError, match=message):
        service.init(config, **{**good, **change})
    service.init(config, **good)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """As where a file stands in its place."""
    (tmp_path / "file").touch()
    with pytest.raises(ServiceError, match=f"cannot write {tmp_path}/file"):
        service.init(Config(tmp_path / "file" / "home"), "acme", *ADMIN, NAMES)


def test_a_folder_whose_name_would_end_the_url_is_refused(tmp_path: Path) -> None:
    """Else the database, with the keys in it, would lie beside the folder."""
    with pytest.raises(ServiceError, match=r"\?"):
        service.init(Config(tmp_path / "what?"), "acme", *ADMIN, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["what?"]


@pytest.mark.parametrize(
    "url", ["nosuch://user:hunter2@db.example/x", "hunter2", "sqlite:////proc/hunter2/x"]
)
def test_a_database_that_does_not_open_is_an_error_without_its_password(
    tmp_path: Path, url: str
) -> None:
    """One line for the person, who knows the URL."""
    with pytest.raises(ServiceError, match="cannot open the database") as refusal:
        service.init(Config(tmp_path, database=url), "acme", *ADMIN, NAMES)
    assert "\n" not in str(refusal.value)
    assert "user:hunter2" not in str(refusal.value)


# ---- The bootstrap file --------------------------------------------------------------------------


@pytest.fixture
def node(start: Any, installed: Server, config: Config, pki: Pki) -> RedisServer:
    return enrolled_node(start, installed, config.home, pki)


FIRST = ("set enforce on", "user default adopt off")


def access(node: RedisServer, identity: Identity) -> Node:
    return Node(Access("127.0.0.1", node.port, node.pki.server_ca.pem.decode()), identity)


def test_the_bootstrap_file_lets_the_control_plane_in(config: Config, node: RedisServer) -> None:
    """As the user that writes policies, and does nothing else."""
    control = access(node, config.identity)
    assert control.command("CERTAUTH.WHOAMI")["user"] == "certauth-control"
    assert control.status().generation == 0
    for words in (("GET", "x"), ("CONFIG", "GET", "*"), ("FLUSHALL",), ("MODULE", "LIST")):
        with pytest.raises(NodeError, match="no permissions"):
            control.command(*words)
    control.close()


def test_the_bootstrap_file_lets_nobody_else_in(
    config: Config, node: RedisServer, tmp_path: Path
) -> None:
    """Another certificate that the same CA has issued, of the same name, does not fit."""
    certificate = x509.load_pem_x509_certificate(config.identity.certificate.read_bytes())
    other = authority_of(config).issue(certificate.subject.rfc4514_string())
    control = access(node, config.identity)
    control.load(Target(1, core.digest(FIRST)), FIRST, "", 1)
    control.close()
    stranger = access(node, Identity(*map(Path, other.files)))
    with pytest.raises(NodeError):
        stranger.command("CERTAUTH.POLICY", "LOAD", 2, "LINES", "set enforce off")
    stranger.close()
    assert status(operator(node))["generation"] == 1
    refused = {why: count for why, count in reasons(operator(node)).items() if count}
    assert refused == {"untrusted_issuer": 1}


def test_a_renewed_certificate_is_still_the_control_planes(
    config: Config, store: Store, node: RedisServer
) -> None:
    """The node knows it by its key, so its file never has to change."""
    grown_old(config)
    service.renew(config, store)
    control = access(node, config.identity)
    assert control.command("CERTAUTH.WHOAMI")["user"] == "certauth-control"
    control.close()


# ---- Certificates of our own ---------------------------------------------------------------------


def aged(config: Config, days: float, **options: Any) -> Issued:
    """A certificate from the control plane's own CA that was issued so many days ago."""
    authority = Issued(*((config.home / f"ca.{end}").read_text() for end in ("crt", "key")))
    started = datetime.now(UTC) - timedelta(days=days)
    subject = [("O", "acme"), ("CN", "localhost")]
    life = service.LIFETIME
    return issue_certificate(authority, subject, lifetime=life, start=started, **options)


def grown_old(config: Config, days: float = 61) -> None:
    """Puts the control plane's certificate back in time; its key stays."""
    authority = authority_of(config)
    kept = Cert(authority.certificate, authority.key)
    was = x509.load_pem_x509_certificate(config.identity.certificate.read_bytes())
    old = kept.issue(
        was.subject.rfc4514_string(),
        key=load_key(config.identity.key.read_text()),
        not_before=datetime.now(UTC) - timedelta(days=days),
        not_after=datetime.now(UTC) + service.LIFETIME - timedelta(days=days),
    )
    config.identity.certificate.write_bytes(old.pem)


def api_certificate(config: Config, days: float) -> Certificate:
    issued = aged(config, days, server_names=NAMES)
    return Certificate(API, issued.certificate + (config.home / "ca.crt").read_text(), issued.key)


@pytest.mark.parametrize(("days", "renewed"), [(59, False), (61, True), (91, True)])
def test_our_certificates_are_renewed_at_two_thirds(
    config: Config, store: Store, days: float, renewed: bool
) -> None:
    """With the same key and name, for another whole life; even one that has ended."""
    grown_old(config, days)
    before = core.identity(config.identity.certificate.read_bytes())
    key = config.identity.key.read_bytes()
    old = api_certificate(config, days)
    store.settings.put_certificates([old])
    service.renew(config, store)
    after = core.identity(config.identity.certificate.read_bytes())
    assert (after.not_after > before.not_after) is renewed
    assert (after.key, after.subject) == (before.key, before.subject)
    assert config.identity.key.read_bytes() == key
    api = store.settings.certificates()[API]
    assert (api != old) is renewed
    assert api.key == old.key
    assert (
        core.identity(api.certificate.encode()).sans == core.identity(old.certificate.encode()).sans
    )
    assert api.certificate.endswith((config.home / "ca.crt").read_text())


def test_our_own_ca_is_the_first_of_its_file(config: Config, store: Store) -> None:
    """An operator appends a CA that clients of the API are to trust as well: a start changes
    nothing. A file without any is a sentence."""
    before = (config.home / "bootstrap").read_text()
    file = config.home / "ca.crt"
    file.write_text(file.read_text() + root("CN=Another CA").pem.decode())
    service.renew(config, store)
    assert (config.home / "bootstrap").read_text() == before
    file.write_text("")
    with pytest.raises(ServiceError, match=r"ca\.crt holds no certificate"):
        service.renew(config, store)


def test_an_administrators_own_api_certificate_is_theirs(config: Config, store: Store) -> None:
    """One that our CA has not issued is never replaced, however old it is."""
    theirs = root("CN=Their CA").issue(
        "CN=localhost", san=("dns:localhost",), eku=(SERVER,), not_after=soon()
    )
    kept = Certificate(API, theirs.presented.decode(), theirs.key_pem.decode())
    store.settings.put_certificates([kept])
    service.renew(config, store)
    assert store.settings.certificates()[API] == kept


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=5)


# ---- serve ---------------------------------------------------------------------------------------


def shown(config: Config) -> core.Identity:
    """The certificate that the API shows to a new connection."""
    with Https(config) as api:
        api.connection.connect()
        return core.identity(api.connection.sock.getpeercert(True))


def is_renewed(found: core.Identity, old: Certificate) -> bool:
    was = core.identity(old.certificate.encode())
    return found.key == was.key and found.not_after > was.not_after


def test_a_control_plane_comes_and_goes(config: Config) -> None:
    """It answers while it runs; afterwards its port is free and no thread of it is left."""
    before = set(threading.enumerate())
    for _ in range(2):
        with service.running(config), Https(config) as api:
            assert api("GET /v1/cluster").json["name"] == "acme"
        wait_until(lambda: not set(threading.enumerate()) - before, "no thread of it is left")
        with socket.create_server((config.host, config.port)):
            pass


def test_without_init_there_is_nothing_to_serve(tmp_path: Path) -> None:
    """The message says which command comes first, and no database is made."""
    with (
        pytest.raises(ServiceError, match="redis-certauth init"),
        service.running(Config(tmp_path, "127.0.0.1", free_port())),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_init_that_was_killed_is_not_served(config: Config) -> None:
    """The CA's key is written last: where it is missing, something else may be too."""
    (config.home / "ca.key").unlink()
    with pytest.raises(ServiceError, match="redis-certauth init"), service.running(config):
        pass


def test_a_port_in_use_is_named(config: Config) -> None:
    """Nothing was started, and nothing is left open."""
    before = threading.active_count()
    with socket.create_server((config.host, 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(
                ServiceError, match=f"cannot listen on 127.0.0.1:{port}: Address already"
            ),
            service.running(replace(config, port=port)),
        ):
            pass
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("path", "message"),
    [("gone/proxy.sock", "gone/proxy.sock: No such file"), ("x" * 120, "path too long")],
)
def test_a_proxy_socket_that_cannot_be_is_named(config: Config, path: str, message: str) -> None:
    """Not the port, which is free again."""
    with (
        pytest.raises(ServiceError, match=f"cannot listen on {config.home}/.*{message}"),
        service.running(replace(config, proxy_socket=path)),
    ):
        pass
    with socket.create_server((config.host, config.port)):
        pass


@pytest.mark.parametrize(("least", "reason"), [("1.2", ""), ("1.3", "ALERT_PROTOCOL_VERSION")])
def test_the_least_tls_version_is_a_setting(config: Config, least: str, reason: str) -> None:
    """A client of TLS 1.2 comes in or not, also after the certificate was replaced."""
    context = ssl.create_default_context(cafile=str(config.home / "ca.crt"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def refused() -> str:
        with socket.create_connection((config.host, config.port), 10) as plain:
            try:
                context.wrap_socket(plain, server_hostname="localhost").close()
            except ssl.SSLError as error:
                return str(error.reason).removeprefix("TLSV1_")
            return ""

    with service.running(replace(config, tls_min=least)) as front:
        assert refused() == reason
        api = api_certificate(config, 1)
        front.replace_certificate(api.certificate.encode(), api.key.encode())
        assert refused() == reason


def test_a_file_that_is_missing_is_named(config: Config) -> None:
    """Not the port: that is not what is wrong."""
    config.identity.certificate.unlink()
    with pytest.raises(ServiceError, match=r"control\.crt: No such file"), service.running(config):
        pass


def test_an_old_api_certificate_is_renewed_before_it_is_shown(config: Config, store: Store) -> None:
    """A control plane that was off for long comes back with a good one."""
    store.settings.put_certificates([api_certificate(config, 91)])
    with service.running(config):
        assert shown(config).not_after > soon().timestamp()


def test_the_api_certificate_changes_live(config: Config) -> None:
    """New connections see the new one; the connection that brought it goes on."""
    theirs = root("CN=Their CA").issue("CN=theirs", san=("ip:127.0.0.1",), eku=(SERVER,))
    upload = {"name": API, "certificate": theirs.presented.decode(), "key": theirs.key_pem.decode()}
    with service.running(config), Https(config) as api:
        assert api("PUT /v1/cluster/update_cert", upload).status == 200

        def new() -> bool:
            found = socket.create_connection((config.host, config.port), timeout=10)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(found) as peer:
                return bool(peer.getpeercert(True) == theirs.der)

        wait_until(new, "the new certificate is shown")
        assert api("GET /v1/cluster").status == 200


def test_certificates_are_renewed_while_it_runs(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to start anything again: neither the API's certificate nor what nodes see ends."""
    monkeypatch.setattr(serving, "RENEWAL_SECONDS", 0.05)
    with service.running(config):
        grown_old(config)
        old = api_certificate(config, 61)
        store.settings.put_certificates([old])
        wait_until(lambda: is_renewed(shown(config), old), "the API's is renewed")

        def renewed() -> bool:
            found = core.identity(config.identity.certificate.read_bytes())
            return found.not_after > core.identity(old.certificate.encode()).not_after

        wait_until(renewed, "the control plane's is renewed")


def test_a_renewal_that_fails_is_not_the_last(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk today does not end the certificates in three months."""
    monkeypatch.setattr(serving, "RENEWAL_SECONDS", 0.05)
    renew, fails = service.renew, [True]

    def sometimes(*arguments: Any) -> None:
        if fails[0]:
            raise OSError("the disk is full")
        renew(*arguments)

    with service.running(config):
        monkeypatch.setattr(serving, "renew", sometimes)
        wait_until(lambda: "the disk is full" in caplog.text, "it has failed")
        fails[0] = False
        old = api_certificate(config, 61)
        store.settings.put_certificates([old])
        wait_until(lambda: is_renewed(shown(config), old), "it is renewed")


# ---- The CA of clients ---------------------------------------------------------------------------


def trusted(store: Store) -> list[str]:
    """The subjects of `mtls_trusted_ca`."""
    found = store.settings.certificates().get("mtls_trusted_ca")
    ders = [*read_trust(found.certificate).cas] if found else []
    return [core.identity(der).subject for der in ders]


def test_a_ca_of_clients_is_trusted_beside_those_that_are(
    config: Config, store: Store, pki: Pki
) -> None:
    """Nobody is cut by it, and not by the next one either."""
    store.settings.put_certificates([Certificate("mtls_trusted_ca", pki.ca.pem.decode())])
    service.create_ca(config, "", "ec", again=False)
    first = trusted(store)
    assert first[0] == "CN=Root CA,O=acme"
    assert first[1].endswith(",O=acme")
    with pytest.raises(ServiceError, match="holds a CA of clients already; --replace"):
        service.create_ca(config, "", "ec", again=False)
    assert trusted(store) == first
    service.create_ca(config, "other", "ec", again=True)
    assert trusted(store)[:2] == first
    assert trusted(store)[2].endswith(",O=other")


def test_what_is_no_ca_is_not_taken(config: Config, store: Store, pki: Pki) -> None:
    """It is neither trusted nor in the folder; the same CA twice does no harm."""
    with pytest.raises(ServiceError, match="not a CA certificate"):
        service.import_ca(config, pki.alice.pem.decode(), pki.alice.key_pem.decode(), again=False)
    assert trusted(store) == []
    assert not (config.home / issuing.CLIENTS).exists()
    for again in (False, True):
        service.import_ca(config, pki.ca.pem.decode(), pki.ca.key_pem.decode(), again)
    assert trusted(store) == ["CN=Root CA,O=acme"]


def test_with_a_passphrase_every_cas_key_is_encrypted(tmp_path: Path, pki: Pki) -> None:
    """Its own too; renewals go on, and nothing starts with a wrong one."""
    file = tmp_path / "passphrase"
    file.write_text("a long one\n")
    file.chmod(0o600)
    config = replace(
        Config(tmp_path / "home", "127.0.0.1", free_port()), ca_passphrase_file=str(file)
    )
    service.init(config, "acme", *ADMIN, NAMES)
    service.create_ca(config, "", "ec", again=False)
    for name in ("ca.key", issuing.CLIENTS, issuing.ROOT):
        assert (config.home / name).read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY")
    with service.running(config):
        pass
    for wrong, reason in (
        (replace(config, ca_passphrase="other"), r"ca\.key: .* another passphrase"),
        (replace(config, ca_passphrase_file=""), r"ca\.key: .* no passphrase"),
        (replace(config, ca_passphrase_file="none"), "ca_passphrase_file .*none: "),
    ):
        with pytest.raises(ServiceError, match=reason), service.running(wrong):
            pass
    file.chmod(0o644)
    with pytest.raises(ServiceError, match="chmod 600"), service.running(config):
        pass
    file.chmod(0o600)
    file.write_text("\n")
    with (
        pytest.raises(ServiceError, match="ca_passphrase_file .*it is empty"),
        service.running(config),
    ):
        pass
    file.write_text("a long one")
    (config.home / issuing.CLIENTS).write_text("hello")
    with pytest.raises(ServiceError, match="cannot use its CA of clients"), service.running(config):
        pass
    (config.home / issuing.CLIENTS).unlink()
    started = datetime.now(UTC) - timedelta(days=61)
    old = issue_certificate(
        service.authority_of(config), [("CN", "control")], client=True,
        lifetime=service.LIFETIME, start=started,
    )  # fmt: skip
    config.identity.certificate.write_text(old.certificate)
    config.identity.key.write_text(old.key)
    with service.running(replace(config, ca_passphrase="a long one")):
        found = core.identity(config.identity.certificate.read_bytes())
        assert found.not_after > soon().timestamp()


def test_the_event_log_tells_which_certificates_end(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the control plane runs, without being asked."""
    monkeypatch.setattr(serving, "WATCH_SECONDS", 0.05)
    now = int(time.time())
    store.inventory.record_seen(
        ClientCertificate(
            "ab", "cd", "", "CN=CA", "01", "CN=x", ADMIN[0], now - 900, now + 100, now
        )
    )
    with service.running(config):

        def told() -> bool:
            return any(
                e.type == "certificate_expiring"
                for e in store.events.between(0, now * 2, True, 9, 0)
            )

        wait_until(told, "it is told")


def test_min_control_tls_version_holds_from_the_next_handshake_on(tmp_path: Path) -> None:
    """From the next handshake on, without a restart; and after one. `tls_min` of the service may
    ask for more, and the setting never for less."""
    config = initialised(tmp_path / "home")

    def handshake() -> str | None:
        context = ssl.create_default_context(cafile=str(config.home / "ca.crt"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        try:
            plain = socket.create_connection((config.host, config.port), 10)
            with plain, context.wrap_socket(plain, server_hostname=config.host) as secured:
                return secured.version()
        except ssl.SSLError:
            return None

    with service.running(config):
        assert handshake() == "TLSv1.2"
        with Https(config) as api:
            assert api("PUT /v1/cluster", {"min_control_TLS_version": "1.3"}).status == 200
        wait_until(lambda: handshake() is None, "TLS 1.2 to be refused")
    with service.running(config):
        assert handshake() is None
        with Https(config) as api:
            assert api("PUT /v1/cluster", {"min_control_TLS_version": "1.2"}).status == 200
        wait_until(lambda: handshake() == "TLSv1.2", "TLS 1.2 to be taken")


def test_an_answer_that_the_client_has_is_empty(tmp_path: Path) -> None:
    """304 over the wire: no content, one Date, and the connection goes on."""
    config = initialised(tmp_path / "home")
    with service.running(config), Https(config) as api:
        tag = api("GET /v1/cluster").headers["ETag"]
        login = b64encode(":".join(ADMIN).encode()).decode()
        headers = {"Authorization": f"Basic {login}", "If-None-Match": tag}
        api.connection.request("GET", "/v1/cluster", headers=headers)
        response = api.connection.getresponse()
        assert (response.status, response.read()) == (304, b"")
        assert len(response.headers.get_all("Date")) == 1
        assert len(api("GET /v1/cluster").headers.get_all("Date")) == 1
