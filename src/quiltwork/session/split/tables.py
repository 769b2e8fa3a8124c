"""Tables by party, as the estimators take them: the same rows at each party, in the same order, other columns.

{"bank": array or frame [n, p_1], "shop": array or frame [n, p_2], ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption, TableMismatch


def tables(by_party: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Float64 ``[n, p]`` by party, sorted by name.

    Raises:
        InvalidOption: not a mapping, a table that is not two-dimensional, empty, or holds what is no finite number.
        TableMismatch: the parties have not the same number of rows.
    """
    if not isinstance(by_party, Mapping) or not by_party:
        raise InvalidOption(
            "the fragments", why="they are not a mapping from parties to tables", mend='Give {"party": table, ...}.'
        )
    found = {party: _table(party, by_party[party]) for party in sorted(by_party)}
    first, *others = found
    for party in others:
        if len(found[party]) != len(found[first]):
            raise TableMismatch(
                f"the table of party '{party}'",
                why=f"it has {len(found[party])} rows, and that of '{first}' has {len(found[first])}",
                mend="Align the tables: the same cases in the same order at each party.",
            )
    return found


def _table(party: str, given: Any) -> NDArray[np.float64]:
    try:
        table = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _refused(party, "it holds what is no number") from error
    if table.ndim != 2 or table.size == 0:
        raise _refused(party, f"its shape is {table.shape}, and rows and columns are due")
    if not np.isfinite(table).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(table))[0])
        raise _refused(party, f"row {row}, column {column} is not finite")
    return table


def tensor(table: NDArray[np.float64]) -> Tensor:
    """Float32, as components take it."""
    return torch.from_numpy(table.astype(np.float32))


def _refused(party: str, why: str) -> InvalidOption:
    return InvalidOption(f"the table of party '{party}'", why=why, mend="Give finite numbers, one row a case.")
