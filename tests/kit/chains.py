"""Kinds of chains that a client may present, each to be shown to a real server: leaves of every
key, signature, time, purpose and oddity, under paths that are good, incomplete, out of date, too
weak, of namesakes and of CAs that only one of policy and server trusts."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.kit import certs as raw
from tests.kit.certs import authority_line
from tests.kit.support import (
    CLIENT,
    SERVER,
    Cert,
    Pki,
    days,
    der,
    der_content,
    der_elements,
    name_of,
    root,
    scratch,
)

CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {
    "P-192": ec.SECP192R1, "P-224": ec.SECP224R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1,
    "secp256k1": ec.SECP256K1, "brainpoolP256r1": ec.BrainpoolP256R1,
    "brainpoolP384r1": ec.BrainpoolP384R1,
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What a client presents, DER, the leaf first, and its private key."""

    name: str
    chain: tuple[bytes, ...]
    key: Any

    @property
    def pem(self) -> bytes:
        return raw.pem(*self.chain)

    @cached_property
    def files(self) -> tuple[str, str]:
        place = Path(tempfile.mkdtemp(dir=scratch()))
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (place / "crt").write_bytes(self.pem)
        (place / "key").write_bytes(self.key.private_bytes(*form, serialization.NoEncryption()))
        return str(place / "crt"), str(place / "key")


@cache
def rsa_key(bits: int, which: int = 0) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def keys() -> dict[str, Any]:
    made: dict[str, Any] = {
        name: ec.generate_private_key(curve()) for name, curve in CURVES.items()
    }
    return made | {
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        "Ed448": ed448.Ed448PrivateKey.generate(),
        "RSA-1024": rsa_key(1024),
        "RSA-2048": rsa_key(2048),
        "RSA-3072": rsa_key(3072),
        "DSA-2048": dsa.generate_private_key(2048),
    }


def usage(**bits: bool) -> tuple[x509.ExtensionType, bool]:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{one: bits.get(one, False) for one in names}), True


def sign(
    issuer: Cert | None, subject: str, key: Any, algorithm: Any = None, *, ca: bool = False,
    eku: Sequence[x509.ObjectIdentifier] | None = (CLIENT,), begin: datetime | None = None,
    end: datetime | None = None, more: Iterable[tuple[x509.ExtensionType, bool]] = (),
    serial: int | None = None,
) -> Cert:  # fmt: skip
    """A certificate of any key and signature; without an issuer, a root."""
    by, signer = (issuer.certificate.subject, issuer.key) if issuer else (name_of(subject), key)
    builder = (
        x509.CertificateBuilder().subject_name(name_of(subject)).issuer_name(by)
        .public_key(key.public_key()).serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin or days(-1)).not_valid_after(end or days(30))
    )  # fmt: skip
    listed: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(ca, None), True)]
    if eku and not ca:
        listed.append((x509.ExtendedKeyUsage(eku), False))
    replaced = {one.oid for one, _ in more}
    for one, critical in [*(pair for pair in listed if pair[0].oid not in replaced), *more]:
        builder = builder.add_extension(one, critical)
    plain = isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    old = isinstance(algorithm, hashes.SHA1 | hashes.MD5)
    made = builder.sign(signer, None if plain else (not old and algorithm) or hashes.SHA256())
    if old:
        made = signed_by(signer, algorithm, made)
    return Cert(made, key, (issuer, *issuer.above) if issuer else ())


OLD = {"ecdsa sha1": "10045.4.1", "rsa sha1": "113549.1.1.5", "rsa md5": "113549.1.1.4"}


def signed_by(signer: Any, algorithm: Any, made: x509.Certificate) -> x509.Certificate:
    """The certificate under a signature that its builder makes no more."""
    elements = list(der_elements(der_content(made.tbs_certificate_bytes)))
    is_rsa = isinstance(signer, rsa.RSAPrivateKey)
    arcs = OLD[f"{'rsa' if is_rsa else 'ecdsa'} {algorithm.name}"]
    elements[2] = der(0x30, der(6, raw.oid(f"1.2.840.{arcs}")), *([der(5)] if is_rsa else []))
    tbs = der(0x30, *elements)
    how = (padding.PKCS1v15(), algorithm) if is_rsa else (ec.ECDSA(algorithm),)
    signature = der(3, b"\0", signer.sign(tbs, *how))
    return x509.load_der_x509_certificate(der(0x30, tbs, elements[2], signature))


