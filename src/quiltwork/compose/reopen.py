"""Saved composites opened again, of either kind.

A directory names its method; the closed table here says which class that is and checks the options against its fields.
Nothing is imported by a name that data gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.ambient import AmbientMixture
from quiltwork.compose.middle import Middle
from quiltwork.compose.precision_average import PrecisionAverage
from quiltwork.compose.reduction import Reduction
from quiltwork.composite import Composite, TableComposite, TableMethod, open_composite, saved_kind
from quiltwork.composite.provenance import PROVENANCE, read_provenance
from quiltwork.composite.table_files import read_table
from quiltwork.contribution.canonical import encode
from quiltwork.errors import CheckpointError

METHODS: Mapping[str, type[TableMethod]] = {
    "aligned_average": AlignedAverage,
    "ambient": AmbientMixture,
    "middle": Middle,
    "precision_average": PrecisionAverage,
    "reduction": Reduction,
}
"""Methods over tables by the name in provenance."""


def open_any(path: str | Path) -> Composite | TableComposite:
    """A saved composite of either kind, without base or contributions.

    Raises:
        CheckpointError: the directory is not a composite that quiltwork saved, or was changed.
        ExportError: it is a soup, which holds a sum only.
    """
    read_provenance(Path(path))
    return open_table_composite(path) if saved_kind(path) == "table" else open_composite(path)


def open_table_composite(path: str | Path) -> TableComposite:
    """A saved mixture on tables as a composite again: predict with it, take a party out of it.

    Raises:
        CheckpointError: the directory is not a composite that quiltwork saved, was changed, or names a method or an
            option that this installation does not know.
    """
    saved = read_table(path)
    method = make_table_method(saved.method, saved.options, Path(path) / PROVENANCE)
    return TableComposite(method, saved.table, saved.locals, saved.provenance, saved.solution)


def make_table_method(name: str, options: Mapping[str, Any], where: Path) -> TableMethod:
    """The method of a name, with options as JSON has them.

    Args:
        name: a key of ``METHODS``.
        options: every field of the method's dataclass.
        where: the file that they are from, for messages.

    Raises:
        CheckpointError: there is no such method, or the options are not its own.
    """
    if name not in METHODS:
        raise CheckpointError(
            f"method {name[:100]!a} in '{where}'",
            why=f"this installation knows {', '.join(METHODS)}",
            mend="Compose again with one of these, or open it where the method is known.",
        )
    kind = METHODS[name]
    own = {field.name for field in fields(kind)}  # type: ignore[arg-type] # methods are dataclasses
    if own != options.keys():
        odd = sorted(own ^ options.keys())[0]
        raise _refused(name, where, f"{'it lacks' if odd in own else 'it has no'} option {odd[:100]!a}")
    try:
        method: TableMethod = TypeAdapter(kind).validate_json(encode(options), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _refused(name, where, f"option {first['loc'][:1]}: {first['msg'][:300]!a}") from error
    return method


def _refused(name: str, where: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the options of method {name} in '{where}'", why=why, mend="Compose the model again.")
