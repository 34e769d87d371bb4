"""control/pki/jose.py: tokens that are taken, and every one of the attacks on them by its name."""

import json
import time
from typing import Any, get_args

import pytest

from control.pki import jose
from control.pki.guarded import CertificateError
from control.pki.jose import TokenError, Wanted, read_keys, read_token, verify
from control.records import TokenAlgorithm
from tests.kit import tokens
from tests.kit.tokens import AUDIENCE, ISSUER, encoded, jwk, jwks, said, signed, token

NOW = int(time.time())
ES = '{"alg":"ES256","kid":"k1"}'
LATIN = '{"a":"ÿ"}'.encode("latin-1")


def wanted(keys: str = "", **more: Any) -> Wanted:
    usual = {"audiences": (AUDIENCE, "other"), "algorithms": ("ES256", "RS256"), "skew": 60}
    return Wanted(ISSUER, keys=read_keys(keys or jwks()), **{**usual, **more})


def taken(text: str, by: Wanted) -> Any:
    return verify(read_token(text), by)


# ---- Accepted ----


@pytest.mark.parametrize("algorithm", get_args(TokenAlgorithm))
def test_each_algorithm_of_key_pairs_is_verified(algorithm: str) -> None:
    """Where the issuer's settings name it; the same token with another key's signature is not."""
    by = wanted(jwks(jwk("k1", algorithm)), algorithms=(algorithm,))
    good = token(algorithm=algorithm)
    assert taken(good, by)["sub"] == "alice"
    other = wanted(jwks(jwk("k2", algorithm, kid="k1")), algorithms=(algorithm,))
    with pytest.raises(TokenError) as caught:
        taken(good, other)
    assert caught.value.code == "token_signature"


GOOD: dict[str, dict[str, Any]] = {
    "plain": {},
    "one of several audiences": {"aud": ["somebody", AUDIENCE]},
    "the other audience": {"aud": "other"},
    "expired within the skew": {"exp": NOW - 20},
    "begins within the skew": {"nbf": NOW + 20, "iat": NOW + 20},
    "a time with a fraction": {"exp": NOW + 600.5},
    "without iat": {"iat": None},
    "access token": {"header": {"typ": "at+jwt"}},
    "without typ": {"header": {"typ": None}},
    "thumbprint": {"header": {"x5t": "abc"}},
    "the only key, unnamed": {"header": {"kid": None}},
    "nested within bounds": {"kubernetes.io": {"serviceaccount": {"name": "cart"}}},
    "unicode": {"given_name": "Zoë"},
}


@pytest.mark.parametrize("name", GOOD)
def test_what_issuers_send_is_taken(name: str) -> None:
    assert taken(token(**shifted(GOOD[name])), wanted())["iss"] == ISSUER


def shifted(claims: dict[str, Any]) -> dict[str, Any]:
    """With the times as far from now as they were when this module was read, maybe minutes ago."""
    ago = int(time.time()) - NOW
    return {
        name: one + ago if isinstance(one, int | float) and abs(one - NOW) < 3600 else one
        for name, one in claims.items()
    }


# ---- Refused ----

HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "crit": ({"crit": ["exp"]}, "token_header"),
    "crit that is known": ({"crit": ["b64"], "b64": True}, "token_header"),
    "a key of its own": ({"jwk": jwk("evil")}, "token_header"),
    "an address of keys": ({"jku": "https://evil.example/keys"}, "token_header"),
    "a certificate": ({"x5c": ["MIIB"]}, "token_header"),
    "an address of a certificate": ({"x5u": "https://evil.example/"}, "token_header"),
    "compressed": ({"zip": "DEF"}, "token_header"),
    "a token in a token": ({"cty": "JWT"}, "token_header"),
    "of another type": ({"typ": "dpop+jwt"}, "token_header"),
    "logout token": ({"typ": "logout+jwt"}, "token_header"),
    "kid of a path": ({"kid": "../../dev/null"}, "token_key_unknown"),
    "kid of SQL": ({"kid": "' OR 1=1 --"}, "token_key_unknown"),
    "kid in another case": ({"kid": "K1"}, "token_key_unknown"),
    "kid that is long": ({"kid": "k" * 300}, "token_header"),
    "kid that is empty": ({"kid": ""}, "token_header"),
}
CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://evil.example"}, "token_issuer"),
    "an issuer with a slash more": ({"iss": f"{ISSUER}/"}, "token_issuer"),
    "an issuer in capitals": ({"iss": ISSUER.upper()}, "token_issuer"),
    "no issuer": ({"iss": None}, "token_claims"),
    "a list of issuers": ({"iss": [ISSUER]}, "token_claims"),
    "another audience": ({"aud": "somebody"}, "token_audience"),
    "an audience that begins alike": ({"aud": f"{AUDIENCE}.evil.example"}, "token_audience"),
    "no audience": ({"aud": None}, "token_claims"),
    "an empty list of audiences": ({"aud": []}, "token_claims"),
    "a number in the audiences": ({"aud": [1, AUDIENCE]}, "token_claims"),
    "no subject": ({"sub": None}, "token_claims"),
    "an empty subject": ({"sub": ""}, "token_claims"),
    "a subject that is none": ({"sub": 7}, "token_claims"),
    "expired": ({"exp": NOW - 120}, "token_expired"),
    "never ends": ({"exp": None}, "token_claims"),
    "ends as a text": ({"exp": str(NOW + 600)}, "token_claims"),
    "ends as true": ({"exp": True}, "token_claims"),
    "ends beyond all numbers": ({"exp": 1e300}, "token_claims"),
    "ended before 1970": ({"exp": -1}, "token_claims"),
    "not yet": ({"nbf": NOW + 300}, "token_not_yet"),
    "issued in the future": ({"iat": NOW + 300}, "token_not_yet"),
    "too large": ({"groups": ["x" * 100] * 300}, "token_too_large"),
    "nested": ({"a": json.loads("[" * 9 + "]" * 9)}, "token_malformed"),
}
SENT: dict[str, tuple[str, str]] = {
    "nothing": ("", "token_malformed"),
    "no token": ("hello", "token_malformed"),
    "two parts": (".".join(token().split(".")[:2]), "token_malformed"),
    "encrypted": ("a.b.c.d.e", "token_malformed"),
    "none": (signed('{"alg":"none"}', "{}").rpartition(".")[0] + ".", "token_algorithm"),
    "None": (signed('{"alg":"NoNe"}', "{}"), "token_algorithm"),
    "no algorithm": (signed("{}", json.dumps(said())), "token_algorithm"),
    "a list of algorithms": (signed('{"alg":["ES256"]}', "{}"), "token_algorithm"),
    "a public key as a secret": (tokens.by_public_key(), "token_algorithm"),
    "no signature": (token().rpartition(".")[0] + ".", "token_malformed"),
    "another signature": (token().rpartition(".")[0] + ".AAAA", "token_signature"),
    "another payload": (
        ".".join([token().split(".")[0], token(sub="eve").split(".")[1], token().split(".")[2]]),
        "token_signature"),
    "a header that is not JSON": (signed("{", "{}"), "token_malformed"),
    "a header that is a list": (signed("[]", "{}"), "token_malformed"),
    "a payload that is a text": (signed(ES, '"x"'), "token_malformed"),
    "a claim that is there twice": (
        signed(ES, json.dumps(said())[:-1] + ',"sub":"bob"}'), "token_malformed"),
    "an algorithm that is there twice": (
        signed('{"alg":"none","alg":"ES256"}', json.dumps(said())), "token_malformed"),
    "a claim that is there twice within": (
        signed(ES, json.dumps(said())[:-1] + ',"x":{"a":1,"a":2}}'), "token_malformed"),
    "no number": (signed(ES, json.dumps(said())[:-1] + ',"x":NaN}'), "token_malformed"),
    "endless": (signed(ES, '{"iss":"a","sub":"b","aud":"c","exp":1e999}'), "token_claims"),
    "half a surrogate": (signed(ES, '{"sub":"\\ud800"}'), "token_malformed"),
    "no UTF-8": (f"{encoded(ES)}.{encoded(LATIN)}.AAAA", "token_malformed"),
    "deep": (signed(ES, "[" * 5000), "token_malformed"),
    "a blank within": (token().replace(".", ". ", 1), "token_malformed"),
    "a line's end": (token() + "\n", "token_malformed"),
    "padded": (token().replace(".", "=.", 1), "token_malformed"),
    "not of this alphabet": (token() + "/+", "token_malformed"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*HEADERS, *CLAIMS, *SENT])
