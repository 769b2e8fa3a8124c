"""JSON objects among a checkpoint's files, bounded before they are read."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from quiltwork.errors import CheckpointError

MOST_JSON = 2**26
"""Bytes of a checkpoint's JSON that are read."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file.

    Raises:
        CheckpointError: the file is missing, no file, larger than `MOST_JSON`, or is not a JSON object.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_JSON:
            raise ValueError(f"it is no file, or one of more than {MOST_JSON} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}'",
            why=f"it cannot be read ({error})",
            mend="Point to the directory of a Hugging Face checkpoint.",
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"'{path}'", why="it is not a JSON object", mend="Fetch the checkpoint again.")
    return value
