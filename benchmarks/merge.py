"""A linear merge of three 0.5 GB checkpoints beside mergekit's, each in a process of its own.

    python benchmarks/merge.py --work DIR --mergekit ENV/bin/mergekit-yaml --json benchmarks/results/merge.json

Three Llama checkpoints (bfloat16, 268.5 million parameters each, random weights) are made on the spot. Then the
commands run in turn, so that what else the machine does disturbs all alike; what is timed is the whole command, start
of the interpreter included, with the inputs in the page cache and no fsync:

    quiltwork            quiltwork merge A B C --out OUT
    mergekit             mergekit-yaml RECIPE OUT
    mergekit, 1 thread   the same with OMP_NUM_THREADS=1
    cat                  reading the inputs and no more

Wall clock, processor time (user and system) and peak resident memory are those that the kernel reports for the process
(wait4). Ratios are least over least, mergekit's least being that of its better setting. Both outputs are compared,
element by element, with the float64 mean of the inputs.

A second part merges 2, 8, 32 and 128 smaller checkpoints and looks at time and memory against bytes read. The mixture
part is benchmarks/merge_mixture.py; ``--mixture FILE`` takes its figures into the result. This process imports nothing
large, since a child's peak counts from its parent's memory at the fork.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 14, "vocab_size": 16384}
SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 4096}
COUNTS = (2, 8, 32, 128)
OFFLINE = {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": ""}

Run = dict[str, float]


# Inputs and the judge: these run in processes of their own and may import what they like.


def shapes(sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a Llama checkpoint."""
    hidden, wide, words = sizes["hidden_size"], sizes["intermediate_size"], sizes["vocab_size"]
    table = {"model.embed_tokens.weight": (words, hidden), "lm_head.weight": (words, hidden)}
    found: dict[str, tuple[int, ...]] = {**table, "model.norm.weight": (hidden,)}
    for layer in range(sizes["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        found |= {f"{name}self_attn.{letter}_proj.weight": (hidden, hidden) for letter in "qkvo"}
        found |= {f"{name}mlp.{role}_proj.weight": (wide, hidden) for role in ("gate", "up")}
        found |= {f"{name}mlp.down_proj.weight": (hidden, wide)}
        found |= {f"{name}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
    return found


def make(place: Path, seed: int, sizes: Mapping[str, int]) -> None:
    """A checkpoint with random weights and a tokenizer of made-up words."""
    import numpy as np

    from quiltwork.models.sources import Source
    from quiltwork.streaming.numbers import encode
    from quiltwork.streaming.place import ELEMENTS
    from quiltwork.streaming.writing import write_tensors

    draw = np.random.default_rng(seed)

    def normal(size: int) -> Iterator[memoryview]:
        for start in range(0, size, ELEMENTS):
            yield encode(0.02 * draw.standard_normal(min(ELEMENTS, size - start), np.float32), "BF16").data

    table = {
        name: Source.streamed("BF16", shape, lambda shape=shape: normal(int(np.prod(shape))))  # type: ignore[misc]
        for name, shape in shapes(sizes).items()
    }
    place.mkdir(parents=True)
    write_tensors(place / "model.safetensors", table)
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": False}
    kind = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    rest = {"rms_norm_eps": 1e-6, "bos_token_id": 0, "eos_token_id": 0, "rope_theta": 10000.0, "hidden_act": "silu"}
    (place / "config.json").write_text(json.dumps({**kind, **sizes, **heads, **rest}))
    words = {f"w{number}": number for number in range(sizes["vocab_size"])}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w1"}
    (place / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "w0", "eos_token": "w0"}
    (place / "tokenizer_config.json").write_text(json.dumps(named))


def judge(inputs: Sequence[Path], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """Each output beside the float64 mean: how many elements are not the nearest bfloat16, and how far off."""
    import numpy as np

    from quiltwork.models.base import open_tensors
    from quiltwork.streaming.numbers import decode, encode

    models, merged = [open_tensors(path) for path in inputs], {name: open_tensors(p) for name, p in outputs.items()}
    elements, differing = 0, 0
    wrong, furthest = dict.fromkeys(outputs, 0), dict.fromkeys(outputs, 0)
    for name in models[0]:
        streams = [model[name].pieces() for model in models]
        found = {how: table[name].pieces() for how, table in merged.items()}
        for pieces in zip(*streams, strict=True):
            exact = sum(decode(piece, "BF16").astype(np.float64) for piece in pieces) / len(models)
            nearest = encode(exact, "BF16").view("<u2").astype(np.int64)
            ours = {how: np.frombuffer(next(stream), "<u2").astype(np.int64) for how, stream in found.items()}
            elements += len(nearest)
            for how, bits in ours.items():
                wrong[how] += int((bits != nearest).sum())
                furthest[how] = max(furthest[how], int(np.abs(bits - nearest).max()))
            first, *others = ours.values()
            differing += sum(int((first != other).sum()) for other in others)
    return {"elements": elements, "not_nearest": wrong, "furthest_ulp": furthest, "differing_elements": differing}


def child(task: str, *arguments: object) -> str:
    """Do a task of this file in another process; what it prints."""
    command = [sys.executable, __file__, "--task", task, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _paths(paths: Sequence[Path]) -> str:
    return json.dumps([str(path) for path in paths])


def perform(task: str, arguments: Sequence[str]) -> None:
    """A task of ``child``."""
    if task == "make":
        for seed, place in enumerate(json.loads(arguments[0])):
            make(Path(place), seed, json.loads(arguments[1]))
    else:
        inputs, outputs = map(json.loads, arguments)
        print(json.dumps(judge([Path(i) for i in inputs], {how: Path(p) for how, p in outputs.items()})))


# Measuring.


def measured(command: Sequence[object], environment: Mapping[str, str] | None = None) -> Run:
    """Wall seconds, processor seconds and peak bytes of a command that must succeed."""
    start = time.perf_counter()
    with open(os.devnull, "w") as nothing:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=nothing,
            stderr=subprocess.PIPE,
            env={**os.environ, **OFFLINE, **(environment or {})},
        )
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {said.decode(errors='replace')[-2000:]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss * 1024}


def commands(
    work: Path, inputs: Sequence[Path], mergekit: Path | None
) -> dict[str, tuple[list[object], dict[str, str]]]:
    """What runs, by name; output directories are named after it."""
    found: dict[str, tuple[list[object], dict[str, str]]] = {}
    ours = [sys.executable, "-m", "quiltwork", "merge", *inputs, "--out", work / "out-quiltwork"]
    found["quiltwork"] = (list(ours), {})
    if mergekit is not None:
        models = [{"model": str(path), "parameters": {"weight": 1.0}} for path in inputs]
        recipe = {"merge_method": "linear", "dtype": "bfloat16", "models": models}
        (work / "recipe.yml").write_text(json.dumps(recipe))
        for name, environment in (("mergekit", {}), ("mergekit, 1 thread", {"OMP_NUM_THREADS": "1"})):
            found[name] = ([mergekit, work / "recipe.yml", work / f"out-{name}"], environment)
    found["cat"] = (["cat", *(path / "model.safetensors" for path in inputs)], {})
    return found


def in_turn(work: Path, inputs: Sequence[Path], mergekit: Path | None, runs: int) -> dict[str, list[Run]]:
    """Every command ``runs`` times, in turn; the inputs were written just before and are in the page cache."""
    found: dict[str, list[Run]] = {}
    for _ in range(runs):
        for name, (command, environment) in commands(work, inputs, mergekit).items():
            shutil.rmtree(work / f"out-{name}", ignore_errors=True)
            run = measured(command, environment)
            found.setdefault(name, []).append({**run, "load": os.getloadavg()[0]})
            print(f"{name}: {run['wall']:.2f} s, {run['cpu']:.2f} CPU s, {run['memory'] / 1e6:.0f} MB", file=sys.stderr)
    return found


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Least and median of each figure, and all of them."""
    figures = {key: [run[key] for run in runs] for key in ("wall", "cpu", "memory", "load")}
    table = {key: {"least": min(v), "median": statistics.median(v)} for key, v in figures.items()}
    return {**table, "runs": list(runs)}


def ratios(table: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Ours over mergekit's better setting."""
    rivals = [one for name, one in table.items() if name.startswith("mergekit")]
    if not rivals:
        return {}
    return {
        f"{key}_ratio": table["quiltwork"][key]["least"] / min(one[key]["least"] for one in rivals)
        for key in ("wall", "memory", "cpu")
    }


def linear(work: Path, mergekit: Path | None, runs: int) -> dict[str, Any]:
    """Three large checkpoints."""
    inputs = [work / name for name in ("a", "b", "c")]
    child("make", _paths(inputs), json.dumps(LARGE))
    table = {name: summary(found) for name, found in in_turn(work, inputs, mergekit, runs).items()}
    outputs = {name: str(work / f"out-{name}") for name in table if name in ("quiltwork", "mergekit")}
    accuracy = json.loads(child("judge", _paths(inputs), json.dumps(outputs)))
    size = (inputs[0] / "model.safetensors").stat().st_size
    shutil.rmtree(work)
    return {**ratios(table), "input_bytes": 3 * size, "commands": table, "accuracy": accuracy}


def growth(work: Path, mergekit: Path | None, runs: int) -> list[dict[str, Any]]:
    """2 to 128 small checkpoints."""
    inputs = [work / f"m{number:03}" for number in range(max(COUNTS))]
    child("make", _paths(inputs), json.dumps(SMALL))
    rows = []
    for count in COUNTS:
        table = {name: summary(found) for name, found in in_turn(work, inputs[:count], mergekit, runs).items()}
        size = count * (inputs[0] / "model.safetensors").stat().st_size
        rows.append({"models": count, "bytes": size, "commands": table})
    shutil.rmtree(work)
    return rows


# The page.


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    one, accuracy = result["linear"], result["linear"]["accuracy"]
    lines = [
        "# Merging checkpoints",
        "",
        f"{result['machine']}. Least (median) of {result['repeats']} runs, commands in turn, inputs in the page cache, "
        "no fsync; the load is that of the whole machine just after a run. `benchmarks/merge.py` says how.",
        "",
        f"## Linear merge of three checkpoints, {one['input_bytes'] / 1e9:.2f} GB read",
        "",
        *_table([(name, found) for name, found in one["commands"].items()], "command"),
        "",
    ]
    if "wall_ratio" in one:
        targets = {"wall": "1/4", "memory": "1/20", "cpu": None}
        words = [f"{key} {one[f'{key}_ratio']:.3f}" + (f" (wanted: {t})" if t else "") for key, t in targets.items()]
        lines += [f"Ours over mergekit's better setting: {', '.join(words)}.", ""]
    lines += [
        f"Of {accuracy['elements']:,} elements not the bfloat16 nearest to the float64 mean: "
        + ", ".join(f"{name} {count:,}" for name, count in accuracy["not_nearest"].items())
        + f"; at most {max(accuracy['furthest_ulp'].values())} step away. "
        f"Elements in which the two differ: {accuracy['differing_elements']:,}.",
        "",
        "Chosen: speed, with the order of operations of mergekit (float32, division last), which gives its bits where "
        "weights are one. SHA-256 of every input and of the output is included in our times, and not in the others.",
        "",
        "## More models",
        "",
    ]
    for row in result["growth"]:
        lines += [f"{row['models']} checkpoints, {row['bytes'] / 1e9:.3f} GB:", ""]
        lines += [*_table(list(row["commands"].items()), "command"), ""]
    if "moe_link" in result:
        lines += ["## Mixtures", "", f"By links {result['moe_link']['seconds']:.2f} s (wanted: 0.5 s); by copying "]
        lines[-1] += f"{result['moe_copy']['ratio_to_copy']:.2f} times `cp` (wanted: 1.5)."
        lines += ["", "Figures: `merge.json`; how: `benchmarks/merge_mixture.py`.", ""]
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, Mapping[str, Any]]], first: str) -> list[str]:
    lines = [f"| {first} | wall, s | CPU, s | peak memory, MB | load |", "|---|---|---|---|---|"]
    for name, found in rows:
        cells = [
            f"{found[key]['least'] / unit:.{digits}f} ({found[key]['median'] / unit:.{digits}f})"
            for key, unit, digits in (("wall", 1, 2), ("cpu", 1, 2), ("memory", 1e6, 0), ("load", 1, 1))
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def machine() -> str:
    """Processor, cores, versions; no names."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a directory that is not there yet, for 5 GB of files")
    parser.add_argument("--mergekit", type=Path, help="the command mergekit-yaml of its own environment")
    parser.add_argument("--mixture", type=Path, help="what merge_mixture.py wrote, to take along")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        perform(given.task[0], given.task[1:])
        return
    result: dict[str, Any] = {"machine": machine(), "repeats": given.runs}
    result["linear"] = linear(given.work / "large", given.mergekit, given.runs)
    result["growth"] = growth(given.work / "small", given.mergekit, max(2, given.runs // 2))
    if given.mixture is not None:
        result |= json.loads(given.mixture.read_text()) | {"machine": result["machine"]}
    print(page(result))
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
        given.json.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
