"""A stranger's graph: whatever it says, it is refused with an error of our tree, or runs within its bounds."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from network_modules import captured, inputs, signature
from pydantic import ValidationError
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from quiltwork.contribution.network_graph import MOST_NODES, Graph, PointRecord, Signature
from quiltwork.errors import MalformedContribution, QuiltworkError, TensorMismatch, UnsupportedContribution
from quiltwork.models.network import shapes
from quiltwork.models.network.execution import MOST_WHOLE
from quiltwork.models.network.network import Network
from quiltwork.models.network.operators import DROPPED, OPERATORS
from quiltwork.models.network.weights import sent_weights
from quiltwork.models.network.windows import MOST_SIDE, MOST_WINDOW

X = {"node": "x"}
SMALL = Signature(shape=(3, 8, 8), units="0..1", outputs=5)
WEIGHT = {"entry": "w", "dtype": "float32", "shape": [5, 192]}
HEAD = [
    {"name": "flat", "op": "view.default", "args": [X, [-1, 192]]},
    {"name": "out", "op": "linear.default", "args": [{"node": "flat"}, {"node": "w"}]},
]


def node(name: str, op: str, *args: object, **kwargs: object) -> dict[str, object]:
    return {"name": name, "op": op, "args": list(args), "kwargs": kwargs}


def graph(*nodes: dict[str, object], output: str = "out", **tensors: dict[str, object]) -> Graph:
    said = {"nodes": [*HEAD, *nodes], "tensors": {"w": WEIGHT} | tensors, "input": "x", "output": output}
    return Graph.model_validate_json(json.dumps(said))


def built(one: Graph, **tensors: Tensor) -> Network:
    return Network.from_parts(SMALL, one, (), {"w": torch.ones(5, 192)} | tensors)


def used(*nodes: dict[str, object], **tensors: Tensor) -> Network:
    """A network whose output takes the last of ``nodes`` along, as a list that is picked from."""
    keep = node("keep", "item", [{"node": "out"}, {"node": nodes[-1]["name"]}], 0)
    named = {name: {"entry": name, "dtype": "float32", "shape": list(tensor.shape)} for name, tensor in tensors.items()}
    return built(graph(*nodes, keep, output="keep", **named), **tensors)


def test_the_plain_graph_is_sound() -> None:
    assert torch.equal(built(graph())(torch.ones(2, 3, 8, 8)), torch.full((2, 5), 192.0))
    assert used(node("a", "relu.default", X))(torch.ones(2, 3, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("late", "relu.default", {"node": "later"}), node("later", "relu.default", X)],
        [node("self", "relu.default", {"node": "self"})],
        [node("out", "relu.default", X)],
        [node("x", "relu.default", X)],
        [node("w", "relu.default", X)],
        [node("a", "os.system", "rm")],
        [node("a", "relu.default.default", X)],
        [node("a b", "relu.default", X)],
        [node("a", "full.default", [[[[[[1]]]]]], 0)],
        [node("a", "full.default", [1] * 5000, 0)],
        [node("a", "relu.default", {"node": "x", "dtype": "bool"})],
        [node("a", "relu.default", {"code": "x"})],
        [node("a", "relu.default", {"float": "nan"})],
    ],
)
def test_what_the_schema_refuses(nodes: list[dict[str, object]]) -> None:
    with pytest.raises(ValidationError):
        graph(*nodes)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_are_finite(number: str) -> None:
    said = {"nodes": [*HEAD, node("a", "mul.Tensor", X, 1.5)], "tensors": {"w": WEIGHT}, "input": "x", "output": "out"}
    assert Graph.model_validate_json(json.dumps(said))
    with pytest.raises(ValidationError):
        Graph.model_validate_json(json.dumps(said).replace("1.5", number))


@pytest.mark.parametrize(
    "op", ["rand.default", "as_strided.default", "copy_.default", "relu_.default", "eval", "__import__", "set_"]
)
def test_operators_outside_the_list_are_refused_by_name(op: str) -> None:
    with pytest.raises(UnsupportedContribution, match="closed list") as caught:
        built(graph(node("a", op, X)))
    assert op in str(caught.value)


def test_the_list_holds_nothing_in_place_and_nothing_drawn() -> None:
    assert not [name for name in OPERATORS if name.split(".")[0].endswith("_") or "rand" in name or "drop" in name]
    for name, function in OPERATORS.items():
        schema = getattr(function, "_schema", None)
        assert schema is None or not schema.is_mutable, name


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([node("a", "arange.start_step", 0, 2**24, 1e-6)], "numbers|fails"),
        ([node("a", "full.default", [2**23, 2**23], 0.0)], "numbers"),
        ([node("a", "expand.default", {"node": "w"}, [2**20, 5, 192])], "numbers"),
        ([node("a", "constant_pad_nd.default", X, [2**20, 2**20], 0.0)], "numbers"),
        ([node("a", "repeat.default", X, [2**20, 1, 1, 1])], "numbers"),
        ([node("a", "upsample_nearest2d.vec", X, [16384, 16384], None)], "numbers"),
        ([node("a", "upsample_nearest2d.vec", X, None, [1e6, 1e6])], "fails|numbers"),
        ([node("a", "max_pool2d.default", X, [2**20, 2**20])], "up to 512"),
        ([node("a", "convolution.default", X, X, None, [1, 1], [600, 600], [1, 1], False, [0, 0], 1)], "up to 512"),
        ([node("a", "full.default", [2**40], 0.0)], "whole numbers end"),
        (
            [
                node("n", "size.int", X, 0),
                node("m", "int.mul", {"node": "n"}, 2**24),
                node("a", "int.mul", {"node": "m"}, 2),
            ],
            "whole number",
        ),
        ([node("a", "int.mul", [1] * 4000, 2**24)], "whole numbers"),
        ([node("a", "int.add", [X], [X])], "whole numbers"),
        ([node("a", "int.mul", True, 2)], "whole numbers"),
        ([node("a", "item", X, None)], "whole number"),
        ([node("a", "relu.default", X, X, X)], "fails"),
        ([node("a", "relu.default")], "fails"),
        ([node("a", "add.Tensor", X, {"node": "flat"})], "fails"),
        ([node("a", "int.floordiv", 1, 0)], "fails"),
        ([node("a", "_to_copy.default", X, dtype={"dtype": "float64"})], "no element type"),
        ([node("a", "relu.default", X, device=0)], "device"),
        ([node("a", "scaled_dot_product_attention.default", X, X, X, None, 0.5)], "drops nothing"),
        ([node("a", "pow.Tensor_Scalar", {"node": "nothing"}, 2)], None),
    ],
)
def test_hostile_nodes_are_refused_before_anything_is_made(nodes: list[dict[str, object]], why: str | None) -> None:
    if why is None:
        with pytest.raises(ValidationError):
            used(*nodes)
        return
    with pytest.raises(MalformedContribution, match=why) as caught:
        used(*nodes)
    assert "'a'" in caught.value.what


@pytest.mark.parametrize("stride", [16, 16_384])
def test_a_stride_that_makes_torch_write_beyond_its_memory_is_refused(stride: int) -> None:
    kernel = torch.ones(3, 4, 3, 3)
    nodes = [node("a", "convolution.default", X, {"node": "k"}, None, [1, stride], [0, 0], [1, 1], True, [0, 0], 1)]
    if stride == 16:
        assert used(*nodes, k=kernel)(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
        return
    with pytest.raises(MalformedContribution, match="up to 512"):
        used(*nodes, k=kernel)


ONE = {"node": "ones"}
NORM = "_native_batch_norm_legit_no_training.default"


@pytest.mark.parametrize(
    ("op", "rest"),
    [
        (NORM, [ONE, ONE, ONE, ONE, 0.1, 1e-5]),
        (NORM, [None, None, ONE, ONE, 0.1, 1e-5]),
        ("_native_batch_norm_legit.no_stats", [ONE, None, True, 0.1, 1e-5]),
        ("_native_batch_norm_legit.no_stats", [None, None, False, 0.1, 1e-5]),
    ],
)
def test_a_norm_does_not_read_beyond_its_weights(op: str, rest: list[object]) -> None:
    """ATen's kernel takes one number a channel on trust, and its shapes on tensors without memory say nothing."""
    norm, first = node("a", op, X, *rest), node("b", "item", {"node": "a"}, 0)
    with pytest.raises(MalformedContribution, match="norm"):
        used(norm, first, ones=torch.ones(1))


