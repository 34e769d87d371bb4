"""NIST's PKITS (version 1.0.1, 2011): each of its paths and revocation lists through our own
verification, the core's path and control/pki/crl.py. The cases are the S/MIME messages in the
package cryptography_vectors: the certificates and lists of one test each, whose name says what is
right.

A case is accepted where its certificate logs in under a policy that trusts the Trust Anchor, and
all of its lists are taken, each as `revoke` lines of that policy. What comes out otherwise than
NIST wants is in DEVIATIONS, by name, with the reason: a case that is not there must come out right,
and one that is there must not."""

import base64
import email
import ssl
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from control.pki import crl
from control.pki.crl import CrlError
from control.pki.pem import CertificateError, pem_to_ders
from control.policy import core
from tests.kit.support import der_content, der_elements

DATA = Path(str(files("cryptography_vectors"))) / "x509" / "PKITS_data"
ANCHOR = (DATA / "certs" / "TrustAnchorRootCertificate.crt").read_bytes()
NOW = 1_700_000_000  # the lists and certificates are good from 2010 to 2030
CASES = sorted(path.stem.removeprefix("Signed") for path in (DATA / "smime").glob("*.eml"))

# Where the name does not say it: under NIST's default settings (any policy will do).
INVALID = {
    "MissingCRLTest1",
    *(f"DifferentPoliciesTest{number}" for number in (4, 5, 7, 8, 9, 12)),
}

POLICIES = (
    "Certificate policies (RFC 5280, 6.1.3 d-f) are not looked at, as in the TLS handshakes of the "
    "servers: no line of ours can ask for one. Name constraints and path lengths bound a CA here."
)
NO_LIST = (
    "A certificate about which no list says anything is not refused: a list is asked for by "
    "importing it, and `stale: refuse` keeps it from going missing then."
)
A_CA = "The certificate at the end of this path is a CA's, and a CA is nobody: `key_usage`."
DELTA = "Delta lists are refused by name (crl_delta); the complete list of the case is taken."
INDIRECT = "Indirect lists are refused by name (crl_indirect)."
SOME = "Lists for some reasons only are refused by name (crl_reasons)."
OLD_DSA = (
    "DSA with SHA-1 (this list), or without parameters in the key, is nothing that the library "
    "verifies: the list is refused."
)

DEVIATIONS = {
    **dict.fromkeys(
        [f"DifferentPoliciesTest{number}" for number in (4, 5, 9, 12)]
        + [f"InvalidPolicyMappingTest{number}" for number in (2, 4, 10)]
        + [f"InvalidRequireExplicitPolicyTest{number}" for number in (3, 5)]
        + [f"InvalidSelfIssuedinhibitPolicyMappingTest{number}" for number in (8, 9, 10, 11)]
        + [f"InvalidSelfIssuedrequireExplicitPolicyTest{number}" for number in (7, 8)]
        + [f"InvalidinhibitAnyPolicyTest{number}" for number in (1, 4, 5, 6)]
        + [f"InvalidinhibitPolicyMappingTest{number}" for number in (1, 3, 5, 6)]
        + ["InvalidMappingFromanyPolicyTest7", "InvalidMappingToanyPolicyTest8"]
        + ["InvalidSelfIssuedinhibitAnyPolicyTest8"],
        POLICIES,
    ),
    "MissingCRLTest1": NO_LIST,
    "InvalidWrongCRLTest6": f"{NO_LIST} Here the CA's own list is another CA's.",
    "InvaliddistributionPointTest3": f"{NO_LIST} Here it is one for another distribution point.",
    "InvaliddistributionPointTest8": f"{NO_LIST} Here it is one for another distribution point.",
    "InvaliddistributionPointTest9": f"{NO_LIST} Here it is one for another distribution point.",
    "InvalidcRLIssuerTest27": f"{NO_LIST} Here it is not the CRL issuer's that it should be.",
    "InvalidonlyContainsCACertsCRLTest12": f"{NO_LIST} Here it is one about CAs only.",
    "InvalidSeparateCertificateandCRLKeysTest21": (
        "Whether the certificate of a list's own signer is revoked is not asked: what such a list "
        "says can only take rights away, and it does not name this certificate."
    ),
    "OverlappingPoliciesTest6": A_CA,
    "ValidonlyContainsCACertsCRLTest13": A_CA,
    "ValidpathLenConstraintTest8": A_CA,
    "ValidpathLenConstraintTest14": A_CA,
    "ValidDSASignaturesTest4": OLD_DSA,
    "ValidDSAParameterInheritanceTest5": OLD_DSA,
    "ValidTwoCRLsTest7": (
        "One of its two lists is from a CA that nobody knows, and refused as such "
        "(crl_unknown_issuer); the other one is taken."
    ),
    **{f"ValiddeltaCRLTest{number}": DELTA for number in (2, 7, 8)},
    "ValiddeltaCRLTest5": f"{DELTA} It still has on hold what the delta gives back.",
    **{f"ValidIDPwithindirectCRLTest{number}": INDIRECT for number in (22, 24, 25)},
    **{f"ValidcRLIssuerTest{number}": INDIRECT for number in (28, 29, 30, 33)},
    **{f"ValidonlySomeReasonsTest{number}": SOME for number in (18, 19)},
}


