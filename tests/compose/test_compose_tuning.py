"""Tuning: the loss falls, what is frozen stays bit for bit, a run that was stopped goes on, nobody leaves any more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tuning_checks import check_only, loss_on, public_texts

from composed_files import mend_records
from quiltwork.compose import tuning
from quiltwork.compose.btx import BTX
from quiltwork.compose.joining_language import joined_language
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.compose.tuning import TuningPlan, tune
from quiltwork.composite import Composite, open_composite
from quiltwork.composite.tuned import documents_digest
from quiltwork.contribution.canonical import encode
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import CheckpointError, ExportError, InvalidOption, NeedsRetraining
from quiltwork.models.assembly import Experts
from quiltwork.models.base import Base
from quiltwork.training.loop import TrainingPlan
from quiltwork.training.mixing import mixed

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
Texts = dict[str, list[str]]

TRAINING = TrainingPlan(steps=12, batch_size=8, sequence_length=24, learning_rate=2e-2, warmup=0.1, save_every=4)
ROUTER = (".mlp.router.",)
ANCHOR = (".mlp.experts.base.",)


@pytest.fixture(scope="module")
def texts(fragments: dict[str, Path]) -> Texts:
    return public_texts(fragments)


@pytest.fixture
def tuned(tiny_base: Bases, contributions: Parts, texts: Texts, public_text: Any) -> Callable[..., Any]:
    """``tuned(method, what)``: (before, after) of three parties on an Olmo2 base."""

    def build(method: Method, what: str, family: str = "olmo2", **options: Any) -> tuple[Composite, Composite]:
        base = tiny_base(family)
        before = compose(contributions(family), method, base, public=public_text(family))
        plan = TuningPlan(what, options.pop("training", TRAINING))  # type: ignore[arg-type]
        return before, tune(before, base.load_tokenizer(), texts, plan, force_cpu=True, **options)

    return build


@pytest.mark.parametrize(
    ("what", "parts"), [("router", ROUTER), ("anchor", ANCHOR), ("both", ROUTER + ANCHOR)], ids=lambda v: str(v)
)
@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_what_is_frozen_stays_and_the_loss_falls(
    what: str, parts: tuple[str, ...], family: str, tuned: Any, tiny_base: Bases, texts: Texts
) -> None:
    before, after = tuned(MixtureOfExperts(LearnedRows()), what, family)
    check_only(before, after, parts)
    tokenizer, judged = tiny_base(family).load_tokenizer(), [t for name in texts for t in texts[name]]
    assert loss_on(after, tokenizer, judged) < loss_on(before, tokenizer, judged)


def test_the_base_s_row_stays_zero(tuned: Any) -> None:
    _, after = tuned(MixtureOfExperts(LearnedRows(bias=True)), "router")
    tensors = after.assembly.checkpoint("native").tensors()
    routers = [source.load() for name, source in tensors.items() if ".mlp.router." in name]
    assert len(routers) == 4
    assert all(not router[0].any() and router[1:].any() for router in routers)


def test_evidence_composites_have_an_anchor_to_tune_and_no_router(tuned: Any) -> None:
    method = MixtureOfExperts(PrefixEvidence())
    check_only(*tuned(method, "anchor"), ANCHOR)
    with pytest.raises(InvalidOption, match=r"router of an evidence composite.*no trained parameters"):
        tuned(method, "router")


def test_btx_may_be_tuned_as_a_whole(tuned: Any, tiny_base: Bases, texts: Texts) -> None:
    before, after = tuned(BTX(top_k=2), "all")
    check_only(before, after, ("body.",))
    tokenizer = tiny_base("olmo2").load_tokenizer()
    assert loss_on(after, tokenizer, texts["public"]) < loss_on(before, tokenizer, texts["public"])


def test_the_check_refuses_a_tuner_that_moves_an_expert(tuned: Any) -> None:
    before, after = tuned(MixtureOfExperts(LearnedRows()), "router")
    assembly = after.assembly
    assert isinstance(assembly, Experts)
    moved = {place: source.derive(lambda t: t + 1e-7) for place, source in assembly.experts["birch"].items()}
    broken = replace(after, assembly=replace(assembly, experts={**assembly.experts, "birch": moved}))
    with pytest.raises(AssertionError, match=r"frozen, and changed.*of-birch"):
        check_only(before, broken, ROUTER)
    with pytest.raises(AssertionError, match="nothing changed"):
        check_only(before, before, ROUTER)


def test_a_run_that_was_stopped_ends_as_if_it_was_not(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = MixtureOfExperts(LearnedRows())
    _, whole = tuned(method, "both")

    def breaking(starts: Any, seed: int) -> Iterator[Any]:
        for number, block in enumerate(mixed(starts, seed)):
            if number == 7 * TRAINING.batch_size:
                raise OSError("the machine goes down")
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "mixed", breaking)
        with pytest.raises(OSError, match="goes down"):
            tuned(method, "both", state_dir=tmp_path / "state")
    assert (tmp_path / "state" / "step-4").is_dir()
    _, resumed = tuned(method, "both", state_dir=tmp_path / "state")
    left, right = (c.assembly.checkpoint("native").tensors() for c in (whole, resumed))
    assert all(torch.equal(left[name].load(), right[name].load()) for name in left)
    assert resumed.provenance == whole.provenance
    with pytest.raises(InvalidOption, match=r"other settings \(.*what"):
        tuned(method, "router", state_dir=tmp_path / "state")


def test_nobody_leaves_a_tuned_composite_also_from_disk(tuned: Any, tmp_path: Path) -> None:
    _, after = tuned(MixtureOfExperts(LearnedRows()), "router")
    after.save(tmp_path / "tuned")
    opened = open_composite(tmp_path / "tuned")
    assert opened.provenance == after.provenance
    for composite in (after, opened):
        with pytest.raises(NeedsRetraining, match=r"birch.*tuned") as caught:
            composite.without("birch")
        assert "quiltwork tune" in caught.value.mend


def test_a_tuned_composite_is_saved_and_exported_like_any_other(tuned: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, FlexOlmoForCausalLM

    before, after = tuned(MixtureOfExperts(LearnedRows()), "both")
    after.save(tmp_path / "portable", layout="portable")
    open_composite(tmp_path / "portable").save(tmp_path / "again", layout="portable")
    for file in sorted((tmp_path / "portable").iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "portable").eval()
    assert type(plain) is FlexOlmoForCausalLM
    ids = torch.randint(1, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exported, own, untuned = (
            model(input_ids=ids, use_cache=False).logits for model in (plain, after.model(), before.model())
        )
    assert (exported - own).abs().max() < 2e-5 < (own - untuned).abs().max()


def test_the_record_says_what_was_done(tuned: Any, texts: Texts) -> None:
    _, after = tuned(MixtureOfExperts(LearnedRows()), "router")
    record = after.provenance.tuned
    assert record is not None
    assert (record.what, record.plan["steps"], record.selection) == ("router", 12, "none")
    assert {n: t.documents for n, t in record.texts.items()} == {n: len(t) for n, t in texts.items()}
    assert record.texts["ash"].digest == documents_digest(texts["ash"]) != documents_digest(texts["ash"][::-1])
    assert record.last_loss < record.first_loss


def test_half_precision_is_tuned_in_single_and_rounded_once(
    tiny_base: Bases, contributions: Parts, texts: Texts
) -> None:
    base = tiny_base("olmo2")
    before = compose(contributions("olmo2"), MixtureOfExperts(LearnedRows()), base)
    assembly = before.assembly
    assert isinstance(assembly, Experts)
    half = replace(before, assembly=_halved(assembly))
    after = tune(half, base.load_tokenizer(), texts, TuningPlan("router", TRAINING), force_cpu=True)
    check_only(half, after, ROUTER)
    assert {s.dtype for s in after.assembly.checkpoint("native").tensors().values()} == {"BF16"}


def _halved(experts: Experts) -> Experts:
    from quiltwork.models.sources import Source

    def half(source: Source) -> Source:
        return Source.of(source.load().bfloat16())

    return replace(
        experts,
        body=replace(
            experts.body,
            config=dict(experts.body.config) | {"dtype": "bfloat16", "torch_dtype": "bfloat16"},
            tensors={n: half(s) for n, s in experts.body.tensors.items()},
        ),
        experts={p: {k: half(s) for k, s in e.items()} for p, e in experts.experts.items()},
        router=replace(experts.router, rows={p: [half(s) for s in r] for p, r in experts.router.rows.items()}),
    )


@pytest.mark.parametrize(
    ("method", "what", "why"),
    [
        (Soup(), "anchor", "no mixture of experts in one body"),
        (MixtureOfExperts(PrefixEvidence(), scope="full"), "anchor", "no mixture of experts in one body"),
        (MixtureOfExperts(LearnedRows(top_k=1)), "router", "rows get no gradient"),
        (MixtureOfExperts(LearnedRows()), "all", "stay as they were handed over"),
    ],
)
def test_what_cannot_be_tuned_is_refused(method: Method, what: str, why: str, tuned: Any) -> None:
    with pytest.raises(InvalidOption, match=why):
        tuned(method, what)


def test_rows_of_a_single_rescaled_expert_get_no_gradient(tuned: Any) -> None:
    # the refusal above, seen from the other side: without rescaling the same router does learn
    check_only(*tuned(MixtureOfExperts(LearnedRows(top_k=1, renormalise=False)), "router"), ROUTER)


def test_options_outside_their_domain_are_refused(tiny_base: Bases, contributions: Parts) -> None:
    with pytest.raises(InvalidOption, match="what='experts'"):
        TuningPlan("experts")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="weight_decay"):
        TuningPlan("router", TrainingPlan(weight_decay=0.1))
    composite = compose(contributions("olmo2"), MixtureOfExperts(LearnedRows()), tiny_base("olmo2"))
    with pytest.raises(InvalidOption, match="no texts"):
        tune(composite, tiny_base("olmo2").load_tokenizer(), {}, TuningPlan())


def test_nobody_joins_a_tuned_or_averaged_composite(
    tuned: Any, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    found, base = contributions("olmo2"), tiny_base("olmo2")
    early = compose(found[:2], MixtureOfExperts(LearnedRows()), base)
    plan = TuningPlan("router", replace(TRAINING, steps=2))
    record = {"public": ["the river runs over grey stones and the ferry crosses before noon"]}
    tune(early, base.load_tokenizer(), record, plan, force_cpu=True).save(tmp_path / "tuned")
    compose(found[:2], BTX(), base).save(tmp_path / "btx")
    with pytest.raises(InvalidOption, match="its record tells of one tuning"):
        tune(open_composite(tmp_path / "tuned"), base.load_tokenizer(), record, plan, force_cpu=True)
    with pytest.raises(NeedsRetraining, match="adding to it"):
        joined_language(open_composite(tmp_path / "tuned"), found[2:])
    with pytest.raises(ExportError, match="adding to it"):
        joined_language(open_composite(tmp_path / "btx"), found[2:])


def test_the_card_says_that_nobody_leaves(tuned: Any, tmp_path: Path) -> None:
    before, after = tuned(MixtureOfExperts(LearnedRows()), "router", training=replace(TRAINING, steps=1))
    before.save(tmp_path / "before")
    after.save(tmp_path / "after")
    assert "quiltwork remove" in (tmp_path / "before" / "README.md").read_text()
    card = (tmp_path / "after" / "README.md").read_text()
    assert "Tuned on public text after composing (router)" in card
    assert "quiltwork remove" not in card


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("what", "experts"),
        ("texts", {}),
        ("texts", {"public": {"documents": 0, "digest": "sha256:" + 64 * "0"}}),
        ("texts", {"public": {"documents": 1, "digest": "0"}}),
        ("plan", {"steps": [1]}),
        ("last_loss", "low"),
        ("code", "import os"),
    ],
)
def test_a_record_of_tuning_that_is_none_is_refused(field: str, value: object, tuned: Any, tmp_path: Path) -> None:
    _, after = tuned(MixtureOfExperts(LearnedRows()), "router", training=replace(TRAINING, steps=1))
    after.save(tmp_path / "tuned")
    where = tmp_path / "tuned" / "quiltwork.json"
    told = json.loads(where.read_text())
    told["tuned"][field] = value
    where.write_text(json.dumps(told))
    mend_records(tmp_path / "tuned")
    with pytest.raises(CheckpointError, match=r"not provenance that this version"):
        open_composite(tmp_path / "tuned")


def test_a_composite_that_denies_its_tuning_is_refused_by_its_digest(tuned: Any, tmp_path: Path) -> None:
    _, after = tuned(MixtureOfExperts(LearnedRows()), "router", training=replace(TRAINING, steps=1))
    after.save(tmp_path / "tuned")
    where = tmp_path / "tuned" / "quiltwork.json"
    told = json.loads(where.read_text())
    del told["tuned"]
    where.write_bytes(encode(told))
    with pytest.raises(CheckpointError):
        open_composite(tmp_path / "tuned")
