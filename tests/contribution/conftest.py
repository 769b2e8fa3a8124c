"""One small contribution a kind, its draft, and an attacker who edits it and computes the digests anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contribution_networks
import numpy as np
import pytest
import torch

from quiltwork.contribution.canonical import encode
from quiltwork.contribution.kinds import (
    ExpertMethod,
    FFNExpert,
    FullExpert,
    ResidualMomentsStatistic,
    TokenHistogramStatistic,
)
from quiltwork.contribution.manifest import BaseReference, TrainingSummary
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.contribution.tables import (
    CovariatesStatistic,
    LikelihoodsMethod,
    MixtureMethod,
    PrecisionStatistic,
    TableReference,
)
from quiltwork.privacy.events import ExactEvent, GaussianEvent, LaplaceEvent

H, I, V, LAYERS = 4, 6, 11, 2  # noqa: E741
K, D, J = 3, 2, 2


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def ffn_tensors(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    found: dict[str, Any] = {}
    for i in range(LAYERS):
        found[f"ffn.layers.{i}.gate_proj.weight"] = torch.randn(I, H, generator=random).to(dtype)
        found[f"ffn.layers.{i}.up_proj.weight"] = torch.randn(I, H, generator=random).to(dtype)
        found[f"ffn.layers.{i}.down_proj.weight"] = torch.randn(H, I, generator=random).to(dtype)
        found[f"ffn.layers.{i}.router.weight"] = torch.randn(H, generator=random).to(dtype)
    return found


def moments_tensors() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for i in range(LAYERS):
        found[f"moments.layers.{i}.mean"] = np.arange(H, dtype=np.float32)
        found[f"moments.layers.{i}.second"] = np.eye(H, dtype=np.float64)
    return found


def expert_draft(**changes: Any) -> Draft:
    """An expert with both parts and both statistics; any field can be replaced."""
    ffn = FFNExpert(
        layers=LAYERS,
        hidden_size=H,
        intermediate_size=I,
        top_k=2,
        anchor_share=0.5,
        router=True,
        bias=False,
    )
    fields: dict[str, Any] = {
        "party": "acme",
        "base": BaseReference(digest=sha(b"base"), family="olmo2", vocabulary_size=V, tokenizer=sha(b"tokenizer")),
        "method": ExpertMethod(ffn=ffn, full=FullExpert()),
        "tensors": {
            **ffn_tensors(),
            "full.model.norm.weight": torch.randn(H, generator=torch.Generator().manual_seed(1)).bfloat16(),
            "full.scalar": torch.tensor(1.5, dtype=torch.float16),
            "tokens.counts": np.arange(V, dtype=np.float64),
            **moments_tensors(),
        },
        "training": TrainingSummary(
            steps=3,
            tokens=48,
            sequence_length=8,
            batch_size=2,
            learning_rate=1e-3,
            seed=0,
            loss_first=3.5,
            loss_last=3.0,
            software={"torch": "2.4"},
        ),
        "statistics": (
            TokenHistogramStatistic(),
            ResidualMomentsStatistic(layers=LAYERS, hidden_size=H, second="full", rows=48),
        ),
        "privacy": (
            ExactEvent(released="ffn"),
            ExactEvent(released="full"),
            ExactEvent(released="moments"),
            ExactEvent(released="training"),
            LaplaceEvent(released="tokens", scale=100.0, sensitivity=50.0),
        ),
        "licence": "Apache-2.0",
        "card": "Two layers.\nNothing private: the values are a toy – ünïcode.",
    }
    return Draft(**{**fields, **changes})


def table(**changes: Any) -> TableReference:
    fields: dict[str, Any] = {
        "features": ("Größe", "weight"),
        "units": ("cm", ""),
        "target": ("systolic",),
        "classes": None,
    }
    return TableReference(**{**fields, **changes})


def mixture_method(**changes: Any) -> MixtureMethod:
    fields: dict[str, Any] = {
        "family": "gaussian",
        "n_experts": K,
        "n_features": D,
        "n_outputs": 1,
        "rows": 100,
        "converged": True,
        "iterations": 12,
        "log_likelihood": -321.5,
        "seed": 0,
        "software": {"numpy": "2.1"},
    }
    return MixtureMethod(**{**fields, **changes})


def mixture_tensors() -> dict[str, Any]:
    random = np.random.default_rng(0)
    free = (K - 1) * (1 + D)
    return {
        "mixture.gate": random.normal(size=(K, 1 + D)),
        "mixture.coefficients": random.normal(size=(K, 1, 1 + D)),
        "mixture.variances": random.uniform(0.5, 2.0, size=(K, 1)),
        "covariates.counts": np.array([60.0, 40.0]),
        "covariates.means": random.normal(size=(J, D)),
        "covariates.covariances": np.stack([np.eye(D)] * J),
        "precision.expert_grams": np.stack([np.eye(1 + D)] * K),
        "precision.gate_hessian": np.eye(free),
    }


def mixture_draft(**changes: Any) -> Draft:
    """A mixture with both statistics; any field can be replaced."""
    fields: dict[str, Any] = {
        "party": "ward",
        "table": table(),
        "method": mixture_method(),
        "tensors": mixture_tensors(),
        "statistics": (CovariatesStatistic(components=J, minimum_rows=10), PrecisionStatistic()),
        "privacy": (
            *(ExactEvent(released=name, unit="row") for name in ("mixture", "precision", "training")),
            GaussianEvent(released="covariates", unit="row", sigma=8.0, sensitivity=2.0),
        ),
        "licence": "CC-BY-4.0",
        "card": "A toy table.",
    }
    return Draft(**{**fields, **changes})


def likelihoods_draft(**changes: Any) -> Draft:
    """Answers to two candidates."""
    fields: dict[str, Any] = {
        "party": "ward",
        "table": table(),
        "method": LikelihoodsMethod(candidates=(sha(b"two"), sha(b"three")), rows=100),
        "tensors": {"likelihoods.values": np.array([-310.0, -300.5])},
        "privacy": (ExactEvent(released="likelihoods", unit="row"),),
        "licence": "CC-BY-4.0",
    }
    return Draft(**{**fields, **changes})


DRAFTS = {
    "expert": expert_draft,
    "mixture": mixture_draft,
    "likelihoods": likelihoods_draft,
    **contribution_networks.DRAFTS,
}


def reseal(path: Path, edit: Callable[[dict[str, Any]], object] = lambda manifest: None) -> None:
    """What a forger does: edit the manifest, then make sizes of nothing but all digests true again."""
    file = path / "contribution.json"
    manifest = json.loads(file.read_bytes())
    edit(manifest)
    manifest.pop("digest", None)
    manifest["digest"] = sha(encode(manifest))
    file.write_bytes(encode(manifest))


@pytest.fixture
def draft() -> Draft:
    return expert_draft()


@pytest.fixture
def make_draft() -> Callable[..., Draft]:
    return expert_draft


@pytest.fixture
def sealed(tmp_path: Path) -> Contribution:
    return write(tmp_path / "acme", expert_draft())


@pytest.fixture
def make_mixture() -> Callable[..., Draft]:
    return mixture_draft


@pytest.fixture
def make_likelihoods() -> Callable[..., Draft]:
    return likelihoods_draft


@pytest.fixture
def make_table() -> Callable[..., TableReference]:
    return table


@pytest.fixture
def make_mixture_method() -> Callable[..., MixtureMethod]:
    return mixture_method


@pytest.fixture
def fitted(tmp_path: Path) -> Contribution:
    return write(tmp_path / "ward", mixture_draft())


@pytest.fixture(params=sorted(DRAFTS))
def any_draft(request: pytest.FixtureRequest) -> Draft:
    """One draft of each kind that has a payload of its own."""
    return DRAFTS[request.param]()


@pytest.fixture
def forge() -> Callable[..., None]:
    return reseal
