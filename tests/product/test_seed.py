"""The page on certificate-based authentication, replayed: its own requests with real curl, then a
REST request and a database login by certificate with curl and redis-cli; and each one's twins that
are refused. With them, what the page promises and does not show: that it all takes effect at once.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from control import service
from control.service import Config
from tests.kit.node import Start, is_open, reasons
from tests.kit.plane import SOON, Https, enrolled_node, initialised, operator
from tests.kit.rest import ADMIN, Answer
from tests.kit.servers import Server
from tests.kit.support import Cert, Name, Pki, RedisServer, days, root, wait_until

# As the page writes a subject, and as a certificate has it.
JOHN = "CN=John Doe, OU=Engineering, O=Acme, L=San José, ST=California, C=US"
JOHN_NAME: Name = [
    [("C", "US", "PrintableString")], [("ST", "California")], [("L", "San José")],
    [("O", "Acme")], [("OU", "Engineering")], [("CN", "John Doe")],
]  # fmt: skip
ENTRY = {
    "CN": "John Doe",
    "O": "Acme",
    "OU": ["Engineering"],
    "L": "San José",
    "ST": "California",
    "C": "US",
}

MORE = ', "trust_grows": true'  # of ours: a later list that adds a CA


def person(common_name: str, unit: str = "Engineering") -> Name:
    """A subject like John's."""
    changed = {"CN": common_name, "OU": unit}
    return [[(kind, changed.get(str(kind), value)) for kind, value, *_ in rdn] for rdn in JOHN_NAME]


@dataclass
class Cast:
    """Certificates: what the page is about, and those like it but for one thing."""

    ca: Cert = field(default_factory=lambda: root("CN=Acme Clients,O=Acme"))
    other_ca: Cert = field(default_factory=lambda: root("CN=Other Clients,O=Acme"))
    namesake: Cert = field(default_factory=lambda: root("CN=Acme Clients,O=Acme"))

    def __post_init__(self) -> None:
        self.john = self.ca.issue(JOHN_NAME)
        self.wrong_ca = self.other_ca.issue(JOHN_NAME)
        self.wrong_key = self.namesake.issue(JOHN_NAME)
        self.wrong_subject = self.ca.issue(person("Mallory"))
        self.wrong_unit = self.ca.issue(person("John Doe", "Sales"))
        self.expired = self.ca.issue(JOHN_NAME, not_before=days(-2), not_after=days(-1))


@pytest.fixture(scope="module")
def cast() -> Cast:
    return Cast()


