"""Backfitting and boosting across owners against ordinary least squares and scikit-learn's own boosting."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from quiltwork.errors import InvalidOption, LostParty, TableMismatch
from quiltwork.session.frames import Kind, Message, frame_bytes
from quiltwork.session.split.boosting import BackfittingRegressor


def two_owners(rows: int = 120) -> tuple[dict[str, np.ndarray], np.ndarray]:
    draw = np.random.default_rng(0)
    both = draw.normal(size=(rows, 4)) + draw.normal(size=(rows, 1))
    return {"bank": both[:, :2], "shop": both[:, 2:]}, both @ [1.0, -2.0, 0.5, 3.0] + draw.normal(size=rows)


def test_backfitted_linear_maps_are_least_squares() -> None:
    data, y = two_owners()
    fit = BackfittingRegressor(LinearRegression(), sweeps=200).fit(data, y)
    whole = np.hstack([data["bank"], data["shop"]])
    oracle = LinearRegression().fit(whole, y)
    np.testing.assert_allclose(fit.predict(data), oracle.predict(whole), atol=1e-8)
    assert all(after <= before + 1e-12 for before, after in zip(fit.errors_, fit.errors_[1:], strict=False))
    once = BackfittingRegressor(LinearRegression(), sweeps=1).fit(data, y)
    assert not np.allclose(once.predict(data), oracle.predict(whole), atol=1e-3)


def test_boosting_of_one_owner_is_gradient_boosting() -> None:
    data, y = two_owners()
    tree = DecisionTreeRegressor(max_depth=2)
    fit = BackfittingRegressor(tree, style="boosting", sweeps=15, rate=0.2).fit({"bank": data["bank"]}, y)
    oracle = GradientBoostingRegressor(n_estimators=15, learning_rate=0.2, max_depth=2)
    np.testing.assert_allclose(fit.predict({"bank": data["bank"]}), oracle.fit(data["bank"], y).predict(data["bank"]))


def test_two_owners_know_more_than_one() -> None:
    data, y = two_owners(300)
    train = {party: table[:200] for party, table in data.items()}
    test = {party: table[200:] for party, table in data.items()}
    both = BackfittingRegressor(style="boosting", sweeps=60).fit(train, y[:200]).score(test, y[200:])
    alone = BackfittingRegressor(style="boosting", sweeps=60).fit({"bank": train["bank"]}, y[:200])
    assert both > alone.score({"bank": test["bank"]}, y[200:]) + 0.1


def test_the_first_owner_sees_the_labels() -> None:
    data, y = two_owners()
    fit = BackfittingRegressor(LinearRegression(), sweeps=1).fit(data, y)
    seen: list[np.ndarray] = []
    node = fit.nodes_["bank"]
    original = node.handle

    def listening(message: Message) -> Message:
        if message.kind is Kind.COTANGENT and message.array is not None:
            seen.append(message.array[:, 0])
        return original(message)

    node.handle = listening  # type: ignore[method-assign]
    fit._sweep_all(y[:, None])
    np.testing.assert_allclose(seen[0], y - y.mean())


def test_bytes_and_repetition() -> None:
    data, y = two_owners()
    one, two = (BackfittingRegressor(sweeps=4, seed=3).fit(data, y) for _ in range(2))
    n = len(y)
    down = frame_bytes("int64", (n,)) + 4 * frame_bytes("float64", (n, 1))
    assert one.channel_.log.bytes("bank", "down") == down
    assert one.channel_.log.bytes("bank", "up") == frame_bytes(None) + 4 * frame_bytes("float64", (n, 1))
    assert one.predict(data).tobytes() == two.predict(data).tobytes()


def test_refusals() -> None:
    data, y = two_owners()
    for wrong in ({"style": "bagging"}, {"sweeps": 0}, {"rate": 0.0}):
        with pytest.raises(InvalidOption):
            BackfittingRegressor(**wrong).fit(data, y)
    with pytest.raises(InvalidOption, match="finite numbers"):
        BackfittingRegressor().fit(data, y[:-1])
    with pytest.raises(NotFittedError):
        BackfittingRegressor().predict(data)
    fit = clone(BackfittingRegressor(LinearRegression(), sweeps=2)).fit(data, y)
    with pytest.raises(TableMismatch, match="every owner"):
        fit.predict({"bank": data["bank"]})
    with pytest.raises(LostParty, match="unknown rows"):
        fit.channel_.call("bank", Message(Kind.OUTPUT, 0, np.array([n := len(y)])))
    with pytest.raises(LostParty, match="misfit"):
        fit.channel_.call("bank", Message(Kind.COTANGENT, 0, np.zeros((n - 1, 1))))
    with pytest.raises(LostParty, match="not finite"):
        fit.channel_.call("bank", Message(Kind.COTANGENT, 0, np.full((n, 1), np.nan)))
