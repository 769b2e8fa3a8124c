"""DP-SGD at home: sensitivity and noise measured on the parameters, Poisson samples, the record, the refusals."""

from __future__ import annotations

import builtins
import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from quiltwork.errors import InvalidOption, PrivacyError
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Standardised, mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.privacy.accountant import price

pytest.importorskip("opacus", reason="needs the extra 'dp'")

from quiltwork.party.record_privacy import DPPlan, train_privately

SGD = OptimiserPlan("sgd", learning_rate=1.0, momentum=0.0)
ROWS, CLASSES = 40, 3
NOISELESS = 1e-9


def data(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, CLASSES, rows)
    return torch.from_numpy((draw.normal(size=(rows, 4)) + labels[:, None]).astype(np.float32)), torch.from_numpy(
        labels
    )


def pair(plan: OptimiserPlan = SGD, seed: int = 0, width: int = 5) -> tuple[Component, Component]:
    component = Component.built(lambda: mlp(4, width, [6]), plan, name="ash", seed=seed)
    return component, Component.built(lambda: nn.Linear(width, CLASSES), plan, name="head of ash", seed=seed)


def parameters(*learners: Component) -> Tensor:
    return torch.cat([p.detach().flatten() for learner in learners for p in learner.module.parameters()])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(fragment: Tensor, labels: Tensor, plan: DPPlan, *, seed: int | None = 0, width: int = 5) -> Tensor:
    """How far one training moves the parameters."""
    component, head = pair(width=width)
    before = parameters(component, head)
    drawn = None if seed is None else generator(seed)
    train_privately(component, head, fragment, ClassTarget(labels, CLASSES), plan, generator=drawn)
    return parameters(component, head) - before


def one_step(noise: float, clip: float = 0.5) -> DPPlan:
    """All rows in one step: the sampled sum is the sum."""
    return DPPlan(noise, batch=ROWS, epochs=1, clip=clip)


@pytest.mark.parametrize("outlier", [0.0, 1e3, -1e3])
def test_one_row_moves_the_parameters_by_no_more_than_its_clipped_gradient(outlier: float) -> None:
    fragment, labels = data()
    other = fragment.clone()
    other[7] = outlier
    plan = one_step(NOISELESS)
    apart = (moved(fragment, labels, plan) - moved(other, labels, plan)).norm()
    assert 0 < apart <= 2 * plan.clip / ROWS * (1 + 1e-4)


def test_negative_control_without_clipping_the_outlier_shows() -> None:
    fragment, labels = data()
    other = fragment.clone()
    other[7] = 1e3
    loose, apart = one_step(NOISELESS, clip=1e6), []
    for label in range(CLASSES):  # of one of them the outlier is not what the module says
        relabelled = labels.clone()
        relabelled[7] = label
        apart.append(float((moved(fragment, labels, loose) - moved(other, relabelled, loose)).norm()))
    assert max(apart) > 2 * 0.5 / ROWS * 10


def test_the_step_is_the_mean_of_clipped_gradients_computed_by_hand() -> None:
    fragment, labels = data()
    component, head = pair()
    whole = nn.Sequential(component.module, head.module)
    total = torch.zeros_like(parameters(component, head))
    for row in range(ROWS):
        loss = nn.functional.cross_entropy(whole(fragment[row : row + 1]), labels[row : row + 1])
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(whole.parameters()))])
        total += gradient * min(1.0, 0.5 / float(gradient.norm()))
    assert torch.allclose(moved(fragment, labels, one_step(NOISELESS)), -total / ROWS, atol=1e-6)


def test_the_noise_on_the_parameters_is_the_events() -> None:
    fragment, labels = data()
    plan = one_step(2.0)
    noise = moved(fragment, labels, plan, width=200) - moved(fragment, labels, one_step(NOISELESS), width=200)
    sigma = plan.event(ROWS).sigma / plan.batch
    assert stats.kstest(noise.numpy(), stats.norm(scale=sigma).cdf).pvalue > 1e-3
    assert stats.kstest(noise.numpy(), stats.norm(scale=1.15 * sigma).cdf).pvalue < 1e-3, "the test can fail"


