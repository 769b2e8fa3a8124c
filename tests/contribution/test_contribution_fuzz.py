"""Reading is total: whatever a stranger sends, a `Contribution` or a `ContributionError`, nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
import string
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quiltwork.contribution.canonical import encode
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import ContributionError

Forge = Callable[..., None]

FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def outcome(path: Path) -> Contribution | None:
    """Read, at once and as used; any exception but ours fails the test."""
    refusal = None
    try:
        found = read(path)
    except ContributionError as error:
        refusal = error
    if refusal is not None:
        assert settled(path) is None or contradicts_itself(path, refusal)
        return None
    for name in found.tensor_names():
        found.tensor(name)
    assert settled(path) == found
    return found


def settled(path: Path) -> Contribution | None:
    try:
        found = read(path, tensors="as used")
        found.settle()
    except ContributionError:
        return None
    assert not found.unchecked
    return found


def contradicts_itself(path: Path, error: ContributionError) -> bool:
    """Whether a manifest declares another digest of a file than that of the tensors which it declares in it."""
    declared = json.loads((path / "contribution.json").read_bytes())["payload"].get(error.what)
    return (
        declared is not None
        and "sha256:" + hashlib.sha256((path / error.what).read_bytes()).hexdigest() != declared["digest"]
    )


def fresh(folder: Path, draft: Draft) -> Path:
    path, original = folder / "x", folder / f"original-{draft.method.kind}"
    shutil.rmtree(path, ignore_errors=True)
    if not original.exists():
        write(original, draft)
    shutil.copytree(original, path)
    return path


@given(data=st.binary(max_size=300))
@FUZZ
def test_random_bytes_as_manifest(folder: Path, any_draft: Draft, data: bytes) -> None:
    path = fresh(folder, any_draft)
    (path / "contribution.json").write_bytes(data)
    assert outcome(path) is None


HOSTILE: st.SearchStrategy[Any] = st.sampled_from(  # copied, or an insertion could close a circle
    [
        None,
        True,
        -1,
        0,
        2**63 - 1,
        2**63,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        -0.0,
        "",
        "x" * 5000,
        "\ud800",
        "\x00",
        "../../etc/passwd",
        [],
        {},
        [[]],
        {"": {}},
        {"__class__": "os.system"},
        {"$ref": "#"},
    ]
).map(copy.deepcopy)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, child in children for path in paths(child, (*here, key)))]


@given(data=st.data())
@settings(FUZZ, max_examples=250)
def test_valid_json_with_hostile_values(folder: Path, any_draft: Draft, forge: Forge, data: st.DataObject) -> None:
    path = fresh(folder, any_draft)
    original = (path / "contribution.json").read_bytes()
    manifest = json.loads(original)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(paths(manifest)[1:]))
        target = manifest
        for key in place[:-1]:
            target = target[key]
        action = data.draw(st.sampled_from(["replace", "delete", "add"]))
        if action == "replace":
            target[place[-1]] = data.draw(HOSTILE)
        elif action == "delete":
            del target[place[-1]]
        elif isinstance(target, dict):
            target[data.draw(st.text(string.printable, max_size=5))] = data.draw(HOSTILE)
        else:
            target.append(data.draw(HOSTILE))
        if len(paths(manifest)) == 1:
            break
    try:
        (path / "contribution.json").write_bytes(encode(manifest))
        forge(path)  # true digests, so that the deeper checks are reached
    except ValueError:  # not JSON: write it the lax way
        (path / "contribution.json").write_text(json.dumps(manifest))
    found = outcome(path)
    # a change that the format allows is another contribution, never the same one
    if (path / "contribution.json").read_bytes() != original:
        assert found is None or found.manifest.digest != json.loads(original)["digest"]


@given(data=st.data())
@FUZZ
def test_mutated_text_of_the_manifest(folder: Path, any_draft: Draft, data: st.DataObject) -> None:
    path = fresh(folder, any_draft)
    file = path / "contribution.json"
    text = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 40)))
        snippets = [
            b"",
            b"\xff",
            b"\x00",
            b"{",
            b"]" * 50,
            b"[" * 2000,
            b"NaN",
            b"1e999",
            b"9" * 9999,
            b'"a":1,',
        ]
        text[start:end] = data.draw(st.sampled_from(snippets) | st.binary(max_size=8))
    unchanged = bytes(text) == file.read_bytes()
    file.write_bytes(text)
    assert (outcome(path) is not None) == unchanged


def drawn_file(path: Path, place: int) -> Path:
    """One of the payload's files."""
    files = sorted(path.glob("*.safetensors"))
    return files[place % len(files)]


@given(seed=st.integers(0, 2**32), place=st.integers(0, 5))
@FUZZ
def test_mutated_payload_with_true_file_digests(
    folder: Path, any_draft: Draft, forge: Forge, seed: int, place: int
) -> None:
    import hashlib

    path = fresh(folder, any_draft)
    file = drawn_file(path, place)
    data = bytearray(file.read_bytes())
    before = bytes(data)
    chance = random.Random(seed)
    header = int.from_bytes(data[:8], "little")
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(0, 8 + header)] = chance.choice(b'0123456789-{}[]",:\\ \x00\xffe.')
    file.write_bytes(data)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    forge(path, lambda manifest: manifest["payload"][file.name].update(digest=digest))
    assert (outcome(path) is not None) == (bytes(data) == before)


@given(data=st.binary(max_size=400), place=st.integers(0, 5))
@FUZZ
def test_random_bytes_as_payload(folder: Path, any_draft: Draft, forge: Forge, data: bytes, place: int) -> None:
    path = fresh(folder, any_draft)
    file = drawn_file(path, place)
    size = file.stat().st_size
    file.write_bytes((data + b"\0" * size)[:size])
    assert outcome(path) is None
    file.write_bytes(data)
    assert outcome(path) is None


@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20),
        max_size=4,
    )
)
@settings(FUZZ, max_examples=60)
def test_random_extra_names(folder: Path, any_draft: Draft, names: list[str]) -> None:
    path = fresh(folder, any_draft)
    added = False
    for name in names:
        if name not in {".", ".."} and not (path / name).exists():
            (path / name).touch()
            added = True
    assert (outcome(path) is None) == added
