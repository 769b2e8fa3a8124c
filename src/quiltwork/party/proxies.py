"""An owner chooses public documents that resemble its own, and names them.

A linear classifier tells the owner's documents from those of a public pool: logistic regression on hashed counts of
words and word pairs. Each half of the pool is judged by a classifier that was trained on the other half, so that no
document is judged by what learned it as "public". The most relevant ones, or a diverse set of relevant ones, are named.

What leaves is the list of names: which public documents look like private ones. It is a function of private data, and
nothing bounds what it tells; its event is exact. The classifier itself stays.

Source: FlexOlmo's router tuning (arXiv 2507.07024, section 3.3), whose classifier is a small encoder, fine-tuned, and
MetaMoE's selection (arXiv 2605.14289), whose classifier is the base itself, fine-tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.training.choosing import best, bigram_vectors, diverse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEATURES = 2**16
"""Hash cells of the classifier."""

MOST_OWN = 10_000
"""Documents of the owner that the classifier is trained on, the first ones."""


@dataclass(frozen=True)
class ProxyChoice:
    """What an owner chooses from, and how.

    Attributes:
        pool: public documents.
        count: how many to name, at most.
        diverse: prefer relevant documents that differ from each other to the most relevant ones.
        seed: of the halves of the pool.
    """

    pool: Sequence[str]
    count: int = 64
    diverse: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if len(set(self.pool)) < 4:
            raise InvalidOption(
                f"a pool of {len(set(self.pool))} public documents",
                why="each half must teach the classifier what public text is like",
                mend="Give at least four different documents.",
            )
        if self.count < 1:
            raise InvalidOption(f"{self.count} proxies", why="nothing would be named", mend="Choose 1 or more.")


def chosen_proxies(
    own: Iterable[str], choice: ProxyChoice, tokenizer: PreTrainedTokenizerBase | None = None
) -> list[str]:
    """The public documents that the owner names, the most relevant (or first chosen) first.

    Args:
        own: the owner's documents.
        choice: the pool, and how to choose.
        tokenizer: the base's; needed for a diverse choice.

    Raises:
        FragmentError: the owner has no documents.
    """
    pool = list(dict.fromkeys(choice.pool))
    relevance = resemblance(list(islice(own, MOST_OWN)), pool, seed=choice.seed)
    if not choice.diverse:
        return [pool[place] for place in best(relevance, choice.count)]
    assert tokenizer is not None, "a diverse choice compares documents by their tokens"
    vectors = bigram_vectors(tokenizer(pool, add_special_tokens=False, verbose=False)["input_ids"], -1)
    floor = np.finfo(np.float64).tiny
    return [pool[place] for place in diverse(np.maximum(relevance, floor), vectors, choice.count)]


def resemblance(own: Sequence[str], pool: Sequence[str], *, seed: int = 0) -> NDArray[np.float64]:
    """Probability that each document of the pool is one of the owner's, float64 ``[N]``.

    Raises:
        FragmentError: the owner has no documents.
    """
    if not own:
        raise FragmentError("the fragment", why="it holds no documents", mend="Add documents.")
    halves = np.array_split(np.random.default_rng(seed).permutation(len(pool)), 2)
    result = np.zeros(len(pool))
    for judged, learned in (halves, halves[::-1]):
        judge = _classifier(own, [pool[place] for place in learned])
        result[judged] = judge([pool[place] for place in judged])
    return result


def _classifier(own: Sequence[str], public: Sequence[str]) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """Trained to tell the two apart, each side counting the same; gives the probability of ``own``."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False)
    model = LogisticRegression(class_weight="balanced", max_iter=200)
    model.fit(vectorizer.transform([*own, *public]), [1] * len(own) + [0] * len(public))
    return lambda texts: model.predict_proba(vectorizer.transform(texts))[:, 1]
