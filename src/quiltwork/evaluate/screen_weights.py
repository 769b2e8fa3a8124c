"""How contributions moved the base, tensor by tensor: sizes, outliers among them, and copies.

For tensor g of contribution p with change d (weights less the base's):

    size(p, g) = rms(d) / rms(base g)          size(p): the same over all tensors together

An expert narrower than the base's feed-forward replaces it, so its d is the weights themselves. These are held against
other narrow experts and the base's own weights (size 1), never against changes, and count in size(p) only if p changes
nothing else.

One party is held against other owners who hand over the same form (a whole model moves farther than low-rank factors):
x = log size(p), m and s the median and 1.4826 times the median absolute deviation of the others' (s no less than
``LEAST_SPREAD``). Its size is far out where exp(x - m) > ``FACTOR`` and (x - m) / s > ``DEVIATIONS``; a tensor
likewise, if more of the change lies in it than in the average tensor. Only too large counts: small changes do no harm.
A median is moved by a majority, not by fewer.

Whoever has no like, or is of a bad majority, is held against the base itself: a change larger than ``LARGE`` times the
base's weights replaces the model. So does one of a matrix; of a vector, such as a bias near zero, it need not. Honest
runs that were measured come to 0.3 .. 0.6 of the base (a matrix to 0.8) for networks of 10 M numbers trained on another
kind of real text until they stop gaining, and to 1.2 (a matrix 1.3) for tiny ones driven by large steps.

Copies: the cosine of two changes, from at most ``SAMPLED`` numbers a tensor at places drawn from all contributions'
digests, so that nobody knew them beforehand. Noise of a share s of the change leaves a cosine of 1 / sqrt(1 + s^2).
Owners who trained apart, but in the same way on text of one simple kind, reach 0.95 and more, so ``ALIKE`` is above
that: it finds copies with up to a fifth of noise. Reordered neurons hide a copy from the cosine, and show in
the size: a reordered change is as large as the weights.

One tensor of each contribution is in memory at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray

from quiltwork.compose.parts import ffn_tensors, full_deltas
from quiltwork.contribution.fields import owner_of
from quiltwork.contribution.kinds import provided
from quiltwork.contribution.sealed import Contribution
from quiltwork.evaluate.screen_record import Finding, Level, Likeness, Weights
from quiltwork.models.base import Base
from quiltwork.models.sources import Source

FACTOR = 4.0
LARGE = 3.0
DEVIATIONS = 4.0
LEAST_SPREAD = 0.25
ALIKE = 0.98
SAMPLED = 2**16
_MOST = 1e140
_NARROW = "narrow"

_LOOKS = "scaled weights, a diverged training or reordered neurons look like that"
_ASK = "Ask the owner how it was trained; compose without it until that is clear."


@dataclass
class _Sums:
    """Squares of one contribution's changes, and of the base's tensors that they belong to."""

    tensors: dict[str, float] = field(default_factory=dict)
    vectors: list[str] = field(default_factory=list)
    changed: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    replaced: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))

    @property
    def replaces(self) -> bool:
        """Whether narrow experts are all that there is."""
        return not self.changed[1] and bool(self.replaced[1])

    @property
    def size(self) -> float:
        square, reference = self.replaced if self.replaces else self.changed
        return math.sqrt(square / reference) if reference else 0.0


def weigh(
    contributions: Sequence[Contribution], base: Base, parts: frozenset[str]
) -> tuple[dict[str, Weights], list[Likeness]]:
    """Sizes of all contributions' changes, and how alike each pair is.

    Args:
        contributions: experts that fit the base.
        base: what they changed.
        parts: which experts to look at, of ``ffn`` and ``full``.
    """
    sums = {c.party: _Sums() for c in contributions}
    pairs = {pair: np.zeros(3) for pair in combinations(sums, 2)}
    seed = hashlib.sha256("".join(sorted(c.digest for c in contributions)).encode()).digest()
    tables = {c.party: _tensors(c, base, parts) for c in contributions}
    for name in sorted({name for table in tables.values() for name in table}):
        samples = {}
        for party, table in tables.items():
            if name in table:
                samples[party] = _measure(sums[party], name, *table[name], seed)
        for one, other in combinations(samples, 2):
            _compare(pairs[one, other], samples[one], samples[other])
    forms = {c.party: _form(c, parts, sums[c.party]) for c in contributions}
    return _weights(sums, forms), [_likeness(a, b, pairs[a.party, b.party]) for a, b in combinations(contributions, 2)]


def _tensors(contribution: Contribution, base: Base, parts: frozenset[str]) -> dict[str, tuple[Source, Source, bool]]:
    """By name: what the contribution holds, the base's tensor, and whether it is a difference already."""
    found: dict[str, tuple[Source, Source, bool]] = {}
    held = provided(contribution.parts) & parts
    if "ffn" in held:
        for (layer, role), expert in ffn_tensors(contribution, base).items():
            own = base.tensors[base.family.ffn_name(layer, role)]
            kind = "ffn" if expert.shape == own.shape else _NARROW
            found[f"{kind}.layers.{layer}.{role}"] = expert, own, False
    if "full" in held:
        found |= {
            f"full.{name}": (delta, base.tensors[name], True) for name, delta in full_deltas(contribution, base).items()
        }
    return found


