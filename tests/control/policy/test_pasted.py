"""control/policy/pasted.py: names, fingerprints and numbers as people paste them."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from control.policy import core, pasted
from tests.kit import certs, printed

NAMES = printed.names(300)


def subject(rdns: printed.Rdns) -> str:
    return core.identity(certs.certificate(printed.der_of(rdns))).subject


@pytest.fixture(scope="module")
def subjects() -> list[tuple[printed.Rdns, str]]:
    """Names, and what the core says of a certificate with each."""
    return [(rdns, subject(rdns)) for rdns in NAMES]


@pytest.mark.parametrize("form", printed.FORMS)
def test_no_printed_name_is_read_as_another_in_silence(
    subjects: list[tuple[printed.Rdns, str]], form: str
) -> None:
    """It is read rightly, or with a remark, or refused. Most are read rightly: of the forms in
    which nothing is escaped, those that hold nothing to escape."""
    told: Counter[str] = Counter()
    for rdns, right in subjects:
        text = printed.FORMS[form](rdns)
        try:
            found = pasted.name(text)
        except core.CoreError:
            told["refused"] += 1
            continue
        assert found.text == right or found.remark, (text, found, right)
        told["right" if found.text == right else "said"] += 1
    least = {"compat": 180, "curl": 40, "windows": 175, "multiline": 170, "dotnet": 200}
    assert told["right"] >= least.get(form, 225), told


@pytest.mark.parametrize(
    ("text", "read", "remark"),
    [
        ("CN=a,O=b", "CN=a,O=b", ""),
        ("CN=a, O=b", "CN=a,O=b", ""),
        ("  CN=a,O=b\r\n", "CN=a,O=b", ""),
        ("subject=C = US, O = acme, CN = x", "CN=x,O=acme,C=US", "as openssl prints it"),
        ("subject=C=US, O=acme, CN=x", "CN=x,O=acme,C=US", "as openssl prints it"),
        ("Subject: C=US, O=acme, CN=x", "CN=x,O=acme,C=US", "as openssl prints it"),
        ("subject=CN=x,O=acme,C=US", "CN=x,O=acme,C=US", ""),
        ("subject= /C=US/CN=x", "CN=x,C=US", ""),
        ("subject=CN = x", "CN=x", ""),
        ("C = US, O = acme, CN = x", "CN=x,O=acme,C=US", "as openssl prints it"),
        ("C=US, O=acme, CN=x", "CN=x,O=acme,C=US", "as openssl prints it"),
        ("C=US,O=acme,CN=x", "C=US,O=acme,CN=x", "as RFC 4514 writes it"),
        ("CN = x, O = acme", "CN=x,O=acme", "as RFC 4514 writes it"),
        ("Owner: CN=x, O=acme", "CN=x,O=acme", ""),
        ("CN = x\r\nOU = eng\r\nO = acme\r\n", "CN=x,OU=eng,O=acme", ""),
        ("O = acme\nCN = x", "O=acme,CN=x", "line by line"),
        ("[Subject]\n  CN=x, O=acme", "CN=x,O=acme", ""),
        ("0 s:C = US, CN = x", "CN=x,C=US", "as openssl prints it"),
        ('Subject: "CN=x,O=acme"', "CN=x,O=acme", ""),
        ("CN=alice OU=eng O=acme", "CN=alice OU=eng O=acme", "as one value"),
        ("CN=a\\ ", "CN=a\\ ", ""),
        ("CN=Alice Miller,CN=Users,DC=acme,DC=example",
         "CN=Alice Miller,CN=Users,DC=acme,DC=example", ""),
    ],
)  # fmt: skip
def test_how_a_name_is_read(text: str, read: str, remark: str) -> None:
    """What tells the order: the words of the program, then blanks, then what is certain."""
    found = pasted.name(text)
    assert found.text == read
    assert remark in found.remark
    assert bool(remark) == bool(found.remark)


@pytest.mark.parametrize(
    ("text", "read", "remark"),
    [
        # openssl x509 -text -nameopt compat
        ("Subject: C=US+CN=x, O=a", "O=a,CN=x+C=US", "with 'CN=x+C=US' as attributes beside"),
        ("Subject: O=a, CN=x+C=US", "CN=x+C=US,O=a", "as openssl prints it"),
        ("Subject: O=a, CN=x/emailAddress=j@a", "CN=x/emailAddress=j@a,O=a", "as one value"),
        ("CN=x/UID=y", "CN=x/UID=y", "as one value"),
        # what escapes nothing, as -nameopt lname or sep_comma_plus_space
        ("subject=countryName=US + commonName=x+CN=evil", "CN=x+CN=evil+C=US", "a + is a part"),
        ("commonName=x+CN=evil", "CN=x+CN=evil", "a + is a part"),
        ("UID=x + CN = evil", "CN=evil+UID=x", "a + is a part"),
        ("O=a, CN=x+UID=y", "CN=x+UID=y,O=a", "a + is a part"),
        ("subject=CN=x+UID=y", "CN=x+UID=y", "a + is a part"),
        ("/O=a/CN=x+UID=y", "CN=x+UID=y,O=a", "a + is a part"),
        ("O = a\nCN = x + UID = y", "O=a,CN=x+UID=y", "a + is a part"),
        ("subject=\n  organizationName =  a\n  commonName = x", "CN=x,O=a", "without the blanks"),
        ("O = a \nCN = x", "O=a,CN=x", "without the blanks"),
        ("CN= x", "CN=x", "without the blanks"),
        ("CN=x ,O=a", "CN=x,O=a", "without the blanks"),
        ("CN=x ", "CN=x", "without the blanks"),
        ("subject=UID=x,CN=y", "UID=x,CN=y", "as RFC 4514 writes it"),
        ("CN=M\ufffdller", "CN=M\ufffdller", "copy it again"),
        # and what is certain
        ("CN=x+UID=y,O=a", "CN=x+UID=y,O=a", ""),
        ("cn=x+uid=y,o=a", "CN=x+UID=y,O=a", ""),
        (r"CN=x\+UID\=y,O=a", r"CN=x\+UID=y,O=a", ""),
        (r"CN = \ x", r"CN=\ x", ""),
        ('CN="x + y = z"', r"CN=x \+ y = z", ""),
        ("CN=host/a.example,O=a", "CN=host/a.example,O=a", ""),
    ],
)  # fmt: skip
def test_what_several_names_would_print_alike_is_told(text: str, read: str, remark: str) -> None:
    """RDNs of several attributes, and values with a +, a blank or a name at their ends, where a
    program escapes nothing."""
    found = pasted.name(text)
    assert found.text == read
    assert remark in found.remark
    assert bool(remark) == bool(found.remark)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CN=Acme, Inc.", r"write \\, for a comma within a value"),
        ("CN=#1", r"write \\# for a value that begins with it"),
        ("XX=1,CN=a", "write its OID, such as 2.5.4.13"),
        ("SN=1,CN=a", "write surname or serialNumber"),
        ("/C=US, /O=acme, /CN=alice", "either / or ,"),
        ("/CN=x/y=z", "write its OID"),
        ("CN=a\nnothing", "line 2 of the subject is not like TYPE = value"),
        ("CN=a\u200bb", "at character 5"),
        ("", "an attribute type is missing"),
        ("subject=", "an attribute type is missing"),
    ],
)
def test_what_is_not_read_is_refused_with_what_helps(text: str, words: str) -> None:
    """And with the place."""
    with pytest.raises(core.CoreError, match=words):
        pasted.name(text)


@pytest.mark.parametrize("rdns", NAMES[:60], ids=range(60))
def test_what_is_canonical_stays_what_it_is(rdns: printed.Rdns) -> None:
    """What the API shows, sent back, is the same name."""
    assert pasted.name(subject(rdns)).text == subject(rdns)


OPTIONS = (
    "", "compat", "RFC2253", "oneline", "multiline", "lname", "oneline,utf8,-esc_msb",
    "dn_rev,utf8,esc_2253,sep_comma_plus", "sep_comma_plus_space",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["-subject", "-text"])
@pytest.mark.parametrize("option", OPTIONS)
def test_what_openssl_prints_is_read_rightly(tmp_path: Path, option: str, shown: str) -> None:
    """The installed one."""
    for rdns in NAMES[:40]:
        file = tmp_path / "a.pem"
        file.write_bytes(certs.pem(certs.certificate(printed.der_of(rdns))))
        words = ["openssl", "x509", "-in", str(file), "-noout", shown]
        words += ["-nameopt", option] if option else []
        out = subprocess.run(words, capture_output=True, check=True).stdout
        try:
            text = out.decode()
        except UnicodeDecodeError:  # some options print the bytes of a T61 string as they are
            text = out.decode("latin-1")
        if shown == "-text":
            text = re.search(r"(?s)Subject:.*?(?=\n {8}Subject Public)", text)[0]
        try:
            found = pasted.name(text)
        except core.CoreError:
            continue
        assert found.text == subject(rdns) or found.remark, text


HASH = "ab" * 32


@pytest.mark.parametrize(
    "text",
    [HASH, HASH.upper(), ":".join(["AB"] * 32), " ".join(["ab"] * 32), f" {HASH}\n",
     f"sha256 Fingerprint={':'.join(['AB'] * 32)}", f"SHA256 Fingerprint={HASH}",
     f"SHA-256: {HASH}"],
)  # fmt: skip
def test_a_fingerprint_in_each_spelling(text: str) -> None:
    """Of openssl, browsers, Windows, keytool."""
    assert pasted.fingerprint(text) == HASH


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ab" * 20, "it is a SHA-1"),
        ("ab" * 16, "it is a MD5"),
        ("", "64 hex digits"),
        ("x", "64 hex"),
    ],
)
def test_another_hash_is_refused_by_its_name(text: str, words: str) -> None:
    """With the command that prints the right one."""
    with pytest.raises(ValueError, match=words):
        pasted.fingerprint(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [("5e6", "05e6"), ("05E6", "05e6"), ("0x5e6", "05e6"), ("05:e6", "05e6"), ("05 e6", "05e6"),
     ("serial=05E6", "05e6"), ("Serial Number: 1510 (0x5e6)", "05e6"), ("0", "00"),
     ("0005e6", "05e6")],
)  # fmt: skip
def test_a_serial_number_in_each_spelling(text: str, read: str) -> None:
    """Of openssl, Windows, browsers."""
    assert pasted.serial(text) == read


@pytest.mark.parametrize("text", ["", "-5e6", "xyz", "(Negative) 05", "ab" * 65])
def test_what_is_not_a_serial_number_is_refused(text: str) -> None:
    """Not read as another number."""
    with pytest.raises(ValueError, match="hex digits"):
        pasted.serial(text)
