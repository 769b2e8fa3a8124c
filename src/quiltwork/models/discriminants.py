"""Router rows by linear discriminant analysis of the residual stream: moments in, rows and offsets out.

In each layer the feed-forward inputs of party c are taken as normal with mean m_c and a covariance that all share,
those of public text with mean m_0. With the shrunk covariance

    S = (1 - a) C + a (tr C / H) I        a = shrinkage

Bayes' rule is a softmax of linear logits; the base's are zero once subtracted from all (Fisher 1936; Hastie, Tibshirani
and Friedman, The Elements of Statistical Learning, section 4.3):

    r_c = S^-1 (m_c - m_0) / T        b_c = -(m_c' S^-1 m_c - m_0' S^-1 m_0) / 2T        T = temperature

C is either the public text's own covariance, and then a row depends on its party and the public text alone; or the
mean of all covariances (``pooled``), weighted by the rows that they average over, which is the textbook's estimate as
long as no owner states more rows than the public text has:

    C = sum_c w_c C_c / sum_c w_c        w_0 = n_0        v_c = min(n_c, n_0)
    w_c = v_c min(1, n_0 / V)            V = sum of v over all parties of c's owner

The rows are a number that an owner states and nobody can check, so no owner counts for more than the public text,
however many it states and under however many labels. A pooled covariance ties all rows together, so the moments are
kept apart and pooled when the model is written: a party that leaves takes its share of C along. Where any of the pooled
covariances is diagonal, all are taken as diagonal.

Without offsets, for formats that hold rows only, the direction is changed so that the boundary r.x = 0 still passes
through the midpoint M = (m_c + m_0) / 2:

    r_c = S^-1 (m_c - m_0 - k M) / T        k such that r_c.M = 0

What is lost is the part of the difference that lies along the midpoint itself (in the metric of S^-1), and the place of
the boundary between two parties, which no longer passes through the middle of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quiltwork.contribution.fields import owner_of
from quiltwork.errors import InvalidOption
from quiltwork.models.residual import ResidualMoments
from quiltwork.models.routers import Rows, less
from quiltwork.models.sources import Source, Sources
from quiltwork.streaming.layout import Dtype
from quiltwork.streaming.numbers import decode, encode

Covariance = Literal["pooled", "public"]
Floats = NDArray[np.float64]


class Rule(NamedTuple):
    """A linear rule in one layer: ``r.x + b > 0`` says party rather than base."""

    row: Floats
    offset: float


@dataclass(frozen=True)
class Discriminants:
    """A router of rows that are computed from moments when the model is written.

    Attributes:
        moments: of each party.
        public: of the public text.
        dtype: of the rows.
        covariance: whose covariance all share.
        shrinkage: a.
        temperature: T.
        offset: compute offsets too.
        top_k: experts a token; None for all.
        renormalise: rescale the top-k weights to sum to one.
        weights: slot weights, the base under the empty name.
    """

    moments: Mapping[str, ResidualMoments]
    public: ResidualMoments
    dtype: Dtype
    covariance: Covariance
    shrinkage: float
    temperature: float
    offset: bool
    top_k: int | None
    renormalise: bool
    weights: Mapping[str, float]

    def without(self, party: str) -> Discriminants:
        """The moments of the other parties."""
        return replace(self, moments=less(self.moments, party), weights=less(self.weights, party))

    def joined(self, late: Discriminants) -> Discriminants:
        """These moments and those of parties that come later, taken together by the latter's settings."""
        weights = {**late.weights, **self.weights}
        return replace(late, moments={**self.moments, **late.moments}, public=self.public, weights=weights)

    def settings(self) -> dict[str, Any]:
        """What is needed beside the moments and slot weights, as JSON has it."""
        names = ("covariance", "shrinkage", "temperature", "offset", "top_k", "renormalise")
        return {name: getattr(self, name) for name in names} | {
            "rows": {party: moments.rows for party, moments in sorted(self.moments.items())},
            "public_rows": self.public.rows,
        }

    def config(self, parties: tuple[str, ...]) -> dict[str, Any]:
        """The router's entry in config.json: that of the rows, and what they are computed by."""
        return self.in_rows().config(parties) | {"discriminants": self.settings()}

    def tensors(self, parties: tuple[str, ...]) -> dict[str, Source]:
        """The rows and offsets in the native layout."""
        return self.in_rows().tensors(parties)

    def beside(self) -> dict[str, Sources]:
        """The moments by file: one a party, one for the public text. No model reads them."""
        files: dict[str, Sources] = {moments_shard(party): moments.tensors() for party, moments in self.moments.items()}
        return files | {moments_shard(None): self.public.tensors()}

    def in_rows(self) -> Rows:
        """The rows and offsets; a layer is solved when the first of its tensors is read."""
        layers = range(len(self.public.means))
        solved = cache(self.rules)
        hidden = self.public.means[0].shape

        def row(party: str, layer: int) -> Source:
            return _late(self.dtype, hidden, lambda: solved(layer)[party].row)

        def offset(party: str, layer: int) -> Source:
            return _late(self.dtype, (1,), lambda: np.array([solved(layer)[party].offset]))

        return Rows(
            rows={p: [row(p, layer) for layer in layers] for p in self.moments},
            offsets={p: [offset(p, layer) for layer in layers] for p in self.moments} if self.offset else {},
            top_k=self.top_k,
            renormalise=self.renormalise,
            weights=self.weights,
        )

    def rules(self, layer: int) -> dict[str, Rule]:
        """Each party's rule in a layer.

        Raises:
            InvalidOption: the shrunk covariance is not positive definite.
        """
        covariance = _shrunk(self._shared(layer), self.shrinkage)
        if not _positive(covariance):
            raise InvalidOption(
                f"the covariance of layer {layer} at shrinkage={self.shrinkage}",
                why="it is not positive definite, so that no row can be computed from it",
                mend="Choose a larger shrinkage, covariance='public', or leave out a party whose moments are unsound.",
            )
        base = _read(self.public.means[layer])
        with np.errstate(over="ignore", invalid="ignore"):  # whoever reads a rule looks at its numbers
            return {
                party: _rule(covariance, _read(moments.means[layer]), base, self.temperature, self.offset)
                for party, moments in sorted(self.moments.items())
            }

    def _shared(self, layer: int) -> Floats:
        if self.covariance == "public":
            return _read(self.public.seconds[layer])
        every = [self.public, *(moments for _, moments in sorted(self.moments.items()))]
        seconds = [_read(moments.seconds[layer]) for moments in every]
        if any(second.ndim == 1 for second in seconds):
            seconds = [second if second.ndim == 1 else second.diagonal() for second in seconds]
        counts = [float(self.public.rows), *self._counts().values()]
        pooled = np.zeros_like(seconds[0])
        for count, second in zip(counts, seconds, strict=True):
            pooled += second * (count / sum(counts))
        return pooled

    def _counts(self) -> dict[str, float]:
        """The rows that each party counts for, sorted by party: w of the module's docstring."""
        most = self.public.rows
        stated = {party: min(moments.rows, most) for party, moments in sorted(self.moments.items())}
        owned: dict[str, int] = {}
        for party, rows in stated.items():
            owned[owner_of(party)] = owned.get(owner_of(party), 0) + rows
        return {party: rows * (most / max(most, owned[owner_of(party)])) for party, rows in stated.items()}


