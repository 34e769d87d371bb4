"""control/domain/issuing.py: the CA of clients in its files, and that nobody gets a certificate for
somebody else."""

import stat
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from control import records
from control.domain import issuing
from control.domain.issuing import CLIENTS, ROOT, Authority
from control.errors import Refusal
from control.pki.issue import CLOCK_SKEW, chain_to_present, open_authority
from control.pki.keys import KEY_TYPES
from control.pki.pem import CertificateError, Issued
from control.pki.request import Leaf, issue_requested, new_request, read_request
from control.pki.trust import read_trust
from control.policy import core
from control.records import User
from tests.kit.issuing import Prepared, csr
from tests.kit.rest import ADMIN, ControlPlane, Peer
from tests.kit.support import Cert, Pki, days, root

ISSUE = "POST /v1/certauth/certificates"
PROFILES = "/v1/certauth/profiles"
ALICE, BOB = "CN=alice,OU=eng,O=acme", "CN=bob,OU=eng,O=acme"
YEAR = timedelta(days=365)


def nothing(pem: str) -> None:
    assert pem


def no_passphrase() -> str:
    return ""


def certificates(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


def peer(pem: str) -> Peer:
    """As a client presents it."""
    form = serialization.Encoding.DER
    return Peer(tuple(one.public_bytes(form) for one in certificates(pem)))


# ---- The CA in its files -------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_ca_is_a_root_and_one_that_issues_leaves_only(tmp_path: Path, key_type: Any) -> None:
    """Each in a file of its own, for its owner only; what it issues is a client of the kind."""
    told: list[str] = []
    issuing.create(tmp_path, "acme", "", key_type, told.append)
    made = Authority(tmp_path, no_passphrase)()
    issuer, above = certificates(made.certificate)
    assert told == [made.certificate]
    assert (issuer.issuer, above.issuer) == (above.subject, above.subject)
    limits = [
        one.extensions.get_extension_for_class(x509.BasicConstraints).value
        for one in (issuer, above)
    ]
    assert [(one.ca, one.path_length) for one in limits] == [(True, 0), (True, None)]
    for name in (CLIENTS, ROOT):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    kinds = {"ec": ec.EllipticCurvePublicKey, "rsa": rsa.RSAPublicKey,
             "ed25519": ed25519.Ed25519PublicKey}  # fmt: skip
    assert isinstance(issuer.public_key(), kinds[key_type])
    request = read_request(new_request(key_type).certificate)
    leaf = Leaf(ALICE, (), ("digital_signature",), YEAR)
    found = certificates(issue_requested(made, request, leaf))[0]
    found.verify_directly_issued_by(issuer)
    assert core.identity(found.public_bytes(serialization.Encoding.DER)).client


def test_keys_are_encrypted_where_there_is_a_passphrase(tmp_path: Path) -> None:
    """Neither file opens without it, or with another one; what the CA says can be read."""
    issuing.create(tmp_path, "acme", "secret", "ec", nothing)
    for name in (CLIENTS, ROOT):
        text = (tmp_path / name).read_text()
        assert text.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
        assert core.identity(text[text.index("-----BEGIN CERT") :].encode()).ca
    Authority(tmp_path, lambda: "secret")()
    for wrong, reason in (("", "there is no passphrase"), ("other", "has another passphrase")):
        with pytest.raises(Refusal, match=reason) as caught:
            Authority(tmp_path, lambda wrong=wrong: wrong)()  # type: ignore[misc]
        assert caught.value.error_code == "no_ca"
    with pytest.raises(CertificateError, match="another passphrase"):
        issuing.create(tmp_path, "acme", "other", "ec", nothing)


def test_without_a_ca_nothing_is_issued(tmp_path: Path) -> None:
    """And it is said how to come by one; a damaged file is said to be one."""
    with pytest.raises(Refusal, match="redis-certauth ca create"):
        Authority(tmp_path, no_passphrase)()
    (tmp_path / CLIENTS).write_text("hello")
    with pytest.raises(Refusal, match="not a private key"):
        Authority(tmp_path, no_passphrase)()


def test_another_ca_takes_over_at_once_and_the_one_before_is_kept(tmp_path: Path) -> None:
    """Under the same root; a control plane that runs sees it."""
    issuing.create(tmp_path, "acme", "", "ec", nothing)
    authority = Authority(tmp_path, no_passphrase)
    first = authority()
    issuing.create(tmp_path, "acme", "", "ec", nothing)
    second = authority()
    assert first != second
    assert certificates(first.certificate)[1] == certificates(second.certificate)[1]
    (kept,) = set(tmp_path.iterdir()) - {tmp_path / CLIENTS, tmp_path / ROOT}
    assert issuing.FILES.fullmatch(kept.name)
    assert open_authority(kept.read_text(), "") == first


def test_a_ca_that_is_not_to_be_trusted_is_not_made(tmp_path: Path) -> None:
    """Who trusts it is asked before it is there."""

    def no(pem: str) -> None:
        raise Refusal(406, "no", "no")

    with pytest.raises(Refusal):
        issuing.create(tmp_path, "acme", "", "ec", no)
    assert not (tmp_path / CLIENTS).exists()


def encrypted(cert: Cert) -> str:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    return cert.key.private_bytes(*form, serialization.BestAvailableEncryption(b"p")).decode()


@pytest.mark.parametrize("passphrase", ["", "p"])
def test_a_ca_from_elsewhere_is_taken_with_those_above_it(tmp_path: Path, passphrase: str) -> None:
    """Its key may be encrypted, and is in its file where there is a passphrase."""
    above = root()
    issuer = above.authority()
    key = encrypted(issuer) if passphrase else issuer.key_pem.decode()
    issuing.adopt(tmp_path, (issuer.pem + above.pem).decode(), key, passphrase, nothing)
    made = Authority(tmp_path, lambda: passphrase)()
    assert certificates(made.certificate) == [issuer.certificate, above.certificate]
    assert ("ENCRYPTED" in (tmp_path / CLIENTS).read_text()) == bool(passphrase)
    assert chain_to_present(made) == issuer.pem.decode()


def test_a_ca_from_elsewhere_has_to_be_one(tmp_path: Path, pki: Pki) -> None:
    """With its own key, first, and up to its root; and nothing is written otherwise."""
    above = root()
    issuer = above.authority()
    chain, key = (issuer.pem + above.pem).decode(), issuer.key_pem.decode()
    for pem, its_key, reason in (
        (chain, above.key_pem.decode(), "the key is not the key of certificate 1 of 2"),
        ((above.pem + issuer.pem).decode(), key, "the key is not the key of certificate 1 of 2"),
        (issuer.pem.decode(), key, "does not lead up to its root"),
        (pki.alice.pem.decode(), pki.alice.key_pem.decode(), "not a CA certificate"),
        (chain, "hello", "not a private key"),
        (chain, encrypted(issuer), "no passphrase"),
    ):
        with pytest.raises(CertificateError, match=reason):
            issuing.adopt(tmp_path, pem, its_key, "", nothing)
    assert list(tmp_path.iterdir()) == []


# ---- Issuing -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A control plane with a CA of clients that it trusts. It knows alice and bob; alice has rights
    on database 1 too."""
    folder = tmp_path_factory.mktemp("prepared")
    issuing.create(folder, "acme", "", "ec", nothing)
    authority = Authority(folder, no_passphrase)()
    made = ControlPlane(folder)
    trusted = {"name": "mtls_trusted_ca", "certificate": authority.certificate}
    made.ok("PUT /v1/cluster/update_cert", trusted)
    made.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
    made.certificate_user("alice", ALICE, role="none", email="alice@example.com")
    made.certificate_user("bob", BOB, role="db_member")
    made.database(tls_mode="enabled", roles_permissions=[{"role_uid": 6, "redis_acl_uid": 2}])
    made.close()
    return Prepared(authority, (folder / "control.db").read_bytes())


@pytest.fixture
def authority(prepared: Prepared) -> Issued:
    return prepared.authority


@pytest.fixture
def api(tmp_path: Path, prepared: Prepared) -> Iterator[ControlPlane]:
    with prepared.opened(tmp_path) as made:
        yield made


def issued(api: ControlPlane, user: str = "alice", **fields: Any) -> str:
    return str(api.ok(ISSUE, {"csr": csr(), "user": user, **fields})["certificate"])


def profile(api: ControlPlane, name: str, **fields: Any) -> int:
    return int(api.ok(f"POST {PROFILES}", {"name": name, **fields})["uid"])


@pytest.mark.parametrize("way", ["user_uid", "key"])
def test_a_revocation_is_not_outrun_by_a_renewal(
    api: ControlPlane, authority: Issued, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Anyone who holds a stolen certificate asks for another at the very moment at which it is
    revoked: in whatever order the two come, the new one is not good."""
    stolen = issued(api)
    uid = next(one["uid"] for one in api.ok("GET /v1/users") if one["name"] == "alice")
    wanted = {"user_uid": uid, "key": core.identity(stolen.encode()).key}[way]
    record = api.store.inventory.record_issued

    def late(*arguments: Any, **options: Any) -> None:
        revoked = api.app.test_client().post(
            "/v1/certauth/revocations", json={way: wanted}, auth=ADMIN
        )
        assert revoked.status_code == 200
        record(*arguments, **options)

    api.ok("GET /v1/users/role", cert=peer(stolen))  # it has logged in before
    monkeypatch.setattr(api.store.inventory, "record_issued", late)
    answer = api(ISSUE, {"csr": csr()}, cert=peer(stolen))
    assert (answer.status, answer.code) == (403, "unauthorized_action")
    kept = api.ok("GET /v1/certauth/certificates?user=alice")
    assert [one["cert"] for one in kept] == [core.identity(stolen.encode()).cert]


def test_an_administrator_gets_a_certificate_for_a_user(
    api: ControlPlane, authority: Issued
) -> None:
    """It is for the key of the CSR, is the user in the API and on the database, and is remembered;
    the service has seen no key."""
    key = ec.generate_private_key(ec.SECP256R1())
    found = api.ok(ISSUE, {"csr": csr(key=key), "user": "alice"})
    leaf, issuer = certificates(found["certificate"])
    assert leaf.public_key() == key.public_key()
    assert issuer == certificates(authority.certificate)[0]
    says = core.identity(found["certificate"].encode())
    assert (found["subject"], says.subject, says.sans) == (ALICE, ALICE, ())
    assert 86400 <= says.not_after - says.not_before <= 86400 + 2 * CLOCK_SKEW.seconds
    assert found["ca"] == core.identity(authority.certificate.encode()).key
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (
        True, False, False,
    )  # fmt: skip
    for where in ({}, {"bdb_uid": 1}):
        asked = {"certificate": found["certificate"], **where}
        assert api.ok("POST /v1/certauth/explain", asked)["user"] == "alice"
    assert api.ok("GET /v1/users/role", cert=peer(found["certificate"])) == {"role": "none"}
    kept = api.ok(f"GET /v1/certauth/certificates/{found['cert']}")
    assert (kept.pop("state"), kept.pop("revocation"), found.pop("state")) == ("valid", None, "")
    assert {**kept, "last_login": 0} == found
    assert kept["last_login"]
    (event,) = [e for e in api.ok("GET /v1/logs") if e["type"] == "certificate_issued"]
    assert (event["user_name"], event["originating_username"]) == ("alice", "admin")


def test_a_user_renews_with_the_certificate_that_it_has(api: ControlPlane) -> None:
    """By the same profile, without naming itself; whatever its role may do."""
    profile(api, "long", lifetime=86400 * 300)
    old = issued(api, profile="long")
    for body in ({}, {"user": "alice"}):
        found = api.ok(ISSUE, {"csr": csr(), **body}, cert=peer(old))
        assert (found["user"], found["subject"], found["profile"]) == ("alice", ALICE, "long")
    assert api.ok(ISSUE, {"csr": csr(), "profile": "default"}, cert=peer(old))["profile"]


@pytest.mark.parametrize("name", ["bob", "admin", "nobody"])
def test_nobody_asks_for_somebody_else(api: ControlPlane, name: str) -> None:
    """Not by name; and whether there is such a user is not said."""
    refusal = api(ISSUE, {"csr": csr(), "user": name}, cert=peer(issued(api)))
    assert (refusal.status, refusal.code) == (403, "unauthorized_action")


def test_who_manages_users_asks_for_no_administrator(api: ControlPlane) -> None:
    """A user manager gets a certificate for alice, and none for somebody who administers."""
    manager = api.password_user("manager", "user_manager")
    api.certificate_user("root", "CN=root,O=acme", role="admin")
    assert api(ISSUE, {"csr": csr(), "user": "alice"}, auth=manager).status == 200
    refusal = api(ISSUE, {"csr": csr(), "user": "root"}, auth=manager)
    assert (refusal.status, refusal.code) == (403, "insufficient_permissions")
    assert api(ISSUE, {"csr": csr(), "user": "root"}).status == 200


@pytest.mark.parametrize("auth", ["db_member", "cluster_member", "db_viewer"])
def test_other_roles_ask_for_nobody(api: ControlPlane, auth: str) -> None:
    """Only who may change users; and who logs in by password has no certificate to ask for."""
    member = api.password_user("member", auth)
    assert api(ISSUE, {"csr": csr(), "user": "alice"}, auth=member).code == "unauthorized_action"
    refusal = api(ISSUE, {"csr": csr()}, auth=member)
    assert (refusal.status, refusal.code) == (406, "no_certificate_user")


def test_who_is_not_there_gets_none(api: ControlPlane) -> None:
    """Neither an unknown user, nor one by its e-mail address, nor anybody by an unknown profile."""
    for name in ("carol", "alice@example.com"):
        assert api(ISSUE, {"csr": csr(), "user": name}).code == "user_not_exist"
    refusal = api(ISSUE, {"csr": csr(), "user": "alice", "profile": "none"})
    assert (refusal.status, refusal.text) == (404, "unknown certificate profile 'none'")
    assert api(ISSUE, {"csr": csr()}, auth=None).status == 401


def names(*sans: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(sans)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: csr(BOB), "asks for the subject 'CN=bob"),
        (lambda: csr("O=acme,OU=eng,CN=alice"), "asks for the subject"),
        (lambda: csr("CN=alice"), "asks for the subject"),
        (lambda: csr("", None, names(x509.DNSName("bob"))), "asks for the name"),
        (lambda: csr(ALICE, None, names(x509.UniformResourceIdentifier("x:y"))), "asks for the na"),
        (
            lambda: csr("", None, x509.BasicConstraints(ca=True, path_length=None)),
            "asks for the certificate of a CA",
        ),
    ],
)  # fmt: skip
def test_a_csr_has_no_say_in_whose_a_certificate_is(
    api: ControlPlane, made: Callable[[], str], reason: str
) -> None:
    """It may ask for what its user has, or for nothing. Else it is refused, and not answered with
    something that its sender did not want."""
    refusal = api(ISSUE, {"csr": made(), "user": "alice"})
    assert (refusal.status, refusal.code) == (400, "invalid_certificate")
    assert reason in refusal.text
    assert api.ok("GET /v1/certauth/certificates") == []


