"""What a policy demands of the certificates that it maps: how long they live, what they are for,
their keys, and the TLS version of their connections."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from control._core import ffi, lib
from control.policy import core
from control.policy.core import CoreError, Policy, PolicyError
from control.reports import ClientCertificate
from tests.kit import certs as raw
from tests.kit.certs import (
    ANY_USAGE,
    CERTIFICATE_POLICIES,
    CLIENT_AUTH,
    NOW,
    SERVER_AUTH,
    authority_line,
    ca,
    certificate,
    constraints,
    decide,
    extension,
    oid,
    patch,
    person,
    policies,
    policy,
    purposes,
    sans,
    spki_of,
    trusting,
    uri,
    utc,
)
from tests.kit.support import der

ALICE = person("alice")
BIND = "bind subject CN=alice,O=acme alice"
TRUST = ["set enforce on", authority_line(ca()), BIND]
TLS12, TLS13 = 0x0303, 0x0304
EMAIL_USAGE = oid("1.3.6.1.5.5.7.3.4")


def reason(line: str, leaf: bytes, *more: str, **options: Any) -> str:
    return decide(policy([*TRUST, line, *more]), leaf, **options).reason


def with_usages(*usages: bytes) -> bytes:
    listed = [purposes(*usages)] if usages else []
    return certificate(ALICE, extensions=[constraints(False), *listed])


def with_policies(*asserted: bytes) -> bytes:
    return certificate(ALICE, policies(*asserted))


# ---- Lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "canonical"),
    [
        ("set max-lifetime 90d", "set max-lifetime 90d"),
        ("set max-lifetime 2160h", "set max-lifetime 90d"),
        ("set max-lifetime 0000090m", "set max-lifetime 90m"),
        ("set max-lifetime 1s", "set max-lifetime 1s"),
        ("set max-lifetime 24855d", "set max-lifetime 24855d"),
        ("set max-lifetime 2147483647s", "set max-lifetime 2147483647s"),
        ("set require-eku clientAuth", "set require-eku 1.3.6.1.5.5.7.3.2"),
        ("set require-eku 1.3.6.1.5.5.7.3.2", "set require-eku 1.3.6.1.5.5.7.3.2"),
        (
            "set require-eku msSmartcardLogin,2.999.1,clientAuth",
            "set require-eku 1.3.6.1.4.1.311.20.2.2,1.3.6.1.5.5.7.3.2,2.999.1",
        ),
        ("set require-policy 2.999.1,1.2.3", "set require-policy 1.2.3,2.999.1"),
        ("set require-policy 2.5.4.3", "set require-policy 2.5.4.3"),  # of CN, and not its name
        ("set require-policy 0.0,2.47", "set require-policy 0.0,2.47"),
        (
            "set require-policy " + ",".join(f"1.2.{n}" for n in range(31, -1, -1)),
            "set require-policy " + ",".join(f"1.2.{n}" for n in range(32)),
        ),
        ("set min-key-bits 2048", "set min-key-bits 2048"),
        ("set min-key-bits 01024", "set min-key-bits 1024"),
        ("set min-key-bits 16384", "set min-key-bits 16384"),
        ("set min-tls 1.2", "set min-tls 1.2"),
        ("set min-tls '1.3'", "set min-tls 1.3"),
    ],
)
def test_a_demand_and_its_canonical_text(line: str, canonical: str) -> None:
    """Names and the order of a list mean nothing; what a name stands for does not depend on the
    OpenSSL that reads it."""
    assert core.canonical(line) == canonical
    assert core.canonical(canonical) == canonical


LIFETIME = "set max-lifetime takes a whole number above 0 with s, m, h or d, up to 24855d"
USAGES = "set require-eku takes OIDs, or names such as clientAuth, joined by commas, each once"
POLICY = "set require-policy takes dotted OIDs joined by commas, each once, 32 at most"
BITS = "set min-key-bits takes a whole number of RSA bits from 1024 to 16384"
BAD = {
    LIFETIME: [
        "set max-lifetime " + text
        for text in ("0d", "0s", "-1d", "+1d", "90", "d", "''", "1h30m", "1.5h", "90D", "90 d",
                     "1w", "24856d", "2147483648s", "4294967296s", "18446744073709551617s",
                     "９d", "0x9d")
    ],
    USAGES: [
        "set require-eku " + text
        for text in ("''", ",", "clientAuth,", ",clientAuth", "clientAuth,,2.999.1", "1", "1.",
                     ".1", "3.1", "1.40", "1..2", "01.2", "1.02", "-1.2", "1.2.x", "OID.1.2",
                     "clientauth", "CN", "clientAuth;serverAuth", "'clientAuth, serverAuth'",
                     "1.2.3\\0",
                     "clientAuth,1.3.6.1.5.5.7.3.2", "1.2,1.3,1.2", "1." + "9" * 5000,
                     ",".join(f"1.2.{n}" for n in range(33)))
    ],
    POLICY: [
        "set require-policy " + text
        for text in ("''", "clientAuth", "1.2.3,1.2.3", "1.2.3,", "acme", "2.999.1.",
                     "'1.2.3 ,1.2.4'")
    ],
    BITS: [
        "set min-key-bits " + text
        for text in ("0", "-2048", "+2048", "''", "256", "1023", "16385", "2048.0", "2k", "0x800",
                     "4294969344", "18446744073709553664", "99999999999999999999999")
    ],
    "set min-tls takes 1.2 or 1.3, not": [
        "set min-tls " + text for text in ("1.1", "1.0", "1.4", "2", "TLSv1.2", "''", "1.20")
    ],
    "stands for all of them": [
        "set require-eku anyExtendedKeyUsage", "set require-eku clientAuth,2.5.29.37.0",
        "set require-policy 2.5.29.32.0",
    ],
    "the value of the setting is missing": [
        f"set {word}" for word in ("max-lifetime", "require-eku", "require-policy", "min-key-bits",
                                   "min-tls")
    ],
    "one word too many": ["set max-lifetime 1d 2d", "set require-eku clientAuth serverAuth"],
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_a_demand_that_is_none(message: str) -> None:
    """Each bad line says what to write."""
    for line in BAD[message]:
        with pytest.raises(CoreError) as refused:
            core.canonical(line)
        assert message in str(refused.value), line


def test_a_demand_is_made_once() -> None:
    """Two values are a contradiction, in whichever spelling; a bootstrap file makes none."""
    for lines in (
        ["set max-lifetime 1d", "set max-lifetime 2d"],
        ["set require-eku clientAuth", "set require-eku serverAuth"],
        ["set min-tls 1.2", "set min-tls 1.3"],
    ):
        with pytest.raises(PolicyError, match="says something else than line 1"):
            Policy(lines)
    with pytest.raises(PolicyError, match="the same line as line 1"):
        Policy(["set max-lifetime 1d", "set max-lifetime 24h"])
    with pytest.raises(ValueError, match="a bootstrap file holds"):
        policy(["set max-lifetime 1d"], lib.FROM_BOOTSTRAP)


def test_demands_come_and_go() -> None:
    """The value is that of the lines, in a policy, beside a change and after it."""
    base = policy([*TRUST, "set max-lifetime 90d", "set require-eku clientAuth"])
    assert lib.policy_setting(base, lib.SET_MAX_LIFETIME) == 90 * 86400
    assert lib.policy_setting(base, lib.SET_REQUIRE_EKU) == 1
    assert lib.policy_setting(base, lib.SET_MIN_KEY_BITS) == 0
    change = ffi.gc(
        patch(base, ["-set max-lifetime 90d", "+set min-key-bits 4096", "+set min-tls 1.3"]),
        lib.patch_free,
    )
    assert lib.patch_setting(change, lib.SET_MAX_LIFETIME) == 0
    assert lib.patch_setting(change, lib.SET_MIN_KEY_BITS) == 4096
    assert lib.patch_setting(change, lib.SET_MIN_TLS) == lib.MIN_TLS_1_3
    leaf = certificate(ALICE)
    assert decide(base, leaf).reason == "lifetime"
    assert decide(base, leaf, pending=change).reason == "key_too_small"
    lib.policy_commit(base, change)
    assert decide(base, leaf).reason == "key_too_small"


# ---- Lifetime ------------------------------------------------------------------------------------


def test_a_lifetime_is_from_not_before_to_not_after() -> None:
    """To the second: what lives as long as is allowed is let in, a second more is not, however much
    of it is over."""
    leaf = certificate(ALICE, validity=(utc("270114080000Z"), utc("270116080000Z")))
    assert reason("set max-lifetime 2d", leaf) == "matched"
    assert reason("set max-lifetime 172799s", leaf) == "lifetime"
    almost = certificate(ALICE, validity=(utc("200101000000Z"), utc("270115080000Z")))
    assert reason("set max-lifetime 2d", almost) == "lifetime"


def test_a_lifetime_beyond_what_seconds_hold() -> None:
    """Of the year 9999: refused, and not let in by an overflow."""
    leaf = certificate(ALICE, validity=(utc("500101000000Z"), raw.generalized("99991231235959Z")))
    assert reason("set max-lifetime 24855d", leaf) == "lifetime"


# ---- Extended key usages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand", "usages", "good"),
    [
        ("clientAuth", [CLIENT_AUTH], True),
        ("clientAuth", [SERVER_AUTH, EMAIL_USAGE, CLIENT_AUTH], True),
        ("clientAuth,emailProtection", [CLIENT_AUTH, EMAIL_USAGE], True),
        ("clientAuth,emailProtection", [EMAIL_USAGE, CLIENT_AUTH], True),
        ("clientAuth,emailProtection", [CLIENT_AUTH], False),
        ("2.999.1", [CLIENT_AUTH, oid("2.999.1")], True),
        ("2.999.1", [CLIENT_AUTH, oid("2.999.1.1")], False),  # one arc more is another
        ("2.999.1", [CLIENT_AUTH, oid("2.999")], False),
        ("2.999.1", [CLIENT_AUTH], False),
        ("clientAuth", [], False),  # good for anything is not: for this
        ("clientAuth", [ANY_USAGE], False),
        ("emailProtection", [CLIENT_AUTH, ANY_USAGE], False),
    ],
)
def test_the_extended_key_usages_of_a_leaf(demand: str, usages: list[bytes], good: bool) -> None:
    """All of them, and by themselves: anyExtendedKeyUsage, or none at all, is for everything that
    a CA did not think of."""
    wanted = "matched" if good else "required_eku"
    leaf = with_usages(*usages)
    plain = decide(policy(TRUST), leaf).reason
    if plain == "key_usage":  # the check before it: anyExtendedKeyUsage alone
        assert reason(f"set require-eku {demand}", leaf) == "key_usage"
        return
    assert plain == "matched"
    assert reason(f"set require-eku {demand}", leaf) == wanted


# ---- Certificate policies ------------------------------------------------------------------------

GOLD, SILVER = oid("1.3.6.1.4.1.99999.1"), oid("1.3.6.1.4.1.99999.2")
QUALIFIED = extension(
    CERTIFICATE_POLICIES,
    der(
        0x30,
        der(
            0x30,
            der(6, GOLD),
            der(0x30, der(0x30, der(6, oid("1.3.6.1.5.5.7.2.1")), der(22, b"http://x/cps"))),
        ),
    ),
)


@pytest.mark.parametrize(
    ("demand", "leaf", "good"),
    [
        ("1.3.6.1.4.1.99999.1", with_policies(GOLD), True),
        ("1.3.6.1.4.1.99999.1", with_policies(SILVER, GOLD), True),
        ("1.3.6.1.4.1.99999.1", certificate(ALICE, QUALIFIED), True),
        ("1.3.6.1.4.1.99999.1,1.3.6.1.4.1.99999.2", with_policies(SILVER, GOLD), True),
        ("1.3.6.1.4.1.99999.1,1.3.6.1.4.1.99999.2", with_policies(GOLD), False),
        ("1.3.6.1.4.1.99999.1", with_policies(SILVER), False),
        ("1.3.6.1.4.1.99999", with_policies(GOLD), False),
        ("1.3.6.1.4.1.99999.1", certificate(ALICE), False),
        ("1.3.6.1.4.1.99999.1", with_policies(oid("2.5.29.32.0")), False),  # anyPolicy
        # Broken, twice, with something behind it: nothing is asserted.
        ("1.3.6.1.4.1.99999.1", certificate(ALICE, extension(CERTIFICATE_POLICIES, b"\x30\x03")),
         False),
        ("1.3.6.1.4.1.99999.1", certificate(ALICE, extension(CERTIFICATE_POLICIES, b"")), False),
        ("1.3.6.1.4.1.99999.1", certificate(ALICE, policies(GOLD), policies(GOLD)), False),
        ("1.3.6.1.4.1.99999.1", certificate(ALICE, policies(SILVER), policies(GOLD)), False),
    ],
)  # fmt: skip
def test_the_certificate_policies_of_a_leaf(demand: str, leaf: bytes, good: bool) -> None:
    """What its CA has written into it, and nothing that stands for it. Without the demand none of
    these is refused for its policies."""
    without = decide(policy(TRUST), leaf).reason
    assert without in ("matched", "malformed")
    if without == "matched":
        wanted = "matched" if good else "required_policy"
        assert reason(f"set require-policy {demand}", leaf) == wanted


def test_the_policies_of_the_cas_are_not_asked_for() -> None:
    """Docs say so: the leaf is asked, whatever its CA may assert."""
    above = raw.intermediate(ca(), "CN=Gold CA")
    leaf = certificate(ALICE, policies(GOLD), by=above)
    found = decide(policy([*TRUST, "set require-policy 1.3.6.1.4.1.99999.1"]), leaf, [above, ca()])
    assert found.reason == "matched"


@pytest.mark.parametrize("listed", [purposes, policies])
def test_lists_that_are_too_long(listed: Callable[..., bytes]) -> None:
    """2,048 bytes with a length before each are taken to the last; more is refused by name, never
    cut."""
    many = [*(oid(f"2.999.{1000 + n}") for n in range(406)), CLIENT_AUTH, EMAIL_USAGE]
    extensions = [constraints(False)] + ([purposes(CLIENT_AUTH)] if listed is policies else [])
    good = certificate(ALICE, listed(*many), extensions=extensions)
    demand = "set require-eku clientAuth" if listed is purposes else "set require-policy 2.999.1405"
    assert reason(demand, good) == "matched"
    bad = certificate(ALICE, listed(*many, oid("2.999.7")), extensions=extensions)
    found = decide(policy(TRUST), bad)
    assert (found.reason, "longer than 2048 bytes" in (found.detail or "")) == ("too_large", True)


# ---- Keys ----------------------------------------------------------------------------------------

# What each key counts as: NIST SP 800-57 part 1, table 2.
KEYS: dict[str, tuple[Callable[[], Any], int]] = {
    "RSA 1024": (lambda: rsa.generate_private_key(65537, 1024), 1024),
    "RSA 2048": (lambda: rsa.generate_private_key(65537, 2048), 2048),
    "RSA 3072": (lambda: rsa.generate_private_key(65537, 3072), 3072),
    "DSA 2048": (lambda: dsa.generate_private_key(2048), 2048),
    "P-224": (lambda: ec.generate_private_key(ec.SECP224R1()), 2048),
    "P-256": (lambda: ec.generate_private_key(ec.SECP256R1()), 3072),
    "P-384": (lambda: ec.generate_private_key(ec.SECP384R1()), 7680),
    "P-521": (lambda: ec.generate_private_key(ec.SECP521R1()), 15360),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, 3072),
    "Ed448": (ed448.Ed448PrivateKey.generate, 7680),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_as_large_as_the_rsa_key_that_is_as_strong(key: str) -> None:
    """As many bits are let in, one more is not."""
    make, bits = KEYS[key]
    leaf = certificate(ALICE, spki=spki_of(make()))
    assert reason(f"set min-key-bits {bits}", leaf) == "matched"
    assert reason(f"set min-key-bits {bits + 1}", leaf) == "key_too_small"


def test_a_key_that_nobody_knows_is_none() -> None:
    """Of an algorithm that this libcrypto does not know, no size is known."""
    spki = der(0x30, der(0x30, der(6, oid("2.999.1"))), der(3, b"\0" * 5000))
    found = decide(policy([*TRUST, "set min-key-bits 1024"]), certificate(ALICE, spki=spki))
    assert found.reason == "key_too_small"
    assert decide(policy(TRUST), certificate(ALICE, spki=spki)).reason == "matched"


# ---- TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "version", "good"),
    [
        ("1.2", TLS12, True),
        ("1.2", TLS13, True),
        ("1.3", TLS13, True),
        ("1.3", 0x0305, True),
        ("1.3", TLS12, False),
        ("1.2", 0x0302, False),
        ("1.2", 0, False),  # not known is not new enough
        ("1.3", 0, False),
    ],
)
def test_the_tls_version_of_a_connection(least: str, version: int, good: bool) -> None:
    """It is the connection's, whatever the certificate."""
    wanted = "matched" if good else "tls_version"
    assert reason(f"set min-tls {least}", certificate(ALICE), tls_version=version) == wanted


