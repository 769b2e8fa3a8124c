"""One round of log-likelihoods: owners answer with a number a candidate, and the sums choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from cli_runner import done, misused, refused
from cli_tables import FEATURES, HONEST

from quiltwork.compose.reopen import open_table_composite
from quiltwork.contribution.store import read

Composed = Callable[[str], Path]
SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def candidates(machines: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reductions to several numbers of experts; the truth has four."""
    place = tmp_path_factory.mktemp("candidates")
    for k in SIZES:
        given = [machines[name] for name in HONEST]
        done("compose", *given, "--method", "reduction", "--n-experts", k, "--out", place / f"k{k}")
    return {f"k{k}": place / f"k{k}" for k in SIZES}


@pytest.fixture(scope="module")
def answers(
    candidates: Mapping[str, Path], tables: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("answers")
    asked = [word for path in candidates.values() for word in ("--candidate", path)]
    for name in HONEST:
        words = ("--data", tables[name], *asked, "--party", name, "--out", place / name)
        done("contribute", "likelihoods", *words)
    return {name: place / name for name in HONEST}


def told(answers: Mapping[str, Path]) -> list[object]:
    return [word for path in answers.values() for word in ("--answer", path)]


def test_the_criterion_is_that_of_all_rows_together(
    candidates: Mapping[str, Path], answers: Mapping[str, Path], tables: Mapping[str, Path]
) -> None:
    result = done("choose", *candidates.values(), *told(answers), "--json").json
    rows = np.concatenate([np.loadtxt(tables[name], delimiter=",", skiprows=1) for name in HONEST])
    for name, path in candidates.items():
        mixture = open_table_composite(path).mixture
        k, width = mixture.n_experts, 1 + len(FEATURES)
        total = mixture.log_density(rows[:, :2], rows[:, 2:]).sum()
        count = k * width + k + (k - 1) * width
        stated = result["candidates"][name]
        assert (stated["experts"], stated["parameters"]) == (k, count)
        assert stated["log_likelihood"] == pytest.approx(total, rel=1e-12)
        assert stated["bic"] == pytest.approx(count * math.log(len(rows)) - 2 * total, rel=1e-12)
    assert result["chosen"] == "k4"
    shown = done("choose", *candidates.values(), *told(answers)).out
    assert "* k4: 4 experts" in shown
    assert "  k1: 1 experts" in shown


def test_an_answer_holds_one_number_a_candidate_and_is_priced(answers: Mapping[str, Path]) -> None:
    contribution = read(answers["ash"])
    assert contribution.kind == "likelihoods"
    assert contribution.tensor("likelihoods.values").shape == (len(SIZES),)
    shown = done("inspect", answers["ash"]).out
    assert "privacy of likelihoods" in shown
    assert "no bound (exact)" in shown


def test_answers_that_do_not_fit_are_named(
    candidates: Mapping[str, Path],
    answers: Mapping[str, Path],
    machines: Mapping[str, Path],
    composed_tables: Composed,
    tables: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    given = tuple(candidates.values())
    refused("choose", *given, composed_tables("middle"), *told(answers), names=("candidate 'middle'", "party 'ash'"))
    refused("choose", *given, "--answer", machines["ash"], names=("party 'ash'", "mixture"))
    refused("choose", *given, "--answer", answers["ash"], "--answer", answers["ash"], names="party 'ash'")
    misused("choose", *given, names="--answer")
    words = ("contribute", "likelihoods", "--data", tables["ash"], "--party", "ash", "--out", tmp_path / "out")
    refused(*words, "--candidate", machines["ash"], names=str(machines["ash"]))
    refused(*words, "--candidate", composed_tables("ambient"), names="candidate 0")
    assert list(tmp_path.iterdir()) == []
