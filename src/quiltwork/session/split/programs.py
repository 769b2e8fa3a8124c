"""Programs over discrete symbols, and the exact distribution of what they put out.

A program f maps symbols (s_1, ..., s_n), one of K_i each, to one of finitely many outcomes. Symbols are known only as
probabilities p_i, independent given what the parties see, so

    P(y) = sum over s with f(s) = y of  prod_i p_i(s_i)

Every such program is a fold: it reads symbols one after the other and keeps a state, z_i = step_i(z_{i-1}, s_i), and
the last state is the outcome. Then P follows by one pass forward,

    P_i(z) = sum over (z', k) with step_i(z', k) = z of  P_{i-1}(z') p_i(k)

in S_1 K_1 + ... + S_n K_n terms instead of K_1 ... K_n: for a sum it is the convolution, for a table the enumeration.
States that no later symbol tells apart are one (Myhill and Nerode), whatever the program was written as, which makes
the fold the smallest for its order of symbols (a multi-valued decision diagram: Bryant, IEEE Trans. Computers 1986).
All is in log space and float64, and autograd through it gives the exact gradient,

    d(-log P(y)) / d(logit_i(k)) = p_i(k) - P(s_i = k | y)

>>> digits = total([10, 10])
>>> digits.outcomes[-1], [step.shape for step in digits.steps]
(18, [(1, 10), (10, 10)])
>>> fair = [torch.full((1, 2), 0.5, dtype=torch.float64).log()] * 2
>>> total([2, 2]).log_outcomes(fair).exp().tolist()
[[0.25, 0.5, 0.25]]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption

MOST_CELLS = 2**20
"""The largest grid that is tabulated, and the most transitions that a fold has."""

Symbols: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fold:
    """A program as a chain of tables.

    Attributes:
        steps: int64 ``[S_{i-1}, K_i]`` for each operand, the state after it; there is one state to begin with, and
            the states after the last are the outcomes.
        outcomes: what the program can put out, sorted where that can be.
    """

    steps: tuple[NDArray[np.int64], ...]
    outcomes: tuple[Hashable, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of symbols K_i of each operand."""
        return tuple(step.shape[1] for step in self.steps)

    @property
    def cells(self) -> int:
        """Size of the grid, K_1 ... K_n."""
        return math.prod(self.sizes)

    def apply(self, symbols: Symbols) -> NDArray[np.int64]:
        """Numbers of the outcomes, int64 ``[m]``, of symbols int64 ``[m, n]``."""
        state = np.zeros(len(symbols), dtype=np.int64)
        for step, column in zip(self.steps, symbols.T, strict=True):
            state = step[state, column]
        return state

    def labels(self, values: Iterable[Hashable]) -> Tensor:
        """Numbers of outcomes, int64 ``[m]``, as a target takes them.

        Raises:
            InvalidOption: the program cannot put one of them out.
        """
        return labels_of(self.outcomes, values)

    def log_outcomes(self, logs: Sequence[Tensor], seed: int = 0) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """Log P(y), float64 ``[b, outcomes]``, of log p_i, float64 ``[b, K_i]`` for each operand."""
        state = logs[0].new_zeros(len(logs[0]), 1)
        for step, log in zip(self.steps, logs, strict=True):
            state = _grouped(state[:, :, None] + log[:, None, :], torch.from_numpy(step), int(step.max()) + 1)
        return state

    def table(self) -> NDArray[np.int64]:
        """The number of the outcome of every cell of the grid, int64 ``[K_1, ..., K_n]``.

        Raises:
            InvalidOption: the grid is too large.
        """
        require_grid(self.sizes)
        state = np.zeros(1, dtype=np.int64)
        for step in self.steps:
            state = step[state].reshape(-1)
        return state.reshape(self.sizes)


