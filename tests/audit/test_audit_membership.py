"""Membership inference by shadow models: the game against an oracle, and on real, private and leaking sessions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn

from quiltwork.audit.attacks.membership import PRIOR_SHADOWS, confidence, shadow_game
from quiltwork.audit.attacks.result import Attack
from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.party.record_privacy import DPPlan, train_privately
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.outputs import Product
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

Floats, Flags = NDArray[np.float64], NDArray[np.bool_]


def halves(models: int, rows: int, seed: int = 0) -> Flags:
    """Of each row, a random half of the models."""
    draw = np.random.default_rng(seed)
    columns = [draw.permutation(models) < models // 2 for _ in range(rows)]
    return np.array(columns).T


def drawn(trace: float, models: int = 24, rows: int = 400) -> tuple[Floats, Flags]:
    """Confidences that differ from row to row, and by ``trace`` standard deviations where the row was trained on."""
    draw, had = np.random.default_rng(1), halves(models, rows)
    return draw.normal(scale=3, size=rows) + draw.normal(size=(models, rows)) + trace * had, had


def test_scores_and_shares_are_those_of_brute_force() -> None:
    phi, had = drawn(1.5, models=9, rows=30)
    scores = np.empty_like(phi)
    for t in range(9):
        others = [s for s in range(9) if s != t]
        common = {}
        for side in (True, False):
            left = [phi[s, j] - np.mean([phi[u, j] for u in others if had[u, j] == side])
                    for s in others for j in range(30) if had[s, j] == side]  # fmt: skip
            common[side] = np.mean(np.square(left))
        for j in range(30):
            logs = {}
            for side in (True, False):
                own = [phi[s, j] for s in others if had[s, j] == side]
                variance = (len(own) * np.var(own) + PRIOR_SHADOWS * common[side]) / (len(own) + PRIOR_SHADOWS)
                logs[side] = norm.logpdf(phi[t, j], np.mean(own), np.sqrt(variance))
            scores[t, j] = logs[True] - logs[False]
    for attack, rate in zip(shadow_game(phi, had, rates=(0.1, 0.02)), (0.1, 0.02), strict=True):
        outsiders, members = scores[~had], scores[had]
        best = max(np.mean(members >= cut) for cut in scores.ravel() if np.mean(outsiders >= cut) <= rate)
        assert attack.success == pytest.approx(best)


def test_members_are_found_at_the_rates_that_two_normals_give() -> None:
    one, tenth = shadow_game(*drawn(3.0))
    assert one.success == pytest.approx(norm.sf(norm.isf(0.01) - 3), abs=0.08)
    assert tenth.success == pytest.approx(norm.sf(norm.isf(0.001) - 3), abs=0.12)
    assert one.low is not None
    assert one.high is not None
    assert one.low < one.success < one.high < one.low + 0.25
    assert one.gained
    assert one.baseline < 0.03
    assert shadow_game(*drawn(3.0)) == [one, tenth]


def test_where_training_leaves_no_trace_no_more_are_found_than_accused_falsely() -> None:
    for attack in shadow_game(*drawn(0.0)):
        rate = float(str(attack.further["rate"]))
        assert attack.low is not None
        assert attack.low <= rate * 1.2
        assert attack.success < 2 * rate


def test_models_that_all_say_the_same_give_nothing() -> None:
    had = halves(12, 300)
    phi = np.broadcast_to(np.arange(300.0), had.shape)
    assert [a.success for a in shadow_game(phi, had)] == [0.0, 0.0]


def test_the_game_refuses_what_cannot_be_told() -> None:
    phi, had = drawn(1.0, models=8, rows=40)
    with pytest.raises(InvalidOption, match=r"rate of 0\.001"):
        shadow_game(phi, had)
    for wrong in ((phi[:, :3], had), (phi, np.ones_like(had)), (phi * np.nan, had), (phi[:4], had[:4])):
        with pytest.raises(InvalidOption, match="shadow models"):
            shadow_game(*wrong, rates=(0.1,))


# Real sessions: two owners, each with many columns that tell nothing of the labels ---------------------

ROWS, COLUMNS, MODELS = 160, 120, 14
STEP = OptimiserPlan("adam", 5e-3)
Told = Callable[[int, NDArray[np.int64]], NDArray[np.float64]]


@cache
def table() -> tuple[dict[str, Tensor], Tensor]:
    """Whoever knows such labels was trained on them, and so many columns make that easy to learn by heart."""
    draw = np.random.default_rng(4)
    data = {p: torch.from_numpy(draw.normal(size=(ROWS, COLUMNS)).astype(np.float32)) for p in ("ash", "elm")}
    return data, torch.from_numpy(draw.integers(0, 2, ROWS))


def part(party: str, seed: int) -> Component:
    return Component.built(lambda: mlp(COLUMNS, 16, []), STEP, name=party, seed=seed)


def isolated(seed: int) -> Isolated:
    heads = {p: Component.built(lambda: nn.Linear(16, 2), STEP, name=f"head of {p}", seed=seed) for p in ("ash", "elm")}
    return Isolated(heads, Product(torch.full((2,), 0.5, dtype=torch.float64)))


def joint(seed: int) -> Joint:
    top = Component.built(lambda: Concatenated(mlp(32, 2, [32])), STEP, name="composer", seed=seed)
    return Joint(top, {"ash": 16, "elm": 16})


def session(mode: Callable[[int], Mode], epochs: int = 12) -> Told:
    def told(seed: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        data, labels = table()
        nodes = {p: ComponentNode(part(p, seed), x) for p, x in data.items()}
        channel = LocalChannel(nodes, dict.fromkeys(data, component_terms(16)))
        target = OwnLabels(ClassTarget(labels, 2))
        run = SplitRun(channel, mode(seed), target, Schedule(rows, 40, epochs, seed), dict.fromkeys(data, 16))
        run.train()
        return run.predict(np.arange(ROWS))

    return told


def at_home(epsilon: float) -> Told:
    def told(seed: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        data, labels = table()
        plan = DPPlan.within(epsilon, 1e-5, rows=len(rows), batch=40, epochs=10, parties=2)
        parts, mode = {p: part(p, seed) for p in data}, isolated(seed)
        for number, (p, x) in enumerate(data.items()):
            generator = torch.Generator().manual_seed(2 * seed + number)
            target = ClassTarget(labels, 2)
            train_privately(parts[p], mode.heads[p], x, target, plan, positions=rows.tolist(), generator=generator)
        return mode.infer({p: parts[p].predict(x) for p, x in data.items()}).numpy()

    return told


@cache
def played(told: Told) -> list[Attack]:
    had, labels = halves(MODELS, ROWS, seed=5), table()[1].numpy()
    phi = np.array([confidence(told(number, np.flatnonzero(own)), labels) for number, own in enumerate(had)])
    return shadow_game(phi, had)


JOINT, ISOLATED = session(joint), session(isolated)


@pytest.mark.parametrize("told", [JOINT, ISOLATED], ids=["joint", "isolated"])
def test_a_session_that_learned_by_heart_is_caught_where_hardness_tells_nothing(told: Told) -> None:
    one, tenth = played(told)
    assert one.low is not None
    assert one.low > 0.05
    assert one.gained
    assert one.baseline < 0.05
    assert tenth.success > 0.02


@pytest.mark.slow
def test_under_record_privacy_no_more_are_found_than_its_bound_allows() -> None:
    pytest.importorskip("opacus")
    found, private = played(ISOLATED)[0], played(at_home(1.0))[0]
    assert private.low is not None
    assert private.high is not None
    assert found.low is not None
    assert private.low <= np.e * 0.01 + 1e-5
    assert private.high < found.low
