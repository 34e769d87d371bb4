"""control/domain/metrics.py: the numbers are true; dashboard and alerts ask for numbers that there
are."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest

from control.domain.metrics import API_LOGINS, API_REFUSED
from control.reports import Node
from tests.kit.alerts import Samples, rules, scraped
from tests.kit.node import turned_away, who
from tests.kit.plane import Plane, enrolled_node, operator
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.servers import Server
from tests.kit.support import ROOT, Pki, days, wait_until


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


def test_a_node_counts_logins_and_refusals_by_reason(
    start: Any, installed: Server, plane: Plane, pki: Pki
) -> None:
    """What its INFO says, with database and address; and that it is in step."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(server)
    plane.in_step()
    where = {"bdb": "orders", "node": f"127.0.0.1:{server.port}"}
    assert who(server, pki.alice) == "alice"
    assert turned_away(server, pki.bob, operator(server)) == "no_binding"

    def refused(reason: str) -> float | None:
        labels = {**where, "reason": reason, "by": "policy"}
        return value(scraped(plane), "certauth_node_refused_total", **labels)

    wait_until(lambda: refused("no_binding") == 1, "the refusal is counted")
    assert refused("expired") == 0
    found = scraped(plane)
    assert (value(found, "certauth_node_logins_total", **where) or 0) >= 2  # we are one
    assert value(found, "certauth_node_sessions", **where) is not None
    assert value(found, "certauth_node_up", **where) == 1
    assert value(found, "certauth_node_in_step", **where) == 1
    assert value(found, "certauth_node_lag_generations", **where) == 0
    assert value(found, "certauth_client_certificates", state="valid") == 2
    server.stop()
    wait_until(lambda: value(scraped(plane), "certauth_node_up", **where) == 0, "it is down")
    plane.user(pki.bob, "bob")
    assert (value(scraped(plane), "certauth_node_lag_generations", **where) or 0) > 0


def test_a_refusal_in_the_handshake_is_told_and_counted(
    start: Any, installed: Server, plane: Plane, pki: Pki
) -> None:
    """An expired certificate on a new connection: in the event log once, in the numbers each time,
    and among the refusals over time."""
    server = enrolled_node(start, installed, plane.config.home, pki)
    plane.register(server)
    plane.in_step()
    where = {"bdb": "orders", "node": f"127.0.0.1:{server.port}"}
    ended = pki.ca.issue("CN=late", not_before=days(-9), not_after=days(-1))
    for _ in range(3):
        assert who(server, ended) is None

    def refused(by: str) -> float | None:
        labels = {**where, "reason": "expired", "by": by}
        return value(scraped(plane), "certauth_node_refused_total", **labels)

    wait_until(lambda: refused("handshake") == 3, "the refusals are counted")
    assert refused("policy") == 0
    assert value(scraped(plane), "certauth_node_handshakes_broken_total", **where) is not None
    wait_until(lambda: plane.ok("GET /v1/logs?type=client_handshake"), "it is told")
    (event,) = plane.ok("GET /v1/logs?type=client_handshake")
    assert (event["severity"], event["reason"], event["subject"]) == (
        "WARNING",
        "expired",
        "CN=late",
    )
    assert (event["serial"], event["ca"], event["node"]) == (
        ended.serial, pki.ca.key_id, where["node"],
    )  # fmt: skip
    assert event["detail"] == "certificate has expired, at depth 0"
    assert "door" not in event
    told = plane.ok("GET /v1/certauth/history?step=3600")
    assert [one["count"] for one in told if one["reason"] == "expired"] == [1]


def test_every_certificate_has_its_end(api: ControlPlane, pki: Pki) -> None:
    """Of the CAs of clients, of the cluster and of a database."""
    api.trust(pki.ca)
    own = [{"client_cert": pki.server_ca.pem.decode()}]
    api.database(authentication_ssl_client_certs=own)
    found = scraped(api)
    for name, cert in (("mtls_trusted_ca", pki.ca), ("bdb:1", pki.server_ca)):
        (end,) = (
            value
            for (metric, labels), value in found.items()
            if metric == "certauth_certificate_not_after_seconds" and ("name", name) in labels
        )
        assert end == int(cert.certificate.not_valid_after_utc.timestamp())


