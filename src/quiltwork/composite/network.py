"""A composed network with its provenance.

It keeps every contribution as it was handed over, so that taking a party out is composing the others:

    compose(S).without(p) == compose(S - {p})        bit for bit, in memory and from disk

What leaves with p is all that p handed over, what others released about p's module, and what they trained on top of
either (`quiltwork.composite.network_members`). A saved composite is a directory: ``contributions/`` holds the
contributions, each in the format of its own, ``quiltwork.json`` the rest. The model is built from them whenever it is
opened, so that a directory cannot say one thing and do another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.composite.network_agreement import agreed_task, checked
from quiltwork.composite.network_members import Member, members_of
from quiltwork.composite.network_solution import NetworkMethod, NetworkSolution
from quiltwork.composite.provenance import Entry, Provenance
from quiltwork.contribution.networks import TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import ExportError, InvalidOption, MalformedContribution
from quiltwork.files import new_directory

if TYPE_CHECKING:
    from torch import nn

    from quiltwork.models.network.exports import ExportFormat

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NetworkComposite:
    """Networks trained apart, composed. Make it with `of`, which checks.

    Attributes:
        method: how they are composed.
        task: what all of them agree on.
        contributions: what the parties handed over, sorted by party, kind and digest; settled.
    """

    method: NetworkMethod
    task: TaskReference
    contributions: tuple[Contribution, ...]

    @classmethod
    def of(cls, contributions: Sequence[Contribution], method: NetworkMethod) -> NetworkComposite:
        """Check contributions in full, in any order, and build the model.

        Raises:
            TaskMismatch, DuplicateParty, MissingPart, TensorMismatch: they do not belong together, or do not hold what
                the method needs.
            InvalidOption: the method names a party that is not there, or an option does not fit.
        """
        kept = checked(contributions, method)
        composite = cls(method, agreed_task(kept), kept)
        _ = composite.solution
        return composite

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The parties with what they handed over and counts now, sorted."""
        return members_of(self.contributions)

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties in it, sorted; those that brought statistics alone among them."""
        return tuple(sorted({c.party for c in self.contributions}))

    @property
    def provenance(self) -> Provenance:
        """Who is in it, a row for each contribution."""
        entries = tuple(Entry(c.party, c.digest, c.manifest.licence) for c in self.contributions)
        return Provenance(None, self.method.name, entries)

    @cached_property
    def solution(self) -> NetworkSolution:
        """What the method makes of the contributions."""
        return self.method.build(self.task, self.members)

    def model(self) -> nn.Module:
        """The composed network, in evaluation mode: raw inputs [n, *shape] to logits, or numbers, [n, outputs].

        It is one object: what is set on it (the setting of a stitched network, say) holds for ``predict`` too.
        """
        return self.solution.model

    def outputs(self, inputs: ArrayLike, *, batch: int = 256) -> Array:
        """What the model says of raw inputs, float64 ``[n, outputs]``: logits, or numbers.

        Args:
            inputs: ``[n, *shape]``, in the task's units.
            batch: how many go through the model at once.

        Raises:
            InvalidOption: the inputs are of another shape, or not finite numbers.
            MalformedContribution: somebody's network gives no number for one of them, so neither does the model.
        """
        import torch

        found = []
        for part in self._batches(inputs, batch):
            with torch.no_grad():
                found.append(self.model()(torch.from_numpy(part)).double().numpy())
            if np.isnan(found[-1]).any():
                raise self._no_number(part[np.isnan(found[-1]).any(axis=1)][:1])
        return np.concatenate(found)

    def _no_number(self, row: NDArray[np.float32]) -> MalformedContribution:
        """Whose network it is that gives none: a stranger's can take the logarithm of what it likes."""
        import torch

        modules = [member for member in self.members if "module" in member.parts]
        whose = [m.party for m in modules if not torch.isfinite(m.network(torch.from_numpy(row))).all()]
        return MalformedContribution(
            f"the network of party {' and '.join(map(repr, whose))}" if whose else "the composed network",
            why="for one of the inputs it gives what is not a number",
            mend="Compose without that party, or leave such inputs out." if whose else "Leave such inputs out.",
        )

    def predict_proba(self, inputs: ArrayLike, *, batch: int = 256) -> Array:
        """Probability of each class, float64 ``[n, classes]``; as `outputs`.

        Raises:
            InvalidOption: the task has no classes, or as `outputs`.
        """
        if self.task.classes is None:
            raise InvalidOption(
                "probabilities", why="the task has numbers and no classes", mend="Ask for predict() instead."
            )
        logits = self.outputs(inputs, batch=batch)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)

    def predict(self, inputs: ArrayLike, *, batch: int = 256) -> NDArray[Any]:
        """The likeliest class of each input by name, or its numbers ``[n, outputs]``; as `outputs`."""
        outputs = self.outputs(inputs, batch=batch)
        return outputs if self.task.classes is None else np.asarray(self.task.classes)[outputs.argmax(axis=1)]

    def _batches(self, inputs: ArrayLike, batch: int) -> Iterator[NDArray[np.float32]]:
        rows = np.asarray(inputs)
        if rows.shape[1:] != self.task.shape or not len(rows):
            raise InvalidOption(
                f"inputs of shape {list(rows.shape)}",
                why=f"the task's are [n, {', '.join(map(str, self.task.shape))}], with one input or more",
                mend="Give raw inputs in the shape and the units that the parties declared.",
            )
        for start in range(0, len(rows), batch):
            with np.errstate(over="ignore"):  # refused below, by name
                part = np.ascontiguousarray(rows[start : start + batch], dtype=np.float32)
            if not np.isfinite(part).all():
                raise InvalidOption("inputs", why="one is not finite in float32", mend="Leave such inputs out.")
            yield part

    def without(self, party: str) -> NetworkComposite:
        """The composite of the other parties, composed anew from what they handed over.

        Raises:
            InvalidOption: the party is not in it, or the method joins it to another by name.
            ExportError: nobody would be left.
            MissingPart: the others do not hold what the method needs, as ``compose`` says of them.
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
        rest = [c for c in self.contributions if c.party != party]
        return NetworkComposite.of(rest, _forgetting(self.method, party))

    def export(self, target: str | Path, form: ExportFormat, *, setting: str | None = None) -> Path:
        """Write the model for use elsewhere, in one file; who is in it and how to take them out is not in it.

        Args:
            target: a file that is not there yet.
            form: ``"pt2"`` (torch.export) or ``"onnx"`` (extra ``onnx``).
            setting: of a stitched network: a party, ``"ensemble"`` or ``"stitched"``; None: the present one.

        Raises:
            InvalidOption: there is no such form or setting, or the model has no settings.
            ExportError: the form cannot hold the model.
            StorageError: the file is there, or cannot be written.
        """
        from quiltwork.models.network.exports import export
        from quiltwork.models.network.stitched import StitchedNetwork

        model = self.model()
        before = model.setting if isinstance(model, StitchedNetwork) else None
        if setting is not None:
            if not isinstance(model, StitchedNetwork):
                why = f"a model composed by {self.method.name} has none"
                raise InvalidOption(f"setting {setting!r}", why=why, mend="Leave it out.")
            model.set(setting)
        try:
            export(model, self.task.shape, Path(target), form)
        finally:
            if isinstance(model, StitchedNetwork) and before is not None:
                model.set(before)
        return Path(target)

    def to_json(self) -> dict[str, Any]:
        """What quiltwork.json says: the task, the method and its options, who is in it, what was found."""
        from quiltwork.composite.network_files import describe

        return describe(self)

    def save(self, target: str | Path, *, overwrite: bool = False) -> Path:
        """Write the composite as a directory; all of it or nothing.

        Args:
            target: directory to make.
            overwrite: replace an existing directory.

        Raises:
            ExportError: an option of the method cannot be written as JSON.
            AlteredContribution: a contribution changed on disk since it was read.
            StorageError: the file system refuses.
        """
        from quiltwork.composite.network_files import write

        with new_directory(target, overwrite=overwrite) as partial:
            write(self, partial)
        return Path(target)


def _forgetting(method: NetworkMethod, party: str) -> NetworkMethod:
    """The method without the weight of a party, as whoever never knew the party would have stated it."""
    weights = getattr(method, "weights", None)
    if not isinstance(weights, Mapping) or party not in weights:
        return method
    kept: Any = {name: weight for name, weight in weights.items() if name != party}
    own: Any = method  # every method is a dataclass, which its protocol cannot say
    usual: Any = next(one for one in fields(own) if one.name == "weights")
    if not kept:
        kept = usual.default_factory() if usual.default is MISSING else usual.default
    forgotten: NetworkMethod = replace(own, weights=kept)
    return forgotten
