"""Values to bytes and back, in every dtype; what is not finite or not in its domain never passes."""

from __future__ import annotations

import hashlib
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from quiltwork.contribution import header, payload
from quiltwork.contribution.kinds import Requirement
from quiltwork.contribution.manifest_fields import PayloadFile
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import AlteredContribution, ContributionError, MalformedContribution, MissingPart

Make = Callable[..., Draft]
Forge = Callable[..., None]
BITS = {"F64": torch.int64, "F32": torch.int32, "BF16": torch.int16, "F16": torch.int16}
TORCH = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@given(st.sampled_from(list(TORCH)), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_finiteness_by_bit_pattern_agrees_with_torch(dtype: str, patterns: list[int]) -> None:
    bits = torch.tensor(patterns, dtype=torch.int64).to(BITS[dtype])
    values = bits.view(TORCH[dtype])
    problem = payload.check_values(bits.numpy().tobytes(), None, dtype)
    assert (problem is None) == bool(torch.isfinite(values).all())


@pytest.mark.parametrize("dtype", list(TORCH))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_each_non_finite_value_is_found_in_each_dtype(dtype: str, value: float) -> None:
    tensor = torch.tensor([0.0, value], dtype=TORCH[dtype])
    chunk = tensor.view(torch.uint8).numpy().tobytes()
    assert payload.check_values(chunk, None, dtype) == "holds a NaN or an infinity"
    largest = torch.tensor([torch.finfo(TORCH[dtype]).max, -torch.finfo(TORCH[dtype]).tiny], dtype=TORCH[dtype])
    assert payload.check_values(largest.view(torch.uint8).numpy().tobytes(), None, dtype) is None


@pytest.mark.parametrize(("value", "sound"), [(0.0, True), (-0.0, True), (2.0, True), (-1e-300, False), (2.1, False)])
def test_a_domain_is_a_closed_interval(value: float, sound: bool) -> None:
    need = Requirement((1,), ("F64",), least=0.0, most=2.0)
    problem = payload.check_values(np.array([value], dtype=np.float64).tobytes(), need, "F64")
    assert problem == (None if sound else "holds a value outside [0, 2]")


ARRAYS = st.sampled_from(
    [
        torch.arange(6, dtype=torch.float32).reshape(2, 3),
        torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
        torch.arange(6, dtype=torch.bfloat16)[::2],
        torch.tensor(2.5, dtype=torch.float16),
        torch.ones(1, 1, 1, dtype=torch.float64),
        torch.nn.Parameter(torch.ones(3)),
        torch.ones(2).expand(3, 2),
        np.arange(4, dtype=">f4"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1, 2], dtype=np.float16),
        np.array(7.0),
    ]
)


@given(st.dictionaries(st.from_regex(r"[ab_][ab._]{0,4}", fullmatch=True), ARRAYS, min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_written_tensors_are_read_by_the_library_and_by_us(tensors: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        declared = payload.write(path, tensors, {})
        data = path.read_bytes()
        assert declared.bytes == len(data)
        assert declared.digest == "sha256:" + hashlib.sha256(data).hexdigest()
        with path.open("rb") as file:
            payload.verify(file, len(data), "x", declared, {})
        start = len(header.build(declared.types()))
        with safe_open(path, "pt") as theirs, path.open("rb") as file:
            assert set(theirs.keys()) == set(tensors)
            for name, span in header.layout(declared.types()).items():
                original = (
                    torch.as_tensor(np.asarray(tensors[name], dtype=tensors[name].dtype.newbyteorder("=")))
                    if isinstance(tensors[name], np.ndarray)
                    else tensors[name].detach()
                )
                ours = payload.load(file, start + span.begin, declared.tensors[name], name)
                assert torch.equal(ours, original)
                assert torch.equal(theirs.get_tensor(name), original)
                assert ours.dtype == original.dtype


def test_the_tensor_digest_is_sha256_of_its_bytes(tmp_path: Path) -> None:
    values = np.arange(5, dtype=np.float32)
    declared = payload.write(tmp_path / "x", {"a": values, "b": np.ones(2)}, {})
    assert declared.tensors["a"].digest == "sha256:" + hashlib.sha256(values.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (torch.ones(2, dtype=torch.int64), "its dtype torch.int64 does not leave"),
        (torch.ones(2, dtype=torch.bool), "its dtype torch.bool does not leave"),
        (np.ones(2, dtype=np.int32), "its dtype int32 does not leave"),
        (np.array(["a"]), "does not leave"),
        (np.array([object()]), "does not leave"),
        (torch.ones(2, dtype=torch.complex64), "does not leave"),
        (torch.ones(0), "its shape [0] is empty"),
        (np.ones((2, 0)), "its shape [2, 0] is empty"),
        (np.ones((1,) * 9), "more than 8 dimensions"),
        (torch.eye(2).to_sparse(), "not a dense tensor with data"),
        (torch.ones(2, device="meta"), "not a dense tensor with data"),
        ([1.0, 2.0], "not a dense tensor with data"),
        (None, "not a dense tensor with data"),
    ],
)
def test_what_is_no_float_tensor_does_not_leave(array: Any, why: str) -> None:
    with pytest.raises(MalformedContribution) as caught:
        payload.type_of("full.w", array)
    assert caught.value.what == "tensor 'full.w'"
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ffn.layers.0.router.weight", torch.tensor([0.0, math.nan, 0.0, 0.0]), "a NaN or an infinity"),
        ("full.scalar", torch.tensor(math.inf, dtype=torch.bfloat16), "a NaN or an infinity"),
        ("tokens.counts", -np.ones(11), "outside [0, 9.0072e+15]"),
        ("tokens.counts", np.full(11, 1e300), "outside [0, 9.0072e+15]"),
    ],
)
def test_a_draft_with_such_a_value_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, make_draft: Make, name: str, value: Any, why: str
) -> None:
    with pytest.raises(MalformedContribution) as caught:
        write(tmp_path / "x", make_draft(tensors={**make_draft().tensors, name: value}))
    assert caught.value.what == f"tensor '{name}'"
    assert why in caught.value.why
    assert list(tmp_path.iterdir()) == []


