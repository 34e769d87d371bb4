"""control/domain/claims.py: what tokens say becomes an identity, and no two tokens the same."""

from itertools import product
from typing import Any

import pytest

from control.domain.claims import check_identity, identity_of, rule_for
from control.pki.jose import TokenError
from control.policy.core import CoreError
from control.records import EnrolmentRule

POD = {"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart"}}}
SPIFFE = "uri:spiffe://acme/ns/{kubernetes.io.namespace}/sa/{kubernetes.io.serviceaccount.name}"


def made(identity: str, **claims: Any) -> str:
    kind, value = identity_of(EnrolmentRule(identity), claims)
    return f"{kind}:{value}"


# ---- Templates ----


@pytest.mark.parametrize(
    "identity",
    [SPIFFE, "user:{sub}", "user:cart", "subject:CN={sub},OU={group},O=acme", "dns:{sub}.acme.com",
     "email:{email}", "email:{sub}@acme.com", "uri:spiffe://acme/{https://acme.com/claims/id}",
     "subject:CN={a}-{b},O=acme"],
)  # fmt: skip
def test_a_template_is_taken(identity: str) -> None:
    check_identity(identity)


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        ("", "is not like"),
        ("{sub}", "is not like"),
        ("user:", "is not like"),
        ("cert:{sub}", "is not like"),
        ("{kind}:{sub}", "is not like"),
        ("user:{sub", "a brace"),
        ("user:sub}", "a brace"),
        ("user:{}", "a brace"),
        ("user:{a b}", "a brace"),
        ("user:{{sub}}", "a brace"),
        ("uri:spiffe://acme/{a}{b}", "nothing says"),
        ("subject:{sub}", "attribute"),
        ("subject:XX={sub}", "attribute"),
        ("dns:.{sub}..", "dns"),
    ],
    ids=range(14),
)
def test_a_template_that_says_nothing_clear_is_refused(identity: str, why: str) -> None:
    with pytest.raises((ValueError, CoreError)):
        check_identity(identity)
    if why in ("is not like", "a brace", "nothing says"):
        with pytest.raises(ValueError, match=why):
            check_identity(identity)


# ---- Values ----


def test_claims_become_an_identity() -> None:
    """Each in its kind's own escape."""
    assert made(SPIFFE, **POD) == "uri:spiffe://acme/ns/shop/sa/cart"
    assert made("user:{sub}", sub="system:serviceaccount:shop:cart") == (
        "user:system:serviceaccount:shop:cart"
    )
    assert made("uri:spiffe://acme/gh/{repository}", repository="acme/cart") == (
        "uri:spiffe://acme/gh/acme%2Fcart"
    )
    assert made("subject:CN={a},O=acme", a="x") == "subject:CN=\\78,O=acme"
    assert made("dns:{sub}.acme.com", sub="cart-1") == "dns:cart-1.acme.com"
    verified = {"email": "ann@acme.com", "email_verified": True}
    assert made("email:{email}", **verified) == "email:ann@acme.com"


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("user:{ns}-{sa}", {"ns": "a-b", "sa": "c"}),  # a-b and c are not a and b-c
    ("user:pod:{ns}:{sa}", {"ns": "a:b", "sa": "c"}),
    ("subject:CN={ns}-{sa},O=acme", {"ns": "a-b", "sa": "c"}),
    ("uri:spiffe://acme/{a}-{b}", {"a": "x-y", "b": "z"}),
    ("uri:spiffe://acme/{a}/{b}", {"a": "..", "b": "z"}),
    ("uri:spiffe://acme/{a}/{b}", {"a": ".", "b": "z"}),
    ("uri:spiffe://acme/{a}%2F{b}", {"a": "x/y", "b": "z"}),
    ("dns:{a}.acme.com", {"a": "Cart"}),
    ("dns:{a}.acme.com", {"a": "cart.shop"}),
    ("dns:{a}.acme.com", {"a": "*"}),
    ("dns:{a}.acme.com", {"a": "-cart"}),
    ("dns:{a}.acme.com", {"a": "c" * 64}),
    ("email:{a}@acme.com", {"a": "eve@evil.example"}),
    ("email:ann@{a}", {"a": "evil.example@acme.com"}),
    ("email:{a}@acme.com", {"a": "Ann"}),
    ("email:{a}@acme.com", {"a": 'a"b'}),
]
UNCLEAR: list[Any] = ["", " ", "a b", "alice\n", "alice\0", "аlice", "alice\u200b", "Zoe\u0308",
                      "\uff41lice", None, True, 1.5, [], ["alice"], {"a": "alice"}]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_nobody_comes_to_be_somebody_else_by_what_separates(number: int) -> None:
    identity, claims = HOSTILE[number]
    with pytest.raises(TokenError) as caught:
        made(identity, **claims)
    assert caught.value.code == "token_claim_value"


