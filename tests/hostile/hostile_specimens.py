"""One small sound contribution of every kind, to spoil; those of language models may stand on a real tiny base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contribution_networks
import numpy as np
import torch

from quiltwork.contribution.kinds import (
    BigramHistogramStatistic,
    ExpertMethod,
    FFNExpert,
    FullExpert,
    LoRAExpert,
    LowRankExpert,
    Part,
    PublicProxiesStatistic,
    ResidualMomentsStatistic,
    RetainedShares,
    StatisticsMethod,
    TokenHistogramStatistic,
    TrigramHistogramStatistic,
)
from quiltwork.contribution.manifest import BaseReference, TrainingSummary
from quiltwork.contribution.store import Draft, write
from quiltwork.contribution.tables import (
    CovariatesStatistic,
    LikelihoodsMethod,
    MixtureMethod,
    PrecisionStatistic,
    TableReference,
)
from quiltwork.models.base import Base
from quiltwork.privacy.events import ExactEvent, GaussianEvent, LaplaceEvent, SampledGaussianEvent


@dataclass(frozen=True)
class Sizes:
    """Of the base, and what it is called."""

    base: BaseReference
    hidden: int = 4
    intermediate: int = 6
    layers: int = 2
    full: Mapping[str, tuple[int, ...]] | None = None


def sizes_of(base: Base, *, hidden: int, intermediate: int, layers: int) -> Sizes:
    """Of a real one."""
    reference = BaseReference(
        digest=base.digest,
        family=base.family.name,
        vocabulary_size=base.vocabulary_size,
        tokenizer=base.tokenizer_digest,
    )
    shapes = {name: tuple(source.shape) for name, source in base.tensors.items()}
    return Sizes(reference, hidden, intermediate, layers, shapes)


def unreal_base() -> Sizes:
    """A base that nobody has."""
    reference = BaseReference(
        digest="sha256:" + "b" * 64, family="olmo2", vocabulary_size=11, tokenizer="sha256:" + "d" * 64
    )
    return Sizes(reference, full={"model.norm.weight": (4,), "lm_head.weight": (11, 4), "scalar": ()})


def _filled(parts: tuple[Part, ...], random: np.random.Generator) -> dict[str, Any]:
    """Small numbers of the shapes that the closed parts ask for, in float32."""
    return {
        name: random.normal(scale=0.02, size=need.shape).astype(np.float32)
        for part in parts
        for name, need in (part.required or {}).items()
    }


def _full(sizes: Sizes, random: np.random.Generator) -> dict[str, Any]:
    return {
        f"full.{name}": torch.from_numpy(random.normal(scale=0.01, size=shape)).bfloat16()
        for name, shape in (sizes.full or {}).items()
    }


def _lora(sizes: Sizes, random: np.random.Generator, rank: int) -> dict[str, Any]:
    matrices = {name: shape for name, shape in (sizes.full or {}).items() if len(shape) == 2}
    return {
        f"lora.{name}.{factor}": random.normal(scale=0.01, size=shape).astype(np.float16)
        for name, (out, into) in matrices.items()
        for factor, shape in (("a", (rank, into)), ("b", (out, rank)))
    }


def expert(sizes: Sizes, party: str, seed: int, *, factors: bool = False) -> Draft:
    """Both forms of weights, whole or as factors, and all statistics; the whole model's differences in bfloat16."""
    random = np.random.default_rng(seed)
    routed: dict[str, Any] = {
        "layers": sizes.layers, "hidden_size": sizes.hidden, "intermediate_size": sizes.intermediate, "top_k": 2,
        "anchor_share": 0.5, "router": True, "bias": not factors,
    }  # fmt: skip
    if factors:
        kept = tuple(RetainedShares(gate_proj=0.5, up_proj=0.25, down_proj=1.0) for _ in range(sizes.layers))
        low = LowRankExpert(**routed, rank=2, retained=kept)
        method = ExpertMethod(lowrank=low, lora=LoRAExpert(rank=1, scaling=2.0))
    else:
        method = ExpertMethod(ffn=FFNExpert(**routed), full=FullExpert())
    moments = ResidualMomentsStatistic(layers=sizes.layers, hidden_size=sizes.hidden, second="full", rows=48)
    counts = {"tokens.counts": sizes.base.vocabulary_size, "bigrams.counts": 16}
    weights = [part.name for part in method.parts()]
    return Draft(
        party=party,
        base=sizes.base,
        method=method,
        tensors={
            **_filled((*method.parts(), moments.part(0)), random),
            **(_lora(sizes, random, rank=1) if factors else _full(sizes, random)),
            **{name: random.integers(0, 50, length).astype(np.float64) for name, length in counts.items()},
        },
        training=TrainingSummary(
            steps=3, tokens=48, sequence_length=8, batch_size=2, learning_rate=1e-3, seed=seed, loss_first=3.5,
            loss_last=3.0, software={"torch": "2.4"},
        ),
        statistics=(TokenHistogramStatistic(), BigramHistogramStatistic(cells=16), moments),
        privacy=(
            *(ExactEvent(released=name) for name in (*weights, "moments", "training", "bigrams")),
            LaplaceEvent(released="tokens", scale=100.0, sensitivity=50.0),
        ),
        licence="Apache-2.0",
        card="Two layers.\nA toy – ünïcode.",
    )  # fmt: skip


