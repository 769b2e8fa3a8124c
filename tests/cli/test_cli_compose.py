"""``quiltwork compose``: every method to a directory, every misfit refused, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import done, files, misused, refused, run
from safetensors.torch import load_file

from quiltwork.contribution.store import read
from quiltwork.models import checkpoint

METHODS = ("soup", "uniform_ensemble", "btm", "learned_rows", "evidence_ffn", "evidence_full")
PORTABLE = {"soup", "learned_rows"}


def command(base: Path, given: Mapping[str, Path], out: Path, method: str, *more: object) -> tuple[object, ...]:
    return ("compose", *given.values(), "--base", base, "--method", method, "--out", out, *more)


def config(directory: Path) -> dict[str, object]:
    return dict(json.loads((directory / "config.json").read_text()))


# Every method -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_each_method_writes_a_checkpoint_with_its_provenance(
    method: str,
    base: Path,
    given: Mapping[str, Path],
    public: Path,
    composed: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    result = done(*command(base, given, tmp_path / "out", method, "--public", public, "--json")).json
    assert result["method"] == method
    assert result["layout"] == ("portable" if method in PORTABLE else "native")
    assert [e["digest"] for e in result["contributions"]] == [read(path).digest for path in given.values()]
    assert result["path"] == str(tmp_path / "out")
    names = set(files(tmp_path / "out"))
    assert {"config.json", "quiltwork.json", "README.md", "tokenizer.json"} <= names
    assert files(tmp_path / "out") == files(composed(method)), "the same command gives the same bytes"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_order_of_arguments_and_hyphens_do_not_matter(
    base: Path, given: Mapping[str, Path], composed: Callable[[str], Path], tmp_path: Path
) -> None:
    reverse = dict(reversed(given.items()))
    outcome = done(*command(base, reverse, tmp_path / "out", "learned-rows"))
    assert files(tmp_path / "out") == files(composed("learned_rows"))
    assert f"wrote {tmp_path / 'out'}: learned_rows of ash, birch, cedar (portable)" in outcome.err


def test_a_native_checkpoint_says_how_it_is_loaded(
    base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    outcome = done(*command(base, given, tmp_path / "out", "btm"))
    assert "import quiltwork" in outcome.err


LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for path in sys.argv[1:]:
    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = tokenizer("the river", return_tensors="pt").input_ids
    assert torch.isfinite(model.eval()(ids).logits).all()
    print(type(model).__name__, *(sorted(info[k]) for k in ("missing_keys", "unexpected_keys", "mismatched_keys")))
assert not [name for name in sys.modules if name.startswith("quiltwork")]
"""


def test_portable_checkpoints_load_in_plain_transformers(
    composed: Callable[[str], Path], base: Path, tiny_base: object, tmp_path: Path
) -> None:
    places = [composed("learned_rows"), composed("soup")]
    process = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, places)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == ["FlexOlmoForCausalLM [] [] []", "Olmo2ForCausalLM [] [] []"]


# Options ----------------------------------------------------------------------


