"""A naive decision in Python, by docs/policy.md alone, and random policies and leaves for it.

What a generator picks it picks from the `rng` that it is given, which may be Hypothesis's: then a
failure shrinks, to fewer lines as well."""

import hashlib
import ipaddress
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from itertools import combinations
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from control.policy import core
from tests.kit import certs as raw
from tests.kit.certs import (
    CLIENT_AUTH,
    CN,
    NOW,
    OU,
    UID,
    O,
    authority_line,
    certificate,
    constraints,
    dns,
    email,
    extension,
    intermediate,
    leaf_key,
    long_root,
    name,
    oid,
    purposes,
    sans,
    spki_of,
    upn,
    uri,
    utc,
)
from tests.kit.reasons import reasons
from tests.kit.support import Cert, der

# What a leaf's key may be: how many bits of RSA it counts as, and its SubjectPublicKeyInfo.
KEYS: dict[str, Callable[[], tuple[int, bytes]]] = {
    "P-256": lambda: (3072, spki_of(leaf_key())),
    "P-384": cache(lambda: (7680, spki_of(ec.generate_private_key(ec.SECP384R1())))),
    "RSA": cache(lambda: (2048, spki_of(rsa.generate_private_key(65537, 2048)))),
}
SERVER_USAGE, CLIENT_USAGE = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"
POLICIES = ("1.2.3", "2.999.1")
TLS_VERSIONS = (0, 0x0302, 0x0303, 0x0304)
Attributes = tuple[tuple[str, str], ...]
ADDRESSES = [None, "10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::1"]


@dataclass(frozen=True)
class Leaf:
    """A leaf as the oracle knows it."""

    der: bytes
    subject: Attributes  # in the order of RFC 4514 text, an RDN each
    sans: tuple[tuple[str, str], ...]
    begin: int
    end: int
    client: bool
    serial: str
    chain: tuple[Cert, ...]  # its issuer first
    key: str  # one of KEYS
    policies: frozenset[str]
    odd: frozenset[str] = frozenset()  # kinds of which a value is not clean text
    extensions: tuple[tuple[str, str], ...] = ()  # OIDs and texts; "": not clean text
    odd_types: frozenset[str] = frozenset()  # of attributes of which a value is not clean text

    @property
    def keys(self) -> list[str]:
        return [one.key_id for one in self.chain]

    def several(self, kind: str) -> bool:
        """Several values: one that stands twice is one."""
        return len(set(self.values(kind))) > 1

    def typed(self, kind: str, of: str) -> set[str]:
        """The values of one type of attribute, or of an extension; "" for those that are odd."""
        listed = self.subject if kind == "attribute" else self.extensions
        odd = {""} if kind == "attribute" and of in self.odd_types else set()
        return {value for one, value in listed if one == of} | odd

    def beside(self, line: "Told") -> str:
        """What is wrong with the other values of a kind of which the line names one, or ""."""
        if line.kind == "attributes":
            if all(one != "CN" for one, _ in pairs(line.value)):
                return ""
            return "odd" if "cn" in self.odd else several_if(self.several("cn"))
        if line.kind in ("attribute", "extension"):
            values = self.typed(line.kind, line.value.partition("=")[0])
            return "odd" if "" in values else several_if(len(values) > 1)
        return "odd" if line.kind in self.odd else several_if(self.several(line.kind))

    def values(self, kind: str) -> list[str]:
        match kind:
            case "subject":
                text = ",".join(f"{one}={value}" for one, value in self.subject)
                return [] if "subject" in self.odd else [text]
            case "cn":
                return [value for one, value in self.subject if one == "CN"]
            case "cert":
                return [hashlib.sha256(self.der).hexdigest()]
            case "key":
                return [hashlib.sha256(KEYS[self.key]()[1]).hexdigest()]
            case "attribute":
                return ["=".join(one) for one in self.subject if one[0] != "CN"]
            case "extension":
                return ["=".join(one) for one in self.extensions if one[1]]
            case "attributes":
                one = set(self.subject)
                lists = [part for size in range(1, 5) for part in combinations(sorted(one), size)]
                return [",".join(map("=".join, part)) for part in lists]
        return [value for one, value in self.sans if one == kind]


