"""The stream of a fragment against plain whole-file readings; its refusals: exact places, never content."""

import gzip
import hashlib
import json
import os
import sys
import traceback
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.party import fragment as module
from quiltwork.party.fragment import Fragment, is_held_out, open_fragment

SECRET = "patient Zuleika, ward seven"
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\f"), max_size=40)


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def write_lines(path: Path, documents: list[str], field: str = "text") -> Path:
    return write(path, "".join(json.dumps({field: text}) + "\n" for text in documents))


def write_parquet(path: Path, column: list[object], field: str = "text") -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({field: column, "other": list(range(len(column)))}), path)
    return path


def documents(*paths: Path, field: str = "text") -> list[str]:
    return list(open_fragment(paths, text_field=field).documents())


def refusal(*paths: Path, field: str = "text") -> FragmentError:
    with pytest.raises(FragmentError) as caught:
        documents(*paths, field=field)
    return caught.value


# Formats ------------------------------


def test_text_is_cut_at_form_feeds_and_blank_pieces_are_skipped(tmp_path: Path) -> None:
    assert documents(write(tmp_path / "a.txt", "one\n\ftwo\f \n\t\fthree")) == ["one\n", "two", "three"]
    assert documents(write(tmp_path / "b.txt", "whole\n\nfile")) == ["whole\n\nfile"]
    assert documents(write(tmp_path / "README", "no suffix")) == ["no suffix"]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.py", "A.TXT.GZ"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_chunks_may_cut_characters(tmp_path: Path, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    expected = ["h\u00e9llo \u6c34", "\U0001f600\u00df", "end"]
    data = "\f".join(expected).encode()
    path = write(tmp_path / name, gzip.compress(data) if name.lower().endswith(".gz") else data)
    assert documents(path) == expected


@given(st.lists(texts, max_size=6), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_text_equals_reading_it_whole(tmp_path_factory, pieces: list[str], chunk: int) -> None:
    path = write(tmp_path_factory.mktemp("t") / "a.txt", "\f".join(pieces))
    whole = path.read_bytes().decode().removeprefix("\ufeff")
    saved, module._CHUNK = module._CHUNK, chunk
    try:
        assert documents(path) == [piece for piece in whole.split("\f") if piece.strip()]
    finally:
        module._CHUNK = saved


@given(st.lists(texts, max_size=6))
@settings(max_examples=40, deadline=None)
def test_json_lines_round_trip(tmp_path_factory, written: list[str]) -> None:
    path = write_lines(tmp_path_factory.mktemp("j") / "a.jsonl", written)
    assert documents(path) == [text for text in written if text.strip()]


def test_json_lines_with_another_field_gzip_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"body": "one", "text": 3}\r\n\n{"body": "two"}'
    assert documents(write(tmp_path / "a.ndjson", data), field="body") == ["one", "two"]
    assert documents(write(tmp_path / "a.jsonl.gz", gzip.compress(data)), field="body") == ["one", "two"]


def test_text_starts_after_a_byte_order_mark(tmp_path: Path) -> None:
    assert documents(write(tmp_path / "a.txt", b"\xef\xbb\xbfone")) == ["one"]


def test_parquet_rows(tmp_path: Path) -> None:
    column = [f"row {i}" for i in range(200)] + [" "]
    assert documents(write_parquet(tmp_path / "a.parquet", list(column))) == column[:-1]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refusal(path)
    assert "pyarrow" in error.why
    assert "quiltwork[parquet]" in error.mend


# Directories and links ------------------------------


def test_directories_are_walked_by_name_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/10.txt", "a.txt", "c/d/e.txt", ".hidden.txt", "b/.git/config.txt"):
        write(tmp_path / name, name)
    assert documents(tmp_path) == ["a.txt", "b/10.txt", "b/2.txt", "c/d/e.txt"]


def test_paths_keep_their_order_and_files_are_read_once(tmp_path: Path) -> None:
    first, second = write(tmp_path / "x/1.txt", "one"), write(tmp_path / "x/2.txt", "two")
    assert documents(second, tmp_path / "x", first) == ["two", "one"]
    assert documents(write(tmp_path / ".named", "a hidden file that is named")) == ["a hidden file that is named"]


def test_links_inside_are_read_once_and_links_outside_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "mine", tmp_path / "theirs"
    write(inside / "a.txt", "mine")
    write(inside / ".data/b.txt", "mine too")
    (inside / "again.txt").symlink_to(inside / "a.txt")
    (inside / "b.txt").symlink_to(inside / ".data/b.txt")
    (inside / "loop").symlink_to(inside)
    assert documents(inside) == ["mine", "mine too"]
    (inside / "z.txt").symlink_to(write(outside / "z.txt", SECRET))
    assert "it leaves the fragment's directory" in refusal(inside).why
    (inside / "z.txt").unlink()
    (inside / "dir").symlink_to(outside)
    assert "dir" in refusal(inside).what