def test_a_hostile_token_is_refused_by_name(name: str) -> None:
    if name in SENT:
        text, code = SENT[name]
    elif name in HEADERS:
        header, code = HEADERS[name]
        text = token(header)
        if "b64" in header:
            text = signed(json.dumps({"alg": "ES256", "kid": "k1", **header}), json.dumps(said()))
    else:
        claims, code = CLAIMS[name]
        text = (
            token()
            if name.startswith("issuer")
            else signed(ES, json.dumps(said(**shifted(claims))))
        )
    with pytest.raises(TokenError) as caught:
        taken(text, wanted())
    assert caught.value.code == code, caught.value


def test_an_algorithm_that_the_issuer_does_not_use_is_refused() -> None:
    """Though its key is there, and the signature good."""
    keys = jwks(jwk(), jwk("k3", "ES384"))
    text = token(name="k3", algorithm="ES384")
    with pytest.raises(TokenError, match="ES384") as caught:
        taken(text, wanted(keys))
    assert caught.value.code == "token_algorithm"
    assert taken(text, wanted(keys, algorithms=("ES384",)))["sub"] == "alice"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"use": "enc"}, "token_key_unknown"),
        ({"key_ops": ["sign"]}, "token_key_unknown"),
        ({"alg": "ES384"}, "token_key_unknown"),
        ({"crv": "P-384"}, "token_key_unknown"),
    ],
    ids=lambda one: str(one),
)
def test_a_key_for_something_else_verifies_nothing(more: dict[str, Any], why: str) -> None:
    """One for encryption, for another algorithm, or that is none."""
    by = wanted(jwks(jwk("k2"), jwk("k1", **more)))
    with pytest.raises(TokenError) as caught:
        taken(token(), by)
    assert caught.value.code == why


def test_the_key_has_to_be_of_the_algorithm() -> None:
    """A token that names an RSA key and says ES256."""
    with pytest.raises(TokenError) as caught:
        taken(token(), wanted(jwks(jwk("k1", "RS256"))))
    assert caught.value.code == "token_algorithm"


def test_a_token_names_its_key_where_there_are_several() -> None:
    """Nobody tries them in turn; two keys of one name are none."""
    both = wanted(jwks(jwk("k1"), jwk("k2")))
    assert taken(token(name="k2"), both)["sub"] == "alice"
    for text, by in (
        (token({"kid": None}), both),
        (token(), wanted(jwks(jwk("k1"), jwk("k2", kid="k1")))),
    ):
        with pytest.raises(TokenError, match="several keys") as caught:
            taken(text, by)
        assert caught.value.code == "token_key_unknown"


def test_without_keys_nothing_is_verified() -> None:
    with pytest.raises(TokenError) as caught:
        verify(read_token(token()), Wanted(ISSUER, (AUDIENCE,), ("ES256",), "", 60))
    assert caught.value.code == "token_key_unknown"


# ---- Keys ----


