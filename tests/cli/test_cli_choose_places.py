"""``quiltwork choose`` about networks: places ranked by released sums, the best few weighed by owners' data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import done, misused, refused
from torch.utils.flop_counter import FlopCounterMode

import network_parties as parties
from quiltwork.compose.method import compose
from quiltwork.compose.reopen import open_network_composite
from quiltwork.compose.stitch import Stitch
from quiltwork.contribution.store import read
from quiltwork.evaluate.scores import load_scores
from quiltwork.models.network.pair_moments import merge
from quiltwork.models.network.placement import rank
from quiltwork.models.network.stitches import read_pair_statistics

PAIR = ("ash", "birch")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules of two parties, sums of both about them, and held-out archives."""
    folder = tmp_path_factory.mktemp("places")
    given = [parties.release(folder, p, one=parties.network(p)) for p in PAIR]
    names = np.array(parties.CLASSES)
    for seed, party in enumerate(PAIR):
        parties.release_pair(folder, party, *given, seed=seed)
        np.savez(folder / f"{party}.npz", inputs=parties.inputs(party), labels=names[parties.labels(party)])
    return folder


@pytest.fixture(scope="module")
def handed(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir())


def held_out(place: Path, *names: str) -> list[str]:
    return [option for name in names for option in ("--party", f"{name}={place / name}.npz")]


def wrong(place: Path, model: torch.nn.Module, party: str) -> float:
    """The share of a party's rows that a model answers wrongly, with no code of evaluate's."""
    with np.load(place / f"{party}.npz") as archive, torch.no_grad():
        found = model(torch.from_numpy(archive["inputs"])).argmax(1).numpy()
        return float(np.mean(np.array(parties.CLASSES)[found] != archive["labels"]))


def beaten(row: Mapping[str, float], rows: list[Mapping[str, float]]) -> bool:
    return any(all(o[p] <= row[p] for p in PAIR) and any(o[p] < row[p] for p in PAIR) for o in rows)


def area(rows: list[Mapping[str, float]]) -> float:
    """The share of a fine grid of outcomes that some row is as good as, for both owners."""
    axis = (np.arange(600) + 0.5) / 600
    covered = np.zeros((600, 600), dtype=bool)
    for row in rows:
        covered |= (axis[:, None] >= row["ash"]) & (axis[None, :] >= row["birch"])
    return float(covered.mean())


def test_places_are_ranked_by_all_owners_sums_and_nothing_else(handed: list[Path]) -> None:
    told = done("choose", *handed, "--top", 3, "--json").json
    assert told.keys() == {"places"}
    sums = [read_pair_statistics(read(path)) for path in handed if "-pair-" in path.name]
    assert len(sums) == 2
    due = rank(merge(sums))[:3]
    assert [one["points"] for one in told["places"]] == [[c.a, c.b] for c in due]
    assert [one["r2"] for one in told["places"]] == [[c.a_to_b, c.b_to_a] for c in due]
    one_owner = [[c.a_to_b, c.b_to_a] for c in rank(sums[0])[:3]]
    assert [one["r2"] for one in told["places"]] != one_owner
    shown = done("choose", *handed, "--top", 3).out
    assert f"ash {due[0].a}" in shown
    assert f"{due[0].cka:.3f}" in shown


def test_the_work_told_is_that_of_the_joined_pair(handed: list[Path]) -> None:
    (first, *_) = done("choose", *handed, "--top", 1, "--json").json["places"]
    stitch = Stitch(pair=PAIR, points=tuple(first["points"]))
    model = compose([read(path) for path in handed], stitch).model()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.from_numpy(parties.inputs(rows=1)))
    assert first["multiply_adds"] == counter.get_total_flops() // 2


def test_the_best_few_are_weighed_beside_parents_and_ensemble(place: Path, handed: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    words = ("choose", *handed, "--candidates", 2, *held_out(place, *PAIR), "--out", out)
    told = done(*words, "--json").json
    assert list(told["models"])[:3] == ["ash alone", "birch alone", "ensemble"]
    assert len(told["models"]) == 5
    for party in PAIR:
        assert told["models"]["ash alone"][party] == wrong(place, parties.network("ash"), party)
    rows = list(told["models"].values())
    assert told["front"] == [name for name, row in told["models"].items() if not beaten(row, rows)]
    assert told["hypervolume"] == pytest.approx(area(rows), abs=0.01)
    assert told["hypervolume_before"] == pytest.approx(area(rows[:3]), abs=0.01)
    assert told["costs"] == {}
    scores = load_scores(out)
    assert {row.domains["ash"].value for row in scores.methods.values()} <= {row["ash"] for row in rows}
    shown = done(*words, "--costs").out
    assert "hypervolume over owners" in shown
    assert shown.count("M multiply-adds") == 2


def test_owners_score_candidates_at_home_and_the_files_are_weighed(
    place: Path, handed: list[Path], tmp_path: Path
) -> None:
    done("compose", *handed, "--method", "stitch", "--candidates", 2, "--out", tmp_path / "c")
    models = [f"{path.name}={path}" for path in sorted((tmp_path / "c").iterdir())]
    files = [tmp_path / f"{party}.json" for party in PAIR]
    for party, file in zip(PAIR, files, strict=True):
        done("evaluate", *models, *held_out(place, party), "--out", file)
    told = done("choose", *files, "--costs", "--json").json
    assert told["costs"]["ensemble"] == told["costs"]["ash alone"] + told["costs"]["birch alone"]
    name = models[0].split("=")[0]
    stitched = open_network_composite(tmp_path / "c" / name).model()
    assert told["models"][name] == {party: wrong(place, stitched, party) for party in PAIR}
    changed = json.loads(files[1].read_text())
    del changed["methods"][name]
    files[1].write_text(json.dumps(changed))
    refused("choose", *files, names=(name, "'birch'"), mend="same models")


def test_a_page_is_drawn_of_the_weighed(place: Path, handed: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "scores.json"
    done("choose", *handed, "--candidates", 1, *held_out(place, *PAIR), "--out", out)
    done("report", out, "--out", tmp_path / "page.html")
    assert "ensemble" in (tmp_path / "page.html").read_text()


def test_what_cannot_be_chosen_among_is_refused(place: Path, handed: list[Path], tmp_path: Path) -> None:
    modules = [path for path in handed if "-pair-" not in path.name]
    refused("choose", *modules, names="sums over the activations", mend="quiltwork contribute statistics")
    refused("choose", *handed, "--pair", "ash,yew", names="'yew'")
    refused("choose", *handed, "--top", 0, names="count=0")
    refused("choose", *handed, "--costs", names="--costs", mend="Leave it out")
    refused("choose", *handed, "--candidates", 0, *held_out(place, "ash"), names="count=0")
    refused("choose", modules[0], place / "ash.npz", names="another kind")
    refused("choose", place / "ash.npz", names="ash.npz")
    (tmp_path / "empty.json").write_text("{}")
    refused("choose", tmp_path / "empty.json", "--party", "ash=x", names="--party")
    misused("choose", tmp_path, names="--answer")