def moments_shard(party: str | None) -> str:
    """File of a party's moments, or of the public text's."""
    return "moments.safetensors" if party is None else f"moments-{party}.safetensors"


def _rule(covariance: Floats, mean: Floats, base: Floats, temperature: float, offset: bool) -> Rule:
    white, own = _solve(covariance, base), _solve(covariance, mean)
    row = own - white
    if offset:
        return Rule(row / temperature, float(-(mean @ own - base @ white) / 2 / temperature))
    midpoint, along = (mean + base) / 2, (own + white) / 2
    length = midpoint @ along
    return Rule((row - along * (row @ midpoint / length if length > 0 else 0.0)) / temperature, 0.0)


def _shrunk(covariance: Floats, shrinkage: float) -> Floats:
    if covariance.ndim == 1:
        return np.asarray((1 - shrinkage) * covariance + shrinkage * covariance.mean())
    scale = np.trace(covariance) / len(covariance)
    return np.asarray((1 - shrinkage) * covariance + shrinkage * scale * np.eye(len(covariance)))


def _positive(covariance: Floats) -> bool:
    if covariance.ndim == 1:
        return bool((covariance > 0).all())
    try:
        np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return False
    return True


def _solve(covariance: Floats, mean: Floats) -> Floats:
    # one right-hand side at a time: how many there are can change a solution's last bits
    return np.asarray(mean / covariance if covariance.ndim == 1 else np.linalg.solve(covariance, mean), np.float64)


def _read(source: Source) -> Floats:
    data = b"".join(bytes(piece) for piece in source.pieces())
    return decode(data, source.dtype).astype(np.float64).reshape(source.shape)


def _late(dtype: Dtype, shape: tuple[int, ...], values: Callable[[], Floats]) -> Source:
    """A source of numbers that are computed when they are read."""
    return Source.streamed(dtype, shape, lambda: iter([encode(values(), dtype).tobytes()]))
