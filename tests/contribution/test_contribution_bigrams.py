"""The statistic ``bigrams`` in a contribution: its cells, its file, its event, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from quiltwork.contribution.declared import parts_of, releases
from quiltwork.contribution.describe import describe
from quiltwork.contribution.kinds import (
    BigramHistogramStatistic,
    StatisticsMethod,
    TokenHistogramStatistic,
)
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import AlteredContribution, ContributionError, MalformedContribution
from quiltwork.privacy.events import ExactEvent, LaplaceEvent

Make = Callable[..., Draft]
Forge = Callable[..., None]

CELLS, VOCABULARY = 16, 11


@pytest.fixture
def fields() -> dict[str, Any]:
    """A contribution of the two histograms."""
    return {
        "method": StatisticsMethod(),
        "training": None,
        "tensors": {
            "tokens.counts": np.arange(VOCABULARY, dtype=np.float64),
            "bigrams.counts": np.linspace(0, 3.5, CELLS),
        },
        "statistics": (TokenHistogramStatistic(), BigramHistogramStatistic(cells=CELLS)),
        "privacy": (ExactEvent(released="tokens"), LaplaceEvent(released="bigrams", scale=2.0, sensitivity=2.0)),
    }


@pytest.fixture
def counted(tmp_path: Path, make_draft: Make, fields: dict[str, Any]) -> Contribution:
    return write(tmp_path / "counted", make_draft(**fields))


@pytest.mark.parametrize("cells", [2, 16, 2**16, 2**24])
def test_its_one_tensor_is_as_long_as_there_are_cells(cells: int) -> None:
    part = BigramHistogramStatistic(cells=cells).part(vocabulary_size=VOCABULARY)
    assert (part.name, part.file) == ("bigrams", "statistics.safetensors")
    assert part.required is not None
    (name, need), *none = part.required.items()
    assert not none
    assert (name, need.shape, need.dtypes) == ("bigrams.counts", (cells,), ("F64",))
    assert (need.least, need.most) == (0.0, 2.0**53)


@pytest.mark.parametrize("cells", [0, 1, 3, 48, 2**24 + 1, 2**25, -16, 16.0, "16", True])
def test_cells_are_a_power_of_two(cells: Any) -> None:
    with pytest.raises(ValidationError, match="cells"):
        BigramHistogramStatistic(cells=cells)


def test_it_is_read_as_it_was_written(counted: Contribution, fields: dict[str, Any]) -> None:
    again = read(counted.path)
    assert again == counted
    assert again.parts == {"tokens", "bigrams"}
    assert np.array_equal(again.tensor("bigrams.counts").numpy(), fields["tensors"]["bigrams.counts"])
    assert sorted(path.name for path in counted.path.iterdir()) == ["contribution.json", "statistics.safetensors"]


def test_it_stands_beside_the_other_parts(tmp_path: Path, make_draft: Make) -> None:
    plain = make_draft()
    draft = make_draft(
        tensors={**plain.tensors, "bigrams.counts": np.ones(CELLS)},
        statistics=(*plain.statistics, BigramHistogramStatistic(cells=CELLS)),
        privacy=(*plain.privacy, ExactEvent(released="bigrams")),
    )
    found = read(write(tmp_path / "x", draft).path)
    assert [part.name for part in parts_of(found.manifest)] == ["ffn", "full", "tokens", "moments", "bigrams"]
    assert releases(found.manifest)[-2:] == ("bigrams", "training")
    summary = describe(found)["parts"]["bigrams"]
    assert summary == {
        "file": "statistics.safetensors",
        "tensors": 1,
        "elements": CELLS,
        "bytes": 8 * CELLS,
        "dtypes": ["F64"],
    }


def test_it_leaves_with_an_event_or_not_at_all(tmp_path: Path, make_draft: Make, fields: dict[str, Any]) -> None:
    fields["privacy"] = (ExactEvent(released="tokens"),)
    with pytest.raises(MalformedContribution, match=r"'bigrams'.*no privacy event"):
        write(tmp_path / "x", make_draft(**fields))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.full(CELLS, -1.0), r"bigrams\.counts.*outside"),
        (np.full(CELLS, 2.0**54), r"bigrams\.counts.*outside"),
        (np.full(CELLS, np.nan), r"bigrams\.counts.*NaN"),
        (np.zeros(CELLS + 1), r"bigrams\.counts.*shape"),
        (np.zeros((CELLS, 1)), r"bigrams\.counts.*shape"),
        (np.zeros(CELLS, dtype=np.float32), r"bigrams\.counts.*dtype is F32"),
    ],
)
def test_other_counts_are_refused_by_name(
    tmp_path: Path, make_draft: Make, fields: dict[str, Any], counts: Any, message: str
) -> None:
    fields["tensors"]["bigrams.counts"] = counts
    with pytest.raises(ContributionError, match=message):
        write(tmp_path / "x", make_draft(**fields))
    assert not any(tmp_path.iterdir())


def test_the_tensor_and_the_declaration_need_each_other(
    tmp_path: Path, make_draft: Make, fields: dict[str, Any]
) -> None:
    undeclared = make_draft(**{**fields, "statistics": (TokenHistogramStatistic(),)})
    with pytest.raises(MalformedContribution, match=r"bigrams\.counts.*no part that the draft declares"):
        write(tmp_path / "x", undeclared)
    fields["tensors"].pop("bigrams.counts")
    with pytest.raises(MalformedContribution, match=r"bigrams\.counts.*is required"):
        write(tmp_path / "x", make_draft(**fields))


def test_twice_is_refused(tmp_path: Path, make_draft: Make, fields: dict[str, Any]) -> None:
    fields["statistics"] = (BigramHistogramStatistic(cells=CELLS), BigramHistogramStatistic(cells=CELLS))
    fields["tensors"].pop("tokens.counts")
    with pytest.raises(MalformedContribution, match=r"statistic 'bigrams'.*twice"):
        write(tmp_path / "x", make_draft(**fields))


@pytest.mark.parametrize(("cells", "field"), [(2 * CELLS, "bigrams.counts"), (15, "cells"), (None, "cells")])
def test_a_forged_number_of_cells_is_refused(counted: Contribution, forge: Forge, cells: Any, field: str) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["statistics"][1]["cells"] = cells

    forge(counted.path, edit)
    with pytest.raises(MalformedContribution, match=field):
        read(counted.path)


def test_a_changed_count_is_refused(counted: Contribution) -> None:
    file = counted.path / "statistics.safetensors"
    data = bytearray(file.read_bytes())
    place = data.find(np.float64(3.5).tobytes())
    assert place > 0
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(AlteredContribution, match=r"statistics\.safetensors|bigrams\.counts"):
        read(counted.path)


def test_a_reader_without_the_statistic_would_refuse_it_by_name(counted: Contribution, forge: Forge) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["statistics"][1]["name"] = "fourgrams"

    forge(counted.path, edit)
    with pytest.raises(MalformedContribution, match=r"statistics.1.*fourgrams"):
        read(counted.path)


def test_the_manifest_spells_it_like_docs_format(counted: Contribution) -> None:
    manifest = json.loads((counted.path / "contribution.json").read_text())
    assert manifest["statistics"][1] == {"name": "bigrams", "cells": CELLS}
    entry = manifest["payload"]["statistics.safetensors"]["tensors"]["bigrams.counts"]
    assert (entry["dtype"], entry["shape"]) == ("F64", [CELLS])
