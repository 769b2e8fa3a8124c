"""Learning to coordinate: an owner's expert trained beside the base's own feed-forward block, which stays as it is.

What both forms of a feed-forward expert share (absolute weights, ``scopes.FFNScope``; low-rank changes,
``scopes.LowRankScope``): the options of the router's training, the wrapping of a model, and the router's tensors.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quiltwork.errors import CheckpointError, InvalidOption
from quiltwork.models.bank import AnchorDraw, CoordinatedFFN, first_expert, rows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROW_STD = 0.02

MakeExpert = Callable[[int, nn.Module], nn.Module | None]
"""Layer and the base's block -> what is trained beside it; None for a copy of the block."""


def generator_of(*words: object) -> torch.Generator:
    """A generator seeded by words, such as a party's name and a layer: other parties never matter."""
    seed = int.from_bytes(hashlib.sha256(" ".join(map(str, words)).encode()).digest()[:8], "big")
    return torch.Generator().manual_seed(seed % 2**63)


@dataclass(frozen=True)
class Coordination:
    """How an expert learns beside its anchor.

    Attributes:
        anchor_share: share of the training sequences that the expert answers together with the frozen base FFN, mixed
            by the router; it answers the rest alone. 1 is FlexOlmo's training, 0 learns no router row.
        bias: initial negative router bias, or None. A training-time regulariser: public formats cannot hold it.
        top_k: experts a token that the owner recommends for composition; None recommends all.
    """

    anchor_share: float
    bias: float | None
    top_k: int | None

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
    def router(self) -> bool:
        """Whether rows are learned, and leave."""
        return self.anchor_share > 0

    def declared(self) -> dict[str, Any]:
        """The fields of a manifest that say how the expert learned."""
        return {
            "top_k": self.top_k,
            "anchor_share": self.anchor_share,
            "router": self.router,
            "bias": self.bias is not None and self.router,
        }

    def prepare(self, model: PreTrainedModel, party: str, make: MakeExpert) -> AnchorDraw:
        """Freeze the body and put a trainable expert beside each FFN, in place.

        Where the base is a mixture, all its experts stay frozen together, and the new one starts from the first.

        Raises:
            CheckpointError: the FFNs have biases, which an expert does not hold.
        """
        if getattr(model.config, "mlp_bias", False):
            raise CheckpointError(
                "config field 'mlp_bias' of the base",
                why="an ffn expert holds the weights of the feed-forward projections, and no biases",
                mend="Train the scope 'full'.",
            )
        model.requires_grad_(False)
        draw = AnchorDraw(self.anchor_share)
        for number, layer in enumerate(blocks_of(model)):
            anchor = layer.mlp
            weight = next(anchor.parameters())
            row = _initial_row(party, number, model.config.hidden_size).to(weight)
            rows = rows_of(anchor)
            start = anchor if rows is None else first_expert(anchor).requires_grad_(False)
            expert = make(number, start)
            layer.mlp = CoordinatedFFN(
                anchor,
                row,
                bias=self.bias,
                draw=draw,
                expert=copy.deepcopy(start) if expert is None else expert,
                rows=rows,
            )
            if rows is not None and expert is not None:
                layer.mlp.start = start  # whose weights the expert may share: they move with the model
        model.register_forward_pre_hook(
            lambda _, __, inputs: draw.draw(inputs["input_ids"].shape[0], inputs["input_ids"].device),
            with_kwargs=True,
        )
        return draw

    def router_tensors(self, layer: nn.Module) -> dict[str, Tensor]:
        """What leaves of a layer's router, by the end of its name."""
        ffn: Any = layer.mlp
        row = {"router.weight": ffn.row} if self.router else {}
        return row | ({"router.bias": ffn.bias.clamp(max=0)} if self.router and ffn.bias is not None else {})


def blocks_of(model: Any) -> Any:
    """A model's decoder layers, each with its feed-forward block ``mlp``."""
    return model.model.layers


def require_dense(model: Any, what: str) -> None:
    """Refuse a base that is a mixture of experts.

    Raises:
        CheckpointError: it is one.
    """
    if any(rows_of(layer.mlp) is not None for layer in blocks_of(model)):
        raise CheckpointError(
            f"{what} of a base that is a mixture of experts",
            why="its experts stay as they are, stacked in one tensor; only a new one beside them is trained",
            mend="Train the scope 'ffn' or 'lowrank' at the base's own width, or start from a dense base.",
        )


def _initial_row(party: str, layer: int, hidden: int) -> Tensor:
    """A start for a router row, normal with deviation 0.02, that depends on the party's name only.

    Rows that start alike end alike (FlexOlmo, section 4); parties cannot agree on starts, but their names differ.
    """
    return torch.randn(hidden, generator=generator_of("router row", party, layer)) * _ROW_STD
