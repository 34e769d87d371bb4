"""What a Prometheus with docs/alerts.yml says of /metrics: the part of its language that the rules
use, over what was scraped at times that a test sets; and a test of the same for promtool."""

import base64
import json
import re
import ssl
import urllib.request
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import eq, gt, lt
from typing import Any

import promql_parser as promql
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.plane import Serving
from tests.kit.rest import ADMIN, ControlPlane
from tests.kit.support import ROOT

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
COMPARISONS: dict[str, Callable[[float, float], bool]] = {"==": eq, ">": gt, "<": lt}
Series = tuple[str, tuple[tuple[str, str], ...]]  # its name and its labels
Samples = Mapping[Series, float]
Scraped = tuple[float, Samples]
Sample = tuple[float, float]  # time and value of one series
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    """Of a duration such as 5m."""
    return int(text[:-1]) * UNITS[text[-1]]


@dataclass
class Prometheus:
    """Takes samples in, with their time in seconds since 1970, and evaluates after each."""

    rule: Mapping[str, Any]
    scraped: list[Scraped] = field(default_factory=list)
    found: Vector = field(default_factory=dict)  # of the rule's expression
    pending: dict[Labels, float] = field(default_factory=dict)  # since when it is so

    def take(self, now: float, samples: Samples) -> None:
        self.scraped.append((now, samples))
        self.found = self._value(promql.parse(self.rule["expr"]))
        self.pending = {labels: self.pending.get(labels, now) for labels in self.found}

    @property
    def firing(self) -> list[Labels]:
        now, lasts = self.scraped[-1][0], seconds(self.rule["for"])
        return [labels for labels, since in self.pending.items() if now - since >= lasts]

    @property
    def fires(self) -> bool:
        return bool(self.firing)

    def _value(self, node: Any) -> Any:
        """A number, or a vector."""
        match node:
            case promql.NumberLiteral():
                return node.val
            case promql.VectorSelector():
                return self._select(node, self.scraped[-1][1])
            case promql.ParenExpr():
                return self._value(node.expr)
            case promql.AggregateExpr():
                assert str(node.op) == "sum"
                return self._sum(node)
            case promql.Call():
                return self._call(node.func.name, node.args)
            case promql.BinaryExpr():
                return _binary(str(node.op), self._value(node.lhs), self._value(node.rhs))
        raise AssertionError(f"{node!r} is not known here")

    def _sum(self, node: Any) -> Vector:
        kept = set(node.modifier.labels) if node.modifier else set()
        sums: Vector = {}
        for labels, value in self._value(node.expr).items():
            group = frozenset(pair for pair in labels if pair[0] in kept)
            sums[group] = sums.get(group, 0) + value
        return sums

    def _call(self, name: str, args: list[Any]) -> Any:
        if name == "time":
            return self.scraped[-1][0]
        if name == "absent":
            return {} if self._value(args[0]) else {frozenset(): 1.0}
        assert name == "rate", name
        return self._rate(args[0].vector_selector, args[0].range.total_seconds())

    def _rate(self, selector: Any, span: float) -> Vector:
        """Per second; of two samples at the least."""
        now, found = self.scraped[-1][0], dict[Labels, list[Sample]]()
        for at, samples in self.scraped:
            for labels, value in (
                self._select(selector, samples).items() if at >= now - span else ()
            ):
                found.setdefault(labels, []).append((at, value))
        return {
            labels: _increase(seen, now - span, now) / span
            for labels, seen in found.items()
            if len(seen) > 1
        }

    @staticmethod
    def _select(selector: Any, samples: Samples) -> Vector:
        def fits(labels: Mapping[str, str]) -> bool:
            return all(
                _matches(one, labels.get(one.name, "")) for one in selector.matchers.matchers
            )

        return {
            frozenset(labels): value
            for (name, labels), value in samples.items()
            if name == selector.name and fits(dict(labels))
        }


def _increase(seen: Sequence[Sample], begin: float, end: float) -> float:
    """Of a counter, which starts from 0 again; up to the ends of the range where samples are near
    them (extrapolatedRate, promql/functions.go, Prometheus 2.42)."""
    climbed = sum(b - a if b >= a else b for (_, a), (_, b) in pairwise(seen))
    (first, value), (last, _) = seen[0], seen[-1]
    known, usual = last - first, (last - first) / (len(seen) - 1)
    before = min(first - begin, known * value / climbed) if climbed else first - begin
    reached = known + sum(
        gap if gap < 1.1 * usual else usual / 2 for gap in (before, end - last)
    )  # fmt: skip
    return climbed * reached / known


def _matches(matcher: Any, value: str) -> bool:
    kinds = promql.MatchOp
    if matcher.op == kinds.Equal:
        return bool(matcher.value == value)
    if matcher.op == kinds.NotEqual:
        return bool(matcher.value != value)
    assert matcher.op == kinds.Re
    return re.fullmatch(matcher.value, value) is not None


