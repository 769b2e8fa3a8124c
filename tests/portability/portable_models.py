"""Tiny composed checkpoints of every family and portable layout, and what this environment computes with them.

    PYTHONPATH=tests python tests/portability/portable_models.py OUT [family ...]

writes ``OUT/models``: one directory a checkpoint, and beside each ``NAME.npz`` with token ids and the logits of the
composite's own model. ``check_models.py`` then asks any version of transformers whether it computes the same.
Directories that begin with ``broken-`` hold the mistakes that the check is there to find.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from family_mixtures import TEXT, composite_model, family_base, logits, mixture_of, some_text, written
from quiltwork.compose.parts import body
from quiltwork.models.assembly import Blend, Experts
from quiltwork.models.base import Base, open_base
from quiltwork.models.families import FAMILIES

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FIELDS: dict[str, dict[str, Any]] = {"llama": {"rope_parameters": LLAMA3}}


def soup(base: Base) -> Blend:
    """A dense model: the base and one difference."""
    deltas = {"ash": {name: source.derive(lambda t: 0.1 * t) for name, source in base.tensors.items()}}
    return Blend(body(base), deltas, {"ash": 1.0})


def layouts(base: Base) -> Iterator[tuple[str, Experts | Blend]]:
    """Each thing that a portable checkpoint can hold."""
    yield "all-active", mixture_of(base)
    yield "two-active", mixture_of(base, top_k=2)
    yield "soup", soup(base)


def write(assembly: Experts | Blend, base: Base, place: Path) -> None:
    """The checkpoint, and the logits that the composite's own model has for some ids."""
    written(assembly, base, place)
    text = np.array(base.load_tokenizer()(TEXT)["input_ids"])
    found = logits(composite_model(assembly)).numpy()
    np.savez(place.with_suffix(".npz"), ids=some_text().numpy(), logits=found, text=np.array(TEXT), text_ids=text)


def breakages(base: Base, models: Path) -> None:
    """The same mixture with each mistake that a version of transformers reads without a word."""
    for name in ("broken-fused-names", "broken-no-rope"):
        write(mixture_of(base, top_k=2), base, models / name)
    _without_rope(models / "broken-no-rope" / "config.json")
    _fused(models / "broken-fused-names")


def _without_rope(path: Path) -> None:
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if not name.startswith("rope")}))


def _fused(place: Path) -> None:
    """One file whose experts are stacked, as transformers 5 holds them in memory."""
    tensors: dict[str, torch.Tensor] = {}
    for path in place.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    (place / "model.safetensors.index.json").unlink()
    for layer in sorted({name.split(".experts.")[0] for name in tensors if ".experts." in name}):
        own = [f"{layer}.experts.{number}." for number in range(3)]
        both = [torch.cat([tensors.pop(f"{o}w1.weight"), tensors.pop(f"{o}w3.weight")]) for o in own]
        memory = layer.replace("block_sparse_moe", "mlp")
        tensors[f"{memory}.experts.gate_up_proj"] = torch.stack(both)
        tensors[f"{memory}.experts.down_proj"] = torch.stack([tensors.pop(f"{o}w2.weight") for o in own])
    save_file(tensors, place / "model.safetensors", {"format": "pt"})


def main(out: Path, families: list[str]) -> None:
    """Write every checkpoint below ``out``, which must not hold any yet."""
    models = out / "models"
    for family in families:
        for tie in (False, True):
            word = "tied" if tie else "untied"
            base = family_base(family, out / "bases" / f"{family}-{word}", tie=tie, **FIELDS.get(family, {}))
            for name, assembly in layouts(base):
                write(assembly, base, models / f"{family}-{name}-{word}")
            mixture = open_base(models / f"{family}-two-active-{word}")
            write(mixture_of(mixture, parties=1, top_k=2), mixture, models / f"{family}-extended-{word}")
    breakages(family_base("llama", out / "bases" / "broken", **FIELDS["llama"]), models)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(FAMILIES))
