"""Joining the parts of a score file that several owners wrote, each on its own machine and its own column.

``merge`` is idempotent, associative, and commutative up to the order of names. No cell is averaged or chosen: one with
two different values is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.scores import Row, Scores, first_problem

Value = TypeVar("Value")


def merge(first: Scores, *others: Scores) -> Scores:
    """Join the parts that several owners scored, each on its own machine.

    Names and cells are united. ``seconds`` is the longest of the parts (the owners ran side by side),
    ``created`` the latest, ``opt_out_identical`` false if any part saw a difference. ``active_params``, which
    depends on the text where a router decides, is the largest; total sizes must agree.

    Raises:
        InvalidOption: two parts disagree: another metric or base, or two values for one cell, size, share or release.
    """
    merged = first
    for other in others:
        merged = _merge_two(merged, other)
    return merged


def _merge_two(a: Scores, b: Scores) -> Scores:
    machines = dict.fromkeys(m for part in (a, b) for m in part.machine.split("; ") if m)
    fields: dict[str, Any] = {
        "machine": "; ".join(machines),
        "created": max((c for c in (a.created, b.created) if c is not None), default=None),
        # a part without a cell says nothing about the metric
        "metric": _same("metric", a.metric, b.metric)
        if _has_rows(a) and _has_rows(b)
        else (b if _has_rows(b) else a).metric,
        "base": _same_if_known("base", a.base, b.base),
        "methods": _merge_rows("method", a.methods, b.methods),
        "alone": _merge_rows("alone", a.alone, b.alone),
        "leave_one_out": {
            name: _merge_rows(f"{name} without", a.leave_one_out.get(name, {}), b.leave_one_out.get(name, {}))
            for name in (a.leave_one_out | b.leave_one_out)
        },
        "routing": {
            name: _unite(f"routing {name}", a.routing.get(name, {}), b.routing.get(name, {}))
            for name in (a.routing | b.routing)
        },
        "contributions": _unite("contribution", a.contributions, b.contributions),
        "samples": [*a.samples, *(sample for sample in b.samples if sample not in a.samples)],
        "opt_out_identical": _all_true(a.opt_out_identical, b.opt_out_identical),
        "seconds": max((s for s in (a.seconds, b.seconds) if s is not None), default=None),
    }
    for field in ("parties", "public", "domains"):
        fields[field] = list(dict.fromkeys([*getattr(a, field), *getattr(b, field)]))
    try:
        return Scores(**fields)
    except ValidationError as error:
        raise InvalidOption(
            "merged scores",
            why=first_problem(error),
            mend="Name the parties and domains alike in all parts.",
        ) from error


def _has_rows(scores: Scores) -> bool:
    return bool(scores.methods or scores.alone or scores.leave_one_out)


def _merge_rows(what: str, a: Mapping[str, Row], b: Mapping[str, Row]) -> dict[str, Row]:
    merged = {**a, **b}
    for name in a.keys() & b.keys():
        left, right, label = a[name], b[name], f"{what} {name}"
        merged[name] = Row(
            domains=_unite(f"cell {label} /", left.domains, right.domains),
            active_params=max((p for p in (left.active_params, right.active_params) if p is not None), default=None),
            total_params=_same_if_known(f"total_params of {label}", left.total_params, right.total_params),
            seconds=max(left.seconds, right.seconds),
            excluded=_unite(f"{label} excluded", left.excluded, right.excluded),
            extra=_unite(f"{label} extra", left.extra, right.extra),
        )
    return merged


def _unite(what: str, a: Mapping[str, Value], b: Mapping[str, Value]) -> dict[str, Value]:
    return {**a, **{key: _same(f"{what} {key}", a[key], b[key]) if key in a else b[key] for key in b}}


def _same(what: str, a: Value, b: Value) -> Value:
    if a != b:
        raise InvalidOption(
            what,
            why=f"two parts disagree: {a} and {b}",
            mend="Score with the same models and the same held-out data, or leave one of the parts out.",
        )
    return a


def _same_if_known(what: str, a: Value | None, b: Value | None) -> Value | None:
    return _same(what, a, b) if a is not None and b is not None else b if a is None else a


def _all_true(a: bool | None, b: bool | None) -> bool | None:
    known = [value for value in (a, b) if value is not None]
    return all(known) if known else None
