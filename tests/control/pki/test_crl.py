"""control/pki/crl.py: which revocation lists are taken, by name which are not, and our own."""

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from control.pki import crl
from control.pki.crl import CrlError
from control.pki.issue import new_ca
from control.pki.pem import Issued, pem_to_ders
from control.policy import core
from tests.kit import crls
from tests.kit.crls import Extension, entry, point
from tests.kit.support import Cert, Pki, days, root

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def now() -> int:
    return int(time.time())


def read(content: bytes, *authorities: Cert) -> crl.Crl:
    return crl.read(content, [one.der for one in authorities], now())


def refused(code: str, content: bytes, *authorities: Cert) -> str:
    """The message with which a list is refused, by this code."""
    with pytest.raises(CrlError) as error:
        read(content, *authorities)
    assert error.value.code == code, error.value
    return str(error.value)


# ---- What is taken ----


def test_a_list_says_what_its_ca_has_revoked(pki: Pki) -> None:
    """Number, times and serial numbers as policy lines have them, from PEM as from DER."""
    der = crls.crl(pki.ca, pki.alice, entry(0x1FF), number=7)
    for content in (der, crl.pem(der)):
        found = read(content, root("CN=Other"), pki.ca)
        assert found.serials == {pki.alice.serial, "01ff"}
        assert (found.keys, found.number, found.scope) == ((pki.ca.key_id,), 7, "")
        assert found.issuer == "CN=Root CA,O=acme"
        assert found.this_update <= time.time()
        assert found.next_update == found.this_update + 86400
        assert found.path == (pki.ca.key_id,)


@given(st.integers(0, 2**159 - 1))
def test_a_serial_number_is_what_the_core_calls_it(serial: int) -> None:
    """The line that is made of an entry is canonical already."""
    line = f"revoke serial {'a' * 64} {crl.hex_serial(serial)}"
    assert core.canonical(line) == line


def test_the_list_of_an_intermediate_knows_the_cas_above(pki: Pki) -> None:
    """Databases that trust the root are told what the intermediate has revoked."""
    between = pki.ca.authority("CN=Between")
    lower = between.authority("CN=Lower")
    found = read(crls.crl(lower), pki.ca, between, lower, root("CN=Other"))
    assert set(found.path) == {lower.key_id, between.key_id, pki.ca.key_id}


def test_a_ca_with_a_new_key_revokes_what_its_old_one_issued(pki: Pki) -> None:
    """Its two certificates come from one CA, or one of them from the other. A namesake from
    elsewhere is another CA."""
    old, new = pki.ca.authority("CN=Rolled"), pki.ca.authority("CN=Rolled")
    first = root("CN=Own")
    second = first.authority("CN=Own")
    elsewhere = [root("CN=Other").authority("CN=Rolled"), root("CN=Rolled"), root("CN=Own")]
    known = [pki.ca, old, new, first, second, *elsewhere]
    assert set(read(crls.crl(new), *known).keys) == {old.key_id, new.key_id}
    assert read(crls.crl(second), *known).keys == (second.key_id, first.key_id)
    for one in elsewhere:
        assert read(crls.crl(one), *known).keys == (one.key_id,)


@pytest.mark.parametrize("reason", ["keyCompromise", "certificateHold", "unspecified"])
def test_what_is_on_hold_is_revoked(pki: Pki, reason: str) -> None:
    """As long as it is on the list."""
    assert read(crls.crl(pki.ca, entry(1, reason)), pki.ca).serials == {"01"}


def test_two_parts_of_a_list_are_two(pki: Pki) -> None:
    """A CA may spread what it revoked over several lists: users, CAs, places."""
    scopes = {
        read(crls.crl(pki.ca, extensions=[part]), pki.ca).scope
        for part in (
            point(only_contains_user_certs=True),
            point(only_contains_ca_certs=True),
            point(full_name=[x509.UniformResourceIdentifier("http://a/1")]),
            point(full_name=[x509.UniformResourceIdentifier("http://a/2")]),
        )
    }
    assert len(scopes) == 4
    assert "" not in scopes


# ---- What is refused ----


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN X509 CRL-----\nAAAA\n", b"0\x80"])
def test_what_is_no_list_is_refused(pki: Pki, content: bytes) -> None:
    """Whatever it is."""
    assert re.search(
        "not a revocation list|does not end", refused("crl_malformed", content, pki.ca)
    )


@pytest.mark.parametrize("sent", ["é", "AAA", "###"])
def test_what_is_neither_pem_nor_base64_is_refused(sent: str) -> None:
    """In JSON, DER is base64."""
    with pytest.raises(CrlError, match="not a revocation list in PEM or DER form") as error:
        crl.lists_of(sent.encode())
    assert error.value.code == "crl_malformed"


