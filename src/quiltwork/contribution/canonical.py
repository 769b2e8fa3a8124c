"""JSON with one spelling for every value, and nothing else accepted.

Two manifests that say the same have the same bytes, so that a digest over the bytes is a digest over what
is said::

    encode(value) = JSON, keys sorted, indent 2, ASCII only, one newline at the end
    decode(encode(value)) == value,   for every finite value with integers of 64 bits

Decoding is total: whatever the bytes, the outcome is a value or `MalformedContribution`.

>>> encode({"b": 1, "a": [0.5]}).decode()
'{\\n  "a": [\\n    0.5\\n  ],\\n  "b": 1\\n}\\n'
>>> decode(b'{"a": 1, "a": 2}', "contribution.json")
Traceback (most recent call last):
    ...
quiltwork.errors.MalformedContribution: contribution.json: the key 'a' appears twice in one object. ...
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from quiltwork.errors import MalformedContribution

MAX_DEPTH = 32
_MOST_DIGITS = 20


def encode(value: object) -> bytes:
    """The canonical bytes of a JSON value.

    Raises:
        ValueError: a number is not finite.
    """
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode()


def decode(data: bytes, where: str, *, most_values: int = 2**16) -> object:
    """Read JSON that a stranger wrote.

    Args:
        data: the bytes, UTF-8 without a byte order mark.
        where: what the bytes are, for the message.
        most_values: bound on objects, lists and scalars together; a few bytes of JSON can cost a schema
            kilobytes of memory, so that a limit on the bytes is not enough.

    Raises:
        MalformedContribution: not UTF-8, not JSON, a key twice in one object, NaN or an infinity, an integer
            beyond 64 bits, too many values, or more than 32 levels of nesting.
    """
    try:
        value = json.loads(
            _text(data),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_not_finite,
        )
        _require_modest(value, most_values)
    except RecursionError as error:
        raise _refusal(where, f"it nests deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise _refusal(where, str(error)) from error
    return value


def shown(name: object, most: int = 80) -> str:
    """A stranger's name, fit to print: quoted, ASCII only, cut to ``most`` characters.

    >>> shown("caf\\u00e9\\x1b[31m")
    "'caf\\\\xe9\\\\x1b[31m'"
    """
    text = name if isinstance(name, str) else repr(name)
    return ascii(text if len(text) <= most else text[:most] + "...")


def _refusal(where: str, why: str) -> MalformedContribution:
    mend = "The party must write the contribution again; it must not be edited by hand."
    return MalformedContribution(where, why=why, mend=mend)


def _text(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        raise ValueError("it starts with a byte order mark")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)} appears twice in one object")
        found[key] = value
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"an integer ({shown(digits, 24)}) does not fit 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"a number ({shown(digits, 24)}) is beyond what a 64-bit float holds")
    return value


def _not_finite(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _require_modest(value: object, most_values: int) -> None:
    level = [value]
    found = 1
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent)]
        found += len(level)
        if found > most_values:
            raise ValueError(f"it holds more than {most_values} values")
        if not level:
            return
    raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
