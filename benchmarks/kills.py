"""SIGKILL at random moments of `contribute`, `compose`, `add` and `remove`: is anything half-written, does all resume?

    python benchmarks/kills.py --kills 200 --json benchmarks/results/kills.json

Each trial starts a command in a process of its own and kills it: half of the trials after a random share of the time
that the whole command takes, half at a random one of its operations on files (so that the short moments of writing are
met). Then three things are held against an uninterrupted run:

    the target   is absent, or is the uninterrupted run's to the byte
    again        the same command ends well, with the uninterrupted run's bytes
    leftovers    after that, nothing lies beside the target but what an uninterrupted run leaves

The processes are forked from one that has imported everything, so that a kill meets the command and not the imports.
Kills are drawn by ``--seed``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import accelerate  # noqa: F401
import torch
from transformers import AutoModelForCausalLM  # noqa: F401

from quiltwork.cli.app import main as quiltwork
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer

PARTIES = ("ash", "birch", "cedar")
_OPERATIONS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.chmod", "shutil.rmtree")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Job:
    """A command, what it writes, and where a killed one may leave something."""

    name: str
    arguments: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Outcome:
    job: str
    trial: int
    moment: str
    killed: bool
    target: str
    failure: str | None


def contribute(party: str) -> Job:
    options = "--steps 6 --save-every 2 --batch-size 2 --sequence-length 16 --scope ffn --scope full --cpu"
    arguments = f"contribute expert --base base --data {party}.txt --party {party} --out {party} {options}"
    return Job("contribute", tuple(arguments.split()), party)


def jobs() -> list[Job]:
    two, method = "ash birch", "--base base --method evidence_ffn --floor 0 --layout native"
    return [
        contribute("ash"),
        Job("compose", tuple(f"compose {two} {method} --out composed".split()), "composed"),
        Job("add", ("add", "composed", "cedar", "--base", "base", "--out", "larger"), "larger"),
        Job("remove", ("remove", "composed", "--party", "birch", "--out", "smaller"), "smaller"),
    ]


def prepare(place: Path) -> None:
    """A tiny base and three owners' texts; all that the commands need but do not make."""
    texts = {name: [f"{name} writes page {i} about {name} and {i * i}" for i in range(40)] for name in PARTIES}
    tokenizer = train_tokenizer([text for own in texts.values() for text in own], 300)
    size = TinySize(vocabulary=len(tokenizer), hidden=16, intermediate=24, layers=2, heads=2, positions=32)
    tiny_model("olmo2", size, seed=0, tie=False).save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    for name, own in texts.items():
        (place / f"{name}.txt").write_text("\f".join(own))


def start(arguments: Sequence[str], place: Path, prelude: Callable[[], None] = lambda: None) -> int:
    """Run a command in a forked process; its number."""
    child = os.fork()
    if child:
        return child
    try:
        os.chdir(place)
        with open("log.txt", "ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.argv = ["quiltwork", *arguments]
        prelude()
        quiltwork()
        os._exit(0)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(70)


def ended(child: int) -> int:
    """Exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def on_operations(act: Callable[[], None]) -> Callable[[], None]:
    """A prelude that has ``act`` called before each of the process's operations that change files."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _OPERATIONS or (event == "open" and isinstance(args[2], int) and args[2] & _WRITING):
            act()

    return lambda: sys.addaudithook(hook)


def after_operations(count: int) -> Callable[[], None]:
    """Kill the process at its ``count``-th operation on files."""
    left = [count]

    def act() -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_operations(act)


def counting(file: Path) -> Callable[[], None]:
    """Count the operations on files; the number is kept in ``file``, a byte each."""
    tally = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return on_operations(lambda: (os.write(tally, b"."), None)[1])


def tree(path: Path) -> str:
    """A digest of all names and bytes below a path; ``"absent"`` where there is nothing."""
    if not path.exists():
        return "absent"
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        data = file.read_bytes() if file.is_file() else b""
        whole.update(f"{file.relative_to(path)}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()


class Trials:
    """One job, its uninterrupted run, and kills of it."""

    def __init__(self, job: Job, prepared: Path, work: Path) -> None:
        self.job, self.prepared, self.work = job, prepared, work
        place = self._fresh("whole")
        first = _timed(lambda: _require_success(self._run(place), place))
        self.whole, self.names = tree(place / job.target), _names(place)
        place = self._fresh("counted")
        prelude = counting(work / "operations")
        # the shorter of two: the first one fills caches, and kills that expect as long a command would come too late
        again = _timed(lambda: _require_success(ended(start(job.arguments, place, prelude)), place))
        self.seconds = min(first, again)
        self.operations = (work / "operations").stat().st_size
        (work / "operations").unlink()
        if tree(place / job.target) != self.whole:
            raise SystemExit(f"{job.name}: two uninterrupted runs differ")

    def _fresh(self, name: str) -> Path:
        place = self.work / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.prepared, place)
        return place

    def _run(self, place: Path) -> int:
        return ended(start(self.job.arguments, place))

    def trial(self, number: int, seed: int) -> Outcome:
        rng = random.Random(f"{seed}-{self.job.name}-{number}")
        place = self._fresh("killed")
        if number % 2:
            at = rng.randint(1, self.operations)
            moment = f"operation {at} of {self.operations}"
            status = ended(start(self.job.arguments, place, after_operations(at)))
        else:
            share = rng.random()
            moment = f"{share:.3f} of {self.seconds:.2f} s"
            status = _killed_after(start(self.job.arguments, place), share * self.seconds)
        found = tree(place / self.job.target)
        state = {"absent": "absent", self.whole: "complete"}.get(found, "half-written")
        failure = self._judge(place, status, state)
        return Outcome(self.job.name, number, moment, status == -signal.SIGKILL, state, failure)

    def _judge(self, place: Path, status: int, state: str) -> str | None:
        if status not in (0, -signal.SIGKILL):
            return f"ended with {status}"
        if state == "half-written":
            return "the target is half-written"
        if state == "absent" and status == 0:
            return "the command ended well and wrote nothing"
        if state == "absent" and (again := self._run(place)) != 0:
            return f"the same command ended with {again}: {(place / 'log.txt').read_text()[-300:]}"
        if tree(place / self.job.target) != self.whole:
            return "the same command wrote other bytes"
        # what was whole needs no other run, and so nobody has cleared up after it yet
        left = sorted(set(_names(place)) - set(self.names)) if state == "absent" else []
        return f"left over: {', '.join(left)}" if left else None


def _timed(act: Callable[[], None]) -> float:
    """How long something takes, in seconds."""
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _killed_after(child: int, seconds: float) -> int:
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)  # not reaped yet, so the number is still the child's
    return ended(child)


