"""Replay in a fresh interpreter that holds one fragment and the recorded messages, sealed by the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from audit_runs import ADAM, WIDTH, component, fragments, taped

from quiltwork.audit.facts import facts_of
from quiltwork.audit.replay import replay
from quiltwork.party.confine import confine, landlock_abi
from quiltwork.session.frames import Kind, Message
from quiltwork.session.process import ProcessChannel, Sealing, Started
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.words import component_terms


@dataclass(frozen=True)
class Opening:
    """The party's start inside its own process: opens, warms up, seals."""

    own: Path

    def __call__(self) -> Started:
        torch.set_num_threads(1)
        rows = torch.from_numpy(np.load(self.own / "rows.npy"))
        trial = ComponentNode(component("warm up", rows.shape[1], ADAM), rows)
        trial.handle(Message(Kind.ROWS, 0, np.arange(2)))
        trial.handle(Message(Kind.COTANGENT, 0, np.zeros((2, WIDTH), np.float32)))
        level = confine([self.own], [], level="landlock").level
        return Started(ComponentNode(component("p1", rows.shape[1], ADAM), rows), Sealing.of(level))


@pytest.mark.skipif(not landlock_abi(), reason="no Landlock here")
def test_a_sealed_party_alone_comes_to_the_same(tmp_path: Path) -> None:
    data, labels = fragments()
    np.save(tmp_path / "rows.npy", data["p1"].numpy())
    run, tape = taped("joint", data, labels, epochs=1)
    facts = facts_of(run.records())
    terms = {"p1": component_terms(WIDTH)}
    found = replay(facts, tape, "p1", lambda: ProcessChannel({"p1": Opening(tmp_path)}, terms))
    assert found.holds
    assert found.found["sealing"] == "landlock"
    assert "alone, landlock, gave the same answers" in found.says
