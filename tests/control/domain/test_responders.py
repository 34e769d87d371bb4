"""/v1/certauth/responders: what an OCSP responder calls revoked is out everywhere, and nothing that
is not its answer changes anything; and our own CA as a responder."""

import base64
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import AuthorityInformationAccessOID

from control import records, service
from control.domain import issuing, responders
from control.pki import ocsp
from control.pki.guarded import CrlError
from control.pki.issue import new_ca
from control.pki.request import Leaf, issue_requested, read_request
from control.policy import core
from control.service.config import load_config
from control.store import InventoryFilter
from tests.kit import crls
from tests.kit.issuing import csr
from tests.kit.node import Start, who
from tests.kit.ocsp import OpenSsl, Responder, delegate, responder, said
from tests.kit.plane import SOON, Https, Plane, enrolled_node, initialised
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, days, wait_until

RESPONDERS = "/v1/certauth/responders"
ALICE = "CN=alice,OU=eng,O=acme"
DAY = 86400


@pytest.fixture
def asked(api_with_alice: ControlPlane, pki: Pki) -> Iterator[Responder]:
    """A responder that calls every certificate of the CA good: tests change what it answers."""
    with responder(lambda _: said(pki.alice, pki.ca)) as found:
        yield found


def switch_on(api: ControlPlane, pki: Pki, url: str, **more: Any) -> Any:
    body = {"name": "corporate", "ca": pki.ca.key_id, "url": url, "interval": 600, **more}
    return api.ok(f"POST {RESPONDERS}", body)


def look(api: ControlPlane, seconds: float = 0) -> Any:
    responders.look(api.store, int(time.time() + seconds))
    return api.ok(f"GET {RESPONDERS}/1")


def revoked(api: ControlPlane) -> list[str]:
    return [line for line in api.lines(1) if line.startswith("revoke ")]


def events(api: ControlPlane, kind: str) -> list[Any]:
    return [one for one in api.ok("GET /v1/logs") if one["type"] == kind]


def counted(found: Any) -> tuple[int, int, int, int]:
    return found["good"], found["revoked"], found["unanswered"], found["overdue"]


def naming(url: str) -> tuple[x509.ExtensionType, bool]:
    """The extension by which a certificate names its responder."""
    where = x509.UniformResourceIdentifier(url)
    one = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, where)
    other = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, where)
    return x509.AuthorityInformationAccess([other, one]), False


def test_a_revoked_answer_is_a_line_until_a_newer_one_is_good(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder
) -> None:
    """It is asked when an answer is due, and not before; what it revokes is a line of the databases
    that trust the CA and a refusal here, with an event that names the certificate. An older answer
    does not take that back; a newer one does, as when a certificate was on hold."""
    api, old = api_with_alice, said(pki.alice, pki.ca, start=days(-0.1))
    made = switch_on(api, pki, asked.url)
    assert (made["ca"], counted(made), made["asked"]) == (pki.ca.key_id, (0, 0, 0, 0), "")
    assert len(asked.asked) == 1  # it was tried
    assert counted(look(api)) == (1, 0, 0, 0)
    asked.answering = lambda _: said(pki.alice, pki.ca, "revoked")
    look(api, 500)
    assert (len(asked.asked), revoked(api)) == (2, [])
    found = look(api, 601)
    assert (counted(found), len(asked.asked)) == ((0, 1, 0, 0), 3)
    assert revoked(api) == [f"revoke serial {pki.ca.key_id} {pki.alice.serial}"]
    assert api.role(pki.alice) == "revoked"
    (event,) = events(api, "ocsp_revoked")
    assert (event["serial"], event["user_name"]) == (pki.alice.serial, "alice")
    asked.answering = lambda _: old
    found = look(api, 1202)
    assert (counted(found), found["problem"]) == (
        (0, 1, 0, 0), "the answer is older than the one before it",
    )  # fmt: skip
    asked.answering = lambda _: said(pki.alice, pki.ca)
    assert counted(look(api, 1803)) == (1, 0, 0, 0)
    assert (revoked(api), api.role(pki.alice)) == ([], "admin")
    assert len(events(api, "ocsp_revocation_removed")) == 1
    told = api.client.get("/metrics", auth=("admin", "the administrator's password")).text
    assert 'certauth_ocsp_certificates{responder="corporate",state="good"} 1' in told
    assert 'certauth_ocsp_failed{responder="corporate"} 0' in told


