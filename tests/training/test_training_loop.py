"""The training loop against a loop written out by hand, and a run with stops against one without."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook

from quiltwork.errors import Interrupted, InvalidOption, StorageError
from quiltwork.models.base import Base
from quiltwork.party.scopes import FFNScope, FullScope, Scope
from quiltwork.training.loop import TrainingPlan, train

VOCABULARY, LENGTH = 16, 8
PLAN = TrainingPlan(steps=6, batch_size=4, sequence_length=LENGTH, learning_rate=1e-2, save_every=2)


class Toy(nn.Module):
    """The smallest language model: the next token from this one, some of them hidden at random."""

    def __init__(self, hidden_share: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(VOCABULARY, dtype=torch.float64), requires_grad=False)
        self.hidden_share = hidden_share

    def forward(self, input_ids: Tensor, labels: Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        logits = self.table[input_ids] * self.frozen
        if self.hidden_share:
            logits = logits * (torch.rand(input_ids.shape) > self.hidden_share)[..., None]
        flat = logits[:, :-1].reshape(-1, VOCABULARY)
        return SimpleNamespace(loss=functional.cross_entropy(flat, labels[:, 1:].reshape(-1)))


def blocks(length: int = LENGTH, vocabulary: int = VOCABULARY, on_block: Callable[[int], None] = lambda _: None) -> Any:
    """An endless stream, the same at each call; ``on_block`` hears the number of each block."""

    def make() -> Iterator[np.ndarray]:
        random, number = np.random.default_rng(0), 0
        while True:
            on_block(number)
            number += 1
            yield random.integers(0, vocabulary, length)

    return make


def run(model: nn.Module, plan: TrainingPlan = PLAN, stream: Any = None, **more: Any) -> list[float]:
    return train(model, stream or blocks(), plan, force_cpu=True, **more).losses


def weights(model: nn.Module) -> dict[str, bytes]:
    """Every tensor as bytes, so that equal means bit for bit."""
    return {name: t.detach().contiguous().view(torch.uint8).numpy().tobytes() for name, t in model.state_dict().items()}


def at_block(number: int, action: Callable[[], None]) -> Callable[[int], None]:
    return lambda current: action() if current == number else None


def send(number: signal.Signals) -> Callable[[], None]:
    return lambda: signal.raise_signal(number)


# what is computed -----------------------------------------------------


def by_hand(plan: TrainingPlan) -> Tensor:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) with clipping by norm, in plain tensor arithmetic."""
    model, stream = Toy(), blocks()()
    x = model.table.detach().clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(plan.steps):
        ids = torch.from_numpy(np.stack([next(stream) for _ in range(plan.batch_size)]))
        model.table.data, model.table.grad = x, None
        model(ids, ids, False).loss.backward()
        gradient = model.table.grad
        assert gradient is not None
        gradient = gradient * min(1.0, plan.clip / (float(gradient.norm()) + 1e-6))
        rate = plan.learning_rate * closed_form(plan, step)
        first = 0.9 * first + 0.1 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        x = x - rate * plan.weight_decay * x
        corrected = second / (1 - 0.95 ** (step + 1))
        x = x - rate * first / (1 - 0.9 ** (step + 1)) / (corrected.sqrt() + 1e-8)
    return x


def closed_form(plan: TrainingPlan, step: int) -> float:
    warm = max(1, round(plan.warmup * plan.steps))
    if step < warm:
        return (step + 1) / warm
    angle = math.pi * (step - warm) / (plan.steps - warm)
    return plan.final_rate + (1 - plan.final_rate) * (1 + math.cos(angle)) / 2


@pytest.mark.parametrize("changes", [{}, {"clip": 0.01}, {"weight_decay": 0.5}, {"steps": 12, "warmup": 0.5}])
def test_training_is_adamw_written_out_by_hand(changes: dict[str, Any]) -> None:
    plan = replace(PLAN, **changes)
    model = Toy()
    run(model, plan)
    torch.testing.assert_close(model.table.detach(), by_hand(plan), rtol=1e-9, atol=1e-11)
    other = by_hand(replace(plan, clip=0.02, weight_decay=0.1, learning_rate=0.02))
    assert not torch.allclose(model.table.detach(), other, rtol=1e-4)


@contextmanager
def rates_used() -> Iterator[list[float]]:
    used: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    try:
        yield used
    finally:
        handle.remove()


