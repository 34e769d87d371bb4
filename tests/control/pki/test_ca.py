"""control/pki: the control plane's own CA, and uploads."""

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from control import records
from control.pki.files import write_private
from control.pki.issue import issue_certificate, new_ca
from control.pki.pem import CertificateError, is_issued_by
from control.pki.trust import read_trust
from control.pki.uploads import check_server, check_trust, read_bundle
from control.policy import core
from tests.kit.support import Cert, Pki, days, root

YEAR = timedelta(days=365)


def pem(*certs: Cert) -> str:
    return "".join(cert.pem.decode() for cert in certs)


def trust_of(upload: str) -> records.Trust:
    return read_trust("".join(check_trust(upload)))


# ---- Making certificates ----


def test_a_client_certificate_of_our_own_ca_is_accepted_by_the_core() -> None:
    """What is issued for a client logs in under a policy that trusts the CA."""
    authority = new_ca([("O", "acme"), ("CN", "acme CA")], YEAR)
    subject = [("O", "acme"), ("CN", "alice")]
    issued = issue_certificate(authority, subject, client=True, lifetime=YEAR)
    found = core.identity(issued.certificate.encode())
    assert (found.subject, found.client, found.ca) == ("CN=alice,O=acme", True, False)
    assert core.identity(authority.certificate.encode()).ca


def test_a_server_certificate_names_its_hosts_and_is_for_no_client() -> None:
    """Names and addresses become the SANs; without `client` it is not a client's certificate."""
    authority = new_ca([("CN", "CA")], YEAR)
    names = ["localhost", "127.0.0.1", "::1"]
    issued = issue_certificate(authority, [("CN", "api")], server_names=names, lifetime=YEAR)
    found = core.identity(issued.certificate.encode())
    assert found.sans == (("dns", "localhost"), ("ip", "127.0.0.1"), ("ip", "::1"))
    assert not found.client


def test_what_a_ca_of_ours_signed_verifies_under_it() -> None:
    """The signature and both key identifiers of an issued certificate are its CA's."""
    authority = new_ca([("CN", "CA")], YEAR)
    issued = issue_certificate(authority, [("CN", "x")], client=True, lifetime=YEAR)
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    leaf = x509.load_pem_x509_certificate(issued.certificate.encode())
    leaf.verify_directly_issued_by(issuer)
    above = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert above.key_identifier == own.digest


def test_private_files_are_for_their_owner_only_and_replaced_whole(tmp_path: Path) -> None:
    """A key file is 0600 however it was before, and nothing temporary stays behind."""
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_private_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """An error half way keeps what was there."""
    path = tmp_path / "key"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


# ---- What clients are trusted by ----


def test_a_root_alone_is_the_ca(pki: Pki) -> None:
    """A root admits what it issued, itself or through intermediates."""
    assert trust_of(pem(pki.ca)) == records.Trust((pki.ca.der,), ())


def test_an_intermediate_is_the_ca_and_its_root_an_anchor(pki: Pki) -> None:
    """Uploading an intermediate with its root admits only what the intermediate issued."""
    intermediate = pki.ca.authority()
    for upload in (pem(intermediate, pki.ca), pem(pki.ca, intermediate)):
        assert trust_of(upload) == records.Trust((intermediate.der,), (pki.ca.der,))


def test_only_the_lowest_of_a_chain_is_the_ca(pki: Pki) -> None:
    """A CA that had to be uploaded to complete a chain does not admit its other CAs' clients."""
    upper = pki.ca.authority("CN=Upper")
    lower = upper.authority("CN=Lower")
    trust = trust_of(pem(lower, upper, pki.ca))
    assert trust.cas == (lower.der,)
    assert set(trust.anchors) == {upper.der, pki.ca.der}


def test_several_roots_are_several_cas(pki: Pki) -> None:
    """Roots that have nothing to do with each other are CAs each."""
    other = root("CN=Other CA")
    trust = trust_of(pem(pki.ca, other))
    assert trust == records.Trust((pki.ca.der, other.der), ())


def test_no_upload_is_no_trust() -> None:
    """Nothing uploaded admits nobody."""
    assert read_trust("") == records.Trust()


def test_an_intermediate_without_its_root_is_refused_naming_the_root(pki: Pki) -> None:
    """The message says which certificate is missing."""
    with pytest.raises(CertificateError, match="certificate 1 of 1.*CN=Root CA,O=acme.*missing"):
        check_trust(pem(pki.ca.authority()))


