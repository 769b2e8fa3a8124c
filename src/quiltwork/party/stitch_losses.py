"""What stitches are trained towards, the networks frozen.

    task           mean over tails of the loss of the tail's own output: cross-entropy, or squared error of numbers
    penultimate    mean over tails of  |p'(x) - p(x)|^2 / |p(x) - mean p|^2

with p the last point before the tail's output, p' its value with the source's activation *in the place* of the target's
own, whatever the mode; no label is needed. Matching where a network has all but decided works at points where matching
the activation itself does not (arXiv 2603.12433, as far as its abstract says). The mode plays no part there, since what
the target's own activation explains leaves nothing to learn.

Tails have losses of their own, not the ensemble's: joint training would let one tail lean on the other, and diversity
that is learned so does not carry over to new data (A. Jeffares et al. 2023, arXiv 2301.11323).

**Double batch.** Where a network has several splices, one behind the other, those behind see what those before have
changed. Then half of the loss is that of the stitched network, where all splices are on, and half the mean over splices
of the network in which that one alone is on: activations side by side as they are and as they become. (arXiv 2512.17592
names a double-batched training; its text was not at hand, and this is our reading.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from quiltwork.errors import InvalidOption
from quiltwork.models.network.adapters import Adapter
from quiltwork.models.network.candidates import stitch_points
from quiltwork.models.network.network import OUTPUT, Network
from quiltwork.models.network.splices import Place, Splice
from quiltwork.models.network.stitched import StitchedNetwork

LossName: TypeAlias = Literal["task", "penultimate"]
Loss: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""Raw inputs ``[n, *shape]`` and labels to a mean loss."""


def loss_of(
    name: LossName,
    networks: Mapping[str, Network],
    splices: Sequence[Splice],
    adapters: Sequence[Sequence[Adapter]],
    *,
    double: bool = True,
) -> Loss:
    """The loss that trains the adapters; those given are the ones that gradients reach.

    Args:
        name: ``"task"`` or ``"penultimate"``.
        networks: by party, frozen.
        splices: where they are joined.
        adapters: for each splice, for each source.
        double: whether splices behind others are also trained on activations as they are.

    Raises:
        InvalidOption: there is no such loss, or no point between a splice and the output.
    """
    if name not in ("task", "penultimate"):
        raise InvalidOption(f"loss {name!r}", why="there is none", mend="Use 'task' or 'penultimate'.")
    groups = [list(range(len(splices)))]
    if double and len({splice.into.party for splice in splices}) < len(splices):
        groups += [[place] for place in groups[0]]
    make = _task if name == "task" else _penultimate
    parts = [make(networks, [splices[i] for i in group], [adapters[i] for i in group]) for group in groups]
    if len(parts) == 1:
        return parts[0]
    return lambda x, labels: parts[0](x, labels) / 2 + torch.stack([part(x, labels) for part in parts[1:]]).mean() / 2


def _task(networks: Mapping[str, Network], splices: Sequence[Splice], adapters: Sequence[Sequence[Adapter]]) -> Loss:
    stitched = StitchedNetwork(networks, splices, adapters)
    tails = [Place(party, OUTPUT) for party in dict.fromkeys(splice.into.party for splice in splices)]

    def loss(x: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        outputs = stitched.run(x, tails).values()
        if stitched.task == "classes":
            return torch.stack([functional.cross_entropy(one, labels) for one in outputs]).mean()
        return torch.stack([functional.mse_loss(one, labels) for one in outputs]).mean()

    return loss


def _penultimate(
    networks: Mapping[str, Network], splices: Sequence[Splice], adapters: Sequence[Sequence[Adapter]]
) -> Loss:
    stitched = StitchedNetwork(networks, [replace(splice, mode="replace") for splice in splices], adapters)
    last = {s.into.party: penultimate(networks[s.into.party], s.into.point) for s in splices}

    def loss(x: Tensor, _labels: Tensor | None) -> Tensor:
        found = stitched.run(x, [Place(*place) for place in last.items()])
        terms = []
        for (party, _), value in found.items():
            with torch.no_grad():
                due = networks[party].run(x, [last[party]])[last[party]]
                spread = (due - due.mean(dim=0)).square().mean().clamp(min=1e-12)
            terms.append((value - due).square().mean() / spread)
        return torch.stack(terms).mean()

    return loss


def penultimate(network: Network, point: str) -> str:
    """The last point of a network at or behind another one.

    Raises:
        InvalidOption: the network has no such point.
    """
    behind = [name for name in stitch_points(network) if name == point or point in network.upstream(name)]
    if not behind:
        raise InvalidOption(
            f"point '{point}'",
            why="between it and the output there is no point to compare features at",
            mend="Train with loss='task', or splice at an earlier point.",
        )
    return behind[-1]
