"""Flips, decomposition, drop-one and CKA against their definitions written out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.network_insight import (
    Loss,
    cka,
    cka_from_moments,
    codependence,
    decompose,
    drop_one,
    flips,
    negative_externalities,
    row_losses,
)
from quiltwork.evaluate.scores import Cell, Row, Scores


def draw(members: int, rows: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, rows)
    return rng.normal(size=(members, rows, k)) * 2 + 2 * np.eye(k)[y], y


def test_flips_are_counted_row_by_row() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 200)
    given_ = {
        name: np.where(rng.random(200) < p, truth, rng.integers(0, 3, 200)) for name, p in (("a", 0.9), ("b", 0.4))
    }
    count = sum(int(b == t and a != t) for a, b, t in zip(given_["a"], given_["b"], truth, strict=True))
    found = flips(given_, truth)
    assert found["a"]["b"] == count / 200
    assert found["b"]["a"] - found["a"]["b"] == pytest.approx(
        (given_["a"] == truth).mean() - (given_["b"] == truth).mean()
    )
    with pytest.raises(InvalidOption, match="'a'"):
        flips({"a": [0]}, [0, 1])


def test_row_losses_are_the_textbook_ones() -> None:
    outputs, y = draw(1, 50, 4, 1)
    p = softmax(outputs[0], axis=1)
    assert row_losses(outputs[0], y, "log").mean() == pytest.approx(log_loss(y, p, labels=range(4)))
    np.testing.assert_allclose(row_losses(outputs[0], y, "brier"), ((p - np.eye(4)[y]) ** 2).sum(axis=1))
    np.testing.assert_allclose(row_losses(outputs[0], outputs[0] + 2, "squared"), 4)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(0, 10**6), st.sampled_from(["log", "brier", "squared"]))
def test_diversity_is_the_spread_of_the_members(members: int, seed: int, loss: Loss) -> None:
    outputs, y = draw(members, 12, 3, seed)
    weights = np.random.default_rng(seed).dirichlet(np.ones(members))
    truth = np.eye(3)[y] if loss == "squared" else y
    found = decompose(outputs, truth, loss, weights=weights)
    assert found.individual - found.diversity == pytest.approx(found.ensemble)
    if loss == "log":
        p = softmax(outputs, axis=2)[:, np.arange(12), y]
        wanted = (np.log(weights @ p) - weights @ np.log(p)).mean()
    else:
        values = outputs if loss == "squared" else softmax(outputs, axis=2)
        spread = ((values - np.einsum("m,mnk->nk", weights, values)) ** 2).sum(axis=2)
        wanted = (weights @ spread).mean() / (3 if loss == "squared" else 1)
    assert found.diversity == pytest.approx(wanted, abs=1e-9)
    assert found.diversity >= -1e-12


def test_the_geometric_rule_decomposes_too() -> None:
    outputs, y = draw(3, 40, 3, 2)
    found = decompose(outputs, y, rule="geometric")
    log_p = log_softmax(log_softmax(outputs, axis=2).mean(axis=0), axis=1)
    assert found.ensemble == pytest.approx(-log_p[np.arange(40), y].mean())
    assert found.diversity > 0


def test_drop_one_composes_the_others_anew() -> None:
    outputs, y = draw(3, 40, 3, 3)
    outputs[1] = -outputs[1]
    found = drop_one(outputs, y, weights=[0.5, 0.25, 0.25])
    whole = decompose(outputs, y, weights=[0.5, 0.25, 0.25]).ensemble
    for member in range(3):
        kept = [m for m in range(3) if m != member]
        others = decompose(outputs[kept], y, weights=np.array([0.5, 0.25, 0.25])[kept]).ensemble
        assert found[member] == pytest.approx(others - whole)
    assert found[1] < 0 < found[0]
    with pytest.raises(InvalidOption, match="one member"):
        drop_one(outputs[:1], y)


def test_codependence_averages_over_all_subsets() -> None:
    outputs, y = draw(4, 30, 3, 4)
    found = codependence(outputs, y)
    for dropped in range(4):
        subsets = combinations(range(4), 4 - dropped)
        wanted = np.mean([decompose(outputs[list(kept)], y).ensemble for kept in subsets])
        assert found[dropped] == pytest.approx(wanted)


def test_colluding_members_fall_apart_when_some_are_dropped() -> None:
    """Members that are off by large errors which cancel: a fine ensemble, and useless without each other."""
    rng = np.random.default_rng(5)
    y = rng.normal(size=(200, 1))
    noise = rng.normal(size=(4, 200, 1)) * 5
    colluding, honest = y + noise - noise.mean(axis=0), y + rng.normal(size=(4, 200, 1)) * 0.1
    assert codependence(colluding, y, "squared")[0] < codependence(honest, y, "squared")[0]
    assert codependence(colluding, y, "squared")[1] > 100 * codependence(honest, y, "squared")[1]


def hsic(k: np.ndarray, ell: np.ndarray) -> float:
    n = len(k)
    h = np.eye(n) - 1 / n
    return float(np.trace(k @ h @ ell @ h)) / (n - 1) ** 2


def test_cka_is_the_definition_by_kernels() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(30, 5)) + 3, rng.normal(size=(30, 7))
    y[:, :3] += x[:, :3]
    k, ell = x @ x.T, y @ y.T
    wanted = hsic(k, ell) / np.sqrt(hsic(k, k) * hsic(ell, ell))
    assert cka(x, y) == pytest.approx(wanted)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert cka(x, 4 * x @ rotation - 1) == pytest.approx(1)
    halves = [
        ((a - x.mean(axis=0)).T @ (a - x.mean(axis=0)), (b - y.mean(axis=0)).T @ (b - y.mean(axis=0)),
         (a - x.mean(axis=0)).T @ (b - y.mean(axis=0)))
        for a, b in ((x[:10], y[:10]), (x[10:], y[10:]))
    ]  # fmt: skip
    assert cka_from_moments(*(sum(parts) for parts in zip(*halves, strict=True))) == pytest.approx(wanted)


def test_negative_control_uncentred_features_give_another_number() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(30, 5)) + 3, rng.normal(size=(30, 7)) + 3
    assert abs(cka_from_moments(x.T @ x, y.T @ y, x.T @ y) - cka(x, y)) > 0.2


def test_cka_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidOption, match="rows"):
        cka(np.zeros((3, 1)), np.zeros((4, 1)))
    with pytest.raises(InvalidOption, match="constant"):
        cka(np.ones((3, 1)), np.arange(3.0)[:, None])


def test_externalities_name_who_does_harm_and_to_whom() -> None:
    def row(ash: float, oak: float) -> Row:
        return Row(domains={"ash": Cell(value=ash, spread=0.01, paired=0.01), "oak": Cell(value=oak, paired=0.01)})

    scores = Scores(
        metric="share wrong",
        parties=("ash", "oak"),
        domains=("ash", "oak"),
        methods={"mean": row(0.3, 0.2)},
        leave_one_out={"mean": {"ash": row(0.5, 0.1), "oak": row(0.29, 0.9)}},
    )
    found = negative_externalities(scores, "mean")
    assert [(one.source, one.domain, round(one.harm.value, 6)) for one in found] == [("ash", "oak", -0.1)]
    with pytest.raises(InvalidOption, match="not measured"):
        negative_externalities(scores.model_copy(update={"leave_one_out": {}}), "mean")
