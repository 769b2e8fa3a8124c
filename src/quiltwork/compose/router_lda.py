"""``ResidualLDA``: rows and offsets computed from the residual moments that the parties released, without training.

The owner's step is one pass of the base over some of its text, for the mean and covariance of each layer's feed-forward
input (part ``moments``). The composer's step is linear discriminant analysis against the public text's moments
(`quiltwork.models.discriminants` has the algebra).

Whose covariance all share is a choice. ``"public"``: each row depends on its party and the public text alone, costs one
row a layer to keep, and no party's second moments can bend another's row. ``"pooled"``: the textbook's mean of all,
weighted by the rows declared, of which no owner's count for more than the public text's; the moments are then kept
beside the checkpoint, so that a party can still leave exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quiltwork.compose.router import require_dense, require_positive, require_top_k
from quiltwork.compose.statistics import PublicText, moments_of
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base
from quiltwork.models.discriminants import Covariance, Discriminants
from quiltwork.models.residual import ResidualMoments
from quiltwork.models.routers import Rows


@dataclass(frozen=True)
class ResidualLDA:
    """Router of rows by linear discriminant analysis of the base's residual stream.

    Attributes:
        covariance: ``"pooled"`` over the parties and the public text, or the ``"public"`` text's own.
        shrinkage: share of the covariance that is replaced by a multiple of the identity, in [0, 1].
        temperature: divides rows and offsets; above one trusts a single token less.
        offsets: add the offsets of the analysis (native format only). Without them the rows are turned so that the
            boundary between a party and the base keeps its middle, which is all that a public format can hold.
        top_k: experts a token; None for all.
        renormalise: rescale the top-k weights to sum to one.
    """

    covariance: Covariance = "pooled"
    shrinkage: float = 0.1
    temperature: float = 1.0
    offsets: bool = True
    top_k: int | None = None
    renormalise: bool = True

    def __post_init__(self) -> None:
        if self.covariance not in ("pooled", "public"):
            why = "there is no such covariance"
            raise InvalidOption(f"covariance={self.covariance!r}", why=why, mend="Use 'pooled' or 'public'.")
        if not 0 <= self.shrinkage <= 1:
            why = "it is the share of the identity in the covariance"
            raise InvalidOption(f"shrinkage={self.shrinkage}", why=why, mend="Choose one in [0, 1].")
        require_positive(temperature=self.temperature)
        require_top_k(self.top_k)

    @property
    def name(self) -> str:
        """``residual_lda``."""
        return "residual_lda"

    def needs(self) -> frozenset[str]:
        """Residual moments."""
        return frozenset({"moments"})

    def routing(
        self, base: Base, members: Sequence[Contribution], public: PublicText, weights: Mapping[str, float]
    ) -> Rows | Discriminants:
        """The rows, or with a pooled covariance the moments that they are computed from.

        Raises:
            InvalidOption: the public text's moments are not given, or the base is a mixture itself.
            TensorMismatch: moments are of another model.
        """
        require_dense(base, "rows of moments")
        described = public.get("moments")
        if not isinstance(described, ResidualMoments):
            raise InvalidOption(
                "a router by discriminant analysis without moments of public text",
                why="they are what the base's own row is computed from",
                mend="Give public text, or a contribution of statistics that holds its moments.",
            )
        found = Discriminants(
            moments={c.party: moments_of(c, base) for c in members},
            public=described,
            dtype=base.dtype,
            covariance=self.covariance,
            shrinkage=self.shrinkage,
            temperature=self.temperature,
            offset=self.offsets,
            top_k=self.top_k,
            renormalise=self.renormalise,
            weights=weights,
        )
        return found if self.covariance == "pooled" else found.in_rows()