def _names(place: Path) -> list[str]:
    return sorted(entry.name for entry in place.iterdir())


def _require_success(status: int, place: Path) -> None:
    if status != 0:
        raise SystemExit(f"the uninterrupted command ended with {status}:\n{(place / 'log.txt').read_text()[-2000:]}")


def run(kills: int, seed: int, wanted: Sequence[str] = (), say: Callable[[str], None] = print) -> list[Outcome]:
    """So many trials, shared among the jobs in turn."""
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepared = work / "prepared"
        prepared.mkdir()
        prepare(prepared)
        wanted = wanted or [job.name for job in jobs()]
        for job in jobs():
            if job.name in wanted:
                place = wanted.index(job.name)
                share = kills // len(wanted) + (place < kills % len(wanted))
                outcomes += _trials(Trials(job, prepared, work), share, seed, say)
            # later commands need what the earlier ones make
            for needed in [job, *([contribute(name) for name in PARTIES[1:]] if job.name == "contribute" else [])]:
                _require_success(ended(start(needed.arguments, prepared)), prepared)
    return outcomes


def _trials(trials: Trials, count: int, seed: int, say: Callable[[str], None]) -> list[Outcome]:
    say(f"{trials.job.name}: {trials.seconds:.2f} s, {trials.operations} operations on files")
    found = [trials.trial(number, seed) for number in range(count)]
    say(f"{trials.job.name}: {count} trials, {sum(one.failure is not None for one in found)} failures")
    return found


def page(result: dict[str, Any]) -> str:
    versions = f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    lines = [
        "# Kills",
        "",
        f"{result['killed']} processes killed with SIGKILL, seed {result['seed']}: "
        f"**{len(result['failures'])} failures**. {versions}.",
        "",
        "After a kill the target is absent or complete, and the same command ends with the bytes of an uninterrupted "
        "run. *ended first*: processes that were done before the signal came.",
        "",
        "| command | killed | target absent | target complete | ended first | failures |",
        "|---|---|---|---|---|---|",
    ]
    for job, counts in result["jobs"].items():
        keys = ("killed", "absent", "complete", "ended_first", "failures")
        lines.append(f"| {job} | " + " | ".join(str(counts.get(key, 0)) for key in keys) + " |")
    lines += ["", *(f"- {one['job']} {one['trial']}, {one['moment']}: {one['failure']}" for one in result["failures"])]
    return "\n".join(lines).rstrip() + "\n"


def summary(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    found: dict[str, Counter[str]] = {}
    for one in outcomes:
        counts = found.setdefault(one.job, Counter())
        counts["killed" if one.killed else "ended_first"] += 1
        counts[one.target.replace("-", "_")] += one.killed
        counts["failures"] += one.failure is not None
    return {
        "seed": seed,
        "killed": sum(one.killed for one in outcomes),
        "jobs": {job: dict(counts) for job, counts in found.items()},
        "failures": [asdict(one) for one in outcomes if one.failure is not None],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = summary(run(options.kills, options.seed, options.jobs), options.seed)
    print(page(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(page(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
