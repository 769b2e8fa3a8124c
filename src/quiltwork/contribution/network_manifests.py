"""The manifests of the kinds about networks. All stand on a task and protect one row: an image, a vector."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from quiltwork.contribution.kinds import Part
from quiltwork.contribution.manifest_fields import ManifestFields
from quiltwork.contribution.networks import (
    ModuleMethod,
    MomentsMethod,
    NetworkStatistic,
    OutputsMethod,
    TaskReference,
)
from quiltwork.contribution.stitching import StitchesMethod, StitchStatisticsMethod
from quiltwork.privacy.events import Unit

_Statistics = Annotated[tuple[NetworkStatistic, ...], Field(max_length=16)]


class ModuleManifest(ManifestFields):
    """Kind ``module``: a trained network, and statistics of its owner's inputs."""

    protects: ClassVar[Unit] = "row"

    kind: Literal["module"] = "module"
    task: TaskReference
    method: ModuleMethod
    statistics: _Statistics = ()

    @model_validator(mode="after")
    def _fits_together(self) -> ModuleManifest:
        if TaskReference.of(self.method.signature) != self.task:
            raise ValueError("the network's signature and the task differ in shape, units, classes or outputs")
        self.parts()
        return self

    def parts(self) -> tuple[Part, ...]:
        """Everything that leaves, the network first."""
        return self.method.parts() + tuple(one.part(self.task) for one in self.statistics)

    def tells_training(self) -> bool:
        """Whether accuracy or loss on private rows is among the fields."""
        training = self.method.training
        return training is not None and (training.accuracy is not None or training.loss is not None)


class MomentsManifest(ManifestFields):
    """Kind ``moments``: statistics of inputs alone."""

    protects: ClassVar[Unit] = "row"

    kind: Literal["moments"] = "moments"
    task: TaskReference
    method: MomentsMethod
    statistics: _Statistics

    @model_validator(mode="after")
    def _fits_together(self) -> MomentsManifest:
        self.parts()
        return self

    def parts(self) -> tuple[Part, ...]:
        """The statistics."""
        return tuple(one.part(self.task) for one in self.statistics)

    def tells_training(self) -> bool:
        """Nothing was trained."""
        return False


class OutputsManifest(ManifestFields):
    """Kind ``outputs``: how the outputs of published networks fit an owner's targets."""

    protects: ClassVar[Unit] = "row"

    kind: Literal["outputs"] = "outputs"
    task: TaskReference
    method: OutputsMethod

    @model_validator(mode="after")
    def _fits_together(self) -> OutputsManifest:
        if self.method.correct and self.task.classes is None:
            raise ValueError("outputs that are numbers are not right or wrong")
        return self

    def parts(self) -> tuple[Part, ...]:
        """The sums."""
        return self.method.parts()

    def tells_training(self) -> bool:
        """Nothing was trained."""
        return False


class StitchStatisticsManifest(ManifestFields):
    """Kind ``stitch_statistics``: regression statistics of two published networks."""

    protects: ClassVar[Unit] = "row"

    kind: Literal["stitch_statistics"] = "stitch_statistics"
    task: TaskReference
    method: StitchStatisticsMethod

    def parts(self) -> tuple[Part, ...]:
        """The sums."""
        return self.method.parts()

    def tells_training(self) -> bool:
        """Nothing was trained."""
        return False


class StitchesManifest(ManifestFields):
    """Kind ``stitches``: adapters between points of published networks."""

    protects: ClassVar[Unit] = "row"

    kind: Literal["stitches"] = "stitches"
    task: TaskReference
    method: StitchesMethod

    def parts(self) -> tuple[Part, ...]:
        """The adapters."""
        return self.method.parts()

    def tells_training(self) -> bool:
        """Whether a loss on private rows is among the fields."""
        training = self.method.training
        return training.loss_first is not None or training.loss_last is not None
