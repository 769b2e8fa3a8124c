"""``quiltwork contribute expert`` in all its scopes, from the command line to the parts that leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cli_runner import FAST, done, refused

from quiltwork.contribution.store import read
from quiltwork.models.base import Base


@pytest.fixture(scope="module")
def base(tiny_base: Callable[[str], Base]) -> Path:
    return tiny_base("llama").path


def command(base: Path, data: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("contribute", "expert", "--base", base, "--data", data, "--party", "ash", "--out", out, *FAST, *more)


def test_low_rank_forms_leave_under_a_share_s_name(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--scope", "lowrank", "--scope", "lora", "--rank", 3, "--alpha", 6, "--share", "river", "--top-k", 2)
    result = done(*command(base, fragments["ash"], tmp_path / "out", *options, "--json")).json
    assert result["party"] == "ash.river"
    assert set(result["parts"]) == {"lowrank", "lora", "tokens", "bigrams"}
    assert result["method"]["lora"] == {"rank": 3, "scaling": 2.0}
    assert (result["method"]["lowrank"]["rank"], result["method"]["lowrank"]["top_k"]) == (3, 2)
    assert read(tmp_path / "out").party == "ash.river"


def test_a_narrow_expert_says_its_width(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    result = done(*command(base, fragments["ash"], tmp_path / "out", "--width", 12, "--json")).json
    assert result["method"]["ffn"]["intermediate_size"] == 12
    assert read(tmp_path / "out").tensor("ffn.layers.1.down_proj.weight").shape == (32, 12)


def test_clusters_leave_side_by_side(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    more = ("--data", fragments["birch"], "--clusters", 2)
    outcome = done(*command(base, fragments["ash"], tmp_path / "out", *more, "--json"))
    assert [one["party"] for one in outcome.json] == ["ash.c0", "ash.c1"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ash.c0", "ash.c1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    composing = ("--base", base, "--method", "evidence_ffn", "--floor", 0, "--out", tmp_path / "composed")
    done("compose", tmp_path / "out" / "ash.c0", tmp_path / "out" / "ash.c1", *composing)
    done("remove", tmp_path / "composed", "--party", "ash.c1", "--out", tmp_path / "rest")


def test_columns_are_owners_and_slots_are_labels(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    for share, party in (("east", "ash"), ("west", "cedar")):
        done(*command(base, fragments[party], tmp_path / share, "--share", share))
    other = (
        "contribute",
        "--base",
        base,
        "--data",
        fragments["birch"],
        "--party",
        "birch",
        "--out",
        tmp_path / "birch",
    )
    done(*other, *FAST)
    given = (tmp_path / "east", tmp_path / "west", tmp_path / "birch")
    done("compose", *given, "--base", base, "--method", "evidence_ffn", "--floor", 0, "--out", tmp_path / "composed")
    text = [o for p in ("ash", "birch") for o in ("--party", f"{p}={fragments[p]}")]
    alone = [o for path in given for o in ("--contribution", path)]
    arguments = ("evaluate", f"m={tmp_path / 'composed'}", "--base", base, "--max-bytes", 500, "--max-length", 48)
    outcome = done(*arguments, *text, *alone, "--leave-one-out", "m", "--json", "--out", tmp_path / "scores.json")
    scores = outcome.json
    assert scores["parties"] == ["ash", "birch"]
    assert set(scores["alone"]) == {"birch"}
    assert "ash has several experts" in outcome.err
    assert set(scores["leave_one_out"]["m"]) == {"ash", "birch"}
    assert scores["routing"]["m"]["ash"]["slots"] == ["base", "ash.east", "ash.west", "birch"]
    done("report", tmp_path / "scores.json", "--out", tmp_path / "report.html")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--scope", "ffn", "--scope", "lowrank"), ("two forms of one expert", "a share of its own")),
        (("--scope", "lowrank", "--rank", 0), "rank=0"),
        (("--scope", "lora", "--alpha", -1), "alpha=-1"),
        (("--scope", "lowrank", "--rank", 33), ("rank=33", "32")),
        (("--scope", "ffn", "--scope", "none"), "'none' means that no weights leave"),
        (("--rank", 3), ("--rank", "lora and lowrank")),
        (("--scope", "none", "--alpha", 3), "--alpha"),
        (("--scope", "lowrank", "--width", 12), ("--width", "an option of ffn")),
        (("--sequence-length", 129), ("sequence_length=129", "128 positions")),
        (("--width", 0), "width=0"),
        (("--width", 49), ("width=49", "48 neurons")),
        (("--share", "No Such"), "party 'ash.No Such'"),
        (("--share", "one", "--clusters", 2), "one of a share"),
        (("--clusters", 9), "60 documents in 9 clusters"),
    ],
)
def test_what_no_expert_can_be_is_refused(
    options: tuple[object, ...], names: str, base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    refused(*command(base, fragments["ash"], tmp_path / "out", *options), names=names)
    assert not (tmp_path / "out").exists()
