"""A revoked certificate stays revoked, whatever its holder does to the bytes that nobody signed."""

import hashlib
from contextlib import ExitStack
from functools import cache

import pytest

from control._core import ffi, lib
from control.policy.core import CoreError, Policy
from tests.kit import twins
from tests.kit.certs import authority_line, pem, policy, x509
from tests.kit.policies import LOGIN, Start, make_node, refuse
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, root
from tests.kit.tls_client import RESUMPTIONS, resumable, session_of
from tests.kit.twins import KINDS, changed

BIND = "bind cn alice alice"


@cache
def family(kind: str) -> tuple[Cert, Cert]:
    """A CA of this kind, and a client's certificate that it has signed."""
    ca = twins.authority(KINDS[kind], root(f"CN={kind} CA,O=acme"))
    return ca, twins.issue(KINDS[kind], ca)


def enforced(*cas: Cert, lines: tuple[str, ...] = ()) -> list[str]:
    return ["set enforce on", *(authority_line(ca) for ca in cas), BIND, *lines]


def taken(ca: Cert, whole: bytes) -> bool:
    """Does libcrypto find that the CA has signed these bytes?"""
    path = ffi.new("path *")
    try:
        lib.path_verify(policy(enforced(ca)), x509(whole), ffi.NULL, 0, 0, path, ffi.NULL)
    except ValueError:
        return False
    return bool(path.known)


def reason(ca: Cert, whole: bytes, *revoked: str) -> str:
    try:
        return Policy(enforced(ca, lines=revoked)).decide(whole).reason
    except CoreError:
        return "malformed"


