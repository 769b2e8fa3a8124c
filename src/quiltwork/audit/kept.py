"""Custody, tried: any t of the custodians open it, fewer do not, a forged share is found, and t - 1 shares are uniform.

    opens      every t of the n shares that are given, up to `MOST_CHOICES`, give what the run's composer learned: a
               safetensors file with its tensors, as in a run directory or a state dict; in isolated mode with those of
               all heads, each name behind ``<head>/``
    refuses    every t - 1 of them are refused
    uniform    for t - 1 <= 2 holders, over all polynomials, each value of their shares occurs exactly once, for
               several secrets: counted, not sampled. More holders rest on Shamir's theorem alone.

The control is a share with one digit changed, which has to be named as forged.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import Facts
from quiltwork.errors import CustodyError, InvalidOption
from quiltwork.models.split.component import digest_of_state
from quiltwork.sharing import custody, shamir
from quiltwork.sharing.statement import MOST_BYTES, Statement, decode, read

MOST_CHOICES = 50
"""Choices of custodians that are tried."""

_SECRETS = (0, 1, 97, 255)


def kept(facts: Facts, folder: Path, shares: Sequence[Path]) -> Check:
    """Is what this run's composer learned in custody, as its statement says?

    Args:
        facts: of the run.
        folder: with the statement and the sealed file.
        shares: files of the custodians, t of them at least.

    Raises:
        InvalidOption: the run's composer learned nothing.
        ForgedShare: the statement is none.
        TooFewShares: fewer than t shares are given.
    """
    due = {name: digest for name, digest in facts.digests.items() if name not in facts.parties}
    if not due:
        raise InvalidOption(
            "the custody", why="the run's composer learned nothing that could be in it", mend="Leave it out."
        )
    statement = decode(Statement, read(folder / custody.STATEMENT, MOST_BYTES), "the statement")
    t = statement.threshold
    if len(shares) < t:
        raise shamir.too_few(len(shares), t)
    opened = [_opens(folder, chosen, due) for chosen in _choices(shares, t)]
    refused = [not _opens(folder, chosen, due) for chosen in _choices(shares, t - 1)]
    uniform = all(_uniform(secret, min(t, 3)) for secret in _SECRETS)
    passed = all(opened) and all(refused) and uniform
    n = len(statement.custodians)
    return check(
        "custody",
        facts,
        "G5",
        "exact",
        passed=passed,
        control=_forged_is_found(folder, shares[:t]),
        found={"custody": statement.custody, "threshold": t, "holders": n, "opened": len(opened), "sealed": {**due}},
        says=f"{t} of {n} custodians open the composer and {t - 1} do {'not' if passed else 'NOT fail to'}.",
    )


def _choices(shares: Sequence[Path], size: int) -> list[tuple[Path, ...]]:
    return list(itertools.islice(itertools.combinations(shares, size), MOST_CHOICES))


def _opens(folder: Path, shares: Sequence[Path], due: Mapping[str, str]) -> bool:
    """Whether the shares open the learners of these digests."""
    try:
        tensors = load(custody.combine(folder, shares))
    except (CustodyError, SafetensorError):
        return False
    heads = {name: tensors if len(due) == 1 else _below(tensors, f"{name}/") for name in due}
    # a file of a run directory has the optimiser's moments besides
    states = {name: _below(state, "module/") or state for name, state in heads.items()}
    return {name: digest_of_state(state) for name, state in states.items()} == dict(due)


def _below(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _forged_is_found(folder: Path, shares: Sequence[Path]) -> bool:
    with TemporaryDirectory() as place:
        forged = Path(place) / shares[0].name
        record = json.loads(shares[0].read_text())
        first = record["key"][0]
        forged.write_text(
            shares[0].read_text().replace(record["key"], ("1" if first == "0" else "0") + record["key"][1:])
        )
        try:
            custody.combine(folder, [forged, *shares[1:]])
        except CustodyError:
            return True
    return False


def _uniform(secret: int, threshold: int) -> bool:
    """Over all polynomials with this secret, does every value of t - 1 shares occur once?"""
    # one byte of secret for each polynomial: all of them are dealt at once
    polynomials = np.array(list(itertools.product(range(256), repeat=threshold - 1)), dtype=np.uint8)
    dealt = shamir.deal(
        bytes([secret]) * len(polynomials),
        threshold=threshold,
        holders=threshold,
        draw=lambda _: polynomials.T.tobytes(),
    )
    seen = np.stack([np.frombuffer(dealt[x], dtype=np.uint8) for x in range(1, threshold)], 1)
    return len(np.unique(seen, axis=0)) == len(polynomials)
