"""Which CAs vouch for a leaf: after a handshake, remembered, and by the core's own verification."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from control._core import ffi, lib
from control.policy.core import Policy
from tests.kit import certs as raw
from tests.kit.certs import (
    CA_USUAL,
    CN,
    NOW,
    O,
    authority_line,
    ca,
    certificate,
    constraints,
    decide,
    dns,
    intermediate,
    leaf_key,
    long_root,
    name,
    pem,
    person,
    policy,
    purposes,
    resumed,
    sans,
    trusting,
    x509,
)
from tests.kit.chains import rsa_key, sign
from tests.kit.support import Cert, der, root

ALICE = person("alice")
BIND = "bind subject CN=alice,O=acme alice"


def reason(under: Policy, leaf: bytes, *above: Cert | bytes) -> str:
    """What core.Policy decides about a leaf that is presented with these intermediates."""
    presented = [one if isinstance(one, bytes) else one.der for one in above]
    return under.decide(pem(leaf, *presented), now=NOW).reason


def handshake(lines: Sequence[str], leaf: bytes, *above: Cert | bytes) -> str:
    """What a node decides after a handshake that verified this chain."""
    return decide(policy(["set enforce on", *lines]), leaf, above).reason


# ---- By verification -----------------------------------------------------------------------------


def test_a_leaf_of_a_trusted_ca_is_in() -> None:
    """Directly, or by intermediates that are presented with it."""
    assert reason(trusting(BIND), certificate(ALICE)) == "matched"
    middle = intermediate(ca())
    assert reason(trusting(BIND), certificate(ALICE, by=middle), middle) == "matched"
    assert reason(trusting(BIND), certificate(ALICE, by=middle)) == "untrusted_issuer"


def test_a_leaf_of_another_ca_is_not() -> None:
    """Also where it claims our CA's name."""
    stranger = long_root("CN=Stranger")
    assert reason(trusting(BIND), certificate(ALICE, by=stranger)) == "untrusted_issuer"
    assert reason(trusting(BIND), certificate(ALICE, by=stranger), stranger) == "untrusted_issuer"
    forged = certificate(ALICE, by=stranger, issuer=ca().certificate.subject.public_bytes())
    assert reason(trusting(BIND), forged) == "untrusted_issuer"
    assert reason(Policy(["set enforce on", BIND]), certificate(ALICE)) == "untrusted_issuer"


def test_a_signature_that_was_changed() -> None:
    """One flipped bit of the signed part, or of the signature."""
    leaf = certificate(ALICE)
    for at in (leaf.index(b"alice"), len(leaf) - 1):
        broken = leaf[:at] + bytes([leaf[at] ^ 1]) + leaf[at + 1 :]
        under = trusting("bind cn alice alice", "bind cn `lice alice")
        assert reason(under, broken) == "untrusted_issuer"


def test_attack_a_self_signed_leaf() -> None:
    """It vouches for itself; so does one with the name of our CA."""
    for subject in (ALICE, ca().certificate.subject.public_bytes()):
        shell = Cert(root("CN=x", key=leaf_key()).certificate, leaf_key())
        alone = certificate(subject, by=shell, issuer=subject)
        assert reason(trusting(BIND), alone) == "untrusted_issuer"
        assert handshake([authority_line(ca()), BIND], alone, alone) == "untrusted_issuer"


def test_attack_a_leaf_that_issues_leaves() -> None:
    """CVE-2021-3450's class: no CA:TRUE, no issuing; nor without keyCertSign."""
    for extensions in ([], [constraints(False)], [constraints(True), raw.key_usage(b"\x07\x80")]):
        fake = certificate(name([(CN, "Fake CA")]), extensions=extensions)
        shell = Cert(pyca.load_der_x509_certificate(fake), leaf_key())
        assert reason(trusting(BIND), certificate(ALICE, by=shell), fake) == "untrusted_issuer"


def test_attack_a_path_longer_than_its_ca_allows() -> None:
    """pathlen:0 admits leaves and no intermediates."""
    short = ca().issue(
        "CN=Short",
        eku=None,
        ca=True,
        not_before=raw.BEGIN,
        not_after=raw.END,
        extensions=[(pyca.BasicConstraints(True, 0), True)],
    )
    below = intermediate(short, "CN=Below")
    assert reason(trusting(BIND), certificate(ALICE, by=short), short) == "matched"
    assert reason(trusting(BIND), certificate(ALICE, by=below), below, short) == "untrusted_issuer"


