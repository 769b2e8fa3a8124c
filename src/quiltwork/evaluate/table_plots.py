"""Figures of mixtures on tables as PNG bytes: the experts along a covariate, the gate over two.

Both are slices: covariates that are not drawn are held at their medians. An expert is as thick as its gate is open,
so that a line far from any data, which looks like a finding and is extrapolation, stays thin.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from quiltwork.evaluate.drawing import HATCHES, OKABE_ITO, PUBLIC_GREY, figure, label
from quiltwork.evaluate.profile import Profile
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.mixture import Mixture

# an expert whose gate is nowhere this open takes no part in the picture's range, and has no band
OPEN = 0.05
# more points than this are a blot; they are thinned at even distances
MOST_POINTS = 1500
# in a plane, a grid finer than this shows nothing more
PLANE = 121
# a thinner strip of a gate has no room for a number
MIN_STRIP = 0.25
# a mixture of more experts is shown by its prediction only
MOST_EXPERTS = 12


def experts_over(
    mixture: Mixture[Experts],
    feature: int,
    profile: Profile,
    *,
    target: str = "y",
    output: int = 0,
    data: tuple[Array, Array] | None = None,
) -> bytes:
    """The experts' means along one covariate with one standard deviation around each; the gate below.

    Args:
        mixture: Gaussian or Poisson experts; for classes see ``classes_over``.
        feature: number of the covariate.
        profile: its range, and where the others are held.
        target: name of the response.
        output: which response, of several.
        data: rows to draw as points, x ``[n, d]`` and y ``[n]`` or ``[n, q]``.
    """
    axis = profile.axis(feature)
    x = profile.slice((feature, axis))
    with figure(8.6, 5.6) as (canvas, png):
        above, below = _stacked_axes(canvas, profile.names[feature])
        reach = _experts(above, mixture, x, axis, output)
        if data is not None:
            up = np.asarray(data[1]).reshape(len(data[0]), -1)[:, output]
            _points(above, data[0][:, feature], up)
            # a few far rows would flatten everything else
            reach = np.append(reach, np.quantile(up, [0.002, 0.998]))
        above.set_ylim(reach.min(), reach.max())
        _prediction(above, mixture, x, axis, output)
        above.set_title(f"Experts along {label(profile.names[feature])}, other covariates at their medians")
        above.set_ylabel(label(target))
        _legend(above)
        _gate_strip(below, mixture, x, axis)
    return png.getvalue()


def _stacked_axes(canvas: Any, feature: str) -> tuple[Any, Any]:
    above, below = canvas.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    below.set_xlabel(label(feature))
    below.set_ylabel("gate")
    return above, below


def _legend(axes: Any) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _points(axes: Any, across: Array, up: Array) -> None:
    thin = slice(None, None, max(1, -(-len(across) // MOST_POINTS)))
    look = {"s": 6, "color": PUBLIC_GREY, "alpha": 0.45, "linewidths": 0, "label": "held-out rows"}
    axes.scatter(across[thin], up[thin], zorder=1, **look)


def _experts(axes: Any, mixture: Mixture[Experts], x: Array, axis: Array, output: int) -> Array:
    """Draw the experts; return the values up to which the picture should reach."""
    gate, mean = np.exp(mixture.log_gate(x)), mixture.experts.mean(x)[:, :, output]
    deviation = np.sqrt(mixture.experts.variance(x)[:, :, output])
    for k in range(mixture.n_experts if mixture.n_experts <= MOST_EXPERTS else 0):
        _weighted_line(axes, axis, mean[:, k], gate[:, k], k)
        held = {"where": gate[:, k] > OPEN, "color": _colour(k), "alpha": 0.13, "linewidth": 0}
        axes.fill_between(axis, mean[:, k] - deviation[:, k], mean[:, k] + deviation[:, k], **held)
    return np.stack([mean - 1.5 * deviation, mean + 1.5 * deviation])[:, gate > OPEN]


def _weighted_line(axes: Any, across: Array, up: Array, weight: Array, k: int) -> None:
    from matplotlib.collections import LineCollection

    points = np.stack([across, up], axis=1)
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    middle = (weight[:-1] + weight[1:]) / 2
    lines = LineCollection(list(pieces), linewidths=0.5 + 4.5 * middle, colors=_colour(k), capstyle="round")
    axes.add_collection(lines)
    axes.plot([], [], color=_colour(k), linewidth=3, label=f"expert {k}")


def _prediction(axes: Any, mixture: Mixture[Experts], x: Array, axis: Array, output: int) -> None:
    mean = mixture.mean(x)[:, output]
    axes.plot(axis, mean, color="black", linewidth=1.4, linestyle="--", label="prediction (mean)", zorder=4)


def _colour(k: int) -> str:
    return OKABE_ITO[k % len(OKABE_ITO)]


def _gate_strip(axes: Any, mixture: Mixture[Experts], x: Array, axis: Array, *, grey: bool = False) -> None:
    """The gate's probabilities, stacked, each with its expert's number where it is widest."""
    gate = np.exp(mixture.log_gate(x))
    edges = np.concatenate([np.zeros((len(axis), 1)), gate.cumsum(axis=1)], axis=1)
    for k in range(gate.shape[1]):
        hatch = HATCHES[(k // len(OKABE_ITO)) % len(HATCHES)]
        face = f"{0.45 + 0.5 * k / gate.shape[1]:.2f}" if grey else _colour(k)
        look = {"facecolor": face, "edgecolor": "white", "linewidth": 0.4, "hatch": hatch}
        axes.fill_between(axis, edges[:, k], edges[:, k + 1], **look)
        # not at the very ends, where half of a number would be cut off
        widest = 3 + int(gate[3:-3, k].argmax())
        if gate[widest, k] > MIN_STRIP:
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "boxstyle": "round,pad=0.15"}
            middle = (edges[widest, k] + edges[widest, k + 1]) / 2
            axes.text(axis[widest], middle, str(k), ha="center", va="center", fontsize=8, bbox=box)
    axes.set_ylim(0, 1)
    axes.set_xlim(axis[0], axis[-1])


def classes_over(
    mixture: Mixture[Experts], feature: int, profile: Profile, *, classes: Sequence[str] | None = None
) -> bytes:
    """The predicted probability of each class along one covariate; the gate below.

    Args:
        mixture: multinomial experts.
        feature: number of the covariate.
        profile: its range, and where the others are held.
        classes: their names, in the order of the codes.
    """
    axis = profile.axis(feature)
    x = profile.slice((feature, axis))
    p = mixture.mean(x)
    names = classes or [f"class {c}" for c in range(p.shape[1])]
    styles = itertools.cycle(("-", "--", ":", "-."))
    with figure(8.6, 5.6) as (canvas, png):
        above, below = _stacked_axes(canvas, profile.names[feature])
        for c, (name, style) in enumerate(zip(names, styles, strict=False)):
            above.plot(axis, p[:, c], color=_colour(c), linestyle=style, linewidth=2, label=label(name))
        above.set_ylim(-0.02, 1.02)
        above.set_ylabel("predicted probability")
        above.set_title(f"Classes along {label(profile.names[feature])}, other covariates at their medians")
        _legend(above)
        # in grey: the colours above are those of classes
        _gate_strip(below, mixture, x, axis, grey=True)
        below.set_ylabel("gate, by expert")
    return png.getvalue()


def gate_surface(
    mixture: Mixture[Experts], features: tuple[int, int], profile: Profile, *, data: Array | None = None
) -> bytes:
    """Which expert counts where, over two covariates: colour is the likeliest expert, depth how sure the gate is.

    Args:
        mixture: any family.
        features: numbers of the covariates, across and up.
        profile: their ranges, and where the others are held.
        data: rows ``[n, d]`` to draw as points.
    """
    one, two = features
    across, up = profile.axis(one, PLANE), profile.axis(two, PLANE)
    grid = np.meshgrid(across, up)
    gate = np.exp(mixture.log_gate(profile.slice((one, grid[0].ravel()), (two, grid[1].ravel()))))
    best = gate.argmax(axis=1).reshape(PLANE, PLANE)
    with figure(8.0, 5.2) as (canvas, png):
        title = "Which expert counts where, other covariates at their medians"
        axes = canvas.add_subplot(title=title, xlabel=label(profile.names[one]), ylabel=label(profile.names[two]))
        extent = (across[0], across[-1], up[0], up[-1])
        image = _blend(best, gate.max(axis=1).reshape(PLANE, PLANE), gate.shape[1])
        axes.imshow(image, origin="lower", extent=extent, aspect="auto", interpolation="nearest")
        _boundaries(axes, gate.reshape(PLANE, PLANE, -1), across, up)
        if data is not None:
            thin = slice(None, None, max(1, -(-len(data) // MOST_POINTS)))
            axes.scatter(data[thin, one], data[thin, two], s=5, color="black", alpha=0.35, linewidths=0)
        axes.set_xlim(extent[:2])
        axes.set_ylim(extent[2:])
        _surface_legend(axes, np.unique(best), points=data is not None)
    return png.getvalue()


def _blend(best: Any, sure: Array, experts: int) -> Array:
    """Colours of experts, towards white where the gate is no surer than chance: ``[rows, columns, 3]``."""
    from matplotlib.colors import to_rgb

    colours = np.array([to_rgb(_colour(k)) for k in range(experts)])
    depth = (sure - 1 / experts) / max(1 - 1 / experts, 1e-12)
    weight = (0.12 + 0.88 * np.clip(depth, 0, 1))[..., None]
    return np.asarray(1 - weight * (1 - colours[best]))


def _boundaries(axes: Any, gate: Array, across: Array, up: Array) -> None:
    """Where an expert's probability equals the largest of the others'."""
    for k in np.unique(gate.argmax(axis=2)) if gate.shape[2] > 1 else ():
        lead = gate[:, :, k] - np.delete(gate, k, axis=2).max(axis=2)
        if lead.min() < 0 < lead.max():
            axes.contour(across, up, lead, levels=[0.0], colors="white", linewidths=1.2)


def _surface_legend(axes: Any, shown: Any, *, points: bool) -> None:
    for k in shown:
        axes.plot([], [], marker="s", markersize=10, linestyle="", color=_colour(k), label=f"expert {k}")
    if points:
        axes.plot([], [], marker="o", markersize=3, linestyle="", color="black", label="held-out rows")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="pale: not sure")