def test_a_norm_of_as_many_weights_as_channels_is_sound() -> None:
    nodes = [node("a", NORM, X, ONE, ONE, ONE, ONE, 0.1, 1e-5), node("b", "item", {"node": "a"}, 0)]
    assert used(*nodes, ones=torch.ones(3))(torch.ones(2, 3, 8, 8)).shape == (2, 5)


def test_attention_has_as_many_values_as_keys() -> None:
    q, k, v = ({"node": name} for name in "qkv")
    nodes = [node(n, "full.default", [1, 1, size, 4], 0.0) for n, size in (("q", 4), ("k", 8), ("v", 6))]
    with pytest.raises(MalformedContribution, match="as many values"):
        used(*nodes, node("a", "scaled_dot_product_attention.default", q, k, v))


def test_factors_that_a_product_repeats_over_a_batch_are_counted() -> None:
    """4 MiB each and 64 KiB the product; on its way it would hold 2^31 numbers."""
    nodes = [node("b", "full.default", [128, 1, 1, 2**16], 0.0), node("c", "full.default", [1, 128, 2**16, 1], 0.0)]
    with pytest.raises(MalformedContribution, match="held at once"):
        used(*nodes, node("a", "matmul.default", {"node": "b"}, {"node": "c"}))
    flat = [node("b", "full.default", [2**15, 1], 0.0)]
    with pytest.raises(MalformedContribution, match="held at once"):
        used(*flat, node("a", "scaled_dot_product_attention.default", *[{"node": "b"}] * 3))