def _measure(sums: _Sums, name: str, held: Source, own: Source, delta: bool, seed: bytes) -> NDArray[np.float64]:
    """Add one tensor's squares; returns its change at the places that are compared."""
    reference = own.load().double().numpy()
    change = held.load().double().numpy()
    if not delta and change.shape == reference.shape:
        change = change - reference
    # finite numbers can make a change that is not, and its size is told none the less
    change = np.asarray(np.clip(np.nan_to_num(change, nan=_MOST), -_MOST, _MOST), np.float64)
    squares = np.asarray([np.square(change).sum(), np.square(reference).mean() * change.size])
    total = sums.changed if change.shape == reference.shape else sums.replaced
    total += squares
    sums.tensors[name] = math.sqrt(squares[0] / squares[1]) if squares[1] else 0.0
    if change.ndim < 2:
        sums.vectors.append(name)
    flat = change.reshape(-1)
    if flat.size <= SAMPLED:
        return flat
    # so that a large tensor counts as much as all of it would
    return flat[_places(flat.size, name, seed)] * math.sqrt(flat.size / SAMPLED)


def _places(size: int, name: str, seed: bytes) -> NDArray[np.int64]:
    key = int.from_bytes(hashlib.sha256(seed + name.encode()).digest()[:8], "big")
    return np.random.default_rng([key, size]).integers(0, size, SAMPLED)


