"""SPIFFE bundles (SPIFFE Trust Domain and Bundle, section 4): the CAs of a trust domain, as a JWKS.

What a bundle has for other uses, such as keys of JWT-SVIDs, or for uses to come, is left alone."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from control.pki.guarded import CertificateError

CAS = 1000  # in a bundle
X509_SVID = "x509-svid"


@dataclass(frozen=True)
class Bundle:
    """The CAs of a bundle, DER; `sequence` grows with each bundle, and `hint` is after how many
    seconds to look again; 0 where it does not say."""

    cas: tuple[bytes, ...]
    sequence: int = 0
    hint: int = 0


def is_bundle(content: bytes) -> bool:
    """Whether it can be one: PEM and DER do not begin like that."""
    return content.lstrip()[:1] == b"{"


def read(content: bytes) -> Bundle:
    """Raises CertificateError, also where it has no CA."""
    try:
        found = json.loads(content.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise CertificateError("the bundle is not JSON, or has a name twice") from None
    keys = found.get("keys")
    if not isinstance(keys, list) or not all(isinstance(one, dict) for one in keys):
        raise CertificateError('the bundle is not like {"keys": […]}')
    if len(keys) > CAS:
        raise CertificateError(f"the bundle has more than {CAS} keys")
    cas = tuple(dict.fromkeys(_ca(one) for one in keys if one.get("use") == X509_SVID))
    if not cas:
        raise CertificateError("the bundle has no CA of X.509-SVIDs (use: x509-svid)")
    return Bundle(cas, _number(found, "spiffe_sequence"), _number(found, "spiffe_refresh_hint"))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _ca(key: dict[str, Any]) -> bytes:
    chain = key.get("x5c")
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        raise CertificateError("a key of the bundle has not one certificate (x5c)")
    try:
        return base64.b64decode(chain[0], validate=True)
    except (binascii.Error, ValueError):
        raise CertificateError("a certificate of the bundle is not base64 (x5c)") from None


def _number(found: dict[str, Any], name: str) -> int:
    value = found.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise CertificateError(f"the bundle's {name} is not a number")
    return value