def test_a_chain_with_a_hole_is_refused_naming_the_hole(pki: Pki) -> None:
    """The root alone does not complete a chain that lacks its middle."""
    lower = pki.ca.authority("CN=Upper").authority("CN=Lower")
    with pytest.raises(CertificateError, match="certificate 1 of 2.*CN=Lower.*'CN=Upper'"):
        check_trust(pem(lower, pki.ca))


def test_a_namesake_of_the_root_completes_no_chain(pki: Pki) -> None:
    """Another root with the right name and the wrong key has issued nothing."""
    with pytest.raises(CertificateError, match="another key"):
        check_trust(pem(pki.ca.authority(), root("CN=Root CA,O=acme")))


def test_two_cas_that_sign_each_other_lead_to_no_root() -> None:
    """A circle of cross-signed CAs is not complete, and the search ends."""
    one, two = root("CN=One"), root("CN=Two")
    upload = pem(one.authority("CN=Two", key=two.key), two.authority("CN=One", key=one.key))
    with pytest.raises(CertificateError, match="does not lead up to its root"):
        check_trust(upload)


def test_each_signature_of_an_upload_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """CAs of one name may each have signed each: forty are 1600 signatures, and not ten times as
    many."""
    checked: list[object] = []

    def counted(certificate: bytes, issuer: bytes) -> bool:
        checked.append(issuer)
        return signed(certificate, issuer)

    signed = is_issued_by
    monkeypatch.setattr("control.pki.pem.is_issued_by", counted)
    cas = [root("CN=the same") for _ in range(40)]
    assert len(check_trust("".join(one.pem.decode() for one in cas))) == 40
    assert len(checked) == 1600


def test_a_leaf_is_never_trusted(pki: Pki) -> None:
    """A client's own certificate is refused, also beside the CA that issued it."""
    for upload, which in ((pem(pki.alice), "1 of 1"), (pem(pki.ca, pki.alice), "2 of 2")):
        with pytest.raises(CertificateError, match=f"certificate {which}.*CN=alice.*not a CA"):
            check_trust(upload)


def test_a_ca_that_may_not_sign_is_refused(pki: Pki) -> None:
    """Key usage without keyCertSign makes no CA."""
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    odd = pki.ca.authority("CN=Odd", extensions=[(usage, True)])
    with pytest.raises(CertificateError, match="may not sign certificates"):
        check_trust(pem(odd, pki.ca))


def test_a_chain_longer_than_its_ca_allows_is_refused(pki: Pki) -> None:
    """A path length of 0 allows leaves below, and no CA: the message names the CA that says so."""
    short = pki.ca.authority("CN=Short", extensions=[(x509.BasicConstraints(True, 0), True)])
    assert len(check_trust(pem(short, pki.ca))) == 2
    lower = short.authority("CN=Lower")
    with pytest.raises(CertificateError) as e:
        check_trust(pem(lower, short, pki.ca))
    assert "certificate 1 of 3 (CN=Lower) issues what nobody verifies" in str(e.value)
    assert "certificate 2 of 3 (CN=Short) has a path length of 0" in str(e.value)
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(short.key.public_key())
    own = x509.SubjectKeyIdentifier(b"another key's")  # else libcrypto takes it for a root
    again = short.authority("CN=Short", extensions=[(above, False), (own, False)])
    assert len(check_trust(pem(again, short, pki.ca))) == 3


@pytest.mark.parametrize(
    ("subject", "sans", "good"),
    [
        ("CN=Lower,O=acme", (), True),
        ("CN=Lower,O=other", (), False),
        ("CN=Lower,O=acme", ("dns:ca.acme.example",), True),
        ("CN=Lower,O=acme", ("dns:ca.other.example",), False),
    ],
)
def test_a_chain_outside_of_its_name_constraints_is_refused(
    pki: Pki, subject: str, sans: tuple[str, ...], good: bool
) -> None:
    """A CA that was issued a name that the CA above may not give."""
    permitted = [
        x509.DirectoryName(x509.Name.from_rfc4514_string("O=acme")),
        x509.DNSName("acme.example"),
    ]
    limits = x509.NameConstraints(permitted, None)
    limited = pki.ca.authority("CN=Limited,O=acme", extensions=[(limits, True)])
    lower = limited.authority(subject, san=sans)
    if good:
        assert len(check_trust(pem(lower, limited, pki.ca))) == 3
    else:
        with pytest.raises(CertificateError, match=r"certificate 1 of 3.*subtree"):
            check_trust(pem(lower, limited, pki.ca))


