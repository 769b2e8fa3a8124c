"""The owner's verb for two published networks: one pass over the images, and additive regression statistics leave.

    images  ->  both networks, all points at once  ->  cells  ->  sums of products (`pair_sums`)  ->  one contribution

No image and no activation leaves, only sums over all images; yet Grams of few rows reveal rows, so fewer images than
`StatisticsOrder.least` are refused, or the sums leave under noise (`pair_noise`). A row's fold, fitted to or held out,
follows from its own bytes and the seed alone: the same row is in the same fold whatever stands beside it, so duplicates
are never split, and one row more or less moves no other.

By default features are pooled to at most 4 x 4 cells. A linear map of cells and their averages commute, so the same map
is sought; products cost a share of the cells, and 16 cells of each image still make many rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.contribution.networks import ModuleReference, TaskReference
from quiltwork.contribution.pair_layout import FOLDS, Fold, PairLayout, PairPoint
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.stitching import StitchStatisticsMethod
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import FragmentError, InvalidOption, TaskMismatch
from quiltwork.files import require_absent
from quiltwork.models.network.candidates import stitch_points
from quiltwork.models.network.cells import pooled_cells, takes_part
from quiltwork.models.network.network import Network
from quiltwork.models.network.opening import open_network
from quiltwork.models.network.pair_moments import PairStatistics
from quiltwork.models.network.pair_sums import PairSums, Precision
from quiltwork.party.examples import Examples
from quiltwork.party.network_task import require_task
from quiltwork.party.pair_noise import ClippedPairSums, PairNoise, image_lengths, released
from quiltwork.party.software import versions
from quiltwork.privacy.events import Event, ExactEvent
from quiltwork.progress import Progress

Array = NDArray[np.float64]

FEWEST = 100
"""Images behind any statistics that leave without noise."""


@dataclass(frozen=True)
class StatisticsOrder:
    """What leaves, and under which rule.

    Attributes:
        party: name of the owner.
        points_a: points of the network whose party comes first in the alphabet; None: those of `stitch_points`.
        points_b: of the other, likewise.
        largest_grid: features are pooled to at most so many cells each way; None: to no less than they have.
        held_out: share of the rows that strengths of the ridge are chosen by; 0 holds none out.
        seed: with a row's own bytes, decides its fold.
        minimum_rows: fewer images in a fold are refused; never below `FEWEST` nor twice the widest point. None: that.
        noise: Gaussian noise, priced; then no count of images is told and none is too few.
        precision: in which a batch is multiplied; see `quiltwork.models.network.pair_sums`.
        batch: images at a time.
        licence: under which the statistics may be used.
        card: free text.
    """

    party: str
    points_a: Sequence[str] | None = None
    points_b: Sequence[str] | None = None
    largest_grid: int | None = 4
    held_out: float = 0.2
    seed: int = 0
    minimum_rows: int | None = None
    noise: PairNoise | None = None
    precision: Precision = "float64"
    batch: int = 256
    licence: str = "LicenseRef-unstated"
    card: str = ""

    def __post_init__(self) -> None:
        for what, sound, mend in (
            (f"held_out={self.held_out}", 0 <= self.held_out < 1, "Choose a share from 0 to below 1."),
            (f"batch={self.batch}", 1 <= self.batch <= 2**16, "Choose 256, say."),
            (f"largest_grid={self.largest_grid}", (self.largest_grid or 1) >= 1, "Choose 4, say, or None."),
            (f"minimum_rows={self.minimum_rows}", (self.minimum_rows or 1) >= 1, "Choose a positive number."),
        ):
            if not sound:
                raise InvalidOption(what, why="it lies outside its domain", mend=mend)

    def least(self, layout: PairLayout) -> int:
        """Images that each fold needs: enough that no Gram is close to the rows themselves."""
        widest = max(point.channels for point in layout.a + layout.b)
        return max(FEWEST, 2 * widest, self.minimum_rows or 1)


class Summed(NamedTuple):
    """What one pass gives.

    Attributes:
        layout: points, grids and pairs.
        tensors: ready to leave, by their full names.
        rows: images behind them; None under noise.
        events: their price.
    """

    layout: PairLayout
    tensors: Mapping[str, Array]
    rows: int | None
    events: tuple[Event, ...]


def contribute_pair_statistics(
    a: Contribution,
    b: Contribution,
    examples: Examples,
    target: str | Path,
    order: StatisticsOrder,
    *,
    overwrite: bool = False,
    show: bool = False,
) -> Contribution:
    """Pass over an owner's images through two published networks, and write the statistics.

    Args:
        a: a published network, kind ``module``.
        b: another; the two are taken in the order of their parties' names.
        examples: the owner's images; labels are not looked at.
        target: directory to make.
        order: what to release.
        overwrite: replace an existing contribution.
        show: a progress line on standard error.

    Raises:
        CompatibilityError: the networks, or the images, are of different tasks.
        ContributionError: a network is not the one that its contribution declares.
        FragmentError: there are too few images.
        InvalidOption: a point does not exist, or overflows.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(Path(target), overwrite)
    a, b = sorted((a, b), key=lambda one: one.party)
    networks = open_network(a), open_network(b)
    summed = pair_statistics(*networks, examples, order, show=show)
    method = StitchStatisticsMethod(
        a=ModuleReference(party=a.party, digest=networks[0].digest),
        b=ModuleReference(party=b.party, digest=networks[1].digest),
        points_a=summed.layout.a,
        points_b=summed.layout.b,
        held_out=order.held_out > 0,
        rows=summed.rows,
        minimum_rows=order.least(summed.layout) if order.noise is None else 1,
        seed=order.seed,
        software=versions("quiltwork", "numpy", "torch"),
    )
    draft = Draft(
        party=order.party,
        method=method,
        tensors=summed.tensors,
        licence=order.licence,
        task=TaskReference.of(networks[0].signature),
        privacy=summed.events,
        card=order.card,
    )
    return write(target, draft, overwrite=overwrite)


