"""Inputs and labels from NumPy archives and from tables.

An archive holds ``inputs`` and, where there are labels, ``labels``, and nothing else. Its members are read without
pickle, and only after their headers' sizes are known to be those of the file: a small archive that unpacks to more than
it declares is refused.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from quiltwork.party.examples import Examples, Task, codes_of, require_classes
from quiltwork.party.paths import refuse, require_readable

MOST_BYTES = 2**34
"""Bytes of one array: sixteen gigabytes."""

_WHOLE = "Write the file again with numpy.savez(file, inputs=..., labels=...)."
_MEMBERS = {"inputs.npy", "labels.npy"}


def read_archive(path: Path, task: Task, *, units: str, classes: tuple[str, ...] | None) -> Examples:
    """The examples of one ``.npz`` file.

    Raises:
        FragmentError: it is no such file, or holds other arrays than ``inputs`` and ``labels``.
    """
    require_readable(path)
    place = f"file '{path}'"
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "inputs.npy" not in names or names - _MEMBERS:
                refuse(place, "it holds other arrays than 'inputs' and 'labels'", _WHOLE)
            arrays = {name.removesuffix(".npy"): _member(archive, name, place) for name in sorted(names)}
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        refuse(place, "it is no whole NumPy archive of numbers or text", _WHOLE)
    values = _images(arrays["inputs"], place)
    labels, known = _labels(arrays.get("labels"), task, classes, place)
    return Examples(place, values, units, labels, known)


def _member(archive: zipfile.ZipFile, name: str, place: str) -> NDArray[Any]:
    """One array, once its header is known to fit the size that the archive declares for it."""
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size > MOST_BYTES or file.tell() + size != archive.getinfo(name).file_size:
            refuse(place, f"array '{name}' holds objects, is too large, or has another size than it declares", _WHOLE)
    with archive.open(name) as file:
        return np.asarray(npy.read_array(file, allow_pickle=False))


def _images(array: NDArray[Any], place: str) -> NDArray[Any]:
    """``[n, d]`` or ``[n, c, h, w]``; images without a channel axis get one."""
    if array.dtype.kind not in "buif":
        refuse(place, "array 'inputs' is not of numbers", _WHOLE)
    if array.ndim not in (2, 3, 4) or 0 in array.shape[1:]:
        refuse(place, f"array 'inputs' has shape {array.shape}", "Give [n, d], [n, h, w] or [n, c, h, w].")
    return array[:, None] if array.ndim == 3 else array


def _labels(array: NDArray[Any] | None, task: Task, classes: tuple[str, ...] | None, place: str) -> tuple[Any, Any]:
    """Codes and classes, or numbers and None."""
    if array is None:
        return None, None
    if task == "regression":
        if array.dtype.kind not in "buif" or array.ndim not in (1, 2):
            refuse(place, "array 'labels' is no [n] or [n, q] of numbers", _WHOLE)
        return np.asarray(array.reshape(len(array), -1), dtype=np.float32), None
    if array.dtype.kind not in "buiU" or array.ndim != 1:
        refuse(place, "array 'labels' is no [n] of whole numbers or text", "Ask for regression if labels are numbers.")
    return codes_of([str(word) for word in array.tolist()], classes, place)


def read_table(
    paths: Sequence[str | os.PathLike[str]],
    task: Task,
    *,
    units: str,
    classes: tuple[str, ...] | None,
    target: str | Sequence[str],
    features: Sequence[str] | None,
) -> Examples:
    """Vectors from the columns of a table; without a target they have no labels.

    Raises:
        FragmentError: as `quiltwork.party.table.open_table`.
        InvalidOption: likewise.
    """
    # tables need the extra of that name, and images do not
    from quiltwork.party.table import open_table

    names = (target,) if isinstance(target, str) else tuple(target)
    # without a target there is nothing to be of a class
    kind, known = (task, classes) if names else ("regression", None)
    fragment = open_table(paths, target=names, features=features, task=kind, classes=known)
    rows = fragment.arrays(dtype=np.float32, any_rows=True)
    if not names:
        return Examples(fragment.place, rows.x, units)
    if rows.classes is None:
        return Examples(fragment.place, rows.x, units, np.asarray(rows.y, dtype=np.float32))
    require_classes(rows.classes, fragment.place)
    return Examples(fragment.place, rows.x, units, np.asarray(rows.y, dtype=np.int64), rows.classes)
