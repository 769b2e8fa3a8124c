"""Weights for outputs of isolated components, fitted to one half of the held-out rows and judged on the other.

    stacked.safetensors     labels [m], output/PARTY [m, k]     what weights are fitted to, anew for whoever is up

The composer fits them, so it holds outputs and true labels of those rows; a plan that keeps labels from it is refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import Cases
from quiltwork.errors import InvalidOption
from quiltwork.models.split.seeds import seed_of
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.stacking import Stacked

FILE = "stacked.safetensors"
_OUTPUT = "output/"


def halved(plan: Plan, held: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Held-out positions to fit weights to, and to judge on: all to judge on where nothing is fitted."""
    if plan.composer.outputs != "stacked":
        return held[:0], held
    order = np.random.default_rng(seed_of(plan.training.seed, "stacked")).permutation(len(held))
    half = (len(held) + 1) // 2
    return np.sort(held[order[:half]]), np.sort(held[order[half:]])


def fit(run: SplitRun, cases: Cases, rows: NDArray[np.int64]) -> None:
    """Give an isolated run weights that are fitted to some rows."""
    assert isinstance(run.mode, Isolated)
    own = run.mode.outputs(run.activations(rows))
    run.mode.composition = Stacked(own, cases.labels[torch.from_numpy(rows)], classes=run.mode.classes)


def write_stacked(place: Path, run: SplitRun) -> str | None:
    """Write what the weights are fitted to, and give its SHA-256; None where there are none."""
    found = run.mode.composition if isinstance(run.mode, Isolated) else None
    if not isinstance(found, Stacked):
        return None
    content = save({f"{_OUTPUT}{party}": own for party, own in found.outputs.items()} | {"labels": found.labels})
    (place / FILE).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_stacked(run: Path, digest: str, *, classes: bool) -> Stacked:
    """The weights of a run.

    Raises:
        InvalidOption: what they are fitted to is not there, or was changed.
    """
    try:
        content = (run / FILE).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(digest)
        tensors = load(content)
    except (OSError, ValueError, SafetensorError):
        raise InvalidOption(
            f"'{run / FILE}'", why="it is not there, or not as it was written", mend="Restore the run directory."
        ) from None
    labels = tensors.pop("labels")
    return Stacked({name.removeprefix(_OUTPUT): own for name, own in tensors.items()}, labels, classes=classes)
