"""A screening as one HTML page: the advice, every finding with what, why and what to do, and the figures.

Complete in itself, without script, everything escaped, as the report (``report``); PNG and JSON files lie beside it.
"""

from __future__ import annotations

import base64
import os
from importlib import resources
from pathlib import Path

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.plots import Drawing, drawn
from quiltwork.evaluate.screen_plots import wanted
from quiltwork.evaluate.screen_record import Screening
from quiltwork.files import write_file

TEMPLATE = "screening.html.j2"


def write_screening(screening: Screening, target_html: str | os.PathLike[str]) -> list[Path]:
    """Write the page, its numbers and its figures; existing files of these names are replaced.

    Returns:
        The paths written: the HTML, the JSON (``NAME.json``), then the figures (in ``NAME-plots``).

    Raises:
        InvalidOption: jinja2 or matplotlib is not installed, or the target does not end in .html.
        StorageError: the file system refuses.
    """
    target = Path(target_html)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InvalidOption(
            f"page '{target}'", why="its name does not end in .html", mend="Name it screening.html, for instance."
        )
    drawings = drawn(wanted(screening))
    page = render(screening, drawings)
    folder = target.with_name(f"{target.stem}-plots")
    written = [write_file(target, page), write_file(target.with_suffix(".json"), screening.to_json())]
    return written + [write_file(folder / f"{one.stem}.png", one.png) for one in drawings]


def render(screening: Screening, drawings: list[Drawing]) -> str:
    """The page as text.

    Raises:
        InvalidOption: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        mend = "Install it with: pip install 'quiltwork[report]'"
        raise InvalidOption("page", why="jinja2 is not installed", mend=mend) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("quiltwork.evaluate").joinpath(TEMPLATE).read_text(encoding="utf-8")
    figures = {one.section: (one.caption, base64.b64encode(one.png).decode("ascii")) for one in drawings}
    return environment.from_string(source).render(screening=screening, figures=figures)