@dataclass
class Table:
    """One policy, one list of CAs that servers trust where it is not managed, and the chains."""

    pki: Pki = field(default_factory=Pki)
    lines: list[str] = field(default_factory=lambda: ["set enforce on", "user alice on +@all"])
    trust: list[Cert] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)

    def show(self, name: str, leaf: Cert, *above: Cert) -> None:
        self.show_der(name, leaf.key, leaf.der, *(one.der for one in above))

    def show_der(self, name: str, key: Any, *chain: bytes) -> None:
        assert name not in {one.name for one in self.shown}
        self.shown.append(Shown(name, chain, key))

    def trusted(self, cert: Cert, line: str = "ca") -> Cert:
        """By the policy and, where that does not manage trust, the server."""
        self.lines.append(authority_line(cert, line))
        self.trust.append(cert)
        return cert


# ---- Leaves --------------------------------------------------------------------------------------


def leaves(ca: Cert) -> Iterator[tuple[str, Cert]]:
    """Of one CA with an EC key; the product with paths."""
    yield "good", ca.issue("CN=alice")
    yield "expired", ca.issue("CN=alice", not_before=days(-9), not_after=days(-1))
    yield "future", ca.issue("CN=alice", not_before=days(1))
    yield "serverAuth", ca.issue("CN=alice", eku=(SERVER,))
    yield "keyEncipherment", ca.issue("CN=alice", extensions=[usage(key_encipherment=True)])
    yield "unbound", ca.issue("CN=bob")
    yield "odd", ca.issue([[("CN", "alice")], [("OU", "")]])
    yield "NUL", ca.issue([[("CN", "alice\0")]])
    yield "two CNs", ca.issue([[("CN", "alice")], [("CN", "bob")]])
    yield "SHA-1", sign(ca, "CN=alice", raw.leaf_key(), hashes.SHA1())
    yield "RSA-1024", sign(ca, "CN=alice", keys()["RSA-1024"])
    yield "brainpool", sign(ca, "CN=alice", keys()["brainpoolP256r1"])


