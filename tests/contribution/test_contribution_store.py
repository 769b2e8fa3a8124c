"""A directory is a contribution as a whole or not at all: round trip, every refusal, nothing half-written."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quiltwork.contribution import payload
from quiltwork.contribution.kinds import (
    ExpertMethod,
    FFNExpert,
    FullExpert,
    ResidualMomentsStatistic,
    StatisticsMethod,
)
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import (
    AlteredContribution,
    ContributionError,
    MalformedContribution,
    StorageError,
)
from quiltwork.privacy.events import ExactEvent, OtherEvent

Make = Callable[..., Draft]
Forge = Callable[..., None]


def test_reading_gives_what_was_written(sealed: Contribution, draft: Draft) -> None:
    again = read(sealed.path)
    assert again == sealed
    assert hash(again) == hash(sealed)
    assert (again.party, again.kind, again.digest) == ("acme", "expert", sealed.digest)
    assert again.parts == {"ffn", "full", "tokens", "moments"}
    assert set(again.tensor_names()) == set(draft.tensors)
    assert again.tensor_names("ffn.layers.1.") == (
        "ffn.layers.1.down_proj.weight",
        "ffn.layers.1.gate_proj.weight",
        "ffn.layers.1.router.weight",
        "ffn.layers.1.up_proj.weight",
    )
    for name, value in draft.tensors.items():
        assert torch.equal(again.tensor(name), torch.as_tensor(value))
    assert again.manifest.method == draft.method
    assert again.manifest.privacy == draft.privacy
    assert again.manifest.card == draft.card


DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@st.composite
def drafts(draw: st.DrawFn) -> dict[str, Any]:
    """Any small contribution of either kind."""
    layers, width, inner = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    second: Any = draw(st.sampled_from(["full", "diagonal"]))
    moments = ResidualMomentsStatistic(layers=layers, hidden_size=width, second=second, rows=1)
    fields: dict[str, Any] = {
        "party": draw(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)),
        "card": draw(st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=9)),
        "statistics": (moments,),
        "training": None,
        "privacy": (
            *(ExactEvent(released=part) for part in ("ffn", "full", "moments")),
            OtherEvent.model_validate(
                {"mechanism": "m", "released": "r", "unit": "u", "extra": draw(st.floats(-9, 9))}
            ),
        ),
    }
    needs = dict(moments.part(1).required or {})
    fields["method"] = StatisticsMethod()
    tensors: dict[str, Any] = {}
    if draw(st.booleans()):
        ffn = FFNExpert(
            layers=layers,
            hidden_size=width,
            intermediate_size=inner,
            top_k=draw(st.none() | st.integers(1, 4)),
            anchor_share=draw(st.floats(0, 1)),
            router=draw(st.booleans()),
            bias=draw(st.booleans()),
        )
        fields["method"] = ExpertMethod(ffn=ffn, full=FullExpert())
        needs |= ffn.required_tensors()
        tensors["full.x"] = torch.ones(draw(st.lists(st.integers(1, 2), max_size=3)), dtype=torch.bfloat16)
    seed = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for name, need in needs.items():
        dtype = DTYPES[draw(st.sampled_from(need.dtypes))]
        tensors[name] = torch.rand(need.shape, generator=seed).to(dtype)
    return {**fields, "tensors": tensors}


@given(drafts())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_contribution_survives_the_round_trip(make_draft: Make, fields: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        written = write(Path(folder) / "x", make_draft(**fields))
        again = read(written.path)
        assert again == written
        assert all(torch.equal(again.tensor(name), value) for name, value in fields["tensors"].items())
        rebuilt = write(Path(folder) / "y", make_draft(**fields))
        assert {p.name: p.read_bytes() for p in written.path.iterdir()} == {
            p.name: p.read_bytes() for p in rebuilt.path.iterdir()
        }


def test_the_digest_is_the_same_in_another_process(sealed: Contribution, tmp_path: Path) -> None:
    folder = Path(__file__).parent
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest;"
        "from quiltwork.contribution.store import write;"
        "print(write(sys.argv[2], conftest.expert_draft()).digest)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "other")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"},
    )
    assert other.stdout.strip() == sealed.digest


def test_numpy_and_torch_give_the_same_bytes(tmp_path: Path, make_draft: Make, sealed: Contribution) -> None:
    tensors = {
        name: value.numpy() if isinstance(value, torch.Tensor) and value.dtype != torch.bfloat16 else value
        for name, value in make_draft().tensors.items()
    }
    assert write(tmp_path / "numpy", make_draft(tensors=tensors)) == sealed


def test_a_moved_contribution_is_the_same(sealed: Contribution, tmp_path: Path) -> None:
    shutil.copytree(sealed.path, tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere") == sealed


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_permissions_are_those_of_any_other_file(tmp_path: Path, draft: Draft, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = write(tmp_path / "x", draft).path
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o666 & ~mask}


# Every changed byte


def test_every_changed_byte_of_the_manifest_is_refused(tmp_path: Path, make_draft: Make) -> None:
    fields: dict[str, Any] = {"method": StatisticsMethod(), "training": None, "card": ""}
    moments = ResidualMomentsStatistic(layers=1, hidden_size=1, second="full", rows=1)
    tensors = {f"moments.layers.0.{name}": np.ones(shape) for name, shape in (("mean", 1), ("second", (1, 1)))}
    events = (ExactEvent(released="moments"),)
    small = write(tmp_path / "x", make_draft(tensors=tensors, statistics=(moments,), privacy=events, **fields))
    file = small.path / "contribution.json"
    data = file.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(changed)
        with pytest.raises(ContributionError):
            read(small.path)
    for cut in range(0, len(data), 17):
        file.write_bytes(data[:cut])
        with pytest.raises(ContributionError):
            read(small.path)
    file.write_bytes(data)
    assert read(small.path) == small


@pytest.mark.parametrize("name", ["ffn.safetensors", "full.safetensors", "statistics.safetensors"])
def test_changed_bytes_of_the_payload_are_refused(sealed: Contribution, name: str) -> None:
    file = sealed.path / name
    data = file.read_bytes()
    places = sorted({*range(16), *range(0, len(data), 13), len(data) - 1})
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(changed)
        with pytest.raises(ContributionError):
            read(sealed.path)
    file.write_bytes(data)
    assert read(sealed.path) == sealed


def test_a_changed_value_is_named(sealed: Contribution) -> None:
    file = sealed.path / "full.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(AlteredContribution, match=r"tensor 'full.scalar' in full.safetensors: its digest is not"):
        read(sealed.path)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_a_changed_size_is_refused_before_the_file_is_read(
    sealed: Contribution, change: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sealed.path / "ffn.safetensors"
    data = file.read_bytes()
    file.write_bytes(change(data))
    monkeypatch.setattr(payload, "verify", None)  # calling it would fail
    with pytest.raises(AlteredContribution) as caught:
        read(sealed.path)
    assert caught.value.what == "file 'ffn.safetensors'"
    assert caught.value.why.endswith(f"{len(data)} are declared")


# Writing


def test_nothing_is_overwritten_unasked(sealed: Contribution, make_draft: Make) -> None:
    with pytest.raises(StorageError, match="something is already there"):
        write(sealed.path, make_draft(card="new"))
    assert read(sealed.path) == sealed
    new = write(sealed.path, make_draft(card="new"), overwrite=True)
    assert read(sealed.path) == new != sealed


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond ``size``: the kernel itself refuses, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 1200, 3000])
def test_a_write_that_the_kernel_refuses_leaves_nothing(tmp_path: Path, draft: Draft, size: int) -> None:
    with file_size_limit(size), pytest.raises(StorageError, match="does not take a file of this size"):
        write(tmp_path / "x", draft)
    assert list(tmp_path.iterdir()) == []
    assert read(write(tmp_path / "x", draft).path)  # negative control: without the limit it succeeds


def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(
    sealed: Contribution, make_draft: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        true_write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for target in (sealed.path, sealed.path.parent / "other"):
        with pytest.raises(StorageError, match="no space is left on the device"):
            write(target, make_draft(card="new"), overwrite=True)
    assert read(sealed.path) == sealed
    assert [path.name for path in sealed.path.parent.iterdir()] == ["acme"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(payload, "check_values", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x", draft)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"party": "Acme Ltd"}, "field 'party'"),
        ({"licence": ""}, "field 'licence'"),
        ({"card": "\x1b]0;gotcha"}, "field 'card'"),
        ({"card": "\ud800"}, "field 'card'"),
        ({"card": "\U0001f600" * 100_000 + "x"}, "field 'card'"),
        (
            {"tensors": {"full.bad name": torch.ones(1)}},
            "field 'payload.full.safetensors.tensors.full.bad name",
        ),
        ({"tensors": {"secret.w": torch.ones(1)}}, "tensor 'secret.w'"),
        ({"tensors": {"../full.w": torch.ones(1)}}, "tensor '../full.w'"),
        ({"tensors": {}}, "file 'ffn.safetensors'"),
        ({"privacy": [{"mechanism": "exact"}]}, "field 'privacy.0"),
    ],
)
def test_a_draft_outside_the_format_is_refused_before_anything_is_written(
    tmp_path: Path, make_draft: Make, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(MalformedContribution) as caught:
        write(tmp_path / "x", make_draft(**changes))
    assert caught.value.what.startswith(what)
    assert list(tmp_path.iterdir()) == []


def test_a_draft_whose_manifest_nobody_could_read_is_refused(tmp_path: Path, make_draft: Make) -> None:
    one = np.ones(1, dtype=np.float32)
    fields: dict[str, Any] = {"method": ExpertMethod(full=FullExpert()), "statistics": (), "training": None}
    deep = {f"full.{i:0200d}": one.reshape((1,) * 8) for i in range(9000)}
    with pytest.raises(MalformedContribution, match=r"contribution.json: it would hold more than 4194304 bytes"):
        write(tmp_path / "x", make_draft(tensors=deep, **fields))
    many = {f"full.{i}": one for i in range(10_001)}
    with pytest.raises(MalformedContribution, match="at most 10000 items"):
        write(tmp_path / "x", make_draft(tensors=many, **fields))
    assert list(tmp_path.iterdir()) == []
