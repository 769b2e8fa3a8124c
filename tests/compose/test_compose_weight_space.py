"""Task arithmetic, TIES and DARE of whole models: every tensor against the formula, and what copies compose to."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quiltwork.compose.alone import Alone
from quiltwork.compose.dare import Dare
from quiltwork.compose.method import Method, compose
from quiltwork.compose.soup import Soup
from quiltwork.compose.task_arithmetic import TaskArithmetic
from quiltwork.compose.ties import Ties
from quiltwork.composite import Composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import InvalidOption, MissingPart
from quiltwork.models.base import Base
from quiltwork.models.merging import kept_entries

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]


def tensors(composite: Composite) -> dict[str, torch.Tensor]:
    return {name: source.load() for name, source in composite.assembly.checkpoint("portable").tensors().items()}


def start(base: Base, name: str) -> torch.Tensor:
    return base.tensors[name].load().double()


def deltas(found: list[Contribution], name: str) -> list[torch.Tensor]:
    return [c.tensor(f"full.{name}").double() for c in found]


@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_task_arithmetic_adds_scaled_differences(family: str, tiny_base: Bases, contributions: Parts) -> None:
    base, found = tiny_base(family), contributions(family)
    for name, tensor in tensors(compose(found, TaskArithmetic(0.6, weights={"birch": 2.0}), base)).items():
        one, two, three = deltas(found, name)
        expected = start(base, name) + 0.6 * (one + 2 * two + three)
        torch.testing.assert_close(tensor, expected.float(), rtol=1.5e-7, atol=0)


@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_ties_is_what_peft_makes_of_the_differences(family: str, tiny_base: Bases, contributions: Parts) -> None:
    from peft.utils.merge_utils import ties

    base, found = tiny_base(family), contributions(family)
    weights = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    for name, tensor in tensors(compose(found, Ties(0.4, 0.9, weights={"cedar": 0.5}), base)).items():
        expected = start(base, name) + 0.9 * ties(deltas(found, name), weights, density=0.4)
        torch.testing.assert_close(tensor, expected.float(), rtol=1.5e-7, atol=0)


def test_dare_sums_what_the_masks_leave(tiny_base: Bases, contributions: Parts) -> None:
    base, found = tiny_base("olmo2"), contributions("olmo2")
    for name, tensor in tensors(compose(found, Dare(0.3, scale=0.8, seed=4), base)).items():
        expected = start(base, name).numpy()
        for contribution, delta in zip(found, deltas(found, name), strict=True):
            mask = kept_entries(4, contribution.party, name, tuple(delta.shape), 0.3)
            expected = expected + 0.8 * np.where(mask, delta.numpy(), 0) / 0.3
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1.5e-7, atol=0)


def named(contribution: Contribution, party: str, place: Path) -> Contribution:
    """The same release under another name."""
    manifest = contribution.manifest
    draft = Draft(
        party=party,
        base=manifest.base,
        method=manifest.method,
        tensors={name: contribution.tensor(name) for name in contribution.tensor_names()},
        licence=manifest.licence,
        training=manifest.training,
        statistics=manifest.statistics,
        privacy=manifest.privacy,
        card=manifest.card,
    )
    return write(place, draft)


@pytest.mark.parametrize("method", [TaskArithmetic(1 / 3), Ties(1.0, 1.0), Dare(1.0, elect=True, scale=1.0)])
def test_copies_of_a_model_compose_to_it_at_the_scale_that_says_so(
    method: Method, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    base, one = tiny_base("olmo2"), contributions("olmo2")[0]
    copies = [one, named(one, "bark", tmp_path / "bark"), named(one, "bough", tmp_path / "bough")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns of a density of one
        composed, alone = tensors(compose(copies, method, base)), tensors(compose([one], Alone("full"), base))
    for name, tensor in alone.items():
        torch.testing.assert_close(composed[name], tensor, rtol=1.5e-7, atol=0)
    doubled = tensors(compose(copies, TaskArithmetic(2 / 3), base))
    assert any(not torch.allclose(doubled[name], tensor) for name, tensor in alone.items())


def test_at_one_over_n_task_arithmetic_is_the_soup_bit_for_bit(tiny_base: Bases, contributions: Parts) -> None:
    base, found = tiny_base("llama"), contributions("llama")
    soup, sum_ = tensors(compose(found, Soup(), base)), tensors(compose(found, TaskArithmetic(1 / 3), base))
    assert all(torch.equal(soup[name], sum_[name]) for name in soup)


def test_the_base_has_no_weight_and_full_experts_are_needed(
    tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    base, found = tiny_base("olmo2"), contributions("olmo2")
    for method in (TaskArithmetic(weights={"base": 1.0}), Ties(weights={"base": 1.0}), Dare(weights={"base": 1.0})):
        with pytest.raises(InvalidOption, match="a weight of 'base'"):
            compose(found, method, base)
    with pytest.raises(InvalidOption, match="seed=-1"):
        Dare(seed=-1)
    manifest = found[0].manifest
    ffn = manifest.method.model_copy(update={"full": None})
    kept = {n: found[0].tensor(n) for n in found[0].tensor_names() if not n.startswith("full.")}
    draft = Draft(
        party="ash",
        base=manifest.base,
        method=ffn,
        tensors=kept,
        statistics=manifest.statistics,
        training=manifest.training,
        privacy=[event for event in manifest.privacy if event.released != "full"],
        licence="CC0-1.0",
    )
    with pytest.raises(MissingPart, match="'ash'"):
        compose([write(tmp_path / "ash", draft)], Ties(), base)
