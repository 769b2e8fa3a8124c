"""Split learning over processes: the parameters of one process, and a party that is killed in the middle of a round."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from split_parties import ADAM, WIDTH, component, fragments, modes, start

from quiltwork.errors import LostParty
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.process import ProcessChannel, Started
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

PARTIES = ("p0", "p1")


@dataclass(frozen=True)
class Opening:
    """Opens a party's own fragment inside its process."""

    party: str
    stale: bool = False
    folder: Path | None = None

    def __call__(self) -> Started:
        torch.set_num_threads(1)
        rows = fragments(parties=2)[0][self.party]
        learner = component(self.party, rows.shape[1], ADAM, stash=self.stale)
        return Started(ComponentNode(learner, rows, folder=self.folder and self.folder / self.party))


def over_processes(folder: Path | None = None, *, stale: bool = False) -> SplitRun:
    labels = fragments(parties=2)[1]
    starts = {party: Opening(party, stale, folder) for party in PARTIES}
    channel = ProcessChannel(starts, dict.fromkeys(PARTIES, component_terms(WIDTH)))
    mode, schedule = modes("joint", list(PARTIES), 3, ADAM), Schedule(np.arange(60), 16, 2, 3)
    keeping = {"folder": folder / "composer", "save_every": 3} if folder else {}
    widths, target = dict.fromkeys(PARTIES, WIDTH), ClassTarget(labels, 3)
    return SplitRun(channel, mode, OwnLabels(target), schedule, widths, stale=stale, sealing=channel.sealing, **keeping)


@pytest.mark.parametrize("stale", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["prompt", "stale"])
def test_processes_learn_what_one_process_learns(stale: bool) -> None:
    run, here = over_processes(stale=stale), start("joint", *fragments(parties=2), stale=stale)
    run.train()
    here.train()
    assert run.digests() == here.digests()
    rows = here.schedule.positions
    assert run.predict(rows).tobytes() == here.predict(rows).tobytes()
    for party in PARTIES:
        here_log, log = here.channel.log, run.channel.log
        assert log.digest(party, "up") == here_log.digest(party, "up")
        assert log.bytes(party, "down") == run.bill.bytes(party, "down")
    assert run.records().sealing == dict.fromkeys(PARTIES, "not sealed")
    run.close()


@pytest.mark.slow
def test_a_party_that_is_killed_comes_back(tmp_path: Path) -> None:
    whole = start("joint", *fragments(parties=2), folder=tmp_path / "whole", save_every=3)
    whole.train()
    run = over_processes(tmp_path / "broken")
    run.train(4)
    (victim,) = (child for child in multiprocessing.active_children() if child.name == "party p1")
    victim.kill()
    victim.join()
    with pytest.raises(LostParty, match="p1"):
        run.train()
    run.close()
    again = over_processes(tmp_path / "broken")
    assert again.resume() == 3
    again.train()
    assert again.digests() == whole.digests()
    again.close()
