"""The owner's verb from end to end: what is in the directory, what is not, and what stays behind after a failure."""

from __future__ import annotations

import gzip
import json
import math
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quiltwork.party.contribute as room
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import FragmentError, Interrupted, InvalidOption, StorageError
from quiltwork.evidence.bigrams import CELLS, document_cells
from quiltwork.evidence.release import ReleaseRule, release_rule
from quiltwork.models.base import Base
from quiltwork.party.contribute import (
    Order,
    contribute,
    moments_by_name,
    reference,
    text_histograms,
    tokenised,
)
from quiltwork.party.fragment import Fragment, open_fragment
from quiltwork.party.scopes import FFNScope, FullScope
from quiltwork.privacy.accountant import price
from quiltwork.privacy.events import ExactEvent, GaussianEvent, LaplaceEvent
from quiltwork.training.loop import TrainingPlan
from quiltwork.training.packing import pack

PLAN = TrainingPlan(steps=3, batch_size=4, sequence_length=32, learning_rate=1e-2, save_every=1)
BOTH = (FFNScope(bias=-0.1, top_k=2), FullScope())
STATISTICS = Order(party="ash", scopes=(), plan=PLAN)

Bases = Callable[[str], Base]


@pytest.fixture
def base(tiny_base: Bases) -> Base:
    return tiny_base("olmo2")


@pytest.fixture
def ash(fragments: Mapping[str, Path]) -> Fragment:
    return open_fragment([fragments["ash"]])


