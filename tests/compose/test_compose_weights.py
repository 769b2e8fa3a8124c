"""What weights and include mean, against arithmetic written out; and the protocol of methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quiltwork.compose.alone import Alone
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.composite import Composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.base import Base

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
BOTH = ("olmo2", "llama")
METHODS: tuple[Method, ...] = (
    Soup(),
    Ensemble("uniform"),
    Ensemble("likelihood"),
    MixtureOfExperts(LearnedRows()),
    MixtureOfExperts(PrefixEvidence()),
    MixtureOfExperts(PrefixEvidence(), scope="full"),
)


def tensors(composite: Composite) -> dict[str, torch.Tensor]:
    return {name: source.load() for name, source in composite.checkpoint("native").tensors().items()}


def ids_of(base: Base, batch: int = 2) -> torch.Tensor:
    return torch.randint(1, base.vocabulary_size, (batch, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("weights", [{}, {"ash": 3.0}, {"ash": 0.2, "birch": 5.0, "cedar": 1e-3}], ids=str)
def test_a_soup_is_the_weighted_mean_of_full_models(
    weights: dict[str, float], family: str, tiny_base: Bases, contributions: Parts
) -> None:
    base, found = tiny_base(family), contributions(family)
    share = np.array([weights.get(c.party, 1.0) for c in found])
    share /= share.sum()
    for name, tensor in tensors(compose(found, Soup(weights=weights), base)).items():
        origin = base.tensors[name].load().double().numpy()
        models = [origin + c.tensor(f"full.{name}").double().numpy() for c in found]
        expected = sum(s * model for s, model in zip(share, models, strict=True))
        np.testing.assert_allclose(tensor.double().numpy(), expected, atol=1e-7)
        assert tensor.dtype == torch.float32


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("scope", ["full", "ffn"])
def test_alone_holds_the_party_s_own_weights(scope: str, family: str, tiny_base: Bases, contributions: Parts) -> None:
    base, ash = tiny_base(family), contributions(family)[0]
    found = tensors(compose([ash], Alone(scope), base))  # type: ignore[arg-type]
    if scope == "full":
        for name, tensor in found.items():
            total = base.tensors[name].load().double() + ash.tensor(f"full.{name}").double()
            assert torch.equal(tensor, total.float())
        return
    for (layer, role), _ in base.ffn().items():
        name = base.family.ffn_name(layer, role)
        assert torch.equal(found.pop(name), ash.tensor(f"ffn.layers.{layer}.{role}.weight"))
    for name, tensor in found.items():
        assert torch.equal(tensor, base.tensors[name].load())


@pytest.mark.parametrize("scope", ["ffn", "full"])
@pytest.mark.parametrize("features", ["tokens", "bigrams"])
@torch.no_grad()
def test_doubling_a_weight_doubles_the_prior_odds(
    scope: Any, features: Any, tiny_base: Bases, contributions: Parts, public_text: Any
) -> None:
    router = PrefixEvidence(features=features, minimum_weight=0.0, temperature=40.0, floor=0.1, top_k=4)
    base = tiny_base("olmo2")

    def weights(chosen: dict[str, float]) -> torch.Tensor:
        method = MixtureOfExperts(router, scope=scope, weights=chosen)
        model = compose(contributions("olmo2"), method, base, public=public_text("olmo2")).model()
        return model.evidence(ids_of(base), None, None)[0].double()  # type: ignore[no-any-return]

    plain, double, base_third = weights({}), weights({"birch": 2.0}), weights({"base": 1 / 3})
    odds = plain[..., [2]] / plain[..., [0, 1, 3]]
    torch.testing.assert_close(double[..., [2]] / double[..., [0, 1, 3]], 2 * odds, rtol=2e-5, atol=0)
    odds = plain[..., 0] / plain[..., 1]
    torch.testing.assert_close(base_third[..., 0] / base_third[..., 1], odds / 3, rtol=2e-5, atol=0)


@pytest.mark.parametrize("family", BOTH)
@torch.no_grad()
def test_weights_of_learned_rows_multiply_their_shares(family: str, tiny_base: Bases, contributions: Parts) -> None:
    base, found = tiny_base(family), contributions(family)
    weighted = MixtureOfExperts(LearnedRows(), weights={"ash": 4.0, "base": 0.5})
    composite = compose(found, weighted, base)
    assert composite.default_layout() == "native"
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    for layer in range(base.layers):
        rows = torch.stack([torch.zeros(32), *(c.tensor(f"ffn.layers.{layer}.router.weight") for c in found)])
        shares = torch.tensor([0.5, 4.0, 1.0, 1.0]) * (x @ rows.T).exp()
        router = composite.model().body.model.layers[layer].mlp.router
        torch.testing.assert_close(router(x), shares / shares.sum(-1, keepdim=True), atol=1e-6, rtol=0)


@torch.no_grad()
def test_biases_shift_the_logits(tiny_base: Bases, contributions: Parts) -> None:
    found = contributions("olmo2")
    model = compose(found, MixtureOfExperts(LearnedRows(bias=True)), tiny_base("olmo2")).model()
    expected = [0.0] + [min(float(c.tensor("ffn.layers.1.router.bias")), 0.0) for c in found]
    assert model.body.model.layers[1].mlp.router.bias.tolist() == pytest.approx(expected)
    assert min(expected) < -0.05


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_including_some_is_composing_some(
    method: Any, tiny_base: Bases, contributions: Parts, public_text: Any, tmp_path: Path
) -> None:
    base, found, public = tiny_base("llama"), contributions("llama"), public_text("llama")
    chosen = replace(method, include=("cedar", "ash"))
    compose(found, chosen, base, public=public).save(tmp_path / "one")
    compose([found[0], found[2]], method, base, public=public).save(tmp_path / "other")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "other").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_composing_reads_no_weight_and_changes_no_generator(
    method: Any, tiny_base: Bases, contributions: Parts, public_text: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, public = tiny_base("olmo2"), public_text("olmo2")
    read: list[str] = []
    inner = Contribution.tensor
    monkeypatch.setattr(Contribution, "tensor", lambda self, name: (read.append(name), inner(self, name))[1])
    state = torch.get_rng_state()
    composite = compose(contributions("olmo2"), method, base, public=public)
    composite.checkpoint("native")
    assert all(name in ("tokens.counts", "bigrams.counts") for name in read)
    assert torch.equal(torch.get_rng_state(), state)


def test_methods_have_the_names_that_reports_use() -> None:
    assert [m.name for m in METHODS] == [
        "soup",
        "uniform_ensemble",
        "btm",
        "learned_rows",
        "evidence_ffn",
        "evidence_full",
    ]
    assert Alone().name == "alone"
    for method in (*METHODS, Alone()):
        assert isinstance(method, Method)
    assert not isinstance(object(), Method)


def test_full_evidence_selects_one_and_ffn_evidence_mixes_all_unless_told(
    tiny_base: Bases, contributions: Parts, public_text: Any
) -> None:
    found, base, public = contributions("olmo2"), tiny_base("olmo2"), public_text("olmo2")
    for scope, told, expected in (("ffn", None, None), ("full", None, 1), ("ffn", 2, 2), ("full", 3, 3)):
        method = MixtureOfExperts(PrefixEvidence(top_k=told), scope=scope)  # type: ignore[arg-type]
        config = compose(found, method, base, public=public).checkpoint("native").config
        assert config["router"]["top_k"] == expected
