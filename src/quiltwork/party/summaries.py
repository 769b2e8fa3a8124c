"""What an owner states of its text besides weights: histograms, residual moments, public documents that resemble it.

Each statistic asked for is computed here, declared, and recorded as a privacy event: a histogram under the rule that
the owner chose (`quiltwork.evidence.release`), anything else as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from quiltwork.contribution.kinds import (
    BigramHistogramStatistic,
    PublicProxiesStatistic,
    ResidualMomentsStatistic,
    Statistic,
    TokenHistogramStatistic,
    TrigramHistogramStatistic,
)
from quiltwork.evidence import trigrams
from quiltwork.evidence.bigrams import CELLS, document_cells
from quiltwork.evidence.release import ReleaseRule
from quiltwork.models.base import Base
from quiltwork.models.residual import residual_moments
from quiltwork.party.fragment import Fragment
from quiltwork.party.proxies import chosen_proxies
from quiltwork.privacy.events import Event, ExactEvent
from quiltwork.training.choosing import document_number
from quiltwork.training.packing import pack

if TYPE_CHECKING:
    from quiltwork.party.contribute import Order

MOMENT_BLOCKS = 512
"""Blocks of text that the residual moments average over."""


def summarise(
    base: Base,
    order: Order,
    fragment: Fragment,
    documents: Callable[[], Iterable[Sequence[int]]],
    separator: int,
    tensors: dict[str, Tensor],
) -> tuple[list[Statistic], list[Event]]:
    """Compute the declared statistics into ``tensors``; returns their declarations and events.

    Args:
        base: the public checkpoint.
        order: which statistics, under which rules.
        fragment: the owner's documents.
        documents: token ids of each, as a stream that begins anew with each call.
        separator: the token that stands before a document.
        tensors: gains every tensor that leaves.
    """
    statistics: list[Statistic] = []
    events: list[Event] = []
    if order.tokens is not None:
        tensors["tokens.counts"], priced = _histogram(order.tokens, documents(), base.vocabulary_size, "tokens")
        statistics.append(TokenHistogramStatistic())
        events += priced
    if order.bigrams is not None:
        cells = document_cells(documents(), separator)
        tensors["bigrams.counts"], priced = _histogram(order.bigrams, cells, CELLS, "bigrams")
        statistics.append(BigramHistogramStatistic(cells=CELLS))
        events += priced
    if order.trigrams is not None:
        cells = trigrams.document_cells(documents(), separator)
        tensors["trigrams.counts"], priced = _histogram(order.trigrams, cells, CELLS, "trigrams")
        statistics.append(TrigramHistogramStatistic(cells=CELLS))
        events += priced
    if order.moments is not None:
        blocks = islice(pack(documents(), order.plan.sequence_length, separator), MOMENT_BLOCKS)
        batches = (np.stack(batch) for batch in batched(blocks, order.plan.batch_size))
        values, rows = residual_moments(base.load_model(), batches, second=order.moments)
        tensors |= values
        statistics.append(
            ResidualMomentsStatistic(layers=base.layers, hidden_size=base.hidden_size, second=order.moments, rows=rows)
        )
        events.append(ExactEvent(released="moments"))
    if order.proxies is not None:
        named = chosen_proxies(fragment.documents(), order.proxies, base.load_tokenizer())
        tensors["proxies.documents"] = torch.tensor([document_number(text) for text in named], dtype=torch.float64)
        statistics.append(PublicProxiesStatistic(documents=len(named)))
        events.append(ExactEvent(released="proxies", note="public documents that resemble private ones"))
    return statistics, events


def _histogram(
    rule: ReleaseRule, documents: Iterable[Sequence[int] | np.ndarray], symbols: int, part: str
) -> tuple[Tensor, list[Event]]:
    """Counts under a rule, and the events of their release."""
    histogram, events = rule.release(documents, symbols)
    return torch.from_numpy(histogram.counts.copy()), [e.model_copy(update={"released": part}) for e in events]


def batched(blocks: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Blocks, ``size`` at a time."""
    iterator = iter(blocks)
    while batch := list(islice(iterator, size)):
        yield batch
