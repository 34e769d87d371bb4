"""What Prometheus reads at /metrics: the control plane itself, its certificates, its nodes.

The numbers of a node are those of its INFO certauth, which the sync worker reads once a second; a
control plane that does not sync at the moment knows none.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from control.ages import Pulse, as_of_now
from control.nodes.audit import Key
from control.nodes.auditing import SinkFigures
from control.pki.pem import split_pem
from control.policy import core
from control.records import Database, Issuer, Responder, TrustSource
from control.reports import Node
from control.store import Store

Figures = Mapping[Key, Mapping[str, int]]
Own = Callable[[], Mapping[str, str]]  # our certificates in files, PEM, by name
# Numbers of INFO for each reason, and by what clients were refused.
REASONS = {"refused_": "policy", "handshakes_refused_": "handshake"}

# What this process counts itself.
REGISTRY = CollectorRegistry()
API_LOGINS = Counter(
    "certauth_api_logins", "Logins to the REST API, a user's counted once a minute.", ["by"],
    registry=REGISTRY,
)  # fmt: skip
API_REFUSED = Counter(
    "certauth_api_refused", "Refused logins to the REST API.", ["reason"], registry=REGISTRY
)
ENROLMENTS = Counter(
    "certauth_enrolments", "Certificates for tokens, and why there was none, by issuer.",
    ["issuer", "reason"], registry=REGISTRY,
)  # fmt: skip
Gauge(
    "certauth_info", "The version that runs, and the protocol that it speaks with nodes.",
    ["version", "protocol"], registry=REGISTRY,
).labels(version("redis-certauth"), str(core.PROTOCOL)).set(1)  # fmt: skip


def render(
    store: Store, figures: Figures, pulse: Pulse, own: Mapping[str, str], sink: SinkFigures
) -> bytes:
    """All of them, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(store, figures, pulse, own))
    registry.register(_Sink(sink))
    return generate_latest(REGISTRY) + generate_latest(registry)


class _Collector:
    def __init__(
        self, store: Store, figures: Figures, pulse: Pulse, own: Mapping[str, str]
    ) -> None:
        self._store, self._figures, self._pulse, self._own = store, figures, pulse, own

    def collect(self) -> Iterator[Metric]:
        yield from _ages(self._store, self._pulse)
        yield from _lists(self._store)
        yield from _issuers(self._store)
        yield from _trust_sources(self._store)
        yield from _responders(self._store)
        yield from _certificates(self._store, self._own)
        yield from _clients(self._store)
        databases = {one.uid: one for one in self._store.objects.all(Database)}
        seen = [
            (one, as_of_now(node))
            for one in databases.values() for node in self._store.nodes.of(one.uid)
        ]  # fmt: skip
        yield from _sync(self._store, seen)
        yield _shown(seen)
        yield from _nodes(seen, self._figures)


@dataclass(eq=False)
class _Sink:
    """Of the auditor. Counters have Redis Enterprise's names, without `_total`: what watches those
    goes on."""

    figures: SinkFigures

    def collect(self) -> Iterator[Metric]:
        for name, (value, text) in sink_metrics(self.figures).items():
            yield UnknownMetricFamily(name, text, value)


def sink_metrics(figures: SinkFigures) -> dict[str, tuple[float, str]]:
    """Value and help, by name; no age of the last one before there was one."""
    counted = asdict(figures)
    found = {f"audit_sink_{name}": (counted[name], text) for name, text in SINK.items()}
    now = time.monotonic()
    if figures.last_sent is not None:
        text = "Since a record was last sent to the auditor."
        found["certauth_audit_sink_sent_age_seconds"] = (now - figures.last_sent, text)
    text = "How long something has waited for the auditor without any being sent; 0 for nothing."
    waited = now - figures.waiting_since if figures.waiting_since is not None else 0
    found["certauth_audit_sink_waiting_age_seconds"] = (waited, text)
    return found


SINK = {
    "sent_messages": "Records that were sent to the auditor.",
    "sent_bytes": "Their size.",
    "dropped_messages": "Records for the auditor that were dropped, for any reason.",
    "dropped_bytes": "Their size.",
    "dropped_queue_full_messages": "Those that audit_queue_max_bytes had no room for.",
    "dropped_record_too_large_messages": "Those that are larger than audit_queue_max_bytes.",
    "dropped_disconnected_messages": "Those after audit_reconnect_max_attempts.",
    "dropped_queue_disabled_messages": "Those that waited when the auditor was deleted.",
    "pending_bytes": "What waits for the auditor now.",
    "queue_high_watermark_bytes": "The most that has waited.",
    "connect_events": "Connections to the auditor.",
    "disconnect_events": "Connections to the auditor that have ended.",
    "reconnect_attempts": "Attempts to connect to the auditor, good or not.",
    "reconnect_attempts_exhausted": "How often audit_reconnect_max_attempts was reached.",
    "connected_workers": "1 while there is a connection to the auditor.",
}


