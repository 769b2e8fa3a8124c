"""Checks that compare a run with another one, by digests: whole training, swapped fragments, leaving.

    equivalence (G0)    digests of the session = digests of one process that trains the whole graph
    swap        (G2)    other fragments replaced by noise: the digest of component i and the transcript of all that was
                        said to it stay the same, so View_i(X_i, X_-i, Y) = View_i(X_i, X'_-i, Y) on what was tried
    opt-out     (G9)    digests after leave(i) = digests of a session that i never joined

The caller trains; these judge. Each takes the digests of a run that must differ as its control: another seed for G0, a
mode that mixes fragments for G2, the session before the party left for G9.
"""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import Facts, altered


def equivalence(facts: Facts, whole: Mapping[str, str], control: Mapping[str, str]) -> Check:
    """Is the session centralised training, bit for bit?

    Args:
        facts: of the run.
        whole: digests by name of training the whole in one process (`session.split.one_process.train_whole`).
        control: the same with another seed.
    """
    return _equal(
        "equivalence",
        facts,
        "G0",
        dict(facts.digests),
        whole,
        control,
        (
            "The session equals training in one process, bit for bit.",
            "The session differs from one process.",
        ),
    )


def swap(facts: Facts, party: str, swapped: Facts, control: Facts) -> Check:
    """Does the party come out the same whatever the others hold?

    Args:
        facts: of the run, in which the same was asked of everybody as in the other two.
        party: whose fragment stayed.
        swapped: the same run with all other fragments replaced by noise.
        control: the same swap with a planted leak, such as a composer over all parties in place of heads: the pair
            ``(facts, control)`` must differ at the party.

    Raises:
        AlteredRecords: the swapped run is the run itself: nothing was replaced.
    """
    others = [p for p in facts.parties if p != party]
    if others and all(facts.digests[p] == swapped.digests.get(p) for p in others):
        raise altered(f"the swap around party '{party}'", "the other components came out the same: nothing was swapped")
    return _equal(
        "swap",
        facts,
        "G2",
        _view(facts, party),
        _view(swapped, party),
        _view(control, party),
        (
            f"With noise in place of all other fragments, party '{party}' saw and became the same, to the last bit.",
            f"Other fragments leave traces in what party '{party}' sees or becomes.",
        ),
        subject=party,
    )


def _view(facts: Facts, party: str) -> dict[str, str]:
    return {"component": facts.digests[party], "heard": facts.transcripts[party].down}


def opt_out(facts: Facts, party: str, never: Mapping[str, str], before: Mapping[str, str]) -> Check:
    """Is what remains what would be there had the party never come?

    Args:
        facts: of the run after ``leave(party)``.
        party: who left.
        never: digests of a run that it never joined.
        before: digests of the run before it left: the control, since a check that overlooks a party passes there.
    """
    return _equal(
        "opt-out",
        facts,
        "G9",
        dict(facts.digests),
        never,
        before,
        (
            f"After party '{party}' left, all is as if it had never come, bit for bit.",
            f"Party '{party}' left traces behind.",
        ),
        subject=party,
    )


def _equal(
    name: str,
    facts: Facts,
    guarantee: str,
    ours: Mapping[str, str],
    theirs: Mapping[str, str],
    control: Mapping[str, str],
    says: tuple[str, str],
    *,
    subject: str = "",
) -> Check:
    passed = dict(ours) == dict(theirs)
    return check(
        name,
        facts,
        guarantee,
        "hash",
        subject=subject,
        passed=passed,
        control=dict(ours) != dict(control),
        found={"run": dict(ours), "other": dict(theirs), "control": dict(control)},
        says=says[0] if passed else says[1],
    )