def pairs(text: str) -> list[tuple[str, str]]:
    """The attributes of a subject, or of part of one."""
    found = [part.partition("=") for part in text.split(",")]
    return [(one, value) for one, _, value in found]


def several_if(true: bool) -> str:
    return "several" if true else ""


@dataclass(frozen=True)
class Told:
    """What a `bind` or `pattern` line says, for one leaf."""

    kind: str
    value: str
    users: tuple[str, ...]
    nets: str
    session: int  # seconds; 0: not said
    made: bool = False  # by a pattern: the user has a placeholder


@dataclass
class Lines:
    """A policy as the oracle knows it. Keys are (kind, value or template, key id or "")."""

    settings: dict[str, str] = field(default_factory=dict)
    cas: set[str] = field(default_factory=set)  # key ids
    pins: set[bytes] = field(default_factory=set)  # DER
    allows: list[Attributes] = field(default_factory=list)
    binds: dict[tuple[str, str, str], Told] = field(default_factory=dict)
    patterns: dict[tuple[str, str, str], Told] = field(default_factory=dict)  # made: the word
    words: dict[str, bool] = field(default_factory=dict)  # of patterns: whether their users are on
    revoked: set[tuple[str, ...]] = field(default_factory=set)
    users: dict[str, bool] = field(default_factory=dict)
    demands: dict[str, str] = field(default_factory=dict)  # setting → value
    taken: frozenset[str] = frozenset()  # users of the bootstrap file
    limited: bool = False  # there are `limit` lines in the bootstrap file


# ---- Random leaves and policies ------------------------------------------------------------------

KINDS_OF_SAN = {"dns": dns, "uri": uri, "email": email, "upn": upn}
SHAPES = {"dns": "{x}.n", "uri": "n/{x}", "email": "{x}@n", "upn": "{x}@n", "cn": "{x}"}
TYPES = {"CN": CN, "OU": OU, "O": O, "UID": UID}
TIMES = {
    "200101000000Z": 1_577_836_800,
    "270115080000Z": NOW,
    "491231235959Z": 2_524_607_999,
    "270115080001Z": NOW + 1,
    "270115075959Z": NOW - 1,
}
EXTENSIONS = {"1.3.1": oid("1.3.1"), "1.3.2": oid("1.3.2")}
SESSIONS = {"": 0, " session=1h": 3600, " session=2h": 7200}


@cache
def authorities() -> list[Cert]:
    """Two roots, an intermediate of each, and two that are not valid now."""
    roots = [long_root("CN=R1"), long_root("CN=R2")]
    early, late = datetime(2021, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)
    return [
        *roots,
        intermediate(roots[0], "CN=I1"),
        intermediate(roots[1], "CN=I2"),
        intermediate(roots[0], "CN=I3", not_after=early),
        intermediate(roots[1], "CN=I4", not_before=late),
    ]


canonical = cache(core.canonical)  # of CAs again and again


@cache
def stranger() -> Cert:
    return long_root("CN=R3")


def some(rng: random.Random, chance: float) -> bool:
    return rng.randrange(20) >= 20 - round(20 * chance)  # Hypothesis shrinks it to False


# What is odd in a leaf: of which kinds, as an RDN behind the others or a SAN.
TYPES_OF_ODD = {OU: "OU", UID: "UID", CN: "CN"}
ODD: list[tuple[set[str], list[Any], list[bytes]]] = [
    ({"subject"}, [[(OU, b"\xe9", raw.T61)]], []),
    ({"subject"}, [[(UID, "")]], []),
    ({"subject", "cn"}, [[(CN, "a\0")]], []),
    *(({kind}, [], [make("a\n")]) for kind, make in KINDS_OF_SAN.items()),
    ({"ip"}, [], [raw.ip(b"\1")]),
]


