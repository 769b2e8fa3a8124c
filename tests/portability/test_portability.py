"""The portability check with the installed transformers; ``make test-portability`` adds another version."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import check_models
import numpy as np
import portable_models
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("portability")
    portable_models.main(out, ["mistral", "qwen2"])
    return out / "models"


def copied(models: Path, place: Path) -> Path:
    """One sound checkpoint and its figures, in a place of its own."""
    name = "mistral-two-active-untied"
    shutil.copytree(models / name, place / name)
    shutil.copy(models / f"{name}.npz", place)
    return place / name


def test_the_installed_version_computes_what_the_composites_compute(models: Path) -> None:
    names = {path.name for path in models.iterdir() if path.is_dir()}
    assert len(names) == 2 * 2 * 4 + 2
    assert check_models.main(models) == 0


def test_the_check_itself_needs_no_quiltwork() -> None:
    """It runs in an environment that holds another transformers and nothing of ours."""
    tree = ast.parse((HERE / "check_models.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "sys", "pathlib", "numpy", "torch", "transformers"}


def test_no_checkpoints_are_a_fault(tmp_path: Path) -> None:
    assert check_models.main(tmp_path) == 1


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        ("rope", "logits differ"),
        ("layers", "missing keys"),
        ("tokenizer", "tokenizer reads a text otherwise"),
        ("logits", "logits differ"),
        ("config", "does not load"),
    ],
)
def test_mistakes_are_found(mistake: str, found: str, models: Path, tmp_path: Path) -> None:
    """Negative controls: one thing wrong with a sound checkpoint."""
    place = copied(models, tmp_path)
    expected = dict(np.load(place.with_suffix(".npz")))
    config = json.loads((place / "config.json").read_text())
    if mistake == "rope":
        config = {name: value for name, value in config.items() if not name.startswith("rope")}
    elif mistake == "layers":
        config["num_hidden_layers"] += 1
    elif mistake == "config":
        config = {}
    elif mistake == "tokenizer":
        expected["text_ids"] = expected["text_ids"][::-1]
    else:
        expected["logits"] = expected["logits"] + 1e-4
    (place / "config.json").write_text(json.dumps(config))
    np.savez(place.with_suffix(".npz"), **expected)
    assert found in (check_models.fault(place) or "")


def test_a_mistake_on_purpose_that_is_not_found_is_a_fault(models: Path, tmp_path: Path) -> None:
    place = copied(models, tmp_path)
    assert check_models.fault(place) is None
    assert check_models.broken(place) == "a mistake that the check did not find"
