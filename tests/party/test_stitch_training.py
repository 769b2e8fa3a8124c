"""Stitches trained by owners: what they gain, what leaves, what they stand on, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stitching_networks import CLASSES, captured, cnn, images, mlp, published
from torch import nn
from torch.nn import functional

from quiltwork.contribution.store import read
from quiltwork.errors import CompatibilityError, FragmentError, InvalidOption, TaskMismatch
from quiltwork.models.network.adapters import Adapter
from quiltwork.models.network.splices import Splice, pair
from quiltwork.models.network.stitched import StitchedNetwork
from quiltwork.models.network.stitches import fitted_adapters, read_stitches
from quiltwork.party.examples import Examples
from quiltwork.party.pair_statistics import StatisticsOrder, contribute_pair_statistics, unreleased_statistics
from quiltwork.party.steps import StepPlan
from quiltwork.party.stitch_losses import loss_of, penultimate
from quiltwork.party.stitch_training import StitchOrder, contribute_stitches, train_stitches

SPLICES = pair(("ash", "1"), ("birch", "2"))
ORDER = StitchOrder(party="cedar", splices=SPLICES, plan=StepPlan(steps=60, batch_size=32, learning_rate=3e-3))


def looking(examples, how):
    """The same images as another scanner would show them."""
    values = examples.values if how == "ash" else 1 - examples.values[:, :, ::-1].transpose(0, 1, 3, 2)
    return Examples(how, np.ascontiguousarray(values), "0..1", examples.labels, CLASSES)


def schooled(module, examples, steps=150):
    torch.manual_seed(0)
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3)
    x, y = torch.from_numpy(examples.inputs(0, len(examples))), torch.from_numpy(examples.labels)
    for step in range(steps):
        rows = torch.arange(step * 32, step * 32 + 32) % len(x)
        optimiser.zero_grad()
        functional.cross_entropy(module((x[rows] - 0.5) / 0.25), y[rows]).backward()
        optimiser.step()
    return module.eval()


@pytest.fixture(scope="module")
def data():
    return {
        how: (looking(images(500, s), how), looking(images(400, s + 5), how)) for s, how in enumerate(("ash", "birch"))
    }


@pytest.fixture(scope="module")
def networks(data):
    return {
        "ash": captured(schooled(cnn(), data["ash"][0])),
        "birch": captured(schooled(mlp(), data["birch"][0])),
    }


@pytest.fixture(scope="module")
def contributions(networks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return [published(network, party, folder) for party, network in networks.items()]


def right(model, examples, setting):
    with torch.no_grad():
        found = model(torch.from_numpy(examples.inputs(0, len(examples))), setting).argmax(1)
    return float((found == torch.from_numpy(examples.labels)).float().mean())


def test_training_at_one_owner_brings_back_what_the_closed_form_costs_it(networks, data):
    train, test = data["ash"]
    splices = pair(("ash", "0"), ("birch", "2"))
    own = unreleased_statistics(*networks.values(), train, StatisticsOrder("own", ["0"], ["2"], largest_grid=None))
    adapters = fitted_adapters(networks, splices, {("ash", "birch"): own})
    model = StitchedNetwork(networks, splices, adapters)
    digests, before = [network.digest for network in networks.values()], right(model, test, "stitched")
    order = replace(ORDER, splices=splices, plan=StepPlan(steps=150, batch_size=32, learning_rate=1e-2))
    losses = train_stitches(networks, splices, adapters, train, order)
    assert losses[-1] < losses[0]
    assert before < right(model, test, "ash") - 0.1
    assert right(model, test, "stitched") > right(model, test, "ash") - 0.03
    assert [network.digest for network in networks.values()] == digests
    assert not any(p.requires_grad for network in networks.values() for p in network.parameters())


def test_equal_runs_give_equal_bytes_and_hold_what_was_trained(networks, contributions, data, tmp_path):
    one, other = (contribute_stitches(contributions, data["ash"][0], tmp_path / n, ORDER) for n in "ab")
    assert one.digest == other.digest
    found = read_stitches(read(tmp_path / "a"))
    assert found.splices == SPLICES
    assert [reference.party for reference in found.networks] == ["ash", "birch"]
    model = StitchedNetwork(networks, found.splices, found.adapters(networks))
    assert right(model, data["ash"][0], "stitched") > 0.8
    method = one.manifest.method
    assert (method.training.loss, method.training.steps, method.training.loss_first) == ("task", 60, None)
    assert [(event.released, event.mechanism) for event in one.manifest.privacy] == [("stitches", "exact")]


def test_losses_leave_only_on_request_and_with_an_event(contributions, data, tmp_path):
    told = contribute_stitches(contributions, data["ash"][0], tmp_path / "told", replace(ORDER, report_losses=True))
    assert told.manifest.method.training.loss_last < told.manifest.method.training.loss_first
    assert {event.released for event in told.manifest.privacy} == {"stitches", "training"}


def test_owners_take_turns_and_everything_that_went_in_is_listed(networks, contributions, data, tmp_path):
    order = StatisticsOrder(party="cedar", points_a=["1"], points_b=["2"], held_out=0.0)
    sums = [
        contribute_pair_statistics(*contributions, data[how][0], tmp_path / f"sums-{how}", replace(order, party=how))
        for how in ("ash", "birch")
    ]
    first = contribute_stitches(contributions, data["ash"][0], tmp_path / "first", ORDER, statistics=sums)
    assert set(first.manifest.method.rests_on) == {one.digest for one in sums}
    second = contribute_stitches(
        contributions, data["birch"][0], tmp_path / "second", StitchOrder("birch", plan=ORDER.plan), start=first
    )
    assert set(second.manifest.method.rests_on) == {first.digest, *(one.digest for one in sums)}
    with pytest.raises(InvalidOption, match="go on from are given too"):
        contribute_stitches(contributions, data["ash"][0], tmp_path / "x", ORDER, start=first, statistics=sums)
    accuracies = []
    for made in (first, second):
        stitches = read_stitches(made)
        model = StitchedNetwork(networks, stitches.splices, stitches.adapters(networks))
        accuracies.append(right(model, data["birch"][1], "stitched"))
    assert accuracies[1] > accuracies[0]


def test_without_labels_features_before_the_output_are_matched(networks, data):
    unlabelled = replace(data["ash"][0], labels=None, classes=None)
    adapters = [[Adapter.linear(*ends)] for ends in points_of(networks)]
    losses = train_stitches(networks, SPLICES, adapters, unlabelled, replace(ORDER, loss="penultimate"))
    assert losses[-1] < losses[0]
    assert penultimate(networks["ash"], "1") == "3"


def points_of(networks):
    ash, birch = networks["ash"].point("1"), networks["birch"].point("2")
    return (birch, ash), (ash, birch)


def test_a_network_spliced_into_its_copy_has_nothing_to_learn(networks, data):
    twins = {"ash": networks["ash"], "elm": networks["ash"]}
    splices = pair(("ash", "1"), ("elm", "1"))
    adapters = [[Adapter.linear(networks["ash"].point("1"), networks["ash"].point("1"))] for _ in splices]
    x = torch.from_numpy(data["ash"][0].inputs(0, 50))
    assert float(loss_of("penultimate", twins, splices, adapters)(x, None).detach()) == 0.0
    labels = torch.from_numpy(data["ash"][0].labels[:50])
    alone = functional.cross_entropy(networks["ash"](x), labels)
    assert torch.allclose(loss_of("task", twins, splices, adapters)(x, labels), alone)


def test_the_task_loss_is_that_of_each_tail_and_not_of_their_mean(networks, data):
    x, y = (torch.from_numpy(v) for v in (data["ash"][0].inputs(0, 60), data["ash"][0].labels[:60]))
    adapters = [[Adapter.linear(*ends)] for ends in points_of(networks)]
    tails = []
    for party, other, weights in (("ash", "birch", adapters[0][0]), ("birch", "ash", adapters[1][0])):
        at = {"ash": "1", "birch": "2"}
        mine, theirs = (networks[p].run(x, [at[p]])[at[p]] for p in (party, other))
        mixed = (mine + weights(theirs)) / 2
        tails.append(networks[party].run(x, ["output"], {at[party]: mixed})["output"])
    found = loss_of("task", networks, SPLICES, adapters)(x, y)
    assert torch.allclose(found, sum(functional.cross_entropy(tail, y) for tail in tails) / 2, atol=1e-6)
    joint = functional.nll_loss(torch.stack([tail.softmax(1) for tail in tails]).mean(0).log(), y)
    assert not torch.allclose(found, joint, atol=1e-3)


def test_the_double_batch_also_trains_each_splice_on_activations_as_they_are(networks, data):
    x, y = (torch.from_numpy(v) for v in (data["ash"][0].inputs(0, 40), data["ash"][0].labels[:40]))
    splices = [Splice(("ash", "0"), (("birch", "2"),)), Splice(("ash", "2"), (("birch", "4"),))]
    adapters = [
        [Adapter.linear(networks["birch"].point(s.sources[0].point), networks["ash"].point(s.into.point))]
        for s in splices
    ]
    doubled = loss_of("task", networks, splices, adapters)(x, y)
    single = [loss_of("task", networks, [s], [a])(x, y) for s, a in zip(splices, adapters, strict=True)]
    whole = loss_of("task", networks, splices, adapters, double=False)(x, y)
    assert torch.allclose(doubled, whole / 2 + (single[0] + single[1]) / 4)
    assert not torch.allclose(doubled, whole)


def test_parts_that_do_not_belong_together_are_refused(networks, contributions, data, tmp_path):
    first = contribute_stitches(contributions, data["ash"][0], tmp_path / "first", ORDER)
    other = published(captured(mlp(7)), "birch", tmp_path)
    train = data["ash"][0]
    with pytest.raises(InvalidOption, match="for another one"):
        contribute_stitches([contributions[0], other], train, tmp_path / "x", replace(ORDER, splices=()), start=first)
    elsewhere = replace(ORDER, splices=pair(("ash", "0"), ("birch", "2")))
    with pytest.raises(CompatibilityError, match="other places"):
        contribute_stitches(contributions, train, tmp_path / "x", elsewhere, start=first)
    sums = contribute_pair_statistics(*contributions, train, tmp_path / "sums", StatisticsOrder("ash", held_out=0.0))
    with pytest.raises(CompatibilityError, match="another network of party 'birch'"):
        contribute_stitches([contributions[0], other], train, tmp_path / "x", ORDER, statistics=[sums])
    with pytest.raises(InvalidOption, match="splices"):
        contribute_stitches(contributions, train, tmp_path / "x", replace(ORDER, splices=()))
    with pytest.raises(FragmentError, match="no labels"):
        contribute_stitches(contributions, replace(train, labels=None, classes=None), tmp_path / "x", ORDER)
    with pytest.raises(TaskMismatch, match="classes"):
        contribute_stitches(contributions, replace(train, classes=CLASSES[::-1]), tmp_path / "x", ORDER)
    with pytest.raises(InvalidOption, match="hinge"):
        contribute_stitches(contributions, train, tmp_path / "x", replace(ORDER, loss="hinge"))
    assert not (tmp_path / "x").exists()


def test_no_point_behind_a_splice_is_told(networks):
    with pytest.raises(InvalidOption, match="earlier point"):
        penultimate(captured(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()), "0")
