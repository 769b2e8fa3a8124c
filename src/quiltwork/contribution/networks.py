"""What a contribution about networks can hold: a trained module, where inputs lie, how well outputs fit.

With the tensors t of a graph, J groups, k classes (or numbers) and d numbers of an embedded input, M networks:

    module     module.{t}                          F32 as the graph declares it; whole numbers and truths as F64
    inputs     inputs.counts [J]    inputs.means [J, d]    inputs.covariances [J, d, d]
    classes    classes.counts [k]   classes.means [k, d]   classes.covariances [d, d] or [k, d, d]
    outputs    outputs.gram [M, M]  outputs.cross [M]  outputs.target [1]  outputs.correct [M] (if told)

All but weights are F64. What is known of pairs of networks is in ``stitching``. Every size follows from the manifest.

>>> from quiltwork.evidence.embedding import RandomEmbedding
>>> task = TaskReference(shape=(1, 8, 8), units="0..1", classes=("no", "yes"), outputs=2)
>>> statistic = ClassMomentsStatistic(embedding=RandomEmbedding(dimension=40), form="pooled", minimum_rows=10)
>>> {name: need.shape for name, need in statistic.part(task).required.items()}
{'classes.counts': (2,), 'classes.means': (2, 40), 'classes.covariances': (40, 40)}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from quiltwork.contribution.fields import (
    ColumnName,
    Count,
    Digest,
    PartyName,
    Positive,
    Short,
    Software,
    require_modest,
)
from quiltwork.contribution.kinds import Dtype, Part, Requirement
from quiltwork.contribution.network_graph import Graph, GraphDtype, PointRecord, Signature
from quiltwork.evidence.embedding import Embedding, width
from quiltwork.privacy.events import Record

MOST_INPUT_NUMBERS = 2**24
"""Numbers in one input."""

MOST_WEIGHTS = 2**30
"""Numbers in all tensors of one network: four gigabytes."""

_F64: tuple[Dtype, ...] = ("F64",)
_STATISTICS = "statistics.safetensors"
_MOST_COUNT = float(2**53)

Side = Annotated[int, Field(ge=1, le=MOST_INPUT_NUMBERS)]


class TaskReference(Record):
    """What goes in and what comes out. Networks are composed only where it is the same for all.

    Attributes:
        shape: of one raw input: channels, height and width of an image, or the length of a vector.
        units: of raw inputs, as text such as ``"0..1"``.
        classes: labels in the order of the outputs; None where outputs are numbers.
        outputs: how many numbers come out.
    """

    shape: Annotated[tuple[Side, ...], Field(min_length=1, max_length=3)]
    units: Short
    classes: Annotated[tuple[ColumnName, ...], Field(min_length=2, max_length=10_000)] | None
    outputs: Annotated[int, Field(ge=1, le=10_000)]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> TaskReference:
        if len(self.shape) == 2:
            raise ValueError("an input is an image [c, h, w] or a vector [d], and the shape has two sides")
        if math.prod(self.shape) > MOST_INPUT_NUMBERS:
            raise ValueError(f"an input would hold more than {MOST_INPUT_NUMBERS} numbers")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is named twice")
        if self.classes is not None and len(self.classes) != self.outputs:
            raise ValueError(f"there are {len(self.classes)} classes and {self.outputs} outputs")
        return self

    @classmethod
    def of(cls, signature: Signature) -> TaskReference:
        """The task of a network; how it normalises its inputs is its own affair."""
        return cls(shape=signature.shape, units=signature.units, classes=signature.classes, outputs=signature.outputs)


class ModuleReference(Record):
    """A published network.

    Attributes:
        party: who published it.
        digest: of graph, signature, points and weights (`network_graph.network_digest`).
    """

    party: PartyName
    digest: Digest


def require_once(networks: Sequence[ModuleReference]) -> None:
    """Refuse a list that names two networks of one party, or one twice.

    Raises:
        ValueError: it does.
    """
    if len({network.party for network in networks}) < len(networks):
        raise ValueError("a party's network is named twice")


class InputsStatistic(Record):
    """A Gaussian mixture of embedded inputs: J groups, each with its count, mean and covariance.

    Attributes:
        embedding: of the inputs.
        components: J.
        minimum_rows: no group has fewer rows; 1 states no minimum.
    """

    name: Literal["inputs"] = "inputs"
    embedding: Embedding
    components: Annotated[int, Field(ge=1, le=64)]
    minimum_rows: Annotated[int, Field(ge=1, le=2**53)] = 1

    def part(self, task: TaskReference) -> Part:
        """Counts in [minimum_rows, 2^53]; that the covariances are ones is judged by whoever uses them."""
        groups, width = self.components, _width(self.embedding, task)
        require_modest("inputs.covariances", groups, width, width)
        tensors = {
            "inputs.counts": Requirement((groups,), _F64, least=float(self.minimum_rows), most=_MOST_COUNT),
            "inputs.means": Requirement((groups, width), _F64),
            "inputs.covariances": Requirement((groups, width, width), _F64),
        }
        return Part(self.name, _STATISTICS, tensors)


class ClassMomentsStatistic(Record):
    """How many inputs each class has, their mean and covariance in an embedding.

    Attributes:
        embedding: of the inputs.
        form: ``"pooled"``: one covariance within classes; ``"per_class"``: one each.
        minimum_rows: a class with fewer rows is left out: count 0, mean 0, covariance 0.
    """

    name: Literal["classes"] = "classes"
    embedding: Embedding
    form: Literal["pooled", "per_class"]
    minimum_rows: Annotated[int, Field(ge=1, le=2**53)]

    def part(self, task: TaskReference) -> Part:
        """Counts in [0, 2^53], means and covariances.

        Raises:
            ValueError: the outputs are numbers.
        """
        if task.classes is None:
            raise ValueError("statistic 'classes' is of classes, and the outputs are numbers")
        width, classes = _width(self.embedding, task), len(task.classes)
        spread = (width, width) if self.form == "pooled" else (classes, width, width)
        require_modest("classes.covariances", *spread)
        tensors = {
            "classes.counts": Requirement((classes,), _F64, least=0.0, most=_MOST_COUNT),
            "classes.means": Requirement((classes, width), _F64),
            "classes.covariances": Requirement(spread, _F64),
        }
        return Part(self.name, _STATISTICS, tensors)


def _width(embedding: Embedding, task: TaskReference) -> int:
    return width(embedding, math.prod(task.shape))


NetworkStatistic: TypeAlias = Annotated[InputsStatistic | ClassMomentsStatistic, Field(discriminator="name")]
"""Any declared statistic of a task's inputs, told apart by its ``name``."""


