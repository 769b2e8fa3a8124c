"""``quiltwork contribute``: every kind of fragment, every option out of its domain, interrupts, confinement."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cli_runner import FAST, assert_refusal, done, files, finish, refused, run, start

import quiltwork.party.contribute as owner
from quiltwork.contribution.store import read
from quiltwork.party.confine import landlock_abi


def command(base: Path, data: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("contribute", "--base", base, "--data", data, "--party", "ash", "--out", out, *FAST, *more)


def payload(directory: Path) -> dict[str, str]:
    """Digest of every tensor that left."""
    contents = read(directory).manifest.payload.values()
    return {name: entry.digest for file in contents for name, entry in file.tensors.items()}


# Sources ----------------------------------------------------------------------


def as_directory(documents: list[str], place: Path) -> tuple[Path, tuple[str, ...]]:
    (place / "notes" / "b").mkdir(parents=True)
    (place / "notes" / "a.txt").write_text("\f".join(documents[:30]))
    (place / "notes" / "b" / "c.md").write_text("\f".join(documents[30:]))
    (place / "notes" / ".hidden").write_text("not read")
    return place / "notes", ()


def as_json_lines(documents: list[str], place: Path) -> tuple[Path, tuple[str, ...]]:
    (place / "d.jsonl").write_text("\n".join(json.dumps({"id": i, "body": d}) for i, d in enumerate(documents)))
    return place / "d.jsonl", ("--text-field", "body")


def as_parquet(documents: list[str], place: Path) -> tuple[Path, tuple[str, ...]]:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": documents, "id": range(len(documents))}), place / "d.parquet")
    return place / "d.parquet", ()


def as_gzip(documents: list[str], place: Path) -> tuple[Path, tuple[str, ...]]:
    (place / "d.txt.gz").write_bytes(gzip.compress("\f".join(documents).encode()))
    return place / "d.txt.gz", ()


@pytest.fixture(scope="module")
def plain(base: Path, fragments: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contribution made from a text file with form feeds."""
    out = tmp_path_factory.mktemp("plain") / "ash"
    outcome = done(*command(base, fragments["ash"], out, "--json"))
    assert outcome.json["digest"] == read(out).digest
    assert outcome.json["path"] == str(out)
    assert outcome.json["confinement"] == "off"
    assert set(outcome.json["parts"]) == {"ffn", "tokens", "bigrams"}
    return out


@pytest.mark.parametrize("write", [as_directory, as_json_lines, as_parquet, as_gzip])
def test_the_same_documents_in_another_format_give_the_same_tensors(
    write: Callable[..., tuple[Path, tuple[str, ...]]],
    base: Path,
    fragments: Mapping[str, Path],
    plain: Path,
    tmp_path: Path,
) -> None:
    data, options = write(fragments["ash"].read_text().split("\f"), tmp_path)
    outcome = done(*command(base, data, tmp_path / "out", "--json", *options))
    assert outcome.json["digest"].startswith("sha256:")
    assert payload(tmp_path / "out") == payload(plain)
    assert read(tmp_path / "out").digest == read(plain).digest


def test_other_documents_give_other_tensors(
    base: Path, fragments: Mapping[str, Path], plain: Path, tmp_path: Path
) -> None:
    done(*command(base, fragments["birch"], tmp_path / "out"))
    assert not set(payload(tmp_path / "out").values()) & set(payload(plain).values())


def test_several_sources_are_one_fragment(
    base: Path, fragments: Mapping[str, Path], plain: Path, tmp_path: Path
) -> None:
    documents = fragments["ash"].read_text().split("\f")
    (tmp_path / "a.txt").write_text("\f".join(documents[:10]))
    (tmp_path / "b.txt").write_text("\f".join(documents[10:]))
    done(*command(base, tmp_path / "a.txt", tmp_path / "out", "--data", tmp_path / "b.txt"))
    assert payload(tmp_path / "out") == payload(plain)


# What leaves ------------------------------------------------------------------


