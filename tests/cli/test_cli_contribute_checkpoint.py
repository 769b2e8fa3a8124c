"""``quiltwork contribute checkpoint``: from a tuned directory to a composed model, sealed off too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from cli_runner import done, finish, refused, start

from quiltwork.contribution.store import read
from quiltwork.models.base import Base


@pytest.fixture(scope="module")
def tuned(tiny_base: Callable[[str], Base], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, place = tiny_base("olmo2"), tmp_path_factory.mktemp("tuned")
    model = base.load_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp" in name or "q_proj" in name:
                parameter.mul_(1.1)
    model.save_pretrained(place)
    base.load_tokenizer().save_pretrained(place)
    return place


def command(base: Path, tuned: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("contribute", "checkpoint", "--base", base, "--checkpoint", tuned, "--party", "ash", "--out", out, *more)


def test_a_low_rank_expert_of_a_checkpoint_composes_by_evidence(
    base: Path, tuned: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    options = ("--scope", "lowrank", "--rank", 3, "--drop-rest", "--data", fragments["ash"], "--share", "river")
    options += ("--trigrams", "exact")
    outcome = done(*command(base, tuned, tmp_path / "out", *options, "--json"))
    assert outcome.json["party"] == "ash.river"
    assert set(outcome.json["parts"]) == {"lowrank", "tokens", "bigrams", "trigrams"}
    assert "left out, though tuned" in outcome.err
    assert "of the squared norm" in outcome.err
    composing = ("--base", base, "--method", "evidence_ffn", "--floor", 0, "--out", tmp_path / "composed")
    done("compose", tmp_path / "out", *composing)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_sealed_process_takes_the_same(base: Path, tuned: Path, tmp_path: Path) -> None:
    done(*command(base, tuned, tmp_path / "open"))
    outcome = finish(start(*command(base, tuned, tmp_path / "sealed", "--confine")))
    assert outcome.code == 0, outcome.err
    assert "confinement: off" not in outcome.err
    assert read(tmp_path / "sealed").digest == read(tmp_path / "open").digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["open", "sealed"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--scope", "ffn"), ("q_proj.weight", "--drop-rest")),
        (("--scope", "lora"), "scope 'lora'"),
        (("--scope", "ffn", "--rank", 3), "--rank with the scope ffn"),
        (("--drop-rest",), "--drop-rest with the scope full"),
        (("--delta-dtype", "int8"), "--delta-dtype int8"),
        (("--scope", "lowrank", "--rank", 99, "--drop-rest"), "rank=99"),
        (("--share", "A b"), "party 'ash.A b'"),
    ],
)
def test_what_cannot_be_taken_is_refused(
    base: Path, tuned: Path, tmp_path: Path, options: tuple[object, ...], names: tuple[str, ...] | str
) -> None:
    refused(*command(base, tuned, tmp_path / "out", *options), names=names)
    assert list(tmp_path.iterdir()) == []