def some_leaf(rng: random.Random) -> Leaf:
    issuer = rng.choice([*authorities()[:4] * 4, *authorities()[4:], stranger()])
    subject = [("CN", rng.choice(["a", "b", "ab"])) for _ in range(rng.choice([1, 1, 1, 1, 0, 2]))]
    subject += [
        (rng.choice(["OU", "OU", "O", "O", "UID"]), rng.choice("xy"))
        for _ in range(rng.randrange(3))
    ]
    rng.shuffle(subject)
    kinds = [rng.choice(list(KINDS_OF_SAN)) for _ in range(rng.choice([0, 0, 1, 2, 3]))]
    names = [(kind, SHAPES[kind].replace("{x}", rng.choice(["a", "b", "ab"]))) for kind in kinds]
    begin = rng.choice(["200101000000Z"] * 14 + ["270115080000Z", "270115080001Z"])
    end = rng.choice(["491231235959Z"] * 14 + ["270115080000Z", "270115075959Z"])
    client, serial = not some(rng, 0.05), rng.randrange(1, 4)
    key = rng.choice(["P-256"] * 6 + list(KEYS))
    asserted = [one for one in POLICIES if some(rng, 0.5)]
    odd, rdns, more = rng.choice(ODD) if some(rng, 0.1) else (set(), [], [])
    extensions = [
        (rng.choice(list(EXTENSIONS)), rng.choice(["a", "a", "b", ""]))
        for _ in range(rng.choice([0, 0, 1, 2]))
    ]
    listed = [*(KINDS_OF_SAN[kind](value) for kind, value in names), *more]
    made = certificate(
        name(*([(TYPES[kind], value)] for kind, value in reversed(subject)), *rdns),
        *([sans(*listed)] if listed else []),
        by=issuer,
        serial=bytes([serial]),
        validity=(utc(begin), utc(end)),
        extensions=[
            constraints(False),
            purposes(CLIENT_AUTH if client else raw.SERVER_AUTH),
            *([raw.policies(*map(raw.oid, asserted))] if asserted else []),
            *(extension(EXTENSIONS[one], some_text(rng, text)) for one, text in extensions),
        ],
        spki=KEYS[key]()[1],
    )
    return Leaf(
        made,
        tuple(subject),
        tuple(names),
        TIMES[begin],
        TIMES[end],
        client,
        f"{serial:02x}",
        (issuer, *issuer.above[:1]),
        key,
        frozenset(asserted),
        frozenset(odd),
        tuple(extensions),
        frozenset(TYPES_OF_ODD[kind] for rdn in rdns for kind, *_ in rdn),
    )


def some_text(rng: random.Random, text: str) -> bytes:
    """The content of an extension with this text, or with what is not text."""
    if not text:
        return rng.choice([b"\n", der(raw.UTF8), der(raw.BMP, b"\0a"), der(raw.UTF8, b"a") + b"\0"])
    return rng.choice([text.encode(), der(rng.choice([raw.UTF8, raw.IA5]), text.encode())])