def test_whole_numbers_do_not_grow_without_end() -> None:
    squares = [node("n0", "size.int", X, 0)]
    squares += [node(f"n{i + 1}", "int.mul", {"node": f"n{i}"}, {"node": f"n{i}"}) for i in range(60)]
    with pytest.raises(MalformedContribution, match="whole number"):
        used(*squares)


def test_many_nodes_that_are_each_modest_are_bounded_together() -> None:
    """Each holds 2^23 numbers; all are alive until the last one is taken."""
    many = [node(f"a{i}", "full.default", [2**23], 0.0) for i in range(80)]
    last = node("a", "cat.default", [{"node": f"a{i}"} for i in range(80)])
    with pytest.raises(MalformedContribution, match="held at once"):
        used(*many, last)


def test_work_is_bounded() -> None:
    wide = node("a0", "full.default", [2048, 2048], 0.0)
    with pytest.raises(MalformedContribution, match="so far"):
        used(wide, *[node(f"a{i + 1}", "mm.default", {"node": f"a{i}"}, {"node": "a0"}) for i in range(70)])
    with pytest.raises(MalformedContribution, match="multiply-adds or the like: "):
        used(
            node("b", "full.default", [5790, 5790], 0.0),
            node("a", "mm.default", {"node": "b"}, {"node": "b"}),
        )


def test_what_holds_for_two_inputs_is_asked_again_for_nine() -> None:
    """2^22 (n - 2) (n - 3) is nothing for the batches that are tried first."""
    nodes = [
        node("n", "size.int", X, 0),
        node("a2", "int.sub", {"node": "n"}, 2),
        node("a3", "int.sub", {"node": "n"}, 3),
        node("a1", "int.sub", {"node": "n"}, 1),
        node("p", "int.mul", {"node": "a2"}, {"node": "a3"}),
        node("q", "int.mul", {"node": "p"}, {"node": "a1"}),
        node("s", "int.mul", {"node": "q"}, 2**18),
        node("a", "full.default", [{"node": "s"}], 0.0),
    ]
    network = used(*nodes)
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(MalformedContribution, match=r"whole number|numbers"):
        network(torch.zeros(64, 3, 8, 8))


