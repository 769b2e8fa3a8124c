"""Tensors as bytes: written, verified and handed out one at a time, in constant memory.

A payload file is a canonical header (see ``header``) and the tensors' little-endian bytes. Both sides walk
it once::

    writing     tensor -> chunks -> file, SHA-256 of the tensor, SHA-256 of the file
    verifying   file -> chunks -> both digests, every value finite and inside its domain

A value is finite when its exponent bits are not all ones; that is tested on the bits, alike for every
dtype, so that neither torch nor a bfloat16 type is needed to verify.

>>> check_values(np.float32([1.0, 2.0]).tobytes(), Requirement((2,), ("F32",)), "F32")
>>> check_values(np.float32([1.0, np.nan]).tobytes(), Requirement((2,), ("F32",)), "F32")
'holds a NaN or an infinity'
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from quiltwork.contribution import header
from quiltwork.contribution.canonical import shown
from quiltwork.contribution.kinds import Dtype, Requirement
from quiltwork.contribution.manifest import REWRITE
from quiltwork.contribution.manifest_fields import PayloadFile, TensorEntry
from quiltwork.errors import AlteredContribution, MalformedContribution
from quiltwork.streaming.numbers import all_finite
from quiltwork.streaming.writing import Streamed

if TYPE_CHECKING:
    import torch

CHUNK = 2**20


Array: TypeAlias = "torch.Tensor | np.ndarray | Streamed"

_NUMPY_NAMES: Mapping[str, Dtype] = {"float64": "F64", "float32": "F32", "float16": "F16"}
_TORCH_NAMES: Mapping[str, Dtype] = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.bfloat16": "BF16",
    "torch.float16": "F16",
}
_VALUES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4"}


def type_of(name: str, array: Array) -> tuple[Dtype, tuple[int, ...]]:
    """Dtype and shape of a tensor that is about to leave, as the format spells them.

    Raises:
        MalformedContribution: not a dense floating-point tensor with data, or an empty one.
    """
    what = f"tensor {shown(name)}"
    dtype: Dtype | None
    if isinstance(array, np.ndarray):
        dtype = _NUMPY_NAMES.get(array.dtype.name)
    elif isinstance(array, Streamed):
        dtype = array.dtype
    else:
        dtype = _torch_dtype(what, array)
    if dtype is None:
        raise MalformedContribution(
            what,
            why=f"its dtype {array.dtype} does not leave",
            mend=f"Convert it to one of {', '.join(header.ITEM_BYTES)}.",
        )
    shape = tuple(int(size) for size in array.shape)
    if 0 in shape or len(shape) > header.MAX_RANK:
        raise MalformedContribution(
            what,
            why=f"its shape {list(shape)} is empty or has more than {header.MAX_RANK} dimensions",
            mend="Leave empty tensors out; flatten deep ones.",
        )
    return dtype, shape


def _torch_dtype(what: str, array: object) -> Dtype | None:
    import torch

    if not isinstance(array, torch.Tensor) or array.layout != torch.strided or array.is_meta:
        raise MalformedContribution(
            what, why="it is not a dense tensor with data", mend="Give torch tensors or numpy arrays."
        )
    return _TORCH_NAMES.get(str(array.dtype))


def _pieces(array: Array) -> Iterator[memoryview]:
    """The little-endian bytes of a tensor, copied only where they are not contiguous in memory already."""
    if isinstance(array, Streamed):
        yield from (memoryview(piece).cast("B") for piece in array.pieces())
        return
    if isinstance(array, np.ndarray):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        raw = little.reshape(-1).view(np.uint8).data
    else:
        import torch

        raw = array.detach().cpu().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().data
    yield from (raw[start : start + CHUNK] for start in range(0, len(raw), CHUNK))


def check_values(chunk: bytes | bytearray | memoryview, need: Requirement | None, dtype: Dtype) -> str | None:
    """What is wrong with some little-endian values of one dtype, in words; ``None`` if nothing is."""
    if not all_finite(chunk, dtype):
        return "holds a NaN or an infinity"
    if need is None or (np.isinf(need.least) and np.isinf(need.most)):
        return None
    values = np.frombuffer(chunk, dtype=_VALUES[dtype])
    if values.min() < need.least or values.max() > need.most:
        return f"holds a value outside [{need.least:g}, {need.most:g}]"
    return None


def write(path: Path, tensors: Mapping[str, Array], needs: Mapping[str, Requirement | None]) -> PayloadFile:
    """Write one payload file, tensor by tensor.

    Args:
        path: the file to make.
        tensors: torch tensors, numpy arrays or what streams, by names that a manifest takes.
        needs: the requirement on each tensor, where there is one.

    Returns:
        the declaration of what was written.

    Raises:
        MalformedContribution: a value is not finite or outside its domain; the tensor is named.
        OSError: the file system refuses.
    """
    types = {name: type_of(name, array) for name, array in tensors.items()}
    prefix = header.build(types)
    whole = hashlib.sha256(prefix)
    entries: dict[str, TensorEntry] = {}
    with open(path, "xb") as file:
        file.write(prefix)
        for name, span in header.layout(types).items():
            digest, left = hashlib.sha256(), span.end - span.begin
            for chunk in _pieces(tensors[name]):
                _require_releasable(name, check_values(chunk, needs.get(name), span.dtype))
                file.write(chunk)
                digest.update(chunk)
                whole.update(chunk)
                left -= len(chunk)
            _require_releasable(name, "is not as long as its shape says" if left else None)
            entries[name] = TensorEntry.model_validate(
                {"dtype": span.dtype, "shape": span.shape, "digest": f"sha256:{digest.hexdigest()}"}
            )
        size = file.tell()
    return PayloadFile(bytes=size, digest=f"sha256:{whole.hexdigest()}", tensors=entries)


def _require_releasable(name: str, problem: str | None) -> None:
    if problem is not None:
        raise MalformedContribution(
            f"tensor {shown(name)}",
            why=f"it {problem}",
            mend="Repair the training or the statistic; see its values.",
        )


def verify(
    file: BinaryIO, size: int, name: str, declared: PayloadFile, needs: Mapping[str, Requirement | None]
) -> None:
    """Check a payload file against its declaration: header, every digest, every value.

    Args:
        file: open at its start.
        size: its size in bytes, equal to the declared one.
        name: its name, for messages.
        declared: what the manifest says.
        needs: the requirement on each tensor, where there is one.

    Raises:
        MalformedContribution: the header is unsound or not canonical.
        AlteredContribution: header, digest or a value contradicts the manifest; the tensor is named.
    """
    types = declared.types()
    first = file.read(8)
    expected = header.build(types)
    length = header.length(first, size, name)
    # enough to name what differs, too little to exhaust memory
    if length > 2 * len(expected):
        raise altered(name, f"its header claims {length} bytes, and the declared tensors take {len(expected) - 8}")
    text = file.read(length)
    _require_same(name, header.parse(text, size - len(first) - len(text), name), types)
    if first + text != expected:
        raise MalformedContribution(name, why="its header is not the canonical one for its tensors", mend=REWRITE)
    whole = hashlib.sha256(first + text)
    for tensor, span in header.layout(types).items():
        _verify_tensor(file, f"tensor '{tensor}' in {name}", span, declared.tensors[tensor], needs.get(tensor), whole)
    if file.read(1):
        raise altered(name, "it is longer than declared")
    if f"sha256:{whole.hexdigest()}" != declared.digest:
        raise altered(name, "its digest is not the declared one")


def altered(what: str, why: str) -> AlteredContribution:
    """A refusal of bytes that are not those the manifest declares."""
    return AlteredContribution(what, why=why, mend="Fetch the contribution again from its party.")


def _require_same(
    name: str, spans: Mapping[str, header.Span], types: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    for tensor in sorted(types.keys() | spans.keys()):
        what = f"tensor {shown(tensor)} in {name}"
        if tensor not in spans:
            raise altered(what, "the manifest declares it, and the file does not hold it")
        if tensor not in types:
            raise altered(what, "the file holds it, and the manifest does not declare it")
        if (spans[tensor].dtype, spans[tensor].shape) != types[tensor]:
            raise altered(what, "its dtype or shape in the file is not the declared one")


def _verify_tensor(
    file: BinaryIO,
    what: str,
    span: header.Span,
    declared: TensorEntry,
    need: Requirement | None,
    whole: hashlib._Hash,
) -> None:
    digest = hashlib.sha256()
    problem: str | None = None
    for chunk in _chunks(file, span.end - span.begin, what):
        digest.update(chunk)
        whole.update(chunk)
        problem = problem or check_values(chunk, need, span.dtype)
    if f"sha256:{digest.hexdigest()}" != declared.digest:
        raise altered(what, "its digest is not the declared one")
    _require_sound(what, problem)


def _chunks(file: BinaryIO, count: int, what: str, size: int | None = None) -> Iterator[bytes]:
    """Exactly ``count`` bytes, in pieces that hold whole elements."""
    size = size or CHUNK

    def chunk(due: int) -> bytes:
        data = file.read(due)
        if len(data) != due:
            raise altered(what, "the file ends inside it")
        return data

    # a generator that waits holds no chunk: a sum has as many of them as it has terms
    yield from (chunk(min(size, count - start)) for start in range(0, count, size))


Check: TypeAlias = "Callable[[bytes | bytearray], str | None]"
"""What is wrong with some values of a tensor, in words; None if nothing is."""


def pieces(
    file: BinaryIO, offset: int, entry: TensorEntry, what: str, size: int, check: Check | None = None
) -> Iterator[bytes]:
    """One tensor's bytes, ``size`` at a time; after the last of them the digest is compared.

    Whoever walks to the end knows that the bytes were those declared, and must not let go of what was made of them
    before. The arguments and errors are those of `load`.
    """
    digest = hashlib.sha256()
    problem: str | None = None
    file.seek(offset)

    def seen(piece: bytes) -> bytes:
        nonlocal problem
        digest.update(piece)
        problem = problem or (check(piece) if check is not None else None)
        return piece

    yield from map(seen, _chunks(file, header.data_bytes(entry.dtype, entry.shape), what, size))
    if f"sha256:{digest.hexdigest()}" != entry.digest:
        raise altered(what, "its digest is not the declared one")
    _require_sound(what, problem)


def _require_sound(what: str, problem: str | None) -> None:
    if problem is not None:
        raise altered(what, f"it {problem}")


def load(file: BinaryIO, offset: int, entry: TensorEntry, what: str, check: Check | None = None) -> torch.Tensor:
    """Read one tensor into memory and hand it out only if those very bytes have the declared digest.

    Args:
        file: an open payload file.
        offset: where the tensor starts in it.
        entry: its declaration.
        what: its name, for messages.
        check: of its values, where nobody has looked at them before.

    Returns:
        a CPU tensor of the declared dtype and shape that owns its memory.

    Raises:
        AlteredContribution: the bytes are not those declared, or a value is not one that may be.
    """
    import torch

    data = bytearray(header.data_bytes(entry.dtype, entry.shape))
    file.seek(offset)
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]
        raise altered(what, "the file ends inside it")
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != entry.digest:
        raise altered(what, "its digest is not the declared one")
    _require_sound(what, check(data) if check is not None else None)
    dtypes = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    return torch.frombuffer(data, dtype=dtypes[entry.dtype]).reshape(entry.shape)