def test_the_soup_is_the_weighted_mean_of_differences(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--include", "ash", "--include", "cedar", "--weight", "ash=3", "--weight", "cedar=1")
    done(*command(base, given, tmp_path / "out", "soup", *options))
    soup, start = load_file(tmp_path / "out" / "model.safetensors"), load_file(base / "model.safetensors")
    ash, cedar = (read(given[party]) for party in ("ash", "cedar"))
    assert soup.keys() == start.keys()
    for name, tensor in start.items():
        deltas = 0.75 * ash.tensor(f"full.{name}").double() + 0.25 * cedar.tensor(f"full.{name}").double()
        torch.testing.assert_close(soup[name], (tensor.double() + deltas).float(), rtol=0, atol=1e-7)


def test_include_leaves_the_others_out(
    base: Path, given: Mapping[str, Path], composed: Callable[[str], Path], tmp_path: Path
) -> None:
    options = ("--include", "cedar", "--include", "ash")
    done(*command(base, given, tmp_path / "some", "learned_rows", *options))
    fewer = {party: given[party] for party in ("ash", "cedar")}
    done(*command(base, fewer, tmp_path / "few", "learned_rows"))
    assert files(tmp_path / "some") == files(tmp_path / "few")


def test_options_reach_the_checkpoint(base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path) -> None:
    done(*command(base, given, tmp_path / "rows", "learned_rows", "--top-k", 2, "--no-renormalise"))
    assert config(tmp_path / "rows")["num_experts_per_tok"] == 2
    assert config(tmp_path / "rows")["norm_topk_prob"] is False
    router = ("--features", "tokens", "--half-life", 50, "--temperature", 2, "--floor", 0.5, "--top-k", 2)
    weights = ("--minimum-weight", 0.1, "--weight", "base=0.5", "--weight", "birch=4", "--smoothing", 1)
    done(*command(base, given, tmp_path / "evidence", "evidence_ffn", *router, *weights, "--public", public))
    settings = config(tmp_path / "evidence")["router"]
    expected = {"features": "tokens", "half_life": 50, "temperature": 2, "floor": 0.5, "top_k": 2}
    assert isinstance(settings, dict)
    assert {name: settings[name] for name in expected} == expected
    assert settings["weights"] == [0.5, 1, 4, 1]


def test_a_floor_stands_in_for_public_text(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    arguments = command(base, given, tmp_path / "out", "evidence_full")
    refused(*arguments, names=("bigrams of public text", "nothing would speak for the base"), mend="floor")
    done(*arguments, "--floor", "0")


def test_public_text_may_come_as_a_contribution(
    base: Path, given: Mapping[str, Path], public: Path, composed: Callable[[str], Path], tmp_path: Path
) -> None:
    data = ("--base", base, "--data", public, "--party", "wiki", "--out", tmp_path / "wiki")
    done("contribute", *data, "--scope", "none")
    done(*command(base, given, tmp_path / "out", "evidence_ffn", "--public", tmp_path / "wiki"))
    assert files(tmp_path / "out") == files(composed("evidence_ffn"))


# Layouts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "mend"),
    [
        ("evidence_ffn", "learned_rows"),
        ("evidence_full", "LearnedRows"),
        ("btm", "Soup"),
        ("uniform_ensemble", "Soup"),
    ],
)
def test_a_format_that_cannot_hold_the_model_is_refused_with_the_nearest_choice(
    method: str, mend: str, base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    arguments = command(base, given, tmp_path / "out", method, "--public", public, "--layout", "portable")
    refused(*arguments, names="portable" if method != "evidence_ffn" else "flex_olmo", mend=mend)
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_need_the_native_format(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    for option in (("--weight", "ash=2"), ("--bias",)):
        arguments = command(base, given, tmp_path / "out", "learned_rows", *option)
        refused(*arguments, "--layout", "portable", names="biases, offsets or unequal weights", mend="native")
        done(*arguments, "--overwrite")
        assert config(tmp_path / "out")["model_type"] == "quiltwork_moe"


def test_llama_becomes_mixtral(tiny_base, contributions, composed: Callable[[str], Path], tmp_path: Path) -> None:
    given = {c.party: c.path for c in contributions("llama")}
    done(*command(tiny_base("llama").path, given, tmp_path / "out", "learned_rows"))
    assert config(tmp_path / "out")["model_type"] == "mixtral"


# Refusals ---------------------------------------------------------------------

WRONG = {
    "unknown-method": (("--method", "magic"), ("method 'magic'", "evidence_ffn")),
    "not-its-option": (("--half-life", "9"), ("option 'half_life'", "learned_rows does not take it", "top_k")),
    "top-k": (("--top-k", "0"), "top_k=0"),
    "include": (("--include", "oak"), ("party 'oak'", "ash, birch, cedar")),
    "weight-stranger": (("--weight", "oak=1"), ("party 'oak'", "ash, birch, cedar")),
    "weight-zero": (("--weight", "ash=0"), ("weight 0.0 of 'ash'", "include")),
    "weight-nan": (("--weight", "ash=nan"), "weight nan of 'ash'"),
    "weight-word": (("--weight", "ash=much"), ("'ash=much'", "not a number")),
    "weight-form": (("--weight", "ash"), ("'ash'", "NAME=VALUE")),
    "max-bytes": (("--max-bytes", "10"), "the limit given is 10"),
    "public": (("--public", "nowhere.txt"), "nowhere.txt"),
}


@pytest.mark.parametrize(("options", "names"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_refused(
    options: tuple[str, ...], names: tuple[str, ...] | str, base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    refused(*command(base, given, tmp_path / "out", "learned_rows", *options), names=names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--features", "words"), ("words", "tokens, bigrams, trigrams")),
        (("--temperature", "0"), "temperature"),
        (("--half-life", "-1"), "half_life"),
        (("--minimum-weight", "2"), "minimum_weight"),
        (("--smoothing", "0"), "smoothing=0"),
    ],
)
def test_a_wrong_option_of_the_evidence_router_is_refused(
    options: tuple[str, ...],
    names: tuple[str, ...] | str,
    base: Path,
    given: Mapping[str, Path],
    public: Path,
    tmp_path: Path,
) -> None:
    refused(*command(base, given, tmp_path / "out", "evidence_ffn", "--public", public, *options), names=names)


def test_an_unknown_layout_is_wrong_usage(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    misused(*command(base, given, tmp_path / "out", "soup", "--layout", "gguf"), names="--layout is portable or native")


def test_another_base_is_refused(tiny_base, given: Mapping[str, Path], tmp_path: Path) -> None:
    arguments = command(tiny_base("llama").path, given, tmp_path / "out", "soup")
    refused(*arguments, names=("party 'ash'", "made from base"), mend="base it was made from")


def test_another_tokenizer_is_refused(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "base"))
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    (other / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    refused(*command(other, given, tmp_path / "out", "soup"), names=("party 'ash'", "another tokenizer"))


def test_a_changed_weight_of_the_base_is_refused(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "base"))
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (other / "model.safetensors").write_bytes(data)
    refused(*command(other, given, tmp_path / "out", "soup"), names=("party 'ash'", "made from base"))


@pytest.mark.parametrize("pool", [False, True])
def test_what_is_no_contribution_is_refused_by_name(
    pool: bool, base: Path, given: Mapping[str, Path], composed: Callable[[str], Path], tmp_path: Path
) -> None:
    more = ("--pool", tmp_path / "pool") if pool else ()
    other = {"ash": given["ash"], "model": composed("learned_rows")}
    names = (str(other["model"]), "it is a composed model")
    refused(*command(base, other, tmp_path / "out", "soup", *more), names=names)
    other["model"] = base
    refused(*command(base, other, tmp_path / "out", "soup", *more), names=(str(base), "holds no contribution.json"))


def test_public_text_without_text_is_refused(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    (empty := tmp_path / "empty.txt").write_text(" \f ")
    options = ("--public", empty)
    refused(*command(base, given, tmp_path / "out", "evidence_ffn", *options), names=("empty.txt", "no document"))


def test_two_contributions_of_one_party_are_refused(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    twice = {"a": given["ash"], "b": Path(shutil.copytree(given["ash"], tmp_path / "copy"))}
    refused(*command(base, twice, tmp_path / "out", "soup"), names=("party 'ash'", "two contributions"))


def test_a_part_that_is_not_there_is_refused_by_name(
    base: Path, given: Mapping[str, Path], fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    data = ("--base", base, "--data", fragments["ash"], "--party", "oak", "--out", tmp_path / "oak")
    done("contribute", *data, "--scope", "none")
    more = {**given, "oak": tmp_path / "oak"}
    names = ("party 'oak'", "'ffn'", "bigrams, tokens")
    refused(*command(base, more, tmp_path / "out", "learned_rows"), names=names)


def test_an_altered_contribution_is_refused(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(given["birch"], tmp_path / "birch"))
    data = bytearray((spoilt / "ffn.safetensors").read_bytes())
    data[-1] ^= 1
    (spoilt / "ffn.safetensors").write_bytes(data)
    refused(*command(base, {**given, "birch": spoilt}, tmp_path / "out", "learned_rows"), names="ffn.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["soup", "learned_rows"])
@pytest.mark.parametrize("part", ["tokens", "bigrams", "full", "ffn"])
def test_a_part_is_checked_whether_the_method_reads_it_or_not(
    method: str, part: str, base: Path, given: Mapping[str, Path], composed: Callable[[str], Path], tmp_path: Path
) -> None:
    spoilt = Path(shutil.copytree(given["birch"], tmp_path / "birch"))
    name = next(n for n, file in read(spoilt).manifest.payload.items() if any(t.startswith(part) for t in file.tensors))
    data = bytearray((spoilt / name).read_bytes())
    data[-1] ^= 1
    (spoilt / name).write_bytes(data)
    refused(*command(base, {**given, "birch": spoilt}, tmp_path / "out", method), names=[name, "birch"])
    others = command(
        base, {**given, "birch": spoilt}, tmp_path / "out", method, "--include", "ash", "--include", "cedar"
    )
    refused(*others, names=[name, "birch"])
    assert [path.name for path in tmp_path.iterdir()] == ["birch"]


def test_an_existing_target_is_kept_unless_asked(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    refused(*command(base, given, tmp_path / "out", "soup"), names="out", mend="overwrit")
    assert files(tmp_path / "out") == {"mine": b"kept"}
    done(*command(base, given, tmp_path / "out", "soup", "--overwrite"))
    assert "mine" not in files(tmp_path / "out")


# A full disk and an interrupt --------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_refused_and_left_empty(base: Path, given: Mapping[str, Path], small_disk: Path) -> None:
    full = ("no space is left on the device",)
    refused(*command(base, given, small_disk / "out", "learned_rows"), names=full, mend="Free some space")
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_while_contributing_is_refused_and_left_empty(
    base: Path, fragments: Mapping[str, Path], small_disk: Path
) -> None:
    data = ("--base", base, "--data", fragments["ash"], "--party", "ash", "--out", small_disk / "out")
    refused("contribute", *data, "--scope", "none", names="no space is left on the device", mend="Free some space")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "refused: writing"),
        (PermissionError(errno.EACCES, "Permission denied"), "writing there is not permitted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_whatever_stops_the_writer_nothing_half_written_stays(
    raised: BaseException,
    words: str,
    base: Path,
    given: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, written = checkpoint.write_tensors, []

    def stop_at_the_third(path: Path, *rest: Any) -> Any:
        if len(written) == 2:
            raise raised
        written.append(path)
        return write(path, *rest)

    monkeypatch.setattr(checkpoint, "write_tensors", stop_at_the_third)
    outcome = run(*command(base, given, tmp_path / "out", "learned_rows"))
    assert (outcome.code, outcome.out) == (1, "")
    assert words in outcome.err
    assert "Traceback" not in outcome.err
    assert len(written) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_what_should_be_replaced(
    base: Path, given: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(*command(base, given, tmp_path / "out", "soup"))
    before = files(tmp_path / "out")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_tensors", stop)
    assert run(*command(base, given, tmp_path / "out", "learned_rows", "--overwrite")).code == 1
    assert files(tmp_path / "out") == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
