"""The only table from names on a command line to methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method
from quiltwork.compose.mixture import LearnedRows, MixtureOfExperts, PrefixEvidence
from quiltwork.compose.soup import Soup
from quiltwork.errors import InvalidOption

Options = Mapping[str, Any]
_COMMON = ("weights", "include")


@dataclass(frozen=True)
class Row:
    """One method: what it is, which options it takes, how it is made."""

    summary: str
    options: tuple[str, ...]
    make: Callable[[Options], Method]


def _own(options: Options, kind: type) -> dict[str, Any]:
    """The options that are fields of ``kind``."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in options.items() if name in names}


def _ensemble(weighting: str) -> Callable[[Options], Method]:
    return lambda options: Ensemble(weighting=weighting, **_own(options, Ensemble))  # type: ignore[arg-type]


def _mixture(router: type, scope: str) -> Callable[[Options], Method]:
    def make(options: Options) -> Method:
        common = {name: options[name] for name in _COMMON if name in options}
        return MixtureOfExperts(router=router(**_own(options, router)), scope=scope, **common)  # type: ignore[arg-type]

    return make


_EVIDENCE = ("features", "temperature", "half_life", "floor", "top_k", "minimum_weight", "smoothing")

METHODS: Mapping[str, Row] = {
    "soup": Row("mean of the full experts' weights", (), lambda options: Soup(**options)),
    "uniform_ensemble": Row("mean of all full experts' probabilities", (), _ensemble("uniform")),
    "btm": Row(
        "full experts' probabilities, weighted by likelihood of the prefix",
        ("top_k", "temperature"),
        _ensemble("likelihood"),
    ),
    "learned_rows": Row(
        "ffn experts in one model, routed by the rows each party learned (FlexOlmo); plain transformers loads it",
        ("top_k", "renormalise", "bias"),
        _mixture(LearnedRows, "ffn"),
    ),
    "evidence_ffn": Row(
        "ffn experts in one model, mixed by the posterior over parties given the prefix",
        _EVIDENCE,
        _mixture(PrefixEvidence, "ffn"),
    ),
    "evidence_full": Row(
        "full experts, selected by the posterior over parties given the prefix; only the selected run",
        _EVIDENCE,
        _mixture(PrefixEvidence, "full"),
    ),
}


def make_method(name: str, options: Options) -> Method:
    """The method that a command line names.

    Args:
        name: as in ``METHODS``; hyphens may stand for underscores.
        options: what the user stated, by field name.

    Raises:
        InvalidOption: there is no such method, or it does not take one of the options.

    >>> make_method("learned-rows", {"top_k": 2}).name
    'learned_rows'
    """
    row = METHODS.get(name.replace("-", "_"))
    if row is None:
        raise InvalidOption(
            f"method '{name}'", why="there is no such method", mend=f"Choose one of: {', '.join(METHODS)}."
        )
    for option in options:
        if option not in (*row.options, *_COMMON):
            raise InvalidOption(
                f"option '{option}'",
                why=f"method {name} does not take it",
                mend=f"It takes: {', '.join((*row.options, *_COMMON))}.",
            )
    return row.make(options)
