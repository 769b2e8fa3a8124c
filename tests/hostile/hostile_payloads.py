"""docs/format.md on payloads, as plain arithmetic: which tensors a manifest requires, and what their values may be.

`needs` gives, for each part of a manifest, its file and ``{tensor: (shape, dtypes, least, most)}``; ``None`` stands for
an open part. Written from the page and not from the reader.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple, TypeAlias

from hostile_shapes import require

INF = math.inf
WEIGHTS = ("F64", "F32", "BF16", "F16")
MOST = float(2**53)
OPEN = ("full", "lora")
"""Parts whose tensors only a composer who has the base can check."""


class Need(NamedTuple):
    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = ("F64",)
    least: float = -INF
    most: float = INF


Parts: TypeAlias = dict[str, tuple[str, dict[str, Need] | None]]

_STATISTICS = "statistics.safetensors"


def needs(manifest: dict[str, Any]) -> Parts:
    """The parts of a manifest whose single fields are sound; `Broken` where they contradict each other."""
    kind, method = manifest["kind"], manifest["method"]
    parts = _KINDS[kind](manifest, method)
    for statistic in manifest.get("statistics", []):
        require(statistic["name"] not in parts, "statistic twice")
        parts[statistic["name"]] = (_STATISTICS, _STATISTIC[statistic["name"]](manifest, statistic))
    require(parts, "no part")
    return parts


def _expert(manifest: dict[str, Any], method: dict[str, Any]) -> Parts:
    require(any(method.values()), "no weights")
    require(not (method["ffn"] and method["lowrank"]), "two forms of one expert")
    require(not (method["full"] and method["lora"]), "two forms of one model")
    parts: Parts = {}
    if ffn := method["ffn"]:
        whole = {f"{role}.weight": shape for role, shape in _projections(ffn).items()}
        parts["ffn"] = ("ffn.safetensors", _in_layers("ffn", ffn, whole))
    if low := method["lowrank"]:
        require(low["rank"] <= min(low["hidden_size"], low["intermediate_size"]), "rank")
        require(low["retained"] is None or len(low["retained"]) == low["layers"], "retained")
        factors = {f"{role}.up": (out, low["rank"]) for role, (out, _) in _projections(low).items()}
        factors |= {f"{role}.down": (low["rank"], into) for role, (_, into) in _projections(low).items()}
        parts["lowrank"] = ("lowrank.safetensors", _in_layers("lowrank", low, factors))
    parts |= {name: (f"{name}.safetensors", None) for name in OPEN if method[name]}
    return parts


def _projections(expert: dict[str, Any]) -> dict[str, tuple[int, int]]:
    wide, narrow = expert["intermediate_size"], expert["hidden_size"]
    return {"gate_proj": (wide, narrow), "up_proj": (wide, narrow), "down_proj": (narrow, wide)}


def _in_layers(part: str, expert: dict[str, Any], weights: dict[str, tuple[int, ...]]) -> dict[str, Need]:
    shapes = dict(weights)
    shapes |= {"router.weight": (expert["hidden_size"],)} if expert["router"] else {}
    shapes |= {"router.bias": (1,)} if expert["bias"] else {}
    return {f"{part}.layers.{i}.{n}": Need(s, WEIGHTS) for i in range(expert["layers"]) for n, s in shapes.items()}


def _mixture(manifest: dict[str, Any], method: dict[str, Any]) -> Parts:
    table, k, d, q = manifest["table"], method["n_experts"], method["n_features"], method["n_outputs"]
    _table(table)
    classes = table["classes"]
    require(d == len(table["features"]), "features")
    require((classes is not None) == (method["family"] == "multinomial"), "classes of the family")
    require(q == (len(table["target"]) if classes is None else len(classes)), "outputs")
    require(method["family"] != "poisson" or q == 1, "a Poisson expert has one output")
    require(k * q * (1 + d) <= 2**26, "too many numbers")
    tensors = {"mixture.gate": Need((k, 1 + d)), "mixture.coefficients": Need((k, q, 1 + d))}
    if method["family"] == "gaussian":
        tensors["mixture.variances"] = Need((k, q), least=sys.float_info.min)
    return {"mixture": ("mixture.safetensors", tensors)}


def _table(table: dict[str, Any]) -> None:
    require(len(table["units"]) == len(table["features"]), "units")
    columns = table["features"] + table["target"]
    require(len(set(columns)) == len(columns), "a column twice")
    require(table["classes"] is None or len(table["target"]) == 1, "classes of one target")


def _likelihoods(manifest: dict[str, Any], method: dict[str, Any]) -> Parts:
    _table(manifest["table"])
    values = {"likelihoods.values": Need((len(method["candidates"]),))}
    return {"likelihoods": ("likelihoods.safetensors", values)}


def _task(task: dict[str, Any]) -> None:
    require(len(task["shape"]) != 2 and math.prod(task["shape"]) <= 2**24, "shape of an input")
    require(task["classes"] is None or len(task["classes"]) == task["outputs"], "classes and outputs")


def _module(manifest: dict[str, Any], method: dict[str, Any]) -> Parts:
    _task(manifest["task"])
    signature, graph = method["signature"], method["graph"]
    for field in ("shape", "units", "classes", "outputs"):
        require(signature[field] == manifest["task"][field], f"{field} of signature and task")
    require(len(signature["mean"]) == len(signature["std"]), "mean and std")
    require(len(signature["mean"]) in (1, signature["shape"][0]), "mean a channel")
    _graph(graph)
    types = {"float32": ("F32",), "int64": ("F64",), "bool": ("F64",)}
    bounds = {"float32": (-INF, INF), "int64": (-MOST, MOST), "bool": (0.0, 1.0)}
    found: dict[str, Need] = {}
    for tensor in graph["tensors"].values():
        need = Need(tuple(tensor["shape"]), types[tensor["dtype"]], *bounds[tensor["dtype"]])
        require(found.setdefault(f"module.{tensor['entry']}", need) == need, "one tensor in two forms")
    require(sum(math.prod(need.shape) for need in found.values()) <= 2**30, "too many weights")
    return {"module": ("module.safetensors", found)}


def _graph(graph: dict[str, Any]) -> None:
    require(graph["input"] not in graph["tensors"], "the input is a tensor")
    known = {graph["input"], *graph["tensors"]}
    for node in graph["nodes"]:
        for argument in [*node["args"], *node["kwargs"].values()]:
            _argument(argument, known, 0)
        require(node["name"] not in known, "a node twice")
        known.add(node["name"])
    require(graph["output"] in known, "the output is no node")


def _argument(value: Any, known: set[str], depth: int) -> None:
    require(depth <= 4 and not isinstance(value, str), "argument")
    if isinstance(value, list):
        for one in value:
            _argument(one, known, depth + 1)
    elif isinstance(value, dict):
        ((tag, name),) = value.items() if len(value) == 1 else (("", None),)
        require(tag in ("node", "dtype", "float") and isinstance(name, str), "tagged argument")
        require(tag != "node" or name in known, "a node that no earlier one gives")
        require(tag != "float" or name in ("inf", "-inf"), "float argument")


def _moments(manifest: dict[str, Any], method: dict[str, Any]) -> Parts:
    _task(manifest["task"])
    return {}


def _outputs(manifest: dict[str, Any], method: dict[str, Any]) -> Parts:
    _task(manifest["task"])
    _once(method["networks"])
    require(not method["correct"] or manifest["task"]["classes"] is not None, "numbers are not right or wrong")
    m = len(method["networks"])
    tensors = {"gram": Need((m, m)), "cross": Need((m,)), "target": Need((1,), least=0.0)}
    tensors |= {"correct": Need((m,), least=0.0, most=float(method["rows"]))} if method["correct"] else {}
    return {"outputs": ("outputs.safetensors", {f"outputs.{name}": need for name, need in tensors.items()})}


def _once(networks: list[dict[str, Any]]) -> None:
    require(len({one["party"] for one in networks}) == len(networks), "a network twice")


def _pair(manifest: dict[str, Any], method: dict[str, Any]) -> Parts:
    _task(manifest["task"])
    _once([method["a"], method["b"]])
    require(method["rows"] is None or method["rows"] >= method["minimum_rows"], "too few rows")
    a, b = method["points_a"], method["points_b"]
    for side in (a, b):
        require(len({point["name"] for point in side}) == len(side), "a point twice")
        require(sum(point["channels"] for point in side) <= 2**16, "too many channels")
    tensors: dict[str, Need] = {}
    for fold in ("train", "held_out")[: 1 + method["held_out"]]:
        tensors[f"pair.{fold}.count"] = Need((1,))
        tensors |= {f"pair.{fold}.{name}": need for name, need in _grids(a, b).items()}
    require(sum(math.prod(need.shape) for need in tensors.values()) <= 2**28, "too many numbers")
    return {"pair": ("pair.safetensors", tensors)}


def _grids(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> dict[str, Need]:
    """Grids are sizes of points; on each, near points lie by themselves and larger ones are pooled to it."""
    sizes = sorted({(p["height"], p["width"]) for p in a + b}, key=lambda s: (-s[0] * s[1], s))
    found: dict[str, Need] = {}
    grids = 0
    for h, w in sizes:
        near = [[i for i, p in enumerate(side) if (p["height"], p["width"]) == (h, w)] for side in (a, b)]
        far = [
            [i for i, p in enumerate(side) if i not in near[s] and p["height"] >= h and p["width"] >= w]
            for s, side in enumerate((a, b))
        ]
        # only a pair with at least one near point is compared here
        far = [far[0] if near[1] else [], far[1] if near[0] else []]
        if not (near[0] and near[1]) and not (near[0] and far[1]) and not (far[0] and near[1]):
            continue
        of = [sum(side[i]["channels"] for i in near[s] + far[s]) for s, side in enumerate((a, b))]
        shapes = {"sum_a": (of[0],), "sum_b": (of[1],)}
        for s, side in enumerate((a, b)):
            shapes |= {f"gram_{'ab'[s]}.{i}": (side[i]["channels"],) * 2 for i in near[s] + far[s]}
        if near[0]:
            shapes["cross_near"] = (sum(a[i]["channels"] for i in near[0]), of[1])
        if far[0]:
            shapes["cross_far"] = (sum(a[i]["channels"] for i in far[0]), sum(b[i]["channels"] for i in near[1]))
        found |= {f"g{grids}.{name}": Need(shape) for name, shape in shapes.items()}
        grids += 1
    require(grids, "no grid in common")
    return found


def _stitches(manifest: dict[str, Any], method: dict[str, Any]) -> Parts:
    _task(manifest["task"])
    _once(method["networks"])
    tensors: dict[str, Need] = {}
    targets = [(splice["into"]["network"], splice["into"]["point"]) for splice in method["splices"]]
    require(len(set(targets)) == len(targets), "a point spliced into twice")
    for s, splice in enumerate(method["splices"]):
        for point in [splice["into"], *splice["sources"]]:
            require(point["network"] < len(method["networks"]), "a network that is not listed")
        for k, source in enumerate(splice["sources"]):
            into = splice["into"]["channels"]
            require(into * source["channels"] <= 2**26, "too many numbers")
            tensors[f"stitches.{s}.{k}.weight"] = Need((into, source["channels"]), ("F64", "F32"))
            tensors[f"stitches.{s}.{k}.bias"] = Need((into,), ("F64", "F32"))
    return {"stitches": ("stitches.safetensors", tensors)}


_KINDS = {
    "expert": _expert,
    "statistics": lambda manifest, method: {},
    "mixture": _mixture,
    "likelihoods": _likelihoods,
    "module": _module,
    "moments": _moments,
    "outputs": _outputs,
    "stitch_statistics": _pair,
    "stitches": _stitches,
}


def _tokens(manifest: dict[str, Any], statistic: dict[str, Any]) -> dict[str, Need]:
    return {"tokens.counts": Need((manifest["base"]["vocabulary_size"],), least=0.0, most=MOST)}


def _hashed(manifest: dict[str, Any], statistic: dict[str, Any]) -> dict[str, Need]:
    return {f"{statistic['name']}.counts": Need((statistic["cells"],), least=0.0, most=MOST)}


def _proxies(manifest: dict[str, Any], statistic: dict[str, Any]) -> dict[str, Need]:
    return {"proxies.documents": Need((statistic["documents"],), least=0.0, most=MOST - 1)}


def _residual(manifest: dict[str, Any], statistic: dict[str, Any]) -> dict[str, Need]:
    h = statistic["hidden_size"]
    types = ("F64", "F32")
    second = Need((h, h), types) if statistic["second"] == "full" else Need((h,), types, least=0.0)
    both = {"mean": Need((h,), types), "second": second}
    return {f"moments.layers.{i}.{n}": need for i in range(statistic["layers"]) for n, need in both.items()}


def _groups(name: str, groups: int, width: int, least: float) -> dict[str, Need]:
    require(groups * width * width <= 2**26, "too many numbers")
    return {
        f"{name}.counts": Need((groups,), least=least, most=MOST),
        f"{name}.means": Need((groups, width)),
        f"{name}.covariances": Need((groups, width, width)),
    }


def _covariates(manifest: dict[str, Any], statistic: dict[str, Any]) -> dict[str, Need]:
    width = manifest["method"]["n_features"]
    return _groups("covariates", statistic["components"], width, float(statistic["minimum_rows"]))


def _precision(manifest: dict[str, Any], statistic: dict[str, Any]) -> dict[str, Need]:
    k, p = manifest["method"]["n_experts"], 1 + manifest["method"]["n_features"]
    require(max(k * p * p, ((k - 1) * p) ** 2) <= 2**26, "too many numbers")
    tensors = {"precision.expert_grams": Need((k, p, p))}
    return tensors | ({"precision.gate_hessian": Need(((k - 1) * p,) * 2)} if k > 1 else {})


def _width(manifest: dict[str, Any], statistic: dict[str, Any]) -> int:
    embedding = statistic["embedding"]
    return math.prod(manifest["task"]["shape"]) if embedding["kind"] == "identity" else int(embedding["dimension"])


def _inputs(manifest: dict[str, Any], statistic: dict[str, Any]) -> dict[str, Need]:
    width = _width(manifest, statistic)
    return _groups("inputs", statistic["components"], width, float(statistic["minimum_rows"]))


def _classes(manifest: dict[str, Any], statistic: dict[str, Any]) -> dict[str, Need]:
    require(manifest["task"]["classes"] is not None, "no classes")
    k, width = len(manifest["task"]["classes"]), _width(manifest, statistic)
    found = _groups("classes", k, width, 0.0)
    if statistic["form"] == "pooled":
        found["classes.covariances"] = Need((width, width))
    return found


_STATISTIC = {
    "tokens": _tokens,
    "bigrams": _hashed,
    "trigrams": _hashed,
    "proxies": _proxies,
    "moments": _residual,
    "covariates": _covariates,
    "precision": _precision,
    "inputs": _inputs,
    "classes": _classes,
}


def tells_training(manifest: dict[str, Any]) -> bool:
    """Whether a loss, likelihood or accuracy on private data is told."""
    method = manifest["method"]
    if manifest["kind"] == "mixture":
        return method["log_likelihood"] is not None
    training = method.get("training") if manifest["kind"] in ("module", "stitches") else manifest.get("training")
    figures = ("accuracy", "loss") if manifest["kind"] == "module" else ("loss_first", "loss_last")
    return training is not None and any(training[figure] is not None for figure in figures)
