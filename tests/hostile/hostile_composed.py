"""Ways to spoil a composed directory: its record, its config, its index, its tokenizer, its tensors, its entries.

As ``hostile_mutations`` does for contributions, on the same folders in memory. `spoil` draws a family, sometimes two,
and what the forger makes true again: nothing; the digest of the record; those of the files that it lists; or its list
of files too, so that what was added, renamed or taken away is listed as it lies there.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from hostile_folder import Folder, Special, split
from hostile_mutations import HOSTILE, edit_json, entries, header, octets, values
from hostile_oracle import ITEM, header_of, sha, spelling

RECORD, CONFIG, INDEX = "quiltwork.json", "config.json", "model.safetensors.index.json"
MERGED = "merge.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
Mutator: TypeAlias = Callable[[random.Random, Folder, Sequence[Folder]], Folder]

_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "num_experts", "num_experts_per_tok", "top_k",
    "symbols", "public", "num_labels", "sliding_window", "partial_rotary_factor", "rope_theta", "rms_norm_eps",
    "temperature", "half_life", "switching", "floor", "separator", "minimum_weight", "share",
)  # fmt: skip
_NUMBERS = (
    0, -1, 1, 2, 3, 1.5, 10**6, 2**31, 2**40, 10**400, 1e-300, 1e308, float("nan"), float("inf"), -1e-5, None, True, "8"
)  # fmt: skip
_SETTINGS: tuple[tuple[str, Any], ...] = (
    ("auto_map", {"AutoModelForCausalLM": "stranger/model--code.Model", "AutoConfig": "code.Config"}),
    ("attn_implementation", "stranger/kernel"), ("_attn_implementation", "stranger/kernel:run"),
    ("_attn_implementation_internal", "stranger/kernel"), ("experts_implementation", "stranger/experts"),
    ("attn_implementation", "flash_attention_2"), ("_attn_implementation", "flex_attention"),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}), ("quantization_config", {"quant_method": "x"}),
    ("torch_dtype", "float8_e4m3fn"), ("dtype", "int8"), ("dtype", "os"), ("dtype", "float16"),
    ("return_dict", False), ("output_attentions", True), ("output_hidden_states", True), ("use_cache", "x"),
    ("hidden_act", "gelu"), ("hidden_act", "os.system"), ("hidden_act", "swish"), ("model_type", "llama"),
    ("model_type", "gpt2"), ("model_type", "quiltwork_moe"), ("model_type", "quiltwork_ensemble"),
    ("model_type", "mixtral"), ("tie_word_embeddings", True), ("attention_bias", True), ("mlp_bias", True),
    ("attention_dropout", 2.0), ("pretraining_tp", 8), ("id2label", {"0": "x"}), ("pruned_heads", {"0": [0]}),
    ("rope_parameters", {"rope_type": "dynamic", "factor": 1e30, "rope_theta": 1.0}),
    ("rope_parameters", {"rope_type": "yarn", "factor": 0.0, "rope_theta": 10000.0}),
    ("rope_parameters", {"rope_type": "longrope", "short_factor": [0], "long_factor": [], "rope_theta": 1e4}),
    ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 0.0}),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1e9}),
    ("rope_scaling", {"type": "linear", "factor": 0}), ("layer_types", ["sliding_attention"]),
    ("layer_types", ["linear_attention", "full_attention"]), ("is_encoder_decoder", True), ("pad_token_id", -1),
    ("pad_token_id", 10**9), ("bos_token_id", 2**40), ("eos_token_id", [1, "x"]), ("architectures", ["os.system"]),
    ("parties", []), ("widths", [1]), ("widths", [10**9, 10**9]), ("own", {"experts": 1, "top_k": 1}),
    ("own", {"experts": 2**40, "top_k": 1, "renormalise": True}), ("text_config", {}), ("router", {}),
    ("torchscript", True), ("chunk_size_feed_forward", 3), ("gradient_checkpointing", True),
)  # fmt: skip
_PATHS = (
    "../outside.json", "/etc/passwd", "../../etc/passwd", "a/b.safetensors", "", ".", "..", "shared.safetensors/x",
    ".hidden.safetensors", "expert-zoe.safetensors", "model.safetensors", "quiltwork.json", "x" * 300, "a\0b", "é.json",
    "router.safetensors", "con", "shared.safetensors ", "SHARED.safetensors", "~", "merge.json", "contribution.json",
)  # fmt: skip
_EXTRA = (
    "model.safetensors", "pytorch_model.bin", "adapter_config.json", "adapter_model.safetensors", "added_tokens.json",
    "generation_config.json", "chat_template.jinja", "modeling_stranger.py", "tokenizer.model", "vocab.json",
    "merges.txt", ".hidden.safetensors", "custom_generate", "additional_chat_templates", "notes.md", "processor.PKL",
)  # fmt: skip


def record_name(names: Container[str]) -> str:
    """The file that says what a directory holds: of a merged checkpoint another one."""
    return MERGED if RECORD not in names and MERGED in names else RECORD


def _parsed(folder: Folder, name: str) -> Any:
    data = folder.get(name)
    try:
        return json.loads(data) if isinstance(data, bytes) else None
    except (ValueError, RecursionError):
        return None


def _spelled(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n"


def _with(folder: Folder, name: str, value: Any) -> Folder:
    return {**folder, name: _spelled(value)}


def _edited(rng: random.Random, folder: Folder, others: Sequence[Folder], name: str) -> Folder:
    value = _parsed(folder, name)
    donors = [one for other in others if isinstance(one := _parsed(other, name), dict)]
    if not isinstance(value, dict) or not donors:
        return folder
    edit_json(rng, value, donors)
    return _with(folder, name, value)


def record(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Fields of the record: types, numbers, depth, what is missing, what is another's."""
    return _edited(rng, folder, others, record_name(folder))


