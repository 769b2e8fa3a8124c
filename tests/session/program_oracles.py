"""Programs by brute force: sums over all tuples in plain Python, sharing nothing with the package."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor


def brute(f: Callable[..., Hashable], p: Sequence[np.ndarray]) -> dict[Hashable, float]:
    """P(y) by summing over all tuples, of one row: p holds ``[K_i]`` by operand."""
    found: dict[Hashable, float] = defaultdict(float)
    for cell in itertools.product(*(range(len(one)) for one in p)):
        found[f(*cell)] += math.prod(float(one[k]) for one, k in zip(p, cell, strict=True))
    return dict(found)


def posterior(f: Callable[..., Hashable], p: Sequence[np.ndarray], y: Hashable, operand: int) -> np.ndarray:
    """P(s_i = k | y) of one row by brute force."""
    found = np.zeros(len(p[operand]))
    for cell in itertools.product(*(range(len(one)) for one in p)):
        if f(*cell) == y:
            found[cell[operand]] += math.prod(float(one[k]) for one, k in zip(p, cell, strict=True))
    return found / found.sum()


def random_logits(sizes: Sequence[int], rows: int, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    draw = np.random.default_rng(seed)
    return [torch.from_numpy(scale * draw.normal(size=(rows, size))) for size in sizes]


def logs_of(logits: Sequence[Tensor]) -> list[Tensor]:
    return [torch.log_softmax(one, 1) for one in logits]