class Page:
    """A running control plane and a node, and the two clients of the page."""

    def __init__(self, config: Config, node: RedisServer) -> None:
        self.config, self.node = config, node

    def curl(self, request: str, body: Any = None, cert: Cert | None = None) -> Answer:
        """By Basic authentication (`-u`), or with `--cert` and `--key`."""
        method, path = request.split(" ", 1)
        who = ["--cert", cert.files[0], "--key", cert.files[1]] if cert else ["-u", ":".join(ADMIN)]
        sent = []
        if body is not None:
            text = body if isinstance(body, str) else json.dumps(body)
            sent = ["-H", "Content-Type: application/json", "-d", text]
        url = f"https://localhost:{self.config.port}{path}"
        command = ["curl", "-sS", "--cacert", str(self.config.home / "ca.crt"), *who, *sent]
        run = subprocess.run(
            [*command, "-X", method, "-w", "\n%{http_code}", url],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        content, status = run.stdout.rsplit("\n", 1)
        return Answer(int(status), json.loads(content), None)

    def ok(self, request: str, body: Any = None, cert: Cert | None = None) -> Any:
        answer = self.curl(request, body, cert)
        assert answer.status == 200, answer.json
        return answer.json

    def rest(self, cert: Cert | None) -> str:
        """Who a request by certificate is: its role; else the error_code of the 401."""
        if cert is None:
            url = f"https://localhost:{self.config.port}/v1/users/role"
            authority = str(self.config.home / "ca.crt")
            command = ["curl", "-sS", "--cacert", authority, url]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            return str(json.loads(found)["error_code"])
        answer = self.curl("GET /v1/users/role", cert=cert)
        assert answer.status == (200 if "role" in answer.json else 401)
        return str(answer.json["role"]) if "role" in answer.json else answer.code

    def redis(self, cert: Cert | None) -> str:
        """Who a client is: what `redis-cli --tls --cacert --cert --key ACL WHOAMI` prints; else why
        it was refused, by the module or by the handshake, as the server tells."""
        admin = operator(self.node)
        before, start = reasons(admin), len(self.node.log)
        run = self.node.cli("ACL", "WHOAMI", cert=cert)
        after = [why for why, count in reasons(admin).items() if count != before[why]]
        admin.close()
        if run.returncode == 0 and not after and not run.stderr:
            return run.stdout.strip()
        if after:
            return after[0]

        def refusals() -> list[str]:
            lines = self.node.log[start:].splitlines()
            return [line for line in lines if "Error accepting a client connection" in line]

        said = wait_until(refusals, f"the log says why the handshake failed ({run})")
        return f"handshake: {said[0].rsplit(':', 1)[-1]}"

    def active(self) -> None:
        def status() -> bool:
            return all(one["status"] == "active" for one in self.ok("GET /v1/bdbs"))

        wait_until(status, "the node has the policy")

    # -- the four steps

    def trust(self, *cas: Cert, force: str = "", more: str = "") -> None:
        """Step 1, new lines as backslash and n; `more` fields for later lists."""
        pem = "".join(ca.pem.decode() for ca in cas).replace("\n", "\\n")
        body = '{ "name": "mtls_trusted_ca", "certificate": "' + pem + f'"{more} }}'
        self.ok(f"PUT /v1/cluster/update_cert{force}", body)

    def switch_on(self, **settings: Any) -> Any:
        """Step 2."""
        return self.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True, **settings})

    def database(self, **fields: Any) -> Any:
        """Step 3."""
        body = {
            "name": "orders",
            "endpoints": [{"addr": ["127.0.0.1"], "port": self.node.port}],
            "tls_mode": "enabled",
            "enforce_client_authentication": "enabled",
            "tls_server_ca": self.node.pki.server_ca.pem.decode(),
            "roles_permissions": [{"role_uid": 1, "redis_acl_uid": 1}],
            **fields,
        }
        return self.ok("POST /v1/bdbs", body)

    def user(self, name: str, subject: str) -> int:
        """Step 4."""
        body = {
            "name": name,
            "auth_method": "certificate",
            "certificate_subject_line": subject,
            "role": "admin",
        }
        return int(self.ok("POST /v1/users", body)["uid"])


def opened(start: Start, kind: Server, folder: Path, pki: Pki) -> Iterator[Page]:
    config = initialised(folder / "control")
    # What is wrong with a handshake is told at this level only.
    node = enrolled_node(start, kind, config.home, pki, config=["loglevel verbose"])
    with service.running(config):
        yield Page(config, node)


@pytest.fixture
def page(start: Start, installed: Server, tmp_path: Path, pki: Pki) -> Iterator[Page]:
    yield from opened(start, installed, tmp_path, pki)


@pytest.fixture
def everywhere(start: Start, server_kind: Server, tmp_path: Path, pki: Pki) -> Iterator[Page]:
    """On each server there is."""
    yield from opened(start, server_kind, tmp_path, pki)


# ---- The page ------------------------------------------------------------------------------------


def test_the_page_word_for_word(everywhere: Page, cast: Cast) -> None:
    """Its four steps, then a REST request and a database login by certificate."""
    page = everywhere
    page.trust(cast.ca)
    page.switch_on(
        mtls_client_cert_subject_validation_type="san_cn",
        mtls_authorized_subjects=[{"CN": "John Doe"}],
    )
    answer = page.switch_on(
        mtls_client_cert_subject_validation_type="full_subject", mtls_authorized_subjects=[ENTRY]
    )
    assert answer["mtls_authorized_subjects"] == [ENTRY]
    database = page.database(
        client_cert_subject_validation_type="full_subject", authorized_subjects=[ENTRY]
    )
    uid = page.user("john", JOHN)
    assert page.rest(cast.john) == "admin"
    assert page.ok(f"GET /v1/users/{uid}", cert=cast.john)["name"] == "john"
    page.active()
    assert page.redis(cast.john) == "john"
    assert (
        page.ok(f"GET /v1/bdbs/{database['uid']}", cert=cast.john)["nodes"][0]["status"] == "active"
    )


