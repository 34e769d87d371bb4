"""What nobody thought of: a corpus of certificates, lists and requests, each by every way in. No
answer is a 5xx, no command ends in a traceback, and whatever can log in can be revoked."""

import ssl
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from control.cli import apply, importers
from control.cli.main import main
from control.pki.facts import facts_of
from control.pki.guarded import CertificateError
from control.pki.issue import new_ca
from control.pki.reading import render
from control.pki.request import Leaf, issue_requested, read_request
from control.policy import core
from tests.kit import certs, corpus, crls
from tests.kit.browser import Browser
from tests.kit.rest import ControlPlane

REVOKE, EXPLAIN = "POST /v1/certauth/revocations", "POST /v1/certauth/explain"
CERTIFICATES = dict(corpus.certificates())
AUTHORITIES = dict(corpus.authorities())


def text(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)


@pytest.fixture
def trusting(api: ControlPlane) -> ControlPlane:
    """With the CA of the corpus, and 5xx as answers."""
    api.app.config["PROPAGATE_EXCEPTIONS"] = False
    api.trust(certs.ca())
    return api


PARTS = [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, 6))]


def part_of(corpus_: dict[str, bytes], part: int) -> dict[str, bytes]:
    """Each sixth: the quick tests see a part of it."""
    return dict(list(corpus_.items())[part::6])


@pytest.mark.parametrize("part", PARTS)
def test_whatever_can_log_in_can_be_revoked(trusting: ControlPlane, part: int) -> None:
    """By its certificate: what a server reads, the reader of revocations reads as well."""
    policy = certs.trusting("set unmatched leave")
    able = 0
    for what, der in part_of(CERTIFICATES, part).items():
        try:
            decided = policy.decide(der, certs.NOW)
        except core.CoreError:
            decided = None
        explained = trusting(EXPLAIN, {"certificate": text(der)})
        revoked = trusting(REVOKE, {"certificate": text(der)})
        assert explained.status < 500, what
        assert revoked.status < 500, what
        if decided and decided.reason in ("matched", "no_binding", "ambiguous"):
            able += 1
            (line,) = (one["line"] for one in revoked.json["revocations"])
            refused = certs.trusting("set unmatched leave", line).decide(der, certs.NOW)
            assert refused.reason == "revoked", what
    assert able > 8


@pytest.mark.parametrize("part", PARTS)
def test_no_upload_is_a_5xx(trusting: ControlPlane, part: int) -> None:
    """Of CAs, of databases' client certificates, of servers' CAs, of authorities of a list."""
    root = certs.ca().pem.decode()
    trusting.database()
    taken = 0
    for what, der in part_of({**AUTHORITIES, **CERTIFICATES}, part).items():
        both = text(der) + root
        calls: tuple[tuple[str, Any], ...] = (
            ("PUT /v1/cluster/update_cert?dry_run", {"name": "mtls_trusted_ca", "certificate": both,
                                                     "trust_grows": True}),
            ("PUT /v1/bdbs/1?dry_run",
             {"authentication_ssl_client_certs": [{"client_cert": both}], "trust_grows": True}),
            ("PUT /v1/bdbs/1?dry_run", {"tls_server_ca": text(der)}),
            ("POST /v1/certauth/crls", {"crl": "x", "authorities": text(der)}),
        )  # fmt: skip
        for call, body in calls:
            answer = trusting(call, body)
            assert answer.status < 500, (what, call, answer.json)
            assert "ParseError" not in str(answer.json), what
            assert "https://" not in str(answer.json), what
            taken += answer.status == 200
    assert taken > 5


def test_each_ca_of_the_page_is_described() -> None:
    """What a person compares before trusting it, also of a CA that a library of ours does not read:
    then the page says that it does not show how far it reaches."""
    unread, unknown = set(), set()
    for what, der in {**AUTHORITIES, **CERTIFICATES}.items():
        try:
            core.identity(der)
        except core.CoreError:
            continue  # parse_bundle refuses it
        found = dict(facts_of([text(der)]))
        if found["Key"] == "of a kind that is not known here":
            unknown.add(what)
            continue
        assert found["Key"] == "EC, secp256r1", what
        if "Limits" in found:
            assert found["Limits"].startswith("not shown: "), what
            unread.add(what)
    assert {"TLS feature 6", "an RDN out of order", "x400Address"} <= unread
    assert unknown <= {"no seconds"}  # which this library's OpenSSL does not read at all
    assert not {"something private", "no subject"} & unread


@pytest.mark.parametrize("what", ["TLS feature 6", "an RDN out of order"])
def test_the_page_takes_what_the_api_takes(api: ControlPlane, admin: Browser, what: str) -> None:
    """The question first, then the CA and the page of it."""
    pem = text(AUTHORITIES[what]) + certs.ca().pem.decode()
    page = admin.send(admin.get("/ui/cas/"), "/ui/cas/add", pem=pem)
    assert (page.status, "Limits not shown: " in page.text) == (200, True), page.text
    trust = {"name": "mtls_trusted_ca", "certificate": pem, "trust_grows": True}
    api.ok("PUT /v1/cluster/update_cert?force", trust)
    page = admin.get(f"/ui/cas/{core.identity(AUTHORITIES[what]).key}")
    assert (page.status, "EC, secp256r1" in page.text) == (200, True), page.text


def test_no_list_is_a_5xx(trusting: ControlPlane) -> None:
    """One that is good is taken, and the others are refused by what they are."""
    codes = {}
    for what, der in corpus.lists(certs.ca()):
        answer = trusting("POST /v1/certauth/crls", {"crl": crls.text(der)})
        assert answer.status < 500, what
        codes[what] = answer.code
    assert codes == {
        "version 0": "crl_malformed", "version 1": "", "version 2": "crl_malformed",
        "version 120": "crl_malformed", "no version": "", "no times": "crl_malformed",
        "SHA-1": "crl_algorithm",
    }  # fmt: skip


