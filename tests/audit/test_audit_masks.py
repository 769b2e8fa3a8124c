"""The secure sum in a certificate: held with masks, and not without, whatever the answers are called."""

from __future__ import annotations

import numpy as np
import pytest
from audit_runs import fragments, taped
from scipy.stats import chi2
from summed_parties import NAMES, local, summand, summed

from quiltwork.audit.certificate import Certificate, certify, read_certificate
from quiltwork.audit.facts import Facts, facts_of
from quiltwork.audit.masks import GREATEST_SPREAD, masks, spread
from quiltwork.audit.tape import Tape
from quiltwork.errors import InvalidOption
from quiltwork.session.split.summed import SummedRun
from quiltwork.sharing.seats import seats
from quiltwork.sharing.secure_sum import Member


class Bare(Member):
    """A member that answers without its masks."""

    def mask(self, round_: int, values: np.ndarray, question: bytes = b"") -> np.ndarray:
        self._seeds = None
        return self.grid.encode(values)


class Lazy(Member):
    """A member that draws its mask once and for all."""

    def mask(self, round_: int, values: np.ndarray, question: bytes = b"") -> np.ndarray:
        self._seeds = None
        encoded = self.grid.encode(values)
        once = np.random.default_rng(1).integers(0, 2**64, (64, encoded.shape[-1]), dtype=np.uint64)
        return encoded + once[: len(encoded)]


def session(kind: type[Member] = Member) -> tuple[Facts, Tape]:
    data, dealt = fragments()[0], seats(NAMES)
    nodes = {p: summand(p, data[p], dealt[p]) for p in NAMES}
    for node in nodes.values():
        node._member.__class__ = kind
    run: SummedRun = summed(Tape(local(nodes)))
    run.predict(np.arange(60))
    if kind is Member:
        run.train()
    else:
        run.predict(np.arange(60))  # sums without masks, or with ones that do not cancel, are not for learning
    tape = run.channel._channel
    return facts_of(run.records()), tape


@pytest.fixture(scope="module")
def honest() -> tuple[Facts, Tape]:
    return session()


def of(facts: Facts, tape: Tape) -> Certificate:
    return certify(facts, [masks(facts, tape)], tape=tape)


def test_the_secure_sum_is_held_and_bytes_are_those_of_the_formula(honest: tuple[Facts, Tape]) -> None:
    found = of(*honest)
    assert found.standing("G6").held
    assert found.standing("G10").held
    assert read_certificate(found.to_json()) == found
    assert not certify(honest[0]).standing("G6").held  # without the test of masks


@pytest.mark.parametrize("kind", [Bare, Lazy])
def test_answers_without_fresh_masks_are_found(kind: type[Member]) -> None:
    facts, tape = session(kind)
    found = of(facts, tape)
    assert next(c for c in found.checks if c.name == "masked-sum").passed  # they are called masked
    assert not found.standing("G6").held
    assert "NOT under fresh masks" in found.standing("G6").why


def test_activations_in_the_open_are_no_secure_sum() -> None:
    run, tape = taped("joint", *fragments())
    facts = facts_of(run.records())
    assert "in the open" in certify(facts).standing("G6").why
    with pytest.raises(InvalidOption, match="the masks of a sum"):
        masks(facts, tape)


def test_too_few_answers_prove_nothing() -> None:
    data, dealt = fragments()[0], seats(NAMES)
    run = summed(Tape(local({p: summand(p, data[p], dealt[p]) for p in NAMES})))
    run.predict(np.arange(1))  # four numbers
    found = of(facts_of(run.records()), run.channel._channel)
    assert found.standing("G6").why == "check 'masks' proves nothing: it did not catch the breach that was planted"


def test_rows_have_no_bound_where_their_sum_crosses(honest: tuple[Facts, Tape]) -> None:
    ledger = next(c for c in certify(honest[0]).checks if c.name == "record-ledger")
    assert not ledger.passed
    assert "activations" in str(ledger.found["not_covered"])


def test_lessons_of_a_summed_session_have_cotangents_without_activations(honest: tuple[Facts, Tape]) -> None:
    tape = honest[1]
    lessons = [tape.lessons(party) for party in NAMES]
    assert lessons[0].activations.shape == (120, 0)
    np.testing.assert_array_equal(lessons[0].cotangents, lessons[2].cotangents)


def test_the_threshold_is_as_improbable_as_stated() -> None:
    assert chi2.sf(GREATEST_SPREAD, 15) < 1e-15
    words = np.random.default_rng(0).integers(0, 2**64, 4000, dtype=np.uint64)
    assert spread(words) < chi2.isf(1e-6, 15)
