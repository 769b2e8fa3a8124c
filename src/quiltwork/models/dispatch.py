"""Which tokens each expert answers, and with what weight: worked out once, so that the experts can simply run.

    y_t = sum over e of w_te M_e(x_t)

Most weights are zero, and what is left mostly has one of two forms: one expert answers every token alone (the weight is
one), or each expert answers a few tokens. `dispatch` tells them apart with one look at the weights; `combine` then runs
the experts. An expert that answers all tokens reads them where they lie, and a weight of one is not multiplied by. Both
leave every bit as it was. Where weights serve all layers of a model, one dispatch does.

>>> weights = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
>>> dispatch(weights)
(Share(expert=0, tokens=None, weight=None),)
>>> combine([torch.neg, torch.exp], dispatch(weights), torch.ones(1, 2, 3))
tensor([[[-1., -1., -1.],
         [-1., -1., -1.]]])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Share(NamedTuple):
    """What one expert answers.

    Attributes:
        expert: its number.
        tokens: int64 ``[n]``, the places of its tokens among all; None for all of them.
        weight: ``[n, 1]``, the weight of each answer; None where all are one.
    """

    expert: int
    tokens: Tensor | None
    weight: Tensor | None


def dispatch(weights: Tensor) -> tuple[Share, ...]:
    """The shares of the experts that have any weight, in their order.

    Args:
        weights: floating ``[tokens, experts]``; gradients flow through them.
    """
    chosen = weights != 0
    counts: list[int] = chosen.sum(dim=0).tolist()
    # a weight that is learned needs its gradient even where its value is one
    lone = sum(counts) == len(weights) and not weights.requires_grad and bool((weights[chosen] == 1).all())
    return tuple(
        _share(number, chosen[:, number], weights[:, number, None], count, lone)
        for number, count in enumerate(counts)
        if count
    )


def _share(number: int, chosen: Tensor, weight: Tensor, count: int, lone: bool) -> Share:
    if count == len(chosen):
        return Share(number, None, None if lone else weight)
    tokens = chosen.nonzero().squeeze(-1)
    return Share(number, tokens, None if lone else weight[tokens])


def combine(experts: Sequence[Callable[[Tensor], Tensor]], shares: Sequence[Share], x: Tensor) -> Tensor:
    """The weighted sum of the experts' answers to ``x`` ``[..., hidden]``; each sees only its own tokens."""
    if len(shares) == 1 and shares[0].tokens is None and shares[0].weight is None:
        return experts[shares[0].expert](x)
    tokens = x.reshape(-1, x.shape[-1])
    result = torch.zeros_like(tokens)
    for share in shares:
        answer = experts[share.expert](tokens if share.tokens is None else tokens[share.tokens])
        if share.weight is not None:
            answer = answer * share.weight
        result = result + answer if share.tokens is None else result.index_add_(0, share.tokens, answer)
    return result.reshape(x.shape)
