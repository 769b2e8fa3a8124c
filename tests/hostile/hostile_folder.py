"""A contribution's directory in memory, where it can be spoiled, and a forger's way to make its digests true again."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hostile_oracle import sha, spelling

MANIFEST = "contribution.json"


@dataclass(frozen=True)
class Special:
    """An entry that is no ordinary file: what it is, the link's target or the size of the hole."""

    kind: Literal["symlink", "hardlink", "fifo", "socket", "directory", "hole"]
    target: str = ""
    size: int = 0
    head: bytes = b""


Folder: TypeAlias = dict[str, "bytes | Special"]


def load(path: Path) -> Folder:
    return {entry.name: entry.read_bytes() for entry in sorted(path.iterdir())}


def manifest_of(folder: Folder) -> Any:
    """The manifest as JSON, or None where it is none any more."""
    data = folder.get(MANIFEST)
    try:
        return json.loads(data) if isinstance(data, bytes) else None
    except (ValueError, RecursionError):
        return None


def split(data: bytes) -> tuple[Any, bytes] | None:
    """Header and data of a payload file, or None where there is no header to speak of."""
    n = int.from_bytes(data[:8], "little")
    try:
        return (json.loads(data[8 : 8 + n]), data[8 + n :]) if len(data) >= 8 + n else None
    except (ValueError, RecursionError):
        return None


def reseal(folder: Folder, *, files: bool, tensors: bool) -> Folder:
    """Make digests true: of the manifest, and, where asked for, of the files (with sizes) and of their tensors."""
    manifest = manifest_of(folder)
    if not isinstance(manifest, dict):
        return folder
    declared = manifest.get("payload")
    for name, entry in (declared if files and isinstance(declared, dict) else {}).items():
        data = folder.get(name)
        if isinstance(data, bytes) and isinstance(entry, dict):
            entry["bytes"], entry["digest"] = len(data), sha(data)
            if tensors:
                _reseal_tensors(data, entry.get("tensors"))
    manifest.pop("digest", None)
    try:
        manifest["digest"] = sha(spelling(manifest))
        return {**folder, MANIFEST: spelling(manifest)}
    except (ValueError, RecursionError):
        return {**folder, MANIFEST: json.dumps(manifest).encode("utf-8", "surrogatepass")}


def _reseal_tensors(data: bytes, entries: Any) -> None:
    parsed = split(data)
    if parsed is None or not isinstance(parsed[0], dict) or not isinstance(entries, dict):
        return
    for name, entry in entries.items():
        offsets = (parsed[0].get(name) or {}).get("data_offsets") if isinstance(parsed[0].get(name), dict) else None
        sound = isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int for o in offsets)
        if sound and isinstance(entry, dict):
            entry["digest"] = sha(parsed[1][max(0, offsets[0]) : max(0, offsets[1])])


def put(folder: Folder, path: Path, outside: Path) -> None:
    """Lay a folder out on disk; links lead to ``outside``."""
    path.mkdir()
    for name, entry in folder.items():
        _put(path / name, entry, outside)


def _put(place: Path, entry: bytes | Special, outside: Path) -> None:
    if isinstance(entry, bytes):
        place.write_bytes(entry)
    elif entry.kind == "symlink":
        place.symlink_to(entry.target or outside)
    elif entry.kind == "hardlink":
        os.link(outside, place)
    elif entry.kind == "fifo":
        os.mkfifo(place)
    elif entry.kind == "socket":
        _put_socket(place)
    elif entry.kind == "directory":
        place.mkdir()
    else:
        place.write_bytes(entry.head)
        os.truncate(place, max(entry.size, len(entry.head)))


def _put_socket(place: Path) -> None:
    """A socket's path may have no more than about 100 bytes, so it is bound under a short one and renamed."""
    here = os.open(place.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"/proc/self/fd/{here}/.socket")
    os.close(here)
    (place.parent / ".socket").rename(place)
