"""Exact programs: probabilities against brute force, gradients against finite differences and the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from program_oracles import brute, logs_of, posterior, random_logits

from quiltwork.errors import InvalidOption
from quiltwork.session.split.programs import (
    Fold,
    comparison,
    folded,
    lookup,
    parity,
    rules,
    tabulated,
    total,
)

RULES = [({0: [1], 2: [0, 2]}, "act"), ({1: [1, 3]}, "watch")]


def by_rules(a: int, b: int, c: int) -> str:
    if a == 1 and c in (0, 2):
        return "act"
    return "watch" if b in (1, 3) else "rest"


CASES: dict[str, tuple[Fold, Callable[..., object]]] = {
    "sum": (total([3, 4, 2]), lambda a, b, c: a + b + c),
    "remainder": (total([4, 5], modulus=3), lambda a, b: (a + b) % 3),
    "parity": (parity(4), lambda a, b, c, d: (a + b + c + d) % 2),
    "comparison": (comparison(4, 3), lambda a, b: int(np.sign(a - b))),
    "rules": (rules([2, 4, 3], RULES, "rest"), by_rules),
    "table": (lookup(np.array([["x", "y", "x"], ["y", "y", "z"]])), lambda a, b: ["xyx", "yyz"][a][b]),
    "function": (tabulated(lambda a, b: a * b, [4, 5]), lambda a, b: a * b),
    "greatest": (folded([3, 3, 3], 0, lambda z, _, k: max(z, k)), max),
    "one operand": (lookup(np.array([5, 7, 5])), lambda a: (5, 7, 5)[a]),
}
each = pytest.mark.parametrize(("program", "f"), CASES.values(), ids=CASES)


@each
def test_probabilities_are_those_of_all_tuples(program: Fold, f: Callable[..., object]) -> None:
    logs = logs_of(random_logits(program.sizes, rows=4, scale=2))
    found = program.log_outcomes(logs).exp().numpy()
    for row in range(4):
        due = brute(f, [log[row].exp().numpy() for log in logs])
        assert set(due) == set(program.outcomes)
        np.testing.assert_allclose(found[row], [due[y] for y in program.outcomes], rtol=1e-12)


@each
def test_table_and_application_are_the_function(program: Fold, f: Callable[..., object]) -> None:
    table = program.table()
    assert table.shape == program.sizes
    cells = np.array(list(np.ndindex(*program.sizes)))
    assert [program.outcomes[y] for y in table.ravel()] == [f(*map(int, cell)) for cell in cells]
    np.testing.assert_array_equal(program.apply(cells), table.ravel())


@each
def test_gradients_are_finite_differences_and_own_probability_less_the_posterior(
    program: Fold, f: Callable[..., object]
) -> None:
    logits = [one.requires_grad_() for one in random_logits(program.sizes, rows=2)]
    assert torch.autograd.gradcheck(lambda *x: program.log_outcomes(logs_of(x)), logits)
    y = len(program.outcomes) - 1
    loss = -program.log_outcomes(logs_of(logits))[:, y].sum()
    for operand, found in enumerate(torch.autograd.grad(loss, logits)):
        for row in range(2):
            p = [torch.softmax(one[row], 0).detach().numpy() for one in logits]
            due = p[operand] - posterior(f, p, program.outcomes[y], operand)
            np.testing.assert_allclose(found[row].numpy(), due, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(strategies.data())
def test_any_table_on_any_grid(data: strategies.DataObject) -> None:
    sizes = data.draw(strategies.lists(strategies.integers(1, 4), min_size=1, max_size=4))
    seed = data.draw(strategies.integers(0, 2**31))
    table = np.random.default_rng(seed).integers(0, 3, sizes)
    program = lookup(table)
    assert [program.outcomes[y] for y in program.table().ravel()] == table.ravel().tolist()
    logs = logs_of(random_logits(sizes, 1, seed))
    due = brute(lambda *s: int(table[s]), [log[0].exp().numpy() for log in logs])
    np.testing.assert_allclose(program.log_outcomes(logs).exp()[0], [due[y] for y in program.outcomes], rtol=1e-12)


def test_a_table_of_sums_becomes_the_convolution() -> None:
    table = np.indices((10, 10, 10)).sum(0)
    assert [step.shape for step in lookup(table).steps] == [(1, 10), (10, 10), (19, 10)]
    # the same states, whatever the program was written as
    assert [step.shape for step in lookup(table).steps] == [step.shape for step in total([10] * 3).steps]
    even = lookup(table % 2)
    assert [step.shape for step in even.steps] == [(1, 10), (2, 10), (2, 10)]


def test_a_sum_of_many_operands_needs_no_grid() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(10), 30)
    due = np.ones(1)
    for one in p:
        due = np.convolve(due, one)
    program = total([10] * 30)
    found = program.log_outcomes([torch.from_numpy(one).log()[None] for one in p]).exp()[0]
    np.testing.assert_allclose(found, due, rtol=1e-10)
    with pytest.raises(InvalidOption, match="most that is enumerated"):
        program.table()


def test_improbable_outcomes_do_not_vanish() -> None:
    # sure symbols: log P of any other sum is far below what a float can hold as a probability
    logits = [torch.tensor([[0.0, -900.0, -2000.0]], dtype=torch.float64).requires_grad_() for _ in range(2)]
    found = total([3, 3]).log_outcomes(logs_of(logits))
    np.testing.assert_allclose(found[0].detach(), [0, -900 + math.log(2), -1800, -2900 + math.log(2), -4000], atol=1e-9)
    for gradient in torch.autograd.grad(-found[0, 4], logits):
        np.testing.assert_allclose(gradient[0], [1, 0, -1], atol=1e-12)


def test_labels_are_numbered_and_strange_ones_refused() -> None:
    program = total([10, 10])
    assert program.labels([0, 18, 7]).tolist() == [0, 18, 7]
    assert CASES["rules"][0].labels(["rest", "act"]).tolist() == [1, 0]
    with pytest.raises(InvalidOption, match=r"label 19 \(row 1\): the program cannot put it out"):
        program.labels([3, 19])


def fails(a: int, b: int) -> int:
    return a // b


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: tabulated(lambda *s: 0, [10] * 7), "has 10000000 cells"),
        (lambda: tabulated(fails, [2, 2]), r"at symbols \(0, 0\): it fails.*ZeroDivisionError"),
        (lambda: tabulated(lambda a: [a], [2]), "cannot be compared"),
        (lambda: tabulated(lambda a: math.nan, [2]), "NaN"),
        (lambda: total([2, 0]), "at least one symbol"),
        (lambda: total([]), "has operands"),
        (lambda: total([2], modulus=0), "modulus=0"),
        (lambda: rules([2], [({1: [0]}, 1)], 0), "rule 0, operand 1"),
        (lambda: rules([2], [({0: [2]}, 1)], 0), "none of those that it has"),
        (lambda: folded([1024] * 3, (), lambda z, i, k: (*z, k)), "this fold"),
    ],
)
def test_what_is_no_program_is_refused(build: Callable[[], Fold], why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        build()
