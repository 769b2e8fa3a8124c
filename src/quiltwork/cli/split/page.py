"""A run directory as the page tells of it, and its certificate as lines for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import Certificate, read_certificate
from quiltwork.audit.page import Account
from quiltwork.cli.split.folder import CERTIFICATE, LOSSES, PLAN, read_document, read_note
from quiltwork.errors import InvalidOption

_NO_SESSIONS = "Name directories that `quiltwork split train` wrote."


def account(run: Path, name: str, certificate: Certificate | None = None) -> Account:
    """What a run directory says of its run.

    Args:
        run: the directory.
        name: of the run.
        certificate: in the place of the one in the directory.

    Raises:
        InvalidOption: it is no run directory, or damaged.
        AlteredRecords: its certificate does not follow from its own facts and checks.
    """
    note = read_note(run, read_document(run, PLAN).encode())
    found = read_certificate(read_document(run, CERTIFICATE)) if certificate is None else certificate
    measure = "R squared" if note.classes is None else "accuracy"
    return Account(name, found, note.scores, measure, note.cases[1], _losses(run))


def accounts(runs: Mapping[str, Path]) -> list[Account]:
    """Those of several runs, by name."""
    return [account(run, name) for name, run in runs.items()]


def lines(certificate: Certificate) -> Iterator[str]:
    """One line a guarantee, for a terminal."""
    titles = {g.number: g.title for g in GUARANTEES}
    for standing in certificate.standings:
        state = "held" if standing.held else "not held"
        yield f"{state:>9}  {standing.number:<4} {titles[standing.number]}: {standing.why}"


def _losses(run: Path) -> Sequence[Mapping[str, float]]:
    """Of each round, by whose they are; none where the run has none on record."""
    if not (run / LOSSES).is_file():
        return ()
    try:
        raw = json.loads(read_document(run, LOSSES))
        return [{str(who): float(loss) for who, loss in row.items()} for row in raw]
    except (ValueError, TypeError, AttributeError):
        raise InvalidOption(f"'{run / LOSSES}'", why="it holds no losses", mend=_NO_SESSIONS) from None
