"""Users that `pattern` lines make: by a naive oracle, and by attacks with what certificates say."""

import random
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control._core import ffi, lib
from control.policy import core
from control.policy.core import CoreError, Policy, PolicyError
from tests.kit.certs import (
    CN,
    NOW,
    OU,
    UID,
    O,
    authority_line,
    bytes_of,
    ca,
    certificate,
    decide,
    dns,
    email,
    intermediate,
    long_root,
    name,
    patch,
    person,
    policy,
    sans,
    span,
    text_of,
    trusting,
    upn,
    uri,
    utc,
)

SPIFFE = "pattern uri spiffe://acme/ns/{ns}/sa/{sa} app:{ns}:{sa} on ~{ns}:{sa}:* +@read"
DEVICE = "pattern subject CN={id},OU=devices,O=acme device:{id} on ~{id}:*"
KEY = "0123456789abcdef" * 4


def spiffe(ns: str, sa: str) -> bytes:
    return certificate(person("x"), sans(uri(f"spiffe://acme/ns/{ns}/sa/{sa}")))


def user_of(leaf: bytes, *lines: str) -> str | None:
    """Who logs in with it, or None."""
    return trusting(*lines).decide(leaf, now=NOW).user


def reason_of(leaf: bytes, *lines: str, **options: Any) -> str:
    return trusting(*lines).decide(leaf, now=options.pop("now", NOW), **options).reason


# What a leaf with one value of a kind looks like.
LEAVES: dict[str, Callable[[str], bytes]] = {
    "cn": lambda value: certificate(person(value)),
    "uri": lambda value: certificate(person("x"), sans(uri(value))),
    "dns": lambda value: certificate(person("x"), sans(dns(value))),
    "email": lambda value: certificate(person("x"), sans(email(value))),
    "upn": lambda value: certificate(person("x"), sans(upn(value))),
}


class Pattern:
    """A parsed line."""

    def __init__(self, text: str) -> None:
        why = ffi.new("fault *")
        rule = lib.rule_parse(span(text.encode()), why)
        if rule == ffi.NULL:
            raise ValueError(text_of(why.text))
        self.rule = ffi.gc(rule, lib.rule_free)

    def makes(self, user: str) -> bool:
        return bool(lib.rule_makes(self.rule, span(user.encode())))

    def rules(self, user: str) -> list[str]:
        """The ACL rules of a user that it makes."""
        at, token, found = ffi.new("size_t *"), ffi.new("span *"), []
        out, named = ffi.new("uint8_t[]", lib.MADE_RULE_BYTES), span(user.encode())
        while lib.rule_acl_made(self.rule, named, at, out, token):
            found.append(bytes_of(token[0]).decode())
        return found

    @property
    def sample(self) -> str:
        out = ffi.new("uint8_t[]", lib.USER_BYTES)
        return bytes(ffi.buffer(out, lib.rule_sample(self.rule, out))).decode()


# ---- Lines ---------------------------------------------------------------------------------------


def test_a_line_has_one_spelling() -> None:
    """Names, networks and the order of options are canonical; templates stay as they are."""
    written = (
        f"pattern  subject /O=acme/CN={{id}} 'dev:{{id}}' session=60m from=::1 ca={KEY.upper()} "
        '"(~{{id}}:*  +get)" on'
    )
    said = (
        f"pattern subject CN={{id}},O=acme dev:{{id}} ca={KEY} from=::1 session=1h "
        "(~{{id}}:* +get) on"
    )
    assert core.canonical(written) == core.canonical(said) == said


