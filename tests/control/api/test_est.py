"""/.well-known/est: devices come to what the rules say, by a token or their birth certificate; what
they have renews itself where an issuer lets it. Everything else is refused, in a sentence."""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID

from control.domain import following, issuing
from control.domain.issuing import Authority
from control.pki.issue import CLOCK_SKEW
from control.policy import core
from tests.kit.crls import crl
from tests.kit.issuing import Prepared, begun, csr, uris
from tests.kit.rest import PEER, ControlPlane, Peer, presented
from tests.kit.support import Cert, days, root
from tests.kit.tokens import AUDIENCE, ISSUER, jwks, token

EST, ISSUERS = "/.well-known/est", "/v1/certauth/issuers"
DEVICE = "urn:acme:device:SN-1"
RULE = {"identity": "uri:urn:acme:device:{subject.serialNumber}", "claims": {"subject.O": "Acme"}}
FACTORY = {"name": "factory", "rules": [RULE], "renewable": True}


@cache
def manufacturer() -> Cert:
    return root("CN=Acme Devices,O=Acme")


@cache
def birth(serial: str = "SN-1") -> Cert:
    """That of a device."""
    return manufacturer().issue(f"CN=sensor,2.5.4.5={serial},O=Acme")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A control plane with a CA of clients, a pattern for devices, user alice, a database, an
    issuer of tokens and one of devices."""
    folder = tmp_path_factory.mktemp("prepared")
    authority, made = begun(folder)
    made.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
    made.certificate_user("alice", "CN=alice,O=acme", role_uids=[8])
    made.ok("POST /v1/certauth/patterns", {
        "name": "devices", "kind": "uri", "template": "urn:acme:device:{id}",
        "user": "device:{id}", "role_uids": [8]})  # fmt: skip
    made.database(tls_mode="enabled", roles_permissions=[{"role_uid": 8, "redis_acl_uid": 2}])
    tokens = {"name": "idp", "url": ISSUER, "audiences": [AUDIENCE], "algorithms": ["ES256"]}
    made.ok(f"POST {ISSUERS}", {**tokens, "jwks": jwks(), "rules": [{"identity": "user:{sub}"}]})
    made.ok(f"POST {ISSUERS}", {**FACTORY, "manufacturer_ca": manufacturer().pem.decode()})
    made.close()
    return Prepared(authority, (folder / "control.db").read_bytes())


@pytest.fixture
def api(tmp_path: Path, prepared: Prepared) -> Iterator[ControlPlane]:
    with prepared.opened(tmp_path) as made:
        yield made


@dataclass(frozen=True)
class Said:
    """An answer; `pem` of its certificates."""

    status: int
    text: str
    headers: Any

    @property
    def certificates(self) -> list[x509.Certificate]:
        assert self.status == 200, self.text
        assert self.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
        return list(pkcs7.load_der_pkcs7_certificates(base64.b64decode(self.text)))

    @property
    def leaf(self) -> x509.Certificate:
        (one,) = self.certificates
        return one


def ask(
    api: ControlPlane,
    operation: str,
    body: str | bytes | None = None,
    cert: Cert | Peer | None = None,
    bearer: str = "",
    method: str = "",
    **headers: str,
) -> Said:
    """As an EST client does; text of a body is PEM, which is sent as the base64 of its DER."""
    if isinstance(body, str):
        body = "".join(body.splitlines(keepends=True)[1:-1]).encode()
    sent = {"Content-Type": "application/pkcs10"} if body is not None else {}
    sent |= {"Authorization": f"Bearer {bearer}"} if bearer else {}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    peer = presented(cert) if isinstance(cert, Cert) else cert
    response = api.client.open(
        f"{EST}/{operation}", method=method or ("GET" if body is None else "POST"), data=body,
        headers=sent, environ_overrides={PEER: peer} if peer else {},
    )  # fmt: skip
    if response.status_code >= 400:
        assert response.mimetype == "text/plain", response.text
    return Said(response.status_code, response.text, response.headers)


def enrolled(api: ControlPlane, key: Any = None, of: Cert | None = None) -> Cert:
    """What a device has been given, with its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    return Cert(ask(api, "simpleenroll", csr(key=key), of or birth()).leaf, key)


