"""Networks are composed where they have one task and hold what the method needs; every refusal names the party."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import network_parties as parties
from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.combine import Combine
from quiltwork.compose.gaussian_head import GaussianHead
from quiltwork.compose.method import compose
from quiltwork.compose.network_alone import NetworkAlone
from quiltwork.compose.network_evidence import Evidence
from quiltwork.compose.network_soup import NetworkSoup
from quiltwork.compose.stitch import Stitch
from quiltwork.composite.network_members import members_of, settled
from quiltwork.contribution.networks import TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import DuplicateParty, ExportError, InvalidOption, MissingPart, TaskMismatch, TensorMismatch
from quiltwork.evidence.embedding import ModuleEmbedding, RandomEmbedding
from quiltwork.models.network.network import Network
from quiltwork.models.network.stitched import StitchedNetwork

Modules = Mapping[str, Contribution]


# One task.


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"units": "0..255"}, "its inputs are in '0..255', and those of party 'ash' in '0..1'"),
        ({"classes": ("no", "yes", "maybe")}, "its classes are in another order: number 2 is 'yes', and 'maybe' at"),
        ({"classes": ("no", "maybe", "never")}, "it has no class 'yes', which party 'ash' has"),
        ({"classes": ("no", "maybe", "yes", "never")}, "it has a class 'never', which party 'ash' has not"),
        ({"classes": None}, "it gives numbers, and party 'ash' classes"),
    ],
)
def test_another_task_is_refused_by_party_and_difference(
    changes: dict[str, Any], why: str, modules: Modules, tmp_path: Path
) -> None:
    classes = changes.get("classes", parties.CLASSES)
    outputs = 3 if classes is None else len(classes)
    one = parties.network("birch", outputs=outputs, **changes)
    with pytest.raises(TaskMismatch, match=f"party 'birch': {why}") as caught:
        compose([parties.release(tmp_path, "birch", one=one), modules["ash"]], Combine())
    assert "Ask for" in caught.value.mend or "Compose" in caught.value.mend


def test_another_shape_and_another_number_of_outputs_are_refused(modules: Modules, tmp_path: Path) -> None:
    task = TaskReference.of(parties.signature())
    wide = parties.release(tmp_path, "birch", parts=("inputs",), task=task.model_copy(update={"shape": (1, 4, 9)}))
    with pytest.raises(TaskMismatch, match=r"party 'birch': its inputs have shape \[1, 4, 9\].*'ash' \[1, 6, 6\]"):
        compose([modules["ash"], wide], GaussianHead())
    two, three = (parties.network("ash", classes=None, outputs=n) for n in (2, 3))
    given = [parties.release(tmp_path, name, one=one) for name, one in {"elm": two, "fir": three}.items()]
    with pytest.raises(TaskMismatch, match="party 'fir': it gives 3 numbers, and party 'elm' 2"):
        compose(given, Combine())


def test_how_a_network_normalises_is_its_own_affair(modules: Modules, tmp_path: Path) -> None:
    other = parties.release(tmp_path, "birch", one=parties.network("birch", mean=(0.1,), std=(2.0,)))
    assert compose([modules["ash"], other], Combine()).parties == ("ash", "birch")


def test_grounds_do_not_mix(modules: Modules, contributions: Any, tiny_base: Any) -> None:
    expert = contributions("olmo2")[1]
    with pytest.raises(MissingPart, match="the contribution of party 'birch': it is of kind 'expert'") as caught:
        compose([modules["ash"], expert], Combine())
    assert "with a base" in caught.value.mend
    with pytest.raises(MissingPart, match=r"party 'ash'.*mixture"):
        compose([modules["ash"]], AlignedAverage())
    with pytest.raises(InvalidOption, match="method combine: it composes mixtures on tables or networks"):
        compose([modules["ash"]], Combine(), tiny_base("olmo2"))  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="an empty list"):
        compose([], Combine())


# What a party hands over.


def test_several_contributions_of_a_party_come_together(nets: Mapping[str, Network], tmp_path: Path) -> None:
    parts = {
        name: (parties.release(tmp_path, name, one=nets[name]), parties.release(tmp_path, name, parts=("inputs",)))
        for name in ("ash", "birch")
    }
    apart = compose([c for both in parts.values() for c in both], Combine(weights="evidence"))
    assert apart.parties == ("ash", "birch")
    assert [c.kind for c in apart.contributions] == ["module", "moments"] * 2
    together = [parties.release(tmp_path / "t", name, one=nets[name], parts=("inputs",)) for name in parts]
    x = parties.inputs()
    assert np.array_equal(apart.outputs(x), compose(together, Combine(weights="evidence")).outputs(x))


def test_the_same_thing_twice_is_refused_and_one_contribution_given_twice_counts_once(
    modules: Modules, tmp_path: Path
) -> None:
    twice = compose([modules["ash"], modules["ash"], modules["birch"]], Combine())
    assert [c.digest for c in twice.contributions] == [modules["ash"].digest, modules["birch"].digest]
    again = parties.release(tmp_path, "ash", one=parties.network("ash", 7))
    with pytest.raises(DuplicateParty, match="party 'ash': two of its contributions hold 'module' of the same"):
        compose([modules["ash"], again], Combine())
    moments = parties.release(tmp_path, "ash", parts=("inputs",))
    with pytest.raises(DuplicateParty, match="hold 'inputs'"):
        compose([modules["ash"], moments], Combine(weights="evidence"))


def test_a_party_has_all_that_a_method_needs_or_something_that_it_uses(modules: Modules, tmp_path: Path) -> None:
    bare = parties.release(tmp_path, "birch", one=parties.network("birch"))
    with pytest.raises(MissingPart, match=r"party 'birch': method combine needs the part 'inputs', and it .*'module'"):
        compose([modules["ash"], bare], Combine(weights="evidence"))
    moments = parties.release(tmp_path, "cedar", parts=("inputs", "classes"))
    with pytest.raises(MissingPart, match="party 'cedar': method combine needs the part 'module'"):
        compose([modules["ash"], moments], Combine())
    assert compose([bare, moments], GaussianHead()).parties == ("birch", "cedar"), "a module may lend its features"
    with pytest.raises(MissingPart, match="the contributions: method gaussian_head needs 'classes', and no party"):
        compose([bare], GaussianHead())


def test_the_name_of_the_base_is_nobody_s(tmp_path: Path) -> None:
    base = parties.release(tmp_path, "base", one=parties.network("ash"))
    with pytest.raises(InvalidOption, match="party 'base'"):
        compose([base], Combine())


# About networks that are there, that are others, that are not there.


def test_sums_about_other_weights_are_refused(modules: Modules, sums: Modules, tmp_path: Path) -> None:
    other = parties.release(tmp_path, "birch", one=parties.network("birch", 7))
    with pytest.raises(TaskMismatch, match=r"party 'cedar' of kind 'stitch_statistics': it is about weights sha256:"):
        compose([modules["ash"], other, sums["cedar"]], Stitch())


def test_sums_about_a_network_that_is_not_there_are_set_aside(modules: Modules, sums: Modules) -> None:
    kept = settled([modules["ash"], sums["ash"], sums["cedar"]])
    assert kept == (modules["ash"],)
    alone = compose([modules["ash"], sums["ash"]], Stitch())
    assert alone.contributions == (modules["ash"],)
    assert "nothing is joined" in alone.solution.notes[0]


def test_who_only_tells_of_others_is_a_party_and_can_leave(modules: Modules, sums: Modules) -> None:
    whole = compose([modules["ash"], modules["birch"], *sums.values()], Stitch())
    assert whole.parties == ("ash", "birch", "cedar")
    assert whole.without("cedar").parties == ("ash", "birch")
    left = whole.without("birch")
    assert [c.kind for c in left.contributions] == ["module"], "all that was said of birch's network goes too"
    with pytest.raises(InvalidOption, match="party 'birch': it is not in the composite"):
        left.without("birch")
    with pytest.raises(ExportError, match="removing party 'ash': it is the only one left"):
        left.without("ash")


def test_stitches_leave_with_everybody_they_rest_on(modules: Modules, sums: Modules, chain: Modules) -> None:
    base = [modules["ash"], modules["birch"], *sums.values()]
    assert settled([*base, *chain.values()]) == settled([*chain.values(), *base][::-1])
    whole = compose([*base, *chain.values()], Stitch())
    assert whole.solution.figures["joints"][0]["trained by"] == "ash"  # type: ignore[index, call-overload]
    kinds = [c.digest for c in whole.without("cedar").contributions if c.kind == "stitches"]
    assert kinds == [], "the first stitches began with cedar's sums, and all others went on from them"
    fewer = [c for c in base if c is not sums["cedar"]]
    assert all(c.kind != "stitches" for c in settled([*fewer, *chain.values()]))


def test_of_a_chain_the_last_counts_and_earlier_ones_stand_in(modules: Modules, sums: Modules, chain: Modules) -> None:
    base = [modules["ash"], modules["birch"], *sums.values()]
    x = parties.inputs()
    by = {name: compose([*base, *some], Stitch()) for name, some in chains(chain).items()}
    assert [by[name].solution.figures["joints"][0]["trained by"] for name in by] == ["ash", "cedar", "ash"]  # type: ignore[index, call-overload]
    outputs = [one.outputs(x) for one in by.values()]
    assert not np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


@pytest.fixture(scope="module")
def pool(
    modules: Modules,
    sums: Modules,
    chain: Modules,
    nets: Mapping[str, Network],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Contribution]:
    """Contributions of all kinds, some about others, some on top of others, one module taught by another party's."""
    place = tmp_path_factory.mktemp("pool")
    taught_net = parties.network("ash", 7)
    taught = parties.release(place, "ash", one=taught_net, rests_on=(modules["ash"], modules["birch"]))
    late = [
        parties.release_pair(place, "cedar", taught, modules["cedar"]),
        parties.release_pair(place, "birch", modules["ash"], modules["cedar"]),
        parties.release_outputs(place, "birch", nets),
        parties.release_outputs(place, "cedar", {"ash": taught_net, "birch": nets["birch"]}),
    ]
    return [*modules.values(), *sums.values(), *chain.values(), taught, *late]