def forge_tensor(sealed: Contribution, forge: Forge, name: str, new: bytes) -> None:
    """Put other bytes into a tensor and make every digest true again."""
    file = next(file for file, declared in sealed.manifest.payload.items() if name in declared.tensors)
    types = sealed.manifest.payload[file].types()
    span = header.layout(types)[name]
    start = len(header.build(types)) + span.begin
    path = sealed.path / file
    data = bytearray(path.read_bytes())
    data[start : start + len(new)] = new
    path.write_bytes(data)
    whole = data[start : len(header.build(types)) + span.end]

    def edit(manifest: dict[str, Any]) -> None:
        entry = manifest["payload"][file]
        entry["digest"] = "sha256:" + hashlib.sha256(data).hexdigest()
        entry["tensors"][name]["digest"] = "sha256:" + hashlib.sha256(whole).hexdigest()

    forge(sealed.path, edit)


@pytest.mark.parametrize(
    ("name", "new", "why"),
    [
        (
            "ffn.layers.1.up_proj.weight",
            np.array([np.nan], dtype=np.float32).tobytes(),
            "holds a NaN or an infinity",
        ),
        ("full.model.norm.weight", b"\x80\x7f", "holds a NaN or an infinity"),
        ("full.scalar", b"\x00\xfc", "holds a NaN or an infinity"),
        (
            "tokens.counts",
            np.array([-1], dtype=np.float64).tobytes(),
            "holds a value outside [0, 9.0072e+15]",
        ),
    ],
)
def test_a_forged_value_is_refused_by_name_although_all_digests_agree(
    sealed: Contribution, forge: Forge, name: str, new: bytes, why: str
) -> None:
    forge_tensor(sealed, forge, name, new)
    for check in (read, read_as_used, read_and_settled):
        with pytest.raises(AlteredContribution) as caught:
            check(sealed.path)
        assert caught.value.what.startswith(f"tensor '{name}' in ")
        assert why in caught.value.why


def read_as_used(path: Path) -> None:
    found = read(path, tensors="as used")
    for tensor in found.tensor_names():
        found.tensor(tensor)


def read_and_settled(path: Path) -> None:
    read(path, tensors="as used").settle()


def test_what_was_read_in_use_is_not_read_again(sealed: Contribution) -> None:
    found = read(sealed.path, tensors="as used")
    assert found == sealed
    assert found.unchecked == set(sealed.tensor_names())
    found.tensor("full.scalar")
    for _ in found.pieces("full.model.norm.weight", 64):
        pass
    stopped = found.pieces("tokens.counts", 8)
    next(stopped)
    assert set(sealed.tensor_names()) - found.unchecked == {"full.scalar", "full.model.norm.weight"}
    found.settle()
    assert found.unchecked == set()


def test_a_changed_tensor_that_nobody_uses_is_refused_when_all_is_settled(sealed: Contribution) -> None:
    found = read(sealed.path, tensors="as used")
    data = bytearray((sealed.path / "full.safetensors").read_bytes())
    data[-1] ^= 1
    (sealed.path / "full.safetensors").write_bytes(data)
    found.tensor("full.model.norm.weight")
    with pytest.raises(AlteredContribution, match=r"tensor 'full.scalar' in full.safetensors of party 'acme'"):
        found.settle()


def test_negative_control_a_forged_finite_value_passes_under_another_digest(sealed: Contribution, forge: Forge) -> None:
    forge_tensor(sealed, forge, "full.scalar", np.array([3], dtype=np.float16).tobytes())
    forged = read(sealed.path)
    assert forged.digest != sealed.digest
    assert forged != sealed
    assert forged.tensor("full.scalar") == 3


