"""A component: a module that learns its part of a computation from the cotangents of what it put out.

    forward    h = f(x; theta)
    backward   theta' = step(theta, J^T v),   J = dh / dtheta,   v = dL / dh

Because dL/dtheta = J^T dL/dh, whoever holds the rest of the computation needs to send v and nothing else; the
parameters that follow are those of one process that differentiates the whole (SplitNN, arXiv 1812.00564), bit for bit
on one machine. The same class holds a composer or a head, whose owner differentiates through the module directly.

All that is random (initial values, dropout) is drawn from seeds keyed by the component's name and the round.

>>> plan = OptimiserPlan("sgd", learning_rate=1.0, momentum=0.0)
>>> one = Component.built(lambda: nn.Linear(1, 1, bias=False), plan, name="ash", seed=0)
>>> before = one.module.weight.item()
>>> h = one.forward(torch.ones(1, 1), 0)
>>> one.backward(torch.full((1, 1), 0.5), 0)
>>> round(before - one.module.weight.item(), 6)
0.5
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quiltwork.errors import InvalidOption
from quiltwork.models.split.seeds import drawing, seed_of

MOST_PENDING = 2
"""Rounds whose cotangents may be due at once: one, and one more where they come a step late."""


@dataclass(frozen=True)
class OptimiserPlan:
    """How a learner steps.

    Attributes:
        method: ``"sgd"`` with momentum, or ``"adam"``.
        learning_rate: positive.
        momentum: of SGD, in [0, 1).
        weight_decay: added to the gradient, times the parameters.

    Raises:
        InvalidOption: a value outside its domain.
    """

    method: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 1e-2
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in ("sgd", "adam"):
            raise InvalidOption(f"method={self.method!r}", why="no such optimiser", mend="Choose 'sgd' or 'adam'.")
        if not 0 < self.learning_rate < math.inf:
            raise InvalidOption(
                f"learning_rate={self.learning_rate}",
                why="it must be positive and finite",
                mend="Choose another, such as 0.01.",
            )
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise InvalidOption(
                f"momentum={self.momentum}, weight_decay={self.weight_decay}",
                why="momentum lies in [0, 1) and weight_decay is not negative",
                mend="Choose values within.",
            )

    def build(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of some parameters."""
        if self.method == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
            )
        return torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)


@dataclass
class _Pending:
    """What a cotangent will be pulled back through."""

    activation: Tensor
    stash: dict[str, Tensor] = field(default_factory=dict)


class Component:
    """A module with its optimiser, its name and its seed.

    Args:
        module: maps rows ``[b, ...]`` to activations ``[b, d]``.
        plan: how it steps.
        name: whose it is; seeds are keyed by it.
        seed: the session's master seed.
        stash: keep the parameters of a forward pass until its cotangents are back (weight stashing, PipeDream,
            arXiv 1806.03377), which cotangents that come a step late need.
    """

    def __init__(
        self, module: nn.Module, plan: OptimiserPlan | None = None, *, name: str, seed: int = 0, stash: bool = False
    ) -> None:
        self.module, self.name, self.seed, self.stash = module.train(), name, seed, stash
        self.plan = plan or OptimiserPlan()
        self._trainable = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.optimiser = self.plan.build(list(self._trainable.values())) if self._trainable else None
        self._pending: dict[int, _Pending] = {}
        self.trained = False  # an optimiser without moments keeps no trace of its steps

    @classmethod
    def built(
        cls,
        build: Callable[[], nn.Module],
        plan: OptimiserPlan | None = None,
        *,
        name: str,
        seed: int = 0,
        stash: bool = False,
    ) -> Component:
        """A component whose initial values are drawn from its own seed."""
        with drawing(seed_of(seed, name)):
            return cls(build(), plan, name=name, seed=seed, stash=stash)

    def drawing(self, round_: int) -> AbstractContextManager[None]:
        """A block within which torch draws this component's numbers of a round (dropout)."""
        return drawing(seed_of(self.seed, f"{self.name}/{round_}"))

    def forward(self, rows: Tensor, round_: int) -> Tensor:
        """Activations float32 ``[b, d]`` of rows ``[b, ...]``, cut from the graph; the graph waits for `backward`.

        Raises:
            InvalidOption: the cotangents of too many rounds are due, or the module does not give ``[b, d]``.
        """
        if round_ in self._pending or len(self._pending) >= (MOST_PENDING if self.stash else 1):
            raise InvalidOption(
                f"round {round_} of component '{self.name}'",
                why=f"the cotangents of rounds {sorted(self._pending)} are still due",
                mend="Give them first.",
            )
        kept = {n: p.detach().clone().requires_grad_() for n, p in self._trainable.items()} if self.stash else {}
        with self.drawing(round_):
            activation = functional_call(self.module, kept, (rows,)) if kept else self.module(rows)
        activation = self._fitting(activation, len(rows)).float()
        self._pending[round_] = _Pending(activation, kept)
        return activation.detach()

    def backward(self, cotangent: Tensor, round_: int) -> None:
        """Pull cotangents float32 ``[b, d]`` back to the parameters, and step.

        Raises:
            InvalidOption: no forward pass of that round waits for it, or the shape is another.
        """
        if round_ not in self._pending or self._pending[round_].activation.shape != cotangent.shape:
            raise InvalidOption(
                f"cotangents of round {round_} and shape {tuple(cotangent.shape)} for component '{self.name}'",
                why="no activation of that round and shape waits for them",
                mend="Give each forward pass its own cotangents, once.",
            )
        pending = self._pending.pop(round_)
        if not pending.activation.requires_grad:
            return
        if pending.stash:
            found = torch.autograd.grad(pending.activation, list(pending.stash.values()), cotangent, allow_unused=True)
            for parameter, gradient in zip(self._trainable.values(), found, strict=True):
                parameter.grad = gradient
        else:
            pending.activation.backward(cotangent)
        self.step()

    def step(self) -> None:
        """One step of the optimiser along the gradients that the parameters hold."""
        if self.optimiser is not None:
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.trained = True

    def forget(self) -> None:
        """Drop the graphs that wait for cotangents, as after a round that was broken off."""
        self._pending.clear()

    def predict(self, rows: Tensor) -> Tensor:
        """Activations float32 ``[b, d]`` as in use: no dropout, no graph."""
        self.module.eval()
        try:
            with torch.no_grad():
                return self._fitting(self.module(rows), len(rows)).float()
        finally:
            self.module.train()

    def digest(self) -> str:
        """SHA-256 of the module's state: names, dtypes, shapes and bytes of all its tensors, sorted by name."""
        return digest_of_state(self.module.state_dict())

    def _fitting(self, activation: Tensor, count: int) -> Tensor:
        if activation.ndim != 2 or len(activation) != count:
            raise InvalidOption(
                f"component '{self.name}'",
                why=f"its module gives shape {tuple(activation.shape)} for {count} rows, and [rows, width] is due",
                mend="End the module with a flat layer.",
            )
        return activation


def digest_of_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a module's state: names, dtypes, shapes and bytes of all its tensors, sorted by name."""
    running = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        running.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        running.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return running.hexdigest()
