"""Low-rank and LoRA parts: what the manifest determines of them, and every breach refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quiltwork.contribution.kinds import (
    ExpertMethod,
    FFNExpert,
    FullExpert,
    LoRAExpert,
    LowRankExpert,
    RetainedShares,
    provided,
)
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import AlteredContribution, MalformedContribution
from quiltwork.privacy.events import ExactEvent

SIZES = {"layers": 2, "hidden_size": 4, "intermediate_size": 6}
ROUTED = {**SIZES, "anchor_share": 0.5, "router": True, "bias": False}
SHARES = RetainedShares(gate_proj=1.0, up_proj=0.5, down_proj=0.25)


def low_rank(**changes: Any) -> LowRankExpert:
    return LowRankExpert(**{**ROUTED, "rank": 2, **changes})


def draft_of(make_draft: Callable[..., Draft], method: ExpertMethod, tensors: dict[str, Any]) -> Draft:
    events = tuple(ExactEvent(released=part.name) for part in method.parts())
    return make_draft(method=method, tensors=tensors, statistics=(), privacy=events, training=None)


def tensors_of(method: ExpertMethod, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    due = method.lowrank.required_tensors() if method.lowrank else {}
    found: dict[str, Any] = {name: random.normal(size=need.shape).astype(np.float32) for name, need in due.items()}
    if method.lora:
        found["lora.model.layers.0.self_attn.q_proj.weight.a"] = random.normal(size=(method.lora.rank, 4))
        found["lora.model.layers.0.self_attn.q_proj.weight.b"] = random.normal(size=(4, method.lora.rank))
    return found


@given(
    rank=st.integers(1, 4),
    layers=st.integers(1, 3),
    router=st.booleans(),
    scaling=st.floats(1e-6, 1e6),
    told=st.booleans(),
    forms=st.sampled_from([("lowrank",), ("lora",), ("lowrank", "lora")]),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_parameters_a_written_form_is_read_again(
    make_draft: Callable[..., Draft],
    tmp_path_factory: pytest.TempPathFactory,
    rank: int,
    layers: int,
    router: bool,
    scaling: float,
    told: bool,
    forms: tuple[str, ...],
) -> None:
    retained = (SHARES,) * layers if told else None
    stated = {
        "lowrank": low_rank(rank=rank, layers=layers, router=router, bias=router, retained=retained),
        "lora": LoRAExpert(rank=rank, scaling=scaling),
    }
    method = ExpertMethod(**{form: stated[form] for form in forms})  # type: ignore[arg-type]
    tensors = tensors_of(method)
    written = write(tmp_path_factory.mktemp("form") / "acme", draft_of(make_draft, method, tensors))
    again = read(written.path)
    assert again == written
    assert again.manifest.method == method
    assert again.provides == {*forms, *({"lowrank": "ffn", "lora": "full"}[form] for form in forms)}
    for name, array in tensors.items():
        assert np.array_equal(again.tensor(name).numpy(), array)


def test_shapes_follow_from_sizes_and_rank() -> None:
    due = {name: need.shape for name, need in low_rank(bias=True).required_tensors().items() if ".0." in name}
    assert due == {
        "lowrank.layers.0.gate_proj.down": (2, 4),
        "lowrank.layers.0.gate_proj.up": (6, 2),
        "lowrank.layers.0.up_proj.down": (2, 4),
        "lowrank.layers.0.up_proj.up": (6, 2),
        "lowrank.layers.0.down_proj.down": (2, 6),
        "lowrank.layers.0.down_proj.up": (4, 2),
        "lowrank.layers.0.router.weight": (4,),
        "lowrank.layers.0.router.bias": (1,),
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: low_rank(rank=5), "rank is larger"),
        (lambda: low_rank(rank=0), "greater than or equal to 1"),
        (lambda: low_rank(retained=(SHARES,)), "one entry a layer"),
        (lambda: RetainedShares(gate_proj=1.1, up_proj=0.0, down_proj=0.0), "less than or equal to 1"),
        (lambda: LoRAExpert(rank=2, scaling=0.0), "greater than 0"),
        (lambda: LoRAExpert(rank=2, scaling=float("inf")), "finite"),
        (lambda: ExpertMethod(ffn=FFNExpert(**ROUTED), lowrank=low_rank()), "two forms of one expert"),
        (lambda: ExpertMethod(full=FullExpert(), lora=LoRAExpert(rank=1, scaling=1.0)), "two forms of one model"),
        (lambda: ExpertMethod(), "at least one of ffn, lowrank, full and lora"),
    ],
)
def test_parameters_that_cannot_be_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lowrank.layers.1.up_proj.up", None, r"'lowrank\.layers\.1\.up_proj\.up'.*it is required"),
        ("lowrank.layers.0.up_proj.up", np.zeros((6, 3)), r"shape is \[6, 3\], and \[6, 2\] is required"),
        ("lowrank.layers.2.up_proj.up", np.zeros((6, 2)), r"'lowrank\.layers\.2\.up_proj\.up'.*no part"),
        ("lowrank.layers.0.up_proj.down", np.full((2, 4), np.inf), "holds a NaN or an infinity"),
        ("ffn.layers.0.up_proj.weight", np.zeros((6, 4)), "belongs to no part"),
    ],
)
def test_tensors_are_those_that_the_manifest_determines(
    name: str, value: Any, words: str, make_draft: Callable[..., Draft], tmp_path: Path
) -> None:
    method = ExpertMethod(lowrank=low_rank())
    tensors = {n: t for n, t in {**tensors_of(method), name: value}.items() if t is not None}
    with pytest.raises(MalformedContribution, match=words):
        write(tmp_path / "acme", draft_of(make_draft, method, tensors))
    assert list(tmp_path.iterdir()) == []


def test_every_form_needs_its_event(make_draft: Callable[..., Draft], tmp_path: Path) -> None:
    method = ExpertMethod(lowrank=low_rank(), lora=LoRAExpert(rank=1, scaling=1.0))
    for missing in ("lowrank", "lora"):
        events = tuple(ExactEvent(released=part) for part in ("lowrank", "lora") if part != missing)
        draft = make_draft(method=method, tensors=tensors_of(method), statistics=(), privacy=events, training=None)
        with pytest.raises(MalformedContribution, match=f"'{missing}'.*no privacy event"):
            write(tmp_path / "acme", draft)


def test_a_changed_factor_is_noticed(make_draft: Callable[..., Draft], tmp_path: Path) -> None:
    method = ExpertMethod(lowrank=low_rank())
    written = write(tmp_path / "acme", draft_of(make_draft, method, tensors_of(method)))
    file = written.path / "lowrank.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(AlteredContribution, match=r"lowrank\.layers\.1"):
        read(written.path)


def test_what_a_part_stands_for() -> None:
    assert provided({"ffn", "full"}) == {"ffn", "full"}
    assert provided({"lora"}) == {"lora", "full"}
    assert provided(()) == frozenset()