def some_lines(
    rng: random.Random, leaves: Sequence[Leaf], most: int = 6
) -> tuple[Lines, list[str]]:
    """A policy that is about these leaves, for the oracle and as text; at most so many lines of the
    kinds that map."""
    told, text = Lines(), list[str]()
    for word, values in {
        "enforce": ["on"] * 12 + ["shadow", "off"],
        "gate": ["disabled", "san_cn", "full_subject"],
        "unmatched": ["refuse", "leave"],
        "several-names": ["refuse", "same", "same"],
        "plain": ["leave", "refuse"],
    }.items():
        if word == "enforce" or some(rng, 0.3):
            told.settings[word] = rng.choice(values)
            text.append(f"set {word} {told.settings[word]}")
    for word in DEMANDS:
        if some(rng, 0.1):
            told.demands[word] = some_demand(rng, word, leaves)
            text.append(f"set {word} {told.demands[word]}")
    for one in authorities()[:4]:
        if not some(rng, 0.1):
            told.cas.add(one.key_id)
            text.append(authority_line(one))
    for leaf in leaves:
        if leaf.der not in told.pins and some(rng, 0.15):
            told.pins.add(leaf.der)
            text.append(authority_line(leaf.der, "pin"))
    for _ in range(rng.randrange(5)):
        entry = [one for one in rng.choice(leaves).subject if one[0] != "UID"]
        kinds = [kind for kind, _ in entry]
        if kinds.count("CN") != 1 or kinds.count("O") > 1:
            entry = [("CN", rng.choice(["a", "b", "a.n", "b.n"]))]
        if by_type(entry) not in told.allows:
            told.allows.append(by_type(entry))
            text.append("allow " + " ".join(f"{kind}={value}" for kind, value in entry))
    often = [*leaves, *[rng.choice(leaves)] * 6]  # several lines for one leaf
    for _ in range(rng.randrange(most + 1)):
        text += some_bind(rng, told, rng.choice(often))
    for _ in range(rng.randrange(most + 1)):
        text += some_pattern(rng, told, rng.choice(often))
    for _ in range(rng.choice([0, 0, 0, 0, 1, 2])):
        rule = some_revocation(rng, rng.choice(leaves))
        if rule not in told.revoked:
            told.revoked.add(rule)
            text.append(f"revoke {' '.join(rule)}")
    for user in ("alice", "bob", "certauth-peer-1"):
        if not some(rng, 0.3):
            told.users[user] = not some(rng, 0.2)
            text.append(f"user {user} {'on' if told.users[user] else 'off'}")
    return told, [canonical(line) for line in text]


def some_demand(rng: random.Random, word: str, leaves: Sequence[Leaf]) -> str:
    """On either side of what a leaf has."""
    leaf = rng.choice(leaves)
    usages = [SERVER_USAGE, CLIENT_USAGE, CLIENT_USAGE, f"{SERVER_USAGE},{CLIENT_USAGE}"]
    match word:
        case "max-lifetime":
            return f"{max(1, leaf.end - leaf.begin + rng.choice([-1, 0, 1]))}s"
        case "require-eku":
            return rng.choice(usages)
        case "require-policy":
            return rng.choice([*POLICIES, ",".join(POLICIES)])
        case "min-key-bits":
            return str(KEYS[leaf.key]()[0] + rng.choice([-1, 0, 1]))
    return rng.choice(["1.2", "1.3"])


def by_type(entry: Sequence[tuple[str, str]]) -> Attributes:
    """Only the order of one type among itself counts."""
    return tuple(sorted(entry, key=lambda one: one[0]))


def some_options(rng: random.Random, leaf: Leaf) -> tuple[str, str, int, str]:
    """Key id, networks and session of a line, and the words for them."""
    issuer = rng.choice(["", "", *leaf.keys, rng.choice(authorities()[:4]).key_id])
    nets = rng.choice(["", "", "", "10.0.0.0/8", "10.1.2.3,::/0"])
    session = rng.choice(list(SESSIONS))
    words = (f" ca={issuer}" if issuer else "") + (f" from={nets}" if nets else "") + session
    return issuer, nets, SESSIONS[session], words


def some_bind(rng: random.Random, told: Lines, leaf: Leaf) -> list[str]:
    kinds = ["subject", "cn", "cert", "key", "attribute", "attributes", "attributes"]
    kinds += [kind for kind, _ in leaf.sans] + ["extension"] * len(leaf.extensions)
    kind = rng.choice(kinds)
    value = rng.choice(leaf.values(kind) or [""])
    users = rng.choice([("alice",)] * 7 + [("bob",), ("alice", "bob"), ("p:a",), ("bob", "q:b")])
    if kind == "key" and some(rng, 0.5):
        users = ("certauth-peer-1",)
    if kind == "extension" and some(rng, 0.3):
        value = f"{rng.choice(leaf.extensions)[0]}=a"
    if kind == "attributes" and [one for one, _ in pairs(value)].count("CN") > 1:
        return []
    issuer, nets, session, words = some_options(rng, leaf)
    if not value or (kind, value, issuer) in told.binds:
        return []
    told.binds[kind, value, issuer] = Told(kind, value, users, nets, session)
    return [f"bind {kind} {core.quote(value)} {' '.join(users)}{words}"]