def test_a_ca_with_an_unknown_critical_extension_is_refused(pki: Pki) -> None:
    """No server would verify a client under it."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    odd = pki.ca.authority("CN=Odd", extensions=[(unknown, True)])
    with pytest.raises(CertificateError, match=r"certificate 1 of 2 \(CN=Odd\).*critical"):
        check_trust(pem(odd, pki.ca))


def test_an_expired_ca_is_refused_with_its_date() -> None:
    """The message says which one expired when; the error says that it is about time."""
    old = root("CN=Old", not_before=days(-9), not_after=days(-2))
    with pytest.raises(CertificateError, match=r"certificate 1 of 1 \(CN=Old\) expired at 20") as e:
        check_trust(pem(old))
    assert e.value.expired


def test_a_ca_of_tomorrow_is_refused() -> None:
    """A CA is not trusted before it is valid."""
    with pytest.raises(CertificateError, match="is not valid before") as e:
        check_trust(pem(root("CN=New", not_before=days(1))))
    assert e.value.expired


def test_an_expired_ca_that_is_stored_still_reads() -> None:
    """Time passing must not make the rows unreadable: the core refuses its clients."""
    old = root("CN=Old", not_before=days(-9), not_after=days(-2))
    assert read_trust(pem(old)).cas == (old.der,)


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é\0"]
)
def test_what_is_no_certificate_is_refused(text: str) -> None:
    """Not PEM, not DER inside, nothing at all."""
    with pytest.raises(CertificateError, match="not a certificate") as e:
        check_trust(text)
    assert not e.value.expired


def test_a_certificate_sent_twice_counts_once(pki: Pki) -> None:
    """The second copy is named."""
    assert check_trust(pem(pki.ca, pki.ca)) == (pem(pki.ca),)
    ((der, why),) = read_bundle(pem(pki.ca, pki.ca)).left_out
    assert der == pki.ca.der
    assert "certificate 2 of 2" in why
    assert "twice" in why


def test_a_private_key_among_the_certificates_is_refused_and_not_kept(pki: Pki) -> None:
    """A PEM with a key would hand it to everybody who may read the certificates."""
    with pytest.raises(CertificateError, match="private key") as e:
        check_trust(pem(pki.ca) + pki.ca.key_pem.decode())
    assert "PRIVATE" not in str(e.value)


def test_text_around_certificates_is_dropped(pki: Pki) -> None:
    """What is kept is the certificates, not what was written beside them."""
    assert check_trust(f"note\n{pem(pki.ca)}\nnote") == (pem(pki.ca),)


def test_a_control_character_in_a_name_does_not_reach_the_message() -> None:
    """A subject with an escape sequence cannot write to the terminal of who reads the error."""
    odd = root([[("CN", "a\x1b[2J")]], not_before=days(-9), not_after=days(-2))
    with pytest.raises(CertificateError) as e:
        check_trust(pem(odd))
    assert "\x1b" not in str(e.value)


# ---- The server's own certificate ----


def test_a_server_certificate_with_its_chain_and_key_is_taken(pki: Pki) -> None:
    """Leaf first, then its issuer; the key belongs to the leaf."""
    taken = check_server(pem(pki.server, pki.server_ca), pki.server.key_pem.decode())
    assert taken.certificate == pem(pki.server, pki.server_ca)
    assert "PRIVATE KEY" in taken.key


def test_the_key_of_another_certificate_is_refused(pki: Pki) -> None:
    """A server could not prove that certificate."""
    with pytest.raises(CertificateError, match="not the key of certificate 1"):
        check_server(pem(pki.server), pki.alice.key_pem.decode())


def test_a_server_chain_in_the_wrong_order_is_refused(pki: Pki) -> None:
    """The order is said, since TLS would send it as it stands."""
    with pytest.raises(CertificateError, match="the leaf comes first"):
        check_server(pem(pki.server_ca, pki.server), pki.server_ca.key_pem.decode())


@pytest.mark.parametrize("key", ["", "no key", "-----BEGIN PRIVATE KEY-----\n-----END"])
def test_what_is_no_key_is_refused(pki: Pki, key: str) -> None:
    """And nothing of it is repeated."""
    with pytest.raises(CertificateError, match="not a private key|does not end"):
        check_server(pem(pki.server), key)


def test_an_expired_server_certificate_is_refused(pki: Pki) -> None:
    """It would cut everybody off."""
    old = pki.server_ca.issue("CN=api", not_before=days(-9), not_after=days(-1))
    with pytest.raises(CertificateError, match="expired") as e:
        check_server(pem(old), old.key_pem.decode())
    assert e.value.expired
