"""The estimators: scikit-learn's manners, both modes, quorum, leaving, and tables that cannot be used."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from torch import nn

from quiltwork.errors import InvalidOption, NeedsRetraining, TableMismatch
from quiltwork.models.split.composers import Summed
from quiltwork.session.split.estimators import FragmentsTellNothing, SplitClassifier, SplitRegressor
from quiltwork.session.split.modes_compared import compare_modes

EIGHT_BIT = {"mode": "joint", "precision": "int8", "stale": True}


def quadrants() -> tuple[dict[str, np.ndarray], np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    grid = images.reshape(-1, 8, 8)
    corners = {"nw": grid[:, :4, :4], "ne": grid[:, :4, 4:], "sw": grid[:, 4:, :4], "se": grid[:, 4:, 4:]}
    return {party: corner.reshape(len(grid), -1) for party, corner in corners.items()}, labels


def sums(rows: int = 300) -> tuple[dict[str, np.ndarray], np.ndarray]:
    draw = np.random.default_rng(1)
    data = {"bank": draw.normal(size=(rows, 2)), "shop": draw.normal(size=(rows, 3))}
    return data, 5 + 2 * data["bank"][:, 0] - data["shop"][:, 1] + 0.1 * draw.normal(size=rows)


def some(data: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {party: table[rows] for party, table in data.items()}


@pytest.mark.parametrize(
    "options", [{}, {"mode": "joint"}, {"outputs": "stacked"}, {"outputs": "median"}, EIGHT_BIT], ids=str
)
def test_digits_of_four_owners(options: dict[str, Any]) -> None:
    data, labels = quadrants()
    train, test = slice(0, 800), slice(1000, None)
    fit = SplitClassifier(**options, epochs=8).fit(some(data, train), labels[train])
    assert fit.score(some(data, test), labels[test]) > 0.86
    probabilities = fit.predict_proba(some(data, test))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(fit.classes_[probabilities.argmax(1)], fit.predict(some(data, test)))


def test_labels_come_back_as_they_were_and_frames_are_tables() -> None:
    data, numbers = sums()
    frames = {party: pd.DataFrame(table) for party, table in data.items()}
    words = np.where(numbers > 5, "more", "less")
    fit = SplitClassifier(epochs=5).fit(frames, words)
    assert set(fit.predict(frames)) <= {"more", "less"}
    assert fit.score(data, words) > 0.8


@pytest.mark.parametrize(("options", "least"), [({"mode": "joint"}, 0.95), ({"outputs": "stacked"}, 0.9)], ids=str)
def test_numbers_of_two_owners(options: dict[str, Any], least: float) -> None:
    data, numbers = sums(400)
    fit = SplitRegressor(**options, epochs=60, held_out=0.25).fit(some(data, slice(0, 300)), numbers[:300])
    assert fit.score(some(data, slice(300, None)), numbers[300:]) > least


def test_parameters_are_scikit_learn_s() -> None:
    one = SplitClassifier("joint", width=4, absence=0.25)
    twin = clone(one)
    assert twin.get_params() == one.get_params()
    assert twin.set_params(width=5).width == 5
    with pytest.raises(NotFittedError):
        twin.predict({"a": [[1.0]]})


def test_the_same_fit_twice_is_the_same_and_a_second_fit_starts_anew() -> None:
    data, numbers = sums()
    one, two = (SplitRegressor(epochs=3).fit(data, numbers) for _ in range(2))
    two.fit(data, numbers)
    assert one.run_.digests() == two.run_.digests()


def test_own_modules() -> None:
    data, numbers = sums()
    fit = SplitRegressor(
        "joint",
        width=3,
        component=lambda columns: nn.Linear(columns, 3),
        composer=lambda widths, outputs: Summed(nn.Linear(widths[0], outputs)),
        epochs=40,
    ).fit(data, numbers)
    assert fit.score(data, numbers) > 0.95


@pytest.mark.filterwarnings("ignore::quiltwork.session.split.estimators.FragmentsTellNothing")
def test_leaving_is_exact_or_refused() -> None:
    data, numbers = sums()
    labels = numbers > 5
    fit = SplitClassifier(epochs=4, outputs="stacked").fit(data, labels)
    never = SplitClassifier(epochs=4, outputs="stacked").fit({"shop": data["shop"]}, labels)
    quorum = fit.predict_proba({"shop": data["shop"]})
    fit.leave("bank")
    assert fit.run_.digests() == never.run_.digests()
    found = fit.predict_proba({"shop": data["shop"]})
    assert found.tobytes() == never.predict_proba({"shop": data["shop"]}).tobytes() == quorum.tobytes()
    with pytest.raises(TableMismatch, match="bank"):
        fit.predict(data)
    with pytest.raises(NeedsRetraining):
        SplitClassifier("joint", epochs=1).fit(data, labels).leave("bank")


def test_a_quorum_predicts_where_it_was_prepared_for() -> None:
    data, numbers = sums()
    labels, shop = numbers > 5, {"shop": data["shop"]}
    with pytest.raises(InvalidOption, match="never missed a party"):
        SplitClassifier("joint", epochs=1).fit(data, labels).predict(shop)
    for fit in (SplitClassifier("joint", epochs=20, absence=0.4), SplitClassifier(epochs=5)):
        assert fit.fit(data, labels).score(shop, labels) > 0.6


def xor() -> tuple[dict[str, np.ndarray], np.ndarray]:
    bits = np.random.default_rng(2).integers(0, 2, (600, 2))
    return {"one": bits[:, :1], "two": bits[:, 1:]}, bits[:, 0] ^ bits[:, 1]


def test_a_fit_that_cannot_be_is_announced() -> None:
    with pytest.warns(FragmentsTellNothing, match="joint mode can"):
        SplitClassifier(epochs=5, held_out=0.3).fit(*xor())
    data, numbers = sums()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FragmentsTellNothing)
        SplitClassifier(epochs=5, held_out=0.3).fit(data, numbers > 5)
        SplitRegressor(epochs=5, held_out=0.3).fit(data, numbers)
    with pytest.warns(FragmentsTellNothing):
        SplitRegressor(epochs=5, held_out=0.3).fit(data, np.random.default_rng(9).normal(size=300))


@pytest.mark.filterwarnings("ignore::quiltwork.session.split.estimators.FragmentsTellNothing")
def test_modes_are_compared_on_held_out_rows() -> None:
    found = compare_modes(SplitClassifier(epochs=12), *xor())
    assert found.joint == 1.0
    assert found.isolated < 0.7
    assert found.better == "joint"
    assert "joint gains" in str(found)
    data, labels = quadrants()
    level = compare_modes(SplitClassifier(epochs=10), some(data, slice(0, 800)), labels[:800])
    assert level.better == "isolated"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"X": {"bank": [[1.0], [2.0]], "shop": [[1.0]]}}, "'shop': it has 1 rows, and that of 'bank' has 2"),
        ({"X": {"bank": [["a"], ["b"]]}}, "no number"),
        ({"X": {"bank": [[1.0], [np.nan]]}}, "row 1, column 0"),
        ({"X": {"bank": [1.0, 2.0]}}, "shape"),
        ({"X": {}}, "mapping"),
        ({"X": [[1.0]]}, "mapping"),
        ({"y": [0, 1, 1]}, "2 rows"),
        ({"y": [1, 1]}, "one class"),
    ],
    ids=str,
)
def test_tables_that_cannot_be_used(change: dict[str, Any], match: str) -> None:
    given = {"X": {"bank": [[1.0], [2.0]]}, "y": [0, 1]} | change
    with pytest.raises((InvalidOption, TableMismatch), match=match):
        SplitClassifier().fit(given["X"], given["y"])


@pytest.mark.parametrize(
    "options",
    [{"mode": "both"}, {"outputs": "vote"}, {"held_out": 1.0}, {"outputs": "stacked", "held_out": 0.0}, {"width": 0}],
    ids=str,
)
def test_options_that_there_are_not(options: dict[str, Any]) -> None:
    data, numbers = sums(20)
    with pytest.raises(ValueError, match=r"\w"):
        SplitClassifier(**options).fit(data, numbers > 5)
    with pytest.raises(ValueError, match="product"):
        SplitRegressor(outputs="product").fit(data, numbers)
