"""Low-rank, LoRA and narrow experts that do not fit the base, each refused by the tensor that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quiltwork.compose.alone import Alone
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.parts import full_deltas
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.compose.ties import Ties
from quiltwork.contribution.kinds import ExpertMethod, FFNExpert, LoRAExpert, LowRankExpert, ResidualMomentsStatistic
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import CheckpointError, MissingPart, TensorMismatch
from quiltwork.evaluate.screen import screen
from quiltwork.models.base import Base
from quiltwork.models.residual import ResidualMoments
from quiltwork.models.sources import Source
from quiltwork.party.contribute import reference
from quiltwork.privacy.events import ExactEvent

Bases = Callable[[str], Base]
Make = Callable[..., Contribution]
QUERY, NORM = "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
ROWS = MixtureOfExperts(LearnedRows())


@pytest.fixture
def make(tiny_base: Bases, tmp_path: Path) -> Make:
    def build(method: ExpertMethod, tensors: Mapping[str, Any], statistics: Sequence[Any] = ()) -> Contribution:
        events = tuple(ExactEvent(released=part.name) for part in (*method.parts(), *statistics))
        stated = {"base": reference(tiny_base("llama")), "licence": "CC0-1.0", "privacy": events}
        stated |= {"statistics": tuple(statistics)}
        return write(tmp_path / "ash", Draft(party="ash", method=method, tensors=tensors, **stated))

    return build


def routed(kind: Any, **changes: Any) -> ExpertMethod:
    sizes = {
        "layers": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "anchor_share": 1.0,
        "router": True,
        "bias": False,
    }
    name = "lowrank" if kind is LowRankExpert else "ffn"
    return ExpertMethod(**{name: kind(**{**sizes, **({"rank": 2} if name == "lowrank" else {}), **changes})})


def tensors_of(method: ExpertMethod, dtype: Any = np.float32) -> dict[str, Any]:
    assert method.routed is not None
    return {name: np.zeros(need.shape, dtype) for name, need in method.routed.required_tensors().items()}


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (LowRankExpert, {"intermediate_size": 40}, r"lowrank\.layers\.0\.gate_proj\.up'.*\[40, 2\].*\[48, 2\]"),
        (LowRankExpert, {"hidden_size": 30}, r"lowrank\.layers\.0\.gate_proj\.down'.*\[2, 30\].*\[2, 32\]"),
        (LowRankExpert, {"layers": 3}, r"lowrank\.layers\.2\.\*'.*belongs to a layer"),
        (LowRankExpert, {"layers": 1}, r"lowrank\.layers\.1\.gate_proj\.down'.*is missing"),
        (FFNExpert, {"intermediate_size": 49}, r"ffn\.layers\.0\.gate_proj\.weight'.*\[49, 32\].*\[48, 32\]"),
        (FFNExpert, {"intermediate_size": 8, "hidden_size": 30}, r"\[8, 30\].*\[8, 32\]"),
    ],
)
def test_an_expert_of_other_sizes_is_refused(
    kind: Any, changes: dict[str, Any], words: str, make: Make, tiny_base: Bases
) -> None:
    method = routed(kind, **changes)
    with pytest.raises(TensorMismatch, match=words):
        compose([make(method, tensors_of(method))], ROWS, tiny_base("llama"))


def test_factors_may_have_another_dtype_and_rows_may_not(make: Make, tiny_base: Bases) -> None:
    method = routed(LowRankExpert)
    found = tensors_of(method, np.float16)
    with pytest.raises(TensorMismatch, match=r"router\.weight'.*has dtype F16, the base F32"):
        compose([make(method, found)], ROWS, tiny_base("llama"))


def test_half_precision_factors_are_added_in_float64(make: Make, tiny_base: Bases) -> None:
    method, base = routed(LowRankExpert), tiny_base("llama")
    random = np.random.default_rng(0)
    found = {
        name: random.normal(size=array.shape).astype(np.float32 if "router" in name else np.float16)
        for name, array in tensors_of(method).items()
    }
    model = compose([make(method, found)], ROWS, base).model()
    up, down = (found[f"lowrank.layers.1.down_proj.{f}"].astype(np.float64) for f in ("up", "down"))
    before = base.tensors["model.layers.1.mlp.down_proj.weight"].load().double().numpy()
    expert = model.body.model.layers[1].mlp.experts["of-ash"]
    assert np.array_equal(expert.down_proj.weight.detach().numpy(), (before + up @ down).astype(np.float32))


def lora(**tensors: Any) -> tuple[ExpertMethod, dict[str, Any]]:
    found = {f"lora.{QUERY}.a": np.ones((2, 32)), f"lora.{QUERY}.b": np.ones((32, 2))}
    changed = {**found, **{f"lora.{name}": value for name, value in tensors.items()}}
    return ExpertMethod(lora=LoRAExpert(rank=2, scaling=0.5)), {n: t for n, t in changed.items() if t is not None}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{QUERY}.a": None}, rf"'lora\.{QUERY}\.a'.*is missing"),
        ({f"{QUERY}.b": None}, rf"'lora\.{QUERY}\.b'.*is missing"),
        ({f"{QUERY}.a": np.ones((3, 32))}, r"\[3, 32\].*\[2, 32\]"),
        ({f"{QUERY}.b": np.ones((31, 2))}, r"\[31, 2\].*\[32, 2\]"),
        ({"model.layers.9.x.weight.a": np.ones((2, 32))}, r"'lora\.model\.layers\.9\.x\.weight'.*not in the base's"),
        ({f"{NORM}.a": np.ones((2, 32)), f"{NORM}.b": np.ones((1, 2))}, "no matrix"),
        ({f"{QUERY}.c": np.ones((2, 32))}, rf"'lora\.{QUERY}\.c'.*neither factor"),
    ],
)
def test_factors_that_fit_no_matrix_of_the_base_are_refused(
    tensors: dict[str, Any], words: str, make: Make, tiny_base: Bases
) -> None:
    with pytest.raises(TensorMismatch, match=words):
        compose([make(*lora(**tensors))], Soup(), tiny_base("llama"))


def test_what_lora_does_not_name_does_not_change(make: Make, tiny_base: Bases) -> None:
    base = tiny_base("llama")
    found = full_deltas(make(*lora()), base)
    assert found.keys() == base.tensors.keys()
    assert torch.equal(found[QUERY].load(), torch.full((32, 32), 1.0, dtype=torch.float64))
    for name, source in base.tensors.items():
        assert found[name].shape == source.shape
        assert name == QUERY or not found[name].load().any()


def test_a_whole_model_is_no_feed_forward_expert(make: Make, tiny_base: Bases) -> None:
    with pytest.raises(MissingPart, match="needs the part 'ffn', and it holds lora"):
        compose([make(*lora())], ROWS, tiny_base("llama"))


def test_factors_of_a_higher_rank_than_the_matrix_are_refused(make: Make, tiny_base: Bases) -> None:
    found = {f"lora.{QUERY}.a": np.ones((33, 32)), f"lora.{QUERY}.b": np.ones((32, 33))}
    with pytest.raises(TensorMismatch, match=rf"'lora\.{QUERY}'.*of rank 33, and the base's matrix of 32"):
        compose([make(ExpertMethod(lora=LoRAExpert(rank=33, scaling=0.5)), found)], Soup(), tiny_base("llama"))


def overflowing(kind: str) -> tuple[Any, ExpertMethod, dict[str, Any]]:
    """A method, and a contribution of finite numbers that make an infinity in it."""
    if kind == "lowrank":
        method = routed(LowRankExpert)
        return ROWS, method, {n: np.full_like(t, 1.0 if "router" in n else 1e30) for n, t in tensors_of(method).items()}
    if kind == "moments":
        method = routed(FFNExpert)
        moments = {f"moments.layers.{n}.{name}": np.full(32, value) for n in (0, 1) for name, value in MOMENTS.items()}
        return LDA, method, tensors_of(method) | moments
    huge = np.finfo(np.float32).max if kind == "scaling" else 1e30
    found = {f"lora.{QUERY}.a": np.full((2, 32), huge), f"lora.{QUERY}.b": np.full((32, 2), huge)}
    method = ExpertMethod(lora=LoRAExpert(rank=2, scaling=1e300 if kind == "scaling" else 1.0))
    return {"ties": Ties(), "alone": Alone("full"), "ensemble": Ensemble()}.get(kind, Soup()), method, found


MOMENTS = {"mean": 1e300, "second": 1.0}
LDA = MixtureOfExperts(ResidualLDA(covariance="public"))


@pytest.mark.parametrize("kind", ["lowrank", "moments", "lora", "scaling", "ties", "alone", "ensemble"])
def test_no_infinity_is_composed_of_finite_numbers(kind: str, make: Make, tiny_base: Bases, tmp_path: Path) -> None:
    method, expert, tensors = overflowing(kind)
    base = tiny_base("llama")
    statistics = (ResidualMomentsStatistic(layers=2, hidden_size=32, second="diagonal", rows=9),)
    given = make(expert, tensors, statistics if kind == "moments" else ())
    ordinary = [Source.of(torch.ones(32, dtype=torch.float64))] * 2
    composite = compose([given], method, base, public={"moments": ResidualMoments(ordinary, ordinary, 9)})
    with pytest.raises(CheckpointError, match=r"tensor '.*' of the composed model: what is computed for it is not fin"):
        composite.save(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"ash"}
    with pytest.raises(CheckpointError, match="is not finite"):
        composite.model()
    if kind != "moments":
        (told,) = screen([given], base).contributions
        assert told.weights is not None
        assert 1e20 < told.weights.size < math.inf
