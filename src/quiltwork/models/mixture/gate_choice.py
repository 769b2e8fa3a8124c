"""Which of two gates to give reduced experts: the one under which responses drawn from the pool are likelier.

Averaging logits is sharper than averaging probabilities as long as the machines' experts are the same ones up to error
of estimation. Where they are different ones, and pair off in name only, a mean of their logits is nobody's gate, and it
can lose nats a row. The pool knows: covariates are drawn from its rows and responses from its machines' own mixtures,

    Delta = mean_i [ log h(y_i | x_i) - log h'(y_i | x_i) ],    (x_i, y_i) ~ f

No response of anyone's data is used. The draw is a fixed one and decides nothing but the sign of Delta + ``MARGIN``.
"""

from __future__ import annotations

import numpy as np

from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import Pool

DRAWS = 4000
"""Responses drawn; the standard error of Delta is then a few thousandths of a nat where it matters."""

MARGIN = 0.02
"""Nats a row by which a gate may fall behind and still be preferred: beyond the error of the draw."""


def not_behind(pool: Pool, preferred: Mixture[Experts], other: Mixture[Experts]) -> bool:
    """Whether ``preferred`` is at most ``MARGIN`` less likely than ``other`` on responses drawn from the pool.

    Args:
        pool: machines, and covariates at which they count.
        preferred: in the pool's units; one that is not finite is behind.
        other: likewise.
    """
    rng = np.random.default_rng(0)
    masses = [pool.weights[machine.rows, machine.columns].sum(axis=1) for machine in pool.machines]
    total = np.concatenate(masses)
    counts = np.split(rng.multinomial(DRAWS, total / total.sum()), np.cumsum([len(mass) for mass in masses])[:-1])
    gain = 0.0
    for machine, count in zip(pool.machines, counts, strict=True):
        x = np.repeat(pool.x[machine.rows], count, axis=0)
        y, _ = machine.mixture.sample(x, rng)
        gain += float((preferred.log_density(x, y) - other.log_density(x, y)).sum())
    return gain / DRAWS >= -MARGIN
