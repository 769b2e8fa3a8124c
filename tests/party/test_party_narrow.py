"""Narrow experts: which neurons they start from, and that their padded form is the same function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quiltwork.compose.alone import Alone
from quiltwork.compose.method import compose
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base
from quiltwork.models.narrow import importance, narrowed, padded
from quiltwork.models.sources import Source
from quiltwork.party.contribute import Order, contribute
from quiltwork.party.fragment import open_fragment
from quiltwork.party.scopes import FFNScope
from quiltwork.training.loop import TrainingPlan

PLAN = TrainingPlan(steps=4, batch_size=4, sequence_length=16, learning_rate=2e-2)
Bases = Callable[[str], Base]


def some_text() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, 60, (2, 9), generator=generator) for _ in range(3)]


def scores_of(base: Base) -> tuple[Any, list[Tensor]]:
    model = base.load_model()
    return model, importance(model, [layer.mlp for layer in model.model.layers], some_text())


@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_importance_is_mean_activation_times_column_norm(tiny_base: Bases, family: str) -> None:
    """Against numpy, from the hidden states that transformers' own modules receive."""
    model, found = scores_of(tiny_base(family))
    received: list[list[Tensor]] = [[] for _ in model.model.layers]
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda _, inputs, number=number: received[number].append(inputs[0]))
    with torch.no_grad():
        for ids in some_text():
            model(input_ids=ids)
    for number, layer in enumerate(model.model.layers):
        x = np.concatenate([r.reshape(-1, r.shape[-1]).double().numpy() for r in received[number]])
        gate, up, down = (
            getattr(layer.mlp, role).weight.detach().double().numpy() for role in ("gate_proj", "up_proj", "down_proj")
        )
        z = x @ gate.T
        h = z / (1 + np.exp(-z)) * (x @ up.T)
        expected = np.abs(h).mean(axis=0) * np.sqrt((down**2).sum(axis=0))
        np.testing.assert_allclose(found[number].numpy(), expected, rtol=2e-5)


def test_an_expert_starts_from_the_neurons_that_matter_most(tiny_base: Bases) -> None:
    base, width = tiny_base("llama"), 7
    model, scores = scores_of(base)
    scope = FFNScope(width=width)
    start = base.load_model()
    scope.prepare(start, "ash", some_text)
    tensors = scope.tensors(start, base)
    for number, layer in enumerate(model.model.layers):
        kept = sorted(np.argsort(-scores[number].numpy())[:width])
        assert kept != list(range(width))
        prefix = f"ffn.layers.{number}."
        assert torch.equal(tensors[prefix + "gate_proj.weight"], layer.mlp.gate_proj.weight[kept])
        assert torch.equal(tensors[prefix + "up_proj.weight"], layer.mlp.up_proj.weight[kept])
        assert torch.equal(tensors[prefix + "down_proj.weight"], layer.mlp.down_proj.weight[:, kept])


def test_the_most_important_neurons_come_nearest_to_the_whole_block(tiny_base: Bases) -> None:
    """Negative control of the choice: the least important ones are further away."""
    model, scores = scores_of(tiny_base("llama"))
    block = model.model.layers[0].mlp
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))

    def distance(order: Tensor) -> float:
        with torch.no_grad():
            return float((narrowed(block, order, 24)(x) - block(x)).norm())

    assert distance(scores[0]) < distance(-scores[0])
    assert torch.equal(narrowed(block, scores[0], 48)(x), block(x))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))
def test_padding_keeps_the_tensor_and_adds_zeros(rows: int, columns: int, more_rows: int, more_columns: int) -> None:
    tensor = torch.randn(rows, columns)
    wide = padded(Source.of(tensor), (rows + more_rows, columns + more_columns)).load().numpy()
    assert np.array_equal(wide, np.pad(tensor.numpy(), ((0, more_rows), (0, more_columns))))


@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_the_padded_function_is_the_narrow_one(
    tiny_base: Bases, fragments: Mapping[str, Path], tmp_path: Path, family: str
) -> None:
    base = tiny_base(family)
    order = Order(party="ash", scopes=(FFNScope(width=11, anchor_share=0.0),), plan=PLAN, tokens=None, bigrams=None)
    contribution = contribute(base, open_fragment([fragments["ash"]]), tmp_path / "ash", order, force_cpu=True)
    assert contribution.manifest.method.ffn.intermediate_size == 11  # type: ignore[union-attr]
    padded_model = compose([contribution], Alone("ffn"), base).model()
    assert padded_model.config.intermediate_size == 48
    narrow = base.load_model()
    for number, layer in enumerate(narrow.model.layers):
        for role in ("gate_proj", "up_proj", "down_proj"):
            weight = contribution.tensor(f"ffn.layers.{number}.{role}.weight")
            getattr(layer.mlp, role).weight = torch.nn.Parameter(weight)
    ids = torch.arange(1, 25).reshape(2, 12)
    with torch.no_grad():
        one, other = padded_model(input_ids=ids).logits, narrow(input_ids=ids).logits
    torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("width", "words"), [(49, "have 48 neurons"), (10, "none is given")])
def test_a_width_that_cannot_be_is_refused(tiny_base: Bases, width: int, words: str) -> None:
    with pytest.raises(InvalidOption, match=rf"width={width}: .*{words}"):
        FFNScope(width=width).prepare(tiny_base("llama").load_model(), "ash", some_text if width == 49 else None)
