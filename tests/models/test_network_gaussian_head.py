"""The head from merged moments is scikit-learn's on pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB

from quiltwork.errors import InvalidOption
from quiltwork.evidence.class_moments import ClassMoments, Form
from quiltwork.evidence.embedding import IdentityEmbedding
from quiltwork.models.network.embedder import embedder
from quiltwork.models.network.gaussian_head import GaussianHeadModule, HeadForm

ORACLES = {
    "lda": LinearDiscriminantAnalysis(solver="lsqr"),
    "qda": QuadraticDiscriminantAnalysis(store_covariance=True),
    "naive_bayes": GaussianNB(var_smoothing=0.0),
}


def owners(rows: np.ndarray, labels: np.ndarray, form: Form, parts: int = 3) -> ClassMoments:
    """Merged moments of rows dealt to owners unevenly."""
    owner = np.random.default_rng(0).choice(parts, size=len(rows), p=[0.6, 0.3, 0.1])
    return ClassMoments.merged(
        ClassMoments.from_rows(rows[owner == o], labels[owner == o], int(labels.max()) + 1, form, minimum_rows=1)
        for o in range(parts)
    )


def head(moments: ClassMoments, form: HeadForm, shrinkage: float = 0.0) -> GaussianHeadModule:
    return GaussianHeadModule(embedder(IdentityEmbedding(), (moments.n_features,)), moments, form, shrinkage)


@pytest.mark.parametrize("form", ["lda", "qda", "naive_bayes"])
@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_merged_moments_give_the_classifier_of_pooled_rows(form: HeadForm, load: object) -> None:
    rows, labels = load(return_X_y=True)  # type: ignore[operator]
    found = head(owners(rows, labels, "per_class"), form)(torch.tensor(rows)).double().exp().numpy()
    wanted = ORACLES[form].fit(rows, labels)
    if form == "qda" and not np.allclose(wanted.covariance_[0], np.cov(rows[labels == 0].T, bias=True)):
        pytest.skip("this scikit-learn divides by n - 1")
    np.testing.assert_allclose(found, wanted.predict_proba(rows), atol=2e-6)


@pytest.mark.parametrize("form", ["lda", "qda", "naive_bayes"])
def test_the_head_is_bayes_rule_with_normal_densities(form: HeadForm) -> None:
    rows, labels = load_iris(return_X_y=True)
    spreads = [np.cov(rows[labels == c].T, bias=True) for c in range(3)]
    if form == "lda":
        spreads = [np.mean(spreads, axis=0)] * 3
    if form == "naive_bayes":
        spreads = [np.diag(spread.diagonal()) for spread in spreads]
    log_p = [multivariate_normal(rows[labels == c].mean(axis=0), spreads[c]).logpdf(rows) for c in range(3)]
    found = head(owners(rows, labels, "per_class"), form)(torch.tensor(rows)).double().exp().numpy()
    np.testing.assert_allclose(found, softmax(np.stack(log_p, axis=1), axis=1), atol=2e-6)


def test_lda_needs_pooled_moments_only() -> None:
    rows, labels = load_iris(return_X_y=True)
    found = head(owners(rows, labels, "pooled"), "lda")(torch.tensor(rows)).double().exp().numpy()
    np.testing.assert_allclose(found, ORACLES["lda"].fit(rows, labels).predict_proba(rows), atol=2e-6)


def test_pooled_naive_bayes_is_lda_of_a_diagonal_covariance() -> None:
    rows, labels = load_iris(return_X_y=True)
    moments = owners(rows, labels, "pooled")
    diagonal = ClassMoments(moments.counts, moments.means, np.diag(np.diag(moments.covariances)))
    x = torch.tensor(rows)
    assert torch.allclose(head(moments, "naive_bayes")(x), head(diagonal, "lda")(x), atol=1e-5)
    assert torch.allclose(head(moments, "lda", 1.0)(x), head(diagonal, "lda")(x), atol=1e-5)


def test_negative_control_one_owner_alone_is_another_classifier() -> None:
    rows, labels = load_wine(return_X_y=True)
    own = ClassMoments.from_rows(rows[::3], labels[::3], 3)
    found = head(own, "lda")(torch.tensor(rows)).double().exp().numpy()
    assert np.abs(found - ORACLES["lda"].fit(rows, labels).predict_proba(rows)).max() > 0.1


def test_far_units_do_not_matter() -> None:
    rows, labels = load_iris(return_X_y=True)
    moved = rows * [1e-3, 1.0, 1e3, 1.0] + [0.0, 1e3, 1e6, 0.0]
    for form in ("lda", "qda", "naive_bayes"):
        plain = head(owners(rows, labels, "per_class"), form, 0.01)(torch.tensor(rows))
        other = head(owners(moved, labels, "per_class"), form, 0.01)(torch.tensor(moved))
        assert torch.allclose(plain.exp(), other.exp(), atol=1e-4)


@pytest.mark.parametrize("form", ["lda", "qda", "naive_bayes"])
def test_a_class_that_nobody_holds_is_never_said(form: HeadForm) -> None:
    rows, labels = load_iris(return_X_y=True)
    moments = ClassMoments.from_rows(rows, np.where(labels == 2, 3, labels), 5, "per_class")
    found = head(moments, form)(torch.tensor(rows)).exp()
    assert not found[:, [2, 4]].any()
    three = ClassMoments.from_rows(rows, labels, 3, "per_class")
    assert torch.allclose(found[:, [0, 1, 3]], head(three, form)(torch.tensor(rows)).exp(), atol=1e-6)


@pytest.mark.parametrize("form", ["lda", "qda", "naive_bayes"])
def test_the_head_exports_for_any_batch(form: HeadForm) -> None:
    rows, labels = load_iris(return_X_y=True)
    module = head(owners(rows, labels, "per_class"), form).eval()
    x = torch.tensor(rows, dtype=torch.float32)
    program = torch.export.export(module, (x[:3],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    assert torch.equal(program.module()(x), module(x))


def test_what_has_no_density_is_refused_until_it_is_shrunk() -> None:
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(24, 30)), np.repeat([0, 1], 12)
    moments = ClassMoments.from_rows(rows, labels, 2, "per_class")
    for form in ("lda", "qda"):
        with pytest.raises(InvalidOption, match="singular"):
            head(moments, form)
        head(moments, form, 0.1)
    constant = ClassMoments.from_rows(rows * (np.arange(30) > 0), labels, 2, "per_class")
    with pytest.raises(InvalidOption, match="class 0"):
        head(constant, "naive_bayes")


def test_options_out_of_their_domain_are_refused() -> None:
    moments = ClassMoments.from_rows(np.random.default_rng(2).normal(size=(40, 2)), np.repeat([0, 1], 20), 2)
    for form, shrinkage, said in (("qda", 0.1, "per class"), ("svm", 0.1, "svm"), ("lda", 2.0, "shrinkage")):
        with pytest.raises(InvalidOption, match=said):
            head(moments, form, shrinkage)  # type: ignore[arg-type]