def config(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Fields of config.json, the same way."""
    return _edited(rng, folder, others, CONFIG)


def settings(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """What a library reads of config.json: sizes, numbers without sense, names of code and of other classes."""
    value = _parsed(folder, CONFIG)
    if not isinstance(value, dict):
        return folder
    for _ in range(rng.choice((1, 1, 2))):
        tables = [one for one in _tables(value) if one]
        if rng.random() < 0.5:
            key, new = rng.choice(_SIZES), rng.choice(_NUMBERS)
            rng.choice([one for one in tables if key in one] or tables)[key] = new
        else:
            key, new = rng.choice(_SETTINGS)
            rng.choice(tables)[key] = copy.deepcopy(new)
    return _with(folder, CONFIG, value)


def _tables(value: Any) -> list[dict[str, Any]]:
    below = value.values() if isinstance(value, dict) else ()
    return [*([value] if isinstance(value, dict) else ()), *(one for child in below for one in _tables(child))]


def index(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Which file a tensor is said to lie in: another, none, one outside."""
    value = _parsed(folder, INDEX)
    table = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(table, dict) or not table:
        return _edited(rng, folder, others, INDEX)
    key = rng.choice(sorted(table))
    match rng.randrange(4):
        case 0:
            table[key] = rng.choice([*_PATHS, *folder, *HOSTILE])
        case 1:
            del table[key]
        case 2:
            table[rng.choice([key + ".x", "", "model.extra.weight", "x" * 5000])] = table.pop(key)
        case _:
            return _edited(rng, folder, others, INDEX)
    return _with(folder, INDEX, value)


def tokenizer(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Fields of the tokenizer's files."""
    names = [name for name in _TOKENIZER if name in folder]
    return _edited(rng, folder, others, rng.choice(names)) if names else folder


def renamed(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Names in the record's table of files, and of the files with them: paths out of the directory among them."""
    value = _parsed(folder, record_name(folder))
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, dict) or not files:
        return folder
    old, new = rng.choice(sorted(files)), rng.choice(_PATHS)
    if rng.random() < 0.3:
        files[new] = rng.choice([dict(files[old]), {"bytes": 2**62, "digest": "sha256:" + "0" * 64}])
    else:
        files[new] = files.pop(old)
    found = _with(folder, record_name(folder), value)
    plain = new not in ("", ".", "..") and not set(new) & {"/", "\0"} and len(new) < 200
    if plain and rng.random() < 0.6:
        found[new] = found.pop(old)
        if INDEX in found and isinstance(found[INDEX], bytes):
            found[INDEX] = found[INDEX].replace(json.dumps(old).encode(), json.dumps(new).encode())  # type: ignore[union-attr]
    return found


def retensored(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """A shard built anew and soundly: a tensor dropped, added, renamed, of another dtype, shape or magnitude."""
    name = _shard(rng, folder)
    parsed = split(folder[name]) if name else None  # type: ignore[arg-type]
    if name is None or parsed is None or not isinstance(parsed[0], dict):
        return folder
    fields = {key: one for key, one in parsed[0].items() if key != "__metadata__"}
    pieces = {key: parsed[1][slice(*one["data_offsets"])] for key, one in fields.items()}
    key = rng.choice(sorted(fields))
    tensors = {tensor: {"dtype": one["dtype"], "shape": one["shape"]} for tensor, one in fields.items()}
    action = rng.randrange(6)
    if action == 0 and len(tensors) > 1:
        del tensors[key], pieces[key]
    elif action == 1:
        other = rng.choice([key + ".x", "model.extra.weight", "evidence.rows", "lm_head.bias"])
        tensors[other], pieces[other] = tensors[key], pieces[key]
    elif action == 2:
        other = key + rng.choice("x.0")
        tensors[other], pieces[other] = tensors.pop(key), pieces.pop(key)
    elif action == 3:
        tensors[key] = {**tensors[key], "dtype": rng.choice(tuple(ITEM))}
    elif action == 4:
        tensors[key] = {**tensors[key], "shape": _other_shape(rng, tensors[key]["shape"])}
    else:
        pieces[key] = _magnitude(rng, tensors[key]["dtype"], len(pieces[key]))
    prefix, places = header_of(tensors)
    body = b"".join((pieces[tensor] * (end - begin + 1))[: end - begin] for tensor, begin, end in places if end > begin)
    sound = all(pieces[tensor] for tensor, begin, end in places if end > begin)
    return {**folder, name: prefix + body} if sound else folder


def _other_shape(rng: random.Random, shape: list[int]) -> list[int]:
    return rng.choice(
        [shape[::-1], [*shape, 1], [1, *shape], [2 * n for n in shape], shape[:-1], [n + 1 for n in shape], [0]]
    )


_FULL = {"F64": "7fefffffffffffff", "F32": "7f7fffff", "BF16": "7f7f", "F16": "7bff"}
_NOT = {"F64": "7ff8000000000000", "F32": "7fc00000", "BF16": "7fc0", "F16": "7e00"}


def _magnitude(rng: random.Random, dtype: str, size: int) -> bytes:
    """A whole tensor of the largest numbers, of zeros, of NaN, or of random bits."""
    raw = bytes.fromhex(rng.choice([_FULL, _FULL, _NOT])[dtype])[::-1]
    return rng.choice([raw * (size // len(raw)), bytes(size), rng.randbytes(size)])


def _shard(rng: random.Random, folder: Folder) -> str | None:
    names = [name for name, data in folder.items() if name.endswith(".safetensors") and isinstance(data, bytes)]
    return rng.choice(names) if names else None


def _in_a_shard(mutator: Mutator) -> Mutator:
    """The mutator on one shard alone."""

    def spoiled(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
        name = _shard(rng, folder)
        return {**folder, **mutator(rng, {name: folder[name]}, others)} if name else folder

    return spoiled


def extra(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Something more in the directory, of a name that libraries look for or a name that they do not."""
    kind = rng.choice(("symlink", "hardlink", "fifo", "socket", "directory"))
    thing = rng.choice([Special(kind, target=rng.choice(["", "/etc/passwd", "/dev/zero"])), b"{}", b"import os", b""])
    donor = rng.choice(list(rng.choice(others).values()))
    return {**folder, rng.choice(_EXTRA): rng.choice([thing, donor])}


def swapped(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """A file of another directory, or of this one under another name."""
    name, other = rng.choice(sorted(folder)), rng.choice([*others, folder])
    return {**folder, name: other[rng.choice([name if name in other else record_name(other), *sorted(other)])]}


FAMILIES: Mapping[str, tuple[Mutator, int]] = {
    "record": (record, 16),
    "config": (config, 10),
    "settings": (settings, 16),
    "index": (index, 6),
    "tokenizer": (tokenizer, 10),
    "renamed": (renamed, 6),
    "header": (_in_a_shard(header), 8),
    "values": (_in_a_shard(values), 5),
    "retensored": (retensored, 9),
    "octets": (octets, 8),
    "entries": (entries, 6),
    "extra": (extra, 4),
    "swapped": (swapped, 4),
    "none": (lambda rng, folder, others: folder, 1),
}
"""Every family, and how often it is drawn."""

SEALS = ("nothing", "record", "files", "list")


def spoil(
    rng: random.Random, folder: Folder, others: Sequence[Folder], among: Collection[str] = FAMILIES
) -> tuple[str, Folder]:
    """A spoiled folder, and the families that made it, drawn from those ``among``."""
    names = [name for name in FAMILIES if name in among]
    weights = [FAMILIES[name][1] for name in names]
    drawn = rng.choices(names, weights, k=2 if rng.random() < 0.15 else 1)
    folder = FAMILIES[drawn[0]][0](rng, folder, others)
    # what one family spoiled may be nothing that another can work on
    with suppress(AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
        for name in drawn[1:]:
            folder = FAMILIES[name][0](rng, folder, others)
    return "+".join(drawn), reseal(folder, rng.choices(SEALS, (3, 1, 7, 3))[0])


def reseal(folder: Folder, seal: str) -> Folder:
    """Make the record true again, as far as asked for; see the module's docstring."""
    own = record_name(folder)
    value = _parsed(folder, own)
    if seal == "nothing" or not isinstance(value, dict):
        return folder
    there = {name: data for name, data in folder.items() if isinstance(data, bytes) and name != own}
    if seal == "list":
        value["files"] = {name: {} for name in there}
    files = value.get("files") if seal != "record" else None
    for name, entry in files.items() if isinstance(files, dict) else ():
        if name in there and isinstance(entry, dict):
            entry |= {"bytes": len(there[name]), "digest": sha(there[name])}
    value.pop("digest", None)
    try:
        value["digest"] = sha(spelling(value))
        return {**folder, own: spelling(value)}
    except (ValueError, RecursionError):
        return _with(folder, own, value)
