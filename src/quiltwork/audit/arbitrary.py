"""Arbitrary parties: can a minority move a composed prediction out of the range of the honest ones?

For log-probabilities l_i of honest parties, composed predictions c have to satisfy, whatever a minority puts out,

    min_i l_i[a] - max_i l_i[b]  <=  c[a] - c[b]  <=  max_i l_i[a] - min_i l_i[b]        for all classes a, b

(differences, since a composition may normalise). The median does, by its theorem; here it is tried with outputs that
are extreme, random, not a number, and the opposite of the honest ones. The product of experts does not, and is the
control. It says nothing of backdoors that stay within the range, nor of accuracy: see what the median costs there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import Facts
from quiltwork.errors import InvalidOption
from quiltwork.session.split.outputs import Composition, Product

_SLACK = 1e-9


def byzantine(
    facts: Facts, outputs: Mapping[str, Tensor], composition: Composition, *, liars: int, seed: int = 0
) -> Check:
    """Does the composition stay within the honest parties' range?

    Args:
        facts: of the run.
        outputs: log-probabilities float64 ``[n, k]`` of each party alone, as `Isolated.outputs` gives them.
        composition: that the run uses.
        liars: how many parties are arbitrary; the last ones by name.
        seed: of random outputs.

    Raises:
        InvalidOption: the liars are no minority, or there are none.
    """
    if not 0 < 2 * liars < len(outputs):
        raise InvalidOption(
            f"{liars} arbitrary of {len(outputs)} parties", why="they have to be a minority", mend="Choose fewer."
        )
    excess = _worst(outputs, composition, liars, seed)
    classes = next(iter(outputs.values())).shape[1]
    planted = _worst(outputs, Product(torch.full((classes,), 1 / classes, dtype=torch.float64)), liars, seed)
    passed = excess <= _SLACK
    outcome = "stayed within" if passed else "LEFT"
    return check(
        "byzantine",
        facts,
        "G11",
        "exact",
        passed=passed,
        control=planted > _SLACK,
        found={"liars": liars, "parties": len(outputs), "excess": excess, "planted excess": planted},
        says=f"With {liars} of {len(outputs)} parties arbitrary, predictions {outcome} the range of the others.",
    )


def _worst(outputs: Mapping[str, Tensor], composition: Composition, liars: int, seed: int) -> float:
    """How far composed differences leave the honest range, at most, over what liars try; at least 0, and finite."""
    names = sorted(outputs)
    floor = getattr(composition, "floor", None)
    honest = torch.stack([outputs[p] for p in names[:-liars]]).clamp_min(-50.0 if floor is None else floor)
    low, high = honest.min(0).values, honest.max(0).values
    worst = 0.0
    for lie in _lies(honest[0], seed):
        found = composition.compose({**outputs, **dict.fromkeys(names[-liars:], lie)})
        difference = found[:, :, None] - found[:, None, :]
        excess = (difference - (high[:, :, None] - low[:, None, :])).nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9)
        worst = max(worst, float(excess.max()))
    return worst


def _lies(honest: Tensor, seed: int) -> list[Tensor]:
    draw = np.random.default_rng(seed)
    one = torch.full_like(honest, -1e3)
    one[:, 0] = 0.0
    noise = torch.from_numpy(draw.normal(scale=30, size=tuple(honest.shape)))
    return [one, torch.log_softmax(noise, 1), torch.log_softmax(-10 * honest, 1), torch.full_like(honest, torch.nan)]