@pytest.mark.parametrize(("accumulation", "final_rate"), [(1, 0.1), (2, 0.0)])
def test_each_step_uses_the_rate_of_the_schedule(accumulation: int, final_rate: float) -> None:
    plan = replace(PLAN, steps=20, warmup=0.2, accumulation=accumulation, final_rate=final_rate)
    with rates_used() as used:
        run(Toy(), plan)
    assert used == pytest.approx([plan.learning_rate * closed_form(plan, step) for step in range(20)])


def test_the_schedule_rises_to_the_peak_and_falls_to_its_end() -> None:
    plan = TrainingPlan(steps=100, warmup=0.1, final_rate=0.25)
    rates = [plan.rate(step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[9] == rates[10] == 1.0
    assert all(early > late for early, late in pairwise(rates[10:]))
    assert rates[55] == pytest.approx((1 + 0.25) / 2)
    assert rates[100] == pytest.approx(0.25)
    assert TrainingPlan(steps=1, warmup=0.0).rate(0) == 1.0
    assert TrainingPlan(steps=5, warmup=1.0).rate(4) == 1.0


@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulated_gradients_are_those_of_the_big_batch(accumulation: int) -> None:
    whole, parts, other = Toy(), Toy(), Toy()
    one = run(whole)
    two = run(parts, replace(PLAN, accumulation=accumulation))
    torch.testing.assert_close(whole.table, parts.table, rtol=1e-9, atol=1e-12)
    assert one == pytest.approx(two)
    run(other, replace(PLAN, batch_size=PLAN.batch_size // accumulation))
    assert not torch.allclose(whole.table, other.table, rtol=1e-4)


@pytest.mark.parametrize("scope", [FFNScope(bias=-0.1), FullScope()], ids=["ffn", "full"])
def test_accumulation_on_a_language_model(tiny_base: Callable[[str], Base], scope: Scope) -> None:
    whole, parts = (trained(tiny_base("llama"), scope, accumulation=n).state_dict() for n in (1, 4))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-3, atol=2e-5)
    other = trained(tiny_base("llama"), scope, batch_size=2).state_dict()
    assert any(not torch.allclose(whole[name], other[name], rtol=1e-2, atol=1e-3) for name in whole)


def test_only_what_requires_a_gradient_moves_and_the_loss_falls() -> None:
    model = Toy()
    losses = run(model, replace(PLAN, steps=40, learning_rate=0.1))
    assert torch.equal(model.frozen, torch.ones_like(model.frozen))
    assert losses[-1] < losses[0]
    assert not model.training


def test_the_result_counts_steps_and_tokens() -> None:
    result = train(Toy(), blocks(), replace(PLAN, accumulation=2), force_cpu=True)
    assert len(result.losses) == 6
    assert result.tokens == 6 * 4 * LENGTH
    assert result.seconds >= 0
    ids = torch.from_numpy(np.stack([block for block, _ in zip(blocks()(), range(4), strict=False)]))
    assert result.losses[0] == pytest.approx(float(Toy()(ids, ids, False).loss.detach()))


# determinism ----------------------------------------------------------


def trained(base: Base, scope: Scope, **changes: Any) -> nn.Module:
    model = base.load_model()
    scope.prepare(model, "ash")
    plan = replace(PLAN, sequence_length=16, **changes)
    run(model, plan, blocks(16, base.vocabulary_size))
    return model


@pytest.mark.parametrize("scope", [FFNScope(), FullScope()], ids=["ffn", "full"])
def test_equal_seeds_give_equal_bytes(tiny_base: Callable[[str], Base], scope: Scope) -> None:
    base = tiny_base("olmo2")
    first = weights(trained(base, scope))
    torch.manual_seed(77)
    assert weights(trained(base, scope)) == first


def test_another_seed_draws_otherwise() -> None:
    models = [Toy(hidden_share=0.5) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        run(model, replace(PLAN, seed=seed))
    assert weights(models[0]) == weights(models[1]) != weights(models[2])


def test_the_precision_is_that_of_this_run_and_not_of_an_earlier_one(tiny_base: Callable[[str], Base]) -> None:
    base = tiny_base("llama")
    plain, mixed, again = (trained(base, FullScope(), precision=p) for p in ("no", "bf16", "no"))
    assert weights(plain) == weights(again) != weights(mixed)
    assert all(p.dtype == torch.float32 for p in mixed.parameters())
    ids = torch.arange(1, 9)[None]
    fresh = base.load_model()
    fresh.load_state_dict(mixed.state_dict())
    assert torch.equal(mixed(input_ids=ids).logits, fresh(input_ids=ids).logits)  # no autocast stays behind


# interrupt and resume -------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_the_state_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=r"ash: training at step \d of 6: it was told to stop\. Run the same command"):
        run(Toy(), stream=blocks(on_block=at_block(9, send(number))), state_dir=tmp_path, label="ash: training")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["plan.json", stored["state"]])
    assert 1 <= len(stored["losses"]) < 6


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_ends_with_the_bytes_of_one_without_stops(tmp_path: Path, accumulation: int) -> None:
    plan = replace(PLAN, accumulation=accumulation)
    whole, first, second = (Toy(hidden_share=0.5) for _ in range(3))
    losses = run(whole, plan)
    with pytest.raises(Interrupted):
        run(first, plan, blocks(on_block=at_block(10, send(signal.SIGINT))), state_dir=tmp_path)
    torch.manual_seed(123)
    assert run(second, plan, state_dir=tmp_path) == losses
    assert weights(second) == weights(whole)


def test_negative_control_without_the_random_numbers_a_resumed_run_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = Toy(hidden_share=0.5), Toy(hidden_share=0.5)
    run(whole)
    with pytest.raises(Interrupted):
        run(Toy(hidden_share=0.5), stream=blocks(on_block=at_block(10, send(signal.SIGINT))), state_dir=tmp_path)
    for file in tmp_path.glob("step-*/random_states_*.pkl"):
        file.unlink()
    run(resumed, state_dir=tmp_path)
    assert weights(resumed) != weights(whole)


@pytest.mark.parametrize("scope", [FFNScope(bias=-0.1), FullScope()], ids=["ffn", "full"])
def test_resuming_a_language_model(tiny_base: Callable[[str], Base], scope: Scope, tmp_path: Path) -> None:
    base = tiny_base("olmo2")
    plan = replace(PLAN, sequence_length=16)
    whole = trained(base, scope)
    for stop in (9, 17):
        model = base.load_model()
        scope.prepare(model, "ash")
        stream = blocks(16, base.vocabulary_size, at_block(stop, send(signal.SIGINT)))
        with pytest.raises(Interrupted):
            run(model, plan, stream, state_dir=tmp_path)
    resumed = base.load_model()
    scope.prepare(resumed, "ash")
    run(resumed, plan, blocks(16, base.vocabulary_size), state_dir=tmp_path)
    assert weights(resumed) == weights(whole)


def test_a_crash_costs_the_steps_since_the_last_state(tmp_path: Path) -> None:
    def crash() -> None:
        raise KeyError("the machine went away")

    whole, resumed = Toy(hidden_share=0.5), Toy(hidden_share=0.5)
    losses = run(whole)
    with pytest.raises(KeyError):
        run(Toy(hidden_share=0.5), stream=blocks(on_block=at_block(23, crash)), state_dir=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.json", "step-4"]
    assert run(resumed, state_dir=tmp_path) == losses
    assert weights(resumed) == weights(whole)


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    whole, again = Toy(), Toy()
    losses = run(whole, state_dir=tmp_path)
    with rates_used() as used:
        assert run(again, state_dir=tmp_path) == losses
    assert used == []
    assert weights(again) == weights(whole)


def test_a_signal_in_the_last_step_is_not_lost(tmp_path: Path) -> None:
    def at_the_end(optimizer: Any, *_: Any) -> None:
        if optimizer.param_groups[0]["lr"] == pytest.approx(PLAN.learning_rate * PLAN.rate(5)):
            signal.raise_signal(signal.SIGTERM)

    handle = register_optimizer_step_pre_hook(at_the_end)
    try:
        with pytest.raises(Interrupted, match="step 6 of 6"):
            run(Toy(), state_dir=tmp_path)
    finally:
        handle.remove()
    assert len(run(Toy(), state_dir=tmp_path)) == 6


def test_without_a_folder_an_interrupt_promises_no_resumption() -> None:
    with pytest.raises(Interrupted) as caught:
        run(Toy(), stream=blocks(on_block=at_block(9, send(signal.SIGINT))))
    assert caught.value.mend == "Run it again."


_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_training_loop import PLAN, Toy, blocks, replace, run, at_block
def ready():
    print("ready", flush=True)
    sys.stdin.readline()
plan = replace(PLAN, steps=50)
run(Toy(), plan, blocks(on_block=at_block(12, ready)), state_dir=Path(sys.argv[2]))
"""


def test_a_signal_from_another_process(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(Path(__file__).parent), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate("go on\n", timeout=60)
    assert child.returncode == 1
    assert "Interrupted" in errors.splitlines()[-1]
    done = len(json.loads((tmp_path / "plan.json").read_text())["losses"])
    whole, resumed = Toy(), Toy()
    run(whole, replace(PLAN, steps=50))
    run(resumed, replace(PLAN, steps=50), state_dir=tmp_path)
    assert 0 < done < 50
    assert weights(resumed) == weights(whole)


def test_another_thread_trains_without_touching_signals() -> None:
    model, here = Toy(), Toy()
    run(here)
    thread = threading.Thread(target=run, args=(model,))
    thread.start()
    thread.join()
    assert weights(model) == weights(here)


_PROCESSES = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from test_training_loop import *
steps = []
def third(*_):
    steps.append(0)
    if len(steps) == 3 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)
hook = register_optimizer_step_pre_hook(third)
folder = Path(sys.argv[2])
try:
    run(Toy(), state_dir=folder / "state")
except Interrupted as stop:
    assert "step 3 of 6" in str(stop)
    hook.remove()
    model = Toy()
    losses = run(model, state_dir=folder / "state")
    torch.save((model.state_dict(), losses), folder / f"{os.environ['RANK']}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_as_one_and_stop_together(tmp_path: Path) -> None:
    """One of them gets a signal: both stop after that step, save one state, and go on from it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    program = tmp_path / "program.py"
    program.write_text(_PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(program), str(Path(__file__).parent), str(tmp_path)], check=True, env=environment)
    one = Toy()
    losses = run(one)
    for rank in (0, 1):
        state, told = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(state["table"], one.table.detach(), rtol=1e-12, atol=1e-14)
        assert told == pytest.approx(losses)


# refusals -------------------------------------------------------------


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    run(Toy(), state_dir=tmp_path, subject={"party": "ash"})
    with pytest.raises(InvalidOption, match=r"other settings \(learning_rate, steps\).*remove the folder"):
        run(Toy(), replace(PLAN, steps=7, learning_rate=1.0), state_dir=tmp_path, subject={"party": "ash"})
    with pytest.raises(InvalidOption, match=r"other settings \(party\)"):
        run(Toy(), state_dir=tmp_path, subject={"party": "birch"})
    with pytest.raises(InvalidOption, match=r"other settings \(party\)"):
        run(Toy(), state_dir=tmp_path)
    assert len(run(Toy(), state_dir=tmp_path, subject={"party": "ash"})) == 6


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": {}}'])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InvalidOption, match=r"plan\.json is not one that this version"):
        run(Toy(), state_dir=tmp_path)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond ``size``: the kernel itself refuses, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 200, 2500, 5000])
def test_a_full_disk_is_said_and_leaves_no_half_state(tmp_path: Path, size: int) -> None:
    """The limits hit the writers of weights, of the optimiser and of random numbers in turn."""
    with file_size_limit(size), pytest.raises(StorageError, match=r"writing .*state.*: "):
        run(Toy(), state_dir=tmp_path / "state")
    assert list((tmp_path / "state").iterdir()) == []
    assert len(run(Toy(), state_dir=tmp_path / "state")) == 6  # negative control: without the limit it succeeds


def test_a_full_disk_keeps_the_state_before(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(Toy(), stream=blocks(on_block=at_block(9, send(signal.SIGINT))), state_dir=tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    with file_size_limit(200), pytest.raises(StorageError):
        run(Toy(), state_dir=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    whole, resumed = Toy(), Toy()
    run(whole)
    run(resumed, state_dir=tmp_path)
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"steps=0: it must be positive"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"learning_rate": math.inf}, "learning_rate=inf"),
        ({"clip": 0.0}, r"clip=0\.0"),
        ({"save_every": 0}, "save_every=0"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"accumulation": 3}, r"accumulation=3: a batch of 4 .* Choose a divisor"),
        ({"sequence_length": 1}, "nothing to predict"),
        ({"warmup": 1.5}, r"warmup=1\.5: it lies outside 0 \.\.\. 1"),
        ({"warmup": -0.1}, r"warmup=-0\.1"),
        ({"final_rate": math.nan}, "final_rate=nan"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0"),
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"precision": "fp8"}, r"precision='fp8': .* Choose one of no, bf16, fp16"),
    ],
)
def test_a_plan_outside_its_domain_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        replace(PLAN, **changes)
