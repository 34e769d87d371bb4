"""`certificate_identities` of /v1/users: what a certificate must have to be a user."""

from hashlib import sha256
from typing import Any

import pytest

from control.policy import bindings
from tests.kit.node import Start, turned_away, who
from tests.kit.plane import Plane, enrolled_node, operator
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import Cert, Pki, wait_until

CART = "spiffe://acme/ns/shop/sa/cart"


def cart(*identities: dict[str, Any], **fields: Any) -> dict[str, Any]:
    usual = {"name": "cart", "auth_method": "certificate", "role": "db_member"}
    return {**usual, "certificate_identities": [*identities], **fields}


# ---- Rows ----------------------------------------------------------------------------------------


def test_identities_and_the_subject_line_are_read_alike(api: ControlPlane) -> None:
    """Whichever of the two was written; the line is the first plain subject."""
    made = api.ok("POST /v1/users", cart({"uri": CART}, {"subject": "/O=acme/CN=cart"}))
    assert made["certificate_subject_line"] == "CN=cart,O=acme"
    assert made["certificate_identities"] == [{"subject": "CN=cart,O=acme"}, {"uri": CART}]
    changed = api.ok("PUT /v1/users/2", {"certificate_subject_line": "CN=other"})
    assert changed["certificate_identities"] == [{"subject": "CN=other"}, {"uri": CART}]
    changed = api.ok("PUT /v1/users/2", {"certificate_identities": [{"uri": CART}]})
    assert changed["certificate_subject_line"] == ""
    again = api.ok("PUT /v1/users/2", {key: changed[key] for key in ("certificate_identities",)})
    assert again == changed == api.ok("GET /v1/users/2")


def test_a_user_that_is_sent_back_as_it_was_read_stays_as_it_is(api: ControlPlane) -> None:
    """Whole, or the subject line alone, also where the subject has options."""
    made = api.ok("POST /v1/users", cart({"subject": "CN=cart", "session": "8h"}, {"uri": CART}))
    both = ("certificate_subject_line", "certificate_identities")
    for fields in (both, both[:1]):
        assert api.ok("PUT /v1/users/2", {name: made[name] for name in fields}) == made


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"certificate_identities": []}, "missing_field", "certificate_identities"),
        ({"certificate_identities": [{}]}, "invalid_param", "identities.0: an identity must have"),
        ({"certificate_identities": [{"uri": CART, "cn": "cart"}]}, "invalid_param", "exactly one"),
        ({"certificate_identities": [{"uri": CART}] * 2}, "invalid_param", "is there twice"),
        ({"certificate_identities": [{"key": "ab"}]}, "invalid_param", "64 hex digits"),
        ({"certificate_identities": [{"cn": "a", "session": "1w"}]}, "invalid_schema", "session"),
        ({"certificate_identities": [{"cn": "a", "from": ["x"]}]}, "invalid_param", "identities.0"),
        ({"certificate_identities": [{"cn": "a", "ca": "none"}]}, "invalid_param", "no trusted CA"),
        ({"certificate_subject_line": "CN=x"}, "invalid_param", "does not contain"),
        ({"auth_method": "regular", "password": "the secret"}, "invalid_param", "regular users"),
    ],
)
def test_a_bad_identity_is_a_400_with_its_place(
    api: ControlPlane, fields: dict[str, Any], code: str, words: str
) -> None:
    """And nothing is made."""
    answer = api("POST /v1/users", cart({"uri": CART}) | fields)
    assert (answer.status, answer.code) == (400, code)
    assert words in answer.text
    assert len(api.ok("GET /v1/users")) == 1


def test_an_attribute_by_oid_comes_back_as_it_can_be_sent(api: ControlPlane) -> None:
    """By its name where it has one; what is not an OID is refused."""
    serial = {"attribute": {"oid": "2.5.4.5", "value": "12345"}}
    made = api.ok("POST /v1/users", cart(serial, {"extension": {"oid": "1.2.3", "value": "x"}}))
    both = made["certificate_identities"]
    assert both[0] == {"attribute": {"oid": "serialNumber", "value": "12345"}}
    assert api.ok("PUT /v1/users/2", {"certificate_identities": both}) == made
    wrong = cart({"extension": {"oid": "serial number", "value": "x"}}, name="o")
    assert api("POST /v1/users", wrong).code == "invalid_schema"


def test_the_description_has_each_field_by_its_name(api: ControlPlane) -> None:
    """`from`, not what Python calls it."""
    schemas = api.ok("GET /openapi.json")["components"]["schemas"]
    told = schemas["IdentityBody"]["properties"]
    assert {*bindings.KINDS, "ca", "from", "session", "shared", "comment"} == set(told)
    listed = schemas["NewUserBody"]["properties"]["certificate_identities"]
    assert listed["items"] == {"$ref": "#/components/schemas/IdentityBody"}


