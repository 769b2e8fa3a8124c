"""From figures to findings, and from findings to advice: what each says, why it matters, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from quiltwork.contribution.fields import owner_of
from quiltwork.evaluate.screen_evidence import COMMON
from quiltwork.evaluate.screen_losses import errors_needed, together
from quiltwork.evaluate.screen_record import Advice, Capture, Effect, Finding, Level, Likeness, Rule, Screened
from quiltwork.evaluate.screen_weights import ALIKE
from quiltwork.models.slots import BASE_SLOT

GREEDY = 2.0
"""Times the even share that an expert answers of others' text, where it is worth a look; a half is enough."""

Found = Iterator[tuple[str, Finding]]


def is_copy(pair: Likeness) -> bool:
    """Whether two contributions look like one."""
    alike = pair.cosine is not None and pair.cosine > ALIKE
    return alike or pair.identical > 0 or _common(pair) > COMMON


def _common(pair: Likeness) -> float:
    """The share of common text on which all their histograms agree: single tokens of one kind of text may lie close."""
    return min(pair.common_text.values(), default=0.0)


def copy_findings(likeness: Sequence[Likeness]) -> Found:
    """Pairs that look like one contribution under two names; nobody can tell which was first."""
    for pair in filter(is_copy, likeness):
        own = owner_of(pair.parties[0]) == owner_of(pair.parties[1])
        signs = []
        if pair.cosine is not None and pair.cosine > ALIKE:
            signs.append(f"the changes of their weights have a cosine of {pair.cosine:.3f}")
        if pair.identical:
            signs.append(f"{pair.identical} of {pair.compared} tensors are the same bytes")
        if _common(pair) > COMMON:
            signs.append(f"{100 * _common(pair):.0f} % of the text that their histograms count must be the same")
        for party, other in (pair.parties, pair.parties[::-1]):
            yield (
                party,
                Finding(
                    check="duplicate",
                    level="note" if own else "look",
                    about=other,
                    what=f"it and '{other}' look like one: {'; '.join(signs)}",
                    why="a copy counts twice" + ("" if own else ", and stays when the owner of the original opts out"),
                    mend="Compose with one of them."
                    if own
                    else "Ask both owners which of them trained it, and compose with that one.",
                ),
            )


def groups(parties: Sequence[str], likeness: Sequence[Likeness]) -> dict[str, tuple[str, ...]]:
    """For each party those that are judged together with it: its copies, copies of these, and an owner's own shares."""
    found = {party: {other for other in parties if owner_of(other) == owner_of(party)} for party in parties}
    for pair in filter(is_copy, likeness):
        one, other = pair.parties
        joined = found[one] | found[other]
        found |= dict.fromkeys(joined, joined)
    return {party: tuple(sorted(group)) for party, group in found.items()}


def loss_findings(effects: Sequence[Effect], groups: Mapping[str, Sequence[str]]) -> Found:
    """Texts that a contribution makes worse, by the rule; its own is one of them."""
    for one in effects:
        if not one.party or one.kind not in ("harm", "cost"):
            continue
        copies = [party for party in groups[one.party] if party != one.party]
        what = f"{one.text}: {one.present:.3f} bits per byte with it, {one.absent:.3f} without ({change(one)})"
        if copies:
            what += f"; {', '.join(copies)} was taken out with it"
        whose = "its own" if is_of(one.text, one.party) else "this"
        if one.kind == "harm":
            why = f"{whose} text is predicted worse because it takes part, and not by chance"
            mend = "Compose without it, or choose a method in which it does no harm."
        else:
            why = f"it costs {whose} text something; that this is more than counts as harm may be chance, or it is less"
            mend = "Weigh it against what it brings; more text tells more."
        level: Level = "harm" if one.kind == "harm" else "note"
        yield one.party, Finding(check="loss", level=level, about=one.text, what=what, why=why, mend=mend)


def together_findings(effects: Sequence[Effect], rule: Rule) -> Found:
    """Contributions that make others' texts worse, all taken together, where no single one may show it."""
    for party in dict.fromkeys(one.party for one in effects if one.party):
        others = [one for one in effects if one.party == party and not is_of(one.text, party)]
        found = together(others, rule)
        if found is not None and found.mean > rule.harm + found.chance:
            what = (
                f"the {found.texts} texts of others are predicted worse by {100 * found.mean:.1f} % ± "
                f"{100 * found.error:.1f} in the mean because it takes part"
            )
            why = "it takes a part of everybody's text, and predicts it worse; all texts together, that is not chance"
            mend = "Compose without it, or bound its evidence more (bound)."
            yield party, Finding(check="loss", level="harm", what=what, why=why, mend=mend)


def change(one: Effect) -> str:
    """A change in per cent with its error.

    >>> known = {"party": "a", "text": "t", "chance": 0.03, "kind": "harm", "documents": 9}
    >>> change(Effect(present=2.2, absent=2.0, change=0.2, error=0.01, **known))
    '+10.0 % ± 0.5'
    """
    error = "" if one.error is None else f" ± {100 * one.error / one.absent:.1f}"
    return f"{100 * one.change / one.absent:+.1f} %{error}"


def is_worse(one: Effect, rule: Rule) -> bool:
    """Whether a text is worse by chance hardly, and by as much as counts as harm: enough for a question."""
    return one.kind in ("harm", "cost") and one.change > rule.harm * one.absent


