"""The report: one HTML file that answers, per party, whether composing was worth it.

The file is complete in itself: style and figures are inside, it runs no script and asks for nothing from
outside, and a Content-Security-Policy in its head holds a browser to that. Names and sample text come from
strangers: the template escapes them, and no name reaches a file name unfiltered. PNG and JSON files lie
beside the HTML for those who want the figures and the numbers alone.

Everything is drawn and rendered before the first file is written; each file is then written whole or not at
all.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from quiltwork.errors import InvalidOption
from quiltwork.evaluate import insight, network_views, views
from quiltwork.evaluate.network_means import MULTIPLY_ADDS
from quiltwork.evaluate.plots import Drawing, draw_all, drawn, ordered_domains, varies_by_layer
from quiltwork.evaluate.scores import Scores
from quiltwork.files import write_file

TEMPLATE = "report.html.j2"


def write_report(
    scores: Scores,
    target_html: str | os.PathLike[str],
    *,
    plots_dir: str | os.PathLike[str] | None = None,
    extra: Sequence[Drawing] = (),
) -> list[Path]:
    """Write the report, its figures and its numbers; existing files of these names are replaced.

    Args:
        scores: what was measured; what is missing is left out of the report.
        target_html: the HTML file; the numbers go beside it under the same name with the ending ``.json``.
        plots_dir: where the PNG files go; by default ``NAME-plots`` beside the HTML.
        extra: figures that the scores alone do not determine, see ``table_report``.

    Returns:
        The paths written: the HTML, the JSON, then the figures.

    Raises:
        InvalidOption: jinja2 or matplotlib is not installed, or the target does not end in .html.
        StorageError: the file system refuses.
    """
    target = Path(target_html)
    if target.suffix.lower() not in (".html", ".htm"):
        why = "its name does not end in .html"
        raise InvalidOption(f"report '{target}'", why=why, mend="Name it report.html, for instance.")
    drawings = _distinct([*draw_all(scores), *extra])
    html = render(scores, drawings)
    folder = Path(plots_dir) if plots_dir is not None else target.with_name(f"{target.stem}-plots")
    written = [write_file(target, html), write_file(target.with_suffix(".json"), scores.to_json())]
    return written + [write_file(folder / f"{drawing.stem}.png", drawing.png) for drawing in drawings]


def _distinct(drawings: Sequence[Drawing]) -> list[Drawing]:
    """The drawings with stems of which none overwrites another's file."""
    return drawn([(d.section, d.caption, lambda d=d: d.png) for d in drawings])  # type: ignore[misc]


def render(scores: Scores, drawings: Sequence[Drawing]) -> str:
    """The HTML text with ``drawings`` inside it.

    Raises:
        InvalidOption: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        mend = "Install it with: pip install 'quiltwork[report]'"
        raise InvalidOption("report", why="jinja2 is not installed", mend=mend) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"parameters": views.count, "octets": views.size}
    source = resources.files("quiltwork.evaluate").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        scores=scores, figures=_figures(drawings), **_texts(scores), **_tables(scores)
    )


def _texts(scores: Scores) -> dict[str, object]:
    legend = views.legend_view(scores)
    return {
        "metric": scores.measure,
        "headline": f"{insight.headline(scores)} {network_views.reach_headline(scores)}".rstrip(),
        "verdicts": insight.verdicts(scores),
        "joining": [insight.who_should_join(scores, m) for m in scores.leave_one_out if m in scores.methods],
        "legend": list(legend.values()),
        "samples": [(sample, views.sample_view(sample, legend)) for sample in scores.samples],
        "same_in_layers": [m for m in scores.routing if not varies_by_layer(scores, m)],
        "spread_known": views.spread_known(scores),
        "excluded": [(name, p, why) for name, row in scores.methods.items() for p, why in row.excluded.items()],
        "work_known": any(MULTIPLY_ADDS in row.extra for row in scores.methods.values()),
        "active_known": any(row.active_params is not None for row in scores.methods.values()),
    }


def _tables(scores: Scores) -> dict[str, object]:
    methods = insight.composed(scores)
    gains = {m: views.gains_view(scores, m) for m in methods}
    return {
        "domains": ordered_domains(scores),
        "rows": views.matrix_view(scores),
        "front": views.pareto_parties(scores),
        "composed": methods,
        "measures": views.measures_view(scores),
        "owners": network_views.owners_view(scores),
        "reach": network_views.reach_view(scores),
        "classes": network_views.classes_view(scores),
        "knowledge": network_views.knowledge_view(scores),
        "decomposition": network_views.decomposition_view(scores),
        "gains": [(party, [gains[m][i] for m in methods]) for i, party in enumerate(scores.parties)],
    }


def _figures(drawings: Sequence[Drawing]) -> dict[str, list[tuple[str, str]]]:
    """For each part of the report its captions and PNG files in base64."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for drawing in drawings:
        encoded = base64.b64encode(drawing.png).decode("ascii")
        sections.setdefault(drawing.section, []).append((drawing.caption, encoded))
    return sections
