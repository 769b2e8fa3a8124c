"""Checks of a run that take more runs: is it there as recorded, does it come again, what do other fragments change?

again          train(X) has every digest of the facts; without that nothing below would say anything of this run
equivalence    joint: the session equals one process that trains the whole graph; control: another seed
swap           isolated: with noise for all fragments but one, that party sees and becomes the same; control: the
               same swap where one composer learns over all, which must differ
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from quiltwork.audit.check import Check
from quiltwork.audit.facts import Facts, facts_of
from quiltwork.audit.reruns import equivalence, swap
from quiltwork.cli.split.build import components, mode, parted, session, target_of
from quiltwork.cli.split.folder import RunNote, restored_component, restored_mode
from quiltwork.cli.split.plan import ComposerPart, Plan
from quiltwork.cli.split.rows import Cases, read_cases
from quiltwork.cli.split.scores import held_out_scores
from quiltwork.errors import AlteredRecords, InvalidOption
from quiltwork.models.split.seeds import seed_of
from quiltwork.session.split.one_process import train_whole
from quiltwork.session.split.schedule import Schedule


def require_states(run: Path, plan: Plan, note: RunNote, facts: Facts, root: Path, trusted: Collection[str]) -> None:
    """Refuse a run directory whose states are not those of its facts.

    Raises:
        AlteredRecords: the first whose digest is another.
    """
    found = {p: restored_component(run, plan, note, p, root, list(trusted)).digest() for p in facts.parties}
    found |= {name: learner.digest() for name, learner in restored_mode(run, plan, note).learners().items()}
    _require_same(facts, found, "the state in the run directory has another digest", "Restore the run directory.")


def checks(plan: Plan, facts: Facts, root: Path, trusted: Collection[str]) -> list[Check]:
    """Train again, and judge.

    Raises:
        AlteredRecords: training again gives something else than the run.
        InvalidOption: the run kept states, so that its transcripts are not those of one that was not interrupted.
    """
    if any(crossing.kind == "STATE" for crossing in facts.crossed):
        raise InvalidOption(
            "training again",
            why="the run saved states on its way, so more was said than a run from start to end says",
            mend="Audit a run that was trained without --save-every.",
        )
    cases = read_cases(plan, root)
    again = _facts(plan, cases, root, trusted)
    _require_same(
        facts, again.digests, "training again gives another",
        "Use the files, the machine and the number of threads of the run.",
    )  # fmt: skip
    if plan.training.mode == "isolated":
        return [_swap(plan, facts, cases, party, root, trusted) for party in facts.parties]
    how = plan.training
    comparable = how.precision == "float32" and not how.stale and not how.absence
    return [_equivalence(plan, facts, cases, root, trusted)] if comparable else []


def _swap(plan: Plan, facts: Facts, cases: Cases, party: str, root: Path, trusted: Collection[str]) -> Check:
    others = _swapped(cases, party, plan)
    joint = plan.training.model_copy(update={"mode": "joint"})
    leaking = plan.model_copy(update={"training": joint, "composer": ComposerPart()})
    return swap(facts, party, _facts(plan, others, root, trusted), _facts(leaking, others, root, trusted))


def _equivalence(plan: Plan, facts: Facts, cases: Cases, root: Path, trusted: Collection[str]) -> Check:
    other = plan.training.model_copy(update={"seed": plan.training.seed + 1})
    control = _whole(plan.model_copy(update={"training": other}), cases, root, trusted)
    return equivalence(facts, _whole(plan, cases, root, trusted), control)


def _whole(plan: Plan, cases: Cases, root: Path, trusted: Collection[str]) -> Mapping[str, str]:
    """Digests of training everything as one graph in this process."""
    train, _ = parted(plan, len(cases))
    learners = components(plan, {p: x[torch.from_numpy(train)] for p, x in cases.fragments.items()}, root, trusted)
    target = target_of(cases, train)
    (composer,) = mode(plan, target.outputs, torch.ones(target.outputs)).learners().values()
    how = plan.training
    train_whole(learners, composer, cases.fragments, target, Schedule(train, how.batch_size, how.epochs, how.seed))
    return {name: learner.digest() for name, learner in (learners | {composer.name: composer}).items()}


def _swapped(cases: Cases, party: str, plan: Plan) -> Cases:
    """The cases with every fragment but one replaced by normal noise."""
    noise = torch.Generator().manual_seed(seed_of(plan.training.seed, f"swap/{party}"))
    fragments = {
        name: rows if name == party else torch.randn(rows.shape, generator=noise)
        for name, rows in cases.fragments.items()
    }
    return replace(cases, fragments=fragments)


def _facts(plan: Plan, cases: Cases, root: Path, trusted: Collection[str]) -> Facts:
    """A run in which the same is asked of everybody as `quiltwork split train` asks."""
    live = session(plan, cases, root, trusted=trusted).run
    live.train()
    held_out_scores(plan, cases, live)
    return facts_of(live.records())


def _require_same(facts: Facts, found: Mapping[str, str], why: str, mend: str) -> None:
    changed = sorted(name for name in {*found, *facts.digests} if found.get(name) != facts.digests.get(name))
    if changed:
        raise AlteredRecords(f"component '{changed[0]}'", why=f"{why} than the records say", mend=mend)
