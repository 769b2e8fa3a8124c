"""Labels that are randomised once, kept, and used again by whatever trains on them: `quiltwork.privacy.labels`.

    release     training labels, before the first round, by the operating system's generator; held-out rows have none
    keep        released.json: the released labels and the event that the ledger prices; the true ones are not in it

To randomise the same labels again would be another release: going on after an interruption and auditing by training
again read what was kept. Held-out rows keep their true labels at whoever scores them, and those scores are exact.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from quiltwork.cli.split.build import parted
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import Cases
from quiltwork.errors import InvalidOption, PrivacyError
from quiltwork.privacy.events import RandomisedResponseEvent, parse_event
from quiltwork.privacy.labels import RandomisedResponse, ReleasedLabels

RELEASED = "released.json"


def response(plan: Plan, cases: Cases) -> RandomisedResponse | None:
    """The mechanism that a plan asks for; None where it asks for none."""
    if plan.labels.epsilon is None or cases.classes is None:
        return None
    return RandomisedResponse(len(cases.classes), plan.labels.epsilon)


def release(mechanism: RandomisedResponse, plan: Plan, cases: Cases) -> ReleasedLabels:
    """Randomise the training labels."""
    train, _ = parted(plan, len(cases))
    given = torch.full((len(cases),), -1, dtype=torch.int64)
    given[torch.from_numpy(train)] = cases.labels[torch.from_numpy(train)]
    return mechanism.release(given.numpy())


def written(released: ReleasedLabels) -> str:
    """The text that `kept` reads."""
    return json.dumps({"labels": released.labels.tolist(), "event": released.event.model_dump(mode="json")})


def kept(place: Path, mechanism: RandomisedResponse, cases: Cases) -> ReleasedLabels:
    """What was released before.

    Raises:
        InvalidOption: it is not there, or was released by another mechanism or of other cases.
    """
    try:
        raw = json.loads((place / RELEASED).read_text(encoding="utf-8"))
        labels, event = np.array(raw["labels"], dtype=np.int64), parse_event(raw["event"])
    except (OSError, ValueError, LookupError, TypeError, PrivacyError):
        raise _unfit(place, "it is not there, or damaged") from None
    sound = isinstance(event, RandomisedResponseEvent) and event == mechanism.event
    if not sound or labels.shape != (len(cases),) or labels.max() >= mechanism.classes or labels.min() < -1:
        raise _unfit(place, "it was released otherwise, or of other cases")
    return ReleasedLabels(labels, mechanism.event)


def _unfit(place: Path, why: str) -> InvalidOption:
    return InvalidOption(
        f"'{place / RELEASED}'", why=why, mend="Restore it: to randomise the same labels again tells more of them."
    )
