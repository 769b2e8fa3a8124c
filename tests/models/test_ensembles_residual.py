"""Residual chains: gradient boosting whose stages belong to owners."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from quiltwork.errors import InvalidOption, NeedsRetraining
from quiltwork.models.ensembles import ResidualChain

TREE = DecisionTreeRegressor(max_depth=3, random_state=0)


def rows(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=(n, 3))
    return x, np.sin(2 * x[:, 0]) + x[:, 1] ** 2 + 0.1 * rng.normal(size=n)


def test_one_owner_that_takes_every_turn_is_gradient_boosting() -> None:
    x, y = rows()
    oracle = GradientBoostingRegressor(n_estimators=8, learning_rate=0.5, max_depth=3, init="zero", random_state=0).fit(
        x, y
    )
    chain = ResidualChain(rate=0.5)
    for _ in range(8):
        chain = chain.step("ash", TREE, x, y)
    np.testing.assert_allclose(chain.predict(x), oracle.predict(x), atol=1e-9)


def test_each_owner_lowers_the_loss_on_its_own_rows() -> None:
    chain, losses = ResidualChain(), []
    for turn in range(6):
        x, y = rows(seed=turn % 3)
        before = ((chain.predict(x) - y) ** 2).mean()
        chain = chain.step("abc"[turn % 3], TREE, x, y)
        losses.append((before, ((chain.predict(x) - y) ** 2).mean()))
    assert all(after < before for before, after in losses)
    assert chain.parties == ("a", "b", "c", "a", "b", "c")
    x, y = rows(seed=77)
    alone = ResidualChain().step("a", TREE, *rows(seed=0))
    assert ((chain.predict(x) - y) ** 2).mean() < ((alone.predict(x) - y) ** 2).mean()


def test_classes_follow_the_gradient_of_the_log_loss() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 2))
    labels = np.array(["north", "south", "west"])[np.digitize(x[:, 0] + x[:, 1], [-0.5, 0.5])]
    chain = ResidualChain(classes=("north", "south", "west"))
    epsilon, direction = 1e-6, rng.normal(size=(300, 3))

    def loss(logits: np.ndarray) -> float:
        picked = (labels[:, None] == np.array(chain.classes)) * logits
        return float((np.log(np.exp(logits).sum(axis=1)) - picked.sum(axis=1)).sum())

    for owner in ("a", "b", "a", "b"):
        mine = slice(0, 150) if owner == "a" else slice(150, 300)
        slope = (loss(chain.scores(x) + epsilon * direction) - loss(chain.scores(x))) / epsilon
        assert slope == pytest.approx(-(chain.residual(x, labels) * direction).sum(), rel=1e-3, abs=1e-3)
        chain = chain.step(owner, TREE, x[mine], labels[mine])
    assert (chain.predict(x) == labels).mean() > 0.9
    np.testing.assert_allclose(chain.predict_proba(x).sum(axis=1), 1)


def test_only_who_came_last_can_leave() -> None:
    x, y = rows()
    one = ResidualChain().step("ash", TREE, x, y)
    chain = one.step("birch", LinearRegression(), x, y)
    np.testing.assert_array_equal(chain.without("birch").predict(x), one.predict(x))
    with pytest.raises(NeedsRetraining, match="birch"):
        chain.without("ash")
    assert chain.before("ash").parties == ()
    with pytest.raises(InvalidOption, match="no turn"):
        chain.without("cedar")


def test_what_does_not_fit_is_refused() -> None:
    x, y = rows(20)
    for options, said in (({"rate": 0.0}, "rate"), ({"classes": ("a",)}, "classes"), ({"classes": (1, 1)}, "classes")):
        with pytest.raises(InvalidOption, match=said):
            ResidualChain(**options)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="finite"):
        ResidualChain().step("ash", TREE, x, np.full(20, np.nan))
    with pytest.raises(InvalidOption, match="class '2'"):
        ResidualChain(classes=(0, 1)).step("ash", TREE, x, np.full(20, 2))
    with pytest.raises(InvalidOption, match="numbers"):
        ResidualChain().step("ash", TREE, x, y).predict_proba(x)
