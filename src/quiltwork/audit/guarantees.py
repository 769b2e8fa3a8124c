"""The guarantees G0 to G12: what each says, against whom, and what has to be shown before it counts as held.

A guarantee is held by a run if, and only if,

    its mode has a theorem for it,
    every check that it needs was run on this run, for every party where it speaks of parties,
    every one of them passed, and caught its planted breach,
    every attack that it needs was tried, and every party is sealed where it needs that.

In all other cases it is not held, and the reason is the first of these that is missing. There is no third state and
no score. Checks by hashes are decisive on what was tried; attacks are lower bounds, and hold nothing by failing.

Sources: arXiv 1812.00564 (G0), Shamir 1979 (G5), Bonawitz et al. 2017 (G6), Warner 1965 (G7a), arXiv 1607.00133 (G7b),
2112.03570 (G8), 2012.02670 (the attack of G12).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.check import Check
from quiltwork.audit.facts import Facts, Fixed

NO_THEOREM = "no theorem holds in this mode"


class Adversary(Fixed):
    """Against whom a guarantee is.

    Attributes:
        who: the role.
        behaviour: passive keeps to the protocol and looks; active does as it likes.
        collusion: with whom in league.
        knows: beside its own view.
    """

    who: str
    behaviour: str
    collusion: str
    knows: str


@dataclass(frozen=True)
class Guarantee:
    """One guarantee.

    Attributes:
        number: as in the documentation.
        title: in a few words.
        statement: what is claimed.
        adversary: against whom.
        enforcement: what makes it so.
        theorem: by mode, why it holds; a mode that is missing has none.
        otherwise: by mode, why it does not.
        needs: names of checks; of the names in one entry any will do.
        attacks: names of attacks that must have been tried.
        each: whether the checks are needed for each party.
        sealed: whether each party has to be sealed by the kernel.
    """

    number: str
    title: str
    statement: str
    adversary: Adversary
    enforcement: str
    theorem: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    otherwise: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    needs: tuple[tuple[str, ...], ...] = ()
    attacks: tuple[str, ...] = ()
    each: bool = False
    sealed: bool = False


class Standing(Fixed):
    """Whether a run holds a guarantee, and why.

    Attributes:
        number: of the guarantee.
        held: or not.
        why: the theorem, or what is missing.
        evidence: digests of the checks it stands on, or falls by.
    """

    number: str
    held: bool
    why: str
    evidence: tuple[str, ...]


def standing(guarantee: Guarantee, facts: Facts, checks: Sequence[Check], attacks: Sequence[Attack]) -> Standing:
    """Does the run hold the guarantee?"""
    names = {name for group in guarantee.needs for name in group}
    evidence = tuple(c.digest for c in checks if c.name in names)
    evidence += tuple(a.digest for a in attacks if a.name in guarantee.attacks)
    missing = next(_missing(guarantee, facts, checks, attacks), None)
    why = guarantee.theorem[facts.mode] if missing is None else missing
    return Standing(number=guarantee.number, held=missing is None, why=why, evidence=evidence)


def _missing(guarantee: Guarantee, facts: Facts, checks: Sequence[Check], attacks: Sequence[Attack]) -> Iterator[str]:
    """What stands against it, the weightiest first."""
    if facts.mode not in guarantee.theorem:
        yield guarantee.otherwise.get(facts.mode, guarantee.otherwise.get("", NO_THEOREM))
    failed = [c for group in guarantee.needs for c in _failing(group, checks)]
    yield from (f"check '{c.name}' found a breach: {c.says}" for c in failed)
    for group in guarantee.needs:
        ran = [c for c in checks if c.name in group]
        if not ran:
            yield f"not checked: {' or '.join(group)} was not run"
        yield from (_void(c) for c in ran if c.passed and not c.holds)
        subjects = {c.subject for c in ran}
        left = [] if "" in subjects else sorted(set(facts.parties) - subjects)
        if guarantee.each and ran and left:
            yield f"not checked for party {', '.join(left)}"
    tried = {a.name for a in attacks}
    yield from (f"not attacked: '{name}' was not tried" for name in guarantee.attacks if name not in tried)
    open_ = [p for p in facts.parties if not facts.sealing[p].startswith("landlock")]
    if guarantee.sealed and open_:
        yield f"party {', '.join(open_)} is not sealed by the kernel, so nothing but its own code keeps it confined"


def _failing(group: tuple[str, ...], checks: Sequence[Check]) -> list[Check]:
    """Checks of a group that found a breach, unless another one of the group holds for the same subject."""
    ran = [c for c in checks if c.name in group]
    held = {(c.subject, c.name) for c in ran if c.holds}
    return [c for c in ran if not c.passed and not any(s == c.subject and n != c.name for s, n in held)]


def _void(one: Check) -> str:
    what = "no breach was planted" if one.control is None else "it did not catch the breach that was planted"
    return f"check '{one.name}' proves nothing: {what}"
