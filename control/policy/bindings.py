"""The identities of users: from JSON to bindings, and from bindings to `bind` lines. Pure.

A binding is what one `bind` line says of a certificate (docs/policy.md). The core checks it and
spells it; nothing here knows what a value of a kind may be.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args
from urllib.parse import quote

from control.policy import core, pasted, taking
from control.records import Binding, BindingKind, Pattern, User

Optioned = TypeVar("Optioned", Binding, Pattern)

KINDS: tuple[BindingKind, ...] = get_args(BindingKind)
BY_OID = ("attribute", "extension")
SOMEBODY = "x"  # a user's name, while a line is only asked about
OPTIONS = ("ca", "from", "session")
URI_CHARACTERS = ":/?#[]@!$&'()*+,;=-._~"  # beside letters and digits (RFC 3986, 2.2 and 2.3)


def line_of(binding: Binding, names: Sequence[str]) -> str:
    """The `bind` line for users of these names, not canonical."""
    words = ["bind", binding.kind, core.quote(binding.value), *map(core.quote, names)]
    return " ".join([*words, *options_of(binding)])


def options_of(one: Binding | Pattern) -> list[str]:
    """The words behind the users of its line: `ca=…`, `from=…`, `session=…`."""
    said = (one.ca, ",".join(one.networks), one.session)
    return [f"{name}={value}" for name, value in zip(OPTIONS, said, strict=True) if value]


def with_options(one: Optioned, words: Iterable[str]) -> Optioned:
    """The same with the options among these words of its canonical line."""
    options = (word for word in words if word.startswith(taking.OPTIONS))
    said = dict(option.split("=", 1) for option in options)
    networks = tuple(filter(None, said.get("from", "").split(",")))
    return replace(one, ca=said.get("ca", ""), networks=networks, session=said.get("session", ""))


def spelled(binding: Binding) -> Binding:
    """The same in its canonical spelling. Raises core.CoreError, in the words of a policy line."""
    line = core.canonical(line_of(binding, [SOMEBODY]))
    _, _, value, _, *options = [one[0] for one in taking.TOKEN.finditer(line)]
    return with_options(replace(binding, value=unquoted(value)), options)


def unquoted(token: str) -> str:
    """What a word of a canonical line says. (core.quote the other way round.)"""
    return re.sub(r"\\(.)", r"\1", token[1:-1]) if token.startswith('"') else token


def sharing(binding: Binding, user: User, others: Iterable[User]) -> tuple[User, ...]:
    """The users of a binding of `user`, by uid: alone, or with those of `others` who share it."""
    if not binding.shared:
        return (user,)
    found = {user.uid: user}
    for other in others:
        if any(one.shared and is_same(one, binding) for one in other.identities):
            found[other.uid] = other
    return tuple(found[uid] for uid in sorted(found))


def is_same(one: Binding, other: Binding) -> bool:
    """Whether one line would say both."""
    return (one.kind, one.value, one.ca) == (other.kind, other.value, other.ca)


def of_certificate(leaf: core.Identity) -> tuple[tuple[str, str], ...]:
    """Kinds and values that a `bind` line may name this certificate by, in the spelling of
    bindings; and its subject the other way round, for the hint. Lines of the kinds SCANNED may name
    it as well."""
    names = [("cn", name) for name in core.common_names(leaf.subject)]
    rdns = re.findall(r"(?:\\.|[^,\\])+", leaf.subject)
    subjects = [("subject", leaf.subject), ("subject", ",".join(reversed(rdns)))]
    sans = [(kind, _as_bound(kind, value)) for kind, value in leaf.sans]
    return (*subjects, *names, *sans, ("key", leaf.key), ("cert", leaf.cert))


def choices(leaf: core.Identity) -> list[tuple[str, str]]:
    """The kinds and values by which a user may be known by this certificate, for a person to choose
    from; not what no `bind` line can name."""
    names = [("cn", name) for name in core.common_names(leaf.subject)]
    all_of_it = [("subject", leaf.subject), *names, *leaf.sans, ("key", leaf.key),
                 ("cert", leaf.cert)]  # fmt: skip
    return [
        (kind, value)
        for kind, value in dict.fromkeys(all_of_it)
        if kind in KINDS and value and kind not in leaf.odd
    ]


def named(leaf: core.Identity) -> tuple[str, ...]:
    """Its subject alternative names as the inventory has them."""
    return tuple(f"{kind}:{value}" for kind, value in leaf.sans)


def _as_bound(kind: str, value: str) -> str:
    """A name of a certificate as a line spells it: Python and libc write addresses differently."""
    return spelled(Binding("ip", value)).value if kind == "ip" else value


SCANNED: tuple[BindingKind, ...] = ("attributes", "attribute", "extension")


def digest(kind: str, value: str) -> str:
    """By which a kind and value are found: SHA-256, hex."""
    return hashlib.sha256(f"{kind} {value}".encode()).hexdigest()


def overlap(one: Binding, other: Binding) -> bool:
    """Whether a certificate may have both, by the same value."""
    same = (one.kind, one.value) == (other.kind, other.value)
    return same and (one.ca == other.ca or not one.ca or not other.ca)


def is_plain(binding: Binding) -> bool:
    """Whether `certificate_subject_line` can say it."""
    return binding == Binding("subject", binding.value)


def ca_among(text: str, trusted: Sequence[core.Identity]) -> str:
    """The key id of the one of these CAs that has this name, SHA-256 or key id. Raises
    ValueError."""
    wanted = text.replace(":", "").lower()
    names = {text, *_spelled_name(text)}
    found = {
        one.key
        for one in trusted
        if wanted in (one.key, one.cert)
        or one.subject in names
        or text in core.common_names(one.subject)
    }
    if len(found) == 1:
        return found.pop()
    known = ", ".join(sorted({f"'{one.subject}'" for one in trusted})) or "none"
    what = "several trusted CAs are" if found else "no trusted CA is"
    raise ValueError(f"ca: {what} called '{text}' (trusted are: {known}); its key id names it")


def _spelled_name(text: str) -> tuple[str, ...]:
    try:
        return (pasted.name(text).text,)
    except core.CoreError:
        return ()


def escaped(text: str) -> str:
    """A part of a URI with what it may not hold in hex, and hex digits in upper case (RFC 3986,
    2.1 and 6.2.2.1); a percent sign that begins no such digits is one."""
    parts = re.split(r"(%[0-9A-Fa-f]{2})", text)
    parts[::2] = (quote(part, safe=URI_CHARACTERS) for part in parts[::2])
    parts[1::2] = (part.upper() for part in parts[1::2])
    return "".join(parts)


def doubt(binding: Binding) -> str:
    """What is to be said of a value that certificates are not likely to have; "" for most."""
    value = binding.value
    likely = value
    if binding.kind == "uri":
        scheme, colon, rest = value.partition(":")
        rest = escaped(rest)
        likely = scheme.lower() + colon + rest
        if scheme.lower() == "spiffe":  # SPIFFE-ID section 2: no upper case in the trust domain
            domain, slash, path = rest.removeprefix("//").partition("/")
            likely = f"spiffe://{domain.lower()}{slash}{path}".rstrip("/")
    elif binding.kind == "dns":
        likely = value.lower()
    if likely == value:
        return ""
    return (
        f"{binding.kind} '{value}' is compared byte for byte, and certificates rarely contain "
        f"it like that: more likely is '{likely}'"
    )


# ---- JSON ----------------------------------------------------------------------------------------


def read(given: Mapping[str, Any]) -> Binding:
    """A binding from JSON: one kind with its value, and options. Raises ValueError (CoreError too)
    that says what is wrong with it."""
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        raise ValueError(f"an identity must have exactly one of {', '.join(KINDS)}")
    kind = kinds[0]
    said = Binding(
        kind, _value(kind, given[kind]), given.get("ca", ""), tuple(given.get("from", ())),
        given.get("session", ""), given.get("shared", False), given.get("comment", ""),
    )  # fmt: skip
    return spelled(said)


def _value(kind: str, value: Any) -> str:
    if kind in BY_OID:
        if not isinstance(value, Mapping):
            raise ValueError(f'{kind}: write {{"oid": "2.5.4.5", "value": "…"}}')
        return f"{value['oid']}={value['value']}"
    if not isinstance(value, str):
        raise ValueError(f"{kind}: a text is expected")
    if kind == "subject":
        return pasted.name(value).text
    return pasted.fingerprint(value) if kind in ("key", "cert") else value


def shown(binding: Binding) -> dict[str, Any]:
    """As JSON: what `read` takes, without options that have no value."""
    value: Any = binding.value
    if binding.kind in BY_OID:
        oid, _, text = value.partition("=")
        value = {"oid": oid, "value": text}
    options = {
        "ca": binding.ca,
        "from": list(binding.networks),
        "session": binding.session,
        "shared": binding.shared,
        "comment": binding.comment,
    }
    return {binding.kind: value} | {name: said for name, said in options.items() if said}


def kind_of(given: Mapping[str, Any]) -> str:
    """The kind of an identity in JSON."""
    return next(kind for kind in KINDS if kind in given)


def value_of(given: Mapping[str, Any]) -> str:
    """Its value, as a binding has it. Raises ValueError."""
    kind = kind_of(given)
    return _value(kind, given[kind])


# ---- One line of text, for people ----------------------------------------------------------------

WORD = re.compile(r'(?:(?:ca|from|session|comment)=)?"(?:\\.|[^"\\])*"(?!\S)|\S+')
OPTION = re.compile(r"(?:(ca|from|session|comment)=(.+)|shared)", re.DOTALL)


def written(given: Mapping[str, Any]) -> str:
    """An identity in JSON as a line that `typed` reads: `uri spiffe://a/b session=8h`."""
    plain = _written(given, str)
    try:
        return plain if typed(plain) == given else _written(given, _quoted)
    except ValueError:  # a value that ends as an option does
        return _written(given, _quoted)


def _written(given: Mapping[str, Any], value: Callable[[str], str]) -> str:
    options = {**given, "from": ",".join(given.get("from", ()))}
    words = [kind_of(given), value(value_of(given))]
    words += [f"{name}={_word(options[name])}" for name in OPTIONS if options.get(name)]
    words += ["shared"] if given.get("shared") else []
    words += [f"comment={_word(given['comment'])}"] if given.get("comment") else []
    return " ".join(words)


def _word(text: str) -> str:
    return _quoted(text) if re.search(r'[\s"]', text) else text


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def typed(text: str) -> dict[str, Any]:
    """The JSON of an identity that somebody typed: a kind, its value (in quotes where it could be
    taken for an option), options. A subject needs no kind. Raises ValueError."""
    words = list(WORD.finditer(text))
    if not words:
        raise ValueError("an identity is a kind and a value")
    kind = words[0][0]
    if kind not in KINDS:
        if "=" not in kind:
            raise ValueError(f"'{kind}' is none of {', '.join(KINDS)}")
        words.insert(0, words[0])
        kind = "subject"
    options: dict[str, Any] = {}
    while len(words) > 2 and (found := OPTION.fullmatch(words[-1][0])):
        name = found[1] or "shared"
        if name in options:
            raise ValueError(f"{name} is there twice")
        options[name] = unquoted(found[2]) if found[1] else True
        words.pop()
    if len(words) < 2:
        raise ValueError(f"{kind}: a value is missing")
    value = text[words[1].start() : words[-1].end()]
    value = unquoted(value) if len(words) == 2 else value
    if "from" in options:
        options["from"] = options["from"].split(",")
    if kind not in BY_OID:
        return {kind: value, **options}
    oid, equals, said = value.partition("=")
    if not equals:
        raise ValueError(f"{kind}: '{value}' is not like OID=VALUE")
    return {kind: {"oid": oid, "value": said}, **options}


def parted(bindings: Iterable[Binding]) -> tuple[str, tuple[Binding, ...]]:
    """The subject line of a user with these identities, and the others: the first plain subject is
    the line."""
    all_of_them = list(bindings)
    line = next((one for one in all_of_them if is_plain(one)), None)
    return line.value if line else "", tuple(one for one in all_of_them if one is not line)
