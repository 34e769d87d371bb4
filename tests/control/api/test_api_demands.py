"""control/api/demands.py: what the cluster and databases demand of certificates."""

from typing import Any

import pytest

from control.policy import refusals, taking
from tests.kit.node import Start, turned_away, who
from tests.kit.plane import Plane, enrolled_node, operator
from tests.kit.rest import ControlPlane
from tests.kit.servers import Server
from tests.kit.support import Pki, days, wait_until

CLUSTER, BDB, PREVIEW = "PUT /v1/cluster", "PUT /v1/bdbs/1", "POST /v1/certauth/preview"
DEMANDS: dict[str, Any] = {
    "max_certificate_lifetime": 7776000,
    "required_extended_key_usages": ["1.3.6.1.4.1.99999.7", "clientAuth"],
    "required_certificate_policies": ["1.3.6.1.4.1.99999.1"],
    "min_key_bits": 3072,
    "min_tls_version": "1.3",
    "several_names": "same",
}
LINES = {
    "set max-lifetime 90d",
    "set require-eku 1.3.6.1.4.1.99999.7,1.3.6.1.5.5.7.3.2",
    "set require-policy 1.3.6.1.4.1.99999.1",
    "set min-key-bits 3072",
    "set min-tls 1.3",
    "set several-names same",
}
EKU = ["1.3.6.1.4.1.99999.7", "1.3.6.1.5.5.7.3.2"]
NOTHING: dict[str, Any] = {
    "max_certificate_lifetime": 0, "required_extended_key_usages": [],
    "required_certificate_policies": [], "min_key_bits": 0, "min_tls_version": "",
    "several_names": "refuse",
}  # fmt: skip


def demanded(api: ControlPlane, uid: int = 1) -> set[str]:
    names = tuple(f"set {name} " for name in (*taking.DEMANDS, "several-names"))
    return {line for line in api.lines(uid) if line.startswith(names)}


def fields(found: Any) -> Any:
    return {name: found[name] for name in DEMANDS}


# ---- Rows ----------------------------------------------------------------------------------------


def test_the_cluster_demands_and_a_database_says_otherwise(api: ControlPlane) -> None:
    """Each field by itself; null gives it back to the cluster, and what is nothing demands
    nothing."""
    api.database("first", 6381)
    api.database("second", 6382, min_key_bits=4096, max_certificate_lifetime=0)
    told = fields(api.ok(CLUSTER, DEMANDS))
    assert told == {**DEMANDS, "required_extended_key_usages": EKU}
    assert told == fields(api.ok("GET /v1/cluster"))
    assert demanded(api) == LINES
    other = {line for line in LINES if "min-key" not in line and "lifetime" not in line}
    assert demanded(api, 2) == other | {"set min-key-bits 4096"}
    back = api.ok("PUT /v1/bdbs/2", {"min_key_bits": None, "max_certificate_lifetime": None})
    assert fields(back) == dict.fromkeys(DEMANDS)
    assert demanded(api, 2) == LINES
    api.ok("PUT /v1/bdbs/2", NOTHING)
    assert (demanded(api), demanded(api, 2)) == (LINES, set())
    api.ok(CLUSTER, NOTHING)
    assert demanded(api) == set()


def test_what_was_read_can_be_sent_back(api: ControlPlane) -> None:
    """And nothing changes by it."""
    api.database(**DEMANDS)
    api.ok(CLUSTER, DEMANDS)
    for call in ("/v1/cluster", "/v1/bdbs/1"):
        read = fields(api.ok(f"GET {call}"))
        assert fields(api.ok(f"PUT {call}", read)) == read
    assert demanded(api) == LINES


