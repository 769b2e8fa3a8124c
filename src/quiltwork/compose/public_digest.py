"""The name of a description of public text: one digest over all that routers may read in it.

    SHA-256( canonical JSON of { part: { array: SHA-256 of its little-endian bytes } } )

A composed model keeps it, so that whoever joins later is measured against the same public text as those before.
"""

from __future__ import annotations

import hashlib

from quiltwork.compose.statistics import PublicText
from quiltwork.contribution.canonical import encode
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.files import FileRecord
from quiltwork.models.residual import ResidualMoments
from quiltwork.models.sources import Source


def public_digest(public: PublicText) -> str | None:
    """The digest of a description; None of an empty one."""
    if not public:
        return None
    return FileRecord.of(encode({part: _arrays(item) for part, item in public.items()})).digest


def _arrays(item: TokenHistogram | ResidualMoments) -> dict[str, str]:
    if isinstance(item, TokenHistogram):
        return {"counts": hashlib.sha256(item.counts.astype("<f8").tobytes()).hexdigest()}
    named = {name: _digest(source) for name, source in item.tensors().items()}
    return named | {"rows": str(item.rows)}


def _digest(source: Source) -> str:
    found = hashlib.sha256()
    for piece in source.pieces():
        found.update(piece)
    return found.hexdigest()
