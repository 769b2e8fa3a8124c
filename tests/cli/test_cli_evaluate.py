"""``quiltwork evaluate``: the score matrix as a table and as JSON; models and text that do not fit are refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from cli_runner import done, misused, refused

from composed_files import mend_records
from quiltwork.cli.evaluate import print_scores
from quiltwork.evaluate.scores import Cell, Row, Scores, load_scores
from quiltwork.models.base import open_base

SMALL = ("--max-bytes", 600, "--max-length", 48)


def command(base: Path, *models: object) -> tuple[object, ...]:
    return ("evaluate", *models, "--base", base, *SMALL)


def bits_per_byte(path: Path, text: str) -> float:
    """One document in one window, by transformers alone."""
    base = open_base(path)
    ids = [0, *base.load_tokenizer()(text, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logits = base.load_model().eval()(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    return -float(logits[torch.arange(len(ids) - 1), ids[1:]].sum()) / math.log(2) / len(text.encode())


def test_the_matrix_as_json(
    base: Path,
    composed: Callable[[str], Path],
    given: Mapping[str, Path],
    fragments: Mapping[str, Path],
    public: Path,
) -> None:
    text = [o for p in ("ash", "birch") for o in ("--party", f"{p}={fragments[p]}")] + ["--public", f"wiki={public}"]
    alone = [o for path in given.values() for o in ("--contribution", path)]
    models = (composed("learned_rows"), f"mine={composed('evidence_full')}", composed("soup"))
    outcome = done(*command(base, *models), *text, *alone, "--leave-one-out", "mine", "--json")
    scores = outcome.json
    assert scores["parties"] == ["ash", "birch", "cedar"]
    assert (scores["public"], scores["domains"]) == (["wiki"], ["ash", "birch", "wiki"])
    assert set(scores["methods"]) == {"base", "learned_rows", "mine", "soup"}
    assert set(scores["alone"]) == {"ash", "birch"}
    assert set(scores["leave_one_out"]["mine"]) == {"ash", "birch", "cedar"}
    rows = [*scores["methods"].values(), *scores["alone"].values(), *scores["leave_one_out"]["mine"].values()]
    for row in rows:
        assert set(row["domains"]) == {"ash", "birch", "wiki"}
        assert all(0 < cell["value"] < 9 for cell in row["domains"].values())
        assert 0 < row["active_params"] <= row["total_params"]
    assert scores["methods"]["mine"]["active_params"] < scores["methods"]["mine"]["total_params"]
    assert set(scores["routing"]) == {"learned_rows", "mine"}
    assert scores["routing"]["mine"]["ash"]["slots"] == ["base", "ash", "birch", "cedar"]
    assert scores["base"] == open_base(base).digest
    assert "scoring mine without birch" in outcome.err


def test_the_base_row_is_what_transformers_computes(
    base: Path, composed: Callable[[str], Path], tmp_path: Path
) -> None:
    text = "the ferry crosses the river"
    (tmp_path / "one.txt").write_text(text)
    arguments = ("evaluate", composed("soup"), "--base", base, "--party", f"ash={tmp_path / 'one.txt'}", "--json")
    cell = done(*arguments).json["methods"]["base"]["domains"]["ash"]
    assert cell["value"] == pytest.approx(bits_per_byte(base, text), rel=1e-5)
    assert (cell["amount"], cell["items"]) == (len(text), 1)


def test_the_table_says_who_is_better_off(
    base: Path, composed: Callable[[str], Path], given: Mapping[str, Path], fragments: Mapping[str, Path]
) -> None:
    arguments = ("--party", f"ash={fragments['ash']}", "--contribution", given["ash"])
    out = done(*command(base, composed("learned_rows")), *arguments).out
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    assert "bits per byte" in lines[0]
    assert [line.split("  ")[0] for line in lines[3:6]] == ["base", "learned_rows", "ash alone"]
    assert lines[-1].startswith("ash: ")
    assert "not measured" not in lines[-1]


def test_a_score_file_of_one_owner_holds_only_its_own_column(score_files: Mapping[str, Path]) -> None:
    scores = load_scores(score_files["birch"])
    assert scores.domains == ("birch",)
    assert set(scores.alone) == {"birch"}
    assert set(scores.leave_one_out["evidence_ffn"]) == {"ash", "birch", "cedar"}


def test_names_with_markup_are_shown_as_they_are(
    base: Path, composed: Callable[[str], Path], fragments: Mapping[str, Path]
) -> None:
    model, text = f"[/bold]={composed('soup')}", f"[red]={fragments['ash']}"
    out = done(*command(base, model), "--party", text).out
    assert "[/bold]" in out
    assert "[red]" in out


# Refusals ---------------------------------------------------------------------


def test_held_out_text_is_needed(base: Path, composed: Callable[[str], Path]) -> None:
    misused(*command(base, composed("soup")), names="--party NAME=PATH")


WRONG = {
    "form": (("--party", "ash.txt"), ("'ash.txt'", "NAME=VALUE")),
    "name": (("--party", "a\x07b=x.txt"), ("name 'a\\x07b'", "printable")),
    "missing": (("--party", "ash=nowhere.txt"), "nowhere.txt"),
    "length": (("--party", "ash=TEXT", "--max-length", "0"), "max_length=0"),
    "batch": (("--party", "ash=TEXT", "--batch-size", "0"), "batch_size=0"),
    "device": (("--party", "ash=TEXT", "--device", "abacus"), "--device 'abacus'"),
    "both": (("--party", "ash=TEXT", "--public", "ash=TEXT"), ("domain 'ash'", "as public")),
    "left-out": (("--party", "ash=TEXT", "--leave-one-out", "magic"), ("magic", "learned_rows")),
    "public-party": (("--party", "ash=TEXT", "--public", "cedar=TEXT"), ("domain 'cedar'", "a party of the model")),
}


@pytest.mark.parametrize(("options", "names"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_refused(
    options: tuple[str, ...],
    names: tuple[str, ...] | str,
    base: Path,
    composed: Callable[[str], Path],
    fragments: Mapping[str, Path],
) -> None:
    said = [option.replace("TEXT", str(fragments["ash"])) for option in options]
    refused(*command(base, composed("learned_rows")), *said, names=names)


def test_a_soup_has_nobody_to_leave_out(
    base: Path, composed: Callable[[str], Path], fragments: Mapping[str, Path]
) -> None:
    arguments = ("--party", f"ash={fragments['ash']}", "--leave-one-out", "soup")
    refused(*command(base, composed("soup")), *arguments, names="soup")


def test_two_rows_of_one_name_are_refused(
    base: Path, composed: Callable[[str], Path], fragments: Mapping[str, Path]
) -> None:
    text = ("--party", f"ash={fragments['ash']}")
    refused(*command(base, composed("btm"), composed("btm")), *text, names="model 'btm'", mend="NAME=DIRECTORY")
    refused(*command(base, f"base={composed('btm')}"), *text, names="model 'base'")


def test_empty_text_is_refused(base: Path, composed: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \f \n")
    arguments = ("--party", f"ash={tmp_path / 'empty.txt'}")
    refused(*command(base, composed("soup")), *arguments, names=("domain 'ash'", "no text"))


def test_a_model_of_another_base_is_refused(
    tiny_base, composed: Callable[[str], Path], fragments: Mapping[str, Path]
) -> None:
    other, text = tiny_base("llama").path, ("--party", f"ash={fragments['ash']}")
    refused(*command(other, composed("learned_rows")), *text, names=("learned_rows", "composed on base"))


def test_a_dense_model_with_another_tokenizer_is_refused(
    base: Path, composed: Callable[[str], Path], fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(composed("soup"), tmp_path / "other"))
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}'))
    arguments = ("--party", f"ash={fragments['ash']}")
    refused(*command(base, other), *arguments, names=("tokenizer.json", "bytes"))
    mend_records(other)
    refused(*command(base, other), *arguments, names=("other", "tokenizer is not the base's"))


def test_what_is_no_model_is_refused(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    text = ("--party", f"ash={fragments['ash']}")
    refused(*command(base, tmp_path / "nowhere"), *text, names="nowhere")
    refused(*command(tmp_path / "nowhere", base), *text, names="nowhere")


@pytest.mark.parametrize("count", [12, 13])
def test_more_columns_than_a_screen_is_wide_are_left_to_the_report(
    count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    parties = tuple(f"p{number}" for number in range(count))
    rows = {"middle": Row(domains={party: Cell(value=float(number)) for number, party in enumerate(parties)})}
    print_scores(Scores(metric="nats per row", parties=parties, domains=parties, methods=rows))
    lines = capsys.readouterr().out.splitlines()
    (head,) = (line for line in lines if line.strip().startswith("model"))
    assert ("p7" in head) == (count == 12)
    assert any(f"{(count - 1) / 2:.3f}" in line for line in lines if "middle" in line)
