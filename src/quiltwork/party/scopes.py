"""What an owner trains: the feed-forward experts of a frozen body (``ffn``), or the whole model (``full``).

A scope turns the base into a module with some parameters trainable, and after training gives the tensors that leave:

* ``ffn``: each layer's expert and router row (and bias), as absolute values. The anchor beside it is the base's own
  FFN, frozen, so an expert learns what the base lacks and a row learns where it helps ("learning to coordinate").
* ``full``: the difference of every tensor to the base. The composer adds it back, so a contribution cannot smuggle in
  a body of its own, and blending differences needs no base copy.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quiltwork.contribution.kinds import FFNExpert, FullExpert
from quiltwork.errors import CheckpointError, InvalidOption
from quiltwork.models.bank import AnchorDraw, CoordinatedFFN
from quiltwork.models.base import Base
from quiltwork.models.families import ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROW_STD = 0.02


@dataclass(frozen=True)
class FFNScope:
    """Train one feed-forward expert a layer; everything else stays as the base has it.

    Attributes:
        anchor_share: share of the training sequences that the expert answers together with the frozen base FFN, mixed
            by the router; it answers the rest alone. 1 is FlexOlmo's training, 0 learns no router row.
        bias: initial negative router bias, or None. A training-time regulariser: public formats cannot hold it.
        top_k: experts a token that the owner recommends for composition; None recommends all.
    """

    anchor_share: float = 0.5
    bias: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.anchor_share <= 1:
            raise InvalidOption(
                f"anchor_share={self.anchor_share}",
                why="it is a share of the sequences",
                mend="Choose one in [0, 1].",
            )
        if self.top_k is not None and not 1 <= self.top_k <= 1024:
            raise InvalidOption(
                f"top_k={self.top_k}",
                why="it is a number of experts that answer a token",
                mend="Choose one from 1 to 1024, or None for all.",
            )
        if self.bias is not None and not -math.inf < self.bias < 0:
            raise InvalidOption(
                f"bias={self.bias}",
                why="the bias is used as min(bias, 0), which has no gradient from zero upwards",
                mend="Start from a negative value such as -0.1, or use None.",
            )

    @property
    def name(self) -> str:
        """``ffn``."""
        return "ffn"

    def prepare(self, model: PreTrainedModel, party: str) -> AnchorDraw:
        """Freeze the body and put a trainable expert beside each FFN, in place.

        Raises:
            CheckpointError: the FFNs have biases, which an ffn expert does not hold.
        """
        if getattr(model.config, "mlp_bias", False):
            raise CheckpointError(
                "config field 'mlp_bias' of the base",
                why="an ffn expert holds the weights of the feed-forward projections, and no biases",
                mend="Train the scope 'full'.",
            )
        model.requires_grad_(False)
        draw = AnchorDraw(self.anchor_share)
        for number, layer in enumerate(model.model.layers):
            anchor = layer.mlp
            weight = next(anchor.parameters())
            row = _initial_row(party, number, model.config.hidden_size).to(weight)
            layer.mlp = CoordinatedFFN(anchor, row, bias=self.bias, draw=draw)
        model.register_forward_pre_hook(
            lambda _, __, inputs: draw.draw(inputs["input_ids"].shape[0], inputs["input_ids"].device),
            with_kwargs=True,
        )
        return draw

    def method(self, base: Base) -> FFNExpert:
        """The parameters that the manifest declares."""
        return FFNExpert(
            layers=base.layers,
            hidden_size=base.hidden_size,
            intermediate_size=base.intermediate_size,
            top_k=self.top_k,
            anchor_share=self.anchor_share,
            router=self.anchor_share > 0,
            bias=self.bias is not None and self.anchor_share > 0,
        )

    def tensors(self, model: nn.Module, base: Base) -> dict[str, Tensor]:
        """What leaves, in the base's dtype."""
        result: dict[str, Tensor] = {}
        for number, layer in enumerate(_layers(model)):
            ffn = layer.mlp
            prefix = f"ffn.layers.{number}."
            for role in ROLES:
                result[f"{prefix}{role}.weight"] = getattr(ffn.expert, role).weight
            if self.anchor_share > 0:
                result[prefix + "router.weight"] = ffn.row
                if ffn.bias is not None:
                    result[prefix + "router.bias"] = ffn.bias.clamp(max=0)
        return {name: t.detach().to("cpu", base.torch_dtype).contiguous() for name, t in result.items()}


@dataclass(frozen=True)
class FullScope:
    """Train every weight; what leaves is the difference to the base.

    Attributes:
        dtype: type of the released differences, ``"base"``, ``"float32"`` or ``"bfloat16"``.
    """

    dtype: str = "base"

    def __post_init__(self) -> None:
        if self.dtype not in ("base", "float32", "bfloat16"):
            raise InvalidOption(
                f"dtype={self.dtype!r}", why="differences are not released in it", mend="Use base, float32 or bfloat16."
            )

    @property
    def name(self) -> str:
        """``full``."""
        return "full"

    def prepare(self, model: PreTrainedModel, party: str) -> None:  # noqa: ARG002 - the scopes share one signature
        """Make every parameter trainable, in place."""
        model.requires_grad_(True)

    def method(self, base: Base) -> FullExpert:  # noqa: ARG002
        """The parameters that the manifest declares."""
        return FullExpert(form="delta")

    def tensors(self, model: nn.Module, base: Base) -> dict[str, Tensor]:
        """What leaves: trained minus base, for every tensor of the base's checkpoint."""
        dtype = base.torch_dtype if self.dtype == "base" else getattr(torch, self.dtype)
        state = model.state_dict()
        return {
            f"full.{name}": (state[name].detach().cpu().double() - source.load().double()).to(dtype).contiguous()
            for name, source in base.tensors.items()
        }


Scope = FFNScope | FullScope


def _layers(model: Any) -> Any:
    return model.model.layers


def _initial_row(party: str, layer: int, hidden: int) -> Tensor:
    """A start for a router row, normal with deviation 0.02, that depends on the party's name only.

    Rows that start alike end alike (FlexOlmo, section 4); parties cannot agree on starts, but their names differ.
    """
    seed = int.from_bytes(hashlib.sha256(f"router row {party} {layer}".encode()).digest()[:8], "big")
    generator = torch.Generator().manual_seed(seed % 2**63)
    return torch.randn(hidden, generator=generator) * _ROW_STD
