"""What an owner of a table wants to contribute, checked before any row is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from quiltwork.errors import InvalidOption
from quiltwork.evidence.clipped import ClippedGaussian
from quiltwork.evidence.covariates import MINIMUM_ROWS
from quiltwork.party.private_em import PrivateFit
from quiltwork.party.words import check_words


@dataclass(frozen=True)
class MixtureOrder:
    """What to fit to a table, and what of it to release.

    Attributes:
        party: its name.
        n_experts: K, or ``"bic"`` to choose it by the Bayesian information criterion.
        covariates: the summary of covariates: the most groups in it (1: a mean and a covariance), or a rule for one
            group under noise, or None to release none.
        minimum_rows: fewest rows of a group in that summary; a smaller one would show its rows.
        precision: release how sharply the rows determine the parameters; under a ``private`` fit, a rule.
        report_likelihood: state the log-likelihood of the rows, which is a figure of private rows; a ``private`` fit
            never states it.
        licence: of the contribution, an SPDX expression or a sentence.
        card: free text for whoever composes.
        seed: of starts and of the groups of covariates.
        options: further options of the estimator, by name.
        private: a rule for a fit under noise; None for an ordinary fit, which nothing bounds.

    Raises:
        InvalidOption: a word breaks the format's rules, or the order would release something exact beside a fit under
            noise, so that the noise would protect nothing.
    """

    party: str
    n_experts: int | Literal["bic"] = 2
    covariates: int | ClippedGaussian | None = 1
    minimum_rows: int = MINIMUM_ROWS
    precision: bool | ClippedGaussian = False
    report_likelihood: bool = True
    licence: str = "LicenseRef-unstated"
    card: str = ""
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    private: PrivateFit | None = None

    def __post_init__(self) -> None:
        check_words({"party": self.party, "licence": self.licence, "card": self.card})
        if self.private is None and isinstance(self.precision, ClippedGaussian):
            raise InvalidOption(
                "precision under noise",
                why="responsibilities of an exact fit depend on all rows, so the noise would bound nothing",
                mend="Ask for a private fit too, or for precision as it is.",
            )
        if self.private is not None:
            self._require_private()

    def _require_private(self) -> None:
        for name, value in (("covariates", self.covariates), ("precision", self.precision)):
            if value is not None and value is not False and not isinstance(value, ClippedGaussian):
                raise InvalidOption(
                    f"{name}={value!r}",
                    why="released as it is beside a fit under noise, it would undo what the noise is for",
                    mend=f"Give {name} a rule (quiltwork.evidence.clipped), or leave it out.",
                )
        if not isinstance(self.n_experts, int) or not 1 <= self.n_experts <= 1024:
            raise InvalidOption(
                f"n_experts={self.n_experts!r}",
                why="under noise the number of experts is declared, since choosing it would cost privacy too",
                mend="Choose a whole number from 1 to 1024.",
            )
        if self.options:
            raise InvalidOption(
                f"option '{min(self.options)}' of the fit",
                why="a fit under noise has its own rule",
                mend="Leave it out.",
            )