def test_limits_are_the_stated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph within the limits is beyond them once they are lowered, so it is they that decide."""
    used(node("a", "full.default", [1000], 0.0))
    monkeypatch.setattr(shapes, "MOST_NUMBERS", 400)
    with pytest.raises(MalformedContribution, match="at most 800"):
        used(node("a", "full.default", [1000], 0.0))


def test_an_output_of_another_shape_is_refused() -> None:
    for output in ("flat", "x"):
        with pytest.raises(MalformedContribution, match=r"not \[2, 5\]"):
            built(graph(output=output))


@pytest.mark.parametrize(
    ("tensors", "kind", "why"),
    [
        ({}, TensorMismatch, "not there"),
        ({"w": torch.ones(5, 192), "more": torch.ones(1)}, TensorMismatch, "does not name it"),
        ({"w": torch.ones(5, 191)}, TensorMismatch, "its shape is"),
        ({"w": torch.full((5, 192), math.nan)}, MalformedContribution, "not finite"),
        ({"w": torch.full((5, 192), 1e300, dtype=torch.float64)}, MalformedContribution, "beyond float32"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tensors: dict[str, Tensor], kind: type[QuiltworkError], why: str) -> None:
    with pytest.raises(kind, match=why):
        Network.from_parts(SMALL, graph(), (), tensors)


def test_whole_numbers_and_truth_values_travel_as_float64() -> None:
    places = {"entry": "i", "dtype": "int64", "shape": [192]}
    nodes = [node("a", "index.Tensor", {"node": "flat"}, [None, {"node": "i"}])]
    keep = node("keep", "linear.default", {"node": "a"}, {"node": "w"})
    one = graph(*nodes, keep, output="keep", i=places)
    sent = sent_weights({"i": torch.arange(192).flip(0), "b": torch.tensor([True])})
    assert all(tensor.dtype == torch.float64 for tensor in sent.values())
    network = built(one, i=sent["i"])
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(network(x), x.flatten(1).sum(1, keepdim=True).expand(2, 5))
    with pytest.raises(MalformedContribution, match="int64 cannot"):
        built(one, i=sent["i"] + 0.5)
    with pytest.raises(MalformedContribution, match="index"):
        built(one, i=sent["i"] + 1)


def test_points_that_are_not_the_graph_s_are_refused() -> None:
    sound = PointRecord(name="p", node="flat", form="vector", shape=(192,), cut=True)
    parts = (SMALL, graph())
    weights = {"w": torch.ones(5, 192)}
    assert Network.from_parts(*parts, [sound], weights).points == {"p": sound}
    forged: list[tuple[dict[str, Any], str]] = [
        ({"node": "nothing"}, "not in the graph"),
        ({"node": "x"}, "not in the graph"),
        ({"shape": (191,)}, "its node gives"),
        ({"cut": False}, "cut is not the graph's"),
        ({"name": "output"}, "none is 'output'"),
    ]
    for fields, why in forged:
        with pytest.raises(MalformedContribution, match=why):
            Network.from_parts(*parts, [sound.model_copy(update=fields)], weights)
    with pytest.raises(MalformedContribution, match="names differ"):
        Network.from_parts(*parts, [sound, sound], weights)


# Mutations of sound graphs ------------------------------------------

NUMBERS = (0, 1, 2, 3, -1, -2, 7, 255, 2**16, 2**20, 2**24, -(2**24), 2**31, 2**62, 2**63 - 1, -(2**63))
SOUND = ("cnn", "vit", "assorted")


def value(r: random.Random, names: list[str]) -> object:
    makers: list[Callable[[], object]] = [
        lambda: r.choice(NUMBERS),
        lambda: r.choice(NUMBERS),
        lambda: r.choice((0.0, -1.0, 1e30, 1e-30, 0.5)),
        lambda: r.choice((True, False, None)),
        lambda: {"float": r.choice(("inf", "-inf"))},
        lambda: {"dtype": r.choice(("float32", "int64", "bool", "float64"))},
        lambda: {"node": r.choice(names)},
        lambda: [value(r, names) for _ in range(r.randint(0, 3))],
    ]
    return r.choice(makers)()


def changed(r: random.Random, argument: object, names: list[str]) -> object:
    """The argument with one leaf of it replaced."""
    if isinstance(argument, list) and argument and r.random() < 0.8:
        i = r.randrange(len(argument))
        return [*argument[:i], changed(r, argument[i], names), *argument[i + 1 :]]
    return value(r, names)


def mutated(name: str, seed: int) -> dict[str, Any]:
    """The JSON of a sound graph with one or two changes."""
    r, said = random.Random(seed), captured(name).graph.model_dump(mode="json")
    nodes = said["nodes"]
    for _ in range(r.randint(1, 2)):
        i = r.randrange(len(nodes))
        one, names = nodes[i], ["x", *said["tensors"], *(n["name"] for n in nodes[:i])]
        kind = r.randrange(6)
        if kind == 0:
            one["op"] = r.choice(sorted(OPERATORS))
        elif kind == 1:
            fresh = [{"node": r.choice(names)}, *(value(r, names) for _ in range(r.randint(0, 5)))]
            nodes.insert(i, node(f"new{r.randrange(2**30)}", r.choice(sorted(OPERATORS)), *fresh))
        elif kind == 2:
            j = r.randrange(len(nodes))
            nodes[i], nodes[j] = nodes[j], nodes[i]
        elif kind == 3:
            one["kwargs"][r.choice(("dtype", "alpha", "dim", "scale", "keepdim", *DROPPED))] = value(r, names)
        else:
            one["args"] = changed(r, one["args"], names) if one["args"] else [value(r, names)]
    return said


def outcome(name: str, said: dict[str, Any]) -> str:
    """``"runs"``, or the name of the error of our tree; any other exception goes through."""
    try:
        one = Graph.model_validate_json(json.dumps(said))
    except ValidationError:
        return "schema"
    held = captured(name).tensors()
    try:
        network = Network.from_parts(signature(), one, (), {t.entry: held[t.entry] for t in one.tensors.values()})
        return "runs" if network(inputs(5)).shape == (5, 5) else "another shape"
    except QuiltworkError as error:
        return type(error).__name__


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.sampled_from(SOUND), st.integers(0, 2**32))
@example("cnn", 0)
def test_a_mutated_graph_is_refused_or_runs_bounded(name: str, seed: int) -> None:
    assert outcome(name, mutated(name, seed)) in (
        "runs",
        "schema",
        "MalformedContribution",
        "UnsupportedContribution",
        "TensorMismatch",
    )


def test_mutations_are_neither_all_harmless_nor_all_refused() -> None:
    found = {outcome("cnn", mutated("cnn", seed)) for seed in range(30)}
    assert {"runs", "MalformedContribution"} <= found


# What is counted ---------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "residual", "mixer", "mlp", "channels_last", "assorted"])
def test_multiply_adds_are_those_that_torch_counts(name: str) -> None:
    from quiltwork.models.network.cost import network_cost

    network = captured(name)
    with FlopCounterMode(display=False) as counter:
        network(inputs(1))
    attention = 4 * 2 * 16 * 4 * 4 if name == "assorted" else 0
    assert network_cost(network).multiply_adds == pytest.approx(counter.get_total_flops() // 2, abs=attention)


def test_the_page_lists_the_operators_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    rows = re.search(r"\| group \| operators \|\n\|---\|---\|\n((?:\|.*\n)+)", page)
    assert rows is not None
    assert set(re.findall(r"`([^`]+)`", rows[1])) == set(OPERATORS)


def test_the_page_states_the_limits_as_they_are() -> None:
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    for row, limit in (
        ("one node |", shapes.MOST_NUMBERS),
        ("without the weights |", shapes.MOST_ALIVE),
        ("its pooling looks at |", shapes.MOST_WORK),
        ("all nodes together |", shapes.MOST_WORK_TOGETHER),
        ("whole numbers in arguments |", MOST_WHOLE),
    ):
        assert f"{row} 2^{limit.bit_length() - 1}" in page
        assert limit.bit_count() == 1
    assert f"sizes up to {MOST_WINDOW} and sides up to {MOST_SIDE}" in page
    assert f"| nodes | {MOST_NODES:,} |".replace(",", " ") in page
