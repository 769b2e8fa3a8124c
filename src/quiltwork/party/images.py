"""Reading a party's inputs for networks, whatever files they lie in.

======================================  =====================================================================
paths                                   inputs and labels
======================================  =====================================================================
one ``.npz``                            arrays ``inputs`` [n, d], [n, h, w] or [n, c, h, w], and ``labels``
a directory of directories of images    PNG, JPEG, BMP, TIFF, PPM, WebP; a directory is a class
CSV, TSV, Parquet, ``.npy``             columns of a table; the target is the label
======================================  =====================================================================
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quiltwork.errors import InvalidOption
from quiltwork.party.examples import Batch, Examples, Task, held_out
from quiltwork.party.image_folder import is_image_folder, read_folder
from quiltwork.party.input_arrays import read_archive, read_table

__all__ = ["Batch", "Examples", "held_out", "open_examples"]


def open_examples(
    paths: Sequence[str | os.PathLike[str]],
    *,
    units: str,
    task: Task = "classification",
    classes: Sequence[str] | None = None,
    target: str | Sequence[str] = (),
    features: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
) -> Examples:
    """Read a party's inputs.

    Args:
        paths: one ``.npz``, one directory of class directories, or the files of a table.
        units: of raw inputs, declared and the same for all parties; values outside ``"0..1"``, say, are refused. Pixels
            of image files are brought from 0 ... 255 to the bounds that the units state.
        task: classes, or numbers to predict.
        classes: all labels that any party has, in their order; None for those found here.
        target: of a table: the column of labels, or of several numbers; empty for inputs without labels.
        features: of a table: its columns; None for all others.
        shape: of one input where the files hold vectors, such as ``(1, 8, 8)``.
        channels: of image files: 1 or 3; None takes those of the first file.
        size: of image files: height and width to resample to; None takes that of the first, and all must have it.

    Raises:
        FragmentError: a file or a row cannot be used.
        InvalidOption: an option lies outside its domain, or does not belong to this kind of files.
    """
    path = Path(paths[0]) if len(paths) == 1 else None
    known = None if classes is None else tuple(str(word) for word in classes)
    if task not in ("classification", "regression"):
        raise InvalidOption(f"task '{task}'", why="it is neither kind of label", mend="classification or regression.")
    if path is not None and path.is_dir() and is_image_folder(path):
        found = read_folder(path, units=units, classes=known, channels=channels, size=size)
    elif path is not None and path.suffix.lower() == ".npz":
        found = read_archive(path, task, units=units, classes=known)
    else:
        found = read_table(paths, task, units=units, classes=known, target=target, features=features)
    return found if shape is None else _shaped(found, tuple(shape))


def _shaped(examples: Examples, shape: tuple[int, ...]) -> Examples:
    if math.prod(shape) != math.prod(examples.shape) or len(shape) not in (1, 3) or min(shape) < 1:
        raise InvalidOption(
            f"shape {shape}",
            why=f"inputs of shape {examples.shape} do not have it, or it is neither (d,) nor (c, h, w)",
            mend="Give a shape with as many numbers.",
        )
    return replace(examples, values=examples.values.reshape(len(examples), *shape))