def test_passwords_go_on_working_beside_certificates(page: Page, cast: Cast) -> None:
    """Certificate login takes nothing away. A request with both goes by its password."""
    page.trust(cast.ca)
    page.switch_on()
    page.user("john", JOHN)
    assert page.rest(cast.john) == "admin"
    assert page.ok("GET /v1/cluster")["mtls_certificate_authentication"] is True
    wrong = ["-u", "admin:wrong", "--cert", cast.john.files[0], "--key", cast.john.files[1]]
    url = f"https://localhost:{page.config.port}/v1/cluster"
    command = ["curl", "-sS", "--cacert", str(page.config.home / "ca.crt"), *wrong, url]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer["error_code"] == "invalid_credentials"


def test_the_steps_out_of_order_are_refused(page: Page) -> None:
    """No certificate login, and no database that asks for certificates, before there is a CA."""
    answer = page.curl("PUT /v1/cluster", {"mtls_certificate_authentication": True})
    assert (answer.status, answer.code) == (406, "missing_certificate")
    body = {
        "name": "orders",
        "endpoints": [{"addr": ["127.0.0.1"], "port": page.node.port}],
        "tls_mode": "enabled",
    }
    answer = page.curl("POST /v1/bdbs", body)
    assert (answer.status, answer.code) == (406, "missing_certificate")


@pytest.mark.parametrize("gate", ["disabled", "san_cn", "full_subject"])
def test_the_rest_api_refuses_each_twin_for_its_reason(page: Page, cast: Cast, gate: str) -> None:
    """Another CA, a namesake, another subject, none, one that is over, one that is nobody."""
    page.trust(cast.ca)
    entry = {"CN": "John Doe"} if gate == "san_cn" else ENTRY
    page.switch_on(mtls_client_cert_subject_validation_type=gate, mtls_authorized_subjects=[entry])
    assert page.rest(cast.john) == "no_binding"
    page.user("john", JOHN)
    page.user("mallory", JOHN.replace("John Doe", "Mallory"))
    assert page.rest(cast.john) == "admin"
    assert page.rest(cast.wrong_ca) == page.rest(cast.wrong_key) == "untrusted_issuer"
    assert page.rest(cast.wrong_subject) == ("admin" if gate == "disabled" else "gate")
    assert page.rest(cast.wrong_unit) == ("gate" if gate == "full_subject" else "no_binding")
    assert page.rest(None) == "missing_credentials"
    assert page.rest(cast.expired) == "expired"
    page.ok("PUT /v1/cluster", {"mtls_certificate_authentication": False})
    assert page.rest(cast.john) == "certificate_authentication_disabled"


@pytest.mark.parametrize("gate", ["disabled", "san_cn", "full_subject"])
def test_the_database_refuses_each_twin_for_its_reason(page: Page, cast: Cast, gate: str) -> None:
    """As the REST API does; the handshake is the first to look at issuer and dates."""
    page.trust(cast.ca)
    entry = {"CN": "John Doe"} if gate == "san_cn" else ENTRY
    page.database(client_cert_subject_validation_type=gate, authorized_subjects=[entry])
    page.active()
    assert page.redis(cast.john) == "no_binding"
    page.user("john", JOHN)
    page.user("mallory", JOHN.replace("John Doe", "Mallory"))
    page.active()
    assert page.redis(cast.john) == "john"
    assert page.redis(cast.wrong_ca) == "handshake: certificate verify failed"
    assert page.redis(cast.wrong_key).startswith("handshake: ")  # OpenSSL: "EVP lib"
    assert page.redis(cast.wrong_subject) == ("mallory" if gate == "disabled" else "gate")
    assert page.redis(cast.wrong_unit) == ("gate" if gate == "full_subject" else "no_binding")
    assert page.redis(None) == "handshake: peer did not return a certificate"
    assert page.redis(cast.expired) == "handshake: certificate verify failed"


def test_a_user_without_a_right_on_a_database_is_nobody_there(page: Page, cast: Cast) -> None:
    """A role that the database gives no ACL leaves the REST API, and no more."""
    page.trust(cast.ca)
    page.switch_on()
    page.database(roles_permissions=[{"role_uid": 4, "redis_acl_uid": 3}])
    page.user("john", JOHN)
    page.active()
    assert page.rest(cast.john) == "admin"
    assert page.redis(cast.john) == "no_binding"


def test_clients_without_a_certificate_may_be_asked_for(page: Page, cast: Cast) -> None:
    """Where the database does not enforce client authentication, they come in and are nobody until
    they log in; `default` is off unless it was asked for."""
    page.trust(cast.ca)
    page.database(enforce_client_authentication="disabled")
    page.user("john", JOHN)
    page.active()
    assert page.redis(cast.john) == "john"
    assert page.redis(None).startswith("NOAUTH")
    page.ok("PUT /v1/bdbs/1", {"default_user": True})
    wait_until(lambda: page.redis(None) == "default", "the default user is there")


