"""Weights per input: those of the NumPy evidence, in torch; a floor for inputs of nobody; exported alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import network_parties as parties
from quiltwork.contribution.network_graph import PointRecord
from quiltwork.errors import InvalidOption
from quiltwork.evidence.class_moments import ClassMoments
from quiltwork.evidence.covariates import CovariateSummary, deviations
from quiltwork.evidence.embedding import IdentityEmbedding, ModuleEmbedding, RandomEmbedding, embed
from quiltwork.evidence.posterior import posterior
from quiltwork.models.network.embedder import PointFeatures, embedder
from quiltwork.models.network.evidence_weights import EvidenceWeigher

SHAPE = (1, 6, 6)


def images(shift: float, rows: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(rows, *SHAPE)) * (1 + shift / 4) + shift, dtype=np.float32)


def summaries(spec: RandomEmbedding, components: int = 1) -> dict[str, CovariateSummary]:
    owners = {"a": images(0.0, seed=1), "b": images(0.3, seed=2), "c": images(1.0, seed=3)}
    return {
        name: CovariateSummary.from_rows(embed(spec, x.reshape(len(x), -1)), components) for name, x in owners.items()
    }


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("floor", [None, 20.0])
def test_weights_are_those_of_the_numpy_evidence(components: int, floor: float | None) -> None:
    spec = RandomEmbedding(dimension=8, seed=1)
    held = summaries(spec, components)
    prior = {"a": 1.0, "b": 2.0, "c": 1.0}
    weigher = EvidenceWeigher.from_summaries(
        embedder(spec, SHAPE), held, prior=prior, floor=floor, temperature=3.0, shrinkage=0.01
    )
    x = np.concatenate([images(s, 20, seed=9) for s in (0.0, 0.3, 1.0, 2.0, 30.0)])
    rows = embed(spec, x.reshape(len(x), -1).astype(np.float64))
    whole = held["a"].merge(held["b"]).merge(held["c"])
    densities = np.stack([s.log_density(rows, 0.01, deviations(whole.whole)) for s in held.values()], axis=1)
    np.testing.assert_allclose(weigher.log_densities(torch.tensor(x)).numpy(), densities, rtol=1e-12, atol=1e-10)
    share = np.array([0.25, 0.5, 0.25])
    nobody = None if floor is None else float(weigher.nobody) / 3
    log_weights = posterior(densities / 3, np.log(share), (1, 2, 3), slots=4, floor=nobody).exp().numpy()
    wanted = log_weights[:, 1:] + log_weights[:, :1] * share
    np.testing.assert_allclose(weigher(torch.tensor(x)).numpy(), wanted, atol=1e-7)
    with torch.no_grad():
        exact = weigher.float64_weights(torch.tensor(x)).numpy()
    np.testing.assert_allclose(exact, wanted, atol=1e-10)


def test_log_densities_are_those_of_scipy() -> None:
    spec = IdentityEmbedding()
    rows = np.random.default_rng(0).normal(size=(400, 3)) @ np.diag([1.0, 2.0, 3.0])
    held = {"a": CovariateSummary.from_rows(rows), "b": CovariateSummary.from_rows(rows + 1)}
    weigher = EvidenceWeigher.from_summaries(embedder(spec, (3,)), held, shrinkage=1e-6)
    wanted = multivariate_normal(rows.mean(axis=0), np.cov(rows.T, bias=True)).logpdf(rows[:9])
    found = weigher.log_densities(torch.tensor(rows[:9]))[:, 0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_each_owner_is_trusted_on_its_own_inputs() -> None:
    spec = RandomEmbedding(dimension=8, seed=1)
    weigher = EvidenceWeigher.from_summaries(embedder(spec, SHAPE), summaries(spec))
    weights = [weigher(torch.tensor(images(shift, 200, seed=20))) for shift in (0.0, 0.3, 1.0)]
    assert all(torch.allclose(table.sum(dim=1), torch.ones(200)) for table in weights)
    means = torch.stack([table.mean(dim=0) for table in weights])
    assert means.argmax(dim=0).tolist() == [0, 1, 2]


def test_far_from_everybody_members_count_by_their_prior_and_only_with_a_floor() -> None:
    spec = RandomEmbedding(dimension=8, seed=1)
    far = torch.tensor(images(0.0, 5)) * 0 + 1e3 * torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    prior = {"a": 1.0, "b": 1.0, "c": 2.0}
    floored = EvidenceWeigher.from_summaries(embedder(spec, SHAPE), summaries(spec), prior=prior, floor=30.0)
    assert torch.allclose(floored(far), torch.tensor([0.25, 0.25, 0.5]).expand(5, 3))
    free = EvidenceWeigher.from_summaries(embedder(spec, SHAPE), summaries(spec), prior=prior)
    assert free(far).max(dim=1).values.min() > 0.99
    own = torch.tensor(images(0.0, 200, seed=31))
    assert torch.allclose(floored(own), free(own), atol=1e-3)


def test_the_floor_lies_below_the_mean_log_density_of_own_rows() -> None:
    rows = np.random.default_rng(3).normal(size=(5000, 4))
    held = {"wide": CovariateSummary.from_rows(rows * 5), "narrow": CovariateSummary.from_rows(rows)}
    weigher = EvidenceWeigher.from_summaries(embedder(IdentityEmbedding(), (4,)), held, floor=10.0, shrinkage=1e-6)
    own = weigher.log_densities(torch.tensor(rows * 5))[:, 0].mean()
    assert float(weigher.nobody) == pytest.approx(float(own) - 10, abs=1e-3)


def test_one_party_has_all_the_weight_and_a_party_taken_out_is_not_missed() -> None:
    spec = RandomEmbedding(dimension=8, seed=1)
    held, x = summaries(spec), torch.tensor(images(0.5, 10))
    alone = EvidenceWeigher.from_summaries(embedder(spec, SHAPE), {"a": held["a"]})
    assert torch.allclose(alone(x), torch.ones(10, 1))
    pair = EvidenceWeigher.from_summaries(embedder(spec, SHAPE), {n: held[n] for n in ("a", "b")})
    again = EvidenceWeigher.from_summaries(embedder(spec, SHAPE), {n: s for n, s in held.items() if n != "c"})
    assert torch.equal(pair(x), again(x))


def test_class_moments_serve_as_a_density_too() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 600)
    rows = rng.normal(size=(600, 2)) + 8 * labels[:, None]
    classes = ClassMoments.from_rows(rows, labels, 2, "per_class").covariates()
    middle = CovariateSummary.from_rows(rng.normal(size=(600, 2)) + 4)
    weigher = EvidenceWeigher.from_summaries(
        embedder(IdentityEmbedding(), (2,)), {"ends": classes, "middle": middle}, shrinkage=1e-6
    )
    weights = weigher(torch.tensor([[0.0, 0.0], [4.0, 4.0], [8.0, 8.0]]))
    assert (weights[:, 0] > 0.9).tolist() == [True, False, True]


def test_the_module_exports_for_any_batch() -> None:
    spec = RandomEmbedding(dimension=8, seed=1)
    weigher = EvidenceWeigher.from_summaries(embedder(spec, SHAPE), summaries(spec, 2), floor=20.0).eval()
    example = torch.tensor(images(0.2, 3))
    program = torch.export.export(weigher, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    for n in (1, 7):
        x = torch.tensor(images(0.4, n, seed=n))
        assert torch.equal(program.module()(x), weigher(x))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prior": {"a": 1.0, "b": 0.0, "c": 1.0}}, "prior"),
        ({"prior": {"a": 1.0}}, "prior"),
        ({"prior": {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}}, "prior"),
        ({"floor": float("nan")}, "floor"),
        ({"temperature": 0.0}, "temperature"),
        ({"shrinkage": 0.0}, "shrinkage"),
    ],
)
def test_options_out_of_their_domain_are_refused(changes: dict[str, object], said: str) -> None:
    spec = RandomEmbedding(dimension=4, seed=1)
    with pytest.raises(InvalidOption, match=said):
        EvidenceWeigher.from_summaries(embedder(spec, SHAPE), summaries(spec), **changes)  # type: ignore[arg-type]


def test_summaries_that_do_not_fit_are_refused() -> None:
    few, many = (CovariateSummary.from_rows(np.random.default_rng(0).normal(size=(20, d))) for d in (2, 3))
    with pytest.raises(InvalidOption, match="2 and 3 dimensions"):
        EvidenceWeigher.from_summaries(embedder(IdentityEmbedding(), (2,)), {"a": few, "b": many})
    with pytest.raises(InvalidOption, match="none"):
        EvidenceWeigher.from_summaries(embedder(IdentityEmbedding(), (2,)), {})


def test_features_are_grid_means_of_the_named_module() -> None:
    network = parties.network("ash")
    x = torch.from_numpy(parties.inputs("ash", rows=4))
    for point, axes in (("first", (2, 3)), ("pooled", ())):
        raw = network.run(x, [point])[point].double()
        spec = ModuleEmbedding(party="ash", digest=network.digest, point=point, dimension=raw.shape[1])
        module = embedder(spec, SHAPE, network)
        assert torch.equal(module(x), raw.mean(dim=axes) if axes else raw)
    for given, said in ((None, "not given"), (parties.network("birch"), "another one")):
        with pytest.raises(InvalidOption, match=said):
            embedder(spec, SHAPE, given)
    with pytest.raises(InvalidOption, match="no point"):
        embedder(spec.model_copy(update={"point": "tail"}), SHAPE, network)
    with pytest.raises(InvalidOption, match="channels"):
        embedder(spec.model_copy(update={"dimension": 9}), SHAPE, network)


@pytest.mark.parametrize(
    ("form", "shape", "axes"), [("tokens", (5, 3), (1,)), ("grid", (2, 4, 3), (1, 2)), ("map", (3, 2, 4), (2, 3))]
)
def test_positions_are_averaged_in_every_form(form: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    record = PointRecord(name="p", node="p", form=form, shape=shape, cut=True)  # type: ignore[arg-type]
    network = _Stand(record)
    value = network.run(torch.zeros(2), ["p"])["p"]
    assert torch.equal(PointFeatures(network, "p")(torch.zeros(2)), value.double().mean(dim=axes))  # type: ignore[arg-type]


class _Stand(torch.nn.Module):
    """A network of which only one point matters."""

    def __init__(self, record: PointRecord) -> None:
        super().__init__()
        self.record = record

    def point(self, name: str) -> PointRecord:
        return self.record

    def run(self, x: torch.Tensor, want: list[str]) -> dict[str, torch.Tensor]:
        values = torch.arange(float(len(x) * math.prod(self.record.shape)))
        return {name: values.reshape(len(x), *self.record.shape) for name in want}
