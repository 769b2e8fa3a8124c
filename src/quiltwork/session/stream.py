"""Frames on a stream socket: a length, then so many bytes, and again.

    length (8 bytes, little-endian), frame; length, frame; ...

Nothing is believed of a length but that it is small enough: memory is taken as bytes come, never as they are announced.

>>> near, far = socket.socketpair()
>>> write_frame(near, b"a frame")
>>> read_frame(far, 7)
b'a frame'
>>> write_frame(near, b"a frame")
>>> read_frame(far, 6) is None
True
"""

from __future__ import annotations

import socket
import struct
import time

LENGTH = struct.Struct("<Q")
"""What stands before a frame."""

PIECE = 2**20
"""Bytes that are read or written at once, at most."""


def announced(frame: bytes) -> bytes:
    """A frame with its length before it."""
    return LENGTH.pack(len(frame)) + frame


def write_frame(near: socket.socket, frame: bytes) -> None:
    """Write a frame and its length; the whole of it within the socket's timeout.

    Raises:
        OSError: the other end is gone, or does not read; TimeoutError is one.
    """
    near.sendall(announced(frame))


def read_frame(near: socket.socket, longest: int, *, within: float | None = None) -> bytes | None:
    """The next frame, at most ``longest`` bytes; None where the other end closed, or announces more.

    Args:
        near: a blocking socket.
        longest: bytes.
        within: seconds until the whole of it must be there; None waits for ever.

    Raises:
        TimeoutError: it was not.
    """
    deadline = None if within is None else time.monotonic() + within
    head = _exactly(near, LENGTH.size, deadline)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    return _exactly(near, length, deadline) if length <= longest else None


def _exactly(near: socket.socket, count: int, deadline: float | None) -> bytes | None:
    """So many bytes, or None where the other end has closed."""
    found = bytearray()
    while len(found) < count:
        if deadline is not None:
            # zero would mean not to wait at all, and to fail with another error
            near.settimeout(max(1e-3, deadline - time.monotonic()))
        try:
            piece = near.recv(min(PIECE, count - len(found)))
        except ConnectionError:
            return None
        if not piece:
            return None
        found += piece
        if deadline is not None and time.monotonic() > deadline and len(found) < count:
            raise TimeoutError
    return bytes(found)
