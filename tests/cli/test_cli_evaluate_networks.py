"""``quiltwork evaluate`` of composed networks, from directories and archives of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from cli_runner import done, refused

import network_parties as parties
from quiltwork.compose.combine import Combine
from quiltwork.compose.method import compose
from quiltwork.compose.network_alone import NetworkAlone
from quiltwork.compose.stitch import Stitch
from quiltwork.evaluate.network_scores import score_networks
from quiltwork.evaluate.scores import load_scores


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Composites, a contribution apart, and held-out archives."""
    folder = tmp_path_factory.mktemp("networks")
    given = [parties.release(folder, p, one=parties.network(p), parts=("inputs",)) for p in ("ash", "birch")]
    parties.release(folder, "cedar", one=parties.network("cedar"))
    compose(given, Combine(weights="evidence")).save(folder / "composed")
    compose([given[0]], NetworkAlone("ash")).save(folder / "bound")
    names = np.array(parties.CLASSES)
    for party in parties.PARTIES:
        np.savez(folder / f"{party}.npz", inputs=parties.inputs(party), labels=names[parties.labels(party)])
    np.savez(folder / "bare.npz", inputs=parties.inputs("ash"))
    return folder


def held_out(place: Path, *names: str) -> list[str]:
    return [option for name in names for option in ("--party", f"{name}={place / name}.npz")]


def test_the_matrix_is_the_one_of_python(place: Path, tmp_path: Path) -> None:
    (cedar,) = place.glob("cedar-module-*")
    models = (f"evidence={place / 'composed'}", f"pooled={place / 'bound'}")
    out = tmp_path / "scores.json"
    rest = ("--contribution", cedar, "--leave-one-out", "evidence", "--out", out, "--json")
    outcome = done("evaluate", *models, *held_out(place, *parties.PARTIES), *rest)
    scores = load_scores(out)
    assert scores.metric == outcome.json["metric"] == "share wrong"
    assert list(scores.methods) == ["ensemble", "evidence", "pooled"]
    assert set(scores.alone) == set(parties.PARTIES)
    assert set(scores.leave_one_out["evidence"]) == {"ash", "birch"}
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]] = {
        p: (parties.inputs(p), parties.labels(p)) for p in parties.PARTIES
    }
    from quiltwork.compose.reopen import open_network_composite

    python = score_networks({"evidence": open_network_composite(place / "composed")}, rows)
    for party in parties.PARTIES:
        assert scores.methods["evidence"].domains[party].extra == python.methods["evidence"].domains[party].extra
    assert "scoring evidence without birch" in outcome.err


def test_owners_score_at_home_and_the_report_merges(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for party in ("ash", "birch"):
        done("evaluate", f"evidence={place / 'composed'}", *held_out(place, party), "--out", tmp_path / f"{party}.json")
    done("report", tmp_path / "ash.json", tmp_path / "birch.json", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Own model" in page
    assert "Knowledge that the others have" in page


def test_the_report_shows_where_networks_could_be_stitched(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    given = [parties.release(tmp_path, p, one=parties.network(p)) for p in ("ash", "birch")]
    statistics = [parties.release_pair(tmp_path, p, *given, seed=seed) for seed, p in enumerate(("ash", "birch"))]
    compose([*given, *statistics], Stitch()).save(tmp_path / "stitched")
    done("evaluate", f"stitch={tmp_path / 'stitched'}", *held_out(place, "ash"), "--out", tmp_path / "scores.json")
    page = ("report", tmp_path / "scores.json", "--composite", tmp_path / "stitched", "--out", tmp_path / "page.html")
    outcome = done(*page, "--json")
    assert any(path.endswith("candidate-pairs-ash-and-birch.png") for path in outcome.json)
    assert "Places to stitch" in (tmp_path / "page.html").read_text()
    refused(*page, *held_out(place, "ash"), names="--party", mend="Leave it out")


def test_what_does_not_fit_is_refused(place: Path) -> None:
    refused("evaluate", place / "composed", "--party", f"ash={place / 'bare.npz'}", names="no labels", mend="--target")
    refused("evaluate", place / "composed", *held_out(place, "ash"), "--base", place, names=("--base", "no base"))
