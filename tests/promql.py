"""What a PromQL query asks for, judged against the samples that there are.

A misspelt name or label is no error to Prometheus: the query is silent for ever. So is a binary
operator whose two sides never have the same labels. `judge` finds these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from functools import singledispatchmethod
from typing import Any

import promql_parser as promql

from tests.metric_names import Values

Labels = frozenset[str]


class BadQuery(Exception):
    """The query can never have the answer that it was written for."""


def parse(query: str) -> Any:
    """The query's syntax tree, with Grafana's intervals as any. Raises ValueError."""
    return promql.parse(re.sub(r"\$__(rate_)?interval", "5m", query))


def names(query: str) -> set[str]:
    """The samples that the query selects."""
    found: set[str] = set()

    def note(node: Any) -> None:
        if isinstance(node, promql.VectorSelector) and node.name is not None:
            found.add(node.name)

    promql.walk(parse(query), note)
    return found


def judge(query: str, samples: Mapping[str, Mapping[str, Values]]) -> Labels:
    """The labels of the answer. Raises BadQuery where a sample, a label, a label's value or a match
    of labels cannot be."""
    return _Judge(samples).labels(parse(query))


class _Judge:
    """The labels of each expression by those of its parts, as Prometheus has them
    (https://prometheus.io/docs/prometheus/latest/querying/operators/)."""

    def __init__(self, samples: Mapping[str, Mapping[str, Values]]) -> None:
        self._samples = samples

    @singledispatchmethod
    def labels(self, node: Any) -> Labels:
        """Of an expression around another one: parentheses, a sign, a subquery."""
        return self.labels(node.expr)

    @labels.register
    def _(self, node: promql.NumberLiteral) -> Labels:
        return frozenset()

    @labels.register
    def _(self, node: promql.VectorSelector) -> Labels:
        if node.name is None or node.name not in self._samples:
            raise BadQuery(f"there is no sample {node.name}")
        known = self._samples[node.name]
        for matcher in node.matchers.matchers:
            if matcher.name not in known:
                raise BadQuery(f"{node.name} has no label {matcher.name}")
            for value in _unmatched(matcher, known[matcher.name]):
                raise BadQuery(f"{matcher.name} of {node.name} is never {value}")
        return frozenset(known)

    @labels.register
    def _(self, node: promql.MatrixSelector) -> Labels:
        return self.labels(node.vector_selector)

    @labels.register
    def _(self, node: promql.Call) -> Labels:
        name = node.func.name
        if name in ("time", "vector"):
            return frozenset()
        if name == "histogram_quantile":
            return self._needs(self.labels(node.args[1]), {"le"}) - {"le"}
        if name == "absent":
            self.labels(node.args[0])
            matchers = node.args[0].matchers.matchers
            return frozenset(each.name for each in matchers if each.op == promql.MatchOp.Equal)
        return self.labels(node.args[0])

    @labels.register
    def _(self, node: promql.AggregateExpr) -> Labels:
        inner = self.labels(node.expr)
        if node.modifier is None:
            return frozenset()
        named = frozenset(node.modifier.labels)
        self._needs(inner, named)
        return named if node.modifier.type == promql.AggModifierType.By else inner - named

    @labels.register
    def _(self, node: promql.BinaryExpr) -> Labels:
        left, right = self.labels(node.lhs), self.labels(node.rhs)
        if _is_scalar(node.lhs):
            return right
        if _is_scalar(node.rhs):
            return left
        if str(node.op) == "or":
            return left & right
        both = self._matched(node, left, right)
        if str(node.op) in ("and", "unless"):
            return left
        if node.modifier is not None and node.modifier.group_labels is not None:
            brought = frozenset(node.modifier.group_labels)
            self._needs(right, brought)
            return left | brought
        return both

    def _matched(self, node: promql.BinaryExpr, left: Labels, right: Labels) -> Labels:
        """The labels that both sides are matched by."""
        matching = node.modifier.matching if node.modifier is not None else None
        if matching is not None and matching.type == promql.LabelModifierType.Include:
            named = frozenset(matching.labels)
            self._needs(left & right, named)
            return named
        ignored = frozenset(matching.labels) if matching is not None else frozenset()
        self._needs(left | right, ignored)
        if left - ignored != right - ignored:
            raise BadQuery(f"{set(left)} and {set(right)} never match: {node}")
        return left - ignored

    @staticmethod
    def _needs(labels: Labels, named: Set[str]) -> Labels:
        """`labels`. Raises BadQuery where one of those named is not among them."""
        if not named <= labels:
            raise BadQuery(f"there is no label {', '.join(sorted(named - labels))}")
        return labels


def _is_scalar(node: Any) -> bool:
    if isinstance(node, promql.BinaryExpr):
        return _is_scalar(node.lhs) and _is_scalar(node.rhs)
    if isinstance(node, promql.Call):
        return node.func.name == "time"
    return isinstance(node, promql.NumberLiteral)


def _unmatched(matcher: promql.Matcher, values: Values) -> Iterator[str]:
    """What a matcher is looking for and cannot find. A pattern is taken apart at its bars."""
    if values is None:
        return
    if matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual):
        wanted = [re.escape(matcher.value)]
    elif "(" in matcher.value:
        wanted = [matcher.value]
    else:
        wanted = matcher.value.split("|")
    for pattern in wanted:
        if not any(re.fullmatch(pattern, value) for value in values):
            yield pattern