def refused(said: Said, status: int, words: str) -> bool:
    assert said.status == status, said.text
    assert words in said.text, said.text
    assert said.text.endswith("\n")
    assert "{" not in said.text
    return True


def reason(api: ControlPlane) -> str:
    """Of the last refusal in the event log."""
    (event,) = api.ok("GET /v1/logs?type=enrolment_refused&order=desc&limit=1")
    return str(event["reason"])


def events(api: ControlPlane, kind: str) -> Any:
    return [one for one in api.ok("GET /v1/logs") if one["type"] == kind]


# ---- cacerts, csrattrs, what is not served -------------------------------------------------------


def test_cacerts_are_the_cas_of_clients(api: ControlPlane, prepared: Prepared) -> None:
    """For anybody, with any label: a client has to have them before it can have anything else."""
    for label in ("", "factory/", "nobody/"):
        said = ask(api, f"{label}cacerts")
        pem = [one.public_bytes(serialization.Encoding.PEM).decode() for one in said.certificates]
        assert sorted(pem) == sorted(
            f"{one}-----END CERTIFICATE-----\n"
            for one in prepared.authority.certificate.split("-----END CERTIFICATE-----\n")[:-1]
        )
        assert all(len(line) <= 76 for line in said.text.splitlines())


def test_csrattrs_say_that_nothing_is_needed(api: ControlPlane) -> None:
    said = ask(api, "csrattrs")
    assert (said.status, said.text) == (204, "")


NOT_SERVED = [
    ("serverkeygen", "POST", 501, "keys are made where they are used"),
    ("fullcmc", "POST", 501, "fullcmc is not served here"),
    ("factory/fullcmc", "POST", 501, "fullcmc is not served here"),
    ("serverkeygen", "GET", 501, "not served"),
    ("simpleenroll", "GET", 405, "asked with POST"),
    ("cacerts", "POST", 405, "asked with GET"),
    ("cmc", "GET", 404, "EST has no such operation here: cacerts, csrattrs, simpleenroll"),
    ("factory/x", "POST", 404, "EST has no such operation"),
]


def test_what_is_not_served_says_so(api: ControlPlane) -> None:
    for operation, method, status, words in NOT_SERVED:
        body = b"" if method == "POST" else None
        assert refused(ask(api, operation, body, method=method), status, words)


def test_without_a_ca_of_clients_nothing_is_given(api: ControlPlane) -> None:
    api.app.extensions["authority"] = issuing.Authority(Path("/nowhere"), str)
    for said in (ask(api, "cacerts"), ask(api, "simpleenroll", csr(), birth())):
        assert refused(said, 503, "has no CA of clients")


# ---- simpleenroll --------------------------------------------------------------------------------


