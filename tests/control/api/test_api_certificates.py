"""control/api/certificates.py: the CA of clients, and this server's own certificate."""

from typing import Any

import pytest

from tests.kit.rest import ControlPlane
from tests.kit.support import Pki, days, root

PUT = "PUT /v1/cluster/update_cert"
BATCH = "PUT /v1/cluster/certificates"


def trusted(certificate: str) -> dict[str, str]:
    return {"name": "mtls_trusted_ca", "certificate": certificate}


def server(pki: Pki) -> dict[str, str]:
    return {
        "name": "api",
        "certificate": (pki.server.pem + pki.server_ca.pem).decode(),
        "key": pki.server.key_pem.decode(),
    }


def test_both_spellings_install_a_ca(api: ControlPlane, pki: Pki) -> None:
    """The seed's update_cert, and the batch that replaced it."""
    for request, ca in ((PUT, pki.ca), (BATCH, pki.server_ca)):
        body: Any = {**trusted(ca.pem.decode()), "trust_grows": request is BATCH}
        (made,) = api.ok(request, body if request is PUT else {"certificates": [body]})[
            "certificates"
        ]
        assert (made["cert"], made["ca"], made["use"]) == (ca.fingerprint, ca.key_id, "clients")
        found = api.ok("GET /v1/cluster/certificates")
        assert found == {"mtls_trusted_ca_cert": ca.pem.decode()}


def test_a_private_key_is_never_shown(api: ControlPlane, pki: Pki) -> None:
    """Not to the administrator, not in any answer; a later PUT may leave it out."""
    api.ok(PUT, server(pki))
    body = server(pki)
    del body["key"]
    api.ok(PUT, body)
    for request in ("GET /v1/cluster/certificates", "GET /v1/cluster"):
        assert "PRIVATE" not in str(api.ok(request))
    assert "PRIVATE" in api.store.settings.certificates()["api"].key


def test_a_batch_is_all_or_nothing(api: ControlPlane, pki: Pki) -> None:
    """One bad certificate, and none is installed."""
    bad = trusted(pki.alice.pem.decode())
    answer = api(BATCH, {"certificates": [server(pki), bad]})
    assert (answer.status, answer.code) == (400, "invalid_certificate")
    assert api.ok("GET /v1/cluster/certificates") == {}
    answer = api(BATCH, {"certificates": [trusted(pki.ca.pem.decode())] * 2})
    assert (answer.status, answer.code) == (400, "duplicated_certs")
    both = {"certificates": [server(pki), trusted(pki.ca.pem.decode())]}
    api.ok(BATCH, both)
    assert set(api.ok("GET /v1/cluster/certificates")) == {"api_cert", "mtls_trusted_ca_cert"}


def test_a_dry_run_installs_nothing(api: ControlPlane, pki: Pki) -> None:
    """But finds what is wrong."""
    api.ok(f"{PUT}?dry_run", trusted(pki.ca.pem.decode()))
    assert api(f"{PUT}?dry_run", trusted("x")).status == 400
    assert api.ok("GET /v1/cluster/certificates") == {}


@pytest.mark.parametrize(
    ("make", "status", "code", "text"),
    [
        (lambda pki: "hello", 400, "invalid_certificate", "not a certificate"),
        (lambda pki: "", 400, "invalid_certificate", "not a certificate"),
        (lambda pki: pki.alice.pem.decode(), 400, "invalid_certificate", "CN=alice"),
        (lambda pki: pki.ca.authority().pem.decode(), 400, "invalid_certificate",
         "the CA 'CN=Root CA,O=acme' is missing"),
        (lambda pki: root(not_before=days(-9), not_after=days(-1)).pem.decode(), 406,
         "certificate_expired", "certificate 1 of 1 (CN=Root CA,O=acme) expired"),
        (lambda pki: (pki.ca.pem + pki.ca.key_pem).decode(), 400, "invalid_certificate",
         "private key"),
        (lambda pki: "\ud800", 400, "invalid_schema", "certificate: "),
    ],
)  # fmt: skip
def test_what_is_no_ca_is_refused_and_the_old_one_stays(
    api: ControlPlane, pki: Pki, make: Any, status: int, code: str, text: str
) -> None:
    """The message says what is wrong with which certificate."""
    api.ok(PUT, trusted(pki.server_ca.pem.decode()))
    answer = api(PUT, trusted(make(pki)))
    assert (answer.status, answer.code) == (status, code)
    assert text in answer.text
    kept = api.ok("GET /v1/cluster/certificates")["mtls_trusted_ca_cert"]
    assert kept == pki.server_ca.pem.decode()


