"""What composers do with what a reader let through: a composite, or a refusal in words, and nothing else."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.reduction import Reduction
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import QuiltworkError
from quiltwork.models.base import Base

METHODS: Sequence[Callable[[], Method]] = (
    lambda: MixtureOfExperts(LearnedRows()),
    lambda: MixtureOfExperts(PrefixEvidence()),
    Soup,
    Ensemble,
)


def composed(path: Path, companions: Sequence[Path], base: Base, number: int) -> str:
    """Compose a directory that was read with sound companions; the error's name, or ``"composed"``.

    The weights are read and the model is run, so that all that a file says has been used. Weights that are finite can
    be so large that what they give is not; then the answer is ``"overflow"``.

    Raises:
        AssertionError: anything but a `QuiltworkError` came out.
    """
    contribution = read(path)
    others = [one for one in map(read, companions) if one.party != contribution.party]
    try:
        return "composed" if _compose(contribution, others, base, number) else "overflow"
    except QuiltworkError as error:
        return type(error).__name__
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise AssertionError(
            f"composing raised {error!r:.200} at {Path(where.filename).name}:{where.lineno}"
        ) from error


def _compose(contribution: Contribution, others: Sequence[Contribution], base: Base, number: int) -> bool:
    if contribution.kind == "mixture":
        compose([contribution, *(one for one in others if one.kind == "mixture")], Reduction())
        return True
    import torch

    experts = [one for one in others if one.kind == "expert"]
    method = METHODS[number % len(METHODS)]()
    model = compose([contribution, *experts], method, base).model()
    with torch.no_grad():
        logits = model(input_ids=torch.arange(4)[None]).logits
    return bool(torch.isfinite(logits).all())