GOOD = [
    SPIFFE,
    DEVICE,
    "pattern uri {scheme}://x/{a}?{b}#{c} u:{a}:{b}",
    "pattern uri x/{abcdefghijklmnopqrstuvwxyz_12345} u:1",
    "pattern dns host-{id}.example.com host:{id}",
    "pattern dns {a}.{b}.example.com host:{b}:{a}",
    "pattern email {who}@{dept}.acme.com mail:{dept}:{who}",
    "pattern upn svc.{who}@acme.com mail:x{who}y:z",
    "pattern cn {id} c:{id}",
    "pattern cn {a}:{b} c:{a}:{b}:{a}",
    "pattern subject CN=dev-{id},O={o} d:{o}:{id}",
    "pattern cn {id} c:{id} on ~{id} ~{{id}}:* ~x:{id}:* %R~{id}:* %rw~/{id}/? &{id}: (%W~{id})",
    "pattern cn {id} c:{id} off (~{id}:* +get ~x)",
    "pattern uri " + "/".join(f"{{{n}}}" for n in range(8)) + " u:{0}",
]
BAD = [
    ("pattern", "the kind of name to match is missing"),
    ("pattern ip 10.0.0.1 u:{id}", "pattern takes subject, cn, uri, dns, email or upn, not: 'ip'"),
    (f"pattern key {KEY} u:{{id}}", "pattern takes subject, cn"),
    (f"pattern cert {KEY} u:{{id}}", "pattern takes subject, cn"),
    ("pattern uri", "the value to bind is missing"),
    ("pattern uri x/{id}", "the user of the pattern is missing"),
    ("pattern uri '' u:x", "an empty value"),
    # The template.
    ("pattern uri spiffe://acme/x app:x", "has a placeholder, such as {id}"),
    ("pattern uri x/{a}/{a} u:{a}", "the placeholder {a} stands twice"),
    ("pattern uri x/{a}{b} u:{a}", "{a} is followed by another placeholder"),
    ("pattern uri x/{a}.{b} u:{a}", "{a} is followed by '.', which its value may hold"),
    ("pattern uri x/{a}x u:{a}", "{a} is followed by 'x', which its value may hold"),
    ("pattern dns {a}-x.com u:{a}", "{a} is followed by '-', which its value may hold"),
    ("pattern email {a}.{b}@x.com u:{a}", "{a} is followed by '.', which its value may hold"),
    ("pattern email {a}+x@x.com u:{a}", "{a} is followed by '+', which its value may hold"),
    ("pattern email x@{a}_x.com u:{a}", "{a} is followed by '_', which its value may hold"),
    ("pattern cn {a}@x u:{a}", "{a} is followed by '@', which its value may hold"),
    ("pattern subject CN={a}.x,O=y u:{a}", "{a} is followed by '.', which its value may hold"),
    ("pattern subject CN={a},O={a} u:{a}", "the placeholder {a} stands twice"),
    ("pattern subject CN={a}+UID=x,O=y u:{a}", "no RDN with several attributes"),
    ("pattern subject CN=x+UID=y,O={o} u:{o}", "no RDN with several attributes"),
    ("pattern subject {a} u:{a}", "of the subject"),
    ("pattern email {a} u:{a}", "has one '@', and something behind it"),
    ("pattern email {a}@ u:{a}", "has one '@', and something behind it"),
    ("pattern upn x@{a}@y u:{a}", "has one '@', and something behind it"),
    ("pattern uri x/{A} u:x", "a brace that is part of no placeholder"),
    ("pattern uri x/{} u:x", "a brace that is part of no placeholder"),
    ("pattern uri x/{{a}} u:{a}", "a brace that is part of no placeholder"),
    ("pattern uri x/{a u:x", "a brace that is part of no placeholder"),
    ("pattern uri x/{" + "a" * 33 + "} u:x", "a brace that is part of no placeholder"),
    ("pattern uri x/../{a} u:{a}", "a segment of the URI is . or .."),
    ("pattern uri " + "/".join(f"{{{n}}}" for n in range(9)) + " u:{0}", "at most 8 placeholders"),
    # The user.
    ("pattern uri x/{a} {a}", "starts with a word of its own and ':'"),
    ("pattern uri x/{a} {a}:x", "starts with a word of its own and ':'"),
    ("pattern uri x/{a} :{a}", "starts with a word of its own and ':'"),
    ("pattern uri x/{a} app-{a}", "starts with a word of its own and ':'"),
    ("pattern uri x/{a} app{a}:x", "starts with a word of its own and ':'"),
    ("pattern uri x/{a} a@b:{a}", "starts with a word of its own and ':'"),
    ("pattern uri x/{a} 'app: {a}'", "not the name of an ACL user"),
    ("pattern uri x/{a} app:{b}", "the user names {b}, which the pattern does not have"),
    ("pattern uri x/{a}/{b} app:{a}-{b}", "without ':' between them"),
    ("pattern uri x/{a}/{b} app:{a}{b}", "without ':' between them"),
    ("pattern uri x/{a}/{b} app:{a}/{b}", "without ':' between them"),
    ("pattern uri x/{a} app:{{a}}", "a brace that is part of no placeholder"),
    ("pattern uri x/{a} app:" + "x" * 506 + "{a}", "not the name of an ACL user"),
    ("pattern uri x/{a} app:" + "x" * 600, "not the name of an ACL user"),
    # The options and the ACL rules.
    ("pattern uri x/{a} app:{a} ca=x", "ca= takes a key id"),
    ("pattern uri x/{a} app:{a} session=1h session=1h", "given twice"),
    ("pattern uri x/{a} app:{a} on from=10.0.0.1", "stand before the rules"),
    ("pattern uri x/{a} app:{a} adopt on", "a pattern adopts nobody"),
    ("pattern uri x/{a} app:{a} nopass", "takes no nopass, no password and no reset"),
    ("pattern uri x/{a} app:{a} >{a}", "takes no nopass, no password and no reset"),
    ("pattern uri x/{a} app:{a} ~'{a}\\*'", "holds no quote, no backslash"),
    ("pattern uri x/{a} app:{a} +{a}", "in key and channel rules"),
    ("pattern uri x/{a} app:{a} (+{a})", "in key and channel rules"),
    ("pattern uri x/{a} app:{a} {a}", "in key and channel rules"),
    ("pattern uri x/{a} app:{a} %R{a}", "in key and channel rules"),
    ("pattern uri x/{a} app:{a} %X~{a}", "in key and channel rules"),
    ("pattern uri x/{a} app:{a} ({a}", "in key and channel rules"),
    ("pattern uri x/{a}/{b} app:{a} ~{b}:*", "{b} of an ACL rule does not stand in the user"),
    ("pattern uri x/{a} app:{a} ~{b}:*", "{b} of an ACL rule does not stand in the user"),
    ("pattern uri x/{a} app:{a} ~{a}*", "{a} of an ACL rule stands right beside"),
    ("pattern uri x/{a} app:{a} ~*{a}", "{a} of an ACL rule stands right beside"),
    ("pattern uri x/{a} app:{a} &{a}?", "{a} of an ACL rule stands right beside"),
    ("pattern uri x/{a} app:{a} ~{a}-*", "{a} of an ACL rule stands right beside"),
    ("pattern uri x/{a} app:{a} ~*.{a}", "{a} of an ACL rule stands right beside"),
    ("pattern uri x/{a} app:{a} ~{a}+*", "{a} of an ACL rule stands right beside"),
    ("pattern uri x/{a} app:{a} (~k{a})", "{a} of an ACL rule stands right beside"),
    ("pattern uri x/{a}/{b} app:{a}:{b} ~{a}{b}", "{a} of an ACL rule stands right beside"),
    ("pattern uri x/{a} app:{a} ~[:{a}:]", "takes no [ ]"),
    ("pattern uri x/{a} app:{a} ~{a}:[^x]", "takes no [ ]"),
    ("pattern uri x/{a} app:{a} ~{a}:" + "x" * 5000, "too long"),
    ("pattern uri x/{a} app:{a} ~" + "{a}:" * 17, "at most 16 placeholders"),
]


@pytest.mark.parametrize("line", GOOD)
def test_what_a_pattern_may_say(line: str) -> None:
    """It is taken, as it is."""
    assert core.canonical(line) == line


@pytest.mark.parametrize(("line", "message"), BAD)
def test_what_a_pattern_may_not_say(line: str, message: str) -> None:
    """Each refusal says what is wrong, and which character."""
    with pytest.raises(CoreError, match=re.escape(message)):
        core.canonical(line)