def test_explain_says_what_it_was_not_told() -> None:
    """Of a certificate without a connection: nobody is refused for it, and it is said."""
    under = trusting(BIND, "set min-tls 1.3")
    found = under.decide(certificate(ALICE), now=NOW)
    assert found.user == "alice"
    told = "not known here is whether the TLS version of its connection is new enough"
    assert told in found.trace
    for version, wanted in (("1.3", "matched"), ("1.2", "tls_version")):
        found = under.decide(certificate(ALICE), now=NOW, tls_version=version)
        assert (found.reason, told in found.trace) == (wanted, False)


# ---- Whom they concern ---------------------------------------------------------------------------

ALL = ["set max-lifetime 1d", "set require-eku codeSigning", "set require-policy 1.2.3",
       "set min-key-bits 4096", "set min-tls 1.3"]  # fmt: skip


@pytest.mark.parametrize("demand", ALL)
def test_a_demand_concerns_whom_the_policy_maps(demand: str) -> None:
    """By a pattern, and those who have to choose, as well; a stranger is nobody of whom it could
    demand anything, and is left or refused as ever."""
    by_name = certificate(ALICE, sans(uri("spiffe://acme/a")))
    names = {"lifetime", "required_eku", "required_policy", "key_too_small", "tls_version"}
    lines = ["set enforce on", authority_line(ca()), demand]
    for bound in (BIND, f"{BIND} bob", "pattern uri spiffe://acme/{id} app:{id} on"):
        assert decide(policy([*lines, bound]), by_name).reason in names
        assert decide(policy([*lines[:2], bound]), by_name).reason == "matched"
    stranger = certificate(person("carol"))
    for more, action in (([], "refuse"), (["set unmatched leave"], "leave")):
        found = decide(policy([*TRUST, demand, *more]), stranger)
        assert (found.action, found.reason) == (action, "no_binding")