def test_attack_a_name_that_its_ca_may_not_give() -> None:
    """Name constraints of an intermediate hold."""
    only = pyca.NameConstraints([pyca.DNSName("a.example")], None)
    limited = ca().issue(
        "CN=Limited",
        eku=None,
        ca=True,
        not_before=raw.BEGIN,
        not_after=raw.END,
        extensions=[(only, True)],
    )
    good, bad = (
        certificate(ALICE, sans(dns(one)), by=limited) for one in ("x.a.example", "b.example")
    )
    assert reason(trusting(BIND), good, limited) == "matched"
    assert reason(trusting(BIND), bad, limited) == "untrusted_issuer"


@pytest.mark.parametrize(
    "constraint",
    [pyca.NameConstraints([pyca.DNSName("a.example")], None), pyca.BasicConstraints(True, 0)],
    ids=["names", "path length"],
)
def test_attack_around_what_an_anchor_allows(constraint: pyca.ExtensionType) -> None:
    """That the CA below it is a `ca` line of its own is not a way around: the handshake goes up to
    the root and refuses, and a revoked root has to be seen."""
    key = ec.generate_private_key(ec.SECP256R1())
    shell = Cert(root("CN=Top", key=key).certificate, key)
    made = shell.issue(
        "CN=Top",
        eku=None,
        ca=True,
        not_before=raw.BEGIN,
        not_after=raw.END,
        key=key,
        extensions=[(constraint, True)],
    )
    top, free = Cert(made.certificate, key), long_root("CN=Free")
    for anchor, wanted in ((top, "untrusted_issuer"), (free, "matched")):
        middle = intermediate(anchor)
        leaf = certificate(ALICE, sans(dns("b.example")), by=middle)
        lines = ["set enforce on", authority_line(anchor, "anchor"), authority_line(middle), BIND]
        assert reason(trusting(BIND, trust=[anchor]), leaf, middle) == wanted
        assert reason(Policy(lines), leaf, middle) == wanted
        assert reason(Policy([*lines, f"revoke key {anchor.key_id}"]), leaf, middle) != "matched"


@pytest.mark.parametrize(
    "purpose", [ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.SERVER_AUTH]
)
def test_attack_a_client_of_a_ca_for_something_else(purpose: pyca.ObjectIdentifier) -> None:
    """A CA whose extended key usage leaves out clientAuth issues no clients: the handshake refuses
    them, so the core's own verification has to."""
    mail = ca().issue("CN=Mail CA", eku=[purpose], ca=True, not_before=raw.BEGIN, not_after=raw.END)
    assert reason(trusting(BIND), certificate(ALICE, by=mail), mail) == "untrusted_issuer"


def test_a_leaf_for_something_else_has_a_reason_of_its_own() -> None:
    """The path is fine, the key usage is not."""
    server = certificate(ALICE, extensions=[constraints(False), purposes(raw.SERVER_AUTH)])
    assert reason(trusting(BIND), server) == "key_usage"


def test_attack_a_ca_as_a_client() -> None:
    """Neither an intermediate nor the trusted CA itself is a user."""
    middle = certificate(ALICE, extensions=[constraints(True), purposes(raw.CLIENT_AUTH)])
    assert reason(trusting(BIND), middle) == "key_usage"
    assert handshake([authority_line(ca()), BIND], middle, ca()) == "key_usage"
    bind_root = 'bind subject "CN=Root CA,O=acme" alice'
    assert trusting(bind_root).decide(ca().der, now=NOW).action == "refuse"


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_the_longest_path(count: int) -> None:
    """Eight CAs above a leaf, the root among them; nine are too many."""
    chain = [ca()]
    for number in range(count):
        chain.insert(0, intermediate(chain[0], f"CN=Intermediate {number}"))
    leaf = certificate(ALICE, by=chain[0])
    wanted = "matched" if len(chain) <= lib.PATH_LENGTH else "untrusted_issuer"
    assert reason(trusting(BIND), leaf, *chain[:-1]) == wanted
    assert handshake([authority_line(ca()), BIND], leaf, *chain) == wanted


# ---- What the REST API asks of its own clients ---------------------------------------------------


def of_api(under: Policy, leaf: bytes, *above: Cert) -> str:
    return under.decide(pem(leaf, *(one.der for one in above)), now=NOW, own=True).reason