def test_a_key_sent_with_the_ca_is_refused(api: ControlPlane, pki: Pki) -> None:
    """It would be the key that makes anybody."""
    answer = api(PUT, {**trusted(pki.ca.pem.decode()), "key": pki.ca.key_pem.decode()})
    assert (answer.status, answer.code) == (400, "invalid_certificate")
    assert "PRIVATE" not in str(answer.json)


def test_a_server_certificate_needs_its_key(api: ControlPlane, pki: Pki) -> None:
    """None there yet, or another's."""
    for key in ("", pki.alice.key_pem.decode()):
        answer = api(PUT, {**server(pki), "key": key})
        assert (answer.status, answer.code) == (400, "invalid_certificate")


@pytest.mark.parametrize("name", ["proxy", "syncer", "x", "mtls_trusted_ca "])
def test_names_without_a_use_are_refused(api: ControlPlane, pki: Pki, name: str) -> None:
    """403, as Redis Enterprise answers unknown names."""
    answer = api(PUT, {"name": name, "certificate": pki.ca.pem.decode()})
    assert (answer.status, answer.code) == (403, "unknown_certificate")


def test_an_extra_field_of_a_certificate_is_refused(api: ControlPlane, pki: Pki) -> None:
    """In the batch as alone; the place is named."""
    body = {**trusted(pki.ca.pem.decode()), "crl": "x"}
    assert api(PUT, body).text == "crl: unknown field"
    assert api(BATCH, {"certificates": [body]}).text == ("certificates.0.crl: unknown field")


def test_the_ca_can_be_deleted_and_the_servers_certificate_cannot(
    api: ControlPlane, pki: Pki
) -> None:
    """The names of Redis Enterprise's statuses: 200, 403, 404."""
    api.ok(BATCH, {"certificates": [server(pki), trusted(pki.ca.pem.decode())]})
    api.ok("DELETE /v1/cluster/certificates/mtls_trusted_ca")
    assert set(api.ok("GET /v1/cluster/certificates")) == {"api_cert"}
    assert api("DELETE /v1/cluster/certificates/api").status == 403
    assert api("DELETE /v1/cluster/certificates/mtls_trusted_ca").status == 404
    assert api("DELETE /v1/cluster/certificates/x").status == 404


def test_a_new_ca_is_in_the_next_generations_of_each_policy(api: ControlPlane, pki: Pki) -> None:
    """The old line goes in a generation of its own, and the new one comes in the next."""
    api.trust(pki.ca)
    api.database()
    before = api.lines()
    api.trust(pki.server_ca)
    assert len(api.lines() - before) == len(before - api.lines()) == 1
    assert api.ok("GET /v1/bdbs/1")["generation"] == 3


def test_a_script_that_renews_all_certificates_renews_ours(api: ControlPlane, pki: Pki) -> None:
    """Those of parts that are not here are named, and nothing else is passed over: one that has a
    meaning elsewhere is refused, and then none is installed."""

    def entry(name: str) -> dict[str, str]:
        cert, key = pki.server.pem.decode(), pki.server.key_pem.decode()
        return {"name": name, "certificate": cert, "key": key}

    def put(*names: str) -> Any:
        return api("PUT /v1/cluster/certificates", {"certificates": [*map(entry, names)]})

    (warning,) = put("proxy", "api", "cm").json["warnings"]
    assert warning.startswith("certificates: cm, proxy: not installed")
    shown = api.ok("GET /v1/cluster/certificates")
    assert shown["api_cert"] == pki.server.pem.decode()
    for names in (("proxy",), ("api", "sso_service"), ("api", "prxy")):
        assert (put(*names).status, put(*names).code) == (403, "unknown_certificate"), names
