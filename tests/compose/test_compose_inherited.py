"""A base that is a composite itself: what is in it is named wherever the model goes, and revocations reach it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from party_keys import new_key, trust_file
from quiltwork.cli.app import main
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.composite import PROVENANCE, Composite, open_composite
from quiltwork.composite.bom import bill_of_materials
from quiltwork.contribution.revocation import revoke
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.signature import sign
from quiltwork.contribution.signing_keys import read_signing_key
from quiltwork.contribution.store import read
from quiltwork.contribution.trust import Trust, open_trust
from quiltwork.errors import AlteredCheckpoint, CheckpointError, QuiltworkError, RevokedContribution
from quiltwork.models.base import Base, open_base
from quiltwork.party.contribute import Order, contribute
from quiltwork.party.fragment import open_fragment
from quiltwork.training.loop import TrainingPlan

ROWS = MixtureOfExperts(LearnedRows())


class Story(NamedTuple):
    """Three parties' composite as a base, and a later owner's contribution to it."""

    early: list[Contribution]
    base: Base
    later: Contribution
    place: Path


@pytest.fixture(scope="module")
def story(
    tiny_base: Callable[[str], Base],
    contributions: Callable[[str], list[Contribution]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Story:
    place = tmp_path_factory.mktemp("inherited")
    early = contributions("olmo2")
    compose(early, ROWS, tiny_base("olmo2")).save(place / "composed")
    base = open_base(place / "composed")
    (place / "text.txt").write_text("\f".join(f"elm writes {i}" for i in range(40)))
    order = Order(party="elm", plan=TrainingPlan(steps=2, batch_size=2, sequence_length=32, learning_rate=1e-2))
    fragment = open_fragment([place / "text.txt"])
    return Story(early, base, contribute(base, fragment, place / "elm", order, force_cpu=True), place)


def extended(story: Story, trust: Trust | None = None) -> Composite:
    return compose([story.later], ROWS, story.base, trust=trust)


def test_what_is_in_the_base_is_named(story: Story, tmp_path: Path) -> None:
    composite = extended(story)
    assert [e.party for e in composite.provenance.contributions] == ["elm"]
    assert [(e.party, e.digest) for e in composite.provenance.inherited] == [(c.party, c.digest) for c in story.early]
    composite.save(tmp_path / "longer")
    assert open_composite(tmp_path / "longer").provenance == composite.provenance
    told = json.loads((tmp_path / "longer" / PROVENANCE).read_text())
    assert [e["party"] for e in told["inherited"]] == ["ash", "birch", "cedar"]
    card = (tmp_path / "longer" / "README.md").read_text()
    for contribution in story.early:
        assert contribution.digest in card
        assert contribution.manifest.licence in card
    materials = json.loads(bill_of_materials(tmp_path / "longer"))
    names = {one["name"] for one in materials["components"]}
    assert {f"contribution of {party}" for party in ("elm", "ash", "birch", "cedar")} <= names


def test_who_is_in_the_base_cannot_leave_and_the_refusal_says_so(story: Story) -> None:
    composite = extended(story)
    for party, why in (("ash", "it is in the base, which was composed itself"), ("oak", "has no such party")):
        with pytest.raises(QuiltworkError) as caught:
            composite.without(party)
        assert why in caught.value.why


def test_it_is_named_when_the_model_is_extended_again(story: Story, tmp_path: Path) -> None:
    extended(story).save(tmp_path / "longer")
    again = open_base(tmp_path / "longer")
    order = Order(party="fir", plan=TrainingPlan(steps=1, batch_size=2, sequence_length=32, learning_rate=1e-2))
    fir = contribute(again, open_fragment([story.place / "text.txt"]), tmp_path / "fir", order, force_cpu=True)
    found = compose([fir], ROWS, again).provenance
    assert [e.party for e in found.inherited] == ["ash", "birch", "cedar", "elm"]


def test_a_dense_base_hands_nothing_down(story: Story, tiny_base: Callable[[str], Base], tmp_path: Path) -> None:
    composite = compose(story.early, ROWS, tiny_base("olmo2"))
    assert composite.provenance.inherited == ()
    composite.save(tmp_path / "plain")
    assert "inherited" not in json.loads((tmp_path / "plain" / PROVENANCE).read_text())
    assert "The base is composed" not in (tmp_path / "plain" / "README.md").read_text()


def test_what_was_taken_back_is_refused_in_the_base(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    later = read(shutil.copytree(story.later.path, tmp_path / "elm"))
    for party in ("elm", "birch"):
        new_key(tmp_path, party)
    sign(later, read_signing_key(tmp_path / "elm.key"))
    keys = trust_file(tmp_path, ("elm", "elm.pem"), ("birch", "birch.pem"))
    signed = story._replace(later=later)
    extended(signed, open_trust(keys)).save(tmp_path / "longer")
    birch = next(c for c in story.early if c.party == "birch")
    file = tmp_path / "it.revocation"
    noon = datetime(2026, 5, 4, 12, tzinfo=UTC)
    key = read_signing_key(tmp_path / "birch.key")
    file.write_bytes(revoke("birch", birch.digest, key, reason="an error was found", at=noon))
    trust = open_trust(keys, revocations=[file])
    with pytest.raises(RevokedContribution, match="'birch' took it back on 2026-05-04") as caught:
        extended(signed, trust)
    assert "It is in the base" in caught.value.mend
    with pytest.raises(RevokedContribution, match="'birch' took it back"):
        open_composite(tmp_path / "longer").provenance.refuse_revoked(trust)
    words = [later.path, "--base", story.base.path, "--trust", keys, "--revocations", file]
    for verb, *more in (
        ["compose", "--method", "learned_rows", "--out", tmp_path / "out"],
        ["screen", "--weights-only"],
    ):
        monkeypatch.setattr(sys, "argv", ["quiltwork", verb, *map(str, [*words, *more])])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        assert "party 'birch' took it back" in capsys.readouterr().err


def test_a_composite_that_does_not_say_what_is_in_it_is_no_base(story: Story, tmp_path: Path) -> None:
    shutil.copytree(story.base.path, tmp_path / "composed")
    (tmp_path / "composed" / PROVENANCE).write_text("{}")
    with pytest.raises(CheckpointError, match=r"quiltwork\.json.*not provenance"):
        extended(story._replace(base=open_base(tmp_path / "composed")))


def test_a_base_whose_record_was_changed_by_hand_is_refused(story: Story, tmp_path: Path) -> None:
    shutil.copytree(story.base.path, tmp_path / "composed")
    record = tmp_path / "composed" / PROVENANCE
    stated = json.loads(record.read_text())
    record.write_text(json.dumps(stated | {"contributions": stated["contributions"][1:]}))
    with pytest.raises(AlteredCheckpoint, match="one of them was changed"):
        extended(story._replace(base=open_base(tmp_path / "composed")))
