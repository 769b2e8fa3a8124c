"""Checks of a run that take more runs: is it there as recorded, does it come again, what do other fragments change?

again          train(X) has every digest of the facts; without that nothing below would say anything of this run
equivalence    joint: the session equals one process that trains the whole graph; control: another seed
swap           isolated: with noise for all fragments but one, that party sees and becomes the same; control: the
               same swap where one composer learns over all, which must differ
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from quiltwork.audit.check import Check
from quiltwork.audit.facts import Facts, facts_of
from quiltwork.audit.reruns import equivalence, swap
from quiltwork.cli.split.attacking import liars
from quiltwork.cli.split.build import component, parted, session, target_of
from quiltwork.cli.split.folder import component_file
from quiltwork.cli.split.modes import mode, uniform
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.plan_parts import ComposerPart
from quiltwork.cli.split.release import kept, response
from quiltwork.cli.split.rows import Cases
from quiltwork.cli.split.scores import held_out_scores
from quiltwork.cli.split.subject import Subject
from quiltwork.errors import AlteredRecords, InvalidOption
from quiltwork.models.split.seeds import seed_of
from quiltwork.privacy.labels import ReleasedLabels
from quiltwork.session.split.one_process import train_whole
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule


@dataclass(frozen=True)
class Rerun:
    """Another training by a plan.

    Attributes:
        plan: of what.
        cases: the rows.
        root: the plan's directory.
        trusted: whose own code may run.
        save_every: rounds between states, as in the run: they are asked for over the channel.
        resumed: the round from which the run last went on, as in the run: its records begin there.
        released: labels to train on in place of the cases' own.
    """

    plan: Plan
    cases: Cases
    root: Path
    trusted: Collection[str]
    save_every: int = 0
    resumed: int = 0
    released: ReleasedLabels | None = None

    def facts(self) -> Facts:
        """Of a run in which the same is asked of everybody as in `quiltwork split train`."""
        with TemporaryDirectory() as states:
            if self.resumed:
                self._started(Path(states)).train(self.resumed)
            live = self._started(Path(states))
            if self.resumed:
                live.resume()
            live.train()
            held_out_scores(self.plan, self.cases, live)
            return facts_of(live.records())

    def _started(self, states: Path) -> SplitRun:
        return session(
            self.plan, self.cases, self.root, trusted=self.trusted, released=self.released,
            folder=states if self.save_every else None, save_every=self.save_every,
        ).run  # fmt: skip

    def whole(self, train: NDArray[np.int64]) -> dict[str, str]:
        """Digests of training everything as one graph in this process, on rows ``[n]``."""
        seen, names = torch.from_numpy(train), self.cases.columns
        fragments = self.cases.fragments
        learners = {
            p: component(self.plan, p, names[p], x[seen], self.root, self.trusted) for p, x in fragments.items()
        }
        target = target_of(self.cases.labels, self.cases.classes, train, self.released)
        how = self.plan.training
        (composer,) = mode(self.plan, uniform(target.outputs), self.root, self.trusted).learners().values()
        train_whole(learners, composer, fragments, target, Schedule(train, how.batch_size, how.epochs, how.seed))
        return {name: learner.digest() for name, learner in (learners | {composer.name: composer}).items()}


def require_states(subject: Subject) -> None:
    """Refuse a run directory whose states are not those of its facts; components still at their owners are believed.

    Raises:
        AlteredRecords: the first whose digest is another.
    """
    facts = subject.facts
    here = [p for p in facts.parties if p not in subject.note.away or component_file(subject.run, p).exists()]
    found = {p: digest for p, digest in facts.digests.items() if p in facts.parties}
    found |= {p: subject.component(p).digest() for p in here}
    found |= {name: learner.digest() for name, learner in subject.mode().learners().items()}
    _require_same(facts, found, "the state in the run directory has another digest", "Restore the run directory.")


def retrained(subject: Subject) -> list[Check]:
    """Train again, and judge.

    Raises:
        AlteredRecords: training again gives something else than the run.
        InvalidOption: components have a budget for each record, which training again would overdraw.
    """
    plan, facts, note = subject.plan, subject.facts, subject.note
    if plan.private:
        raise InvalidOption(
            "training again",
            why="components were trained under noise that nobody kept, and each further training on the same rows is a "
            "further release",
            mend="Audit without --retrain.",
        )
    rerun = Rerun(plan, subject.cases, subject.root, subject.trusted, note.save_every, note.resumed)
    if mechanism := response(plan, rerun.cases):
        rerun = replace(rerun, released=kept(subject.run, mechanism, rerun.cases))
    again = rerun.facts()
    _require_same(
        facts, again.digests, "training again gives another",
        "Use the files, the machine and the number of threads of the run.",
    )  # fmt: skip
    if plan.training.mode == "isolated":
        return [*(_swap(facts, rerun, party) for party in facts.parties), *liars(subject)]
    how = plan.training
    comparable = (
        how.mode == "joint" and not plan.masked and how.precision == "float32" and not how.stale and not how.absence
    )
    return [_equivalence(facts, rerun)] if comparable else []


def _swap(facts: Facts, rerun: Rerun, party: str) -> Check:
    swapped = replace(rerun, cases=_swapped(rerun.cases, party, rerun.plan))
    joint = rerun.plan.training.model_copy(update={"mode": "joint"})
    leaking = replace(swapped, plan=rerun.plan.model_copy(update={"training": joint, "composer": ComposerPart()}))
    return swap(facts, party, swapped.facts(), leaking.facts())


def _equivalence(facts: Facts, rerun: Rerun) -> Check:
    other = rerun.plan.training.model_copy(update={"seed": rerun.plan.training.seed + 1})
    control = replace(rerun, plan=rerun.plan.model_copy(update={"training": other}))
    train, _ = parted(rerun.plan, len(rerun.cases))
    return equivalence(facts, rerun.whole(train), control.whole(train))


def _swapped(cases: Cases, party: str, plan: Plan) -> Cases:
    """The cases with every fragment but one replaced by normal noise."""
    noise = torch.Generator().manual_seed(seed_of(plan.training.seed, f"swap/{party}"))
    fragments = {
        name: rows if name == party else torch.randn(rows.shape, generator=noise)
        for name, rows in cases.fragments.items()
    }
    return replace(cases, fragments=fragments)


def _require_same(facts: Facts, found: Mapping[str, str], why: str, mend: str) -> None:
    changed = sorted(name for name in {*found, *facts.digests} if found.get(name) != facts.digests.get(name))
    if changed:
        raise AlteredRecords(f"component '{changed[0]}'", why=f"{why} than the records say", mend=mend)