def single_leaves(table: Table, ca: Cert) -> None:
    for name, key in keys().items():
        if name != "RSA-1024":
            table.show(f"key {name}", sign(ca, "CN=alice", key))
    usual: dict[str, dict[str, Any]] = {
        "any EKU": {"eku": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)},
        "no EKU": {"eku": None},
        "e-mail EKU": {"eku": (ExtendedKeyUsageOID.EMAIL_PROTECTION,)},
        "both EKUs": {"eku": (SERVER, CLIENT)},
        "digitalSignature": {"extensions": [usage(digital_signature=True)]},
        "keyAgreement": {"extensions": [usage(key_agreement=True)]},
        "nonRepudiation": {"extensions": [usage(content_commitment=True)]},
        "CA:TRUE": {"ca": True},
        "CA:TRUE and clientAuth": {"ca": True, "eku": (CLIENT,)},
        "unknown extension": {"extensions": [(unknown(), False)]},
        "unknown critical extension": {"extensions": [(unknown(), True)]},
        "same DNS twice": {"san": ("dns:a.n", "dns:a.n")},
        "two DNS names": {"san": ("dns:a.n", "dns:b.n")},
        "e-mail": {"san": ("email:a@n",)},
        "too many names": {"san": [f"dns:{n}.{'x' * 50}.n" for n in range(400)]},
        "never ends": {"not_after": datetime(9999, 12, 31, 23, 59, 59)},
    }
    for name, options in usual.items():
        table.show(name, ca.issue("CN=s" if "san" in options else "CN=alice", **options))
    table.show("empty subject", ca.issue([], san=("uri:spiffe://n/a",)))
    self_signed = sign(None, "CN=alice", raw.leaf_key())
    table.show("signed by itself", self_signed)
    odd: dict[str, dict[str, Any]] = {
        "serial 0": {"serial": b"\0"},
        "negative serial": {"serial": b"\xff"},
        "33 bytes of serial": {"serial": b"\1" * 33},
        "time without seconds": {"validity": (raw.VALIDITY[0], raw.utc("4901010000Z"))},
        "time with an offset": {"validity": (raw.VALIDITY[0], raw.utc("490101000000+0100"))},
        "no extensions": {"extensions": ()},
        "empty RDN": {"subject": raw.name([(raw.CN, "alice")], [])},
        "twin attribute": {"subject": raw.name([(raw.CN, "alice"), (raw.CN, "alice")])},
        "constraints twice": {"extensions": (*raw.USUAL, raw.constraints(False))},
        "key usage that does not parse": {
            "extensions": (*raw.USUAL, raw.extension(raw.KEY_USAGE, b"\4\1\0"))
        },
        "SAN that does not parse": {
            "extensions": (*raw.USUAL, raw.extension(raw.SAN, b"\x30\x05\x82\1a"))
        },
        "other issuer's name": {"issuer": raw.name([(raw.CN, "Nobody")])},
        "a long name": {"subject": raw.person("a" * 5000)},
    }
    for name, more in odd.items():
        subject = more.pop("subject", raw.name([(raw.CN, "alice")]))
        table.show_der(name, raw.leaf_key(), raw.certificate(subject, by=ca, **more))
    good = raw.certificate(raw.name([(raw.CN, "alice")]), by=ca)
    table.show_der("broken signature", raw.leaf_key(), good[:-1] + bytes([good[-1] ^ 1]))
    by_key = sign(ca, "CN=k", keys()["P-384"])
    table.show("by its key", by_key)
    table.lines.append(f"bind key {by_key.key_id} alice")
    revoked = ca.issue("CN=alice", serial=4711)
    table.show("revoked", revoked)
    table.lines.append(f"revoke serial {ca.key_id} {revoked.serial}")


def unknown() -> x509.ExtensionType:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")


# ---- Paths ---------------------------------------------------------------------------------------


def twins(ca: Cert, subject: str) -> tuple[Cert, Cert]:
    """An intermediate that has ended, and its successor with the same name and key."""
    old = ca.authority(subject, not_before=days(-9), not_after=days(-1))
    return old, ca.authority(subject, key=old.key)


def paths(table: Table, ca: Cert) -> None:
    """Each kind of leaf under each kind of path."""
    sent, unsent = ca.authority("CN=Sent"), ca.authority("CN=Unsent")
    ended = ca.authority("CN=Ended", not_before=days(-9), not_after=days(-1))
    old, new = twins(ca, "CN=Twin CA")
    small = sign(ca, "CN=Small", rsa_key(1024, 1), ca=True)
    old_hash = sign(
        ca, "CN=Old hash", ec.generate_private_key(ec.SECP256R1()), hashes.SHA1(), ca=True
    )
    stranger, unlisted = root("CN=Stranger"), root("CN=In the server's file only")
    listed = root("CN=In the policy only")
    table.trust.append(unlisted)
    table.lines.append(authority_line(listed))
    for name, by, above in (
        ("a root", ca, ()),
        ("an intermediate", sent, (sent,)),
        ("its intermediate missing", unsent, ()),
        ("an intermediate that has ended", ended, (ended,)),
        ("the old twin first", new, (old, new)),
        ("the new twin first", new, (new, old)),
        ("the old twin alone", old, (old,)),
        ("an intermediate of RSA-1024", small, (small,)),
        ("an intermediate signed with SHA-1", old_hash, (old_hash,)),
        ("a stranger", stranger, ()),
        ("a CA that only the server trusts", unlisted, ()),
        ("a CA that only the policy trusts", listed, ()),
    ):
        for kind, leaf in leaves(by):
            table.show(f"{kind} under {name}", leaf, *above)