# ---- At once -------------------------------------------------------------------------------------


def test_another_ca_holds_for_the_next_request_and_the_next_handshake(
    page: Page, cast: Cast
) -> None:
    """On a connection that was open before, too; and who came by the old one is closed."""
    page.trust(cast.ca)
    page.switch_on()
    page.database()
    page.user("john", JOHN)
    page.active()
    session = page.node.client(cast.john, single_connection_client=True)
    assert session.acl_whoami() == "john"
    with Https(page.config, cast.john) as kept, Https(page.config, cast.wrong_ca) as waiting:
        assert kept("GET /v1/users/role").status == 200
        assert waiting("GET /v1/users/role").code == "untrusted_issuer"
        page.trust(cast.other_ca, force="?force", more=MORE)
        assert kept("GET /v1/users/role").code == "untrusted_issuer"
        assert waiting("GET /v1/users/role").json == {"role": "admin"}
    wait_until(lambda: page.redis(cast.wrong_ca) == "john", "the new CA's John comes in", SOON)
    assert page.redis(cast.john) == "handshake: certificate verify failed"
    wait_until(lambda: not is_open(session), "the old CA's John is out", SOON)


def test_bob_is_brought_in_by_hand_and_put_out_again(page: Page, cast: Cast) -> None:
    """A CA of his own beside the first, a user, and he is in; the user deleted, and he is out."""
    page.trust(cast.ca)
    page.switch_on()
    page.database()
    page.user("john", JOHN)
    page.active()
    bobs_ca = root("CN=Another CA")
    bob = bobs_ca.issue("CN=bob,OU=Sales,O=Acme")
    assert page.rest(bob) == "untrusted_issuer"
    assert page.redis(bob) == "handshake: certificate verify failed"
    page.trust(cast.ca, bobs_ca, more=MORE)
    uid = page.user("bob", "CN=bob, OU=Sales, O=Acme")
    assert page.rest(bob) == "admin"
    wait_until(lambda: page.redis(bob) == "bob", "bob is in", SOON)
    session = page.node.client(bob, single_connection_client=True)
    assert session.acl_whoami() == "bob"
    page.ok(f"DELETE /v1/users/{uid}")
    assert page.rest(bob) == "no_binding"
    wait_until(lambda: not is_open(session), "bob is out", SOON)
    assert page.redis(bob) == "no_binding"
    assert (page.rest(cast.john), page.redis(cast.john)) == ("admin", "john")


# ---- Bad input changes nothing -------------------------------------------------------------------


def test_a_bad_ca_is_refused_and_the_old_one_stays(page: Page, cast: Cast) -> None:
    """No certificate, one that is over, a leaf, an intermediate without its root: each named."""
    page.trust(cast.ca)
    page.switch_on()
    page.user("john", JOHN)
    for pem, status, words in (
        ("hello", 400, "not a certificate"),
        (
            root("CN=Old", not_before=days(-9), not_after=days(-1)).pem.decode(),
            406,
            "CN=Old) expired",
        ),
        (cast.john.pem.decode(), 400, "is not a CA certificate"),
        (cast.ca.authority("CN=Middle").pem.decode(), 400, "does not lead up to its root"),
    ):
        body = {"name": "mtls_trusted_ca", "certificate": pem}
        answer = page.curl("PUT /v1/cluster/update_cert", body)
        assert answer.status == status, answer.json
        assert words in answer.text
        assert page.rest(cast.john) == "admin"


def test_a_bad_user_is_refused(page: Page, cast: Cast) -> None:
    """A subject line that does not parse, with its character; one that somebody has already."""
    page.user("john", JOHN)
    method = {"auth_method": "certificate", "role": "admin"}
    body = {**method, "name": "joan", "certificate_subject_line": "CN=joan, O"}
    answer = page.curl("POST /v1/users", body)
    assert answer.status == 400
    assert "certificate_subject_line: " in answer.text
    body = {**method, "name": "joan", "certificate_subject_line": JOHN.replace(", ", ",")}
    answer = page.curl("POST /v1/users", body)
    assert (answer.status, answer.code) == (409, "certificate_subject_line_already_exists")
