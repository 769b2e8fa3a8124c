"""What contributions must agree on before a method over networks sees them.

    agreed_task(cs)       the one task of all, or a refusal that names the party and the first thing that differs
    checked(cs, method)   the contributions, settled, that hold together and hold what the method needs

Composing, opening, joining and leaving all pass here, so that no composite exists which ``compose`` would have refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from quiltwork.composite.network_members import (
    EMBEDDER,
    Member,
    about,
    in_order,
    is_embedder,
    members_of,
    modules_of,
    settled,
    task_of,
)
from quiltwork.composite.network_solution import NetworkMethod
from quiltwork.contribution.networks import TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import DuplicateParty, MissingPart, TaskMismatch


def agreed_task(contributions: Sequence[Contribution]) -> TaskReference:
    """The task of all contributions; of a network that only embeds inputs these alone must agree.

    Raises:
        TaskMismatch: they are of different tasks; says which party differs from the first, and where.
        MissingPart: one is about no task on inputs.
    """
    first, *others = sorted(contributions, key=is_embedder)
    task = task_of(first)
    for other in others:
        same = require_same_inputs if is_embedder(other) else require_same_task
        same(task, task_of(other), first.party, other.party)
    return task


def require_same_task(task: TaskReference, other: TaskReference, one: str, who: str) -> None:
    """Refuse a party whose task differs from ``task``, which is that of party ``one``.

    Raises:
        TaskMismatch: the first difference, in words.
    """
    require_same_inputs(task, other, one, who)
    if (task.classes is None) != (other.classes is None):
        kinds = {True: "numbers", False: "classes"}
        why = f"it gives {kinds[other.classes is None]}, and party '{one}' {kinds[task.classes is None]}"
        raise _differs(who, why, "Compose networks of classes and networks of numbers apart.")
    if task.classes is not None and other.classes is not None:
        _require_same_classes(task.classes, other.classes, one, who)
    if task.outputs != other.outputs:
        why = f"it gives {other.outputs} numbers, and party '{one}' {task.outputs}"
        raise _differs(who, why, f"Ask for a network of {task.outputs} outputs.")


def require_same_inputs(task: TaskReference, other: TaskReference, one: str, who: str) -> None:
    """Refuse a party whose inputs have another shape or other units than those of party ``one``.

    Raises:
        TaskMismatch: the first difference, in words.
    """
    if task.shape != other.shape:
        why = f"its inputs have shape {list(other.shape)}, and those of party '{one}' {list(task.shape)}"
        raise _differs(who, why, f"Ask for a network whose inputs have shape {list(task.shape)}; it may resize inside.")
    if task.units != other.units:
        why = f"its inputs are in '{other.units}', and those of party '{one}' in '{task.units}'"
        mend = f"Ask for a network that takes inputs in '{task.units}'; how it normalises them is its own affair."
        raise _differs(who, why, mend)


def _require_same_classes(classes: Sequence[str], its: Sequence[str], one: str, who: str) -> None:
    for name in classes:
        if name not in its:
            mend = "Ask for a network with an output for every class of all parties, its own and those it has not seen."
            raise _differs(who, f"it has no class '{name}', which party '{one}' has", mend)
    for name in its:
        if name not in classes:
            mend = "Ask for networks with an output for every class of all parties."
            raise _differs(who, f"it has a class '{name}', which party '{one}' has not", mend)
    for number, (name, other) in enumerate(zip(classes, its, strict=True), start=1):
        if name != other:
            why = f"its classes are in another order: number {number} is '{other}', and '{name}' at party '{one}'"
            raise _differs(who, why, "Ask for a network with the classes in one order for all.")


def checked(contributions: Sequence[Contribution], method: NetworkMethod) -> tuple[Contribution, ...]:
    """The contributions in order, without those that are about modules or rest on contributions not given.

    Those are set aside and not refused, since whoever leaves must be able to leave; the composite does not hold them.

    Raises:
        TaskMismatch: they are of different tasks, or one is about other weights than those given.
        DuplicateParty: a party hands over the same thing twice.
        MissingPart: one is of another ground, or does not hold what the method needs.
    """
    ordered = in_order(contributions)
    agreed_task(ordered)
    _require_these_weights(ordered)
    kept = settled(ordered)
    members = members_of(kept)
    for member in members:
        _require_one_each(member)
        _require_parts(member, method)
    if not any(method.needs() & member.parts for member in members):
        aside = len(ordered) - len(kept)
        raise MissingPart(
            "the contributions",
            why=f"method {method.name} needs {_list(method.needs())}, and no party holds that"
            + (f", since {aside} of them stand on modules or contributions that are not given" if aside else ""),
            mend="Give the contributions of the parties that take part.",
        )
    return kept


def _require_these_weights(contributions: Sequence[Contribution]) -> None:
    """Whoever speaks of a party's network speaks of one that is given, or of a party that is not here at all."""
    given: dict[str, list[str]] = {}
    for party, digest in sorted(modules_of(contributions)):
        given.setdefault(party, []).append(digest)
    for contribution in contributions:
        for reference in about(contribution):
            found = given.get(reference.party, [reference.digest])
            if reference.digest not in found:
                raise TaskMismatch(
                    f"the contribution of party '{contribution.party}' of kind '{contribution.kind}'",
                    why=f"it is about weights {reference.digest[:19]}… of party '{reference.party}', and the module "
                    f"given is {found[0][:19]}…",
                    mend="Ask for one about the module that is given, or give the module that it is about.",
                )


def _require_one_each(member: Member) -> None:
    """Of one party, no two contributions say the same: a part of its own twice, or a part about the same modules."""
    seen: dict[object, str] = {}
    for contribution, part in ((c, part) for c in member.contributions for part in sorted(c.parts)):
        # whoever tells twice how outputs fit its rows would count them twice, whichever networks it speaks of
        subject = () if part == "outputs" else about(contribution)
        before = seen.setdefault((part, frozenset(subject)), contribution.digest)
        if before != contribution.digest:
            raise DuplicateParty(
                f"party '{member.party}'",
                why=f"two of its contributions hold '{part}' of the same ({before[:19]}… and "
                f"{contribution.digest[:19]}…)",
                mend="Compose with one of the two.",
            )


def _require_parts(member: Member, method: NetworkMethod) -> None:
    """A party holds all that the method needs, or nothing of it but something that the method uses."""
    needs, holds = method.needs(), member.parts
    if not needs & holds and (method.uses() | {EMBEDDER}) & holds:
        return
    for part in sorted(needs - holds):
        raise MissingPart(
            f"party '{member.party}'",
            why=f"method {method.name} needs the part '{part}', and it handed over {_list(holds)}",
            mend="Choose another method, leave the party out, or ask it to contribute that part.",
        )


def _differs(who: str, why: str, mend: str) -> TaskMismatch:
    return TaskMismatch(f"party '{who}'", why=why, mend=mend)


def _list(parts: frozenset[str]) -> str:
    return ", ".join(f"'{part}'" for part in sorted(parts))
