"""control/pki/reading.py and guarded.py: files as Windows, Java and people make them."""

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from control.pki import reading
from control.pki.guarded import CertificateError, CrlError, guarded
from control.pki.reading import certificates_in, key_in, lists_in, request_in
from control.pki.request import new_request
from tests.kit import certs, crls
from tests.kit.support import Pki

Make = Callable[[Pki], bytes]


def openssl(*words: object, content: bytes = b"") -> bytes:
    command = ["openssl", *map(str, words)]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


def bare(pki: Pki) -> bytes:
    return pki.alice.pem


FORMS: dict[str, Make] = {
    "PEM": bare,
    "CRLF": lambda pki: bare(pki).replace(b"\n", b"\r\n"),
    "CR": lambda pki: bare(pki).replace(b"\n", b"\r"),
    "BOM": lambda pki: b"\xef\xbb\xbf" + bare(pki),
    "UTF-16 with its mark": lambda pki: bare(pki).decode().encode("utf-16"),
    "UTF-16 without": lambda pki: bare(pki).decode().encode("utf-16-le"),
    "UTF-16 the other way": lambda pki: b"\xfe\xff" + bare(pki).decode().encode("utf-16-be"),
    "a comment in Latin-1": lambda pki: b"# Soci\xe9t\xe9\n" + bare(pki),
    "bag attributes": lambda pki: (
        b"Bag Attributes\n    friendlyName: a\nsubject=CN=a\n" + bare(pki)
    ),
    "indented": lambda pki: b"".join(b"   " + one + b"\n" for one in bare(pki).split(b"\n")),
    "one line": lambda pki: bare(pki).replace(b"\n", b""),
    "line ends written out": lambda pki: bare(pki).replace(b"\n", b"\\n"),
    "no end of line": lambda pki: bare(pki).strip(),
    "an old label": lambda pki: bare(pki).replace(b" CERT", b" X509 CERT"),
    "DER": lambda pki: pki.alice.der,
    "DER and a line end": lambda pki: pki.alice.der + b"\n",
    "base64": lambda pki: base64.encodebytes(pki.alice.der),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_certificate_is_read_in_every_form(pki: Pki, form: str) -> None:
    """And as the text that an upload is, of a file."""
    content = FORMS[form](pki)
    assert certificates_in(content) == (pki.alice.der,)
    assert certificates_in(reading.as_text(content).encode()) == (pki.alice.der,)


def test_all_certificates_of_a_file_count(pki: Pki, tmp_path: Path) -> None:
    """Also those of PKCS#7, in PEM, DER and as Windows labels it, and DER after DER."""
    ders = (pki.alice.der, pki.ca.der)
    (tmp_path / "both.pem").write_bytes(pki.alice.pem + b"text\n" + pki.ca.pem)
    assert certificates_in((tmp_path / "both.pem").read_bytes()) == ders
    assert certificates_in(b"".join(ders)) == ders
    words = ("crl2pkcs7", "-nocrl", "-certfile", tmp_path / "both.pem")
    text = openssl(*words)
    for content in (
        text,
        openssl(*words, "-outform", "DER"),
        text.replace(b"PKCS7", b"CERTIFICATE"),
    ):
        assert set(certificates_in(content)) == set(ders)


def test_all_lists_of_a_file_count(pki: Pki) -> None:
    """PEM after PEM, DER after DER; not those that stand beside certificates."""
    ders = (crls.crl(pki.ca), crls.crl(pki.server_ca))
    assert lists_in(b"".join(ders)) == ders
    text = "".join(reading.render(one, "X509 CRL") for one in ders).encode()
    assert lists_in(text) == ders
    with pytest.raises(CertificateError, match=r"holds a certificate: CAs.*\(authorities\)"):
        lists_in(text + pki.ca.pem)


OTHERS: dict[str, tuple[Make, str]] = {
    "nothing": (lambda _: b"", "not a certificate in PEM or DER form"),
    "text": (lambda _: b"hello", "not a certificate in PEM or DER form"),
    "a list": (lambda pki: crls.crl(pki.ca), "a revocation list: `redis-certauth crl"),
    "a list beside one": (
        lambda pki: pki.ca.pem + reading.render(crls.crl(pki.ca), "X509 CRL").encode(),
        "holds a revocation list",
    ),
    "a list by a wrong label": (
        lambda pki: reading.render(crls.crl(pki.ca)).encode(), "holds a revocation list",
    ),
    "a request": (lambda _: new_request("ec").certificate.encode(), "signing request: it is"),
    "a key": (lambda pki: pki.alice.key_pem, "a private key is where a certificate belongs"),
    "a key in DER": (
        lambda pki: openssl("pkey", "-outform", "DER", content=pki.alice.key_pem),
        "a private key is where a certificate belongs",
    ),
    "an encrypted key": (
        lambda pki: openssl("pkey", "-aes128", "-passout", "pass:x", content=pki.alice.key_pem),
        "a private key is where a certificate belongs",
    ),
    "a public key": (
        lambda pki: openssl("pkey", "-pubout", content=pki.alice.key_pem), "holds a public key",
    ),
    "PKCS#12": (
        lambda _: bytes.fromhex("3013020103300e06092a864886f70d010701a00104"),
        "openssl pkcs12 -in FILE -nokeys",
    ),
    "a trusted certificate": (
        lambda pki: openssl("x509", "-trustout", content=pki.alice.pem), "openssl x509 -in FILE",
    ),
    "a Java keystore": (lambda _: b"\xfe\xed\xfe\xed\0\0\0\2", "keytool -exportcert"),
    "PKCS#7 without lengths": (
        lambda _: bytes.fromhex("308006092a864886f70d010702a080"), "openssl pkcs7 -in FILE",
    ),
    "PGP": (lambda _: b"-----BEGIN PGP X-----\n\n-----END PGP X-----", r"\(PGP X\) is not taken"),
    "half a block": (lambda pki: bare(pki)[:-40], "does not end"),
    "a block in a block": (lambda pki: bare(pki)[:90] + bare(pki), "block 1.*does not end"),
    "another end": (lambda pki: bare(pki).replace(b"END C", b"END X"), "ends as something else"),
    "not base64": (lambda pki: bare(pki).replace(b"M", b"?"), "not base64"),
    "DER and more": (lambda pki: pki.alice.der + b"more", "behind the first object"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_not_a_certificate_is_refused_by_what_it_is(pki: Pki, what: str) -> None:
    """With the command that helps, and nothing of a parser's."""
    make, words = OTHERS[what]
    with pytest.raises(CertificateError, match=words) as error:
        certificates_in(make(pki))
    assert "ParseError" not in str(error.value)
    assert "http" not in str(error.value)


def test_a_key_is_read_in_every_form(pki: Pki) -> None:
    """PKCS#8, and those of one algorithm, in PEM and DER; beside its certificate; not two."""
    for words in (("pkey",), ("ec",), ("pkey", "-outform", "DER"), ("ec", "-outform", "DER")):
        made = key_in(openssl(*words, content=pki.alice.key_pem)).encode()
        assert openssl("pkey", content=made) == openssl("pkey", content=pki.alice.key_pem)
    assert "PRIVATE KEY" in key_in(pki.alice.pem + pki.alice.key_pem)
    for content in (pki.alice.key_pem + pki.bob.key_pem, pki.alice.pem, b""):
        with pytest.raises(CertificateError, match="not a private key"):
            key_in(content)


def test_a_request_is_read_in_every_form() -> None:
    """One alone."""
    text = new_request("ec").certificate.encode()
    (der,) = {request_in(text), request_in(text.replace(b"BEGIN ", b"BEGIN NEW ").replace(
        b"END ", b"END NEW "))}  # fmt: skip
    assert request_in(der) == der
    with pytest.raises(CertificateError, match="one at a time"):
        request_in(text + text)


def test_a_name_that_looks_like_text_hides_no_certificate() -> None:
    """DER is DER, whatever a client has put into its subject."""
    for value, tag in (("-----BEGIN CERTIFICATE-----", certs.UTF8), ("-" * 20, certs.BMP)):
        der = certs.certificate(certs.person(value, tag))
        assert certificates_in(der) == (der,)
        assert certificates_in(reading.as_text(der).encode()) == (der,)


def test_a_hostile_text_is_looked_at_once() -> None:
    """100,000 beginnings, and no end: it is the first that is refused."""
    with pytest.raises(CertificateError, match="block 1"):
        certificates_in(b"-----BEGIN CERTIFICATE-----\n" * 100_000)


def test_whatever_a_library_raises_is_an_error_of_ours() -> None:
    """With the place, in words; and only that is caught."""
    raised = (KeyError(6), TypeError("a BIT STRING"), ValueError("ParseError { kind: X, location: "
              '["RawTbs::issuer", "y"] }'), AttributeError())  # fmt: skip
    for error in raised:
        with pytest.raises(CertificateError, match="^the CSR cannot be read: ") as found:
            raise_in("", error)
        assert "ParseError" not in str(found.value)
    with pytest.raises(CertificateError, match="part issuer does not parse"):
        raise_in("", ValueError('ParseError { location: ["RawTbs::issuer"] }'))
    with pytest.raises(CrlError) as refused:
        raise_in("crl_malformed", raised[0])
    assert refused.value.code == "crl_malformed"
    with pytest.raises(KeyboardInterrupt):
        raise_in("", KeyboardInterrupt())


def raise_in(code: str, error: BaseException) -> None:
    with guarded("the CSR cannot be read", code):
        raise error