def test_a_tensor_is_hashed_again_when_it_is_used(sealed: Contribution) -> None:
    path = sealed.path / "full.safetensors"
    kept = sealed.tensor("full.model.norm.weight")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last tensor of the file: full.scalar
    path.write_bytes(data)
    assert torch.equal(sealed.tensor("full.model.norm.weight"), kept)
    with pytest.raises(AlteredContribution, match=r"tensor 'full.scalar' in full.safetensors of party 'acme'"):
        sealed.tensor("full.scalar")
    path.write_bytes(data[:-1])
    with pytest.raises(AlteredContribution, match="ends inside it"):
        sealed.tensor("full.scalar")
    path.unlink()
    with pytest.raises(MalformedContribution, match="cannot be examined"):
        sealed.tensor("full.scalar")
    path.symlink_to("/etc/passwd")
    with pytest.raises(MalformedContribution, match="symbolic link"):
        sealed.tensor("full.scalar")


def test_an_unknown_tensor_is_a_missing_part(sealed: Contribution) -> None:
    with pytest.raises(MissingPart, match=r"tensor 'nothing'.*party 'acme'.*tensor_names"):
        sealed.tensor("nothing")


def test_the_caller_owns_the_tensor(sealed: Contribution) -> None:
    first = sealed.tensor("tokens.counts")
    first.fill_(9)
    assert not torch.equal(sealed.tensor("tokens.counts"), first)


def rewrite(sealed: Contribution, forge: Forge, data: bytes) -> None:
    (sealed.path / "full.safetensors").write_bytes(data)

    def edit(manifest: dict[str, Any]) -> None:
        manifest["payload"]["full.safetensors"]["digest"] = "sha256:" + hashlib.sha256(data).hexdigest()

    forge(sealed.path, edit)


def test_a_header_that_carries_a_message_is_refused(sealed: Contribution, forge: Forge) -> None:
    data = (sealed.path / "full.safetensors").read_bytes()
    rewrite(sealed, forge, data.replace(b'{"format":"pt"}', b'{"format":"hi"}'))
    with pytest.raises(MalformedContribution, match="not the canonical one"):
        read(sealed.path)


@pytest.mark.parametrize(
    ("old", "new", "error", "why"),
    [
        (b"full.scalar", b"full.scalax", AlteredContribution, "the file does not hold it"),
        (b'"F16","shape":[]', b'"F16","shape":{}', MalformedContribution, "at most 8 positive integers"),
        (b'"BF16"', b' "F16"', AlteredContribution, "dtype or shape in the file is not the declared one"),
        (b'"F16","shape":[]', b'"F64","shape":[]', MalformedContribution, "do not fit shape"),
        (b"full.scalar", b"full.\xff\xff\xff\xff\xff\xff", MalformedContribution, "not UTF-8"),
    ],
)
def test_a_header_against_the_manifest_is_refused(
    sealed: Contribution, forge: Forge, old: bytes, new: bytes, error: type[ContributionError], why: str
) -> None:
    data = (sealed.path / "full.safetensors").read_bytes()
    changed = data.replace(old, new, 1)
    assert changed != data
    assert len(changed) == len(data)
    rewrite(sealed, forge, changed)
    with pytest.raises(error) as caught:
        read(sealed.path)
    assert why in caught.value.why
    assert "full.safetensors" in caught.value.what


def test_a_header_far_longer_than_declared_is_refused_unread(sealed: Contribution, forge: Forge) -> None:
    data = (sealed.path / "ffn.safetensors").read_bytes()
    small = header.build({"a": ("F32", (1,))})
    declared = PayloadFile.model_validate(
        {
            "bytes": len(data),
            "digest": "sha256:" + "0" * 64,
            "tensors": {"a": {"dtype": "F32", "shape": (1,), "digest": "sha256:" + "0" * 64}},
        }
    )
    assert len(data) > 2 * len(small)
    with (sealed.path / "ffn.safetensors").open("rb") as file:
        with pytest.raises(AlteredContribution, match="its header claims"):
            payload.verify(file, len(data), "ffn.safetensors", declared, {})
        assert file.tell() == 8


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "CHUNK", 2**16)
    big = np.zeros(2**22, dtype=np.float32)
    declared = payload.write(tmp_path / "x", {"a": big}, {})
    tracemalloc.start()
    payload.write(tmp_path / "y", {"a": big}, {})
    with (tmp_path / "x").open("rb") as file:
        payload.verify(file, declared.bytes, "x", declared, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < big.nbytes / 8


def test_reading_needs_no_torch(sealed: Contribution) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from quiltwork.contribution.store import read; from quiltwork.contribution.describe "
        f"import describe; describe(read({str(sealed.path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