# Events of which somebody wants to know how long ago the last one was.
KINDS = (
    "backup_made", "client_log_gap", "log_gap", "node_drift", "node_journal", "node_lost",
    "node_trust", "node_without_module", "peer_refused",
)  # fmt: skip


def _ages(store: Store, pulse: Pulse) -> Iterator[Metric]:
    lease = GaugeMetricFamily(
        "certauth_lease_age_seconds",
        "Since a control plane last wrote to the database that it speaks to the servers.",
    )
    lease.add_metric([], store.lease.silence())
    parts = GaugeMetricFamily(
        "certauth_part_age_seconds",
        "Since a part of this control plane has last done its work.", labels=["part"],
    )  # fmt: skip
    for part, age in pulse.ages().items():
        parts.add_metric([part], age)
    last = GaugeMetricFamily(
        "certauth_last_event_time_seconds",
        "When something of this kind was last written to the event log; 0 for never.",
        labels=["type"],
    )
    times = store.events.last_times(KINDS)
    for kind in KINDS:
        last.add_metric([kind], times.get(kind, 0))
    yield from (lease, parts, last)


def _lists(store: Store) -> Iterator[Metric]:
    """Of the CAs' revocation lists."""
    labels = ["issuer", "scope"]
    next_update = GaugeMetricFamily(
        "certauth_crl_next_update_seconds",
        "When the next revocation list of a CA has to be there, where it says so.", labels=labels,
    )  # fmt: skip
    tried = GaugeMetricFamily(
        "certauth_crl_fetch_time_seconds", "When the list was last fetched, or tried to.",
        labels=labels,
    )  # fmt: skip
    failed = GaugeMetricFamily(
        "certauth_crl_fetch_failed", "1 where the last fetch brought no list.", labels=labels
    )
    for one in store.crls.all():
        names = [one.issuer, one.scope]
        if one.next_update:
            next_update.add_metric(names, one.next_update)
        if one.url:
            tried.add_metric(names, one.tried)
            failed.add_metric(names, bool(one.problem))
    yield from (next_update, tried, failed)


def _issuers(store: Store) -> Iterator[Metric]:
    """Of those whose keys are fetched."""
    fetched = GaugeMetricFamily(
        "certauth_issuer_fetch_time_seconds", "When the keys of an issuer were last there.",
        labels=["issuer"],
    )  # fmt: skip
    failed = GaugeMetricFamily(
        "certauth_issuer_fetch_failed", "1 where the last fetch brought no keys.", labels=["issuer"]
    )
    keys = store.issuers.all_keys()
    for one in store.objects.all(Issuer):
        if one.uid in keys and not one.jwks:
            fetched.add_metric([one.name], keys[one.uid].fetched)
            failed.add_metric([one.name], bool(keys[one.uid].problem))
    yield from (fetched, failed)


def _trust_sources(store: Store) -> Iterator[Metric]:
    """Of CAs that are followed."""
    read = GaugeMetricFamily(
        "certauth_trust_source_time_seconds", "When CAs that are followed were last read well.",
        labels=["source"],
    )  # fmt: skip
    failed = GaugeMetricFamily(
        "certauth_trust_source_failed",
        "1 where the last look brought nothing, or waits for an administrator.", labels=["source"],
    )  # fmt: skip
    states = store.trust_sources.states()
    for one in store.objects.all(TrustSource):
        if one.uid in states:
            read.add_metric([one.name], states[one.uid].fetched)
            failed.add_metric([one.name], bool(states[one.uid].problem))
    yield from (read, failed)


def _responders(store: Store) -> Iterator[Metric]:
    """Of those that are asked by OCSP."""
    said = GaugeMetricFamily(
        "certauth_ocsp_certificates",
        "Certificates that a responder is asked about, by what it has said last; those of which "
        "its next answer should be there are overdue too.", labels=["responder", "state"],
    )  # fmt: skip
    asked = GaugeMetricFamily(
        "certauth_ocsp_asked_time_seconds", "When a responder was last asked.", labels=["responder"]
    )
    failed = GaugeMetricFamily(
        "certauth_ocsp_failed", "1 while a question to a responder has brought no answer.",
        labels=["responder"],
    )  # fmt: skip
    figures = store.responders.figures()
    for one in store.objects.all(Responder):
        if one.uid in figures:
            found = figures[one.uid]
            for state in ("good", "revoked", "unanswered", "overdue"):
                said.add_metric([one.name, state], getattr(found, state))
            asked.add_metric([one.name], found.asked)
            failed.add_metric([one.name], bool(found.problem))
    yield from (said, asked, failed)


def _certificates(store: Store, own: Mapping[str, str]) -> Iterator[Metric]:
    ends = GaugeMetricFamily(
        "certauth_certificate_not_after_seconds",
        "When a certificate of the control plane, or a CA that clients come from, ends.",
        labels=["name", "subject", "serial"],
    )
    for name, pem in (*own.items(), *_named(store)):
        for block in split_pem(pem):
            found = core.identity(block.encode())
            ends.add_metric([name, found.subject, found.serial], found.not_after)
    yield ends


