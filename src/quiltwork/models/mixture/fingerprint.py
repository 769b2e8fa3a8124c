"""The fingerprint of a mixture: a digest by which a question and its answers name the same parameters.

digest = sha256( for each array in order of name:  name  shape  little-endian float64 bytes )
"""

from __future__ import annotations

import hashlib

import numpy as np

from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.named import named_mixture


def fingerprint(mixture: Mixture[Experts]) -> str:
    """``sha256:`` and 64 digits over every parameter of a mixture with a softmax gate; other bits, another digest."""
    digest = hashlib.sha256(mixture.experts.family.encode())
    for name, array in sorted(named_mixture(mixture).items()):
        digest.update(f"\n{name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return f"sha256:{digest.hexdigest()}"