@pytest.mark.parametrize("value", UNCLEAR, ids=range(len(UNCLEAR)))
@pytest.mark.parametrize("identity", ["user:{sub}", "subject:CN={sub},O=x", "uri:spiffe://x/{sub}"])
def test_nobody_comes_to_be_somebody_who_looks_alike(identity: str, value: Any) -> None:
    """No blanks, nothing that is not ASCII, nothing that is not text: nothing to normalise."""
    with pytest.raises(TokenError) as caught:
        made(identity, sub=value)
    assert caught.value.code == "token_claim_value"


def test_a_value_ends_no_attribute_of_a_subject() -> None:
    """It is hex pairs within; so it may hold what separates attributes."""
    text = made("subject:CN={sub},O=acme", sub="eve,O=other+OU=x\\")
    assert text == "subject:CN=" + "".join(
        f"\\{byte:02X}" for byte in b"eve,O=other+OU=x\\"
    ) + ",O=acme"  # fmt: skip


@pytest.mark.parametrize(
    "identity", ["user:{a}-{b}", "user:{a}::{b}", "uri:spiffe://x/{a}/{b}", "uri:spiffe://x/{a}-{b}",
                 "subject:CN={a}-{b},O=x", "subject:CN={a},OU={b}", "dns:{a}.{b}", "email:{a}@{b}"]
)  # fmt: skip
def test_two_tokens_never_come_to_be_one(identity: str) -> None:
    """All pairs of values of a few characters: what is made says back what it was made of."""
    letters = "a-:/.@%,"
    words = [one for n in (1, 2, 3) for one in map("".join, product(letters, repeat=n))]
    words = words[: len(letters)] + words[len(letters) :: 7]
    seen: dict[str, tuple[str, str]] = {}
    for pair in product(words, repeat=2):
        try:
            text = made(identity, a=pair[0], b=pair[1])
        except TokenError:
            continue
        assert seen.setdefault(text, pair) == pair
    assert len(seen) >= 1


@pytest.mark.parametrize("verified", [None, False, "true", 1])
def test_an_address_counts_where_its_issuer_has_verified_it(verified: Any) -> None:
    """Anybody may type one."""
    claims = {"email": "ann@acme.com"} | ({} if verified is None else {"email_verified": verified})
    with pytest.raises(TokenError) as caught:
        made("email:{email}", **claims)
    assert caught.value.code == "token_email_unverified"
    assert made("email:{email}", **{**claims, "email_verified": True})


# ---- Rules ----


def test_the_first_rule_that_fits_counts() -> None:
    """All of its claims have to be there; what it then makes of the token is its word."""
    narrow = EnrolmentRule("user:a", (("ns", "shop"), ("repo", "acme/cart")))
    wide = EnrolmentRule("user:b", (("ns", "shop"),))
    assert rule_for((narrow, wide), {"ns": "shop", "repo": "acme/cart"}) is narrow
    assert rule_for((narrow, wide), {"ns": "shop", "repo": "acme/Cart"}) is wide
    for claims in ({}, {"ns": "shop2"}, {"ns": ["x"]}, {"repo": "acme/cart"}):
        with pytest.raises(TokenError) as caught:
            rule_for((narrow, wide), claims)
        assert caught.value.code == "token_no_rule"
