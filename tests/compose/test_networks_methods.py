"""What the methods over networks compute, against sums written out by hand, SciPy and scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import network_parties as parties
from quiltwork.compose.combine import Combine
from quiltwork.compose.gaussian_head import GaussianHead
from quiltwork.compose.method import compose
from quiltwork.compose.network_evidence import Evidence
from quiltwork.compose.network_soup import NetworkSoup
from quiltwork.compose.stitch import Stitch
from quiltwork.compose.stitch_placements import placements
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption, MissingPart, TensorMismatch
from quiltwork.evaluate.placement import search
from quiltwork.evidence.embedding import ModuleEmbedding, embed
from quiltwork.models.network.network import Network
from quiltwork.models.network.stitched import StitchedNetwork

Modules = Mapping[str, Contribution]
Nets = Mapping[str, Network]
X = parties.inputs()


def logits(nets: Nets) -> np.ndarray:
    """Everybody's outputs, float64 [M, n, k]."""
    with torch.no_grad():
        return np.stack([one(torch.from_numpy(X)).double().numpy() for one in nets.values()])


# Combine.


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (2.5, 1.0, 1.0)])
def test_probabilities_are_averaged(weights: Sequence[float], modules: Modules, nets: Nets) -> None:
    stated = {p: w for p, w in zip(parties.PARTIES, weights, strict=True) if w != 1}
    expected = np.average(softmax(logits(nets), axis=-1), axis=0, weights=weights)
    found = compose(list(modules.values()), Combine(weights=stated or "uniform")).predict_proba(X)
    assert np.abs(found - expected).max() < 1e-6


def test_logits_are_averaged(modules: Modules, nets: Nets) -> None:
    expected = softmax(logits(nets).mean(axis=0), axis=-1)
    assert np.abs(compose(list(modules.values()), Combine("logit")).predict_proba(X) - expected).max() < 1e-6


def test_evidence_is_the_posterior_over_parties(modules: Modules, nets: Nets) -> None:
    embedded = embed(parties.EMBEDDING, X.reshape(len(X), -1))
    scale = pooled_variances()
    density = np.stack([log_density(party, embedded, scale) for party in nets])
    for temperature in (1.0, 3.0):
        posterior = softmax(density / temperature, axis=0)
        expected = np.einsum("mi,mik->ik", posterior, softmax(logits(nets), axis=-1))
        method = Combine(weights="evidence", evidence=Evidence(temperature=temperature))
        assert np.abs(compose(list(modules.values()), method).predict_proba(X) - expected).max() < 1e-5
    uniform = softmax(logits(nets), axis=-1).mean(axis=0)
    assert np.abs(uniform - expected).max() > 1e-2, "a check that the plain mean would pass is none"


def pooled_variances() -> np.ndarray:
    rows = [embed(parties.EMBEDDING, parties.inputs(p).reshape(60, -1)) for p in parties.PARTIES]
    return np.concatenate(rows).var(axis=0)


def log_density(party: str, x: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """From the groups that the party released: counts, means, covariances, shrunk towards everybody's diagonal."""
    _, tensors = parties.statistics(party, ("inputs",))
    counts, means, covariances = (tensors[f"inputs.{name}"] for name in ("counts", "means", "covariances"))
    parts = [
        np.log(n / counts.sum()) + multivariate_normal(m, 0.999 * c + 0.001 * np.diag(variances)).logpdf(x)
        for n, m, c in zip(counts, means, covariances, strict=True)
    ]
    return logsumexp(parts, axis=0)


def test_far_from_everybody_the_floor_gives_the_plain_mean(modules: Modules, nets: Nets) -> None:
    far = np.full((3, *parties.SHAPE), 9.0)
    given = list(modules.values())
    floored = compose(given, Combine(weights="evidence", evidence=Evidence(floor=5.0))).predict_proba(far)
    assert np.abs(floored - compose(given, Combine()).predict_proba(far)).max() < 1e-3
    assert np.abs(floored - compose(given, Combine(weights="evidence")).predict_proba(far)).max() > 1e-2


def test_stacked_shares_minimise_the_squared_error_on_all_rows(modules: Modules, nets: Nets, tmp_path: Path) -> None:
    told = [parties.release_outputs(tmp_path, party, nets) for party in ("ash", "cedar")]
    composite = compose([*modules.values(), *told], Combine(weights="stacked"))
    found = np.array([composite.solution.figures["weights"][party] for party in nets])  # type: ignore[call-overload, index]
    rows = np.concatenate([parties.inputs(p, seed=5) for p in ("ash", "cedar")])
    with torch.no_grad():
        p = np.stack([one(torch.from_numpy(rows)).double().softmax(1).numpy() for one in nets.values()])
    y = np.eye(3)[np.concatenate([parties.labels(q) for q in ("ash", "cedar")])]

    def loss(weights: np.ndarray) -> float:
        return float(((np.einsum("m,mik->ik", weights, p) - y) ** 2).sum())

    best = minimize(
        loss,
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12},
    )
    assert found.sum() == pytest.approx(1)
    assert loss(found) <= best.fun + 1e-6
    assert loss(found) < loss(np.full(3, 1 / 3))


