"""Which public documents stand in for a party when a composite is tuned: chosen by evidence, or named by the owner.

By evidence, with nothing released beyond a party's histogram u_i and public text's own u_0, a document of symbols
c_1..c_t is as relevant to party i as

    s_i(d) = (1/t) sum_s [ log u_i(c_s) - log u_0(c_s) ]          nats a symbol

the log-likelihood ratio that the evidence router sums, per symbol, so that long documents are not favoured. Documents
of fewer than `LEAST_SYMBOLS` symbols say too little and are passed over. ``"evidence"`` takes the highest scores,
``"dpp"`` a diverse set with relevance exp(s_i) (`quiltwork.training.choosing`, after MetaMoE).

By classifier the owner decides, next to its data (FlexOlmo, arXiv 2507.07024, section 3.3). Its contribution names
documents by a prefix of their SHA-256, and ``"classifier"`` finds them among the public ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from quiltwork.compose.statistics import histogram_of
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import BaseMismatch, InvalidOption, MissingPart, TensorMismatch
from quiltwork.evidence.bigrams import document_cells
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.training.choosing import best, bigram_vectors, diverse, document_number

Selection: TypeAlias = Literal["evidence", "dpp", "classifier"]

LEAST_SYMBOLS = 16
"""Shorter documents are no one's stand-in."""

Document = Sequence[int]


@dataclass(frozen=True)
class ProxyPlan:
    """How stand-ins are chosen.

    Attributes:
        selection: ``"evidence"``, ``"dpp"`` or ``"classifier"``.
        count: documents a party, at most.
        features: the histograms that evidence reads, ``"bigrams"`` or ``"tokens"``.
    """

    selection: Selection = "evidence"
    count: int = 64
    features: Literal["tokens", "bigrams"] = "bigrams"

    def __post_init__(self) -> None:
        if self.selection not in get_args(Selection):
            raise InvalidOption(
                f"proxies {self.selection!r}",
                why="there is no such selection",
                mend=f"Use one of {', '.join(get_args(Selection))}.",
            )
        if self.features not in ("tokens", "bigrams"):
            raise InvalidOption(
                f"features={self.features!r}", why="evidence does not read these here", mend="Use tokens or bigrams."
            )
        if self.count < 1:
            raise InvalidOption(f"{self.count} proxies", why="nothing would stand in", mend="Choose 1 or more.")


def proxies(
    contributions: Sequence[Contribution],
    texts: Sequence[str],
    ids: Sequence[Document],
    separator: int,
    plan: ProxyPlan,
) -> dict[str, list[str]]:
    """For each party the public documents that stand in for it.

    Args:
        contributions: of the parties; they hold what the selection reads.
        texts: public documents.
        ids: their token ids, without special tokens.
        separator: the token before a document.
        plan: how to choose.

    Raises:
        MissingPart: a contribution holds no such histogram, or names no documents.
        TensorMismatch: histograms have different numbers of cells.
        InvalidOption: none of the public documents can stand in for a party.
    """
    if plan.selection == "classifier":
        return {c.party: named_documents(c, texts) for c in contributions}
    pool = _pool(contributions, ids, separator, plan.features)
    vectors = bigram_vectors([ids[n] for n in pool.places], separator) if plan.selection == "dpp" else None
    chosen: dict[str, list[str]] = {}
    for contribution in contributions:
        scores = pool.scores(contribution)
        found = best(scores, plan.count) if vectors is None else diverse(np.exp(scores), vectors, plan.count)
        chosen[contribution.party] = [texts[pool.places[place]] for place in found]
    return chosen


def likeness(
    contributions: Sequence[Contribution],
    chosen: Mapping[str, Sequence[str]],
    texts: Sequence[str],
    ids: Sequence[Document],
    separator: int,
    features: str = "bigrams",
) -> dict[str, float]:
    """Mean s_i of the documents that stand in for each party, nats a symbol.

    Positive where the party's histogram explains them better than the public text's does, as it explains the party's
    own documents. Negative: there is nothing like the party's text among public text, and nothing there to tune on.

    Args:
        contributions: of the parties.
        chosen: what `proxies` chose by evidence.
        texts: public documents, as `proxies` saw them.
        ids: as there.
        separator: as there.
        features: as of the plan.
    """
    pool = _pool(contributions, ids, separator, features)
    found = {}
    for contribution in contributions:
        score = dict(zip((texts[place] for place in pool.places), pool.scores(contribution).tolist(), strict=True))
        found[contribution.party] = float(np.mean([score[text] for text in chosen[contribution.party]]))
    return found


