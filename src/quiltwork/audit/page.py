"""The certificate as a page of HTML: what is not held stands as large as what is.

The page is complete in itself, runs no script and asks for nothing from outside, as the report's. Names come from
strangers; everything is escaped. Bars are widths of boxes, so no drawing library is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import Certificate
from quiltwork.audit.facts import WAYS, Facts
from quiltwork.errors import InvalidOption
from quiltwork.files import write_file

TEMPLATE = "certificate.html.j2"


def write_page(certificate: Certificate, target: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write the page, and the certificate as JSON beside it.

    Args:
        certificate: what to show.
        target: the HTML file; the JSON gets the same name with the ending ``.json``.

    Returns:
        The two paths.

    Raises:
        InvalidOption: jinja2 is not installed, or the target does not end in .html.
        StorageError: the file system refuses.
    """
    path = Path(target)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidOption(f"page '{path}'", why="its name does not end in .html", mend="Name it certificate.html.")
    html = render(certificate)
    return write_file(path, html), write_file(path.with_suffix(".json"), certificate.to_json())


def render(certificate: Certificate) -> str:
    """The page as text.

    Raises:
        InvalidOption: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        mend = "Install it with: pip install 'quiltwork[report]'"
        raise InvalidOption("certificate", why="jinja2 is not installed", mend=mend) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("quiltwork.audit").joinpath(TEMPLATE).read_text(encoding="utf-8")
    facts = certificate.facts
    return environment.from_string(source).render(
        certificate=certificate,
        facts=facts,
        rows=_rows(certificate),
        traffic=_traffic(facts),
        ledgers=[c for c in certificate.checks if c.name.endswith("-ledger")],
        attacks=[_bars(attack) for attack in certificate.attacks],
    )


def _rows(certificate: Certificate) -> list[Mapping[str, object]]:
    return [
        {"about": about, "standing": certificate.standing(about.number), "adversary": about.adversary}
        for about in GUARANTEES
    ]


def _traffic(facts: Facts) -> list[Mapping[str, object]]:
    """By party: bytes of both directions, those of the formula, and how many a round."""
    return [
        {
            "party": party,
            "crossed": [facts.bytes(party, way) for way in WAYS],
            "formula": [getattr(ways, way) for way in WAYS],
            "round": sum(facts.bytes(party, way) for way in WAYS) / max(1, facts.rounds),
            "sealing": facts.sealing.get(party, "not on record"),
        }
        for party, ways in sorted(facts.formula.items())
    ]


def _bars(attack: Attack) -> Mapping[str, object]:
    """The attack, with lengths of its bars in percent."""
    success, baseline = (100 * min(1.0, max(0.0, value)) for value in (attack.success, attack.baseline))
    return {"of": attack, "success": f"{success:.1f}", "baseline": f"{baseline:.1f}"}