def test_a_device_comes_to_be_the_user_of_its_pattern(api: ControlPlane) -> None:
    """By what its manufacturer says of it, for the key of its CSR, for as long as the rule says;
    the certificate alone is in the answer. Event log, numbers and inventory know of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = ask(api, "simpleenroll", csr(key=key), birth()).leaf
    assert leaf.public_key() == key.public_key()
    says = core.identity(leaf.public_bytes(serialization.Encoding.DER))
    assert (says.subject, says.sans) == ("", (("uri", DEVICE),))
    assert 3600 <= says.not_after - says.not_before <= 3600 + CLOCK_SKEW.seconds + 5
    (found,) = api.ok("GET /v1/certauth/certificates?user=device:SN-1")
    assert (found["cert"], found["enrolled_by"], found["issued"]) == (says.cert, 2, True)
    (event,) = events(api, "certificate_issued")
    assert (event["issuer_name"], event["by_cert"]) == ("factory", birth().fingerprint)
    assert "token_subject" not in event
    pem = api.ok(f"GET /v1/certauth/certificates/{says.cert}")["certificate"]
    asked = {"certificate": pem, "bdb_uid": 1}
    assert api.ok("POST /v1/certauth/explain", asked)["user"] == "device:SN-1"
    metrics = api.client.get("/metrics", auth=("admin", "the administrator's password")).text
    assert 'certauth_enrolments_total{issuer="factory",reason=""}' in metrics


def test_a_csr_may_ask_for_what_the_rule_gives_and_nothing_else(api: ControlPlane) -> None:
    """It is not answered with something else."""
    for asked in (csr("CN=alice,O=acme"), csr("", None, uris(DEVICE + "0")), csr("CN=sensor")):
        assert refused(ask(api, "simpleenroll", asked, birth()), 400, "the CSR asks for the")
    assert ask(api, "simpleenroll", csr("", None, uris(DEVICE)), birth()).leaf


def test_a_device_may_begin_again(api: ControlPlane) -> None:
    """After its factory reset it has no certificate, and maybe the key of before."""
    key = ec.generate_private_key(ec.SECP256R1())
    assert enrolled(api, key).der != enrolled(api, key).der


def test_base64_comes_in_any_lines(api: ControlPlane) -> None:
    """Content-Transfer-Encoding says nothing (RFC 8951)."""
    lines = "".join(csr().splitlines(keepends=True)[1:-1])
    for body, header in (
        (lines.replace("\n", ""), "base64"), (lines.replace("\n", "\r\n"), "binary"),
        (f"\n {lines}\n\n", "quoted-printable"),
    ):  # fmt: skip
        headers = {"Content_Transfer_Encoding": header}
        assert ask(api, "simpleenroll", body.encode(), birth(), **headers).leaf


def test_a_token_enrols_as_elsewhere(api: ControlPlane) -> None:
    """As Bearer, or as the password of Basic; once for a key, and the label has to be its issuer's.
    A token counts before a certificate."""
    text, request = token(), csr()
    leaf = ask(api, "simpleenroll", request, bearer=text).leaf
    assert leaf.subject.rfc4514_string() == "CN=alice,O=acme"
    (event,) = events(api, "certificate_issued")
    assert (event["issuer_name"], event["token_subject"]) == ("idp", "alice")
    again = ask(api, "simpleenroll", request, bearer=text)
    assert refused(again, 409, "already issued for this token and this key")
    basic = base64.b64encode(f"anybody:{token()}".encode()).decode()
    assert ask(api, "idp/simpleenroll", csr(), birth(), Authorization=f"Basic {basic}").leaf
    other = ask(api, "factory/simpleenroll", csr(), bearer=token())
    assert refused(other, 401, "the issuer of this token is not registered here")


NOTHING: list[tuple[dict[str, str], str]] = [
    ({}, "show a token"),
    ({"Authorization": "Bearer x"}, "not three parts of base64url"),
    ({"Authorization": "Bearer"}, "not three parts of base64url"),
    ({"Authorization": "Digest username=x"}, "is not Bearer, or Basic"),
    ({"Authorization": "Basic ää"}, "is not Bearer, or Basic"),
    ({"X-SSL-Client-Escaped-Cert": "x"}, "show a token"),
]


def test_without_anything_good_nobody_enrols(api: ControlPlane) -> None:
    """Nor by a header that a proxy would set: that is read where the proxy's socket is, as for
    logins. An administrator's login is not a token."""
    for headers, words in NOTHING:
        said = ask(api, "simpleenroll", csr(), **headers)
        assert refused(said, 401, words)
        assert "Bearer" in said.headers.get_all("WWW-Authenticate")[-1]
    login = base64.b64encode(b"admin:the administrator's password").decode()
    said = ask(api, "simpleenroll", csr(), Authorization=f"Basic {login}")
    assert refused(said, 401, "not three parts")


