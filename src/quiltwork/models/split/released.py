"""Randomised labels as a target: the loss is the likelihood of what was released, the classes are the true ones.

    L = -1/b sum_j log (p_j T)[released_j]        T as `quiltwork.privacy.labels` states it

>>> from quiltwork.privacy.labels import RandomisedResponse
>>> target = released_target(RandomisedResponse(classes=3, epsilon=2.0).release(np.array([0, 1, 2])))
>>> target.outputs
3
"""

from __future__ import annotations

import numpy as np
import torch

from quiltwork.models.split.targets import ClassTarget
from quiltwork.privacy.labels import ReleasedLabels


def released_target(released: ReleasedLabels) -> ClassTarget:
    """The target of released labels: forward correction in the loss, and the prior of the classes behind them."""
    labels = torch.from_numpy(np.array(released.labels))
    return ClassTarget(labels, released.event.classes, torch.from_numpy(released.transition))
