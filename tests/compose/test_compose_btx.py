"""BTX before tuning: an averaged body, each party's own feed-forward blocks, rows that nobody else matters to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quiltwork.compose.btx import BTX
from quiltwork.compose.method import compose
from quiltwork.composite import open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import ExportError, InvalidOption
from quiltwork.models.base import Base
from quiltwork.models.slots import slot_key

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]


@pytest.mark.parametrize("weights", [{}, {"base": 3.0, "ash": 0.5}])
@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_the_body_is_the_mean_and_experts_are_their_owners(
    family: str, weights: dict[str, float], tiny_base: Bases, contributions: Parts
) -> None:
    base, found = tiny_base(family), contributions(family)
    tensors = compose(found, BTX(weights=weights), base).assembly.checkpoint("native").tensors()
    shares = {c.party: weights.get(c.party, 1.0) for c in found}
    total = weights.get("base", 1.0) + sum(shares.values())
    for name, source in base.tensors.items():
        start = source.load().double().numpy()
        deltas = {c.party: c.tensor(f"full.{name}").double().numpy() for c in found}
        if ".mlp." not in name:
            mean = start + sum(shares[p] / total * deltas[p] for p in deltas)
            # the order of the additions in float64 may decide how one entry in ten thousand is rounded to float32
            np.testing.assert_allclose(tensors["body." + name].load().numpy(), mean, rtol=1.5e-7, atol=0)
            continue
        layer, role = name.split(".")[2], name.split(".")[4]
        place = f"body.model.layers.{layer}.mlp.experts.{{}}.{role}.weight"
        np.testing.assert_array_equal(tensors[place.format("base")].load().numpy(), source.load().numpy())
        for party, delta in deltas.items():
            expert = tensors[place.format(slot_key(party))].load().numpy()
            np.testing.assert_array_equal(expert, (start + delta).astype(np.float32))


def test_first_rows_differ_and_depend_on_nobody_else(tiny_base: Bases, contributions: Parts) -> None:
    base, found = tiny_base("olmo2"), contributions("olmo2")
    name = "body.model.layers.1.mlp.router.weight"
    three, two, other = (
        compose(parties, BTX(seed=seed), base).assembly.checkpoint("native").tensors()[name].load().numpy()
        for parties, seed in ((found, 0), (found[1:], 0), (found, 1))
    )
    assert not three[0].any()
    assert not two[0].any()
    np.testing.assert_array_equal(three[2:], two[1:])
    assert len({tuple(row) for row in (*three, *other)}) == 7
    assert abs(three[1:].std() - 0.02) < 0.005


def test_a_saved_one_loses_nobody(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    composite = compose(contributions("olmo2"), BTX(), tiny_base("olmo2"))
    assert composite.without("birch").parties == ("ash", "cedar")
    composite.save(tmp_path / "btx")
    opened = open_composite(tmp_path / "btx")
    assert opened.provenance == composite.provenance
    with pytest.raises(ExportError, match=r"birch.*average") as caught:
        opened.without("birch")
    assert "quiltwork compose" in caught.value.mend


@pytest.mark.parametrize(("options", "what"), [({"top_k": 0}, "top_k=0"), ({"seed": -1}, "seed=-1")])
def test_options_outside_their_domain_are_refused(options: dict[str, int], what: str) -> None:
    with pytest.raises(InvalidOption, match=what):
        BTX(**options)  # type: ignore[arg-type]
