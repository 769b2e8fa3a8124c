"""What ``quiltwork demo`` does, step by step, with the same verbs that a user types.

Each owner runs as ``quiltwork contribute --confine`` in a process of its own, which the kernel (where it can) lets open
its own fragment and the base, and nothing else of the demo. The demo itself plays the other roles: it makes the
fragments, since one machine has to hold them all, trains the public base, and composes and scores.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.stage import clear, hand_over, run_owner, same_bytes, scratch
from quiltwork.errors import InvalidOption, QuiltworkError
from quiltwork.files import new_directory, write_file

if TYPE_CHECKING:
    from quiltwork.composite import Composite
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.datasets.installed import Split
    from quiltwork.evaluate.scores import Scores
    from quiltwork.models.base import Base

LENGTH = 192
LEAVER = "licences"
COMPARED = ("soup", "uniform_ensemble", "btm", "learned_rows", "evidence_ffn", "evidence_full")
"""The methods of the demonstration, those that need no tuning and no further statistics."""


@dataclass
class Story:
    """One demo; the fields are the options of ``quiltwork demo``."""

    out: Path
    base_steps: int
    steps: int
    budget: int
    test_bytes: int
    jobs: int
    pooled: bool
    seed: int

    def __post_init__(self) -> None:
        self.leaver = LEAVER
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}
        for name in ("base_steps", "steps", "budget", "test_bytes", "jobs"):
            if getattr(self, name) < 1:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}", why="it must be positive", mend="Choose 1 or more."
                )

    def tell(self) -> None:
        """Do all of it; results land in ``out``.

        Raises:
            QuiltworkError: any step refused.
        """
        clear(self.out)
        self._chapter("1/6  collecting text that this installation holds")
        self._write_text()
        self._chapter("2/6  training the public base")
        self._train_base()
        self._chapter(f"3/6  {len(self.parties)} owners contribute, each in a process that sees its own text only")
        self._contribute()
        self._chapter("4/6  composing with every method")
        composites = self._compose()
        self._chapter(f"5/6  taking '{LEAVER}' out and comparing with never having had it")
        identical = self._opt_out()
        self._chapter("6/6  scoring every model on every owner's held-out text")
        self._report(composites, identical)

    def _chapter(self, title: str) -> None:
        print(f"[{time.monotonic() - self._began:4.0f} s] {title}", file=sys.stderr, flush=True)

    # 1. Text

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Training and held-out documents of every corpus."""
        from quiltwork.datasets.installed import prepare

        return prepare(self.budget, seed=self.seed)

    @cached_property
    def parties(self) -> list[str]:
        """The owners."""
        from quiltwork.datasets.installed import CORPORA

        return [name for name in self.splits if CORPORA[name].role == "private"]

    @property
    def public(self) -> list[str]:
        """The public corpora."""
        return [name for name in self.splits if name not in self.parties]

    def _write_text(self) -> None:
        for name, split in self.splits.items():
            role = "private" if name in self.parties else "public"
            write_file(self.out / "text" / role / name / "train.txt", "\f".join(split.train))
            write_file(self.out / "text" / role / name / "test.txt", "\f".join(split.test))
            size = sum(len(text.encode()) for text in split.train)
            print(f"         {role:7} {name:12} {len(split.train):4} documents, {size:9,} bytes", file=sys.stderr)

    # 2. Base

    def _train_base(self) -> None:
        from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer

        texts = [text for name in self.public for text in self.splits[name].train]
        tokenizer = train_tokenizer(texts, TinySize().vocabulary)
        model = tiny_model("olmo2", TinySize(vocabulary=len(tokenizer)), seed=self.seed)
        _train_dense(model, tokenizer, texts, self.out / "base", self.base_steps, 3e-3, self.seed)

    @cached_property
    def base(self) -> Base:
        """The public base."""
        from quiltwork.models.base import open_base

        return open_base(self.out / "base")

    # 3. Owners

    def _contribute(self) -> None:
        tasks: list[Callable[[], None]] = [partial(self._owner, name) for name in self.parties]
        if self.pooled:
            tasks.insert(0, self._pool)
        with ThreadPoolExecutor(self.jobs) as pool:
            for done in [pool.submit(task) for task in tasks]:
                done.result()
        shutil.rmtree(self.out / "outbox", ignore_errors=True)

    def _owner(self, name: str) -> None:
        command = ["contribute", "--base", str(self.out / "base"), "--party", name]
        command += ["--data", str(self.out / "text" / "private" / name / "train.txt")]
        # a place of its own, since a process may look around in the directory that it writes to
        outbox = self.out / "outbox" / name
        command += ["--out", str(outbox / name), "--state", str(outbox / "state"), "--scope", "ffn", "--scope", "full"]
        command += ["--steps", str(self.steps), "--sequence-length", str(LENGTH), "--seed", str(self.seed)]
        command += ["--licence", "LicenseRef-demo", "--confine"]
        began = time.monotonic()
        self._process(command, name)
        self._seconds[name] = round(time.monotonic() - began, 1)
        hand_over(outbox, name, self.out / "contributions")

    def _process(self, arguments: list[str], name: str) -> None:
        run_owner(arguments, name, threads=max(1, (os.cpu_count() or 1) // self.jobs))

    def _pool(self) -> None:
        process = get_context("spawn").Process(
            target=_train_pooled, args=(self.out, self.steps * len(self.parties), self.seed), name="pooled"
        )
        process.start()
        process.join()
        if process.exitcode:
            raise QuiltworkError(
                "the pooled bound", why="its process failed; its own words stand above", mend="Mend that and run again."
            )

    # 4. Composing

    @cached_property
    def contributions(self) -> list[Contribution]:
        """What the owners handed over, verified."""
        from quiltwork.contribution.store import read

        return [read(self.out / "contributions" / name) for name in self.parties]

    @cached_property
    def public_text(self) -> Any:
        """Histograms of the public text."""
        from quiltwork.party.contribute import text_histograms

        return text_histograms(self.base, [text for name in self.public for text in self.splits[name].train])

    def _compose(self) -> dict[str, Composite]:
        from quiltwork.cli.catalog import make_method
        from quiltwork.compose.method import compose

        composites = {
            name: compose(self.contributions, make_method(name, {}), self.base, public=self.public_text)
            for name in COMPARED
        }
        composites["learned_rows"].save(self.out / "composed", layout="portable")
        composites["evidence_ffn"].save(self.out / "composed-native", layout="native")
        return composites

    # 5. Opting out

    def _opt_out(self) -> bool:
        """Take a party out of the saved models, and compose without it; compare every byte."""
        from quiltwork.cli.catalog import make_method
        from quiltwork.compose.method import compose
        from quiltwork.composite import open_composite, saved_layout

        others = [c for c in self.contributions if c.party != LEAVER]
        identical = True
        for directory, name in (("composed", "learned_rows"), ("composed-native", "evidence_ffn")):
            layout = saved_layout(self.out / directory)
            left = open_composite(self.out / directory).without(LEAVER)
            never = compose(others, make_method(name, {}), self.base, public=self.public_text)
            with scratch(self.out) as place:
                left.save(place / "left", layout=layout)
                never.save(place / "never", layout=layout)
                same = same_bytes(place / "left", place / "never")
            print(f"         {directory}: {'identical' if same else 'DIFFERENT'}", file=sys.stderr)
            identical &= same
        return identical

    # 6. Scores

    def _report(self, composites: dict[str, Composite], identical: bool) -> None:
        from quiltwork.evaluate.report import write_report
        from quiltwork.evaluate.scores import save_scores

        scores = self._scores(composites).model_copy(
            update={"opt_out_identical": identical, "seconds": round(time.monotonic() - self._began, 1)}
        )
        save_scores(scores, self.out / "scores.json")
        write_report(scores, self.out / "report.html")

    def _scores(self, composites: dict[str, Composite]) -> Scores:
        from quiltwork.compose.alone import Alone
        from quiltwork.compose.method import compose
        from quiltwork.evaluate.matrix import Candidates, HeldOut, score_matrix
        from quiltwork.models.base import open_base

        others = {"pooled": open_base(self.out / "pooled").load_model} if self.pooled else {}
        scores = score_matrix(
            Candidates(
                base=self.base.load_model,
                methods=composites,
                alone={c.party: compose([c], Alone(), self.base) for c in self.contributions},
                leave_one_out=("evidence_ffn",),
                others=others,
            ),
            self.base.load_tokenizer(),
            HeldOut(self._held_out(), tuple(self.parties), max_length=LENGTH),
            prefix=self.base.separator,
            sample_methods=("evidence_ffn",),
            on_row=lambda row: print(f"         scoring {row}", file=sys.stderr, flush=True),
        )
        return scores.model_copy(update={"base": self.base.digest, "contributions": self._releases()})

    def _held_out(self) -> dict[str, list[str]]:
        """Held-out documents, the first characters of each, up to the byte budget of a domain."""
        domains: dict[str, list[str]] = {}
        for name in (*self.public, *self.parties):
            size = 0
            for text in self.splits[name].test:
                if size < self.test_bytes:
                    domains.setdefault(name, []).append(text[:4000])
                    size += len(text[:4000].encode())
        return domains

    def _releases(self) -> dict[str, Any]:
        import math

        from quiltwork.evaluate.scores import Release
        from quiltwork.privacy.accountant import price

        releases = {}
        for c in self.contributions:
            epsilon = price(c.manifest.privacy, delta=1e-6)
            bound = epsilon if math.isfinite(epsilon) else None
            releases[c.party] = Release(digest=c.digest, bytes=c.bytes, seconds=self._seconds[c.party], epsilon=bound)
        return releases


def _train_dense(
    model: Any, tokenizer: Any, texts: list[str], target: Path, steps: int, rate: float, seed: int
) -> None:
    """Train a dense model on texts and save it as a checkpoint."""
    from quiltwork.models.tokenizer_files import separator_id
    from quiltwork.party.contribute import block_stream, tokenised
    from quiltwork.training.loop import TrainingPlan, train

    plan = TrainingPlan(steps=steps, sequence_length=LENGTH, learning_rate=rate, seed=seed)
    blocks = block_stream(partial(tokenised, texts, tokenizer), plan, separator_id(tokenizer))
    train(model, blocks, plan, label=target.name)
    with new_directory(target) as partial_directory:
        model.save_pretrained(partial_directory)
        tokenizer.save_pretrained(partial_directory)


def _train_pooled(out: Path, steps: int, seed: int) -> None:
    """The bound that no consortium can have: the base trained on everybody's text together."""
    import torch

    from quiltwork.models.base import open_base
    from quiltwork.party.fragment import open_fragment

    torch.set_num_threads(1)
    base = open_base(out / "base")
    texts = list(open_fragment(sorted((out / "text").glob("*/*/train.txt"))).documents())
    _train_dense(base.load_model(), base.load_tokenizer(), texts, out / "pooled", steps, 2e-3, seed)
