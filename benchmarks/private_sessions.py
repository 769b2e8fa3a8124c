"""What privacy costs in split learning: accuracy at a label epsilon, and at a record epsilon, over quarters of digits.

    python benchmarks/private_sessions.py --seeds 5 --json OUT

`with_private_labels` and `with_private_records` take any aligned fragments, so that other benchmarks can call them.
All accuracies are on held-out rows with their true labels.

    labels     randomised once; joint or isolated, with forward correction or ("naive") as if they were true
    records    each owner trains component and head at home by DP-SGD, labels among what is covered; outputs composed
               by a product under a uniform prior, so that the composition is free of parameters and costs nothing
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, mlp
from quiltwork.models.split.released import released_target
from quiltwork.models.split.seeds import seed_of
from quiltwork.models.split.targets import ClassTarget, Target
from quiltwork.party.record_privacy import DPPlan, train_privately
from quiltwork.privacy.labels import RandomisedResponse
from quiltwork.privacy.ledger import Ledger
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.outputs import Product
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

WIDTH, DELTA = 16, 1e-5
LABEL_EPSILONS, RECORD_EPSILONS = (2.0, 3.0, 4.0, 8.0), (1.0, 3.0, 8.0)


@dataclass(frozen=True)
class Case:
    """Aligned fragments float32 ``[n, p_i]`` by owner, labels int64 ``[n]``, and which rows are for what."""

    fragments: Mapping[str, Tensor]
    labels: Tensor
    classes: int
    train: NDArray[np.int64]
    test: NDArray[np.int64]


def digits(seed: int) -> Case:
    """Four owners of a quarter of each image, scaled by the public largest grey; 500 rows held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    square = (images / 16).reshape(-1, 8, 8).astype(np.float32)
    corners = {"NW": (0, 0), "NE": (0, 4), "SW": (4, 0), "SE": (4, 4)}
    parts = {
        name: torch.from_numpy(square[:, r : r + 4, c : c + 4].reshape(-1, 16)) for name, (r, c) in corners.items()
    }
    order = np.random.default_rng(seed).permutation(len(labels)).astype(np.int64)
    return Case(parts, torch.from_numpy(labels.astype(np.int64)), 10, np.sort(order[500:]), np.sort(order[:500]))


def _right(found: NDArray[np.float64], case: Case) -> float:
    return float((found.argmax(1) == case.labels[case.test].numpy()).mean())


def _component(case: Case, party: str, plan: OptimiserPlan, seed: int) -> Component:
    columns = case.fragments[party].shape[1]
    return Component.built(lambda: mlp(columns, WIDTH, [32]), plan, name=party, seed=seed)


def _head(case: Case, party: str, plan: OptimiserPlan, seed: int) -> Component:
    return Component.built(lambda: nn.Linear(WIDTH, case.classes), plan, name=f"head of {party}", seed=seed)


def with_private_labels(
    case: Case, epsilon: float | None, mode: str, seed: int, *, naive: bool = False, epochs: int = 10
) -> float:
    """Accuracy after training on labels randomised at ``epsilon`` (None: true ones), in either mode."""
    target = _target(case, epsilon, naive, seed)
    plan = OptimiserPlan("adam", 1e-2)
    nodes = {p: ComponentNode(_component(case, p, plan, seed), rows) for p, rows in case.fragments.items()}
    widths = dict.fromkeys(sorted(nodes), WIDTH)
    if mode == "joint":
        body = Component.built(
            lambda: Concatenated(mlp(WIDTH * len(nodes), case.classes, [64])), plan, name="composer", seed=seed
        )
        chosen: Any = Joint(body, widths)
    else:
        chosen = Isolated({p: _head(case, p, plan, seed) for p in nodes}, Product(target.prior()))
    channel = LocalChannel(nodes, dict.fromkeys(nodes, component_terms(WIDTH)))
    run = SplitRun(channel, chosen, OwnLabels(target), Schedule(case.train, 64, epochs, seed), widths)
    run.train()
    return _right(run.predict(case.test), case)