class ModuleTraining(Record):
    """How a network was trained, as far as its owner tells.

    Attributes:
        rows: inputs that it was trained on.
        note: in words: data, augmentation, optimiser.
        accuracy: share of the owner's held-out inputs that it gets right; a function of private rows.
        loss: mean loss of them, likewise.
        held_out_rows: how many they are.
        software: name to version.
    """

    rows: Positive | None = None
    note: Annotated[str, Field(max_length=2000)] = ""
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    loss: float | None = None
    held_out_rows: Count = 0
    software: Software = Field(default_factory=dict)


class ModuleMethod(Record):
    """A trained network: a graph over a closed list of operators, its weights, its named points.

    Attributes:
        network: digest of signature, graph, points and weights; the same for whoever publishes them.
        signature: what goes in and comes out, and how the network normalises.
        graph: the operators.
        points: where its activations can be read and replaced.
        rests_on: digests of all contributions whose numbers went in, such as a teacher's network.
        role: ``"predicts"``: a network to compose; ``"embeds"``: moments are taken by its activations, what it gives is
            no answer to the task, and only its inputs must be those of the task.
        training: how it was made.
    """

    kind: ClassVar[Literal["module"]] = "module"
    network: Digest
    signature: Signature
    graph: Graph
    points: Annotated[tuple[PointRecord, ...], Field(max_length=4096)]
    rests_on: Annotated[tuple[Digest, ...], Field(max_length=256)] = ()
    role: Literal["predicts", "embeds"] = "predicts"
    training: ModuleTraining | None = None

    @property
    def about(self) -> tuple[ModuleReference, ...]:
        """No network but its own."""
        return ()

    def parts(self) -> tuple[Part, ...]:
        """``module``: every tensor of the graph.

        Raises:
            ValueError: they are beyond `MOST_WEIGHTS`.
        """
        needs = {f"module.{t.entry}": _tensor_need(t.dtype, t.shape) for t in self.graph.tensors.values()}
        numbers = sum(math.prod(need.shape) for need in needs.values())
        if numbers > MOST_WEIGHTS:
            raise ValueError(f"the network would hold {numbers} numbers, and at most {MOST_WEIGHTS} are read")
        return (Part("module", "module.safetensors", needs),)


def _tensor_need(dtype: GraphDtype, shape: tuple[int, ...]) -> Requirement:
    """Weights are F32; whole numbers and truths, which the payload has no types for, F64."""
    if dtype == "float32":
        return Requirement(shape, ("F32",))
    if dtype == "bool":
        return Requirement(shape, _F64, least=0.0, most=1.0)
    return Requirement(shape, _F64, least=-_MOST_COUNT, most=_MOST_COUNT)


class MomentsMethod(Record):
    """No network: the contribution holds statistics of the task's inputs and nothing else."""

    kind: ClassVar[Literal["moments"]] = "moments"

    @property
    def about(self) -> tuple[ModuleReference, ...]:
        """No network."""
        return ()

    def parts(self) -> tuple[Part, ...]:
        """None of its own."""
        return ()


class OutputsMethod(Record):
    """How the outputs p of published networks fit the owner's targets y (one-hot for classes): sums over rows.

    ``outputs.gram`` is sum p_m . p_m', ``outputs.cross`` sum p_m . y, ``outputs.target`` sum |y|^2: what squared error
    (Brier's, for classes) of any weighted mean of the networks needs. They add up over owners.

    Attributes:
        networks: in the order of the arrays.
        rows: how many rows the sums are over.
        correct: ``outputs.correct`` tells how many rows each network gets right; for classes only.
    """

    kind: ClassVar[Literal["outputs"]] = "outputs"
    networks: Annotated[tuple[ModuleReference, ...], Field(min_length=1, max_length=256)]
    rows: Positive
    correct: bool

    @model_validator(mode="after")
    def _asks_once(self) -> OutputsMethod:
        require_once(self.networks)
        return self

    @property
    def about(self) -> tuple[ModuleReference, ...]:
        """The networks."""
        return self.networks

    def parts(self) -> tuple[Part, ...]:
        """``outputs``."""
        members = len(self.networks)
        tensors = {
            "outputs.gram": Requirement((members, members), _F64),
            "outputs.cross": Requirement((members,), _F64),
            "outputs.target": Requirement((1,), _F64, least=0.0),
        }
        if self.correct:
            tensors["outputs.correct"] = Requirement((members,), _F64, least=0.0, most=float(self.rows))
        return (Part("outputs", "outputs.safetensors", tensors),)
