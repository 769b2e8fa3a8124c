"""A sum whose summands nobody sees: masks that cancel (Bonawitz et al., CCS 2017, section 4.0; extra ``sharing``).

    x_i -> z_i = round(x_i 2^bits)        y_i = z_i + sum_{j > i} m_ij - sum_{j < i} m_ij (mod 2^64)
    m_ij = ChaCha20(HMAC-SHA256(HKDF-SHA256(X25519(i, j)), question)), fresh for each round
    sum_i y_i = sum_i z_i (mod 2^64)

Each party draws an X25519 key a round and signs it with its identity (Ed25519), so that whoever carries the keys cannot
put in its own; then the masks of a pair are known to the two alone. The masked values of all but one are uniform and
independent of what they hide, given the sum: a one-time pad, as good as the key agreement and the cipher. The question
goes into the masks: asked differently, parties get masks that do not cancel.

What it gives: the composer, which may deviate as it likes, and any parties in league with it, learn from one round no
more of the others than their sum. So of two parties each learns the other's summand from the sum, and fewer than three
are refused unless asked for. What it does not give: the sum itself says much (of activations, it can be inverted in
part); the same question to two rosters tells their difference; a composer that sends parties different cotangents, and
so makes their models differ, eludes it (Pasquini et al., CCS 2022); and a party may sum what it likes. Without the
answer of every party the masks do not cancel: the round is over, and nothing can be said of the sum.

>>> identities = {name: Identity.fresh() for name in ("ash", "elm", "yew")}
>>> roster = {name: identity.public for name, identity in identities.items()}
>>> members = {name: Member(name, identity, roster) for name, identity in identities.items()}
>>> offers = [members[name].offer(1) for name in sorted(members)]
>>> for member in members.values():
...     member.meet(1, offers)
>>> masked = {name: member.mask(1, np.array([0.5, -2.0])) for name, member in members.items()}
>>> SumGrid().decode(unmask(masked, sorted(roster)))
array([ 1.5, -6. ])
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import AlteredFrame, InvalidOption, LostParty

OFFER_BYTES = 96
"""A round's key and its signature."""


@dataclass(frozen=True)
class SumGrid:
    """Fixed-point numbers modulo 2^64.

    Attributes:
        bits: fractional bits.
        most: no summand is larger in size; one that is, is refused and not clipped.
    """

    bits: int = 32
    most: float = 2.0**16

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 52 or not 0 < self.most * 2.0**self.bits < 2.0**62:
            raise InvalidOption(
                f"a grid of {self.bits} bits for summands up to {self.most}",
                why="bits lie between 0 and 52, and two summands have to fit 64 bits",
                mend="Take fewer bits, or scale the summands.",
            )

    def require_room(self, parties: int) -> None:
        """Refuse a sum that could wrap round.

        Raises:
            InvalidOption: so many summands do not fit.
        """
        # by integers: in float64 the sum just below the edge would round to it
        if parties * int(np.rint(self.most * 2.0**self.bits)) >= 2**63:
            raise InvalidOption(
                f"a sum of {parties}",
                why=f"summands up to {self.most} on {self.bits} bits reach 2^63 together, where integers wrap round",
                mend="Take fewer bits, or a smaller bound.",
            )

    def encode(self, values: ArrayLike) -> NDArray[np.uint64]:
        """Summands as integers modulo 2^64; each off by at most ``2^-(bits + 1)``.

        Raises:
            InvalidOption: not finite, or larger than ``most``.
        """
        array = np.asarray(values, dtype=np.float64)
        if not (np.abs(array) <= self.most).all():
            raise InvalidOption(
                "the summands",
                why=f"they are not all finite and at most {self.most} in size",
                mend="Scale them, or agree on a wider grid.",
            )
        return np.rint(array * 2.0**self.bits).astype(np.int64).view(np.uint64)

    def decode(self, total: NDArray[np.uint64]) -> NDArray[np.float64]:
        """A sum as numbers."""
        return total.view(np.int64).astype(np.float64) / 2.0**self.bits


