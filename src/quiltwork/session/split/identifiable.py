"""Does the outcome of a program settle what each component must read? A check on the grid, before any training.

A component may read something else than its owner's symbol and the program be right all the same (a reasoning
shortcut: Marconato, Teso, Vergari and Passerini, NeurIPS 2023): wherever there are maps m_i of symbols, not all the
identity, with

    f(m_1(s_1), ..., m_n(s_n)) = f(s_1, ..., s_n)    for all s

components that read m_i(s_i) have the same loss. Two things can be so:

- *merged*: f gives the same for two symbols of an operand whatever the others are. Nothing can tell them apart.
- *relabelled*: after merged symbols are made one, the m_i are permutations. (If m_i sent two symbols to one, f could
  not tell them apart, and they would have been merged.) All of them are searched for by extending partial
  permutations, cell by cell; a symbol can only go to one whose slice of the table holds each outcome as often.

Where neither is so, components that make the loss least read the symbols, provided every tuple occurs in training.
Tuples that never occur can leave room for more shortcuts than are found here.

>>> from quiltwork.session.split.programs import parity, total
>>> print(identifiable(total([10, 10])))
the outcome settles every symbol
>>> len(identifiable(total([10, 10], modulus=10)).relabelled)
9
>>> print(identifiable(parity(2)))
the outcome does not settle what components read: 1 relabelling of symbols changes no outcome, such as \
operand 0: 0 as 1, 1 as 0; operand 1: 0 as 1, 1 as 0
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.session.split.program import Programmed
from quiltwork.session.split.programs import Fold
from quiltwork.session.split.run import SplitRun

MOST_FOUND, MOST_TRIED, MOST_CELLS = 100, 20_000, 2**17
"""Relabellings listed, partial ones tried, and cells of a grid that is searched."""

Group: TypeAlias = tuple[int, ...]
Relabelling: TypeAlias = tuple[Group, ...]


@dataclass(frozen=True)
class Identifiability:
    """What the outcome leaves open.

    Attributes:
        merged: by operand, the groups of two or more symbols that no outcome tells apart.
        relabelled: permutations of each operand's symbols, not all the identity, that change no outcome; symbols of a
            group go to the first of a group.
        complete: whether all were looked for; else there may be more.
    """

    merged: tuple[tuple[Group, ...], ...]
    relabelled: tuple[Relabelling, ...]
    complete: bool

    @property
    def settled(self) -> bool:
        """Whether components that are right about the outcome are right about the symbols."""
        return self.complete and not self.relabelled and not any(self.merged)

    def __str__(self) -> str:
        if self.settled:
            return "the outcome settles every symbol"
        found = []
        for operand, groups in enumerate(self.merged):
            if groups:
                alike = "; ".join(", ".join(map(str, group)) for group in groups)
                found.append(f"it does not tell apart, of operand {operand}, {alike}")
        if self.relabelled:
            count = len(self.relabelled)
            words = "1 relabelling of symbols changes" if count == 1 else f"{count} relabellings of symbols change"
            found.append(f"{words} no outcome, such as {_described(self.relabelled[0])}")
        if not self.complete:
            found.append("and the search was cut short" if found else "the grid is too large to be searched")
        return f"the outcome does not settle what components read: {'; '.join(found)}"


def identifiable(program: Fold) -> Identifiability:
    """Search a program's grid for what its outcome leaves open."""
    if program.cells > MOST_CELLS:
        return Identifiability(((),) * len(program.sizes), (), complete=False)
    table = program.table()
    groups = [_groups(table, operand) for operand in range(table.ndim)]
    small = table[np.ix_(*[[group[0] for group in found] for found in groups])]
    search = _Search(small)
    relabelled = tuple(_spread(images, groups) for images in search.others())
    merged = tuple(tuple(group for group in found if len(group) > 1) for found in groups)
    return Identifiability(merged, relabelled, search.complete)