def pair_statistics(
    a: Network, b: Network, examples: Examples, order: StatisticsOrder, *, show: bool = False
) -> Summed:
    """One pass; nothing is written.

    Raises:
        CompatibilityError: as `contribute_pair_statistics`.
        FragmentError: likewise.
        InvalidOption: likewise.
    """
    layout, sums = _pass(a, b, examples, order, show)
    return _ready(layout, sums, order, examples.place)


def unreleased_statistics(
    a: Network, b: Network, examples: Examples, order: StatisticsOrder, *, show: bool = False
) -> PairStatistics:
    """The same for the owner's own use, however few the images: nothing of it may leave as it is.

    Raises:
        CompatibilityError: as `contribute_pair_statistics`.
        InvalidOption: likewise.
    """
    layout, sums = _pass(a, b, examples, replace(order, noise=None), show)
    filled = {fold: each for fold, each in sums.items() if each.images and isinstance(each, PairSums)}
    tensors = [each.tensors(fold) for fold, each in filled.items()]
    return PairStatistics(layout, {name: array for each in tensors for name, array in each.items()})


def _pass(
    a: Network, b: Network, examples: Examples, order: StatisticsOrder, show: bool
) -> tuple[PairLayout, dict[Fold, PairSums | ClippedPairSums]]:
    require_one_task(a, b, examples)
    layout = layout_of(a, b, order)
    sums = {fold: _sums(layout, order) for fold in (FOLDS if order.held_out else FOLDS[:1])}
    with Progress("statistics", -(-len(examples) // order.batch), enabled=show) as progress, torch.inference_mode():
        for inputs, held in _batches(examples, order):
            given = inputs if order.noise is None else inputs[: len(held)]
            cells = tuple(_cells(*side, given, order) for side in ((a, layout.a), (b, layout.b)))
            for fold, rows in sums.items():
                taken = torch.from_numpy(np.flatnonzero(held == (fold == "held_out")))
                rows.add(*([value[taken] for value in side] for side in cells))
            progress.advance()
    return layout, sums


def layout_of(a: Network, b: Network, order: StatisticsOrder) -> PairLayout:
    """Which points, grids and pairs an order means for two networks; its `PairLayout.numbers` say what will leave.

    Raises:
        InvalidOption: there is no such point, or no grid that the two share.
    """
    try:
        return PairLayout(
            *(
                tuple(takes_part(network.points[name], order.largest_grid) for name in _chosen(network, names))
                for network, names in ((a, order.points_a), (b, order.points_b))
            )
        )
    except ValueError as error:
        raise InvalidOption("points", why=str(error), mend="Choose other points, or fewer.") from error


def _sums(layout: PairLayout, order: StatisticsOrder) -> PairSums | ClippedPairSums:
    return PairSums(layout, order.precision) if order.noise is None else ClippedPairSums(layout, order.noise.clip)


def _ready(
    layout: PairLayout, sums: Mapping[Fold, PairSums | ClippedPairSums], order: StatisticsOrder, place: str
) -> Summed:
    if order.noise is not None:
        exact: dict[str, Array] = {}
        for fold, clipped in sums.items():
            assert isinstance(clipped, ClippedPairSums)
            exact |= clipped.exact(fold)
        return Summed(layout, released(exact, order.noise), None, (order.noise.event(),))
    tensors: dict[str, Array] = {}
    for fold, plain in sums.items():
        assert isinstance(plain, PairSums)
        _require_enough(plain.images, fold, layout, order, place)
        tensors |= plain.tensors(fold)
    _require_finite(layout, tensors)
    note = f"sums over {order.least(layout)} images or more, without noise"
    rows = sum(each.images for each in sums.values())
    return Summed(layout, tensors, rows, (ExactEvent(released="pair", unit="row", note=note),))


def _require_enough(images: int, fold: Fold, layout: PairLayout, order: StatisticsOrder, place: str) -> None:
    least = order.least(layout)
    if images < least:
        few = f"fold '{fold}' has {images} images, and {least} are needed"
        why = f"{few}: a Gram of few images, or of fewer than twice its channels, comes close to the images themselves"
        raise FragmentError(place, why=why, mend=_narrower(images, layout))


def _narrower(images: int, layout: PairLayout) -> str:
    """Which points would do."""
    sides = [[point for point in side if 2 * point.channels <= images] for side in (layout.a, layout.b)]
    others = "give more images, hold none out (held_out=0), or ask for noise."
    if images < FEWEST or not all(sides) or sides == [list(layout.a), list(layout.b)]:
        return others[0].upper() + others[1:]
    a, b = (_names(side) for side in sides)
    return f"Name narrower points, the same at all owners: {a} of the first network, {b} of the second; or {others}"


def _require_finite(layout: PairLayout, tensors: Mapping[str, Array]) -> None:
    for name in sorted(tensors):
        if not np.isfinite(tensors[name]).all():
            raise InvalidOption(
                f"statistic '{name}'",
                why="an activation is not finite for some image, or overflowed in a product",
                mend=f"Leave that point out. In order, a: {_names(layout.a)}; b: {_names(layout.b)}.",
            )


def _names(points: Sequence[PairPoint]) -> str:
    return ", ".join(point.name for point in points[:50])


def require_one_task(a: Network, b: Network, examples: Examples) -> None:
    """Refuse networks of different tasks, and images that are none of their inputs.

    Raises:
        TaskMismatch: says which part differs.
    """
    first, second = TaskReference.of(a.signature), TaskReference.of(b.signature)
    for what in ("shape", "units", "classes", "outputs"):
        if getattr(first, what) != getattr(second, what):
            raise TaskMismatch(
                f"the {what} of the networks' task",
                why=f"it is {getattr(first, what)} for one and {getattr(second, what)} for the other"[:500],
                mend="Take networks that were made for the same inputs and outputs.",
            )
    require_task(examples, first, labelled=False)


def lengths_of(a: Network, b: Network, examples: Examples, order: StatisticsOrder) -> Array:
    """How long images are under an order, float64 ``[n]``: on *public* images, what to choose `PairNoise.clip` by.

    A clip below most lengths scales images down, and above all of them makes noise larger than it need be.

    Raises:
        CompatibilityError: networks or images are of different tasks.
        InvalidOption: a point does not exist.
    """
    require_one_task(a, b, examples)
    layout, found = layout_of(a, b, order), []
    with torch.inference_mode():
        for inputs, held in _batches(examples, order):
            cells = _cells(a, layout.a, inputs, order), _cells(b, layout.b, inputs, order)
            found.append(image_lengths(layout, *cells)[: len(held)])
    return np.concatenate(found)


def _chosen(network: Network, names: Sequence[str] | None) -> list[str]:
    """Points that take part, by depth."""
    if names is None:
        return stitch_points(network)
    asked = {network.point(name).name for name in names}
    return [name for name in network.points if name in asked]


def _cells(network: Network, parts: Sequence[PairPoint], inputs: Tensor, order: StatisticsOrder) -> list[Tensor]:
    """Cells of each point. Under noise each input goes through alone: a stranger's graph can mix the rows of a batch,
    and then one row would change what all of them add."""
    found = []
    for given in inputs.split(len(inputs) if order.noise is None else 1):
        values = network.run(given, [part.name for part in parts])
        found.append([pooled_cells(network.points[part.name], values[part.name], part) for part in parts])
    return [torch.cat(values) for values in zip(*found, strict=True)]


def _batches(examples: Examples, order: StatisticsOrder) -> Iterator[tuple[Tensor, NDArray[np.bool_]]]:
    """Inputs, zeros after the last of them, and which are held out.

    Batches of one size, so that an honest network computes each image in the same way whatever their number.
    """
    for start in range(0, len(examples), order.batch):
        inputs = examples.inputs(start, start + order.batch)
        filled = np.zeros((order.batch, *examples.shape), dtype=np.float32)
        filled[: len(inputs)] = inputs
        yield torch.from_numpy(filled), held_rows(inputs, order.held_out, order.seed)


def held_rows(inputs: NDArray[np.float32], share: float, seed: int) -> NDArray[np.bool_]:
    """Which rows are held out: those whose own bytes, hashed with the seed, come out below the share.

    >>> rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    >>> bool((held_rows(rows[::-1].copy(), 0.5, 0) == held_rows(rows, 0.5, 0)[::-1]).all())
    True
    """
    key = str(seed).encode()
    words = (hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest() for row in inputs)
    return np.array([int.from_bytes(word, "little") < share * 2.0**64 for word in words], dtype=bool)
