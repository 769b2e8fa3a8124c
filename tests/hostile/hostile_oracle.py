"""Must a directory be refused? Judged from docs/format.md with json, hashlib and numpy, and none of the reader's code.

The oracle states necessary conditions: whatever it names must be refused, so a reader that accepts it is wrong. A
directory that it passes may still be refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from hostile_payloads import Need, needs, tells_training
from hostile_shapes import MANIFEST, Broken, require

ITEM = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_LEVELS, _VALUES = 32, 65_536


def spelling(value: object) -> bytes:
    """Canonical JSON."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def header_of(tensors: dict[str, Any]) -> tuple[bytes, list[tuple[str, int, int]]]:
    """The one header of declared tensors, and where each lies in the data."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places, begin = [], 0
    for name in sorted(tensors, key=lambda n: (list(ITEM).index(tensors[n]["dtype"]), n)):
        dtype, shape = tensors[name]["dtype"], tensors[name]["shape"]
        end = begin + ITEM[dtype] * math.prod(shape)
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        places.append((name, begin, end))
        begin = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places


def must_refuse(path: Path, *, max_bytes: int) -> str | None:
    """Why the directory must be refused, or None."""
    try:
        _judge(path, max_bytes)
    except (Broken, ValueError, OverflowError, RecursionError, OSError) as broken:
        return f"{type(broken).__name__}: {broken}"[:200]
    return None


def _judge(path: Path, max_bytes: int) -> None:
    require(not path.is_symlink() and path.is_dir(), "no directory")
    names = os.listdir(path)
    require(len(names) <= 64, "too many entries")
    for name in names:
        require(stat.S_ISREG(os.lstat(path / name).st_mode), f"{name!r} is no regular file")
    require(os.stat(path / "contribution.json").st_size <= 4 * 2**20, "manifest too large")
    data = (path / "contribution.json").read_bytes()
    manifest = json.loads(data.decode("utf-8"))
    _plain(manifest)
    require(spelling(manifest) == data, "spelling")
    MANIFEST(manifest, "manifest")
    require(sha(spelling({k: v for k, v in manifest.items() if k != "digest"})) == manifest["digest"], "digest")
    extra = set(names) - {"contribution.json", "contribution.sig"}
    require(extra == set(manifest["payload"]), "files declared and present differ")
    _declared(manifest)
    require(sum(one["bytes"] for one in manifest["payload"].values()) <= max_bytes, "larger than the limit")
    bounds = {n: need for _, tensors in needs(manifest).values() for n, need in (tensors or {}).items()}
    for name, declared in manifest["payload"].items():
        _payload(path / name, declared, bounds)


def _plain(value: Any) -> None:
    level, found = [value], 0
    for _ in range(_LEVELS + 1):
        found += len(level)
        below: list[Any] = []
        for one in level:
            require(type(one) is not int or -(2**63) <= one < 2**63, "integer beyond 64 bits")
            require(not isinstance(one, str) or one.isascii() or one.encode("utf-8") is not None, "text")
            if isinstance(one, dict):
                below += [*one.values()]
            elif isinstance(one, list):
                below += one
        level = below
        if not level:
            break
    require(not level, "too deep")
    require(found <= _VALUES, "too many values")


def _declared(manifest: dict[str, Any]) -> None:
    """Exactly the required tensors, of the required types, each part priced, in one unit."""
    parts = needs(manifest)
    require({file for file, _ in parts.values()} == set(manifest["payload"]), "files of the parts")
    for file, declared in manifest["payload"].items():
        here = {part: tensors for part, (where, tensors) in parts.items() if where == file}
        closed = {name: need for tensors in here.values() for name, need in (tensors or {}).items()}
        for name, need in closed.items():
            entry = declared["tensors"].get(name)
            require(entry is not None, f"{name} is missing")
            require(tuple(entry["shape"]) == need.shape and entry["dtype"] in need.dtypes, f"type of {name}")
        others = set(declared["tensors"]) - set(closed)
        opened = tuple(f"{part}." for part, tensors in here.items() if tensors is None)
        require(all(name.startswith(opened) and name not in opened for name in others), "tensors that no part has")
        require(all(any(name.startswith(part) for name in others) for part in opened), "an open part is empty")
    _priced(manifest, [*parts, *(["training"] if tells_training(manifest) else [])])


def _priced(manifest: dict[str, Any], released: list[str]) -> None:
    events = manifest["privacy"]
    require(set(released) <= {event["released"] for event in events}, "a part without price")
    unit = "document" if manifest["kind"] in ("expert", "statistics") else "row"
    known = ("laplace", "gaussian", "sampled_gaussian", "exact")
    require(all(event["unit"] == unit for event in events if event["mechanism"] in known), "unit")


def _payload(path: Path, declared: dict[str, Any], bounds: dict[str, Need]) -> None:
    require(path.stat().st_size == declared["bytes"], "size")
    data = path.read_bytes()
    require(sha(data) == declared["digest"], "digest of a file")
    header, places = header_of(declared["tensors"])
    require(data.startswith(header), "header")
    require(len(data) == len(header) + (places[-1][2] if places else 0), "length of the data")
    for name, begin, end in places:
        raw = data[len(header) + begin : len(header) + end]
        require(sha(raw) == declared["tensors"][name]["digest"], f"digest of {name}")
        values = _values(raw, declared["tensors"][name]["dtype"])
        require(np.isfinite(values).all(), f"{name} is not finite")
        need = bounds.get(name)
        require(need is None or ((values >= need.least) & (values <= need.most)).all(), f"domain of {name}")


def _values(raw: bytes, dtype: str) -> np.ndarray:
    """float64 values; a bfloat16 is the upper half of a float32."""
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)