def test_a_named_link_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "data/a.txt", "one")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert documents(tmp_path / "link") == ["one"]


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    assert "loop.txt" in refusal(tmp_path).what


# Refusals: the place is exact and the content stays in ------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\0"])
@pytest.mark.parametrize("before", [b"", "ab\u00e9\f\u6c34".encode()])
def test_bad_bytes_are_named_by_offset(
    tmp_path: Path, chunk: int, bad: bytes, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    error = refusal(write(tmp_path / "a.txt", before + bad + SECRET.encode()))
    assert error.what.endswith(f"a.txt' at byte {len(before)}")


def test_a_character_cut_by_the_end_is_named_by_offset(tmp_path: Path) -> None:
    assert refusal(write(tmp_path / "a.txt", b"abc\xe6\xb0")).what.endswith("at byte 3")


BROKEN_LINES = {
    "not JSON": f'{{"text": "{SECRET}"',
    "not JSON either": "[" * 100_000,
    "too many digits": '{"text": ' + "9" * 5000 + "}",
    "no object": json.dumps([SECRET]),
    "no field": json.dumps({"body": SECRET}),
    "not a string": json.dumps({"text": [SECRET]}),
    "null": json.dumps({"text": None, "other": SECRET}),
    "NUL": json.dumps({"text": SECRET + "\0"}),
    "half a surrogate": json.dumps({"text": SECRET + "\ud800"}),
    "not UTF-8": b'{"text": "' + SECRET.encode() + b'\xff"}',
}


@pytest.mark.parametrize("line", BROKEN_LINES.values(), ids=BROKEN_LINES.keys())
def test_a_bad_line_is_named_by_number_and_not_shown(tmp_path: Path, line: str | bytes) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "fine"}\n\n' + (line if isinstance(line, bytes) else line.encode()))
    error = refusal(path)
    assert error.what.endswith("a.jsonl' line 3")
    assert_silent(error)


def test_a_bad_row_is_named_and_not_shown(tmp_path: Path) -> None:
    error = refusal(write_parquet(tmp_path / "a.parquet", [*["x"] * 70, None, SECRET]))
    assert error.what.endswith("a.parquet' row 70")
    error = refusal(write_parquet(tmp_path / "b.parquet", [1, 2]))
    assert error.what.endswith("row 0")
    assert "int, not a string" in error.why
    assert "no column 'body'" in refusal(write_parquet(tmp_path / "c.parquet", [SECRET]), field="body").why


def assert_silent(error: BaseException) -> None:
    """Neither the error, nor what it was raised from or during, nor the traceback shows content."""
    assert SECRET not in "".join(traceback.format_exception(error))
    assert error.__cause__ is None
    assert error.__context__ is None


def test_undecodable_text_is_not_shown(tmp_path: Path) -> None:
    assert_silent(refusal(write(tmp_path / "a.txt", SECRET.encode() + b"\xff")))


def test_the_check_for_silence_can_fail() -> None:
    try:
        (SECRET.encode() + b"\xff").decode()
    except UnicodeDecodeError as cause:
        chained = FragmentError("a", why="b", mend="c")
        chained.__cause__ = cause
    with pytest.raises(AssertionError):
        assert_silent(chained)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"text " * 10_000)
    for name, data in {
        "cut": whole[:-20],
        "not": b"plain",
        "bent": whole[:30] + b"\xff\xff" + whole[32:],
    }.items():
        error = refusal(write(tmp_path / f"{name}.txt.gz", data))
        assert "damaged or cut short" in error.why, name
    assert "not a whole Parquet file" in refusal(write(tmp_path / "a.parquet", b"PAR1 no")).why


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.zip", "a.tar.gz", "a.PDF"])
def test_formats_that_only_look_like_text_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / "fine.txt", "text")
    write(tmp_path / name, "a,b")
    error = refusal(tmp_path)
    assert name in error.what
    assert "is not read" in error.why


def test_missing_empty_and_special_paths_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent").why
    write(tmp_path / "empty/.hidden", "x")
    assert "holds no files" in refusal(tmp_path / "empty").why
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe").why


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    path.chmod(0)
    assert "Permission denied" in refusal(path).why


