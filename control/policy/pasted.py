"""Names, fingerprints and serial numbers as people paste them out of other programs.

A distinguished name has two orders. RFC 4514 writes it from the end of the certificate's name,
OpenSSL, curl and others from its beginning, and often the text alone does not tell. So a name comes
with a remark wherever somebody else would read it the other way round: who asks for it shows that,
and nothing is taken the wrong way round in silence. What parses is the core's to say
(core.parse_name).

Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from control.policy import core


@dataclass(frozen=True)
class Name:
    """A name in its canonical text (RFC 4514), and how it was read where that is not certain."""

    text: str
    remark: str = ""


PREFIX = re.compile(
    r"(?:\*\s*)?(?:(subject|issuer)(?: dn| name)?\s*[:=]|(?:owner|dn)\s*:|\d+ [si]:)\s*",
    re.IGNORECASE,
)
LONG = re.compile(r"[A-Za-z]+Name\s*=")  # of `openssl x509 -nameopt multiline`
SECTION = re.compile(r"\[\w+\]\s*")
TYPE = r"[A-Za-z][A-Za-z0-9-]*|(?:OID\.)?[0-9]+(?:\.[0-9]+)+"
RDN = re.compile(r"(?:\\.|[^,\\])+")
KNOWN = "CN|OU|O|C|DC|L|ST|UID|E|emailAddress|serialNumber|title|userId|[A-Za-z]+Name"
HIDDEN = re.compile(rf"(?<=\S)[\s/](?:{KNOWN})\s*=", re.IGNORECASE)
SURE = re.compile(r'\\.|"(?:\\.|""|[^"\\])*"')  # of what is escaped or quoted, nothing separates
SEVERAL = re.compile(rf"\+\s*(?:{TYPE})\s*=")
BLANKS = re.compile(r"[ \t](?=[=,;+])|[=,;+][ \t]")
# Where a value that begins or ends with a blank shows it, in what escapes nothing.
EDGES = re.compile(
    r"(?:[^ \t]=|=[ \t])[ \t]|[ \t](?:[,;]|[ \t]\+|\+[^ \t]|$|/[A-Za-z]+=)", re.MULTILINE
)
# How far from the leaf an attribute stands: what is above goes before what is below.
RANKS = {
    "C": 0, "DC": 0, "1.3.6.1.4.1.311.60.2.1.3": 0, "ST": 1, "L": 2, "STREET": 2, "postalCode": 2,
    "O": 3, "OU": 4, "CN": 5, "UID": 5, "emailAddress": 5, "serialNumber": 5, "surname": 5,
    "givenName": 5, "title": 5, "pseudonym": 5,
}  # fmt: skip


def name(text: str) -> Name:
    """Reads a distinguished name in any of the forms that programs print. Raises core.CoreError."""
    pasted, in_order = _unwrapped(text)
    lines = [line.strip(" \t") for line in re.split("[\r\n]+", pasted) if line.strip()]
    if len(lines) > 1:
        read, order = _of_lines(lines)
        sure = False
    else:
        plain = lines[0] if lines else ""
        found = core.parse_name(_unstripped(pasted, plain))
        slashes = plain.startswith("/")
        read, order = (found, "") if slashes else _ordered(found, _Blanks.of(plain), in_order)
        sure = not (slashes or in_order or BLANKS.search(_bare(plain)) or LONG.match(plain))
    doubts = [*_doubts(pasted, read, sure), *([] if len(lines) > 1 else _one_value(read))]
    remarks = [*doubts, *([order] if order else [])]
    return Name(read, f"read {'; and '.join(remarks)}" if remarks else "")


def _bare(text: str) -> str:
    """Without what is escaped or quoted."""
    return SURE.sub("x", text)


def _doubts(pasted: str, read: str, sure: bool) -> list[str]:
    """How else a text could be meant, whose program may have escaped nothing. `sure`: it is written
    as RFC 4514 has it, which escapes."""
    bare, found = (
        _bare("\n".join(line for line in pasted.splitlines() if line.strip())),
        list[str](),
    )
    if not sure and SEVERAL.search(bare):
        several = next((rdn for rdn in RDN.findall(read) if SEVERAL.search(_bare(rdn))), read)
        found.append(
            f"with '{several}' as attributes beside each other: where a + is a part of a value, "
            "write \\+"
        )
    if EDGES.search(bare):
        found.append(
            "without the blanks around its values: where one belongs to a value, write it as '\\ '"
        )
    if "\ufffd" in pasted:
        found.append(
            "with U+FFFD, which programs write where they could not read a letter: copy it again"
        )
    return found


def _unstripped(pasted: str, plain: str) -> str:
    r"""A blank at the end counts where it is escaped: `CN=a\ `."""
    escaped = plain.endswith("\\") and pasted.rstrip("\r\n\t").endswith("\\ ")
    return f"{plain} " if escaped else plain


def _unwrapped(text: str) -> tuple[str, bool]:
    """Without what a program prints around a name; and whether that says that the order is the
    certificate's."""
    text = SECTION.sub("", text.lstrip(), count=1) if text.lstrip().startswith("[") else text
    found = PREFIX.match(text.lstrip())
    if not found:
        return text.strip("\r\n\t") if text.strip() else text, False
    rest = text.lstrip()[found.end() :]
    if rest.startswith('"') and rest.rstrip().endswith('"') and "=" in rest:
        return rest.strip()[1:-1], False  # NSS, whose order is RFC 4514's
    return rest, not found[0].lower().startswith(("owner", "dn"))


