"""Program mode: cotangents over a channel, labels of any holder, bytes, absence, what cannot be undone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from program_oracles import brute, posterior
from torch import Tensor

from quiltwork.errors import InvalidOption, NeedsRetraining
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel, Node
from quiltwork.session.split.bill import training_bytes
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.identifiable import identified
from quiltwork.session.split.label_node import LabelNode
from quiltwork.session.split.labels import OwnLabels, PartyLabels
from quiltwork.session.split.program import Program, Programmed
from quiltwork.session.split.program_leak import shares
from quiltwork.session.split.program_sampling import Sampled
from quiltwork.session.split.programs import Fold, comparison, lookup, total
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms, label_terms

PLAN = OptimiserPlan("adam", 2e-2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def learned(party: str, columns: int, width: int, seed: int) -> Component:
    return Component.built(lambda: mlp(columns, width, [16]), PLAN, name=party, seed=seed)


def views(operands: list[str], sizes: tuple[int, ...], rows: int = 200) -> tuple[dict[str, Tensor], np.ndarray]:
    """Noisy one-hot views of random symbols, by party, and the symbols ``[rows, n]``."""
    draw = np.random.default_rng(5)
    symbols = np.stack([draw.integers(0, size, rows) for size in sizes], 1)
    found: dict[str, list[np.ndarray]] = {}
    for party, size, column in zip(operands, sizes, symbols.T, strict=True):
        found.setdefault(party, []).append(np.eye(size)[column] + 0.1 * draw.normal(size=(rows, size)))
    return {p: torch.from_numpy(np.concatenate(one, 1).astype(np.float32)) for p, one in found.items()}, symbols


def start(
    program: Program,
    operands: list[str],
    fold: Fold,
    *,
    epochs: int = 2,
    label_party: bool = False,
    transition: Tensor | None = None,
    seed: int = 1,
    absence: float = 0.0,
    **options: Any,
) -> tuple[SplitRun, np.ndarray]:
    data, symbols = views(operands, program.sizes)
    mode = Programmed(program, operands, seed=seed)
    labels = torch.from_numpy(fold.apply(symbols))
    target = ClassTarget(labels, len(program.outcomes), transition)
    nodes: dict[str, Node] = {
        p: ComponentNode(learned(p, rows.shape[1], mode.widths[p], seed), rows) for p, rows in data.items()
    }
    terms = {p: component_terms(width) for p, width in mode.widths.items()}
    if label_party:
        nodes["labels"], terms["labels"] = LabelNode(target, len(labels)), label_terms(target.outputs)
    channel = LocalChannel(nodes, terms)
    answers = PartyLabels(channel, "labels", target.outputs) if label_party else OwnLabels(target)
    schedule = Schedule(np.arange(len(labels)), 32, epochs, seed, absence)
    return SplitRun(channel, mode, answers, schedule, mode.widths, **options), symbols


def lesson(program: Program, operands: list[str], activations: dict[str, Tensor], target: ClassTarget) -> Any:
    answers = OwnLabels(target)
    answers.begin(torch.arange(len(next(iter(activations.values())))), 0)
    return Programmed(program, operands).learn(activations, answers, 0)


def test_cotangents_are_own_probabilities_less_the_posterior() -> None:
    # "zoe" holds two operands, and parties are not in the program's order
    table = np.random.default_rng(0).integers(0, 3, (2, 3, 4))
    activations = {"ash": torch.randn(5, 3), "zoe": torch.randn(5, 6)}
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = lesson(lookup(table), ["zoe", "ash", "zoe"], activations, ClassTarget(labels, 3))
    for row, y in enumerate(labels.tolist()):
        zoe, ash = activations["zoe"][row], activations["ash"][row]
        p = [torch.softmax(part.double(), 0).numpy() for part in (zoe[:2], ash, zoe[2:])]
        due = [(one - posterior(lambda *s: table[s], p, y, i)) / 5 for i, one in enumerate(p)]
        np.testing.assert_allclose(found.cotangents["ash"][row], due[1], atol=1e-6)
        np.testing.assert_allclose(found.cotangents["zoe"][row], np.concatenate([due[0], due[2]]), atol=1e-6)


def test_labels_under_known_noise_are_learned_by_their_likelihood() -> None:
    program, rows = total([3, 3]), 6
    activations = {"ash": torch.randn(rows, 3), "birch": torch.randn(rows, 3)}
    transition = torch.full((5, 5), 0.1) + 0.5 * torch.eye(5)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])

    def loss(logits: dict[str, Tensor]) -> float:
        whole = 0.0
        for row in range(rows):
            p = [torch.softmax(logits[party][row].double(), 0).numpy() for party in ("ash", "birch")]
            outcome = brute(lambda a, b: a + b, p)
            whole -= np.log(sum(outcome[s] * float(transition[s, labels[row]]) for s in range(5)))
        return whole / rows

    found = lesson(program, ["ash", "birch"], activations, ClassTarget(labels, 5, transition))
    assert found.losses["program"] == pytest.approx(loss(activations), rel=1e-5)
    for party, row, k in (("ash", 0, 1), ("birch", 4, 2)):
        nudged = {p: h.clone().double() for p, h in activations.items()}
        nudged[party][row, k] += 1e-4
        up = loss(nudged)
        nudged[party][row, k] -= 2e-4
        slope = (up - loss(nudged)) / 2e-4
        assert float(found.cotangents[party][row, k]) == pytest.approx(slope, abs=1e-5)
    # without the transition the loss is another
    plain = lesson(program, ["ash", "birch"], activations, ClassTarget(labels, 5))
    assert plain.losses["program"] != pytest.approx(loss(activations), rel=1e-2)


def test_a_party_learns_its_symbols_from_sums_alone() -> None:
    program = total([3, 4])
    run, symbols = start(program, ["ash", "birch"], program, epochs=20)
    run.train()
    rows = np.arange(200)
    assert (run.predict(rows).argmax(1) == symbols.sum(1)).mean() > 0.95
    mode = run.mode
    assert isinstance(mode, Programmed)
    assert (mode.symbols(run.activations(rows)).numpy() == symbols).mean() > 0.95


def test_sampling_learns_the_same_symbols() -> None:
    program = total([3, 4])
    sampled = Sampled(program.apply, program.sizes, program.outcomes, samples=64)
    run, symbols = start(sampled, ["ash", "birch"], program, epochs=20)
    run.train()
    assert (run.predict(np.arange(200)).argmax(1) == symbols.sum(1)).mean() > 0.95
    twin, _ = start(sampled, ["ash", "birch"], program, epochs=20)
    twin.train()
    assert run.digests() == twin.digests()


def test_who_holds_the_labels_changes_no_bit_and_bytes_equal_the_formula() -> None:
    program = comparison(4)
    own, _ = start(program, ["birch", "ash"], program)
    other, _ = start(program, ["birch", "ash"], program, label_party=True)
    for run in (own, other):
        run.train()
        for party, (down, up) in training_bytes(run.schedule, run.widths).items():
            assert (run.channel.log.bytes(party, "down"), run.channel.log.bytes(party, "up")) == (down, up)
    assert own.digests() == other.digests()
    assert own.channel.log.digest("ash", "down") == other.channel.log.digest("ash", "down")
    other.close()
    assert other.channel.log.bytes("labels") == other.bill.bytes("labels")


def test_an_absent_party_is_uniform() -> None:
    mode = Programmed(total([2, 4]), ["ash", "birch"])
    ash = torch.tensor([[2.0, -1.0]])
    due = brute(lambda a, b: a + b, [torch.softmax(ash[0].double(), 0).numpy(), np.full(4, 0.25)])
    np.testing.assert_allclose(mode.infer({"ash": ash}).exp()[0], [due[s] for s in range(5)], rtol=1e-9)
    program = total([3, 4])
    run, _ = start(program, ["ash", "birch"], program, absence=0.4)
    run.train()
    assert run.round == run.schedule.rounds
    assert run.predict(np.arange(5), ["ash"], quorum=1).shape == (5, 6)


def test_rows_that_are_inferred_in_blocks_are_inferred_alike() -> None:
    mode = Programmed(total([3, 3]), ["ash", "birch"])
    activations = {"ash": torch.randn(150, 3), "birch": torch.randn(150, 3)}
    some = mode.infer({party: h[100:101] for party, h in activations.items()})
    torch.testing.assert_close(mode.infer(activations)[100:101], some)


def test_a_program_is_not_left() -> None:
    program = total([3, 4])
    run, _ = start(program, ["ash", "birch"], program)
    with pytest.raises(NeedsRetraining, match="the program reads its symbols"):
        run.leave("ash")


def test_records_say_what_cotangents_depend_on_and_what_the_program_leaves_open() -> None:
    program = total([3, 3], modulus=3)
    run, _ = start(program, ["ash", "birch"], program)
    assert len(identified(run).relabelled) == 2
    records = run.records()
    inputs = {"labels", "activation:ash", "activation:birch"}
    assert records.mode == "program"
    assert records.dependencies == {"ash": inputs, "birch": inputs}
    assert "2 relabellings" in records.warnings[0]
    settled, _ = start(total([3, 3]), ["ash", "birch"], total([3, 3]))
    assert identified(settled).settled
    assert settled.records().warnings == ()


def test_zeros_of_a_cotangent_tell_the_sum_as_the_leak_statement_says() -> None:
    program, operands = total([10, 10]), ["ash", "birch"]
    activations = {"ash": torch.randn(100, 10), "birch": torch.randn(100, 10)}
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 19, 100))
    found = lesson(program, operands, activations, ClassTarget(labels, 19)).cotangents["ash"]
    likelihood = 1 - 100 * found / torch.softmax(activations["ash"], 1)
    possible = (likelihood > 1e-3).numpy()
    patterns = shares(program, 0).T > 0
    guess = [(patterns == row).all(1).argmax() for row in possible]
    assert np.mean(guess == labels.numpy()) > 0.95


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidOption, match="the program has 2 operands"):
        Programmed(total([3, 4]), ["ash"])
    target, activations = ClassTarget(torch.tensor([0]), 6), {"ash": torch.zeros(1, 3), "birch": torch.zeros(1, 3)}
    with pytest.raises(InvalidOption, match="activations of party 'birch'"):
        lesson(total([3, 4]), ["ash", "birch"], activations, target)
    with pytest.raises(InvalidOption, match="the program has 7 outcomes"):
        lesson(total([4, 4]), ["ash", "birch"], activations, target)
    sampled = Sampled(lambda s: s[:, 0], (3,), (0, 1, 2))
    run, _ = start(sampled, ["ash"], lookup(np.arange(3)))
    with pytest.raises(InvalidOption, match="judging a program"):
        identified(run)
