"""Pinned certificates: what a database trusts beside CAs that lead up to their roots."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from control.pki import trust
from control.pki.pem import CertificateError
from control.pki.uploads import check_clients
from control.records import Trust
from tests.kit.certs import authority_line
from tests.kit.chains import sign, usage
from tests.kit.node import Start, who
from tests.kit.plane import Plane, authority_of, enrolled_node
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import SERVER, Cert, Pki, days, root, wait_until

PUT = "PUT /v1/bdbs/1"
TOP = root("CN=Top")
MIDDLE = TOP.authority("CN=Middle")


def alone(subject: str = "CN=alice,OU=eng,O=acme", **options: Any) -> Cert:
    """A client's certificate that it has signed itself."""
    return sign(None, subject, ec.generate_private_key(ec.SECP256R1()), **options)


def pem(*certs: Cert) -> str:
    return "".join(one.pem.decode() for one in certs)


def own(*certs: Cert, **more: Any) -> dict[str, Any]:
    return {"authentication_ssl_client_certs": [{"client_cert": pem(one)} for one in certs], **more}


def trusted(*certs: Cert, before: Trust = Trust(), pinned: Any = None) -> Trust:  # noqa: B008
    text = pem(*certs)
    return trust.stored(text, trust.settled(before, text, None, pinned))


# ---- Pure ----------------------------------------------------------------------------------------


def test_a_leaf_is_pinned_and_an_intermediate_stands_alone(pki: Pki) -> None:
    """Anyone who issued it; a CA beside it stays what it is."""
    mine, leaf = alone(), MIDDLE.issue("CN=bob")
    assert trusted(mine, leaf) == Trust(pins=(mine.der, leaf.der))
    assert trusted(leaf, MIDDLE) == Trust(cas=(MIDDLE.der,), pins=(leaf.der,))
    assert trusted(leaf, TOP, MIDDLE) == Trust((MIDDLE.der,), (TOP.der,), (), (leaf.der,))
    assert trust.rootless(trusted(leaf, MIDDLE, pki.ca)) == [MIDDLE.der]
    assert trust.rootless(trusted(leaf, TOP, MIDDLE)) == []


def test_what_could_be_a_ca_is_one_until_it_is_said(pki: Pki) -> None:
    """And then it stays pinned, whatever else comes or goes; also back."""
    both = alone(ca=True)
    assert trusted(both) == Trust(cas=(both.der,))
    pinned = trusted(both, pinned=[both.fingerprint])
    assert pinned == Trust(pins=(both.der,))
    assert trusted(both, pki.ca, before=pinned) == Trust(cas=(pki.ca.der,), pins=(both.der,))
    assert trusted(both, before=pinned, pinned=[]) == Trust(cas=(both.der,))
    with pytest.raises(CertificateError, match="no certificate here has the SHA-256"):
        trusted(pki.ca, before=pinned, pinned=[both.fingerprint])


def test_trust_grows_by_a_pin_and_lessens_without_it() -> None:
    """By exactly this certificate."""
    mine, namesake = alone(), alone()
    before, after = trusted(MIDDLE), trusted(MIDDLE, mine)
    assert trust.grown(before, after) == ["CN=alice,OU=eng,O=acme (this certificate alone)"]
    assert (trust.grown(after, before), trust.lessens(before, after)) == ([], False)
    assert trust.lessens(after, before)
    assert trust.admits(after, (), mine.fingerprint)
    assert not trust.admits(after, (), namesake.fingerprint)
    assert not trust.admits(before, (), mine.fingerprint)


