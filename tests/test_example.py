"""The example runs as its docstring says, on a tiny base."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from quiltwork.contribution.store import read

EXAMPLE = Path(__file__).parents[1] / "examples" / "compose_four_owners.py"


def test_owners_contribute_compose_and_leave(
    tiny_base,
    fragments: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoModelForCausalLM

    arguments = [str(tiny_base("olmo2").path), str(tmp_path), *map(str, fragments.values())]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out == "composed ash, birch, cedar; then took out ash\n"
    assert {read(tmp_path / party).party for party in fragments} == set(fragments)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"ash", "birch", "cedar", "composed", "without-ash"}
    for place, experts in (("composed", 4), ("without-ash", 3)):
        model, info = AutoModelForCausalLM.from_pretrained(tmp_path / place, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert model.config.num_experts == experts