def single_paths(table: Table, ca: Cert) -> None:
    a, b = ca.authority("CN=A"), ca.authority("CN=B")
    deep = a.authority("CN=Deep")
    table.show("two intermediates", deep.issue("CN=alice"), deep, a)
    table.show("in the wrong order", deep.issue("CN=alice"), a, deep)
    table.show("with the root", deep.issue("CN=alice"), deep, a, ca)
    table.show("with one that has nothing to do with it", a.issue("CN=alice"), b, a)
    table.show("the same one twice", a.issue("CN=alice"), a, a)
    table.show("with itself", *[a.issue("CN=alice")] * 2, a)
    intermediates: dict[str, list[tuple[x509.ExtensionType, bool]]] = {
        "without CA:TRUE": [(x509.BasicConstraints(False, None), True)],
        "without keyCertSign": [usage(crl_sign=True)],
        "for servers": [(x509.ExtendedKeyUsage([SERVER]), False)],
        "for others' names": [(x509.NameConstraints([x509.DNSName("only.example")], None), True)],
        "with an unknown critical extension": [(unknown(), True)],
    }
    for name, more in intermediates.items():
        made = sign(ca, f"CN={name}", ec.generate_private_key(ec.SECP256R1()), ca=True, more=more)
        table.show(f"an intermediate {name}", made.issue("CN=alice", san=("dns:a.n",)), made)
    short = sign(ca, "CN=Short", ec.generate_private_key(ec.SECP256R1()), ca=True,
                 more=[(x509.BasicConstraints(True, 0), True)])  # fmt: skip
    below = short.authority("CN=Below")
    table.show("a path longer than it may be", below.issue("CN=alice"), below, short)
    table.show("a path as long as it may be", short.issue("CN=alice"), short)
    dead = ca.authority("CN=Dead")
    table.lines.append(f"revoke key {dead.key_id}")
    table.show("a revoked intermediate", dead.issue("CN=alice"), dead)
    long = [ca]
    for number in range(9):
        long.insert(0, long[0].authority(f"CN=Long {number}"))
    for count in (7, 8):
        above = long[-count - 1 : -1]
        table.show(f"{count + 1} CAs", above[0].issue("CN=alice"), *above)


def single_roots(table: Table) -> None:
    """Roots of their own, which the policy and the server trust, or one of them."""
    weak = table.trusted(sign(None, "CN=RSA-1024 root", rsa_key(1024, 2), ca=True))
    table.show("a root of RSA-1024", sign(weak, "CN=alice", raw.leaf_key()))
    old = table.trusted(sign(None, "CN=SHA-1 root", rsa_key(2048, 1), hashes.SHA1(), ca=True))
    table.show("a root signed with SHA-1", sign(old, "CN=alice", raw.leaf_key()))
    table.show("signed with MD5", sign(old, "CN=alice", raw.leaf_key(), hashes.MD5()))
    strong = table.trusted(sign(None, "CN=RSA root", rsa_key(3072, 1), hashes.SHA512(), ca=True))
    table.show("SHA-512", sign(strong, "CN=alice", raw.leaf_key(), hashes.SHA384()))
    pure = table.trusted(sign(None, "CN=Ed25519 root", keys()["Ed25519"], ca=True))
    table.show("an Ed25519 root", sign(pure, "CN=alice", raw.leaf_key()))
    gone = table.trusted(root("CN=Gone", not_before=days(-9), not_after=days(-1)))
    table.show("a root that has ended", gone.issue("CN=alice"))
    first = table.trusted(root("CN=Renewed", not_before=days(-9), not_after=days(-1)))
    again = table.trusted(root("CN=Renewed", key=first.key))
    table.show("a root that was renewed", again.issue("CN=alice"))
    # A CA that is a root, and that another root has signed as well.
    k, r = root("CN=K"), root("CN=R")
    crossed = sign(r, "CN=K", k.key, ca=True)
    table.trusted(r)
    table.trust.append(k)
    table.show("cross-signed, of which the policy has the other root", k.issue("CN=alice"), crossed)
    table.show("cross-signed, by its own root", k.issue("CN=alice"))
    top = root("CN=Top")
    table.trusted(top, "anchor")
    middle = top.authority("CN=Middle")
    table.lines.append(authority_line(middle))
    table.show("below an anchor", middle.issue("CN=alice"), middle)
    table.show("below an anchor, its intermediate of the policy alone", middle.issue("CN=alice"))
    table.show("of the anchor itself", top.issue("CN=alice"))
    nowhere = root("CN=Root that is nowhere").authority("CN=Rootless")
    table.lines.append(authority_line(nowhere))
    table.trust.append(nowhere)
    table.show("a `ca` line without its root", nowhere.issue("CN=alice"), nowhere)
    ones = [table.trusted(root("CN=Namesake")) for _ in range(2)]
    for number, one in enumerate(ones):
        table.show(f"a namesake, number {number}", one.issue("CN=alice"))
    itself = root("CN=alice")
    table.trusted(itself)
    table.show("a root as a client", itself)


