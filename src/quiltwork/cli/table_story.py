"""What ``quiltwork demo tables`` does, step by step, with the same verbs that a user types.

Each machine runs as ``quiltwork contribute mixture --confine`` in a process of its own. The demo plays the other roles:
it draws and cuts the table, since the truth is needed for that, composes and scores. The fit on all rows together, the
bound that the machines cannot have, leaves out those of the machine that joined its tables wrongly.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from quiltwork.cli.stage import clear, hand_over, run_owner, same_bytes, scratch
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite import TableComposite
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.datasets.regimes import Piece, Regime
    from quiltwork.evaluate.tables import Model
    from quiltwork.models.mixture.experts import Experts
    from quiltwork.models.mixture.mixture import Mixture

FEATURES = ("wind", "rain")
TARGET = "level"
EXPERTS = 4
_FEWEST = 6
_HELD_OUT = 4
"""One row in so many is held out."""


@dataclass
class TableStory:
    """One demo; the fields are the options of ``quiltwork demo tables``."""

    out: Path
    machines: int
    rows: int
    regime: str
    jobs: int
    seed: int

    def __post_init__(self) -> None:
        from quiltwork.datasets.regimes import RegimeName

        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}
        least = {"machines": _FEWEST, "rows": 100 * max(self.machines, _FEWEST), "jobs": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}", why="the story needs more", mend=f"Choose {smallest} or more."
                )
        if self.regime not in get_args(RegimeName):
            raise InvalidOption(
                f"regime '{self.regime}'", why="there is none", mend=f"Choose {', '.join(get_args(RegimeName))}."
            )
        self.parties = [f"m{number:0{len(str(self.machines))}}" for number in range(1, self.machines + 1)]
        self.leaver, self.bad = self.parties[2], self.parties[4]

    def tell(self) -> None:
        """Do all of it; results land in ``out``.

        Raises:
            QuiltworkError: any step refused.
        """
        clear(self.out)
        self._chapter(f"1/5  drawing a table and cutting it over {self.machines} machines")
        self._write_tables()
        self._chapter("2/5  each machine contributes, in a process that sees its own rows only")
        self._contribute()
        self._chapter("3/5  composing with every method for tables")
        composites = self._compose()
        self._chapter(f"4/5  '{self.leaver}' leaves, which is compared with never having been there, and comes back")
        identical = self._opt_out(composites["reduction"])
        self._chapter("5/5  scoring every model on every machine's held-out rows")
        self._report(composites, identical)

    def _chapter(self, title: str) -> None:
        print(f"[{time.monotonic() - self._began:4.0f} s] {title}", file=sys.stderr, flush=True)

    # 1. Rows

    @cached_property
    def drawn(self) -> Regime:
        """The table in pieces, and the truth that made it."""
        from quiltwork.datasets.regimes import regime

        return regime(
            self.regime,  # type: ignore[arg-type]
            machines=self.machines,
            rows=self.rows,
            features=len(FEATURES),
            seed=self.seed,
        )

    @cached_property
    def pieces(self) -> Mapping[str, tuple[Piece, Piece]]:
        """Each machine's rows to learn from and those held out; the bad one learns from responses of other rows."""
        import numpy as np

        from quiltwork.datasets.regimes import with_shuffled_responses

        found = {}
        for party, piece in zip(self.parties, self.drawn.pieces, strict=True):
            held = np.arange(len(piece)) % _HELD_OUT == 0
            train = piece.rows(np.flatnonzero(~held))
            if party == self.bad:
                train = with_shuffled_responses(train, self.seed)
            found[party] = train, piece.rows(np.flatnonzero(held))
        return found

    def _write_tables(self) -> None:
        for party, (train, test) in self.pieces.items():
            _write_csv(self.out / "rows" / party / "train.csv", train)
            _write_csv(self.out / "rows" / party / "test.csv", test)
            note = ", its responses joined to the wrong rows" if party == self.bad else ""
            print(f"         {party}: {len(train):5,} rows and {len(test):4,} held out{note}", file=sys.stderr)

    # 2. Owners

    def _contribute(self) -> None:
        tasks: list[Callable[[], None]] = [partial(self._owner, party) for party in self.parties]
        with ThreadPoolExecutor(self.jobs) as pool:
            for done in [pool.submit(task) for task in tasks]:
                done.result()
        shutil.rmtree(self.out / "outbox", ignore_errors=True)

    def _owner(self, party: str) -> None:
        # a place of its own, since a process may look around in the directory that it writes to
        outbox = self.out / "outbox" / party
        command = ["contribute", "mixture", "--data", str(self.out / "rows" / party / "train.csv")]
        command += ["--target", TARGET, "--n-experts", str(EXPERTS), "--precision", "--seed", str(self.seed)]
        command += ["--party", party, "--out", str(outbox / party), "--licence", "LicenseRef-demo", "--confine"]
        began = time.monotonic()
        self._process(command, party)
        self._seconds[party] = round(time.monotonic() - began, 1)
        hand_over(outbox, party, self.out / "contributions")

    def _process(self, arguments: list[str], party: str) -> None:
        run_owner(arguments, party, threads=max(1, (os.cpu_count() or 1) // self.jobs))

    # 3. Composing

    @cached_property
    def contributions(self) -> list[Contribution]:
        """What the machines handed over, verified."""
        from quiltwork.contribution.store import read

        return [read(self.out / "contributions" / party) for party in self.parties]

    def _compose(self) -> dict[str, TableComposite]:
        from quiltwork.cli.catalog import TABLES, make_table_method
        from quiltwork.compose.method import compose

        composites = {name: compose(self.contributions, make_table_method(name, {})) for name in TABLES}
        composites["reduction"].save(self.out / "composed")
        for party, reason in composites["reduction"].solution.excluded.items():
            print(f"         excluded {party}: {reason}", file=sys.stderr)
        return composites

    # 4. Leaving and coming back

    def _opt_out(self, whole: TableComposite) -> bool:
        """Take a machine out of the saved model, and compose without it; let it join again; compare every byte."""
        from quiltwork.compose.joining import joined
        from quiltwork.compose.method import compose
        from quiltwork.compose.reopen import open_table_composite

        others = [c for c in self.contributions if c.party != self.leaver]
        back = [c for c in self.contributions if c.party == self.leaver]
        left = open_table_composite(self.out / "composed").without(self.leaver)
        with scratch(self.out) as place:
            left.save(place / "left")
            compose(others, whole.method).save(place / "never")
            joined(left, back).save(place / "joined")
            gone, again = (
                same_bytes(place / "left", place / "never"),
                same_bytes(place / "joined", self.out / "composed"),
            )
        print(f"         left: {'identical' if gone else 'DIFFERENT'}", file=sys.stderr)
        print(f"         back: {'identical' if again else 'DIFFERENT'}", file=sys.stderr)
        return gone and again

    # 5. Scores

    def _report(self, composites: dict[str, TableComposite], identical: bool) -> None:
        from quiltwork.evaluate.held_out import HeldOutRows
        from quiltwork.evaluate.scores import save_scores
        from quiltwork.evaluate.table_report import table_report
        from quiltwork.evaluate.tables import score_table

        models: dict[str, Model] = {**composites, "pooled": self._pooled()}
        rows = {p: HeldOutRows(test.x, test.y, labels=test.expert) for p, (_, test) in self.pieces.items()}
        scores = score_table(models, rows, leave_one_out=("reduction",), truth=self._truth()).model_copy(
            update={
                "contributions": self._releases(),
                "opt_out_identical": identical,
                "seconds": round(time.monotonic() - self._began, 1),
            }
        )
        save_scores(scores, self.out / "scores.json")
        table_report(models, rows, self.out / "report.html", scores=scores, show_rows=True)

    def _pooled(self) -> Mixture[Experts]:
        import numpy as np

        from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor

        honest = [train for party, (train, _) in self.pieces.items() if party != self.bad]
        x, y = np.concatenate([piece.x for piece in honest]), np.concatenate([piece.y for piece in honest])
        fitted = MixtureOfExpertsRegressor(EXPERTS, random_state=self.seed).fit(x, y)
        mixture: Mixture[Experts] = fitted.mixture_
        return mixture

    def _truth(self) -> Mixture[Experts]:
        from quiltwork.models.mixture.experts.gaussian import GaussianExperts
        from quiltwork.models.mixture.gates import SoftmaxGate
        from quiltwork.models.mixture.mixture import Mixture

        truth = self.drawn.truth
        return Mixture(SoftmaxGate(truth.gate), GaussianExperts(truth.coefficients, truth.variances))

    def _releases(self) -> dict[str, Any]:
        from quiltwork.evaluate.scores import Release

        return {
            c.party: Release(digest=c.digest, bytes=c.bytes, seconds=self._seconds[c.party], epsilon=None)
            for c in self.contributions
        }


def _write_csv(path: Path, piece: Piece) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*FEATURES, TARGET))
        writer.writerows([*x, y] for x, y in zip(piece.x.tolist(), piece.y.tolist(), strict=True))
