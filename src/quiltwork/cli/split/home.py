"""Components with a budget for each record: trained at home by DP-SGD, at each party by itself.

    party i     component and head i on x_i and the released labels, by noise of its own     epsilon_i, delta_i
    a case      lies at every party and pays at every party                                  epsilon <= composed

Claimed: the released components and heads, and predictions of other rows, at the price that the ledger composes over
all parties. Not claimed: outputs of rows that were trained on, which are refused; what rows tell that are held out and
scored; which cases there are. Labels are randomised first, since every party that trains at home is given them.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.audit.static import DELTA
from quiltwork.cli.split.modes import head
from quiltwork.cli.split.plan import Plan
from quiltwork.errors import InvalidOption, PrivacyError
from quiltwork.models.split.component import Component
from quiltwork.models.split.targets import Target
from quiltwork.party.record_privacy import DPPlan, train_privately
from quiltwork.session.split.one_process import as_one
from quiltwork.session.split.records import Events


def require_installed() -> None:
    """Refuse early, before labels are randomised.

    Raises:
        PrivacyError: Opacus or dp-accounting is not installed.
    """
    for package, what in (("opacus", "clips and noises gradients"), ("dp_accounting", "prices them")):
        if importlib.util.find_spec(package) is None:
            raise PrivacyError(
                "parties.epsilon",
                why=f"the package {package}, which {what}, is not installed",
                mend="Install quiltwork[dp].",
            )


def budget(plan: Plan, party: str, rows: int) -> DPPlan:
    """How a party samples, clips and noises, to release its component within its own budget.

    Args:
        plan: of what.
        party: which.
        rows: number of rows trained on.

    Raises:
        InvalidOption: delta is so large that publishing a row at random would be within it.
        PrivacyError: dp-accounting is not installed.
    """
    part, how = plan.parties[party], plan.training
    assert part.epsilon is not None
    if part.delta * rows >= 1:
        raise InvalidOption(
            f"parties.{party}.delta",
            why=f"{part.delta:g} is not below one over the {rows} rows, so to publish one at random would be within it",
            mend="Choose 1e-5, or less.",
        )
    return _within(part.epsilon, part.delta, rows, min(how.batch_size, rows), how.epochs, part.clip)


@cache
def _within(epsilon: float, delta: float, rows: int, batch: int, epochs: int, clip: float) -> DPPlan:
    # to find the noise takes seconds, and parties mostly have one budget
    return DPPlan.within(epsilon, delta, rows=rows, batch=batch, epochs=epochs, clip=clip, parties=1)


def trained(
    plan: Plan, party: str, component: Component, fragment: Tensor, target: Target, train: NDArray[np.int64]
) -> Component:
    """A party's component and head, trained at home and put in a row.

    Args:
        plan: of what.
        party: whose.
        component: as it is before the first step.
        fragment: float32 ``[n, p]``, all its rows.
        target: released labels, by position.
        train: int64, positions to train on.

    Raises:
        InvalidOption: a module that lets rows past the noise.
        PrivacyError: Opacus or dp-accounting is not installed.
    """
    own = head(plan, party, target.outputs)
    train_privately(component, own, fragment, target, budget(plan, party, len(train)), positions=train.tolist())
    return as_one(component, own)


def events(plan: Plan, rows: int) -> tuple[Events, ...]:
    """What each party's training released, for the ledger; none where no record has a budget."""
    if not plan.private:
        return ()
    return tuple(Events(party, (budget(plan, party, rows).event(rows),)) for party in sorted(plan.parties))


def stated_delta(plan: Plan) -> float:
    """At which delta epsilons are priced: the least of the parties'."""
    return min(part.delta for part in plan.parties.values()) if plan.private else DELTA
