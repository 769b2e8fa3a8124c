"""Low rank: a projection W [out, in] changed by the product of two thin matrices.

    W' = W + U D            U: [out, r], D: [r, in]

* ``LowRankLinear`` trains U and D beside the frozen W. U starts at zero, so that W' starts at W (LoRA, Hu et al.,
  arXiv 2106.09685, section 4.1); a factor alpha / r scales the product while it is trained and is part of U when it
  leaves.
* ``truncate`` finds, for a change that exists already, the U D nearest to it in the Frobenius norm (Eckart and Young
  1936; for experts of a mixture: FlexMoRE, arXiv 2602.08818), and what share of the squared norm that keeps::

      sum_{i <= r} s_i^2 / sum_i s_i^2        s: singular values of the change

All sums here are in float64; ``materialise`` rounds once, to the base's dtype.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


def materialise(base: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """base + up @ down in the base's dtype; summed in float64, rounded once."""
    return (base.double() + up.double() @ down.double()).to(base.dtype)


class Truncation(NamedTuple):
    """The nearest change of rank r.

    Attributes:
        up: U, float64 ``[out, r]``.
        down: D, float64 ``[r, in]``. The smaller side's factor is orthonormal.
        retained: share of the squared Frobenius norm that U D keeps; 1 for a change of nothing.
    """

    up: Tensor
    down: Tensor
    retained: float


def truncate(change: Tensor, rank: int) -> Truncation:
    """The best approximation of ``change`` ``[out, in]`` by rank ``rank``, at most its smaller side.

    The singular vectors of the smaller side are the eigenvectors of the Gram matrix, which costs a tenth of a full
    decomposition; what that loses lies below 1e-8 of the largest singular value.

    >>> kept = truncate(torch.diag(torch.tensor([4.0, 3.0, 0.0])), 1)
    >>> round(kept.retained, 6)
    0.64
    """
    wide = change.shape[0] <= change.shape[1]
    matrix = change.double() if wide else change.double().T
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    up = vectors.flip(-1)[:, :rank]
    down = up.T @ matrix
    total = float(matrix.square().sum())
    retained = min(1.0, float(values.flip(-1)[:rank].clamp(min=0).sum()) / total) if total > 0 else 1.0
    # of a tall change the orthonormal side is the right one; U and D swap their places
    return Truncation(up, down, retained) if wide else Truncation(down.T.contiguous(), up.T.contiguous(), retained)


class LowRankLinear(nn.Module):
    """A frozen linear map with trainable factors beside it.

    Args:
        linear: the base's map; used as it is, neither copied nor registered here.
        down: start of D ``[rank, in]``; U starts at zero.
        scale: factor of the product while it is trained, alpha / rank.

    Factors are float32 whatever the base's dtype: steps of training lie below the resolution of bfloat16.
    """

    def __init__(self, linear: nn.Linear, down: Tensor, scale: float) -> None:
        super().__init__()
        device = linear.weight.device
        self.down = nn.Parameter(down.to(device, torch.float32))
        self.up = nn.Parameter(torch.zeros(linear.out_features, down.shape[0], device=device))
        self.scale = scale
        # in a tuple, torch does not see it: the anchor's weights stay the anchor's and are saved once
        self._linear = (linear,)

    def forward(self, x: Tensor) -> Tensor:
        """``linear(x) + scale * U D x`` in the dtype of ``x``."""
        change = functional.linear(functional.linear(x.float(), self.down), self.up) * self.scale
        return self._linear[0](x) + change.to(x.dtype)  # type: ignore[no-any-return]

    def factors(self) -> tuple[Tensor, Tensor]:
        """(U, D) such that the map is W + U D: the scale is in U."""
        return self.up.detach() * self.scale, self.down.detach()


def low_rank_copy(ffn: nn.Module, starts: Mapping[str, Tensor], scale: float) -> nn.Module:
    """A feed-forward block that computes as ``ffn`` does, with trainable factors in the named projections.

    Args:
        ffn: the base's block; it is read, never changed, and its weights are shared.
        starts: for each projection by name the start of its D.
        scale: alpha / rank.
    """
    maps = {name: LowRankLinear(getattr(ffn, name), down, scale) for name, down in starts.items()}
    # what the memo holds is taken as its own copy, so no weight is copied and the block keeps its class
    return copy.deepcopy(ffn, {id(getattr(ffn, name)): one for name, one in maps.items()})


def initial_down(rank: int, put_in: int, generator: torch.Generator) -> Tensor:
    """A start of D ``[rank, in]``: uniform in +-1/sqrt(in), as in the reference implementation of LoRA."""
    return (2 * torch.rand(rank, put_in, generator=generator) - 1) / math.sqrt(put_in)
