"""How the outputs of several models become one: weights in, one distribution or number out.

For members m with weights w_m (one a member, or one a member and input; sums of 1) and log-probabilities
``l_m = log softmax(logits_m)`` over k classes,

    probability    log sum_m w_m exp(l_m)                      the linear pool
    geometric      log softmax sum_m w_m l_m                   the logarithmic pool
    logit          log softmax sum_m w_m logits_m              the same: rows of logits differ from l_m by constants
    rank           log [ sum_m w_m rank_m / (k (k + 1) / 2) ]  Borda: 1 for the least likely class, k for the likeliest
    median         log of the weighted median of each class's probability, scaled to sum 1

and for numbers ``mean`` and ``median`` (weighted). The weighted median is the middle of the lower and the upper one, so
equal weights give the textbook median. Tied ranks are averaged.

Everything is torch, differentiable almost everywhere, and exports; `models.ensembles` uses the same functions for
models that are no networks.

>>> outputs = torch.log(torch.tensor([[[0.9, 0.1]], [[0.4, 0.6]]]))
>>> [round(p, 3) for p in combine(outputs, torch.tensor([0.5, 0.5])).exp()[0].tolist()]
[0.65, 0.35]
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from quiltwork.errors import InvalidOption

Rule: TypeAlias = Literal["probability", "logit", "geometric", "rank", "median"]
NumberRule: TypeAlias = Literal["mean", "median"]
Task: TypeAlias = Literal["classes", "numbers"]

_HALF = 1e-6
_TINY = 1e-30


def require_rule(rule: str, task: Task) -> None:
    """Refuse a rule that the task does not have.

    Raises:
        InvalidOption: names the rules that it has.
    """
    known = get_args(Rule if task == "classes" else NumberRule)
    if rule not in known:
        raise InvalidOption(
            f"rule {rule!r}", why=f"{task} are not combined that way", mend=f"Choose {', '.join(known)}."
        )


def combine(
    outputs: Tensor, weights: Tensor | None = None, rule: str = "probability", task: Task = "classes"
) -> Tensor:
    """One output for each input.

    Args:
        outputs: floating ``[M, n, k]``: logits (or log-probabilities), or numbers.
        weights: ``[M]`` or ``[n, M]``, none negative, sums of 1; None weighs all alike.
        rule: a `Rule` for classes, a `NumberRule` for numbers.
        task: what the outputs are.

    Returns:
        ``[n, k]``, of the outputs' dtype: log-probabilities, or numbers.

    Raises:
        InvalidOption: the task has no such rule.
    """
    require_rule(rule, task)
    w = _spread(outputs, weights)
    if task == "numbers":
        return (w * outputs).sum(dim=0) if rule == "mean" else _weighted_median(outputs, w)
    log_p = torch.log_softmax(outputs, dim=-1)
    if rule == "probability":
        return torch.logsumexp(log_p + torch.log(w.clamp(min=_TINY)), dim=0)
    if rule in ("geometric", "logit"):
        return torch.log_softmax((w * log_p).sum(dim=0), dim=-1)
    if rule == "rank":
        classes = outputs.shape[-1]
        return torch.log((w * _ranks(outputs)).sum(dim=0) / (classes * (classes + 1) / 2))
    middle = _weighted_median(log_p.exp(), w).clamp(min=_TINY)
    return torch.log(middle / middle.sum(dim=-1, keepdim=True))


def _spread(outputs: Tensor, weights: Tensor | None) -> Tensor:
    """Weights as ``[M, n or 1, 1]``, of the outputs' dtype."""
    members = outputs.shape[0]
    if weights is None:
        return outputs.new_full((members, 1, 1), 1.0 / members)
    table = weights.to(outputs.dtype)
    return table.reshape(members, 1, 1) if table.ndim == 1 else table.transpose(0, 1).unsqueeze(2)


def _ranks(scores: Tensor) -> Tensor:
    """Ranks 1 .. k within the last dimension, ties averaged."""
    mine, others = scores.unsqueeze(-1), scores.unsqueeze(-2)
    below, same = (others < mine).to(scores.dtype), (others == mine).to(scores.dtype)
    return below.sum(dim=-1) + (same.sum(dim=-1) + 1) / 2


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Over the first dimension: the middle of the lower and the upper weighted median."""
    ordered, order = torch.sort(values, dim=0)
    reached = torch.cumsum(torch.gather(weights.expand_as(values), 0, order), dim=0)
    last = values.shape[0] - 1
    lower = (reached < 0.5 - _HALF).sum(dim=0, keepdim=True).clamp(max=last)
    upper = (reached <= 0.5 + _HALF).sum(dim=0, keepdim=True).clamp(max=last)
    return (torch.gather(ordered, 0, lower) + torch.gather(ordered, 0, upper)).squeeze(0) / 2