@pytest.mark.parametrize("demand", ALL)
def test_a_demand_cuts_no_replication_and_locks_nobody_out(demand: str) -> None:
    """A node's peer is known by its key, and anyone whom the bootstrap file binds may have to take
    the demand back. The same certificate, bound as a person's, is refused."""
    leaf = certificate(ALICE)
    key = core.identity(leaf).key
    lines = ["set enforce on", authority_line(ca()), demand]
    peer = decide(policy([*lines, f"bind key {key} certauth-peer-replica"]), leaf)
    assert (peer.action, peer.users) == ("login", ("certauth-peer-replica",))
    assert not any("set " in line for line in peer.trace)
    own = policy([f"bind key {key} keeper", "user keeper on", authority_line(ca())],
                 lib.FROM_BOOTSTRAP)  # fmt: skip
    keeper = decide(policy([*lines, BIND]), leaf, bootstrap=own)
    assert (keeper.action, keeper.users) == ("login", ("keeper",))
    assert not any("set " in line for line in keeper.trace)
    assert decide(policy([*lines, f"bind key {key} alice"]), leaf).action == "refuse"
    # A peer by its name alone is none.
    assert decide(policy([*lines, "bind cn alice certauth-peer-x"]), leaf).action == "refuse"


def test_shadow_records_a_demand() -> None:
    """It says what would be, and does nothing."""
    lines = ["set enforce shadow", *TRUST[1:], "set max-lifetime 1d"]
    found = decide(policy(lines), certificate(ALICE))
    assert (found.reason, found.shadow) == ("lifetime", True)


