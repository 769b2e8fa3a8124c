"""How good a run is on the rows that were held out, and whether any fragment tells the label alone.

Where weights are fitted to held-out rows, one half is for that and the other judges.
"""

from __future__ import annotations

import torch

from quiltwork.cli.split.build import parted
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import Cases
from quiltwork.cli.split.stacked import fit, halved
from quiltwork.session.split.comparison import alone
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.run import SplitRun

COMPOSED = "composed"


def held_out_scores(plan: Plan, cases: Cases, run: SplitRun) -> tuple[dict[str, float], int]:
    """Accuracy, or R squared of numbers, of the composed model and of heads alone; and the number of rows held out.

    Weights of outputs are fitted first, where the plan wants them. In isolated mode the run's warnings say where no
    fragment tells the label. Empty where nothing was held out.
    """
    _, whole = parted(plan, len(cases))
    fitted, held = halved(plan, whole)
    if len(fitted):
        fit(run, cases, fitted)
    if len(held) == 0:
        return {}, len(whole)
    truth = cases.labels[torch.from_numpy(held)]
    found = torch.from_numpy(run.predict(held))
    if cases.classes is not None:
        scores = {COMPOSED: float((found.argmax(1) == truth).double().mean())}
    else:
        rest, spread = (found[:, 0] - truth.double()) ** 2, (truth.double() - truth.double().mean()) ** 2
        scores = {COMPOSED: float(1 - rest.sum() / spread.sum().clamp_min(1e-300))}
    if isinstance(run.mode, Isolated):
        scores |= {f"{party} alone": score for party, score in alone(run, held, truth).scores.items()}
    return scores, len(whole)