GARBAGE: list[tuple[bytes, int, str]] = [
    (b"", 400, "not a certificate signing request"),
    (b"rubbish!", 400, "not the base64 of a CSR"),
    (b"\x30\x82\xff\xff", 400, "not the base64 of a CSR"),
    (b"AAAA", 400, "not a certificate signing request"),
    (base64.b64encode(b"\x30\x03\x02\x01\x00" * 9000), 400, "not a certificate signing request"),
    (b"A" * (64 << 10) + b"AAAA", 413, "more than 65536 bytes"),
]


def test_garbage_is_refused(api: ControlPlane) -> None:
    mine = enrolled(api)
    for body, status, words in GARBAGE:
        assert refused(ask(api, "simpleenroll", body, birth()), status, words)
        assert refused(ask(api, "simplereenroll", body, mine), status, words)


def test_other_types_are_refused(api: ControlPlane) -> None:
    """A page of another site can make a browser that holds a certificate send forms and text."""
    said = ask(api, "simpleenroll", csr(), birth(), Content_Type="text/plain")
    assert refused(said, 415, "Content-Type: application/pkcs10")


def test_a_csr_that_its_key_has_not_signed_is_refused(api: ControlPlane) -> None:
    """Its signature is the proof that the device holds the key."""
    lines = csr().splitlines()[1:-1]
    der = base64.b64decode("".join(lines))
    broken = base64.b64encode(der[:-1] + bytes([der[-1] ^ 1]))
    assert refused(ask(api, "simpleenroll", broken, birth()), 400, "not signed with its own key")


# ---- Birth certificates that are not taken -------------------------------------------------------

WRONG: dict[str, tuple[Any, str, str]] = {
    "expired": (
        lambda: manufacturer().issue(birth_name(), not_after=days(-0.1)), "expired", "expired",
    ),
    "not yet valid": (
        lambda: manufacturer().issue(birth_name(), not_before=days(1)),
        "not_yet_valid", "birth certificate",
    ),
    "of another CA": (
        lambda: root("CN=Acme Devices,O=Acme").issue(birth_name()), "untrusted_issuer",
        "no issuer is registered here with the CA",
    ),
    "not for clients": (
        lambda: manufacturer().issue(birth_name(), eku=(ExtendedKeyUsageOID.SERVER_AUTH,)),
        "key_usage", "birth certificate",
    ),
    "of a device of its own": (
        lambda: birth().issue(birth_name()), "untrusted_issuer", "no issuer is registered here",
    ),
    "without a number": (
        lambda: manufacturer().issue("CN=sensor,O=Acme"), "token_claims",
        "the birth certificate has no claim subject.serialNumber",
    ),
    "with two numbers": (
        lambda: manufacturer().issue("2.5.4.5=SN-1,2.5.4.5=SN-2,O=Acme"), "token_claim_value",
        "the birth certificate's subject.serialNumber",
    ),
    "with a number that is two parts": (
        lambda: manufacturer().issue("2.5.4.5=SN 1,O=Acme"), "token_claim_value",
        "the birth certificate's subject.serialNumber",
    ),
    "of another product": (
        lambda: manufacturer().issue("2.5.4.5=SN-1,O=Other"), "token_no_rule",
        "the birth certificate is valid, but no rule",
    ),
}  # fmt: skip


def birth_name() -> str:
    return "CN=sensor,2.5.4.5=SN-1,O=Acme"


def test_a_birth_certificate_that_is_not_good_enrols_nobody(api: ControlPlane) -> None:
    """Each is refused by its reason; without extended key usage, one is good for everything."""
    for make, code, words in WRONG.values():
        said = ask(api, "simpleenroll", csr(), make())
        assert refused(said, 403 if code in ("token_no_rule", "token_claim_value") else 401, words)
        assert reason(api) == code
    assert enrolled(api, of=manufacturer().issue(birth_name(), eku=None))


