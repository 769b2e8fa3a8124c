"""Attacks: they find what is there, find nothing where nothing is, and match independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from audit_runs import ADAM, fragments, taped
from scipy.stats import binomtest, norm

from quiltwork.audit.attacks.algebra import algebraic, read_off
from quiltwork.audit.attacks.inversion import inversion
from quiltwork.audit.attacks.labels import label_recovery, label_recovery_by_epoch
from quiltwork.audit.attacks.membership import confidence, membership
from quiltwork.audit.attacks.result import wilson
from quiltwork.audit.tape import Tape
from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component
from quiltwork.models.split.composers import mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.program import Programmed
from quiltwork.session.split.programs import Fold, total
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms


@pytest.mark.parametrize(("hits", "cases"), [(0, 50), (7, 20), (19, 20), (400, 400)])
def test_the_interval_is_wilson_s(hits: int, cases: int) -> None:
    oracle = binomtest(hits, cases).proportion_ci(0.95, method="wilson")
    assert wilson(hits, cases) == pytest.approx((oracle.low, oracle.high))


@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_labels_are_read_off_cotangents_that_columns_do_not_tell(mode: str) -> None:
    data, labels = fragments(rows=240)
    draw = np.random.default_rng(0)
    data["p0"] = torch.from_numpy(draw.normal(size=(240, 5)).astype(np.float32))
    run, tape = taped(mode, data, labels, epochs=2, batch=40)
    found = label_recovery_by_epoch("p0", tape.lessons("p0"), labels, data["p0"], [(0, 6), (6, 12)])
    assert [a.when for a in found] == ["first round", "rounds 0 to 5", "rounds 6 to 11"]
    assert found[1].success > 0.8
    assert found[1].gained
    assert found[1].baseline < 0.45
    assert found == label_recovery_by_epoch("p0", tape.lessons("p0"), labels, data["p0"], [(0, 6), (6, 12)])
    assert run.round == 12


def test_cotangents_without_labels_in_them_give_nothing() -> None:
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 4, 400)
    attack = label_recovery("p0", draw.normal(size=(400, 6)), labels, draw.normal(size=(400, 3)))
    assert attack.success < 0.35
    told = label_recovery("p0", draw.normal(size=(400, 6)), labels, np.eye(4)[labels])
    assert told.baseline == 1.0
    assert not told.gained, "what the party's own columns tell is no leak of the session"


def test_randomised_labels_are_what_is_recovered() -> None:
    draw = np.random.default_rng(5)
    truth = draw.integers(0, 4, 600)
    released = np.where(draw.random(600) < 0.5, truth, draw.integers(0, 4, 600))
    cotangents = 0.25 - np.eye(4)[released] + draw.normal(scale=0.01, size=(600, 4))
    assert label_recovery("p0", cotangents, released, np.zeros((600, 1))).success == 1.0
    assert label_recovery("p0", cotangents, truth, np.zeros((600, 1))).success < 0.75


def test_labels_refuse_what_does_not_fit() -> None:
    with pytest.raises(InvalidOption, match="same rows"):
        label_recovery("p0", np.zeros((3, 2)), [0, 1], np.zeros((3, 1)))
    with pytest.raises(InvalidOption, match="finite"):
        label_recovery("p0", np.full((2, 2), np.nan), [0, 1], np.zeros((2, 1)))


def lessons_of(program: Fold, symbols: np.ndarray, sharpness: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits and cotangents of both operands, by autograd of -log P(y) through the enumerated joint table."""
    draw = np.random.default_rng(11)
    logits = [
        torch.tensor(
            sharpness * np.eye(size)[symbols[:, i]] + draw.normal(size=(len(symbols), size)), requires_grad=True
        )
        for i, size in enumerate(program.sizes)
    ]
    p, q = (torch.softmax(one, 1) for one in logits)
    fits = torch.from_numpy(program.table()[None] == program.apply(symbols)[:, None, None])
    loss = -(p[:, :, None] * q[:, None, :] * fits).sum((1, 2)).log().sum()
    found = torch.autograd.grad(loss, logits)
    return [(one.detach().numpy(), grad.numpy().astype(np.float32)) for one, grad in zip(logits, found, strict=True)]


@pytest.mark.parametrize("operand", [0, 1])
def test_a_sum_is_read_off_its_zeros(operand: int) -> None:
    program, symbols = total([10, 10]), np.random.default_rng(2).integers(0, 10, (300, 2))
    logits, cotangents = lessons_of(program, symbols, 4.0)[operand]
    truth = program.apply(symbols)
    attack = algebraic("p0", program, operand, logits, cotangents, truth)
    assert attack.success > 0.95
    assert attack.baseline < 0.25
    outcomes, other = read_off(program, operand, logits, cotangents)
    assert other is not None
    own = logits.argmax(1)
    fits = (outcomes == truth) & (own == symbols[:, operand])
    assert (other[fits] == symbols[fits, 1 - operand]).all()
    assert (other == symbols[:, 1 - operand]).mean() > 0.8


def test_a_sum_modulo_ten_has_no_zeros_to_read() -> None:
    program, symbols = total([10, 10], modulus=10), np.random.default_rng(2).integers(0, 10, (300, 2))
    logits, cotangents = lessons_of(program, symbols, 1.0)[0]
    attack = algebraic("p0", program, 0, logits, cotangents, program.apply(symbols))
    assert not attack.gained
    with pytest.raises(InvalidOption, match="10 symbols"):
        read_off(program, 0, logits[:, :3], cotangents[:, :3])