class Counting(ClassTarget):
    """Notes the samples that it is asked about."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__(labels, CLASSES)
        self.samples: list[list[int]] = []

    def answer(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, float]:
        self.samples.append(rows.tolist())
        return super().answer(logits, rows)


def test_samples_are_poisson_and_only_of_the_positions_given() -> None:
    fragment, labels = data()
    target, component, head = Counting(labels), *pair(OptimiserPlan("adam", 1e-3))
    plan = DPPlan(1.0, batch=3, epochs=20)
    event = train_privately(
        component, head, fragment, target, plan, positions=range(0, ROWS, 2), generator=generator(4)
    )
    assert (event.steps, event.sampling_rate) == (134, 0.15)
    sizes = [len(sample) for sample in target.samples] + [0] * (event.steps - len(target.samples))
    assert all(len(set(sample)) == len(sample) and not any(row % 2 for row in sample) for sample in target.samples)
    law = stats.binom(20, 0.15)
    cells = [sum(size == k for size in sizes) for k in range(5)] + [sum(size >= 5 for size in sizes)]
    due = [law.pmf(k) * event.steps for k in range(5)] + [law.sf(4) * event.steps]
    assert stats.chisquare(cells, due).pvalue > 1e-3
    assert 0 in sizes, "an empty sample is a step of noise alone"


def test_it_learns_and_the_learners_are_plain_afterwards() -> None:
    fragment, labels = data(200)
    component, head = pair(OptimiserPlan("adam", 3e-2))
    plan = DPPlan(0.5, batch=50, epochs=15)
    train_privately(component, head, fragment, ClassTarget(labels, CLASSES), plan, generator=generator())
    right = (head.predict(component.predict(fragment)).argmax(1) == labels).float().mean()
    assert right > 0.6
    assert not any(hasattr(p, "grad_sample") for p in (*component.module.parameters(), *head.module.parameters()))
    fresh = pair(OptimiserPlan("adam", 3e-2))[0]
    assert [k for k, _ in component.module.named_parameters()] == [k for k, _ in fresh.module.named_parameters()]
    # and they train on in a session as any others do
    component.forward(fragment[:4], 0)
    component.backward(torch.ones(4, 5), 0)


def test_the_noise_does_not_come_from_the_sessions_seed() -> None:
    fragment, labels = data()
    plan = DPPlan(1.0, batch=20, epochs=1)
    runs = []
    for seed in (None, None, 3, 3):
        torch.manual_seed(0)
        runs.append(moved(fragment, labels, plan, seed=seed))
    assert not torch.equal(runs[0], runs[1]), "whoever knows the seed would draw the noise again"
    assert torch.equal(runs[2], runs[3])


def test_the_record_is_what_the_accountant_prices() -> None:
    plan = DPPlan.within(2.0, 1e-5, rows=400, batch=400, epochs=5, parties=4)
    event = plan.event(400)
    assert (event.unit, event.steps, event.sampling_rate) == ("row", 5, 1.0)
    assert 1.9 < price([event] * 4, delta=1e-5) <= 2.0
    assert price([event], delta=1e-5) < 1.2


def least_epsilon(noise: float, delta: float = 1e-5, runs: int = 150) -> float:
    """A lower bound at 99.9 % from many trainings with and without one row, told apart along its gradient."""
    fragment, labels = data(ROWS + 1)
    fragment[ROWS], target = 5.0, ClassTarget(labels, CLASSES)

    def change(noise: float, rows: int, seed: int) -> Tensor:
        component, head = pair()
        before = parameters(component, head)
        plan = DPPlan(noise, batch=ROWS + 1, epochs=1, clip=0.5)
        train_privately(component, head, fragment, target, plan, positions=range(rows), generator=generator(seed))
        return parameters(component, head) - before

    without, direction = change(NOISELESS, ROWS, 0), change(NOISELESS, ROWS + 1, 0) - change(NOISELESS, ROWS, 0)
    scores = [
        [float((change(noise, ROWS + present, 2 * run + present) - without) @ direction) for run in range(runs)]
        for present in (0, 1)
    ]
    middle = 0.5 * float(direction @ direction)
    found, false = (sum(score > middle for score in scores[present]) for present in (1, 0))
    least = stats.binomtest(found, runs).proportion_ci(0.998, "exact").low
    most = stats.binomtest(false, runs).proportion_ci(0.998, "exact").high
    return float(np.log(max(least - delta, 1e-300) / most))


def test_an_attack_on_one_row_stays_under_the_price_and_breaks_one_that_is_too_low() -> None:
    priced = price([DPPlan(4.0, batch=ROWS + 1, epochs=1, clip=0.5).event(ROWS + 1)], delta=1e-5)
    assert least_epsilon(4.0) <= priced
    assert least_epsilon(0.4) > priced, "the attack finds noise that is ten times too small"


# Refusals


@pytest.mark.parametrize(
    "build",
    [lambda rows: Standardised(rows), lambda rows: nn.BatchNorm1d(4), lambda rows: nn.BatchNorm1d(4, affine=False)],
)
def test_modules_that_take_statistics_past_the_noise_are_refused(build: object) -> None:
    fragment, labels = data()
    module = nn.Sequential(build(fragment), nn.Linear(4, 5))  # type: ignore[operator]
    component, head = Component(module, SGD, name="ash"), pair()[1]
    before = copy.deepcopy(component.module.state_dict())
    with pytest.raises(InvalidOption, match=r"past the noise.*public constants"):
        train_privately(component, head, fragment, ClassTarget(labels, CLASSES), one_step(1.0))
    assert all(torch.equal(before[name], value) for name, value in component.module.state_dict().items())


def test_learners_that_have_trained_before_are_refused() -> None:
    fragment, labels = data()
    component, head = pair(OptimiserPlan())
    component.forward(fragment, 0)
    component.backward(torch.ones(ROWS, 5), 0)
    with pytest.raises(InvalidOption, match="has trained before"):
        train_privately(component, head, fragment, ClassTarget(labels, CLASSES), one_step(1.0))


def test_two_plans_are_refused() -> None:
    fragment, labels = data()
    with pytest.raises(InvalidOption, match="different plans"):
        train_privately(pair()[0], pair(OptimiserPlan())[1], fragment, ClassTarget(labels, CLASSES), one_step(1.0))


@pytest.mark.parametrize(
    "options",
    [{"noise_multiplier": 0.0}, {"noise_multiplier": 1.0, "clip": float("nan")}, {"noise_multiplier": 1.0, "batch": 0}],
)
def test_a_plan_outside_its_domain_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InvalidOption, match="positive and finite"):
        DPPlan(**options)  # type: ignore[arg-type]


def test_a_missing_opacus_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("opacus"):
            raise ImportError(name)
        return genuine(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    fragment, labels = data()
    with pytest.raises(PrivacyError, match=r"opacus.*quiltwork\[dp\]"):
        train_privately(*pair(), fragment, ClassTarget(labels, CLASSES), one_step(1.0))


# Ways past the clipping norm


def test_dropout_masks_are_drawn_in_secret() -> None:
    """Masks that all know belong to places in the sample: one row less moves them all, and the sum by more than C."""
    fragment, labels = data()

    def trained(seed: int, *layers: nn.Module) -> Tensor:
        head = pair()[1]
        component = Component.built(lambda: nn.Sequential(nn.Linear(4, 5), *layers), SGD, name="ash")
        train_privately(
            component, head, fragment, ClassTarget(labels, CLASSES), one_step(NOISELESS), generator=generator(seed)
        )
        return parameters(component, head)

    assert torch.allclose(trained(0), trained(1), atol=1e-6), "without dropout only the noise differs"
    assert not torch.allclose(trained(0, nn.Dropout(0.5)), trained(1, nn.Dropout(0.5)), atol=1e-3)


@pytest.mark.parametrize("outlier", [float("nan"), float("inf"), 3e38])
def test_a_row_that_overflows_changes_no_more_than_any_other(outlier: float) -> None:
    fragment, labels = data()
    without = fragment.clone()
    fragment[7] = outlier
    apart = (moved(fragment, labels, one_step(NOISELESS)) - moved(without, labels, one_step(NOISELESS))).norm()
    assert apart <= 2 * 0.5 / ROWS * (1 + 1e-4)


@pytest.mark.parametrize("positions", [[0, 0, 1], [0, 1, -1, ROWS - 1]])
def test_a_row_that_is_given_twice_is_refused(positions: list[int]) -> None:
    fragment, labels = data()
    with pytest.raises(InvalidOption, match="twice"):
        train_privately(*pair(), fragment, ClassTarget(labels, CLASSES), one_step(1.0), positions=positions)


def test_learners_that_trained_without_momentum_are_refused_too() -> None:
    fragment, labels = data()
    component, head = pair()
    component.forward(fragment, 0)
    component.backward(torch.ones(ROWS, 5), 0)
    assert component.optimiser is not None
    assert not component.optimiser.state, "the optimiser keeps no trace"
    with pytest.raises(InvalidOption, match="has trained before"):
        train_privately(component, head, fragment, ClassTarget(labels, CLASSES), one_step(1.0))