def some_pattern(rng: random.Random, told: Lines, leaf: Leaf) -> list[str]:
    """Of a word whose users have one state, as they must."""
    kinds = [kind for kind in ("subject", *SHAPES) if leaf.values(kind)]
    if not kinds:
        return []
    kind, word = rng.choice(kinds), rng.choice("pppq")
    hole = rng.choice(["{x}", "{x}", "a{x}"])
    if kind == "subject":
        if len(leaf.values("cn")) != 1 or "subject" in leaf.odd:
            return []
        template = re.sub("CN=[ab]+", f"CN={hole}", leaf.values("subject")[0])
    else:
        template = SHAPES[kind].replace("{x}", hole)
    issuer, nets, session, words = some_options(rng, leaf)
    if (kind, template, issuer) in told.patterns:
        return []
    if some(rng, 0.3):
        user = rng.choice(["alice", "alice", "bob", "carol"])
        told.patterns[kind, template, issuer] = Told(kind, template, (user,), nets, session)
        return [f"pattern {kind} {template} {user}{words}"]
    told.patterns[kind, template, issuer] = Told(kind, template, (word,), nets, session, made=True)
    on = told.words.setdefault(word, not some(rng, 0.3))
    return [f"pattern {kind} {template} {word}:{{x}}{words} {'on' if on else 'off'}"]


def some_revocation(rng: random.Random, leaf: Leaf) -> tuple[str, ...]:
    above = rng.choice([*leaf.chain, *leaf.chain, rng.choice(authorities())])
    return rng.choice(
        [
            ("serial", above.key_id, leaf.serial),
            ("cert", *leaf.values("cert")),
            ("key", *leaf.values("key")),
            ("cert", above.fingerprint),
            ("key", above.key_id),
            ("serial", issuer_of(above).key_id, above.serial),
        ]
    )


def issuer_of(cert: Cert) -> Cert:
    return (cert.above or (cert,))[0]


def some_bootstrap(rng: random.Random, leaves: Sequence[Leaf]) -> tuple[Lines, list[str]]:
    """A bootstrap file, for the oracle and as text: of a policy what may stand in one."""
    told, text = some_lines(rng, leaves)
    binds = {key: line for key, line in told.binds.items() if line.kind != "attributes"}
    own = Lines(cas=told.cas, binds=binds, limited=some(rng, 0.3))
    own.users = {user: on for user, on in [*told.users.items(), ("p:a", True)] if some(rng, 0.3)}
    kept = [line for line in text if line.split()[0] in ("ca", "bind")]
    kept = [line for line in kept if not line.startswith("bind attributes ")]
    users = [f"user {user} {'on' if on else 'off'}" for user, on in own.users.items()]
    return own, kept + users + ["limit -@admin"] * own.limited


# Setting → the reason of those that have not what it asks for, in the order of the checks.
DEMANDS = {
    "max-lifetime": "lifetime",
    "require-eku": "required_eku",
    "require-policy": "required_policy",
    "min-key-bits": "key_too_small",
    "min-tls": "tls_version",
}


# ---- The oracle ----------------------------------------------------------------------------------


def digest_of(lines: Iterable[str]) -> str:
    """As patch.h describes it: the number of lines, and the sum of their hashes."""
    held = set(lines)
    total = sum(int.from_bytes(hashlib.sha256(line.encode()).digest()) for line in held) % 2**256
    return f"{len(held)}:{total:064x}"


@dataclass(frozen=True)
class Outcome:
    """`users` and `session` where somebody is let in."""

    action: str
    reason: str
    users: tuple[str, ...] = ()
    session: int = 0

    @classmethod
    def of(cls, found: Any) -> "Outcome":
        """What a decision of the core is in these words."""
        inside = found.action in ("login", "choose")
        session = getattr(found, "session", 0)  # Python's decisions have none
        rest = (found.users, session) if inside else ()
        return cls(found.action, found.reason, *rest)