# ---- What matches --------------------------------------------------------------------------------

SEGMENT = "[A-Za-z0-9._~-]"
LABEL = "[A-Za-z0-9_-]"
LOCAL = "[A-Za-z0-9._~+-]"
ATTRIBUTE = "[A-Za-z0-9._~+@-]"


def parts(template: str) -> list[str]:
    """Literals and {placeholders} in turn."""
    return re.split(r"(\{[a-z0-9_]{1,32}\})", template)


def letters(kind: str, before: str) -> str:
    """The class of a placeholder's characters; `before`: the template before it."""
    if kind in ("email", "upn"):
        return LABEL if "@" in before else LOCAL
    return {"uri": SEGMENT, "dns": LABEL, "cn": ATTRIBUTE}[kind]


def readings(kind: str, template: str, value: str) -> list[dict[str, str]]:
    """Every way to cut `value` into literals and values, by trying all of them."""
    pieces = parts(template)

    def cuts(index: int, rest: str) -> Iterator[dict[str, str]]:
        if index == len(pieces):
            if not rest:
                yield {}
            return
        piece = pieces[index]
        if index % 2 == 0:
            if rest.startswith(piece):
                yield from cuts(index + 1, rest[len(piece) :])
            return
        one = letters(kind, "".join(pieces[:index]))
        for length in range(1, min(len(rest), 255) + 1):
            if not re.fullmatch(f"{one}+", rest[:length]):
                break
            for more in cuts(index + 1, rest[length:]):
                yield {piece: rest[:length], **more}

    if kind == "uri" and {".", ".."} & set(re.split("[/?#]", value)):
        return []
    return list(cuts(0, value))


def is_clear(kind: str, template: str) -> bool:
    """Is it a template, by the letter of docs/policy.md?"""
    pieces = parts(template)
    names, literals = pieces[1::2], pieces[::2]
    if not names or len(set(names)) < len(names) or len(names) > 8:
        return False
    if any(set("{}") & set(literal) for literal in literals):
        return False
    if kind in ("email", "upn") and (template.count("@") != 1 or template.endswith("@")):
        return False
    if kind == "uri" and {".", ".."} & set(re.split("[/?#]", template)):
        return False
    for index in range(1, len(pieces), 2):
        behind = pieces[index + 1]
        last = index + 2 == len(pieces)
        if behind == "" and not last:
            return False
        if behind and re.match(letters(kind, "".join(pieces[:index])), behind):
            return False
    return True


# Delimiters are as likely as what values hold, so that near misses are common.
PIECES = [
    "a",
    "b",
    "B",
    "1",
    "-",
    "_",
    ".",
    "..",
    "~",
    "+",
    "@",
    "/",
    "//",
    ":",
    "?",
    "%",
    "*",
    "{",
    "é",
]
HOLES = ["{a}", "{b}", "{c}", "{a}"]


def some_template(rng: random.Random, kind: str) -> str:
    pieces = [
        rng.choice(HOLES) if rng.random() < 0.4 else rng.choice(PIECES[:16]) for _ in range(5)
    ]
    text = "".join(pieces)
    if kind in ("email", "upn") and rng.random() < 0.9:
        text = text.replace("@", "") + rng.choice(["@", "@{d}", "@x.", "@{d}."]) + rng.choice("xy")
    return text


def some_value(rng: random.Random, template: str) -> str:
    """What the template might take, and what it almost would."""
    text = [
        "".join(rng.choices(PIECES[:11], k=rng.randrange(1, 4))) if index % 2 else piece
        for index, piece in enumerate(parts(template))
    ]
    value = "".join(text)
    for _ in range(rng.choice([0, 0, 1, 2])):
        at = rng.randrange(len(value) + 1)
        value = value[:at] + rng.choice(PIECES) + value[at + rng.randrange(2) :]
    return value or "x"


@pytest.mark.parametrize("kind", ["cn", "uri", "dns", "email", "upn"])
def test_random_patterns_say_what_a_naive_reading_says(kind: str) -> None:
    """A template is taken where no placeholder can run on, and then a value has one reading or
    none: that is the user. No value holds a delimiter, however it is cut."""
    rng, taken, matched = random.Random(kind), 0, 0
    while taken < 400:
        template = some_template(rng, kind)
        names = list(dict.fromkeys(parts(template)[1::2]))
        line = f"pattern {kind} {core.quote(template)} u:{':'.join(names) or 'x'} on"
        if not is_clear(kind, template):
            with pytest.raises(CoreError):
                core.canonical(line)
            continue
        taken += 1
        under = trusting(line)
        for _ in range(4):
            value = some_value(rng, template)
            if kind in ("uri", "dns", "email") and not value.isascii():
                continue  # no IA5String holds it
            found = readings(kind, template, value)
            assert len(found) <= 1, (template, value)
            wanted = f"u:{':'.join(found[0][one] for one in names)}" if found else None
            decision = under.decide(LEAVES[kind](value), now=NOW)
            assert (decision.user, decision.reason) == (
                wanted,
                "matched" if found else "no_binding",
            ), (template, value)
            matched += bool(found)
    assert matched > 200


