"""CA uploads as libcrypto's path building judges them: what corporate CAs of twenty years send."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from control.pki import crl
from control.pki.guarded import CertificateError, CrlError
from control.pki.pem import is_issued_by, load_der, pem_to_ders
from control.pki.reading import render
from control.pki.request import read_request
from control.pki.trust import read_trust
from control.pki.uploads import check_clients, check_trust, read_bundle, weakness
from control.policy import core
from tests.kit import certs, corpus, crls
from tests.kit.rest import ControlPlane
from tests.kit.support import Cert, Pki, days, root

UPDATE = "PUT /v1/cluster/update_cert"


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=True)


def pem(*found: Cert) -> str:
    return "".join(one.pem.decode() for one in found)


def lets_in(upload: str, leaf: Cert) -> bool:
    """Whether a client below the CAs of an upload gets in, by what decides."""
    trust = read_trust("".join(check_trust(upload)))
    lines = [certs.authority_line(der) for der in trust.cas]
    lines += [certs.authority_line(der, "anchor") for der in trust.anchors]
    policy = core.Policy(
        ["set enforce on", f"bind subject {core.identity(leaf.der).subject} x", *lines]
    )
    return policy.decide(leaf.presented, own=True).reason == "matched"


def entry(*found: Cert) -> dict[str, object]:
    return {"name": "mtls_trusted_ca", "certificate": pem(*found), "trust_grows": True}


def uses(answer: dict[str, Sequence[dict[str, str]]]) -> list[tuple[str, str]]:
    return [(one["subject"], one["use"]) for one in answer["certificates"]]


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_a_root_that_signed_itself_with_an_old_hash_is_a_root(tmp_path: Path, digest: str) -> None:
    """Nobody who verifies looks at that signature; what it issues with SHA-256 gets in."""
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "c")
    openssl(tmp_path, *new, f"-{digest}", "-days", "9", "-subj", "/CN=Old Root")
    text = (tmp_path / "c").read_text()
    assert len(check_trust(text)) == 1
    (der,) = read_trust(text).cas
    assert is_issued_by(der, der)
    assert weakness(der) == ""


def test_what_an_old_hash_signed_is_said(tmp_path: Path, api: ControlPlane) -> None:
    """An intermediate that is signed with SHA-1, and a key of 1024 bits: taken, and told of."""
    new = ("req", "-x509", "-nodes", "-sha256", "-days", "9")
    openssl(tmp_path, *new, "-newkey", "rsa:1024", "-keyout", "k", "-out", "c", "-subj", "/CN=Root")
    openssl(tmp_path, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "l", "-out", "r", "-subj",
            "/CN=Middle", "-addext", "basicConstraints=critical,CA:TRUE")  # fmt: skip
    openssl(tmp_path, "x509", "-req", "-sha1", "-in", "r", "-CA", "c", "-CAkey", "k", "-days", "8",
            "-copy_extensions", "copy", "-CAcreateserial", "-out", "m")  # fmt: skip
    both = (tmp_path / "m").read_text() + (tmp_path / "c").read_text()
    made = api.ok(UPDATE, {"name": "mtls_trusted_ca", "certificate": both})
    assert "signed with SHA-1" in made["certificates"][0]["why"]
    assert "1024 bits" in made["certificates"][1]["why"]
    csr = "req -new -newkey rsa:2048 -nodes -keyout x -subj /CN=a -out s -sha1"
    openssl(tmp_path, *csr.split())
    with pytest.raises(CertificateError, match="signed with SHA-1"):
        read_request((tmp_path / "s").read_text())


def test_what_another_parser_does_not_read_is_taken_where_libcrypto_does() -> None:
    """An RDN out of DER's order, as in certificates of Kubernetes: of a client's own, of a CA."""
    subject = corpus.NAMES["an RDN out of order"]
    own = corpus.leaf(subject)
    with pytest.raises(CertificateError, match="subject does not parse"):
        load_der(own)
    assert check_clients(render(own)) == (render(own),)
    middle = certs.certificate(subject, extensions=certs.CA_USUAL)
    upload = render(middle) + pem(certs.ca())
    assert read_trust("".join(check_trust(upload))).cas == (middle,)
    assert len(check_trust(upload)) == 2
    assert weakness(middle) == ""
    with pytest.raises(CertificateError, match="does not lead up to its root"):
        check_trust(render(middle))


def test_a_ca_that_does_not_parse_is_refused_for_that() -> None:
    """Not for its key usage, which is there and which nobody reads then; and a CA that may sign
    nothing is still one."""
    odd = certs.extension(corpus.NAME_CONSTRAINTS, b"\x30\x80")
    broken = certs.certificate(certs.person("A"), odd, extensions=certs.CA_USUAL)
    assert not core.powers(broken).certificates
    for check in (check_trust, check_clients):
        with pytest.raises(CertificateError, match="does not parse") as refused:
            check(render(broken) + pem(certs.ca()))
        assert "key usage" not in str(refused.value)
        assert "is not a CA" not in str(refused.value)
    usage = certs.key_usage(b"\5\x20")  # keyEncipherment
    usual = [one for one in certs.CA_USUAL if corpus.kind(one) != corpus.kind(usage)]
    idle = certs.certificate(certs.person("A"), usage, extensions=usual)
    with pytest.raises(CertificateError, match="may not sign certificates: its key usage"):
        check_trust(render(idle))
    with pytest.raises(CertificateError, match="may not sign certificates, and as a client's own"):
        check_clients(render(idle))


@pytest.mark.parametrize("digest", ["sha1", "sha256"])
def test_what_names_its_hash_apart_is_judged_by_it_too(tmp_path: Path, digest: str) -> None:
    """RSASSA-PSS: of a list and of a request."""
    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "c")
    openssl(tmp_path, *new, "-days", "9", "-subj", "/CN=Root")
    (tmp_path / "conf").write_text("[ca]\ndefault_ca = d\n[d]\ndatabase = db\n")
    (tmp_path / "db").touch()
    signed = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:20"]
    openssl(tmp_path, "ca", "-config", "conf", "-gencrl", "-keyfile", "k", "-cert", "c", "-md",
            digest, "-crldays", "9", "-out", "l", *signed)  # fmt: skip
    openssl(tmp_path, "req", "-new", "-key", "k", f"-{digest}", "-subj", "/CN=a", "-out", "s",
            *signed)  # fmt: skip
    found = (tmp_path / "l").read_bytes(), pem_to_ders((tmp_path / "c").read_text())
    now, request = int(days(0).timestamp()), (tmp_path / "s").read_text()
    if digest == "sha256":
        assert crl.read(*found, now).issuer == "CN=Root"
        assert read_request(request).subject.rfc4514_string() == "CN=a"
        return
    with pytest.raises(CrlError, match="is signed with SHA-1, which is not taken here") as refused:
        crl.read(*found, now)
    assert refused.value.code == "crl_algorithm"
    with pytest.raises(CertificateError, match="signed with SHA-1"):
        read_request(request)


def test_a_root_and_itself_renewed_with_its_key() -> None:
    """Clients of both get in, whichever comes first."""
    old = root("CN=Root", not_after=days(9))
    new = root("CN=Root", key=old.key, not_after=days(99))
    for upload in (pem(old, new), pem(new, old)):
        trust = read_trust("".join(check_trust(upload)))
        assert (set(trust.cas), trust.anchors) == ({old.der, new.der}, ())
        assert lets_in(upload, old.issue("CN=a"))


def test_the_next_root_with_the_certificate_that_the_old_one_gave_it(api: ControlPlane) -> None:
    """Direct clients of the old one get in, and those of the new one."""
    old, new = root("CN=Old"), root("CN=New")
    crossed = old.authority("CN=New", key=new.key)
    upload = pem(old, new, crossed)
    assert lets_in(upload, old.issue("CN=a"))
    assert lets_in(upload, new.issue("CN=a"))
    assert uses(api.ok(UPDATE, entry(old, new, crossed))) == [
        ("CN=Old", "clients"), ("CN=New", "clients"), ("CN=New", "clients"),
    ]  # fmt: skip


def test_a_root_that_issues_leaves_beside_its_intermediates(api: ControlPlane) -> None:
    """Only above, and that is said, with the way to have both."""
    top = root("CN=Top")
    middle = top.authority("CN=Middle")
    assert not lets_in(pem(top, middle), top.issue("CN=a"))
    made = api.ok(UPDATE, entry(top, middle))
    assert uses(made) == [("CN=Top", "above"), ("CN=Middle", "clients")]
    assert "client_cas" in made["certificates"][0]["why"]
    both = {**entry(top, middle), "client_cas": [top.key_id, middle.key_id]}
    assert uses(api.ok(UPDATE, both)) == [("CN=Top", "clients"), ("CN=Middle", "clients")]


def test_a_bundle_without_what_can_do_nothing(api: ControlPlane) -> None:
    """A duplicate and an expired root are left out with a word; an expired one alone is refused,
    and one that is missing for it is named."""
    good, gone = root("CN=Good"), root("CN=Gone", not_before=days(-9), not_after=days(-1))
    made = api.ok(UPDATE, entry(good, gone, good))
    assert uses(made) == [("CN=Good", "clients"), ("CN=Gone", "left_out"), ("CN=Good", "left_out")]
    assert [one["why"][:24] for one in made["certificates"]] == [
        "", "certificate 2 of 3 (CN=G", "certificate 3 of 3 (CN=G",
    ]  # fmt: skip
    assert api.ok("GET /v1/cluster/certificates")["mtls_trusted_ca_cert"] == pem(good)
    answer = api(UPDATE, entry(gone))
    assert (answer.status, answer.code) == (406, "certificate_expired")
    below = gone.authority("CN=Below", not_after=days(9))
    with pytest.raises(CertificateError, match=r"'CN=Gone' is missing.*expired at"):
        check_trust(pem(good, below, gone))
    api.database()
    own = {"authentication_ssl_client_certs": [{"client_cert": pem(good, gone, good)}]}
    made = api.ok("PUT /v1/bdbs/1", own)
    assert len(made["authentication_ssl_client_certs"]) == 1
    assert len(made["warnings"]) == 2


def test_a_certificate_of_the_wrong_issuer_is_not_taken(pki: Pki) -> None:
    """Namesakes with another key, and one whose key identifier says another: as libcrypto."""
    other = root("CN=Root CA,O=acme")
    assert not is_issued_by(pki.alice.der, other.der)
    assert is_issued_by(pki.alice.der, pki.ca.der)
    assert read_bundle(pem(pki.ca, other)).left_out == ()


def test_known_of_the_log_without_a_subject(api: ControlPlane) -> None:
    """As the log has it of a certificate that has none."""
    api.database()
    known = {"serial": "05", "cert": "a" * 64, "key": "b" * 64}
    assert api.ok("POST /v1/certauth/explain", {"known": known, "bdb_uid": 1})["action"] == "leave"


def test_a_namesake_with_another_kind_of_key_has_not_signed_a_list(pki: Pki) -> None:
    """It is not the signature that cannot be checked."""
    other = root("CN=Root CA,O=acme", key=ed25519.Ed25519PrivateKey.generate())
    listed = crls.crl(pki.ca)
    now = int(certs.BEGIN.timestamp())
    with pytest.raises(CrlError) as refused:
        crl.read(listed, [other.der], now)
    assert refused.value.code == "crl_signature"


def test_what_is_said_of_a_pinned_ca_and_of_a_subject_is_so() -> None:
    """A CA that is pinned may sign; a subject that nobody reads, for a time that is none, is
    there."""
    usage = certs.key_usage(b"\1\6")  # keyCertSign, cRLSign
    usual = [one for one in certs.CA_USUAL if corpus.kind(one) != corpus.kind(usage)]
    ca = certs.certificate(certs.person("A"), usage, extensions=usual)
    assert core.powers(ca).certificates
    with pytest.raises(CertificateError, match="is among the pinned_certificates, and as a client"):
        check_clients(render(ca), [core.identity(ca).cert])
    times = (certs.generalized("20200101000000.5Z"), certs.utc("491231235959Z"))
    for subject, said in [
        (certs.person("A"), r"\(CN=A,O=acme|\(with a subject that is not read here"),
        (certs.name(), r"\(without a subject|\(with a subject that is not read here"),
    ]:
        with pytest.raises(CertificateError, match=said) as refused:
            check_clients(render(certs.certificate(subject, validity=times)))
        assert subject == certs.name() or "without a subject" not in str(refused.value)


def test_what_is_said_of_a_clients_own_certificate_is_so() -> None:
    """Nobody has pinned it by name; lines that only we have seen are not counted; and a curve is
    not called by the name of all curves."""
    spki = certs.spki_on("1.2.3.4")
    for own, said in [
        (corpus.leaf(certs.person("A"), certs.key_usage(b"\1\6")),
         "is not a CA certificate, and as a client's own it would be refused: key_usage: "),
        (certs.certificate(certs.person("A"), serial=b"\xff"),
         "does not parse as it has to: the serial number is negative"),
        (certs.certificate(certs.person("A"), spki=spki),
         "cannot be checked here: this control plane does not know 1.2.3.4 ("),
    ]:  # fmt: skip
        with pytest.raises(CertificateError) as refused:
            check_clients(render(own))
        assert said in str(refused.value)
        assert "line " not in str(refused.value)
