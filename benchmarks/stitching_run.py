"""One task and one seed: owners train, contribute and compose; beside them everything that they could do otherwise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, cycle
from pathlib import Path

import torch
from stitching_models import ARCHITECTURES, accuracy, averaged, distilled, made, probabilities, souped, trained
from stitching_tasks import SIDE, Site, Task
from torch import Tensor, nn
from torch.nn.functional import softmax

from quiltwork.compose.combine import Combine
from quiltwork.compose.gaussian_head import GaussianHead
from quiltwork.compose.method import compose
from quiltwork.compose.network_evidence import Evidence
from quiltwork.compose.stitch import Stitch
from quiltwork.contribution.network_graph import Signature
from quiltwork.contribution.sealed import Contribution
from quiltwork.evaluate.hypervolume import hypervolume
from quiltwork.models.network.candidates import stitch_points
from quiltwork.models.network.network import Network
from quiltwork.models.network.opening import open_network
from quiltwork.models.network.placement import Candidate, pick, rank
from quiltwork.models.network.splices import pair
from quiltwork.models.network.stitches import read_pair_statistics
from quiltwork.party.examples import Examples
from quiltwork.party.input_moments import MomentsOrder, RandomEmbedding
from quiltwork.party.module import ModuleOrder, contribute_module
from quiltwork.party.module_outputs import OutputsOrder, contribute_outputs
from quiltwork.party.pair_statistics import StatisticsOrder, contribute_pair_statistics
from quiltwork.party.steps import StepPlan
from quiltwork.party.stitch_training import StitchOrder, contribute_stitches

Row = dict[str, float]
PLACES = 2
WIDEST = 48
PAIRS = 1
"""Of three owners the first two are stitched; evidence and ensembles are over all."""
STEPS = (40, 200)
WEIGHED = 100
"""Training rows that an owner keeps from its own model, so that weights of models are judged on rows nobody learned."""


@dataclass(frozen=True)
class Owner:
    """One owner at work.

    Attributes:
        site: its images.
        architecture: of its model.
        kept: rows held out of training; the first ones.
        module: its trained model.
    """

    site: Site
    architecture: str
    module: nn.Module

    def examples(self, name: str, rows: slice, classes: tuple[str, ...]) -> Examples:
        return Examples(
            name, self.site.train[rows].numpy(), "0..1", self.site.train_labels[rows].numpy(), classes
        )  # fmt: skip


def run(task: Task, seed: int) -> dict:
    """Accuracy of every way for every owner, and what crossed."""
    architectures = dict(zip(sorted(task.sites), cycle(ARCHITECTURES), strict=False))
    owners = {name: _owner(task, name, architectures[name], seed) for name in sorted(task.sites)}
    with tempfile.TemporaryDirectory() as folder:
        shared = _contributed(task, owners, Path(folder))
        rows = _alone(owners) | _outputs(owners, shared) | _otherwise(task, owners, seed)
        pairs = {
            f"{a} + {b}": _stitched(task, {a: owners[a], b: owners[b]}, shared, Path(folder), seed)
            for a, b in list(combinations(owners, 2))[:PAIRS]
        }
        return {
            "task": task.name,
            "evidence can help": task.evidence_can_help,
            "owners": {name: {"architecture": o.architecture, "rows": len(o.site.train)} for name, o in owners.items()},
            "accuracy": rows,
            "pairs": pairs,
            "bytes": {f"{party}, {kind}": float(c.bytes) for (party, kind), c in shared.items()},
        }


def _owner(task: Task, name: str, architecture: str, seed: int) -> Owner:
    site = task.sites[name]
    x, y = site.train[WEIGHED:], site.train_labels[WEIGHED:]
    return Owner(site, architecture, trained(architecture, len(task.classes), x, y, seed))


def _contributed(task: Task, owners: Mapping[str, Owner], folder: Path) -> dict[tuple[str, str], Contribution]:
    """Each owner's model with a summary of its inputs and classes, then what it says of everybody's outputs."""
    signature = Signature(shape=(1, SIDE, SIDE), units="0..1", classes=task.classes, outputs=len(task.classes))
    embedding = RandomEmbedding(dimension=40, seed=0)
    found: dict[tuple[str, str], Contribution] = {}
    for name, owner in owners.items():
        order = ModuleOrder(name, moments=MomentsOrder(embedding=embedding, inputs=1, classes="per_class"))
        mine = owner.examples(name, slice(None), task.classes)
        found[name, "module"] = contribute_module(owner.module, signature, folder / name, order, examples=mine)
    published = list(found.values())
    for name, owner in owners.items():
        kept = owner.examples(name, slice(WEIGHED), task.classes)
        found[name, "outputs"] = contribute_outputs(published, kept, folder / f"{name}-outputs", OutputsOrder(name))
    return found


def _alone(owners: Mapping[str, Owner]) -> dict[str, Row]:
    own = {name: _row(owners, lambda x, m=owner.module: probabilities(m, x)) for name, owner in owners.items()}
    best = {name: max(own[other][name] for other in own if other != name) for name in own}
    return {"own model": {name: own[name][name] for name in own}, "best other model": best}


def _outputs(owners: Mapping[str, Owner], shared: Mapping[tuple[str, str], Contribution]) -> dict[str, Row]:
    """Composites that train nothing."""
    methods = {
        "ensemble, probabilities": Combine(),
        "ensemble, logits": Combine("logit"),
        "ensemble, ranks": Combine("rank"),
        "ensemble, median": Combine("median"),
        "ensemble, stacked": Combine(weights="stacked"),
        "ensemble, evidence": Combine(weights="evidence"),
        "ensemble, evidence by class": Combine(weights="evidence", evidence=Evidence(of="classes")),
        "Gaussian head, lda": GaussianHead("lda"),
        "Gaussian head, qda": GaussianHead("qda", shrinkage=0.1),
    }
    return {name: _composed(owners, list(shared.values()), method) for name, method in methods.items()}


def _otherwise(task: Task, owners: Mapping[str, Owner], seed: int) -> dict[str, Row]:
    """What needs more than one talk, one architecture, or the rows themselves."""
    classes, sites = len(task.classes), [owner.site for owner in owners.values()]
    x, y = torch.cat([s.train for s in sites]), torch.cat([s.train_labels for s in sites])
    pooled = [trained(owner.architecture, classes, x, y, seed) for owner in owners.values()]
    bound = [_row(owners, lambda rows, m=module: probabilities(m, rows)) for module in pooled]
    federated = averaged("cnn", classes, [(s.train, s.train_labels) for s in sites], seed)
    same = [trained("cnn", classes, s.train, s.train_labels, seed + 100 + i) for i, s in enumerate(sites)]
    soup = souped(same, made("cnn", classes, seed))
    return {
        "the first owner's model, taught by the ensemble": _distilled(task, owners, next(iter(owners)), seed),
        "weight soup (cnn for all, started apart)": _row(owners, lambda rows: probabilities(soup, rows)),
        "federated averaging (cnn, all online)": _row(owners, lambda rows: probabilities(federated, rows)),
        "pooled training (nobody may)": {o: sum(row[o] for row in bound) / len(bound) for o in owners},
    }


def _distilled(task: Task, owners: Mapping[str, Owner], name: str, seed: int) -> Row:
    """The ensemble taught to one network on the images of one owner."""
    owner = owners[name]
    teacher = lambda x: sum(probabilities(o.module, x) for o in owners.values()) / len(owners)  # noqa: E731
    student = distilled(owner.architecture, len(task.classes), teacher, owner.site.train, owner.site.train_labels, seed)
    return _row(owners, lambda rows: probabilities(student, rows))


# Stitching of two ------------------------------------------------------------------------


def _stitched(
    task: Task, two: Mapping[str, Owner], shared: Mapping[tuple[str, str], Contribution], folder: Path, seed: int
) -> dict:
    """Every placement and training, for both owners, and what the front over owners holds."""
    a, b = two
    modules = [shared[name, "module"] for name in two]
    points = {name: _narrow(open_network(shared[name, "module"])) for name in two}
    sums = [_summed(modules, two[name], name, points, folder / f"{name} {a} {b}", task) for name in two]
    ranked = rank(read_pair_statistics(sums[0]).plus(read_pair_statistics(sums[1])))
    rows = {name: _row(two, lambda x, m=owner.module: probabilities(m, x)) for name, owner in two.items()}
    rows["ensemble"] = _composed(two, modules, Combine())
    rows["evidence"] = _composed(two, modules, Combine(weights="evidence"))
    for place in pick(ranked, PLACES):
        at = (place.a, place.b)
        closed = Stitch((a, b), at)
        rows[f"{_spelt(place)}, closed form"] = _composed(two, [*modules, *sums], closed)
        evident = Stitch((a, b), at, weights="evidence")
        rows[f"{_spelt(place)}, closed form, evidence"] = _composed(two, [*modules, *sums], evident)
        rows |= _trained(task, two, modules, sums, place, folder, seed)
    return {
        "candidates": len(ranked),
        "accuracy": rows,
        "hypervolume": {name: _volume(rows, names) for name, names in _fronts(rows, a, b).items()},
        "bytes of statistics": float(sum(c.bytes for c in sums)),
    }


def _narrow(network: Network) -> list[str]:
    """Points of few channels: sums over wide ones need more images than the smallest owner has."""
    return [name for name in stitch_points(network) if network.points[name].channels <= WIDEST]


def _summed(
    modules: list[Contribution], owner: Owner, name: str, points: Mapping[str, list[str]], target: Path, task: Task
) -> Contribution:
    examples = owner.examples(name, slice(None), task.classes)
    # of few images more are held out, since either fold needs a hundred
    share = 0.2 if len(examples) >= 800 else 0.45
    order = StatisticsOrder(name, *points.values(), held_out=share)
    return contribute_pair_statistics(*modules, examples, target, order)


def _trained(
    task: Task,
    two: Mapping[str, Owner],
    modules: list[Contribution],
    sums: list[Contribution],
    place: Candidate,
    folder: Path,
    seed: int,
) -> dict[str, Row]:
    """Stitches of one place, trained at either owner, and at one after the other."""
    (a, b), found = two, {}
    splices = pair((a, place.a), (b, place.b))
    for steps in STEPS:
        plan = StepPlan(steps, learning_rate=2e-3, seed=seed)
        for first, second in ((a, b), (b, a)):
            label = f"{_spelt(place)}, {steps} steps at {first}"
            mine = two[first].examples(first, slice(None), task.classes)
            order = StitchOrder(first, splices, plan=plan)
            stitches = contribute_stitches(modules, mine, folder / label.replace("/", "_"), order, statistics=sums)
            given = [*modules, *sums, stitches]
            found[label] = _composed(two, given, Stitch((a, b)))
            found[f"{label}, evidence"] = _composed(two, given, Stitch((a, b), weights="evidence"))
            found[f"{label}, averaged with the ensemble"] = _halfway(two, given, modules, (a, b))
            if steps == STEPS[-1] and first == a:
                theirs = two[second].examples(second, slice(None), task.classes)
                turn = f"{label}, then at {second}"
                order = StitchOrder(second, plan=plan)
                on = contribute_stitches(modules, theirs, folder / turn.replace("/", "_"), order, start=stitches)
                found[turn] = _composed(two, [*given, on], Stitch((a, b)))
    return found


def _halfway(
    two: Mapping[str, Owner], given: list[Contribution], modules: list[Contribution], parties: tuple[str, str]
) -> Row:
    """Probabilities of the stitched network and of the plain ensemble, half and half."""
    stitched, ensemble = compose(given, Stitch(parties)).model(), compose(modules, Combine()).model()
    with torch.inference_mode():
        return _row(two, lambda x: softmax(stitched(x), -1) + softmax(ensemble(x), -1))


def _fronts(rows: Mapping[str, Row], a: str, b: str) -> dict[str, list[str]]:
    parents = [a, b, "ensemble"]
    one = [name for name in rows if " steps at " in name and "then at" not in name and "evidence" not in name]
    return {
        "parents and ensemble": parents,
        "and closed form": parents + [name for name in rows if name.endswith("closed form")],
        "and stitches trained at one owner": parents + one,
        "and stitches trained in turn": parents + [name for name in rows if "then at" in name],
        "and evidence": [*parents, *(name for name in rows if "evidence" in name)],
        "all": list(rows),
    }


def _volume(rows: Mapping[str, Row], names: list[str]) -> float:
    points = [[1 - value for value in rows[name].values()] for name in names]
    return hypervolume(points, [1.0] * len(points[0]))


def _spelt(place: Candidate) -> str:
    return f"{place.a} - {place.b}"


def _composed(owners: Mapping[str, Owner], given: list[Contribution], method: object) -> Row:
    model = compose(given, method).model()
    with torch.inference_mode():
        return _row(owners, lambda x: softmax(model(x), -1))


def _row(owners: Mapping[str, Owner], answer: Callable[[Tensor], Tensor]) -> Row:
    """Accuracy on each owner's held-out images."""
    return {name: accuracy(answer(owner.site.test), owner.site.test_labels) for name, owner in owners.items()}