@pytest.mark.parametrize(
    ("kind", "template", "good", "bad"),
    [
        (
            "uri",
            "spiffe://acme/ns/{id}",
            ["a", "A-9._~", "a.b", "...", "x" * 255],
            ["", ".", "..", "a/b", "a/", "/a", "a:b", "a%2fb", "%2e%2e", "a?b", "a#b", "a b", "a*",
             "*", "[a]", "a+b", "a@b", "a\\b", "a'b", 'a"b', "{id}", "~a|b", "x" * 256],
        ),
        (
            "dns",
            "{id}.example.com",
            ["a", "A-9_", "xn--bcher-kva", "x" * 63],
            ["", "a.b", "*", "*.a", "a.", ".", "a~", "a*", "a:b", "a b", "a/b", "x" * 256],
        ),
        (
            "email",
            "{id}@acme.com",
            ["a", "a.b", "a+b", "a-b_c~d"],
            ["", "a@b", '"a@b"', "a b", "a%b", "a:b", "a*", "a@evil.com,b", "<a", "x" * 256],
        ),
        ("upn", "{id}@acme.com", ["a", "a+b"], ["", "a@b", "a\u00e9", "a b", "acme\\a"]),
        ("email", "x@{id}.acme.com", ["a", "a-b"], ["", "a.b", "a+b", "a@b", "*", "a~"]),
        (
            "cn",
            "{id}",
            ["a", "a@b.c", "a+b", "x" * 255],
            ["a b", "a:b", "a*", "a,b", "a/b", "a=b", "jos\u00e9", "a\u0430", "~*|",
             "on nopass", "x" * 256],
        ),
        ("cn", "dev-{id}", ["a", "-"], ["", "a b"]),
    ],
)  # fmt: skip
def test_attack_a_value_that_is_more_than_a_value(
    kind: str, template: str, good: list[str], bad: list[str]
) -> None:
    """Delimiters, dot segments, wildcards, escapes, other scripts, no value at all, too long a one:
    the line does not match. What a value may hold makes the user, letter by letter."""
    under = trusting(f"pattern {kind} {template} u:{{id}} on ~{{id}}:*")
    for value in good:
        leaf = LEAVES[kind](template.replace("{id}", value))
        assert under.decide(leaf, now=NOW).user == f"u:{value}", value
    for value in bad:
        leaf = LEAVES[kind](template.replace("{id}", value))
        assert under.decide(leaf, now=NOW).reason == "no_binding", value


@pytest.mark.parametrize(
    "value",
    [
        "spiffe://acme/ns/a/sa/b/", "spiffe://acme/ns/a/sa/b?x", "spiffe://acme/ns/a/sa/b#x",
        "xspiffe://acme/ns/a/sa/b", "spiffe://evil/ns/a/sa/b", "SPIFFE://acme/ns/a/sa/b",
        "spiffe://acme/ns/a/sa/", "spiffe://acme/ns//sa/b", "spiffe://acme/ns/a/x/sa/b",
        "spiffe://acme/ns/a/b", "spiffe://acme.evil/ns/a/sa/b", "spiffe://evil@acme/ns/a/sa/b",
    ],
)  # fmt: skip
def test_attack_a_name_around_the_pattern(value: str) -> None:
    """A pattern is anchored at both ends, and its literals are exact."""
    assert reason_of(LEAVES["uri"](value), SPIFFE) == "no_binding"


def test_a_made_name_is_never_longer_than_one_may_be() -> None:
    """Where the values would make it so, the line does not match: no name is cut."""
    line = "pattern uri x/{a}/{b}/{c} u:{a}:{b}:{c} on"
    for length, fits in ((168, True), (169, True), (170, False)):
        value = "/".join(["x", "a" * length, "b" * 170, "c" * 169])
        assert user_of(LEAVES["uri"](value), line) == (
            f"u:{'a' * length}:{'b' * 170}:{'c' * 169}" if fits else None
        )


# ---- Subjects ------------------------------------------------------------------------------------

GOOD_SUBJECT = [[(O, "acme")], [(OU, "devices")], [(CN, "d-1")]]


@pytest.mark.parametrize(
    "rdns",
    [
        [[(O, "acme")], [(CN, "d-1")]],
        [[(O, "acme")], [(CN, "d-1")], [(OU, "devices")]],
        [[(CN, "d-1")], [(OU, "devices")], [(O, "acme")]],
        [*GOOD_SUBJECT, [(UID, "x")]],
        [[(UID, "x")], *GOOD_SUBJECT],
        [*GOOD_SUBJECT, [(CN, "d-2")]],
        [[(O, "acme")], [(OU, "devices"), (CN, "d-1")]],
        [[(O, "acme")], [(OU, "devices")], [(CN, "d-1"), (UID, "x")]],
        [[(O, "acme")], [(OU, "devices")], [(UID, "d-1")]],
        [[(O, "evil")], [(OU, "devices")], [(CN, "d-1")]],
        [[(O, "acme")], [(OU, "devices2")], [(CN, "d-1")]],
        [[(O, "acme")], [(OU, "devices,CN=d-1")]],
        [[(O, "acme")], [(OU, "devices")], [(CN, "d-1,OU=devices")]],
        [[(O, "acme")], [(OU, "devices")], [(CN, "d-1:x")]],
    ],
)
def test_attack_a_subject_that_is_almost_the_patterns(rdns: Any) -> None:
    """Types, their order, their number and their RDNs are the pattern's, and nothing in a value
    makes another attribute."""
    assert reason_of(certificate(name(*rdns)), DEVICE) == "no_binding"
    assert user_of(certificate(name(*GOOD_SUBJECT)), DEVICE) == "device:d-1"


def test_a_subject_may_have_placeholders_anywhere() -> None:
    """Each attribute is a template of its own; what is bound is found whatever stands before."""
    line = "pattern subject CN=dev-{id},OU={unit}:{site},O=acme d:{site}:{unit}:{id} on"
    subject = name([(O, "acme")], [(OU, "a@b:c+d")], [(CN, "dev-7")])
    assert user_of(certificate(subject), line) == "d:c+d:a@b:7"
    slashes = "pattern subject /CN={id}/O=acme d:{id} on"
    assert user_of(certificate(name([(CN, "7")], [(O, "acme")])), slashes) == "d:7"


# ---- The users that are made ---------------------------------------------------------------------


def test_attack_two_certificates_that_make_one_name() -> None:
    """ns=a-b, sa=c is not ns=a, sa=b-c: no value holds what separates two."""
    pairs = [("a-b", "c"), ("a", "b-c"), ("a.b", "c"), ("a", "b.c"), ("a_b", "c"), ("a", "b_c")]
    assert len({user_of(spiffe(*pair), SPIFFE) for pair in pairs}) == len(pairs)


