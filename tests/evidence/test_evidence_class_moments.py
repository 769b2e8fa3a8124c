"""Class moments: those of pooled rows however rows are split over owners; few rows stay at home; noise is priced."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import multivariate_normal

from quiltwork.errors import InvalidOption
from quiltwork.evidence.class_moments import ClassMoments, Form
from quiltwork.evidence.class_release import release_class_moments
from quiltwork.evidence.clipped import ClippedGaussian
from quiltwork.privacy.accountant import price

FORMS: tuple[Form, ...] = ("pooled", "per_class")


def by_hand(rows: np.ndarray, labels: np.ndarray, classes: int, form: Form) -> dict[str, np.ndarray]:
    counts = np.array([(labels == c).sum() for c in range(classes)], dtype=float)
    means = np.array([rows[labels == c].mean(axis=0) if n else np.zeros(rows.shape[1]) for c, n in enumerate(counts)])
    each = np.array(
        [
            np.cov(rows[labels == c].T, bias=True).reshape(2 * rows.shape[1:]) if n else np.zeros(2 * rows.shape[1:])
            for c, n in enumerate(counts)
        ]
    )
    pooled = sum(n * cov for n, cov in zip(counts, each, strict=True)) / counts.sum()
    return {"counts": counts, "means": means, "covariances": each if form == "per_class" else pooled}


def close(moments: ClassMoments, wanted: dict[str, np.ndarray], scale: float = 1.0) -> bool:
    found = moments.arrays()
    tolerance = {"counts": 0.0, "means": 1e-11 * scale, "covariances": 1e-11 * scale**2}
    return all(np.allclose(found[name], wanted[name], rtol=1e-9, atol=tolerance[name]) for name in found)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(FORMS))
def test_merged_moments_are_those_of_pooled_rows(data: st.DataObject, form: Form) -> None:
    n, owners = data.draw(st.integers(3, 40)), data.draw(st.integers(1, 4))
    rows = data.draw(arrays(np.float64, (n, 2), elements=st.floats(-100, 100, width=32)))
    labels = data.draw(arrays(np.int64, n, elements=st.integers(0, 3)))
    owner = data.draw(arrays(np.int64, n, elements=st.integers(0, owners - 1)))
    parts = [
        ClassMoments.from_rows(rows[owner == o], labels[owner == o], 4, form, minimum_rows=1)
        for o in range(owners)
        if (owner == o).any()
    ]
    assert close(ClassMoments.merged(parts), by_hand(rows, labels, 4, form), scale=100)


@pytest.mark.parametrize("form", FORMS)
def test_negative_control_averaged_covariances_are_not_those_of_pooled_rows(form: Form) -> None:
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(60, 2)), np.repeat([0, 1], 30)
    rows[::2] += 5
    halves = [ClassMoments.from_rows(rows[s::2], labels[s::2], 2, form) for s in (0, 1)]
    averaged = ClassMoments(
        halves[0].counts + halves[1].counts,
        (halves[0].means + halves[1].means) / 2,
        (halves[0].covariances + halves[1].covariances) / 2,
    )
    wanted = by_hand(rows, labels, 2, form)
    assert close(halves[0].merge(halves[1]), wanted)
    assert not close(averaged, wanted)


def test_many_blocks_are_one_table() -> None:
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(40_000, 3)) + 1e4, rng.integers(0, 3, 40_000)
    for form in FORMS:
        moments = ClassMoments.from_rows(rows.astype(np.float32), labels, 3, form)
        assert close(moments, by_hand(rows.astype(np.float32).astype(float), labels, 3, form), scale=1e4)


def test_pooling_covariances_afterwards_is_pooling_rows() -> None:
    rng = np.random.default_rng(2)
    rows, labels = rng.normal(size=(90, 2)) * [1, 3], rng.integers(0, 3, 90)
    assert close(ClassMoments.from_rows(rows, labels, 3, "per_class").pooled(), by_hand(rows, labels, 3, "pooled"))


def test_a_class_of_few_rows_stays_at_home() -> None:
    rows = np.concatenate([np.zeros((20, 1)), np.full((9, 1), 7.0)])
    labels = np.repeat([0, 1], [20, 9])
    for form in FORMS:
        moments = ClassMoments.from_rows(rows, labels, 2, form)
        assert moments.counts.tolist() == [20, 0]
        assert not moments.means.any()
        assert not moments.covariances.any()
    with pytest.raises(InvalidOption, match="no class has 10 rows"):
        ClassMoments.from_rows(rows[20:], labels[20:], 2)


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ([0, 1, 2], 2, "outside"),
        ([0, -1, 1], 2, "outside"),
        ([0, 1], 2, "shape"),
        ([0.0, 1.0, 1.0], 2, "dtype"),
        ([0, 1, 1], 0, "classes=0"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[float], classes: int, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        ClassMoments.from_rows(np.zeros((3, 1)), labels, classes, minimum_rows=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"counts": [1.5, 1.0]}, "counts"),
        ({"counts": [0.0, 0.0]}, "counts"),
        ({"counts": [1.0]}, "counts and means"),
        ({"means": [[np.inf, 0.0], [0.0, 0.0]]}, "means"),
        ({"covariances": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric"),
        ({"covariances": [[1.0, 2.0], [2.0, 1.0]]}, "eigenvalue"),
        ({"covariances": [[-1.0, 0.0], [0.0, 1.0]]}, "variance"),
        ({"covariances": np.eye(3)}, "shape"),
    ],
)
def test_moments_of_no_rows_are_refused(changes: dict[str, object], said: str) -> None:
    sound = {"counts": [3.0, 4.0], "means": [[0.0, 1.0], [1.0, 0.0]], "covariances": np.eye(2)}
    ClassMoments(**sound)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=said):
        ClassMoments(**{**sound, **changes})  # type: ignore[arg-type]


def test_moments_of_other_spaces_or_forms_do_not_merge() -> None:
    rows, labels = np.random.default_rng(3).normal(size=(40, 2)), np.repeat([0, 1], 20)
    with pytest.raises(InvalidOption, match="class moments"):
        ClassMoments.from_rows(rows, labels, 2).merge(ClassMoments.from_rows(rows, labels, 2, "per_class"))
    with pytest.raises(InvalidOption, match="class moments"):
        ClassMoments.from_rows(rows, labels, 2).merge(ClassMoments.from_rows(rows, labels, 3))
    with pytest.raises(InvalidOption, match="none to merge"):
        ClassMoments.merged([])


def rule(epsilon: float, **changes: object) -> ClippedGaussian:
    return ClippedGaussian(np.zeros(2), np.ones(2), epsilon, 1e-6, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("form", "sensitivity"), [("pooled", math.sqrt(3)), ("per_class", 2.0)])
def test_noise_costs_what_was_asked(form: Form, sensitivity: float) -> None:
    rng = np.random.default_rng(4)
    rows, labels = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    for epsilon in (0.1, 4.0):
        moments, events = release_class_moments(rows, labels, 2, rule(epsilon), form, rng=rng)
        assert moments.form == form
        assert len(events) == 1
        assert events[0].released == "classes"
        assert events[0].sensitivity == pytest.approx(sensitivity)
        assert price(events, delta=1e-6) == pytest.approx(epsilon, abs=2e-3)


@settings(deadline=None, max_examples=100)
@given(arrays(np.float64, (6, 2), elements=st.floats(-50, 50)), st.integers(0, 5), st.sampled_from(FORMS))
def test_one_row_changes_the_noiseless_numbers_by_at_most_the_sensitivity(
    rows: np.ndarray, gone: int, form: Form
) -> None:
    """Brute force over the numbers that are released, off-diagonal entries weighed as the noise weighs them."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    kept = np.arange(6) != gone
    change = np.concatenate(released(rows, labels, form)) - np.concatenate(released(rows[kept], labels[kept], form))
    bound = math.sqrt(3) if form == "pooled" else 2.0
    assert np.linalg.norm(change) <= bound * (1 + 1e-12)