def test_a_csr_may_say_what_is_so(api: ControlPlane) -> None:
    """The user's own subject in any string type, the profile's names, and a usage, which does not
    count."""
    profile(api, "uri", sans=["uri:spiffe://acme/{name}"])
    asked = csr(
        ALICE, None, names(x509.UniformResourceIdentifier("spiffe://acme/alice")),
        x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]),
    )  # fmt: skip
    found = api.ok(ISSUE, {"csr": asked, "user": "alice", "profile": "uri"})
    leaf = certificates(found["certificate"])[0]
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]


def raw_san(der: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, der)


def broken(made: str) -> str:
    """The CSR with another key in it than it is signed with."""
    loaded, other = x509.load_pem_x509_csr(made.encode()), csr(BOB)
    one, two = (
        x.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for x in (loaded, x509.load_pem_x509_csr(other.encode()))
    )
    raw = loaded.public_bytes(serialization.Encoding.DER).replace(one, two)
    return x509.load_der_x509_csr(raw).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: broken(csr()), "not signed with its own key"),
        (lambda: csr(key=rsa.generate_private_key(65537, 1024)), "an RSA key of 1024 bits"),
        (lambda: csr(key=rsa.generate_private_key(3, 2048)), "exponent"),
        (lambda: csr(key=ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (lambda: "hello", "not a certificate signing request"),
        (lambda: "", "not a certificate signing request"),
        (lambda: csr()[:100], "does not end"),
        (lambda: root().pem.decode(), "not a certificate signing request"),
        (lambda: csr("", None, raw_san(b"\x30\x02\xa3\x00")), "not a certificate signing request"),
        (lambda: csr("", None, raw_san(b"\x30\x05\x82")), "not a certificate signing request"),
        (lambda: csr("CN=a\\0A\\00b"), "asks for the subject 'CN=a?"),
    ],
)
def test_what_is_no_good_request_is_refused(
    api: ControlPlane, made: Callable[[], str], reason: str
) -> None:
    """Without the key's own signature, with a weak key, or none at all."""
    refusal = api(ISSUE, {"csr": made(), "user": "alice"})
    assert (refusal.status, refusal.code) == (400, "invalid_certificate")
    assert reason in refusal.text