# ---- Trusted by itself ---------------------------------------------------------------------------


def pin(table: Table, name: str, cert: Cert, *above: Cert) -> None:
    table.show(f"pinned, {name}", cert, *above)
    table.lines.append(authority_line(cert, "pin"))


def pins(table: Table, ca: Cert) -> None:
    """Each kind of leaf, under nobody and under CAs that are known or not; and who is none of
    them."""
    stranger = root("CN=Of pins only")
    below = stranger.authority("CN=Below it")
    for name, by, above in (
        ("unknown CA", stranger, ()),
        ("unknown CA, sent", below, (below,)),
        ("unknown CA and its root, sent", below, (below, stranger)),
        ("trusted CA", ca, ()),
    ):
        for kind, leaf in leaves(by):
            if kind != "brainpool":
                pin(table, f"{kind}, {name}", leaf, *above)
        table.show(f"beside those pinned, {name}", by.issue("CN=alice"), *above)
    selfmade: dict[str, dict[str, Any]] = {
        "alone": {},
        "CA:TRUE": {"ca": True},
        "CA:TRUE, keyCertSign": {"ca": True, "more": [usage(key_cert_sign=True)]},
        "CA:TRUE, both usages": {
            "ca": True, "more": [usage(key_cert_sign=True, digital_signature=True)],
        },
        "expired": {"begin": days(-9), "end": days(-1)},
        "future": {"begin": days(1)},
        "serverAuth": {"eku": (SERVER,)},
        "SHA-1": {"algorithm": hashes.SHA1()},
        "MD5": {"key": rsa_key(2048, 3), "algorithm": hashes.MD5()},
        "RSA-1024": {"key": rsa_key(1024, 3)},
        "RSA-2048": {"key": rsa_key(2048, 3)},
        "Ed25519": {"key": keys()["Ed25519"]},
        "unknown critical extension": {"more": [(unknown(), True)]},
    }  # fmt: skip
    for name, options in selfmade.items():
        key = ec.generate_private_key(ec.SECP256R1())
        alone = sign(None, "CN=alice", **{"key": key, **options})
        pin(table, f"by itself, {name}", alone)
        if options.get("ca"):
            table.show(f"its child, {name}", alone.issue("CN=alice"))
            table.show(f"its child, with it, {name}", alone.issue("CN=alice"), alone)
        table.show(f"its namesake, {name}", sign(None, "CN=alice", **{"key": key, **options}))


