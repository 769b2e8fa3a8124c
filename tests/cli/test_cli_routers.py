"""``quiltwork compose`` by rows of moments, rows of prompts, rows with evidence, and what their options refuse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from cli_runner import done, files, refused

PROMPTS = """
negative = ["a public page about nothing"]

[ash]
positive = ["the river runs over grey stones"]

[birch]
positive = ["def return yield import"]
negative = ["the ferry"]

[cedar]
positive = ["plaintiff court appeal", "verdict"]
"""


def command(base: Path, given: Mapping[str, Path], out: Path, method: str, *more: object) -> tuple[object, ...]:
    return ("compose", *given.values(), "--base", base, "--method", method, "--out", out, *more)


def settings(directory: Path) -> dict[str, object]:
    return dict(json.loads((directory / "config.json").read_text())["router"])


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.toml").write_text(PROMPTS)
    return tmp_path / "prompts.toml"


def test_rows_of_moments_from_public_text_or_a_contribution_of_it(
    base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    more = ("--public", public, "--temperature", 4, "--shrinkage", 0.2)
    done(*command(base, given, tmp_path / "whole", "residual_lda", *more))
    found = settings(tmp_path / "whole")
    assert (found["kind"], found["bias"]) == ("rows", True)
    assert {p.name for p in (tmp_path / "whole").glob("moments*")} == {
        "moments.safetensors",
        *(f"moments-{party}.safetensors" for party in given),
    }
    plain = done(*command(base, given, tmp_path / "plain", "residual-lda", "--no-offsets", *more, "--json")).json
    assert plain["layout"] == "portable"
    done(*command(base, given, tmp_path / "alone", "residual_lda", "--covariance", "public", *more))
    assert not list((tmp_path / "alone").glob("moments*"))
    data = ("--base", base, "--data", public, "--party", "wiki", "--out", tmp_path / "wiki", "--moments", "full")
    done("contribute", *data, "--scope", "none", "--sequence-length", 256)
    other = ("--public", tmp_path / "wiki", *more[2:])
    done(*command(base, given, tmp_path / "again", "residual_lda", *other))
    assert settings(tmp_path / "again") == found


@pytest.mark.parametrize("party", ["ash", "cedar"])
def test_a_party_leaves_rows_of_moments_exactly(
    party: str, base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    rest = {name: path for name, path in given.items() if name != party}
    for method, more in (("residual_lda", ("--no-offsets",)), ("evidence_rows", ("--rows", "residual_lda"))):
        place = tmp_path / method
        done(*command(base, given, place / "whole", method, "--public", public, *more))
        done("remove", place / "whole", "--party", party, "--out", place / "left")
        done(*command(base, rest, place / "never", method, "--public", public, *more))
        assert files(place / "left") == files(place / "never")
        assert not (place / "left" / f"moments-{party}.safetensors").exists()


def test_rows_of_prompts_from_toml_or_json(
    base: Path, given: Mapping[str, Path], prompts: Path, tmp_path: Path
) -> None:
    done(*command(base, given, tmp_path / "toml", "prompt_rows", "--prompts", prompts, "--scale", 2, "--top-k", 2))
    table = {
        "negative": ["a public page about nothing"],
        "ash": {"positive": ["the river runs over grey stones"]},
        "birch": {"positive": ["def return yield import"], "negative": ["the ferry"]},
        "cedar": {"positive": ["plaintiff court appeal", "verdict"]},
    }
    (tmp_path / "prompts.json").write_text(json.dumps(table))
    more = ("--prompts", tmp_path / "prompts.json", "--scale", 2, "--top-k", 2)
    done(*command(base, given, tmp_path / "json", "prompt_rows", *more))
    assert files(tmp_path / "toml") == files(tmp_path / "json")
    assert json.loads((tmp_path / "toml" / "config.json").read_text())["model_type"] == "flex_olmo"
    done(*command(base, given, tmp_path / "last", "prompt_rows", "--prompt-pool", "last", *more))
    assert files(tmp_path / "last") != files(tmp_path / "json")


def test_rows_stand_beside_evidence(
    base: Path, given: Mapping[str, Path], public: Path, prompts: Path, tmp_path: Path
) -> None:
    more = ("--rows", "prompt_rows", "--prompts", prompts, "--rows-share", 0.5, "--features", "trigrams")
    evidence = ("--switching", 0.001, "--bound", 2, "--temperature", 2, "--top-k", 2, "--public", public)
    done(*command(base, given, tmp_path / "out", "evidence_rows", *more, *evidence))
    found = settings(tmp_path / "out")
    assert (found["kind"], found["share"], found["rows"]["top_k"]) == ("rows_and_evidence", 0.5, 2)  # type: ignore[index]
    expected = {"features": "trigrams", "switching": 0.001, "bound": 2.0, "temperature": 2.0, "top_k": None}
    assert {name: found["evidence"][name] for name in expected} == expected  # type: ignore[index]


WRONG = {
    "no-prompts": (("prompt_rows",), ("party 'ash'", "no prompts")),
    "absent": (("prompt_rows", "--prompts", "nowhere.toml"), ("--prompts 'nowhere.toml'", "No such file")),
    "two-ways": (("evidence_ffn", "--switching", "0.1", "--half-life", "9"), "half_life and switching together"),
    "switching": (("evidence_ffn", "--switching", "1"), "switching=1.0"),
    "bound": (("evidence_ffn", "--bound", "0"), "bound=0.0"),
    "covariance": (("residual_lda", "--covariance", "mine"), "covariance='mine'"),
    "shrinkage": (("residual_lda", "--shrinkage", "2"), "shrinkage=2.0"),
    "portable": (("residual_lda", "--layout", "portable"), ("offsets", "the format holds rows only")),
    "rows": (("evidence_rows", "--rows", "columns"), ("rows 'columns'", "learned_rows, residual_lda, prompt_rows")),
    "not-its-rows": (("evidence_rows", "--covariance", "public"), ("option 'covariance'", "learned_rows")),
    "share": (("evidence_rows", "--rows-share", "-1"), "share=-1.0"),
    "not-its-option": (("learned_rows", "--switching", "0.1"), ("option 'switching'", "does not take it")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_refused(
    case: str, base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    (method, *more), names = WRONG[case]
    refused(*command(base, given, tmp_path / "out", method, "--public", public, *more), names=names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("p.toml", "negative = [", "--prompts"),
        ("p.json", "[1, 2]", "not a table"),
        ("p.json", "{", "--prompts"),
        ("p.json", "[" * 100_000, "--prompts"),
        ("p.toml", "negative = 'one'", "'negative' is not a list of texts"),
        ("p.toml", "[ash]\npositive = [1]", "'ash.positive' is not a list of texts"),
        ("p.toml", "[ash]\nneutral = ['a']", "'ash' is not a table"),
        ("p.toml", "ash = ['a']", "'ash' is not a table"),
        ("p.toml", "[ash]\npositive = ['a']", "none of them is negative"),
        ("p.toml", "x = '" + "a" * 2**20 + "'", "larger than"),
        ("p.toml", b"\xff\xfe", "--prompts"),
    ],
)
def test_files_that_hold_no_prompts_are_refused(
    name: str, content: str | bytes, why: str, base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    refused(*command(base, given, tmp_path / "out", "prompt_rows", "--prompts", tmp_path / name), names=why)
