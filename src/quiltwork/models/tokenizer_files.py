"""A checkpoint's tokenizer: its files, how it is loaded from them, and the token that it puts before each document.

Files that a stranger wrote are bounded first: what loads them makes far more of a long special token than its length.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.errors import CheckpointError
from quiltwork.models.json_files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
MOST_SPECIAL = 2**20
"""Bytes of what names a tokenizer's special tokens."""
MOST_TOKEN = 10_000
"""Characters of a token added to a vocabulary."""


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint directory, as tokenizer.json has it, from local files only.

    The Auto class would, for some families, read the vocabulary from there and put rules of its own around it, which
    others then cannot follow from the file.

    Raises:
        CheckpointError: there is none, it reads no text, or it has no token to stand before a document (neither BOS
            nor EOS).
    """
    from transformers import PreTrainedTokenizerFast

    _require_short_tokens(path)
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(path), local_files_only=True)
        tokenizer("A text.", add_special_tokens=False, verbose=False)
    except Exception as error:  # the library in Rust raises nothing more special
        raise CheckpointError(
            f"tokenizer in '{path}'",
            why=f"transformers cannot load it ({(str(error).splitlines() or [type(error).__name__])[0][:300]})",
            mend="Save the tokenizer beside the weights (tokenizer.json).",
        ) from error
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"tokenizer in '{path}'",
            why="it has neither a BOS nor an EOS token to stand before a document",
            mend="Set eos_token in tokenizer_config.json.",
        )
    return tokenizer


def _require_short_tokens(path: Path) -> None:
    """Refuse a tokenizer that would cost far more memory than its files: each special token becomes an automaton."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path / name).is_file() and (path / name).stat().st_size > MOST_SPECIAL:
            raise _long_tokens(path / name, f"it holds more than {MOST_SPECIAL} bytes")
    if not (path / "tokenizer.json").is_file():
        return
    added = read_json(path / "tokenizer.json").get("added_tokens")
    for token in added if isinstance(added, list) else []:
        text = token.get("content") if isinstance(token, dict) else None
        if isinstance(text, str) and len(text) > MOST_TOKEN:
            raise _long_tokens(
                path / "tokenizer.json", f"one of its added tokens has more than {MOST_TOKEN} characters"
            )


def _long_tokens(where: Path, why: str) -> CheckpointError:
    return CheckpointError(f"'{where}'", why=why, mend="Fetch the checkpoint again; no tokenizer needs that.")


def separator_id(tokenizer: Any) -> int:
    """The token before each document: BOS, else EOS (the convention of lm-evaluation-harness)."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return int(token)
