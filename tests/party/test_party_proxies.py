"""The owner's classifier: it finds planted documents, judges none that it learned from, and repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.party.proxies import ProxyChoice, chosen_proxies, resemblance

OWN = [f"the patient was given a dose of the drug on day {i} and recovered" for i in range(30)]
PLANTED = [f"a dose of the drug was given to the patient in ward {i}" for i in range(5)]
OTHERS = [f"the council voted on the road and the bridge in session {i}" for i in range(40)]
POOL = [text for pair in zip(OTHERS, PLANTED * 8, strict=True) for text in pair][:10] + OTHERS[5:]


def test_planted_documents_are_the_most_relevant() -> None:
    relevance = resemblance(OWN, POOL)
    planted = np.array([text in PLANTED for text in POOL])
    assert relevance[planted].min() > relevance[~planted].max()
    assert set(chosen_proxies(OWN, ProxyChoice(POOL, count=5))) == set(PLANTED)


def test_a_private_document_in_the_pool_is_found_though_it_is_public_there() -> None:
    # judged by a classifier that had it on the public side, it could not be told from public text
    pool = [*OTHERS, OWN[0]]
    assert chosen_proxies(OWN, ProxyChoice(pool, count=1)) == [OWN[0]]


def test_equal_inputs_give_equal_lists_and_the_seed_decides_the_halves() -> None:
    assert chosen_proxies(OWN, ProxyChoice(POOL)) == chosen_proxies(OWN, ProxyChoice(POOL))
    one, other = (resemblance(OWN, POOL, seed=seed) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_copies_in_the_pool_are_named_once() -> None:
    found = chosen_proxies(OWN, ProxyChoice([*POOL, *POOL], count=20))
    assert len(found) == len(set(found)) == 20


def test_a_pool_that_teaches_nothing_and_an_owner_without_documents_are_refused() -> None:
    with pytest.raises(InvalidOption, match="pool of 1 public documents"):
        ProxyChoice(["one"] * 9)
    with pytest.raises(InvalidOption, match="0 proxies"):
        ProxyChoice(POOL, count=0)
    with pytest.raises(FragmentError, match="no documents"):
        resemblance([], POOL)
