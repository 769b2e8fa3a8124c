import itertools

import numpy as np
import pytest
from evaluate_tables_example import gaussian, multinomial, poisson, rows
from sklearn.metrics import adjusted_rand_score

from quiltwork.errors import InvalidOption
from quiltwork.evaluate import truth
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import ConstantWeights, PooledGate, SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture

X = np.random.default_rng(0).normal(size=(200, 2))


def three(seed: int = 1) -> Mixture:
    rng = np.random.default_rng(seed)
    gate = SoftmaxGate(rng.normal(size=(3, 3)))
    return Mixture(gate, GaussianExperts(4 * rng.normal(size=(3, 1, 3)), rng.uniform(0.5, 2, size=(3, 1))))


def relabelled(mixture, order, shift=0.0):
    gate = SoftmaxGate(mixture.gate.coefficients[list(order)] + shift)
    return Mixture(gate, mixture.experts.select(order))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_labels_and_the_freedom_of_the_gate_are_no_error(order):
    other = relabelled(three(), order, shift=np.array([5.0, -1.0, 2.0]))
    assert truth.parameter_error(other, three(), X) == pytest.approx(0.0, abs=1e-24)


def test_the_error_is_that_of_the_best_permutation():
    real, rng = three(), np.random.default_rng(2)
    noisy = Mixture(
        SoftmaxGate(real.gate.coefficients + 0.05 * rng.normal(size=(3, 3))),
        GaussianExperts(
            real.experts.coefficients + 0.05 * rng.normal(size=(3, 1, 3)),
            real.experts.variances + 0.05 * rng.uniform(size=(3, 1)),
        ),
    )

    def error(order):
        one = relabelled(noisy, order)
        gates = (
            one.gate.coefficients - one.gate.coefficients[-1] - (real.gate.coefficients - real.gate.coefficients[-1])
        )
        parts = [
            gates[:-1],
            one.experts.coefficients - real.experts.coefficients,
            one.experts.variances - real.experts.variances,
        ]
        flat = np.concatenate([part.ravel() for part in parts])
        assert len(flat) == truth.n_free_parameters(real) == 18
        return (flat**2).mean()

    found = truth.parameter_error(relabelled(noisy, (2, 0, 1)), real, X)
    assert found == pytest.approx(min(error(order) for order in itertools.permutations(range(3))))
    assert found < 0.1 * sorted(error(order) for order in itertools.permutations(range(3)))[1]


def test_classes_are_compared_up_to_the_freedom_of_each_expert():
    real = multinomial()
    moved = Mixture(real.gate, type(real.experts)(real.experts.coefficients + np.array([1.0, 2.0, -3.0])))
    assert truth.parameter_error(moved, real, X) == pytest.approx(0.0, abs=1e-24)
    other = Mixture(real.gate, type(real.experts)(real.experts.coefficients * 1.5))
    assert truth.parameter_error(other, real, X) > 0.01


@pytest.mark.parametrize(
    ("mixture", "count"),
    [(gaussian(), 3 + 6 + 2), (gaussian(outputs=2), 3 + 12 + 4), (poisson(), 3 + 6), (multinomial(), 3 + 12)],
)
def test_free_parameters(mixture, count):
    assert truth.n_free_parameters(mixture) == count


def pooled(mixture):
    gate = PooledGate((mixture.gate, mixture.gate), ConstantWeights(np.array([0.5, 0.5])))
    return Mixture(gate, mixture.experts.select([0, 1, 0, 1]))


def test_the_pooled_large_mixture_has_the_parameters_of_all_and_no_coefficients_of_its_own():
    large = pooled(gaussian())
    assert truth.n_free_parameters(large) == 2 * truth.n_free_parameters(gaussian())
    with pytest.raises(InvalidOption):
        truth.parameter_error(large, large, X)
    found = truth.distances(large, gaussian(), X)
    assert found.keys() == {"relaxed_divergence", "transport_divergence"}
    assert found["transport_divergence"] == pytest.approx(0.0, abs=1e-12)


def test_distances_vanish_at_the_truth_and_grow_away_from_it():
    assert truth.distances(three(), three(), X) == pytest.approx(
        {"relaxed_divergence": 0.0, "transport_divergence": 0.0, "parameter_error": 0.0}, abs=1e-12
    )
    near, far = (truth.distances(gaussian(shift=s), gaussian(), X) for s in (0.1, 0.5))
    assert all(0 < near[name] < far[name] for name in near)


def test_gates_that_are_all_but_shut_are_transported():
    """Weights near 1e-7, the solver's usual tolerance, which it took for contradictions."""
    ot = pytest.importorskip("ot")

    def sharp(weights):
        gate = SoftmaxGate(np.stack([np.log(weights), np.zeros(4)], axis=1))
        return Mixture(gate, GaussianExperts(20.0 * np.arange(4.0)[:, None, None] * [1.0, 0.0], np.ones((4, 1))))

    one = sharp([1.29988710e-03, 9.98699913e-01, 9.96476673e-08, 9.99970452e-08])
    two = sharp([1.22324244e-03, 9.98776564e-01, 9.68711093e-08, 9.70027492e-08])
    x = np.zeros((1, 1))
    cost = one.experts.divergence(two.experts, x)[0]
    expected = ot.emd2(np.exp(one.log_gate(x))[0], np.exp(two.log_gate(x))[0], cost)
    assert truth.distances(one, two, x)["transport_divergence"] == pytest.approx(expected, abs=1e-9)


def test_too_many_pairs_leave_the_bound_only(monkeypatch):
    monkeypatch.setattr(truth, "MOST_PAIRS", 3)
    assert truth.distances(gaussian(), gaussian(), X).keys() == {"relaxed_divergence", "parameter_error"}


def test_the_agreement_of_the_gate_with_labels():
    mixture = gaussian()
    x, _ = rows(mixture, 300)
    labels = np.random.default_rng(1).integers(0, 2, 300)
    chosen = np.exp(mixture.log_gate(x)).argmax(axis=1)
    assert truth.gate_ari(mixture, x, labels) == adjusted_rand_score(labels, chosen)
    assert truth.gate_ari(mixture, x, 1 - chosen) == 1.0
    assert abs(truth.gate_ari(mixture, x, labels)) < 0.05