def some_weak() -> dict[str, tuple[Policy, bytes, list[Cert]]]:
    """Leaves and CAs that libcrypto verifies and no server at security level 2 takes."""
    long = {"begin": raw.BEGIN, "end": raw.END}
    small, key, alice = rsa_key(1024), leaf_key(), "CN=alice,O=acme"
    weak_root = sign(None, "CN=Weak root", small, ca=True, **long)
    weak_ca = sign(ca(), "CN=Weak CA", small, ca=True, **long)
    old_root = sign(None, "CN=Old root", rsa_key(2048), ca=True, **long)
    leaves = {
        "a key of RSA-1024": (ca(), sign(ca(), alice, small, **long), []),
        "a signature with SHA-1": (ca(), sign(ca(), alice, key, hashes.SHA1(), **long), []),
        "a signature with MD5": (
            old_root, sign(old_root, alice, key, hashes.MD5(), **long), [],
        ),
        "a root of RSA-1024": (weak_root, sign(weak_root, alice, key, **long), []),
        "a CA of RSA-1024": (ca(), sign(weak_ca, alice, key, **long), [weak_ca]),
    }  # fmt: skip
    return {
        kind: (trusting(BIND, trust=[top]), leaf.der, above)
        for kind, (top, leaf, above) in leaves.items()
    }


def test_attack_a_weak_key_or_signature() -> None:
    """The REST API takes any certificate in its handshake, so the decision has to ask what every
    server's handshake asks; of a database, explain says what such a server would say."""
    for kind, (under, leaf, above) in some_weak().items():
        assert of_api(under, leaf, *above) == "weak", kind
        told = under.decide(pem(leaf, *(one.der for one in above)), now=NOW)
        assert told.reason == "matched", kind
        assert any("below security level 2" in line for line in told.trace), kind
    assert of_api(trusting(BIND), certificate(ALICE)) == "matched"
    stranger = sign(None, "CN=alice,O=acme", rsa_key(1024), begin=raw.BEGIN, end=raw.END)
    assert of_api(trusting(BIND), stranger.der) == "untrusted_issuer"


def test_a_root_that_is_not_known_is_no_way_into_the_api() -> None:
    """The path that ends at a `ca` line is a help for explain, which says so."""
    middle = intermediate(long_root("CN=Top"))
    leaf, under = certificate(ALICE, by=middle), trusting(BIND, trust=[middle])
    told = under.decide(pem(leaf, middle.der), now=NOW)
    assert told.reason == "matched"
    assert any("the root above that is not known here" in line for line in told.trace)
    assert of_api(under, leaf, middle) == "untrusted_issuer"


def test_the_twin_of_an_expired_ca_counts() -> None:
    """A CA that was renewed with its key is often sent beside its old certificate, in any order;
    libcrypto prefers the valid one (AddTrust, 2020), now or at the time that is asked."""
    key = ec.generate_private_key(ec.SECP256R1())
    turn = datetime(2026, 1, 1, tzinfo=UTC)
    old = intermediate(ca(), "CN=Twin", key=key, not_after=turn)
    new = intermediate(ca(), "CN=Twin", key=key, not_before=turn)
    leaf, under, begin = certificate(ALICE, by=new), trusting(BIND), int(turn.timestamp())
    for chain in ([old, new], [new, old]):
        shown = pem(leaf, *(one.der for one in chain))
        for now in (begin - 9, begin + 9, NOW):
            assert under.decide(shown, now=now).reason == "matched"
    assert reason(under, leaf, old) == "ca_expired"
    roots = [root("CN=Top", key=key, not_before=a, not_after=b)
             for a, b in ((raw.BEGIN, turn), (turn, raw.END))]  # fmt: skip
    for trust in (roots, roots[::-1]):
        assert reason(trusting(BIND, trust=trust), certificate(ALICE, by=roots[1])) == "matched"


# ---- Two CAs -------------------------------------------------------------------------------------


