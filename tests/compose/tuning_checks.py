"""What tuning must keep, as functions that raise AssertionError, so that broken tuners can be shown to fail them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from quiltwork.composite import Composite


def public_texts(
    fragments: dict[str, Path], parties: Iterable[str] = ("ash", "birch", "cedar")
) -> dict[str, list[str]]:
    """Public text, and stand-ins for each party."""
    stand_ins = {party: fragments[party].read_text(encoding="utf-8").split("\f")[:12] for party in parties}
    return {"public": [text for texts in stand_ins.values() for text in texts[:4]], **stand_ins}


def check_only(before: Composite, after: Composite, parts: Iterable[str]) -> None:
    """Every tensor whose name holds one of ``parts`` may have changed and one has; all others are bit for bit equal."""
    left, right = (c.assembly.checkpoint("native").tensors() for c in (before, after))
    assert left.keys() == right.keys()
    changed = {name for name in left if not torch.equal(left[name].load(), right[name].load())}
    wrong = {name for name in changed if not any(part in name for part in parts)}
    assert not wrong, f"these tensors are frozen, and changed: {sorted(wrong)}"
    assert changed, "nothing changed"
    assert all(left[name].dtype == right[name].dtype for name in left)


def loss_on(composite: Composite, base_tokenizer: object, texts: Iterable[str]) -> float:
    """Mean loss of documents, one by one, nats a token; transformers' own loss."""
    model, losses = composite.model(), []
    for text in texts:
        ids = torch.tensor([[0, *base_tokenizer(text)["input_ids"]]])  # type: ignore[operator]
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    return sum(losses) / len(losses)