def test_a_profile_whose_certificates_a_demand_refuses_issues_none(api: ControlPlane) -> None:
    """Of this API or of a database, with the reason and the place; what meets the demand is
    issued."""
    where = {"/v1/cluster": "this API", "/v1/bdbs/1": "database 'orders'"}
    for path, place in where.items():
        api.ok(f"PUT {path}", {"max_certificate_lifetime": 3600})
        refusal = api(ISSUE, {"csr": csr(), "user": "alice"})
        assert (refusal.status, refusal.code) == (406, "certificate_not_accepted")
        assert f"refused on {place}: lifetime: " in refusal.text
        api.ok(f"PUT {path}", {"max_certificate_lifetime": 2 * 86400})
        assert issued(api)


@pytest.mark.parametrize("key", [
    lambda: rsa.generate_private_key(65537, 2048), lambda: ec.generate_private_key(ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.generate,
])  # fmt: skip
def test_keys_of_three_kinds_are_taken(api: ControlPlane, key: Callable[[], Any]) -> None:
    """RSA, EC and Ed25519, whatever kind the CA's is."""
    assert api(ISSUE, {"csr": csr(key=key()), "user": "alice"}).status == 200


def test_a_profile_that_would_make_somebody_else_makes_nothing(api: ControlPlane) -> None:
    """An administrator's slip in a template is not a way to be bob."""
    profile(api, "bob", subject="CN=bob,OU=eng,O=acme")
    refusal = api(ISSUE, {"csr": csr(), "user": "alice", "profile": "bob"})
    assert (refusal.status, refusal.code) == (406, "certificate_of_another")
    profile(api, "nobody", subject="CN={name},O=elsewhere")
    refusal = api(ISSUE, {"csr": csr(), "user": "alice", "profile": "nobody"})
    assert (refusal.status, refusal.code) == (406, "certificate_of_nobody")
    assert f"the identities of user 'alice' are subject '{ALICE}'" in refusal.text
    profile(api, "team", subject="CN={name},OU=eng,O=acme")
    assert issued(api, profile="team")
    assert len(api.ok("GET /v1/certauth/certificates")) == 1


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["bind uri spiffe://acme/alice bob"], "certificate_of_another"),
        (["bind uri spiffe://acme/alice alice bob"], "certificate_of_another"),
        (["bind uri spiffe://acme/alice bob from=10.0.0.0/8"], "certificate_of_another"),
        ([f'bind subject "{ALICE}" alice', "bind uri spiffe://acme/alice bob"], "certificate_"),
        (["bind dns one.example.com bob"], "certificate_not_accepted"),
        (["bind dns one.example.com alice"], "certificate_not_accepted"),
        (["bind uri spiffe://acme/alice alice", f'bind subject "{ALICE}" alice'], ""),
        (["bind uri spiffe://acme/alice alice from=10.0.0.0/8"], ""),
        (["bind uri spiffe://acme/bob bob"], ""),
        (["pattern uri spiffe://acme/{n} app:{n} on +@read"], "certificate_of_another"),
        (
            ["pattern uri spiffe://acme/{n} app:{n} from=10.0.0.0/8 on +@read"],
            "certificate_of_another",
        ),
        (["pattern uri spiffe://other/{n} app:{n} on +@read"], ""),
        (["bind uri spiffe://acme/alice bob", "set enforce off"], "certificate_of_another"),
        (["bind uri spiffe://acme/alice bob", "set gate full_subject"], "certificate_of_another"),
    ],
)
def test_a_certificate_is_put_to_every_policy_before_it_is_given_away(
    api: ControlPlane, authority: Issued, lines: list[str], code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whatever binds it there, from whichever address, enforced now or later: to somebody else, to
    several, or to nobody for certain, it is thrown away."""
    target, policy = api.store.policies.whole(1)
    kept = [line for line in policy if not line.startswith(("bind", "set enforce", "set gate"))]
    users = [f"user {name} on +@read" for name in ("alice", "bob") if f"user {name} " not in
             " ".join(kept)]  # fmt: skip
    monkeypatch.setattr(api.store.policies, "whole", lambda uid: (target, (*kept, *users, *lines)))
    sans = ["uri:spiffe://acme/{name}", "dns:one.example.com", "dns:two.example.com"]
    profile(api, "names", sans=sans)
    answer = api(ISSUE, {"csr": csr(), "user": "alice", "profile": "names"})
    assert (answer.status, answer.code.startswith(code)) == (406 if code else 200, True)
    assert len(api.ok("GET /v1/certauth/certificates")) == (not code)


def test_a_policy_that_changes_is_asked_as_it_is_now(
    api: ControlPlane, authority: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Change by change, and whole where those are not known any more or the CA is another: what is
    kept decides as one made again."""
    policies = issuing.OpenPolicies(api.store)
    trust = read_trust(authority.certificate)
    leaf = issued(api).encode()

    def same(expected: str | None, of: records.Trust = trust) -> bool:
        fresh = issuing.OpenPolicies(api.store).decide(1, of, leaf)
        kept = policies.decide(1, of, leaf)
        return (kept.line, kept.reason, kept.user) == (fresh.line, fresh.reason, expected)

    assert same("alice")
    api.ok("PUT /v1/users/2", {"name": "alicia"})
    assert same("alicia")
    api.ok("PUT /v1/bdbs/1", {"roles_permissions": [], "tls_mode": "disabled"})
    assert same(None)
    whole = api.store.policies.whole
    api.ok("PUT /v1/bdbs/1", {"roles_permissions": [{"role_uid": 6, "redis_acl_uid": 2}]})
    monkeypatch.setattr(api.store.policies, "whole", None)
    assert policies.decide(1, trust, leaf).user == "alicia"  # without reading all of it
    monkeypatch.setattr(api.store.policies, "whole", whole)
    monkeypatch.setattr(api.store.policies, "changes", lambda *_: None)
    assert same("alicia")
    assert same(None, read_trust(root().pem.decode()))


def test_a_database_that_trusts_another_ca_is_asked_too(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch, pki: Pki
) -> None:
    """It may trust this one tomorrow."""
    sent = [{"client_cert": pki.ca.pem.decode()}]
    api.ok("PUT /v1/bdbs/1", {"authentication_ssl_client_certs": sent})
    target, policy = api.store.policies.whole(1)
    kept = [line for line in policy if not line.startswith("bind")]
    lines = (*kept, "bind cn alice bob", "user bob on +@read")
    monkeypatch.setattr(api.store.policies, "whole", lambda uid: (target, lines))
    refusal = api(ISSUE, {"csr": csr(), "user": "alice"})
    assert (refusal.status, refusal.code) == (406, "certificate_of_another")


def test_nobody_fills_the_disk_with_certificates(
    api: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user has so many good ones; others are not concerned."""
    monkeypatch.setattr(issuing, "CERTIFICATES", 2)
    first = issued(api)
    issued(api)
    refusal = api(ISSUE, {"csr": csr()}, cert=peer(first))
    assert (refusal.status, refusal.code) == (406, "too_many_certificates")
    assert issued(api, "bob")
    assert api.store.inventory.count_issued("alice", int(time.time()) + 90_000) == 0


# ---- Profiles ------------------------------------------------------------------------------------


def test_a_profile_says_what_certificates_are_like(api: ControlPlane) -> None:
    """Life, names and usage; changes count for what is issued after them."""
    uid = profile(
        api, "apps", lifetime=3600, key_usage=["digital_signature", "key_agreement"],
        sans=["uri:spiffe://acme/{name}", "email:{email}", "dns:{name}.clients.acme", "ip:10.0.0.1",
              "upn:{name}@acme"],
    )  # fmt: skip
    found = issued(api, profile="apps")
    says = core.identity(found.encode())
    assert set(says.sans) == {
        ("uri", "spiffe://acme/alice"), ("email", "alice@example.com"),
        ("dns", "alice.clients.acme"), ("ip", "10.0.0.1"), ("upn", "alice@acme"),
    }  # fmt: skip
    assert says.not_after - says.not_before == 3600 + CLOCK_SKEW.seconds
    leaf = certificates(found)[0]
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_agreement
    api.ok(f"PUT {PROFILES}/{uid}", {"sans": []})
    assert core.identity(issued(api, profile="apps").encode()).sans == ()
    api.ok(f"DELETE {PROFILES}/{uid}")
    assert api(ISSUE, {"csr": csr(), "user": "alice", "profile": "apps"}).status == 404


def test_a_profile_is_for_the_roles_that_it_names(api: ControlPlane) -> None:
    """bob holds role 4, alice does not; anyone who asks for them."""
    profile(api, "members", role_uids=[4])
    assert issued(api, "bob", profile="members")
    refusal = api(ISSUE, {"csr": csr(), "user": "alice", "profile": "members"})
    assert (refusal.status, refusal.code) == (403, "unauthorized_action")
    refusal = api(ISSUE, {"csr": csr(), "profile": "members"}, cert=peer(issued(api)))
    assert (refusal.status, refusal.code) == (403, "unauthorized_action")


@pytest.mark.parametrize("name", ["x,O=evil", "x+CN=bob", "a/b", "x\\", "*", "x CN=bob", "#41"])
def test_a_users_name_stays_within_its_place(name: str) -> None:
    """It ends no attribute of the subject, no segment of the URI, and no label of a DNS name."""
    user = User(0, name, "certificate", (6,), "", "CN=y")
    made = issuing.Profile(0, "p", subject="CN={name},O=acme", sans=("uri:spiffe://acme/{name}",))
    subject = issuing.subject_of(made, user)
    assert core.parse_name(subject) == subject
    parsed = x509.Name.from_rfc4514_string(subject)
    assert [(one.oid._name, one.value) for one in parsed] == [
        ("organizationName", "acme"), ("commonName", name),
    ]  # fmt: skip
    (uri,) = issuing.sans_of(made, user)
    assert uri.count("/") == 3
    with pytest.raises(ValueError, match="cannot be part of a name"):
        issuing.sans_of(issuing.Profile(0, "p", sans=("dns:{name}.acme",)), user)


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"subject": "CN={nam}"}, "invalid_param", "{nam} is none of {name}"),
        ({"subject": "CN={}"}, "invalid_param", "none of"),
        ({"subject": "hello"}, "invalid_param", "subject: "),
        ({"sans": ["uri"]}, "invalid_param", "sans: "),
        ({"sans": ["other:x"]}, "invalid_param", "'other:x' is none of"),
        ({"sans": ["ip:x"]}, "invalid_param", "sans: "),
        ({"sans": ["uri:{name.__class__}"]}, "invalid_param", "sans: "),
        ({"lifetime": 3599}, "invalid_schema", "lifetime: "),
        ({"lifetime": 367 * 86400}, "invalid_schema", "lifetime: "),
        ({"key_usage": []}, "invalid_schema", "key_usage: "),
        ({"key_usage": ["key_cert_sign"]}, "invalid_schema", "key_usage"),
        ({"role_uids": [99]}, "invalid_param", "there is no role 99"),
        ({"name": "default"}, "name_already_exists", "default"),
    ],
)
def test_a_profile_that_no_certificate_could_follow_is_refused(
    api: ControlPlane, fields: Any, code: str, word: str
) -> None:
    """With the field."""
    refusal = api(f"POST {PROFILES}", {"name": "x", **fields})
    assert (refusal.code, word in refusal.text) == (code, True), refusal.text
    assert len(api.ok(f"GET {PROFILES}")) == 1


def test_a_user_without_what_the_profile_asks_for_gets_none(api: ControlPlane) -> None:
    """bob has no e-mail address."""
    profile(api, "mail", sans=["email:{email}"])
    refusal = api(ISSUE, {"csr": csr(), "user": "bob", "profile": "mail"})
    assert (refusal.status, refusal.text) == (400, "profile 'mail': user 'bob' has no email")


def test_only_administrators_change_profiles(api: ControlPlane) -> None:
    """Others may read them."""
    manager = api.password_user("manager", "user_manager")
    assert api(f"POST {PROFILES}", {"name": "x"}, auth=manager).status == 403
    assert api(f"PUT {PROFILES}/1", {"lifetime": 7200}, auth=manager).status == 403
    assert api(f"DELETE {PROFILES}/1", auth=manager).status == 403
    assert api.ok(f"GET {PROFILES}/1", auth=manager)["lifetime"] == 86400


def test_a_certificate_ends_with_its_ca(api: ControlPlane) -> None:
    """And from a CA that has ended there is none."""
    above = root()
    for until, status in ((days(0.1), 200), (days(-0.1), 406)):
        issuer = above.authority(not_before=days(-1), not_after=until)
        made = Issued((issuer.pem + above.pem).decode(), issuer.key_pem.decode())
        api.app.extensions["authority"] = lambda made=made: made
        answer = api(ISSUE, {"csr": csr(), "user": "alice"})
        assert answer.status == status, answer.json
        if status == 200:
            assert answer.json["not_after"] == int(until.timestamp())
    assert answer.code == "certificate_expired"


# ---- The inventory -------------------------------------------------------------------------------


def test_the_inventory_knows_who_logged_in_by_which_certificate(
    api: ControlPlane, pki: Pki
) -> None:
    """Those from other CAs too; found by user, by CA and by end; refused ones are not in it."""
    api.trust(pki.ca)
    api("GET /v1/users/role", cert=pki.ca.issue(BOB))
    carol = pki.ca.issue("CN=carol")
    assert api("GET /v1/users/role", cert=carol).status == 401
    (seen,) = api.ok("GET /v1/certauth/certificates")
    assert (seen["user"], seen["subject"], seen["issued"], seen["ca"]) == (
        "bob", BOB, False, pki.ca.key_id,
    )  # fmt: skip
    assert (seen["bdb_uid"], seen["node"], bool(seen["last_login"])) == (0, "", True)
    issued(api)
    for query, users in (
        ("", ["alice", "bob"]), ("user=bob", ["bob"]), (f"ca={pki.ca.key_id}", ["bob"]),
        ("expires_before=2001-01-01", []), ("expires_before=2100-01-01", ["alice", "bob"]),
        ("expiring", []), ("limit=1", ["alice"]), ("offset=1", ["bob"]),
    ):  # fmt: skip
        found = api.ok(f"GET /v1/certauth/certificates?{query}")
        assert [one["user"] for one in found] == users, query
    assert api("GET /v1/certauth/certificates/00").status == 404
    assert api("GET /v1/certauth/certificates", cert=pki.ca.issue(BOB)).status == 403