VALUE = st.text("ab-._~+@", min_size=1, max_size=4)
BEFORE, BEHIND = st.sampled_from(["", "x", "-a", "a-", "."]), st.sampled_from(["", "b", "-"])
USER = st.lists(
    st.tuples(BEFORE, st.sampled_from("abc"), BEHIND),
    min_size=1,
    max_size=5,
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(
    USER,
    st.dictionaries(st.sampled_from("abc"), VALUE, min_size=3),
    st.dictionaries(st.sampled_from("abc"), VALUE, min_size=3),
)
def test_a_name_says_back_what_made_it(
    segments: list[tuple[str, str, str]], values: dict[str, str], others: dict[str, str]
) -> None:
    """The rules of a user follow from the line and its name alone, and different values that the
    name has make different names."""
    template = "u:" + ":".join(f"{a}{{{hole}}}{b}" for a, hole, b in segments)
    used = sorted({hole for _, hole, _ in segments})
    rules = [f"~{hole}:{{{hole}}}:*" for hole in used]
    line = Pattern(
        f"pattern subject CN={{a}},OU={{b}},O={{c}} {template} on {' '.join(rules)} +get"
    )

    def filled(text: str, by: dict[str, str]) -> str:
        return re.sub(r"\{([abc])\}", lambda found: by[found[1]], text)

    made = filled(template, values)
    assert line.makes(made)
    assert line.rules(made) == ["on", *(filled(rule, values) for rule in rules), "+get"]
    same = all(values[hole] == others[hole] for hole in used)
    assert (filled(template, others) == made) == same


@pytest.mark.parametrize(
    "user", ["app:a", "app:a:b:c", "app:a:", "app::b", "app:a:b*", "app:a:b c", "xapp:a:b", "app",
             "", "app:a:" + "b" * 256, "app:a:b\n", "app:{ns}:{sa}", "app:a:b/c", "App:a:b",
             "app:\u00e9:b"],
)  # fmt: skip
def test_a_name_that_no_certificate_makes_has_no_rules(user: str) -> None:
    """Neither by the line nor by the policy that holds it."""
    line = Pattern(SPIFFE)
    assert not line.makes(user)
    assert line.rules(user) == []
    assert lib.policy_pattern_of(policy([SPIFFE]), span(user.encode())) == ffi.NULL


def test_a_value_that_stands_twice_in_a_name_is_one() -> None:
    """A name with two values for one placeholder is nobody's."""
    line = Pattern("pattern cn {a} u:{a}:x{a} on ~{a}")
    assert line.rules("u:b:xb") == ["on", "~b"]
    assert line.rules("u:b:xc") == []


def test_a_policy_knows_whose_a_name_is() -> None:
    """By its word, whether or not a line makes it; for a name that it makes, its line."""
    held = policy([SPIFFE, DEVICE, "user appendix:x on"])
    for user, owned, line in [
        ("app:a:b", True, SPIFFE),
        ("app:a", True, None),
        ("device:7", True, DEVICE),
        ("appendix:x", False, None),
        ("app", False, None),
        (":x", False, None),
        ("", False, None),
        ("a@b:x", False, None),
    ]:
        found = lib.policy_pattern_of(held, span(user.encode()))
        assert bool(lib.policy_owns_word(held, span(user.encode()))) is owned
        assert (None if found == ffi.NULL else bytes_of(lib.rule_text(found)).decode()) == line
    commit(held, patch(held, [f"-{SPIFFE}"]))
    assert not lib.policy_owns_word(held, span(b"app:a:b"))
    assert lib.policy_owns_word(held, span(b"device:7"))


def test_a_sample_is_a_user_that_the_line_makes() -> None:
    """So that the server can be asked about the ACL rules before anything changes."""
    for text in GOOD:
        line = Pattern(text)
        assert line.makes(line.sample) == bool(line.sample) == ("{" in text.split()[3])
    assert Pattern(SPIFFE).sample == "app:x:x"
    assert Pattern(SPIFFE).rules("app:x:x") == ["on", "~x:x:*", "+@read"]
    assert Pattern("user app:x on").sample == ""


def test_long_values_make_long_rules() -> None:
    """The longest rule that a line may hold, with the longest values, has room."""
    line = Pattern(f"pattern cn {{a}} u:{{a}} ~{'{a}:' * 16}{'x' * 4000} {'~' + 'y' * 100_000}")
    first, second = line.rules("u:" + "v" * 255)
    assert first == "~" + ("v" * 255 + ":") * 16 + "x" * 4000
    assert second == "~" + "y" * 100_000


def matches(glob: str, key: str) -> bool:
    """As the server's key patterns do, for those without [ ] and backslashes (util.c)."""
    parts = [{"*": ".*", "?": "."}.get(c, re.escape(c)) for c in glob]
    return re.fullmatch("".join(parts), key, re.DOTALL) is not None


@settings(deadline=None, max_examples=300)
@given(
    VALUE,
    VALUE,
    st.text("ab-._~+@:", max_size=8),
    st.sampled_from(
        ["{id}:*", "k:{id}:*", "{{id}}:*", "*:{id}", "x/{id}/?", "{id}", "{{id}}*", "?:{id}:*"]
    ),
)
def test_attack_a_value_that_reaches_the_keys_of_another(
    mine: str, other: str, rest: str, glob: str
) -> None:
    """What one user reaches by a rule with one wildcard at its end or start, no other reaches."""
    if mine == other:
        return
    line = Pattern(f"pattern cn {{id}} u:{{id}} ~{glob}")
    (own,), (theirs,) = line.rules(f"u:{mine}"), line.rules(f"u:{other}")
    key = own.removeprefix("~").replace("*", rest).replace("?", "b")
    assert matches(own.removeprefix("~"), key)
    assert not matches(theirs.removeprefix("~"), key)


# ---- Words ---------------------------------------------------------------------------------------

OTHER_STATE = SPIFFE.replace("acme", "other").replace("+@read", "+@write")
OTHER_USER = "pattern cn {id} app:{id} on ~{id}:* +@read"
SAME_STATE = SPIFFE.replace("acme", "other")
NAMED = "the name starts with the word of a `pattern` line"
SHARED = "another pattern line has the same word with another user or other ACL rules"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([SPIFFE, "user app:a:b on"], "a `user` line has a name that starts with the same word"),
        ([SPIFFE, "user app:anything"], "a `user` line has a name that starts with the same word"),
        ([SPIFFE, OTHER_STATE], SHARED),
        ([SPIFFE, OTHER_USER], SHARED),
        ([SPIFFE, SAME_STATE], None),
        ([SPIFFE, DEVICE, "user app on", "user apps:a on", "user ap:a on", "user :app:x on"], None),
        ([SPIFFE, SAME_STATE.replace(" on ", " session=1h on ")], None),
    ],
)
def test_a_word_belongs_to_its_patterns(lines: list[str], problem: str | None) -> None:
    """In one write and in several, in either order: names with the word are made by lines that
    agree, and are in no `user` line."""
    if problem is None:
        held = Policy(lines)
        held.patch([f"-{line}" for line in lines])
        held.patch([f"+{line}" for line in reversed(lines)])
        return
    with pytest.raises(PolicyError, match=re.escape(problem)):
        Policy(lines)
    for first, second in (lines, reversed(lines)):
        held = Policy([first])
        wanted = NAMED if second.startswith("user") else problem
        with pytest.raises(PolicyError, match=re.escape(f"line 1: {wanted}")):
            held.patch([f"+{second}"])
        assert held.lines == (first,)
        held.patch([f"-{first}", f"+{second}"])
        assert held.lines == (second,)


