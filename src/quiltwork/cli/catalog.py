"""The only table from names on a command line to methods.

The rows say what a method is and which options it takes; the classes are imported when one is made, since they bring
torch or SciPy along and a help text should not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from quiltwork.cli import routers
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.method import Method
    from quiltwork.compose.network_evidence import Evidence
    from quiltwork.compose.networks import NetworkMethod
    from quiltwork.compose.tables import TableMethod

Options = Mapping[str, Any]
M = TypeVar("M", covariant=True)
_COMMON = routers.COMMON
_NETWORK_EVIDENCE = ("evidence", "prior", "floor", "temperature")


@dataclass(frozen=True)
class Row(Generic[M]):
    """One method: what it is, which options it takes, how it is made of the options that were stated."""

    summary: str
    options: tuple[str, ...]
    make: Callable[[Options], M]


def _soup(options: Options) -> Method:
    from quiltwork.compose.soup import Soup

    return Soup(**options)


def _task_arithmetic(options: Options) -> Method:
    from quiltwork.compose.task_arithmetic import TaskArithmetic

    return TaskArithmetic(**options)


def _ties(options: Options) -> Method:
    from quiltwork.compose.ties import Ties

    return Ties(**options)


def _dare(options: Options) -> Method:
    from quiltwork.compose.dare import Dare

    return Dare(**options)


def _btx(options: Options) -> Method:
    from quiltwork.compose.btx import BTX

    return BTX(**options)


def _uniform_ensemble(options: Options) -> Method:
    from quiltwork.compose.ensemble import Ensemble

    return Ensemble(weighting="uniform", **options)


def _btm(options: Options) -> Method:
    from quiltwork.compose.ensemble import Ensemble

    return Ensemble(weighting="likelihood", **options)


def _fields(options: Options) -> dict[str, Any]:
    """A table method's own words: on a command line its weights are the machines', since ``--weight`` is a party's."""
    return {"weights" if name == "machine_weights" else name: value for name, value in options.items()}


def _reduction(options: Options) -> TableMethod:
    from quiltwork.compose.reduction import Reduction

    return Reduction(**_fields(options))


def _aligned_average(options: Options) -> TableMethod:
    from quiltwork.compose.aligned_average import AlignedAverage

    return AlignedAverage(**_fields(options))


def _middle(options: Options) -> TableMethod:
    from quiltwork.compose.middle import Middle

    return Middle(**_fields(options))


def _precision_average(options: Options) -> TableMethod:
    from quiltwork.compose.precision_average import PrecisionAverage

    return PrecisionAverage(**_fields(options))


def _ambient(options: Options) -> TableMethod:
    from quiltwork.compose.ambient import AmbientMixture

    return AmbientMixture(**_fields(options))


def _network_evidence(options: Options) -> tuple[dict[str, Any], Evidence]:
    """A network method's own options, and how its evidence is read."""
    from quiltwork.compose.network_evidence import Evidence

    read = {("of" if name == "evidence" else name): v for name, v in options.items() if name in _NETWORK_EVIDENCE}
    return {name: value for name, value in options.items() if name not in _NETWORK_EVIDENCE}, Evidence(**read)


def _combine(options: Options) -> NetworkMethod:
    from quiltwork.compose.combine import Combine

    own, evidence = _network_evidence(options)
    weighting = own.pop("weighting", "uniform")
    if "weights" in own and weighting != "uniform":
        raise InvalidOption(
            "--weight", why=f"the weighting is {weighting}, which finds weights itself", mend="State one of the two."
        )
    return Combine(**{"weights": weighting, "evidence": evidence} | own)


def _stitch(options: Options) -> NetworkMethod:
    from quiltwork.compose.stitch import Stitch

    own, evidence = _network_evidence(options)
    return Stitch(weights=own.pop("weighting", "uniform"), evidence=evidence, **own)


def _gaussian_head(options: Options) -> NetworkMethod:
    from quiltwork.compose.gaussian_head import GaussianHead

    return GaussianHead(**options)


def _network_soup(options: Options) -> NetworkMethod:
    from quiltwork.compose.network_soup import NetworkSoup

    return NetworkSoup(**options)


def _network_alone(options: Options) -> NetworkMethod:
    from quiltwork.compose.network_alone import NetworkAlone

    return NetworkAlone(**options)