def test_a_birth_certificate_that_was_revoked_enrols_nobody(api: ControlPlane) -> None:
    """By an administrator: by itself, its key or its number."""
    number = {"ca": manufacturer().key_id, "serial": birth().serial}
    for line in ({"cert": birth().fingerprint}, {"key": birth().key_id}, number):
        (made,) = api.ok("POST /v1/certauth/revocations", line)["revocations"]
        assert refused(ask(api, "simpleenroll", csr(), birth()), 401, "revoked")
        assert reason(api) == "revoked"
        api.ok(f"DELETE /v1/certauth/revocations/{made['uid']}")
        assert enrolled(api)


def test_a_manufacturers_list_revokes(api: ControlPlane) -> None:
    made = crl(manufacturer(), birth())
    api.ok("POST /v1/certauth/crls", {"crl": base64.b64encode(made).decode()})
    assert refused(ask(api, "simpleenroll", csr(), birth()), 401, "revoked")
    assert enrolled(api, of=birth("SN-2"))


def test_what_is_locked_does_not_enrol(api: ControlPlane) -> None:
    """The birth certificate, its CA, who it would be, what it would say, where it comes from."""
    mine = enrolled(api)
    there = {"cert": birth().fingerprint, "key": birth().key_id, "ca": manufacturer().key_id,
             "user": "device:SN-1", "uri": DEVICE, "network": "127.0.0.0/8"}  # fmt: skip
    for way, value in there.items():
        made = api.store.locks.add(f"lock {way} {value}", "", 0)
        assert ask(api, "simpleenroll", csr(), birth()).status in (401, 403), way
        mines = ask(api, "simplereenroll", again(mine), mine).status
        assert (mines == 200) == (way in ("cert", "key", "ca")), way
        api.store.locks.remove(made.uid)
    assert ask(api, "simplereenroll", again(mine), mine).leaf
    assert enrolled(api)


def test_the_ca_of_devices_makes_nobody_a_client(api: ControlPlane) -> None:
    """It counts for enrolment, and nowhere else: not on a database, not at this API."""
    like = manufacturer().issue("CN=alice,O=acme")
    assert api.role(like) == "untrusted_issuer"
    pem = like.pem.decode()
    asked = api.ok("POST /v1/certauth/explain", {"certificate": pem, "bdb_uid": 1})
    assert asked["reason"] == "untrusted_issuer"
    assert enrolled(api)


def test_who_has_no_user_does_not_enrol(api: ControlPlane) -> None:
    api.ok(f"PUT {ISSUERS}/2", {"rules": [{"identity": "user:{subject.CN}"}]})
    said = ask(api, "simpleenroll", csr(), birth())
    assert refused(said, 403, "the birth certificate is valid, but its user is not a certificate")
    assert reason(api) == "certificate_of_nobody"


def test_a_ca_of_two_issuers_wants_a_label(api: ControlPlane) -> None:
    """The client would not choose, but the order of the issuers."""
    other = {"name": "other floor", "manufacturer_ca": manufacturer().pem.decode()}
    rules = [{"identity": "user:alice", "claims": {"san.dns": "alice.acme"}}]
    api.ok(f"POST {ISSUERS}", {**other, "rules": rules})
    said = ask(api, "simpleenroll", csr(), birth())
    assert refused(said, 401, "several issuers ('factory', 'other floor')")
    assert reason(api) == "several_issuers"
    assert ask(api, "factory/simpleenroll", csr(), birth()).leaf
    assert refused(ask(api, "other%20floor/simpleenroll", csr(), birth()), 403, "no rule")
    named = manufacturer().issue("CN=x", san=["dns:alice.acme"])
    leaf = ask(api, "other%20floor/simpleenroll", csr(), named).leaf
    assert leaf.subject.rfc4514_string() == "CN=alice,O=acme"
    assert refused(ask(api, "nobody/simpleenroll", csr(), birth()), 401, "no issuer is registered")


def test_an_intermediate_of_the_manufacturer_is_presented(api: ControlPlane) -> None:
    """As TLS has it; without it, nobody knows whose certificate it is."""
    below = manufacturer().authority("CN=Line 7,O=Acme").issue(birth_name())
    assert enrolled(api, of=below)
    said = ask(api, "simpleenroll", csr(), Peer((below.der,)))
    assert refused(said, 401, "no issuer is registered here with the CA")


