"""How evidence of a text is added up token by token, when the text may change its author.

For evidence e_t(h), the log-likelihood of token t under hypothesis h, two recurrences:

    fading       s_t = lambda s_{t-1} + e_t                                    lambda = 2^(-1 / half_life)
    fixed share  p_t  ~  exp(e_t) [(1 - a) p_{t-1} + a pi]                     a = switching, pi the prior

A half-life forgets at a constant rate, also where nothing changes, so that a posterior never gets surer than the last
few half-lives allow. Fixed share (Herbster and Warmuth 1998, "Tracking the best expert") is exact Bayes for a text
whose author is drawn anew from the prior before a token with probability a: the filter of a hidden Markov model.
No hypothesis falls far below a pi, so one that comes back needs about log(1 / a) nats of evidence to be believed,
however long the text before it.

Within a block fading is a product with the lower-triangular matrix ``lambda^(t - j)``, whose powers are all at most 1.
Fixed share goes token by token: four operations on ``[batch, H]`` each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from torch import Tensor


def fading_sum(evidence: Tensor, state: Tensor, seen: Tensor | None, half_life: float | None) -> Tensor:
    """s_1..s_T ``[B, T, H]`` from evidence ``[B, T, H]`` and s_0 ``[B, H]``.

    Args:
        evidence: e_1..e_T.
        state: s_0.
        seen: bool ``[B, T]``, False where a token is passed over: it adds nothing and lets nothing fade. None for all.
        half_life: tokens after which evidence counts half; None keeps it for good.
    """
    import torch

    if seen is not None:
        evidence = evidence.masked_fill(~seen[..., None], 0.0)
    if half_life is None:
        return state[:, None] + evidence.cumsum(dim=1)
    if seen is None:
        steps = torch.arange(1, evidence.shape[1] + 1, device=evidence.device)[None]
    else:
        steps = seen.cumsum(dim=1)
    age = (steps[:, :, None] - steps[:, None, :]).clamp(min=0).to(state.dtype)
    decay = torch.exp2(-age / half_life).tril()
    carried = torch.exp2(-steps.to(state.dtype) / half_life)[..., None] * state[:, None]
    return carried + decay @ evidence


def fixed_share(evidence: Tensor, state: Tensor, seen: Tensor | None, prior: Tensor, switching: float) -> Tensor:
    """p_1..p_T ``[B, T, H]``, each a distribution, from evidence ``[B, T, H]`` and p_0 ``[B, H]``.

    Args:
        evidence: e_1..e_T.
        state: p_0.
        seen: as in `fading_sum`: a token passed over leaves p as it is.
        prior: pi ``[H]``, summing to one; a hypothesis with 0 is never true.
        switching: a.
    """
    import torch

    # only a hypothesis that can be true sets the scale: then the largest factor of a step is 1 and no sum vanishes
    possible = evidence.masked_fill(prior == 0, -math.inf)
    likelihood = (possible - possible.amax(dim=-1, keepdim=True)).exp()
    stay, anew = 1 - switching, switching * prior
    shares = []
    for t in range(evidence.shape[1]):
        after = likelihood[:, t] * (stay * state + anew)
        after = after / after.sum(dim=-1, keepdim=True)
        state = after if seen is None else torch.where(seen[:, t, None], after, state)
        shares.append(state)
    return torch.stack(shares, dim=1)


def require_forgetting(temperature: float, half_life: float | None, switching: float | None) -> None:
    """Refuse settings of the evidence outside their domain, and two ways to forget at once.

    Raises:
        InvalidOption: naming the setting.
    """
    if not 0 < temperature < math.inf:
        raise InvalidOption(
            f"temperature={temperature}", why="it divides log-likelihoods", mend="Choose a positive number."
        )
    if half_life is not None and not 0 < half_life < math.inf:
        raise InvalidOption(
            f"half_life={half_life}",
            why="it is a number of tokens",
            mend="Choose a positive number, or None to keep all evidence.",
        )
    if switching is not None and not 0 < switching < 1:
        raise InvalidOption(
            f"switching={switching}",
            why="it is the probability that the author changes before a token",
            mend="Choose one between 0 and 1, such as 0.01, or None.",
        )
    if half_life is not None and switching is not None:
        raise InvalidOption(
            "half_life and switching together",
            why="they are two models of texts that change domain, and one posterior follows one",
            mend="Choose one of them.",
        )
