"""Tensors that are read when they are written: the same bytes as those in memory, and one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import MalformedContribution
from quiltwork.streaming.writing import Streamed

WORDS = {"float64": "F64", "float32": "F32", "float16": "F16"}


@dataclass
class Late:
    """A tensor that notes when it is read."""

    array: Any
    log: list[str]
    name: str = ""
    cut: int = 0

    @property
    def dtype(self) -> Any:
        names = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}
        return names.get(str(self.array.dtype)) or WORDS[self.array.dtype.name]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def pieces(self) -> Iterator[bytes]:
        import torch

        array = self.array if isinstance(self.array, torch.Tensor) else torch.from_numpy(self.array)
        raw = array.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        self.log.append(self.name)
        for start in range(0, len(raw) - self.cut, 8):
            yield raw[start : start + 8]


def late(draft: Draft, log: list[str], **changes: Any) -> Mapping[str, Any]:
    return {name: Late(array, log, name, **changes) for name, array in draft.tensors.items()}


def test_streamed_tensors_make_the_same_contribution(make_draft: Callable[..., Draft], tmp_path: Path) -> None:
    draft, log = make_draft(), []
    tensors = late(draft, log)
    assert all(isinstance(one, Streamed) for one in tensors.values())
    one, other = write(tmp_path / "one", draft), write(tmp_path / "other", replace(draft, tensors=tensors))
    assert one == other == read(tmp_path / "other")
    assert sorted(log) == sorted(draft.tensors), "each tensor is read once"


def test_a_refused_draft_is_not_read(make_draft: Callable[..., Draft], tmp_path: Path) -> None:
    draft, log = make_draft(), []
    with pytest.raises(MalformedContribution, match="no privacy event"):
        write(tmp_path / "one", replace(draft, tensors=late(draft, log), privacy=()))
    assert log == []
    assert not (tmp_path / "one").exists()


def test_what_streams_too_little_or_no_number_is_refused_and_leaves_nothing(
    make_draft: Callable[..., Draft], tmp_path: Path
) -> None:
    draft = make_draft()
    with pytest.raises(MalformedContribution, match="not as long as its shape says"):
        write(tmp_path / "one", replace(draft, tensors=late(draft, [], cut=8)))
    bad = dict(draft.tensors) | {"tokens.counts": Late(np.full(11, np.nan), [])}
    with pytest.raises(MalformedContribution, match=r"'tokens\.counts': it holds a NaN"):
        write(tmp_path / "one", replace(draft, tensors=bad))
    assert list(tmp_path.iterdir()) == []
