"""Statistics of a text as routers read them: what a contribution declares, or what describes public text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quiltwork.compose.parts import source
from quiltwork.contribution.kinds import ResidualMomentsStatistic
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import MissingPart, TensorMismatch
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base
from quiltwork.models.residual import ResidualMoments

FEATURES = ("tokens", "bigrams", "trigrams")
"""What an evidence router can read a text as."""


@dataclass(frozen=True)
class KeptRow:
    """What a composed model keeps of public text's histogram: its log-probabilities, float32 ``[symbols]``."""

    values: NDArray[np.float32]


PublicText = Mapping[str, TokenHistogram | KeptRow | ResidualMoments]
"""What describes public text: a histogram by feature, and ``"moments"`` of the base's residual stream over it."""


def described_by(contribution: Contribution, base: Base) -> PublicText:
    """Everything that a contribution of statistics says about its text.

    Raises:
        TensorMismatch: its moments are of another model than the base.
    """
    found: dict[str, TokenHistogram | ResidualMoments] = {
        part: histogram_of(contribution, part) for part in FEATURES if part in contribution.parts
    }
    return found | ({"moments": moments_of(contribution, base)} if "moments" in contribution.parts else {})


def moments_of(contribution: Contribution, base: Base) -> ResidualMoments:
    """The residual moments that a contribution declares.

    Raises:
        MissingPart: it declares none.
        TensorMismatch: they are of a model with other layers or another width.
    """
    statistics = contribution.manifest.statistics  # type: ignore[union-attr]
    declared = next((s for s in statistics if isinstance(s, ResidualMomentsStatistic)), None)
    who = f"the residual moments of party '{contribution.party}'"
    if declared is None:
        raise MissingPart(
            who, why="it released none", mend="Ask the party to release moments, or choose another router."
        )
    if (declared.layers, declared.hidden_size) != (base.layers, base.hidden_size):
        raise TensorMismatch(
            who,
            why=f"they are of {declared.layers} layers of width {declared.hidden_size}, and the base has "
            f"{base.layers} of width {base.hidden_size}",
            mend="Ask the party for moments taken with this base.",
        )
    tensors = {name: source(contribution, name) for name in contribution.tensor_names("moments.")}
    return ResidualMoments.of(tensors, declared.rows)


def histogram_of(contribution: Contribution, features: str) -> TokenHistogram:
    """A histogram that a contribution declares: one of ``FEATURES``.

    Raises:
        MissingPart: it does not declare that one.
    """
    if features not in contribution.parts:
        raise MissingPart(
            f"the contribution of party '{contribution.party}'",
            why=f"it holds no histogram of {features}",
            mend="Ask the party to release one, or choose another router or other features.",
        )
    return TokenHistogram(contribution.tensor(f"{features}.counts").double().numpy())
