"""Processes that train together, as ``accelerate launch`` or ``torchrun`` starts them: all compute, one writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> PartialState | None:
    """The group of processes that train together, or None for a single one; only its main process writes."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import PartialState

    return PartialState()
