"""``quiltwork inspect``: a contribution or a composite as table and JSON; whatever is altered is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cli_runner import done, refused

from quiltwork.contribution.store import read


@pytest.fixture
def copy(given: Mapping[str, Path], tmp_path: Path) -> Path:
    """A contribution to spoil."""
    return Path(shutil.copytree(given["ash"], tmp_path / "ash"))


def test_the_table_names_everything_that_left(given: Mapping[str, Path]) -> None:
    out = done("inspect", given["ash"]).out
    contribution = read(given["ash"])
    for words in ("ash", contribution.digest, f"{contribution.bytes:,}", "LicenseRef-ash", "olmo2"):
        assert words in out
    for part in ("ffn", "full", "tokens", "bigrams", "trigrams", "moments", "training"):
        assert f"privacy of {part}" in out
    assert out.count("no bound (exact)") == 7
    assert "privacy of everything" in out


def test_json_is_strict_and_exact_releases_have_no_epsilon(given: Mapping[str, Path]) -> None:
    result = done("inspect", given["birch"], "--json").json
    contribution = read(given["birch"])
    assert result["digest"] == contribution.digest
    assert result["bytes"] == contribution.bytes == sum(p.stat().st_size for p in given["birch"].iterdir())
    assert result["epsilon"] == dict.fromkeys(
        ("ffn", "full", "training", "tokens", "bigrams", "trigrams", "moments", "everything")
    )
    assert result["delta"] == 1e-6


def test_a_private_release_has_the_epsilon_that_was_asked_for(
    base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("dp_accounting")
    rules = ("--tokens", "gaussian:epsilon=8,delta=1e-6", "--bigrams", "exact")
    data = ("--base", base, "--data", fragments["ash"], "--party", "ash", "--out", tmp_path / "ash")
    done("contribute", *data, "--scope", "none", *rules)
    result = done("inspect", tmp_path / "ash", "--json").json
    assert result["epsilon"]["tokens"] == pytest.approx(8, abs=0.01)
    assert result["epsilon"]["bigrams"] is None
    assert result["epsilon"]["everything"] is None, "what is released exactly has no bound, nor has the whole"
    stricter = done("inspect", tmp_path / "ash", "--json", "--delta", "1e-9").json
    assert stricter["epsilon"]["tokens"] > result["epsilon"]["tokens"]
    table = done("inspect", tmp_path / "ash").out
    assert "epsilon 8 at delta 1e-06 (gaussian), for one document more or less" in table
    assert "no bound" in table


def test_a_composite_shows_its_provenance(composed: Callable[[str], Path], given: Mapping[str, Path]) -> None:
    result = done("inspect", composed("evidence_ffn"), "--json").json
    assert (result["method"], result["layout"]) == ("evidence_ffn", "native")
    digests = {entry["party"]: entry["digest"] for entry in result["contributions"]}
    assert digests == {party: read(path).digest for party, path in given.items()}
    assert digests["cedar"] in done("inspect", composed("evidence_ffn")).out


def test_a_changed_byte_is_refused(copy: Path) -> None:
    data = bytearray((copy / "ffn.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "ffn.safetensors").write_bytes(data)
    refused("inspect", copy, names="ffn.safetensors")
    refused("inspect", copy, "--json", names="ffn.safetensors")


def test_a_cut_file_is_refused(copy: Path) -> None:
    data = (copy / "full.safetensors").read_bytes()
    (copy / "full.safetensors").write_bytes(data[:-10])
    refused("inspect", copy, names=("full.safetensors", f"holds {len(data) - 10} bytes"))


def test_a_changed_manifest_is_refused(copy: Path) -> None:
    text = (copy / "contribution.json").read_text()
    assert '"party": "ash"' in text
    (copy / "contribution.json").write_text(text.replace('"party": "ash"', '"party": "oak"'))
    refused("inspect", copy, names="digest", mend="Fetch the contribution again")


def test_extra_and_missing_files_are_refused(copy: Path) -> None:
    (copy / "run.py").write_text("print('hello')")
    refused("inspect", copy, names=("run.py", "does not declare"))
    (copy / "run.py").unlink()
    (copy / "statistics.safetensors").unlink()
    refused("inspect", copy, names="statistics.safetensors")


def test_a_newer_version_is_called_unsupported(copy: Path) -> None:
    text = (copy / "contribution.json").read_text()
    (copy / "contribution.json").write_text(text.replace('"version": 1\n', '"version": 2\n'))
    refused("inspect", copy, names="version 2", mend="Upgrade quiltwork")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": NaN}'])
def test_a_manifest_of_any_bytes_is_refused(copy: Path, content: bytes) -> None:
    (copy / "contribution.json").write_bytes(content)
    refused("inspect", copy, names="contribution.json")


def test_broken_provenance_is_refused(composed: Callable[[str], Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(composed("learned_rows"), tmp_path / "broken"))
    value = json.loads((broken / "quiltwork.json").read_text())
    (broken / "quiltwork.json").write_text(json.dumps(value | {"version": 9}))
    refused("inspect", broken, names=("quiltwork.json", "version"))
    (broken / "quiltwork.json").write_text("not JSON")
    refused("inspect", broken, names="quiltwork.json")


def test_a_size_limit_holds_before_the_payload_is_read(given: Mapping[str, Path]) -> None:
    refused(
        "inspect", given["ash"], "--max-bytes", 1000, names=("limit given is 1000", "bytes"), mend="Raise the limit"
    )
    refused("inspect", given["ash"], "--max-bytes", -1, names="max_bytes=-1")


@pytest.mark.parametrize("delta", ["2", "-1", "nan"])
def test_a_delta_that_is_no_probability_is_refused(given: Mapping[str, Path], delta: str) -> None:
    refused("inspect", given["ash"], "--delta", delta, names="delta")


def test_what_is_no_contribution_is_refused(tmp_path: Path, base: Path) -> None:
    refused("inspect", tmp_path / "nowhere", names="nowhere")
    refused("inspect", base, names="contribution.json")
    (tmp_path / "file").write_text("x")
    refused("inspect", tmp_path / "file", names="file")
