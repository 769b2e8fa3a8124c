"""What each part requires, written out by hand, and refusals by name when the payload is not exactly that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from quiltwork.contribution.declared import check_declared, needs_of, parts_of, releases
from quiltwork.contribution.kinds import (
    ExpertMethod,
    FFNExpert,
    FullExpert,
    ResidualMomentsStatistic,
    StatisticsMethod,
    TokenHistogramStatistic,
)
from quiltwork.contribution.manifest import ExpertManifest, Manifest
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import MalformedContribution
from quiltwork.privacy.events import ExactEvent

Make = Callable[..., Draft]


def ffn(**changes: Any) -> FFNExpert:
    fields: dict[str, Any] = {
        "layers": 1,
        "hidden_size": 3,
        "intermediate_size": 5,
        "anchor_share": 0.0,
        "router": False,
        "bias": False,
    }
    return FFNExpert(**{**fields, **changes})


def test_shapes_of_a_feed_forward_expert() -> None:
    shapes = {name: need.shape for name, need in ffn(layers=2, router=True, bias=True).required_tensors().items()}
    layer = {
        "gate_proj.weight": (5, 3),
        "up_proj.weight": (5, 3),
        "down_proj.weight": (3, 5),
        "router.weight": (3,),
        "router.bias": (1,),
    }
    assert shapes == {f"ffn.layers.{i}.{name}": shape for i in (0, 1) for name, shape in layer.items()}
    assert "ffn.layers.0.router.weight" not in ffn().required_tensors()
    assert "ffn.layers.0.router.bias" not in ffn(router=True).required_tensors()


def test_shapes_of_the_statistics() -> None:
    tokens = TokenHistogramStatistic().part(7)
    assert tokens.file == "statistics.safetensors"
    assert tokens.required is not None
    assert tokens.required["tokens.counts"].shape == (7,)
    assert tokens.required["tokens.counts"].dtypes == ("F64",)
    full = ResidualMomentsStatistic(layers=1, hidden_size=3, second="full", rows=1).part(7).required
    diagonal = ResidualMomentsStatistic(layers=1, hidden_size=3, second="diagonal", rows=1).part(7).required
    assert full is not None
    assert diagonal is not None
    assert full["moments.layers.0.second"].shape == (3, 3)
    assert diagonal["moments.layers.0.second"].shape == (3,)
    assert full.keys() == diagonal.keys() == {"moments.layers.0.mean", "moments.layers.0.second"}


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 0},
        {"layers": 1025},
        {"layers": True},
        {"layers": 1.0},
        {"hidden_size": -1},
        {"anchor_share": 1.5},
        {"anchor_share": -0.1},
        {"anchor_share": float("nan")},
        {"anchor_share": True},
        {"anchor": "base"},
        {"top_k": 1025},
        {"router": 1},
        {"top_k": 0},
        {"unknown": 1},
    ],
)
def test_parameters_outside_their_domain_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ffn(**changes)


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ffn().layers = 2  # type: ignore[misc]


def test_an_expert_without_weights_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one of ffn, lowrank, full and lora"):
        ExpertMethod()


def test_parts_releases_and_needs(sealed: Contribution) -> None:
    manifest = sealed.manifest
    assert [part.name for part in parts_of(manifest)] == ["ffn", "full", "tokens", "moments"]
    assert releases(manifest) == ("ffn", "full", "tokens", "moments", "training")
    needs = needs_of(manifest)
    assert set(sealed.tensor_names()) - set(needs) == {"full.model.norm.weight", "full.scalar"}


def test_the_training_event_is_due_only_where_a_loss_is_told(make_draft: Make, sealed: Contribution) -> None:
    silent = sealed.manifest.training
    assert silent is not None
    for field in ("loss_first", "loss_last"):
        told = silent.model_copy(update={"loss_first": None, "loss_last": None, field: 1.0})
        assert "training" in releases(sealed.manifest.model_copy(update={"training": told}))
    silent = silent.model_copy(update={"loss_first": None, "loss_last": None})
    assert "training" not in releases(sealed.manifest.model_copy(update={"training": silent}))
    assert "training" not in releases(sealed.manifest.model_copy(update={"training": None}))


def renamed(manifest: Manifest, file: str, old: str, new: str | None) -> Manifest:
    payload = dict(manifest.payload)
    tensors = dict(payload[file].tensors)
    entry = tensors.pop(old)
    if new is not None:
        tensors[new] = entry
    payload[file] = payload[file].model_copy(update={"tensors": tensors})
    return manifest.model_copy(update={"payload": payload})


UP = "ffn.layers.1.up_proj.weight"


@pytest.mark.parametrize(
    ("file", "old", "new", "what", "why"),
    [
        ("ffn.safetensors", UP, None, UP, "it is required"),
        ("ffn.safetensors", UP, "ffn.layers.2.up_proj.weight", UP, "it is required"),
        ("statistics.safetensors", "tokens.counts", None, "tokens.counts", "it is required"),
        (
            "full.safetensors",
            "full.scalar",
            "ffn.scalar",
            "ffn.scalar",
            "no part of this contribution has it",
        ),
        ("full.safetensors", "full.scalar", "full.", "full.", "no part of this contribution has it"),
        ("full.safetensors", "full.scalar", "fuller.scalar", "fuller.scalar", "no part of this contribution"),
    ],
)
def test_missing_and_extra_tensors_are_refused_by_name(
    sealed: Contribution, file: str, old: str, new: str | None, what: str, why: str
) -> None:
    with pytest.raises(MalformedContribution) as caught:
        check_declared(renamed(sealed.manifest, file, old, new))
    assert caught.value.what == f"tensor '{what}' in {file}"
    assert why in caught.value.why


def test_an_extra_tensor_beside_the_required_ones_is_refused(sealed: Contribution) -> None:
    payload = dict(sealed.manifest.payload)
    file = payload["ffn.safetensors"]
    extra = {**file.tensors, "ffn.layers.0.notes": file.tensors[UP]}
    payload["ffn.safetensors"] = file.model_copy(update={"tensors": extra})
    with pytest.raises(MalformedContribution, match=r"tensor 'ffn.layers.0.notes' in ffn.safetensors"):
        check_declared(sealed.manifest.model_copy(update={"payload": payload}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"shape": (4, 6)}, "its shape is [4, 6], and [6, 4] is required"),
        ({"shape": (24,)}, "its shape is [24], and [6, 4] is required"),
    ],
)
def test_a_misshaped_tensor_is_refused_by_name(sealed: Contribution, change: dict[str, Any], why: str) -> None:
    payload = dict(sealed.manifest.payload)
    file = payload["ffn.safetensors"]
    tensors = {**file.tensors, UP: file.tensors[UP].model_copy(update=change)}
    payload["ffn.safetensors"] = file.model_copy(update={"tensors": tensors})
    with pytest.raises(MalformedContribution) as caught:
        check_declared(sealed.manifest.model_copy(update={"payload": payload}))
    assert caught.value.what == f"tensor '{UP}' in ffn.safetensors"
    assert caught.value.why == why


def test_files_are_refused_by_name(sealed: Contribution) -> None:
    payload = dict(sealed.manifest.payload)
    moved = payload.pop("full.safetensors")
    with pytest.raises(MalformedContribution, match=r"file 'full.safetensors': part 'full' requires it"):
        check_declared(sealed.manifest.model_copy(update={"payload": payload}))
    payload = {**sealed.manifest.payload, "extra.safetensors": moved}
    with pytest.raises(MalformedContribution, match=r"file 'extra.safetensors': .* no part"):
        check_declared(sealed.manifest.model_copy(update={"payload": payload}))


def test_a_size_that_the_tensors_do_not_make_is_refused(sealed: Contribution) -> None:
    payload = dict(sealed.manifest.payload)
    file = payload["ffn.safetensors"]
    payload["ffn.safetensors"] = file.model_copy(update={"bytes": file.bytes + 1})
    with pytest.raises(MalformedContribution) as caught:
        check_declared(sealed.manifest.model_copy(update={"payload": payload}))
    assert f"declares {file.bytes + 1} bytes, and its tensors make {file.bytes}" in caught.value.why


@pytest.mark.parametrize("part", ["ffn", "full", "tokens", "moments", "training"])
def test_what_leaves_without_an_event_is_refused(tmp_path: Path, make_draft: Make, part: str) -> None:
    privacy = tuple(event for event in make_draft().privacy if event.released != part)
    with pytest.raises(MalformedContribution) as caught:
        write(tmp_path / "x", make_draft(privacy=privacy))
    assert caught.value.what == f"'{part}'"
    assert "no privacy event says by which mechanism" in caught.value.why
    assert f"released='{part}'" in caught.value.mend
    assert not (tmp_path / "x").exists()


def test_events_of_earlier_releases_may_be_declared_too(tmp_path: Path, make_draft: Make) -> None:
    privacy = (*make_draft().privacy, ExactEvent(released="last-year"))
    assert write(tmp_path / "x", make_draft(privacy=privacy)).manifest.privacy == privacy


def test_a_statistic_declared_twice_is_refused(tmp_path: Path, make_draft: Make) -> None:
    statistics = (TokenHistogramStatistic(), *make_draft().statistics)
    with pytest.raises(MalformedContribution, match="statistic 'tokens': it is declared twice"):
        write(tmp_path / "x", make_draft(statistics=statistics))


def test_kind_statistics_holds_statistics_only(tmp_path: Path, make_draft: Make) -> None:
    counts = {"tokens.counts": np.ones(11)}
    fields = {"method": StatisticsMethod(), "statistics": (TokenHistogramStatistic(),), "training": None}
    written = write(tmp_path / "x", make_draft(tensors=counts, **fields))
    assert written.kind == "statistics"
    assert written.parts == {"tokens"}
    with pytest.raises(MalformedContribution, match="kind 'statistics': the contribution holds nothing"):
        write(tmp_path / "y", make_draft(tensors={}, **{**fields, "statistics": ()}))
    with pytest.raises(MalformedContribution, match="belongs to no part"):
        write(tmp_path / "z", make_draft(tensors={**counts, "full.w": torch.ones(1)}, **fields))


def test_an_open_part_holds_something(tmp_path: Path, make_draft: Make) -> None:
    fields = {"method": ExpertMethod(full=FullExpert()), "statistics": (), "training": None}
    with pytest.raises(MalformedContribution, match=r"file 'full.safetensors': part 'full' requires it"):
        write(tmp_path / "x", make_draft(tensors={}, **fields))
    written = write(tmp_path / "y", make_draft(tensors={"full.w": torch.ones(1)}, **fields))
    assert isinstance(written.manifest, ExpertManifest)
    assert written.parts == {"full"}


def test_a_file_shared_by_an_open_part_would_still_need_that_part(sealed: Contribution) -> None:
    payload = dict(sealed.manifest.payload)
    payload["full.safetensors"] = payload["ffn.safetensors"]
    with pytest.raises(MalformedContribution, match=r"tensor 'ffn\..*' in full.safetensors"):
        check_declared(sealed.manifest.model_copy(update={"payload": payload}))
