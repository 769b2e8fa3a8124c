"""Screening before composing: does a contribution harm others?

    screen(contributions, base)                          weights and statistics alone: no text, tensor by tensor
    screen(contributions, base, method, held_out=...)    the losses too, with each contribution and without it

The composite of all is held against the composite without each contribution on public text and on whatever text owners
allow, paired by document (``screen_losses``); copies are taken out together, since one would hide the other. The router
is watched: who answers whose text. Weights are held against each other and against the base (``screen_weights``),
histograms against each other (``screen_evidence``) and against the texts (``screen_claims``). What comes out is in
``screen_record``, what it means in ``screen_verdicts``.

Owners are judged: one who hands over several shares (``OWNER.SHARE``) is taken out with all of them, and what they take
from each other is nobody's loss. One bad contribution makes others look bad, so blame is laid in rounds
(``screen_rounds``).

A contribution that harms no text that was given can still hold a backdoor: docs/screening.md says what is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from quiltwork.compose.fitting import check_tensors
from quiltwork.compose.method import Method, check_base, check_parties
from quiltwork.compose.statistics import FEATURES, histogram_of
from quiltwork.contribution.kinds import provided
from quiltwork.contribution.manifest import ExpertManifest
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.evaluate.matrix import HeldOut
from quiltwork.evaluate.screen_claims import descriptions
from quiltwork.evaluate.screen_evidence import common_text, describe, histogram_findings, pair_seed
from quiltwork.evaluate.screen_record import (
    Capture,
    Description,
    Effect,
    Histogram,
    Likeness,
    Rule,
    Screened,
    Screening,
)
from quiltwork.evaluate.screen_rounds import Findings, Rounds, add
from quiltwork.evaluate.screen_runs import Runs
from quiltwork.evaluate.screen_verdicts import advise, copy_findings, expert_findings, groups
from quiltwork.evaluate.screen_weights import size_findings, weigh
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

Public = Mapping[str, Any] | Contribution | None
"""What describes public text to a router, as ``compose`` takes it."""


def screen(
    contributions: Sequence[Contribution],
    base: Base,
    method: Method | None = None,
    *,
    held_out: HeldOut | None = None,
    public: Public = None,
    rule: Rule | None = None,
    device: str = "cpu",
    on_step: Callable[[str], None] = lambda _: None,
) -> Screening:
    """Screen contributions to a language model.

    Args:
        contributions: as read by ``contribution.store.read``; any order.
        base: the public checkpoint that all of them started from.
        method: how they are to be composed; needed with ``held_out``. Without it all their experts are weighed.
        held_out: texts; those of ``held_out.parties`` bear a party's or its owner's name, the others are public. None
            leaves losses out.
        public: as for ``compose``; its histograms are also held against the parties'.
        rule: of harm.
        device: where to run models.
        on_step: called with a line on each thing before it is done.

    Raises:
        InvalidOption: nothing to screen, or text without a method.
        CompatibilityError: a contribution does not belong to the base, or lacks what the method needs.
    """
    rule = rule or Rule()
    ordered = sorted(contributions, key=lambda c: c.party)
    if not ordered:
        raise InvalidOption("an empty list", why="there is nothing to screen", mend="Give at least one contribution.")
    if held_out is not None and method is None:
        raise InvalidOption(
            "text without a method",
            why="whether a contribution harms depends on how it is composed",
            mend="Name the method, or screen weights only.",
        )
    parts = _parts(ordered, base, method)
    on_step("weighing")
    weights, likeness = weigh([c for c in ordered if provided(c.parts) & parts], base, parts)
    histograms = _histograms(ordered, base, public)
    likeness = _with_text(ordered, likeness, histograms)
    told = {part: _described(ordered, found, method) for part, found in histograms.items()}
    findings: Findings = {c.party: [] for c in ordered}
    add(findings, size_findings(weights), copy_findings(likeness))
    add(findings, *(histogram_findings(part, described) for part, described in told.items()))
    effects: list[Effect] = []
    captures: list[Capture] = []
    described: list[Description] = []
    aside: dict[str, int] = {}
    majority: Sequence[str] = ()
    if held_out is not None and method is not None:
        runs = Runs(ordered, base, method, public, held_out, rule, device, on_step)
        add(findings, expert_findings(runs.alone()))
        described = descriptions(histograms, method, held_out, base)
        together = groups([c.party for c in ordered], likeness)
        rounds = Rounds(runs, together, described, findings)
        rounds.run()
        effects, captures, aside, majority = rounds.effects, rounds.captures, rounds.aside, rounds.majority
    screened = tuple(
        Screened(
            party=c.party,
            digest=c.digest,
            findings=tuple(findings[c.party]),
            set_aside=aside.get(c.party),
            weights=weights.get(c.party),
            histograms={part: found[c.party] for part, found in told.items() if c.party in found},
        )
        for c in ordered
    )
    advice, reason = advise(screened, effects, majority)
    return Screening(
        base=base.digest,
        method=method.name if method is not None else None,
        rule=rule,
        texts=tuple(held_out.domains) if held_out is not None else (),
        public=held_out.public if held_out is not None else (),
        contributions=screened,
        effects=tuple(effects),
        captures=tuple(captures),
        descriptions=tuple(described),
        likeness=tuple(likeness),
        notes=tuple(_notes(method, held_out, rule)),
        advice=advice,
        reason=reason,
    )


def _notes(method: Method | None, held_out: HeldOut | None, rule: Rule) -> Iterable[str]:
    router = getattr(method, "router", None)
    evidence = getattr(router, "evidence", router)
    if getattr(evidence, "bound", 0.0) is None:
        yield (
            "No bound on evidence is set: a histogram may exceed the public text's at any symbol by any amount. "
            "A bound limits what a made-up one can win (option bound)."
        )
    for text, documents in held_out.domains.items() if held_out is not None else ():
        if (count := sum(map(bool, documents))) < rule.documents:
            yield f"{text} has {count} documents, fewer than {rule.documents}: harm is not judged on it."


def _parts(contributions: Sequence[Contribution], base: Base, method: Method | None) -> frozenset[str]:
    """Which experts are weighed, once all contributions are known to fit the base."""
    check_parties(contributions)
    experts = frozenset({"ffn", "full"})
    wanted = experts if method is None else experts & method.needs()
    for contribution in contributions:
        check_base(contribution, base)
        check_tensors(contribution, base, provided(contribution.parts) & wanted)
    return wanted


# Histograms ---------------------------------------------------------------


def _histograms(
    contributions: Sequence[Contribution], base: Base, public: Public
) -> dict[str, dict[str, TokenHistogram]]:
    """By part, everybody's histogram, and that of public text under the name "public"."""
    if isinstance(public, Contribution):
        check_base(public, base)
    found: dict[str, dict[str, TokenHistogram]] = {}
    for part in FEATURES:
        held = {c.party: histogram_of(c, part) for c in contributions if part in c.parts}
        if isinstance(public, Contribution):
            described = histogram_of(public, part) if part in public.parts else None
        else:
            described = (public or {}).get(part)
        found[part] = held | ({"public": described} if held and isinstance(described, TokenHistogram) else {})
    return found


