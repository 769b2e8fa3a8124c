"""Clusters: alike documents lie together, small groups go to the nearest, and each becomes a contribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quiltwork.party.clusters as room
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.contribution.store import read
from quiltwork.errors import FragmentError, InvalidOption, StorageError
from quiltwork.evidence.release import release_rule
from quiltwork.models.base import Base
from quiltwork.party.clusters import Clustering, contribute_clusters, grouped
from quiltwork.party.contribute import Order
from quiltwork.party.fragment import Fragment, open_fragment
from quiltwork.training.loop import TrainingPlan

pytest.importorskip("sklearn")
Bases = Callable[[str], Base]
ORDER = Order(party="acme", plan=TrainingPlan(steps=2, batch_size=2, sequence_length=16))


def topics(sizes: list[int], seed: int = 0) -> tuple[list[list[int]], list[int]]:
    """Documents of several topics with words of their own, mixed; and the topic of each."""
    random = np.random.default_rng(seed)
    truth = [topic for topic, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(truth)
    return [(10 * topic + random.integers(1, 6, random.integers(20, 60))).tolist() for topic in truth], truth


def together(groups: list[frozenset[int]], truth: list[int]) -> bool:
    """Whether the groups are the topics."""
    return {frozenset(group) for group in groups} == {
        frozenset(i for i, one in enumerate(truth) if one == topic) for topic in set(truth)
    }


@pytest.fixture(scope="module")
def fragment(fragments: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Fragment:
    """Documents of two parties in turn, as one owner's."""
    texts = [fragments[party].read_text().split("\f") for party in ("ash", "birch")]
    path = tmp_path_factory.mktemp("clusters") / "both.txt"
    path.write_text("\f".join(text for pair in zip(*texts, strict=True) for text in pair))
    return open_fragment([path])


def test_alike_documents_lie_together() -> None:
    documents, truth = topics([20, 30, 25])
    groups = grouped(documents, 0, Clustering(3))
    assert together(groups, truth)
    assert [min(group) for group in groups] == sorted(min(group) for group in groups)
    assert 0 in groups[0]


def test_negative_control_documents_without_topics_do_not_follow_labels() -> None:
    documents, _ = topics([60])
    assert not together(grouped(documents, 0, Clustering(2)), [0, 1] * 30)


def test_a_small_group_is_given_up_and_its_documents_stay() -> None:
    documents, truth = topics([20, 30, 4])
    groups = grouped(documents, 0, Clustering(3, fewest=5))
    assert len(groups) == 2
    assert sorted(place for group in groups for place in group) == list(range(54))
    large = [{i for i, one in enumerate(truth) if one == topic} for topic in (0, 1)]
    assert all(any(topic <= group for group in groups) for topic in large)


@given(st.integers(0, 3), st.integers(2, 4))
def test_every_document_has_one_group_and_the_same_again(seed: int, clusters: int) -> None:
    documents, _ = topics([12, 12, 12], seed)
    groups = grouped(documents, 0, Clustering(clusters, fewest=3, seed=seed))
    assert sorted(place for group in groups for place in group) == list(range(36))
    assert min(map(len, groups)) >= 3
    assert groups == grouped(documents, 0, Clustering(clusters, fewest=3, seed=seed))


def test_empty_documents_keep_their_place() -> None:
    documents, _ = topics([20, 20])
    documents[3] = []
    groups = grouped(documents, 0, Clustering(2))
    assert sorted(place for group in groups for place in group) == list(range(40))


@pytest.mark.parametrize(
    ("sizes", "clustering", "words"),
    [([9], Clustering(2), r"9 documents in 2 clusters.*needs 8"), ([], Clustering(2), "0 documents in 2 clusters")],
)
def test_too_few_documents_are_refused(sizes: list[int], clustering: Clustering, words: str) -> None:
    with pytest.raises(FragmentError, match=words):
        grouped(topics(sizes)[0], 0, clustering)


def test_each_group_becomes_a_contribution_of_its_documents(
    tiny_base: Bases, fragment: Fragment, tmp_path: Path
) -> None:
    base, said = tiny_base("llama"), list[str]()
    options: dict[str, Any] = {"state_dir": tmp_path / "state", "force_cpu": True, "say": said.append}
    found = contribute_clusters(base, fragment, tmp_path / "out", ORDER, Clustering(2), **options)
    assert [c.party for c in found] == ["acme.c0", "acme.c1"] == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert said == ["acme.c0: 60 documents", "acme.c1: 60 documents"]
    assert not (tmp_path / "state").exists()
    tokenizer = base.load_tokenizer()
    for number, contribution in enumerate(found):
        ids = tokenizer(list(fragment.documents())[number::2], add_special_tokens=False)["input_ids"]
        expected = np.bincount([i for one in ids for i in one], minlength=base.vocabulary_size)
        assert np.array_equal(contribution.tensor("tokens.counts").numpy(), expected)
    composite = compose(found, MixtureOfExperts(PrefixEvidence(floor=0.0)), base)
    assert composite.parties == ("acme.c0", "acme.c1")
    assert composite.without("acme.c1").parties == ("acme.c0",)


def test_an_interrupted_run_goes_on_and_ends_with_the_same(
    tiny_base: Bases, fragment: Fragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, options = tiny_base("llama"), {"state_dir": tmp_path / "state", "force_cpu": True}
    whole = contribute_clusters(base, fragment, tmp_path / "whole", ORDER, Clustering(2), **options)
    real, made = room.contribute, list[str]()

    def once(base: Base, part: Fragment, target: Path, order: Order, **more: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(order.party)
        return real(base, part, target, order, **more)

    monkeypatch.setattr(room, "contribute", once)
    with pytest.raises(KeyboardInterrupt):
        contribute_clusters(base, fragment, tmp_path / "out", ORDER, Clustering(2), **options)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(room, "contribute", real)
    with pytest.raises(StorageError, match="of a run with other options"):
        contribute_clusters(base, fragment, tmp_path / "out", ORDER, Clustering(3), **options)
    again = contribute_clusters(base, fragment, tmp_path / "out", ORDER, Clustering(2), **options)
    assert [c.digest for c in again] == [c.digest for c in whole]
    assert read(tmp_path / "out" / "acme.c0").digest == whole[0].digest


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (replace(ORDER, party="acme.code"), "the name is one of a share"),
        (replace(ORDER, tokens=release_rule("laplace:epsilon=1")), "noise on the tokens of clusters"),
        (replace(ORDER, bigrams=release_rule("gaussian:epsilon=8,delta=1e-6")), "noise on the bigrams of clusters"),
    ],
)
def test_what_clusters_cannot_be_is_refused(
    order: Order, words: str, tiny_base: Bases, fragment: Fragment, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOption, match=words):
        contribute_clusters(
            tiny_base("llama"), fragment, tmp_path / "out", order, Clustering(2), state_dir=tmp_path / "state"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"clusters": 1}, {"clusters": 2, "fewest": 1}, {"clusters": 2, "seed": -1}])
def test_groupings_outside_their_domain_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption):
        Clustering(**options)
