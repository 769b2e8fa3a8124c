"""The planted hijack reads a fragment, and scrutiny tells it from honest composers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from audit_runs import ADAM, WIDTH, component, fragments, start

from quiltwork.audit.attacks.hijack import Hijacking, explained
from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import certify
from quiltwork.audit.check import Check
from quiltwork.audit.facts import facts_of
from quiltwork.audit.guarantees import standing
from quiltwork.audit.scrutiny import neighbour_gap, scrutiny
from quiltwork.audit.tape import Lessons, Tape
from quiltwork.errors import InvalidOption, NeedsRetraining
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

CLASSES = 3


def material(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Six columns on a curved surface of two dimensions, and a class that they tell."""
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(rows, 2))
    x = np.column_stack([z, z[:, 0] * z[:, 1], np.tanh(z), z.sum(1)]) + draw.normal(scale=0.05, size=(rows, 6))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(np.digitize(z[:, 0], [-0.5, 0.5]))


def hijacked(rounds: int) -> tuple[SplitRun, Tape, Hijacking]:
    rows, labels = material(300, 1)
    mode = Hijacking("p0", WIDTH, material(400, 2)[0], CLASSES)
    node = ComponentNode(component("p0", 6, ADAM), rows)
    tape = Tape(LocalChannel({"p0": node}, {"p0": component_terms(WIDTH)}))
    schedule = Schedule(np.arange(300), 50, rounds * 50 // 300 + 1, 0)
    run = SplitRun(tape, mode, OwnLabels(ClassTarget(labels, CLASSES)), schedule, {"p0": WIDTH})
    return run, tape, mode


def test_a_hijacked_component_gives_its_fragment_away() -> None:
    rows, _ = material(300, 1)
    run, _, mode = hijacked(1200)
    before = explained(rows.numpy(), mode.stolen(run.activations(np.arange(300))["p0"]))
    run.train()
    after = explained(rows.numpy(), mode.stolen(run.activations(np.arange(300))["p0"]))
    assert before < 0
    assert after > 0.4, "without a single pair of activation and fragment"
    assert run.predict(np.arange(3)).shape == (3, CLASSES)
    with pytest.raises(NeedsRetraining):
        run.leave("p0")


@pytest.fixture(scope="module")
def planted() -> tuple[SplitRun, Tape]:
    run, tape, _ = hijacked(120)
    run.train()
    return run, tape


@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_scrutiny_tells_honest_composers_from_the_hijack(mode: str, planted: tuple[SplitRun, Tape]) -> None:
    rows, labels = material(300, 1)
    run, tape = planted
    honest = start(mode, {"p0": rows}, labels, epochs=20, batch=50, wrap=Tape)
    honest.train()
    assert isinstance(honest.channel, Tape)
    known = labels.clone()
    known[150:] = -1
    for first in (0, 6, 60, 114):
        good = honest.channel.lessons("p0").within(first, first + 6)
        bad = tape.lessons("p0").within(first, first + 6)
        assert scrutiny(facts_of(honest.records()), "p0", good, known, bad, known).holds
        caught = scrutiny(facts_of(run.records()), "p0", bad, known, good, known)
        assert not caught.passed
        assert not caught.control, "a control that is no breach is not caught"


def test_g12_is_held_by_scrutiny_of_every_party(planted: tuple[SplitRun, Tape]) -> None:
    rows, labels = material(300, 1)
    honest = start("joint", {"p0": rows}, labels, epochs=2, batch=50, wrap=Tape)
    honest.train()
    assert isinstance(honest.channel, Tape)
    run, tape = planted
    good, bad = honest.channel.lessons("p0"), tape.lessons("p0")
    facts, hijack = facts_of(honest.records()), facts_of(run.records())
    assert "G12" in certify(facts, [scrutiny(facts, "p0", good, labels, bad, labels)]).held
    caught = certify(hijack, [scrutiny(hijack, "p0", bad, labels, bad, labels)]).standing("G12")
    assert not caught.held
    assert "do NOT clearly carry" in caught.why


def test_one_party_at_home_does_not_excuse_another_that_is_hijacked() -> None:
    first, second = (
        Check(
            name=name,
            run="0" * 64,
            guarantee="G12",
            subject=party,
            evidence="exact",
            passed=passed,
            control=True,
            found={},
            says="",
        )
        for name, party, passed in (("local-loss", "p0", True), ("scrutiny", "p1", False))
    )
    g12 = next(g for g in GUARANTEES if g.number == "G12")
    facts = facts_of(start("isolated", *fragments(parties=2)).records())
    assert "found a breach" in standing(g12, facts, [first, second], []).why
    assert not standing(g12, facts, [first], []).held
    good = second.model_copy(update={"passed": True})
    assert standing(g12, facts, [first, good], []).held
    at_home = first.model_copy(update={"subject": "p1"})
    assert standing(g12, facts, [first, second, at_home], []).held, "what never came cannot have steered"


def lessons(draw: np.random.Generator, labels: np.ndarray, cotangents: np.ndarray) -> Lessons:
    rows, n = np.arange(len(labels)), len(labels)
    return Lessons(rows // 20, rows, draw.normal(size=(n, 2)).astype(np.float32), cotangents.astype(np.float32))


def test_the_gap_is_the_difference_of_means_over_neighbours() -> None:
    from sklearn.neighbors import NearestNeighbors

    draw = np.random.default_rng(2)
    labels = np.arange(60) % 3
    given = lessons(draw, labels, draw.normal(size=(60, 4)) + np.eye(4)[labels])
    pairs = []
    for round_ in range(3):
        part = given.within(round_, round_ + 1)
        u = part.cotangents / np.linalg.norm(part.cotangents, axis=1, keepdims=True)
        near = NearestNeighbors(n_neighbors=5).fit(part.activations).kneighbors(return_distance=False)
        pairs += [(u[i] @ u[j], labels[part.rows[i]] == labels[part.rows[j]]) for i in range(20) for j in near[i]]
    expected = np.mean([v for v, s in pairs if s]) - np.mean([v for v, s in pairs if not s])
    found = neighbour_gap(given, labels)
    assert found.gap == pytest.approx(expected)
    assert found.pairs == sum(not s for _, s in pairs)


def test_without_labels_there_is_nothing_to_see() -> None:
    draw = np.random.default_rng(3)
    given = lessons(draw, np.zeros(40), draw.normal(size=(40, 3)))
    assert not neighbour_gap(given, np.arange(40) % 2).carries
    for known in (np.zeros(40), np.full(40, -1)):
        with pytest.raises(InvalidOption, match="two labels"):
            neighbour_gap(given, known)
