"""Bits per byte of a language model on documents, by the convention of lm-evaluation-harness.

    bpb = - sum ln p(token | context) / (ln 2 * UTF-8 bytes)

over all documents together (corpus level, so longer documents weigh more). Each document begins with the prefix token
(BOS, else EOS), which is context only; it is cut into disjoint windows of ``max_length`` scored tokens, and the last
window, being shorter, is given as much earlier text as fits before it (rolling windows: every token is scored once).
Losses are summed in float64. The figure does not depend on the tokenizer, so models with different ones compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.models.plain import require_known

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Window:
    """One pass of the model over a piece of a document.

    Attributes:
        ids: the tokens put in; each predicts the next of ``context + 1`` tokens on.
        targets: the tokens to predict, the last ``scored`` of them counted.
        scored: how many of the targets count.
        document: number of the document that it is a piece of.
    """

    ids: Sequence[int]
    targets: Sequence[int]
    scored: int
    document: int = 0


@dataclass(frozen=True)
class Score:
    """Total loss on some documents.

    Attributes:
        nats: sum of -ln p over all scored tokens.
        bytes: UTF-8 bytes of the documents.
        documents: number of documents.
        tokens: number of scored tokens.
        document_nats, document_bytes: the same of each document, in their order, for figures with an error.
    """

    nats: float
    bytes: int
    documents: int
    tokens: int
    document_nats: tuple[float, ...] = ()
    document_bytes: tuple[int, ...] = ()

    @property
    def bits_per_byte(self) -> float:
        """The figure."""
        return self.nats / (math.log(2) * self.bytes)


def windows(ids: Sequence[int], prefix: int, max_length: int, document: int = 0) -> Iterator[Window]:
    """Rolling windows over the tokens of one document, which has the number ``document``.

    >>> for window in windows([1, 2, 3, 4, 5], prefix=0, max_length=3):
    ...     print(window.ids, window.targets, window.scored)
    [0, 1, 2] [1, 2, 3] 3
    [2, 3, 4] [3, 4, 5] 2
    """
    stream = [prefix, *ids]
    first = min(max_length, len(ids))
    if first:
        yield Window(stream[:first], stream[1 : first + 1], first, document)
    done = first
    while done < len(ids):
        scored = min(max_length, len(ids) - done)
        end = done + scored
        yield Window(stream[end - max_length : end], stream[end - max_length + 1 : end + 1], scored, document)
        done = end


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    *,
    prefix: int,
    max_length: int,
    batch_size: int = 16,
    on_batch: Callable[[Tensor, Sequence[int]], None] | None = None,
) -> Score:
    """Total loss of ``model`` on ``documents``.

    Args:
        model: any causal language model; its logits need not be normalised.
        tokenizer: the model's.
        documents: texts; empty ones are skipped.
        prefix: token put before each document.
        max_length: tokens a window.
        batch_size: windows at a time.
        on_batch: called before each batch with the mask ``[batch, tokens]`` of real tokens, and for each window the
            number of its document, of those that are not empty.

    Raises:
        InvalidOption: there is no text.
        CheckpointError: the tokenizer has tokens that the model does not know.
    """
    texts = [text for text in documents if text]
    sizes = tuple(len(text.encode()) for text in texts)
    if not sizes:
        raise InvalidOption("an empty set of documents", why="bits per byte divides by their bytes", mend="Give text.")
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    require_known(max([prefix, *(token for ids in encoded for token in ids)]), model, "the tokenizer")
    pieces = [window for n, ids in enumerate(encoded) for window in windows(ids, prefix, max_length, n)]
    # windows of like length together, so that little is padded; the order is fixed by the input
    pieces.sort(key=lambda window: len(window.ids))
    nats = [0.0] * len(texts)
    for start in range(0, len(pieces), batch_size):
        batch = pieces[start : start + batch_size]
        for window, loss in zip(batch, _batch_losses(model, batch, on_batch), strict=True):
            nats[window.document] += loss
    tokens = sum(window.scored for window in pieces)
    return Score(math.fsum(nats), sum(sizes), len(texts), tokens, tuple(nats), sizes)


def _batch_losses(
    model: Any, batch: Sequence[Window], on_batch: Callable[[Tensor, Sequence[int]], None] | None
) -> list[float]:
    """The loss of each window, in nats."""
    longest = max(len(window.ids) for window in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    targets = torch.zeros_like(ids)
    mask = torch.zeros_like(ids)
    counted = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, window in enumerate(batch):
        length = len(window.ids)
        ids[row, :length] = torch.tensor(window.ids)
        targets[row, :length] = torch.tensor(window.targets)
        mask[row, :length] = 1
        counted[row, length - window.scored : length] = True
    if on_batch is not None:
        on_batch(mask, [window.document for window in batch])
    device = next(model.parameters()).device
    with torch.no_grad():
        padded = bool((mask == 0).any())
        logits = model(
            input_ids=ids.to(device), attention_mask=mask.to(device) if padded else None, use_cache=False
        ).logits
        chosen = logits.float().log_softmax(-1).gather(-1, targets.to(device)[..., None]).squeeze(-1)
        return (-chosen.cpu().double().where(counted, 0.0).sum(dim=1)).tolist()  # type: ignore[no-any-return]
