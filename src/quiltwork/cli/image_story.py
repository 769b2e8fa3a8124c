"""What ``quiltwork demo images`` does, step by step, with the same verbs that a user types.

Each owner runs ``quiltwork contribute … --confine`` in a process of its own. The demo plays the other roles: it deals
the images and trains what owners would long have trained, composes and scores. Pooled training, the bound that the
owners cannot have, stands beside it.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.cli.stage import clear, hand_over, run_owner, same_bytes, scratch
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from torch import nn

    from quiltwork.composite import NetworkComposite
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.datasets.looks import Site

OWNERS = {"ash": ("plain", "cnn"), "birch": ("negative", "residual"), "cedar": ("turned", "mixer")}
"""Owner -> the look of its images, and the architecture of its network."""

POINTS = {"ash": ("1", "2"), "birch": ("1", "3")}
"""Where the first two owners let their networks be joined, in pairs of equal depth."""

_BATCH = 64


@dataclass
class ImageStory:
    """One demo; the fields are the options of ``quiltwork demo images``."""

    out: Path
    steps: int
    stitch_steps: int
    seed: int

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        self._seconds: dict[str, float] = {}
        for name in ("steps", "stitch_steps"):
            if getattr(self, name) < 1:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}", why="nothing would be trained", mend="Choose 1 or more."
                )
        self.leaver = "cedar"

    def tell(self) -> None:
        """Do all of it; results land in ``out``.

        Raises:
            QuiltworkError: any step refused.
        """
        clear(self.out)
        self._chapter("1/6  three owners train a network each, on images with a look of their own")
        for owner in OWNERS:
            self._train(owner)
        self._chapter("2/6  each publishes its network and a summary of its inputs")
        for owner in OWNERS:
            self._publish(owner)
        self._chapter(
            "3/6  two of them let their networks be joined, one trains the stitches; all tell how outputs fit"
        )
        self._release_sums()
        self._chapter("4/6  composing in every way")
        composites = self._compose()
        self._chapter(f"5/6  '{self.leaver}' leaves, which is compared with never having been there")
        identical = self._opt_out()
        self._chapter("6/6  scoring every model on every owner's held-out images")
        self._report(composites, identical)

    def _chapter(self, title: str) -> None:
        print(f"[{time.monotonic() - self._began:4.0f} s] {title}", file=sys.stderr, flush=True)

    # 1. What owners have

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Every owner's images."""
        from quiltwork.datasets.looks import sites

        return sites({owner: look for owner, (look, _) in OWNERS.items()}, self.seed)

    def _train(self, owner: str) -> None:
        import numpy as np
        from safetensors.torch import save_file

        import quiltwork.cli.image_networks as code

        look, architecture = OWNERS[owner]
        site, place = self.sites[owner], self.out / "owners" / owner
        place.mkdir(parents=True)
        shutil.copy(str(code.__file__), place / "model.py")
        save_file(self._trained(architecture, [site]).state_dict(), place / "weights.safetensors")
        np.savez(place / "train.npz", inputs=site.train, labels=site.train_labels)
        np.savez(place / "test.npz", inputs=site.test, labels=site.test_labels)
        told = f"{owner}: {len(site.train)} images ({look}), a network of kind {architecture}"
        print(f"         {told}", file=sys.stderr)

    def _trained(self, architecture: str, at: list[Site]) -> nn.Module:
        """A network trained on the images of some sites."""
        import numpy as np
        import torch

        import quiltwork.cli.image_networks as code

        torch.manual_seed(self.seed)
        module: nn.Module = getattr(code, architecture)().train()
        x = torch.from_numpy(np.concatenate([site.train for site in at]))
        y = torch.from_numpy(np.concatenate([site.train_labels for site in at]))
        optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        draw = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            rows = torch.randint(len(y), (_BATCH,), generator=draw)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
        return module.eval()

    # 2. and 3. Owners

    def _publish(self, owner: str) -> None:
        place = self.out / "owners" / owner
        said = ["module", "--module", f"{place / 'model.py'}:{OWNERS[owner][1]}"]
        said += ["--weights", str(place / "weights.safetensors"), "--held-out", str(place / "test.npz")]
        said += [
            "--units",
            "0..1",
            "--classes",
            ",".join("0123456789"),
            "--inputs",
            "1",
            "--class-moments",
            "per_class",
        ]
        self._owner(owner, "", [*said, "--data", str(place / "train.npz")])

    def _release_sums(self) -> None:
        pair = [word for owner in POINTS for word in ("--network", str(self._handed(owner)))]
        points = [f"--point={owner}={point}" for owner, own in POINTS.items() for point in own]
        for owner in POINTS:
            train = ["--data", str(self.out / "owners" / owner / "train.npz")]
            self._owner(owner, "-statistics", ["statistics", *pair, *points, "--held-out", "0.25", *train])
        first = next(iter(POINTS))
        at = ",".join(own[-1] for own in POINTS.values())
        stitches = ["stitches", *pair, "--points", at, "--steps", str(self.stitch_steps), "--seed", str(self.seed)]
        for owner in POINTS:
            stitches += ["--statistics", str(self._handed(owner, "-statistics"))]
        self._owner(first, "-stitches", [*stitches, "--data", str(self.out / "owners" / first / "train.npz")])
        everyone = [word for owner in OWNERS for word in ("--network", str(self._handed(owner)))]
        for owner in OWNERS:
            held = ["--data", str(self.out / "owners" / owner / "test.npz")]
            self._owner(owner, "-outputs", ["outputs", *everyone, *held])
        shutil.rmtree(self.out / "outbox", ignore_errors=True)

    def _owner(self, owner: str, what: str, words: list[str]) -> None:
        # a place of its own, since a process may look around in the directory that it writes to
        name, outbox = f"{owner}{what}", self.out / "outbox" / owner
        began = time.monotonic()
        party = ["--party", owner, "--out", str(outbox / name), "--licence", "LicenseRef-demo", "--confine"]
        run_owner(["contribute", *words, *party], owner, threads=1)
        self._seconds[owner] = round(self._seconds.get(owner, 0.0) + time.monotonic() - began, 1)
        hand_over(outbox, name, self.out / "contributions")

    def _handed(self, owner: str, what: str = "") -> Path:
        return self.out / "contributions" / f"{owner}{what}"

    # 4. Composing

    @cached_property
    def contributions(self) -> dict[str, Contribution]:
        """What the owners handed over, verified."""
        from quiltwork.contribution.store import read

        return {path.name: read(path) for path in sorted((self.out / "contributions").iterdir())}

    def _compose(self) -> dict[str, NetworkComposite]:
        from quiltwork.compose.combine import Combine
        from quiltwork.compose.gaussian_head import GaussianHead
        from quiltwork.compose.method import compose
        from quiltwork.compose.stitch import Stitch

        everything = list(self.contributions.values())
        untrained = [one for one in everything if one.kind != "stitches"]
        pair = tuple(POINTS)
        found = {
            "evidence": compose(everything, Combine(weights="evidence")),
            "stacked": compose(everything, Combine(weights="stacked")),
            "gaussian_head": compose(everything, GaussianHead("lda")),
            "stitched": compose(untrained, Stitch(pair=(pair[0], pair[1]))),
            f"stitched at {pair[0]}": compose(everything, Stitch(pair=(pair[0], pair[1]))),
            "stitched evidence": compose(untrained, Stitch(pair=(pair[0], pair[1]), weights="evidence")),
        }
        found["evidence"].save(self.out / "composed")
        return found

    # 5. Leaving

    def _opt_out(self) -> bool:
        """Take an owner out of the saved model, and compose without it; compare every byte."""
        from quiltwork.compose.combine import Combine
        from quiltwork.compose.method import compose
        from quiltwork.compose.reopen import open_network_composite

        others = [one for one in self.contributions.values() if one.party != self.leaver]
        left = open_network_composite(self.out / "composed").without(self.leaver)
        with scratch(self.out) as place:
            left.save(place / "left")
            compose(others, Combine(weights="evidence")).save(place / "never")
            same = same_bytes(place / "left", place / "never")
        print(f"         left: {'identical' if same else 'DIFFERENT'}", file=sys.stderr)
        return same

    # 6. Scores

    def _report(self, composites: dict[str, NetworkComposite], identical: bool) -> None:
        from quiltwork.evaluate.network_report import network_report
        from quiltwork.evaluate.network_scores import score_networks
        from quiltwork.evaluate.scores import Release, save_scores

        pooled = self._trained("residual", list(self.sites.values()))
        models: dict[str, NetworkComposite | nn.Module] = {**composites, "pooled": pooled}
        rows = {owner: (site.test, site.test_labels) for owner, site in self.sites.items()}
        sent = {owner: [c for c in self.contributions.values() if c.party == owner] for owner in OWNERS}
        releases = {
            owner: Release(
                digest=self.contributions[owner].digest,
                bytes=sum(c.bytes for c in given),
                seconds=self._seconds[owner],
                epsilon=None,
            )
            for owner, given in sent.items()
        }
        scores = score_networks(models, rows, leave_one_out=("evidence",)).model_copy(
            update={
                "contributions": releases,
                "opt_out_identical": identical,
                "seconds": round(time.monotonic() - self._began, 1),
            }
        )
        save_scores(scores, self.out / "scores.json")
        network_report(models, rows, self.out / "report.html", scores=scores)
