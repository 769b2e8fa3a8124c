"""Secure sums and threshold inference over a channel: exact, billed to the byte, clear about who is missing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from quiltwork.errors import AlteredFrame, ForgedShare, InvalidOption, LostParty
from quiltwork.session.channel import LocalChannel, RefusedRequest, Terms
from quiltwork.session.frames import Kind, Message, Refusal, Spec
from quiltwork.session.secure_sum import SummandNode, secure_sum, sum_bytes, summand_terms
from quiltwork.session.threshold_head import CustodianNode, custodian_terms, threshold_logits
from quiltwork.sharing.secure_sum import Identity, Member, SumGrid
from quiltwork.sharing.threshold_head import deal_head

NAMES = ("ash", "elm", "fir", "yew")
ROWS, WIDTH = 9, 3
FLOATS = Spec("float32", (None, WIDTH))
INNER = Terms(
    down={Kind.ROWS: Spec("int64", (None,)), Kind.OUTPUT: Spec("int64", (None,)), Kind.COTANGENT: FLOATS},
    up={Kind.ACTIVATION: FLOATS, Kind.OUTPUT: FLOATS, Kind.DONE: Spec()},
)


class Linear:
    """A party's node: a linear map of its columns, and plain gradient descent on cotangents."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.rows, self.layer = torch.randn(ROWS, 4), nn.Linear(4, WIDTH, bias=False)
        self.gone = False

    def handle(self, message: Message) -> Message:
        if self.gone:
            raise RefusedRequest(Refusal.FAILED)
        assert message.array is not None
        if message.kind is Kind.COTANGENT:
            self.said.backward(torch.from_numpy(message.array))
            with torch.no_grad():
                self.layer.weight -= 0.1 * self.layer.weight.grad
            self.layer.weight.grad = None
            return Message(Kind.DONE, message.round)
        self.said = self.layer(self.rows[torch.from_numpy(message.array)])
        kind = Kind.ACTIVATION if message.kind is Kind.ROWS else Kind.OUTPUT
        return Message(kind, message.round, self.said.detach().numpy())


def parties() -> dict[str, Linear]:
    return {name: Linear(i) for i, name in enumerate(NAMES)}


def members(grid: SumGrid | None = None) -> dict[str, Member]:
    identities = {name: Identity.fresh() for name in NAMES}
    roster = {name: identity.public for name, identity in identities.items()}
    return {name: Member(name, identity, roster, grid) for name, identity in identities.items()}


def channel_to(inner: dict[str, Linear], summing: dict[str, Member] | None = None) -> LocalChannel:
    summing = summing or members()
    nodes = {name: SummandNode(inner[name], summing[name]) for name in inner}
    return LocalChannel(nodes, {name: summand_terms(INNER, len(NAMES)) for name in inner})


def ask(round_: int, kind: Kind = Kind.ROWS) -> Message:
    return Message(kind, round_, np.array([0, 3, 5, 8]))


def fixed(values: list[np.ndarray], bits: int = 32) -> np.ndarray:
    """The plain fixed-point sum, in Python's integers."""
    whole = [[round(float(v) * 2**bits) for v in array.ravel()] for array in values]
    return np.array([sum(column) / 2**bits for column in zip(*whole, strict=True)]).reshape(values[0].shape)


@pytest.mark.parametrize("kind", [Kind.ROWS, Kind.OUTPUT])
def test_the_sum_is_the_plain_fixed_point_sum(kind: Kind) -> None:
    inner = parties()
    found = secure_sum(channel_to(inner), ask(1, kind))
    plain = [node.layer(node.rows[[0, 3, 5, 8]]).detach().numpy() for node in inner.values()]
    np.testing.assert_array_equal(found, fixed(plain))
    np.testing.assert_allclose(found, sum(p.astype(float) for p in plain), atol=4 * 2.0**-33)


def test_training_on_the_sum_is_training_on_the_plain_sum() -> None:
    masked, plain = parties(), parties()
    channel = channel_to(masked)
    target = torch.zeros(4, WIDTH)
    for round_ in range(3):
        total = torch.tensor(secure_sum(channel, ask(round_)), dtype=torch.float32)
        for name in NAMES:
            channel.call(name, Message(Kind.COTANGENT, round_, (total - target).numpy()))
        heard = [torch.from_numpy(node.handle(ask(round_)).array) for node in plain.values()]
        for node in plain.values():
            node.handle(Message(Kind.COTANGENT, round_, (sum(heard) - target).numpy()))
    for name in NAMES:
        torch.testing.assert_close(masked[name].layer.weight, plain[name].layer.weight, atol=1e-6, rtol=0)
    assert not torch.equal(masked["ash"].layer.weight, Linear(0).layer.weight)