# ---- Explain -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "leaf", "told"),
    [
        (
            "set max-lifetime 1d",
            certificate(ALICE, validity=(utc("270115000000Z"), utc("270117000000Z"))),
            "lifetime: it lives longer than the policy allows: from notBefore to notAfter it has "
            "2d",
        ),
        (
            "set require-eku 2.999.1,clientAuth,emailProtection",
            certificate(ALICE),
            "required_eku: it has not all extended key usages that the policy asks for: it lacks "
            "1.3.6.1.5.5.7.3.4, 2.999.1",
        ),
        (
            "set require-policy 1.2.3",
            certificate(ALICE),
            "required_policy: it has not all certificate policies that the policy asks for: it "
            "lacks 1.2.3",
        ),
        (
            "set min-key-bits 4096",
            certificate(ALICE),
            "key_too_small: its key is smaller than the policy allows: it counts as 3072 bits of "
            "RSA",
        ),
    ],
)
def test_explain_says_what_it_has_and_by_which_line(line: str, leaf: bytes, told: str) -> None:
    """And both who owns the lines, and who has a control plane for that, hear what to do."""
    found = decide(policy([*TRUST, line]), leaf)
    assert told in found.trace
    assert f"by the line: {core.canonical(line)}" in found.trace
    setting = line.split()[1]
    assert f"or change `set {setting}`" in found.trace[-1]
    managed = trusting(BIND, line).decide(leaf, now=NOW, managed=True).trace[-1]
    assert managed.startswith("to change it: ")
    assert "`set" not in managed


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (TLS12, "it is TLS 1.2"),
        (0x0302, "it is older than TLS 1.2"),
        (0, "it is not known, since its certificate came by the server's module API"),
    ],
)
def test_explain_says_the_tls_version(version: int, told: str) -> None:
    found = decide(policy([*TRUST, "set min-tls 1.3"]), certificate(ALICE), tls_version=version)
    said = "the TLS version of its connection is older than the policy allows"
    assert f"tls_version: {said}: {told}" in found.trace