def test_two_lists_in_one_file_are_both_taken(trusting: ControlPlane) -> None:
    """Or neither, where one of them is none."""
    other = certs.long_root("CN=Other CA")
    trusting.trust(certs.ca(), other)
    both = "".join(render(crls.crl(one), "X509 CRL") for one in (certs.ca(), other))
    broken = both + render(crls.crl(certs.long_root("CN=Stranger")), "X509 CRL")
    answer = trusting("POST /v1/certauth/crls", {"crl": broken})
    assert (answer.status, answer.code) == (400, "crl_unknown_issuer")
    assert trusting.ok("GET /v1/certauth/crls") == []
    found = trusting.ok("POST /v1/certauth/crls", {"crl": both})
    assert [found["issuer"], *(one["issuer"] for one in found["others"])] == [
        "CN=Root CA,O=acme", "CN=Other CA",
    ]  # fmt: skip
    assert len(trusting.ok("GET /v1/certauth/crls")) == 2


def test_a_second_leaf_is_revoked_too(trusting: ControlPlane) -> None:
    """And named; a CA behind the first one is not."""
    one, two = (corpus.leaf(certs.person(name), serial=name.encode()) for name in ("a", "b"))
    body = {"certificate": text(one) + text(two) + certs.ca().pem.decode()}
    made = trusting.ok(REVOKE, body)
    key = certs.ca().key_id
    assert [line["line"] for line in made["revocations"]] == [
        f"revoke serial {key} 61", f"revoke serial {key} 62",
    ]  # fmt: skip
    assert "'CN=b,O=acme'" in made["warnings"][0]
    assert "'CN=b,O=acme'" in trusting.ok(EXPLAIN, body)["warnings"][0]


def test_no_request_is_more_than_refused() -> None:
    """What a CSR asks for is read in full, or it is refused."""
    found = {}
    for what, pem in corpus.requests():
        try:
            read_request(pem)
            found[what] = ""
        except CertificateError as error:
            found[what] = str(error)
    assert (found.pop("nothing"), found.pop("something private")) == ("", "")
    assert all(found.values())


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        ("serialNumber=dev_42,CN=x", ""),
        ("dnQualifier=a_b,CN=x", ""),
        ("DC=müller,CN=x", ""),
        ("emailAddress=jürgen@acme.example,CN=x", ""),
        (f"CN={'ж' * 64}", ""),
        (f"CN={'ж' * 65}", "65 characters, and 64 are the most"),
        ("C=USA,CN=x", "a country has two letters"),
        ("C=ü,CN=x", "a country has two letters"),
        ("C=US,CN=x", ""),
        ("1.2.3=x+OU=y,description=z", ""),
    ],
)
def test_every_subject_is_issued_letter_by_letter_or_refused(subject: str, problem: str) -> None:
    """Lengths count characters, as RFC 5280 does; a `_` makes a UTF8String."""
    ca = new_ca([("CN", "ours")], timedelta(days=9))
    request = read_request(next(pem for what, pem in corpus.requests() if what == "nothing"))
    asked = Leaf(core.parse_name(subject), (), ("digital_signature",), timedelta(hours=1))
    if problem:
        with pytest.raises(CertificateError, match=problem):
            issue_requested(ca, request, asked)
        return
    made = core.identity(issue_requested(ca, request, asked).encode())
    assert made.subject == core.parse_name(subject)
    assert made.refusal is None


# ---- The command line ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The corpus as files."""
    (tmp_path / "certificates").mkdir()
    for number, der in enumerate(CERTIFICATES.values()):
        (tmp_path / "certificates" / f"{number}.crt").write_bytes(
            der if number % 2 else text(der).encode()
        )
    return tmp_path


def test_no_file_is_a_traceback(folder: Path) -> None:
    """Of `explain` and of `import`; certificates without a subject are told of."""
    (folder / "policy").write_text("\n".join(["set enforce on", certs.authority_line(certs.ca())]))
    (folder / "acl").write_text("user alice on ~* +@all\n")
    runner = CliRunner()
    words = ["import", "acl", str(folder / "acl"), "--certificates", str(folder / "certificates")]
    found = runner.invoke(main, words)
    assert found.exit_code == 0, found.exception
    assert "certificate_subject_line: CN=alice,O=acme" in found.output
    assert "its subject is empty" in found.output
    for file in sorted((folder / "certificates").iterdir()):
        done = runner.invoke(main, ["explain", str(file), "--policy", str(folder / "policy")])
        assert done.exception is None or isinstance(done.exception, SystemExit), file


def test_no_file_of_apply_is_more_than_refused(folder: Path) -> None:
    """Each certificate as the CA of it, and as a database's."""
    for file in sorted((folder / "certificates").iterdir())[::3]:
        certificate = str(file)
        declared = {
            "trusted_ca": certificate,
            "bdbs": [{"name": "a", "authentication_ssl_client_certs": [
                {"client_cert": file.read_bytes().decode("latin-1")}]}],
        }  # fmt: skip
        for section in declared:
            (folder / "state.yaml").write_text(yaml.dump({section: declared[section]}))
            with suppress(apply.PolicyFileError):
                apply.read(folder / "state.yaml")


def test_what_is_in_a_folder_beside_certificates_is_told_of(tmp_path: Path) -> None:
    """Keys, lists, nothing."""
    notes = importers.Import()
    ours = {"key": certs.ca().key_pem, "list": crls.crl(certs.ca()), "empty": b"", "text": b"x"}
    importers.subjects_of(ours.items(), "", notes)
    assert [note.partition(":")[0] for note in notes.notes] == list(ours)
