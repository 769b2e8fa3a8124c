"""One small contribution, its draft, and an attacker who edits it and computes the digests anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from quiltwork.privacy.events import ExactEvent, LaplaceEvent

H, I, V, LAYERS = 4, 6, 11, 2  # noqa: E741


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
def forge() -> Callable[..., None]:
    return reseal
