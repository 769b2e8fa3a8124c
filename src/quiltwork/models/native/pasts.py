"""A member's key-value caches of the sequences of a batch, where each sequence may have run it or not.

Sequences that have seen equally many tokens of a member lie in one *block*, one cache with several rows, and run
together. As a rule the same sequences ask for a member step after step, so blocks stay as they are and nothing is
copied; a block is taken apart, or put together with others, only when the choice of members changes::

    to run          rows in groups of equal (tokens seen, tokens due)
    a group         one block as it lies, or new from the rows of several

A sequence that comes to a member late runs it on all tokens since its last visit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache


@dataclass
class _Block:
    """Some sequences by their places in the batch, and their common cache, its rows in the same order."""

    rows: list[int]
    cache: DynamicCache

    @property
    def seen(self) -> int:
        """Tokens in the cache, as many for each of the rows."""
        return int(self.cache.get_seq_length())

    def part(self, rows: Sequence[int]) -> _Block:
        """The block of some of the rows, which may repeat; itself if they are all of them."""
        if list(rows) == self.rows:
            return self
        cache = copy.deepcopy(self.cache)
        cache.batch_select_indices(torch.tensor([self.rows.index(row) for row in rows]))
        return _Block(list(rows), cache)


def _joined(blocks: Sequence[_Block]) -> _Block:
    """One block of several that have seen equally many tokens."""
    first, *others = blocks
    if not others:
        return first
    cache = copy.deepcopy(first.cache)
    for place, layer in enumerate(cache.layers):
        parts: list[Any] = [block.cache.layers[place] for block in blocks]
        layer.keys = torch.cat([part.keys for part in parts])  # type: ignore[union-attr]
        layer.values = torch.cat([part.values for part in parts])  # type: ignore[union-attr]
    return _Block([row for block in blocks for row in block.rows], cache)


@dataclass
class MemberPast:
    """What one member has seen of each sequence.

    Attributes:
        config: of the member, for new caches.
    """

    config: Any
    _blocks: list[_Block] = field(default_factory=list)

    def run(self, member: nn.Module, texts: Sequence[Tensor], rows: Sequence[int], keep: int) -> dict[int, Tensor]:
        """Run the member on what it has not seen of some sequences.

        Args:
            member: a causal language model.
            texts: int64 ``[tokens]``, every sequence of the batch from its start.
            rows: the places of those that run.
            keep: how many of the last tokens to predict after; 0 for all that are run.

        Returns:
            Logits ``[tokens, vocabulary]`` by row.
        """
        found: dict[int, Tensor] = {}
        for group in self._groups(texts, rows):
            block = self._take(group)
            ids = torch.stack([texts[row][block.seen :] for row in group])
            output = member(input_ids=ids, past_key_values=block.cache, use_cache=True, logits_to_keep=keep)
            found |= dict(zip(group, output.logits, strict=True))
            self._blocks.append(block)
        return found

    def select(self, indices: Sequence[int]) -> MemberPast:
        """The past of the sequences ``indices`` of the batch, which may repeat, in that order."""
        blocks = []
        for block in self._blocks:
            kept = [(new, old) for new, old in enumerate(indices) if old in block.rows]
            if kept:
                part = block.part([old for _, old in kept])
                blocks.append(_Block([new for new, _ in kept], part.cache))
        return MemberPast(self.config, blocks)

    def _groups(self, texts: Sequence[Tensor], rows: Sequence[int]) -> list[list[int]]:
        seen = {row: block.seen for block in self._blocks for row in block.rows}
        groups: dict[tuple[int, int], list[int]] = {}
        for row in rows:
            known = seen.get(row, 0)
            groups.setdefault((known, len(texts[row]) - known), []).append(row)
        return list(groups.values())

    def _take(self, group: Sequence[int]) -> _Block:
        """The block of a group, out of those that hold its rows; what is left of these stays."""
        parts, left = [], []
        for block in self._blocks:
            taken = [row for row in block.rows if row in group]
            stays = [row for row in block.rows if row not in group]
            if taken:
                parts.append(block.part(taken))
            if stays:
                left.append(block.part(stays))
        self._blocks = left
        if not parts:
            return _Block(list(group), DynamicCache(config=self.config))
        return _joined(parts).part(group)