def test_a_demand_that_is_met_is_told_with_its_line() -> None:
    """Those that the policy does not make are not."""
    met = ["set max-lifetime 20000d", "set require-eku clientAuth", "set min-key-bits 3072"]
    trace = decide(policy([*TRUST, *met]), certificate(ALICE)).trace
    for line in met:
        at = trace.index(f"by the line: {core.canonical(line)}")
        assert trace[at - 1].startswith(("its lifetime is", "it has the extended", "its key is"))
    assert not any("certificate policies" in line for line in trace)


def test_a_certificate_of_an_inventory_is_judged_by_what_is_known() -> None:
    """By its lifetime; what an inventory does not keep is said to be unknown, and refuses
    nobody."""
    leaf = core.identity(certificate(ALICE))
    known = ClientCertificate(
        leaf.cert, leaf.key, ca().key_id, leaf.issuer, leaf.serial, leaf.subject, "alice",
        not_before=leaf.not_before, not_after=leaf.not_after, first=1, last_login=1, bdb_uid=1,
    )  # fmt: skip
    for line in ALL[1:]:
        found = trusting(BIND, line).decide_known(known, now=NOW)
        assert found.user == "alice"
        assert any(one.startswith("not known here is whether ") for one in found.trace), line
    short = trusting(BIND, "set max-lifetime 1d")
    assert short.decide_known(known, now=NOW).reason == "lifetime"
    assert short.decide_known(replace(known, not_before=0), now=NOW).user == "alice"


def test_what_a_session_keeps_of_a_leaf_is_what_was_read() -> None:
    """Sessions are decided again without their certificates."""
    leaf = certificate(ALICE, sans(uri("spiffe://x")), policies(GOLD, SILVER))
    read = raw.read(leaf)
    kept = ffi.gc(lib.identity_keep(read), lib.identity_free)
    for name in ("usages", "policies", "sans", "subject"):
        assert raw.bytes_of(getattr(kept, name)) == raw.bytes_of(getattr(read, name)) != b""
    assert kept.key_bits == read.key_bits == 3072
