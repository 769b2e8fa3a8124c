"""The only table from names on a command line to methods.

The rows say what a method is and which options it takes; the classes are imported when one is made, since they bring
torch along and a help text should not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.method import Method

Options = Mapping[str, Any]
_COMMON = ("weights", "include")
_EVIDENCE = ("features", "temperature", "half_life", "floor", "top_k", "minimum_weight", "smoothing")


@dataclass(frozen=True)
class Row:
    """One method: what it is, which options it takes, how it is made of its own options and the common ones."""

    summary: str
    options: tuple[str, ...]
    make: Callable[[Options, Options], Method]


def _soup(_: Options, common: Options) -> Method:
    from quiltwork.compose.soup import Soup

    return Soup(**common)


def _uniform_ensemble(_: Options, common: Options) -> Method:
    from quiltwork.compose.ensemble import Ensemble

    return Ensemble(weighting="uniform", **common)


def _btm(own: Options, common: Options) -> Method:
    from quiltwork.compose.ensemble import Ensemble

    return Ensemble(weighting="likelihood", **own, **common)


def _learned_rows(own: Options, common: Options) -> Method:
    from quiltwork.compose.mixture import LearnedRows, MixtureOfExperts

    return MixtureOfExperts(router=LearnedRows(**own), **common)


def _evidence_ffn(own: Options, common: Options) -> Method:
    from quiltwork.compose.mixture import MixtureOfExperts, PrefixEvidence

    return MixtureOfExperts(router=PrefixEvidence(**own), scope="ffn", **common)


def _evidence_full(own: Options, common: Options) -> Method:
    from quiltwork.compose.mixture import MixtureOfExperts, PrefixEvidence

    return MixtureOfExperts(router=PrefixEvidence(**own), scope="full", **common)


METHODS: Mapping[str, Row] = {
    "soup": Row("mean of the full experts' weights", (), _soup),
    "uniform_ensemble": Row("mean of all full experts' probabilities", (), _uniform_ensemble),
    "btm": Row("full experts' probabilities, weighted by likelihood of the prefix", ("top_k", "temperature"), _btm),
    "learned_rows": Row(
        "ffn experts in one model, routed by the rows each party learned (FlexOlmo); plain transformers loads it",
        ("top_k", "renormalise", "bias"),
        _learned_rows,
    ),
    "evidence_ffn": Row(
        "ffn experts in one model, mixed by the posterior over parties given the prefix", _EVIDENCE, _evidence_ffn
    ),
    "evidence_full": Row(
        "full experts, selected by the posterior over parties given the prefix; only the selected run",
        _EVIDENCE,
        _evidence_full,
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
    common = {option: value for option, value in options.items() if option in _COMMON}
    return row.make({o: v for o, v in options.items() if o not in _COMMON}, common)