@pytest.mark.parametrize(
    ("field", "value", "code", "words"),
    [
        ("max_certificate_lifetime", -1, "invalid_schema", "greater than or equal to 0"),
        ("max_certificate_lifetime", 24855 * 86400 + 1, "invalid_schema", "less than"),
        ("max_certificate_lifetime", "90d", "invalid_schema", "integer"),
        ("required_extended_key_usages", ["clientauth"], "invalid_param", "takes OIDs"),
        ("required_extended_key_usages", ["1.2,1.3"], "invalid_schema", "pattern"),
        ("required_extended_key_usages", ["1.3.6", "1.3.6"], "invalid_param", "each once"),
        ("required_certificate_policies", ["2.5.29.32.0"], "invalid_param", "stands for all"),
        ("required_certificate_policies", ["clientAuth"], "invalid_param", "OIDs"),
        ("required_certificate_policies", ["1.3"] * 33, "invalid_schema", "at most 32"),
        ("min_key_bits", 512, "invalid_param", "from 1024 to 16384"),
        ("min_tls_version", "1.1", "invalid_schema", "'1.2' or '1.3'"),
        ("several_names", "any", "invalid_schema", "'refuse' or 'same'"),
    ],
)
def test_a_demand_that_is_none_is_a_400_with_its_field(
    api: ControlPlane, field: str, value: Any, code: str, words: str
) -> None:
    """Of both, and nothing changes."""
    api.database()
    for call in (CLUSTER, BDB):
        answer = api(call, {field: value})
        assert (answer.status, answer.code) == (400, code)
        assert answer.text.startswith(field)
        assert words in answer.text
    assert demanded(api) == set()


def test_the_rest_api_demands_what_the_cluster_does(api: ControlPlane, pki: Pki) -> None:
    """Of its own clients, by name; not the TLS version, which is the front's to ask."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice, OU=eng, O=acme", role="admin")
    short = pki.ca.issue("CN=alice,OU=eng,O=acme", not_before=days(-1), not_after=days(1))
    lasting = {"max_certificate_lifetime": 3 * 86400, "min_tls_version": "1.3"}
    api.ok(CLUSTER, lasting)
    assert api("GET /v1/cluster", cert=short).status == 200
    refused = api("GET /v1/cluster", cert=pki.alice)
    assert (refused.status, refused.code) == (401, "lifetime")
    api.ok(CLUSTER, NOTHING)
    assert api("GET /v1/cluster", cert=pki.alice).status == 200


def test_who_makes_a_demand_meets_it_or_says_that_it_is_meant(api: ControlPlane, pki: Pki) -> None:
    """Otherwise an administrator would be outside by one call."""
    api.trust(pki.ca)
    api.certificate_user("alice", "CN=alice, OU=eng, O=acme", role="admin")
    short = {"max_certificate_lifetime": 60}
    answer = api(CLUSTER, short, cert=pki.alice)
    assert (answer.status, answer.code) == (406, "demand_refuses_clients")
    assert "your own certificate" in answer.text
    assert "lifetime" in answer.text
    assert api.ok("GET /v1/cluster")["max_certificate_lifetime"] == 0
    api.ok("PUT /v1/cluster?force", short, cert=pki.alice)
    assert api("GET /v1/cluster", cert=pki.alice).code == "lifetime"


def test_the_rest_api_takes_several_names_where_the_cluster_does(
    api: ControlPlane, pki: Pki
) -> None:
    """By one of them; who would be outside without that, as the caller, is told."""
    api.trust(pki.ca)
    user = {"name": "pod", "auth_method": "certificate", "role": "admin"}
    api.ok("POST /v1/users", user | {"certificate_identities": [{"dns": "a.acme"}]})
    both = pki.ca.issue("CN=pod", san=("dns:a.acme", "dns:b.acme"))
    assert api("GET /v1/cluster", cert=both).code == "ambiguous"
    api.ok(CLUSTER, {"several_names": "same"})
    assert api("GET /v1/cluster", cert=both).status == 200
    answer = api(CLUSTER, {"several_names": "refuse"}, cert=both)
    assert (answer.status, answer.code) == (406, "demand_refuses_clients")
    assert "ambiguous" in answer.text
    other = {**user, "name": "other", "certificate_identities": [{"dns": "b.acme"}]}
    api.ok("POST /v1/users", other)
    assert api("GET /v1/cluster", cert=both).code == "conflict"


# ---- What goes first -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("max-lifetime 90d", "max-lifetime 2159h"),
        ("require-eku 1.2.3", "require-eku 1.2.3,1.2.4"),
        ("require-policy 1.2.3", "require-policy 1.2.4"),
        ("min-key-bits 2048", "min-key-bits 10240"),
        ("min-tls 1.2", "min-tls 1.3"),
    ],
)
def test_a_demand_that_grows_takes_and_goes_first(less: str, more: str) -> None:
    """In its own change; one that shrinks or goes gives."""
    user = "+user a on +@all"
    assert taking.parts([f"+set {less}", user]) == ((f"+set {less}",), (user,))
    assert taking.parts([f"-set {less}", user]) == ((), (f"-set {less}", user))
    grown = (f"-set {less}", f"+set {more}")
    assert taking.parts([*grown, user]) == (grown, (user,))
    if "policy" not in less:  # neither of these two demands less than the other
        shrunk = (f"-set {more}", f"+set {less}")
        assert taking.parts([*shrunk, user]) == ((), (*shrunk, user))


def test_an_older_module_costs_a_database_the_demand_and_no_more() -> None:
    """The line is named with the server's own words, and all else holds there."""
    sent = ["+set min-tls 1.3", "+user a on +@all"]
    text = "1 problems; line 1: there is no such setting: 'min-tls'"
    (refused,) = refusals.blamed(text, sent, (), [one[1:] for one in sent]) or ()
    assert (refused.line, refused.instead, refused.user) == ("set min-tls 1.3", "", "")
    assert refusals.deviation([refused]) == {"set min-tls 1.3": -1}
    assert refusals.said([refused]) == (
        "REFUSED 'set min-tls 1.3' does not hold here: there is no such setting: 'min-tls'"
    )


