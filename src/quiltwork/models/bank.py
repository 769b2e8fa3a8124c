"""Expert layers: several feed-forward networks (FFNs) where a dense model had one.

Notation, for one token with router input x (the input of the FFN block) and experts M_0 (the base's own), M_1..M_n:

    y = sum_e w_e(x) M_e(x)

* ``CoordinatedFFN`` is the owner's side (n = 1, "learning to coordinate", FlexOlmo, arXiv 2507.07024, section 3):
  w = softmax([0, r.x + min(b, 0)]). The base's row is zero: softmax does not change when one vector is added to every
  row, so only the difference to the base's row can be learned, and zero fixes that freedom in the same way for every
  party. Anchor and expert are separate modules; the anchor cannot move, whatever the optimiser does. Where the base is
  a mixture itself, with rows R, the anchor is that mixture and w = softmax([R x, r.x + min(b, 0)]): the expert's share
  is sigmoid(r.x + min(b, 0) - log sum_e exp(R_e x)), and the anchor has the rest.
* ``ExpertBank`` is the composed side. Either its rows give w (softmax over all experts in float32, top-k, optional
  renormalisation: exactly the router of transformers' FlexOlmo and Mixtral), or w comes from outside, one weight per
  token and expert, the same for all layers (the prefix-evidence router).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from quiltwork.errors import InvalidOption
from quiltwork.models.dispatch import Share, combine, dispatch


@dataclass
class Mixing:
    """Weights of the experts per token, shared by all layers of one model; set before each forward pass.

    Attributes:
        weights: float tensor ``[batch, tokens, experts]``, or None while no pass is running.
        log_prior: the same as logarithms, for layers whose rows add to them; None elsewhere.
    """

    weights: Tensor | None = None
    log_prior: Tensor | None = None
    _dispatched: tuple[Tensor, torch.dtype, tuple[Share, ...]] | None = field(default=None, repr=False)

    def shares(self, dtype: torch.dtype) -> tuple[Share, ...]:
        """What each expert answers under the weights, in some dtype; worked out in the first layer that asks.

        Raises:
            RuntimeError: no weights are set.
        """
        if self.weights is None:
            raise RuntimeError("the model must set the mixing weights before its layers run")
        known = self._dispatched
        if known is None or known[0] is not self.weights or known[1] != dtype:
            flat = self.weights.to(dtype).reshape(-1, self.weights.shape[-1])
            known = self._dispatched = (self.weights, dtype, dispatch(flat))
        return known[2]


@dataclass
class AnchorDraw:
    """Which sequences of the current batch train beside the anchor; one draw serves all layers.

    Attributes:
        share: probability that a sequence does.
        present: bool tensor ``[batch, 1]``, or None when all do.
    """

    share: float
    present: Tensor | None = None

    def draw(self, batch: int, device: torch.device) -> None:
        """Draw for a batch, with torch's CPU generator, so that every device draws the same."""
        self.present = (torch.rand(batch, 1) < self.share).to(device) if 0 < self.share < 1 else None


