"""Running a part: only what is needed is computed, gradients flow, names and shapes are checked; cuts; adapters."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_modules import captured, inputs
from torch import Tensor, nn
from torch.nn import functional as F

from quiltwork.contribution.network_graph import PointRecord
from quiltwork.errors import InvalidOption, TensorMismatch
from quiltwork.models.network.adapters import Adapter, resampling
from quiltwork.models.network.cuts import cuts
from quiltwork.models.network.execution import Reference, Step
from quiltwork.models.network.network import Network


def counted(network: Network, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of each operator from now on."""
    calls: Counter[str] = Counter()

    def counting(step: Step) -> Step:
        def run(*args: object, **kwargs: object) -> object:
            calls[step.name] += 1
            return step.function(*args, **kwargs)

        return replace(step, function=run)

    monkeypatch.setattr(network, "_steps", tuple(counting(step) for step in network.steps))
    return calls


def test_only_what_is_needed_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = captured("residual"), inputs(3)
    network(x)
    middle = network.point("block1").node
    edges = nx.DiGraph([(taken, one.name) for one in network.steps for taken in one.takes])
    due = (nx.ancestors(edges, middle) | {middle}) & {one.name for one in network.steps}
    calls = counted(network, monkeypatch)
    value = network.run(x, ["block1"])["block1"]
    assert set(calls) == due
    assert set(calls.values()) == {1}
    calls.clear()
    out = network.run(x, ["output"], {"block1": value})["output"]
    assert not set(calls) & due
    assert calls
    calls.clear()
    assert torch.equal(network.run(x, ["output", "block1"])["output"], out)
    assert set(calls.values()) == {1}


def test_a_memo_spares_what_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x, memo = captured("residual"), inputs(3), {}
    due = network(x)
    calls = counted(network, monkeypatch)
    network.run(x, ["block1"], memo=memo)
    assert torch.equal(network.run(x, ["output"], memo=memo)["output"], due)
    assert set(calls.values()) == {1}
    before = dict(memo)
    network.run(x, ["output"], {"stem": torch.zeros(3, 8, 8, 8)}, {})
    assert memo.keys() == before.keys()


def test_values_leave_memory_after_their_last_use() -> None:
    from quiltwork.models.network.execution import execute

    network = captured("cnn")
    values, gone = network.start(inputs(2)), []
    execute(network.steps, values, [network.graph.output], torch.device("cpu"), gone=gone.append)
    assert len(gone) == len(network.steps) - 1
    assert network.graph.output in values


def test_gradients_reach_what_is_given_and_no_weight() -> None:
    network, x = captured("vit"), inputs(3)
    value = network.run(x, ["layers.0"])["layers.0"].clone().requires_grad_()
    F.cross_entropy(network.run(x, ["output"], {"layers.0": value})["output"], torch.arange(3)).backward()
    assert value.grad is not None
    assert value.grad.abs().sum() > 0
    assert not list(network.parameters())


def test_replacing_a_point_by_its_own_value_changes_nothing() -> None:
    for name in ("cnn", "residual", "mixer", "vit", "channels_last", "mlp", "assorted"):
        network, x = captured(name), inputs(4)
        values = network.run(x, list(network.points))
        for point, value in values.items():
            assert torch.equal(network.run(x, ["output"], {point: value})["output"], network(x)), (name, point)


def test_what_is_upstream() -> None:
    network = captured("residual")
    assert network.upstream("stem") == frozenset()
    assert network.upstream("block2") == {"stem", "block1"}
    assert network.upstream("output") == {"stem", "block1", "block2", "pool"}


def test_names_and_shapes_are_checked() -> None:
    network, x = captured("residual"), inputs(3)
    with pytest.raises(InvalidOption, match="'block1'"):
        network.run(x, ["blok1"])
    with pytest.raises(InvalidOption, match=r"\[3, 8, 8, 8\] is due"):
        network.run(x, ["output"], {"block1": torch.zeros(2, 8, 8, 8)})
    for wrong in (torch.zeros(3, 3, 8, 7), torch.zeros(3, 8, 8), torch.zeros(0, 3, 8, 8)):
        with pytest.raises(InvalidOption, match="common size"):
            network(wrong)


# Cuts ----------------------------------------------------------------


def step(name: str, *takes: str, op: str = "relu.default") -> Step:
    return Step(name, op, lambda *_: None, tuple(Reference(one) for one in takes), {}, takes)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sets(st.integers(0, 20), min_size=1, max_size=3), min_size=1, max_size=12))
def test_cuts_are_the_dominators_of_the_output(edges: list[set[int]]) -> None:
    """Against networkx: v is a cut when taking it out parts input from output."""
    steps = [step(f"n{i + 1}", *(f"n{j % (i + 1)}" for j in sorted(taken))) for i, taken in enumerate(edges)]
    end = steps[-1].name
    graph = nx.DiGraph([(taken, one.name) for one in steps for taken in one.takes])
    due = {
        one.name
        for one in steps
        if one.name == end
        or (nx.has_path(graph, "n0", end) and not nx.has_path(graph.subgraph(set(graph) - {one.name}), "n0", end))
    }
    found = cuts(steps, "n0", end)
    assert found == due or not nx.has_path(graph, "n0", end)