def test_keys_are_kept_in_one_spelling_without_what_is_not_theirs() -> None:
    """What can verify nothing is left out: symmetric keys, kinds to come, short ones."""
    content = jwks(
        jwk("k1", x5c=["MIIB"], note="x"), {"kty": "oct", "k": "AAAA", "kid": "s"},
        {"kty": "PQC", "kid": "q"}, jwk("short", "RS256"), jwk("e", use="enc"),
    )  # fmt: skip
    kept = json.loads(read_keys(content))["keys"]
    assert [one["kid"] for one in kept] == ["k1"]
    assert kept[0].keys() == {"kty", "crv", "x", "y", "kid", "use"}
    assert jose.count(read_keys(content)) == 1
    assert read_keys(read_keys(content)) == read_keys(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "not JSON"),
        ("[" * 9000, "not JSON"),
        (b"\xff", "not JSON"),
        ('{"keys": [], "keys": []}', "there twice"),
        ("[]", "not like"),
        ('{"keys": {}}', "not like"),
        ('{"keys": [1]}', "not like"),
        ('{"keys": []}', "no public key"),
        ('{"keys": [{"kty": "oct", "k": "AAAA"}]}', "no public key"),
        ('{"keys": [{"kty": "EC", "crv": "P-256", "x": 1, "y": 2}]}', "no public key"),
        (jwks(jwk("short", "RS256")), "no public key"),
        (jwks(jwk(d="AAAA")), "private key"),
        (jwks(*[{"kty": "x"}] * 101), "more than 100"),
        ("x" * (257 << 10), "more than 262144 bytes"),
    ],
    ids=range(14),
)
def test_rubbish_is_no_set_of_keys(content: str | bytes, why: str) -> None:
    """So the keys from before stay."""
    with pytest.raises(CertificateError, match=why):
        read_keys(content)
    assert read_keys(jwks())


# ---- Claims ----


def test_a_claim_is_found_where_names_have_dots() -> None:
    """As those of Kubernetes have."""
    claims = {"kubernetes.io": {"serviceaccount": {"name": "cart"}}, "a.b": "1", "n": 7}
    assert jose.said(claims, "kubernetes.io.serviceaccount.name") == "cart"
    assert jose.said(claims, "a.b") == "1"
    assert jose.said(claims, "n") == "7"


@pytest.mark.parametrize(
    ("claims", "path", "code"),
    [
        ({}, "a", "token_claims"),
        ({"a": {"b": "1"}}, "a.c", "token_claims"),
        ({"a": {"b": "1"}, "a.b": "2"}, "a.b", "token_claims"),  # anyone who adds one chooses none
        ({"a": {"b": {"c": "1"}}, "a.b": {"c": "2"}}, "a.b.c", "token_claims"),
        ({"a": ""}, "a", "token_claim_value"),
        ({"a": "x" * 256}, "a", "token_claim_value"),
        ({"a": "a b"}, "a", "token_claim_value"),
        ({"a": "a\n"}, "a", "token_claim_value"),
        ({"a": "a\0"}, "a", "token_claim_value"),
        ({"a": "аlice"}, "a", "token_claim_value"),
        ({"a": True}, "a", "token_claim_value"),
        ({"a": None}, "a", "token_claim_value"),
        ({"a": 1.5}, "a", "token_claim_value"),
        ({"a": ["x"]}, "a", "token_claim_value"),
        ({"a": {"b": "x"}}, "a", "token_claim_value"),
    ],
    ids=range(15),
)
def test_what_is_no_clear_text_is_in_no_identity(claims: Any, path: str, code: str) -> None:
    with pytest.raises(TokenError) as caught:
        jose.said(claims, path)
    assert caught.value.code == code


def test_a_condition_is_exact() -> None:
    """Or has the text in a list, as groups are; nothing is a part of anything."""
    claims = {"repo": "acme/cart", "groups": ["dba", "dev"], "n": 1, "y": True, "deep": {"a": "x"}}
    assert jose.holds(claims, "repo", "acme/cart")
    assert jose.holds(claims, "groups", "dba")
    assert jose.holds(claims, "deep.a", "x")
    for path, text in (
        ("repo", "acme/car"), ("repo", "acme/cart2"), ("repo", "ACME/cart"), ("groups", "db"),
        ("groups", "dba,dev"), ("n", "1"), ("y", "true"), ("none", ""), ("deep", "x"),
    ):  # fmt: skip
        assert not jose.holds(claims, path, text), (path, text)
