"""Small taped sessions for tests of the audit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "session"))

from split_parties import ADAM, WIDTH, component, fragments, start

from quiltwork.audit.facts import Facts, facts_of
from quiltwork.audit.tape import Tape
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.words import component_terms

__all__ = ["ADAM", "WIDTH", "alone", "component", "finished", "fragments", "noise_for_others", "start", "taped"]


def taped(mode: str, data: Mapping[str, torch.Tensor], labels: torch.Tensor, **options: Any) -> tuple[SplitRun, Tape]:
    """A run through a tape, trained."""
    run = start(mode, data, labels, wrap=Tape, **options)
    assert isinstance(run.channel, Tape)
    run.train()
    return run, run.channel


def finished(mode: str, data: Mapping[str, torch.Tensor], labels: torch.Tensor, **options: Any) -> Facts:
    run, _ = taped(mode, data, labels, **options)
    return facts_of(run.records())


def alone(party: str, rows: torch.Tensor, precision: Any = "float32") -> LocalChannel:
    """The party started afresh, with its own fragment."""
    node = ComponentNode(component(party, rows.shape[1], ADAM), rows, precision=precision)
    return LocalChannel({party: node}, {party: component_terms(WIDTH, precision)})


def noise_for_others(data: Mapping[str, torch.Tensor], kept: str) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(1)
    return {
        p: rows if p == kept else torch.from_numpy(draw.normal(size=tuple(rows.shape)).astype(np.float32))
        for p, rows in data.items()
    }
