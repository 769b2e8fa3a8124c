"""Components: gradients by cotangents, numbers drawn by name, digests, states."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies
from torch import nn

from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, Standardised, Summed, mlp
from quiltwork.models.split.saving import load_component, restore, save_component, state_of
from quiltwork.models.split.seeds import drawing, seed_of

ROWS = torch.linspace(-1, 1, 12).reshape(4, 3)


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))


@pytest.mark.parametrize("stash", [False, True])
def test_a_step_follows_the_jacobian(stash: bool) -> None:
    plan = OptimiserPlan("sgd", learning_rate=0.5, momentum=0.0)
    one = Component.built(lambda: mlp(3, 2, [4]), plan, name="ash", stash=stash)
    before = {n: p.detach().clone() for n, p in one.module.named_parameters()}
    cotangent = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    one.forward(ROWS, 0)
    one.backward(cotangent, 0)

    def output(*weights: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(one.module, dict(zip(before, weights, strict=True)), (ROWS,))
        return found

    jacobians = torch.autograd.functional.jacobian(output, tuple(before.values()))
    for (name, old), jacobian in zip(before.items(), jacobians, strict=True):
        expected = old - 0.5 * torch.tensordot(cotangent, jacobian, dims=2)
        torch.testing.assert_close(dict(one.module.named_parameters())[name].detach(), expected)


def test_rounds_wait_for_their_own_cotangents() -> None:
    one = Component.built(lambda: nn.Linear(3, 2), name="ash")
    one.forward(ROWS, 0)
    with pytest.raises(InvalidOption, match="still due"):
        one.forward(ROWS, 1)
    with pytest.raises(InvalidOption, match="no activation"):
        one.backward(torch.ones(4, 2), 1)
    with pytest.raises(InvalidOption, match="no activation"):
        one.backward(torch.ones(4, 3), 0)
    one.backward(torch.ones(4, 2), 0)
    with pytest.raises(InvalidOption, match="no activation"):
        one.backward(torch.ones(4, 2), 0)
    late = Component.built(lambda: nn.Linear(3, 2), name="ash", stash=True)
    late.forward(ROWS, 0)
    late.forward(ROWS, 1)
    with pytest.raises(InvalidOption, match="still due"):
        late.forward(ROWS, 2)
    late.forget()
    late.forward(ROWS, 2)


def test_modules_that_give_no_rows_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"\[rows, width\]"):
        Component(nn.Identity(), name="ash").forward(torch.ones(4, 3, 2), 0)
    with pytest.raises(InvalidOption, match=r"\[rows, width\]"):
        Component(nn.Flatten(0), name="ash").predict(ROWS)


def test_a_module_without_parameters_takes_cotangents() -> None:
    one = Component(nn.Identity(), name="ash")
    digest = one.digest()
    assert one.forward(ROWS, 0).equal(ROWS)
    one.backward(ROWS, 0)
    assert one.digest() == digest


def test_what_is_drawn_is_keyed_by_name_and_round() -> None:
    def activations(name: str, round_: int, seed: int = 0) -> torch.Tensor:
        one = Component.built(dropping, name="same start", seed=seed)
        one.name = name
        return one.forward(ROWS, round_)

    assert activations("ash", 1).equal(activations("ash", 1))
    assert not activations("ash", 1).equal(activations("ash", 2))
    assert not activations("ash", 1).equal(activations("birch", 1))
    one, other = (Component.built(lambda: nn.Linear(3, 2), name=name) for name in ("ash", "birch"))
    assert one.digest() != other.digest()


def test_drawing_leaves_the_caller_s_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with drawing(1):
        torch.rand(7)
    with pytest.raises(TypeError), drawing(1):
        torch.rand("seven")  # type: ignore[arg-type]
    Component.built(dropping, name="ash").forward(ROWS, 0)
    assert torch.rand(3).equal(expected)


@given(strategies.integers(0, 2**63), strategies.text(max_size=5), strategies.text(max_size=5))
def test_seeds_are_numbers_that_torch_takes(master: int, one: str, other: str) -> None:
    assert 0 <= seed_of(master, one) < 2**63
    assert (seed_of(master, one) == seed_of(master, other)) == (one == other)


def test_predictions_are_without_dropout_and_leave_no_trace() -> None:
    one = Component.built(dropping, name="ash")
    digest = one.digest()
    assert one.predict(ROWS).equal(one.predict(ROWS))
    assert one.digest() == digest
    assert one.module.training
    assert not one.predict(ROWS).requires_grad


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean", "1.num_batches_tracked", "3.bias"])
def test_every_tensor_is_in_the_digest(name: str) -> None:
    one = Component.built(dropping, name="ash")
    digest = one.digest()
    one.module.state_dict()[name].view(-1)[0] += 1
    assert one.digest() != digest


def stepped(one: Component, rounds: range) -> Component:
    for round_ in rounds:
        one.backward(one.forward(ROWS, round_) - 1, round_)
    return one


def test_a_saved_component_is_for_its_writer_alone(tmp_path: Path) -> None:
    before = os.umask(0)  # under which a plain file is for everybody
    try:
        save_component(Component.built(lambda: nn.Linear(3, 2), name="ash"), tmp_path / "state.safetensors")
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert [(tmp_path / n).stat().st_mode & 0o777 for n in ("state.safetensors", "plain")] == [0o600, 0o666]


@pytest.mark.parametrize("plan", [OptimiserPlan("adam"), OptimiserPlan("sgd", momentum=0.9, weight_decay=0.1)])
def test_a_saved_component_goes_on_bit_for_bit(plan: OptimiserPlan, tmp_path: Path) -> None:
    one = stepped(Component.built(dropping, plan, name="ash"), range(3))
    save_component(one, tmp_path / "state.safetensors")
    other = Component.built(dropping, plan, name="ash")
    other.forward(ROWS, 99)
    load_component(other, tmp_path / "state.safetensors")
    assert other.digest() == one.digest()
    stepped(one, range(3, 6))
    assert stepped(other, range(3, 6)).digest() == one.digest()
    forgetful = Component.built(dropping, plan, name="ash")
    module_alone = load_without_moments(tmp_path / "state.safetensors")
    restore(forgetful, module_alone)
    assert stepped(forgetful, range(3, 6)).digest() != one.digest(), "the optimiser's moments matter"


def load_without_moments(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {name: tensor for name, tensor in load_file(path).items() if name.startswith("module/")}


def test_states_that_cannot_be_used(tmp_path: Path) -> None:
    one = Component.built(lambda: nn.Linear(3, 2), name="ash")
    with pytest.raises(InvalidOption, match="cannot be read"):
        load_component(one, tmp_path / "nowhere")
    with pytest.raises(InvalidOption, match="another module"):
        restore(one, state_of(Component.built(dropping, name="ash")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "lion"},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1},
    ],
    ids=str,
)
def test_plans_refuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        OptimiserPlan(**wrong)


def test_composers_are_functions_of_the_list() -> None:
    one, two = ROWS, ROWS.flip(0)
    assert Concatenated(nn.Identity())([one, two]).equal(torch.hstack([one, two]))
    assert Summed(nn.Identity())([one, two, one]).equal(one + two + one)
    assert [type(layer).__name__ for layer in mlp(3, 2, [])] == ["Linear"]


def test_standardised_columns_have_mean_zero_and_deviation_one() -> None:
    rows = torch.stack([torch.arange(5.0), torch.full((5,), 3.0)], 1)
    found = Standardised(rows)(rows)
    torch.testing.assert_close(found.mean(0), torch.zeros(2))
    torch.testing.assert_close(found.std(0, correction=0), torch.tensor([1.0, 0.0]))
