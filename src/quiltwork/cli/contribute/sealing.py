"""Sealing the owner's process before it opens anything, for every kind of contribution."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def seal(read: Sequence[Path], out: Path, scratch: Path) -> str:
    """Let this process open ``read``, and write beside ``out`` and in ``scratch``, from now on and nothing else.

    Heavy imports come before: some libraries look for temporary directories when they are imported.

    Args:
        read: files and directories of the owner.
        out: the directory to be written; its parent becomes writable, since it is written under another name first.
        scratch: the only place for temporary files; made if it is not there.

    Returns:
        Which level holds, and what it covers.

    Raises:
        StorageError: a directory cannot be made.
        InvalidOption: something to read does not exist.
        FragmentError: the kernel refuses.
    """
    from quiltwork.files import storage_error
    from quiltwork.party.confine import confine

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(out, error) from error
    os.environ["TMPDIR"] = str(scratch.resolve())
    sealed = confine(read, [out.parent, scratch])
    return f"{sealed.level} ({sealed.detail})"


def seal_for_tables(read: Sequence[Path], out: Path, scratch: Path) -> str:
    """`seal`, after the heavy imports that every kind of contribution from a table needs."""
    import pyarrow  # noqa: F401
    import sklearn  # noqa: F401
    import torch  # noqa: F401

    return seal(read, out, scratch)


def seal_for_text(read: Sequence[Path], out: Path, scratch: Path) -> str:
    """`seal`, after the heavy imports that every contribution to a language model may need."""
    import accelerate  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    with suppress(ModuleNotFoundError):
        import peft  # noqa: F401
    with suppress(ModuleNotFoundError):
        import sklearn.cluster  # noqa: F401
    return seal(read, out, scratch)
