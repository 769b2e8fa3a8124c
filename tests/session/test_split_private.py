"""Privacy at the source: noise on cotangents bounds nothing, randomised labels do and are still learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from split_parties import ADAM, WIDTH, fragments, modes, start
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component
from quiltwork.models.split.composers import mlp
from quiltwork.models.split.released import released_target
from quiltwork.models.split.targets import ClassTarget
from quiltwork.privacy.labels import RandomisedResponse
from quiltwork.privacy.ledger import Ledger
from quiltwork.session.channel import LocalChannel
from quiltwork.session.frames import Kind, Message
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.estimators import SplitClassifier
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.records import Events
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms


class Overheard:
    """A channel that keeps the cotangents sent to one party, by round."""

    def __init__(self, channel: LocalChannel) -> None:
        self._channel = channel
        self.cotangents: dict[int, np.ndarray] = {}

    def push(self, node: str, message: Message) -> None:
        if message.kind is Kind.COTANGENT and node == "p0" and message.array is not None:
            self.cotangents[message.round] = message.array
        self._channel.push(node, message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)


def overheard(mode: str, data: dict[str, Tensor], labels: Tensor) -> tuple[dict[int, np.ndarray], SplitRun]:
    run = start(mode, data, labels, epochs=3, wrap=Overheard)
    run.train()
    return run.channel.cotangents, run  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_one_flipped_label_changes_the_later_cotangents_of_all_other_records(mode: str) -> None:
    data, labels = fragments(2, 60)
    plain, run = overheard(mode, data, labels)
    first = run.schedule.rows(0)
    flipped = labels.clone()
    flipped[first[0]] = (flipped[first[0]] + 1) % 3
    other, _ = overheard(mode, data, flipped)
    # in its own round only the record's own cotangent tells of the label: so far noise for one row would do
    at_once = (plain[0] != other[0]).any(1)
    assert at_once[0]
    assert not at_once[1:].any()
    later = [
        (plain[t][i] != other[t][i]).any()
        for t in range(1, run.schedule.rounds)
        for i, row in enumerate(run.schedule.rows(t))
        if row != first[0]
    ]
    # then the weights carry it: no bound on one row's cotangent bounds what the transcript tells of its label
    assert len(later) > 100
    assert np.mean(later) == 1.0


def test_negative_control_the_same_labels_change_nothing() -> None:
    data, labels = fragments(2, 60)
    one, other = overheard("joint", data, labels)[0], overheard("joint", data, labels.clone())[0]
    assert all((one[t] == other[t]).all() for t in one)


def learned(target: ClassTarget, data: dict[str, Tensor], train: np.ndarray) -> SplitRun:
    learners = {p: Component.built(lambda: mlp(5, WIDTH, [8]), ADAM, name=p, seed=3) for p in data}
    nodes = {p: ComponentNode(learner, data[p]) for p, learner in learners.items()}
    channel = LocalChannel(nodes, dict.fromkeys(data, component_terms(WIDTH)))
    schedule = Schedule(train, 32, 6, 3)
    run = SplitRun(
        channel, modes("joint", sorted(data), 3, ADAM), OwnLabels(target), schedule, dict.fromkeys(data, WIDTH)
    )
    run.train()
    return run


def test_true_classes_are_learned_from_released_labels_alone() -> None:
    data, labels = fragments(3, 900)
    train, test = np.arange(700), np.arange(700, 900)
    released = RandomisedResponse(3, 1.0).release(
        np.where(np.arange(900) < 700, labels.numpy(), -1), rng=np.random.default_rng(2)
    )
    assert (released.labels[:700] != labels[:700].numpy()).mean() > 0.35
    corrected = np.exp(learned(released_target(released), data, train).predict(test))
    naive = np.exp(learned(ClassTarget(torch.from_numpy(released.labels), 3), data, train).predict(test))
    truth = labels[700:].numpy()

    def likelihood(found: np.ndarray) -> float:
        return float(np.log(found[np.arange(200), truth]).mean())

    assert (corrected.argmax(1) == truth).mean() > 0.75
    assert likelihood(corrected) > likelihood(naive) + 0.1, "trained as if they were true, probabilities are too even"


def test_the_prior_behind_released_labels_is_found() -> None:
    truth = np.repeat([0, 1, 2], [14_000, 5_000, 1_000]).astype(np.int64)
    released = RandomisedResponse(3, 1.0).release(truth, rng=np.random.default_rng(0))
    assert released_target(released).prior().numpy() == pytest.approx([0.7, 0.25, 0.05], abs=0.03)
    assert (np.bincount(released.labels) / 20_000)[2] > 0.2, "the released frequencies are far from it"


# The estimator


def test_the_classifier_takes_released_labels_and_records_their_event() -> None:
    data, labels = fragments(2, 600)
    given = {party: rows.numpy()[:400] for party, rows in data.items()}
    new = {party: rows.numpy()[400:] for party, rows in data.items()}
    released = RandomisedResponse(3, 2.0).release(labels.numpy()[:400], rng=np.random.default_rng(0))
    fit = SplitClassifier("isolated", epochs=8, width=4, hidden=(8,)).fit(given, released)
    assert fit.score(new, labels[400:].numpy()) > 0.7
    records = fit.run_.records()
    assert records.events == (Events("composer", (released.event,)),)
    books = Ledger({e.party: e.events for e in records.events}, records.parties, ("composer",))  # type: ignore[misc]
    assert books.price("label", delta=0) == pytest.approx(2.0)


def test_the_classifier_refuses_rows_without_a_label_and_stacking_on_released_ones() -> None:
    data, labels = fragments(2, 60)
    given = {party: rows.numpy() for party, rows in data.items()}
    response = RandomisedResponse(3, 2.0)
    with pytest.raises(InvalidOption, match="randomised labels"):
        SplitClassifier().fit(given, response.release(np.full(60, -1)))
    with pytest.raises(InvalidOption, match="randomised labels"):
        SplitClassifier(outputs="stacked").fit(given, response.release(labels.numpy()))
    with pytest.raises(InvalidOption, match="one label a row"):
        SplitClassifier().fit(given, response.release(labels.numpy()[:10]))
