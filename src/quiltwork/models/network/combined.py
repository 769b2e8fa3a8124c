"""Networks side by side, their outputs combined under one rule.

    out(x) = rule( w_1(x), f_1(x), ..., w_M(x), f_M(x) )

The weights are fixed, or come from a module that reads the raw input (`evidence_weights`). Every network runs on every
input, and stays as its owner trained it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from quiltwork.models.network.combining import NumberRule, Rule, Task, combine
from quiltwork.models.network.network import Network


class CombinedNetworks(nn.Module):
    """Raw inputs ``[n, *shape]`` to logits or numbers ``[n, outputs]``.

    Args:
        networks: by party; their order is that of the weights.
        rule: how outputs are combined.
        weights: a share for each network, or a module from raw inputs to shares ``[n, networks]``.
    """

    def __init__(
        self, networks: Mapping[str, Network], rule: Rule | NumberRule, weights: Sequence[float] | nn.Module
    ) -> None:
        super().__init__()
        self.parties = tuple(networks)
        self.networks = nn.ModuleList(networks.values())
        self.rule = rule
        self.task: Task = "numbers" if next(iter(networks.values())).signature.classes is None else "classes"
        self.weigher = weights if isinstance(weights, nn.Module) else None
        fixed = torch.tensor([] if isinstance(weights, nn.Module) else list(weights), dtype=torch.float32)
        self.register_buffer("weights", fixed)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The combined outputs."""
        outputs = torch.stack([network(x) for network in self.networks])
        weights = self.get_buffer("weights") if self.weigher is None else self.weigher(x)
        return combine(outputs, weights, self.rule, self.task)
