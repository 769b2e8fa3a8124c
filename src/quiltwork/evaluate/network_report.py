"""The report on composed networks, in one call: the score matrix, and figures of the networks themselves.

Where owners released statistics about a pair of networks, the page shows every candidate pair of points by how well a
linear map predicts one activation from the other, and frames the pair that was stitched. No input is looked at for
that: sums of all owners are merged, as composing does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from quiltwork.compose.stitch_joints import Pair, pair_statistics
from quiltwork.composite import NetworkComposite
from quiltwork.evaluate.network_plots import candidates_map
from quiltwork.evaluate.network_scores import Model, Rows, score_networks
from quiltwork.evaluate.plots import Drawing, drawn
from quiltwork.evaluate.report import write_report
from quiltwork.evaluate.scores import Scores
from quiltwork.models.network.pair_moments import PairStatistics
from quiltwork.models.network.placement import rank
from quiltwork.models.network.stitched import StitchedNetwork


def network_report(
    models: Mapping[str, Model],
    held_out: Mapping[str, Rows],
    target: str | os.PathLike[str],
    *,
    scores: Scores | None = None,
    plots_dir: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write the report on composed networks as one HTML file, with figures and numbers beside it.

    Args:
        models: composites and modules by name, as in ``score_networks``.
        held_out: each party's own raw inputs and labels.
        target: the HTML file.
        scores: what ``score_networks`` found for them; by default it is called.
        plots_dir: where the PNG files go; by default ``NAME-plots`` beside the HTML.

    Returns:
        The paths written: the HTML, the JSON, then the figures.

    Raises:
        InvalidOption: rows or models that do not fit, a target that is not HTML, or jinja2 or matplotlib is missing.
        StorageError: the file system refuses.
    """
    found = score_networks(models, held_out) if scores is None else scores
    composites = {name: model for name, model in models.items() if isinstance(model, NetworkComposite)}
    return write_report(found, target, plots_dir=plots_dir, extra=network_drawings(composites))


def network_drawings(composites: Mapping[str, NetworkComposite]) -> list[Drawing]:
    """The figures of ``network_report`` that are not drawn from scores: candidate pairs, one map a pair of networks."""
    statistics: dict[Pair, PairStatistics] = {}
    joined: dict[Pair, list[Pair]] = {}
    for composite in composites.values():
        for pair, found in pair_statistics(composite.members).items():
            statistics.setdefault(pair, found)
            joined[pair] = [*joined.get(pair, []), *_joined(composite, pair)]
    return drawn(
        (
            "candidates",
            f"Candidate pairs: {pair[0]} and {pair[1]}",
            partial(candidates_map, fits(found), *pair, chosen=joined[pair]),
        )
        for pair, found in statistics.items()
    )


def fits(statistics: PairStatistics) -> dict[Pair, float]:
    """Mean R2 of both directions for every candidate pair of points, in the order of depth."""
    score = {(candidate.a, candidate.b): candidate.score for candidate in rank(statistics)}
    pairs = ((a.name, b.name) for a in statistics.layout.a for b in statistics.layout.b)
    return {pair: score[pair] for pair in pairs if pair in score}


def _joined(composite: NetworkComposite, pair: Pair) -> list[Pair]:
    """Where the composite joins the networks of two parties."""
    model = composite.model()
    found: list[Pair] = []
    for splice in model.splices if isinstance(model, StitchedNetwork) else ():
        for source in splice.sources:
            point = {splice.into.party: splice.into.point, source.party: source.point}
            if set(point) == set(pair):
                found.append((point[pair[0]], point[pair[1]]))
    return list(dict.fromkeys(found))
