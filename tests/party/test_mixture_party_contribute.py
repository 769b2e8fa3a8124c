"""The owner's verb for tables from end to end: what is in the directory, what it equals, what a failure leaves."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

import quiltwork.party.mixture as room
from quiltwork.compose.tables import local_of
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import FragmentError, InvalidOption, StorageError
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.fingerprint import fingerprint
from quiltwork.models.mixture.gates import ConstantWeights, PooledGate, SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.party.answers import answer_candidates
from quiltwork.party.mixture import MixtureOrder, contribute_mixture
from quiltwork.party.table import TableFragment, open_table, table_from_arrays
from quiltwork.privacy.accountant import price
from quiltwork.privacy.events import ExactEvent


def rows(n: int = 200, d: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two lines that cross, one for each sign of the first covariate."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, np.where(x[:, 0] > 0, 1 + x[:, 0], -1 - 3 * x[:, 0]) + 0.3 * rng.normal(size=n)


@pytest.fixture
def table() -> TableFragment:
    x, y = rows()
    return table_from_arrays(x, y, features=("age", "dose"), target="stay", units={"age": "years"})


def tensor(contribution: Contribution, name: str) -> np.ndarray:
    return contribution.tensor(name).numpy()


# what it equals -------------------------------------------------------


def test_one_expert_is_ordinary_least_squares_with_its_likelihood(table: TableFragment, tmp_path: Path) -> None:
    order = MixtureOrder("ash", n_experts=1, precision=True)
    made = contribute_mixture(table, tmp_path / "ash", order)
    x, y = rows()
    fit = sm.OLS(y, sm.add_constant(x)).fit()
    np.testing.assert_allclose(tensor(made, "mixture.coefficients")[0, 0], fit.params, rtol=1e-8)
    np.testing.assert_allclose(tensor(made, "mixture.variances")[0, 0], fit.ssr / len(y), rtol=1e-8)
    method: Any = made.manifest.method
    assert method.log_likelihood == pytest.approx(fit.llf, rel=1e-9)
    assert (method.rows, method.n_experts, method.n_features, method.n_outputs) == (200, 1, 2, 1)
    wide = sm.add_constant(x)
    np.testing.assert_allclose(tensor(made, "precision.expert_grams")[0], wide.T @ wide, rtol=1e-10)
    assert not [name for name in made.tensor_names("precision.") if "hessian" in name]
    np.testing.assert_allclose(tensor(made, "covariates.means")[0], x.mean(axis=0))
    np.testing.assert_allclose(tensor(made, "covariates.covariances")[0], np.cov(x.T, bias=True))
    assert tensor(made, "covariates.counts").tolist() == [200]


def test_the_contribution_reads_back_as_a_local(table: TableFragment, tmp_path: Path) -> None:
    order = MixtureOrder("ash", licence="CC-BY-4.0", card="Of stays.", covariates=2, precision=True)
    made = contribute_mixture(table, tmp_path / "ash", order)
    again = read(made.path)
    assert again == made
    local = local_of(again)
    assert (local.party, local.rows, local.licence, local.digest) == ("ash", 200, "CC-BY-4.0", made.digest)
    assert local.covariates is not None
    assert local.covariates.count == 200
    assert local.precision is not None
    reference: Any = made.manifest.table  # type: ignore[union-attr]
    assert (reference.features, reference.units, reference.target) == (("age", "dose"), ("years", ""), ("stay",))
    x, y = rows(1000, seed=1)
    assert local.mixture.log_density(x, y[:, None]).mean() > -0.4  # two lines with noise 0.3 have about -0.3
    assert set(reference.model_dump()) == {"features", "units", "target", "classes"}
    assert set(made.manifest.method.software) == {"quiltwork", "numpy", "scipy", "scikit-learn"}


def test_the_expected_bytes_leave_and_no_row(table: TableFragment, tmp_path: Path) -> None:
    made = contribute_mixture(table, tmp_path / "ash", MixtureOrder("ash"))
    assert sorted(path.name for path in made.path.iterdir()) == [
        "contribution.json",
        "mixture.safetensors",
        "statistics.safetensors",
    ]
    numbers = 2 * 3 + 2 * 3 + 2 + 1 + 2 + 4
    assert sum(tensor(made, name).size for name in made.tensor_names("")) == numbers
    everything = b"".join(path.read_bytes() for path in made.path.iterdir())
    x, y = rows()
    for value in (*x[:20].ravel(), *y[:20]):
        assert float(value).hex().encode() not in everything
        assert np.float64(value).tobytes() not in everything


@pytest.mark.parametrize("task", ["regression", "classification", "counts"])
def test_every_task_and_several_targets(task: Any, tmp_path: Path) -> None:
    x, y = rows()
    y = {"regression": np.stack([y, -y], axis=1), "classification": np.sign(y), "counts": np.floor(np.exp(y / 4))}[task]
    target = ["u", "v"] if task == "regression" else "u"
    made = contribute_mixture(table_from_arrays(x, y, target=target, task=task), tmp_path / "a", MixtureOrder("a"))
    local = local_of(made)
    density = local.mixture.log_density(
        x, {"classification": (np.sign(y) > 0).astype(int)}.get(task, y.reshape(200, -1))
    )
    assert np.isfinite(density).all()
    assert made.manifest.method.log_likelihood == pytest.approx(density.sum(), rel=1e-12)  # type: ignore[union-attr]


def test_declared_classes_that_no_row_has_are_unlikely_and_in_their_place(tmp_path: Path) -> None:
    x, y = rows()
    names = np.where(y > 0, "high", "low")
    table = table_from_arrays(x, names, task="classification", classes=["none", "low", "other", "high"])
    local = local_of(contribute_mixture(table, tmp_path / "a", MixtureOrder("a")))
    chances = local.mixture.mean(x)
    assert chances.shape == (200, 4)
    assert (chances[:, [0, 2]] <= 1 / 400).all()
    assert (chances[:, [0, 2]] > 0).all()
    narrow = table_from_arrays(x, names, task="classification", classes=["low", "high"])
    alone = local_of(contribute_mixture(narrow, tmp_path / "b", MixtureOrder("b"))).mixture.mean(x)
    np.testing.assert_allclose(chances[:, [1, 3]], alone, atol=1 / 200)


def test_weights_count_rows(tmp_path: Path) -> None:
    x, y = rows(60)
    weights = np.arange(60) % 3
    weighted = table_from_arrays(x, y, weights=weights)
    repeated = table_from_arrays(np.repeat(x, weights, axis=0), np.repeat(y, weights))
    order = MixtureOrder("a", n_experts=1)
    one, other = (contribute_mixture(t, tmp_path / n, order) for t, n in ((weighted, "1"), (repeated, "2")))
    np.testing.assert_allclose(tensor(one, "mixture.coefficients"), tensor(other, "mixture.coefficients"), rtol=1e-9)
    assert one.manifest.method.rows == 40  # type: ignore[union-attr]
    assert one.manifest.method.log_likelihood == pytest.approx(  # type: ignore[union-attr]
        other.manifest.method.log_likelihood  # type: ignore[union-attr]
    )


# what it costs --------------------------------------------------------


def test_everything_exact_is_priced_at_infinity(table: TableFragment, tmp_path: Path) -> None:
    made = contribute_mixture(table, tmp_path / "a", MixtureOrder("a", precision=True))
    events = made.manifest.privacy
    assert [event.released for event in events] == ["mixture", "covariates", "precision", "training"]
    assert all(isinstance(event, ExactEvent) and event.unit == "row" for event in events)
    assert price(events, delta=1e-6) == math.inf
    bare = MixtureOrder("a", covariates=None, report_likelihood=False)
    made = contribute_mixture(table, tmp_path / "b", bare)
    assert [event.released for event in made.manifest.privacy] == ["mixture"]
    assert made.parts == {"mixture"}
    assert made.manifest.method.log_likelihood is None  # type: ignore[union-attr]


# determinism ----------------------------------------------------------

AGAIN = """
import sys
from quiltwork.party.mixture import MixtureOrder, contribute_mixture
from quiltwork.party.table import open_table
order = MixtureOrder("a", n_experts=3, covariates=2, precision=True, seed=5)
print(contribute_mixture(open_table([sys.argv[1]], target="y"), sys.argv[2], order).digest)
"""


def test_equal_inputs_give_equal_bytes_in_any_process_and_on_any_number_of_threads(tmp_path: Path) -> None:
    x, y = rows(300, 4)
    pd.DataFrame({**{f"x{j}": x[:, j] for j in range(4)}, "y": y}).to_parquet(tmp_path / "t.parquet")
    digests = []
    for threads in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", AGAIN, str(tmp_path / "t.parquet"), str(tmp_path / threads)]
        digests.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert digests[0] == digests[1]
    order = MixtureOrder("a", n_experts=3, covariates=2, precision=True, seed=5)
    fragment = open_table([tmp_path / "t.parquet"], target="y")
    assert contribute_mixture(fragment, tmp_path / "3", order).digest == digests[0].strip()
    small = [{name: file.digest for name, file in read(tmp_path / n).manifest.payload.items()} for n in "123"]
    assert small[0] == small[1] == small[2]


def test_a_spilled_table_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows()
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y}).to_parquet(tmp_path / "t.parquet")
    fragment = open_table([tmp_path / "t.parquet"], target="y")
    one = contribute_mixture(fragment, tmp_path / "1", MixtureOrder("a"))
    arrays = TableFragment.arrays
    monkeypatch.setattr(TableFragment, "arrays", lambda self, **options: arrays(self, memory=100, **options))
    assert contribute_mixture(fragment, tmp_path / "2", MixtureOrder("a")).digest == one.digest


# refusals and failures ------------------------------------------------


@pytest.mark.parametrize(
    ("order", "what"),
    [
        ({"party": "Ash Tree"}, "party"),
        ({"party": "a", "licence": ""}, "licence"),
        ({"party": "a", "card": "\x1b"}, "card"),
    ],
)
def test_words_that_the_format_refuses(order: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidOption, match=what):
        MixtureOrder(**order)


@pytest.mark.parametrize(
    ("order", "pattern"),
    [
        ({"n_experts": 201}, "201"),
        ({"n_experts": 0}, "n_experts"),
        ({"options": {"learning_rate": 1}}, "learning_rate"),
        ({"options": {"random_state": 1}}, "random_state"),
        ({"covariates": 0}, "components"),
    ],
)
def test_options_that_do_not_fit(order: dict[str, Any], pattern: str, table: TableFragment, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=pattern):
        contribute_mixture(table, tmp_path / "a", MixtureOrder("a", **order))
    assert not list(tmp_path.iterdir())


def test_rows_that_cannot_be_used(tmp_path: Path) -> None:
    x, y = rows()
    for bad in (np.full(200, 2.0), np.where(np.arange(200) == 3, np.nan, y)):
        with pytest.raises(FragmentError, match="column 'y'"):
            contribute_mixture(table_from_arrays(x, bad), tmp_path / "a", MixtureOrder("a"))
    with pytest.raises(FragmentError, match="no rows"):
        contribute_mixture(table_from_arrays(x[:0], y[:0]), tmp_path / "a", MixtureOrder("a"))
    with pytest.raises(InvalidOption, match="fewer than 10"):
        contribute_mixture(table_from_arrays(x[:9], y[:9]), tmp_path / "a", MixtureOrder("a"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["constant", "collinear", "huge", "copies"])
def test_degenerate_columns_never_give_a_model_that_is_not_finite(kind: str, tmp_path: Path) -> None:
    x, y = rows()
    x = {
        "constant": np.column_stack([x, np.full(200, 3.0)]),
        "collinear": np.column_stack([x, x.sum(axis=1)]),
        "huge": x * [1e12, 1e-12],
        "copies": np.column_stack([x, x]),
    }[kind]
    local = local_of(contribute_mixture(table_from_arrays(x, y), tmp_path / "a", MixtureOrder("a", precision=True)))
    assert np.isfinite(local.mixture.log_density(x, y[:, None])).all()
    assert np.isfinite(local.mixture.mean(x)).all()


def test_an_existing_target_is_refused_before_any_work(
    table: TableFragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = contribute_mixture(table, tmp_path / "a", MixtureOrder("a"))
    with monkeypatch.context() as patch:
        patch.setattr(room, "fit_rows", lambda *_: pytest.fail("it fitted"))
        with pytest.raises(StorageError, match="already there"):
            contribute_mixture(table, tmp_path / "a", MixtureOrder("a"))
    second = contribute_mixture(table, tmp_path / "a", MixtureOrder("a", n_experts=1), overwrite=True)
    assert second.digest != first.digest
    assert read(tmp_path / "a") == second


@pytest.mark.parametrize("where", ["quiltwork.party.mixture.fit_rows", "quiltwork.contribution.payload.write"])
def test_an_interrupted_run_leaves_nothing(
    where: str, table: TableFragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    with pytest.raises(KeyboardInterrupt):
        contribute_mixture(table, tmp_path / "a", MixtureOrder("a"))
    assert not list(tmp_path.iterdir())


# answers --------------------------------------------------------------


def line(intercept: float) -> Mixture[GaussianExperts]:
    gate = SoftmaxGate(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    coefficients = np.array([[[intercept, 1.0, 0.0]], [[-1.0, -3.0, 0.0]]])
    return Mixture(gate, GaussianExperts(coefficients, np.array([[0.5], [0.25]])))


def brute(mixture: Mixture[Any], x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    total = 0.0
    for row, value, weight in zip(x, y, weights, strict=True):
        logits = [a[0] + a[1:] @ row for a in mixture.gate.coefficients]  # type: ignore[attr-defined]
        shares = np.exp(logits) / np.exp(logits).sum()
        experts = zip(mixture.experts.coefficients[:, 0], mixture.experts.variances[:, 0], strict=True)
        density = sum(
            share * stats.norm.pdf(value, b[0] + b[1:] @ row, math.sqrt(s))
            for share, (b, s) in zip(shares, experts, strict=True)
        )
        total += weight * math.log(density)
    return total


def test_an_answer_is_the_likelihood_of_the_rows(tmp_path: Path) -> None:
    x, y = rows(50)
    candidates = [line(1.0), line(5.0)]
    weights = np.arange(50) / 10
    answer = answer_candidates(table_from_arrays(x, y, weights=weights), candidates, tmp_path / "a", "ash")
    assert read(answer.path) == answer
    expected = [brute(one, x, y, weights) for one in candidates]
    np.testing.assert_allclose(tensor(answer, "likelihoods.values"), expected, rtol=1e-12)
    method: Any = answer.manifest.method
    assert method.candidates == tuple(fingerprint(one) for one in candidates)
    assert method.rows == 50
    assert price(answer.manifest.privacy, delta=1e-6) == math.inf


def test_a_fingerprint_is_that_of_every_bit() -> None:
    assert fingerprint(line(1.0)) == fingerprint(line(1.0))
    assert fingerprint(line(1.0)) != fingerprint(line(np.nextafter(1.0, 2.0)))


def test_questions_that_are_none(tmp_path: Path) -> None:
    x, y = rows(50)
    table = table_from_arrays(x, y)
    pooled = Mixture(PooledGate((SoftmaxGate(np.zeros((2, 3))),), ConstantWeights(np.ones(1))), line(1.0).experts)
    narrow = Mixture(SoftmaxGate(np.zeros((1, 2))), GaussianExperts(np.zeros((1, 1, 2)), np.ones((1, 1))))
    for candidates, pattern in (
        ([], "there is none"),
        ([line(1.0)] * 2, "twice"),
        ([pooled], "softmax"),
        ([narrow], "1"),
    ):
        with pytest.raises(InvalidOption, match=pattern):
            answer_candidates(table, candidates, tmp_path / "a", "ash")
    certain = Mixture(line(1.0).gate, GaussianExperts(line(1.0).experts.coefficients, np.full((2, 1), 1e-308)))
    far = table_from_arrays(x, y + 100)
    with np.errstate(over="ignore"), pytest.raises(FragmentError, match="no density"):
        answer_candidates(far, [certain], tmp_path / "a", "ash")
    assert not list(tmp_path.iterdir())