def oracle(
    told: Lines,
    leaf: Leaf | None,
    now: int,
    address: str | None,
    own: Lines | None = None,
    version: int = 0,
) -> Outcome:
    """`own` is the bootstrap file; `version` that of the connection's TLS, 0 where unknown."""
    asked = told.settings.get
    if leaf and own:
        # Limits are for policies; words belong to the policy's patterns everywhere.
        file = replace(own, revoked=told.revoked, words=told.words, limited=False)
        found = _judged(file, leaf, now, address, version)
        passed = reasons().index(found.reason)
        bound = bool(_bound(own, leaf)) and passed > reasons().index("untrusted_issuer")
        if bound or passed > reasons().index("no_binding"):
            return found
        told = replace(told, taken=frozenset(own.users), limited=own.limited)
    if asked("enforce") == "off":
        return Outcome("leave", "off")
    if leaf is None:
        return Outcome("refuse" if asked("plain") == "refuse" else "leave", "no_certificate")
    found = _judged(told, leaf, now, address, version)
    nobody = found.reason in ("untrusted_issuer", "no_binding")
    return replace(found, action="leave") if nobody and asked("unmatched") == "leave" else found


def _bound(told: Lines, leaf: Leaf) -> list[Told]:
    """By lines that name the certificate."""
    return [
        line
        for (kind, value, issuer), line in told.binds.items()
        if kind != "attributes" and value in leaf.values(kind) and issuer in ["", *leaf.keys]
    ]


def _part(told: Lines, leaf: Leaf) -> list[Told]:
    """By lines that name part of its subject."""
    return [
        line
        for (kind, value, issuer), line in told.binds.items()
        if kind == "attributes"
        and set(pairs(value)) <= set(leaf.subject)
        and issuer in ["", *leaf.keys]
    ]


def _made(told: Lines, leaf: Leaf) -> list[Told]:
    """As `_bound`, by patterns."""
    found = []
    for (kind, template, issuer), line in told.patterns.items():
        wanted = re.escape(template).replace(r"\{x\}", "([ab]+)")
        for value in leaf.values(kind) if issuer in ["", *leaf.keys] else []:
            if fits := re.fullmatch(wanted, value):
                made = (f"{line.users[0]}:{fits[1]}",)
                found.append(replace(line, users=made if line.made else line.users))
    return found


def _judged(told: Lines, leaf: Leaf, now: int, address: str | None, version: int) -> Outcome:
    hits = _bound(told, leaf)
    bad = _bad(told, leaf, now, hits)
    named = [line.value for line in told.binds.values() if line.kind == "extension"]
    odd = leaf.odd or any("" in leaf.typed("extension", one.partition("=")[0]) for one in named)
    if bad == "untrusted_issuer" and odd and not hits:
        bad = "bad_string"
    if bad:
        return Outcome("refuse", bad)
    if hits:
        unmet = "" if _peer(hits) else _unmet(told, leaf, version)
        return _mapped(told, hits, address, unmet)
    same = told.settings.get("several-names") == "same"
    hits = _made(told, leaf)
    beside = {leaf.beside(one) for one in hits}
    if any(leaf.several(one.kind) for one in hits) and not same:
        return Outcome("refuse", "ambiguous")
    if "odd" in beside:
        return Outcome("refuse", "bad_string")
    if hits:
        return _mapped(told, hits, address, _unmet(told, leaf, version))
    hits = _part(told, leaf)
    beside = {leaf.beside(one) for one in hits}
    if "odd" in beside or (odd and not hits):
        return Outcome("refuse", "bad_string")
    if "several" in beside and not same:
        return Outcome("refuse", "ambiguous")
    if not hits:
        return Outcome("refuse", "no_binding")
    return _mapped(told, hits, address, _unmet(told, leaf, version))


def _peer(hits: list[Told]) -> bool:
    return any(one.kind == "key" and one.users == ("certauth-peer-1",) for one in hits)