# What changes no byte of the encoding that libcrypto makes of it, so the hash is the same.
SAME = {
    "a long outer length", "no outer length", "a long length of the bits", "bits in pieces",
    "a long length of the algorithm",
}  # fmt: skip
TAKEN = {
    "P-256": SAME | {"n - s"},
    "P-384": SAME | {"n - s"},
    "P-521": SAME | {"n - s"},
    "RSA-PSS": SAME | {"a byte less before"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_libcrypto_takes_of_what_a_holder_changes(kind: str) -> None:
    """The table that the rest stands on: if a libcrypto takes more, this says so."""
    ca, leaf = family(kind)
    assert taken(ca, leaf.der)
    found = {what for what, whole in changed(leaf, KINDS[kind]) if taken(ca, whole)}
    assert found == TAKEN.get(kind, SAME)


@pytest.mark.parametrize("kind", KINDS)
def test_attack_the_holder_writes_a_revoked_certificate_another_way(kind: str) -> None:
    """By the hash of the DER as the CA made it, and by the hash of what the CA signed. Another
    certificate of the same key, subject and CA is not hit."""
    ca, leaf = family(kind)
    other = twins.issue(KINDS[kind], ca)
    tbs = hashlib.sha256(leaf.certificate.tbs_certificate_bytes).hexdigest()
    for line in (f"revoke cert {leaf.fingerprint}", f"revoke cert {tbs}"):
        for what, whole in changed(leaf, KINDS[kind]):
            if taken(ca, whole):
                assert reason(ca, whole, line) in ("revoked", "malformed"), what
        assert reason(ca, leaf.der, line) == "revoked"
        assert reason(ca, other.der, line) == "matched"


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_attack_the_hash_that_the_holder_has_shown_is_revoked(kind: str) -> None:
    """Who shows the other signature first has that one in the log; the CA's own is revoked with
    it. The trace says by which line."""
    ca, leaf = family(kind)
    twin = twins.twin(leaf, KINDS[kind].order)
    line = f"revoke cert {twin.fingerprint}"
    assert reason(ca, twin.der) == "matched"
    for one in (leaf, twin):
        decided = Policy(enforced(ca, lines=(line,))).decide(one.der)
        assert (decided.reason, f"by the line: {line}" in decided.trace) == ("revoked", True)


def test_attack_a_signature_that_is_cut_is_nobody() -> None:
    """libcrypto takes an RSA-PSS signature without its leading zeros. No CA writes it so: refused
    with or without a `revoke` line, above the leaf too."""
    kind = KINDS["RSA-PSS"]
    ca, leaf = family("RSA-PSS")
    decided = Policy(enforced(ca)).decide(twins.cut(leaf).der)
    assert decided.reason == "malformed"
    assert "its holder has cut it" in "".join(decided.trace)
    between = twins.issue(kind, ca, "CN=Between", ca=True)
    below = between.issue("CN=alice")
    for one, expected in ((between, "matched"), (twins.cut(between), "malformed")):
        assert Policy(enforced(ca)).decide(below.pem + one.pem).reason == expected


@pytest.mark.parametrize("kind", KINDS)
def test_attack_a_revoked_ca_is_shown_written_another_way(kind: str) -> None:
    """Clients send the intermediates. Another intermediate of the same CA is not hit."""
    ca, _ = family(kind)
    between, other = (twins.issue(KINDS[kind], ca, f"CN=Between {n}", ca=True) for n in (1, 2))
    below = between.issue("CN=alice")
    tbs = hashlib.sha256(between.certificate.tbs_certificate_bytes).hexdigest()
    for line in (f"revoke cert {between.fingerprint}", f"revoke cert {tbs}"):
        under = Policy(enforced(ca, lines=(line,)))
        for what, whole in changed(between, KINDS[kind]):
            if taken(ca, whole):
                found = under.decide(below.pem + pem(whole)).reason
                assert found in ("ca_revoked", "malformed"), what
        assert under.decide(below.pem + between.pem).reason == "ca_revoked"
        assert under.decide(other.issue("CN=alice").pem + other.pem).reason == "matched"


def test_a_binding_by_hash_is_of_these_bytes() -> None:
    """Where a line gives, the other signature is another certificate."""
    ca, leaf = family("P-256")
    lines = ["set enforce on", authority_line(ca), f"bind cert {leaf.fingerprint} alice"]
    assert Policy(lines).decide(leaf.der).reason == "matched"
    assert Policy(lines).decide(twins.twin(leaf).der).reason == "no_binding"


# ---- Servers -------------------------------------------------------------------------------------


def test_attack_a_revoked_certificate_comes_back_with_another_signature(
    server_kind: Server,
    start: Start,
    pki: Pki,
    held: ExitStack,
) -> None:
    """For the client's certificate and for a CA above it, on full handshakes and resumed ones, and
    for sessions that are open. What was not revoked goes on."""
    between = pki.ca.authority("CN=Between")
    below = between.issue("CN=alice,OU=eng,O=acme")
    other = Cert(below.certificate, below.key, (twins.twin(between), pki.ca))
    shown = {pki.alice: pki.alice, twins.twin(pki.alice): pki.alice, below: between, other: between}
    fresh = pki.ca.issue(key=pki.alice.key)
    node = make_node(
        start, server_kind, "set enforce on", authority_line(pki.ca), BIND, "user alice on +@all"
    )
    peers = [(cert, resumable(node, cert, how)) for cert in (*shown, fresh) for how in RESUMPTIONS]
    sessions = [session_of(held, peer) for _, peer in peers]
    closed = node.patch(
        f"+revoke cert {pki.alice.fingerprint}", f"+revoke cert {between.fingerprint}"
    )["closed"]
    assert closed == len(shown) * len(RESUMPTIONS)
    for (cert, peer), session in zip(peers, sessions, strict=True):
        revoked = refuse("revoked" if shown.get(cert) is pki.alice else "ca_revoked")
        expected = revoked if cert in shown else LOGIN
        assert node.outcome(cert, held=held) == expected
        assert node.outcome(peer=peer, session=session, held=held) == expected


@pytest.mark.parametrize("kind", ["RSA-PSS", "P-384", "P-521"])
def test_attack_the_same_with_other_kinds_of_signatures(
    server_kind: Server, start: Start, kind: str
) -> None:
    """As the handshake takes them: a cut one is nobody, revoked or not."""
    ca, leaf = family(kind)
    cut = kind == "RSA-PSS"
    other = twins.cut(leaf) if cut else twins.twin(leaf, KINDS[kind].order)
    lines = ["set enforce on", authority_line(ca), BIND, "user alice on +@all"]
    node = make_node(start, server_kind, *lines, trust=[ca])
    assert node.outcome(leaf) == LOGIN
    assert node.outcome(other) == (refuse("malformed") if cut else LOGIN)
    node.patch(f"+revoke cert {leaf.fingerprint}")
    assert node.outcome(leaf) == refuse("revoked")
    assert node.outcome(other) == refuse("malformed" if cut else "revoked")
