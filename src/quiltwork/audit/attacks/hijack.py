"""A composer that hijacks: feature-space hijacking (Pasquini et al., CCS 2021, arXiv 2012.02670), planted for tests.

The composer ignores the task. It has data like the party's, an encoder e of its own for them and a decoder d with
d(e(x)) = x, and a discriminator D between e(its data) and the party's activations. What it sends as cotangents are
those of the loss that makes the party's activations look like e's,

    L = -log D(f(x))        cotangent = dL/dh

until f(x) lies in e's space, where d reads x. It is a mode like any other, so that the same session, channel and
party run under it; what a party would see is what a detector gets to see.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from quiltwork.errors import NeedsRetraining
from quiltwork.models.split.component import Component
from quiltwork.models.split.composers import mlp
from quiltwork.models.split.seeds import drawing, seed_of
from quiltwork.session.split.labels import Labels
from quiltwork.session.split.mode import Lesson


class Hijacking:
    """A malicious composer over one party.

    Args:
        party: whose component is hijacked.
        width: of its activations.
        public: float32 ``[m, p]``, data like the party's.
        outputs: of the task that the composer pretends to learn.
        seed: of all that it draws.
    """

    def __init__(self, party: str, width: int, public: Tensor, outputs: int, *, seed: int = 0) -> None:
        self._party, self._public, self._outputs, self._seed = party, public, outputs, seed
        with drawing(seed_of(seed, "hijack")):
            self._encoder = mlp(public.shape[1], width, [32])
            self._decoder = mlp(width, public.shape[1], [32])
            self._judge = mlp(width, 1, [32])
        pilot = [*self._encoder.parameters(), *self._decoder.parameters()]
        self._pilot = torch.optim.Adam(pilot, lr=1e-2)
        self._judging = torch.optim.Adam(self._judge.parameters(), lr=1e-2)

    @property
    def name(self) -> str:
        """``joint``: it says what an honest composer would say."""
        return "joint"

    def learners(self) -> Mapping[str, Component]:
        """None that it owns up to."""
        return {}

    def learn(self, activations: Mapping[str, Tensor], labels: Labels, round_: int) -> Lesson:  # noqa: ARG002 - a mode's
        """Cotangents that pull the party's activations into the encoder's space."""
        given = activations[self._party]
        draw = np.random.default_rng(seed_of(self._seed, f"public/{round_}"))
        batch = self._public[torch.from_numpy(draw.integers(0, len(self._public), len(given)))]
        codes = self._learn_codes(batch)
        self._learn_judgement(codes, given)
        leaf = given.detach().requires_grad_()
        loss = functional.softplus(-self._judge(leaf)).mean()
        (cotangent,) = torch.autograd.grad(loss, leaf)
        return Lesson({self._party: cotangent}, {"composer": float(loss.detach())})

    def infer(self, activations: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities of one who has learned nothing."""
        rows = len(activations[self._party])
        return torch.log_softmax(torch.zeros(rows, self._outputs, dtype=torch.float64), 1)

    def without(self, party: str) -> Hijacking:
        """Never.

        Raises:
            NeedsRetraining: always.
        """
        raise NeedsRetraining(f"party '{party}'", why="this composer needs it", mend="End the session.")

    def dependencies(self) -> Mapping[str, frozenset[str]]:
        """What an honest composer would declare."""
        return {self._party: frozenset({"labels", f"activation:{self._party}"})}

    def stolen(self, activations: Tensor) -> NDArray[np.float32]:
        """The party's columns as the decoder reads them, float32 ``[m, p]``."""
        with torch.no_grad():
            found: NDArray[np.float32] = self._decoder(activations).numpy()
        return found

    def _learn_codes(self, batch: Tensor) -> Tensor:
        codes: Tensor = self._encoder(batch)
        self._step(self._pilot, functional.mse_loss(self._decoder(codes), batch))
        return codes.detach()

    def _learn_judgement(self, codes: Tensor, given: Tensor) -> None:
        wrong = functional.softplus(-self._judge(codes)) + functional.softplus(self._judge(given.detach()))
        self._step(self._judging, wrong.mean())

    @staticmethod
    def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def explained(truth: NDArray[np.float32], guess: NDArray[np.float32]) -> float:
    """R squared of a reading of columns, over all of them."""
    rest = ((truth - guess) ** 2).sum()
    return float(1 - rest / ((truth - truth.mean(0)) ** 2).sum())