def test_linear_activations_are_inverted_as_far_as_their_width_goes() -> None:
    draw = np.random.default_rng(1)
    x = draw.normal(size=(400, 8))
    wide = inversion("p0", x @ draw.normal(size=(8, 12)), x, ridge=1e-9)
    narrow = inversion("p0", x[:, :2], x, ridge=1e-9)
    nothing = inversion("p0", draw.normal(size=(400, 8)), x)
    assert wide.success > 0.999
    assert narrow.success == pytest.approx(0.25, abs=0.06), "two of eight independent columns"
    assert nothing.success < 0.05
    assert inversion("p0", x, x, own=x).gained is False


def test_inversion_is_ridge_regression() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    draw = np.random.default_rng(4)
    x, h = draw.normal(size=(150, 5)), draw.normal(size=(150, 3))
    h[:, 0] += x[:, 0]
    attack = inversion("p0", h, x, pairs=60, ridge=0.1, seed=9)
    order = np.random.default_rng(9).permutation(150)
    leaked, rest = order[:60], order[60:]
    oracle = Ridge(alpha=0.1 * 60 * h[leaked].var(0).mean()).fit(h[leaked], x[leaked]).predict(h[rest])
    assert attack.success == pytest.approx(r2_score(x[rest], oracle, multioutput="variance_weighted"))
    with pytest.raises(InvalidOption, match="leaked pairs"):
        inversion("p0", h, x, pairs=149)
    dull = np.column_stack([h, np.full(150, 0.0)])
    dull[leaked[0], 3], dull[rest, 3] = 1e-3, 5.0
    # a column that hardly varied where pairs leaked does not swamp the others
    assert inversion("p0", dull, x, pairs=60, ridge=0.1, seed=9).success == pytest.approx(attack.success, abs=0.05)


def shadowed(gap: float, rows: int = 600, shadows: int = 16) -> tuple[np.ndarray, ...]:
    """Confidences that are larger by a gap where the row was trained on, around a difficulty of its own."""
    draw = np.random.default_rng(8)
    difficulty = draw.normal(scale=3, size=rows)
    had = np.array([draw.permutation(rows) < rows // 2 for _ in range(shadows)])
    had[0], had[1] = ~had[1], had[1]
    members = draw.permutation(rows) < rows // 2
    phi = difficulty + gap * had + draw.normal(size=had.shape)
    return phi, had, difficulty + gap * members + draw.normal(size=rows), members


def test_members_are_found_at_the_rate_that_two_normals_give() -> None:
    attack = membership(*shadowed(3.0), rate=0.05)
    assert attack.success == pytest.approx(norm.sf(norm.isf(0.05) - 3.0), abs=0.12)
    assert attack.low is not None
    assert attack.low > 0.7
    assert attack.baseline < 0.12, "difficulty alone tells nothing"


def test_nothing_is_found_where_training_leaves_no_trace() -> None:
    attack = membership(*shadowed(0.0), rate=0.05)
    assert attack.success < 0.12
    assert attack.low is not None
    assert attack.low < 0.05 < 0.12


def test_membership_refuses_rates_that_cannot_be_told() -> None:
    phi, had, target, members = shadowed(1.0)
    with pytest.raises(InvalidOption, match=r"rate of 0\.001"):
        membership(phi, had, target, members, rate=0.001)
    with pytest.raises(InvalidOption, match="in all of them or in none"):
        membership(phi, np.ones_like(had), target, members)


def test_confidence_is_the_logit() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), 40)
    y = np.arange(40) % 5
    chosen = p[np.arange(40), y]
    np.testing.assert_allclose(confidence(np.log(p), y), np.log(chosen / (1 - chosen)), rtol=1e-9)


def summed(modulus: int | None) -> tuple[Fold, Tape, torch.Tensor, np.ndarray]:
    """A session in which two parties learn symbols of five from their sums; rows are noisy one-hot symbols."""
    draw = np.random.default_rng(6)
    symbols = draw.integers(0, 5, (400, 2))
    program = total([5, 5], modulus=modulus)
    data = {
        p: torch.from_numpy((np.eye(5)[symbols[:, i]] + draw.normal(scale=0.1, size=(400, 5))).astype(np.float32))
        for i, p in enumerate(("p0", "p1"))
    }
    nodes = {
        p: ComponentNode(Component.built(lambda: mlp(5, 5, [16]), ADAM, name=p, seed=3), rows)
        for p, rows in data.items()
    }
    tape = Tape(LocalChannel(nodes, dict.fromkeys(data, component_terms(5))))
    truth = program.apply(symbols)
    labels = OwnLabels(ClassTarget(torch.from_numpy(truth), len(program.outcomes)))
    mode = Programmed(program, ["p0", "p1"])
    SplitRun(tape, mode, labels, Schedule(np.arange(400), 50, 12, 3), mode.widths).train()
    return program, tape, data["p0"], truth


def test_a_session_of_sums_gives_outcomes_away_and_one_of_residues_does_not() -> None:
    for modulus in (None, 5):
        program, tape, _, truth = summed(modulus)
        attacks = []
        for first in (0, 88):
            part = tape.lessons("p0").within(first, first + 8)
            attacks.append(algebraic("p0", program, 0, part.activations, part.cotangents, truth[part.rows]))
        if modulus is None:
            assert attacks[0].success > 0.95, "from the first epoch on, before the component has learned anything"
            assert attacks[0].gained
        else:
            assert attacks[0].success < 0.4
