"""One party's network as it is: what every composition of networks must be judged against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.compose.networks import Member, NetworkSolution, TaskReference
from quiltwork.errors import InvalidOption


@dataclass(frozen=True)
class NetworkAlone:
    """The network of one party.

    Attributes:
        party: whose; may be left out where only one is given.
    """

    party: str | None = None

    @property
    def name(self) -> str:
        """``network_alone``."""
        return "network_alone"

    def needs(self) -> frozenset[str]:
        """A module of each party."""
        return frozenset({"module"})

    def uses(self) -> frozenset[str]:
        """Nothing else."""
        return frozenset()

    def build(self, task: TaskReference, members: Sequence[Member]) -> NetworkSolution:  # noqa: ARG002
        """Its network.

        Raises:
            InvalidOption: the party is not there, or several are and none is named.
        """
        parties = [member.party for member in members]
        party = self.party if self.party is not None or len(parties) > 1 else parties[0]
        if party not in parties:
            raise InvalidOption(
                f"party={party!r}",
                why="it names no party whose module is given",
                mend=f"The parties are: {', '.join(parties)}.",
            )
        return NetworkSolution(members[parties.index(party)].network)