@pytest.mark.parametrize(
    ("cert", "words"),
    [
        (alone(eku=(SERVER,)), "key_usage"),
        (alone(begin=days(-2), end=days(-1)), "expired"),
        (alone(begin=days(1), end=days(2)), "not valid before"),
        (alone(more=[usage(key_cert_sign=True)]), "key_usage"),
        (sign(TOP, "CN=x", ec.generate_private_key(ec.SECP192R1())), "below security level"),
        (MIDDLE.authority("CN=Low", extensions=[(x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.2.3"), b"x"), True)]), "would verify nowhere"),
    ],
    ids=["a server's", "ended", "to come", "signs", "weak", "a CA that nobody verifies"],
)  # fmt: skip
def test_what_could_never_log_in_is_refused_with_the_reason(cert: Cert, words: str) -> None:
    """By what decides about clients; and what is good is taken beside it."""
    assert len(check_clients(pem(alone(), MIDDLE))) == 2
    with pytest.raises(CertificateError, match=words):
        check_clients(pem(alone(), cert))


# ---- Rows ----------------------------------------------------------------------------------------


def test_a_database_has_the_lines_of_what_it_was_given(api: ControlPlane) -> None:
    """A pin each, a `ca` without its anchor; what is read can be sent back."""
    mine, both = alone(), alone(ca=True)
    made = api.database(**own(mine, both, MIDDLE, pinned_certificates=[both.fingerprint]))
    found = {line for line in api.lines() if line.split()[0] in ("ca", "anchor", "pin")}
    assert found == {
        authority_line(mine, "pin"), authority_line(both, "pin"), authority_line(MIDDLE)
    }  # fmt: skip
    assert made["pinned_certificates"] == sorted([mine.fingerprint, both.fingerprint])
    names = ("authentication_ssl_client_certs", "pinned_certificates")
    back = {name: made[name] for name in names}
    for body in (back, {names[0]: made[names[0]]}):
        assert {name: api.ok(PUT, body)[name] for name in names} == back


def test_another_pin_wants_a_yes(api: ControlPlane) -> None:
    """As another CA does; so does a CA that was pinned so far."""
    mine, both = alone(), alone(ca=True)
    api.database(**own(both, pinned_certificates=[both.fingerprint]))
    for body, words in (
        (own(both, mine), "(this certificate alone)"),
        ({"pinned_certificates": []}, "CN=alice"),
    ):
        answer = api(PUT, body)
        assert (answer.status, answer.code) == (406, "trust_grows")
        assert words in answer.text
        api.ok(PUT, {**body, "trust_grows": True})


def test_the_api_itself_pins_nothing(api: ControlPlane) -> None:
    """Its own CAs lead up to their roots."""
    for cert, words in ((alone(), "not a CA certificate"), (MIDDLE, "lead up to its root")):
        entry = {"name": "mtls_trusted_ca", "certificate": pem(cert)}
        answer = api("PUT /v1/cluster/update_cert", entry)
        assert (answer.status, answer.code) == (400, "invalid_certificate")
        assert words in answer.text


def test_a_client_that_passes_for_a_ca_is_said(api: ControlPlane) -> None:
    """Where a user has what it says: such a client could never log in. Any other CA is none."""
    both = alone(ca=True)
    assert "warnings" not in api.database("first", 6381, **own(both))
    api.certificate_user("alice", "CN=alice,OU=eng,O=acme")
    (told,) = api.database("second", 6382, **own(both))["warnings"]
    assert "user 'alice'" in told
    assert f'pinned_certificates: ["{both.fingerprint}"]' in told
    made = api.database("third", 6383, **own(both, pinned_certificates=[both.fingerprint]))
    assert "warnings" not in made


# ---- Real servers --------------------------------------------------------------------------------


def test_a_pinned_certificate_logs_in_and_its_namesake_does_not(
    plane: Plane, server_kind: Server, start: Start, pki: Pki
) -> None:
    """Nor what it has signed itself; by an intermediate alone come its leaves and not its
    siblings'. Taking one pin away ends exactly its sessions, once that is meant."""
    mine, both, namesake = alone(), alone(ca=True), alone()
    child = both.issue("CN=alice,OU=eng,O=acme")
    node = enrolled_node(start, server_kind, plane.config.home, pki)
    plane.register(node, **own(mine, both, MIDDLE, pinned_certificates=[both.fingerprint]))
    plane.in_step()
    for cert in (mine, both, MIDDLE.issue("CN=alice,OU=eng,O=acme")):
        wait_until(lambda cert=cert: who(node, cert) == "alice", "it is alice")  # type: ignore[misc]
    for cert in (namesake, child, TOP.issue("CN=alice,OU=eng,O=acme"), pki.alice):
        assert who(node, cert) is None
    with node.tls(mine).connect() as stays, node.tls(both).connect() as goes:
        assert stays.command("ACL", "WHOAMI") == goes.command("ACL", "WHOAMI") == b"alice"
        answer = plane(PUT, own(mine, MIDDLE))
        assert (answer.status, answer.code) == (406, "ca_in_use")
        assert "alice" in answer.text
        plane.ok(f"{PUT}?force&wait_for_sync=10", own(mine, MIDDLE))
        wait_until(lambda: who(node, both) is None, "the pin is gone")
        with pytest.raises((OSError, Exception)):
            goes.command("ACL", "WHOAMI")
        assert stays.command("ACL", "WHOAMI") == b"alice"


def test_a_server_that_takes_no_pin_is_named_at_once(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """In the answer, and in the status for as long as it is so."""
    trust_by_hand = [pki.ca, authority_of(plane.config)]
    by_hand = {"trust": trust_by_hand, "config": ['tls-ca-cert-dir ""']}
    node = enrolled_node(start, installed, plane.config.home, pki, **by_hand)
    plane.register(node, **own(pki.ca))
    plane.in_step()
    trusts = lambda: plane.ok("GET /v1/certauth/nodes")["nodes"][0]["trust"]  # noqa: E731
    wait_until(lambda: trusts().startswith("not managed"), "it says that it is not managed")
    told = plane.ok(PUT, own(pki.ca, alone(), trust_grows=True))
    (warning,) = told["warnings"]
    assert warning.startswith(f"127.0.0.1:{node.port}: its TLS handshake accepts neither a pinned")
    assert "UNTAKEN the TLS handshake takes no pin line" in plane.says("UNTAKEN")
    assert "warnings" not in plane.ok(PUT, own(pki.ca))
    plane.in_step()


def test_a_server_whose_handshakes_nobody_sees_says_so_in_the_status(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """What its trust store holds comes in all the same."""
    module = ("certificates", "api")
    node = enrolled_node(start, installed, plane.config.home, pki, module=module)
    mine = alone()
    plane.register(node, **own(pki.ca, mine))
    assert "with certificates api nobody answers it" in plane.says("UNTAKEN")
    assert (who(node, pki.alice), who(node, mine)) == ("alice", None)
