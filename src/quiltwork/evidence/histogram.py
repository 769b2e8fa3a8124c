"""A token histogram: how often each token occurs in a fragment, and the unigram density that follows.

With counts n_v over a vocabulary of V tokens, N their sum and s the smoothing,

    log u(v) = log(n_v + s) - log(N + s V)

which at s = 1/2 is the posterior mean under Jeffreys' prior (Krichevsky and Trofimov 1981). Counts are
float64 and need not be whole: a private release adds noise to them. They add up: the histogram of two
fragments together is the sum of their histograms.

>>> histogram = TokenHistogram.from_documents([[0, 0, 1], [2]], vocabulary_size=4)
>>> histogram.counts
array([2., 1., 1., 0.])
>>> float(np.exp(histogram.log_probabilities()).sum())
1.0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption

Document = Sequence[int] | NDArray[np.integer]
"""One document as token ids."""


@dataclass(frozen=True, eq=False)
class TokenHistogram:
    """Counts of tokens, a declared summary of a fragment.

    Attributes:
        counts: float64 ``[V]``, finite, not negative; kept as a read-only copy.

    Raises:
        InvalidOption: the counts break one of these rules.
    """

    counts: NDArray[np.float64]

    def __post_init__(self) -> None:
        counts = np.array(self.counts, dtype=np.float64)
        if counts.ndim != 1 or counts.size == 0:
            raise _refused(f"they have shape {counts.shape}, not one count a token")
        # a sum that overflows would make every probability zero
        with np.errstate(over="ignore"):
            if not (np.isfinite(counts).all() and math.isfinite(counts.sum())):
                raise _refused("they are not all finite, or their sum is not")
        if (counts < 0).any():
            raise _refused(f"the count of token {int(np.argmax(counts < 0))} is negative")
        counts.setflags(write=False)
        object.__setattr__(self, "counts", counts)

    @classmethod
    def from_documents(cls, documents: Iterable[Document], vocabulary_size: int) -> TokenHistogram:
        """Count the tokens of a stream of documents; memory is ``[V]`` whatever the stream's length.

        Args:
            documents: token ids of each document.
            vocabulary_size: V.

        Raises:
            InvalidOption: V is not positive, or an id is outside ``[0, V)``; the message numbers the document
                from 0.
        """
        counts = np.zeros(require_vocabulary(vocabulary_size))
        for tokens, times in count_documents(documents, vocabulary_size):
            counts[tokens] += times
        return cls(counts)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return int(self.counts.size)

    def log_probabilities(self, smoothing: float = 0.5) -> NDArray[np.float64]:
        """Natural logarithms of the smoothed unigram probabilities, float64 ``[V]``, all finite.

        Args:
            smoothing: what is added to each count.

        Raises:
            InvalidOption: the smoothing is not positive and finite (a probability of zero would rule a party
                out for good on one rare token).
        """
        if not 0 < smoothing < math.inf:
            raise InvalidOption(
                f"smoothing={smoothing}",
                why="without a positive one, a token unseen by a party rules that party out for good",
                mend="Choose a positive number, such as 0.5.",
            )
        total = float(self.counts.sum()) + smoothing * self.vocabulary_size
        return np.asarray(np.log(self.counts + smoothing) - math.log(total), dtype=np.float64)


def _refused(why: str) -> InvalidOption:
    return InvalidOption("token counts", why=why, mend="Give one finite count, not negative, for each token.")


def require_vocabulary(size: int) -> int:
    """``size``, if it is a positive whole number.

    Raises:
        InvalidOption: it is not.
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise InvalidOption(
            f"vocabulary_size={size!r}", why="it counts tokens", mend="Give the tokenizer's number of tokens."
        )
    return int(size)


def count_documents(
    documents: Iterable[Document], vocabulary_size: int
) -> Iterable[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each document its distinct tokens and how often each occurs; int64 and float64, of one length.

    Raises:
        InvalidOption: an id is not a whole number in ``[0, vocabulary_size)``. The message names the document
            by its number and holds nothing of its content.
    """
    for number, document in enumerate(documents):
        ids = np.asarray(document)
        if ids.size == 0:
            ids = ids.astype(np.int64)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise InvalidOption(
                f"document {number}", why="it is not a sequence of whole token ids", mend="Tokenize it first."
            )
        if ids.size and not (ids.min() >= 0 and ids.max() < vocabulary_size):
            raise InvalidOption(
                f"document {number}",
                why=f"it holds a token id outside 0..{vocabulary_size - 1}",
                mend="Tokenize it with the tokenizer that the vocabulary size belongs to.",
            )
        tokens, times = np.unique(ids.astype(np.int64), return_counts=True)
        yield tokens, times.astype(np.float64)
