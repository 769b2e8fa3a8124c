"""Rules, weights and heads outside of torch: onnxruntime computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quiltwork.evidence.class_moments import ClassMoments
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.embedding import RandomEmbedding, embed
from quiltwork.models.network.combining import combine
from quiltwork.models.network.embedder import embedder
from quiltwork.models.network.evidence_weights import EvidenceWeigher
from quiltwork.models.network.exports import export
from quiltwork.models.network.gaussian_head import GaussianHeadModule

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

SPEC, SHAPE = RandomEmbedding(dimension=4, seed=2), (1, 4, 4)
RNG = np.random.default_rng(0)
ROWS = {name: RNG.normal(size=(100, *SHAPE)).astype(np.float32) + shift for name, shift in (("a", 0.0), ("b", 0.8))}
LABELS = RNG.integers(0, 3, 100)


class Everything(nn.Module):
    """Three heads under every rule, weighed by evidence, side by side."""

    def __init__(self) -> None:
        super().__init__()
        place = embedder(SPEC, SHAPE)
        rows = {name: embed(SPEC, x.reshape(100, -1)) for name, x in ROWS.items()}
        summaries = {name: CovariateSummary.from_rows(x, components=2) for name, x in rows.items()}
        summaries["c"] = summaries["a"].merge(summaries["b"])
        self.weigher = EvidenceWeigher.from_summaries(place, summaries, floor=10.0, temperature=2.0)
        moments = ClassMoments.from_rows(rows["a"], LABELS, 4, "per_class")
        forms = ("naive_bayes", "lda", "qda")
        self.heads = nn.ModuleList(GaussianHeadModule(place, moments, form) for form in forms)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        outputs, weights = torch.stack([head(x) for head in self.heads]), self.weigher(x)
        rules = ("probability", "geometric", "rank", "median")
        classes = [combine(outputs, weights, rule) for rule in rules]
        numbers = [combine(outputs.clamp(min=-9), weights, rule, "numbers") for rule in ("mean", "median")]
        return torch.cat([weights, *outputs, *classes, *numbers], dim=1)


def test_onnxruntime_gives_the_same_numbers(tmp_path: Path) -> None:
    module = Everything().eval()
    file = tmp_path / "all.onnx"
    export(module, SHAPE, file, "onnx")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for rows in (1, 7):
        x = np.concatenate([ROWS["a"], 20 * ROWS["b"]])[-100 - rows : -100 + rows]
        (found,) = session.run(None, {session.get_inputs()[0].name: x})
        with torch.no_grad():
            wanted = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(np.maximum(found, -100), np.maximum(wanted, -100), atol=2e-5, rtol=2e-5)
