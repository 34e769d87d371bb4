"""From the claims of a token to an identity, by the rules of its issuer. Pure.

An identity is `kind:template`, and a placeholder of a template is a claim: of
`uri:spiffe://acme/ns/{kubernetes.io.namespace}/sa/{kubernetes.io.serviceaccount.name}`, say. Two
tokens that say different things never come to be the same: what follows a placeholder cannot stand
in its value, so that every identity can be read back in one way only. No value is changed on the
way but by an escape that can be taken back; what would need more (blanks, letters that are no
ASCII, upper case where the kind does not tell it from lower) is refused.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from control.pki import jose
from control.pki.jose import TokenError
from control.pki.request import check_sans
from control.policy import core
from control.records import EnrolmentRule

Claims = Mapping[str, Any]
KINDS = ("user", "subject", "uri", "dns", "email")
PLACEHOLDER = re.compile(r"\{([!-z|~]{1,128})\}", re.ASCII)
LETTERS = {
    "dns": re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", re.ASCII),  # one label
    "email": re.compile(r"[a-z0-9._+@-]+", re.ASCII),
    "uri": re.compile(r"(?!\.{1,2}$)[!-~]+", re.ASCII),  # `..` would name what is above
    "user": re.compile(r"[!-~]+", re.ASCII),
    "subject": re.compile(r"[!-~]+", re.ASCII),
}
ALIKE = frozenset({"iss", "aud"})  # claims that all tokens of an issuer have alike
SAMPLE = {"email": "a@example.com"}


def parts_of(identity: str) -> tuple[str, list[tuple[str, str]]]:
    """The kind of a template, and its parts: each a literal and the path of the claim behind it, ""
    behind the last. Raises ValueError."""
    kind, colon, template = identity.partition(":")
    if kind not in KINDS or not colon or not template:
        raise ValueError(
            f"'{identity}' is not like uri:…, its kind being one of {', '.join(KINDS)}"
        )
    found = PLACEHOLDER.split(template)
    parts = list(zip(found[::2], [*found[1::2], ""], strict=True))
    for number, (literal, _) in enumerate(parts):
        if "{" in literal or "}" in literal:
            raise ValueError("a brace that is part of no placeholder: one is {sub}, say")
        if not literal and 0 < number < len(parts) - 1:
            raise ValueError("two placeholders without anything between: nothing says where the "
                             "first one ends")  # fmt: skip
    return kind, parts


def check_identity(identity: str) -> None:
    """Raises ValueError (CoreError too) where no token could come to be this."""
    kind, parts = parts_of(identity)
    filled = "".join(f"{literal}{SAMPLE.get(path, 'a') if path else ''}" for literal, path in parts)
    if kind == "subject":
        core.parse_name(filled)
    elif kind == "dns" and not all(map(LETTERS[kind].fullmatch, filled.split("."))):
        raise ValueError(f"'{filled}' is not a DNS name in lower case")
    elif kind != "user":
        check_sans([f"{kind}:{filled}"])


ATTRIBUTES = {  # of a name, as module/core/name.c spells them; others by their OID
    "2.5.4.3": "CN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
    "2.5.4.10": "O", "2.5.4.11": "OU", "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "emailAddress",
}  # fmt: skip
BORN = re.compile(
    rf"subject\.({'|'.join(ATTRIBUTES.values())}|\d+(\.\d+)+)|san\.(uri|dns|email|ip|upn)", re.ASCII
)


def of_certificate(leaf: core.Identity) -> Claims:
    """What a birth certificate says, as claims: `subject.serialNumber`, `san.uri`. What it has
    several times is a list, which cannot stand in an identity; a kind of names of which one is not
    clean text is left out."""
    subject = () if "subject" in leaf.odd else core.rdns(leaf.subject)
    named = ((ATTRIBUTES.get(oid, oid), value) for rdn in subject for oid, value in rdn)
    sans = ((kind, value) for kind, value in leaf.sans if kind not in leaf.odd)
    return {"subject": _collected(named), "san": _collected(sans)}


def _collected(pairs: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values if values[1:] else values[0] for name, values in found.items()}


def check_born(rule: EnrolmentRule) -> None:
    """Raises ValueError where a rule asks for what no birth certificate is read for."""
    _, parts = parts_of(rule.identity)
    for path in [*(path for _, path in parts if path), *(path for path, _ in rule.claims)]:
        if not BORN.fullmatch(path) or path.removeprefix("subject.") in ATTRIBUTES:
            raise ValueError(
                f"'{path}' is nothing that a birth certificate says: write subject. and one of "
                f"{', '.join(ATTRIBUTES.values())} or another OID, or san. and one of uri, dns, "
                "email, ip, upn"
            )


def takes_every_token(rule: EnrolmentRule) -> bool:
    """Whether a rule makes one user of all tokens of its issuer, which tells nobody from anybody
    else. Raises ValueError."""
    named = {path for _, path in parts_of(rule.identity)[1] if path}
    return not (named | {path for path, _ in rule.claims}) - ALIKE


def rule_for(rules: tuple[EnrolmentRule, ...], claims: Claims) -> EnrolmentRule:
    """The first rule that a token fits. Raises TokenError."""
    for rule in rules:
        if all(jose.holds(claims, path, value) for path, value in rule.claims):
            return rule
    raise TokenError("token_no_rule", "the token is valid, but no rule of its issuer matches it")


def identity_of(rule: EnrolmentRule, claims: Claims) -> tuple[str, str]:
    """The kind and the value that a token's claims come to. Raises TokenError."""
    kind, parts = parts_of(rule.identity)
    text = ""
    for number, (literal, path) in enumerate(parts):
        behind = parts[number + 1][0] if path else ""
        text += literal + (_written(kind, path, jose.said(claims, path), behind) if path else "")
        if path == "email" and claims.get("email_verified") is not True:
            raise TokenError(
                "token_email_unverified", "the token's issuer does not say that the e-mail address "
                "is its owner's (email_verified): anybody may have typed it",
            )  # fmt: skip
    if kind == "email" and text.count("@") != 1:
        raise _unfit("email")
    return kind, text


def _written(kind: str, path: str, value: str, behind: str) -> str:
    """A claim as it stands in an identity, where the literal `behind` follows."""
    if not LETTERS[kind].fullmatch(value):
        raise _unfit(path)
    escaped = {
        "uri": lambda: quote(value, safe=""),
        "subject": lambda: "".join(f"\\{byte:02X}" for byte in value.encode()),
    }.get(kind, lambda: value)()
    read = value if kind == "subject" else escaped
    separate = kind == "subject" and behind[:1] in (",", "+")  # there it is escaped
    if behind and not separate and behind[0] in read:
        raise _unfit(path)
    return escaped


def _unfit(path: str) -> TokenError:
    return TokenError(
        "token_claim_value", f"the token's {path} contains a character that is not allowed at this "
        "place of the identity",
    )  # fmt: skip
