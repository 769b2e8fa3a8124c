"""``quiltwork screen``: verdicts as a table, as JSON and as a page; its exit code; what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Outcome, done, misused, refused, run

from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write

SMALL = ("--max-bytes", 500, "--max-length", 48)


@pytest.fixture(scope="module")
def copy(given: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contribution of birch under another name."""
    original: Contribution = read(given["birch"])
    manifest: Any = original.manifest
    draft = Draft(
        party="fir",
        base=manifest.base,
        method=manifest.method,
        tensors={name: original.tensor(name) for name in original.tensor_names()},
        licence=manifest.licence,
        training=manifest.training,
        statistics=manifest.statistics,
        privacy=list(manifest.privacy),
    )
    return write(tmp_path_factory.mktemp("copy") / "fir", draft).path


@pytest.fixture(scope="module")
def with_text(base: Path, given: Mapping[str, Path], public: Path, fragments: Mapping[str, Path]) -> tuple[object, ...]:
    own = [o for p in ("ash", "birch") for o in ("--party", f"{p}={fragments[p]}")]
    method = ("--method", "evidence_ffn", "--set", "half-life=200", "--public", public)
    return ("screen", *given.values(), "--base", base, *method, *own, *SMALL)


def test_weights_alone_are_screened_without_a_method(base: Path, given: Mapping[str, Path]) -> None:
    outcome = done("screen", *given.values(), "--base", base, "--weights-only", "--strict")
    assert "clean" in outcome.out
    assert "Nothing speaks against composing" in outcome.out
    assert "scoring" not in outcome.err


def test_a_copy_is_found_and_only_strictness_makes_it_a_failure(
    base: Path, given: Mapping[str, Path], copy: Path
) -> None:
    command = ("screen", *given.values(), copy, "--base", base, "--weights-only")
    plain: Outcome = done(*command, "--json")
    assert {one["party"]: one["verdict"] for one in plain.json["contributions"]} == {
        "ash": "clean",
        "birch": "look",
        "cedar": "clean",
        "fir": "look",
    }
    assert plain.json["advice"] == "look first"
    strict = run(*command, "--strict")
    assert strict.code == 1
    assert "look like one" in strict.out.replace("\n", " ")
    assert "refused" not in strict.err


def test_with_text_losses_and_captures_are_told(with_text: tuple[object, ...], tmp_path: Path) -> None:
    outcome = done(*with_text, "--json", "--out", tmp_path / "screening.html")
    found = outcome.json
    assert found["method"] == "evidence_ffn"
    assert (found["texts"], found["public"]) == (["ash", "birch", "public"], ["public"])
    first = [one for one in found["effects"] if one["round"] == 1]
    assert {(one["party"], one["text"]) for one in first} == {
        (party, text) for party in ("", "ash", "birch", "cedar") for text in found["texts"]
    }
    assert {one["party"] for one in found["captures"]} == {"base", "ash", "birch", "cedar"}
    assert "scoring without cedar" in outcome.err
    assert json.loads((tmp_path / "screening.json").read_text()) == found
    page = (tmp_path / "screening.html").read_text()
    assert page.count("data:image/png;base64") == 4 == len(list((tmp_path / "screening-plots").glob("*.png")))
    assert "<script" not in page


def test_public_text_of_its_own_is_scored_instead(
    with_text: tuple[object, ...], fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    found = done(*with_text, "--test", f"web={fragments['cedar']}", "--harm", "9", "--json").json
    assert found["texts"] == ["ash", "birch", "web"]
    assert found["rule"]["harm"] == 9.0


def test_the_table_names_the_worst_effect(with_text: tuple[object, ...]) -> None:
    out = done(*with_text).out
    assert "worst effect" in out
    assert "%" in out


def test_words_that_do_not_fit_are_refused(
    base: Path, given: Mapping[str, Path], public: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    command = ("screen", *given.values(), "--base", base)
    misused(*command, names="--weights-only")
    misused(*command, "--method", "evidence_ffn", names="--party")
    misused(*command, "--weights-only", "--party", f"ash={fragments['ash']}", names="--party")
    text = ("--party", f"ash={fragments['ash']}", "--public", public)
    refused(*command, "--method", "broth", *text, names="broth")
    refused(*command, "--method", "evidence_ffn", "--set", "salt=3", *text, names="salt")
    refused(*command, "--method", "evidence_ffn", "--set", "salt", *text, names="--set")
    refused(*command, "--method", "learned_rows", "--set", "top_k=x", *text, names="--set top_k=x")
    refused(*command, "--method", "learned_rows", "--set", "bias=no", *text, names="it is no bool")
    refused(*command, "--method", "prompt_rows", "--set", 'prompts={"ash": 3}', *text, names="--set prompts")
    refused(*command, "--method", "reduction", *text, names="reduction")
    refused(*command, "--method", "soup", "--harm", "-1", *text, names="--harm")
    both = ("--party", f"x={public}", "--test", f"x={public}")
    refused(*command, "--method", "soup", *both, names="text 'x'")
    refused(*command, "--weights-only", "--out", tmp_path / "page.txt", names="page.txt")
    assert not (tmp_path / "page.txt").exists()
