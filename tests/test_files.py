"""Nothing half-written is ever left behind, whatever interrupts the writer."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quiltwork import files
from quiltwork.errors import InvalidOption, StorageError
from quiltwork.files import new_directory, place_same, publish_permissions, storage_error, write_file


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with new_directory(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
        assert partial.parent == target.parent
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1), InvalidOption("a", why="b", mend="c")]
)
def test_an_exception_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def build() -> None:
        with new_directory(tmp_path / "out") as partial:
            (partial / "a").write_text("1")
            raise error

    with pytest.raises(type(error)):
        build()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "not permitted"),
        (errno.EROFS, "read-only"),
        (errno.EFBIG, "file of this size"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_an_error_of_the_file_system_says_what_and_leaves_nothing(tmp_path: Path, number: int, words: str) -> None:
    def build() -> None:
        with new_directory(tmp_path / "out") as partial:
            (partial / "a").write_text("1")
            raise OSError(number, os.strerror(number), str(partial / "b"))

    with pytest.raises(StorageError, match=words) as caught:
        build()
    assert str(tmp_path / "out") in caught.value.what
    assert ".partial" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_a_native_writer_reports_as_text_is_one_too(tmp_path: Path) -> None:
    def build(text: str) -> None:
        with new_directory(tmp_path / "out"):
            raise RuntimeError(text)

    with pytest.raises(StorageError, match="no space is left on the device"):
        build("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="something else"):
        build("something else (error 28)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "file", "link", "dangling"])
def test_what_is_there_is_not_overwritten_unasked(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    if kind == "directory":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / ("nowhere" if kind == "dangling" else ""))
    with (
        pytest.raises(StorageError, match=r"target '.*out'.*does not overwrite unasked") as caught,
        new_directory(target),
    ):
        raise AssertionError("the block must not run")
    assert "overwriting" in caught.value.mend
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_overwriting_replaces_whole(tmp_path: Path, kind: str) -> None:
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    if kind == "directory":
        target.mkdir()
        (target / "old").write_text("old")
    elif kind == "file":
        target.write_text("old")
    else:
        target.symlink_to(elsewhere)
    with new_directory(target, overwrite=True) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert not target.is_symlink()
    assert (elsewhere / "precious").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_a_failed_overwrite_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")

    def build() -> None:
        with new_directory(target, overwrite=True) as partial:
            (partial / "new").write_text("new")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(StorageError):
        build()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_private_directory_is_closed_to_others_from_the_first_byte_on(tmp_path: Path, umask: int) -> None:
    with new_directory(tmp_path / "out", private=True) as partial:
        assert mode(partial) == 0o700
        (partial / "inner").mkdir()
        (partial / "inner" / "secret").write_text("x")
    assert [mode(path) for path in (tmp_path / "out", tmp_path / "out" / "inner")] == [0o700, 0o700]
    assert mode(tmp_path / "out" / "inner" / "secret") == 0o600


def test_a_private_file_is_closed_to_others(tmp_path: Path, umask: int) -> None:
    (tmp_path / "secret").write_text("old")
    assert mode(write_file(tmp_path / "secret", "new", private=True)) == 0o600
    assert (tmp_path / "secret").read_text() == "new"


def test_a_failed_rename_brings_the_old_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    inner = Path.rename

    def rename(self: Path, to: Any) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "broken")
        return inner(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StorageError), new_directory(target, overwrite=True) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_ordinary(tmp_path: Path, umask: int) -> None:
    with new_directory(tmp_path / "out") as partial:
        (partial / "inner").mkdir(mode=0o700)
        (partial / "inner" / "private").touch(mode=0o600)
        (partial / "open").touch(mode=0o666)
    assert mode(tmp_path / "out") == mode(tmp_path / "out" / "inner") == 0o777 & ~umask
    assert mode(tmp_path / "out" / "open") == mode(tmp_path / "out" / "inner" / "private") == 0o666 & ~umask
    write_file(tmp_path / "file", "x")
    assert mode(tmp_path / "file") == 0o666 & ~umask
    assert os.umask(umask) == umask, "asking for the umask must not change it"


def test_permissions_of_what_a_link_points_to_stay(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "secret")
    publish_permissions(tmp_path / "out")
    assert mode(tmp_path / "secret") == 0o600


@pytest.mark.parametrize("kept", [0o400, 0o600, 0o644])
def test_what_is_placed_again_keeps_its_mode_at_its_first_place(tmp_path: Path, kept: int) -> None:
    first = tmp_path / "first.safetensors"
    first.write_bytes(b"tensors")
    first.chmod(kept)
    with new_directory(tmp_path / "out", read_only="*.safetensors") as partial:
        place_same(first, partial / "second.safetensors")
    second = tmp_path / "out" / "second.safetensors"
    assert mode(first) == kept
    assert second.read_bytes() == b"tensors"
    assert not mode(second) & 0o222
    # whoever may write to a file must not write to two
    assert kept == 0o400 or not second.samefile(first)


@pytest.mark.parametrize("data", ["text ü", b"\x00\xff"])
def test_a_file_is_replaced_whole(tmp_path: Path, data: str | bytes) -> None:
    target = tmp_path / "deep" / "file"
    assert write_file(target, "first") == target
    write_file(target, data)
    assert target.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "file", "old")
    inner = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        inner(self, data[:1])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"writing '.*file': no space is left on the device"):
        write_file(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"writing '.*file/out': a file stands where a directory is needed"):
        write_file(tmp_path / "file" / "out", "x")
    with (
        pytest.raises(StorageError, match=r"writing '.*file/out'.*not a directory"),
        new_directory(tmp_path / "file" / "out"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "x"


def test_an_error_without_number_still_has_words() -> None:
    assert "odd" in str(storage_error(Path("x"), OSError("odd")))


def test_every_reason_is_a_sentence_with_a_mend() -> None:
    for why, mend in files._REASONS.values():
        assert why == why.rstrip(".")
        assert mend.endswith(".")