def test_one_identity_is_one_user(api: ControlPlane) -> None:
    """Whatever its options, unless its users all share it, with the same options."""
    api.ok("POST /v1/users", cart({"uri": CART, "shared": True, "comment": "ours"}))
    other = cart({"uri": CART}, name="other")
    answer = api("POST /v1/users", other)
    assert (answer.status, answer.code) == (409, "certificate_identity_already_exists")
    assert "'cart'" in answer.text
    answer = api("POST /v1/users", cart({"uri": CART, "shared": True, "session": "8h"}, name="o"))
    assert (answer.status, answer.code) == (409, "certificate_identity_differs")
    api.ok("POST /v1/users", cart({"uri": CART, "shared": True, "comment": "theirs"}, name="o"))
    answer = api("PUT /v1/users/2", {"certificate_identities": [{"uri": CART}]})
    assert (answer.status, answer.code) == (409, "certificate_identity_already_exists")


def test_a_subject_line_is_not_another_users_identity(api: ControlPlane) -> None:
    """In either order of coming."""
    api.ok("POST /v1/users", cart({"subject": "CN=cart", "session": "8h"}))
    answer = api("POST /v1/users", cart(name="o", certificate_identities=[{"subject": "CN=cart"}]))
    assert (answer.status, answer.code) == (409, "certificate_identity_already_exists")


def test_a_ca_is_named_by_name_hash_or_key(api: ControlPlane, pki: Pki) -> None:
    """It is kept as its key id, so that a renewed CA counts too."""
    entry = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
    api.ok("PUT /v1/cluster/update_cert", entry)
    name = pki.ca.certificate.subject.rfc4514_string()
    shown = ":".join(f"{byte:02X}" for byte in bytes.fromhex(sha256(pki.ca.der).hexdigest()))
    for ca in (name, name.removeprefix("CN=").split(",")[0], shown, pki.ca.key_id):
        body = {"certificate_identities": [{"uri": CART, "ca": ca}]}
        told = api.ok("POST /v1/users?dry_run", cart(**body))
        assert told["certificate_identities"] == [{"uri": CART, "ca": pki.ca.key_id}]


RARE = {
    "SPIFFE://Acme/x": "spiffe://acme/x",
    "urn:a b": "urn:a%20b",
    "urn:a%2fb": "urn:a%2Fb",
    "urn:100%": "urn:100%25",
    "urn:a%zz%41": "urn:a%25zz%41",
    "urn:m\u00fcller": "urn:m%C3%BCller",
    "HTTPS://a.acme/<x>": "https://a.acme/%3Cx%3E",
}
COMMON = [CART, "urn:a%20b", "https://[::1]:8/a;b=c?d=e&f=%2F#~g", "mailto:a@acme"]


def test_a_value_that_certificates_rarely_hold_comes_with_a_warning(api: ControlPlane) -> None:
    """It is kept as it is: comparison is byte for byte."""
    api.ok("POST /v1/users", cart({"cn": "x"}))
    for value, likely in RARE.items():
        made = api.ok("PUT /v1/users/2", {"certificate_identities": [{"uri": value}]})
        assert made["certificate_identities"] == [{"uri": value}]
        assert made["warnings"][0].endswith(f"more likely is '{likely}'")
    for value in (*COMMON, *RARE.values()):
        body = {"certificate_identities": [{"uri": value}]}
        assert "warnings" not in api.ok("PUT /v1/users/2", body), value


def test_the_api_logs_in_by_each_identity(api: ControlPlane, pki: Pki) -> None:
    """As databases do; a certificate that has none of them is nobody."""
    entry = {"name": "mtls_trusted_ca", "certificate": pki.ca.pem.decode()}
    api.ok("PUT /v1/cluster/update_cert", entry)
    api.ok("PUT /v1/cluster", {"mtls_certificate_authentication": True})
    leaf = pki.ca.issue("CN=pod-1", san=(f"uri:{CART}", "dns:cart.acme.com"))
    named = ({"uri": CART}, {"dns": "cart.acme.com"}, {"key": leaf.key_id}, {"cn": "pod-1"})
    for identity in named:
        api.ok("POST /v1/users", cart(identity, role="cluster_viewer"))
        assert api("GET /v1/cluster", cert=leaf).status == 200, identity
        other = api("GET /v1/cluster", cert=pki.ca.issue("CN=pod-2"))
        assert (other.status, other.code) == (401, "no_binding")
        uid = api.ok("GET /v1/users")[-1]["uid"]
        api.ok(f"DELETE /v1/users/{uid}")
        assert api("GET /v1/cluster", cert=leaf).code == "no_binding"