@given(data=st.data())
def test_settling_before_somebody_leaves_and_afterwards_agree(data: st.DataObject, pool: list[Contribution]) -> None:
    some = data.draw(st.lists(st.sampled_from(range(len(pool))), unique=True))
    contributions, leaver = [pool[k] for k in some], data.draw(st.sampled_from(parties.PARTIES))
    whole = settled(contributions)
    assert whole == settled(contributions[::-1]) == settled(whole)
    assert set(whole) <= set(contributions)
    left = [c for c in contributions if c.party != leaver]
    assert settled([c for c in whole if c.party != leaver]) == settled(left)
    assert all(member.contributions for member in members_of(settled(left)))


def test_sums_about_a_former_module_wait_for_it_to_come_back(pool: list[Contribution], modules: Modules) -> None:
    about_former = next(
        c for c in pool if c.party == "birch" and c.kind == "stitch_statistics" and c.path.name.endswith("cedar")
    )
    taught = next(c for c in pool if c.path.name.endswith("again"))
    given = [*modules.values(), taught, about_former]
    whole = compose(given, Combine())
    assert about_former in whole.contributions
    assert all(about_former not in member.contributions for member in whole.members)
    with pytest.raises(MissingPart):
        compose(given, Stitch())
    helper = parties.release_pair(about_former.path.parent / "more", "cedar", modules["ash"], modules["cedar"])
    left = compose([*given, helper], Combine()).without("birch")
    assert {c.digest for c in left.contributions} == {modules["ash"].digest, modules["cedar"].digest, helper.digest}
    assert any(helper in member.contributions for member in left.members)