def _binary(op: str, left: Any, right: Any) -> Any:
    if op == "or":
        return {**right, **left}
    if isinstance(right, dict):
        assert op == "-"
        return {labels: left - value for labels, value in right.items()}
    if isinstance(left, dict):
        assert not isinstance(right, dict)
        if op == "-":
            return {labels: value - right for labels, value in left.items()}
        return {labels: one for labels, one in left.items() if COMPARISONS[op](one, right)}
    assert op == "*"
    return left * right


# ---- promtool ------------------------------------------------------------------------------------

MINUTE = 60
COUNTERS = ("_total", "_messages")


def each_minute(scraped: Sequence[Scraped], names: set[str]) -> Iterator[Scraped]:
    """What a Prometheus that scrapes each minute has of these metrics: counters climb evenly from
    one look to the next, everything else is as it was last. Its time begins at 0, as promtool's."""
    begin, times = scraped[0][0], [at for at, _ in scraped]
    for now in range(0, int(times[-1] - begin) + 1, MINUTE):
        place = bisect_right(times, begin + now) - 1
        (at, last), (later, following) = scraped[place], scraped[min(place + 1, len(scraped) - 1)]
        share = (begin + now - at) / (later - at or 1)
        yield now, {
            series: value + (int(share * (following[series] - value))
                             if series[0].endswith(COUNTERS) and series in following else 0)
            - (begin if series[0].endswith("_not_after_seconds") else 0)
            for series, value in last.items() if series[0] in names
        }  # fmt: skip


def promtool_test(rule: Mapping[str, Any], rule_file: str, scraped: Sequence[Scraped]) -> str:
    """A file for `promtool test rules` (JSON is YAML): each minute it is to say what the evaluator
    above says. Not asked is when an alert begins or ends: Prometheus 2 and 3 differ by a minute."""
    minutes = [*each_minute(scraped, {*re.findall(r"\b(?:certauth|audit_sink)_\w+", rule["expr"])})]
    prometheus, said = Prometheus(rule), list[list[dict[str, Any]]]()
    for now, samples in minutes:
        prometheus.take(now, samples)
        said.append([
            {
                "exp_labels": {**rule["labels"], **dict(labels)},
                "exp_annotations": {"summary": summary(rule, labels, prometheus.found[labels])},
            }
            for labels in prometheus.firing
        ])  # fmt: skip
    series = {one for _, samples in minutes for one in samples}
    test = {
        "interval": f"{MINUTE}s",
        "input_series": [
            {"series": text(one), "values": " ".join(values(one, minutes))} for one in series
        ],
        "alert_rule_test": [
            {"eval_time": f"{number * MINUTE}s", "alertname": rule["alert"], "exp_alerts": alerts}
            for number, alerts in enumerate(said)
            if all(near == alerts for near in said[max(0, number - 1) : number + 2])
        ],
    }
    settings = {"rule_files": [rule_file], "evaluation_interval": f"{MINUTE}s"}
    return json.dumps({**settings, "tests": [test]})


def text(series: Series) -> str:
    name, labels = series
    return name + "{" + ",".join(f"{key}={json.dumps(value)}" for key, value in labels) + "}"


def values(series: Series, minutes: Sequence[Scraped]) -> Iterator[str]:
    """What is not scraped any more is stale at once."""
    was_there = False
    for _, samples in minutes:
        yield str(samples[series]) if series in samples else "stale" if was_there else "_"
        was_there = series in samples


def summary(rule: Mapping[str, Any], labels: Labels, value: float) -> str:
    """As Prometheus fills in its template."""
    given = {f"$labels.{name}": word for name, word in labels} | {"$value": f"{value:g}"}
    return re.sub(r"{{ (\S+) }}", lambda found: given[found[1]], rule["annotations"]["summary"])


def scraped(api: ControlPlane) -> Samples:
    """By name and labels."""
    token = base64.b64encode(":".join(ADMIN).encode()).decode()
    answer = api.client.get("/metrics", headers={"Authorization": f"Basic {token}"})
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    return parsed(answer.text)


def parsed(text: str) -> Samples:
    """What /metrics answers, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# ---- docs/alerts.yml, docs/grafana.json ----------------------------------------------------------


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "docs/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def samples(serving: Serving) -> Samples:
    """Nothing, where nobody answers."""
    token = base64.b64encode(":".join(ADMIN).encode()).decode()
    context = ssl.create_default_context(cafile=str(serving.config.home / "ca.crt"))
    url = f"https://{serving.config.host}:{serving.config.port}/metrics"
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {token}"})
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return parsed(answer.read().decode())
    except OSError:
        return {}
