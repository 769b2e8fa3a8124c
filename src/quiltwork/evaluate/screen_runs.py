"""The models of a screening: the base, the composite, the composite without each contribution, experts alone.

Each is built when its turn comes, scored on every text, and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.compose.alone import Alone
from quiltwork.compose.method import Method, compose
from quiltwork.composite import Composite
from quiltwork.contribution.fields import owner_of
from quiltwork.contribution.kinds import provided
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import ExportError, NeedsRetraining
from quiltwork.evaluate.bits_per_byte import score
from quiltwork.evaluate.matrix import HeldOut
from quiltwork.evaluate.routing import document_shares
from quiltwork.evaluate.screen_losses import Losses, effect, mean_and_error
from quiltwork.evaluate.screen_record import Capture, Effect, Rule
from quiltwork.evaluate.screen_verdicts import is_of
from quiltwork.evaluate.trace import Trace
from quiltwork.models.base import Base
from quiltwork.models.tokenizer_files import separator_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Scored = Mapping[str, Losses]


@dataclass(frozen=True)
class Measured:
    """What one round gave.

    Attributes:
        effects: of every contribution on every text, and of all together against the base.
        captures: who answered what.
        without: losses of the composite without some of its parties, kept for pairs of them.
    """

    effects: tuple[Effect, ...]
    captures: tuple[Capture, ...]
    without: dict[tuple[str, ...], Scored]


@dataclass
class Runs:
    """All that models of one screening have in common.

    Attributes:
        contributions: sorted by party.
        base, method, public: as ``compose`` takes them.
        held_out: texts.
        rule: of harm.
        device: where to run.
        on_step: called with a line before each model.
    """

    contributions: Sequence[Contribution]
    base: Base
    method: Method
    public: Any
    held_out: HeldOut
    rule: Rule
    device: str
    on_step: Callable[[str], None]

    @cached_property
    def _of_base(self) -> Scored:
        self.on_step("scoring the base")
        return self._score(self.base.load_model())[0]

    def compose(self, parties: Sequence[str] | None = None) -> Composite:
        """The composite of some contributions, or of all."""
        taken = [c for c in self.contributions if parties is None or c.party in parties]
        return compose(taken, self.method, self.base, public=self.public)

    def round(
        self, number: int, composite: Composite, texts: Sequence[str], together: Mapping[str, Sequence[str]]
    ) -> Measured:
        """One composite with each of its contributions and without it, on some of the texts.

        Args:
            number: of the round, told in the record.
            composite: of the contributions that are left.
            texts: those that are judged.
            together: for each party those that are taken out with it.
        """
        self.on_step(f"scoring the composite of {', '.join(composite.parties)}")
        whole, shares = self._score(composite.model(), len(composite.slots), texts)
        effects = [self._effect(number, "", text, whole, self._of_base, len(texts)) for text in texts]
        without: dict[tuple[str, ...], Scored] = {}
        for party in composite.parties:
            group = tuple(name for name in together[party] if name in composite.parties)
            absent = self._without(composite, group, texts, without)
            effects += [self._effect(number, party, text, whole, absent, len(texts)) for text in texts]
        captures = [one for text, found in shares.items() for one in _captures(number, composite, text, found)]
        return Measured(tuple(effects), tuple(captures), without)

    def _without(
        self, composite: Composite, group: tuple[str, ...], texts: Sequence[str], known: dict[tuple[str, ...], Scored]
    ) -> Scored:
        """Losses without some parties, scored once."""
        if group not in known:
            self.on_step(f"scoring without {', '.join(group)}")
            rest = self.without(composite, group)
            known[group] = self._of_base if rest is None else self._score(rest.model(), 0, texts)[0]
        return known[group]

    def harms(
        self,
        composite: Composite,
        group: tuple[str, ...],
        other: tuple[str, ...],
        texts: Sequence[str],
        measured: Measured,
    ) -> bool:
        """Whether a group still harms one of the texts in the composite without the other."""
        judged = list(dict.fromkeys(one.text for one in measured.effects))
        present = measured.without[other]
        both = tuple(sorted({*group, *other}))
        absent = self._without(composite, both, judged, measured.without)
        return any(self._effect(0, group[0], text, present, absent, len(judged)).kind == "harm" for text in texts)

    def _effect(self, number: int, party: str, text: str, present: Scored, absent: Scored, judged: int) -> Effect:
        return effect(party, text, present[text], absent[text], self.rule, judged, number)

    def without(self, composite: Composite, group: Sequence[str]) -> Composite | None:
        """The composite without some parties; None where nobody is left."""
        rest = [party for party in composite.parties if party not in group]
        if not rest:
            return None
        try:
            for party in group:
                composite = composite.without(party) if party in composite.parties else composite
        except (ExportError, NeedsRetraining):
            return self.compose(rest)
        return composite

    def alone(self) -> list[Effect]:
        """Each expert by itself against the base, on its own party's text where that was given."""
        scope = "full" if "full" in self.method.needs() else "ffn"
        found = []
        for contribution in self.contributions:
            text = self._own_text(contribution.party)
            if text is None or scope not in provided(contribution.parts):
                continue
            self.on_step(f"scoring {contribution.party} alone")
            model = compose([contribution], Alone(scope), self.base).model()  # type: ignore[arg-type]
            losses, _ = self._score(model, 0, [text])
            found.append(effect(contribution.party, text, losses[text], self._of_base[text], self.rule, 1))
        return found

    def _own_text(self, party: str) -> str | None:
        """What a party's expert was trained for: the text of its name, or its owner's if it is the only share."""
        if party in self.held_out.parties:
            return party
        shares = [c.party for c in self.contributions if owner_of(c.party) == owner_of(party)]
        return owner_of(party) if len(shares) == 1 and owner_of(party) in self.held_out.parties else None

    def _score(
        self, model: PreTrainedModel, slots: int = 0, texts: Sequence[str] | None = None
    ) -> tuple[dict[str, Losses], dict[str, NDArray[np.float64]]]:
        """Losses on texts, and for a model with ``slots`` the weight of each in every document."""
        tokenizer = self.base.load_tokenizer()
        losses, shares = {}, {}
        with Trace(model.to(self.device)) as trace:  # type: ignore[arg-type]
            for text in self.held_out.domains if texts is None else texts:
                found = score(
                    model,
                    tokenizer,
                    self.held_out.domains[text],
                    prefix=separator_id(tokenizer),
                    max_length=self.held_out.max_length,
                    batch_size=self.held_out.batch_size,
                    on_batch=trace.begin_batch,
                )
                losses[text] = Losses(found.document_nats, found.document_bytes)
                tallies = trace.tallies()
                if slots and tallies:
                    shares[text] = document_shares(tallies, slots)
        return losses, shares


def _captures(number: int, composite: Composite, text: str, shares: NDArray[np.float64]) -> list[Capture]:
    """Of one text, how much each slot answers beside those whose text it is."""
    slots = composite.slots
    own = [slot for slot, party in enumerate(slots) if slot and is_of(text, party)]
    owner = shares[:, own or [0]].sum(axis=1)
    found = []
    for slot, party in enumerate(slots):
        # the base is nobody's share, whatever an owner may be called
        together = [n for n, name in enumerate(slots) if n and owner_of(name) == owner_of(party)] if slot else [0]
        group = shares[:, together].sum(axis=1)
        _, error = mean_and_error((group - owner).tolist())
        share, spread = mean_and_error(shares[:, slot].tolist())
        found.append(
            Capture(
                party=party,
                text=text,
                share=share,
                group=float(group.mean()),
                owner=float(owner.mean()),
                error=error,
                spread=spread,
                uniform=1 / len(slots),
                documents=len(shares),
                round=number,
            )
        )
    return found