def test_bytes_are_those_of_the_formula_and_no_plain_answer_crosses() -> None:
    channel = channel_to(parties())
    for round_ in (1, 2):
        secure_sum(channel, ask(round_))
    for name in NAMES:
        assert (channel.log.bytes(name, "down"), channel.log.bytes(name, "up")) == tuple(
            2 * size for size in sum_bytes(len(NAMES), 4, WIDTH)
        )
    assert {kind for _, way, kind in channel.log.frames if way == "up"} == {Kind.KEY, Kind.DONE, Kind.MASKED}


def test_a_question_without_a_meeting_is_refused_before_the_party_computes() -> None:
    inner = parties()
    channel = channel_to(inner)
    with pytest.raises(LostParty, match="refused round 1: unexpected"):
        channel.call("ash", ask(1))
    assert not hasattr(inner["ash"], "said")
    secure_sum(channel, ask(2))
    with pytest.raises(LostParty, match="unexpected"):
        channel.call("ash", ask(2))


def test_without_the_masking_node_the_terms_refuse_a_plain_answer() -> None:
    channel = LocalChannel({"ash": Linear(0)}, {"ash": summand_terms(INNER, 4)})
    with pytest.raises(AlteredFrame, match="does not carry that kind"):
        channel.call("ash", ask(1))


class Telling(Linear):
    """A node that answers under a kind that is not summed."""

    def handle(self, message: Message) -> Message:
        return Message(Kind.LOSS, message.round, np.zeros(1))


def test_an_answer_of_another_kind_does_not_leave() -> None:
    inner = parties() | {"elm": Telling(1)}
    with pytest.raises(LostParty, match=r"elm.*unexpected"):
        secure_sum(channel_to(inner), ask(1))


def test_a_lost_party_ends_the_round_and_a_later_round_works_again() -> None:
    inner = parties()
    channel = channel_to(inner)
    inner["fir"].gone = True
    with pytest.raises(LostParty, match=r"party 'fir'.*refused round 1: failed"):
        secure_sum(channel, ask(1))
    inner["fir"].gone = False
    plain = [node.layer(node.rows[[0, 3, 5, 8]]).detach().numpy() for node in inner.values()]
    np.testing.assert_array_equal(secure_sum(channel, ask(2)), fixed(plain))


def test_rounds_only_go_up() -> None:
    channel = channel_to(parties())
    secure_sum(channel, ask(4))
    with pytest.raises(LostParty, match="refused round 4: unexpected"):
        secure_sum(channel, ask(4))


@pytest.mark.parametrize(("value", "why"), [(np.nan, "not finite"), (1e9, "misfit")])
def test_answers_that_do_not_fit_are_refused_by_code(value: float, why: str) -> None:
    inner = parties()
    inner["yew"].rows.fill_(value)
    with pytest.raises(LostParty, match=f"yew.*{why}"):
        secure_sum(channel_to(inner), ask(1))


class Swapping(LocalChannel):
    """A carrier that puts one party's key in the place of another's."""

    def push(self, node: str, message: Message) -> None:
        if message.kind is Kind.KEY and message.array is not None and len(message.array):
            message = Message(Kind.KEY, message.round, message.array[[0, 0, 2, 3]])
        super().push(node, message)


def test_a_carrier_that_swaps_keys_is_refused() -> None:
    summing = members()
    nodes = {name: SummandNode(Linear(0), summing[name]) for name in NAMES}
    channel = Swapping(nodes, {name: summand_terms(INNER, 4) for name in NAMES})
    with pytest.raises(LostParty, match="refused round 1: misfit"):
        secure_sum(channel, ask(1))


class Twisting(LocalChannel):
    """A carrier that asks one party something else."""

    instead: Message

    def push(self, node: str, message: Message) -> None:
        super().push(node, self.instead if node == "elm" and message.kind is Kind.ROWS else message)


