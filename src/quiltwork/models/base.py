"""The base: the public checkpoint that all parties start from.

Its identity is one digest over everything that decides what the model computes::

    SHA-256( canonical JSON of { family, identity fields of config.json, tokenizer, tensors: {name: SHA-256} } )

so that two copies agree, whatever library version wrote their configs, and any change to a weight, to the tokenizer
or to, say, the rotary base disagrees. Of a base that is a mixture, its experts, their rows and the rule by which they
answer are part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.errors import CheckpointError
from quiltwork.models.families import ROLES, Family, Role, family_of, format_of
from quiltwork.models.json_files import read_json
from quiltwork.models.own_experts import OwnExperts, read_mixture
from quiltwork.models.plain import building, plain_config, require_answer, require_sizes
from quiltwork.models.separators import stated_separator
from quiltwork.models.sources import Source, Sources, open_file, torch_dtype
from quiltwork.models.tokenizer_files import TOKENIZER_FILES, load_tokenizer, separator_id
from quiltwork.streaming.layout import Dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_IDENTITY = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def sha256(data: bytes) -> str:
    """``sha256:`` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def tensor_digest(source: Source) -> str:
    """SHA-256 of a tensor's elements in C order, little-endian; in constant memory."""
    digest = hashlib.sha256()
    for piece in source.pieces():
        digest.update(piece)
    return "sha256:" + digest.hexdigest()


_STRETCHED = ("llama3", "yarn", "longrope")


def rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings, whether written the old way (``rope_theta``) or the new (``rope_parameters``).

    The length that a stretched model was trained for may stand beside them, and then wins, as in transformers.

    Raises:
        CheckpointError: they are no settings, or their base is no number.
    """
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = stated.get("rope_theta", config.get("rope_theta", 10000.0)) if isinstance(stated, Mapping) else None
    if isinstance(theta, bool) or not (isinstance(theta, int | float) and abs(theta) < 1e30):
        why = f"their rope_theta is {str(theta)[:50]!a}, of {str(stated)[:100]!a}, and a number is needed"
        raise CheckpointError("the rotary settings of config.json", why=why, mend="Fetch the checkpoint again.")
    settings = {**stated, "rope_theta": float(theta)}
    settings["rope_type"] = settings.pop("type", settings.get("rope_type", "default"))
    length = config.get("original_max_position_embeddings")
    if settings["rope_type"] in _STRETCHED and length is not None:
        settings["original_max_position_embeddings"] = length
    return settings


@dataclass(frozen=True)
class Base:
    """A checkpoint on disk; nothing of it is loaded until asked for.

    A checkpoint that is a mixture of experts is seen as the dense model with its body and its first expert, and
    ``own`` holds the rest.

    Attributes:
        path: its directory.
        config: config.json, with the fields filled in that its family leaves to defaults.
        family: its row in the table of families.
        tensors: every tensor by its name on disk; of a mixture by the names of the dense model.
        known: its digest, where a record of it is trusted instead of reading everything.
        own: the experts of a mixture; None for a dense checkpoint.
    """

    path: Path
    config: Mapping[str, Any]
    family: Family
    tensors: Sources
    known: str | None = None
    own: OwnExperts | None = None

    @property
    def model_type(self) -> str:
        """What config.json calls the checkpoint's architecture."""
        return self.family.name if self.own is None else self.family.moe.model_type

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.config["hidden_size"])

    @property
    def intermediate_size(self) -> int:
        """Width of the feed-forward block."""
        return int(self.config["intermediate_size"])

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids."""
        return int(self.config["vocab_size"])

    @property
    def dtype(self) -> Dtype:
        """Type of the weights, as safetensors spells it."""
        return next(iter(self.tensors.values())).dtype

    @property
    def torch_dtype(self) -> torch.dtype:
        """Type of the weights, as torch has it."""
        return torch_dtype(self.dtype)

    def ffn(self) -> dict[tuple[int, Role], Source]:
        """The feed-forward tensors by layer and role; of a mixture those of its first expert."""
        keys = [(layer, role) for layer in range(self.layers) for role in ROLES]
        return {key: self.tensors[self.family.ffn_name(*key)] for key in keys}

    def body(self) -> dict[str, Source]:
        """Every tensor but the feed-forward ones."""
        ffn = {self.family.ffn_name(layer, role) for layer in range(self.layers) for role in ROLES}
        return {name: source for name, source in self.tensors.items() if name not in ffn}

    @cached_property
    def digest(self) -> str:
        """The digest that names the base (see the module's docstring); reads every tensor once, unless it is known."""
        if self.known is not None:
            return self.known
        with ThreadPoolExecutor(2) as threads:  # hashing lets other threads run
            digests = threads.map(tensor_digest, self.tensors.values())
            return self.identified(dict(zip(self.tensors, digests, strict=True)))

    @property
    def identity_fields(self) -> tuple[str, ...]:
        """The fields of config.json that decide, beside the rotary settings, what the model computes."""
        return (*_IDENTITY, *self.family.identity)

    def identified(self, tensors: Mapping[str, str]) -> str:
        """The digest that names the base, given the digest of each of its tensors."""
        identity = {
            "family": self.family.name,
            "config": {field: self.config.get(field) for field in self.identity_fields} | {"rope": rope(self.config)},
            "tokenizer": self.tokenizer_digest,
            "tensors": dict(tensors),
        }
        if self.own is not None:
            identity["own"] = self.own.rule | {name: tensor_digest(s) for name, s in self.own.tensors().items()}
        return sha256(canonical(identity))

    @cached_property
    def tokenizer_digest(self) -> str:
        """SHA-256 of tokenizer.json in canonical form."""
        return sha256(canonical(read_json(self.path / "tokenizer.json")))

    @cached_property
    def separator(self) -> int:
        """The token that stands before each document."""
        files = {name: read_json(path) for name, path in self.tokenizer_files().items() if path.suffix == ".json"}
        stated = stated_separator(files)
        return separator_id(self.load_tokenizer()) if stated is None else stated

    def tokenizer_files(self) -> dict[str, Path]:
        """The tokenizer's files that are there, by name."""
        return {name: self.path / name for name in TOKENIZER_FILES if (self.path / name).is_file()}

    def load_model(self) -> PreTrainedModel:
        """The model in evaluation mode, from local files only; how text is sampled is the caller's to say.

        Raises:
            CheckpointError: transformers makes no model of the files, or one whose answers are not finite numbers.
        """
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig

        stated = plain_config(read_json(self.path / "config.json"))
        with building(self.path):
            config = CONFIG_MAPPING[stated["model_type"]].from_dict(stated)
            model = AutoModelForCausalLM.from_pretrained(
                str(self.path),
                config=config,
                generation_config=GenerationConfig.from_model_config(config),
                local_files_only=True,
                dtype=self.torch_dtype,
            ).eval()
            require_answer(model, self.path)
        return model  # type: ignore[no-any-return]

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, from local files only."""
        return load_tokenizer(self.path)


def open_base(path: str | Path, *, what: str = "base") -> Base:
    """Open the checkpoint in directory ``path``.

    Args:
        path: the directory.
        what: what messages call the checkpoint.

    Raises:
        CheckpointError: not a safetensors checkpoint of a known family or mixture format, or tensors are missing.
        ExportError: a mixture whose layers no dense family has.
    """
    path = Path(path)
    where = f"'{path}'"
    if not path.is_dir():
        why = "it is a file, and a checkpoint is a directory" if path.exists() else "there is no such directory"
        mend = "Give a local directory that holds config.json, the weights as safetensors, and the tokenizer."
        raise CheckpointError(f"{what} {where}", why=why, mend=mend)
    if not (path / "config.json").exists():
        why = "it is no checkpoint: it holds no config.json"
        raise CheckpointError(f"{what} {where}", why=why, mend="Point to the directory of a Hugging Face checkpoint.")
    config = read_json(path / "config.json")
    family = family_of(config, where=f"'{path / 'config.json'}'")
    for field in _SIZES:
        if not isinstance(config.get(field), int) or config[field] < 1:
            raise CheckpointError(
                f"config field '{field}' of {what} {where}",
                why=f"it is {config.get(field)!r}, and a size is needed",
                mend="Fetch the checkpoint again.",
            )
    if format_of(config) is not None:
        body = family.complete(family.moe.body_config(config, family.architecture))
        tensors, own = read_mixture(family, config, body, open_tensors(path), where)
        return Base(path, body, family, tensors, own=own)
    try:
        full = family.complete(config)
    except (KeyError, TypeError, ValueError) as error:
        why = f"its fields do not belong together ({str(error)[:200]})"
        raise CheckpointError(f"config.json of {what} {where}", why=why, mend="Fetch the checkpoint again.") from error
    base = Base(path, full, family, open_tensors(path))
    require_sizes(full, family, base.tensors, f"{what} {where}")
    # transformers fills missing tensors with random numbers and goes on
    missing = [name for name in family.tensor_names(config) if name not in base.tensors]
    if missing:
        raise CheckpointError(
            f"{what} {where}",
            why=f"tensors are missing ({len(missing)}), the first is '{missing[0]}'",
            mend="Fetch the checkpoint again, or check that it is a dense model.",
        )
    return base


def open_tensors(path: Path) -> dict[str, Source]:
    """Every tensor of a checkpoint directory, sharded or not.

    Raises:
        CheckpointError: no safetensors weights, a shard is missing or unreadable, or a tensor is not where the index
            says.
    """
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        if not (path / "model.safetensors").is_file():
            raise CheckpointError(
                f"'{path}'",
                why="it holds neither model.safetensors nor an index of shards",
                mend="Convert the weights to safetensors; other formats can run code when they are read.",
            )
        return open_file(path / "model.safetensors")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(
            f"'{index}'", why="its weight_map does not name a file for each tensor", mend="Fetch the checkpoint again."
        )
    files = {name: open_file(path / name) for name in sorted(set(weight_map.values())) if Path(name).name == name}
    table: dict[str, Source] = {}
    for tensor, name in sorted(weight_map.items()):
        if name not in files or tensor not in files[name]:
            raise CheckpointError(
                f"tensor '{tensor}' of '{path}'",
                why=f"the index says it is in '{name}', and it is not",
                mend="Fetch the checkpoint again.",
            )
        table[tensor] = files[name][tensor]
    return table
