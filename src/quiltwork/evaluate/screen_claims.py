"""Whose text does a histogram describe? Each party's row on each text, against the public text's row.

Let c_1..c_n be the symbols of a document of a text T, row_p the router's row of party p (smoothed, bounded), row_0 that
of public text. The histogram of p describes T by

    gain(p, T) = mean over documents of  1/n sum_i ( row_p(c_i) - row_0(c_i) )        nats a symbol

No other party's row takes part: what an owner does cannot spoil another's figure. An honest owner's row gains most on
its own text. A row made up to win others' text, by their commonest symbols say, gains there, and on the text that its
own expert is for it may gain nothing; then honest experts answer that text in its place, badly, and look guilty. So p
does not claim its text t where, by more than chance,

    gain(p, t) < SHARE * max over other owners' texts T of gain(p, T)

That alone harms nobody: an owner of mixed text, with a tenth of somebody's special kind in it, describes that kind
better than its own mixture. It is a finding only where p's text, or another by p, is predicted worse by more than
counts as harm, or where p's row gains next to nothing on p's own text (less than ``NOTHING`` of the other gain,
that being ``PLAIN`` nats at least). It stands before the harms that others seem to do. Routers that read no histograms,
and those without one of public text, have no such figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quiltwork.compose.method import Method
from quiltwork.compose.statistics import FEATURES
from quiltwork.evaluate.matrix import HeldOut
from quiltwork.evaluate.screen_losses import errors_needed, mean_and_error
from quiltwork.evaluate.screen_record import Description, Effect, Finding, Level, Rule
from quiltwork.evaluate.screen_verdicts import Found, is_of, is_worse
from quiltwork.evidence import bigrams, trigrams
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

Array = NDArray[np.float64]

SHARE = 0.5
NOTHING = 0.2
PLAIN = 0.5


def descriptions(
    histograms: Mapping[str, Mapping[str, TokenHistogram]], method: Method, held_out: HeldOut, base: Base
) -> list[Description]:
    """Of every party on every text; empty where the method reads no histograms or public text has none.

    Args:
        histograms: by feature everybody's, and under the name "public" that of public text.
        method: its router's features, smoothing and bound are used.
        held_out: texts.
        base: its tokenizer reads them.
    """
    router = getattr(method, "router", None)
    router = getattr(router, "evidence", router)
    read = [part for part in FEATURES if part in method.needs()]
    if not read or "public" not in histograms.get(read[0], {}):
        return []
    smoothing: float = getattr(router, "smoothing", 0.5)
    bound: float | None = getattr(router, "bound", None)
    logs = {party: one.log_probabilities(smoothing) for party, one in histograms[read[0]].items()}
    public = logs.pop("public")
    bounded = {p: row if bound is None else np.minimum(row, public + bound) for p, row in logs.items()}
    differences = {p: row - public for p, row in bounded.items() if row.shape == public.shape}
    symbols = {text: _symbols(base, found, read[0], len(public)) for text, found in held_out.domains.items()}
    return [
        _description(party, text, difference, documents)
        for text, documents in symbols.items()
        for party, difference in differences.items()
        if documents
    ]


def _symbols(base: Base, documents: Sequence[str], features: str, cells: int) -> list[NDArray[np.int64]]:
    """What the router reads of each document that is not empty."""
    tokenizer = base.load_tokenizer()
    encoded = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in documents if text)
    ids = [np.asarray(one, dtype=np.int64) for one in encoded if one]
    if features == "tokens":
        return ids
    reader = bigrams.document_cells if features == "bigrams" else trigrams.document_cells
    return list(reader(ids, base.separator, cells))


def _description(party: str, text: str, difference: Array, documents: Sequence[NDArray[np.int64]]) -> Description:
    gain, error = mean_and_error([float(difference[symbols].mean()) for symbols in documents])
    return Description(party=party, text=text, gain=gain, error=error, documents=len(documents))


def description_findings(found: Sequence[Description], effects: Sequence[Effect], rule: Rule) -> Found:
    """Parties whose histogram describes another owner's text, and not their own; see the module's docstring."""
    for party in dict.fromkeys(one.party for one in found):
        own = [one for one in _judged(found, rule) if one.party == party and is_of(one.text, party)]
        others = [one for one in _judged(found, rule) if one.party == party and _is_anothers(one.text, party, found)]
        if not (own and others):
            continue
        mine, theirs = (max(some, key=lambda one: one.gain) for some in (own, others))
        most, least = mine.gain + _chance(mine, rule), theirs.gain - _chance(theirs, rule)
        if most < SHARE * least:
            nothing = most < NOTHING * least and least > PLAIN
            harmed = any(_concerns(one, party, rule) for one in effects)
            yield party, _finding("look" if nothing or harmed else "note", mine, theirs)


def _judged(found: Sequence[Description], rule: Rule) -> Iterator[Description]:
    return (one for one in found if one.error is not None and one.documents >= rule.documents)


def _is_anothers(text: str, party: str, found: Sequence[Description]) -> bool:
    """Whether a text is of an owner among them, and of another one."""
    return not is_of(text, party) and any(is_of(text, one.party) for one in found)


def _chance(one: Description, rule: Rule) -> float:
    return errors_needed(rule, one.documents, 1) * (one.error or 0.0)


def _concerns(effect: Effect, party: str, rule: Rule) -> bool:
    """Whether a party makes a text worse, or its own text is made worse by others, alone or together."""
    return is_worse(effect, rule) and (effect.party == party or is_of(effect.text, party))


def _finding(level: Level, mine: Description, theirs: Description) -> Finding:
    return Finding(
        check="claim",
        level=level,
        about=theirs.text,
        what=f"its histogram describes {theirs.text} ({theirs.gain:.2f} nats a symbol better than public text's) and "
        f"not its own text {mine.text} ({mine.gain:+.2f})",
        why="its expert is given others' text, and others' experts its own; a histogram made up to win does that, and "
        "an owner of mixed text may",
        mend="Ask the owner for the histogram of the text that its expert was trained on.",
    )
