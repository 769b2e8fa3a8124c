"""Confidence-split distillation: the loss against brute force, what is kept, what leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stitching_networks import CLASSES, captured, cnn, images, mlp, published
from torch.nn import functional

from quiltwork.compose.combine import Combine
from quiltwork.compose.method import compose
from quiltwork.contribution.store import read
from quiltwork.errors import FragmentError, InvalidOption, TaskMismatch
from quiltwork.models.network.opening import open_network
from quiltwork.party.examples import Examples
from quiltwork.party.steps import StepPlan
from quiltwork.party.transfer import (
    TransferOrder,
    contribute_transfer,
    outputs_of,
    run_with,
    trainable,
    transfer,
    transfer_loss,
)

LOGITS = arrays(np.float64, (3, 5, 4), elements=st.floats(-8, 8, width=32))
ORDER = TransferOrder(party="cedar", plan=StepPlan(steps=80, batch_size=32, learning_rate=3e-3))


def softmax(row, temperature):
    shifted = [math.exp((value - max(row)) / temperature) for value in row]
    return [value / sum(shifted) for value in shifted]


def by_hand(student, frozen, teacher, labels, temperature):
    total = 0.0
    for n in range(len(student)):
        ours, was, theirs = (softmax(logits[n], 1.0) for logits in (student, frozen, teacher))
        confident = [p[labels[n]] if labels is not None else max(p) for p in (theirs, was)]
        chosen = teacher[n] if confident[0] > confident[1] else frozen[n]
        q, p = softmax(chosen, temperature), softmax(student[n], temperature)
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True) if a > 0)
        del ours
    return temperature**2 * total / len(student)


@settings(max_examples=60)
@given(LOGITS, st.sampled_from([0.5, 1.0, 4.0]), st.booleans())
def test_the_loss_is_the_formula(logits, temperature, supervised):
    labels = torch.tensor([0, 3, 1, 2, 2]) if supervised else None
    tensors = [torch.from_numpy(each) for each in logits]
    found = transfer_loss(*tensors, labels, temperature)
    wanted = by_hand(*logits.tolist(), None if labels is None else labels.tolist(), temperature)
    assert float(found) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_extreme_logits_stay_finite_and_only_the_student_gets_gradients():
    student, frozen, teacher = (torch.tensor([[1e4, -1e4], [0.0, 3.0]], requires_grad=True) for _ in range(3))
    loss = transfer_loss(student, frozen * -1, teacher * 2, None)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    assert frozen.grad is None
    assert teacher.grad is None


def test_plain_distillation_is_another_loss():
    """Negative control: where the student was surer, plain distillation pulls, and this one holds."""
    frozen, teacher = torch.tensor([[6.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 5.0]])
    ours = transfer_loss(frozen, frozen, teacher, None)
    plain = functional.kl_div(frozen.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    assert ours < plain / 2
    assert transfer_loss(frozen[:1], frozen[:1], teacher[:1], None) == 0
    # with labels the second class is right, and the teacher knows it better
    assert transfer_loss(frozen[:1], frozen[:1], teacher[:1], torch.tensor([1])) > 1


def schooled(module, rows, classes, steps=120):
    """Trained on some classes only, so that each network knows what the other does not."""
    torch.manual_seed(0)
    known = rows.take(np.flatnonzero(np.isin(rows.labels, classes)))
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3)
    x, y = torch.from_numpy(known.inputs(0, len(known))), torch.from_numpy(known.labels)
    for step in range(steps):
        taken = torch.arange(step * 32, step * 32 + 32) % len(x)
        optimiser.zero_grad()
        functional.cross_entropy(module((x[taken] - 0.5) / 0.25), y[taken]).backward()
        optimiser.step()
    return module.eval()


@pytest.fixture(scope="module")
def rows():
    return images(400, 1)


@pytest.fixture(scope="module")
def networks(rows):
    return captured(schooled(cnn(2), rows, [0, 1])), captured(schooled(mlp(3), rows, [1, 2]))


def right(network, rows):
    return float((outputs_of(network, rows).argmax(1).numpy() == rows.labels).mean())


def test_with_labels_the_student_learns_what_only_the_teacher_knew(networks, rows):
    student, teacher = networks
    test, before = images(300, 2), student.digest
    found, losses = transfer(student, teacher, rows, replace(ORDER, plan=StepPlan(200, 32, 1e-2)))
    assert losses[-1] < losses[0]
    assert right(found, test) > max(right(student, test), right(teacher, test)) + 0.15
    assert student.digest == before != found.digest
    assert (found.graph, found.signature) == (student.graph, student.signature)


def test_without_labels_it_follows_whichever_is_surer(networks, rows):
    student, teacher = networks
    found, _ = transfer(student, teacher, rows, replace(ORDER, supervised=False, plan=StepPlan(200, 32, 1e-2)))
    was, theirs, now = (outputs_of(network, rows).softmax(1) for network in (student, teacher, found))
    surer = torch.where((theirs.amax(1) > was.amax(1))[:, None], theirs, was)
    assert float((now.argmax(1) == surer.argmax(1)).float().mean()) > 0.9


def test_statistics_of_normalisation_stay_and_all_else_may_learn(networks, rows):
    student, teacher = networks
    found = transfer(student, teacher, rows, replace(ORDER, plan=StepPlan(steps=3, batch_size=16))).network
    before, after = student.tensors(), found.tensors()
    changed = {entry for entry in before if not torch.equal(before[entry], after[entry])}
    assert changed
    assert not any("running" in entry for entry in changed)
    assert {entry for entry in before if entry.endswith(("weight", "bias"))} == set(trainable(student))


def test_running_with_own_weights_is_running(networks, rows):
    x = torch.from_numpy(rows.inputs(0, 9))
    for network in networks:
        assert torch.equal(run_with(network, network.tensors(), x), network(x))


def test_what_leaves_is_a_network_that_names_what_it_stands_on(networks, rows, tmp_path):
    student, teacher = (published(n, p, tmp_path) for n, p in zip(networks, ("ash", "birch"), strict=True))
    order = replace(ORDER, plan=StepPlan(steps=5, batch_size=16))
    made = contribute_transfer(student, teacher, rows, tmp_path / "made", order, state=tmp_path / "state")
    again = read(tmp_path / "made")
    assert again.manifest.method.rests_on == tuple(sorted({student.digest, teacher.digest}))
    assert open_network(again).digest == transfer(*networks, rows, order).network.digest
    assert "birch" in made.manifest.method.training.note
    assert not (tmp_path / "state").exists()
    own = contribute_transfer(student, teacher, rows, tmp_path / "own", replace(order, party="ash"))
    assert own.manifest.method.rests_on == tuple(sorted({student.digest, teacher.digest}))
    # the former network of the same party gives way, and stands in again when the teacher leaves
    whole = compose([student, teacher, own], Combine())
    assert whole.members[0].network.digest == open_network(own).digest
    assert whole.without("birch").contributions == (student,)


def test_what_cannot_be_transferred_is_refused(networks, rows):
    with pytest.raises(FragmentError, match="labels"):
        transfer(*networks, replace(rows, labels=None, classes=None), ORDER)
    with pytest.raises(TaskMismatch, match="units"):
        transfer(*networks, Examples("raw", np.zeros((9, 1, 8, 8)), "0..255", rows.labels[:9], CLASSES), ORDER)
    numbers = [captured(mlp(), classes=None) for _ in range(2)]
    with pytest.raises(InvalidOption, match="numbers"):
        transfer(*numbers, rows, ORDER)
    with pytest.raises(InvalidOption, match="classes"):
        transfer(networks[0], captured(mlp(), classes=CLASSES[::-1]), rows, ORDER)
    with pytest.raises(InvalidOption, match="temperature"):
        replace(ORDER, temperature=0.0)