def test_a_note_says_what_was_written_and_how_to_look_at_it(
    base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "deep and spaced" / "ash"
    outcome = done(*command(base, fragments["ash"], out, "--scope", "none"))
    assert f"wrote {out}: {read(out).bytes:,} bytes, {read(out).digest}" in outcome.err
    assert f"quiltwork inspect '{out}'" in outcome.err
    assert outcome.out == ""
    assert sorted(p.name for p in out.parent.iterdir()) == ["ash"]


def test_scope_none_releases_statistics_only(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    outcome = done(*command(base, fragments["ash"], tmp_path / "out", "--scope", "none", "--bigrams", "none", "--json"))
    assert outcome.json["kind"] == "statistics"
    assert set(outcome.json["parts"]) == {"tokens"}
    assert outcome.json["training"] is None


def test_all_options_reach_the_manifest(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "card.txt").write_text("Harbour logs, 1990 to 1999.\n")
    options = (
        "--scope",
        "ffn",
        "--scope",
        "full",
        "--bias",
        "-0.1",
        "--anchor-share",
        "1",
        "--no-losses",
        "--top-k",
        2,
    )
    statistics = ("--tokens", "min-count:2", "--bigrams", "none", "--moments", "diagonal", "--delta-dtype", "bfloat16")
    words = ("--licence", "CC-BY-4.0", "--card", tmp_path / "card.txt", "--seed", "7")
    result = done(*command(base, fragments["ash"], tmp_path / "out", *options, *statistics, *words, "--json")).json
    assert set(result["parts"]) == {"ffn", "full", "tokens", "moments"}
    assert result["method"]["ffn"]["bias"] is True
    assert result["method"]["ffn"]["anchor_share"] == 1
    assert result["method"]["ffn"]["top_k"] == 2
    assert result["parts"]["full"]["dtypes"] == ["BF16"]
    assert (result["licence"], result["card"]) == ("CC-BY-4.0", "Harbour logs, 1990 to 1999.\n")
    training = result["training"]
    assert (training["steps"], training["seed"], training["loss_first"]) == (4, 7, None)
    assert "2 documents" in next(e["note"] for e in result["privacy"] if e["released"] == "tokens")


# Refusals ---------------------------------------------------------------------

WRONG = {
    "party": (("--party", "Ash & Co"), ("party 'Ash & Co'", "Use a-z, 0-9")),
    "party-empty": (("--party", ""), "party ''"),
    "licence": (("--licence", ""), "licence ''"),
    "scope": (("--scope", "everything"), ("scope 'everything'", "ffn, lowrank, full, lora")),
    "scope-twice": (("--scope", "ffn", "--scope", "ffn"), "given twice"),
    "nothing": (("--scope", "none", "--tokens", "none", "--bigrams", "none"), "it releases nothing"),
    "tokens": (("--tokens", "blur:3"), ("release rule 'blur:3'", "min-count:5")),
    "tokens-epsilon": (("--tokens", "laplace:epsilon=0"), "epsilon"),
    "tokens-incomplete": (("--tokens", "gaussian:epsilon=1"), ("gaussian:epsilon=1", "delta")),
    "bigrams": (("--bigrams", "min-count:x"), ("min-count:x", "not a whole number")),
    "moments": (("--moments", "third"), ("moments 'third'", "none, diagonal or full")),
    "delta-dtype": (("--scope", "full", "--delta-dtype", "int8"), ("int8", "bfloat16")),
    "precision": (("--precision", "fp7"), ("fp7", "bf16")),
    "seed": (("--seed", "-1"), "seed"),
    "steps": (("--steps", "0"), "steps=0"),
    "batch": (("--batch-size", "3", "--accumulation", "2"), ("accumulation=2", "divisor")),
    "length": (("--sequence-length", "1"), "sequence_length=1"),
    "rate": (("--learning-rate", "nan"), "learning_rate=nan"),
    "anchor": (("--anchor-share", "1.5"), "anchor_share=1.5"),
    "bias": (("--bias", "0.1"), ("bias=0.1", "-0.1")),
    "field": (("--text-field", ""), "text field"),
    "card": (("--card", "no-such-card.txt"), ("--card 'no-such-card.txt'", "No such file")),
}


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is a failure: whatever can be refused is refused before the hours are spent."""

    def train(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(owner, "train", train)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(("options", "names"), WRONG.values(), ids=WRONG)
def test_an_option_out_of_its_domain_is_refused_before_training(
    options: tuple[str, ...],
    names: tuple[str, ...] | str,
    base: Path,
    fragments: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    refused(*command(base, fragments["ash"], tmp_path / "out", *options), names=names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_training")
def test_the_guard_of_the_refusals_bites(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="training began"):
        run(*command(base, fragments["ash"], tmp_path / "out"))


def test_a_card_that_is_no_text_is_refused(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "card").write_bytes(b"\xff\xfe\x00")
    card = tmp_path / "card"
    refused(*command(base, fragments["ash"], tmp_path / "out", "--card", card), names=("--card", "not UTF-8"))


BAD_FRAGMENTS = {
    "empty": (b"", ("holds 0 distinct document(s)", "form feed")),
    "blank": (b" \n\f \t\f", "holds 0 distinct document(s)"),
    "single": (b"one document only", ("holds 1 distinct document(s)", "form feed")),
    "copies": (b"one document\fone document\fone document", "holds 1 distinct document(s)"),
    "binary": (b"fine\fbroken \xff\xfe bytes\fmore", ("at byte 12", "not UTF-8")),
    "nul": (b"fine\fbroken \x00 byte\fmore", ("at byte 12", "NUL")),
}


@pytest.mark.parametrize(("content", "names"), BAD_FRAGMENTS.values(), ids=BAD_FRAGMENTS)
def test_a_fragment_that_cannot_be_used_is_refused(
    content: bytes, names: tuple[str, ...] | str, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "data.txt").write_bytes(content)
    refused(*command(base, tmp_path / "data.txt", tmp_path / "out"), names=names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.txt"]


def test_what_stands_in_a_broken_fragment_is_not_told(base: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "one"}\n{"text": "two"}\nthe secret recipe\n')
    data = command(base, tmp_path / "data.jsonl", tmp_path / "out")
    outcome = refused(*data, names=("line 3", "not JSON"))
    assert "recipe" not in outcome.err


@pytest.mark.parametrize(("name", "why"), [("no-such.txt", "no such file"), ("table.csv", ".csv is not read")])
def test_a_missing_or_unread_format_is_refused(name: str, why: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    refused(*command(base, tmp_path / name, tmp_path / "out"), names=(name, why))


def test_a_wrong_field_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n')
    refused(*command(base, tmp_path / "d.jsonl", tmp_path / "out"), names=("line 1", "no field 'text'"))


def test_a_missing_base_is_refused(fragments: Mapping[str, Path], tmp_path: Path) -> None:
    refused(*command(tmp_path / "nowhere", fragments["ash"], tmp_path / "out"), names=("nowhere", "no such directory"))
    (tmp_path / "nowhere").mkdir()
    refused(*command(tmp_path / "nowhere", fragments["ash"], tmp_path / "out"), names="config.json")


def test_an_existing_target_is_kept_unless_asked(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    statistics = command(base, fragments["ash"], out, "--scope", "none")
    done(*statistics)
    before = files(out)
    refused(*command(base, fragments["birch"], out, "--scope", "none"), names=str(out), mend="overwrit")
    assert files(out) == before
    done(*command(base, fragments["birch"], out, "--scope", "none", "--overwrite"))
    assert files(out) != before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("steps", [1, 4])
def test_training_that_runs_away_is_refused_and_leaves_nothing(
    steps: int, base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    """With four steps the loss tells; after one step only the weights do, or they are finite and may leave."""
    options = ("--learning-rate", "1e9", "--scope", "full", "--steps", steps, "--state", tmp_path / "state")
    outcome = run(*command(base, fragments["ash"], tmp_path / "out", *options))
    assert "Traceback" not in outcome.err
    if steps == 4:
        assert_refusal(outcome, ("ash: full expert at step", "diverged"), mend="smaller learning rate")
    assert (tmp_path / "out").exists() == (outcome.code == 0)


def test_a_rate_beyond_all_reason_is_refused(base: Path, fragments: Mapping[str, Path], tmp_path: Path) -> None:
    refused(*command(base, fragments["ash"], tmp_path / "out", "--learning-rate", "1e38"), names="learning_rate=1e+38")


# State and interrupts ---------------------------------------------------------


def test_state_that_is_no_longer_needed_goes_and_other_files_stay(
    base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    done(*command(base, fragments["ash"], tmp_path / "out", "--state", tmp_path / "mine", "--save-every", "1"))
    assert files(tmp_path / "mine") == {"thesis.tex": b"years of work"}
    done(*command(base, fragments["ash"], tmp_path / "two", "--save-every", "1"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out", "two"]


def test_an_interrupted_run_goes_on_and_ends_the_same(
    base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    def long(out: str) -> tuple[object, ...]:
        return command(base, fragments["ash"], tmp_path / out, "--steps", "150", "--save-every", "10")

    process = start(*long("out"))
    saved = tmp_path / "out.state" / "ffn" / "plan.json"
    while process.poll() is None and not saved.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    outcome = finish(process)
    assert_refusal(outcome, ("ash: ffn expert at step", "of 150"), mend="Run the same command again")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.state"]
    assert 10 <= len(json.loads(saved.read_text())["losses"]) < 150

    other = command(base, fragments["ash"], tmp_path / "out", "--steps", "160", "--save-every", "10")
    refused(*other, names=("out.state", "steps"), mend="remove the folder")
    done(*long("out"))
    done(*long("straight"))
    assert payload(tmp_path / "out") == payload(tmp_path / "straight")
    assert files(tmp_path / "out") == files(tmp_path / "straight")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "straight"]


def test_an_interrupt_while_writing_leaves_nothing(
    base: Path, fragments: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quiltwork.contribution import payload as writer

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "write", stopped)
    outcome = run(*command(base, fragments["ash"], tmp_path / "out", "--scope", "none"))
    assert (outcome.code, outcome.out) == (1, "")
    assert "interrupted" in outcome.err
    assert "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []


# Confinement ------------------------------------------------------------------


@pytest.mark.skipif(landlock_abi() == 0, reason="this kernel has no Landlock")
def test_a_confined_owner_contributes_the_same_and_says_what_holds_it(
    base: Path, fragments: Mapping[str, Path], plain: Path, tmp_path: Path
) -> None:
    outcome = finish(start(*command(base, fragments["ash"], tmp_path / "out" / "ash", "--confine", "--json")))
    assert outcome.code == 0, outcome.err
    assert outcome.json["confinement"].startswith(f"landlock (Landlock ABI {landlock_abi()}")
    assert "confinement: landlock" in outcome.err
    assert payload(tmp_path / "out" / "ash") == payload(plain)


SPY = """
import sys
from pathlib import Path
from quiltwork.cli.contribute.sealing import seal_for_text
base, mine, theirs, out = map(Path, sys.argv[1:5])
if sys.argv[5] == "sealed":
    print(seal_for_text([base, mine], out, out.with_name("out.state")))
for path in (mine, base / "config.json", theirs, Path.home() / ".profile", out.parent.parent):
    try:
        path.read_bytes() if path.is_file() else list(path.iterdir())
        print("read", path)
    except FileNotFoundError:
        pass
    except PermissionError:
        print("refused", path)
"""


@pytest.mark.parametrize("sealed", ["sealed", "open"])
def test_a_confined_owner_cannot_read_another_owners_fragment(
    sealed: str, base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "mine" / "out"
    places = (base, fragments["ash"], fragments["birch"], out)
    done_ = subprocess.run(
        [sys.executable, "-c", SPY, *map(str, places), sealed],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines = done_.stdout.splitlines()
    assert f"read {fragments['ash']}" in lines
    assert f"read {base / 'config.json'}" in lines
    word = "refused" if sealed == "sealed" else "read"
    assert f"{word} {fragments['birch']}" in lines
    assert f"{word} {tmp_path}" in lines


def test_confinement_needs_what_it_opens_to_exist(fragments: Mapping[str, Path], tmp_path: Path) -> None:
    arguments = command(tmp_path / "no-base", fragments["ash"], tmp_path / "o" / "out", "--confine")
    assert_refusal(finish(start(*arguments)), "no-base")
