"""What owners release about several published networks: regression statistics of two, and adapters between any.

    pair        sums, Grams and cross-Grams of activations, as ``pair_layout`` lists them; all F64
    stitches    stitches.{s}.{k}.weight [C_t, C_s]   stitches.{s}.{k}.bias [C_t]   adapter of source k of splice s

A network is named by its party and its own digest. The digest alone would not do: who leaves takes along what rests on
its network, even where another party published the same one.

>>> a, b = (ModuleReference(party=name, digest="sha256:" + digit * 64) for name, digit in (("a", "0"), ("b", "1")))
>>> splice = SpliceRecord(into=NetworkPoint(network=0, point="stem", channels=8),
...                       sources=(NetworkPoint(network=1, point="body", channels=6),), mode="average")
>>> training = StitchTraining(loss="closed_form", rows=100, steps=0, batch_size=0, learning_rate=0.0, seed=0,
...                           software={})
>>> method = StitchesMethod(networks=(a, b), splices=(splice,), training=training)
>>> {name: need.shape for name, need in method.parts()[0].required.items()}
{'stitches.0.0.weight': (8, 6), 'stitches.0.0.bias': (8,)}
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from quiltwork.contribution.fields import Count, Digest, Positive, Software, require_modest
from quiltwork.contribution.kinds import Part, Requirement
from quiltwork.contribution.network_graph import PointName
from quiltwork.contribution.networks import ModuleReference, require_once
from quiltwork.contribution.pair_layout import MOST_CHANNELS, Fold, PairLayout, PairPoint
from quiltwork.privacy.events import Record

Points: TypeAlias = Annotated[tuple[PairPoint, ...], Field(min_length=1, max_length=256)]


class StitchStatisticsMethod(Record):
    """Regression statistics of two published networks on one owner's inputs.

    Attributes:
        a: the one network.
        b: the other.
        points_a: its points that take part, by depth.
        points_b: those of the other.
        held_out: whether a second fold of rows is there, to choose the strength of the ridge by.
        rows: how many inputs both folds are over; None where noise hides it.
        minimum_rows: fewer would not have been released.
        seed: with a row's own bytes, decides its fold.
        software: name to version.
    """

    kind: ClassVar[Literal["stitch_statistics"]] = "stitch_statistics"
    a: ModuleReference
    b: ModuleReference
    points_a: Points
    points_b: Points
    held_out: bool
    rows: Positive | None
    minimum_rows: Positive
    seed: int
    software: Software

    @model_validator(mode="after")
    def _is_of_two_and_of_enough(self) -> StitchStatisticsMethod:
        require_once(self.about)
        if self.rows is not None and self.rows < self.minimum_rows:
            raise ValueError(f"{self.rows} rows are fewer than the declared minimum of {self.minimum_rows}")
        self.parts()
        return self

    @property
    def about(self) -> tuple[ModuleReference, ...]:
        """Both networks."""
        return (self.a, self.b)

    @property
    def folds(self) -> tuple[Fold, ...]:
        """``train``, and ``held_out`` where it is there."""
        return ("train", "held_out") if self.held_out else ("train",)

    @cached_property
    def layout(self) -> PairLayout:
        """Which tensors the points make."""
        return PairLayout(self.points_a, self.points_b)

    def parts(self) -> tuple[Part, ...]:
        """``pair``."""
        return (Part("pair", "pair.safetensors", self.layout.required(self.folds)),)


class NetworkPoint(Record):
    """A point of one of the networks that the stitches are for.

    Attributes:
        network: place in the list of networks.
        point: its name.
        channels: numbers in a cell.
    """

    network: Annotated[int, Field(ge=0, le=63)]
    point: PointName
    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]


class SpliceRecord(Record):
    """Activations of ``sources``, each through its adapter, mixed into a point.

    Attributes:
        into: where.
        sources: from where.
        mode: ``"average"`` with the point's own activation, or ``"replace"`` it.
    """

    into: NetworkPoint
    sources: Annotated[tuple[NetworkPoint, ...], Field(min_length=1, max_length=63)]
    mode: Literal["average", "replace"]


class StitchTraining(Record):
    """How adapters were trained, the networks frozen.

    Attributes:
        loss: ``"task"`` with labels; ``"penultimate"`` matches the target's last features; ``"closed_form"``: ridge.
        rows: inputs that they were trained on.
        steps: optimiser steps; 0 for a closed form.
        batch_size: inputs in a step.
        learning_rate: the peak.
        seed: of the order.
        loss_first: loss at the first step; a function of private rows.
        loss_last: loss at the last step, likewise.
        software: name to version.
    """

    loss: Literal["task", "penultimate", "closed_form"]
    rows: Positive
    steps: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(ge=0)]
    seed: int
    loss_first: float | None = None
    loss_last: float | None = None
    software: Software


class StitchesMethod(Record):
    """Adapters for given networks and splices.

    Attributes:
        networks: the networks, in the order that splices count them in.
        splices: where they are joined; no point is spliced into twice.
        rests_on: digests of all contributions whose numbers went in: statistics that they began with, stitches that
            they went on from.
        training: how they were made.
    """

    kind: ClassVar[Literal["stitches"]] = "stitches"
    networks: Annotated[tuple[ModuleReference, ...], Field(min_length=1, max_length=64)]
    splices: Annotated[tuple[SpliceRecord, ...], Field(min_length=1, max_length=64)]
    rests_on: Annotated[tuple[Digest, ...], Field(max_length=256)] = ()
    training: StitchTraining

    @model_validator(mode="after")
    def _fits_together(self) -> StitchesMethod:
        require_once(self.about)
        if any(point.network >= len(self.networks) for point in self._points()):
            raise ValueError(f"a point is of a network that is not among the {len(self.networks)}")
        targets = [(splice.into.network, splice.into.point) for splice in self.splices]
        if len(set(targets)) < len(targets):
            raise ValueError("a point is spliced into twice")
        self.parts()
        return self

    @property
    def about(self) -> tuple[ModuleReference, ...]:
        """The networks."""
        return self.networks

    def _points(self) -> Iterator[NetworkPoint]:
        for splice in self.splices:
            yield splice.into
            yield from splice.sources

    def parts(self) -> tuple[Part, ...]:
        """``stitches``: weight and bias of each adapter, F32 or F64."""
        found: dict[str, Requirement] = {}
        for s, splice in enumerate(self.splices):
            for k, source in enumerate(splice.sources):
                name = f"stitches.{s}.{k}"
                require_modest(f"{name}.weight", splice.into.channels, source.channels)
                found[f"{name}.weight"] = Requirement((splice.into.channels, source.channels), ("F64", "F32"))
                found[f"{name}.bias"] = Requirement((splice.into.channels,), ("F64", "F32"))
        return (Part("stitches", "stitches.safetensors", found),)
