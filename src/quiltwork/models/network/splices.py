"""Splices, and the one order of computation that networks and splices have together.

    raw(m, p) = the activation of network m at p, everything spliced in upstream of p taken into account
    out(m, p) = mix( raw(m, p), A_1 raw(m_1, p_1), ..., A_k raw(m_k, p_k) )    what the rest of m goes on with

So a splice takes raw activations and gives what its network goes on with. A pair, each network spliced into the other,
is no circle, since both take what was there *before* the other's splice. Splices that wait for each other are refused.

The steps of all networks, adapters and mixtures are sorted into one list, which `execution` runs: what no tail stands
on is never computed, and activations leave memory after their last use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, NamedTuple

from quiltwork.errors import BrokenPromise, InvalidOption
from quiltwork.models.network.execution import Reference, Step
from quiltwork.models.network.network import Network

SPLICE, SHARES = "splice", "shares"
"""The operator of a splice's step, and what the shares of parties are called among values."""


class Place(NamedTuple):
    """A point of one party's network."""

    party: str
    point: str

    def __str__(self) -> str:
        return f"'{self.point}' of {self.party}"


@dataclass(frozen=True)
class Splice:
    """Activations of other points, each through its adapter, mixed into a point.

    Attributes:
        into: where.
        sources: from where; plain pairs ``(party, point)`` will do.
        mode: ``"average"`` with the point's own activation, or ``"replace"`` it.

    Raises:
        InvalidOption: no source, or no such mode.
    """

    into: Place
    sources: tuple[Place, ...]
    mode: Literal["average", "replace"] = "average"

    def __post_init__(self) -> None:
        object.__setattr__(self, "into", Place(*self.into))
        object.__setattr__(self, "sources", tuple(Place(*source) for source in self.sources))
        if not self.sources or self.mode not in ("average", "replace"):
            raise InvalidOption(
                f"the splice into {self.into}",
                why="it needs a source, and its mode is 'average' or 'replace'",
                mend="Name a party and a point that it takes from.",
            )


def pair(a: tuple[str, str], b: tuple[str, str], mode: Literal["average", "replace"] = "average") -> tuple[Splice, ...]:
    """Two splices, each point into the other: the main form of a stitch.

    >>> [str(splice.into) for splice in pair(("ash", "layer1"), ("oak", "blocks.2"))]
    ["'layer1' of ash", "'blocks.2' of oak"]
    """
    return (Splice(Place(*a), (Place(*b),), mode), Splice(Place(*b), (Place(*a),), mode))


def of_party(party: str, node: str) -> str:
    """What a network's node is called among those of all."""
    return f"{party}/{node}"


def of_splice(place: int) -> str:
    """What the mixture of a splice is called."""
    return f"splice {place}"


def require_splices(networks: Mapping[str, Network], splices: Sequence[Splice]) -> None:
    """Refuse splices of parties or points that are not there, and two into one value.

    Raises:
        InvalidOption: names the splice.
    """
    seen: set[str] = set()
    for splice in splices:
        for place in (splice.into, *splice.sources):
            if place.party not in networks:
                known = ", ".join(networks)
                why = f"there is no network of party '{place.party}'"
                raise InvalidOption(f"the splice into {splice.into}", why=why, mend=f"The networks are of {known}.")
            networks[place.party].point(place.point)
        node = of_party(splice.into.party, networks[splice.into.party].node_of(splice.into.point))
        if node in seen:
            raise InvalidOption(
                f"the splice into {splice.into}",
                why="another splice goes into the same value",
                mend="Give one splice several sources.",
            )
        seen.add(node)


def merged(networks: Mapping[str, Network], splices: Sequence[Splice]) -> tuple[Step, ...]:
    """The steps of all networks and splices, each after all that it takes.

    A splice's step takes ``(shares, raw, *sources)``; `bound` gives it a function.

    Args:
        networks: by party.
        splices: checked by `require_splices`.

    Raises:
        InvalidOption: splices wait for each other.
    """
    spliced = {_node(networks, splice.into): of_splice(i) for i, splice in enumerate(splices)}
    steps = [step for party, network in networks.items() for step in _renamed(party, network, spliced)]
    for i, splice in enumerate(splices):
        takes = (SHARES, *(_node(networks, place) for place in (splice.into, *splice.sources)))
        steps.append(Step(of_splice(i), SPLICE, _unbound, tuple(Reference(name) for name in takes), {}, takes))
    return _sorted(steps, splices)


def bound(steps: Iterable[Step], mix: Callable[[int], Callable[..., Any]]) -> list[Step]:
    """The steps with ``mix(i)`` as the function of the i-th splice."""
    return [replace(step, function=mix(int(step.name.split()[1]))) if step.op == SPLICE else step for step in steps]


def _unbound(*_values: Any) -> None:
    raise BrokenPromise("a splice", why="it runs before it is bound to its adapters", mend="Report this.")


def _node(networks: Mapping[str, Network], place: Place) -> str:
    return of_party(place.party, networks[place.party].node_of(place.point))


def _renamed(party: str, network: Network, spliced: Mapping[str, str]) -> Iterable[Step]:
    """A network's steps under names of their own; what was spliced into is taken from its splice."""

    def name(taken: str) -> str:
        full = of_party(party, taken)
        return spliced.get(full, full)

    for step in network.steps:
        yield replace(
            step,
            name=of_party(party, step.name),
            args=tuple(_redirected(argument, name) for argument in step.args),
            kwargs={key: _redirected(argument, name) for key, argument in step.kwargs.items()},
            takes=tuple(name(taken) for taken in step.takes),
        )


def _redirected(argument: Any, name: Callable[[str], str]) -> Any:
    if isinstance(argument, Reference):
        return Reference(name(argument.name))
    return [_redirected(one, name) for one in argument] if isinstance(argument, list) else argument


def _sorted(steps: Sequence[Step], splices: Sequence[Splice]) -> tuple[Step, ...]:
    known = {step.name: step for step in steps}
    sorter = TopologicalSorter({step.name: [name for name in step.takes if name in known] for step in steps})
    try:
        return tuple(known[name] for name in sorter.static_order())
    except CycleError as error:
        circle = set(error.args[1])
        waiting = [str(splice.into) for i, splice in enumerate(splices) if of_splice(i) in circle]
        raise InvalidOption(
            f"the splices into {' and '.join(waiting)}",
            why="each takes an activation that stands on the other, so neither can come first",
            mend="Let both go to points of like depth: a pair takes and gives at the same two points.",
        ) from error
