"""Split learning through residents: parties behind sockets learn bit for bit what one process learns."""

from __future__ import annotations

import numpy as np
from session_relays import RelayChannel
from split_parties import ADAM, WIDTH, fragments, modes, start
from test_split_processes import PARTIES, Opening

from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms


def test_residents_learn_what_one_process_learns() -> None:
    data, labels = fragments(parties=2)
    channel = RelayChannel({party: Opening(party) for party in PARTIES}, dict.fromkeys(PARTIES, component_terms(WIDTH)))
    schedule, widths = Schedule(np.arange(60), 16, 2, 3), dict.fromkeys(PARTIES, WIDTH)
    target = OwnLabels(ClassTarget(labels, 3))
    run = SplitRun(channel, modes("joint", list(PARTIES), 3, ADAM), target, schedule, widths, sealing=channel.sealing)
    here, other = start("joint", data, labels), start("joint", data, labels, seed=4)
    for one in (run, here, other):
        one.train()
    found = run.digests()
    assert found == here.digests()
    # negative control: another seed gives other bits
    assert not found.items() & other.digests().items()
    for party in PARTIES:
        assert channel.log.digest(party, "up") == here.channel.log.digest(party, "up")
        for way in ("down", "up"):
            assert channel.log.bytes(party, way) == run.bill.bytes(party, way)
    run.close()
    assert [pair.why for pair in channel._pairs.values()] == ["", ""]