def _unmet(told: Lines, leaf: Leaf, version: int) -> str:
    """The first demand that the leaf, or its connection, does not meet."""
    usages = {CLIENT_USAGE if leaf.client else SERVER_USAGE}
    for word, reason in DEMANDS.items():
        value = told.demands.get(word)
        match word if value else "", value or "":
            case "max-lifetime", most:
                good = leaf.end - leaf.begin <= int(most[:-1])
            case "require-eku", asked:
                good = set(asked.split(",")) <= usages
            case "require-policy", asked:
                good = set(asked.split(",")) <= leaf.policies
            case "min-key-bits", least:
                good = KEYS[leaf.key]()[0] >= int(least)
            case "min-tls", least:
                good = version >= (0x0304 if least == "1.3" else 0x0303)
            case _:
                good = True
        if not good:
            return reason
    return ""


def _bad(told: Lines, leaf: Leaf, now: int, hits: list[Told]) -> str:
    """What is wrong with the certificate, no matter whom it would be."""
    gate = told.settings.get("gate")
    peer = _peer(hits)
    asked = {"san_cn": {"cn", "dns"}, "full_subject": {"subject"}}.get(gate or "", set())
    beside = {leaf.beside(one) for one in hits}
    if "odd" in beside or (leaf.odd & asked and not peer):
        return "bad_string"
    if "several" in beside and told.settings.get("several-names") != "same":
        return "ambiguous"
    if gate == "san_cn" and leaf.several("cn") and not peer:
        return "ambiguous"
    pinned = leaf.der in told.pins
    if not told.cas & set(leaf.keys) and not peer and not pinned:
        return "untrusted_issuer"
    for one in leaf.chain:
        begin, end = one.certificate.not_valid_before_utc, one.certificate.not_valid_after_utc
        if not begin.timestamp() <= now <= end.timestamp() and not pinned:
            return "ca_expired"
        if _names(issuer_of(one).key_id, one.serial, one.fingerprint, one.key_id) & told.revoked:
            return "ca_revoked"
    if now < leaf.begin:
        return "not_yet_valid"
    if now > leaf.end:
        return "expired"
    if not leaf.client:
        return "key_usage"
    (cert,), (key,) = leaf.values("cert"), leaf.values("key")
    if _names(leaf.keys[0], leaf.serial, cert, key) & told.revoked:
        return "revoked"
    entries = {dict(entry)["CN"] for entry in told.allows}
    by_name = gate == "san_cn" and not entries & {*leaf.values("cn"), *leaf.values("dns")}
    whole = gate == "full_subject" and by_type(leaf.subject) not in told.allows
    return "gate" if (by_name or whole) and not peer else ""


def _names(issuer: str, serial: str, cert: str, key: str) -> set[tuple[str, ...]]:
    """The ways to revoke a certificate."""
    return {("serial", issuer, serial), ("cert", cert), ("key", key)}


def _mapped(told: Lines, hits: list[Told], address: str | None, unmet: str) -> Outcome:
    """Whom the lines that name a certificate make it; `unmet`: a demand, see _unmet."""
    users, made = hits[0].users, hits[0].made
    if any(one.users != users for one in hits):
        return Outcome("refuse", "conflict")
    inside = ipaddress.ip_address(address) if address else None
    for nets in (one.nets.split(",") for one in hits if one.nets):
        if not inside or not any(inside in ipaddress.ip_network(net) for net in nets):
            return Outcome("refuse", "address")
    if unmet:
        return Outcome("refuse", unmet)
    for user in users:
        owned = user.split(":")[0] in told.words and ":" in user
        loose = user not in told.users and not made
        if user in told.taken or (loose and (owned or told.limited)):
            return Outcome("refuse", "user_missing")
    on = told.words[users[0].split(":")[0]] if made else told.users.get(users[0], True)
    if len(users) == 1 and not on:
        return Outcome("refuse", "user_off")
    sessions = [one.session for one in hits if one.session]
    return Outcome(
        "choose" if len(users) > 1 else "login", "matched", users, min(sessions, default=0)
    )
