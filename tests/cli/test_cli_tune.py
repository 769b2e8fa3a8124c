"""``quiltwork tune``, and the methods that it was made for, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cli_runner import done, files, refused
from safetensors.torch import load_file

QUICK = ("--steps", "4", "--batch-size", "4", "--sequence-length", "24", "--learning-rate", "0.02", "--cpu")


def record(directory: Path) -> dict[str, object]:
    return json.loads((directory / "quiltwork.json").read_text())["tuned"]


def test_rows_are_tuned_and_the_experts_files_stay(
    composed: Callable[[str], Path], public: Path, tmp_path: Path
) -> None:
    before = composed("learned_rows")
    out = done("tune", before, "--public", public, *QUICK, "--out", tmp_path / "tuned", "--json")
    assert out.json["parties"] == ["ash", "birch", "cedar"]
    assert (out.json["tuned"]["what"], out.json["tuned"]["selection"]) == ("router", "none")
    left, right = files(before), files(tmp_path / "tuned")
    assert {name for name in left if left[name] != right[name]} == {"router.safetensors", "quiltwork.json", "README.md"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tuned"]
    refused("remove", tmp_path / "tuned", "--party", "ash", "--out", tmp_path / "x", names="ash", mend="quiltwork tune")


@pytest.mark.parametrize("selection", ["evidence", "dpp"])
def test_stand_ins_are_chosen_and_written_down(
    selection: str, composed: Callable[[str], Path], given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    named = [part for path in given.values() for part in ("--contribution", path)]
    options = ("--public", public, "--proxies", selection, "--documents", "3", "--what", "anchor")
    done("tune", composed("evidence_ffn"), *options, *named, *QUICK, "--out", tmp_path / "tuned")
    told = record(tmp_path / "tuned")
    assert told["selection"] == selection
    assert sorted(told["texts"]) == ["ash", "birch", "cedar", "public"]  # type: ignore[call-overload]
    again = done("tune", composed("evidence_ffn"), *options, *named, *QUICK, "--out", tmp_path / "again")
    assert again.code == 0
    assert files(tmp_path / "tuned") == files(tmp_path / "again")


def test_what_cannot_be_done_is_refused(
    composed: Callable[[str], Path], given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    def refusal(method: str, *options: object, names: str, mend: str) -> None:
        arguments = ("tune", composed(method), "--public", public, *QUICK, *options, "--out", tmp_path / "x")
        refused(*arguments, names=names, mend=mend)
        assert not list(tmp_path.iterdir())

    ash = ("--contribution", given["ash"])
    refusal("evidence_ffn", names="router of an evidence composite", mend="anchor")
    refusal("learned_rows", "--sequence-length", 129, names="128 positions", mend="128 or less")
    (empty := public.parent / "empty.txt").touch()
    nothing = ("tune", composed("learned_rows"), "--public", empty, *QUICK, "--out", tmp_path / "x")
    refused(*nothing, names="text 'public'", mend="Give text")
    refusal("btm", "--what", "anchor", names="no mixture of experts", mend="learned_rows")
    refusal("learned_rows", "--what", "experts", names="what='experts'", mend="router")
    refusal("learned_rows", "--proxies", "best", names="proxies 'best'", mend="dpp")
    refusal("learned_rows", *ash, names="nobody stands in", mend="--proxies")
    refusal("learned_rows", "--proxies", "evidence", *ash, names="'birch'", mend="ash, birch, cedar")
    refusal("learned_rows", "--proxies", "evidence", *ash, *ash, names="by one contribution each", mend="one of each")
    refusal("learned_rows", "--learning-rate", "0", names="learning_rate=0.0", mend="another")


def test_branches_are_composed_tuned_and_generate(
    base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    done("compose", *given.values(), "--base", base, "--method", "btx", "--top-k", "2", "--out", tmp_path / "btx")
    refused("remove", tmp_path / "btx", "--party", "ash", "--out", tmp_path / "x", names="average", mend="compose")
    done("tune", tmp_path / "btx", "--public", public, "--what", "all", *QUICK, "--out", tmp_path / "tuned")
    assert record(tmp_path / "tuned")["what"] == "all"
    assert done("generate", tmp_path / "tuned", "--prompt", "the river", "--max-new-tokens", "3").out


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("task_arithmetic", ("--scale", "0.5")),
        ("ties", ("--density", "0.5", "--scale", "1")),
        ("dare", ("--density", "0.5", "--elect", "--seed", "3")),
    ],
)
def test_merges_in_weight_space_are_dense_and_reproducible(
    method: str, options: tuple[str, ...], base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    common = ("--base", base, "--method", method)
    done("compose", *given.values(), *common, *options, "--out", tmp_path / "one")
    done("compose", *reversed(given.values()), *common, *options, "--out", tmp_path / "other")
    done("compose", *given.values(), *common, "--out", tmp_path / "default")
    assert files(tmp_path / "one") == files(tmp_path / "other")
    assert files(tmp_path / "one")["model.safetensors"] != files(tmp_path / "default")["model.safetensors"]
    assert json.loads((tmp_path / "one" / "config.json").read_text())["model_type"] == "olmo2"
    refused(
        "compose", *given.values(), *common, "--scale", "0", "--out", tmp_path / "x", names="scale=0.0", mend="positive"
    )


def test_an_owner_names_documents_and_they_stand_in(
    base: Path, given: Mapping[str, Path], public: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    done("compose", given["ash"], "--base", base, "--method", "learned_rows", "--out", tmp_path / "composed")
    arguments = ("--base", base, "--data", fragments["ash"], "--party", "ash", "--scope", "none", "--bigrams", "none")
    named = ("--proxies", public, "--proxy-documents", "2", "--proxy-diversity")
    told = done("contribute", "expert", *arguments, *named, "--out", tmp_path / "ash", "--json").json
    assert "proxies" in json.dumps(told)
    assert "proxies" in done("inspect", tmp_path / "ash").out
    options = ("--public", public, "--proxies", "classifier", "--contribution", tmp_path / "ash")
    out = done("tune", tmp_path / "composed", *options, *QUICK, "--out", tmp_path / "tuned", "--json").json
    assert {name: text["documents"] for name, text in out["tuned"]["texts"].items()}["ash"] == 2
    refused(
        *("tune", tmp_path / "composed", "--public", public, "--proxies", "classifier", *QUICK),
        *("--contribution", given["ash"], "--out", tmp_path / "x"),
        names="names no public documents",
        mend="evidence",
    )


@pytest.mark.slow
def test_two_processes_tune_as_one(composed: Callable[[str], Path], public: Path, tmp_path: Path) -> None:
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    for name, launcher in (("two", two), ("one", [sys.executable])):
        command = [*launcher, "-m", "quiltwork", "tune", composed("learned_rows"), "--public", public, *QUICK]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ran = subprocess.run([*map(str, command), "--out", str(tmp_path / name)], env=environment, check=False)
        assert ran.returncode == 0
    rows = [load_file(tmp_path / name / "router.safetensors") for name in ("one", "two")]
    before = load_file(composed("learned_rows") / "router.safetensors")
    for key, tensor in rows[0].items():
        assert (tensor - rows[1][key]).abs().max() < 1e-5 < (tensor - before[key]).abs().max()


def test_public_text_that_resembles_nobody_is_told(
    composed: Callable[[str], Path], given: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "alien.txt").write_text("\f".join(f"zebras quiz {n} jackdaws vexing sphinxes" for n in range(9)))
    named = [part for path in given.values() for part in ("--contribution", path)]
    arguments = ("--public", tmp_path / "alien.txt", "--proxies", "evidence", *named, *QUICK)
    told = done("tune", composed("learned_rows"), *arguments, "--out", tmp_path / "tuned").err
    assert all(f"nothing in public text resembles that of {party}" in told for party in given)
