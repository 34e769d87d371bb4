"""What a Prometheus with docs/alerts.yml says of /metrics: the part of its language that the rules
use, over what was scraped at times that a test sets."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import eq, gt, lt
from typing import Any

import promql_parser as promql

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
COMPARISONS: dict[str, Callable[[float, float], bool]] = {"==": eq, ">": gt, "<": lt}
Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    """Of a duration such as 5m."""
    return int(text[:-1]) * UNITS[text[-1]]


@dataclass
class Prometheus:
    """Takes samples in, with their time in seconds since 1970, and evaluates after each."""

    rule: Mapping[str, Any]
    scraped: list[tuple[float, Samples]] = field(default_factory=list)
    pending: dict[Labels, float] = field(default_factory=dict)  # since when it is so

    def take(self, now: float, samples: Samples) -> None:
        self.scraped.append((now, samples))
        found = self._value(promql.parse(self.rule["expr"]))
        self.pending = {labels: self.pending.get(labels, now) for labels in found}

    @property
    def fires(self) -> bool:
        now = self.scraped[-1][0]
        return any(now - since >= seconds(self.rule["for"]) for since in self.pending.values())

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
        """Per second, between the first and the last sample of that time; two are needed. (That of
        Prometheus goes on to the ends of the span, and so is not lower.)"""
        now, found = self.scraped[-1][0], dict[Labels, list[tuple[float, float]]]()
        for at, samples in self.scraped:
            for labels, value in self._select(selector, samples).items() if at > now - span else ():
                found.setdefault(labels, []).append((at, value))
        return {
            labels: sum(max(0, b - a) for (_, a), (_, b) in pairwise(seen))
            / (seen[-1][0] - seen[0][0])
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