def chains(chain: Modules) -> dict[str, list[Contribution]]:
    return {
        "one": [chain["first"]],
        "two": [chain["first"], chain["second"]],
        "three": list(chain.values()),
    }


def test_a_module_that_learned_from_another_leaves_with_its_teacher(modules: Modules, tmp_path: Path) -> None:
    student, teacher = modules["ash"], modules["birch"]
    taught = parties.release(
        tmp_path, "ash", one=parties.network("ash", 7), parts=("inputs", "classes"), rests_on=(student, teacher)
    )
    x = parties.inputs()
    whole = compose([student, teacher, taught], Combine())
    assert np.array_equal(
        whole.members[0].network.tensors()["head.bias"], parties.network("ash", 7).tensors()["head.bias"]
    )
    left = whole.without("birch")
    assert left.contributions == (student,)
    assert np.array_equal(left.outputs(x), compose([student], Combine()).outputs(x))
    with pytest.raises(MissingPart, match="no party holds that, since 1 of them stand on modules or contributions"):
        compose([taught], Combine())


def test_two_who_trained_for_themselves_are_not_averaged(
    modules: Modules, nets: Mapping[str, Network], tmp_path: Path
) -> None:
    pair = {name: nets[name] for name in ("ash", "birch")}
    points = {"ash": "first", "birch": "deep"}
    rival = [parties.release_stitches(tmp_path, name, pair, points, seed=k) for k, name in enumerate(pair)]
    with pytest.raises(InvalidOption, match="stitches of parties 'ash' and 'birch': both are for the same networks"):
        compose([modules["ash"], modules["birch"], *rival], Stitch())