def test_a_list_that_lacks_its_end_is_refused(pki: Pki) -> None:
    """A transfer that broke off says nothing."""
    der = crls.crl(pki.ca, pki.alice)
    for length in (len(der) - 1, len(der) // 2):
        refused("crl_malformed", der[:length], pki.ca)


def test_the_list_of_a_stranger_is_refused(pki: Pki) -> None:
    """With the name of the CA that would have to be known."""
    said = refused("crl_unknown_issuer", crls.crl(root("CN=Stranger")), pki.ca)
    assert "'CN=Stranger'" in said


def test_the_list_of_a_namesake_is_refused(pki: Pki) -> None:
    """The name alone proves nothing: otherwise any CA could revoke another one's certificates."""
    refused("crl_signature", crls.crl(root("CN=Root CA,O=acme"), pki.alice), pki.ca)


def test_a_changed_list_is_refused(pki: Pki) -> None:
    """Any byte of what is signed, and any of the signature."""
    der = crls.crl(pki.ca, entry(0x11223344))
    at = der.index(bytes.fromhex("11223344"))
    for place in (at, len(der) - 1):
        changed = bytearray(der)
        changed[place] ^= 1
        refused("crl_signature", bytes(changed), pki.ca)


def test_a_ca_that_may_not_sign_lists_is_refused(pki: Pki) -> None:
    """Its key usage says which signatures count."""
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    odd = pki.ca.authority("CN=Odd", extensions=[(usage, True)])
    assert "key usage" in refused("crl_signer", crls.crl(odd), odd, pki.ca)


def test_an_overdue_list_is_refused(pki: Pki) -> None:
    """With the time that it said itself."""
    der = crls.crl(pki.ca, start=days(-2), end=days(-1))
    assert "nextUpdate" in refused("crl_expired", der, pki.ca)


def test_a_list_of_the_future_is_refused(pki: Pki) -> None:
    """But for some minutes, by which clocks may differ."""
    refused("crl_not_yet", crls.crl(pki.ca, start=days(1), end=days(2)), pki.ca)
    soon = datetime.now(UTC) + timedelta(minutes=2)
    assert read(crls.crl(pki.ca, start=soon), pki.ca)


REFUSED: dict[str, list[Extension]] = {
    "crl_delta": [(x509.DeltaCRLIndicator(1), True)],
    "crl_indirect": [point(indirect_crl=True)],
    "crl_attributes": [point(only_contains_attribute_certs=True)],
    "crl_reasons": [point(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise}))],
    "crl_extension": [(UNKNOWN, True)],
}


@pytest.mark.parametrize("code", REFUSED)
def test_what_says_less_than_everything_is_refused_by_name(pki: Pki, code: str) -> None:
    """Delta, indirect, by reason, of attribute certificates, or with something critical that is not
    known; what is not critical may be unknown."""
    refused(code, crls.crl(pki.ca, extensions=REFUSED[code]), pki.ca)
    assert read(crls.crl(pki.ca, extensions=[(UNKNOWN, False)]), pki.ca)


OTHER = x509.DirectoryName(x509.Name.from_rfc4514_string("CN=Other"))
ENTRIES: dict[str, x509.RevokedCertificate] = {
    "crl_delta": entry(1, "removeFromCRL"),
    "crl_indirect": entry(1, extensions=[(x509.CertificateIssuer([OTHER]), True)]),
    "crl_extension": entry(1, extensions=[(UNKNOWN, True)]),
}


@pytest.mark.parametrize("code", ENTRIES)
def test_an_entry_that_cannot_be_told_refuses_the_list(pki: Pki, code: str) -> None:
    """One of another CA, one that takes another back, one with something critical."""
    assert "entry 1" in refused(code, crls.crl(pki.ca, entry(2), ENTRIES[code]), pki.ca)


# ---- CAs that are sent along ----


def test_a_ca_sent_along_must_come_from_a_trusted_one(pki: Pki) -> None:
    """By way of others; a stranger's, and a namesake's, do not count."""
    between = pki.ca.authority("CN=Between")
    lower = between.authority("CN=Lower")
    crl.check_authorities([lower.der, between.der], [pki.ca.der])
    for sent in ([lower], [root("CN=Stranger")], [lower, root("CN=Between")]):
        with pytest.raises(CrlError, match="does not come from a CA that is trusted") as error:
            crl.check_authorities([one.der for one in sent], [pki.ca.der])
        assert error.value.code == "crl_authority"


# ---- Our own ----


def signed_by(authority: Issued, *entries: crl.Entry) -> bytes:
    return crl.sign(authority, entries, 5, datetime.now(UTC), timedelta(days=7))


def test_our_own_list_is_one_that_we_would_take() -> None:
    """Signed, numbered, with the next one's time, and each entry with its reason."""
    authority = new_ca([("CN", "ours")], timedelta(days=9))
    entries = [crl.Entry("0a", now(), "keyCompromise"), crl.Entry("0b", now(), "unspecified")]
    der = signed_by(authority, *entries)
    found = crl.read(der, pem_to_ders(authority.certificate), now())
    assert (found.serials, found.number) == ({"0a", "0b"}, 5)
    assert found.next_update > now() + 6 * 86400
    listed = x509.load_der_x509_crl(der)
    reasons = [[one.value.reason.value for one in each.extensions] for each in listed]  # type: ignore[attr-defined]
    assert reasons == [["keyCompromise"], []]
    assert listed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_ca_with_another_kind_of_key_signs_its_list(kind: str) -> None:
    """RSA and Ed25519, as EC."""
    made = rsa.generate_private_key(65537, 2048) if kind == "rsa" else None
    key = made or ed25519.Ed25519PrivateKey.generate()
    name = x509.Name.from_rfc4514_string("CN=ours")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(days(-1))
        .not_valid_after(days(9))
        .sign(key, None if made is None else Pki().ca.certificate.signature_hash_algorithm)  # type: ignore[arg-type]
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    der = signed_by(Issued(pem, key_pem), crl.Entry("0a", now(), "superseded"))
    assert crl.read(der, pem_to_ders(pem), now()).serials == {"0a"}