def test_numbers_are_averaged(tmp_path: Path) -> None:
    nets = {party: parties.network(party, classes=None, outputs=2) for party in parties.PARTIES}
    given = [parties.release(tmp_path, party, one=one) for party, one in nets.items()]
    composite = compose(given, Combine())
    assert np.abs(composite.predict(X) - logits(nets).mean(axis=0)).max() < 1e-6
    median = compose(given, Combine("median")).predict(X)
    assert np.abs(median - np.median(logits(nets), axis=0)).max() < 1e-6
    with pytest.raises(InvalidOption, match="probabilities: the task has numbers"):
        composite.predict_proba(X)
    with pytest.raises(InvalidOption, match="rule='logit': the networks give numbers"):
        compose(given, Combine("logit"))


# Gaussian head.


def test_the_head_is_that_of_the_rows_in_one_place(modules: Modules) -> None:
    rows = np.concatenate([embed(parties.EMBEDDING, parties.inputs(p).reshape(60, -1)) for p in parties.PARTIES])
    codes = np.concatenate([parties.labels(p) for p in parties.PARTIES])
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(rows, codes)
    found = compose(list(modules.values()), GaussianHead(shrinkage=0.0)).predict_proba(X)
    assert np.abs(found - oracle.predict_proba(embed(parties.EMBEDDING, X.reshape(len(X), -1)))).max() < 1e-6


def test_a_class_that_nobody_holds_is_told(tmp_path: Path) -> None:
    declared, tensors = parties.statistics("ash", ("classes",))
    tensors |= {"classes.counts": tensors["classes.counts"] * np.array([1, 0, 1])}
    given = parties.release_statistics(tmp_path, "ash", declared, tensors)
    composite = compose([given], GaussianHead())
    assert composite.solution.notes == ("no party has rows of class 'maybe', and the head never says it",)
    assert composite.predict_proba(X)[:, 1].max() < 1e-12
    assert "maybe" not in composite.predict(X)


def test_the_embedding_may_be_the_features_of_a_module_that_is_given(nets: Nets, tmp_path: Path) -> None:
    lender = nets["birch"]
    point = lender.point("deep")
    embedding = ModuleEmbedding(party="birch", digest=lender.digest, point="deep", dimension=point.channels)
    with torch.no_grad():
        rows = {
            p: lender.run(torch.from_numpy(parties.inputs(p)), ["deep"])["deep"].double().numpy()
            for p in ("ash", "cedar")
        }
    given = [parties.release_class_moments(tmp_path, p, one, embedding) for p, one in rows.items()]
    bare = parties.release(tmp_path, "birch", one=lender)
    composite = compose([*given, bare], GaussianHead(shrinkage=0.0))
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(
        np.concatenate(list(rows.values())), np.concatenate([parties.labels(p) for p in rows])
    )
    with torch.no_grad():
        seen = lender.run(torch.from_numpy(X), ["deep"])["deep"].double().numpy()
    assert np.abs(composite.predict_proba(X) - oracle.predict_proba(seen)).max() < 1e-5
    assert composite.without("ash").parties == ("birch", "cedar")


# Soup.


def test_a_soup_is_the_mean_of_the_weights(tmp_path: Path) -> None:
    nets = {name: parties.network("ash", seed) for seed, name in enumerate(("elm", "fir"))}
    given = [parties.release(tmp_path, name, one=one) for name, one in nets.items()]
    soup = compose(given, NetworkSoup({"fir": 3.0})).model()
    assert isinstance(soup, Network)
    tables = [one.tensors() for one in nets.values()]
    for name, tensor in soup.tensors().items():
        assert torch.allclose(tensor, (tables[0][name] + 3 * tables[1][name]) / 4, atol=1e-6)


def test_networks_of_other_graphs_have_no_soup(tmp_path: Path) -> None:
    given = [
        parties.release(tmp_path, "elm", one=parties.network("ash")),
        parties.release(tmp_path, "fir", one=parties.network("ash", mean=(0.1,))),
    ]
    with pytest.raises(TensorMismatch, match="party 'fir': its signature is another than that of party 'elm'"):
        compose(given, NetworkSoup())


# Stitch.


