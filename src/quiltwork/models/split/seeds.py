"""Seeds keyed by name, so that what one learner draws does not depend on who else is there.

    seed(master, name) = first 8 bytes of SHA-256("master/name"), without the sign bit

A counter would give a party other random numbers when another one leaves; a name does not, which is half of an exact
opt-out.

>>> seed_of(0, "ash") == seed_of(0, "ash"), seed_of(0, "ash") == seed_of(0, "birch")
(True, False)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(master: int, name: str) -> int:
    """The seed of a named thing under a master seed, in 0 ... 2**63 - 1."""
    digest = hashlib.sha256(f"{master}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Within the block torch draws from ``seed``; afterwards it goes on as if nothing had been drawn."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