def test_what_a_list_has_revoked_stays_revoked(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder
) -> None:
    """A good answer takes back what the responder has said, and nothing else."""
    api = api_with_alice
    switch_on(api, pki, asked.url)
    api.ok("POST /v1/certauth/crls", {"crl": crls.text(crls.crl(pki.ca, pki.alice))})
    assert counted(look(api)) == (1, 0, 0, 0)
    assert len(revoked(api)) == 1


@pytest.mark.parametrize("stale", ["warn", "refuse"])
def test_an_overdue_answer_does_what_was_chosen(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder, stale: str
) -> None:
    """Before nextUpdate a silence changes nothing. From then on the certificate is overdue, which
    an event says once; with `refuse` it is out until there is an answer, and from the moment when
    that is chosen."""
    api = api_with_alice
    switch_on(api, pki, asked.url, stale=stale)
    look(api)
    asked.status = 500
    found = look(api, DAY / 2)
    assert counted(found) == (1, 0, 0, 0)
    assert "answered 500" in found["problem"]
    look(api, DAY / 2 + 61)
    assert len(events(api, "ocsp_not_answered")) == 1
    assert counted(look(api, DAY + 301)) == (1, 0, 0, 1)
    assert api.role(pki.alice) == ("admin" if stale == "warn" else "revoked")
    look(api, DAY + 400)
    assert len(events(api, "ocsp_stale")) == 1
    api.ok(f"PUT {RESPONDERS}/1", {"stale": "refuse"})
    assert api.role(pki.alice) == "revoked"
    api.ok(f"PUT {RESPONDERS}/1", {"stale": "warn"})
    assert api.role(pki.alice) == "admin"
    api.ok(f"PUT {RESPONDERS}/1", {"stale": "refuse"})
    asked.status, asked.answering = 200, lambda _: said(pki.alice, pki.ca, start=days(1))
    assert counted(look(api, DAY + 500)) == (1, 0, 0, 0)
    assert (api.role(pki.alice), look(api, DAY + 500)["problem"]) == ("admin", "")
    api.ok(f"DELETE {RESPONDERS}/1")
    assert revoked(api) == []


def test_a_responder_that_goes_takes_its_revocations_along(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder
) -> None:
    """Nobody would take them back otherwise."""
    api = api_with_alice
    asked.answering = lambda _: said(pki.alice, pki.ca, "revoked")
    switch_on(api, pki, asked.url)
    look(api)
    assert api.role(pki.alice) == "revoked"
    api.ok(f"DELETE {RESPONDERS}/1")
    assert (api.role(pki.alice), revoked(api)) == ("admin", [])