def odd_pins(table: Table, ca: Cert) -> None:
    """Under paths that are wrong by themselves."""
    ended = ca.authority("CN=Ended of pins", not_before=days(-9), not_after=days(-1))
    dead = ca.authority("CN=Dead of pins")
    table.lines.append(f"revoke key {dead.key_id}")
    small = sign(ca, "CN=Small of pins", rsa_key(1024, 4), ca=True)
    only = [(x509.NameConstraints([x509.DNSName("only.example")], None), True)]
    key = ec.generate_private_key(ec.SECP256R1())
    narrow = sign(ca, "CN=Narrow", key, ca=True, more=only)
    for name, by in {"ended": ended, "revoked": dead, "weak": small, "narrow": narrow}.items():
        for sent in ((), (by,)):
            leaf = by.issue("CN=alice", san=("dns:a.n",))
            pin(table, f"of a CA that is {name}, {'' if sent else 'not '}sent", leaf, *sent)
    # Another CA of that name is in the trust store: libcrypto tries no other.
    table.trusted(root("CN=Taken name"))
    pin(table, "of a CA whose name another has", root("CN=Taken name").issue("CN=alice"))
    old = table.trusted(root("CN=Ended root", not_before=days(-9), not_after=days(-1)))
    pin(table, "of a root that has ended", old.issue("CN=alice"))
    revoked = sign(None, "CN=alice", ec.generate_private_key(ec.SECP256R1()))
    pin(table, "and revoked", revoked)
    table.lines.append(f"revoke serial {revoked.key_id} {revoked.serial}")
    good = raw.certificate(raw.name([(raw.CN, "alice")]), by=ca)
    broken = good[:-1] + bytes([good[-1] ^ 1])
    table.show_der("pinned, broken signature", raw.leaf_key(), broken)
    table.lines.append(authority_line(broken, "pin"))
    bound = ca.authority("CN=Asked for").issue("CN=c")
    table.lines.append(f"bind cn c alice ca={ca.key_id}")
    pin(table, "of a CA asked for", bound, *bound.above[:1])


def rootless(table: Table) -> None:
    """`ca` lines below roots that are nowhere, and an `anchor` that is."""
    top = root("CN=Nowhere at all")
    weak: dict[str, Any] = {"key": rsa_key(1024, 5)}
    below_nowhere: dict[str, dict[str, Any]] = {
        "good": {}, "ended": {"begin": days(-9), "end": days(-1)}, "RSA-1024": weak,
        "SHA-1": {"algorithm": hashes.SHA1()},
        "for servers": {"more": [(x509.ExtendedKeyUsage([SERVER]), False)]},
        "pathlen 0": {"more": [(x509.BasicConstraints(True, 0), True)]},
    }  # fmt: skip
    for name, options in below_nowhere.items():
        made: dict[str, Any] = {"key": ec.generate_private_key(ec.SECP256R1()), **options}
        middle = sign(top, f"CN=Rootless {name}", ca=True, **made)
        table.trusted(middle)
        below = middle.authority("CN=Sub")
        for kind, leaf in leaves(middle):
            if kind in ("good", "expired", "SHA-1"):
                table.show(f"{kind} of a rootless CA, {name}", leaf)
                table.show(f"{kind} of a rootless CA, {name}, sent", leaf, middle)
        table.show(f"below a rootless CA, {name}", below.issue("CN=alice"), below)
        table.show(f"below a rootless CA, {name}, all sent", below.issue("CN=alice"), below, middle)
        table.show(f"a rootless CA, {name}, its root sent", middle.issue("CN=alice"), middle, top)
    table.show("of its root", top.issue("CN=alice"), top)
    other = table.trusted(top.authority("CN=Rootless anchor"), "anchor")
    table.show("of an anchor without its root", other.issue("CN=alice"))
    under = table.trusted(other.authority("CN=Of it"))
    table.show("a rootless CA below an anchor", under.issue("CN=alice"))
    high = table.trusted(top.authority("CN=Rootless high"))
    low = table.trusted(high.authority("CN=Rootless low"), "anchor")
    table.show("an anchor below a rootless CA", low.issue("CN=alice"))


@cache
def table() -> Table:
    made = Table()
    ca = made.trusted(made.pki.ca)
    made.lines += [
        "bind cn alice alice", "bind dns a.n alice", "bind email a@n alice",
        "bind uri spiffe://n/a alice",
    ]  # fmt: skip
    single_leaves(made, ca)
    paths(made, ca)
    single_paths(made, ca)
    single_roots(made)
    pins(made, ca)
    odd_pins(made, ca)
    rootless(made)
    return made
