"""Frames: the only thing that crosses between a party and a composer.

A message is a kind out of a closed set, a round, and at most one array. As bytes:

    offset  size  field
         0     2  magic ``QW``
         2     1  version, 1
         3     1  kind
         4     8  sequence number, little-endian unsigned, from 0, one up with every frame of a direction
        12     8  round, likewise
        20     1  dtype code, 0 for no array
        21     1  rank, 0 to 4
        22    16  shape, four unsigned 32-bit numbers, unused ones 0
        38     n  the array's bytes, little-endian, C order
     38+n    16  tag: BLAKE2b keyed with the direction's key, over all that stands before

    bytes(frame) = 54 + itemsize(dtype) * product(shape)

Nothing else: no text (an error is a code, since words would be a channel), no pickle, no name to import. What a kind
may carry is fixed before the first frame by a ``Schema``, and checked before the array is made. The tag makes an
altered frame, and the sequence number a replayed, dropped or reordered one, a refusal.

>>> schema = {Kind.ACTIVATION: Spec("float32", (None, 2))}
>>> sender, receiver = Sealer(bytes(32)), Opener(bytes(32), schema)
>>> frame = sender.seal(Message(Kind.ACTIVATION, 7, np.array([[1, 2]], dtype=np.float32)))
>>> len(frame), receiver.open(frame).array
(62, array([[1., 2.]], dtype=float32))
>>> receiver.open(frame)
Traceback (most recent call last):
quiltwork.errors.AlteredFrame: frame 0 of kind ACTIVATION: its sequence number is 0, and 1 is due. It was replayed, \
dropped or reordered; end the session and start it again.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import AlteredFrame, InvalidOption

Dtype: TypeAlias = Literal["float32", "float64", "int8", "int64", "uint8", "uint64"]

_HEAD = struct.Struct("<2sBBQQBB4I")
_MAGIC, _VERSION, _TAG_BYTES, _MOST_RANK = b"QW", 1, 16, 4
_DTYPES: tuple[Dtype, ...] = ("float32", "float64", "int8", "int64", "uint8", "uint64")

OVERHEAD = _HEAD.size + _TAG_BYTES
"""Bytes of a frame beside its array: 54."""

MOST_BYTES = 2**31
"""No frame carries a larger array."""


class Kind(enum.IntEnum):
    """Everything that a message can be. Requests come from the composer, answers from parties."""

    READY = 1
    ROWS = 2
    ACTIVATION = 3
    COTANGENT = 4
    DONE = 5
    LOCAL = 6
    OUTPUT = 7
    LABELS = 8
    LOSS = 9
    DIGEST = 10
    KEY = 11
    MASKED = 12
    SHARE = 13
    STATE = 14
    STOP = 15
    REFUSED = 16


class Refusal(enum.IntEnum):
    """Why a party refuses; the whole vocabulary of a ``REFUSED`` message, one byte."""

    UNEXPECTED = 1
    MISFIT = 2
    NOT_FINITE = 3
    UNKNOWN_ROWS = 4
    FAILED = 5
    LEFT = 6


@dataclass(frozen=True)
class Spec:
    """What array a kind carries.

    Attributes:
        dtype: its element type; None for no array.
        shape: its sizes; None for one that may vary from frame to frame, up to ``most``.
        most: the largest that a varying size may be.
    """

    dtype: Dtype | None = None
    shape: tuple[int | None, ...] = ()
    most: int = 2**20


Schema: TypeAlias = Mapping[Kind, Spec]
"""What a direction may carry; a kind that is not in it is refused."""


@dataclass(frozen=True, eq=False)
class Message:
    """One thing said.

    Attributes:
        kind: what it is.
        round: the step of the session that it belongs to.
        array: its content, or None.
    """

    kind: Kind
    round: int = 0
    array: NDArray[Any] | None = None


def frame_bytes(dtype: Dtype | None, shape: tuple[int, ...] = ()) -> int:
    """Size of a frame: the formula above.

    >>> frame_bytes("float32", (64, 16)), frame_bytes(None)
    (4150, 54)
    """
    return OVERHEAD + (0 if dtype is None else np.dtype(dtype).itemsize * math.prod(shape))


def largest_frame(schema: Schema) -> int:
    """Size of the largest frame that a direction may carry; whoever announces more is refused unread.

    >>> largest_frame({Kind.DONE: Spec(), Kind.ACTIVATION: Spec("float32", (None, 16), most=64)})
    4150
    """
    shapes = {kind: tuple(spec.most if n is None else n for n in spec.shape) for kind, spec in schema.items()}
    sizes = (frame_bytes(spec.dtype, shapes[kind]) for kind, spec in schema.items())
    return min(max(sizes, default=OVERHEAD), OVERHEAD + MOST_BYTES)


class Sealer:
    """Turns messages into frames, one direction of one pair.

    Args:
        key: 32 secret bytes that both ends of the direction hold.
    """

    def __init__(self, key: bytes) -> None:
        self._key = _require_key(key)
        self._next = 0

    def seal(self, message: Message) -> bytes:
        """The next frame.

        Raises:
            InvalidOption: the array is of a dtype, rank or size that no frame carries.
        """
        code, shape, data = _laid_out(message.array)
        padded = (*shape, *(0,) * (_MOST_RANK - len(shape)))
        head = _HEAD.pack(_MAGIC, _VERSION, message.kind, self._next, message.round, code, len(shape), *padded)
        self._next += 1
        return head + data + _tag(self._key, head + data)


class Opener:
    """Turns frames into messages, or refuses them, one direction of one pair.

    Args:
        key: as the sealer's.
        schema: what may come.
    """

    def __init__(self, key: bytes, schema: Schema) -> None:
        self._key = _require_key(key)
        self._schema = schema
        self._due = 0

    def open(self, frame: bytes) -> Message:
        """The message in the next frame.

        Raises:
            AlteredFrame: it is not a frame, its tag does not fit, it is out of order, or the schema does not allow it.
        """
        if len(frame) < OVERHEAD:
            raise _altered("a frame", f"it has {len(frame)} bytes, and the shortest frame {OVERHEAD}")
        body, tag = frame[:-_TAG_BYTES], frame[-_TAG_BYTES:]
        if not hmac.compare_digest(tag, _tag(self._key, body)):
            raise _altered("a frame", "its tag does not fit its bytes", "Somebody changed it, or holds another key.")
        magic, version, code, sequence, round_, dtype, rank, *sizes = _HEAD.unpack_from(body)
        if magic != _MAGIC or version != _VERSION or code not in Kind.__members__.values():
            raise _altered("a frame", f"it is of version {version} and kind {code}, which this installation has not")
        what = f"frame {sequence} of kind {Kind(code).name}"
        if sequence != self._due:
            raise _altered(
                what,
                f"its sequence number is {sequence}, and {self._due} is due",
                "It was replayed, dropped or reordered; end the session and start it again.",
            )
        array = self._array(what, Kind(code), dtype, tuple(sizes[:rank]), body[_HEAD.size :])
        self._due += 1
        return Message(Kind(code), round_, array)

    def _array(self, what: str, kind: Kind, code: int, shape: tuple[int, ...], data: bytes) -> NDArray[Any] | None:
        if kind not in self._schema:
            raise _altered(what, "this direction does not carry that kind")
        spec = self._schema[kind]
        wanted = 0 if spec.dtype is None else 1 + _DTYPES.index(spec.dtype)
        if code != wanted:
            raise _altered(what, f"its dtype code is {code}, and {wanted} ({spec.dtype}) is declared")
        if spec.dtype is None:
            if data or shape:
                raise _altered(what, "it carries an array, and none is declared")
            return None
        fits = len(shape) == len(spec.shape) and all(
            size == due if due is not None else size <= spec.most for size, due in zip(shape, spec.shape, strict=True)
        )
        if not fits or len(data) != np.dtype(spec.dtype).itemsize * math.prod(shape):
            raise _altered(what, f"its shape is {shape} in {len(data)} bytes, and {spec.shape} is declared")
        little = np.dtype(spec.dtype).newbyteorder("<")
        return np.frombuffer(data, dtype=little).reshape(shape).astype(spec.dtype)


def _laid_out(array: NDArray[Any] | None) -> tuple[int, tuple[int, ...], bytes]:
    if array is None:
        return 0, (), b""
    name = array.dtype.name
    if name not in _DTYPES or array.ndim > _MOST_RANK or array.nbytes > MOST_BYTES:
        raise InvalidOption(
            f"an array of dtype {name} and shape {array.shape}",
            why=f"a frame carries {', '.join(_DTYPES)}, up to rank {_MOST_RANK} and {MOST_BYTES} bytes",
            mend="Convert it, or send it in parts.",
        )
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return 1 + _DTYPES.index(name), array.shape, np.ascontiguousarray(little).tobytes()


def _tag(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_TAG_BYTES, key=key).digest()


def _require_key(key: bytes) -> bytes:
    if len(key) != 32:
        raise InvalidOption(f"a key of {len(key)} bytes", why="frames are tagged with 32", mend="Draw 32 random bytes.")
    return key


def _altered(
    what: str, why: str, mend: str = "End the session; the other side does not keep to its declaration."
) -> AlteredFrame:
    return AlteredFrame(what, why=why, mend=mend)
