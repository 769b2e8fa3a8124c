"""What an estimator refuses in a table and in its own parameters, in the package's words.

All of it is `InvalidOption`, which is a ValueError, as scikit-learn asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array, blocks


def require_finite(x: NDArray[Any], names: Sequence[str] | None) -> None:
    """Refuse NaN and infinity, by column and row.

    Raises:
        InvalidOption: naming the first column and row that hold one.
    """
    for rows in blocks(len(x), 1 << 16):
        part = x[rows]
        if np.isfinite(part.sum(dtype=np.float64)):
            continue
        bad = np.argwhere(~np.isfinite(part))
        if len(bad):
            row, column = int(bad[0, 0]), int(bad[0, 1])
            name = str(column) if names is None else f"'{names[column]}'"
            kind = "NaN" if np.isnan(part[row, column]) else "inf"
            raise InvalidOption(
                f"column {name} of X",
                why=f"it holds {kind} in row {rows.start + row}, and a density needs finite numbers",
                mend="Drop or impute such rows first.",
            )


def row_weights(sample_weight: ArrayLike | None, x: NDArray[Any]) -> Array:
    """Weights of the rows, float64 ``[n]``.

    Raises:
        InvalidOption: one is negative, or none is positive.
    """
    if sample_weight is None:
        return np.ones(len(x))
    weights = np.asarray(_check_sample_weight(sample_weight, x, dtype=np.float64))
    if (weights < 0).any():
        raise InvalidOption(
            f"sample_weight[{int(np.argmax(weights < 0))}]",
            why="it is negative, and a row counts nothing at least",
            mend="Use weights of 0 or more.",
        )
    if not weights.any():
        raise InvalidOption("sample_weight", why="all are zero", mend="Give at least one row a positive weight.")
    return weights


def whole(name: str, value: Any) -> int:
    """A whole number of at least 1.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidOption(
            f"{name}={value!r}",
            why="it counts experts",
            mend="Choose a whole number of at least 1 (n_experts: or 'bic').",
        )
    return int(value)


def generator(random_state: Any) -> np.random.Generator:
    """A generator from what scikit-learn takes for ``random_state``: None, a whole number or a RandomState."""
    return np.random.default_rng(check_random_state(random_state).randint(np.iinfo(np.int32).max))
