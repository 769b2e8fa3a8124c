"""composer.sum = "secure": joint mode over the sum of the activations, put together under masks.

    seats      dealt by the command, fresh for each training: on one machine it could know all keys
    summand    a party's end behind its seat
    run        the composer sees sums, of training, of judging and of prediction alike

It needs the extra `sharing`. What `quiltwork.session.split.summed` says of numbers, of parties that are gone and of
fewer parties holds here.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from quiltwork.cli.split.plan import Plan
from quiltwork.errors import InvalidOption
from quiltwork.session.channel import Channel, Node, Terms
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import Labels
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule

if TYPE_CHECKING:
    from quiltwork.sharing.seats import Seat


def require_installed(plan: Plan) -> None:
    """Refuse early.

    Raises:
        InvalidOption: the plan wants a secure sum, and cryptography is not installed.
    """
    if plan.masked and importlib.util.find_spec("cryptography") is None:
        raise InvalidOption(
            "composer.sum 'secure'",
            why="the package cryptography, which agrees on masks, is not installed",
            mend="Install quiltwork[sharing].",
        )


def seated(plan: Plan) -> dict[str, Seat]:
    """Fresh seats, by party; none where sums are in the open."""
    if not plan.masked:
        return {}
    from quiltwork.sharing.seats import seats

    return seats(sorted(plan.parties))


def summand(end: Node, seat: Seat | None) -> Node:
    """A party's end behind its seat; as it is where it has none."""
    if seat is None:
        return end
    from quiltwork.session.secure_sum import SummandNode

    return SummandNode(end, seat.member())


def terms(plan: Plan) -> dict[str, Terms]:
    """What the composer and each party of the sum may say."""
    from quiltwork.session.split.summed import summed_terms

    return {party: summed_terms(width, len(plan.widths)) for party, width in plan.widths.items()}


def summed_run(plan: Plan, channel: Channel, learned: Mode, labels: Labels, schedule: Schedule, **how: Any) -> SplitRun:
    """A run whose composer sees sums; ``how`` as `quiltwork.session.split.summed.SummedRun` takes it."""
    from quiltwork.session.split.summed import SummedRun

    assert isinstance(learned, Joint)
    (width,) = set(plan.widths.values())
    return SummedRun(
        channel, learned.composer, labels, schedule, sorted(plan.parties), width, classes=learned.classes, **how
    )


def owners_of(run: SplitRun) -> tuple[str, ...]:
    """The parties with components, whether the run knows each of them or their sum alone."""
    found: tuple[str, ...] = getattr(run, "summands", run.parties)
    return found
