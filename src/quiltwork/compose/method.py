"""The verb ``compose`` and its noun, the method.

    compose(contributions, method, base) -> Composite

``compose`` checks once, in full, before anything is built, that the contributions belong together: one base, one
tokenizer, no party twice, the parts that the method needs, every tensor of the base's shape. Then the method does the
mathematics. It sees the contributions sorted by party, so their order cannot matter.

A method is a frozen dataclass with three things: a ``name``, what it ``needs``, and ``assemble``. The smallest one
that works, a blend in which the first party by name takes all:

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
from typing import Protocol, runtime_checkable

from quiltwork.compose.parts import body, check_tensors
from quiltwork.composite import Composite, Entry, Provenance
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import BaseMismatch, DuplicateParty, InvalidOption, MissingPart, TokenizerMismatch
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.assembly import Assembly, Blend
from quiltwork.models.base import Base
from quiltwork.models.checkpoint import TokenizerFiles

__all__ = ["FEATURES", "Assembly", "Blend", "Histograms", "Method", "body", "compose"]

FEATURES = ("tokens", "bigrams")
"""What an evidence router can read a text as."""


Histograms = Mapping[str, TokenHistogram]
"""Histograms of one text by feature: ``"tokens"``, ``"bigrams"``."""


@runtime_checkable
class Method(Protocol):
    """How contributions become one model."""

    @property
    def name(self) -> str:
        """What scores and reports call it."""
        ...

    def needs(self) -> frozenset[str]:
        """The parts that every contribution must hold: ``ffn``, ``full``, ``tokens``, ``bigrams``, ``moments``."""
        ...

    def assemble(self, base: Base, contributions: Sequence[Contribution], public: Histograms) -> Assembly:
        """The composed model, from checked contributions sorted by party; ``public`` may be empty."""
        ...


def compose(
    contributions: Sequence[Contribution],
    method: Method,
    base: Base,
    *,
    public: Histograms | Contribution | None = None,
) -> Composite:
    """Compose contributions into one model.

    Args:
        contributions: as read by ``contribution.store.read``; any order.
        method: how.
        base: the public checkpoint that all of them started from.
        public: histograms of public text by feature, or a contribution that holds them. They give evidence routers a
            row for "this is ordinary public text", which the base answers.

    Returns:
        A composite with provenance; nothing is written and no weight is loaded yet.

    Raises:
        BaseMismatch, TokenizerMismatch, DuplicateParty, MissingPart, TensorMismatch: the contributions do not belong
            together, or do not hold what the method needs.
        InvalidOption: there is nothing to compose, or the method names a party that is not there.
    """
    if not contributions:
        raise InvalidOption("an empty list", why="there is nothing to compose", mend="Give at least one contribution.")
    ordered = sorted(contributions, key=lambda c: c.party)
    _check_parties(ordered)
    for contribution in ordered:
        check_base(contribution, base)
        _check_parts(contribution, method)
        check_tensors(contribution, base, method.needs())
    if isinstance(public, Contribution):
        check_base(public, base)
        public = {part: histogram_of(public, part) for part in FEATURES if part in public.parts}
    assembly = method.assemble(base, ordered, public or {})
    provenance = Provenance(
        base=base.digest,
        method=method.name,
        contributions=tuple(
            Entry(c.party, c.digest, c.manifest.licence) for c in ordered if c.party in assembly.parties
        ),
    )
    return Composite(assembly, provenance, TokenizerFiles.of(base))


def histogram_of(contribution: Contribution, features: str) -> TokenHistogram:
    """A histogram that a contribution declares, ``"tokens"`` or ``"bigrams"``.

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


def chosen(parties: Sequence[str], include: Sequence[str] | None, weights: Mapping[str, float]) -> list[str]:
    """The parties that take part, sorted: all, or those of ``include``; each named party must be there.

    Raises:
        InvalidOption: a name is unknown, a weight is not a positive number, or nobody takes part.
    """
    if include is not None and not include:
        raise InvalidOption("include=()", why="nobody would take part", mend="Name a party, or use None for all.")
    for name in [*(include or []), *(w for w in weights if w != "base")]:
        if name not in parties:
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
    return sorted(set(include if include is not None else parties))


def slot_weights(parties: Sequence[str], weights: Mapping[str, float]) -> dict[str, float]:
    """Weight of every slot, one unless stated; the base stands under the empty name."""
    return {"": float(weights.get("base", 1.0))} | {p: float(weights.get(p, 1.0)) for p in parties}


def _check_parties(contributions: Sequence[Contribution]) -> None:
    if any(contribution.party == "base" for contribution in contributions):
        raise InvalidOption(
            "party 'base'",
            why="in weights and reports that name stands for the base model",
            mend="Ask the party to contribute under another name.",
        )
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
        TokenizerMismatch: tokenizer or vocabulary differ.
        BaseMismatch: the weights or config differ.
    """
    reference = contribution.manifest.base
    who = f"the contribution of party '{contribution.party}'"
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


def _check_parts(contribution: Contribution, method: Method) -> None:
    for part in sorted(method.needs() - contribution.parts):
        raise MissingPart(
            f"the contribution of party '{contribution.party}'",
            why=f"method {method.name} needs the part '{part}', and it holds {', '.join(sorted(contribution.parts))}",
            mend="Choose another method, leave the party out, or ask it to contribute that part.",
        )
