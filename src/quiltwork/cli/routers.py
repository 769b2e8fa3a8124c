"""Routers of mixtures of experts from the options of a command line; imported when a method is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.mixture import MixtureOfExperts
    from quiltwork.compose.router_lda import ResidualLDA
    from quiltwork.compose.router_prompts import PromptRows
    from quiltwork.compose.router_rows import LearnedRows

Options = Mapping[str, Any]

COMMON = ("weights", "include")
LEARNED = ("top_k", "renormalise", "bias")
LDA = ("covariance", "shrinkage", "temperature", "offsets", "top_k", "renormalise")
PROMPTS = ("prompts", "negative", "pool", "scale", "top_k", "renormalise")
EVIDENCE = (
    "features",
    "temperature",
    "half_life",
    "switching",
    "floor",
    "bound",
    "top_k",
    "minimum_weight",
    "smoothing",
)
BOTH = ("rows", "share", *dict.fromkeys((*LEARNED, *LDA, *PROMPTS, *EVIDENCE)))


def apart(options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """A router's own options, and those that all methods of language models have in common."""
    common = {name: value for name, value in options.items() if name in COMMON}
    return {name: value for name, value in options.items() if name not in COMMON}, common


def learned_rows(options: Options) -> MixtureOfExperts:
    """A mixture routed by the rows that the parties learned."""
    return _mixture(options, _rows)


def residual_lda(options: Options) -> MixtureOfExperts:
    """A mixture routed by rows computed from residual moments."""
    return _mixture(options, _lda)


def prompt_rows(options: Options) -> MixtureOfExperts:
    """A mixture routed by rows from prompts."""
    return _mixture(options, _prompts)


def evidence(options: Options, scope: str) -> MixtureOfExperts:
    """A mixture of experts of a scope, routed by prefix evidence."""
    from quiltwork.compose.mixture import MixtureOfExperts
    from quiltwork.compose.router_evidence import PrefixEvidence

    own, common = apart(options)
    return MixtureOfExperts(router=PrefixEvidence(**own), scope=scope, **common)  # type: ignore[arg-type]


def evidence_rows(options: Options) -> MixtureOfExperts:
    """A mixture routed by rows and evidence; temperature is the evidence's, ``share`` tempers the rows."""
    from quiltwork.compose.mixture import MixtureOfExperts
    from quiltwork.compose.router_both import RowsAndEvidence
    from quiltwork.compose.router_evidence import PrefixEvidence

    own, common = apart(options)
    share = {"share": own.pop("share")} if "share" in own else {}
    kind = str(own.pop("rows", "learned_rows")).replace("-", "_")
    known: Mapping[str, tuple[tuple[str, ...], Callable[[Options], LearnedRows | ResidualLDA | PromptRows]]] = {
        "learned_rows": (LEARNED, _rows),
        "residual_lda": (LDA, _lda),
        "prompt_rows": (PROMPTS, _prompts),
    }
    if kind not in known:
        raise InvalidOption(f"rows '{kind}'", why="there are no such rows", mend=f"Use one of: {', '.join(known)}.")
    names, make = known[kind]
    of_evidence = {name: own.pop(name) for name in EVIDENCE if name in own and name != "top_k"}
    _require_known(own, names, kind)
    router = RowsAndEvidence(make(own), PrefixEvidence(**of_evidence), **share)
    return MixtureOfExperts(router=router, **common)


def _mixture(options: Options, make: Any) -> MixtureOfExperts:
    from quiltwork.compose.mixture import MixtureOfExperts

    own, common = apart(options)
    return MixtureOfExperts(router=make(own), **common)


def _rows(options: Options) -> LearnedRows:
    from quiltwork.compose.router_rows import LearnedRows

    return LearnedRows(**options)


def _lda(options: Options) -> ResidualLDA:
    from quiltwork.compose.router_lda import ResidualLDA

    return ResidualLDA(**options)


def _prompts(options: Options) -> PromptRows:
    from quiltwork.compose.router_prompts import PromptRows

    return PromptRows(**options)


def _require_known(options: Options, names: tuple[str, ...], kind: str) -> None:
    for name in options:
        if name not in names:
            raise InvalidOption(f"option '{name}'", why=f"rows of kind {kind} do not take it", mend="Leave it out.")