def test_files_that_vanish_after_opening_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "x")
    opened = open_fragment([path])
    path.unlink()
    with pytest.raises(FragmentError, match="No such file"):
        list(opened.documents())


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="list"):
        open_fragment(str(tmp_path))
    with pytest.raises(InvalidOption, match="list"):
        open_fragment([])
    with pytest.raises(InvalidOption, match="names no field"):
        open_fragment([tmp_path], text_field="")


# The fragment as a whole ------------------------------


@pytest.mark.parametrize(("content", "number"), [("", 0), (" \f\n", 0), ("one", 1), ("same\fsame\fsame", 1)])
def test_fewer_than_two_distinct_documents_are_refused(tmp_path: Path, content: str, number: int) -> None:
    opened = open_fragment([write(tmp_path / "a.txt", content)])
    with pytest.raises(FragmentError, match=f"{number} distinct document") as caught:
        opened.require_documents()
    assert "form feed" in caught.value.mend


def test_require_documents_reads_no_further_than_needed(tmp_path: Path) -> None:
    opened = open_fragment([write(tmp_path / "a.txt", "one\ftwo"), write(tmp_path / "b.txt", b"\xff")])
    assert opened.require_documents() is opened
    assert opened.require_documents(0) is opened
    with pytest.raises(FragmentError, match="not UTF-8"):
        opened.require_documents(3)


def test_documents_come_again_in_the_same_order(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", ["3", "4"])
    write(tmp_path / "a.txt", "1\f2")
    opened = open_fragment([tmp_path])
    first = opened.documents()
    assert next(first) == "1"
    assert list(opened.documents()) == ["1", "2", "3", "4"]
    assert list(first) == ["2", "3", "4"]
    write(tmp_path / "0.txt", "added after opening")
    assert list(opened.documents()) == ["1", "2", "3", "4"]


def test_describe_counts_documents_and_utf8_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "\u00e9\f \fab")
    write(tmp_path / "b.txt", "\u6c34")
    assert open_fragment([tmp_path]).describe() == module.Description(files=2, documents=3, bytes=2 + 2 + 3)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1 << 14)
    write(tmp_path / "a.txt", ("x" * 999 + "\f") * 8000)
    write_lines(tmp_path / "b.jsonl", ["y" * 999] * 8000)
    opened = open_fragment([tmp_path])
    tracemalloc.start()
    try:
        assert sum(1 for _ in opened.documents()) == 16_000
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


# Held-out documents ------------------------------


@given(st.lists(texts, max_size=30), st.floats(0, 1), st.floats(0, 1), st.text(max_size=5))
def test_held_out_is_a_property_of_the_text_and_grows_with_the_fraction(
    documents: list[str], low: float, high: float, salt: str
) -> None:
    low, high = sorted((low, high))
    for text in documents:
        assert is_held_out(text, low, salt) <= is_held_out(text, high, salt)
        assert not is_held_out(text, 0.0, salt)
        assert is_held_out(text, 1.0, salt)


def test_held_out_follows_the_stated_formula() -> None:
    for text in ("", "a", "\u6c34", "a longer text"):
        share = int.from_bytes(hashlib.sha256(f"4:salt:{text}".encode()).digest()[:8], "big") / 2**64
        assert not is_held_out(text, share * 0.999, "salt")
        assert is_held_out(text, min(1.0, share * 1.001), "salt")


def test_held_out_share_is_near_the_fraction_and_salts_are_independent() -> None:
    numbers = [str(i) for i in range(20_000)]
    one = [is_held_out(text, 0.1, "one") for text in numbers]
    two = [is_held_out(text, 0.1, "two") for text in numbers]
    both = sum(a and b for a, b in zip(one, two, strict=True))
    assert abs(sum(one) - 2000) < 5 * (20_000 * 0.09) ** 0.5
    assert abs(both - 200) < 5 * 200**0.5


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
def test_fractions_outside_the_unit_interval_are_refused(fraction: float, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="share of the documents"):
        is_held_out("a", fraction)
    with pytest.raises(InvalidOption):
        open_fragment([write(tmp_path / "a.txt", "x")]).split(fraction)


def test_split_is_a_partition_that_keeps_copies_together(tmp_path: Path) -> None:
    written = [f"document {i % 150}" for i in range(300)]
    opened = open_fragment([write_lines(tmp_path / "a.jsonl", written)])
    train, held_out = map(list, opened.split(0.3, "salt"))
    assert sorted(train + held_out) == sorted(written)
    assert not set(train) & set(held_out)
    assert len(held_out) > 30
    backwards = Fragment((write_lines(tmp_path / "b.jsonl", written[::-1]),))
    assert set(backwards.split(0.3, "salt")[1]) == set(held_out)
    assert set(opened.split(0.3, "other")[1]) != set(held_out)