def test_an_edge_that_carries_a_size_is_no_way_around() -> None:
    steps = [step("n", "x", op="size.int"), step("a", "x"), step("b", "a", "n"), step("c", "b", "n")]
    assert cuts(steps, "x", "c") == {"a", "b", "c"}
    assert cuts([*steps[1:3], step("c", "b", "x")], "x", "c") == {"c"}


# Adapters -------------------------------------------------------------


@pytest.mark.parametrize(("taken", "given_"), list(itertools.product((1, 2, 3, 4, 7, 8), (1, 2, 3, 5, 8))))
def test_resampling_is_adaptive_averaging_and_linear_interpolation(taken: int, given_: int) -> None:
    line = torch.randn(1, 2, taken, dtype=torch.float64)
    due = F.adaptive_avg_pool1d(line, given_) if given_ <= taken else F.interpolate(line, given_, mode="linear")
    matrix = resampling(taken, given_)
    torch.testing.assert_close(line @ matrix.T, due)
    torch.testing.assert_close(matrix.sum(1), torch.ones(given_, dtype=torch.float64))


def record(form: str, *shape: int, leading: int = 0) -> PointRecord:
    return PointRecord(name="p", node="p", form=form, shape=shape, cut=True, leading=leading)  # type: ignore[arg-type]


ENDS = (
    record("map", 4, 6, 6),
    record("map", 5, 3, 4),
    record("grid", 6, 6, 4),
    record("tokens", 9, 7),
    record("tokens", 17, 3, leading=1),
    record("vector", 6),
)


def test_numbers_of_an_adapter_that_float32_cannot_hold_are_refused() -> None:
    point = PointRecord(name="p", node="p", form="vector", shape=(2,), cut=True)
    with pytest.raises(TensorMismatch, match="finite float32"):
        Adapter.linear(point, point, torch.full((2, 2), 1e300, dtype=torch.float64), torch.zeros(2))


def test_lines_whose_matrix_would_not_fit_are_refused() -> None:
    long, longer = (
        PointRecord(name="p", node="p", form="tokens", shape=(cells, 1), cut=True) for cells in (2**17 + 1, 2**18 + 1)
    )
    with pytest.raises(InvalidOption, match="lines of at most 4096"):
        Adapter.linear(long, longer)
    assert Adapter.linear(long, long).multiply_adds == 2**17 + 1


@pytest.mark.parametrize(("source", "target"), list(itertools.product(ENDS, ENDS)), ids=lambda p: f"{p.form}{p.shape}")
def test_an_adapter_is_a_linear_map_of_cells_and_a_resampling(source: PointRecord, target: PointRecord) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(target.channels, source.channels, generator=generator)
    bias = torch.randn(target.channels, generator=generator)
    value = torch.randn(3, *source.shape, generator=generator)
    found = Adapter.linear(source, target, weight, bias)(value)
    assert found.shape == (3, *target.shape)
    torch.testing.assert_close(found, by_hand(source, target, weight, bias, value), atol=1e-5, rtol=1e-5)


def by_hand(source: PointRecord, target: PointRecord, weight: Tensor, bias: Tensor, value: Tensor) -> Tensor:
    """Cells first, then torch's own pooling and interpolation, side by side."""
    cells = {
        "map": lambda: value,
        "grid": lambda: value.permute(0, 3, 1, 2),
        "tokens": lambda: value[:, source.leading :].transpose(1, 2).reshape(3, -1, *source.grid),
        "vector": lambda: value[:, :, None, None],
    }[source.form]()
    mapped = torch.einsum("tc,nchw->nthw", weight, cells) + bias[None, :, None, None]
    small = [min(a, b) for a, b in zip(source.grid, target.grid, strict=True)]
    placed = F.interpolate(F.adaptive_avg_pool2d(mapped, small), target.grid, mode="bilinear")
    if target.form == "map":
        return placed
    if target.form == "grid":
        return placed.permute(0, 2, 3, 1)
    if target.form == "vector":
        return placed[:, :, 0, 0]
    tokens = placed.flatten(2).transpose(1, 2)
    if not target.leading:
        return tokens
    summary = value[:, :1] if source.leading else cells.mean((2, 3))[:, None]
    return torch.cat([summary @ weight.T + bias, tokens], dim=1)


@pytest.mark.parametrize("point", ENDS, ids=lambda p: f"{p.form}{p.shape}")
def test_the_identity_adapter_gives_what_it_takes(point: PointRecord) -> None:
    value = torch.randn(3, *point.shape)
    assert torch.equal(Adapter.linear(point, point)(value), value)


def test_an_adapter_s_parameters_are_weight_and_bias() -> None:
    adapter = Adapter.linear(ENDS[0], ENDS[3])
    assert {name: tuple(p.shape) for name, p in adapter.named_parameters()} == {"weight": (7, 4), "bias": (7,)}
    assert isinstance(adapter.weight, nn.Parameter)
    assert adapter.state_dict().keys() == {"weight", "bias"}