@pytest.fixture(scope="module")
def whole(tiny_base: Bases, fragments: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Contribution:
    """One contribution of everything that can be in one."""
    order = Order(
        party="ash", scopes=BOTH, plan=PLAN, moments="full", licence="CC-BY-4.0", card="Of rivers and ferries."
    )
    place = tmp_path_factory.mktemp("whole")
    return contribute(
        tiny_base("olmo2"),
        open_fragment([fragments["ash"]]),
        place / "ash",
        order,
        state_dir=place / "state",
        force_cpu=True,
    )


def ids_of(base: Base, fragment: Fragment) -> list[list[int]]:
    tokenizer: Any = base.load_tokenizer()
    return [tokenizer.encode(text, add_special_tokens=False) for text in fragment.documents()]


def payload(contribution: Contribution) -> dict[str, str]:
    """Digests of the payload, file by file."""
    return {name: file.digest for name, file in contribution.manifest.payload.items()}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# everything at once ---------------------------------------------------


def test_the_contribution_reads_back(whole: Contribution, base: Base) -> None:
    again = read(whole.path)
    assert again == whole
    assert again.parts == {"ffn", "full", "tokens", "bigrams", "moments"}
    assert left_in(whole.path) == [
        "contribution.json",
        "ffn.safetensors",
        "full.safetensors",
        "statistics.safetensors",
    ]
    assert again.manifest.base == reference(base)
    assert again.manifest.base.digest == base.digest
    assert (again.manifest.party, again.manifest.licence) == ("ash", "CC-BY-4.0")
    assert again.manifest.card == "Of rivers and ferries."


def test_the_manifest_declares_how_it_was_made(whole: Contribution, base: Base) -> None:
    method: Any = whole.manifest.method
    assert (method.ffn.layers, method.ffn.hidden_size, method.ffn.intermediate_size) == (2, 32, 48)
    assert (method.ffn.top_k, method.ffn.anchor_share, method.ffn.router, method.ffn.bias) == (2, 0.5, True, True)
    assert method.full.form == "delta"
    training = whole.manifest.training
    assert training is not None
    assert (training.steps, training.tokens) == (6, 6 * 4 * 32)
    assert (training.sequence_length, training.batch_size, training.learning_rate) == (32, 4, 1e-2)
    assert training.seed == 0
    assert training.loss_first is not None
    assert training.loss_first == pytest.approx(math.log(base.vocabulary_size), rel=0.1)  # an untrained base
    assert set(training.software) == {"quiltwork", "torch", "transformers"}


def test_the_state_is_gone_when_the_contribution_is_there(whole: Contribution) -> None:
    assert left_in(whole.path.parent) == ["ash"]


def test_every_part_has_an_exact_event_and_no_bound(whole: Contribution) -> None:
    events = whole.manifest.privacy
    assert Counter(event.released for event in events) == Counter(
        ["ffn", "full", "training", "tokens", "bigrams", "moments"]
    )
    assert all(isinstance(event, ExactEvent) for event in events)
    assert price(events, delta=1e-6) == math.inf


def test_histograms_count_the_fragment(whole: Contribution, base: Base, ash: Fragment) -> None:
    ids = ids_of(base, ash)
    tokens = Counter(token for document in ids for token in document)
    counts = whole.tensor("tokens.counts").numpy()
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == dict(tokens)
    cells = np.bincount(np.concatenate(list(document_cells(ids, base.separator))), minlength=CELLS)
    assert np.array_equal(whole.tensor("bigrams.counts").numpy(), cells)


def test_moments_are_those_of_the_base_over_the_fragment(whole: Contribution, base: Base, ash: Fragment) -> None:
    blocks = np.stack(list(pack(ids_of(base, ash), 32, base.separator)))
    rows: list[np.ndarray] = []
    model = base.load_model()
    model.model.layers[1].mlp.register_forward_pre_hook(
        lambda _, inputs: rows.append(inputs[0].detach().double().numpy().reshape(-1, 32))
    )
    model(input_ids=torch.from_numpy(blocks))
    np.testing.assert_allclose(whole.tensor("moments.layers.1.mean"), rows[0].mean(axis=0), rtol=1e-4, atol=1e-6)
    covariance = np.cov(rows[0], rowvar=False, bias=True)
    np.testing.assert_allclose(whole.tensor("moments.layers.1.second"), covariance, rtol=1e-3, atol=1e-6)
    (declared,) = (s for s in whole.manifest.statistics if s.name == "moments")
    assert declared.rows == blocks.size


def test_weights_are_those_of_training(whole: Contribution, base: Base) -> None:
    start = next(iter(base.ffn().values())).load()
    assert not torch.equal(whole.tensor("ffn.layers.0.gate_proj.weight"), start)
    deltas = [whole.tensor(name) for name in whole.tensor_names("full.")]
    assert len(deltas) == len(base.tensors)
    assert all(float(delta.abs().max()) > 0 for delta in deltas)


# determinism ----------------------------------------------------------


def test_equal_inputs_give_equal_bytes(base: Base, ash: Fragment, tmp_path: Path) -> None:
    order = Order(party="ash", scopes=BOTH, plan=PLAN)
    first, second = (contribute(base, ash, tmp_path / name, order, force_cpu=True) for name in "ab")
    assert first.digest == second.digest
    assert (first.path / "contribution.json").read_bytes() == (second.path / "contribution.json").read_bytes()
    other = contribute(base, ash, tmp_path / "c", replace(order, plan=replace(PLAN, seed=1)), force_cpu=True)
    changed = {name for name, digest in payload(other).items() if digest != payload(first)[name]}
    assert changed == {"ffn.safetensors", "full.safetensors"}


def test_a_contribution_of_statistics_is_the_same_to_the_digest(base: Base, ash: Fragment, tmp_path: Path) -> None:
    first, second = (contribute(base, ash, tmp_path / name, STATISTICS) for name in "ab")
    assert first.digest == second.digest
    assert first.manifest.kind == "statistics"
    assert first.manifest.training is None
    assert first.parts == {"tokens", "bigrams"}
    assert left_in(first.path) == ["contribution.json", "statistics.safetensors"]


def test_noise_is_not_the_same_twice(base: Base, ash: Fragment, tmp_path: Path) -> None:
    order = replace(STATISTICS, tokens=release_rule("laplace:epsilon=1,clip=20"), bigrams=None)
    first, second = (contribute(base, ash, tmp_path / name, order) for name in "ab")
    assert payload(first) != payload(second)


# privacy --------------------------------------------------------------


def test_noisy_histograms_are_priced_and_weights_are_not(base: Base, ash: Fragment, tmp_path: Path) -> None:
    order = Order(
        party="ash",
        scopes=(FFNScope(),),
        plan=PLAN,
        tokens=release_rule("laplace:epsilon=1,clip=20"),
        bigrams=release_rule("gaussian:epsilon=2,delta=1e-6"),
    )
    contribution = contribute(base, ash, tmp_path / "ash", order, force_cpu=True)
    events = {event.released: event for event in read(contribution.path).manifest.privacy}
    assert set(events) == {"ffn", "training", "tokens", "bigrams"}
    assert isinstance(events["tokens"], LaplaceEvent)
    assert isinstance(events["bigrams"], GaussianEvent)
    assert price([events["tokens"]], delta=1e-6) == pytest.approx(1.0, rel=0.01)
    assert price([events["bigrams"]], delta=1e-6) == pytest.approx(2.0, rel=0.01)
    assert price([events["tokens"], events["bigrams"]], delta=1e-6) < 3.01
    assert price(events.values(), delta=1e-6) == math.inf
    counts = contribution.tensor("tokens.counts").numpy()
    exact = contribute(base, ash, tmp_path / "exact", STATISTICS).tensor("tokens.counts").numpy()
    assert (counts[exact == 0] > 0).all()


def test_statistics_under_noise_alone_have_a_finite_price(base: Base, ash: Fragment, tmp_path: Path) -> None:
    order = replace(STATISTICS, tokens=release_rule("laplace:epsilon=1,clip=20"), bigrams=None)
    contribution = contribute(base, ash, tmp_path / "ash", order)
    assert price(contribution.manifest.privacy, delta=1e-6) == pytest.approx(1.0, rel=0.01)
    assert contribution.parts == {"tokens"}


def test_a_minimum_count_is_not_called_private(base: Base, ash: Fragment, tmp_path: Path) -> None:
    order = replace(STATISTICS, tokens=release_rule("min-count:5"), bigrams=None)
    contribution = contribute(base, ash, tmp_path / "ash", order)
    (event,) = contribution.manifest.privacy
    assert isinstance(event, ExactEvent)
    assert "fewer than 5 documents" in event.note
    assert price([event], delta=1e-6) == math.inf


def test_losses_are_told_only_if_asked_for(base: Base, ash: Fragment, tmp_path: Path) -> None:
    order = Order(party="ash", plan=PLAN, report_losses=False)
    contribution = contribute(base, ash, tmp_path / "ash", order, force_cpu=True)
    training = contribution.manifest.training
    assert training is not None
    assert (training.loss_first, training.loss_last) == (None, None)
    assert "training" not in {event.released for event in contribution.manifest.privacy}
    written = json.loads((contribution.path / "contribution.json").read_text())
    assert not any("loss" in name and value is not None for name, value in written["training"].items())


# no text --------------------------------------------------------------

CANARIES = ("zymurgical", "quixotrophe", "b0rbala-7741")


def words_found(folder: Path, words: tuple[str, ...] = CANARIES) -> set[str]:
    """Which of ``words`` stand in any file's name or bytes, in any case, as UTF-8 or UTF-16, gzipped or plain."""
    found = set()
    for path in [folder, *folder.rglob("*")]:
        data = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        for start in (m.start() for m in re.finditer(b"\x1f\x8b", data)):
            try:
                data += gzip.decompress(data[start:])
            except (OSError, EOFError):
                continue
        lower = data.lower()
        found |= {w for w in words if w.encode() in lower or w.encode("utf-16-le") in lower}
    return found


@pytest.fixture
def secret(tmp_path: Path) -> Fragment:
    file = tmp_path / "canary" / "private-zymurgical.txt"
    file.parent.mkdir()
    file.write_text("\f".join(f"{CANARIES[i % 3]} met {CANARIES[(i + 1) % 3]} on day {i}." for i in range(40)))
    return open_fragment([file])


def test_no_word_of_the_fragment_leaves(base: Base, secret: Fragment, tmp_path: Path) -> None:
    order = Order(party="ash", scopes=BOTH, plan=PLAN, moments="diagonal")
    contribution = contribute(base, secret, tmp_path / "out" / "ash", order, force_cpu=True)
    assert words_found(contribution.path) == set()
    assert words_found(tmp_path / "out") == set()


def test_negative_control_a_word_that_leaves_is_found(base: Base, secret: Fragment, tmp_path: Path) -> None:
    order = replace(STATISTICS, card=f"We hold many texts about {CANARIES[1]}.")
    contribution = contribute(base, secret, tmp_path / "out" / "ash", order)
    assert words_found(contribution.path) == {CANARIES[1]}
    (contribution.path / "hidden.bin").write_bytes(b"\x00" + gzip.compress(CANARIES[2].encode()))
    assert words_found(contribution.path) == {CANARIES[1], CANARIES[2]}
    assert words_found(tmp_path / "canary") == set(CANARIES)


# refusals before any training -----------------------------------------


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(room, "train", refuse)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 distinct document"),
        (b"\f \n \f", "0 distinct document"),
        (b"only one document", r"1 distinct document\(s\) and 2 are needed.*separate documents with a form feed"),
        (b"twice the same\ftwice the same", "1 distinct document"),
        (b"good text\fbad \xff\xfe\x00 bytes", "UTF-8|not text|byte"),
        (b"\x7fELF\x00\x01\x02\x00\x00", "UTF-8|not text|byte"),
    ],
)
def test_a_fragment_that_cannot_be_used_is_refused(base: Base, tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "in.txt"
    file.write_bytes(content)
    with pytest.raises(FragmentError, match=message):
        contribute(
            base, open_fragment([file]), tmp_path / "out", Order(party="ash", plan=PLAN), state_dir=tmp_path / "s"
        )
    assert left_in(tmp_path) == ["in.txt"]


def test_bytes_that_are_no_text_late_in_the_fragment_are_refused_too(base: Base, tmp_path: Path) -> None:
    file = tmp_path / "in.txt"
    file.write_bytes(b"\f".join(b"fine document number %d" % i for i in range(200)) + b"\f bad \xff\xfe\x00")
    for order in (Order(party="ash", plan=PLAN), STATISTICS):
        with pytest.raises(FragmentError, match=r"in\.txt"):
            contribute(base, open_fragment([file]), tmp_path / "out", order, state_dir=tmp_path / "s", force_cpu=True)
        assert left_in(tmp_path) == ["in.txt"]


@pytest.mark.usefixtures("no_training")
def test_an_existing_target_is_refused(base: Base, ash: Fragment, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match=r"target '.*out': something is already there\. Choose another target"):
        contribute(base, ash, tmp_path / "out", Order(party="ash", plan=PLAN))
    assert left_in(tmp_path) == ["out"]


def test_an_existing_target_is_replaced_if_asked(base: Base, ash: Fragment, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    contribution = contribute(base, ash, tmp_path / "out", STATISTICS, overwrite=True)
    assert read(contribution.path) == contribution
    assert left_in(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scopes": (FFNScope(), FFNScope(anchor_share=1.0))}, r"scopes \['ffn', 'ffn'\]: a scope is given twice"),
        ({"scopes": (), "tokens": None, "bigrams": None}, "an empty order: it releases nothing"),
        ({"party": "ACME Corp"}, r"party 'ACME Corp'.*Use a-z"),
        ({"party": "../x"}, r"party '\.\./x'"),
        ({"licence": ""}, "licence ''"),
        ({"licence": "x" * 101}, "licence 'xxx"),
        ({"card": "\x1b[31mred"}, r"control character U\+001B"),
    ],
)
def test_an_order_that_could_not_be_written_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Order(**{"party": "ash", **changes})


def test_names_of_a_command_line() -> None:
    assert [moments_by_name(name) for name in ("none", "diagonal", "full")] == [None, "diagonal", "full"]
    with pytest.raises(InvalidOption, match=r"moments 'all': .*none, diagonal or full"):
        moments_by_name("all")


# failures on the way --------------------------------------------------


def test_a_failure_while_writing_leaves_no_target(
    base: Base, ash: Fragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("quiltwork.contribution.payload.write", full)
        with pytest.raises(StorageError, match="no space is left"):
            contribute(base, ash, tmp_path / "out" / "ash", STATISTICS)
    assert left_in(tmp_path / "out") == []
    contribute(base, ash, tmp_path / "out" / "ash", STATISTICS)  # negative control


class Stopping:
    """A fragment's documents that send a signal when they are opened for the n-th time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, opening: int) -> None:
        self.openings = 0
        genuine = Fragment.documents

        def documents(fragment: Fragment) -> Iterator[str]:
            self.openings += 1
            if self.openings == opening:
                signal.raise_signal(signal.SIGINT)
            return genuine(fragment)

        monkeypatch.setattr(Fragment, "documents", documents)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Shells start background jobs with SIGINT ignored, and Python leaves that as it is."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("opening", "scope"), [(3, "ffn"), (5, "full"), (6, "")])
def test_an_interrupted_contribution_goes_on_to_the_same_payload(
    base: Base, ash: Fragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opening: int, scope: str
) -> None:
    """Each epoch opens the documents anew: the signal falls in the middle of a scope, or in the statistics after."""
    order = Order(party="ash", scopes=BOTH, plan=replace(PLAN, steps=12, batch_size=8, save_every=5))
    whole = contribute(base, ash, tmp_path / "whole", order, force_cpu=True)
    with monkeypatch.context() as patch:
        Stopping(patch, opening)
        wanted = f"ash: {scope} expert at step ([2-9]|1[01]) of 12.*goes on from here" if scope else None
        with pytest.raises(Interrupted if scope else KeyboardInterrupt, match=wanted):
            contribute(base, ash, tmp_path / "out", order, state_dir=tmp_path / "state", force_cpu=True)
    assert left_in(tmp_path) == ["state", "whole"]
    resumed = contribute(base, ash, tmp_path / "out", order, state_dir=tmp_path / "state", force_cpu=True)
    assert payload(resumed) == payload(whole)
    told, expected = resumed.manifest.training, whole.manifest.training
    assert told is not None
    assert expected is not None
    assert (told.loss_first, told.loss_last) == (expected.loss_first, expected.loss_last)
    assert left_in(tmp_path) == ["out", "whole"]


def test_the_state_of_another_party_or_scope_is_refused(
    base: Base, ash: Fragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Order(party="ash", plan=PLAN)
    with monkeypatch.context() as patch:
        Stopping(patch, 2)
        with pytest.raises(Interrupted):
            contribute(base, ash, tmp_path / "out", order, state_dir=tmp_path / "state", force_cpu=True)
    for other, field in (
        (replace(order, party="birch"), "party"),
        (replace(order, scopes=(FFNScope(anchor_share=1.0),)), "scope"),
        (replace(order, plan=replace(PLAN, learning_rate=1.0)), "learning_rate"),
    ):
        with pytest.raises(InvalidOption, match=rf"other settings \({field}\)"):
            contribute(base, ash, tmp_path / "out", other, state_dir=tmp_path / "state", force_cpu=True)
    assert left_in(tmp_path) == ["state"]


def test_what_else_is_in_the_folder_of_the_state_stays(base: Base, ash: Fragment, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "thesis.txt").write_text("ten years of work")
    order = Order(party="ash", plan=PLAN)
    contribute(base, ash, tmp_path / "out", order, state_dir=tmp_path / "state", force_cpu=True)
    assert left_in(tmp_path / "state") == ["thesis.txt"]


# a composer's public text ---------------------------------------------


def test_public_text_is_counted_like_a_fragment(base: Base, ash: Fragment, tmp_path: Path) -> None:
    found = text_histograms(base, list(ash.documents()))
    contribution = contribute(base, ash, tmp_path / "ash", replace(STATISTICS, trigrams=ReleaseRule("exact")))
    assert set(found) == {"tokens", "bigrams", "trigrams"}
    for name, histogram in found.items():
        assert np.array_equal(histogram.counts, contribution.tensor(f"{name}.counts").numpy())
    same = text_histograms(base, ash)
    assert np.array_equal(same["bigrams"].counts, found["bigrams"].counts)


def test_documents_are_tokenised_one_by_one_and_without_special_tokens(base: Base) -> None:
    tokenizer = base.load_tokenizer()
    texts = [f"text {i} of the river" for i in range(150)]
    assert list(tokenised(texts, tokenizer)) == [tokenizer.encode(t, add_special_tokens=False) for t in texts]
    assert base.separator not in {token for ids in tokenised(texts, tokenizer) for token in ids}
