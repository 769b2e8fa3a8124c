"""``quiltwork report`` with composed mixtures: figures of the models beside those of the scores, and no row unasked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cli_runner import done, refused
from cli_tables import contribute

Composed = Callable[[str], Path]


@pytest.fixture(scope="module")
def scored(composed_tables: Composed, tables: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "scores.json"
    done("evaluate", composed_tables("reduction"), "--party", f"ash={tables['test']}", "--out", out)
    return out


def drawn(*arguments: object, out: Path) -> set[str]:
    """The names of the figures that a report leaves, which stand in the page too."""
    paths = [Path(path) for path in done("report", *arguments, "--out", out, "--json").json]
    page = out.read_text()
    stems = {path.stem for path in paths if path.suffix == ".png"}
    assert page.count("data:image/png") == len(stems)
    return stems


def test_a_composite_adds_figures_of_its_experts_and_machines(
    scored: Path, composed_tables: Composed, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    model = composed_tables("reduction")
    numbers = drawn(scored, out=tmp_path / "numbers.html")
    released = drawn(scored, "--composite", model, out=tmp_path / "released.html")
    rows = ("--party", f"ash={tables['test']}")
    whole = drawn(scored, "--composite", model, *rows, out=tmp_path / "whole.html")
    machines = {"machines-reduction", "objective-at-every-step"}
    assert not numbers & machines
    assert machines <= released & whole
    for figure in ("experts-along-", "gate-over-"):
        assert not any(stem.startswith(figure) for stem in numbers)
        assert any(stem.startswith(figure) for stem in released)
        assert any(stem.startswith(figure) for stem in whole)
    curve = "likelihood-against-number-of-machines"
    assert curve in whole - released, "without rows there is nothing to score"


def test_rows_are_drawn_when_asked_only(
    scored: Path, composed_tables: Composed, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    words = (scored, "--composite", composed_tables("middle"), "--party", f"ash={tables['test']}")
    drawn(*words, out=tmp_path / "plain.html")
    drawn(*words, "--show-rows", out=tmp_path / "rows.html")
    (figure,) = [path.name for path in (tmp_path / "plain-plots").glob("gate-over-*")]
    assert (tmp_path / "plain-plots" / figure).read_bytes() != (tmp_path / "rows-plots" / figure).read_bytes()


def test_what_cannot_be_drawn_is_named(
    scored: Path, composed_tables: Composed, composed: Composed, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "r.html")
    refused("report", scored, "--party", f"ash={tables['test']}", *out, names="--party", mend="--composite")
    refused("report", scored, "--composite", composed("learned_rows"), *out, names="learned_rows")
    contribute(tables["ash"], tmp_path / "ash", "ash", "--covariates", "none", "--n-experts", 1)
    done("compose", tmp_path / "ash", "--method", "ambient", "--out", tmp_path / "bare")
    refused("report", scored, "--composite", tmp_path / "bare", *out, names="--composite", mend="--party")
    assert not (tmp_path / "r.html").exists()
