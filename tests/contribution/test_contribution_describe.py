"""The summary is plain JSON and its numbers are those of the files."""

from __future__ import annotations

import json
from pathlib import Path

from quiltwork.contribution.describe import describe
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.privacy.events import parse_event


def test_the_summary_survives_json(sealed: Contribution) -> None:
    summary = describe(sealed)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary == describe(read(sealed.path))


def test_its_numbers_are_those_on_disk(sealed: Contribution) -> None:
    summary = describe(sealed)
    assert summary["bytes"] == sum(path.stat().st_size for path in Path(sealed.path).iterdir()) == sealed.bytes
    for name, part in summary["parts"].items():
        tensors = [sealed.tensor(tensor) for tensor in sealed.tensor_names(f"{name}.")]
        assert part["tensors"] == len(tensors)
        assert part["elements"] == sum(tensor.numel() for tensor in tensors)
        assert part["bytes"] == sum(tensor.nbytes for tensor in tensors)
    assert summary["parts"]["moments"]["dtypes"] == ["F32", "F64"]
    assert summary["parts"]["full"]["file"] == "full.safetensors"


def test_its_words_are_those_of_the_manifest(sealed: Contribution) -> None:
    summary = describe(sealed)
    assert (summary["party"], summary["kind"], summary["version"]) == ("acme", "expert", 1)
    assert summary["digest"] == sealed.digest
    assert set(summary["parts"]) == sealed.parts == {"ffn", "full", "tokens", "moments"}
    assert summary["releases"] == ["ffn", "full", "tokens", "moments", "training"]
    assert tuple(parse_event(event) for event in summary["privacy"]) == sealed.manifest.privacy
    assert summary["training"]["loss_last"] == 3.0
    assert summary["statistics"][1]["second"] == "full"
    assert summary["licence"] == "Apache-2.0"
    assert "ünïcode" in summary["card"]
