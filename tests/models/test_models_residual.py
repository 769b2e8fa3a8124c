"""Moments against NumPy on the inputs of each feed-forward block, caught where the model itself computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quiltwork.models.base import Base
from quiltwork.models.residual import Second, residual_moments

FAMILIES = ("olmo2", "llama")
SECONDS: tuple[Second, ...] = get_args(Second)

Bases = Callable[[str], Base]


def batches(base: Base, count: int = 3, seed: int = 0) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, base.vocabulary_size, (size, 12)) for size in range(2, 2 + count)]


def caught(model: Any, texts: list[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
    """Rows ``[tokens, hidden]`` of each layer, from what its gate projection receives."""
    found: list[list[NDArray[np.float64]]] = [[] for _ in model.model.layers]
    hooks = [
        layer.mlp.gate_proj.register_forward_hook(
            lambda _, inputs, __, rows=rows: rows.append(inputs[0].detach().double().numpy())
        )
        for layer, rows in zip(model.model.layers, found, strict=True)
    ]
    with torch.no_grad():
        for text in texts:
            model(input_ids=torch.from_numpy(text))
    for hook in hooks:
        hook.remove()
    return [np.concatenate([part.reshape(-1, part.shape[-1]) for part in rows]) for rows in found]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("second", SECONDS)
def test_moments_are_those_of_numpy(tiny_base: Bases, family: str, second: Second) -> None:
    base = tiny_base(family)
    model, texts = base.load_model(), batches(base)
    tensors, rows = residual_moments(model, texts, second=second)
    assert rows == sum(text.size for text in texts)
    for layer, inputs in enumerate(caught(model, texts)):
        assert len(inputs) == rows
        mean, spread = (tensors[f"moments.layers.{layer}.{name}"] for name in ("mean", "second"))
        expected = np.cov(inputs, rowvar=False, bias=True)
        wanted = expected if second == "full" else np.diag(expected)
        np.testing.assert_allclose(mean.numpy(), inputs.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(spread.numpy(), wanted, rtol=1e-4, atol=1e-7 * np.abs(expected).max() + 1e-9)


def test_negative_control_other_tensors_have_other_moments(tiny_base: Bases) -> None:
    """What leaves the block, or enters the attention, is not what is described."""
    base = tiny_base("llama")
    model, texts = base.load_model(), batches(base)
    tensors, _ = residual_moments(model, texts, second="diagonal")
    other: list[NDArray[np.float64]] = []
    hook = model.model.layers[0].post_attention_layernorm.register_forward_pre_hook(
        lambda _, inputs: other.append(inputs[0].double().numpy().reshape(-1, base.hidden_size))
    )
    caught(model, texts)
    hook.remove()
    variance = np.concatenate(other).var(axis=0)
    assert not np.allclose(tensors["moments.layers.0.second"].numpy(), variance, rtol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_shapes_and_dtypes(tiny_base: Bases, family: str) -> None:
    base = tiny_base(family)
    for second, shape in (("full", (base.hidden_size,) * 2), ("diagonal", (base.hidden_size,))):
        tensors, _ = residual_moments(base.load_model(), batches(base, 1), second=second)  # type: ignore[arg-type]
        assert set(tensors) == {f"moments.layers.{i}.{n}" for i in range(base.layers) for n in ("mean", "second")}
        assert all(t.dtype == torch.float32 for t in tensors.values())
        assert tensors["moments.layers.0.mean"].shape == (base.hidden_size,)
        assert tensors["moments.layers.1.second"].shape == shape


@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_covariances_are_symmetric_and_not_negative(tiny_base: Bases, tokens: int) -> None:
    """With fewer rows than dimensions too, where rounding could make an eigenvalue negative."""
    base = tiny_base("olmo2")
    text = np.random.default_rng(1).integers(0, base.vocabulary_size, (1, tokens))
    full, _ = residual_moments(base.load_model(), [text], second="full")
    diagonal, _ = residual_moments(base.load_model(), [text], second="diagonal")
    for layer in range(base.layers):
        covariance = full[f"moments.layers.{layer}.second"].double()
        assert torch.equal(covariance, covariance.T)
        values = torch.linalg.eigvalsh(covariance)
        assert float(values.min()) >= -1e-6 * max(float(values.max()), 1e-6)
        variances = diagonal[f"moments.layers.{layer}.second"]
        assert bool((variances >= 0).all())
        torch.testing.assert_close(covariance.diagonal().float(), variances, rtol=1e-4, atol=1e-9)


def test_moments_add_up_over_batches(tiny_base: Bases) -> None:
    base = tiny_base("llama")
    model = base.load_model()
    one, other = batches(base, 2, seed=1), batches(base, 3, seed=2)
    together, n = residual_moments(model, one + other, second="full")
    (first, k), (rest, m) = (residual_moments(model, part, second="full") for part in (one, other))
    assert n == k + m
    for layer in range(base.layers):
        mean, square = (together[f"moments.layers.{layer}.{name}"].double() for name in ("mean", "second"))
        a, b = (part[f"moments.layers.{layer}.mean"].double() for part in (first, rest))
        s, t = (part[f"moments.layers.{layer}.second"].double() for part in (first, rest))
        torch.testing.assert_close(mean, (k * a + m * b) / n, rtol=1e-5, atol=1e-7)
        raw = (k * (s + torch.outer(a, a)) + m * (t + torch.outer(b, b))) / n
        torch.testing.assert_close(square, raw - torch.outer(mean, mean), rtol=1e-3, atol=1e-6)


def test_how_text_is_cut_into_batches_does_not_matter(tiny_base: Bases) -> None:
    base = tiny_base("olmo2")
    text = np.random.default_rng(3).integers(0, base.vocabulary_size, (6, 10))
    one, rows = residual_moments(base.load_model(), [text], second="full")
    many, same = residual_moments(base.load_model(), list(text[:, None]), second="full")
    assert rows == same == 60
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, many[name], rtol=1e-4, atol=1e-8)


def test_the_model_is_left_without_hooks_even_after_a_failure(tiny_base: Bases) -> None:
    base = tiny_base("olmo2")
    model = base.load_model()
    wrong = np.full((1, 4), base.vocabulary_size + 7)
    with pytest.raises(IndexError):
        residual_moments(model, [batches(base, 1)[0], wrong], second="full")
    assert not any(layer.mlp._forward_pre_hooks for layer in model.model.layers)
