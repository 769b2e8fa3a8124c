"""What tests see of a figure: its size, its texts and whether they overlap or leave the canvas."""

from __future__ import annotations

import struct


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def visible_texts(canvas):
    """All texts drawn, with their boxes in pixels."""
    from matplotlib.text import Text

    renderer = canvas.canvas.get_renderer()
    texts = [t for t in canvas.findobj(Text) if t.get_visible() and t.get_text().strip()]
    shown = [t for t in texts if t.axes is None or t.axes.get_visible()]
    return [(t, t.get_window_extent(renderer)) for t in shown if _inside_view(t)]


def _inside_view(text):
    """Matplotlib keeps tick labels outside the limits of an axis, which are not drawn."""
    for axes in text.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if text in (tick.label1, tick.label2):
                    return low <= tick.get_loc() <= high
    return True


def overlaps(boxes):
    """Pairs of texts whose boxes share more than a sliver; the box of a slanted text says too little."""
    upright = [(t, b) for t, b in boxes if t.get_rotation() in (0, 90)]
    found = []
    for i, (one, a) in enumerate(upright):
        for other, b in upright[i + 1 :]:
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            if wide > 1.5 and high > 1.5:
                found.append((one.get_text(), other.get_text()))
    return found


def outside(canvas, boxes):
    """Texts that leave the canvas."""
    width, height = canvas.bbox.width, canvas.bbox.height
    return [
        text.get_text()
        for text, box in boxes
        if box.x0 <= -2 or box.x1 >= width + 2 or box.y0 <= -2 or box.y1 >= height + 2
    ]
