"""Names as programs print them: `FORMS` are those programs. The names are RDNs in the order of the
certificate, each of (type, value) pairs, with the short names of `TYPES`."""

import random
from collections.abc import Callable, Sequence

from tests.kit import certs

Rdns = Sequence[Sequence[tuple[str, str]]]
TYPES = {
    "CN": certs.CN, "OU": certs.OU, "O": certs.O, "C": certs.C, "ST": certs.ST, "L": certs.L,
    "DC": certs.DC, "UID": certs.UID, "emailAddress": certs.EMAIL,
    "serialNumber": certs.SERIAL_NUMBER, "title": certs.oid("2.5.4.12"),
}  # fmt: skip
LONG = {
    "CN": "commonName", "OU": "organizationalUnitName", "O": "organizationName",
    "C": "countryName", "ST": "stateOrProvinceName", "L": "localityName",
    "DC": "domainComponent", "UID": "userId",
}  # fmt: skip
WINDOWS = {"ST": "S", "emailAddress": "E", "serialNumber": "SERIALNUMBER", "title": "T"}
JAVA = {"emailAddress": "EMAILADDRESS", "serialNumber": "SERIALNUMBER", "title": "T"}
VALUES = (
    "acme", "Acme, Inc.", "a+b", "host/a.example", 'the "A" team', "#1", "a=b", "x;y", "<x>",
    "back\\slash", "Müller", "two  blanks", "joe@acme.example", "O'Hara", "x/y=z", "a, b=c",
    "x+CN=evil", "x + CN = evil", "x/CN=evil", "x, CN=evil", " lead", "trail ",
)  # fmt: skip


def der_of(rdns: Rdns) -> bytes:
    return certs.name(*([(TYPES[kind], value) for kind, value in rdn] for rdn in rdns))


def names(count: int, seed: int = 26) -> list[Rdns]:
    """Most from the top down, some from the leaf up, some as they come; a few with RDNs of two."""
    chance = random.Random(seed)
    order = ["C", "DC", "ST", "L", "O", "OU", "title", "UID", "emailAddress", "CN"]
    found: list[Rdns] = []
    for number in range(count):
        kinds = sorted(chance.sample(order, chance.randint(1, 5)), key=order.index)
        if number % 7 == 5:
            kinds.reverse()
        if number % 7 == 6:
            chance.shuffle(kinds)
        rdns = [[(kind, "US" if kind == "C" else chance.choice(VALUES))] for kind in kinds]
        if number % 10 == 3:
            rdns[-1].append(("serialNumber", "42"))
        if number % 10 == 6:
            rdns[0].append(("serialNumber", chance.choice(VALUES)))
        found.append(rdns)
    return found


def _backslashed(value: str, special: str = ',+"\\<>;') -> str:
    text = "".join(f"\\{c}" if c in special else c for c in value)
    if text.endswith(" "):
        text = f"{text[:-1]}\\ "
    return f"\\{text}" if text.startswith(("#", " ")) else text


def _quoted(value: str) -> str:
    """As .NET and Java do where they must."""
    needed = any(c in value for c in ',+=\n<>#;"') or value != value.strip()
    return '"' + value.replace('"', '""') + '"' if needed else value


def _openssl_quoted(value: str) -> str:
    """`-nameopt esc_2253`, and quotes instead of backslashes: what oneline is."""
    if not any(c in value for c in ',+"<>;#') and value == value.strip():
        return value.replace("\\", "\\\\")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


Write = Callable[[str, str], str]


def _joined(rdns: Rdns, write: Write, comma: str, plus: str) -> str:
    return comma.join(plus.join(write(*one) for one in rdn) for rdn in rdns)


def rfc4514(rdns: Rdns) -> str:
    return _joined(rdns[::-1], lambda kind, value: f"{kind}={_backslashed(value)}", ",", "+")


def oneline(rdns: Rdns) -> str:
    """OpenSSL 1.1 to 3.1."""
    text = _joined(rdns, lambda kind, value: f"{kind} = {_openssl_quoted(value)}", ", ", " + ")
    return f"subject={text}\n"


def oneline3(rdns: Rdns) -> str:
    """OpenSSL 3.2 and later."""
    text = _joined(rdns, lambda kind, value: f"{kind}={_openssl_quoted(value)}", ", ", " + ")
    return f"subject={text}\n"


def openssl_text(rdns: Rdns) -> str:
    return "        Subject: " + oneline(rdns).removeprefix("subject=")


def compat(rdns: Rdns) -> str:
    """X509_NAME_oneline of OpenSSL 3: what separates has a backslash, and no backslash has one."""

    def write(kind: str, value: str) -> str:
        return f"{kind}=" + "".join(map(shown, value))

    def shown(c: str) -> str:
        if c in "/+":
            return f"\\{c}"
        return c if " " <= c <= "~" else "".join(f"\\x{byte:02X}" for byte in c.encode())

    return f"subject=/{_joined(rdns, write, '/', '+')}\n"


def _latin(value: str) -> str:
    text = value.replace("\\", "\\\\")
    return "".join(c if c <= "~" else f"\\{ord(c):02X}" for c in text)


def multiline(rdns: Rdns) -> str:
    lines = []
    for rdn in rdns:
        parts = [f"{LONG.get(kind, kind):<26}= {_latin(value)}" for kind, value in rdn]
        lines.append(f"    {' + '.join(parts)}")
    return "subject=\n" + "\n".join(lines) + "\n"


def java(rdns: Rdns) -> str:
    """X500Name.toString and keytool."""

    def write(kind: str, value: str) -> str:
        quoted = any(c in value for c in ',+=\n<>#;"\\') or value != value.strip()
        inner = value.replace("\\", "\\\\").replace('"', '\\"')
        return f"{JAVA.get(kind, kind)}=" + (f'"{inner}"' if quoted else value)

    return _joined(rdns[::-1], write, ", ", " + ")


def keytool(rdns: Rdns) -> str:
    return f"Owner: {java(rdns)}"


def dotnet(rdns: Rdns) -> str:
    def write(kind: str, value: str) -> str:
        return f"{WINDOWS.get(kind, kind)}={_quoted(value)}"

    return _joined(rdns[::-1], write, ", ", " + ")


def windows(rdns: Rdns) -> str:
    """The dialog that shows a certificate: nothing is escaped."""

    def write(kind: str, value: str) -> str:
        return f"{WINDOWS.get(kind, kind)} = {value}"

    return "\r\n".join(" + ".join(write(*one) for one in rdn) for rdn in rdns[::-1])


def curl(rdns: Rdns) -> str:
    return f"*  subject: {_joined(rdns, lambda kind, value: f'{kind}={value}', '; ', ' + ')}"


def nss(rdns: Rdns) -> str:
    text = _joined(rdns[::-1], lambda kind, value: f"{kind}={_backslashed(value)}", ",", "+")
    return f'Subject: "{text}"'


def ldap(rdns: Rdns) -> str:
    def write(kind: str, value: str) -> str:
        ends = value != value.strip()
        special = ',+"\\<>;#=' + (" " if ends else "")
        text = "".join(f"\\{ord(c):02x}" if c in special else c for c in value)
        return f"{kind.lower()}={text}"

    return "dn: " + _joined(rdns[::-1], write, ",", "+")


FORMS: dict[str, Callable[[Rdns], str]] = {
    one.__name__: one
    for one in (rfc4514, oneline, oneline3, openssl_text, compat, multiline, java, keytool, dotnet,
                windows, curl, nss, ldap)
}  # fmt: skip
