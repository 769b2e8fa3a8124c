"""Ranking of pairs of points: planted relations are found, fits agree with single ones, the pick spreads over depth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_pairs import LAYOUT, activations, point, statistics

from quiltwork.contribution.pair_layout import PairLayout
from quiltwork.errors import InvalidOption
from quiltwork.models.network.placement import Candidate, pick, rank
from quiltwork.models.network.regression import fit


def planted(images=300, at=2, noise=0.01):
    """Four unrelated points a network, but for one: B's is a rotation of A's at depth ``at``."""
    rng = np.random.default_rng(5)
    layout = PairLayout(
        tuple(point(f"a{k}", 6, 4 if k < 2 else 2) for k in range(4)),
        tuple(point(f"b{k}", 6, 4 if k < 2 else 2) for k in range(4)),
    )
    a, b = (
        [torch.from_numpy(rng.normal(size=(images, p.channels, p.height, p.width))).float() for p in side]
        for side in (layout.a, layout.b)
    )
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(6, 6)))[0]).float()
    b[at] = torch.einsum("oc,nchw->nohw", turn, a[at]) + noise * b[at] + 3
    return layout, a, b


@pytest.mark.parametrize("at", [0, 2, 3])
def test_a_planted_rotation_is_found(at):
    layout, a, b = planted(at=at)
    train, held = ([x[:200] for x in a], [x[:200] for x in b]), ([x[200:] for x in a], [x[200:] for x in b])
    found = rank(statistics({"train": train, "held_out": held}, layout))
    assert (found[0].a, found[0].b) == (f"a{at}", f"b{at}")
    assert found[0].score > 0.999 > 0.5 > found[1].score
    assert found[0].cka > 0.99


def test_without_the_plant_nothing_is_found():
    """Negative control."""
    layout, a, b = planted(noise=1e6)
    assert max(candidate.score for candidate in rank(statistics({"train": (a, b)}, layout))) < 0.5


def test_every_pair_is_ranked_with_the_fit_of_that_pair():
    a, b = activations(60)
    both = statistics({"train": (a, b), "held_out": activations(40, 9)})
    found = rank(both)
    assert len(found) == len(LAYOUT.pairs)
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    for candidate in found:
        ahead, back = (fit(both, candidate.a, candidate.b, into=side) for side in ("b", "a"))
        assert candidate.a_to_b == pytest.approx(ahead.r2_held_out, abs=1e-12)
        assert candidate.b_to_a == pytest.approx(back.r2_held_out, abs=1e-12)
        assert (candidate.ridge_a_to_b, candidate.ridge_b_to_a) == (ahead.ridge, back.ridge)


def test_without_held_out_rows_the_fit_on_all_ranks():
    found = rank(statistics({"train": activations(60)}))[0]
    single = fit(statistics({"train": activations(60)}), found.a, found.b, into="b")
    assert found.a_to_b == pytest.approx(single.r2_train, abs=1e-12)


def candidate(name, score, depth):
    return Candidate(name, name, score, score, 0.0, 0.0, 0.0, (depth, depth))


def test_the_pick_takes_the_best_of_each_stretch_of_depth():
    ranked = [
        candidate("s1", 0.99, 0.0),
        candidate("s2", 0.98, 0.1),
        candidate("m", 0.6, 0.5),
        candidate("d", 0.4, 1.0),
    ]
    assert [c.a for c in pick(ranked, 3)] == ["s1", "m", "d"]
    assert [c.a for c in pick(ranked, 1)] == ["s1"]
    assert [c.a for c in pick(ranked[:2], 4)] == ["s1", "s2"]
    with pytest.raises(InvalidOption, match="count=0"):
        pick(ranked, 0)
