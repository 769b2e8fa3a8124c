"""The small training loop: order of rows, resumption, refusals."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
import torch

from quiltwork.errors import Interrupted, InvalidOption
from quiltwork.party.steps import StepPlan, batch_rows, optimise

PLAN = StepPlan(steps=23, batch_size=8, learning_rate=0.05, seed=3, save_every=5)
X = torch.linspace(-1, 1, 30)[:, None]


def problem():
    weight = torch.zeros(1, requires_grad=True)
    return {"w": weight}, lambda rows: ((X[rows] @ weight - 2 * X[rows, 0]) ** 2).mean()


def test_every_epoch_takes_each_row_once_in_an_order_of_its_own():
    plan = replace(PLAN, batch_size=10)
    first, second = (torch.cat([batch_rows(plan, 30, step) for step in range(s, s + 3)]) for s in (0, 3))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(30))
    assert first.tolist() != second.tolist()
    assert len(batch_rows(replace(PLAN, batch_size=64), 30, 0)) == 30


def test_it_learns_and_equal_runs_give_equal_bytes():
    runs = []
    for _ in range(2):
        tensors, loss = problem()
        losses = optimise(tensors, loss, 30, replace(PLAN, steps=200))
        runs.append((tensors["w"].item(), losses))
    assert runs[0] == runs[1]
    assert runs[0][0] == pytest.approx(2.0, abs=0.02)


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path):
    tensors, loss = problem()
    whole = optimise(tensors, loss, 30, PLAN)
    state, again = tmp_path / "state", problem()[0]
    calls = 0

    def stopping(rows):
        nonlocal calls
        calls += 1
        if calls == 9:
            signal.raise_signal(signal.SIGINT)
        return ((X[rows] @ again["w"] - 2 * X[rows, 0]) ** 2).mean()

    with pytest.raises(Interrupted, match=r"step 9 of 23.*goes on"):
        optimise(again, stopping, 30, PLAN, state=state)
    assert state.stat().st_mode & 0o077 == 0
    with torch.no_grad():
        again["w"].fill_(7.0)
    resumed = optimise(again, stopping, 30, PLAN, state=state)
    assert resumed == whole
    assert torch.equal(again["w"], tensors["w"])
    assert optimise(again, stopping, 30, PLAN, state=state) == whole


def test_a_state_of_another_run_is_refused(tmp_path):
    state = tmp_path / "state"
    tensors, loss = problem()
    optimise(tensors, loss, 30, PLAN, state=state)
    for changes in ({"plan": replace(PLAN, seed=4)}, {"subject": "other"}, {"rows": 29}):
        arguments = {"rows": 30, "plan": PLAN, "subject": ""} | changes
        with pytest.raises(InvalidOption, match="another plan"):
            optimise(tensors, loss, arguments["rows"], arguments["plan"], state=state, subject=arguments["subject"])
    state.write_bytes(b"nothing of ours")
    with pytest.raises(InvalidOption, match="no state"):
        optimise(tensors, loss, 30, PLAN, state=state)


def test_divergence_is_told():
    tensors, _ = problem()
    with pytest.raises(InvalidOption, match="diverged"):
        optimise(tensors, lambda rows: tensors["w"].sum() * float("nan"), 30, PLAN)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"learning_rate": float("inf")}, {"weight_decay": -1.0}, {"seed": -1}])
def test_plans_outside_their_domain_are_refused(wrong):
    with pytest.raises(InvalidOption, match=next(iter(wrong))):
        StepPlan(**wrong)