@dataclass(frozen=True)
class _Pool:
    """Public documents long enough to say something: their places, their symbols, and the histogram of them all."""

    places: Sequence[int]
    symbols: Sequence[NDArray[np.int64]]
    public: TokenHistogram
    features: str

    def scores(self, contribution: Contribution) -> NDArray[np.float64]:
        histogram = histogram_of(contribution, self.features)
        if len(histogram.counts) != len(self.public.counts):
            raise TensorMismatch(
                f"the histogram of party '{contribution.party}'",
                why=f"it has {len(histogram.counts)} cells, and others have {len(self.public.counts)}",
                mend="Ask for histograms with the same number of cells.",
            )
        return evidence_scores(self.symbols, histogram, self.public)


def _pool(contributions: Sequence[Contribution], ids: Sequence[Document], separator: int, features: str) -> _Pool:
    places = [n for n, document in enumerate(ids) if len(document) >= LEAST_SYMBOLS]
    if not places:
        raise InvalidOption(
            "the public documents",
            why=f"none of them has {LEAST_SYMBOLS} symbols, and shorter ones say too little",
            mend="Give longer public documents.",
        )
    alphabet = len(histogram_of(contributions[0], features).counts)
    symbols = _read([ids[n] for n in places], separator, alphabet, features)
    return _Pool(places, symbols, TokenHistogram.from_documents(symbols, alphabet), features)


def require_parties(contributions: Sequence[Contribution], parties: Sequence[str], base: str | None) -> None:
    """Refuse contributions that are not one of each party of a composite, made from its base.

    Raises:
        InvalidOption: a party's is missing or there twice, or one is of nobody in the composite.
        BaseMismatch: one was made from another base.
    """
    for contribution in contributions:
        reference = getattr(contribution.manifest, "base", None)
        if reference is None or reference.digest != base:
            raise BaseMismatch(
                f"the contribution of party '{contribution.party}'",
                why="it was not made from the base of the composed model",
                mend="Give the contribution that went into the model, or statistics made with its base.",
            )
    given = sorted(c.party for c in contributions)
    odd = sorted({*parties} ^ {*given}) or [party for party, other in pairwise(given) if party == other]
    if odd:
        raise InvalidOption(
            f"the contribution of party '{odd[0]}'",
            why="stand-ins are chosen for each party of the model, by one contribution each",
            mend=f"Give one of each of {', '.join(parties)}.",
        )


def evidence_scores(
    documents: Sequence[NDArray[np.int64]], party: TokenHistogram, public: TokenHistogram
) -> NDArray[np.float64]:
    """s_i of each document, float64; the documents as symbols, none of them empty."""
    ratio = party.log_probabilities() - public.log_probabilities()
    return np.array([ratio[symbols].mean() for symbols in documents], dtype=np.float64)


def named_documents(contribution: Contribution, texts: Sequence[str]) -> list[str]:
    """The public documents that an owner named, in its order; those that are not there are left out.

    Raises:
        MissingPart: it named none.
        InvalidOption: none of those named is among the documents.
    """
    who = f"the contribution of party '{contribution.party}'"
    if "proxies" not in contribution.parts:
        raise MissingPart(
            who, why="it names no public documents", mend="Ask the owner to choose some, or choose by evidence."
        )
    known = {document_number(text): text for text in texts}
    numbers = contribution.tensor("proxies.documents").tolist()
    found = [known[number] for number in numbers if number in known]
    if not found:
        raise InvalidOption(
            f"the public documents for party '{contribution.party}'",
            why="none of those that its owner named is among them",
            mend="Give the public text that the owner chose from.",
        )
    return found


def _read(documents: Sequence[Document], separator: int, symbols: int, features: str) -> list[NDArray[np.int64]]:
    """Each document as the symbols that the histograms count; none of them is empty."""
    if features == "tokens":
        return [np.asarray(document, dtype=np.int64) for document in documents]
    return list(document_cells(documents, separator, symbols))
