"""Which expert, where: a mixture told in the terms of its columns.

Of each expert: its share of the rows, its largest coefficients and the columns that open its gate. Coefficients are
those of standardised columns, so that they compare; where rows are given, mean and deviation of a column under the
gate's weights say in what range of it the expert speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.models.mixture.design import Array, blocks, in_standard_units
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture


@dataclass(frozen=True)
class Effect:
    """One coefficient.

    Attributes:
        feature: the column.
        output: the output or class that it acts on.
        value: per standard deviation of the column.
    """

    feature: str
    output: str
    value: float


@dataclass(frozen=True)
class Place:
    """One column where an expert's gate is open.

    Attributes:
        feature: the column.
        opens: the gate's slope per standard deviation, against the mean of all experts; None for a pooled gate.
        mean: of the column under the gate's weights; None without rows.
        deviation: likewise.
    """

    feature: str
    opens: float | None
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class ExpertStory:
    """One expert.

    Attributes:
        expert: its number.
        share: mean of its gate over the rows; None without rows.
        effects: its largest coefficients, largest first.
        places: the columns that tell its rows from the others, most telling first.
    """

    expert: int
    share: float | None
    effects: tuple[Effect, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Explanation:
    """All experts of a mixture; its string is a table for people."""

    experts: tuple[ExpertStory, ...]

    def __str__(self) -> str:
        return "\n".join(_lines(story) for story in self.experts)


def explain(
    mixture: Mixture[Any],
    x: NDArray[Any] | None,
    *,
    centre: Array,
    scale: Array,
    features: Sequence[str],
    outputs: Sequence[str],
    top: int = 5,
) -> Explanation:
    """Tell a mixture's experts.

    Args:
        mixture: K experts.
        x: ``[n, d]`` rows over which shares and places are measured; None leaves them out.
        centre: float64 ``[d]``, of the standard units.
        scale: float64 ``[d]``, likewise.
        features: d names.
        outputs: names of the outputs, or of the classes.
        top: coefficients and columns to tell of each expert.
    """
    slopes = in_standard_units(mixture.experts.coefficients, centre, scale)[:, :, 1:]
    opens = _openings(mixture, centre, scale)
    share, mean, deviation = (None, None, None) if x is None else _under_gate(mixture, x)
    stories = []
    for k in range(mixture.n_experts):
        telling = (mean[k] - centre) / scale if mean is not None else opens[k] if opens is not None else centre * 0
        places = [
            Place(
                features[j],
                None if opens is None else float(opens[k, j]),
                None if mean is None else float(mean[k, j]),
                None if deviation is None else float(deviation[k, j]),
            )
            for j in _largest(telling, top)
        ]
        effects = _effects(slopes[k], features, outputs, top)
        stories.append(ExpertStory(k, None if share is None else float(share[k]), effects, tuple(places)))
    return Explanation(tuple(stories))


def _effects(slopes: Array, features: Sequence[str], outputs: Sequence[str], top: int) -> tuple[Effect, ...]:
    d = slopes.shape[1]
    chosen = _largest(slopes.ravel(), top)
    return tuple(Effect(features[i % d], outputs[i // d], float(slopes[i // d, i % d])) for i in chosen)


def _openings(mixture: Mixture[Any], centre: Array, scale: Array) -> Array | None:
    if not isinstance(mixture.gate, SoftmaxGate):
        return None
    slopes = in_standard_units(mixture.gate.coefficients, centre, scale)[:, 1:]
    return np.asarray(slopes - slopes.mean(axis=0))


def _under_gate(mixture: Mixture[Any], x: NDArray[Any]) -> tuple[Array, Array, Array]:
    """Share ``[K]``, and mean and deviation ``[K, d]`` of the columns under each expert's gate."""
    shift = np.asarray(x[:1], dtype=np.float64).mean(axis=0)
    mass, first = np.zeros(mixture.n_experts), np.zeros((mixture.n_experts, x.shape[1]))
    second = first.copy()
    for rows in blocks(len(x)):
        part = np.asarray(x[rows], dtype=np.float64)
        gate = np.exp(mixture.log_gate(part)).T
        mass += gate.sum(axis=1)
        first += gate @ (part - shift)
        second += gate @ (part - shift) ** 2
    safe = np.maximum(mass, np.finfo(float).tiny)[:, None]
    mean = first / safe
    return mass / len(x), mean + shift, np.sqrt(np.maximum(second / safe - mean**2, 0.0))


def _largest(values: Array, top: int) -> list[int]:
    order = np.argsort(-np.abs(values), kind="stable")[:top]
    return [int(i) for i in order]


def _lines(story: ExpertStory) -> str:
    share = "" if story.share is None else f", {story.share:.1%} of the rows"
    effects = ", ".join(f"{e.feature} -> {e.output} {e.value:+.3g}" for e in story.effects)
    return f"expert {story.expert}{share}\n  effects: {effects}\n  where:   {', '.join(map(_place, story.places))}"


def _place(place: Place) -> str:
    if place.mean is not None:
        return f"{place.feature} {place.mean:.3g} (sd {place.deviation:.2g})"
    return place.feature if place.opens is None else f"{place.feature} {place.opens:+.3g}"