def twin(key_identifiers: bool) -> Cert:
    """A root that is called as the other, with a key of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    extra = (
        [(pyca.SubjectKeyIdentifier.from_public_key(key.public_key()), False)]
        if key_identifiers
        else []
    )
    shell = Cert(root("CN=Twin", key=key).certificate, key)
    made = shell.issue(
        "CN=Twin",
        eku=None,
        ca=True,
        not_before=raw.BEGIN,
        not_after=raw.END,
        key=key,
        extensions=extra,
    )
    return Cert(made.certificate, key)


def authority_key_identifier(of: Cert) -> bytes:
    digest = of.certificate.extensions.get_extension_for_class(
        pyca.SubjectKeyIdentifier
    ).value.digest
    return raw.extension(raw.oid("2.5.29.35"), der(0x30, der(0x80, digest)))


def test_attack_two_roots_of_one_name() -> None:
    """The leaf of the one is not bound by `ca=` of the other: a CA is its key, not its name."""
    one, other = twin(True), twin(True)
    leaf = certificate(ALICE, authority_key_identifier(one), by=one)
    forged = certificate(ALICE, authority_key_identifier(one), by=other, serial=b"\1")
    bind = f"{BIND} ca={one.key_id}"
    assert reason(trusting(bind, trust=[one, other]), leaf) == "matched"
    assert reason(trusting(bind, trust=[one, other]), forged) == "untrusted_issuer"
    honest = certificate(ALICE, authority_key_identifier(other), by=other)
    assert reason(trusting(bind, trust=[one, other]), honest) == "no_binding"
    assert reason(trusting(f"{BIND} ca={other.key_id}", trust=[one, other]), honest) == "matched"
    assert reason(trusting(bind, trust=[one]), honest) == "untrusted_issuer"
    lines = [authority_line(one), authority_line(other), bind]
    assert (handshake(lines, leaf, one), handshake(lines, honest, other)) == (
        "matched",
        "no_binding",
    )


def test_two_roots_of_one_name_without_key_identifiers() -> None:
    """Nothing tells them apart but the signature: at worst a leaf is refused, never taken for the
    other's."""
    one, other = twin(False), twin(False)
    under = trusting(f"{BIND} ca={one.key_id}", trust=[one, other])
    assert reason(under, certificate(ALICE, by=one)) in ("matched", "untrusted_issuer")
    assert reason(under, certificate(ALICE, by=other)) in ("no_binding", "untrusted_issuer")


def test_a_bind_line_may_name_any_ca_of_the_path() -> None:
    """`ca=` is the key of the issuer or of one above it; presented or verified alike."""
    top = long_root("CN=Top")
    middle = intermediate(top)
    leaf = certificate(ALICE, by=middle)
    for key_id in (top.key_id, middle.key_id):
        assert reason(trusting(f"{BIND} ca={key_id}", trust=[top]), leaf, middle) == "matched"
        both = [authority_line(top), authority_line(middle), f"{BIND} ca={key_id}"]
        assert handshake(both, leaf, middle, top) == "matched"
        assert reason(Policy(["set enforce on", *both]), leaf, middle) == "matched"
    assert reason(trusting(f"{BIND} ca={ca().key_id}", trust=[top]), leaf, middle) == "no_binding"


def test_a_leaf_needs_a_ca_line_in_its_path() -> None:
    """An anchor is trusted by the handshake and makes nobody a user."""
    top = long_root("CN=Top")
    middle, sibling = intermediate(top, "CN=Middle"), intermediate(top, "CN=Sibling")
    lines = [authority_line(top, "anchor"), authority_line(middle), BIND]
    good, bad, direct = (certificate(ALICE, by=by) for by in (middle, sibling, top))
    under = Policy(["set enforce on", *lines])
    assert [reason(under, good, middle), reason(under, bad, sibling), reason(under, direct)] == [
        "matched",
        "untrusted_issuer",
        "untrusted_issuer",
    ]
    assert handshake(lines, good, middle, top) == "matched"
    assert handshake(lines, bad, sibling, top) == "untrusted_issuer"
    assert handshake(lines, direct, top) == "untrusted_issuer"


@pytest.mark.parametrize("revoked", ["top", "middle"])
def test_attack_a_leaf_below_a_revoked_ca(revoked: str) -> None:
    """MongoDB's CVE-2025-3085 looked at the leaf only. By certificate, key or serial; whether the
    handshake verified the path or the core; whether the root is a `ca` or an `anchor`."""
    top = long_root("CN=Top")
    middle = intermediate(top)
    leaf = certificate(ALICE, by=middle)
    one, above = (top, top) if revoked == "top" else (middle, top)
    trust = [[authority_line(top)], [authority_line(top, "anchor"), authority_line(middle)]]
    for cas in trust:
        assert handshake([*cas, BIND], leaf, middle, top) == "matched"
        for line in (
            f"cert {one.fingerprint}",
            f"key {one.key_id}",
            f"serial {above.key_id} {one.serial}",
        ):
            lines = [*cas, BIND, f"revoke {line}"]
            assert handshake(lines, leaf, middle, top) == "ca_revoked"
            assert reason(Policy(["set enforce on", *lines]), leaf, middle) == "ca_revoked"


def test_a_ca_outside_its_validity() -> None:
    """Boundary seconds are inside; the CA is named, not the leaf."""
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    top = long_root("CN=Top")
    middle = intermediate(top, not_before=begin, not_after=end)
    leaf, lines = (
        certificate(ALICE, by=middle),
        policy(["set enforce on", authority_line(top), BIND]),
    )
    first, last = int(begin.timestamp()), int(end.timestamp())
    for now, wanted in (
        (first - 1, "ca_expired"),
        (first, "matched"),
        (last, "matched"),
        (last + 1, "ca_expired"),
    ):
        assert decide(lines, leaf, [middle, top], now=now).reason == wanted
        under = trusting(BIND, trust=[top])
        assert under.decide(pem(leaf, middle.der), now=now).reason == wanted
    assert decide(lines, leaf, [middle, top], now=first).until == last