def _described(
    contributions: Sequence[Contribution], found: Mapping[str, TokenHistogram], method: Method | None
) -> dict[str, Histogram]:
    smoothing = getattr(getattr(method, "router", None), "smoothing", 0.5)
    told = {c.party: describe(c.party, found, _trained(c), smoothing) for c in contributions}
    return {party: one for party, one in told.items() if one is not None}


def _trained(contribution: Contribution) -> int | None:
    """Tokens that the owner says it trained on."""
    manifest = contribution.manifest
    training = manifest.training if isinstance(manifest, ExpertManifest) else None
    return training.tokens if training is not None else None


def _with_text(
    contributions: Sequence[Contribution],
    likeness: Sequence[Likeness],
    histograms: Mapping[str, Mapping[str, TokenHistogram]],
) -> list[Likeness]:
    """Every pair, with the share of text that it must have in common by its histograms."""
    known = {pair.parties: pair for pair in likeness}
    found = []
    for one, other in combinations([c.party for c in contributions], 2):
        pair = known.get((one, other)) or Likeness(parties=(one, other), cosine=None, identical=0, compared=0)
        shares = {
            part: common_text(table[one].counts, table[other].counts, pair_seed(one, other))
            for part, table in histograms.items()
            if one in table and other in table and len(table[one].counts) == len(table[other].counts)
        }
        found.append(pair.model_copy(update={"common_text": shares}))
    return found
