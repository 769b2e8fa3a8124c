"""Ways to spoil a contribution: by its structure, so that deep checks are reached, and by its bytes.

A mutator takes a random source, a folder (see ``hostile_folder``) and other sound folders, and gives a spoiled one. The
result need not differ: whoever judges compares. `spoil` draws a family, sometimes two, and then how much of the digests
the forger makes true again: nothing, the manifest's, the files', or the tensors' too.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from hostile_folder import MANIFEST, Folder, Special, manifest_of, reseal, split
from hostile_oracle import ITEM, header_of, spelling

Mutator: TypeAlias = Callable[[random.Random, Folder, Sequence[Folder]], Folder]

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, 1.0, 5e-324,
    1e308, float("nan"), float("inf"), -float("inf"), "", " ", "x" * 300, "x" * 5000, "\ud800", "\x00", "\x1b[31m", "é",
    "\u202e", "\u200b", "\uff11", "../../etc/passwd", "sha256:" + "0" * 64, "SHA256:" + "0" * 64, "acme", "acme.code",
    "acme.", ".code", "ffn", "expert", "full", "F32", "I64", "os.system", [], {}, [[]], [None], {"": {}},
    {"__class__": "os.system"}, {"$ref": "#"}, {"node": "x"}, {"kind": "identity"}, [0, 1], [2**40, 2**40],
)  # fmt: skip
_MOST_DATA = 2**20
"""Bytes of data in a file built anew; a header may claim more."""
_DTYPES = ("F64", "F32", "BF16", "F16", "I64", "BOOL", "F8_E4M3", "f32", "")
_SNIPPETS = (
    b"", b"\xff", b"\x00", b"{", b"}", b"]" * 50, b"[" * 2000, b"NaN", b"-Infinity", b"1e999", b"9" * 9999, b'"a":1,',
    b"\xef\xbb\xbf", b" ", b"\n", b"\\u0000", b"\\ud800", b"1.0", b"1e0", b"-0", b"/*x*/", b"'", b",",
)  # fmt: skip


def _places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, child in children for place in _places(child, (*here, key)))]


def _drawn_place(rng: random.Random, manifest: Any) -> tuple[Any, Any] | None:
    """A parent and a key, leaving most of the many digests aside."""
    places = _places(manifest)[1:]
    fields = [place for place in places if place[0] != "payload"]
    pool = fields if fields and rng.random() < 0.75 else places
    if not pool:
        return None
    *way, key = rng.choice(pool)
    parent = manifest
    for step in way:
        parent = parent[step]
    return parent, key


def _near(rng: random.Random, value: Any) -> Any:
    """A value of the same type nearby, or the same value in another type."""
    if isinstance(value, bool) or value is None:
        return rng.choice([None, True, False, 0, 1, "true"])
    if isinstance(value, int) and abs(value) < 2**64:
        return rng.choice([value + 1, value - 1, -value, value * 2, 0, float(value), str(value), value + 0.5])
    if isinstance(value, int | float):
        whole = round(value) if abs(value) < 2**64 else 10**20
        return rng.choice([value * 2, -value, value + 1, 0.0, value * 0.3 if abs(value) < 1e300 else 1, whole])
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice([
            value + rng.choice("a0.\n\t \x07\u200b"), value[:at] + value[at + 1 :], value.upper(), value[::-1],
            value[:at] + rng.choice("abz019-_.") + value[at + 1 :], [value], value[:500] * 200,
        ])  # fmt: skip
    if isinstance(value, list):
        return rng.choice([value[:-1], value * 2, value[::-1], [value], value + value[:1], value[:1] * 300])
    pairs = [[name, one] for name, one in value.items()]
    upper = {name.upper(): one for name, one in value.items()}
    return rng.choice([dict(pairs[:-1]), {**value, "extra": 1}, pairs, [value], upper])


def fields(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Replace, delete, add, rename, move or deepen fields of the manifest."""
    manifest = manifest_of(folder)
    edit_json(rng, manifest, [manifest_of(other) for other in others])
    return {**folder, MANIFEST: _lax(manifest)}