# ---- After handshakes ----------------------------------------------------------------------------


def test_a_resumed_session_has_the_path_of_its_handshake() -> None:
    """The leaf alone is remembered with what was verified above it, and no other leaf is."""
    top = long_root("CN=Top")
    middle = intermediate(top, "CN=Seen in a handshake")
    lines = policy(["set enforce on", authority_line(top), BIND])
    leaf, fresh = certificate(ALICE, by=middle), certificate(ALICE, by=middle, serial=b"\2")
    unseen = certificate(ALICE, by=intermediate(long_root("CN=Else")), serial=b"\3")
    assert resumed(lines, leaf) == "untrusted_issuer"
    assert decide(lines, leaf, [middle, top]).reason == "matched"
    assert resumed(lines, leaf) == "matched"
    assert resumed(lines, fresh) == "matched", "its intermediate was seen"
    assert resumed(lines, unseen) == "untrusted_issuer"


def test_what_is_remembered_is_decided_under_the_policy_of_now() -> None:
    """A CA that went or was revoked is out at the next resumption."""
    top = long_root("CN=Top")
    leaf = certificate(ALICE, by=top)
    lines = policy(["set enforce on", authority_line(top), BIND])
    assert decide(lines, leaf, [top]).reason == "matched"
    assert resumed(lines, leaf) == "matched"
    assert resumed(policy(["set enforce on", BIND]), leaf) == "untrusted_issuer"
    revoked = policy(["set enforce on", authority_line(top), BIND, f"revoke key {top.key_id}"])
    assert resumed(revoked, leaf) == "ca_revoked"


def test_leaves_that_share_a_place_do_not_share_a_path() -> None:
    """A table of fixed size forgets; it never answers for another leaf."""
    one, other = long_root("CN=One"), long_root("CN=Other")
    lines = policy(["set enforce on", authority_line(one), f"{BIND} ca={one.key_id}"])
    mine = certificate(ALICE, by=one)
    assert decide(lines, mine, [one]).reason == "matched"
    # A place is the first two bytes of a leaf's SHA-256, modulo 4,096.
    place = _place(mine)
    crowd = (
        certificate(ALICE, by=other, serial=b"\1" + serial.to_bytes(3)) for serial in range(60_000)
    )
    theirs = next(leaf for leaf in crowd if _place(leaf) == place)
    assert resumed(lines, theirs) == "untrusted_issuer"
    assert decide(policy([authority_line(other)]), theirs, [other]).reason == "off"
    assert resumed(lines, mine) == "matched"


def _place(leaf: bytes) -> int:
    return int.from_bytes(bytes(raw.read(leaf).lookup)[:2]) % 4096


def test_nothing_verified_is_nobody() -> None:
    """A chain of no certificates, as far as it can be asked for."""
    lines = policy(["set enforce on", authority_line(ca()), BIND])
    leaf = certificate(ALICE)
    identity, path = raw.read(leaf), ffi.new("path *")
    lib.path_after_handshake(lines, identity, ffi.new("X509 *[]", [x509(leaf)]), 0, path)
    assert not path.known


def test_a_ca_without_a_usable_serial_number_vouches_for_nobody() -> None:
    """Its certificates could not be revoked."""
    broken = certificate(name([(O, "Broken CA")]), serial=b"\xff", extensions=CA_USUAL)
    shell = Cert(ca().certificate, leaf_key())
    leaf = certificate(ALICE, by=shell, issuer=name([(O, "Broken CA")]))
    assert handshake([authority_line(ca()), BIND], leaf, broken, ca()) == "untrusted_issuer"


def test_a_curve_that_is_not_known_is_named() -> None:
    """Its certificate cannot be verified, although its issuer is trusted. Of a curve that is known
    nothing of the kind is said, though the key is not on it."""
    for curve, reason, said in (
        ("1.2.3.4", "unknown_algorithm", True),
        ("1.2.840.10045.3.1.7", "untrusted_issuer", False),
    ):
        leaf = raw.certificate(raw.person("a"), spki=raw.spki_on(curve))
        found = raw.trusting("bind cn a a").decide(leaf, raw.NOW)
        assert found.reason == reason
        assert (f"does not know {curve}" in "\n".join(found.trace)) == said
        assert "does not know" not in "\n".join(found.trace) or said
