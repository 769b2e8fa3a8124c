"""Models that answer a few tokens and fail at others are refused where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quiltwork.cli.generate import answering, continued
from quiltwork.errors import CheckpointError
from quiltwork.evaluate.matrix import HeldOut, run
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer
from quiltwork.models.tokenizer_files import load_tokenizer, separator_id

TEXT = "a page about nothing in particular"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model whose embedding of one token of the text is too large to be answered with finite numbers."""
    tokenizer = train_tokenizer([TEXT] * 4, 264)
    size = TinySize(vocabulary=len(tokenizer), hidden=8, intermediate=12, layers=1, heads=2, positions=32)
    tiny_model("olmo2", size, seed=0, tie=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.embed_tokens.weight"][max(tokenizer(TEXT)["input_ids"])] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_token_is_drawn_by_numbers_that_are_not_finite(checkpoint: Path, temperature: float) -> None:
    model, _ = answering(checkpoint)
    tokenizer: Any = load_tokenizer(checkpoint)
    with pytest.raises(CheckpointError, match="not finite"):
        continued(model, tokenizer, TEXT, max_new_tokens=2, temperature=temperature, seed=0)


def test_no_score_is_made_of_a_loss_that_is_not_finite(checkpoint: Path) -> None:
    model, _ = answering(checkpoint)
    tokenizer: Any = load_tokenizer(checkpoint)
    held_out = HeldOut({"poems": [TEXT]}, (), max_length=16, batch_size=2)
    with pytest.raises(CheckpointError, match="its loss on 'poems' is not finite"):
        run(model, tokenizer, held_out, prefix=separator_id(tokenizer), name="odd")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(checkpoint: Path) -> None:
    model, _ = answering(checkpoint)
    tokenizer: Any = load_tokenizer(checkpoint)
    tokenizer.add_tokens(["particular"])
    with pytest.raises(CheckpointError, match="and the model knows"):
        continued(model, tokenizer, TEXT, max_new_tokens=2, temperature=0.0, seed=0)
    with pytest.raises(CheckpointError, match="and the model knows"):
        run(model, tokenizer, HeldOut({"x": [TEXT]}, (), max_length=16, batch_size=2), prefix=separator_id(tokenizer))