@dataclass(frozen=True)
class _Blanks:
    """Where a list has blanks: around each `=`, and behind each separator."""

    equals: bool
    separators: bool

    @classmethod
    def of(cls, text: str) -> "_Blanks":
        bare = _bare(text)
        rdns = re.split("[,;]", bare)
        return cls(
            all(re.match(rf"\s*(?:{TYPE})\s+=\s", part) for part in re.split("[,;+]", bare)),
            len(rdns) > 1 and all(rdn.startswith(" ") for rdn in rdns[1:]),
        )


def _ordered(read: str, blanks: _Blanks, in_order: bool) -> tuple[str, str]:
    """A name, and what is to be said of its order; `read` is the name as RFC 4514 would have it."""
    other = turned(read)
    if other == read:
        return read, ""
    first, last = _rank(read, 0), _rank(read, -1)
    printed = blanks.equals or blanks.separators
    if printed and (in_order or first < last):
        return other, _remark(other, IN_ITS_ORDER, read)
    if first < last or ((printed or in_order) and first == last) or blanks.equals:
        return read, _remark(read, AS_IN_RFC, other)
    return read, ""


IN_ITS_ORDER = "in the order of the certificate, as openssl prints it"
AS_IN_RFC = "as RFC 4514 writes it, the end of the certificate's name first"
BY_LINES = "line by line from the leaf up, as Windows shows it"


def _remark(read: str, how: str, other: str) -> str:
    return (
        f"{how}: the subject is '{read}'. Where it is the other way round, write '{other}'; "
        "the certificate itself tells (redis-certauth: --certificate)"
    )


def _one_value(read: str) -> list[str]:
    hidden = next((rdn for rdn in RDN.findall(read) if HIDDEN.search(rdn)), None)
    if hidden is None:
        return []
    return [f"with '{hidden}' as one value: a comma stands between two attributes"]


def turned(canonical: str) -> str:
    """A canonical name with its RDNs the other way round."""
    return ",".join(reversed(RDN.findall(canonical)))


def _rank(canonical: str, at: int) -> int:
    kind = RDN.findall(canonical)[at].partition("=")[0]
    return RANKS.get(kind, 4)


def _of_lines(lines: Sequence[str]) -> tuple[str, str]:
    """An attribute a line: Windows' dialogs, from the leaf up; OpenSSL's multiline, from the
    top."""
    for number, line in enumerate(lines, 1):
        if not re.match(rf"(?:{TYPE})\s*=", line):
            raise core.CoreError(f"line {number} of the subject is not like TYPE = value")
    from_top = any(LONG.match(line) for line in lines)
    rdns = [_escaped(line.rstrip(","), from_top) for line in lines]
    read = core.parse_name(",".join(reversed(rdns) if from_top else rdns))
    first, last = _rank(read, 0), _rank(read, -1)
    if from_top or first > last or turned(read) == read:
        return read, ""
    return read, _remark(read, BY_LINES, turned(read))


def _escaped(line: str, openssl: bool) -> str:
    """A line in which nothing is escaped; by OpenSSL, a `\\` and what it cannot show."""
    kind, _, value = line.partition("=")
    value = ESCAPED.sub(_unescaped, value) if openssl else value
    parts = re.split(rf"\s\+\s(?=(?:{TYPE})\s*=)", value.strip())
    special = r'([,"<>;+])' if openssl else r'([,"<>;+\\])'
    texts = [re.sub(special, r"\\\1", part) for part in parts]
    texts = [f"\\{one}" if one.startswith("#") else one for one in texts]
    return f"{kind.strip()}={'+'.join(texts)}"


ESCAPED = re.compile(r"(?:(?<!\\)\\[89A-F][0-9A-F])+")


def _unescaped(found: re.Match[str]) -> str:
    """Of OpenSSL's escapes for what is not ASCII: UTF-8 where it was told to, else Latin-1."""
    content = bytes.fromhex(found[0].replace("\\", ""))
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


# ---- Numbers -------------------------------------------------------------------------------------

HASHES = {32: "MD5", 40: "SHA-1", 128: "SHA-512"}


def fingerprint(text: str) -> str:
    """A SHA-256 in hex, as programs print it: with colons or blanks, in any case, with its name in
    front. Raises ValueError."""
    bare = re.sub(r"^\s*sha-?256(?:\s+fingerprint)?\s*[=:]", "", text, flags=re.IGNORECASE)
    digits = re.sub(r"[\s:]", "", bare).lower()
    if re.fullmatch("[0-9a-f]{64}", digits):
        return digits
    what = HASHES.get(len(digits)) if re.fullmatch("[0-9a-f]*", digits) else None
    said = f"it is a {what}: " if what else ""
    raise ValueError(
        f"{said}a SHA-256 has 64 hex digits, with or without colons (openssl x509 -noout "
        "-fingerprint -sha256)"
    )


def serial(text: str) -> str:
    """A serial number in hex, as programs print it: `serial=05E6`, `05:e6`, `0x5e6`,
    `1510 (0x5e6)`. Raises ValueError."""
    bare = re.sub(r"^\s*serial(?:\s*number)?\s*[=:]", "", text, flags=re.IGNORECASE).strip()
    both = re.fullmatch(r"[0-9]+ \(0x([0-9a-fA-F]+)\)", bare)
    digits = re.sub(r"[\s:]", "", both[1] if both else bare).lower().removeprefix("0x")
    if not re.fullmatch("[0-9a-f]{1,128}", digits):
        raise ValueError("a serial number is hex digits, with or without colons, and not negative")
    digits = digits.lstrip("0") or "0"
    return digits.zfill(len(digits) + len(digits) % 2)
