"""Tokens of an issuer of the tests' own, good ones and hostile ones, and its keys."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://issuer.example", "redis-certauth"
KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


def key(name: str = "k1", algorithm: str = "ES256") -> Any:
    """A private key by its kid: always the same within a run."""
    return _key(name, algorithm)


@cache
def _key(name: str, algorithm: str) -> Any:
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(65537, 1024 if name == "short" else 2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    return ec.generate_private_key(curves[algorithm])


def jwk(name: str = "k1", algorithm: str = "ES256", **more: Any) -> dict[str, Any]:
    """The public half, as a JWKS has it."""
    public = key(name, algorithm).public_key()
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": name, "use": "sig", **more}


def jwks(*keys: Mapping[str, Any]) -> str:
    return json.dumps({"keys": list(keys or [jwk()])})


def said(**more: Any) -> dict[str, Any]:
    """The claims of a good token; None takes one away."""
    now = int(time.time())
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600}
    return {name: value for name, value in {**usual, **more}.items() if value is not None}


def token(
    header: Mapping[str, Any] | None = None,
    name: str = "k1",
    algorithm: str = "ES256",
    **claims: Any,
) -> str:
    """A token that is signed as it says."""
    head = {"kid": name, "typ": "JWT", **(header or {})}
    content = {one: value for one, value in head.items() if value is not None}
    return jwt.encode(said(**claims), key(name, algorithm), algorithm, headers=content)


def encoded(content: bytes | str) -> str:
    data = content.encode() if isinstance(content, str) else content
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: str, payload: str, name: str = "k1") -> str:
    """These very texts, with a good ES256 signature: what no library would write."""
    text = f"{encoded(header)}.{encoded(payload)}"
    algorithm = jwt.get_algorithm_by_name("ES256")
    return f"{text}.{encoded(algorithm.sign(text.encode(), key(name)))}"


def by_public_key(algorithm: str = "RS256") -> str:
    """A token whose HMAC has the public key for its secret."""
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    secret = key("k1", algorithm).public_key().public_bytes(*form)
    text = f"{encoded(json.dumps({'alg': 'HS256', 'kid': 'k1'}))}.{encoded(json.dumps(said()))}"
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256))}"