# ---- Real servers --------------------------------------------------------------------------------


def test_a_certificate_that_lives_too_long_is_refused_by_name(
    plane: Plane, server_kind: Server, start: Start, pki: Pki
) -> None:
    """Once it is meant: while somebody with such a certificate is connected the demand is a 409
    that names them, and a preview says the same. Another certificate of theirs gets in."""
    plane.trust(pki.ca)
    node = enrolled_node(start, server_kind, plane.config.home, pki)
    plane.register(node)
    plane.in_step()
    short = pki.ca.issue("CN=alice,OU=eng,O=acme", not_before=days(-1), not_after=days(1))
    wait_until(lambda: who(node, pki.alice) == "alice", "alice gets in")
    demand = {"max_certificate_lifetime": 3 * 86400}
    with node.tls(pki.alice).connect() as long, node.tls(short).connect() as other:
        assert long.command("ACL", "WHOAMI") == other.command("ACL", "WHOAMI") == b"alice"
        for call in (CLUSTER, BDB, f"{BDB}?dry_run"):
            answer = plane(call, demand)
            assert (answer.status, answer.code) == (406, "demand_refuses_clients"), call
            assert "alice at 127.0.0.1 (CN=alice" in answer.text
            assert answer.text.count("): lifetime") == 1
        assert demanded(plane) == set()
        changes = [{"method": "PUT", "path": "/v1/bdbs/1", "body": demand}]
        (found,) = plane.ok(PREVIEW, {"changes": changes})["databases"]
        (ending,) = found["nodes"][0]["ending"]
        assert ending["then"]["reason"] == "lifetime"
        plane.ok(f"{BDB}?force&wait_for_sync=10", demand)
        assert other.command("ACL", "WHOAMI") == b"alice"
    assert (who(node, pki.alice), who(node, short)) == (None, "alice")
    plane.ok(f"{BDB}?wait_for_sync=10", {"max_certificate_lifetime": 0})
    assert who(node, pki.alice) == "alice"


def test_a_certificate_of_several_names_logs_in_where_they_are_one_users(
    plane: Plane, installed: Server, start: Start, pki: Pki
) -> None:
    """On the database that says so; names of two users are a conflict, and to refuse several names
    again wants to be meant where it ends a session."""
    node = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(node)
    user = {"auth_method": "certificate", "role": "admin"}
    for name in ("web", "api"):
        identities = [{"dns": f"{name}.acme"}]
        plane.ok("POST /v1/users?wait_for_sync=10",
                 user | {"name": name, "certificate_identities": identities})  # fmt: skip
    one, two = (
        pki.ca.issue("CN=x", san=("dns:web.acme", f"dns:{other}.acme")) for other in ("www", "api")
    )
    admin = operator(node)
    assert turned_away(node, one, admin) == "ambiguous"
    plane.ok(f"{BDB}?wait_for_sync=10", {"several_names": "same"})
    assert turned_away(node, two, admin) == "conflict"
    with node.tls(one).connect() as client:
        assert client.command("ACL", "WHOAMI") == b"web"
        answer = plane(BDB, {"several_names": None})
        assert (answer.status, answer.code) == (406, "demand_refuses_clients")
        assert "web at 127.0.0.1 (CN=x" in answer.text
        plane.ok(f"{BDB}?force&wait_for_sync=10", {"several_names": None})
    assert turned_away(node, one, admin) == "ambiguous"