def _target(case: Case, epsilon: float | None, naive: bool, seed: int) -> Target:
    known = torch.full_like(case.labels, -1)
    known[case.train] = case.labels[case.train]
    if epsilon is None:
        return ClassTarget(known, case.classes)
    # a seed for the noise makes a benchmark that can be run again, and would make a release worthless
    rng = np.random.default_rng(seed_of(seed, "noise of labels"))
    released = RandomisedResponse(case.classes, epsilon).release(known.numpy(), rng=rng)
    return ClassTarget(torch.from_numpy(released.labels), case.classes) if naive else released_target(released)


def record_plan(case: Case, epsilon: float | None, *, batch: int = 256, epochs: int = 40, clip: float = 1.0) -> DPPlan:
    """The noise at which a case pays ``epsilon`` over all owners; None for next to no noise and no clipping."""
    if epsilon is None:
        return DPPlan(1e-9, batch, epochs, clip=1e3)
    rows, parties = len(case.train), len(case.fragments)
    return DPPlan.within(epsilon, DELTA, rows=rows, parties=parties, batch=batch, epochs=epochs, clip=clip)


def with_private_records(case: Case, plan: DPPlan, seed: int, *, learning_rate: float = 2e-2) -> tuple[float, Ledger]:
    """Accuracy of privately trained components and heads, and the ledger of what they released."""
    steps = OptimiserPlan("adam", learning_rate)
    events, outputs = {}, {}
    for party, rows in case.fragments.items():
        component, head = _component(case, party, steps, seed), _head(case, party, steps, seed)
        noise = torch.Generator().manual_seed(seed_of(seed, f"noise of {party}"))
        events[party] = (
            train_privately(
                component,
                head,
                rows,
                ClassTarget(case.labels, case.classes),
                plan,
                positions=case.train.tolist(),
                generator=noise,
            ),
        )
        outputs[party] = torch.log_softmax(head.predict(component.predict(rows[case.test])).double(), 1)
    uniform = torch.full((case.classes,), 1 / case.classes, dtype=torch.float64)
    found = Product(uniform).compose(outputs).numpy()
    return _right(found, case), Ledger(events, columns=tuple(sorted(events)))


def _row(name: str, found: list[float], **more: Any) -> dict[str, Any]:
    row = {"what": name, "accuracy": float(np.mean(found)), "sd": float(np.std(found, ddof=1)), "seeds": len(found)}
    print(f"{name:45s} {row['accuracy']:.4f} ± {row['sd']:.4f}", more or "", flush=True)
    return row | more


def label_rows(seeds: int) -> list[dict[str, Any]]:
    """Accuracy by mode and label epsilon."""
    rows = []
    for mode in ("joint", "isolated"):
        for epsilon in (None, *LABEL_EPSILONS):
            found = [with_private_labels(digits(seed), epsilon, mode, seed) for seed in range(seeds)]
            keep = 1.0 if epsilon is None else RandomisedResponse(10, epsilon).keep
            rows.append(_row(f"{mode}, label epsilon {epsilon}", found, posterior=round(keep, 3)))
    found = [with_private_labels(digits(seed), 2.0, "joint", seed, naive=True) for seed in range(seeds)]
    rows.append(_row("joint, label epsilon 2.0, naive loss", found))
    return rows


def record_rows(seeds: int) -> list[dict[str, Any]]:
    """Accuracy by record epsilon, over all owners."""
    rows = []
    for epsilon in (None, *RECORD_EPSILONS):
        plan = record_plan(digits(0), epsilon)
        runs = [with_private_records(digits(seed), plan, seed) for seed in range(seeds)]
        paid = {} if epsilon is None else {"paid": round(runs[0][1].price("row", delta=DELTA), 3)}
        noise = round(plan.noise_multiplier, 3)
        rows.append(_row(f"isolated at home, record epsilon {epsilon}", [a for a, _ in runs], noise=noise, **paid))
    return rows


def main() -> None:
    """Run both and write the table."""
    parser = argparse.ArgumentParser(description="What privacy costs in split learning.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "machine": f"{platform.machine()}, torch {torch.__version__}, 1 thread",
        "delta": DELTA,
        "labels": label_rows(options.seeds),
        "records": record_rows(options.seeds),
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