REFUSED = {
    "an error": (500, b"secret", "ocsp_fetch"),
    "a redirect": (302, b"", "ocsp_fetch"),
    "a huge answer": (200, bytes(1 << 17), "ocsp_fetch"),
    "rubbish": (200, b"secret", "ocsp_malformed"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_responder_that_does_not_answer_is_not_switched_on(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder, how: str
) -> None:
    """What it sends is shown to nobody. The same later says so, and changes nothing."""
    api = api_with_alice
    status, content, code = REFUSED[how]
    switch_on(api, pki, asked.url)
    look(api)
    asked.status, asked.answering = status, lambda _: content
    body = {"name": "other", "ca": pki.ca.key_id, "url": asked.url}
    answer = api(f"POST {RESPONDERS}?dry_run", body)
    assert (answer.status, answer.code) == (400, code)
    assert "secret" not in answer.text
    found = look(api, 601)
    assert counted(found) == (1, 0, 0, 0)
    assert found["problem"]
    assert "secret" not in found["problem"]


@pytest.mark.parametrize(
    ("url", "code"),
    [("http://169.254.169.254/ocsp", "ocsp_fetch"), ("ftp://x/", "ocsp_url"),
     ("http://a:b@x/", "ocsp_url")],
)  # fmt: skip
def test_addresses_that_are_never_fetched_from(
    api_with_alice: ControlPlane, pki: Pki, url: str, code: str
) -> None:
    """The rules are those of revocation lists."""
    body = {"name": "other", "ca": pki.ca.key_id, "url": url}
    answer = api_with_alice(f"POST {RESPONDERS}", body)
    assert (answer.status, answer.code) == (400, code)


def test_only_a_ca_that_is_trusted_has_a_responder(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder
) -> None:
    """And one alone. Without its CA it says so."""
    api = api_with_alice
    body = {"name": "other", "ca": "CN=Somebody", "url": asked.url}
    answer = api(f"POST {RESPONDERS}", body)
    assert (answer.status, answer.code) == (400, "invalid_param")
    switch_on(api, pki, asked.url)
    answer = api(f"POST {RESPONDERS}", {**body, "ca": pki.ca.key_id})
    assert (answer.status, answer.code) == (409, "ca_already_exists")


def test_a_dead_responder_is_asked_once_for_all(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder
) -> None:
    """However many certificates wait: a minute later again."""
    api = api_with_alice
    switch_on(api, pki, asked.url)
    for _ in range(3):
        assert api.role(pki.ca.issue(ALICE)) == "admin"
    asked.status, before = 500, len(asked.asked)
    found = look(api, 1)
    assert counted(found) == (0, 0, 4, 4)
    assert len(asked.asked) == before + 1
    look(api, 30)
    assert len(asked.asked) == before + 1
    look(api, 62)
    assert len(asked.asked) == before + 2
    assert len(events(api, "ocsp_not_answered")) == 1


def test_each_certificate_names_its_own_responder(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder
) -> None:
    """Where no URL is set. One that names none is overdue by name, and holds up no other."""
    api = api_with_alice
    answer = api(f"POST {RESPONDERS}", {"name": "aia", "ca": pki.ca.key_id})
    assert (answer.status, answer.code) == (400, "ocsp_url")
    cert = pki.ca.issue(ALICE, extensions=[naming(asked.url)])
    assert api.role(cert) == "admin"
    asked.answering = lambda der: said(of(der, cert, pki.alice), pki.ca, "revoked")
    switch_on(api, pki, asked.url)
    api.store.objects.update(records.Responder, 1, lambda one: replace(one, url=""))
    found = look(api, 601)
    assert counted(found) == (0, 1, 1, 1)
    assert "names no responder" in found["problem"]
    assert (api.role(cert), api.role(pki.alice)) == ("revoked", "admin")


def of(question: bytes, *certs: Cert) -> Cert:
    """The certificate that is asked about."""
    found = {one.serial: one for one in certs}
    asks = ocsp.question(question, certs[0].above[0].der)
    assert asks
    return found[asks.serial]


def test_the_nonce_that_is_asked_for(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder
) -> None:
    """A responder that repeats none is not switched on with `nonce`."""
    body = {"name": "fresh", "ca": pki.ca.key_id, "url": asked.url, "nonce": True}
    answer = api_with_alice(f"POST {RESPONDERS}", body)
    assert (answer.status, answer.code) == (400, "ocsp_nonce")

    def repeating(der: bytes) -> bytes:
        asks = ocsp.question(der, pki.ca.der)
        return said(pki.alice, pki.ca, nonce=asks.nonce if asks else b"")

    asked.answering = repeating
    assert api_with_alice.ok(f"POST {RESPONDERS}", body)["nonce"] is True


def test_a_stolen_delegate_that_is_revoked_answers_no_more(
    api_with_alice: ControlPlane, pki: Pki, asked: Responder
) -> None:
    """It does not matter who has revoked it: an administrator, or the CA's list."""
    api, signer = api_with_alice, delegate(pki.ca)
    asked.answering = lambda _: said(pki.alice, pki.ca, signer=signer, sent=[signer])
    switch_on(api, pki, asked.url)
    assert look(api)["problem"] == ""
    api.ok("POST /v1/certauth/crls", {"crl": crls.text(crls.crl(pki.ca, signer))})
    assert "is revoked" in look(api, 601)["problem"]


# ---- On servers ----------------------------------------------------------------------------------


def test_a_session_ends_after_the_answer_of_openssl(
    installed: Server, start: Start, tmp_path: Path, pki: Pki
) -> None:
    """openssl ocsp is the responder, which the client's certificate names, and a delegate signs its
    answers: the node has told the control plane whom to ask. While it calls the certificate good
    the session goes on; the next answer ends it, and new ones."""
    plane = Plane(tmp_path / "control")
    try:
        node = enrolled_node(start, installed, plane.config.home, pki)
        ends(plane, node, OpenSsl(tmp_path, pki.ca), pki)
    finally:
        plane.close()


def ends(plane: Plane, node: Any, theirs: OpenSsl, pki: Pki) -> None:
    cert, other = (pki.ca.issue(ALICE, extensions=[naming(theirs.url)]) for _ in range(2))
    plane.trust(pki.ca)
    plane.register(node)
    plane.user(cert, "alice")
    plane.in_step()
    with node.tls(cert).connect() as live, node.tls(other).connect() as staying:
        assert live.command("ACL", "WHOAMI") == b"alice"
        assert staying.command("ACL", "WHOAMI") == b"alice"
        wait_until(lambda: len(seen(plane)) == 2, "the node has told of both", 30)
        assert set(seen(plane).values()) == {theirs.url}
        with theirs.running([cert, other]):
            plane.ok(f"POST {RESPONDERS}", {"name": "openssl", "ca": pki.ca.key_id})
            responders.look(plane.store, int(time.time()))
        found = plane.ok(f"GET {RESPONDERS}/1")
        assert (counted(found), found["problem"]) == ((2, 0, 0, 0), "")
        with theirs.running([other], [cert]):
            responders.look(plane.store, int(time.time() + 3601))
        assert counted(plane.ok(f"GET {RESPONDERS}/1")) == (1, 1, 0, 0)
        wait_until(lambda: is_closed(live), "the session has ended", 10 * SOON)
        assert staying.command("ACL", "WHOAMI") == b"alice"
        assert (who(node, cert), who(node, other)) == (None, "alice")


def seen(plane: Plane) -> dict[str, str]:
    found = plane.store.inventory.find(InventoryFilter(of_user="alice"), limit=9)
    return {one.cert: one.ocsp for one in found}


def is_closed(connection: Any) -> bool:
    try:
        connection.command("PING")
    except OSError:
        return True
    except Exception as error:
        return "NOPERM" in str(error)
    return False


# ---- Our own -------------------------------------------------------------------------------------


def test_openssl_verifies_what_our_own_ca_answers(tmp_path: Path) -> None:
    """What was issued here is good until it is revoked, whichever way; another number is unknown.
    The certificate says where to ask and where the list is; a question by GET has the same answer,
    one that is too large, rubbish, or about another CA none."""
    config = initialised(tmp_path)
    config = replace(config, public_url=f"https://127.0.0.1:{config.port}")
    service.create_ca(config, "acme", "ec", again=False)
    issuer, root = core_ders(tmp_path)
    with service.running(config), Https(config) as api:
        user = {"auth_method": "certificate", "certificate_subject_line": ALICE}
        api("POST /v1/users", {"name": "alice", "role_uids": [1], **user})
        sent = {"user": "alice", "csr": csr()}
        pem = api("POST /v1/certauth/certificates", sent).json["certificate"]
        (tmp_path / "leaf").write_text(pem)
        cert = x509.load_pem_x509_certificate(pem.encode())
        url = core.identity(pem.encode()).ocsp
        assert url.endswith(f"/v1/certauth/ca/{core.identity(issuer).key}/ocsp")
        (point,) = cert.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert point.full_name
        assert point.full_name[0].value == url.replace("/ocsp", ".crl")
        ask = openssl(tmp_path, url)
        told = ask("-cert", tmp_path / "leaf")
        assert "Response verify OK" in told, told
        assert "leaf: good" in told
        assert "WARNING" not in told  # it has repeated the nonce
        assert "0x1234: unknown" in ask("-serial", "0x1234")
        leaf = core.identity(pem.encode())
        made = api("POST /v1/certauth/revocations", {"cert": leaf.cert, "reason": "superseded"})
        assert made.status == 200
        told = ask("-cert", tmp_path / "leaf")
        assert ("leaf: revoked" in told, "Reason: superseded" in told) == (True, True), told
        asked = ocsp.request(ocsp.Asked(issuer, leaf.serial, b"n" * 16))
        for answer in (post(api, url, asked), get(api, url, asked)):
            known = ocsp.Asked(issuer, leaf.serial, b"n" * 16)
            assert ocsp.read(answer, known, int(time.time()), lambda _: False, True).revoked
        other = ocsp.request(ocsp.Asked(root, leaf.serial, b"n" * 16))
        for wrong, name in ((other, "unauthorized"), (b"rubbish", "malformed_request"),
                            (bytes(8192), "malformed_request")):  # fmt: skip
            with pytest.raises(CrlError, match=name):
                ocsp.read(post(api, url, wrong), known, int(time.time()), lambda _: False)
        above = url.replace(core.identity(issuer).key, core.identity(root).key)
        number = core.identity(issuer).serial
        answer = post(api, above, ocsp.request(ocsp.Asked(root, number, b"n" * 16)))
        known = ocsp.Asked(root, number, b"n" * 16)
        assert not ocsp.read(answer, known, int(time.time()), lambda _: False).revoked


@pytest.mark.parametrize(
    "url", ["pki.acme.example", "ftp://pki.acme.example", "http://x/", "http://a b"]
)
def test_a_public_url_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    """Certificates would name it for years."""
    with pytest.raises(service.ServiceError, match="'public_url': .* is not like http://"):
        load_config(tmp_path, {"CERTAUTH_PUBLIC_URL": url})
    good = {"CERTAUTH_PUBLIC_URL": "http://pki.acme.example"}
    assert load_config(tmp_path, good).public_url == "http://pki.acme.example"


def test_without_a_public_url_certificates_name_nobody() -> None:
    """Neither for OCSP nor for the list: nobody would be there."""
    leaf = Leaf("CN=a", (), ("digital_signature",), timedelta(hours=1))
    for url, count in (("", 0), ("http://pki.acme.example", 2)):
        ca = new_ca([("CN", "ca")], timedelta(days=1))._replace(url=url)
        pem = issue_requested(ca, read_request(csr()), leaf)
        found = x509.load_pem_x509_certificate(pem.encode()).extensions
        kinds = (x509.AuthorityInformationAccess, x509.CRLDistributionPoints)
        assert sum(isinstance(one.value, kinds) for one in found) == count


def core_ders(home: Path) -> tuple[bytes, bytes]:
    """The CA that issues, and its root; also as the files ca and root."""
    found = issuing.certificate_of((home / issuing.CLIENTS).read_text())
    issuer, root = x509.load_pem_x509_certificates(found.encode())
    for name, one in (("ca", issuer), ("root", root)):
        (home / name).write_bytes(one.public_bytes(serialization.Encoding.PEM))
    der = serialization.Encoding.DER
    return issuer.public_bytes(der), root.public_bytes(der)


def openssl(home: Path, url: str) -> Any:
    def ask(*words: object) -> str:
        command = ["openssl", "ocsp", "-issuer", home / "ca", "-CAfile", home / "root", *words,
                   "-url", url]  # fmt: skip
        done = subprocess.run([str(one) for one in command], capture_output=True, text=True)
        return done.stdout + done.stderr

    return ask


def post(api: Https, url: str, content: bytes) -> bytes:
    return sent(api, "POST", url, content)


def get(api: Https, url: str, content: bytes) -> bytes:
    return sent(api, "GET", f"{url}/{quote(base64.b64encode(content).decode(), safe='')}")


def sent(api: Https, method: str, url: str, content: bytes | None = None) -> bytes:
    path = "/v1/" + url.split("/v1/")[1]
    headers = {"Content-Type": "application/ocsp-request"} if content else {}
    api.connection.request(method, path, content, headers)
    response = api.connection.getresponse()
    assert (response.status, response.getheader("Content-Type")) == (
        200, "application/ocsp-response",
    )  # fmt: skip
    return response.read()
