"""Evidence of inputs as weights: from the parties' density summaries to the module that reads an input and says whom to
trust there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from quiltwork.compose.networks import Member, TaskReference
from quiltwork.composite.network_members import EMBEDDER
from quiltwork.errors import InvalidOption, MissingPart, TaskMismatch
from quiltwork.evidence.embedding import Embedding, ModuleEmbedding
from quiltwork.models.network.embedder import embedder
from quiltwork.models.network.evidence_weights import EvidenceWeigher


@dataclass(frozen=True)
class Evidence:
    """How the parties' summaries of their inputs become weights for one input.

    Attributes:
        of: ``"inputs"``, a density of all inputs of a party, or ``"classes"``, that of its class moments.
        prior: parties count ``"equal"``, or by how many ``"rows"`` their summaries are of.
        floor: an input that is so many nats less likely than a typical row of the party whose rows lie widest is
            nobody's, and all count by the prior; None: there is always somebody.
        temperature: divides log-densities; above one trusts them less.
    """

    of: Literal["inputs", "classes"] = "inputs"
    prior: Literal["equal", "rows"] = "equal"
    floor: float | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.of not in ("inputs", "classes"):
            raise InvalidOption(f"evidence of {self.of!r}", why="there is none", mend="Use 'inputs' or 'classes'.")
        if self.prior not in ("equal", "rows"):
            raise InvalidOption(f"prior={self.prior!r}", why="there is no such prior", mend="Use 'equal' or 'rows'.")
        if not 0 < self.temperature < float("inf"):
            raise InvalidOption(
                f"temperature={self.temperature}", why="it divides log-densities", mend="Choose a positive one."
            )


def evidence_weigher(task: TaskReference, members: Sequence[Member], evidence: Evidence) -> EvidenceWeigher:
    """The posterior over the parties that hold a module, in their order, as a module on raw inputs.

    Args:
        task: of all.
        members: of these, those with a module take part.
        evidence: which summaries, and how they are read.

    Raises:
        MissingPart: a party holds no summary, or a summary is by the features of a module that is not there.
        TaskMismatch: summaries are in different embeddings.
        InvalidOption: the floor is out of its domain, or summaries are of different dimensions.
    """
    taking = [member for member in members if "module" in member.parts]
    if evidence.of == "inputs":
        found = {member.party: member.inputs for member in taking}
    else:
        found = {member.party: (member.classes[0], member.classes[1].covariates()) for member in taking}
    embed = common_embedder(task, members, {party: embedding for party, (embedding, _) in found.items()})
    prior = {party: float(summary.count) for party, (_, summary) in found.items()}
    return EvidenceWeigher.from_summaries(
        embed,
        {party: summary for party, (_, summary) in found.items()},
        prior=prior if evidence.prior == "rows" else None,
        floor=evidence.floor,
        temperature=evidence.temperature,
    )


def common_embedder(task: TaskReference, members: Sequence[Member], embeddings: Mapping[str, Embedding]) -> nn.Module:
    """The one embedding of all parties' summaries, as a module on raw inputs.

    Args:
        task: of all.
        members: among them the one whose module embeds, if a module does.
        embeddings: by party.

    Raises:
        TaskMismatch: they differ.
        MissingPart: the module that embeds is not there.
        InvalidOption: it is another one, or has no such point.
    """
    (one, embedding), *others = embeddings.items()
    for party, other in others:
        if other != embedding:
            raise TaskMismatch(
                f"party '{party}'",
                why=f"its inputs are summarised in another embedding ({_told(other)}) than those of party '{one}' "
                f"({_told(embedding)}), and densities in different spaces cannot be compared",
                mend="Ask all parties for summaries in one embedding, with one seed.",
            )
    if not isinstance(embedding, ModuleEmbedding):
        return embedder(embedding, task.shape)
    found = [member for member in members if member.party == embedding.party and member.parts & {"module", EMBEDDER}]
    if not found:
        raise MissingPart(
            f"the module of party '{embedding.party}'",
            why="inputs are summarised by its features, and it is not among the contributions",
            mend="Give its contribution too, or ask for summaries in a random embedding.",
        )
    return embedder(embedding, task.shape, found[0].network)


def _told(embedding: Embedding) -> str:
    return ", ".join(f"{name} {value}" for name, value in embedding.model_dump().items())
