"""A pool of shards: the same files, with or without it, and nothing of a stranger's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import AlteredCheckpoint, InvalidOption
from quiltwork.files import FileRecord, record_of
from quiltwork.models.base import Base, open_base
from quiltwork.models.pool import Pool, open_pool, shard_key
from quiltwork.models.sources import Source

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return open_pool(tmp_path / "pool")


def shards(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*.safetensors")}


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("layout", ["portable", "native"])
def test_composing_with_a_pool_writes_the_same_files(
    layout: str, tiny_base: Bases, contributions: Parts, pool: Pool, tmp_path: Path
) -> None:
    composite = compose(contributions("olmo2"), MixtureOfExperts(LearnedRows()), tiny_base("olmo2"))
    composite.save(tmp_path / "plain", layout=layout)  # type: ignore[arg-type]
    for name in ("cold", "warm"):
        composite.save(tmp_path / name, layout=layout, pool=pool)  # type: ignore[arg-type]
        assert content(tmp_path / name) == content(tmp_path / "plain")
    assert len(shards(pool.path)) == 4  # the router is computed, and so it is written


def test_what_a_pool_keeps_is_no_more_open_than_what_its_owner_writes(
    tiny_base: Bases, contributions: Parts, pool: Pool, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        compose(contributions("olmo2"), MixtureOfExperts(LearnedRows()), tiny_base("olmo2")).save(
            tmp_path / "out", pool=pool
        )
    finally:
        os.umask(before)
    kept = [*pool.path.rglob("*.safetensors"), *(tmp_path / "out").glob("*.safetensors")]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o400}


def test_other_subsets_and_routers_link_what_is_there(
    tiny_base: Bases, contributions: Parts, pool: Pool, tmp_path: Path
) -> None:
    base, found = tiny_base("llama"), contributions("llama")
    compose(found, MixtureOfExperts(LearnedRows(bias=True)), base).save(tmp_path / "all", pool=pool)
    kept = shards(pool.path)
    evidence = MixtureOfExperts(PrefixEvidence(floor=0.1))
    compose(found[:2], evidence, base).save(tmp_path / "two", pool=pool)
    assert shards(pool.path) == kept
    compose(found[:2], evidence, base).save(tmp_path / "never")
    assert content(tmp_path / "two") == content(tmp_path / "never")


def test_keys_tell_apart_what_differs() -> None:
    one = Source("F32", (2,), lambda: torch.zeros(2), identity="x")
    table = {"a": one, "b": replace(one, identity="y")}
    assert shard_key(table) == shard_key(dict(reversed(table.items())))
    others = [
        {"a": one, "b": one},
        {"a": table["b"], "b": one},
        {"a": one, "c": table["b"]},
        {"a": one, "b": replace(table["b"], shape=(1, 2))},
        {"a": one},
    ]
    assert len({shard_key(table), *map(shard_key, others)}) == 6
    assert shard_key({"a": one, "b": replace(one, identity=None)}) is None
    assert one.derive(torch.neg).identity is None
    assert one.reshaped((1, 2)).identity is None


def write(pool: Pool, target: Path, value: float, identity: str) -> FileRecord | None:
    return pool(target, {"a": replace(Source.of(torch.tensor([value])), identity=identity)})


def test_an_entry_is_written_once_and_is_read_only(pool: Pool, tmp_path: Path) -> None:
    first = write(pool, tmp_path / "one", 1.0, "x")
    second = write(pool, tmp_path / "two", 2.0, "x")  # equal identities are equal bytes: the second is not even read
    assert first == second == record_of(tmp_path / "one") == record_of(tmp_path / "two")
    assert write(pool, tmp_path / "three", 2.0, "y") != first
    assert oct((tmp_path / "one").stat().st_mode)[-3:] == "444"
    assert not [path for path in (pool.path / "shards").iterdir() if "partial" in path.name]


@pytest.mark.parametrize("what", ["shard", "record"])
def test_a_damaged_entry_is_refused(what: str, pool: Pool, tmp_path: Path) -> None:
    write(pool, tmp_path / "one", 1.0, "x")
    [entry] = (pool.path / "shards").glob("*.safetensors")
    if what == "shard":
        entry.unlink()
        entry.write_bytes(b"short")
    else:
        entry.with_suffix(".json").write_text(json.dumps({"bytes": 3}))
    with pytest.raises(AlteredCheckpoint, match=entry.stem):
        write(pool, tmp_path / "two", 1.0, "x")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_half_an_entry_is_none(suffix: str, pool: Pool, tmp_path: Path) -> None:
    first = write(pool, tmp_path / "one", 1.0, "x")
    next((pool.path / "shards").glob(f"*{suffix}")).unlink()
    assert write(pool, tmp_path / "two", 1.0, "x") == first


def test_what_a_killed_writer_left_is_cleared(pool: Pool, tmp_path: Path) -> None:
    left = pool.path / "shards" / f".{'0' * 64}.partial"
    left.write_bytes(b"half")
    write(pool, tmp_path / "one", 1.0, "x")
    assert not left.exists()
    left.write_bytes(b"half")
    write(pool, tmp_path / "two", 1.0, "x")  # a warm pool is not touched
    assert left.exists()


def test_writers_take_turns(pool: Pool, tmp_path: Path) -> None:
    script = "\n".join(
        (
            "import sys, torch",
            "from dataclasses import replace",
            "from pathlib import Path",
            "from quiltwork.models.pool import open_pool",
            "from quiltwork.models.sources import Source",
            "table = {'a': replace(Source.of(torch.ones(2**20)), identity='x')}",
            "print(open_pool(Path(sys.argv[1]))(Path(sys.argv[2]), table).digest)",
        )
    )
    words = [sys.executable, "-c", script, str(pool.path)]
    started = [subprocess.Popen([*words, str(tmp_path / str(n))], stdout=subprocess.PIPE, text=True) for n in range(3)]
    told = {process.communicate()[0] for process in started}
    assert told == {record_of(tmp_path / "0").digest + "\n"}
    assert len(shards(pool.path)) == 1


def test_a_base_is_read_again_when_a_file_of_it_changes(tiny_base: Bases, pool: Pool, tmp_path: Path) -> None:
    place = tmp_path / "base"
    place.mkdir()
    for path in tiny_base("llama").path.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    right = tiny_base("llama").digest
    assert pool.base(open_base(place)).known == right
    unread = replace(open_base(place), tensors={})
    assert pool.base(unread).digest == right
    data = bytearray((place / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "model.safetensors").write_bytes(data)
    os.utime(place / "model.safetensors", ns=(0, 0))
    assert pool.base(open_base(place)).known == open_base(place).digest != right


def test_a_directory_of_something_else_is_no_pool(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(InvalidOption, match="it holds something else"):
            open_pool(place)
    open_pool(tmp_path / "new")
    assert open_pool(tmp_path / "new").knows("sha256:" + "0" * 64) is False


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777], ids=oct)
@pytest.mark.parametrize("room", ["", "shards", "contributions", "bases"])
def test_a_pool_that_others_may_write_to_is_refused(room: str, mode: int, pool: Pool) -> None:
    place = pool.path / room
    place.chmod(mode)
    with pytest.raises(InvalidOption, match=f"others than you may write to it \\(mode {mode:o}\\)") as caught:
        open_pool(pool.path)
    assert str(place) in caught.value.what
    assert "chmod go-w" in caught.value.mend
    place.chmod(0o755)
    open_pool(pool.path)


def test_a_pool_of_another_user_is_refused(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = pool.path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(InvalidOption, match=f"it belongs to another user \\(number {owner}\\)"):
        open_pool(pool.path)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_an_entry_that_others_may_write_to_is_refused(suffix: str, pool: Pool, tmp_path: Path) -> None:
    write(pool, tmp_path / "one", 1.0, "x")
    next((pool.path / "shards").glob(f"*{suffix}")).chmod(0o664)
    with pytest.raises(InvalidOption, match=r"of the pool: others than you may write to it \(mode 664\)"):
        write(pool, tmp_path / "two", 1.0, "x")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_what_is_kept_is_nobody_else_s_to_write_whatever_the_mask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        pool = open_pool(tmp_path / "deep" / "pool")
        write(pool, tmp_path / "one", 1.0, "x")
        pool.remember("sha256:" + "0" * 64)
        write(open_pool(pool.path), tmp_path / "two", 1.0, "x")
    finally:
        os.umask(before)
    kept = [pool.path, *pool.path.rglob("*")]
    assert len(kept) == 8
    assert not [path for path in kept if path.stat().st_mode & 0o022]
    assert [path.stat().st_mode & 0o222 for path in kept if path.suffix == ".safetensors"] == [0]
