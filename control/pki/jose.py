"""Tokens of other parties (JWT, RFC 7519) and the keys that they are signed with (JWKS, RFC 7517).

PyJWT verifies signatures. What a token says about how it is to be verified is looked at first, and
here: an algorithm counts only where the issuer's settings name it, a key only where the issuer has
published it, and each part of a token is read once, by a reader that takes nothing that is there
twice. So `none`, a public key as the secret of an HMAC, a key or an address of a key in the header,
and extensions that nobody knows, are refused before anything is computed.

Pure: nothing is fetched or stored here."""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import jwt

from control.pki.guarded import CertificateError
from control.records import TokenAlgorithm

BYTES = 16 << 10  # of a token: an issuer that needs more names groups by the thousand
SET_BYTES = 256 << 10  # of a JWKS
KEYS = 100  # in a JWKS
DEPTH = 8  # of JSON within JSON
TEXT = 255  # characters of a kid, and of a claim that is put into an identity
RSA_BITS = 2048
LATEST = 1 << 53  # seconds since 1970: beyond that, numbers of JSON are not whole
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
TYPES = {"", "jwt", "at+jwt", "application/jwt", "application/at+jwt"}
# What a header may have that is not looked at: names of certificates, which nobody fetches.
HARMLESS = {"alg", "kid", "typ", "x5t", "x5t#S256"}
PUBLIC = {"kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y"}
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
TIMES = ("exp", "nbf", "iat")
BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)

Claims = Mapping[str, Any]


