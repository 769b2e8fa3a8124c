"""The small types that manifests are made of: digests, names, texts and counts, each with its bounds.

What others will print must not drive their terminal, so free text holds no control characters but newline and tab; a
name, which is compared and put in a line with others, holds none at all, and nothing invisible either.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Container
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from quiltwork.privacy.events import printable

MOST_NUMBERS = 2**26
"""Numbers in one array of a statistic: half a gigabyte, which a composer reads into memory."""

_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: str) -> str:
    """Refuse what does not show: control and format characters, surrogates, line separators.

    Two column names that look alike would else differ, or one could turn the writing direction of a page.

    >>> visible("Größe [cm²]")
    'Größe [cm²]'
    """
    for character in text:
        if unicodedata.category(character) in _UNSEEN:
            raise ValueError(f"character U+{ord(character):04X} does not show in print")
    return text


def owner_of(label: str) -> str:
    """Whose a label is: an owner who hands over several experts names each ``OWNER.SHARE``.

    >>> owner_of("acme.code"), owner_of("acme")
    ('acme', 'acme')
    """
    return label.partition(".")[0]


def is_named(label: str, names: Container[str]) -> bool:
    """Whether a label, or the owner of it, is among some names.

    >>> is_named("acme.code", ["acme"]), is_named("acme", ["acme.code"])
    (True, False)
    """
    return label in names or owner_of(label) in names


def require_modest(what: str, *shape: int) -> None:
    """Refuse an array of more than `MOST_NUMBERS`.

    Raises:
        ValueError: it would hold more; ``what`` names it.
    """
    if math.prod(shape) > MOST_NUMBERS:
        raise ValueError(f"{what} would hold {math.prod(shape)} numbers, and at most {MOST_NUMBERS} are read")


Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
PartyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
LABEL = r"[a-z0-9][a-z0-9_-]{0,63}(\.[a-z0-9][a-z0-9_-]{0,31})?"
PartyLabel = Annotated[str, StringConstraints(pattern=f"^{LABEL}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\.safetensors$")]
TensorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,255}$")]
Short = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(printable)]
Card = Annotated[str, StringConstraints(max_length=100_000), AfterValidator(printable)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(visible)]
Unit = Annotated[str, StringConstraints(max_length=200), AfterValidator(visible)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Software = Annotated[dict[Short, Short], Field(max_length=64)]