def identified(run: SplitRun) -> Identifiability:
    """Judge the program of a run, and note in the run's warnings what it leaves open.

    Raises:
        InvalidOption: the run has no program that can be enumerated.
    """
    mode = run.mode
    if not isinstance(mode, Programmed) or not isinstance(mode.program, Fold):
        raise InvalidOption(
            "judging a program", why="the run has none that can be enumerated", mend="Use a fold in program mode."
        )
    found = identifiable(mode.program)
    if not found.settled:
        run.warnings.append(str(found))
    return found


@dataclass
class _Search:
    """Permutations of the symbols of every axis that leave a table as it is, by extending partial ones."""

    table: NDArray[np.int64]
    complete: bool = True
    _tried: int = 0
    _images: list[list[int]] = field(default_factory=list)

    def others(self) -> list[Relabelling]:
        """All but the identity, up to the most that are listed."""
        self._images = [[] for _ in self.table.shape]
        candidates = [_candidates(self.table, axis) for axis in range(self.table.ndim)]
        # symbol 0 of every operand first: cells are compared as soon as every operand has a symbol
        order = [(a, k) for k in range(max(self.table.shape)) for a, size in enumerate(self.table.shape) if k < size]
        identity = tuple(tuple(range(size)) for size in self.table.shape)
        found = []
        for images in self._all(order, candidates):
            if images != identity:
                found.append(images)
            if len(found) >= MOST_FOUND:
                self.complete = False
                break
        return found

    def _all(self, order: list[tuple[int, int]], candidates: list[list[Group]]) -> Iterator[Relabelling]:
        """Depth first, without recursion, since there are as many levels as symbols."""
        waiting = [iter(candidates[0][0])]
        while waiting:
            axis, symbol = order[len(waiting) - 1]
            del self._images[axis][symbol:]
            image = next((i for i in waiting[-1] if i not in self._images[axis]), None)
            if image is None:
                waiting.pop()
                continue
            self._tried += 1
            if self._tried > MOST_TRIED:
                self.complete = False
                return
            self._images[axis].append(image)
            if not self._agrees(axis):
                continue
            if len(waiting) == len(order):
                yield tuple(map(tuple, self._images))
                continue
            axis, symbol = order[len(waiting)]
            waiting.append(iter(candidates[axis][symbol]))

    def _agrees(self, axis: int) -> bool:
        """Whether the cells that the newest symbol of an axis completes go to cells of the same outcome."""
        here = [range(len(images)) for images in self._images]
        there = [list(images) for images in self._images]
        here[axis], there[axis] = here[axis][-1:], there[axis][-1:]
        return bool((self.table[np.ix_(*here)] == self.table[np.ix_(*there)]).all())


def _groups(table: NDArray[np.int64], operand: int) -> list[Group]:
    """Symbols of an operand whose slices are equal, in the order of their first ones."""
    found: dict[bytes, list[int]] = {}
    for symbol in range(table.shape[operand]):
        found.setdefault(table.take(symbol, operand).tobytes(), []).append(symbol)
    return [tuple(group) for group in found.values()]


def _candidates(table: NDArray[np.int64], axis: int) -> list[Group]:
    """Where each symbol can go at all: slices that hold each outcome as often."""
    alike: dict[bytes, list[int]] = {}
    keys = [np.sort(table.take(symbol, axis), axis=None).tobytes() for symbol in range(table.shape[axis])]
    for symbol, key in enumerate(keys):
        alike.setdefault(key, []).append(symbol)
    return [tuple(alike[key]) for key in keys]


def _spread(images: Relabelling, groups: list[list[Group]]) -> Relabelling:
    """A permutation of groups as a map of symbols."""
    whole = []
    for image, found in zip(images, groups, strict=True):
        goes = {symbol: found[image[at]][0] for at, group in enumerate(found) for symbol in group}
        whole.append(tuple(goes[symbol] for symbol in range(len(goes))))
    return tuple(whole)


def _described(relabelling: Relabelling) -> str:
    parts = []
    for operand, image in enumerate(relabelling):
        moved = ", ".join(f"{k} as {to}" for k, to in enumerate(image) if k != to)
        if moved:
            parts.append(f"operand {operand}: {moved}")
    return "; ".join(parts)