def test_after_a_restore_no_device_enrols(api: ControlPlane) -> None:
    mine = enrolled(api)
    api.store.settings.configure(lambda now: replace(now, hold="restored"))
    for operation, cert in (("simpleenroll", birth()), ("simplereenroll", mine)):
        assert refused(ask(api, operation, again(mine), cert), 503, "redis-certauth release")
    api.store.settings.release()
    assert enrolled(api)


# ---- simplereenroll ------------------------------------------------------------------------------


def again(mine: Cert, key: Any = None) -> str:
    """The CSR that renews a certificate."""
    subject = mine.certificate.subject.rfc4514_string()
    sans = [one.value for one in mine.certificate.extensions
            if isinstance(one.value, x509.SubjectAlternativeName)]  # fmt: skip
    return csr(subject, key or ec.generate_private_key(ec.SECP256R1()), *sans)


def test_a_certificate_renews_itself(api: ControlPlane) -> None:
    """With the same names, for its key or another one, and no longer than it lived itself."""
    api.ok("PUT /v1/certauth/profiles/1", {"lifetime": 7200})
    mine = enrolled(api)
    for key in (mine.key, ec.generate_private_key(ec.SECP256R1())):
        leaf = ask(api, "simplereenroll", again(mine, key), mine).leaf
        assert leaf.public_key() == key.public_key()
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= (
            mine.certificate.not_valid_after_utc - mine.certificate.not_valid_before_utc
        )
        (*_, event) = events(api, "certificate_issued")
        assert (event["issuer_name"], event["by_cert"]) == ("factory", mine.fingerprint)
        mine = Cert(leaf, key)
    found = api.ok("GET /v1/certauth/certificates?user=device:SN-1")
    assert [one["enrolled_by"] for one in found] == [2, 2, 2]


def test_a_csr_for_other_names_renews_nothing(api: ControlPlane) -> None:
    """They are the same, not fewer and not more (RFC 7030 4.2.2)."""
    mine = enrolled(api)
    for asked in (csr(), csr("", None, uris(DEVICE + "0")), csr("", None, uris(DEVICE, "urn:x")),
                  csr("CN=alice,O=acme", None, uris(DEVICE))):  # fmt: skip
        said = ask(api, "simplereenroll", asked, mine)
        assert refused(said, 400, "both must be the same (RFC 7030 4.2.2)")


def test_only_what_is_from_here_is_renewed(api: ControlPlane, prepared: Prepared) -> None:
    """Not a birth certificate, nor one that somebody else has made that says the same; nothing is
    renewed without a certificate, whatever token is there."""
    mine = enrolled(api)
    like = root("CN=Acme Devices,O=Acme").issue("", san=[f"uri:{DEVICE}"], key=mine.key)
    for other in (birth(), like):
        said = ask(api, "simplereenroll", again(mine), other)
        assert refused(said, 403, "has not issued the certificate that the client shows")
        assert reason(api) == "not_issued_here"
    assert refused(ask(api, "simplereenroll", again(mine), bearer=token()), 401, "show a token")


def test_anothers_certificate_renews_the_others_names(api: ControlPlane) -> None:
    """Whose certificate it is, TLS says, and the CSR does not."""
    mine, other = enrolled(api), enrolled(api, of=birth("SN-2"))
    assert refused(ask(api, "simplereenroll", again(mine), other), 400, "RFC 7030 4.2.2")
    leaf = ask(api, "simplereenroll", again(other), other).leaf
    assert core.identity(leaf.public_bytes(serialization.Encoding.DER)).sans == (
        ("uri", "urn:acme:device:SN-2"),
    )