def test_every_line_of_a_word_is_named_that_disagrees() -> None:
    """A write that brings several finds all of them."""
    with pytest.raises(PolicyError) as refused:
        Policy([SPIFFE, OTHER_STATE, DEVICE, "user app:x on", "user x on"])
    assert [number for number, _ in refused.value.problems] == [1, 2, 4]


def test_a_bootstrap_file_holds_no_pattern() -> None:
    """Its lines count whatever the policy says, so each of them names its users."""
    with pytest.raises(ValueError, match="a bootstrap file holds ca, anchor, bind, user and limit"):
        policy([SPIFFE], lib.FROM_BOOTSTRAP)


ASK = pytest.mark.parametrize(
    "ask", [None, lambda _: lib.USER_ON, lambda _: lib.USER_MISSING], ids=["none", "on", "missing"]
)


@ASK
@pytest.mark.parametrize("users", ["app:a:b", "app:x", "bob app:a:b"])
def test_attack_a_binding_to_a_name_that_a_pattern_makes(ask: Any, users: str) -> None:
    """Another certificate does not become its user by a `bind` line, whatever the server knows."""
    lines = ["set enforce on", authority_line(ca()), SPIFFE]
    under = policy([*lines, f"bind cn mallory {users}", "user bob on"])
    found = decide(under, certificate(person("mallory")), ask=ask)
    assert (found.action, found.reason) == ("refuse", "user_missing")
    assert found.detail
    assert "starts with the word of a `pattern` line" in found.detail
    free = policy([*lines[:2], f"bind cn mallory {users}", "user bob on", "user app:x on"])
    assert decide(free, certificate(person("mallory"))).reason == "matched"


@ASK
def test_attack_a_pattern_that_makes_a_user_of_the_bootstrap_file(ask: Any) -> None:
    """The node's own users are not the policy's to make; the node's binding to one stays."""
    own = policy(
        [authority_line(ca()), "user app:a:b on", "bind cn root app:a:b"], lib.FROM_BOOTSTRAP
    )
    under = policy(["set enforce on", authority_line(ca()), SPIFFE])
    found = decide(under, spiffe("a", "b"), bootstrap=own, ask=ask)
    assert (found.reason, found.detail) == (
        "user_missing",
        "the user belongs to the bootstrap file, and is not the policy's to give",
    )
    assert decide(under, spiffe("a", "c"), bootstrap=own, ask=ask).users == ("app:a:c",)
    rescued = decide(under, certificate(person("root")), bootstrap=own)
    assert (rescued.reason, rescued.users) == ("matched", ("app:a:b",))


def test_attack_a_bootstrap_binding_to_a_user_that_only_a_pattern_makes() -> None:
    """A user without a line of the file is the policy's, and here that is a pattern's."""
    own = policy([authority_line(ca()), "bind cn root app:a:b"], lib.FROM_BOOTSTRAP)
    under = policy(["set enforce on", authority_line(ca()), SPIFFE])
    leaf = certificate(person("root"))
    assert decide(under, leaf, bootstrap=own, ask=lambda _: lib.USER_ON).reason == "user_missing"
    plain = policy(["set enforce on", authority_line(ca())])
    assert decide(plain, leaf, bootstrap=own, ask=lambda _: lib.USER_ON).reason == "matched"


def test_limits_concern_made_users_as_others() -> None:
    """They have a line, which is where the module puts the limits."""
    own = policy([authority_line(ca()), "limit -@admin"], lib.FROM_BOOTSTRAP)
    under = policy(["set enforce on", authority_line(ca()), SPIFFE])
    assert decide(under, spiffe("a", "b"), bootstrap=own).users == ("app:a:b",)


# ---- The decision --------------------------------------------------------------------------------


def test_a_binding_wins_over_a_pattern() -> None:
    """Patterns are tried only where no exact line names the certificate, by whatever."""
    leaf = spiffe("a", "b")
    assert user_of(leaf, SPIFFE) == "app:a:b"
    for line in ("bind uri spiffe://acme/ns/a/sa/b bob", "bind cn x bob"):
        assert user_of(leaf, SPIFFE, line, "user bob on") == "bob"
    elsewhere = f"bind cn x bob ca={KEY}"
    assert user_of(leaf, SPIFFE, elsewhere, "user bob on") == "app:a:b"
    # A binding that refuses is not a reason to look further.
    assert reason_of(leaf, SPIFFE, "bind cn x bob", "user bob off") == "user_off"
    assert reason_of(leaf, SPIFFE, "bind cn x bob from=10.0.0.1", address="::1") == "address"