def test_the_closed_form_is_least_squares_on_all_owners_rows(modules: Modules, nets: Nets, tmp_path: Path) -> None:
    owners = [
        parties.release_pair(tmp_path, p, modules["ash"], modules["birch"], held_out=0.0) for p in parties.PARTIES
    ]
    method = Stitch(("birch", "ash"), ("deep", "pooled.0"), ridge=0.0)
    model = compose([modules["ash"], modules["birch"], *owners], method).model()
    assert isinstance(model, StitchedNetwork)
    (place,) = [k for k, splice in enumerate(model.splices) if splice.into.party == "ash"]
    (adapter,) = model.adapters_of(place)
    rows = torch.from_numpy(np.concatenate([parties.inputs(p, rows=500) for p in parties.PARTIES]))
    with torch.no_grad():
        target, source = (
            nets[party].run(rows, [point])[point].flatten(1).double().numpy()
            for party, point in (("ash", "pooled.0"), ("birch", "deep"))
        )
    solution = np.linalg.lstsq(np.column_stack([source, np.ones(len(source))]), target, rcond=None)[0]
    assert np.abs(adapter.weight.detach().numpy() - solution[:-1].T).max() < 1e-5
    assert np.abs(adapter.bias.detach().numpy() - solution[-1]).max() < 1e-5


def test_one_way_lets_the_second_tail_answer(modules: Modules, sums: Modules) -> None:
    given = [modules["ash"], modules["birch"], sums["ash"]]
    model = compose(given, Stitch(("ash", "birch"), both=False)).model()
    assert isinstance(model, StitchedNetwork)
    assert model.tails == ("birch",)
    assert [splice.into.party for splice in model.splices] == ["birch"]


def test_with_three_networks_pairs_that_would_wait_for_each_other_are_left_out(
    modules: Modules, tmp_path: Path
) -> None:
    order = [("ash", "birch"), ("ash", "cedar"), ("birch", "cedar")]
    pairs = [parties.release_pair(tmp_path, "ash", modules[a], modules[b]) for a, b in order]
    solution = compose([*modules.values(), *pairs], Stitch()).solution
    joined = solution.figures["joints"]
    assert isinstance(joined, list)
    assert len(joined) + len(solution.notes) == 3
    assert len(joined) >= 2
    assert all("would wait for each other" in note for note in solution.notes)


def test_what_was_found_is_told(modules: Modules, sums: Modules) -> None:
    figures = compose([modules["ash"], modules["birch"], sums["ash"]], Stitch()).solution.figures
    told = figures["candidates"]["ash,birch"]  # type: ignore[call-overload, index]
    assert 1 <= len(told) <= 5  # type: ignore[arg-type]
    cost = figures["cost"]
    assert set(cost) == {"ash", "birch", "ensemble", "stitched"}  # type: ignore[arg-type]
    whole = {name: one["multiply_adds"] for name, one in cost.items()}  # type: ignore[union-attr]
    assert whole["ensemble"] == whole["ash"] + whole["birch"] < whole["stitched"]


def test_placements_are_methods_that_compose_and_owners_choose_among(modules: Modules, sums: Modules) -> None:
    given = [modules["ash"], modules["birch"], *sums.values()]
    found = placements(given, Stitch(rule="logit"), count=3)
    assert 1 <= len(found) <= 3
    composites = {name: compose(given, method) for name, method in found.items()}
    for name, method in found.items():
        assert method.pair == ("ash", "birch")
        assert method.rule == "logit"
        assert method.points is not None
        assert name == f"ash {method.points[0]}, birch {method.points[1]}"
    wrong = {
        p: {name: float(np.mean(one.predict(parties.inputs(p)) != "yes")) for name, one in composites.items()}
        for p in ("ash", "birch")
    }
    searched = search(list(found), lambda name: {owner: row[name] for owner, row in wrong.items()})
    assert set(searched.front) <= set(found)
    assert searched.front


def test_placements_keep_the_direction(modules: Modules, sums: Modules) -> None:
    given = [modules["ash"], modules["birch"], sums["ash"]]
    found = placements(given, Stitch(("birch", "ash"), both=False))
    for method in found.values():
        model = compose(given, method).model()
        assert isinstance(model, StitchedNetwork)
        assert model.tails == ("ash",)
        assert method.points is not None
        assert model.splices[0].sources[0] == ("birch", method.points[0])


def test_placements_of_nobody_s_sums_or_of_several_pairs_are_refused(
    modules: Modules, sums: Modules, tmp_path: Path
) -> None:
    with pytest.raises(MissingPart, match="candidates for a stitch"):
        placements([modules["ash"], modules["birch"]])
    more = parties.release_pair(tmp_path, "ash", modules["ash"], modules["cedar"])
    with pytest.raises(InvalidOption, match="sums about 2 pairs"):
        placements([*modules.values(), sums["ash"], more])
    assert all("cedar" in name for name in placements([*modules.values(), sums["ash"], more], Stitch(("cedar", "ash"))))
