"""The score matrix of networks against predictions counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import network_parties as parties
from quiltwork.compose.combine import Combine
from quiltwork.compose.method import compose
from quiltwork.compose.network_alone import NetworkAlone
from quiltwork.composite import NetworkComposite
from quiltwork.contribution.networks import TaskReference
from quiltwork.errors import InvalidOption
from quiltwork.evaluate.insight import headline, verdicts
from quiltwork.evaluate.merging import merge
from quiltwork.evaluate.network_means import class_rates
from quiltwork.evaluate.network_scores import score_networks
from quiltwork.evaluate.pooling import pooled_methods
from quiltwork.evaluate.scores import Scores, from_json
from quiltwork.models.network.cost import network_cost

TASK = TaskReference.of(parties.signature())


@pytest.fixture(scope="module")
def composites(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NetworkComposite]:
    place = tmp_path_factory.mktemp("released")
    given = [parties.release(place, p, one=parties.network(p), parts=("inputs",)) for p in parties.PARTIES]
    return {
        "evidence": compose(given, Combine(weights="evidence")),
        "mean": compose(given, Combine()),
        "only birch": compose(given, NetworkAlone("birch")),
    }


HELD_OUT = {p: (parties.inputs(p, seed=7), parties.labels(p)) for p in parties.PARTIES}


def answers(model: nn.Module, party: str) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(HELD_OUT[party][0])).argmax(dim=1).numpy()


@pytest.fixture(scope="module")
def scores(composites: dict[str, NetworkComposite]) -> Scores:
    return score_networks(composites, HELD_OUT, leave_one_out=["evidence", "only birch"])


def test_every_cell_counts_wrong_answers(scores: Scores, composites: dict[str, NetworkComposite]) -> None:
    assert scores.metric == "share wrong"
    assert scores.parties == scores.domains == parties.PARTIES
    assert list(scores.methods) == ["ensemble", "evidence", "mean", "only birch"]
    for party in parties.PARTIES:
        y = HELD_OUT[party][1]
        for name, composite in composites.items():
            wrong = answers(composite.model(), party) != y
            cell = scores.methods[name].domains[party]
            assert cell.value == wrong.mean() == pytest.approx(1 - cell.extra["accuracy"])
            assert cell.spread == pytest.approx(stats.sem(wrong))
            own = answers(parties.network(party), party) != y
            assert cell.paired == pytest.approx(stats.sem(wrong.astype(float) - own))
            assert cell.amount == 60


def test_the_plain_ensemble_stands_there_unasked(scores: Scores) -> None:
    plain, asked = scores.methods["ensemble"], scores.methods["mean"]
    for party in parties.PARTIES:
        assert plain.domains[party].value == asked.domains[party].value
        told = plain.domains[party].extra
        assert told["individual"] - told["diversity"] == pytest.approx(told["log_loss"])
    assert set(scores.leave_one_out["ensemble"]) == set(parties.PARTIES)


def test_leaving_out_is_composing_the_others(scores: Scores, composites: dict[str, NetworkComposite]) -> None:
    rest = composites["evidence"].without("ash")
    for party in parties.PARTIES:
        wrong = answers(rest.model(), party) != HELD_OUT[party][1]
        assert scores.leave_one_out["evidence"]["ash"].domains[party].value == wrong.mean()
    pair = (parties.network("birch"), parties.network("cedar"))
    x, y = HELD_OUT["ash"]
    with torch.no_grad():
        p = sum(one(torch.from_numpy(x)).double().softmax(1).numpy() for one in pair)
    assert scores.leave_one_out["ensemble"]["ash"].domains["ash"].value == (p.argmax(axis=1) != y).mean()


def test_a_party_that_the_method_names_is_not_left_out(scores: Scores) -> None:
    assert set(scores.leave_one_out["only birch"]) == {"ash", "cedar"}


def test_flips_and_classes_are_told(scores: Scores) -> None:
    y = HELD_OUT["ash"][1]
    one, other = (answers(parties.network(p), "ash") for p in ("ash", "birch"))
    cell = scores.alone["ash"].domains["ash"]
    assert cell.extra["flips: birch"] == ((other == y) & (one != y)).mean()
    assert class_rates(cell.extra) == {
        name: pytest.approx((one == y)[y == code].mean()) for code, name in enumerate(parties.CLASSES)
    }
    rates = class_rates(pooled_methods(scores)["ensemble"])
    assert set(rates) == set(parties.CLASSES)


def test_owners_score_apart_and_merge(scores: Scores, composites: dict[str, NetworkComposite]) -> None:
    parts = [
        score_networks(composites, {p: HELD_OUT[p]}, leave_one_out=["evidence", "only birch"]) for p in parties.PARTIES
    ]
    merged = merge(*parts)
    for name, row in scores.methods.items():
        assert merged.methods[name].domains == row.domains
    assert {p: row.domains for p, row in merged.alone.items()} == {p: row.domains for p, row in scores.alone.items()}
    assert from_json(merged.to_json()) == merged


def test_work_is_that_of_the_networks_that_run(scores: Scores) -> None:
    each = {p: network_cost(parties.network(p)).multiply_adds for p in parties.PARTIES}
    assert scores.alone["ash"].extra["multiply_adds"] == each["ash"] > 0
    assert scores.methods["ensemble"].extra["multiply_adds"] == sum(each.values())
    assert scores.methods["evidence"].extra["multiply_adds"] == sum(each.values())
    assert scores.methods["only birch"].extra["multiply_adds"] == each["birch"]


def test_words_fit_the_metric(scores: Scores) -> None:
    assert "points" in " ".join(verdicts(scores))
    assert "held-out rows" in headline(scores)


def test_labels_by_name_are_labels_by_code(composites: dict[str, NetworkComposite]) -> None:
    named = {p: (x, np.array(parties.CLASSES)[y]) for p, (x, y) in HELD_OUT.items()}
    by_name, by_code = (score_networks({"mean": composites["mean"]}, rows) for rows in (named, HELD_OUT))
    assert [r.domains for r in by_name.methods.values()] == [r.domains for r in by_code.methods.values()]


def test_numbers_are_scored_by_squared_error() -> None:
    task = TaskReference(shape=(2,), units="1", classes=None, outputs=2)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 2)).astype(np.float32), rng.normal(size=(40, 2))
    scores = score_networks({"zero": _Times(0.0)}, {"ash": (x, y)}, task=task, alone={"ash": _Times(1.0)})
    cell = scores.methods["zero"].domains["ash"]
    assert scores.metric == "squared error"
    assert cell.value == pytest.approx((y**2).mean())
    assert scores.alone["ash"].domains["ash"].value == pytest.approx(((y - x) ** 2).mean())
    assert cell.extra["rpe"] == pytest.approx(1)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def _with(party: str, rows: tuple[Any, Any]) -> dict[str, tuple[Any, Any]]:
    return {**HELD_OUT, party: rows}


X, Y = HELD_OUT["ash"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ((X[:, :, :5], Y), "shape"),
        ((X[:0], Y[:0]), "shape"),
        ((X * np.nan, Y), "finite"),
        ((X, Y[:5]), "60 inputs and 5 labels"),
        ((X, Y + 1), "code"),
        ((X, np.full(60, "perhaps")), "perhaps"),
        ((X, np.eye(60)), "one an input"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_their_party(
    rows: tuple[Any, Any], said: str, composites: dict[str, NetworkComposite]
) -> None:
    with pytest.raises(InvalidOption, match=f"(?s)'ash'.*{said}"):
        score_networks(composites, _with("ash", rows))


def test_names_and_tasks_that_clash_are_refused(composites: dict[str, NetworkComposite]) -> None:
    with pytest.raises(InvalidOption, match="a party has that name"):
        score_networks(composites, {"ash": (X, Y)}, public={"birch": (X, Y)})
    with pytest.raises(InvalidOption, match="no such model"):
        score_networks(composites, HELD_OUT, leave_one_out=["stitch"])
    with pytest.raises(InvalidOption, match="another task"):
        score_networks(composites, HELD_OUT, task=TASK.model_copy(update={"units": "0..255"}))
    with pytest.raises(InvalidOption, match="its task"):
        score_networks({"one": _Times(1.0)}, HELD_OUT)
    with pytest.raises(InvalidOption, match="'broken'"):
        score_networks({"broken": nn.Flatten()}, HELD_OUT, task=TASK)
    with pytest.raises(InvalidOption, match="none"):
        score_networks(composites, {})