LANGUAGE: Mapping[str, Row[Method]] = {
    "soup": Row("mean of the full experts' weights", _COMMON, _soup),
    "task_arithmetic": Row(
        "the base, and the scaled sum of what the full experts changed", ("scale", *_COMMON), _task_arithmetic
    ),
    "ties": Row(
        "each full expert's largest changes; signs elected entry by entry, those who agree averaged (needs peft)",
        ("density", "scale", *_COMMON),
        _ties,
    ),
    "dare": Row(
        "a random share of each full expert's changes, rescaled; summed, or merged as by ties (needs peft)",
        ("density", "elect", "scale", "seed", *_COMMON),
        _dare,
    ),
    "uniform_ensemble": Row("mean of all full experts' probabilities", _COMMON, _uniform_ensemble),
    "btm": Row(
        "full experts' probabilities, weighted by likelihood of the prefix",
        ("top_k", "temperature", *_COMMON),
        _btm,
    ),
    "learned_rows": Row(
        "ffn experts in one model, routed by the rows each party learned (FlexOlmo); plain transformers loads it",
        (*routers.LEARNED, *_COMMON),
        routers.learned_rows,
    ),
    "residual_lda": Row(
        "ffn experts in one model, routed by rows computed from the parties' residual moments",
        (*routers.LDA, *_COMMON),
        routers.residual_lda,
    ),
    "prompt_rows": Row(
        "ffn experts in one model, routed by rows from prompts that you write; plain transformers loads it",
        (*routers.PROMPTS, *_COMMON),
        routers.prompt_rows,
    ),
    "evidence_ffn": Row(
        "ffn experts in one model, mixed by the posterior over parties given the prefix",
        (*routers.EVIDENCE, *_COMMON),
        partial(routers.evidence, scope="ffn"),
    ),
    "evidence_rows": Row(
        "ffn experts in one model, routed by that posterior and by rows together",
        (*routers.BOTH, *_COMMON),
        routers.evidence_rows,
    ),
    "evidence_full": Row(
        "full experts, selected by the posterior over parties given the prefix; only the selected run",
        (*routers.EVIDENCE, *_COMMON),
        partial(routers.evidence, scope="full"),
    ),
    "btx": Row(
        "full experts' feed-forward blocks as experts, the rest averaged; to be tuned (`quiltwork tune`)",
        ("top_k", "renormalise", "seed", *_COMMON),
        _btx,
    ),
}
"""Methods that compose language models."""

TABLES: Mapping[str, Row[TableMethod]] = {
    "reduction": Row(
        "the mixture of all machines' experts, reduced to one of few experts by optimal transport",
        ("n_experts", "support", "gate", "machine_weights", "experts", "robust", "seed"),
        _reduction,
    ),
    "aligned_average": Row("experts brought into one order, then averaged", ("support", "seed"), _aligned_average),
    "middle": Row(
        "the one machine's mixture that is nearest to all others", ("divergence", "support", "seed"), _middle
    ),
    "precision_average": Row(
        "aligned experts, averaged by how sharply each machine's rows determine them",
        ("support", "seed"),
        _precision_average,
    ),
    "ambient": Row("all machines' experts as they are, weighted", ("machine_weights",), _ambient),
}
"""Methods that compose mixtures of experts on tables."""

NETWORKS: Mapping[str, Row[NetworkMethod]] = {
    "combine": Row(
        "all networks' outputs, weighted alike, by who has seen such inputs, or by fit on owners' held-out rows",
        ("rule", "weighting", "weights", *_NETWORK_EVIDENCE),
        _combine,
    ),
    "stitch": Row(
        "networks joined layer to layer by linear maps, their outputs averaged",
        ("pair", "points", "mode", "both", "rule", "ridge", "weighting", *_NETWORK_EVIDENCE),
        _stitch,
    ),
    "gaussian_head": Row(
        "a classifier in closed form from the parties' class moments; no network is needed",
        ("form", "shrinkage"),
        _gaussian_head,
    ),
    "network_soup": Row("mean of the weights of networks of one graph", ("weights",), _network_soup),
    "network_alone": Row("one party's network as it is; name it with --include", (), _network_alone),
}
"""Methods that compose networks for a task on inputs."""

METHODS: Mapping[str, Row[Method] | Row[TableMethod] | Row[NetworkMethod]] = {**LANGUAGE, **TABLES, **NETWORKS}


def make_method(name: str, options: Options) -> Method:
    """The method that a command line names, of those that compose language models.

    Args:
        name: as in ``LANGUAGE``; hyphens may stand for underscores.
        options: what the user stated, by field name.

    Raises:
        InvalidOption: there is no such method, or it does not take one of the options.

    >>> make_method("learned-rows", {"top_k": 2}).name
    'learned_rows'
    """
    return _made(LANGUAGE, name, options)


def make_table_method(name: str, options: Options) -> TableMethod:
    """The method that a command line names, of those that compose mixtures of tables: as `make_method`."""
    return _made(TABLES, name, options)


def make_network_method(name: str, options: Options) -> NetworkMethod:
    """The method that a command line names, of those that compose networks: as `make_method`."""
    return _made(NETWORKS, name, options)


def is_network_method(name: str) -> bool:
    """Whether a name is one of ``NETWORKS``."""
    return _key(name) in NETWORKS


def is_table_method(name: str) -> bool:
    """Whether a name is one of ``TABLES``."""
    return _key(name) in TABLES


def _key(name: str) -> str:
    return name.replace("-", "_")


def _made(rows: Mapping[str, Row[M]], name: str, options: Options) -> M:
    row = rows.get(_key(name))
    if row is None:
        raise InvalidOption(
            f"method '{name}'", why="there is no such method", mend=f"Choose one of: {', '.join(METHODS)}."
        )
    for option in options:
        if option not in row.options:
            raise InvalidOption(
                f"option '{option}'",
                why=f"method {name} does not take it",
                mend=f"It takes: {', '.join(row.options) or 'none'}.",
            )
    return row.make(options)
