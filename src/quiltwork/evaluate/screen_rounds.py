"""Who is to blame, in rounds: whoever has a fault is set aside, and the others are screened again without them.

One bad contribution makes others look bad: where it claims no text, honest experts answer its text, and badly; where it
takes text, what others do there changes. So blame is laid in an order, and each step is taken only if the one before
found nobody:

1. faults of one's own, whatever the losses: size, histogram, expert
2. whoever answers most of others' text; histograms that describe others' text and not their own (``screen_claims``),
   and experts that are not given their own text, while somebody is harmed there
3. if more than half harm, it is the method that harms, or most of them: all are called *look*, those too whom step 4
   set aside before, and nobody is set aside any more; before step 2 where the router reads no histograms
4. the one that harms most, of those whose harm does not hang on another's:

Let h(x, T | S) be whether x harms text T in the composition of S. The harm of x hangs on y where every T that x harms
is not y's, and is not harmed without y: not h(x, T | S - y). Whose harm hangs on nobody's is judged first, and the
others again without it. Where all hang on each other, nobody can say who is the cause: all of these are called *look*,
and told so.

A contribution's verdict is that of its last round. An owner's shares, and copies, are set aside together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.compose.statistics import FEATURES
from quiltwork.composite import Composite
from quiltwork.evaluate.screen_claims import description_findings
from quiltwork.evaluate.screen_record import Capture, Description, Effect, Finding
from quiltwork.evaluate.screen_runs import Measured, Runs
from quiltwork.evaluate.screen_verdicts import capture_findings, claim_findings, is_of, loss_findings, together_findings

Findings = dict[str, list[Finding]]
Group = tuple[str, ...]

_METHOD = (
    "more than half of them harm somebody: the method does it, or most of them do, and this one may not be the cause"
)
_OWN_FAULTS = ("norm", "histogram", "expert")


def add(findings: Findings, *found: Iterable[tuple[str, Finding]]) -> None:
    """Put findings under the parties whose they are."""
    for some in found:
        for party, finding in some:
            findings[party].append(finding)


@dataclass
class Rounds:
    """The rounds of one screening.

    Attributes:
        runs: models.
        together: for each party those that are taken out with it.
        descriptions: how well histograms describe texts.
        findings: by party; what the rounds find is added.
        effects, captures: of all rounds.
        aside: after which round somebody was set aside.
        by_loss: whom nothing but losses set aside.
        majority: who harms, where more than half of the last round's do.
    """

    runs: Runs
    together: Mapping[str, Group]
    descriptions: Sequence[Description]
    findings: Findings
    effects: list[Effect] = field(default_factory=list)
    captures: list[Capture] = field(default_factory=list)
    aside: dict[str, int] = field(default_factory=dict)
    by_loss: list[str] = field(default_factory=list)
    majority: Group = ()

    def run(self) -> None:
        """Screen until nobody is set aside."""
        composite, texts, number = self.runs.compose(), list(self.runs.held_out.domains), 1
        while True:
            measured = self.runs.round(number, composite, texts, self.together)
            self.effects += measured.effects
            self.captures += measured.captures
            found = self._judged(composite.parties, measured)
            suspects = self._suspects(composite, found, measured)
            rest = self.runs.without(composite, suspects) if suspects else None
            left = [text for text in texts if not any(is_of(text, party) for party in suspects)]
            for party in suspects if rest is not None and left else composite.parties:
                self.findings[party] += found[party]
            self.aside |= dict.fromkeys(suspects, number)
            if rest is None or not left:
                return
            composite, texts, number = rest, left, number + 1

    def _judged(self, parties: Sequence[str], measured: Measured) -> Findings:
        """What one round says of each party in it."""
        found: Findings = {party: [] for party in parties}
        rule = self.runs.rule
        present = [one for one in self.descriptions if one.party in found]
        add(found, description_findings(present, measured.effects, rule))
        astray = [party for party, some in found.items() if any(f.level != "note" for f in some)]
        # who answers text that its own party does not claim takes it from nobody
        claimed = [one for one in measured.captures if not any(is_of(one.text, party) for party in astray)]
        add(found, loss_findings(measured.effects, self.together), together_findings(measured.effects, rule))
        add(found, capture_findings(claimed, rule))
        if self._reads:
            add(found, claim_findings(claimed, measured.effects, rule))
        return found

    def _suspects(self, composite: Composite, found: Findings, measured: Measured) -> list[str]:
        """Whom to set aside; see the module's docstring."""
        parties = composite.parties

        def with_fault(*checks: str) -> list[str]:
            every = {p: (*self.findings[p], *found[p]) for p in parties}
            return [p for p in parties if any(f.check in checks and f.level != "note" for f in every[p])]

        harmful = with_fault("loss")
        most = 2 * len(harmful) > len(parties)
        # learned rows give foreign text to whom they please: where most harm, to attract it is no fault of one's own
        if suspects := with_fault(*_OWN_FAULTS) or ([] if most and not self._reads else with_fault("capture", "claim")):
            return suspects
        if most:
            self.majority = tuple(sorted([*harmful, *self.by_loss]))
            for some, whom in ((found, harmful), (self.findings, self.by_loss)):
                _doubt(some, whom, _METHOD, "Try another method, and screen again.")
            return []
        worst = self._worst(composite, harmful, found, measured) if harmful else []
        self.by_loss += worst
        return worst

    @property
    def _reads(self) -> bool:
        """Whether the router reads histograms."""
        return bool(self.runs.method.needs() & set(FEATURES))

    def _worst(self, composite: Composite, harmful: Sequence[str], found: Findings, measured: Measured) -> list[str]:
        """The group that harms most, of those whose harm hangs on nobody's; all of them, in doubt, if there is none."""
        groups = dict.fromkeys(self._group(party, composite) for party in harmful)
        free = [g for g in groups if not any(self._hangs(composite, g, o, measured) for o in groups if o != g)]
        if not free:
            why = f"this harm vanishes without any of {', '.join(harmful)}: which of them is the cause cannot be told"
            _doubt(found, harmful, why, "Compose without one of them, and screen again.")
            return list(harmful)
        theirs = [one for one in measured.effects if any(one.party in group for group in free)]
        return list(self._group(max(theirs, key=lambda one: one.change / one.absent).party, composite))

    def _group(self, party: str, composite: Composite) -> Group:
        return tuple(name for name in self.together[party] if name in composite.parties)

    def _hangs(self, composite: Composite, group: Group, other: Group, measured: Measured) -> bool:
        """Whether the harm of a group vanishes without the other, and not because the other's text is gone."""
        harmed = [one.text for one in measured.effects if one.kind == "harm" and one.party == group[0]]
        if any(is_of(text, party) for text in harmed for party in other):
            return False
        return bool(harmed) and not self.runs.harms(composite, group, other, harmed, measured)


def _doubt(found: Findings, parties: Sequence[str], why: str, mend: str) -> None:
    """Turn harms of which nobody can say whose they are into questions."""
    doubted = {"level": "look", "why": why, "mend": mend}
    for party in parties:
        found[party] = [
            one.model_copy(update=doubted) if (one.check, one.level) == ("loss", "harm") else one
            for one in found[party]
        ]
