"""What a network, a stitched one or an ensemble costs: parameters, multiply-adds, and each parent's share.

Nothing is computed: the steps that a setting needs run on tensors without memory, for one input, and are counted by the
formulas of ``work``. A stitched network shares prefixes between its tails, and pays for parts that no tail stands on
with nothing; an ensemble pays for all members. A weigher, which reads the raw input, is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quiltwork.models.network.execution import Step, execute
from quiltwork.models.network.network import Network
from quiltwork.models.network.operators import Value
from quiltwork.models.network.shapes import start_without_memory
from quiltwork.models.network.splices import SHARES, SPLICE, bound, of_party
from quiltwork.models.network.stitched import ENSEMBLE, STITCHED, StitchedNetwork
from quiltwork.models.network.work import metered, multiply_adds

ADAPTERS = "adapters"
_META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """Of one input in one setting.

    Attributes:
        parameters: numbers that are held for it: weights, running statistics, adapters.
        multiply_adds: of one input.
        shares: multiply-adds by party, and of ``"adapters"`` together; only those that are not zero.
    """

    parameters: int
    multiply_adds: int
    shares: Mapping[str, int]


def network_cost(network: Network, party: str = "") -> Cost:
    """The cost of one network, as the share of ``party``."""
    found: Counter[str] = Counter()

    def tally(step: Step, args: tuple[Any, ...], value: Value) -> None:
        found[party] += multiply_adds(step.op, args, value)

    values = start_without_memory(network.graph, network.signature, 1)
    with torch.no_grad():
        execute(metered(network.steps, tally), values, [network.graph.output], _META)
    return Cost(_numbers(network), found.total(), dict(found))


def cost(model: StitchedNetwork, setting: str | None = None) -> Cost:
    """The cost of a setting; None: the present one."""
    setting = setting or model.setting
    if setting == STITCHED:
        return _stitched(model)
    parts = [network_cost(model[party], party) for party in model.parties if setting in (party, ENSEMBLE)]
    shares = {party: work for part in parts for party, work in part.shares.items()}
    return Cost(sum(part.parameters for part in parts), sum(shares.values()), shares)


def costs(model: StitchedNetwork) -> dict[str, Cost]:
    """The cost of every setting."""
    return {setting: cost(model, setting) for setting in model.settings}


def _stitched(model: StitchedNetwork) -> Cost:
    found: Counter[str] = Counter()
    used: set[str] = set()
    held: list[int] = []

    def tally(step: Step, args: tuple[Any, ...], value: Value) -> None:
        used.update(step.takes)
        if step.op == SPLICE:
            adapters = model.adapters_of(int(step.name.split()[1]))
            found[ADAPTERS] += sum(adapter.multiply_adds for adapter in adapters)
            held.extend(p.numel() for adapter in adapters for p in adapter.parameters())
        else:
            found[step.name.split("/")[0]] += multiply_adds(step.op, args, value)

    values: dict[str, Value] = {SHARES: None}
    for party in model.parties:
        start = start_without_memory(model[party].graph, model[party].signature, 1)
        values |= {of_party(party, name): value for name, value in start.items()}
    steps = metered(bound(model.steps, lambda _place: _same_shape), tally)
    with torch.no_grad():
        execute(steps, values, model.goals().values(), _META)
    tensors = {name: one for name, one in values.items() if name in used and isinstance(one, Tensor)}
    inputs = {of_party(party, model[party].graph.input) for party in model.parties}
    weights = sum(one.numel() for name, one in tensors.items() if name not in inputs)
    return Cost(weights + sum(held), found.total(), {name: work for name, work in found.items() if work})


def _same_shape(_shares: Value, raw: Tensor, *_sources: Tensor) -> Tensor:
    return torch.empty_like(raw)


def _numbers(network: Network) -> int:
    return sum(tensor.numel() for tensor in network.tensors().values())
