"""Rows and offsets from moments against scikit-learn's linear discriminant analysis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from quiltwork.errors import InvalidOption
from quiltwork.models.discriminants import Discriminants, Rule
from quiltwork.models.residual import ResidualMoments
from quiltwork.models.sources import Source
from quiltwork.streaming.numbers import encode

H, PARTIES = 6, ("ash", "birch", "cedar")
Floats = NDArray[np.float64]


def rows_of(seed: int, count: int) -> Floats:
    """Rows of one owner: correlated columns around a mean of its own, far from zero."""
    draw = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(H, H))
    return 3.0 + draw.normal(size=H) + draw.normal(size=(count, H)) @ mix


DATA = {"": rows_of(0, 400), "ash": rows_of(1, 150), "birch": rows_of(2, 300), "cedar": rows_of(3, 90)}


def source(values: Floats) -> Source:
    return Source.streamed("F64", values.shape, lambda: iter([encode(values, "F64")]))


def moments_of(rows: Floats, *, full: bool = True) -> ResidualMoments:
    """Two layers, the second of the same rows doubled."""
    covariance = np.cov(rows, rowvar=False, bias=True)
    second = covariance if full else covariance.diagonal()
    means, seconds = [], []
    for factor in (1.0, 2.0):
        means.append(source(factor * rows.mean(axis=0)))
        seconds.append(source(factor**2 * second))
    return ResidualMoments(means, seconds, len(rows))


def made(*, full: bool = True, **changes: Any) -> Discriminants:
    found = Discriminants(
        moments={party: moments_of(DATA[party], full=full) for party in PARTIES},
        public=moments_of(DATA[""], full=full),
        dtype="F64",
        covariance="pooled",
        shrinkage=0.2,
        temperature=1.0,
        offset=True,
        top_k=None,
        renormalise=True,
        weights=dict.fromkeys(("", *PARTIES), 1.0),
    )
    return replace(found, **changes)


def learned(x: Floats, *, shrinkage: float, only: tuple[str, ...] = PARTIES) -> Floats:
    """scikit-learn's log-posteriors ``[n, 1 + parties]`` for classes that are all as likely."""
    names = ("", *only)
    rows, labels = np.concatenate([DATA[n] for n in names]), np.repeat(names, [len(DATA[n]) for n in names])
    # covariances weigh as their rows do, classes alike: so the priors are set after the fit
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(rows, labels)
    logits = x @ lda.coef_.T + lda.intercept_ - np.log(lda.priors_)
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def ours(found: Discriminants, x: Floats, layer: int = 0) -> Floats:
    rules = found.rules(layer)
    logits = np.stack([np.zeros(len(x)), *(x @ rules[p].row + rules[p].offset for p in sorted(rules))], axis=1)
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


