"""The scope ``lora``: low-rank changes of every linear map of the body, through peft.

    W' = W + (alpha / r) B A        A: [r, in], B: [out, r]

(LoRA, Hu et al., arXiv 2106.09685.) Attention and feed-forward maps of every layer take part, the head does not. A and
B leave, and the scaling is declared; the composer adds the product to the base, so that any method which takes whole
models takes these too. peft trains the factors in float32 whatever the base's dtype; dropout is zero, so that two runs
agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quiltwork.contribution.kinds import LoRAExpert
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base
from quiltwork.models.low_rank import initial_down
from quiltwork.party.coordination import generator_of, require_dense

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTER = "default"


def check_factors(rank: int, alpha: float | None) -> None:
    """Refuse a rank or a scale that no factors have.

    Raises:
        InvalidOption: one of them is not positive.
    """
    if rank < 1:
        raise InvalidOption(f"rank={rank}", why="it is a number of columns", mend="Choose 1 or more.")
    if alpha is not None and not 0 < alpha < math.inf:
        raise InvalidOption(
            f"alpha={alpha}", why="the product of the factors is scaled by alpha / rank", mend="Choose a positive one."
        )


@dataclass(frozen=True)
class LoRAScope:
    """Train low-rank factors beside every linear map of the body.

    Attributes:
        rank: r of every map.
        alpha: the product is scaled by alpha / r; None for r.
    """

    rank: int = 16
    alpha: float | None = None

    def __post_init__(self) -> None:
        check_factors(self.rank, self.alpha)

    @property
    def name(self) -> str:
        """``lora``."""
        return "lora"

    @property
    def scaling(self) -> float:
        """alpha / r."""
        return (self.alpha or self.rank) / self.rank

    def prepare(self, model: PreTrainedModel, party: str, text: object = None) -> None:  # noqa: ARG002
        """Freeze the model and put factors beside every linear map of the body, in place.

        A starts as in peft, from the party's name; B from zero, so the model starts at the base.

        Raises:
            InvalidOption: the rank is above a map's smaller side; the map is named.
            CheckpointError: the base is a mixture of experts.
        """
        from peft import LoraConfig, inject_adapter_in_model

        require_dense(model, "low-rank training of every map")
        maps = {f"model.{name}": one for name, one in model.model.named_modules() if isinstance(one, nn.Linear)}
        for name, one in maps.items():
            if self.rank > min(one.in_features, one.out_features):
                raise InvalidOption(
                    f"rank={self.rank}",
                    why=f"the base's '{name}' has the shape [{one.out_features}, {one.in_features}]",
                    mend="Choose a rank up to the smaller side.",
                )
        # peft wants a whole number for alpha, and multiplies by what is set below
        config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=sorted(maps), lora_dropout=0.0)
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, model)
        for name, layer in _layers(model).items():
            layer.scaling[_ADAPTER] = self.scaling
            a, b = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
            a.data = initial_down(self.rank, a.shape[1], generator_of("lora", party, name)).to(a.device)
            b.data = torch.zeros(b.shape, device=b.device)

    def method(self, base: Base) -> LoRAExpert:  # noqa: ARG002
        """The parameters that the manifest declares."""
        return LoRAExpert(rank=self.rank, scaling=self.scaling)

    def tensors(self, model: nn.Module, base: Base) -> dict[str, Tensor]:
        """What leaves, in the base's dtype: both factors of every map, by the name of its weight in the base."""
        found: dict[str, Tensor] = {}
        for name, layer in _layers(model).items():
            found[f"lora.{name}.weight.a"] = layer.lora_A[_ADAPTER].weight
            found[f"lora.{name}.weight.b"] = layer.lora_B[_ADAPTER].weight
        return {name: t.detach().to("cpu", base.torch_dtype).contiguous() for name, t in found.items()}


def _layers(model: nn.Module) -> dict[str, Any]:
    """The maps with factors, by their names in the base."""
    from peft.tuners.lora import LoraLayer

    return {name: one for name, one in model.named_modules() if isinstance(one, LoraLayer)}