def test_patterns_that_make_different_users_conflict() -> None:
    """In either order of the certificate's names; the same user twice is one."""
    leaf = certificate(person("a"), sans(uri("spiffe://acme/ns/a/sa/b"), dns("a.x.com")))
    by_dns = "pattern dns {h}.x.com host:{h} on"
    assert reason_of(leaf, SPIFFE, by_dns) == "conflict"
    assert user_of(leaf, by_dns) == "host:a"
    by_cn = "pattern cn {h} host:{h} on"
    assert user_of(leaf, by_dns, by_cn) == "host:a"
    other = certificate(person("b"), sans(dns("a.x.com")))
    assert reason_of(other, by_dns, by_cn) == "conflict"


def test_the_options_of_all_patterns_count() -> None:
    """The address is within the `from=` of each, and the shortest session counts."""
    leaf = certificate(person("a"), sans(dns("a.x.com")))
    lines = [
        "set enforce on",
        authority_line(ca()),
        "pattern dns {h}.x.com host:{h} from=10.0.0.0/8 session=2h on",
        "pattern cn {h} host:{h} session=1h on",
    ]
    under = policy(lines)
    assert decide(under, leaf, address=b"\n\0\0\1").session == 3600
    assert decide(under, leaf, address=b"\x0b\0\0\1").reason == "address"
    assert decide(policy(lines[:3]), leaf, address=b"\n\0\0\1").session == 7200


def test_attack_a_leaf_of_another_ca() -> None:
    """A pattern with `ca=` is for what that CA issued, on whatever way; others do not match it."""
    tenant = long_root("CN=Tenant")
    sub = intermediate(tenant)
    line = SPIFFE.replace(" on ", f" ca={tenant.key_id} on ")
    under = policy(["set enforce on", authority_line(ca()), authority_line(tenant), line])
    leaf = {by: certificate(person("x"), sans(uri("spiffe://acme/ns/a/sa/b")), by=by)
            for by in (tenant, sub, ca())}  # fmt: skip
    assert decide(under, leaf[tenant], [tenant]).users == ("app:a:b",)
    assert decide(under, leaf[sub], [sub, tenant]).users == ("app:a:b",)
    assert decide(under, leaf[ca()], [ca()]).reason == "no_binding"


def test_attack_several_values_of_the_kind() -> None:
    """Who picks the value would pick the user: also where only one of them fits. Of other kinds
    there may be as many as there are."""
    good = uri("spiffe://acme/ns/a/sa/b")
    for others in ([uri("spiffe://acme/ns/a/sa/c")], [uri("http://x")]):
        for order in ([good, *others], [*others, good]):
            assert reason_of(certificate(person("x"), sans(*order)), SPIFFE) == "ambiguous"
    many = certificate(person("x"), sans(good, dns("a"), dns("b")))
    assert user_of(many, SPIFFE) == "app:a:b"
    twice = certificate(name([(CN, "a")], [(CN, "b")]))
    assert reason_of(twice, "pattern cn {id} u:{id} on") == "ambiguous"


def test_a_made_user_is_what_its_line_says() -> None:
    """It is there by the line, and the server, where it is not yet, is not asked."""
    asked: list[str] = []

    def ask(user: str) -> int:
        asked.append(user)
        return int(lib.USER_MISSING)

    for rules, reason in (
        ("on", "matched"),
        ("off", "user_off"),
        ("", "user_off"),
        ("off on", "matched"),
    ):
        line = f"pattern cn {{id}} u:{{id}} {rules}".strip()
        under = policy(["set enforce on", authority_line(ca()), line])
        assert decide(under, certificate(person("a")), ask=ask).reason == reason
    assert asked == []


def test_what_is_wrong_with_a_certificate_stays_wrong() -> None:
    """A pattern is a binding, no way around the checks."""
    leaf = spiffe("a", "b")
    old = certificate(person("x"), sans(uri("spiffe://acme/ns/a/sa/b")),
                      validity=(utc("200101000000Z"), utc("210101000000Z")))  # fmt: skip
    stranger = certificate(
        person("x"), sans(uri("spiffe://acme/ns/a/sa/b")), by=long_root("CN=Evil")
    )
    assert reason_of(old, SPIFFE) == "expired"
    assert reason_of(stranger, SPIFFE) == "untrusted_issuer"
    assert reason_of(leaf, SPIFFE, f"revoke key {core.identity(leaf).key}") == "revoked"
    assert reason_of(leaf, SPIFFE, "set gate san_cn") == "gate"
    assert reason_of(leaf) == "no_binding"


def test_explain_names_the_user_that_is_made() -> None:
    """And how many lines were tried where none fits."""
    found = trusting(SPIFFE).decide(spiffe("a", "b"), now=NOW)
    assert (found.users, found.line) == (("app:a:b",), SPIFFE)
    assert "it makes the user: app:a:b" in found.trace
    missed = trusting(SPIFFE).decide(spiffe("a", "b/c"), now=NOW)
    assert "`pattern` lines that were compared: 1" in missed.trace
    assert not any("makes the user" in step for step in missed.trace)


# ---- The index -----------------------------------------------------------------------------------


@cache
def crowd() -> Any:
    """100,000 patterns, each with an anchor of its own, of every kind."""
    lines = [
        template.format(n=number)
        for number in range(20_000)
        for template in (
            "pattern uri spiffe://acme/t{n}/{{id}} u{n}:{{id}} on",
            "pattern dns {{id}}.d{n}.example.com d{n}:{{id}} on",
            "pattern email {{id}}@e{n}.example.com e{n}:{{id}} on",
            "pattern subject CN={{id}},OU=o{n},O=acme s{n}:{{id}} on",
            "pattern cn c{n}:{{id}} c{n}:{{id}} on",
        )
    ]
    return policy(["set enforce on", authority_line(ca()), *lines])