@dataclass(frozen=True, eq=False, repr=False)
class Identity:
    """By what a party is known to the others, for as long as they have to do with each other.

    Attributes:
        private: its Ed25519 key, which stays with the party.
    """

    private: Ed25519PrivateKey

    @classmethod
    def fresh(cls) -> Identity:
        """One from the operating system's entropy."""
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> bytes:
        """32 bytes, which the others have to get from the party itself, and not by way of the composer."""
        return self.private.public_key().public_bytes_raw()


class Member:
    """One party of a sum, round by round: offer, meet, mask; each once, and rounds only upwards.

    Args:
        name: of the party.
        identity: its own.
        roster: public identities of all parties, itself among them, by name. It decides who is summed.
        grid: of the summands; ``SumGrid()`` where not given. All parties have to have one grid.
        allow_two: also sum two, where each party that sees the sum learns the other's summand.

    Raises:
        InvalidOption: the party is not on its roster, an identity is none or there twice, or the parties are too few or
            too many.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        roster: Mapping[str, bytes],
        grid: SumGrid | None = None,
        *,
        allow_two: bool = False,
    ) -> None:
        self.grid = SumGrid() if grid is None else grid
        _require_roster(name, identity, roster, allow_two)
        self.grid.require_room(len(roster))
        self.names = tuple(sorted(roster))
        self._place, self._identity = self.names.index(name), identity
        self._others = [Ed25519PublicKey.from_public_bytes(roster[other]) for other in self.names]
        self._context = _context(roster, self.grid)
        self._round = -1
        self._key: X25519PrivateKey | None = None
        self._offer = b""
        self._seeds: dict[int, bytes] | None = None

    def offer(self, round_: int) -> bytes:
        """This party's key for a round and its signature, 96 bytes. What was not finished before is forgotten.

        Raises:
            InvalidOption: the round is not later than every one before.
        """
        if round_ <= self._round:
            raise InvalidOption(
                f"round {round_}", why=f"round {self._round} was before it", mend="Take a later round for each sum."
            )
        self._round, self._seeds, self._key = round_, None, X25519PrivateKey.generate()
        public = self._key.public_key().public_bytes_raw()
        self._offer = public + self._identity.private.sign(_signed(self._context, round_, self._place, public))
        return self._offer

    def meet(self, round_: int, offers: Sequence[bytes]) -> None:
        """Agree with each other party on the masks of a round.

        Args:
            round_: of the last offer.
            offers: of all parties, sorted by name, this one's among them.

        Raises:
            InvalidOption: this party made no offer for the round, or has met already.
            AlteredFrame: an offer is missing, or is not signed by the party in whose place it stands, for this round.
        """
        if self._key is None or round_ != self._round:
            raise InvalidOption(
                f"round {round_}", why="no offer of this party is open for it", mend="Ask for an offer first."
            )
        if len(offers) != len(self.names) or offers[self._place] != self._offer:
            raise _altered("the offers", "they are not one of each party, with this party's own in its place")
        for place, offer in enumerate(offers):
            self._verify(place, offer)
        others = [place for place in range(len(offers)) if place != self._place]
        self._seeds = {place: self._seed(self._key, place, offers[place][:32]) for place in others}
        self._key = None

    def ready(self, round_: int) -> bool:
        """Whether masks for the round are agreed on, and not yet used."""
        return self._seeds is not None and round_ == self._round

    def mask(self, round_: int, values: ArrayLike, question: bytes = b"") -> NDArray[np.uint64]:
        """The summand under its masks, uint64 of the shape of ``values``. The masks are used up by it.

        Args:
            round_: of the last meeting.
            values: the summand.
            question: what it answers; the masks cancel only where all were asked the same.

        Raises:
            InvalidOption: no masks are agreed on for the round, or the values do not fit the grid.
        """
        if self._seeds is None or round_ != self._round:
            raise InvalidOption(
                f"round {round_}", why="no masks are agreed on for it, or they are used", mend="Meet for a later round."
            )
        total = self.grid.encode(values)
        seeds, self._seeds = self._seeds, None
        for place, seed in seeds.items():
            stream = _stream(seed, question, total.size).reshape(total.shape)
            total = total + stream if place > self._place else total - stream
        return total

    def _verify(self, place: int, offer: bytes) -> None:
        try:
            self._others[place].verify(offer[32:], _signed(self._context, self._round, place, offer[:32]))
        except InvalidSignature as error:
            why = "its signature does not fit its party, this round, or this roster and grid"
            raise _altered(f"the offer of '{self.names[place]}'", why) from error

    def _seed(self, key: X25519PrivateKey, place: int, public: bytes) -> bytes:
        try:
            shared = key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise _altered(f"the offer of '{self.names[place]}'", "its key has no secret with any other") from error
        own = key.public_key().public_bytes_raw()
        low, high = (own, public) if self._place < place else (public, own)
        info = b"mask" + struct.pack("<Q", self._round) + low + high
        return HKDF(SHA256(), 32, salt=self._context, info=info).derive(shared)


def unmask(masked: Mapping[str, NDArray[np.uint64]], names: Sequence[str]) -> NDArray[np.uint64]:
    """The sum modulo 2^64, exact, if everybody answered.

    Args:
        masked: by party, of one shape.
        names: who is on the roster.

    Raises:
        LostParty: an answer is missing; without it the rest is noise.
        InvalidOption: somebody else answered, or shapes differ.
    """
    if missing := sorted(set(names) - set(masked)):
        raise LostParty(
            "the sum of this round",
            why=f"no answer of {', '.join(map(repr, missing))}, and without it the masks of the others do not cancel",
            mend="Start a new round; with a new roster if that party does not come back.",
        )
    if set(masked) != set(names) or len({answer.shape for answer in masked.values()}) != 1:
        raise InvalidOption(
            "the answers", why="they are not of the roster's parties, in one shape", mend="Ask each party the same."
        )
    total = np.zeros_like(masked[names[0]])
    for name in names:
        total = total + masked[name]
    return total


def _require_roster(name: str, identity: Identity, roster: Mapping[str, bytes], allow_two: bool) -> None:
    if len(roster) < (2 if allow_two else 3):
        raise InvalidOption(
            f"a sum over {len(roster)}",
            why="a sum of one hides nothing, and a sum of two hides neither summand from the other party",
            mend="Take three parties or more; two have to be asked for (allow_two).",
        )
    sound = all(len(public) == 32 for public in roster.values()) and len(set(roster.values())) == len(roster)
    if not sound or roster.get(name) != identity.public:
        raise InvalidOption(
            f"the roster of '{name}'",
            why="it holds one public identity of 32 bytes for each party, this party's own among them",
            mend="Collect `Identity.public` of each party.",
        )


def _context(roster: Mapping[str, bytes], grid: SumGrid) -> bytes:
    """32 bytes that differ wherever two parties do not mean the same sum."""
    told = hashlib.sha256(b"quiltwork secure sum 1" + struct.pack("<Bd", grid.bits, grid.most))
    for name in sorted(roster):
        told.update(struct.pack("<I", len(name.encode())) + name.encode() + roster[name])
    return told.digest()


def _signed(context: bytes, round_: int, place: int, public: bytes) -> bytes:
    return b"offer" + context + struct.pack("<QI", round_, place) + public


def _stream(seed: bytes, question: bytes, size: int) -> NDArray[np.uint64]:
    # a seed is expanded once, so that the nonce need not differ
    key = hmac.digest(seed, question, "sha256")
    encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(encryptor.update(bytes(8 * size)), dtype="<u8").astype(np.uint64)


def _altered(what: str, why: str) -> AlteredFrame:
    return AlteredFrame(
        what, why=why, mend="End the session; somebody between the parties does not pass on what was said."
    )