def test_every_certificate_of_a_node_has_its_end(api: ControlPlane, pki: Pki) -> None:
    """With its issuer, once the node was reached."""
    api.trust(pki.ca)
    api.database("orders", 6380)
    seen = Node(1, "127.0.0.1:6380", 1, True, certificate=pki.server.pem.decode())
    api.store.nodes.report(1, [seen])
    labels = {"bdb": "orders", "node": "127.0.0.1:6380", "issuer": "CN=Server CA",
              "subject": "CN=localhost", "serial": pki.server.serial}  # fmt: skip
    end = value(scraped(api), "certauth_node_certificate_not_after_seconds", **labels)
    assert end == int(pki.server.certificate.not_valid_after_utc.timestamp())


def test_logins_to_the_api_are_counted(api: ControlPlane) -> None:
    """And refused ones, by reason."""
    auth = api.password_user("bob", "none")
    before = scraped(api)
    api("GET /v1/users/role", auth=auth)
    api("GET /v1/users/role", auth=("bob", "wrong"))
    after = scraped(api)
    for name, labels in (
        ("certauth_api_logins_total", {"by": "password"}),
        ("certauth_api_refused_total", {"reason": "invalid_credentials"}),
    ):
        assert (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0) == 1


def test_metrics_are_not_for_everybody(api: ControlPlane) -> None:
    """Names of databases and servers are in them."""
    assert api.client.get("/metrics").status_code == 401
    auth = api.password_user("none", "none")
    assert api("GET /metrics", auth=auth).status == 403


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs/grafana.json").read_text())
    return found


def expressions() -> list[str]:
    """Of alerts and panels, with something in place of variables."""
    asked = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    variables = [one["query"] for one in dashboard()["templating"]["list"] if "(" in one["query"]]
    values = [re.sub(r"label_values\((\w+), \w+\)", r"\1", query) for query in variables]
    return [*(rule["expr"] for rule in rules()), *asked, *values]


def selectors(node: Any) -> Iterator[promql.VectorSelector]:
    """The metrics that an expression asks for, wherever in it."""
    if isinstance(node, promql.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "args", "param"):
        inner = getattr(node, name, None)
        for one in inner if isinstance(inner, list) else [inner]:
            if one is not None and not isinstance(one, str):
                yield from selectors(one)


KNOWN = {
    "certauth_node_refused_total": {"bdb", "node", "reason", "by"},
    "certauth_node_error": {"bdb", "node", "code"},
    "certauth_node_certificate_not_after_seconds": {"bdb", "node", "subject", "issuer", "serial"},
    "certauth_part_age_seconds": {"part"},
    "certauth_ocsp_certificates": {"responder", "state"},
    "certauth_client_certificate_next_end_seconds": set(),
}


def offered(api: ControlPlane) -> dict[str, set[str]]:
    """The names of all metrics, and their labels."""
    API_LOGINS.labels("password").inc(0)
    API_REFUSED.labels("invalid_credentials").inc(0)
    token = base64.b64encode(":".join(ADMIN).encode()).decode()
    text = api.client.get("/metrics", headers={"Authorization": f"Basic {token}"}).text
    found = {name: {key for key, _ in labels} for name, labels in scraped(api)}
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    for name, kind in kinds.items():
        found.setdefault(name if kind != "counter" or name.endswith("_total") else f"{name}_total",
                         {"bdb", "node"})  # fmt: skip
    return {**found, **KNOWN}


@pytest.mark.parametrize("expression", expressions())
def test_dashboard_and_alerts_ask_for_what_there_is(api: ControlPlane, expression: str) -> None:
    """Each expression parses, and each metric in it is offered, with the labels that it names."""
    there = offered(api)
    asked = list(selectors(promql.parse(expression)))
    assert asked
    for one in asked:
        assert one.name in there, one.name
        labels = {matcher.name for matcher in one.matchers.matchers} - {"__name__"}
        assert labels <= there[one.name], one


def test_each_alert_says_what_is_wrong() -> None:
    """With a severity, and no name twice."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 5
    for rule in rules():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"].endswith(".")
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in {
                "bdb", "node", "reason", "name", "subject", "code", "part", "issuer", "instance",
                "responder",
            }  # fmt: skip


def test_panels_have_places_of_their_own() -> None:
    """None lies over another, and each has a number of its own."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"])
                 for y in range(place["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells
