"""What one party brought to a composition of networks, and whose leaving takes what along.

A party may hand over several contributions: a module, moments of its inputs, statistics for stitching one network to
another, stitches that it trained, how well everybody's outputs fit its rows. Together they are its ``Member``. Some are
*about* modules of other parties, and some *rest on* what others handed over, so leaving is more than being struck off:

    settled(S) = the largest part of S whose contributions are about modules in S and rest on contributions in S

Of one party, what it took further itself (a module after a transfer, stitches after more training) gives way to the
last, and stands in again when that leaves with somebody else it rested on.

A network that says that it embeds, a public one of features or of principal components, is there for others' moments
to be taken by. It is no network to compose, and its outputs need not be the task's.

Composing, opening and leaving all go through ``settled``, which is why taking a party out is composing the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quiltwork.contribution.network_manifests import (
    ModuleManifest,
    MomentsManifest,
    OutputsManifest,
    StitchesManifest,
    StitchStatisticsManifest,
)
from quiltwork.contribution.networks import ModuleReference, TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import MissingPart
from quiltwork.evidence.class_moments import ClassMoments
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.embedding import Embedding

if TYPE_CHECKING:
    from quiltwork.models.network.network import Network

Array = NDArray[np.float64]
EMBEDDER = "embedder"
"""What a party holds whose network embeds inputs, in the place of ``module``."""

NetworkManifest = ModuleManifest | MomentsManifest | StitchStatisticsManifest | StitchesManifest | OutputsManifest


@dataclass(frozen=True, eq=False)
class Member:
    """One party as a method over networks sees it.

    Attributes:
        party: its name.
        contributions: what it handed over and did not take further itself, at least one.
    """

    party: str
    contributions: tuple[Contribution, ...]

    @property
    def parts(self) -> frozenset[str]:
        """What it holds: ``module`` or ``embedder``, ``inputs``, ``classes``, ``pair``, ``stitches``, ``outputs``."""
        return frozenset[str]().union(*(self._parts(c) for c in self.contributions))

    @staticmethod
    def _parts(contribution: Contribution) -> frozenset[str]:
        parts = frozenset(contribution.parts)
        return parts - {"module"} | {EMBEDDER} if is_embedder(contribution) else parts

    def releases(self, part: str) -> tuple[Contribution, ...]:
        """Its contributions that hold a part."""
        return tuple(c for c in self.contributions if part in c.parts)

    @cached_property
    def network(self) -> Network:
        """Its module, checked and frozen.

        Raises:
            MissingPart: it handed over none.
            AlteredContribution, ContributionError, TensorMismatch: as `open_network`.
        """
        from quiltwork.models.network.opening import open_network

        return open_network(self._holding("module"))

    @cached_property
    def inputs(self) -> tuple[Embedding, CovariateSummary]:
        """Where its inputs lie, and in which embedding.

        Raises:
            MissingPart, AlteredContribution: as `network`.
        """
        embedding, arrays = self._statistic("inputs")
        return embedding, CovariateSummary.from_arrays(**arrays)

    @cached_property
    def classes(self) -> tuple[Embedding, ClassMoments]:
        """Moments of its inputs by class, and in which embedding.

        Raises:
            MissingPart, AlteredContribution: as `network`.
        """
        embedding, arrays = self._statistic("classes")
        return embedding, ClassMoments(**arrays)

    def _statistic(self, part: str) -> tuple[Embedding, dict[str, Array]]:
        contribution = self._holding(part)
        manifest = contribution.manifest
        assert isinstance(manifest, ModuleManifest | MomentsManifest)
        (declared,) = (one for one in manifest.statistics if one.name == part)
        names = contribution.tensor_names(f"{part}.")
        return declared.embedding, {n.removeprefix(f"{part}."): contribution.tensor(n).numpy() for n in names}

    def _holding(self, part: str) -> Contribution:
        found = self.releases(part)
        if not found:
            raise MissingPart(
                f"party '{self.party}'",
                why=f"it handed over no part '{part}'",
                mend="Ask the party for it, or leave the party out.",
            )
        return found[0]


def in_order(contributions: Iterable[Contribution]) -> tuple[Contribution, ...]:
    """By party, kind and digest; one that is given twice counts once."""
    return tuple(sorted(set(contributions), key=lambda c: (c.party, c.kind, c.digest)))


def members_of(contributions: Iterable[Contribution]) -> tuple[Member, ...]:
    """The contributions that count, gathered by party: the last of what each took further, about the last of others."""
    last = leaves(contributions)
    modules = modules_of(last)
    count = (c for c in last if _is_about(c, modules))
    return tuple(Member(party, tuple(its)) for party, its in groupby(count, key=lambda c: c.party))


def is_embedder(contribution: Contribution) -> bool:
    """Whether it is a network that others' moments are taken by, and that answers nothing itself."""
    return isinstance(contribution.manifest, ModuleManifest) and contribution.manifest.method.role == "embeds"


def task_of(contribution: Contribution) -> TaskReference:
    """The task that a contribution is about.

    Raises:
        MissingPart: it is about none: a language model's, or a table's.
    """
    if not isinstance(contribution.manifest, NetworkManifest):
        raise MissingPart(
            f"the contribution of party '{contribution.party}'",
            why=f"it is of kind '{contribution.kind}', and no network or statistic of a task on inputs",
            mend="Compose it with a method of its own ground: language models with a base, tables without.",
        )
    return contribution.manifest.task


def modules_of(contributions: Iterable[Contribution]) -> frozenset[tuple[str, str]]:
    """Party and digest of every network that predicts: sums and stitches about one that embeds join nothing."""
    return frozenset(
        (c.party, c.manifest.method.network)
        for c in contributions
        if isinstance(c.manifest, ModuleManifest) and not is_embedder(c)
    )


def about(contribution: Contribution) -> tuple[ModuleReference, ...]:
    """The networks of others, or its own, that a contribution speaks of; none for a module and for moments."""
    return contribution.manifest.method.about if isinstance(contribution.manifest, NetworkManifest) else ()


def rests_on(contribution: Contribution) -> frozenset[str]:
    """Digests of the contributions whose numbers went into this one."""
    return frozenset(getattr(contribution.manifest.method, "rests_on", ()))


def leaves(contributions: Iterable[Contribution]) -> tuple[Contribution, ...]:
    """In order, without those that another of the same party and kind rests on, directly or through others."""
    given = in_order(contributions)
    below = {c.digest: rests_on(c) for c in given}
    for _ in given:
        below = {digest: grounds.union(*(below.get(g, ()) for g in grounds)) for digest, grounds in below.items()}
    followed = {(c.party, c.kind, digest) for c in given for digest in below[c.digest]}
    return tuple(c for c in given if (c.party, c.kind, c.digest) not in followed)


def settled(contributions: Iterable[Contribution]) -> tuple[Contribution, ...]:
    """In order, without those about networks that are not there, or resting on what is not there.

    What stands in a part of S stands in S, so that settling before somebody leaves and settling afterwards agree. Sums
    about the outputs of many networks stay while one of these is there: numbers about others are not used.
    """
    kept = in_order(contributions)
    while True:
        modules, digests = modules_of(kept), {c.digest for c in kept}
        stands = tuple(c for c in kept if _is_about(c, modules) and rests_on(c) <= digests)
        if len(stands) == len(kept):
            return kept
        kept = stands


def _is_about(contribution: Contribution, modules: Collection[tuple[str, str]]) -> bool:
    present = [(reference.party, reference.digest) in modules for reference in about(contribution)]
    return (any if isinstance(contribution.manifest, OutputsManifest) else all)(present) or not present