# Options that do not fit what is given.


@pytest.mark.parametrize(
    ("method", "error", "what"),
    [
        (NetworkAlone("yew"), InvalidOption, "party='yew'"),
        (NetworkAlone(), InvalidOption, "party=None"),
        (Combine(weights={"yew": 1.0}), InvalidOption, "weight of party 'yew'"),
        (Combine(weights={"ash": 0.0}), InvalidOption, "weight 0.0 of 'ash'"),
        (Combine(weights={"ash": float("nan")}), InvalidOption, "weight nan of 'ash'"),
        (Combine("mean"), InvalidOption, "rule='mean': the networks give classes"),
        (Combine(weights="stacked"), MissingPart, "weights='stacked'"),
        (NetworkSoup(), TensorMismatch, "module of party 'birch': its graph is another than that of party 'ash'"),
        (Stitch(), MissingPart, "what stitches between two networks are made of"),
        (Stitch(("ash", "yew")), InvalidOption, "party 'yew' of the pair"),
        (Stitch(("ash", "cedar")), MissingPart, "the networks of 'ash' and 'cedar'"),
    ],
)
def test_what_does_not_fit_is_refused(method: Any, error: type[Exception], what: str, modules: Modules) -> None:
    with pytest.raises(error, match=what):
        compose(list(modules.values()), method)


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: Combine("loudest"), "rule='loudest'"),
        (lambda: Combine(weights="mine"), "weights='mine'"),
        (lambda: Evidence(of="labels"), "evidence of 'labels'"),
        (lambda: Evidence(prior="fame"), "prior='fame'"),
        (lambda: Evidence(temperature=0.0), "temperature=0.0"),
        (lambda: GaussianHead("tree"), "form='tree'"),
        (lambda: GaussianHead(shrinkage=1.5), "shrinkage=1.5"),
        (lambda: Stitch(weights="stacked"), "weights='stacked'"),
        (lambda: Stitch(mode="swap"), "mode='swap'"),
        (lambda: Stitch(points=("a", "b")), "points="),
        (lambda: Stitch(both=False), "both=False"),
        (lambda: Stitch(pair=("a", "a")), "pair="),
    ],
)
def test_an_option_out_of_its_domain_is_refused(build: Any, what: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        build()
    assert what in caught.value.what


def test_summaries_in_different_embeddings_are_refused(modules: Modules, tmp_path: Path) -> None:
    other = parties.release(
        tmp_path,
        "birch",
        one=parties.network("birch"),
        parts=("inputs",),
        embedding=RandomEmbedding(dimension=5, seed=4),
    )
    with pytest.raises(TaskMismatch, match=r"party 'birch': its inputs .* another embedding \(kind random.*seed 4"):
        compose([modules["ash"], other], Combine(weights="evidence"))


def test_an_embedding_by_a_module_that_is_not_there_is_refused(tmp_path: Path) -> None:
    embedding = ModuleEmbedding(party="elm", digest="sha256:" + "7" * 64, point="first", dimension=5)
    declared, tensors = parties.statistics("ash", ("classes",))
    given = parties.release_statistics(
        tmp_path, "ash", tuple(one.model_copy(update={"embedding": embedding}) for one in declared), tensors
    )
    with pytest.raises(MissingPart, match="the module of party 'elm': inputs are summarised by its features"):
        compose([given], GaussianHead())


def test_stitched_networks_are_their_parents_by_setting(
    modules: Modules, sums: Modules, nets: Mapping[str, Network]
) -> None:
    given = [modules["ash"], modules["birch"], sums["ash"]]
    composite, x = compose(given, Stitch()), parties.inputs()
    model = composite.model()
    assert isinstance(model, StitchedNetwork)
    stitched = composite.outputs(x)
    for party in ("ash", "birch"):
        model.set(party)
        alone = compose(given, NetworkAlone(party))
        assert np.array_equal(composite.outputs(x), alone.outputs(x))
    model.set("ensemble")
    assert np.array_equal(composite.outputs(x), compose(given[:2], Combine()).outputs(x))
    model.set("stitched")
    assert np.array_equal(composite.outputs(x), stitched)
    assert not any(parameter.requires_grad for parameter in model.parameters())
