"""The name of a description of public text: one digest over all that a method reads in it.

    SHA-256( canonical JSON of { part: { array: SHA-256 of its little-endian bytes } } )

A composed model keeps it, so that whoever joins later is measured against the same public text as those before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from quiltwork.compose.statistics import KeptRow, PublicText
from quiltwork.contribution.canonical import encode
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.files import FileRecord
from quiltwork.models.residual import ResidualMoments
from quiltwork.models.sources import Source


def public_digest(public: PublicText, needed: Collection[str]) -> str | None:
    """The digest of those parts of a description that a method reads; None if there are none.

    Args:
        public: the description.
        needed: what the method needs of contributions, and therefore reads of the public text too.
    """
    read = {part: _arrays(item) for part, item in public.items() if part in needed}
    return FileRecord.of(encode(read)).digest if read else None


def _arrays(item: TokenHistogram | KeptRow | ResidualMoments) -> dict[str, str]:
    if isinstance(item, TokenHistogram):
        return {"counts": hashlib.sha256(item.counts.astype("<f8").tobytes()).hexdigest()}
    if isinstance(item, KeptRow):
        return {"row": hashlib.sha256(item.values.astype("<f4").tobytes()).hexdigest()}
    named = {name: _digest(source) for name, source in item.tensors().items()}
    return named | {"rows": str(item.rows)}


def _digest(source: Source) -> str:
    found = hashlib.sha256()
    for piece in source.pieces():
        found.update(piece)
    return found.hexdigest()
