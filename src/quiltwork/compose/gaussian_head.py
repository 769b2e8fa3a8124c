"""Gaussian head: a classifier from the parties' class moments alone, in closed form and in one talk.

With e a common embedding and n_c, m_c, S_c the count, mean and covariance of class c, summed over all parties exactly
as if their rows lay in one place,

    log p(c | x) = log n_c - 1/2 log |S_c| - 1/2 (e(x) - m_c)' S_c^-1 (e(x) - m_c) + const

lda takes one S for all classes, qda one for each, naive_bayes their diagonals; each is shrunk towards its diagonal.
Nobody trains anything and no network is exchanged, which makes it the cheapest strong baseline (the one-shot family of
arXiv 2602.01186), as good as the embedding is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quiltwork.compose.network_evidence import common_embedder
from quiltwork.compose.networks import Member, NetworkSolution, TaskReference
from quiltwork.errors import InvalidOption
from quiltwork.evidence.class_moments import ClassMoments
from quiltwork.models.network.gaussian_head import GaussianHeadModule


@dataclass(frozen=True)
class GaussianHead:
    """A closed-form classifier.

    Attributes:
        form: ``"naive_bayes"``, ``"lda"`` or ``"qda"``; qda needs covariances of each class.
        shrinkage: of covariances, from 0 to 1.
    """

    form: Literal["naive_bayes", "lda", "qda"] = "lda"
    shrinkage: float = 0.01

    def __post_init__(self) -> None:
        if self.form not in ("naive_bayes", "lda", "qda"):
            raise InvalidOption(
                f"form={self.form!r}", why="there is no such head", mend="Use 'naive_bayes', 'lda' or 'qda'."
            )
        if not 0 <= self.shrinkage <= 1:
            raise InvalidOption(f"shrinkage={self.shrinkage}", why="it is a share", mend="Choose a number from 0 to 1.")

    @property
    def name(self) -> str:
        """``gaussian_head``."""
        return "gaussian_head"

    def needs(self) -> frozenset[str]:
        """Moments of each party's classes."""
        return frozenset({"classes"})

    def uses(self) -> frozenset[str]:
        """A module, whose features may be the embedding."""
        return frozenset({"module"})

    def build(self, task: TaskReference, members: Sequence[Member]) -> NetworkSolution:
        """The head over its embedding.

        Raises:
            TaskMismatch: parties summarised in different embeddings.
            MissingPart: the embedding is by a module that is not given, or nobody has rows of some class.
            InvalidOption: the form needs covariances of each class and pooled ones were released, or one is singular.
        """
        telling = {member.party: member.classes for member in members if "classes" in member.parts}
        embed = common_embedder(task, members, {party: embedding for party, (embedding, _) in telling.items()})
        moments = ClassMoments.merged([one for _, one in telling.values()])
        rows = {name: float(count) for name, count in zip(task.classes or (), moments.counts, strict=True)}
        absent = [name for name, count in rows.items() if not count > 0]
        notes = tuple(f"no party has rows of class '{name}', and the head never says it" for name in absent)
        head = GaussianHeadModule(embed, moments, self.form, self.shrinkage)
        return NetworkSolution(head, figures={"rows": dict(rows)}, notes=notes)