def statistics(sizes: Sizes) -> Draft:
    """Histograms, variances and public documents alone."""
    random = np.random.default_rng(3)
    moments = ResidualMomentsStatistic(layers=sizes.layers, hidden_size=sizes.hidden, second="diagonal", rows=9)
    variances = {n: np.ones(need.shape) for n, need in (moments.part(0).required or {}).items()}
    return Draft(
        party="cedar",
        base=sizes.base,
        method=StatisticsMethod(),
        tensors={
            **variances,
            "tokens.counts": np.arange(sizes.base.vocabulary_size, dtype=np.float64),
            "trigrams.counts": random.integers(0, 9, 8).astype(np.float64),
            "proxies.documents": np.array([17.0, 3.0, 2.0**40]),
        },
        statistics=(
            TokenHistogramStatistic(),
            TrigramHistogramStatistic(cells=8),
            moments,
            PublicProxiesStatistic(documents=3),
        ),
        privacy=(
            *(ExactEvent(released=name) for name in ("tokens", "trigrams", "proxies")),
            ExactEvent(released="moments", note="means of 9 tokens"),
        ),
        licence="CC-BY-4.0",
    )


_TABLE = TableReference(features=("Größe", "weight"), units=("cm", ""), target=("systolic",), classes=None)


def mixture(party: str, seed: int) -> Draft:
    """Three straight lines with both statistics."""
    random = np.random.default_rng(seed)
    k, d, j = 3, 2, 2
    return Draft(
        party=party,
        table=_TABLE,
        method=MixtureMethod(
            family="gaussian", n_experts=k, n_features=d, n_outputs=1, rows=100, converged=True, iterations=12,
            log_likelihood=-321.5, seed=seed, software={"numpy": "2.1"},
        ),
        tensors={
            "mixture.gate": random.normal(size=(k, 1 + d)),
            "mixture.coefficients": random.normal(size=(k, 1, 1 + d)),
            "mixture.variances": random.uniform(0.5, 2.0, size=(k, 1)),
            "covariates.counts": np.array([60.0, 40.0]),
            "covariates.means": random.normal(size=(j, d)),
            "covariates.covariances": np.stack([np.eye(d)] * j),
            "precision.expert_grams": np.stack([np.eye(1 + d)] * k),
            "precision.gate_hessian": np.eye((k - 1) * (1 + d)),
        },
        statistics=(CovariatesStatistic(components=j, minimum_rows=10), PrecisionStatistic()),
        privacy=(
            SampledGaussianEvent(released="mixture", sigma=8.0, sensitivity=1.0, sampling_rate=0.5, steps=20),
            *(ExactEvent(released=name, unit="row") for name in ("precision", "training")),
            GaussianEvent(released="covariates", unit="row", sigma=8.0, sensitivity=2.0),
        ),
        licence="CC-BY-4.0",
    )  # fmt: skip


def likelihoods() -> Draft:
    """Answers to two candidates."""
    return Draft(
        party="ward",
        table=_TABLE,
        method=LikelihoodsMethod(candidates=("sha256:" + "2" * 64, "sha256:" + "3" * 64), rows=100),
        tensors={"likelihoods.values": np.array([-310.0, -300.5])},
        privacy=(ExactEvent(released="likelihoods", unit="row"),),
        licence="CC-BY-4.0",
    )


def write_specimens(folder: Path, sizes: Sizes) -> dict[str, Path]:
    """Write them all, two owners for the kinds that are composed of several."""
    drafts = {
        "expert": expert(sizes, "acme", 0),
        "expert-share": expert(sizes, "birch.notes", 1),
        "expert-factors": expert(sizes, "birch.code", 2, factors=True),
        "statistics": statistics(sizes),
        "mixture": mixture("ward", 0),
        "mixture-other": mixture("yard", 1),
        "likelihoods": likelihoods(),
        **{kind: make() for kind, make in contribution_networks.DRAFTS.items()},
    }
    return {name: write(folder / name, draft).path for name, draft in drafts.items()}