class TokenError(Exception):
    """Why a token is not taken: `code` is compared by programs, the text is for people. It repeats
    nothing of the token but names."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Token:
    """What a token says, before anybody has verified it."""

    text: str
    header: Claims
    claims: Claims

    @property
    def algorithm(self) -> str:
        """`alg` of the header (RFC 7515 4.1.1), which read_token has found to be one that we
        take."""
        return str(self.header["alg"])

    @property
    def kid(self) -> str:
        """ "" where it names no key."""
        return str(self.header.get("kid", ""))

    @property
    def issuer(self) -> str:
        """`iss` of the claims (RFC 7519 4.1.1): whom the token says it is from."""
        return str(self.claims["iss"])

    @property
    def expires(self) -> int:
        """Seconds since 1970."""
        return int(self.claims["exp"])

    @property
    def signed(self) -> str:
        """The part that the signature is for. A signature has several spellings, this has one."""
        return self.text.rpartition(".")[0]


@dataclass(frozen=True)
class Wanted:
    """What a token has to be: one of this issuer, for one of these audiences, signed with one of
    these algorithms by one of these keys (the text of a JWKS). `skew`: seconds that its clock and
    ours may differ."""

    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...]
    keys: str
    skew: int


# ---- Reading -------------------------------------------------------------------------------------


def read_token(text: str) -> Token:
    """The parts of a token in compact form. Raises TokenError."""
    if len(text) > BYTES:
        raise TokenError("token_too_large", f"the token has more than {BYTES} bytes")
    parts = text.split(".")
    if len(parts) == 5:
        raise TokenError("token_malformed", "the token is encrypted: send one that is signed only")
    if len(parts) != 3 or not all(BASE64URL.fullmatch(part) for part in parts):
        # `none` has an empty signature; it is told by its name where it says so.
        if len(parts) == 3 and all(BASE64URL.fullmatch(part) for part in parts[:2]):
            _check_header(_json(parts[0], "header"))
        raise TokenError(
            "token_malformed", "the token is not three parts of base64url, as JWTs are"
        )
    header, claims = _json(parts[0], "header"), _json(parts[1], "payload")
    _check_header(header)
    _check_claims(claims)
    return Token(text, header, claims)


def _json(part: str, what: str) -> dict[str, Any]:
    try:
        content = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        found = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_no_number)
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate is not text
        deep = _depth(found) > DEPTH
    except (ValueError, binascii.Error, RecursionError) as error:
        raise TokenError(
            "token_malformed", f"the token's {what} is not JSON: {_why(error)}"
        ) from None
    if not isinstance(found, dict):
        raise TokenError("token_malformed", f"the token's {what} is not a JSON object")
    if deep:
        raise TokenError("token_malformed", f"the token's {what} is nested deeper than {DEPTH}")
    return found


def _why(error: Exception) -> str:
    """Ours, by their words; of others the kind, since theirs may repeat the token."""
    return str(error) if isinstance(error, _TwiceError) else type(error).__name__


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError("a name is there twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(name)


def _depth(value: Any) -> int:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, below), default=0)


def _check_header(header: Claims) -> None:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in get_args(TokenAlgorithm):
        raise TokenError(
            "token_algorithm", "the token is not signed with a key pair: its alg is none of "
            f"{', '.join(get_args(TokenAlgorithm))}",
        )  # fmt: skip
    unknown = sorted(header.keys() - HARMLESS)
    if unknown:
        raise TokenError(
            "token_header", f"the token's header has {', '.join(map(ascii, unknown))[:TEXT]}, "
            "which is not taken here: how a token is verified is not the token's to say",
        )  # fmt: skip
    kind = header.get("typ", "")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise TokenError("token_header", "the token's typ is not JWT: it is for something else")
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > TEXT or ("kid" in header and not kid):
        raise TokenError("token_header", f"the token's kid is not a text of 1 to {TEXT} characters")


def _check_claims(claims: Claims) -> None:
    for name in ("iss", "sub"):
        if not isinstance(claims.get(name), str) or not claims[name]:
            raise TokenError("token_claims", f"the token has no {name}, or it is not text")
    audience = claims.get("aud")
    several = audience if isinstance(audience, list) else [audience]
    if not several or not all(isinstance(one, str) and one for one in several):
        raise TokenError("token_claims", "the token has no aud, or it is not text")
    for name in TIMES:
        value = claims.get(name)
        if name in claims and not _is_time(value):
            raise TokenError("token_claims", f"the token's {name} is not a time")
    if "exp" not in claims:
        raise TokenError("token_claims", "the token has no exp: one that never ends is not taken")


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LATEST


# ---- Keys ----------------------------------------------------------------------------------------


def read_keys(content: str | bytes) -> str:
    """The public keys of a JWKS that can verify a token, as a JWKS in one spelling. Raises
    CertificateError: also where there is none, so that no rotation ends with nothing."""
    if len(content) > SET_BYTES:
        raise CertificateError(f"the JWKS has more than {SET_BYTES} bytes")
    try:
        text = content.decode() if isinstance(content, bytes) else content
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"the JWKS is not JSON: {_why(error)}") from None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not all(isinstance(one, dict) for one in keys):
        raise CertificateError('the JWKS is not like {"keys": […]}')
    if len(keys) > KEYS:
        raise CertificateError(f"the JWKS has more than {KEYS} keys")
    if any(PRIVATE & one.keys() and one.get("kty") != "oct" for one in keys):
        raise CertificateError(
            "the JWKS holds a private key: it is compromised wherever this was sent. Give the "
            "public ones"
        )
    kept = [_public(one) for one in keys if _is_usable(one)]
    if not kept:
        raise CertificateError("the JWKS has no public key that a token could be signed with")
    return json.dumps({"keys": kept}, sort_keys=True, separators=(",", ":"))


def count(keys: str) -> int:
    """How many keys there are in what `read_keys` has returned; none in ""."""
    return len(json.loads(keys)["keys"]) if keys else 0


def _public(key: Claims) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name in PUBLIC}


def _is_usable(key: Claims) -> bool:
    """Others may be there: for encryption, of kinds to come. They verify nothing here."""
    ops = key.get("key_ops", ["verify"])
    if key.get("use", "sig") != "sig" or not isinstance(ops, list) or "verify" not in ops:
        return False
    if not isinstance(key.get("kid", ""), str):
        return False
    return any(_fits(key, algorithm) for algorithm in get_args(TokenAlgorithm))


def _fits(key: Claims, algorithm: str) -> bool:
    """Whether a token of this algorithm may be signed with the key."""
    if key.get("alg", algorithm) != algorithm:
        return False
    if algorithm in CURVES:
        kty = "OKP" if algorithm == "EdDSA" else "EC"
        if (key.get("kty"), key.get("crv")) != (kty, CURVES[algorithm]):
            return False
    elif key.get("kty") != "RSA":
        return False
    try:
        made = jwt.PyJWK(_public(key), algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError):
        return False
    return algorithm in CURVES or int(made.key_size) >= RSA_BITS


def _key_for(token: Token, keys: str) -> Any:
    """The one key that the token can be signed with. Raises TokenError."""
    known = json.loads(keys)["keys"] if keys else []
    named = [one for one in known if not token.kid or one.get("kid") == token.kid]
    if not named:
        raise TokenError(
            "token_key_unknown", "the token is signed with a key that its issuer has not "
            "published, as far as it is known here",
        )  # fmt: skip
    fitting = [one for one in named if _fits(one, token.algorithm)]
    if not fitting:
        raise TokenError(
            "token_algorithm", f"the token's alg is {token.algorithm}, and the key that it names "
            "is not for that",
        )  # fmt: skip
    if len(fitting) > 1:
        raise TokenError(
            "token_key_unknown", "several keys of the issuer could be meant: the token has to name "
            "one (kid)",
        )  # fmt: skip
    return jwt.PyJWK(fitting[0], token.algorithm)


# ---- Verifying -----------------------------------------------------------------------------------


def verify(token: Token, wanted: Wanted) -> Claims:
    """The claims of a token that is what is wanted, at this moment. Raises TokenError."""
    if token.algorithm not in wanted.algorithms:
        raise TokenError(
            "token_algorithm", f"the token's alg is {token.algorithm}, and this issuer's are "
            f"{', '.join(wanted.algorithms)}",
        )  # fmt: skip
    key = _key_for(token, wanted.keys)
    try:
        found: Claims = jwt.decode(
            token.text,
            key,
            algorithms=[token.algorithm],
            audience=list(wanted.audiences),
            issuer=wanted.issuer,
            leeway=wanted.skew,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
    except jwt.InvalidTokenError as error:
        raise _named(error, wanted) from None
    if found != token.claims:  # what was looked at is what was signed
        raise TokenError("token_malformed", "the token's payload can be read in two ways")
    return token.claims


def _named(error: jwt.InvalidTokenError, wanted: Wanted) -> TokenError:
    if isinstance(error, jwt.ExpiredSignatureError):
        return TokenError("token_expired", "the token has expired: fetch a new one")
    if isinstance(error, jwt.ImmatureSignatureError):
        text = "the token is not valid yet (nbf, iat): compare the clocks"
        return TokenError("token_not_yet", text)
    if isinstance(error, jwt.InvalidAudienceError):
        text = f"the token is for somebody else: its aud has none of {', '.join(wanted.audiences)}"
        return TokenError("token_audience", text)
    if isinstance(error, jwt.InvalidIssuerError):
        return TokenError("token_issuer", "the token is of another issuer")
    if isinstance(error, jwt.InvalidSignatureError):
        text = "the token's signature is not that of its issuer's key"
        return TokenError("token_signature", text)
    return TokenError("token_malformed", f"the token is not taken: {type(error).__name__}")


# ---- Claims --------------------------------------------------------------------------------------


def claim(claims: Claims, path: str) -> Any:
    """What a token says at a path such as `kubernetes.io.namespace`, where names may have dots of
    their own. Raises TokenError where there is nothing, or where two ways lead to something: who
    can add a claim must not choose what is read."""
    found = list(_ways(claims, path.split(".")))
    if not found:
        raise TokenError("token_claims", f"the token has no claim {path}")
    if len(found) > 1:
        raise TokenError("token_claims", f"the token says {path} in two ways")
    return found[0]


def _ways(value: Any, parts: Sequence[str]) -> list[Any]:
    if not parts:
        return [value]
    if not isinstance(value, dict):
        return []
    return [
        one
        for count in range(1, len(parts) + 1)
        if ".".join(parts[:count]) in value
        for one in _ways(value[".".join(parts[:count])], parts[count:])
    ]


def said(claims: Claims, path: str) -> str:
    """The same as a text that can stand in an identity. Raises TokenError."""
    value = claim(claims, path)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(rf"[!-~]{{1,{TEXT}}}", value, re.ASCII):
        raise TokenError(
            "token_claim_value", f"the token's {path} is not a text of 1 to {TEXT} printable ASCII "
            "characters without blanks",
        )  # fmt: skip
    return value


def holds(claims: Claims, path: str, text: str) -> bool:
    """Whether the token says exactly this at a path, or has it in a list there. Raises TokenError
    where two ways lead to something: who can add a claim must not choose the rule that counts."""
    if not _ways(claims, path.split(".")):
        return False
    value = claim(claims, path)
    return text in value if isinstance(value, list) else isinstance(value, str) and value == text
