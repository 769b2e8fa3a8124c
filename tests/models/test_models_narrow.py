"""Narrow experts in composed checkpoints: native ones keep their width, portable ones are padded, and all agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.composite import open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.base import Base
from quiltwork.party.contribute import Order, contribute
from quiltwork.party.fragment import open_fragment
from quiltwork.party.scopes import FFNScope, LowRankScope
from quiltwork.training.loop import TrainingPlan

Bases = Callable[[str], Base]
SCOPES = {"ash": FFNScope(width=11), "birch": LowRankScope(rank=3), "cedar": FFNScope()}


@pytest.fixture(scope="module")
def mixed(
    tiny_base: Bases, fragments: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Contribution]]:
    """A narrow, a low-rank and an ordinary expert."""
    place, made = tmp_path_factory.mktemp("mixed"), {}

    def build(family: str) -> list[Contribution]:
        if family not in made:
            plan = TrainingPlan(steps=4, batch_size=4, sequence_length=16, learning_rate=1e-2)
            with torch.enable_grad():
                made[family] = [
                    contribute(
                        tiny_base(family),
                        open_fragment([fragments[party]]),
                        place / family / party,
                        Order(party=party, scopes=(scope,), plan=plan),
                        force_cpu=True,
                    )
                    for party, scope in SCOPES.items()
                ]
        return list(made[family])

    return build


def logits(model: object) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 25).reshape(2, 12), use_cache=False).logits  # type: ignore[operator]


@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_both_layouts_hold_the_same_function(
    family: str, mixed: Callable[[str], list[Contribution]], tiny_base: Bases, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_base(family)
    composite = compose(mixed(family), MixtureOfExperts(LearnedRows()), base)
    native = composite.save(tmp_path / "native", layout="native")
    portable = composite.save(tmp_path / "portable", layout="portable")
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (native, portable)]
    assert models[0].config.widths == [11, 48, 48]
    widths = [expert.up_proj.out_features for expert in models[0].body.model.layers[0].mlp.experts.values()]
    assert widths == [48, 11, 48, 48]
    torch.testing.assert_close(logits(models[0]), logits(models[1]), rtol=0, atol=2e-6)
    assert torch.equal(logits(models[0]), logits(composite.model()))
    sizes = [(path / "expert-ash.safetensors").stat().st_size for path in (native, portable)]
    weights = 2 * 3 * 32 * 4  # layers, projections, hidden, bytes
    assert sizes[1] - sizes[0] == pytest.approx(weights * (48 - 11), abs=200)


def test_native_weights_of_a_narrow_expert_are_those_that_left(
    mixed: Callable[[str], list[Contribution]], tiny_base: Bases, tmp_path: Path
) -> None:
    found = mixed("llama")
    compose(found, MixtureOfExperts(LearnedRows()), tiny_base("llama")).save(tmp_path / "out", layout="native")
    with safe_open(tmp_path / "out" / "expert-ash.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            layer, role = name.split(".")[3], name.split(".")[-2]
            left = found[0].tensor(f"ffn.layers.{layer}.{role}.weight")
            assert torch.equal(file.get_tensor(name), left)


@pytest.mark.parametrize("layout", ["native", "portable"])
@pytest.mark.parametrize("party", list(SCOPES))
def test_a_party_leaves_in_memory_and_from_disk(
    party: str, layout: str, mixed: Callable[[str], list[Contribution]], tiny_base: Bases, tmp_path: Path
) -> None:
    base, found = tiny_base("olmo2"), mixed("olmo2")
    whole = compose(found, MixtureOfExperts(LearnedRows()), base)
    rest = compose([c for c in found if c.party != party], MixtureOfExperts(LearnedRows()), base)
    whole.save(tmp_path / "whole", layout=layout)  # type: ignore[arg-type]
    rest.save(tmp_path / "never", layout=layout)  # type: ignore[arg-type]
    whole.without(party).save(tmp_path / "without", layout=layout)  # type: ignore[arg-type]
    open_composite(tmp_path / "whole").without(party).save(tmp_path / "disk", layout=layout)  # type: ignore[arg-type]
    expected = {p.name: p.read_bytes() for p in (tmp_path / "never").iterdir()}
    for other in ("without", "disk"):
        assert {p.name: p.read_bytes() for p in (tmp_path / other).iterdir()} == expected