@pytest.mark.parametrize("shrinkage", [0.0, 0.2, 1.0])
def test_posteriors_are_those_of_scikit_learn(shrinkage: float) -> None:
    x = rows_of(7, 50)
    expected = learned(x, shrinkage=shrinkage)
    np.testing.assert_allclose(ours(made(shrinkage=shrinkage), x), expected, rtol=1e-8, atol=1e-10)
    # in the second layer everything is twice as long, and logits are the same
    np.testing.assert_allclose(ours(made(shrinkage=shrinkage), 2 * x, layer=1), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "broken",
    [
        {"covariance": "public"},
        {"temperature": 2.0},
        {"offset": False},
        {"shrinkage": 0.3},
        {"public": moments_of(DATA["ash"])},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_negative_control_another_rule_is_noticed(broken: dict[str, Any]) -> None:
    x = rows_of(7, 50)
    expected = learned(x, shrinkage=0.2)
    np.testing.assert_allclose(ours(made(), x), expected, rtol=1e-8, atol=1e-10)
    assert np.abs(ours(made(**broken), x) - expected).max() > 0.01


def test_the_public_covariance_alone_is_the_rule_of_its_inverse() -> None:
    covariance = np.cov(DATA[""], rowvar=False, bias=True)
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / H * np.eye(H)
    inverse = np.linalg.inv(shrunk)
    base, mean = DATA[""].mean(axis=0), DATA["birch"].mean(axis=0)
    rule = made(covariance="public", temperature=2.5).rules(0)["birch"]
    np.testing.assert_allclose(rule.row, inverse @ (mean - base) / 2.5, rtol=1e-9)
    assert rule.offset == pytest.approx(-(mean @ inverse @ mean - base @ inverse @ base) / 5.0, rel=1e-9)


def test_diagonal_variances_are_independent_columns() -> None:
    found = made(full=False, shrinkage=0.0)
    counts = {name: len(rows) for name, rows in DATA.items()}
    pooled = sum(DATA[name].var(axis=0) * n for name, n in counts.items()) / sum(counts.values())
    difference = DATA["ash"].mean(axis=0) - DATA[""].mean(axis=0)
    np.testing.assert_allclose(found.rules(0)["ash"].row, difference / pooled, rtol=1e-9)
    # one diagonal among full ones makes all diagonal, and once it is gone the others are full again
    mixed = made(moments={**made().moments, "cedar": moments_of(DATA["cedar"], full=False)})
    narrow = made(full=False).rules(0)["ash"].row
    np.testing.assert_allclose(mixed.rules(0)["ash"].row, narrow, rtol=1e-9)
    np.testing.assert_array_equal(
        mixed.without("cedar").rules(0)["ash"].row, made().without("cedar").rules(0)["ash"].row
    )


@pytest.mark.parametrize("covariance", ["pooled", "public"])
def test_who_leaves_takes_its_share_of_the_covariance_along(covariance: Any) -> None:
    left = made(covariance=covariance).without("birch")
    never = made(
        covariance=covariance,
        moments={p: moments_of(DATA[p]) for p in ("cedar", "ash")},
        weights={"": 1.0, "ash": 1.0, "cedar": 1.0},
    )
    assert left.moments.keys() == left.weights.keys() - {""} == {"ash", "cedar"}
    for party in ("ash", "cedar"):
        one, other, whole = (f.rules(0)[party].row for f in (left, never, made(covariance=covariance)))
        np.testing.assert_array_equal(one, other)
        assert np.array_equal(one, whole) == (covariance == "public")
    x = rows_of(7, 20)
    if covariance == "pooled":
        expected = learned(x, shrinkage=0.2, only=("ash", "cedar"))
        np.testing.assert_allclose(ours(left, x), expected, rtol=1e-8, atol=1e-10)


def test_who_joins_later_might_have_been_there() -> None:
    early, late = made().without("ash"), made().without("birch").without("cedar")
    one, other = early.joined(late).rules(1)["birch"], made().rules(1)["birch"]
    np.testing.assert_array_equal(one.row, other.row)
    assert one.offset == other.offset
    assert early.joined(late).settings() == made().settings()


def test_without_offsets_the_boundary_keeps_its_middle() -> None:
    found = made(offset=False)
    for party, rule in found.rules(0).items():
        middle = (DATA[""].mean(axis=0) + DATA[party].mean(axis=0)) / 2
        assert rule.offset == 0
        assert abs(rule.row @ middle) < 1e-9 * np.linalg.norm(rule.row) * np.linalg.norm(middle)
        assert rule.row @ DATA[party].mean(axis=0) > 0 > rule.row @ DATA[""].mean(axis=0)
    # dropping the offsets and nothing else would leave everybody on one side
    dropped = made().rules(0)["ash"].row
    sides = {np.sign(dropped @ DATA[name].mean(axis=0)) for name in ("", "ash")}
    assert len(sides) == 1


def test_the_rows_are_the_rules_in_the_base_s_type() -> None:
    rows = made(dtype="F32").in_rows()
    rules = made().rules(1)
    np.testing.assert_array_equal(rows.rows["cedar"][1].load().numpy(), rules["cedar"].row.astype(np.float32))
    np.testing.assert_array_equal(rows.offsets["cedar"][1].load().numpy(), np.float32([rules["cedar"].offset]))
    assert not rows.plain
    assert made(offset=False).in_rows().plain
    assert isinstance(rules["ash"], Rule)


def test_a_covariance_that_is_none_is_refused() -> None:
    unsound = moments_of(DATA["ash"])
    bent = replace(unsound, seconds=[source(-np.eye(H) * 1e3), *unsound.seconds[1:]], rows=10**6)
    found = made(moments={"ash": bent, "birch": moments_of(DATA["birch"])})
    with pytest.raises(InvalidOption, match=r"covariance of layer 0 at shrinkage=0\.2: it is not positive definite"):
        found.rules(0)
    found.rules(1)
    # nobody's second moments but the public text's are read here
    assert replace(found, covariance="public").rules(0).keys() == {"ash", "birch"}


# Rows that an owner states and nobody can check.


def pooled(found: Discriminants) -> Floats:
    """The covariance of layer 0 by whitening the unit vectors: rules are differences of S^-1 m."""
    unit = [replace(found, moments={**found.moments, "probe": probe(axis)}, offset=True) for axis in range(H)]
    inverse = np.stack([one.rules(0)["probe"].row for one in unit], axis=1)
    return np.asarray(np.linalg.inv(inverse))


def probe(axis: int) -> ResidualMoments:
    """Moments of nobody: the public mean and one step along an axis, without a row to pool."""
    mean = DATA[""].mean(axis=0) + np.eye(H)[axis]
    return ResidualMoments([source(mean)] * 2, [source(np.zeros((H, H)))] * 2, 0)


def spread(rows: Floats) -> Floats:
    return np.cov(rows, rowvar=False, bias=True)


def boasting(rows: int, *labels: str) -> Discriminants:
    """Ash's moments blown up and said to be of many rows, under some labels, beside birch's."""
    blown = replace(moments_of(DATA["ash"]), seconds=[source(1e6 * spread(DATA["ash"]))] * 2, rows=rows)
    others = {"birch": moments_of(DATA["birch"])}
    return made(moments={**dict.fromkeys(labels, blown), **others}, shrinkage=0.0)


def test_honest_rows_are_pooled_as_in_the_textbook() -> None:
    found = made(moments={p: moments_of(DATA[p]) for p in ("ash", "birch")}, shrinkage=0.0)
    names = ("", "ash", "birch")
    counts = np.array([len(DATA[n]) for n in names])
    expected = sum(spread(DATA[n]) * c for n, c in zip(names, counts / counts.sum(), strict=True))
    np.testing.assert_allclose(pooled(found), expected, rtol=1e-7)


@pytest.mark.parametrize("labels", [("ash",), ("ash.a", "ash.b", "ash.c")])
@pytest.mark.parametrize("rows", [401, 10**12, 10**400], ids=["401", "10^12", "10^400"])
def test_no_owner_counts_for_more_than_the_public_text(rows: int, labels: tuple[str, ...]) -> None:
    """The covariance against the cap written out: 400 public rows, at most 400 of ash's, 300 of birch's."""
    parts = [spread(DATA[""]) * 400, 1e6 * spread(DATA["ash"]) * 400, spread(DATA["birch"]) * 300]
    np.testing.assert_allclose(pooled(boasting(rows, *labels)), sum(parts) / 1100, rtol=1e-6)
    uncapped = (1e6 * spread(DATA["ash"]) * 10**12 + parts[0] + parts[2]) / (10**12 + 700)
    assert not np.allclose(pooled(boasting(rows, *labels)), uncapped, rtol=0.1)


def test_a_boast_leaves_with_its_party() -> None:
    left, never = (
        boasting(10**12, "ash").without("ash"),
        made(moments={"birch": moments_of(DATA["birch"])}, shrinkage=0.0),
    )
    np.testing.assert_array_equal(left.rules(0)["birch"].row, never.rules(0)["birch"].row)