def _named(store: Store) -> Iterator[tuple[str, str]]:
    for one in store.settings.certificates().values():
        yield one.name, one.certificate
    for database in store.objects.all(Database):
        yield f"bdb:{database.uid}", "".join(database.authentication_ssl_client_certs)


def _clients(store: Store) -> Iterator[Metric]:
    found = store.inventory.figures(int(time.time()))
    known = GaugeMetricFamily(
        "certauth_client_certificates",
        "Certificates of clients that were seen or issued here; expiring ones are valid too.",
        labels=["state"],
    )
    for state in ("valid", "expiring", "expired"):
        known.add_metric([state], getattr(found, state))
    yield known
    if found.next_end:
        text = "When the next certificate of a client ends."
        yield GaugeMetricFamily(
            "certauth_client_certificate_next_end_seconds", text, found.next_end
        )


NODE = ["bdb", "node"]


def _sync(store: Store, seen: list[tuple[Database, Node]]) -> Iterator[Metric]:
    up = GaugeMetricFamily("certauth_node_up", "Whether the node answers.", labels=NODE)
    in_step = GaugeMetricFamily(
        "certauth_node_in_step", "Whether the node holds the database's policy.", labels=NODE
    )
    behind = GaugeMetricFamily(
        "certauth_node_lag_generations",
        "How many changes of the policy the node has yet to take over.", labels=NODE,
    )  # fmt: skip
    wrong = GaugeMetricFamily(
        "certauth_node_error", "1 while something is wrong with the node, by the word that its "
        "status begins with.", labels=[*NODE, "code"],
    )  # fmt: skip
    looked = GaugeMetricFamily(
        "certauth_node_age_seconds", "Since the node was last looked at.", labels=NODE
    )
    trust = GaugeMetricFamily(
        "certauth_node_trust", "1 for what becomes of the CAs that its TLS handshake trusts: the "
        "module manages them, they are kept by hand, or they should be managed and are not.",
        labels=[*NODE, "state"],
    )  # fmt: skip
    targets = store.policies.targets()
    for database, node in seen:
        names, target = [database.name, node.address], targets[database.uid]
        up.add_metric(names, node.in_step or not node.error)
        in_step.add_metric(names, node.follows(target))
        behind.add_metric(names, max(0, target.generation - node.generation))
        looked.add_metric(names, node.age)
        if node.detail:
            trust.add_metric([*names, trust_of(node)], 1)
        if node.error:
            code = node.error.split()[0]
            wrong.add_metric([*names, code if code.isupper() else "OTHER"], 1)
    yield from (up, in_step, behind, wrong, looked, trust)


def trust_of(node: Node) -> str:
    """In a word, what its module says."""
    if node.detail.startswith("managed"):
        return "managed"
    return "by_hand" if node.detail.startswith("not managed") else "lost"


def _shown(seen: list[tuple[Database, Node]]) -> Metric:
    ends = GaugeMetricFamily(
        "certauth_node_certificate_not_after_seconds",
        "When the certificate that a node shows ends.",
        labels=[*NODE, "subject", "issuer", "serial"],
    )
    for database, node in seen:
        if node.certificate:
            one = core.identity(node.certificate.encode())
            names = [database.name, node.address, one.subject, one.issuer, one.serial]
            ends.add_metric(names, one.not_after)
    return ends


def _nodes(seen: list[tuple[Database, Node]], figures: Figures) -> Iterator[Metric]:
    logins = CounterMetricFamily("certauth_node_logins", "Logins by certificate.", labels=NODE)
    refused = CounterMetricFamily(
        "certauth_node_refused", "Refused clients, by reason, and by policy or handshake.",
        labels=[*NODE, "reason", "by"],
    )  # fmt: skip
    broken = CounterMetricFamily(
        "certauth_node_handshakes_broken",
        "TLS handshakes that ended before a certificate was shown: scanners, health checks.",
        labels=NODE,
    )  # fmt: skip
    sessions = GaugeMetricFamily("certauth_node_sessions", "Connected clients.", labels=NODE)
    slow = CounterMetricFamily(
        "certauth_node_api_certificates",
        "Certificates that had to be read through the server's module API.", labels=NODE,
    )  # fmt: skip
    peers = CounterMetricFamily(
        "certauth_node_peers_refused",
        "Refusals where only nodes come in: the cluster bus, and what the node connects to.",
        labels=NODE,
    )  # fmt: skip
    for database, node in seen:
        names, found = [database.name, node.address], figures.get((database.uid, node.address), {})
        for metric, number in ((logins, "logins"), (sessions, "sessions"),
                               (slow, "api_certificates"),
                               (broken, "handshakes_broken"),
                               (peers, "peers_refused")):  # fmt: skip
            if number in found:
                metric.add_metric(names, found[number])
        for number, value in found.items():
            for prefix, by in REASONS.items():
                if number.startswith(prefix):
                    refused.add_metric([*names, number.removeprefix(prefix), by], value)
    yield from (logins, refused, sessions, slow, broken, peers)
