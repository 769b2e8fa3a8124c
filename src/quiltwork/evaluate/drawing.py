"""The canvas, the colours and the signed heat map that the figures of ``plots`` share.

Colours are those of Okabe and Ito (2008), told apart by the common kinds of colour blindness. From the ninth
slot on they repeat with a hatch. Maps with a sign use blue for better and orange for worse around white, and
print their numbers. Figures are drawn on the Agg canvas without pyplot, under matplotlib's default style, so
a reader's own settings do not change them and equal scores give equal bytes on one installation.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.scores import Scores

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A800", "#6A3D9A")
PUBLIC_GREY = "#9A9A9A"
BETTER, WORSE = "#0072B2", "#D55E00"
HATCHES = ("", "///", "...", "xxx")
DPI = 110
MAX_LABEL = 24
# 6600 pixels: hundreds of parties give a crowded figure, not a failure
MAX_INCHES = 60.0

Grid = list[list[float | None]]


def slot_styles(scores: Scores) -> dict[str, tuple[str, int]]:
    """For each slot that answers, parties first: its colour and the number of its hatch."""
    slots = dict.fromkeys(scores.parties)
    for domains in scores.routing.values():
        for routing in domains.values():
            slots |= dict.fromkeys(routing.slots)
    slots |= dict.fromkeys(token.slot for sample in scores.samples for token in sample.tokens)
    coloured = [slot for slot in slots if slot not in ("public", "base")]
    styles = {s: (OKABE_ITO[i % len(OKABE_ITO)], i // len(OKABE_ITO)) for i, s in enumerate(coloured)}
    return {slot: styles.get(slot, (PUBLIC_GREY, 0)) for slot in slots}


def labels(names: Sequence[str]) -> list[str]:
    """Names as matplotlib shows them: shortened, told apart where that makes them equal, ``$`` as itself.

    >>> labels(["law", "regional-hospital-of-the-north-07"])
    ['law', 'regional-hos…he-north-07']
    >>> labels(["the-longest-of-names-01-is-this-one", "the-longest-of-names-02-is-this-one"])
    ['…1-is-this-one', '…2-is-this-one']
    """
    short = {name: _shorten(name) for name in names}
    for name in short:
        alike = [other for other in short if _shorten(other) == _shorten(name)]
        if len(alike) > 1:
            short[name] = _shorten("…" + name[_shared(alike) :])
    return [_literal(short[name]) for name in names]


def _literal(text: str) -> str:
    # matplotlib reads mathematics between dollars, and leaves what begins with _ out of legends
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def _shorten(name: str) -> str:
    half = MAX_LABEL // 2
    return name if len(name) <= MAX_LABEL else f"{name[:half]}…{name[1 - half :]}"


def _shared(names: Sequence[str]) -> int:
    """How many characters the names have in common at their start."""
    columns = enumerate(zip(*names, strict=False))
    return next((i for i, characters in columns if len(set(characters)) > 1), min(map(len, names)))


def label(name: str) -> str:
    """One name as ``labels`` shows it."""
    return labels([name])[0]


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """Yield a figure of the given size in inches and the buffer that its PNG is in afterwards."""
    try:
        import matplotlib.style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidOption(
            "plots",
            why="matplotlib is not installed",
            mend="Install it with: pip install 'quiltwork[report]'",
        ) from error
    buffer = io.BytesIO()
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(min(width, MAX_INCHES), min(height, MAX_INCHES)), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, buffer
        figure.savefig(buffer, format="png", metadata={"Software": None})


def panel_grid(count: int) -> tuple[int, int]:
    """How many of ``count`` panels go beside each other, four at most, and how many below."""
    across = min(count, 4) or 1
    return across, math.ceil(count / across) or 1


def limit_of(grid: Grid, *, skip: Callable[[int, int], bool] | None = None) -> float:
    """The end of a colour scale around zero: the largest finite size in the grid, cells to ``skip`` aside."""
    sizes = [
        abs(v)
        for i, row in enumerate(grid)
        for j, v in enumerate(row)
        if v is not None and math.isfinite(v) and not (skip and skip(i, j))
    ]
    return max(sizes, default=0.0) or 1.0


def robust_limit(grid: Grid) -> float:
    """The end of a colour scale that a few cells far beyond the others do not stretch; those end in an arrow.

    >>> robust_limit([[0.1, -0.2, 0.0], [0.3, 5000.0, None]])
    1.0
    """
    sizes = [abs(v) for row in grid for v in row if v]
    return min(limit_of(grid), 4 * statistics.median(sizes)) if sizes else 1.0


def symmetric_log(axis: Any, values: Sequence[float]) -> None:
    """Make an axis linear near zero and logarithmic beyond, if some values dwarf others; before drawing.

    A hundred of any unit that scores have (bits per byte, nats per row) is out of all proportion.
    """
    sizes = sorted(abs(value) for value in values if value)
    if sizes and sizes[-1] > 100 and sizes[-1] > 30 * sizes[len(sizes) // 4]:
        low = 10.0 ** math.ceil(math.log10(max(sizes[len(sizes) // 10], 1.0)))
        set_scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
        set_scale("symlog", linthresh=low, linscale=2)
        axis.get_major_locator().set_params(numticks=4)


def heat_map(
    axes: Any,
    colours: Grid,
    texts: Sequence[Sequence[str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    bar: str,
    limit: float,
    high_is_better: bool = False,
) -> None:
    """Draw a signed map around white, blue on the better side, with a text in each cell and a colour bar.

    ``rows`` and ``columns`` are labels as ``labels`` makes them.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    ends = [WORSE, "#FFFFFF", BETTER] if high_is_better else [BETTER, "#FFFFFF", WORSE]
    colormap = LinearSegmentedColormap.from_list("signed", ends).with_extremes(bad="#E4E4E4")
    data = np.array([[np.nan if v is None else v for v in row] for row in colours], dtype=float)
    image = axes.imshow(data, cmap=colormap, vmin=-limit, vmax=limit, aspect="auto")
    axes.figure.colorbar(image, ax=axes, label=bar, fraction=0.03, extend=_extend(colours, limit))
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            ink = _ink(image.to_rgba(data[i : i + 1, j : j + 1])[0, 0])
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)


def _ink(rgba: Sequence[float]) -> str:
    """Black or white, whichever has more contrast with ``rgba`` (relative luminance of WCAG 2, 1.4.3)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgba[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"


def _extend(grid: Grid, limit: float) -> str:
    known = [v for row in grid for v in row if v is not None]
    low, high = any(v < -limit for v in known), any(v > limit for v in known)
    return "both" if low and high else "min" if low else "max" if high else "neither"
