"""What a tape and the files of a plan allow to try: foreign numbers in what was sent, labels from cotangents, liars.

    canary       rows of other parties and the composer's parameters, searched for in all that went down      (G4)
    labels       by each party from its own cotangents, first round and every epoch, knowing one a class      (G3)
    byzantine    a lying minority against the composition, on the held-out rows                               (G11)

The first needs the tape alone. The other two open the files of the plan, all in one place, as an auditor does who is
trusted with them.
"""

from __future__ import annotations

import torch

from quiltwork.audit.arbitrary import byzantine
from quiltwork.audit.attacks.labels import label_recovery_by_epoch
from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.canary import canary
from quiltwork.audit.check import Check
from quiltwork.audit.tape import Tape
from quiltwork.cli.split.build import parted
from quiltwork.cli.split.subject import Subject
from quiltwork.session.split.isolated import Isolated


def canaries(subject: Subject, tape: Tape) -> list[Check]:
    """Did anything of the others or of the composer reach a party as it is? Messages of eight bits are not searched.

    Raises:
        AlteredRecords: the tape is of another session.
    """
    if subject.plan.training.precision != "float32":
        return []
    composer = {
        f"{name}/{key}": tensor.numpy()
        for name, learner in subject.mode().learners().items()
        for key, tensor in learner.module.state_dict().items()
    }
    return [canary(subject.facts, tape, composer)]


def label_attacks(subject: Subject, tape: Tape | None) -> list[Attack]:
    """Labels from cotangents, by each party; none where labels are numbers, or nothing plain was recorded."""
    plan, facts, cases = subject.plan, subject.facts, subject.cases
    if tape is None or cases.classes is None or plan.training.precision != "float32" or plan.masked:
        return []
    train, _ = parted(plan, len(cases))
    each = -(-len(train) // plan.training.batch_size)
    epochs = [(start, start + each) for start in range(0, facts.rounds, each)]
    found = []
    for party in facts.parties:
        own, truth = cases.fragments[party].numpy(), cases.labels.numpy()
        tried = label_recovery_by_epoch(party, tape.lessons(party), truth, own, epochs, seed=plan.training.seed)
        found += [one.on(facts) for one in tried]
    return found


def liars(subject: Subject) -> list[Check]:
    """A lying minority of heads, on the held-out rows; none where there is no minority, or no head."""
    mode, most = subject.mode(), (len(subject.facts.parties) - 1) // 2
    if not isinstance(mode, Isolated) or not mode.classes or most < 1 or subject.note.away:
        return []
    _, held = parted(subject.plan, len(subject.cases))
    if len(held) == 0:
        return []
    rows = torch.from_numpy(held)
    activations = {
        party: subject.component(party).predict(fragment[rows]) for party, fragment in subject.cases.fragments.items()
    }
    return [byzantine(subject.facts, mode.outputs(activations), mode.composition, liars=most)]
