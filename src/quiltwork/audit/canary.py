"""Canaries: do bytes of other parties' activations, or of the composer, appear in what was sent to a party?

Every foreign row leaves a mark of 8 bytes, its first two float32 numbers (where both are unlike zero and each other);
the composer's parameters leave one for each two neighbours. Whatever went down to a party is searched for every mark
at every float32. Two random pairs agree with probability about 2^-48, so a hit is a leak.

It finds what was sent as it is. What was sent in another form (rounded, encrypted, in the size of a number) it does
not: that is what the declared inputs of cotangents, the swap and the replay are about. The control is a session in
which one foreign row was put among the cotangents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import Facts
from quiltwork.audit.tape import Spool, Tape, require_genuine
from quiltwork.errors import InvalidOption
from quiltwork.session.frames import Kind

Marks = NDArray[np.uint64]

_TOLD = (Kind.ACTIVATION, Kind.OUTPUT)


def canary(facts: Facts, tape: Tape, composer: Mapping[str, ArrayLike] | None = None) -> Check:
    """Did anything of the others, or of the composer, reach a party as it is?

    Args:
        facts: of the run.
        tape: of the run.
        composer: tensors of the composer or of the heads, by name, as float32.

    Raises:
        AlteredRecords: the tape is of another session.
        InvalidOption: the session's numbers were not float32.
    """
    require_genuine(tape, facts)
    if facts.precision != "float32":
        raise InvalidOption(
            f"precision '{facts.precision}'", why="marks are pairs of float32", mend="Audit a session with float32."
        )
    secret = _marks(
        [np.asarray(value, dtype=np.float32).reshape(1, -1) for value in (composer or {}).values()], all_=True
    )
    told = {party: _marks(_rows(tape.spools[party])) for party in facts.parties}
    hits, caught = {}, True
    for party in facts.parties:
        foreign = np.unique(np.concatenate([secret, *(marks for other, marks in told.items() if other != party)]))
        heard = [m.array for m in tape.spools[party].down if m.array is not None and m.array.dtype == np.float32]
        hits[party] = int(np.isin(_windows(heard), foreign).sum())
        planted = [*heard, foreign[:1].view(np.float32)]
        caught &= int(np.isin(_windows(planted), foreign).sum()) > hits[party]
    leaking = [party for party, count in hits.items() if count]
    says = "No activation of another party and no parameter of the composer was sent to a party."
    if leaking:
        says = f"Foreign activations or parameters were sent to party {', '.join(leaking)}."
    return check(
        "canary",
        facts,
        "G4",
        "exact",
        passed=not leaking,
        control=caught,
        found={"hits": {**hits}, "marks": int(sum(map(len, told.values())) + len(secret))},
        says=says,
    )


def _rows(spool: Spool) -> list[NDArray[np.float32]]:
    return [m.array for m in spool.up if m.kind in _TOLD and m.array is not None]


def _marks(arrays: Iterable[NDArray[np.float32]], *, all_: bool = False) -> Marks:
    """Marks of the rows' first two numbers, or of all neighbours."""
    parts = [a if all_ else a[:, :2] for a in arrays if a.shape[-1] > 1]
    pairs = [np.stack([p[:, :-1].ravel(), p[:, 1:].ravel()], 1) for p in parts]
    every = np.concatenate(pairs) if pairs else np.empty((0, 2), np.float32)
    telling = every[(every != 0).all(1) & (every[:, 0] != every[:, 1])]
    return np.ascontiguousarray(telling, dtype=np.float32).view(np.uint64).ravel()


def _windows(arrays: Iterable[NDArray[np.float32]]) -> Marks:
    """Every two float32 that follow each other."""
    flat = [a.ravel() for a in arrays]
    line = np.concatenate(flat) if flat else np.empty(0, np.float32)
    if len(line) < 2:
        return np.empty(0, np.uint64)
    return np.ascontiguousarray(np.stack([line[:-1], line[1:]], 1), dtype=np.float32).view(np.uint64).ravel()
