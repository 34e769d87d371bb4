"""The header in which a proxy hands a client's certificate over: each program has its own form.

Pure. Whether the header is the proxy's own is told by the socket that it comes over, not here."""

import base64
import re
from urllib.parse import unquote

NONE = ("", "(null)")  # the latter is Apache's word for no certificate
PAIR = re.compile(r'(\w+)=(?:"((?:\\.|[^"\\])*)"|([^;,"]*))(;|,|$)', re.ASCII)
SEQUENCE = b"0"  # the tag that the DER of a certificate begins with
ENVOY = re.compile(r"(?:By|Hash|Cert|Chain|Subject|URI|DNS)=", re.IGNORECASE)
PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*")


def chain(value: str) -> tuple[bytes, ...]:
    """The certificates of a header, DER, the leaf first; none where the client has shown none.

    PEM, percent-encoded (nginx, AWS) or with blanks for the ends of lines (Apache); base64 of DER
    (HAProxy), several with commas between (Traefik); Envoy's pairs. Raises ValueError."""
    if value.strip() in NONE:
        return ()
    text = _of_envoy(value) if ENVOY.match(value) else value
    text = unquote(text) if "%" in text else text
    bodies = _pem(text) if "-----" in text else text.split(",")
    found = tuple(base64.b64decode("".join(body.split()), validate=True) for body in bodies)
    if not all(one.startswith(SEQUENCE) for one in found):
        raise ValueError("what it holds is not the DER of certificates")
    return found


def _pem(text: str) -> list[str]:
    found = list(PEM.finditer(text.strip()))
    if "".join(one[0] for one in found) != text.strip():
        raise ValueError("it is not PEM of certificates alone")
    return [one[1] for one in found]


def _of_envoy(value: str) -> str:
    """`Chain`, else `Cert`. A value in quotes may hold anything, such as another `;Cert=`, since
    the client's subject is one. Raises ValueError."""
    at, found = 0, dict[str, str]()
    while at < len(value):
        pair = PAIR.match(value, at)
        if pair is None or pair[4] == ",":
            raise ValueError("not the header of one proxy: those before it have to be dropped")
        name = pair[1].lower()
        if name in found and name in ("cert", "chain"):
            raise ValueError(f"{name} is there twice")
        found[name] = pair[2] if pair[2] is not None else pair[3]
        at = pair.end()
    text = found.get("chain") or found.get("cert", "")
    if not text:
        raise ValueError("it has no Cert: set_current_client_cert_details wants cert: true")
    return text
