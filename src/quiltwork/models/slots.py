"""What a composed model's slots are called in the names of its tensors: after the party, not after a number.

Slot 0 is the base's own, the parties follow in the order of their labels. A number would change for everyone behind a
party that joins or leaves; a name does not, so a party's file of tensors is the same bytes whoever else takes part.
"""

from __future__ import annotations

from collections.abc import Sequence

BASE_SLOT = "base"


def slot_key(label: str) -> str:
    """A party's part of a tensor's name. A dot would end it, so it is written '+', which no label holds.

    >>> slot_key("acme.code")
    'of-acme+code'
    """
    return "of-" + label.replace(".", "+")


def slot_keys(parties: Sequence[str], own: int = 1) -> tuple[str, ...]:
    """The names of all slots: the base's ``own`` experts, then the parties' in the order given.

    >>> slot_keys(["acme"], own=2)
    ('base', 'base-1', 'of-acme')
    """
    return (BASE_SLOT, *(f"{BASE_SLOT}-{number}" for number in range(1, own)), *map(slot_key, parties))