def edit_json(rng: random.Random, value: Any, donors: Sequence[Any]) -> None:
    """Spoil one or more fields of a JSON value in place; ``donors`` give some of what is put in."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        drawn = _drawn_place(rng, value)
        if drawn is not None:
            _edit(rng, *drawn, donors)


def _edit(rng: random.Random, parent: Any, key: Any, donors: Sequence[Any]) -> None:
    action = rng.randrange(9)
    if rng.random() < 0.004:
        parent[key] = _bomb(rng)
    elif action <= 2:
        parent[key] = _near(rng, parent[key])
    elif action <= 4:
        parent[key] = copy.deepcopy(rng.choice(HOSTILE))
    elif action == 5:
        del parent[key]
    elif action == 6 and isinstance(parent, dict):
        parent[rng.choice(["extra", "", "digest", "é", "__proto__", str(key) + "_"])] = copy.deepcopy(parent[key])
    elif action == 7:
        for _ in range(rng.choice((1, 2, 31, 60))):
            parent[key] = [parent[key]]
    else:
        other = _drawn_place(rng, rng.choice(donors))
        if other is not None:
            parent[key] = copy.deepcopy(other[0][other[1]])


def _bomb(rng: random.Random) -> Any:
    """Little text that costs much to read, close to one of the limits or beyond it."""
    count = rng.choice((30_000, 60_000, 70_000))
    return rng.choice(
        [[[]] * count, [0.1] * count, {f"k{i}": {} for i in range(count)}, "x" * 4_000_000, ["é"] * count]
    )


def _lax(manifest: Any) -> bytes:
    try:
        return spelling(manifest)
    except ValueError:
        return json.dumps(manifest).encode("utf-8", "surrogatepass")


def text(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """The manifest's text: snippets, another spelling of the same, a key twice, an order or an indent of one's own."""
    data, value = folder[MANIFEST], manifest_of(folder)
    assert isinstance(data, bytes)
    action = rng.randrange(7)
    if action == 0:
        return {**folder, MANIFEST: json.dumps(value, indent=rng.choice([None, 1, 2, 4])).encode()}
    if action == 1:
        return {**folder, MANIFEST: json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"}
    if action == 2:
        key = rng.choice(sorted(value))
        again = f'{{\n  "{key}": {json.dumps(rng.choice([value[key], None, 0]))},'.encode()
        return {**folder, MANIFEST: data.replace(b"{", again, 1)}
    if action == 3:
        lines = data.split(b"\n")
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
        return {**folder, MANIFEST: b"\n".join(lines)}
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(spoiled) + 1)
        spoiled[start : start + rng.choice((0, 0, 1, 5, 40))] = rng.choice(_SNIPPETS)
    return {**folder, MANIFEST: bytes(spoiled)}


def _payload(rng: random.Random, folder: Folder) -> str | None:
    names = [name for name, entry in folder.items() if name != MANIFEST and isinstance(entry, bytes)]
    return rng.choice(names) if names else None


def header(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """The header of a payload file: lengths, offsets, overlaps, dtypes, shapes, names twice, metadata, padding."""
    name = _payload(rng, folder)
    parsed = split(folder[name]) if name else None  # type: ignore[arg-type]
    if parsed is None or not isinstance(parsed[0], dict):
        return folder
    pairs = list(parsed[0].items())
    for _ in range(rng.choice((1, 1, 2))):
        _edit_header(rng, pairs)
    body = "{" + ",".join(f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in pairs) + "}"
    raw = body.encode() + b" " * rng.choice((-len(body.encode()) % 8, 0, 1, 8))
    length = rng.choice((len(raw),) * 8 + (0, 1, len(raw) + 8, len(raw) - 1, 2**24, 2**24 + 1, 2**32, 2**63, 2**64 - 1))
    return {**folder, name: length.to_bytes(8, "little") + raw + parsed[1]}  # type: ignore[dict-item]


def _edit_header(rng: random.Random, pairs: list[tuple[str, Any]]) -> None:
    place = rng.randrange(len(pairs))
    key, entry = pairs[place][0], copy.deepcopy(pairs[place][1])
    action = rng.randrange(8)
    if action == 0:
        rng.shuffle(pairs)
    elif action == 1:
        pairs.insert(rng.randrange(len(pairs) + 1), (key, entry))
    elif action == 2:
        pairs[place] = (rng.choice([key + "x", "", "__metadata__", "x" * 5000, "../" + key, key.upper()]), entry)
    elif action == 3:
        pairs[place] = (key, copy.deepcopy(rng.choice(HOSTILE)))
    elif not isinstance(entry, dict):
        pairs[place] = (key, _near(rng, entry))
    elif not isinstance(entry.get("data_offsets"), list):
        pairs[place] = (key, {**entry, rng.choice(["note", "format"]): rng.choice(["pt", "x" * 3000, 1, None])})
    else:
        _edit_entry(rng, entry, pairs)
        pairs[place] = (key, entry)


def _edit_entry(rng: random.Random, entry: dict[str, Any], pairs: list[tuple[str, Any]]) -> None:
    action = rng.randrange(6)
    if action == 0:
        entry["dtype"] = rng.choice(_DTYPES)
    elif action == 1:
        entry["shape"] = _near(rng, entry.get("shape"))
    elif action == 2:
        entry["shape"] = rng.choice([[0], [-1], [True], [1.0], [2**62, 4], [1] * 9, [], [2**63], "1"])
    elif action == 3:
        shift = rng.choice((1, -1, 4, 8, 2**32))
        entry["data_offsets"] = [one + shift for one in entry["data_offsets"] if type(one) is int]
    elif action == 4:
        entry["data_offsets"] = rng.choice(
            [[0, 0], [8, 4], [-8, 0], [0, 2**62], [0], [0, 8, 16], None, [0.0, 8.0], entry["data_offsets"][:1] * 2]
        )
    else:
        other = rng.choice(pairs)[1]
        if isinstance(other, dict) and isinstance(other.get("data_offsets"), list):
            entry["data_offsets"] = list(other["data_offsets"])


def retype(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """A file built anew and soundly from other tensors: one dropped, added, renamed, of another dtype or shape."""
    manifest, name = manifest_of(folder), _payload(rng, folder)
    declared = (manifest.get("payload") or {}).get(name) if isinstance(manifest, dict) and name else None
    if not isinstance(declared, dict) or not isinstance(declared.get("tensors"), dict) or not declared["tensors"]:
        return folder
    tensors = declared["tensors"]
    key = rng.choice(sorted(tensors))
    action = rng.randrange(5)
    try:
        if action == 0 and len(tensors) > 1:
            del tensors[key]
        elif action == 1:
            tensors[rng.choice([key + ".x", "full.extra", "ffn.layers.9.up_proj.weight", "x"])] = dict(tensors[key])
        elif action == 2:
            tensors[key + rng.choice("x.0")] = tensors.pop(key)
        elif action == 3:
            tensors[key]["dtype"] = rng.choice(tuple(ITEM))
        else:
            tensors[key]["shape"] = [
                one for one in _near(rng, tensors[key]["shape"]) if type(one) is int and 0 < one < 99
            ]
        prefix, places = header_of(tensors)
    except (KeyError, TypeError, ValueError):
        return folder
    size = min(places[-1][2], _MOST_DATA)
    data = rng.randbytes(size) if rng.random() < 0.2 else bytes(size)
    return reseal({**folder, MANIFEST: _lax(manifest), name: prefix + data}, files=True, tensors=True)  # type: ignore[dict-item]


_BITS = {
    "F64": ("7ff8000000000000", "7ff0000000000000", "fff0000000000000", "7ff0000000000001", "7fefffffffffffff",
            "8000000000000000", "0000000000000001", "8000000000000001", "0010000000000000", "4340000000000001"),
    "F32": ("7fc00000", "7f800000", "ff800000", "7f800001", "7f7fffff", "80000000", "00000001", "bf800000"),
    "BF16": ("7fc0", "7f80", "ff80", "7f81", "7f7f", "8000", "0001"),
    "F16": ("7e00", "7c00", "fc00", "7c01", "7bff", "8000", "0001"),
}  # fmt: skip


def values(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Single values of tensors: NaN and infinity in several bit patterns, extremes, negative zeros and counts."""
    name = _payload(rng, folder)
    parsed = split(folder[name]) if name else None  # type: ignore[arg-type]
    if parsed is None or not isinstance(parsed[0], dict):
        return folder
    data = bytearray(folder[name])  # type: ignore[arg-type, index]
    start = len(data) - len(parsed[1])
    sound = [entry for entry in parsed[0].values() if _spans(entry)]
    for _ in range(rng.choice((1, 1, 3)) if sound else 0):
        entry = rng.choice(sound)
        raw = bytes.fromhex(rng.choice(_BITS[entry["dtype"]]))[::-1]
        begin, end = entry["data_offsets"]
        place = start + begin + len(raw) * rng.randrange(max(1, (end - begin) // len(raw)))
        data[place : place + len(raw)] = raw
    return {**folder, name: bytes(data)}  # type: ignore[dict-item]


def _spans(entry: Any) -> bool:
    """Whether a header's entry names a dtype and a place that can be written to."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str) or entry["dtype"] not in _BITS:
        return False
    offsets = entry.get("data_offsets")
    sound = isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int and 0 <= o < 2**20 for o in offsets)
    return sound and offsets[0] < offsets[1]


def octets(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Bytes of any file: flipped, inserted, deleted, cut off, doubled, or from another file."""
    name = rng.choice([name for name, entry in folder.items() if isinstance(entry, bytes)] or [MANIFEST])
    data = folder.get(name)
    if not isinstance(data, bytes) or not data:
        return folder
    at, other = rng.randrange(len(data)), rng.choice(list(rng.choice(others).values()))
    assert isinstance(other, bytes)
    begin, end = sorted(rng.randrange(len(other) + 1) for _ in range(2))
    spoiled = rng.choice([
        data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
        data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at:],
        data[:at] + data[at + rng.randint(1, 16) :],
        data[:at],
        data + rng.choice([b"\0", b"\n", data, rng.randbytes(8)]),
        data[:at] + other[begin:end] + data[at + end - begin :],
        other,
        rng.randbytes(len(data)),
        b"",
    ])  # fmt: skip
    return {**folder, name: spoiled}


_NAMES = (
    "extra.safetensors", "model.py", ".hidden", "ffn.safetensors ", "FFN.safetensors", "a\nb", "contribution.json~",
    "contribution.sig", "é", "x" * 200, "__pycache__", "\udcff",
)  # fmt: skip


def entries(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """The directory: files missing, extra, renamed, and things that are no files or have no end."""
    names = sorted(folder)
    name, found = rng.choice(names), dict(folder)
    kind = rng.choice(("symlink", "hardlink", "fifo", "socket", "directory"))
    action = rng.randrange(8)
    if action == 0:
        del found[name]
    elif action == 1:
        found[rng.choice(_NAMES)] = rng.choice([b"", b"import os", folder[name]])
    elif action == 2:
        found[rng.choice(_NAMES)] = Special(kind)
    elif action == 3:
        found[rng.choice(_NAMES)] = found.pop(name)
    elif action == 4:
        found[name] = Special(kind, target=rng.choice(["", "/etc/passwd", "/dev/zero", name, "nowhere"]))
    elif action == 5:
        data = folder[name]
        head = data if isinstance(data, bytes) and rng.random() < 0.7 else b""
        found[name] = Special("hole", size=rng.choice([2**22, 2**22 + 1, 2**32, 2**40]), head=head)
    elif action == 6:
        found |= {f"x{i}": b"" for i in range(rng.choice((3, 70)))}
    else:
        other = rng.choice(names)
        found[name], found[other] = found[other], found[name]
    return found


def swaps(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Files, manifests or declarations of another contribution."""
    other = rng.choice(others)
    action = rng.randrange(4)
    if action == 0:
        return {**folder, MANIFEST: other[MANIFEST]}
    if action == 1:
        return {**other, MANIFEST: folder[MANIFEST]}
    if action == 2:
        return {**folder, **{name: data for name, data in other.items() if name != MANIFEST}}
    mine, theirs = manifest_of(folder), manifest_of(other)
    for field in rng.sample(sorted(theirs), rng.randint(1, 3)):
        mine[field] = theirs[field]
    return {**folder, MANIFEST: _lax(mine)}


def honest(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Another sound contribution: what an owner may say otherwise, said otherwise."""
    manifest = manifest_of(folder)
    manifest["party"] = rng.choice(["acme", "zoe", "a-b_c9", "z" * 64])
    manifest["licence"] = rng.choice(["MIT", "LicenseRef-Größe", "x" * 100])
    manifest["card"] = rng.choice(["", "two\nlines\tand a tab", "x" * 100_000])
    return reseal({**folder, MANIFEST: _lax(manifest)}, files=True, tensors=True)


FAMILIES: Mapping[str, tuple[Mutator, int]] = {
    "fields": (fields, 30),
    "text": (text, 8),
    "header": (header, 16),
    "retype": (retype, 8),
    "values": (values, 10),
    "octets": (octets, 14),
    "entries": (entries, 8),
    "swaps": (swaps, 5),
    "honest": (honest, 1),
}
"""Every family, and how often it is drawn."""

SEALS = ("none", "manifest", "files", "tensors")


def spoil(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> tuple[str, Folder]:
    """A spoiled folder, and the families and the seal that made it."""
    names, weights = list(FAMILIES), [weight for _, weight in FAMILIES.values()]
    drawn = rng.choices(names, weights, k=2 if rng.random() < 0.1 else 1)
    folder = FAMILIES[drawn[0]][0](rng, folder, others)
    # what one family spoiled may be nothing that another can work on
    with suppress(AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
        for name in drawn[1:]:
            folder = FAMILIES[name][0](rng, folder, others)
    seal = rng.choices(SEALS, (2, 3, 2, 4))[0]
    if seal != "none" and not set(drawn) <= {"text", "entries"}:
        folder = reseal(folder, files=seal != "manifest", tensors=seal == "tensors")
    return "+".join(drawn), folder