def released(rows: np.ndarray, labels: np.ndarray, form: Form) -> list[np.ndarray]:
    u = rule(1.0).clipped(rows)
    wide = np.concatenate([np.ones((len(u), 1)), u], axis=1)
    if form == "per_class":
        return [(wide[labels == c].T @ wide[labels == c]).ravel() for c in range(3)]
    return [*(wide[labels == c].sum(axis=0) for c in range(3)), (u.T @ u).ravel()]


@pytest.mark.parametrize("form", FORMS)
def test_where_noise_is_small_the_moments_are_those_of_the_rows(form: Form) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 30_000)
    rows = rng.normal(size=(30_000, 2)) * 0.5 + np.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])[labels]
    noisy, _ = release_class_moments(rows, labels, 3, rule(8.0, clip=4.0), form, rng=rng)
    exact = by_hand(rows, labels, 3, form)
    np.testing.assert_allclose(noisy.counts, exact["counts"], atol=20)
    np.testing.assert_allclose(noisy.means, exact["means"], atol=0.01)
    np.testing.assert_allclose(noisy.covariances, exact["covariances"], atol=0.02)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.integers(0, 2**32 - 1), st.sampled_from(FORMS), st.sampled_from([0.01, 1.0]))
def test_any_release_could_be_moments_of_rows(rows: int, seed: int, form: Form, epsilon: float) -> None:
    rng = np.random.default_rng(seed)
    table, labels = rng.normal(size=(rows, 2)), rng.integers(0, 4, rows)
    moments, _ = release_class_moments(table, labels, 4, rule(epsilon), form, rng=rng)
    held = moments.counts > 0
    spread = moments.covariances if form == "pooled" else moments.covariances[held]
    assert held.any()
    assert np.linalg.eigvalsh(spread).min() > 0
    assert np.linalg.norm(moments.means / rule(1.0).reach, axis=1).max() <= 1 + 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_as_evidence_the_classes_are_the_groups_of_a_mixture(form: Form) -> None:
    rng = np.random.default_rng(6)
    rows, labels = rng.normal(size=(200, 2)), np.repeat([0, 2], [150, 50])
    moments = ClassMoments.from_rows(rows, labels, 3, form)
    found = moments.covariates().log_density(rows[:5], shrinkage=1e-6, scale=np.ones(2))
    spreads = [moments.covariances[c] if form == "per_class" else moments.covariances for c in (0, 2)]
    densities = [
        share * multivariate_normal(moments.means[c], spread).pdf(rows[:5])
        for share, c, spread in zip((0.75, 0.25), (0, 2), spreads, strict=True)
    ]
    np.testing.assert_allclose(found, np.log(np.sum(densities, axis=0)), rtol=1e-4)


def test_pooled_moments_of_many_classes_merge_in_the_memory_of_one_square() -> None:
    """A square for each class would be 65 MB here, and for the most classes that a release may have more than fits."""
    classes, width = 2000, 64
    rng = np.random.default_rng(0)
    one, other = (
        ClassMoments(np.full(classes, 3.0), rng.normal(size=(classes, width)), np.eye(width)) for _ in range(2)
    )
    tracemalloc.start()
    merged = one.merge(other)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < classes * width**2 * 8 / 4
    gap = other.means - one.means
    assert np.allclose(merged.covariances, np.eye(width) + 1.5 * gap.T @ gap / (6 * classes))


def test_evidence_of_more_classes_than_fit_is_refused() -> None:
    many = ClassMoments(np.ones(5000), np.zeros((5000, 200)), np.eye(200))
    with pytest.raises(InvalidOption, match="5000 classes in 200 dimensions"):
        many.covariates()