class CoordinatedFFN(nn.Module):
    """An owner's trainable expert beside the frozen FFN of the base.

    Args:
        anchor: the base's FFN; frozen here.
        row: initial router row, float tensor ``[hidden]``.
        bias: initial router bias (used as ``min(bias, 0)``), or None for a router without one.
        draw: which sequences train beside the anchor. In the others the expert answers alone, as it does when a
            router that never consults the rows has chosen it. A share of one is FlexOlmo's training.
        expert: what is trained; None for a copy of the anchor.
        rows: the rows ``[experts, hidden]`` of an anchor that is a mixture; None for one row of zeros.
    """

    def __init__(
        self,
        anchor: nn.Module,
        row: Tensor,
        *,
        bias: float | None,
        draw: AnchorDraw,
        expert: nn.Module | None = None,
        rows: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.expert = (copy.deepcopy(anchor) if expert is None else expert).requires_grad_(True)
        self.anchor = anchor.requires_grad_(False)
        self.row = nn.Parameter(row.clone(), requires_grad=draw.share > 0)
        self.bias = nn.Parameter(torch.tensor([bias], dtype=row.dtype)) if bias is not None else None
        self._draw = draw
        # in a tuple, torch does not see it: the rows are the anchor's, and are saved once
        self._rows = (rows,)

    def forward(self, x: Tensor) -> Tensor:
        """Mix of anchor and expert; ``x`` and result are ``[batch, tokens, hidden]``."""
        if self._draw.share == 0:
            return self.expert(x)  # type: ignore[no-any-return]
        logit = x @ self.row
        if self.bias is not None:
            logit = logit + self.bias.clamp(max=0)
        logit = logit.float()
        if self._rows[0] is not None:
            logit = logit - functional.linear(x, self._rows[0]).float().logsumexp(dim=-1)
        share = torch.sigmoid(logit)
        if self._draw.present is not None:
            share = torch.where(self._draw.present, share, 1.0)
        share = share.to(x.dtype).unsqueeze(-1)
        return (1 - share) * self.anchor(x) + share * self.expert(x)  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """One gated feed-forward network without biases: ``down(act(gate(x)) * up(x))``, as every family here has it.

    Args:
        gate: ``[intermediate, hidden]``.
        up: ``[intermediate, hidden]``.
        down: ``[hidden, intermediate]``.
        activation: act.
    """

    def __init__(self, gate: Tensor, up: Tensor, down: Tensor, activation: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (_linear(weight) for weight in (gate, up, down))
        self.act_fn = activation

    def forward(self, x: Tensor) -> Tensor:
        """``x`` and result are ``[..., hidden]``."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone())
    return linear


def rows_of(block: nn.Module) -> Tensor | None:
    """The rows ``[experts, hidden]`` of a mixture as transformers builds it; None for a dense feed-forward block."""
    return block.gate.weight if hasattr(block, "experts") else None  # type: ignore[union-attr, return-value]


def first_expert(block: nn.Module) -> FeedForward:
    """A copy of the first expert of a mixture as transformers builds it (gate above up in one tensor)."""
    experts = block.experts
    gate, up = experts.gate_up_proj[0].chunk(2)  # type: ignore[union-attr, index]
    return FeedForward(gate, up, experts.down_proj[0], experts.act_fn)  # type: ignore[union-attr, index, arg-type]


class RowRouter(nn.Module):
    """Router of learned rows: softmax over all experts, then top-k.

    Args:
        hidden: size of the router's input.
        experts: number of experts, the base's own included.
        top_k: number of experts that answer a token.
        renormalise: rescale the top-k weights to sum to one.
        bias: add a bias per expert to the logits (only the native format keeps it).
        weights: weight of each expert, one if None; its logarithm is added to the logits.
        share: weight of the logits beside a log-prior from outside.
        minimum_weight: smaller weights are dropped, except the largest.
    """

    def __init__(
        self,
        hidden: int,
        experts: int,
        *,
        top_k: int,
        renormalise: bool,
        bias: bool,
        weights: Sequence[float] | None = None,
        share: float = 1.0,
        minimum_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= experts:
            raise InvalidOption(
                f"top_k={top_k}",
                why=f"the router has {experts} experts",
                mend=f"Choose top_k between 1 and {experts}.",
            )
        self.weight = nn.Parameter(torch.zeros(experts, hidden))
        self.bias = nn.Parameter(torch.zeros(experts)) if bias else None
        self.weights = None if weights is None or len(set(weights)) == 1 else tuple(weights)
        self.top_k = top_k
        self.renormalise = renormalise
        self.share = share
        self.minimum_weight = minimum_weight

    def forward(self, x: Tensor, log_prior: Tensor | None = None) -> Tensor:
        """Weights ``[..., experts]`` in the dtype of ``x``; zero for experts that are not chosen.

        Args:
            x: router input ``[..., hidden]``.
            log_prior: float32 ``[..., experts]``, added to ``share`` times the logits; None for logits alone.
        """
        logits = functional.linear(x, self.weight, self.bias)
        if self.weights is not None:
            logits = logits + logits.new_tensor(self.weights).log()
        if log_prior is not None:
            logits = self.share * logits.float() + log_prior
        probabilities = torch.softmax(logits, dim=-1, dtype=torch.float32)
        top, index = probabilities.topk(self.top_k, dim=-1)
        if self.minimum_weight:
            top = top * ((top >= self.minimum_weight) | (top == top[..., :1]))
        if self.renormalise:
            top = top / top.sum(dim=-1, keepdim=True)
        return torch.zeros_like(probabilities).scatter(-1, index, top).to(x.dtype)


class ExpertBank(nn.Module):
    """Several FFNs, mixed per token by rows or by weights from outside.

    Args:
        experts: the FFNs by the names of their slots (models/slots.py); the first is the base's own.
        router: ``RowRouter``, or a ``Mixing`` that the model fills before each pass.
        prior: what a ``RowRouter`` adds its logits to, filled likewise; None if it decides alone.
        own: where the base is a mixture and the weights come from outside, the rows that divide the base's weight among
            its own experts, which come first.
    """

    def __init__(
        self,
        experts: Mapping[str, nn.Module],
        router: RowRouter | Mixing,
        prior: Mixing | None = None,
        own: RowRouter | None = None,
    ) -> None:
        super().__init__()
        self.own = own
        self.experts = nn.ModuleDict(dict(experts))
        self.router = router if isinstance(router, RowRouter) else None
        self._mixing = router if isinstance(router, Mixing) else prior

    def _shares(self, x: Tensor) -> tuple[Share, ...]:
        """What each expert answers of the router input ``x``."""
        if self.router is None:
            assert self._mixing is not None
            return self._mixing.shares(x.dtype) if self.own is None else self._divided(x, self.own)
        log_prior = self._mixing.log_prior if self._mixing is not None else None
        return dispatch(self.router(x, log_prior).reshape(-1, len(self.experts)))

    def _divided(self, x: Tensor, own: RowRouter) -> tuple[Share, ...]:
        """Shares where the base's weight is divided among its own experts."""
        assert self._mixing is not None
        if self._mixing.weights is None:
            raise RuntimeError("the model must set the mixing weights before its layers run")
        weights = self._mixing.weights.to(x.dtype)
        divided = torch.cat([weights[..., :1] * own(x), weights[..., 1:]], dim=-1)
        return dispatch(divided.reshape(-1, len(self.experts)))

    def forward(self, x: Tensor) -> Tensor:
        """Mixture of the experts' outputs; each expert sees only the tokens that give it weight."""
        return combine(list(self.experts.values()), self._shares(x), x)