# ---- Real servers --------------------------------------------------------------------------------


def pods(pki: Pki, count: int, uri: str = CART) -> list[Cert]:
    return [pki.ca.issue(f"CN=pod-{one}", san=(f"uri:{uri}",)) for one in range(count)]


def test_ten_pods_are_one_user_by_their_spiffe_id(
    plane: Plane, server_kind: Server, start: Start, pki: Pki
) -> None:
    """Each with a certificate of its own, as a workload that has no subject; the pod of another
    service is refused."""
    node = enrolled_node(start, server_kind, plane.config.home, pki)
    plane.register(node)
    plane.ok("POST /v1/users?wait_for_sync=10", cart({"uri": CART}, role="admin"))
    assert {who(node, cert) for cert in pods(pki, 10)} == {"cart"}
    assert who(node, pki.ca.issue("", san=(f"uri:{CART}",))) == "cart"
    (stranger,) = pods(pki, 1, CART + "-2")
    other = pki.ca.issue("", san=(f"uri:{CART}/2",))
    for leaf in (stranger, other):
        assert turned_away(node, leaf, operator(node)) == "no_binding"


def test_a_subject_changes_with_an_overlap_and_no_login_is_refused(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """Both are the user while both are there; without the old one its sessions end, and the new
    one's stay."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(node)
    old, new = pki.ca.issue("CN=cart,OU=old"), pki.ca.issue("CN=cart,OU=new")
    both = [{"subject": "CN=cart,OU=old"}, {"subject": "CN=cart,OU=new"}]
    made = plane.ok("POST /v1/users?wait_for_sync=10", cart(both[0], role="admin"))
    with node.tls(old).connect() as before:
        assert before.command("ACL", "WHOAMI") == b"cart"
        user = f"/v1/users/{made['uid']}?wait_for_sync=10"
        plane.ok(f"PUT {user}", {"certificate_identities": both})
        assert before.command("ACL", "WHOAMI") == b"cart"
        with node.tls(new).connect() as after:
            assert after.command("ACL", "WHOAMI") == b"cart"
            plane.ok(f"PUT {user}", {"certificate_identities": both[1:]})
            wait_until(lambda: who(node, old) is None, "the old subject is nobody")
            assert turned_away(node, old, operator(node)) == "no_binding"
            assert after.command("ACL", "WHOAMI") == b"cart"


def test_who_shares_an_identity_chooses(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """The line has all who share it; who leaves, or loses the rights there, is not in it."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(node)
    shared = {"cn": "team", "shared": True}
    for name in ("reader", "writer"):
        plane.ok("POST /v1/users?wait_for_sync=10", cart(shared, name=name, role="admin"))
    team = pki.ca.issue("CN=team")
    with node.tls(team).connect() as client:
        for name in ("reader", "writer"):
            assert client.command("CERTAUTH.LOGIN", name) == b"OK"
            assert client.command("ACL", "WHOAMI") == name.encode()
    uid = next(one["uid"] for one in plane.ok("GET /v1/users") if one["name"] == "reader")
    plane.ok(f"DELETE /v1/users/{uid}?wait_for_sync=10")
    assert who(node, team) == "writer"


KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "upn": ("alice@corp.acme.com", {"san": ("upn:alice@corp.acme.com",)}, {"san": ("upn:a@x.y",)}),
    "email": ("alice@acme.com", {"san": ("email:alice@acme.com",)}, {}),
    "ip": ("10.1.2.3", {"san": ("ip:10.1.2.3",)}, {"san": ("ip:10.1.2.4",)}),
    "attributes": ("OU=analytics", {"subject": "CN=x,OU=analytics,O=acme"}, {}),
    "attribute": (
        {"oid": "2.5.4.11", "value": "analytics"},
        {"subject": "CN=x,OU=analytics,O=acme"},
        {"subject": "CN=x,OU=other,O=acme"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_the_user_and_its_like_is_refused(
    plane: Plane, installed: Server, start: Start, pki: Pki, kind: str
) -> None:
    """Through REST alone: the certificate that has the value, and one that has another."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(node)
    value, good, bad = KINDS[kind]
    plane.ok("POST /v1/users?wait_for_sync=10", cart({kind: value}, role="admin"))
    assert who(node, pki.ca.issue(**{"subject": "CN=one", **good})) == "cart"
    other = pki.ca.issue(**{"subject": "CN=two", **bad})
    assert turned_away(node, other, operator(node)) == "no_binding"
