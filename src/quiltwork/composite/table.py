"""A composed mixture of experts on tables, with its provenance.

It keeps every machine's local fit as it was given, so that taking one out is composing the others:

    compose(S).without(p) == compose(S - {p})        bit for bit, in memory and from disk

A saved composite is a directory: ``model.safetensors`` is the composed mixture, ``party-<name>.safetensors`` a local
fit each, ``quiltwork.json`` the rest (what the machines agree on, the method and its options, who was excluded and
why). Same locals, same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.composite.provenance import Provenance
from quiltwork.composite.solution import Solution, TableMethod
from quiltwork.errors import ExportError, InvalidOption
from quiltwork.files import new_directory

if TYPE_CHECKING:
    from quiltwork.models.mixture.classifier import MixtureOfExpertsClassifier
    from quiltwork.models.mixture.experts import Experts
    from quiltwork.models.mixture.local import Local, Table
    from quiltwork.models.mixture.mixture import Mixture
    from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor


@dataclass(frozen=True, eq=False)
class TableComposite:
    """Mixtures fitted apart, composed.

    Attributes:
        method: how they are composed.
        table: what the machines agree on.
        locals: the local fits, sorted by party.
        provenance: where they come from.
        saved: the solution as a directory holds it; None to solve when it is asked for.
    """

    method: TableMethod
    table: Table
    locals: tuple[Local, ...]
    provenance: Provenance
    saved: Solution | None = None

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties in it, sorted; those that the method excluded among them."""
        return tuple(local.party for local in self.locals)

    @cached_property
    def solution(self) -> Solution:
        """What the method makes of the local fits."""
        return self.saved or self.method.solve(self.table, self.locals)

    @property
    def mixture(self) -> Mixture[Experts]:
        """The composed mixture, in raw units."""
        return self.solution.mixture

    def model(self) -> MixtureOfExpertsRegressor | MixtureOfExpertsClassifier:
        """The composed mixture as a fitted scikit-learn estimator that knows the table's names."""
        if self.table.classes is not None:
            from quiltwork.models.mixture.classifier import MixtureOfExpertsClassifier

            return MixtureOfExpertsClassifier.from_mixture(
                self.mixture, feature_names=self._given_names(), classes=self.table.classes
            )
        from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor

        return MixtureOfExpertsRegressor.from_mixture(self.mixture, feature_names=self._given_names())

    def _given_names(self) -> tuple[str, ...] | None:
        """The features' names, if owners named them: x0, x1, … are made up for arrays, and bind nobody to a frame."""
        made_up = tuple(f"x{number}" for number in range(self.table.n_features))
        return None if self.table.features == made_up else self.table.features

    def without(self, party: str) -> TableComposite:
        """The composite of the other machines, solved anew from their local fits.

        Raises:
            InvalidOption: the party is not in it.
            ExportError: nobody would be left.
        """
        if party not in self.parties:
            raise InvalidOption(
                f"party '{party}'",
                why="it is not in the composite",
                mend=f"The parties are: {', '.join(self.parties)}.",
            )
        if len(self.parties) == 1:
            raise ExportError(
                f"removing party '{party}'", why="it is the only one left", mend="Delete the composite itself."
            )
        kept = tuple(local for local in self.locals if local.party != party)
        return TableComposite(self.method, self.table, kept, self.provenance.without(party))

    def to_json(self) -> dict[str, Any]:
        """What quiltwork.json says: the table, the method and its options, who is in it, who was excluded and why."""
        from quiltwork.composite.table_files import describe

        return describe(self)

    def save(self, target: str | Path, *, overwrite: bool = False) -> Path:
        """Write the composite as a directory; all of it or nothing.

        Args:
            target: directory to make.
            overwrite: replace an existing directory.

        Raises:
            ExportError: an option of the method cannot be written as JSON, or a party's name as a file's.
            StorageError: the file system refuses.
        """
        from quiltwork.composite.table_files import contents

        found = contents(self)
        with new_directory(target, overwrite=overwrite) as partial:
            for name, data in found.items():
                (partial / name).write_bytes(data)
        return Path(target)
