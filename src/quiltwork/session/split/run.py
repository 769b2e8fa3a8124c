"""A run of split learning: a channel, a mode, labels and a schedule; the rounds, predictions, leaving and records.

One round, over all parties present:

    down  ROWS [b]          up  ACTIVATION [b, d_i]
          the mode turns activations and labels into cotangents, and steps what it learns itself
    down  COTANGENT [b, d_i]    up  DONE

All parties are asked before any is heard, so they compute side by side. The next round's rows are sent right behind
the cotangents, which a party answers in that order; a round is then one wait and not two, and no bit changes. With
``stale`` the rows of round t + 1 go out before the cotangents of round t, so that parties compute while the composer
does: every cotangent is then one step late, and pulled back at the parameters that gave the activation (stashed).

Bytes are `quiltwork.session.split.bill`: the channel's log equals the formula exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption, LostParty, SessionError
from quiltwork.session.channel import Channel
from quiltwork.session.frames import Kind, Message
from quiltwork.session.split.bill import DIGEST, STATE, STOP, Bill
from quiltwork.session.split.keeping import Keeping
from quiltwork.session.split.labels import Labels, PartyLabels
from quiltwork.session.split.mode import Lesson, Mode
from quiltwork.session.split.records import Events, SplitRecords
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.talk import Talk, broken
from quiltwork.session.split.words import (
    RESTORE,
    SAVE,
    Precision,
    component_terms,
    label_terms,
    output_bytes,
    round_bytes,
    written,
)

MOST_OUTPUTS = 4096
"""Rows that one request for outputs names."""


class SplitRun:
    """A session of split learning.

    Args:
        channel: to the parties with components, and to the label party where there is one.
        mode: how activations become cotangents.
        labels: who answers logits.
        schedule: which rows in which round.
        widths: of the activations, by party with a component.
        precision: how activations and cotangents cross; the same at the nodes.
        stale: send the next rows before the cotangents; the components must stash.
        greatest_norm: largest norm of a row of an activation that is believed.
        folder: the composer's states; None keeps none.
        save_every: rounds between states, at all parties; 0 for none.
        sealing: how each party is confined, as its channel says; "not sealed" where it says nothing.
        events: privacy events of what was done before the first round.

    Raises:
        InvalidOption: the channel has not all the parties, or states are wanted and have no place.
    """

    def __init__(
        self,
        channel: Channel,
        mode: Mode,
        labels: Labels,
        schedule: Schedule,
        widths: Mapping[str, int],
        *,
        precision: Precision = "float32",
        stale: bool = False,
        greatest_norm: float = math.inf,
        folder: Path | None = None,
        save_every: int = 0,
        sealing: Mapping[str, str] | None = None,
        events: Sequence[Events] = (),
    ) -> None:
        self.channel, self.mode, self.labels, self.schedule = channel, mode, labels, schedule
        self.widths = dict(sorted(widths.items()))
        self.label_party = labels.party if isinstance(labels, PartyLabels) else None
        _require_parties(channel, {*widths, *([self.label_party] if self.label_party else [])})
        if save_every < 0 or (save_every and folder is None):
            raise InvalidOption(
                f"save_every={save_every}", why="states need a folder, and a count", mend="Give a folder, or 0."
            )
        self.round = 0
        self.losses: list[Mapping[str, float]] = []
        self.left: list[str] = []
        self.warnings: list[str] = []
        self._midway = False
        self.bill = labels.bill if isinstance(labels, PartyLabels) else Bill()
        self._precision, self._stale, self._save_every = precision, stale, save_every
        self._talk = Talk(channel, greatest_norm)
        self._keeping = Keeping(folder, self._identity()) if folder else None
        self._sealing, self._events = dict(sealing or {}), tuple(events)

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties with components, sorted."""
        return tuple(self.widths)

    def train(self, rounds: int | None = None) -> None:
        """Go on to the end of the schedule, or for so many rounds.

        Raises:
            LostParty: a party died, fell silent or refused; `resume` goes on from the last state.
            SessionError: a party does not keep to the protocol, the loss is not finite, or a round was broken off and
                not resumed.
        """
        if self._midway:
            raise SessionError(
                f"round {self.round}",
                why="it was broken off, and some parties learned from it and others did not",
                mend="Call resume first, or start again with all parties anew.",
            )
        end = self.schedule.rounds if rounds is None else min(self.schedule.rounds, self.round + rounds)
        while self.round < end:
            due = self.round + self._save_every - self.round % self._save_every if self._save_every else end
            self._segment(self.round, min(due, end))
            if self._save_every and self.round % self._save_every == 0:
                self._save()

    def _segment(self, start: int, end: int) -> None:
        """Rounds ``start ... end - 1``; at the end nothing is on its way."""
        self._midway = True
        self._ask(start)
        activations = self._hear(start)
        for round_ in range(start, end):
            more = round_ + 1 < end
            activations = (self._late if self._stale else self._prompt)(round_, activations, round_ > start, more)
            self.round = round_ + 1
        self._midway = False

    def _prompt(self, round_: int, activations: dict[str, Tensor], _: bool, more: bool) -> dict[str, Tensor]:
        """Teach a round, with the next one's rows right behind; the next activations."""
        self._answer(round_, self._learn(round_, activations))
        if more:
            self._ask(round_ + 1)
        self._done(round_)
        return self._hear(round_ + 1) if more else {}

    def _late(self, round_: int, activations: dict[str, Tensor], due: bool, more: bool) -> dict[str, Tensor]:
        """Teach a round while the parties compute the next; the next activations.

        They are heard before cotangents go out, so large arrays never go both ways at once.
        """
        if more:
            self._ask(round_ + 1)
        lesson = self._learn(round_, activations)
        if due:
            self._done(round_ - 1)
        following = self._hear(round_ + 1) if more else {}
        self._answer(round_, lesson)
        if not more:
            self._done(round_)
        return following

    def _present(self, round_: int) -> list[str]:
        return self.schedule.present(self.parties, round_)

    def _ask(self, round_: int) -> None:
        for party in self._present(round_):
            self._talk.push(party, Message(Kind.ROWS, round_, self.schedule.rows(round_)))

    def _hear(self, round_: int) -> dict[str, Tensor]:
        rows = len(self.schedule.rows(round_))
        return {
            party: self._talk.values(party, Kind.ACTIVATION, round_, rows, self.widths[party])
            for party in self._present(round_)
        }

    def _learn(self, round_: int, activations: Mapping[str, Tensor]) -> Lesson:
        if not activations:
            return Lesson({}, {})
        self.labels.begin(torch.from_numpy(self.schedule.rows(round_)), round_)
        lesson = self.mode.learn(activations, self.labels, round_)
        if not all(math.isfinite(loss) for loss in lesson.losses.values()):
            raise SessionError(
                f"round {round_}",
                why=f"the loss is {dict(lesson.losses)}: training has diverged",
                mend="Choose a smaller learning rate.",
            )
        return lesson

    def _answer(self, round_: int, lesson: Lesson) -> None:
        self.losses.append(lesson.losses)
        for party, cotangent in lesson.cotangents.items():
            self._talk.push(party, Message(Kind.COTANGENT, round_, written(cotangent, self._precision)))

    def _done(self, round_: int) -> None:
        rows = len(self.schedule.rows(round_))
        for party in self._present(round_):
            self._talk.pull(party, Kind.DONE, round_)
            self.bill.add(party, round_bytes(rows, self.widths[party], self._precision))

    def activations(
        self, rows: NDArray[np.int64], parties: Sequence[str] | None = None, quorum: int | None = None
    ) -> dict[str, Tensor]:
        """Activations float32 ``[n, d_i]`` as in use, at positions ``[n]``, by party.

        Args:
            rows: positions in the agreed order.
            parties: those to ask; None for all.
            quorum: how many suffice; None for all that are asked. Those that are gone are left out.

        Raises:
            LostParty: fewer than the quorum answered.
        """
        asked = sorted(self.parties if parties is None else parties)
        _require_parties(self.channel, set(asked))
        parts: dict[str, list[Tensor]] = {party: [] for party in asked}
        for start in range(0, max(1, len(rows)), MOST_OUTPUTS):
            self._outputs(np.ascontiguousarray(rows[start : start + MOST_OUTPUTS], dtype=np.int64), parts, quorum)
        if not parts or len(parts) < (quorum or 0):
            raise LostParty(
                f"a quorum of {quorum} parties",
                why=f"{len(parts)} of {len(asked)} answered ({', '.join(parts) or 'none'})",
                mend="Wait until more parties are up, or ask for a smaller quorum.",
            )
        return {party: torch.cat(found) for party, found in parts.items()}

    def _outputs(self, rows: NDArray[np.int64], parts: dict[str, list[Tensor]], quorum: int | None) -> None:
        """Ask all, then hear all; where there is a quorum, drop those that fail."""
        excused = (SessionError,) if quorum is not None else ()
        for party in list(parts):
            try:
                self._talk.push(party, Message(Kind.OUTPUT, self.round, rows))
            except excused:
                del parts[party]
        for party in list(parts):
            try:
                found = self._talk.values(party, Kind.OUTPUT, self.round, len(rows), self.widths[party])
                parts[party].append(found)
                self.bill.add(party, output_bytes(len(rows), self.widths[party]))
            except excused:
                del parts[party]

    def predict(
        self, rows: NDArray[np.int64], parties: Sequence[str] | None = None, quorum: int | None = None
    ) -> NDArray[np.float64]:
        """Log-probabilities ``[n, k]``, or numbers ``[n, 1]``, at positions ``[n]``; arguments as `activations`."""
        found: NDArray[np.float64] = self.mode.infer(self.activations(rows, parties, quorum)).numpy()
        return found

    def digests(self) -> dict[str, str]:
        """SHA-256 of each component, asked for over the channel, and of each learner of the mode."""
        found = {party: self._talk.digest(party, Message(Kind.DIGEST, self.round)) for party in self.parties}
        for party in self.parties:
            self.bill.add(party, DIGEST)
        return found | {name: learner.digest() for name, learner in self.mode.learners().items()}

    def leave(self, party: str) -> None:
        """Let a party go; what remains, states on disk included, is what would be there had it never come.

        The log keeps what was said to it: that is a fact.

        Raises:
            NeedsRetraining: the mode cannot undo what was learned with it.
            InvalidOption: it is not in the session, or the last one.
        """
        if party not in self.widths:
            raise InvalidOption(
                f"party '{party}'", why="it has no component here", mend=f"The parties: {', '.join(self.parties)}."
            )
        rest = self.mode.without(party)
        gone = [learner for name, learner in self.mode.learners().items() if name not in rest.learners()]
        self.mode = rest
        self._talk.settle([party])
        # a party that is gone already needs no farewell
        with suppress(LostParty):
            self._talk.push(party, Message(Kind.STOP, self.round))
            self._talk.pull(party, Kind.DONE, self.round)
            self.bill.add(party, STOP)
        del self.widths[party]
        self.left.append(party)
        self.losses = [{who: loss for who, loss in losses.items() if who != party} for losses in self.losses]
        if self._keeping is not None:
            self._keeping.forget(party, gone)

    def resume(self) -> int:
        """Put everybody back to the last state that all saved, and give its round; 0 where there is none.

        After that `train` goes on bit for bit as an unbroken run would have.

        Raises:
            InvalidOption: there is no folder, or its state is of another run.
            SessionError: a party restored something else than it saved.
        """
        if self._keeping is None:
            raise InvalidOption("resuming", why="this run keeps no states", mend="Give it a folder and save_every.")
        self._talk.settle(self.parties)
        note = self._keeping.load(self.mode.learners())
        if note is None:
            return 0
        self.round, self.losses, self._midway = int(note["round"]), list(note["losses"]), False
        for party, digest in self._state(RESTORE).items():
            if digest != note["digests"].get(party):
                raise broken(party, self.round, "it restored another state than it saved")
        return self.round

    def _save(self) -> None:
        assert self._keeping is not None
        self._keeping.save(self.round, self.mode.learners(), self._state(SAVE), self.losses)

    def _state(self, wish: int) -> dict[str, str]:
        message = Message(Kind.STATE, self.round, np.array([wish], dtype=np.int64))
        found = {party: self._talk.digest(party, message) for party in self.parties}
        for party in self.parties:
            self.bill.add(party, STATE)
        return found

    def records(self) -> SplitRecords:
        """The run as data; asks for the digests."""
        digests = self.digests()
        terms = {party: component_terms(width, self._precision) for party, width in self.widths.items()}
        if self.label_party:
            terms[self.label_party] = label_terms(self.labels.outputs)
        return SplitRecords(
            mode=self.mode.name,
            parties=self.parties,
            label_party=self.label_party,
            terms=terms,
            log=self.channel.log,
            formula=self.bill,
            sealing={party: self._sealing.get(party, "not sealed") for party in terms},
            events=self._events,
            digests=digests,
            dependencies=self.mode.dependencies(),
            rounds=self.round,
            losses=tuple(self.losses),
            precision=self._precision,
            stale=self._stale,
            seed=self.schedule.seed,
            threads=torch.get_num_threads(),
            left=tuple(self.left),
            warnings=tuple(self.warnings),
        )

    def close(self) -> None:
        """Say farewell to all and close the channel; a party that is gone, or answers otherwise, is passed over."""
        self._talk.settle(self.parties)
        for party in [*self.parties, *([self.label_party] if self.label_party else [])]:
            with suppress(SessionError):
                self._talk.push(party, Message(Kind.STOP, self.round))
                self._talk.pull(party, Kind.DONE, self.round)
                self.bill.add(party, STOP)
        self.channel.close()

    def _identity(self) -> dict[str, Any]:
        schedule = self.schedule
        return {
            "mode": self.mode.name,
            "batch": schedule.batch,
            "seed": schedule.seed,
            "absence": schedule.absence,
            "rows": hashlib.sha256(np.sort(schedule.positions).astype("<i8").tobytes()).hexdigest(),
            "precision": self._precision,
            "stale": self._stale,
            "save_every": self._save_every,
        }


def _require_parties(channel: Channel, parties: set[str]) -> None:
    if missing := sorted(parties - set(channel.nodes())):
        raise InvalidOption(
            f"party '{missing[0]}'",
            why="the channel does not reach it",
            mend=f"The parties on the channel: {', '.join(channel.nodes())}.",
        )
