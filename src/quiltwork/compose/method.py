"""The verb ``compose`` and its noun, the method.

    compose(contributions, method, base) -> Composite         experts of a language model, on one base
    compose(contributions, method)       -> TableComposite    mixtures fitted to the rows of one table
    compose(contributions, method)       -> NetworkComposite  networks for one task on inputs, images say

``compose`` checks once, in full, before anything is built, that the contributions belong together: no party twice, the
parts that the method needs, and one base, one tokenizer and every tensor of the base's shape, or one table of the same
features in the same units, or one task of the same inputs and classes. Then the method does the mathematics. It sees
the contributions sorted by party, so their order cannot matter.

A method is a frozen dataclass with three things: a ``name``, what it ``needs``, and ``assemble``, or ``solve`` if it
composes mixtures on tables (`quiltwork.compose.tables`), or ``build`` for networks (`quiltwork.compose.networks`). The
smallest one that works, a blend in which the first party by name takes all:

>>> from dataclasses import dataclass
>>> from quiltwork.compose.parts import full_deltas
>>> @dataclass(frozen=True)
... class FirstOnly:
...     name: str = "first_only"
...     def needs(self) -> frozenset[str]:
...         return frozenset({"full"})
...     def assemble(self, base, contributions, public):
...         first = contributions[0]
...         return Blend(body(base), {first.party: full_deltas(first, base)}, {first.party: 1.0})
>>> isinstance(FirstOnly(), Method)
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

from quiltwork.compose.fitting import check_tensors
from quiltwork.compose.parts import body
from quiltwork.compose.public_digest import public_digest
from quiltwork.compose.statistics import FEATURES, PublicText, described_by
from quiltwork.composite import (
    Composite,
    Entry,
    NetworkComposite,
    NetworkMethod,
    Provenance,
    TableComposite,
    TableMethod,
)
from quiltwork.composite.provenance import kept_options
from quiltwork.composite.saved import options_of
from quiltwork.composite.written import inherited_from
from quiltwork.contribution.fields import is_named, owner_of
from quiltwork.contribution.manifest import ExpertManifest, StatisticsManifest
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import (
    BaseMismatch,
    DuplicateParty,
    ExportError,
    InvalidOption,
    MissingPart,
    TokenizerMismatch,
)
from quiltwork.models.assembly import Assembly, Blend
from quiltwork.models.averaged import AveragedExperts
from quiltwork.models.base import Base
from quiltwork.models.checkpoint import TokenizerFiles

if TYPE_CHECKING:
    from quiltwork.contribution.trust import Trust

__all__ = ["FEATURES", "Assembly", "Blend", "Method", "PublicText", "body", "compose"]


@runtime_checkable
class Method(Protocol):
    """How contributions become one model."""

    @property
    def name(self) -> str:
        """What scores and reports call it."""
        ...

    def needs(self) -> frozenset[str]:
        """What every contribution must provide: ``ffn``, ``full``, ``tokens``, ``bigrams``, ``moments``."""
        ...

    def assemble(self, base: Base, contributions: Sequence[Contribution], public: PublicText) -> Assembly:
        """The composed model, from checked contributions sorted by party; ``public`` may be empty."""
        ...


@overload
def compose(
    contributions: Sequence[Contribution],
    method: TableMethod,
    base: None = None,
    *,
    public: None = None,
    trust: Trust | None = None,
) -> TableComposite: ...


@overload
def compose(
    contributions: Sequence[Contribution],
    method: NetworkMethod,
    base: None = None,
    *,
    public: None = None,
    trust: Trust | None = None,
) -> NetworkComposite: ...


@overload
def compose(
    contributions: Sequence[Contribution],
    method: Method,
    base: Base | None = None,
    *,
    public: PublicText | Contribution | None = None,
    trust: Trust | None = None,
) -> Composite: ...


@overload
def compose(
    contributions: Sequence[Contribution],
    method: Method | TableMethod | NetworkMethod,
    base: Base | None = None,
    *,
    public: PublicText | Contribution | None = None,
    trust: Trust | None = None,
) -> Composite | TableComposite | NetworkComposite: ...


def compose(
    contributions: Sequence[Contribution],
    method: Method | TableMethod | NetworkMethod,
    base: Base | None = None,
    *,
    public: PublicText | Contribution | None = None,
    trust: Trust | None = None,
) -> Composite | TableComposite | NetworkComposite:
    """Compose contributions into one model.

    Args:
        contributions: as read by ``contribution.store.read``; any order. To networks a party may hand over several.
        method: how.
        base: the public checkpoint that all of them started from; mixtures on tables and networks start from none.
        public: histograms of public text by feature, and moments if a router needs them, or a contribution that holds
            them. They say what "ordinary public text" is, which the base answers.
        trust: whose signatures to require, and what was taken back; None asks for no signature.

    Returns:
        A composite with provenance; nothing is written. No weight of a language model is loaded yet; a mixture on
        tables is solved, a composed network built.

    Raises:
        BaseMismatch, TokenizerMismatch, DuplicateParty, MissingPart, TensorMismatch, TableMismatch, TaskMismatch: the
            contributions do not belong together, or do not hold what the method needs.
        InvalidOption: there is nothing to compose, the method names a party that is not there, or a base is given
            where none belongs or missing where one does.
        UntrustedContribution, RevokedContribution, MalformedContribution: as `Trust.require`.
    """
    if not contributions:
        raise InvalidOption("an empty list", why="there is nothing to compose", mend="Give at least one contribution.")
    if trust is not None:
        trust.require([*contributions, *([public] if isinstance(public, Contribution) else [])])
    if isinstance(method, TableMethod | NetworkMethod) and (base is not None or public is not None):
        raise InvalidOption(
            f"a base or public text for method {method.name}",
            why="it composes mixtures on tables or networks, which start from none",
            mend="Leave it out, or choose a method for language models.",
        )
    if isinstance(method, NetworkMethod):
        check_names(contributions)
        return NetworkComposite.of(contributions, method)
    ordered = sorted(contributions, key=lambda c: c.party)
    check_parties(ordered)
    if isinstance(method, TableMethod):
        return _compose_tables(ordered, method)
    if base is None:
        raise InvalidOption(
            f"method {method.name} without a base",
            why="it composes language models, and their contributions are changes to a base",
            mend="Give the base that the parties started from, or choose a method for tables or networks.",
        )
    composite = _compose_language(ordered, method, base, public)
    if trust is not None:
        composite.provenance.refuse_revoked(trust)  # what is in a base that is a composite itself
    return composite


def _compose_language(
    ordered: Sequence[Contribution], method: Method, base: Base, public: PublicText | Contribution | None
) -> Composite:
    for contribution in ordered:
        check_base(contribution, base)
        check_parts(contribution, method)
        check_tensors(contribution, base, method.needs())
    if isinstance(public, Contribution):
        check_base(public, base)
        public = described_by(public, base)
    assembly = method.assemble(base, ordered, public or {})
    entries = _entries([c for c in ordered if c.party in assembly.parties])
    provenance = Provenance(
        base.digest,
        method.name,
        entries,
        options=_options(method, assembly.parties),
        averaged=isinstance(assembly, AveragedExperts),
        public=public_digest(public or {}, method.needs()),
        inherited=inherited_from(base.path),
    )
    return Composite(assembly, provenance, TokenizerFiles.of(base))


def _options(method: Method, parties: Sequence[str]) -> dict[str, Any] | None:
    """What a composite of ``parties`` remembers of its method; None where that cannot be written as JSON."""
    try:
        return kept_options(options_of(method), parties)
    except ExportError:
        return None


def _compose_tables(ordered: Sequence[Contribution], method: TableMethod) -> TableComposite:
    from quiltwork.compose.tables import agreed_table, local_of

    table = agreed_table(ordered)
    for contribution in ordered:
        check_parts(contribution, method)
    locals_ = tuple(local_of(contribution) for contribution in ordered)
    composite = TableComposite(method, table, locals_, Provenance(None, method.name, _entries(ordered)))
    # what the method refuses (machines that disagree on K, say) is refused here and not when somebody first asks
    _ = composite.solution
    return composite


def _entries(contributions: Sequence[Contribution]) -> tuple[Entry, ...]:
    return tuple(Entry(c.party, c.digest, c.manifest.licence) for c in contributions)


def chosen(parties: Sequence[str], include: Sequence[str] | None, weights: Mapping[str, float]) -> list[str]:
    """The parties that take part, sorted: all, or those of ``include``; each named party must be there.

    ``include`` may name an owner, which stands for all its shares; a weight is of one of them.

    Raises:
        InvalidOption: a name is unknown, a weight is not a positive number, or nobody takes part.
    """
    if include is not None and not include:
        raise InvalidOption("include=()", why="nobody would take part", mend="Name a party, or use None for all.")
    known = {"include": {*parties, *map(owner_of, parties)}, "weights": {"base", *parties}}
    for option, name in [*(("include", n) for n in include or ()), *(("weights", w) for w in weights)]:
        if name not in known[option]:
            raise InvalidOption(
                f"party '{name}'",
                why="no contribution of that party is given",
                mend=f"The parties are: {', '.join(parties)}.",
            )
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise InvalidOption(
                f"weight {weight} of '{name}'",
                why="weights are positive numbers",
                mend="Leave a party out with include= rather than by a weight of zero.",
            )
    if sum(weights.values()) == float("inf"):
        raise InvalidOption(
            "weights", why="their sum, by which they are divided, is no number", mend="Give smaller ones."
        )
    return sorted(p for p in set(parties) if include is None or is_named(p, include))


def slot_weights(parties: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    """Weight of every slot, one unless stated; the base stands under the empty name."""
    return {"": float(weights.get("base", 1.0))} | {p: float(weights.get(p, 1.0)) for p in parties}


def check_names(contributions: Sequence[Contribution]) -> None:
    """Refuse a party that has the name of the base.

    Raises:
        InvalidOption: one has.
    """
    if any(owner_of(contribution.party) == "base" for contribution in contributions):
        raise InvalidOption(
            "party 'base'",
            why="in weights and reports that name stands for the base model",
            mend="Ask the party to contribute under another name.",
        )


def check_parties(contributions: Sequence[Contribution]) -> None:
    """Refuse parties that share a name, or have that of the base; the contributions are sorted.

    Raises:
        DuplicateParty, InvalidOption: one does.
    """
    check_names(contributions)
    for one, other in pairwise(contributions):
        if one.party == other.party:
            raise DuplicateParty(
                f"party '{one.party}'",
                why=f"two contributions carry its name ({one.digest[:19]}… and {other.digest[:19]}…)",
                mend="Compose with one of the two.",
            )


def check_base(contribution: Contribution, base: Base) -> None:
    """Refuse a contribution that was made from another base.

    Raises:
        MissingPart: it was made from no base.
        TokenizerMismatch: tokenizer or vocabulary differ.
        BaseMismatch: the weights or config differ.
    """
    manifest = contribution.manifest
    who = f"the contribution of party '{contribution.party}'"
    if not isinstance(manifest, ExpertManifest | StatisticsManifest):
        raise MissingPart(
            who,
            why=f"it is of kind '{contribution.kind}', and was made from no base",
            mend="Compose it with a method for tables or for networks, without a base.",
        )
    reference = manifest.base
    if reference.vocabulary_size != base.vocabulary_size or reference.tokenizer != base.tokenizer_digest:
        raise TokenizerMismatch(
            who,
            why=f"it was made with another tokenizer or vocabulary ({reference.vocabulary_size} tokens, "
            f"{reference.tokenizer[:19]}…) than the base ({base.vocabulary_size}, {base.tokenizer_digest[:19]}…)",
            mend="Token ids would mean different text. Ask for a contribution made from this base.",
        )
    if reference.digest != base.digest:
        raise BaseMismatch(
            who,
            why=f"it was made from base {reference.digest[:19]}…, and this base is {base.digest[:19]}…",
            mend="Compose with the base it was made from, or ask for a contribution made from this one.",
        )


def check_parts(contribution: Contribution, method: Method | TableMethod) -> None:
    """Refuse a contribution that does not hold what the method needs.

    Raises:
        MissingPart: it does not.
    """
    for part in sorted(method.needs() - contribution.provides):
        raise MissingPart(
            f"the contribution of party '{contribution.party}'",
            why=f"method {method.name} needs the part '{part}', and it holds {', '.join(sorted(contribution.parts))}",
            mend="Choose another method, leave the party out, or ask it to contribute that part.",
        )
