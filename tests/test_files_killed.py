"""What killed writers leave is cleared by the next; what living ones write is not touched."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from quiltwork import files
from quiltwork.errors import StorageError
from quiltwork.files import new_directory, require_absent


def killed(work: Callable[[], object]) -> None:
    """Run ``work`` in a process of its own, which must kill itself."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_and_die(target: Path) -> None:
    with new_directory(target, overwrite=True) as partial:
        (partial / "half").write_text("half")
        die()


def names(place: Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir())


def test_the_next_writer_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    killed(lambda: write_and_die(tmp_path / "out"))
    assert len(names(tmp_path)) == 1
    assert names(tmp_path)[0].endswith(".partial")
    with new_directory(tmp_path / "out") as partial:
        (partial / "whole").write_text("whole")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["whole"]


def test_only_its_own_target_s_leftovers_are_cleared(tmp_path: Path) -> None:
    killed(lambda: write_and_die(tmp_path / "out"))
    others = [
        ".out.partial",
        ".out.0123456789.partial",
        ".other.01234567.partial",
        ".out.01234567.partial.txt",
        "out.2",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.89abcdef.partial").symlink_to(tmp_path / "out.2")
    require_absent(tmp_path / "out", overwrite=False)
    assert names(tmp_path) == sorted([*others, ".out.89abcdef.partial"])


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with new_directory(tmp_path / "out") as partial:
        (partial / "mine").write_text("mine")
        with new_directory(tmp_path / "out") as other:
            (other / "faster").write_text("faster")
        assert names(partial) == ["mine"]
        (partial / "mine").write_text("still here")
        (tmp_path / "out" / "faster").unlink()
        (tmp_path / "out").rmdir()
    assert names(tmp_path / "out") == ["mine"]


def test_a_lock_that_is_not_held_is_what_frees_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # without locks (a file system that has none) nothing is known to be dead, so nothing is removed
    killed(lambda: write_and_die(tmp_path / "out"))
    monkeypatch.setattr(files, "_lock", lambda directory: None)
    require_absent(tmp_path / "out", overwrite=False)
    assert len(names(tmp_path)) == 1


def test_a_target_whose_replacer_was_killed_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    with new_directory(target) as partial:
        (partial / "old").write_text("old")
    rename = Path.rename

    def dies_on_the_second(self: Path, to: Path) -> Path:
        return rename(self, to) if self == target else die()  # type: ignore[return-value, func-returns-value]

    monkeypatch.setattr(Path, "rename", dies_on_the_second)

    def replace() -> None:
        with new_directory(target, overwrite=True) as partial:
            (partial / "new").write_text("new")

    killed(replace)
    monkeypatch.undo()
    assert not target.exists()
    with pytest.raises(StorageError, match="already there"):
        require_absent(target, overwrite=False)
    assert names(tmp_path) == ["out"]
    assert names(target) == ["old"]


def test_what_was_replaced_and_not_yet_removed_goes(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.01234567.retired").mkdir()
    (tmp_path / ".out.89abcdef.retired").write_text("a file in its place")
    require_absent(tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("before", [True, False])
def test_a_writer_that_is_taken_for_dead_before_it_holds_its_lock_begins_anew(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = files._lock, []

    def late(directory: Path) -> int | None:
        if taken:
            return lock(directory)
        taken.append(directory)
        if before:
            directory.rmdir()
            return lock(directory)
        held = lock(directory)
        directory.rmdir()
        return held

    monkeypatch.setattr(files, "_lock", late)
    with files.new_directory(tmp_path / "out") as partial:
        (partial / "file").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
