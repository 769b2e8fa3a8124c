"""Joint mode over a secure sum: bits of the plain fixed-point sum, bytes of the formula, nothing for fewer parties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from split_parties import ADAM, WIDTH, component, fragments
from summed_parties import NAMES, Opening, composer, in_one_process, local, on_grid, schedule, summand, summed

from quiltwork.errors import InvalidOption, LostParty, NeedsRetraining, SessionError
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel, RefusedRequest
from quiltwork.session.frames import Kind, Message, Refusal
from quiltwork.session.process import ProcessChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.label_node import LabelNode
from quiltwork.session.split.labels import OwnLabels, PartyLabels
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.summed import SUM, SummedRun, summed_terms
from quiltwork.session.split.words import component_terms, label_terms
from quiltwork.sharing.seats import Seat, seats
from quiltwork.sharing.secure_sum import SumGrid

ROWS = np.arange(60)


def plain() -> SplitRun:
    """The same with activations in the open."""
    data, labels = fragments()
    nodes = {p: ComponentNode(component(p, data[p].shape[1], ADAM), data[p]) for p in NAMES}
    channel, widths = LocalChannel(nodes, dict.fromkeys(NAMES, component_terms(WIDTH))), dict.fromkeys(NAMES, WIDTH)
    return SplitRun(channel, Joint(composer(), widths), OwnLabels(ClassTarget(labels, 3)), schedule(), widths)


def test_training_gives_the_bits_of_the_plain_fixed_point_sum() -> None:
    run = summed()
    run.train()
    assert run.digests() == in_one_process()
    assert run.losses[-1]["composer"] < run.losses[0]["composer"]


def test_it_learns_what_the_sum_in_the_open_learns() -> None:
    run, other = summed(), plain()
    run.train()
    other.train()
    np.testing.assert_allclose(run.predict(ROWS), other.predict(ROWS), atol=1e-3)
    assert run.digests() != other.digests()


def test_the_sum_is_within_the_stated_bound() -> None:
    run = summed()
    data = fragments()[0]
    single = [component(p, data[p].shape[1], ADAM).predict(data[p]) for p in NAMES]
    found = run.activations(ROWS)[SUM]
    assert torch.equal(found, on_grid(single))
    exact = sum(one.double() for one in single)
    bound = len(NAMES) * 2.0**-33 + exact.abs() * 2.0**-24
    assert bool(((found.double() - exact).abs() <= bound).all())


def test_bytes_are_those_of_the_formula_and_only_masked_answers_cross() -> None:
    run = summed()
    run.train()
    run.predict(ROWS)
    run.predict(ROWS[:7])
    found = run.records()
    for party in NAMES:
        for way in ("down", "up"):
            assert found.log.bytes(party, way) == found.formula.bytes(party, way) > 0
    kinds = {kind for _, way, kind in found.log.frames if way == "up"}
    assert kinds == {Kind.KEY, Kind.MASKED, Kind.DONE, Kind.DIGEST}
    assert found.parties == NAMES
    assert found.dependencies["p0"] >= {"activation:p1", "labels", "composer"}
    run.close()


def test_a_label_party_of_its_own_is_no_part_of_the_sum() -> None:
    data, labels = fragments()
    dealt = seats(NAMES)
    nodes = {p: summand(p, data[p], dealt[p]) for p in NAMES} | {"labels": LabelNode(ClassTarget(labels, 3), 60)}
    terms = {p: summed_terms(WIDTH, 3) for p in NAMES} | {"labels": label_terms(3)}
    channel = LocalChannel(nodes, terms)
    run = SummedRun(channel, composer(), PartyLabels(channel, "labels", 3), schedule(), NAMES, WIDTH)
    run.train()
    assert run.digests() == in_one_process()
    found = run.records()
    assert found.log.bytes("labels") == found.formula.bytes("labels") > 0
    assert set(found.terms) == {*NAMES, "labels"}
    run.close()


@pytest.mark.slow
def test_processes_learn_what_one_process_learns() -> None:
    dealt = seats(NAMES)
    terms = {p: summed_terms(WIDTH, 3) for p in NAMES}
    channel = ProcessChannel({p: Opening(dealt[p]) for p in NAMES}, terms)
    run = summed(channel, sealing=channel.sealing)
    run.train()
    assert run.digests() == in_one_process()
    assert run.records().sealing == dict.fromkeys(NAMES, "not sealed")
    run.close()


class Faltering:
    """A node that can be made to fail."""

    def __init__(self, inner: object) -> None:
        self.inner, self.down = inner, False

    def handle(self, message: Message) -> Message:
        if self.down:
            raise RefusedRequest(Refusal.FAILED)
        return self.inner.handle(message)


def test_a_lost_party_is_named_and_with_it_back_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    data, dealt = fragments()[0], seats(NAMES)
    nodes = {p: Faltering(summand(p, data[p], dealt[p], tmp_path)) for p in NAMES}
    run = summed(local(nodes), folder=tmp_path / "composer", save_every=3)
    run.train(4)
    nodes["p1"].down = True
    with pytest.raises(LostParty, match="p1"):
        run.train()
    with pytest.raises(LostParty, match="p1"):
        run.predict(ROWS)
    with pytest.raises(SessionError, match="broken off"):
        run.train()
    nodes["p1"].down = False
    assert run.resume() == 3
    run.train()
    assert run.digests() == in_one_process()
    assert run.predict(ROWS).shape == (60, 3)


def test_a_sum_that_was_not_asked_for_is_not_waited_for() -> None:
    with pytest.raises(LostParty, match="nothing more to say"):
        summed().channel.pull(SUM)


def test_fewer_parties_are_refused() -> None:
    run = summed()
    for ask in ({"parties": NAMES[:2]}, {"quorum": 2}):
        with pytest.raises(InvalidOption, match="sum over fewer"):
            run.predict(ROWS, **ask)
    assert run.predict(ROWS, parties=NAMES, quorum=3).shape == (60, 3)
    with pytest.raises(NeedsRetraining, match="p1"):
        run.leave("p1")


def test_what_is_no_sum_is_refused() -> None:
    data, labels = fragments()
    dealt = seats(NAMES)
    channel = local({p: summand(p, data[p], dealt[p]) for p in NAMES})
    args = composer(), OwnLabels(ClassTarget(labels, 3))
    for parties, order, names in (
        (NAMES[:2], schedule(), "sum over 2"),
        ((*NAMES, "p9"), schedule(), "p9"),
        (NAMES, type(schedule())(ROWS, 16, 2, 3, 0.4), "absence"),
    ):
        with pytest.raises(InvalidOption, match=names):
            SummedRun(channel, *args, order, parties, WIDTH)
    taken = local({p: summand("p0", data["p0"], dealt["p0"]) for p in (SUM, *NAMES)})
    with pytest.raises(InvalidOption, match="party 'sum'"):
        SummedRun(taken, *args, schedule(), NAMES, WIDTH)


def test_an_activation_beyond_the_grid_is_refused_and_not_clipped() -> None:
    data, dealt = fragments()[0], seats(NAMES, SumGrid(bits=40, most=0.001))
    run = summed(local({p: summand(p, data[p], dealt[p]) for p in NAMES}), grid=SumGrid(bits=40, most=0.001))
    with pytest.raises(LostParty, match="misfit"):
        run.predict(ROWS)


def test_parties_on_another_grid_do_not_meet() -> None:
    data, dealt = fragments()[0], seats(NAMES)
    odd = Seat("p1", dealt["p1"].private, dealt["p1"].roster, SumGrid(bits=20))
    run = summed(local({p: summand(p, data[p], odd if p == "p1" else dealt[p]) for p in NAMES}))
    with pytest.raises(LostParty, match="misfit"):
        run.train(1)