def folded(
    sizes: Sequence[int],
    start: Hashable,
    step: Callable[[Any, int, int], Hashable],
    finish: Callable[[Any], Hashable] = lambda state: state,
) -> Fold:
    """A program written as a fold; the grid may be as large as it likes.

    Args:
        sizes: number of symbols of each operand.
        start: the state to begin with.
        step: the state after reading, of operand number i, the symbol k: ``step(state, i, k)``.
        finish: the outcome of a last state.

    Raises:
        InvalidOption: no operands, or more transitions than a fold may have.

    >>> most = folded([3, 3], 0, lambda state, i, k: max(state, k))
    >>> most.table().tolist()
    [[0, 1, 2], [1, 1, 2], [2, 2, 2]]
    """
    _require_sizes(sizes)
    states: dict[Hashable, int] = {start: 0}
    steps, transitions = [], 0
    for operand, size in enumerate(sizes):
        transitions += len(states) * size
        _require_cells(transitions, "this fold")
        after: dict[Hashable, int] = {}
        rows = [[after.setdefault(step(z, operand, k), len(after)) for k in range(size)] for z in states]
        steps.append(np.array(rows, dtype=np.int64))
        states = after
    return _finished(steps, [finish(state) for state in states])


def tabulated(f: Callable[..., Hashable], sizes: Sequence[int]) -> Fold:
    """A user's function of n symbols, called once for each cell of the grid and never again.

    Raises:
        InvalidOption: the grid is too large, the function fails somewhere, or gives what has no place in a table.

    >>> tabulated(lambda a, b: "even" if (a * b) % 2 == 0 else "odd", [10, 10]).outcomes
    ('even', 'odd')
    """
    require_grid(sizes)
    return lookup_of([_called(f, cell) for cell in itertools.product(*map(range, sizes))], sizes)


def lookup(table: NDArray[Any]) -> Fold:
    """A program given as the table of its outcomes, ``[K_1, ..., K_n]`` of numbers or strings.

    Raises:
        InvalidOption: the table is empty, too large, or holds what is not a number.
    """
    require_grid(table.shape)
    return lookup_of(table.reshape(-1).tolist(), table.shape)


def lookup_of(values: Sequence[Hashable], sizes: Sequence[int]) -> Fold:
    """A program of the outcomes of all cells, in C order."""
    for value in values:
        if value != value:
            raise InvalidOption("an outcome", why="it is not a number (NaN)", mend="Give each cell a value.")
    # a tree of all prefixes, which merging then folds
    steps = [np.arange(int(np.prod(sizes[: i + 1])), dtype=np.int64).reshape(-1, size) for i, size in enumerate(sizes)]
    return _finished(steps, values)


def total(sizes: Sequence[int], modulus: int | None = None) -> Fold:
    """The sum of the symbols, or its remainder.

    A remainder cannot be told from one with shifted symbols: see `quiltwork.session.split.identifiable`.

    Raises:
        InvalidOption: the modulus is not positive.

    >>> total([10, 10], modulus=10).outcomes
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    """
    if modulus is not None and modulus < 1:
        raise InvalidOption(f"modulus={modulus}", why="it must be positive", mend="Choose another, or None.")
    return folded(sizes, 0, lambda state, _, k: state + k if modulus is None else (state + k) % modulus)


def parity(operands: int) -> Fold:
    """Whether an odd number of bits is set: 0 or 1."""
    return total([2] * operands, modulus=2)


def comparison(size: int, other: int | None = None) -> Fold:
    """The order of two symbols: -1 where the first is less, 0 where they are equal, 1 where it is greater."""
    return tabulated(lambda a, b: (a > b) - (a < b), [size, other or size])


Rule: TypeAlias = tuple[Mapping[int, Iterable[int]], Hashable]
"""Symbols that each named operand may have, and the outcome if all of them do."""