def expert_findings(alone: Sequence[Effect]) -> Found:
    """Experts that by themselves predict their own party's text worse than the base does, by however little."""
    for one in alone:
        if one.kind in ("harm", "cost"):
            yield (
                one.party,
                Finding(
                    check="expert",
                    level="look",
                    about=one.text,
                    what=f"alone it predicts its own text worse than the base: {one.present:.3f} bits per byte against "
                    f"{one.absent:.3f}",
                    why="it was trained on something else, not well, or not at all",
                    mend="Ask the owner for a new contribution.",
                ),
            )


def capture_findings(captures: Sequence[Capture], rule: Rule) -> Found:
    """Owners who answer more of others' text than those whose text it is, and twice what would be even, over all."""
    for party in dict.fromkeys(one.party for one in captures if one.party != BASE_SLOT):
        foreign = [one for one in captures if one.party == party and not is_of(one.text, party)]
        enough = [one for one in foreign if one.documents >= rule.documents and one.error is not None]
        if not enough:
            continue
        mean, uniform = (sum(getattr(one, name) for one in enough) / len(enough) for name in ("group", "uniform"))
        # an owner of several experts may answer as much as several
        uniform *= sum(is_of(one.party, party) for one in captures if one.text == enough[0].text)
        gap = mean - sum(one.owner for one in enough) / len(enough)
        error = sum((one.error or 0.0) ** 2 for one in enough) ** 0.5 / len(enough)
        chance = errors_needed(rule, min(one.documents for one in enough), 1) * error
        if gap > chance and mean > min(GREEDY * uniform, 0.5):
            worst = max(enough, key=lambda one: one.group)
            what = (
                f"it answers {100 * mean:.0f} % of others' text, more than those whose text it is "
                f"({100 * (mean - gap):.0f} %); most of {worst.text} ({100 * worst.group:.0f} %)"
            )
            why = f"the router prefers it to the owners; {100 * uniform:.0f} % would be even"
            mend = "Look at its effect on these texts; bound its evidence, or lower its weight."
            yield (
                party,
                Finding(check="capture", level="look", about=worst.text, what=what, why=why, mend=mend),
            )


def claim_findings(captures: Sequence[Capture], effects: Sequence[Effect], rule: Rule) -> Found:
    """Parties whose evidence leaves most of their own text to others, while others do harm there.

    Who harms a text that its own party does not claim need not be the cause, so these parties are judged first.
    """
    harmed = {one.text for one in effects if one.kind == "harm" and one.party and not is_of(one.text, one.party)}
    for own in captures:
        if own.text not in harmed or own.party == BASE_SLOT or not is_of(own.text, own.party):
            continue
        if own.documents < rule.documents or own.spread is None:
            continue
        if own.owner < 0.5 - errors_needed(rule, own.documents, 1) * own.spread:
            others = (one for one in captures if one.text == own.text and not is_of(one.text, one.party))
            most = max(others, key=lambda one: one.share)
            what = f"it answers {100 * own.owner:.0f} % of its own text, '{most.party}' {100 * most.share:.0f} %"
            why = "its histogram does not describe its own text, and others' experts predict that text worse"
            mend = "Ask the owner for the histogram of the text that its expert was trained on."
            yield own.party, Finding(check="claim", level="look", about=own.text, what=what, why=why, mend=mend)


def is_of(text: str, party: str) -> bool:
    """Whether a text is of a party's owner: of the party itself, of the owner, or of another of its shares."""
    return owner_of(text) == owner_of(party)


def advise(screened: Sequence[Screened], effects: Sequence[Effect], majority: Sequence[str] = ()) -> tuple[Advice, str]:
    """What to do with all of them, and why; ``majority``: those who harm, where it is more than half."""
    harmful = [one.party for one in screened if one.verdict == "harmful"]
    doubtful = [one.party for one in screened if one.verdict == "look"]
    last = max((one.round for one in effects), default=0)
    whole = [one for one in effects if not one.party and one.round == last]
    worse, better = (sum(one.kind == kind for one in whole) for kind in ("harm", "help"))
    bad = {*harmful, *majority}
    if majority or 2 * len(bad) > len(screened):
        return "do not collaborate", (
            f"{len(bad)} of {len(screened)} contributions harm somebody under this method: it is the method, or "
            "most of them. Do not collaborate in this way; try another method, and screen again."
        )
    if worse > better:
        return "do not collaborate", (
            f"The composed model is clearly worse than the public base on {worse} of {len(whole)} texts and better on "
            f"{better}. Do not collaborate in this way."
        )
    if harmful:
        others = f" Before composing the others, look at {', '.join(doubtful)}." if doubtful else ""
        return "compose without some", f"Compose without {', '.join(harmful)}.{others}"
    measured = _measured(whole)
    if doubtful:
        return "look first", f"Look at {', '.join(doubtful)} before composing; {measured}."
    return "compose", f"Nothing speaks against composing: these checks found nothing, and {measured}."


def _measured(whole: Sequence[Effect]) -> str:
    """What the losses say where nobody harms; texts with too few documents say nothing."""
    if not whole:
        return "no text was scored"
    unknown = [one.text for one in whole if one.kind == "unknown"]
    if len(unknown) == len(whole):
        return "whether anybody's text is predicted worse is not known: every text has too few documents"
    said = "nobody's text is predicted worse because of any of them"
    return f"{said}, as far as is known: {', '.join(unknown)} too small to judge" if unknown else said