@pytest.mark.parametrize(
    ("leaf", "user"),
    [
        (certificate(person("x"), sans(uri("spiffe://acme/t777/a"))), "u777:a"),
        (certificate(person("x"), sans(dns("a.d777.example.com"))), "d777:a"),
        (certificate(person("x"), sans(email("a@e777.example.com"))), "e777:a"),
        (certificate(name([(O, "acme")], [(OU, "o777")], [(CN, "a")])), "s777:a"),
        (certificate(person("c777:a")), "c777:a"),
        (certificate(person("c99999:a")), None),
        (certificate(person("x"), sans(*(dns(f"x{n}.example.com") for n in range(500)))), None),
    ],
)
def test_one_of_100_000_patterns_is_found_without_trying_the_others(
    leaf: bytes, user: str | None
) -> None:
    """Only lines whose literal end the certificate has are compared with it."""
    found = decide(crowd(), leaf)
    assert found.users == ((user,) if user else ())
    assert found.compared <= 2


def test_long_literals_are_found_and_told_apart() -> None:
    """An anchor is cut at 255 bytes, a comparison is not."""
    for kind, template in (
        ("uri", "{long}/{{id}}"),
        ("dns", "{{id}}.{long}"),
        ("cn", "{long}:{{id}}"),
    ):
        for length in (253, 254, 255, 256, 400):
            one, other = ("{long}".format(long=c + "x" * length + c) for c in "ab")
            line = f"pattern {kind} {template.format(long=one)} u:{{id}} on"
            leaf = LEAVES[kind](template.format(long=one).replace("{id}", "a"))
            evil = LEAVES[kind](template.format(long=other).replace("{id}", "a"))
            assert user_of(leaf, line) == "u:a", (kind, length)
            assert reason_of(evil, line) == "no_binding"


def test_so_many_lines_may_share_what_they_are_found_by() -> None:
    """Else one certificate would be compared with all of them; the same for those of a word."""
    most = lib.PATTERN_TWINS
    for template, what in (
        ("pattern uri x/{{a}}/{n} u{n}:{{a}} on", "literal at the end by which they are found"),
        ("pattern uri x/{{a}}/{n} shop", "literal at the end by which they are found"),
        ("pattern uri {n}/{{a}} u:{{a}} on", "word"),
    ):
        lines = [template.format(n=number) for number in range(most + 1)]
        held = Policy(lines[:most])
        with pytest.raises(
            PolicyError, match=f"line 1: too many pattern lines have the same {what}: at most"
        ):
            held.patch([f"+{lines[most]}"])
        held.patch([f"-{lines[0]}", f"+{lines[most]}"])
        with pytest.raises(PolicyError, match=f"at most {most}"):
            Policy(lines)


# ---- As a set of lines ---------------------------------------------------------------------------

POOL = [
    SPIFFE,
    SAME_STATE,
    SPIFFE.replace("acme", "third").replace(" on ", " session=1h on "),
    DEVICE,
    "pattern cn {id} cn:{id} on",
    "pattern cn x{id} x:{id} on",
    "pattern dns {id}.a.b host:{id} on",
    "pattern dns {id}.b any:{id} off",
    "bind cn x1 bob",
]
PROBES = [
    spiffe("a", "b"),
    certificate(person("x1")),
    certificate(name(*GOOD_SUBJECT)),
    certificate(person("q:"), sans(dns("h.a.b"))),
    certificate(person("q:"), sans(dns("h.b"))),
    certificate(person("q:"), sans(uri("spiffe://third/ns/a/sa/b"))),
]


def commit(held: Any, change: Any, large: bool = False) -> None:
    """In place, or by tables that are made beside those in force."""
    if large:
        lib.patch_prepare(change)
    lib.policy_commit(held, change)
    lib.patch_free(change)


def seen(held: Any, pending: Any = ffi.NULL) -> list[tuple[str, tuple[str, ...]]]:
    found = [decide(held, leaf, pending=pending) for leaf in PROBES]
    return [(one.reason, () if one.reason == "conflict" else one.users) for one in found]


@settings(deadline=None, max_examples=60)
@given(
    st.sets(st.sampled_from(POOL)),
    st.lists(st.sets(st.sampled_from(POOL)), max_size=5),
    st.booleans(),
)
def test_patterns_come_and_go_as_other_lines_do(
    start: set[str], steps: list[set[str]], large: bool
) -> None:
    """A patch is the load of its result, for the digest and for each decision; and what is decided
    while it is pending is what will be."""
    fixed = ["set enforce on", "user bob on", authority_line(ca())]
    held, lines = policy([*fixed, *sorted(start)]), set(start)
    for toggled in steps:
        before = seen(held)
        change = patch(
            held, [f"-{line}" if line in lines else f"+{line}" for line in sorted(toggled)]
        )
        lines ^= toggled
        expected = seen(policy([*fixed, *sorted(lines)]))
        assert seen(held, change) == expected
        assert seen(held) == before
        commit(held, change, large)
        assert seen(held) == expected
        out = ffi.new("char[]", lib.DIGEST_TEXT)
        lib.digest_print(ffi.new("digest *", lib.policy_digest(held)), out)
        assert text_of(out) == core.digest([*fixed, *lines])


@pytest.mark.parametrize("large", [False, True], ids=["in place", "beside it"])
def test_many_patterns_grow_and_shrink(large: bool) -> None:
    """Chains are unlinked and holes are closed: each that stays is found, each that went is not."""
    rng, held, fixed = random.Random(1), set(range(3000)), ["set enforce on", authority_line(ca())]
    lines = [f"pattern uri t{n % 1500}/{{a}}/{n} u{n % 700}:{{a}} on" for n in range(3000)]
    under = policy([*fixed, *lines])
    while held:
        gone = rng.sample(sorted(held), min(len(held), 1200))
        commit(under, patch(under, [f"-{lines[n]}" for n in gone]), large)
        held -= set(gone)
        for number in rng.sample(range(3000), 40):
            found = decide(under, LEAVES["uri"](f"t{number % 1500}/x/{number}"))
            assert found.users == ((f"u{number % 700}:x",) if number in held else ())
    assert not any(lib.policy_owns_word(under, span(f"u{n}:x".encode())) for n in range(700))
