"""control/http/forwarded.py: how proxies hand a client's certificate over."""

import base64
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from control.http import forwarded
from tests.kit.support import Pki

Make = Callable[[Pki], str]


def base(pki: Pki) -> str:
    return base64.b64encode(pki.alice.der).decode()


def pem(pki: Pki) -> str:
    return pki.alice.pem.decode()


def envoy(*pairs: str) -> str:
    return ";".join(["By=spiffe://acme/envoy", "Hash=" + "ab" * 32, *pairs])


ONE: dict[str, Make] = {
    "nginx": lambda pki: quote(pem(pki)),
    "AWS": lambda pki: quote(pem(pki), safe="+=/"),
    "Apache": lambda pki: pem(pki).strip().replace("\n", " "),
    "HAProxy": base,
    "Traefik": base,
    "Traefik 1": lambda pki: quote_plus(base(pki)),
    "Envoy": lambda pki: envoy(f'Cert="{quote(pem(pki), safe="")}"', 'Subject="CN=alice"'),
    "Envoy, another order": lambda pki: f'Cert="{quote(pem(pki), safe="")}";URI=spiffe://a/b',
    "Envoy, a hostile subject": lambda pki: envoy(
        'Subject="CN=x\\";Cert=\\"AAAA"', f'Cert="{quote(pem(pki), safe="")}"', "DNS=a", "DNS=b"
    ),
}


@pytest.mark.parametrize("proxy", ONE)
def test_each_proxy_names_the_certificate(pki: Pki, proxy: str) -> None:
    """In its own form."""
    assert forwarded.chain(ONE[proxy](pki)) == (pki.alice.der,)


def test_a_chain_comes_with_the_leaf_first(pki: Pki) -> None:
    """Of Envoy and Traefik; the others name the leaf alone."""
    ca = base64.b64encode(pki.ca.der).decode()
    both = (pki.alice.der, pki.ca.der)
    assert forwarded.chain(f"{base(pki)},{ca}") == both
    chain = quote(pem(pki) + pki.ca.pem.decode(), safe="")
    leaf = quote(pem(pki), safe="")
    assert forwarded.chain(envoy(f'Cert="{leaf}"', f'Chain="{chain}"')) == both


@pytest.mark.parametrize("value", ["", " ", "(null)"])
def test_no_certificate_is_none(value: str) -> None:
    """As HAProxy and Apache write it."""
    assert forwarded.chain(value) == ()


BAD: dict[str, Make] = {
    "text": lambda _: "hello",
    "no certificate in it": lambda _: envoy('Subject="CN=alice"'),
    "two proxies": lambda pki: (
        f'Cert="{quote(pem(pki), safe="")}",Cert="{quote(pem(pki), safe="")}"'
    ),
    "two certificates": lambda pki: f"Cert={base(pki)};Cert={base(pki)}",
    "a key": lambda pki: quote(pki.alice.key_pem.decode()),
    "PEM and more": lambda pki: quote(pem(pki) + "x"),
    "half": lambda pki: quote(pem(pki)[:-30]),
    "an open quote": lambda pki: f'Cert="{base(pki)}',
}


@pytest.mark.parametrize("what", BAD)
def test_anything_else_is_refused(pki: Pki, what: str) -> None:
    """Above all what a client may have written."""
    with pytest.raises(ValueError):  # noqa: PT011 (of base64 too)
        forwarded.chain(BAD[what](pki))