@pytest.mark.parametrize("instead", [ask(1), ask(1, Kind.OUTPUT), Message(Kind.ROWS, 1, np.array([0, 3, 5, 7]))])
def test_who_asks_one_party_something_else_gets_noise(instead: Message) -> None:
    summing, inner = members(), parties()
    nodes = {name: SummandNode(inner[name], summing[name]) for name in NAMES}
    channel = Twisting(nodes, {name: summand_terms(INNER, 4) for name in NAMES})
    channel.instead = instead
    same = instead.kind is Kind.ROWS and instead.array is not None and instead.array[3] == 8
    # answers are below 10 in size; masks that do not cancel leave numbers of up to 2^31
    assert (np.abs(secure_sum(channel, ask(1))).max() < 100) == same


def test_terms_without_float32_answers_are_refused() -> None:
    int8 = Terms(down=INNER.down, up={Kind.ACTIVATION: Spec("int8", (None, 4))})
    for terms in (int8, Terms(down={}, up={})):
        with pytest.raises(InvalidOption, match="the terms of a summand"):
            summand_terms(terms, 3)


# Threshold inference


def custodians(most_rows: int | None = None) -> tuple[LocalChannel, dict[str, CustodianNode]]:
    draw = np.random.default_rng(1)
    shares = deal_head(draw.normal(size=(2, 5)), draw.normal(size=2), threshold=2, holders=4)
    nodes = {name: CustodianNode(share, most_rows) for name, share in zip(NAMES, shares, strict=True)}
    return LocalChannel(nodes, {name: custodian_terms(5, 2) for name in NAMES}), nodes


HOLDERS = {name: x for x, name in enumerate(NAMES, start=1)}
INPUTS = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)


def logits_of(channel: LocalChannel, *names: str, checks: int = 0) -> np.ndarray:
    chosen = {name: HOLDERS[name] for name in names or NAMES}
    grid = deal_head([[0.0]], [0.0], threshold=2, holders=2)[0].grid
    return threshold_logits(channel, INPUTS, holders=chosen, threshold=2, grid=grid, checks=checks)


def test_any_two_custodians_that_are_up_give_the_logits() -> None:
    draw = np.random.default_rng(1)
    weight, bias = draw.normal(size=(2, 5)), draw.normal(size=2)
    channel, _ = custodians()
    found = [logits_of(channel, *pair) for pair in itertools.combinations(NAMES, 2)]
    assert all(np.array_equal(found[0], other) for other in found)
    np.testing.assert_allclose(found[0], INPUTS @ weight.T + bias, atol=1e-4)
    assert {kind for _, way, kind in channel.log.frames if way == "up"} == {Kind.SHARE}


def test_a_custodian_that_is_down_is_passed_over_until_too_few_are_left() -> None:
    channel, nodes = custodians()
    whole = logits_of(channel)
    nodes["ash"]._left = 0
    np.testing.assert_array_equal(logits_of(channel), whole)
    nodes["elm"]._left = nodes["fir"]._left = 0
    with pytest.raises(LostParty, match=r"1 of 4 custodians: 2 answers are needed.*'fir'"):
        logits_of(channel)


def test_a_false_custodian_is_found_by_one_check_and_named_by_two() -> None:
    channel, nodes = custodians()
    nodes["elm"]._share.bias[0] += np.uint64(1)
    with pytest.raises(ForgedShare, match="cannot be told"):
        logits_of(channel, checks=1)
    with pytest.raises(ForgedShare, match="holder 2"):
        logits_of(channel, checks=2)


def test_a_custodian_stops_at_the_rows_that_its_owner_set() -> None:
    channel, nodes = custodians(most_rows=13)
    logits_of(channel, "ash", "elm")
    logits_of(channel, "ash", "elm")
    with pytest.raises(LostParty, match="left"):
        channel.call("ash", Message(Kind.ACTIVATION, 0, INPUTS))
    assert channel.call("ash", Message(Kind.ACTIVATION, 0, INPUTS[:1])).array is not None
    assert nodes["ash"]._left == 0


@pytest.mark.parametrize(("value", "why"), [(np.nan, "not finite"), (1e5, "misfit")])
def test_inputs_that_do_not_fit_are_refused_by_code(value: float, why: str) -> None:
    channel, _ = custodians()
    with pytest.raises(LostParty, match=why):
        channel.call("ash", Message(Kind.ACTIVATION, 0, np.full((1, 5), value, dtype=np.float32)))
