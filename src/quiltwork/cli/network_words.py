"""A contribution about networks in the words and the order that people read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def readable(result: Mapping[str, Any]) -> dict[str, Any]:
    """What `describe` says, its task and its method in words."""
    task = result["task"]
    gives = ", ".join(task["classes"]) if task["classes"] else f"{task['outputs']} numbers"
    words = {
        "takes": f"{' x '.join(map(str, task['shape']))} in {task['units']}",
        "gives": gives,
        "method": _method(result["method"]),
    }
    return {name: value for name, value in _around(result, words).items() if value not in ({}, [])}


def _around(result: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of the description, the words in the place of task and method."""
    found: dict[str, Any] = {}
    for name, value in result.items():
        if name == "task":
            found |= words
        elif name == "statistics":
            found[name] = [_statistic(one) for one in value]
        elif name != "method":
            found[name] = value
    return found


def _method(method: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in method.items() if value not in (None, [])}
    if found.get("training") is not None:
        found["training"] = {name: value for name, value in found["training"].items() if value not in (None, "")}
    if "graph" in method:
        operators = ", ".join(f"{count} {name}" for name, count in method["graph"]["operators"].items())
        found["graph"] = f"{method['graph']['nodes']:,} operations: {operators}"
        found["signature"] = f"mean {_numbers(method['signature']['mean'])}, std {_numbers(method['signature']['std'])}"
    for name in ("points", "points_a", "points_b"):
        if name in method:
            found[name] = ", ".join(_point(point) for point in method[name]) or "none"
    for name in ("networks", "splices"):
        if name in method:
            found[name] = "; ".join(_reference(one) if name == "networks" else _splice(one) for one in method[name])
    return found | {name: _reference(method[name]) for name in ("a", "b") if name in method}


def _point(point: Mapping[str, Any]) -> str:
    shape = point.get("shape") or [point["channels"], point["height"], point["width"]]
    return f"{point['name']} ({'x'.join(map(str, shape))})"


def _reference(reference: Mapping[str, Any]) -> str:
    return f"{reference['party']} {reference['digest'][:19]}…"


def _splice(splice: Mapping[str, Any]) -> str:
    sources = ", ".join(f"{one['network']}:{one['point']}" for one in splice["sources"])
    return f"{splice['mode']} {sources} into {splice['into']['network']}:{splice['into']['point']}"


def _statistic(statistic: Mapping[str, Any]) -> dict[str, Any]:
    embedding = dict(statistic["embedding"])
    kind = embedding.pop("kind")
    rest = ", ".join(f"{name} {value}" for name, value in embedding.items())
    return {**statistic, "embedding": f"{kind} ({rest})" if rest else kind}


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:4]) + (", …" if len(values) > 4 else "")
