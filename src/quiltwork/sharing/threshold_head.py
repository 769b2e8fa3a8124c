"""A linear head that nobody holds: any t of n custodians answer, and their answers add up to the logits.

    deal      W_x = W + R_1 x + ... + R_{t-1} x^(t-1) (mod p),      R uniform,       b_x likewise
    answer    s_x = h W_x^T + b_x                                                  (`HeadShare.answer`)
    combine   sum_x lambda_x s_x = h W^T + b (mod p),               any t points x

Addition and multiplication by public numbers pass through Shamir's scheme, so the logits come out exactly as integer
arithmetic on the grid gives them, and the head is put together nowhere. Overflow cannot occur: the dealer refuses a
head of which some allowed input has a logit beyond p / 2.

Each t - 1 custodians know nothing about the head from their shares. What is **not** hidden: the inputs, from the
custodians; the logits, from whoever combines; and so the head, from whoever may ask long enough, since d + 1 inputs in
general position and their exact logits determine it (and d + 1 answers of one custodian its share). Let custodians
bound the rows that they answer.

A false answer changes the logits. With t answers it goes unseen; with m > t all must lie on one polynomial of degree
t - 1, and two such polynomials differ in m - t + 1 points at least. So up to m - t false answers never pass; and where
m >= t + 2, a single false one is named. (Two holders in collusion among t + 2 can cast the blame on a third; among
t + 3 they cannot.)

>>> shares = deal_head([[1.5, -2.0]], [0.25], threshold=2, holders=3)
>>> answers = {share.holder: share.answer([[2.0, 1.0]]) for share in shares[1:]}
>>> combine_logits(answers, threshold=2, grid=shares[0].grid)
array([[1.25]])
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import ForgedShare, InvalidOption
from quiltwork.sharing import shamir
from quiltwork.sharing.head_share import Grid, HeadShare
from quiltwork.sharing.prime_field import PRIME, Residues, centred, lagrange, plus, residues, times, uniform


def deal_head(
    weight: ArrayLike,
    bias: ArrayLike,
    *,
    threshold: int,
    holders: int,
    grid: Grid | None = None,
    draw: shamir.Draw = secrets.token_bytes,
) -> tuple[HeadShare, ...]:
    """Shares of a linear head, one a holder, the x-th for the point x.

    Args:
        weight: ``[k, d]``.
        bias: ``[k]``.
        threshold: how many answers give logits, at least 2.
        holders: up to 255.
        grid: of the arithmetic; ``Grid()`` where not given.
        draw: where the coefficients come from; the operating system's entropy.

    Raises:
        InvalidOption: no such scheme, shapes that do not fit, or numbers that are not finite or overflow the field.
    """
    shamir.require_scheme(threshold, holders, shamir.MOST_HOLDERS)
    grid = Grid() if grid is None else grid
    whole = _on_grid(weight, bias, grid)
    coefficients = [uniform(whole.shape, draw) for _ in range(threshold - 1)]
    found = []
    for x in range(1, holders + 1):
        value = np.zeros_like(whole)
        for coefficient in (*reversed(coefficients), whole):
            value = plus(times(value, np.uint64(x)), coefficient)
        found.append(HeadShare(x, threshold, grid, value[:, :-1], value[:, -1]))
    return tuple(found)


def _on_grid(weight: ArrayLike, bias: ArrayLike, grid: Grid) -> Residues:
    """Weights and, as the last column, biases, as residues."""
    w, b = np.asarray(weight, dtype=np.float64), np.asarray(bias, dtype=np.float64)
    if w.ndim != 2 or not w.size or b.shape != w.shape[:1] or not (np.isfinite(w).all() and np.isfinite(b).all()):
        raise InvalidOption(
            f"weights {w.shape} and biases {b.shape}",
            why="they are not finite tables [k, d] and [k]",
            mend="Give the weight and bias of a linear layer.",
        )
    scaled = np.rint(np.column_stack([w * 2.0**grid.weight_bits, b * 2.0 ** (grid.weight_bits + grid.input_bits)]))
    _require_room(scaled, grid)
    return residues(scaled.astype(np.int64))


def _require_room(scaled: NDArray[np.float64], grid: Grid) -> None:
    """Refuse what could wrap round, by exact integers."""
    largest = int(np.rint(grid.most_input * 2.0**grid.input_bits))
    for number, row in enumerate(scaled):
        *weights, bias = (abs(int(value)) for value in row)
        if sum(weights) * largest + bias > PRIME // 2:
            raise InvalidOption(
                f"class {number} of the head",
                why=f"with inputs up to {grid.most_input} its logits on the grid can reach 2^60, where the field ends",
                mend="Take a grid of fewer bits, or a smaller most_input.",
            )


def combine_fixed(answers: Mapping[int, Residues], *, threshold: int) -> NDArray[np.int64]:
    """The logits on the grid, exact integers ``[b, k]``.

    Args:
        answers: by holder, uint64 ``[b, k]``; all are used, beyond the threshold for checking.
        threshold: as dealt.

    Raises:
        TooFewShares: fewer than ``threshold``.
        ForgedShare: the answers contradict each other; the false one is named where that can be known.
        InvalidOption: their shapes differ, or they are no residues.
    """
    if len(answers) < threshold:
        raise shamir.too_few(len(answers), threshold)
    shapes = {answer.shape for answer in answers.values()}
    if len(shapes) != 1 or not all(a.dtype == np.uint64 and (a < PRIME).all() for a in answers.values()):
        raise InvalidOption(
            "the answers",
            why="they are not residues of one shape",
            mend="Give what the custodians answered to one table of inputs.",
        )
    _require_agreement(answers, threshold)
    return centred(_interpolated(answers, sorted(answers)[:threshold], 0))


def combine_logits(answers: Mapping[int, Residues], *, threshold: int, grid: Grid) -> NDArray[np.float64]:
    """The logits ``[b, k]``; arguments and errors as `combine_fixed`, and the grid that the head was dealt on."""
    return grid.logits(combine_fixed(answers, threshold=threshold))


def _interpolated(answers: Mapping[int, Residues], points: list[int], at: int) -> Residues:
    total = np.zeros_like(answers[points[0]])
    for x, weight in zip(points, lagrange(points, at), strict=True):
        total = plus(total, times(answers[x], np.uint64(weight)))
    return total


def _agree(answers: Mapping[int, Residues], points: list[int], threshold: int) -> bool:
    base, further = points[:threshold], points[threshold:]
    return all(np.array_equal(_interpolated(answers, base, x), answers[x]) for x in further)


def _require_agreement(answers: Mapping[int, Residues], threshold: int) -> None:
    points = sorted(answers)
    if _agree(answers, points, threshold):
        return
    # leaving out one honest holder leaves the false answer in; with t + 1 others left that shows
    named = len(points) >= threshold + 2
    false = [x for x in points if named and _agree(answers, [y for y in points if y != x], threshold)]
    why = "they do not lie on one polynomial of the degree that was dealt"
    if false:
        raise ForgedShare(
            f"the answer of holder {false[0]}",
            why=f"{why}, and without it the others do: if a single one is false, it is this",
            mend="Ask again without that holder.",
        )
    raise ForgedShare(
        f"the answers of holders {points}",
        why=f"{why}, and which is false cannot be told",
        mend="Ask more custodians: a single false answer is named among t + 2.",
    )
