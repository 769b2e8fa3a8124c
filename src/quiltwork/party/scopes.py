"""What an owner trains, and what of it leaves. A scope turns the base into a module with some parameters trainable,
and after training gives the tensors of one part:

* ``ffn``: each layer's expert and router row (and bias), as absolute values. The anchor beside it is the base's own
  FFN, frozen, so an expert learns what the base lacks and a row learns where it helps ("learning to coordinate"). With
  ``width`` the expert has fewer intermediate neurons: it starts from those that matter most on the owner's own text
  (see ``models/narrow.py``).
* ``lowrank``: the same, with the expert a low-rank change of the base's FFN; the factors leave.
* ``full``: the difference of every tensor to the base. The composer adds it back, so a contribution cannot smuggle in
  a body of its own, and blending differences needs no base copy.
* ``lora`` (in ``party/lora.py``): low-rank changes of every linear map of the body; the factors leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from quiltwork.contribution.kinds import FFNExpert, FullExpert, LowRankExpert
from quiltwork.errors import InvalidOption
from quiltwork.models.bank import AnchorDraw
from quiltwork.models.base import Base
from quiltwork.models.families import ROLES
from quiltwork.models.low_rank import LowRankLinear, initial_down, low_rank_copy
from quiltwork.models.narrow import importance, narrowed
from quiltwork.party.coordination import Coordination, MakeExpert, blocks_of, generator_of, require_dense
from quiltwork.party.lora import LoRAScope, check_factors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Text: TypeAlias = Callable[[], Iterable[Tensor]]
"""Batches of token ids ``[batch, tokens]`` of the owner's own text."""


@dataclass(frozen=True)
class FFNScope:
    """Train one feed-forward expert a layer; everything else stays as the base has it.

    Attributes:
        anchor_share, bias, top_k: as `Coordination`.
        width: intermediate neurons of the expert, chosen on the owner's text; None for all of the base's.
    """

    anchor_share: float = 0.5
    bias: float | None = None
    top_k: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        _ = self._coordination
        if self.width is not None and self.width < 1:
            raise InvalidOption(
                f"width={self.width}", why="it is a number of neurons", mend="Choose 1 or more, or None for all."
            )

    @property
    def _coordination(self) -> Coordination:
        return Coordination(self.anchor_share, self.bias, self.top_k)

    @property
    def name(self) -> str:
        """``ffn``."""
        return "ffn"

    def prepare(self, model: PreTrainedModel, party: str, text: Text | None = None) -> AnchorDraw:
        """Freeze the body and put a trainable expert beside each FFN, in place.

        Args:
            model: the base.
            party: whose expert; rows start from its name.
            text: some of the owner's text, for a narrow expert.

        Raises:
            CheckpointError: the FFNs have biases, which an ffn expert does not hold.
            InvalidOption: a width above the base's, or a width without text to choose neurons by.
        """
        make: MakeExpert = (lambda _, __: None) if self.width is None else _narrowing(model, self.width, text)
        return self._coordination.prepare(model, party, make)

    def method(self, base: Base) -> FFNExpert:
        """The parameters that the manifest declares."""
        width = self.width or base.intermediate_size
        return FFNExpert(
            layers=base.layers,
            hidden_size=base.hidden_size,
            intermediate_size=width,
            **self._coordination.declared(),
        )

    def tensors(self, model: nn.Module, base: Base) -> dict[str, Tensor]:
        """What leaves, in the base's dtype."""
        result: dict[str, Tensor] = {}
        for number, layer in enumerate(blocks_of(model)):
            own = {f"{role}.weight": getattr(layer.mlp.expert, role).weight for role in ROLES}
            own |= self._coordination.router_tensors(layer)
            result |= {f"ffn.layers.{number}.{name}": tensor for name, tensor in own.items()}
        return _leaving(result, base.torch_dtype)


def _narrowing(model: PreTrainedModel, width: int, text: Text | None) -> MakeExpert:
    """Makes experts of the neurons that matter most on the owner's text."""
    require_dense(model, f"width={width}")
    most = model.config.intermediate_size
    if width > most:
        raise InvalidOption(
            f"width={width}", why=f"the base's feed-forward blocks have {most} neurons", mend="Choose fewer."
        )
    if text is None:
        raise InvalidOption(
            f"width={width}", why="its neurons are chosen by some text, and none is given", mend="Give some text."
        )
    scores = importance(model, [layer.mlp for layer in blocks_of(model)], text())
    return lambda number, block: narrowed(block, scores[number], width)


@dataclass(frozen=True)
class LowRankScope:
    """Train one low-rank feed-forward expert a layer: each projection is the base's plus a product of two factors.

    Attributes:
        rank: r of every projection.
        alpha: the product is scaled by alpha / r while it is trained; None for r.
        anchor_share, bias, top_k: as `Coordination`.
    """

    rank: int = 16
    alpha: float | None = None
    anchor_share: float = 0.5
    bias: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        _ = self._coordination
        check_factors(self.rank, self.alpha)

    @property
    def _coordination(self) -> Coordination:
        return Coordination(self.anchor_share, self.bias, self.top_k)

    @property
    def name(self) -> str:
        """``lowrank``."""
        return "lowrank"

    def prepare(self, model: PreTrainedModel, party: str, text: Text | None = None) -> AnchorDraw:  # noqa: ARG002
        """Freeze the body and put trainable factors beside each projection of each FFN, in place.

        Raises:
            CheckpointError: the FFNs have biases, which an expert does not hold.
            InvalidOption: the rank is above a projection's smaller side.
        """
        most = min(model.config.hidden_size, model.config.intermediate_size)
        if self.rank > most:
            raise InvalidOption(
                f"rank={self.rank}",
                why=f"the smaller side of the base's feed-forward projections is {most}",
                mend="Choose a smaller rank, or the scope 'ffn'.",
            )
        scale = (self.alpha or self.rank) / self.rank

        def make(number: int, block: nn.Module) -> nn.Module:
            starts: dict[str, Tensor] = {
                role: initial_down(
                    self.rank, getattr(block, role).in_features, generator_of("low rank", party, number, role)
                )
                for role in ROLES
            }
            return low_rank_copy(block, starts, scale)

        return self._coordination.prepare(model, party, make)

    def method(self, base: Base) -> LowRankExpert:
        """The parameters that the manifest declares."""
        return LowRankExpert(
            layers=base.layers,
            hidden_size=base.hidden_size,
            intermediate_size=base.intermediate_size,
            rank=self.rank,
            **self._coordination.declared(),
        )

    def tensors(self, model: nn.Module, base: Base) -> dict[str, Tensor]:
        """What leaves, in the base's dtype: the factors, the scale in ``up``."""
        result: dict[str, Tensor] = {}
        for number, layer in enumerate(blocks_of(model)):
            own = self._coordination.router_tensors(layer)
            for role in ROLES:
                linear: LowRankLinear = getattr(layer.mlp.expert, role)
                own[f"{role}.up"], own[f"{role}.down"] = linear.factors()
            result |= {f"lowrank.layers.{number}.{name}": tensor for name, tensor in own.items()}
        return _leaving(result, base.torch_dtype)


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

    def prepare(self, model: PreTrainedModel, party: str, text: Text | None = None) -> None:  # noqa: ARG002
        """Make every parameter trainable, in place.

        Raises:
            CheckpointError: the base is a mixture of experts.
        """
        require_dense(model, "full training")
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


Scope = FFNScope | LowRankScope | FullScope | LoRAScope


def _leaving(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
