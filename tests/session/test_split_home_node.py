"""The end of a party that trained at home: other rows come out, those that were trained on and lessons are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from quiltwork.models.split.component import Component
from quiltwork.session.channel import RefusedRequest
from quiltwork.session.frames import Kind, Message, Refusal
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.home_node import HomeNode
from quiltwork.session.split.words import SAVE

ROWS = torch.arange(12.0).reshape(6, 2)
TRAINED = np.array([0, 2, 5])


def component() -> Component:
    return Component.built(lambda: nn.Linear(2, 3), name="ash")


def asked(positions: list[int]) -> Message:
    return Message(Kind.OUTPUT, 0, np.array(positions, dtype=np.int64))


def test_other_rows_come_out_as_from_any_component(tmp_path: Path) -> None:
    node = HomeNode(component(), ROWS, TRAINED, folder=tmp_path)
    found = node.handle(asked([1, 3, 4])).array
    np.testing.assert_array_equal(found, component().predict(ROWS[[1, 3, 4]]).numpy())
    digest = node.handle(Message(Kind.STATE, 0, np.array([SAVE], dtype=np.int64))).array
    assert digest is not None
    assert digest.tobytes().hex() == component().digest()
    assert (tmp_path / "round-0.safetensors").exists()


@pytest.mark.parametrize("positions", [[0], [1, 2], [5, 5, 4]])
def test_rows_that_were_trained_on_do_not(positions: list[int]) -> None:
    with pytest.raises(RefusedRequest) as refused:
        HomeNode(component(), ROWS, TRAINED).handle(asked(positions))
    assert refused.value.reason is Refusal.UNKNOWN_ROWS
    # the control: the plain end gives them away
    assert ComponentNode(component(), ROWS).handle(asked(positions)).array is not None


def test_it_does_not_learn() -> None:
    node = HomeNode(component(), ROWS, TRAINED)
    for message in (
        Message(Kind.ROWS, 0, np.array([1], dtype=np.int64)),
        Message(Kind.COTANGENT, 0, np.ones((1, 3), dtype=np.float32)),
    ):
        with pytest.raises(RefusedRequest) as refused:
            node.handle(message)
        assert refused.value.reason is Refusal.UNEXPECTED
    assert node.component.digest() == component().digest()