def test_an_expired_certificate_renews_nothing(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = enrolled(api)
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    assert refused(ask(api, "simplereenroll", again(mine), mine), 401, "expired")
    assert reason(api) == "expired"


def test_a_revoked_certificate_renews_nothing(api: ControlPlane) -> None:
    """By itself, its key, its number, or its CA."""
    mine = enrolled(api)
    (found,) = api.ok("GET /v1/certauth/certificates?user=device:SN-1")
    number = {"ca": found["ca"], "serial": found["serial"]}
    for line in ({"cert": found["cert"]}, {"key": found["key"]}, number, {"key": found["ca"]}):
        (made,) = api.ok("POST /v1/certauth/revocations", line)["revocations"]
        assert refused(ask(api, "simplereenroll", again(mine), mine), 401, "revoked")
        assert reason(api) in ("revoked", "ca_revoked")
        api.ok(f"DELETE /v1/certauth/revocations/{made['uid']}")
    assert ask(api, "simplereenroll", again(mine), mine).leaf


def test_a_certificate_of_the_ca_before_is_renewed_by_the_next(
    api: ControlPlane, tmp_path: Path
) -> None:
    """But for one that is revoked or locked."""
    mine = enrolled(api)
    (found,) = api.ok("GET /v1/certauth/certificates?user=device:SN-1")
    issuing.create(tmp_path, "acme", "", "ec", lambda _: None)
    following = Authority(tmp_path, lambda: "")()
    api.app.extensions["authority"] = lambda: following
    leaf = ask(api, "simplereenroll", again(mine), mine).leaf
    assert leaf.issuer != mine.certificate.issuer
    made = api.store.locks.add(f"lock ca {found['ca']}", "", 0)
    assert refused(ask(api, "simplereenroll", again(mine), mine), 401, "locked")
    api.store.locks.remove(made.uid)
    api.ok("POST /v1/certauth/revocations", {"key": found["ca"]})
    assert refused(ask(api, "simplereenroll", again(mine), mine), 401, "revoked")


def test_an_issuer_says_whether_its_certificates_renew_themselves(api: ControlPlane) -> None:
    """One that is deleted says no; so does the label of another. A certificate for a token would
    outlive what the token is good for."""
    mine = enrolled(api)
    assert refused(ask(api, "idp/simplereenroll", again(mine), mine), 403, "renew themselves")
    assert ask(api, "factory/simplereenroll", again(mine), mine).leaf
    api.ok(f"PUT {ISSUERS}/2", {"renewable": False})
    assert refused(ask(api, "simplereenroll", again(mine), mine), 403, "renew themselves")
    assert reason(api) == "not_renewable"
    api.ok(f"PUT {ISSUERS}/2", {"renewable": True})
    api.ok(f"DELETE {ISSUERS}/2")
    assert refused(ask(api, "simplereenroll", again(mine), mine), 403, "renew themselves")
    key = ec.generate_private_key(ec.SECP256R1())
    alice = Cert(ask(api, "simpleenroll", csr(key=key), bearer=token()).leaf, key)
    assert refused(ask(api, "simplereenroll", again(alice), alice), 403, "renew themselves")
    api.ok(f"PUT {ISSUERS}/1", {"renewable": True})
    assert ask(api, "simplereenroll", again(alice), alice).leaf


def test_who_may_renew_at_the_api_may_here(api: ControlPlane, prepared: Prepared) -> None:
    """A certificate that came by no issuer, of a user that logs in by it."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = api.ok("POST /v1/certauth/certificates", {"csr": csr(key=key), "user": "alice"})
    chain = [
        one.public_bytes(serialization.Encoding.DER)
        for one in x509.load_pem_x509_certificates(made["certificate"].encode())
    ]
    alice = Cert(x509.load_der_x509_certificate(chain[0]), key)
    peer = Peer(tuple(chain))
    assert ask(api, "simplereenroll", again(alice), peer).leaf.subject == alice.certificate.subject
    api.ok("PUT /v1/cluster", {"mtls_certificate_authentication": False})
    said = ask(api, "simplereenroll", again(alice), peer)
    assert refused(said, 401, "mtls_certificate_authentication is off")


def test_what_is_anothers_by_now_is_not_renewed(api: ControlPlane) -> None:
    """A pattern that makes other users of the same names."""
    mine = enrolled(api)
    (pattern,) = api.ok("GET /v1/certauth/patterns")
    api.ok(f"PUT /v1/certauth/patterns/{pattern['uid']}", {"user": "unit:{id}"})
    said = ask(api, "simplereenroll", again(mine), mine)
    assert refused(said, 403, "belongs to another user by now")
    assert enrolled(api)


# ---- Issuers of birth certificates ---------------------------------------------------------------


def test_an_issuer_of_devices_is_shown_as_it_was_made(api: ControlPlane) -> None:
    found = api.ok(f"GET {ISSUERS}/2")
    assert (found["url"], found["audiences"], found["keys"]) == ("", [], 0)
    assert (found["manufacturer_ca"], found["renewable"]) == (manufacturer().pem.decode(), True)
    sent = {name: one for name, one in found.items() if name != "uid"}
    assert api.ok(f"PUT {ISSUERS}/2", sent)["rules"] == found["rules"]
    more = {"name": "second", "manufacturer_ca": root("CN=Other").pem.decode()}
    assert api.ok(f"POST {ISSUERS}", more)["renewable"] is False


UNCLEAR: list[tuple[dict[str, Any], str, str]] = [
    ({"url": "https://issuer.example"}, "invalid_param", "make two issuers"),
    ({"audiences": ["x"]}, "invalid_param", "make two issuers"),
    ({"jwks": jwks()}, "invalid_param", "make two issuers"),
    ({"manufacturer_ca": ""}, "invalid_param", "have a manufacturer_ca instead"),
    ({"manufacturer_ca": "rubbish"}, "invalid_certificate", "certificate"),
    ({"rules": [{"identity": "user:{sub}"}]}, "invalid_param", "'sub' is nothing that a birth"),
    ({"rules": [{"identity": "user:{subject.cn}"}]}, "invalid_param", "'subject.cn' is nothing"),
    ({"rules": [{"identity": "user:{subject.2.5.4.5}"}]}, "invalid_param", "CN, serialNumber"),
    (
        {"rules": [{"identity": "user:x", "claims": {"iss": "y"}, "every_token": True}]},
        "invalid_param",
        "'iss' is",
    ),
    ({"rules": [{"identity": "user:{subject.CN}{san.dns}"}]}, "invalid_param", "two placeholders"),
]


def test_an_issuer_by_which_no_device_could_enrol_is_refused(api: ControlPlane) -> None:
    for fields, code, words in UNCLEAR:
        answer = api(f"PUT {ISSUERS}/2", fields)
        assert (answer.status, answer.code) == (400, code), fields
        assert words in answer.text, fields


def test_the_ca_of_a_manufacturer_leads_to_a_root(api: ControlPlane) -> None:
    below = manufacturer().authority("CN=Line 7")
    for one in (birth(), below):
        answer = api(f"PUT {ISSUERS}/2", {"manufacturer_ca": one.pem.decode()})
        assert (answer.status, answer.code) == (400, "invalid_certificate")
    whole = below.pem.decode() + manufacturer().pem.decode()
    api.ok(f"PUT {ISSUERS}/2", {"manufacturer_ca": whole})
    assert enrolled(api, of=below.issue(birth_name()))
    assert refused(ask(api, "simpleenroll", csr(), birth()), 401, "no issuer is registered")


def test_no_token_is_of_an_issuer_of_devices(api: ControlPlane) -> None:
    """Nor are keys fetched for it."""
    assert refused(ask(api, "simpleenroll", csr(), bearer=token(iss="")), 401, "token")
    before = json.dumps(api.ok(f"GET {ISSUERS}/2"))
    following.look(api.store, int(time.time()) + 100_000)
    assert json.dumps(api.ok(f"GET {ISSUERS}/2")) == before
    assert events(api, "issuer_not_fetched") == []