def signed_data(name: str) -> dict[int, list[bytes]]:
    """The optional fields of a message's CMS SignedData, by tag: certificates 0xA0, lists 0xA1."""
    message = email.message_from_bytes((DATA / "smime" / f"Signed{name}.eml").read_bytes())
    parts = (one for one in message.walk() if one.get_content_type().endswith("pkcs7-signature"))
    content = next(parts).get_payload(decode=True)
    assert isinstance(content, bytes)
    _, explicit = der_elements(der_content(content))
    fields = der_elements(der_content(der_content(explicit)))
    return {
        field[0]: list(der_elements(der_content(field)))
        for field in fields
        if field[0] in (0xA0, 0xA1)
    }


def revoke_lines(content: bytes, authorities: list[bytes]) -> list[str]:
    """Of one list. Raises CrlError, CertificateError."""
    pem = "".join(map(ssl.DER_cert_to_PEM_cert, authorities))
    found = crl.read(content, pem_to_ders(pem), NOW)
    return [f"revoke serial {key} {serial}" for key in found.keys for serial in found.serials]


@cache
def outcome(name: str) -> str:
    """ "matched" where a case is accepted, else the reason of its certificate or its list."""
    fields = signed_data(name)
    *above, leaf = fields[0xA0]
    lines: set[str] = set()
    refused = ""
    for content in fields.get(0xA1, []):
        try:
            lines.update(revoke_lines(content, [ANCHOR, *above]))
        except CrlError as error:
            refused = error.code
        except CertificateError:
            refused = "certificate"
    key = core.identity(leaf).key
    usual = [f"ca {base64.b64encode(ANCHOR).decode()}", f"bind key {key} x", "user x on ~*"]
    policy = core.Policy(["set enforce on", *usual, *lines])
    pem = "".join(map(ssl.DER_cert_to_PEM_cert, [leaf, *above])).encode()
    reason = policy.decide(pem, NOW).reason
    return refused if refused and reason == "matched" else reason


@pytest.mark.parametrize("name", CASES)
def test_a_case_comes_out_as_nist_wants(name: str) -> None:
    """But for those in DEVIATIONS, which do not."""
    accepted = outcome(name) == "matched"
    wanted = not name.startswith("Invalid") and name not in INVALID
    assert (accepted == wanted) == (name not in DEVIATIONS), outcome(name)


def test_every_deviation_is_of_a_case() -> None:
    """No list of excuses for what is not there; and most of the cases need none."""
    assert len(CASES) == 224
    assert DEVIATIONS.keys() | INVALID <= set(CASES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ValidSignaturesTest1", "matched"),
        ("InvalidCASignatureTest2", "untrusted_issuer"),
        ("InvalidEEnotAfterDateTest6", "expired"),
        ("InvalidCAnotAfterDateTest5", "ca_expired"),
        ("InvalidRevokedEETest3", "revoked"),
        ("InvalidRevokedCATest2", "ca_revoked"),
        ("InvalidBadCRLSignatureTest4", "crl_signature"),
        ("InvalidBadCRLIssuerNameTest5", "crl_unknown_issuer"),
        ("InvalidUnknownCRLEntryExtensionTest8", "crl_extension"),
        ("InvalidOldCRLnextUpdateTest11", "crl_expired"),
        ("InvalidkeyUsageCriticalcRLSignFalseTest4", "crl_signer"),
        ("InvalidBasicSelfIssuedOldWithNewTest2", "revoked"),
        ("InvaliddeltaCRLIndicatorNoBaseTest1", "crl_delta"),
        ("InvalidIDPwithindirectCRLTest23", "crl_indirect"),
        ("InvalidonlySomeReasonsTest15", "crl_reasons"),
        ("InvalidonlyContainsAttributeCertsTest14", "crl_attributes"),
        ("InvalidDNnameConstraintsTest2", "untrusted_issuer"),
        ("InvalidpathLenConstraintTest5", "untrusted_issuer"),
    ],
)
def test_what_is_refused_is_refused_for_what_it_is(name: str, reason: str) -> None:
    """Not for something else that happens to be wrong here."""
    assert outcome(name) == reason
