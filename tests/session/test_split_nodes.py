"""The ends of a channel: what a component and the label party answer, and what they refuse, by code."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from split_parties import ADAM, WIDTH, component
from torch import nn

from quiltwork.errors import AlteredFrame, LostParty
from quiltwork.models.split.component import Component
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel, RefusedRequest
from quiltwork.session.frames import Kind, Message, Refusal, frame_bytes
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.eight_bit import pack, unpack
from quiltwork.session.split.label_node import LabelNode
from quiltwork.session.split.words import RESTORE, SAVE, component_terms

ROWS = torch.arange(40, dtype=torch.float32).reshape(10, 4) / 40


def node(**options: object) -> ComponentNode:
    return ComponentNode(component("ash", 4, ADAM), ROWS, **options)


def rows(round_: int, *positions: int) -> Message:
    return Message(Kind.ROWS, round_, np.array(positions, dtype=np.int64))


def cotangent(round_: int, count: int, value: float = 0.1) -> Message:
    return Message(Kind.COTANGENT, round_, np.full((count, WIDTH), value, dtype=np.float32))


def refused(node: ComponentNode | LabelNode, message: Message) -> Refusal:
    with pytest.raises(RefusedRequest) as found:
        node.handle(message)
    return found.value.reason


def test_a_round() -> None:
    one, twin = node(), component("ash", 4, ADAM)
    answer = one.handle(rows(0, 3, 1))
    assert answer.kind is Kind.ACTIVATION
    np.testing.assert_array_equal(answer.array, twin.module(ROWS[[3, 1]]).detach().numpy())
    assert one.handle(cotangent(0, 2)).kind is Kind.DONE
    digest = one.handle(Message(Kind.DIGEST, 1)).array
    assert digest is not None
    assert bytes(digest).hex() == one.component.digest() != twin.digest()


@pytest.mark.parametrize(
    ("before", "message", "reason"),
    [
        ([], rows(0, 10), Refusal.UNKNOWN_ROWS),
        ([], rows(0, -1), Refusal.UNKNOWN_ROWS),
        ([], Message(Kind.OUTPUT, 0, np.array([99])), Refusal.UNKNOWN_ROWS),
        ([], cotangent(0, 2), Refusal.UNEXPECTED),
        ([rows(0, 1)], cotangent(1, 1), Refusal.UNEXPECTED),
        ([rows(0, 1)], rows(1, 1), Refusal.UNEXPECTED),
        ([rows(0, 1)], cotangent(0, 2), Refusal.MISFIT),
        ([rows(0, 1)], cotangent(0, 1, math.nan), Refusal.NOT_FINITE),
        ([rows(0, 1)], cotangent(0, 1, math.inf), Refusal.NOT_FINITE),
        ([], Message(Kind.LOSS), Refusal.UNEXPECTED),
        ([], Message(Kind.STATE, 0, np.array([SAVE])), Refusal.UNEXPECTED),
        ([Message(Kind.STOP)], rows(0, 1), Refusal.LEFT),
        ([rows(0, 1), cotangent(0, 1)], cotangent(0, 1), Refusal.UNEXPECTED),
    ],
)
def test_refusals_of_a_component(before: list[Message], message: Message, reason: Refusal) -> None:
    one = node()
    for earlier in before:
        one.handle(earlier)
    digest = one.component.digest()
    assert refused(one, message) is reason
    assert one.component.digest() == digest


def test_an_activation_that_is_not_finite_does_not_cross() -> None:
    one = ComponentNode(component("ash", 4, ADAM), ROWS * math.nan)
    assert refused(one, rows(0, 1)) is Refusal.NOT_FINITE


def test_a_module_of_another_width_is_stopped_by_the_terms() -> None:
    wide = ComponentNode(Component(nn.Linear(4, 9), name="ash"), ROWS)
    channel = LocalChannel({"ash": wide}, {"ash": component_terms(WIDTH)})
    with pytest.raises(AlteredFrame, match="its shape is"):
        channel.call("ash", rows(0, 1))


def test_a_refusal_crosses_as_one_byte() -> None:
    channel = LocalChannel({"ash": node()}, {"ash": component_terms(WIDTH)})
    with pytest.raises(LostParty, match="unknown rows"):
        channel.call("ash", rows(0, 10))
    assert channel.log.bytes("ash", "up") == frame_bytes("uint8", (1,))


def test_states_are_put_back_and_two_are_kept(tmp_path: Path) -> None:
    one = node(folder=tmp_path)
    digests = []
    for round_ in range(3):
        one.handle(rows(round_, 1, 2))
        one.handle(cotangent(round_, 2))
        one.handle(Message(Kind.STATE, round_ + 1, np.array([SAVE])))
        digests.append(one.component.digest())
    other = node(folder=tmp_path)
    other.handle(Message(Kind.STATE, 2, np.array([RESTORE])))
    assert other.component.digest() == digests[1]
    other.handle(rows(2, 1, 2))
    other.handle(cotangent(2, 2))
    assert other.component.digest() == digests[2], "moments of the optimiser were put back too"
    assert refused(other, Message(Kind.STATE, 1, np.array([RESTORE]))) is Refusal.UNEXPECTED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-2.safetensors", "round-3.safetensors"]


def test_a_state_of_another_module_is_refused(tmp_path: Path) -> None:
    node(folder=tmp_path).handle(Message(Kind.STATE, 1, np.array([SAVE])))
    other = ComponentNode(component("ash", 3, ADAM), ROWS[:, :3], folder=tmp_path)
    assert refused(other, Message(Kind.STATE, 1, np.array([RESTORE]))) is Refusal.UNEXPECTED
    (tmp_path / "round-1.safetensors").write_bytes(b"nonsense")
    assert refused(node(folder=tmp_path), Message(Kind.STATE, 1, np.array([RESTORE]))) is Refusal.UNEXPECTED


def labelled() -> LabelNode:
    return LabelNode(ClassTarget(torch.tensor([0, 1, 1, -1]), 2), 4)


def test_the_label_party_answers_by_the_gradient_of_the_loss() -> None:
    one = labelled()
    one.handle(rows(5, 0, 2))
    logits = np.array([[0.3, -0.2], [1.0, 0.5]], dtype=np.float32)
    answer = one.handle(Message(Kind.ACTIVATION, 5, logits)).array
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(answer, (p - np.array([[1, 0], [0, 1]])) / 2, atol=1e-7)
    loss = one.handle(Message(Kind.LOSS, 5)).array
    np.testing.assert_allclose(loss, [-np.log([p[0, 0], p[1, 1]]).mean()], rtol=1e-6)
    prior = one.handle(Message(Kind.LABELS)).array
    np.testing.assert_allclose(prior, [2 / 5, 3 / 5])


@pytest.mark.parametrize(
    ("before", "message", "reason"),
    [
        ([], rows(0, 4), Refusal.UNKNOWN_ROWS),
        ([], Message(Kind.ACTIVATION, 0, np.zeros((1, 2), np.float32)), Refusal.UNEXPECTED),
        ([rows(0, 1)], Message(Kind.ACTIVATION, 1, np.zeros((1, 2), np.float32)), Refusal.UNEXPECTED),
        ([rows(0, 1)], Message(Kind.ACTIVATION, 0, np.zeros((2, 2), np.float32)), Refusal.MISFIT),
        ([rows(0, 1)], Message(Kind.ACTIVATION, 0, np.full((1, 2), np.nan, np.float32)), Refusal.NOT_FINITE),
        ([rows(0, 3)], Message(Kind.ACTIVATION, 0, np.zeros((1, 2), np.float32)), Refusal.UNKNOWN_ROWS),
        ([], Message(Kind.LOSS), Refusal.UNEXPECTED),
        ([Message(Kind.STOP)], Message(Kind.LABELS), Refusal.LEFT),
    ],
)
def test_refusals_of_the_label_party(before: list[Message], message: Message, reason: Refusal) -> None:
    one = labelled()
    for earlier in before:
        one.handle(earlier)
    assert refused(one, message) is reason


FLOATS = strategies.floats(-(2.0**100), 2.0**100, width=32)


@given(strategies.lists(strategies.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_eight_bits_are_off_by_half_a_step_at_most(table: list[list[float]]) -> None:
    values = torch.tensor(table, dtype=torch.float32)
    packed = pack(values)
    assert packed.dtype is torch.int8
    assert packed.shape == (len(table), 4)
    step = 2.0 ** packed[:, -1:].double()
    assert bool(((unpack(packed).double() - values.double()).abs() <= step / 2).all())
    # the step is the least that holds the largest number, or the smallest there is
    largest = values.abs().amax(1, keepdim=True).double()
    assert bool(((largest > 127 * step / 2) | (packed[:, -1:] == -126)).all())


def test_eight_bits_of_zero_and_of_what_eight_bits_hold() -> None:
    assert unpack(pack(torch.zeros(2, 3))).equal(torch.zeros(2, 3))
    exact = torch.tensor([[64.0, -127.0, 3.0]]) / 32
    assert unpack(pack(exact)).equal(exact)
