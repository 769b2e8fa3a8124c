"""Tests of a run by its digests: are the states those of the records, and does training again say the same?

    again     train(X) has every digest of the records
    swap      train(X_i, noise elsewhere) has component i's digest, for each i: isolated mode must, joint mode must not

A swap that changes nothing in joint mode would mean that the test sees nothing; it is the test's own control.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from quiltwork.cli.split.build import session
from quiltwork.cli.split.findings import Finding
from quiltwork.cli.split.folder import RunNote, restored_component, restored_mode
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import Cases, read_cases
from quiltwork.models.split.seeds import seed_of

_MISTAKES = "our own mistakes, and other machines' arithmetic"


def states_as_recorded(
    run: Path, plan: Plan, note: RunNote, facts: Mapping[str, Any], root: Path, trusted: Collection[str]
) -> Finding:
    """Whether every state in a run directory has the digest that the records name."""
    found = {p: restored_component(run, plan, note, p, root, list(trusted)).digest() for p in facts["parties"]}
    found |= {name: learner.digest() for name, learner in restored_mode(run, plan, note).learners().items()}
    changed = sorted(name for name in {*found, *facts["digests"]} if found.get(name) != facts["digests"].get(name))
    return Finding(
        "The states in the run directory are those that were trained.",
        "whoever can write to it, but not to its records",
        "not held" if changed else "held",
        f"the digest of '{changed[0]}' is another" if changed else f"{len(found)} digests are those of the records",
    )


def retrained(plan: Plan, facts: Mapping[str, Any], root: Path, trusted: Collection[str]) -> list[Finding]:
    """Train again as it was, and once for each party with all other fragments replaced by noise."""
    cases = read_cases(plan, root)
    found = _digests(plan, cases, root, trusted)
    changed = sorted(name for name, digest in facts["digests"].items() if found.get(name) != digest)
    again = Finding(
        "Training again gives the same components, bit for bit.",
        _MISTAKES,
        "not held" if changed else "held",
        f"the digest of '{changed[0]}' is another" if changed else f"{len(found)} digests are the same",
    )
    moved = [p for p in facts["parties"] if _digests(plan, _swapped(cases, p, plan), root, trusted)[p] != found[p]]
    swap = Finding(
        "Replace all other fragments by noise, and a party's component comes out the same.",
        "a curious party, or a mistake that lets one fragment into another's training",
        "not held" if moved else "held",
        f"the components of {', '.join(moved)} come out differently"
        if moved
        else f"the digests of {', '.join(facts['parties'])} are the same",
    )
    return [again, swap]


def _swapped(cases: Cases, party: str, plan: Plan) -> Cases:
    """The cases with every fragment but one replaced by normal noise."""
    noise = torch.Generator().manual_seed(seed_of(plan.training.seed, f"swap/{party}"))
    fragments = {
        name: rows if name == party else torch.randn(rows.shape, generator=noise)
        for name, rows in cases.fragments.items()
    }
    return replace(cases, fragments=fragments)


def _digests(plan: Plan, cases: Cases, root: Path, trusted: Collection[str]) -> dict[str, str]:
    live = session(plan, cases, root, trusted=trusted).run
    live.train()
    return live.digests()
