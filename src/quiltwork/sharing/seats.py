"""A party's seat in sums: its identity and the roster, as bytes that can be handed to its own process.

    seats({a, b, c})  ->  a: (key of a, roster)   b: (key of b, roster)   c: (key of c, roster)

Whoever deals the seats knows all keys until it forgets them, and could have put in its own: on one machine that is the
process that starts the others. Owners on machines of their own draw an `Identity` each, exchange the public halves
without the composer, and make their seats themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quiltwork.sharing.secure_sum import Identity, Member, SumGrid


@dataclass(frozen=True, repr=False)
class Seat:
    """What a party needs in order to take part.

    Attributes:
        name: of the party.
        private: 32 bytes, its Ed25519 key; a secret.
        roster: public identities of all parties by name.
        grid: of the summands.
    """

    name: str
    private: bytes
    roster: Mapping[str, bytes]
    grid: SumGrid = field(default_factory=SumGrid)

    def member(self) -> Member:
        """The party in the sum.

        Raises:
            InvalidOption: the roster is none, or has not this party's identity.
        """
        identity = Identity(Ed25519PrivateKey.from_private_bytes(self.private))
        return Member(self.name, identity, self.roster, self.grid)


def seats(parties: Sequence[str], grid: SumGrid | None = None) -> dict[str, Seat]:
    """Fresh seats, by party, from the operating system's entropy."""
    identities = {name: Identity.fresh() for name in sorted(parties)}
    roster = {name: identity.public for name, identity in identities.items()}
    return {
        name: Seat(name, identity.private.private_bytes_raw(), roster, SumGrid() if grid is None else grid)
        for name, identity in identities.items()
    }