def rules(sizes: Sequence[int], ordered: Sequence[Rule], otherwise: Hashable) -> Fold:
    """The outcome of the first rule that applies, else ``otherwise``.

    Raises:
        InvalidOption: a rule names an operand or a symbol that there is not, or can never apply.

    >>> alarm = rules([2, 3], [({0: [1], 1: [2]}, "act"), ({1: [1, 2]}, "watch")], "rest")
    >>> [alarm.outcomes[y] for y in alarm.apply(np.array([[1, 2], [0, 2], [1, 0]]))]
    ['act', 'watch', 'rest']
    """
    _require_sizes(sizes)
    allowed = [{i: frozenset(symbols) for i, symbols in rule.items()} for rule, _ in ordered]
    for number, rule in enumerate(allowed):
        for i, symbols in rule.items():
            if not 0 <= i < len(sizes) or not symbols or not symbols <= set(range(sizes[i])):
                raise InvalidOption(
                    f"rule {number}, operand {i}",
                    why=f"there is no such operand, or its symbols {sorted(symbols)} are none of those that it has",
                    mend="Operands and symbols are numbered from 0.",
                )
    outcomes = [outcome for _, outcome in ordered]
    return folded(
        sizes,
        tuple(range(len(ordered))),
        lambda alive, i, k: tuple(r for r in alive if i not in allowed[r] or k in allowed[r][i]),
        lambda alive: outcomes[alive[0]] if alive else otherwise,
    )


def labels_of(outcomes: Sequence[Hashable], values: Iterable[Hashable]) -> Tensor:
    """Numbers of outcomes, int64 ``[m]``.

    Raises:
        InvalidOption: a value that is no outcome.
    """
    number = {outcome: at for at, outcome in enumerate(outcomes)}
    found = list(values)
    for at, value in enumerate(found):
        if value not in number:
            raise InvalidOption(
                f"label {value!r} (row {at})",
                why="the program cannot put it out",
                mend=f"Its {len(outcomes)} outcomes begin {outcomes[:5]}.",
            )
    return torch.tensor([number[value] for value in found], dtype=torch.int64)


def require_grid(sizes: Sequence[int]) -> None:
    """Refuse a grid that cannot be tabulated."""
    _require_sizes(sizes)
    _require_cells(math.prod(sizes), f"a grid of {' x '.join(map(str, sizes))}")


def _require_sizes(sizes: Sequence[int]) -> None:
    if len(sizes) == 0 or min(sizes) < 1:
        raise InvalidOption(
            f"sizes {tuple(sizes)}", why="a program has operands, each of at least one symbol", mend="Give their sizes."
        )


def _require_cells(cells: int, what: str) -> None:
    if cells > MOST_CELLS:
        raise InvalidOption(
            what,
            why=f"it has {cells} cells, and {MOST_CELLS} is the most that is enumerated",
            mend="Write it as a fold with few states (`folded`), or sample it (`Sampled`).",
        )


def _called(f: Callable[..., Hashable], cell: tuple[int, ...]) -> Hashable:
    try:
        value = f(*cell)
        hash(value)
    except Exception as error:
        raise InvalidOption(
            f"the program at symbols {cell}",
            why=f"it fails, or its value cannot be compared ({type(error).__name__}: {error})",
            mend="Give every cell of the grid a number, a string or a tuple of them.",
        ) from error
    return value


def _finished(steps: list[NDArray[np.int64]], values: Sequence[Hashable]) -> Fold:
    """Number the outcomes of the last states, and merge states that no later symbol tells apart."""
    outcomes = _sorted(set(values))
    number = {outcome: at for at, outcome in enumerate(outcomes)}
    alias, merged = np.array([number[value] for value in values], dtype=np.int64), []
    for step in reversed(steps):
        rows, alias = np.unique(alias[step], axis=0, return_inverse=True)
        alias = alias.reshape(-1).astype(np.int64)
        merged.append(np.ascontiguousarray(rows))
    return Fold(tuple(reversed(merged)), outcomes)


def _sorted(values: set[Hashable]) -> tuple[Hashable, ...]:
    try:
        return tuple(sorted(values))  # type: ignore[type-var]
    except TypeError:
        return tuple(sorted(values, key=repr))


def _grouped(scores: Tensor, step: Tensor, groups: int) -> Tensor:
    """Log of the sums of exp, over all (state, symbol) that lead to one state: ``[b, groups]``."""
    flat, target = scores.flatten(1), step.flatten()
    with torch.no_grad():
        # a shift by each group's greatest keeps improbable states from vanishing; it cancels in the gradient
        least = flat.new_full((len(flat), groups), -torch.inf)
        greatest = least.scatter_reduce(1, target.expand_as(flat), flat, "amax")
    scaled = (flat - greatest[:, target]).exp()
    return flat.new_zeros(len(flat), groups).index_add(1, target, scaled).log() + greatest
