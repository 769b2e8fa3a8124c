"""Saved composites opened again, of any kind.

A directory names its method; the closed table here says which class that is and checks the options against its fields.
Nothing is imported by a name that data gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.composite import (
    Composite,
    NetworkComposite,
    NetworkMethod,
    TableComposite,
    TableMethod,
    open_composite,
    saved_kind,
)
from quiltwork.composite.provenance import PROVENANCE, read_provenance
from quiltwork.composite.saved import options_of
from quiltwork.contribution.canonical import encode
from quiltwork.errors import CheckpointError, CompatibilityError, ContributionError, InvalidOption

if TYPE_CHECKING:
    from quiltwork.contribution.trust import Trust

LANGUAGE_METHODS: Mapping[str, type[Ensemble] | type[MixtureOfExperts]] = {
    "btm": Ensemble,
    "uniform_ensemble": Ensemble,
    "evidence_ffn": MixtureOfExperts,
    "evidence_full": MixtureOfExperts,
    "evidence_rows": MixtureOfExperts,
    "learned_rows": MixtureOfExperts,
    "prompt_rows": MixtureOfExperts,
    "residual_lda": MixtureOfExperts,
}
"""Methods whose language models others can join, by the name in provenance."""

M = TypeVar("M")


def table_methods() -> Mapping[str, type[TableMethod]]:
    """Methods over tables by the name in provenance, imported when asked for: other kinds open without scipy."""
    from quiltwork.compose.aligned_average import AlignedAverage
    from quiltwork.compose.ambient import AmbientMixture
    from quiltwork.compose.middle import Middle
    from quiltwork.compose.precision_average import PrecisionAverage
    from quiltwork.compose.reduction import Reduction

    return {
        "aligned_average": AlignedAverage,
        "ambient": AmbientMixture,
        "middle": Middle,
        "precision_average": PrecisionAverage,
        "reduction": Reduction,
    }


def network_methods() -> Mapping[str, type[NetworkMethod]]:
    """Methods over networks by the name in provenance, imported when asked for: other kinds open without torch."""
    from quiltwork.compose.combine import Combine
    from quiltwork.compose.gaussian_head import GaussianHead
    from quiltwork.compose.network_alone import NetworkAlone
    from quiltwork.compose.network_soup import NetworkSoup
    from quiltwork.compose.stitch import Stitch

    return {
        "combine": Combine,
        "gaussian_head": GaussianHead,
        "network_alone": NetworkAlone,
        "network_soup": NetworkSoup,
        "stitch": Stitch,
    }


def open_any(path: str | Path, *, trust: Trust | None = None) -> Composite | TableComposite | NetworkComposite:
    """A saved composite of any kind, without base or contributions.

    Args:
        path: its directory.
        trust: what was taken back; a composite of it is refused before it is opened.

    Raises:
        RevokedContribution: a party took back what is in it.
        CheckpointError: the directory is not a composite that quiltwork saved, or was changed.
        ExportError: it is a soup, which holds a sum only.
    """
    provenance = read_provenance(Path(path))
    if trust is not None:
        provenance.refuse_revoked(trust)
    match saved_kind(path):
        case "table":
            return open_table_composite(path)
        case "network":
            return open_network_composite(path)
        case "language":
            return open_composite(path)


def open_table_composite(path: str | Path) -> TableComposite:
    """A saved mixture on tables as a composite again: predict with it, take a party out of it.

    Raises:
        CheckpointError: the directory is not a composite that quiltwork saved, was changed, or names a method or an
            option that this installation does not know.
    """
    from quiltwork.composite.table_files import read_table

    saved = read_table(path)
    method = make_table_method(saved.method, saved.options, Path(path) / PROVENANCE)
    return TableComposite(method, saved.table, saved.locals, saved.provenance, saved.solution)


def open_network_composite(path: str | Path) -> NetworkComposite:
    """A saved composition of networks as a composite again: predict with it, take a party out of it.

    Raises:
        CheckpointError: the directory is not a composite that quiltwork saved, was changed, names a method or an option
            that this installation does not know, or holds contributions that do not belong together.
    """
    from quiltwork.composite.network_files import read_network

    where = Path(path) / PROVENANCE
    saved = read_network(path)
    method = make_network_method(saved.method, saved.options, where)
    try:
        composite = NetworkComposite.of(saved.contributions, method)
    except (CompatibilityError, ContributionError, InvalidOption) as error:
        raise CheckpointError(f"'{path}'", why=f"{error.what}: {error.why}", mend="Compose the model again.") from error
    if (composite.contributions, composite.task) != (saved.contributions, saved.task):
        why = "its contributions are of another task than it says, or some are about modules that are not there"
        raise CheckpointError(f"'{where}'", why=why, mend="Compose the model again.")
    return composite


def make_table_method(name: str, options: Mapping[str, Any], where: Path) -> TableMethod:
    """The method over tables of a name, with options as JSON has them.

    Args:
        name: a key of ``table_methods()``.
        options: every field of the method's dataclass.
        where: the file that they are from, for messages.

    Raises:
        CheckpointError: there is no such method, or the options are not its own.
    """
    return _made(table_methods(), name, options, where)


def make_network_method(name: str, options: Mapping[str, Any], where: Path) -> NetworkMethod:
    """The method over networks of a name: as `make_table_method`."""
    return _made(network_methods(), name, options, where)


def make_language_method(name: str, options: Mapping[str, Any], where: Path) -> Ensemble | MixtureOfExperts:
    """The method over language models of a name: as `make_table_method`; nothing of the options may be left over."""
    method = _made(LANGUAGE_METHODS, name, options, where)
    if options_of(method) != dict(options) or method.name != name:
        raise _refused(name, where, "they are not those of one method")
    return method


def _made(known: Mapping[str, type[M]], name: str, options: Mapping[str, Any], where: Path) -> M:
    if name not in known:
        raise CheckpointError(
            f"method {name[:100]!a} in '{where}'",
            why=f"this installation knows {', '.join(known)}",
            mend="Compose again with one of these, or open it where the method is known.",
        )
    kind = known[name]
    own = {field.name for field in fields(kind)}  # type: ignore[arg-type] # methods are dataclasses
    if own != options.keys():
        odd = sorted(own ^ options.keys())[0]
        raise _refused(name, where, f"{'it lacks' if odd in own else 'it has no'} option {odd[:100]!a}")
    try:
        method: M = TypeAdapter(kind).validate_json(encode(options), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _refused(name, where, f"option {first['loc'][:1]}: {first['msg'][:300]!a}") from error
    return method


def _refused(name: str, where: Path, why: str) -> CheckpointError:
    return CheckpointError(f"the options of method {name} in '{where}'", why=why, mend="Compose the model again.")
