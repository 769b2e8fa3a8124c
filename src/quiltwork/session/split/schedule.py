"""Which rows are learned in which round: a function of the seed, known before the first round.

Round t of epoch e takes the next ``batch`` rows of a permutation that is drawn from the seed of "rows/e"; the last
batch of an epoch may be shorter. Who takes part in a round, where parties are left out at random, is drawn from the
seed of "party/round", so neither depends on who else is there.

>>> schedule = Schedule(np.arange(5), batch=2, epochs=1, seed=0)
>>> [len(schedule.rows(t)) for t in range(schedule.rounds)]
[2, 2, 1]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.models.split.seeds import seed_of


@dataclass(frozen=True, eq=False)
class Schedule:
    """The rounds of a session.

    Attributes:
        positions: int64 ``[n]``, the rows to train on, as positions in the agreed order.
        batch: rows a round.
        epochs: passes over the rows.
        seed: the session's master seed.
        absence: probability that a party is left out of a round.

    Raises:
        InvalidOption: a value outside its domain, or positions that repeat.
    """

    positions: NDArray[np.int64]
    batch: int
    epochs: int
    seed: int = 0
    absence: float = 0.0
    _orders: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.epochs < 0 or not 0 <= self.absence < 1:
            raise InvalidOption(
                f"batch={self.batch}, epochs={self.epochs}, absence={self.absence}",
                why="a batch has at least one row, epochs are not negative, and absence lies in [0, 1)",
                mend="Choose values within.",
            )
        if len(self.positions) == 0 or len(np.unique(self.positions)) != len(self.positions):
            raise InvalidOption("training rows", why="there are none, or one appears twice", mend="Name each row once.")

    @property
    def rounds(self) -> int:
        """All of them."""
        return self.epochs * self._an_epoch

    @property
    def _an_epoch(self) -> int:
        return math.ceil(len(self.positions) / self.batch)

    def rows(self, round_: int) -> NDArray[np.int64]:
        """int64 ``[b]``, the positions of a round."""
        epoch, at = divmod(round_, self._an_epoch)
        return self._order(epoch)[at * self.batch : (at + 1) * self.batch]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            generator = np.random.default_rng(seed_of(self.seed, f"rows/{epoch}"))
            self._orders.clear()
            self._orders[epoch] = generator.permutation(np.sort(self.positions)).astype(np.int64)
        return self._orders[epoch]

    def present(self, parties: Sequence[str], round_: int) -> list[str]:
        """The parties that take part in a round, sorted; possibly none, and then the round learns nothing."""
        if self.absence == 0:
            return sorted(parties)
        draws = {p: seed_of(self.seed, f"{p}/{round_}/present") / 2**63 for p in sorted(parties)}
        return [p for p, draw in draws.items() if draw >= self.absence]
