"""Two owners learn to read digits from sums alone; neither ever holds a label of its own images.

    python examples/split_digit_sum.py

Ash and birch each hold images of digits, one a case; somebody else knows only the two digits' sum. The composer is
the program "add them up": it has no parameters, and differentiates through both owners' components. First it is asked
what sums leave open and what cotangents tell, before anything is trained. Then the same with the last digit of the
sum, which is predicted as well and read quite otherwise.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.identifiable import identified
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.program import Programmed
from quiltwork.session.split.program_leak import leaks
from quiltwork.session.split.programs import Fold, total
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

OWNERS = ("ash", "birch")
TRAIN, TEST = 6000, 1000


def main(epochs: int = 8, seed: int = 2) -> None:
    for name, program in (("the sum", total([10, 10])), ("its last digit", total([10, 10], modulus=10))):
        run, digits = started(program, epochs, seed)
        print(f"{name}: {identified(run)}")
        print(leaks(program)[0])
        run.train()
        outcome, read = judged(run, program, digits)
        print(f"{name} is right for {outcome:.1%} of new pairs; digits read right: {read[0]:.1%} and {read[1]:.1%}\n")
        run.close()


def started(program: Fold, epochs: int, seed: int) -> tuple[SplitRun, NDArray[np.int64]]:
    """A session over pairs of images, and the digits that nobody in it knows, ``[pairs, 2]``."""
    images, digits = pairs(seed)
    mode = Programmed(program, OWNERS, seed=seed)
    nodes = {}
    for owner in OWNERS:
        component = Component.built(partial(mlp, 64, 10, [64]), OptimiserPlan("adam", 3e-3), name=owner, seed=seed)
        nodes[owner] = ComponentNode(component, images[owner])
    channel = LocalChannel(nodes, {owner: component_terms(width) for owner, width in mode.widths.items()})
    labels = OwnLabels(ClassTarget(torch.from_numpy(program.apply(digits)), len(program.outcomes)))
    schedule = Schedule(np.arange(TRAIN), batch=64, epochs=epochs, seed=seed)
    return SplitRun(channel, mode, labels, schedule, mode.widths), digits


def pairs(seed: int) -> tuple[dict[str, torch.Tensor], NDArray[np.int64]]:
    """Random pairs of images, those for training and those for the test out of different images."""
    draw = np.random.default_rng(seed)
    images, truth = load_digits(return_X_y=True)
    order = draw.permutation(len(images))
    known, new = order[:1297], order[1297:]
    cases = np.concatenate([draw.choice(known, (TRAIN, 2)), draw.choice(new, (TEST, 2))])
    rows = {o: torch.from_numpy((images[c] / 16).astype(np.float32)) for o, c in zip(OWNERS, cases.T, strict=True)}
    return rows, truth[cases].astype(np.int64)


def judged(run: SplitRun, program: Fold, digits: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """Of the test pairs, the share of outcomes that are right, and of each owner's digits that are read right."""
    assert isinstance(run.mode, Programmed)
    new = np.arange(TRAIN, TRAIN + TEST)
    outcome = (run.predict(new).argmax(1) == program.apply(digits[new])).mean()
    read: NDArray[np.float64] = (run.mode.symbols(run.activations(new)).numpy() == digits[new]).mean(0)
    return float(outcome), read


if __name__ == "__main__":
    main()