def _compare(sums: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
    if one.shape == other.shape:
        sums += (one @ other, one @ one, other @ other)


def _form(contribution: Contribution, parts: frozenset[str], sums: _Sums) -> str:
    """In which form a contribution holds what is weighed of it."""
    held = [part for part in ("ffn", "lowrank", "full", "lora") if part in contribution.parts]
    found = [part for part in held if provided({part}) & parts]
    narrow = any(name.startswith(_NARROW) for name in sums.tensors)
    return " and ".join(_NARROW if narrow and part == "ffn" else part for part in found)


def _weights(sums: Mapping[str, _Sums], forms: Mapping[str, str]) -> dict[str, Weights]:
    found = {}
    for party, own in sums.items():
        alike = [s.size for p, s in sums.items() if forms[p] == forms[party] and owner_of(p) != owner_of(party)]
        others = [size for size in alike if size > 0]
        if own.replaces:
            others.append(1.0)  # the base's own weights
        usual, deviations = _against(own.size, others)
        found[party] = Weights(
            size=own.size,
            form=forms[party],
            others=usual,
            deviations=deviations,
            tensors=own.tensors,
            vectors=tuple(own.vectors),
        )
    return found


def _against(size: float, others: Sequence[float]) -> tuple[float | None, float | None]:
    """The others' median, and robust standard deviations of log(size) above it."""
    if not others or not size:
        return None, None
    logs = [math.log(other) for other in others]
    middle = median(logs)
    spread = max(1.4826 * median(abs(x - middle) for x in logs), LEAST_SPREAD)
    return math.exp(middle), (math.log(size) - middle) / spread


def _likeness(one: Contribution, other: Contribution, sums: NDArray[np.float64]) -> Likeness:
    product, first, second = sums
    cosine = float(product / math.sqrt(first * second)) if first > 0 and second > 0 else None
    both = [_digests(c) for c in (one, other)]
    common = both[0].keys() & both[1].keys()
    same = [name for name in common if both[0][name] == both[1][name] and _says_something(one, name)]
    return Likeness(parties=(one.party, other.party), cosine=cosine, identical=len(same), compared=len(common))


def _digests(contribution: Contribution) -> dict[str, str]:
    return {
        name: entry.digest for file in contribution.manifest.payload.values() for name, entry in file.tensors.items()
    }


def _says_something(contribution: Contribution, name: str) -> bool:
    """Whether a tensor is not all zeros, as of weights that nobody trained."""
    return bool(contribution.tensor(name).any())


def size_findings(weights: Mapping[str, Weights]) -> Iterator[tuple[str, Finding]]:
    """What is far out, with the party whose it is."""
    for party, own in weights.items():
        if own.size == 0 and own.tensors:
            yield party, _finding("note", "", "it changes nothing", "its expert is the base's own", "Leave it out.")
        elif own.others is not None and own.deviations is not None and _far(own.size / own.others, own.deviations):
            what = (
                f"its change is {own.size:.3g} of the base's weights, where {own.others:.3g} is usual among the others"
            )
            yield party, _finding("look", "", what, _LOOKS, _ASK)
        elif own.size > LARGE:
            what = f"its change is {own.size:.3g} times the base's weights; honest runs stay below {LARGE:g}"
            yield party, _finding("look", "", what, _LOOKS, _ASK)
        else:
            yield from ((party, finding) for finding in _tensor_findings(party, weights))


def _far(factor: float, deviations: float) -> bool:
    return factor > FACTOR and deviations > DEVIATIONS


def _tensor_findings(party: str, weights: Mapping[str, Weights]) -> Iterator[Finding]:
    """The tensor that is farthest out, where one is."""
    found = [(size / usual, name, usual) for name, size, usual in _far_tensors(party, weights)]
    if found:
        _, name, usual = max(found)
        held = "" if name.startswith(_NARROW) else "the change of "
        most = f"honest runs stay below {LARGE:g}" if usual == LARGE else f"where {usual:.3g} is usual"
        what = f"{held}{name} is {weights[party].tensors[name]:.3g} of the base's, {most}"
        yield _finding("look", name, what, "one tensor moved out of all proportion to the others", _ASK)


def _far_tensors(party: str, weights: Mapping[str, Weights]) -> Iterator[tuple[str, float, float]]:
    """Tensors that are far out, with their size and what is usual: at most ``LARGE`` for a matrix nobody else has."""
    own = weights[party]
    mean = math.sqrt(sum(size**2 for size in own.tensors.values()) / max(len(own.tensors), 1))
    alike = [w for p, w in weights.items() if w.form == own.form and owner_of(p) != owner_of(party)]
    for name, size in own.tensors.items():
        others = [w.tensors[name] for w in alike if w.tensors.get(name, 0) > 0]
        usual, deviations = _against(size, [*others, 1.0] if name.startswith(_NARROW) else others)
        # of the change more must lie in it than in the average tensor
        if usual is not None and deviations is not None and size > mean and _far(size / usual, deviations):
            yield name, size, usual
        elif size > LARGE and name not in own.vectors:
            yield name, size, LARGE


def _finding(level: Level, about: str, what: str, why: str, mend: str) -> Finding:
    return Finding(check="norm", level=level, about=about, what=what, why=why, mend=mend)
