"""Secure sums against plain fixed-point sums, against masks computed by hand, and against a carrier that cheats."""

from __future__ import annotations

import hashlib
import hmac
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quiltwork.errors import AlteredFrame, InvalidOption, LostParty
from quiltwork.sharing.secure_sum import Identity, Member, SumGrid, _stream, unmask

IDENTITIES = {name: Identity.fresh() for name in ("ash", "elm", "fir", "oak", "yew")}


def sum_of(*names: str, grid: SumGrid | None = None, allow_two: bool = False) -> dict[str, Member]:
    roster = {name: IDENTITIES[name].public for name in names}
    return {name: Member(name, IDENTITIES[name], roster, grid, allow_two=allow_two) for name in sorted(names)}


def meet(members: dict[str, Member], round_: int) -> None:
    offers = [member.offer(round_) for member in members.values()]
    for member in members.values():
        member.meet(round_, offers)


# The sum


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 5), st.integers(0, 10**6), st.sampled_from([1e-9, 1.0, 6e4]), st.sampled_from([0, 16, 32]))
def test_masked_values_add_up_to_the_plain_fixed_point_sum(n: int, seed: int, scale: float, bits: int) -> None:
    grid = SumGrid(bits)
    members = sum_of(*list(IDENTITIES)[:n], grid=grid)
    draw = np.random.default_rng(seed)
    values = {name: draw.uniform(-scale, scale, size=(4, 3)) for name in members}
    meet(members, 1)
    total = unmask({name: member.mask(1, values[name]) for name, member in members.items()}, list(members))
    plain = [sum(round(float(v.ravel()[i]) * 2**bits) for v in values.values()) for i in range(12)]
    assert [int(v) for v in total.ravel()] == [p % 2**64 for p in plain]
    assert grid.decode(total).ravel().tolist() == [p / 2**bits for p in plain]


def test_the_sum_is_as_close_to_the_real_one_as_stated() -> None:
    members = sum_of("ash", "elm", "yew", grid=SumGrid(8))
    values = {name: np.full(1, 0.5 / 2**8 + i) for i, name in enumerate(members)}
    meet(members, 1)
    total = unmask({name: member.mask(1, values[name]) for name, member in members.items()}, list(members))
    error = abs(SumGrid(8).decode(total)[0] - sum(v[0] for v in values.values()))
    assert 0 < error <= 3 * 2.0**-9


def uniform(words: np.ndarray) -> float:
    """p-value of words of 64 bits being uniform, by their bytes."""
    counts = np.bincount(words.astype("<u8").view(np.uint8).ravel(), minlength=256)
    return float(stats.chisquare(counts).pvalue)


def test_what_is_sent_looks_uniform_and_unmasked_values_do_not() -> None:
    members = sum_of("ash", "elm", "yew")
    values = np.linspace(-3, 3, 5000)
    meet(members, 1)
    masked = {name: member.mask(1, values) for name, member in members.items()}
    assert all(uniform(words) > 1e-6 for words in masked.values())
    assert uniform(masked["ash"] + masked["elm"]) > 1e-6
    assert uniform(SumGrid().encode(values)) < 1e-6
    assert uniform(masked["ash"] + masked["elm"] + masked["yew"]) < 1e-6


def test_each_round_has_masks_of_its_own() -> None:
    members = sum_of("ash", "elm", "yew")
    seen = []
    for round_ in (3, 4):
        meet(members, round_)
        seen.append(members["ash"].mask(round_, np.zeros(100)))
    assert not (seen[0] == seen[1]).any()


def taken_off(masked: np.ndarray, place: int, by: dict[int, Member]) -> np.ndarray:
    """What is left of a party's answer for members in league, who take off every mask that they know."""
    for other, member in by.items():
        assert member._seeds is not None
        stream = _stream(member._seeds[place], b"", masked.size)
        masked = masked - stream if other > place else masked + stream
    return masked


def test_a_coalition_of_all_but_two_gets_their_sum_and_no_more() -> None:
    members = sum_of("ash", "elm", "oak", "yew")
    meet(members, 1)
    league = {2: members["oak"], 3: members["yew"]}
    values = np.linspace(-3, 3, 5000)
    ash, elm = (taken_off(members[name].mask(1, values), i, league) for i, name in enumerate(["ash", "elm"]))
    np.testing.assert_array_equal(ash + elm, SumGrid().encode(values) * np.uint64(2))
    assert min(uniform(ash), uniform(elm)) > 1e-6


def test_a_coalition_of_all_but_one_gets_its_summand_as_stated() -> None:
    members = sum_of("ash", "elm", "oak")
    meet(members, 1)
    league = {1: members["elm"], 2: members["oak"]}
    np.testing.assert_array_equal(taken_off(members["ash"].mask(1, [2.5]), 0, league), SumGrid().encode([2.5]))


# Masks by hand


def rotated(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & 0xFFFFFFFF


def chacha_block(key: bytes, counter: int) -> bytes:
    """RFC 8439, section 2.3, with a nonce of zeros."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter, 0, 0, 0]
    x = start.copy()
    columns = [(i, i + 4, i + 8, i + 12) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for a, b, c, d in (columns + diagonals) * 10:
        for target, other, mixed, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[target] = (x[target] + x[other]) & 0xFFFFFFFF
            x[mixed] = rotated(x[mixed] ^ x[target], by)
    return struct.pack("<16I", *((i + j) & 0xFFFFFFFF for i, j in zip(x, start, strict=True)))


def test_the_block_by_hand_is_that_of_the_standard() -> None:
    # RFC 8439, appendix A.1, test vector 1
    assert chacha_block(bytes(32), 0)[:16].hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_masks_are_those_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[X25519PrivateKey] = []
    generate = X25519PrivateKey.generate

    def kept() -> X25519PrivateKey:
        keys.append(generate())
        return keys[-1]

    monkeypatch.setattr("quiltwork.sharing.secure_sum.X25519PrivateKey.generate", kept)
    members = sum_of("ash", "elm", "yew", grid=SumGrid(10, 8.0))
    meet(members, 7)
    told = b"quiltwork secure sum 1" + struct.pack("<Bd", 10, 8.0)
    told += b"".join(b"\x03\0\0\0" + name.encode() + IDENTITIES[name].public for name in members)
    context = hashlib.sha256(told).digest()
    publics = [key.public_key().public_bytes_raw() for key in keys]

    def mask(low: int, high: int) -> np.ndarray:
        shared = keys[low].exchange(X25519PublicKey.from_public_bytes(publics[high]))
        extracted = hmac.digest(context, shared, "sha256")
        info = b"mask" + (7).to_bytes(8, "little") + publics[low] + publics[high]
        seed = hmac.digest(extracted, info + b"\x01", "sha256")
        return np.frombuffer(chacha_block(hmac.digest(seed, b"rows", "sha256"), 0), dtype="<u8")

    found = members["elm"].mask(7, np.array([1.5] * 8), b"rows")
    expected = np.full(8, 1536, dtype=np.uint64) - mask(0, 1) + mask(1, 2)
    np.testing.assert_array_equal(found, expected)


# A carrier that cheats


def test_a_key_put_in_by_the_carrier_is_refused() -> None:
    members = sum_of("ash", "elm", "yew")
    offers = [member.offer(1) for member in members.values()]
    own = X25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(AlteredFrame, match="the offer of 'elm': its signature does not fit"):
        members["ash"].meet(1, [offers[0], own + offers[1][32:], offers[2]])


def test_a_key_signed_by_a_stranger_is_refused() -> None:
    members = sum_of("ash", "elm", "yew")
    roster = {name: IDENTITIES[name].public for name in members}
    stranger = Identity.fresh()
    fake = Member("elm", stranger, roster | {"elm": stranger.public})
    offers = [members["ash"].offer(1), fake.offer(1), members["yew"].offer(1)]
    with pytest.raises(AlteredFrame, match="'elm'"):
        members["ash"].meet(1, offers)


def test_an_offer_of_an_earlier_round_another_place_or_another_roster_is_refused() -> None:
    members, others = sum_of("ash", "elm", "yew"), sum_of("ash", "elm", "fir", "yew")
    early = members["elm"].offer(1)
    foreign = others["elm"].offer(2)
    offers = [member.offer(2) for member in members.values()]
    for wrong in (early, foreign, offers[2]):
        with pytest.raises(AlteredFrame, match="'elm'"):
            members["ash"].meet(2, [offers[0], wrong, offers[2]])


def test_another_grid_is_another_sum() -> None:
    coarse, fine = sum_of("ash", "elm", "yew", grid=SumGrid(8)), sum_of("ash", "elm", "yew")
    offers = [coarse["ash"].offer(1), fine["elm"].offer(1), fine["yew"].offer(1)]
    with pytest.raises(AlteredFrame, match="'ash'"):
        fine["elm"].meet(1, offers)


@pytest.mark.parametrize("kept", [[0, 1], [1, 0, 2], [0, 1, 2, 2], []])
def test_offers_left_out_or_moved_are_refused(kept: list[int]) -> None:
    members = sum_of("ash", "elm", "yew")
    offers = [member.offer(1) for member in members.values()]
    with pytest.raises(AlteredFrame, match="the offers"):
        members["ash"].meet(1, [offers[i] for i in kept])


def test_a_key_without_a_secret_is_refused() -> None:
    # a low-order point, which elm itself signs, would make the mask a constant that everybody knows
    members = sum_of("ash", "elm", "yew")
    offers = [member.offer(1) for member in members.values()]
    elm = members["elm"]
    point = bytes(32)
    signature = IDENTITIES["elm"].private.sign(b"offer" + elm._context + struct.pack("<QI", 1, 1) + point)
    with pytest.raises(AlteredFrame, match="no secret"):
        members["ash"].meet(1, [offers[0], point + signature, offers[2]])


def test_parties_that_are_asked_differently_do_not_add_up() -> None:
    members = sum_of("ash", "elm", "yew")

    def total(round_: int, questions: list[bytes]) -> np.ndarray:
        meet(members, round_)
        pairs = zip(members.items(), questions, strict=True)
        masked = {name: member.mask(round_, np.zeros(50), question) for (name, member), question in pairs}
        return unmask(masked, list(members))

    assert (total(1, [b"a", b"a", b"a"]) == 0).all()
    assert (total(2, [b"a", b"a", b"b"]) != 0).all()


def test_masks_serve_once_and_rounds_go_up() -> None:
    members = sum_of("ash", "elm", "yew")
    ash = members["ash"]
    with pytest.raises(InvalidOption, match="no masks"):
        ash.mask(1, np.zeros(2))
    meet(members, 5)
    assert ash.ready(5)
    assert not ash.ready(6)
    with pytest.raises(InvalidOption, match="round 6"):
        ash.mask(6, np.zeros(2))
    ash.mask(5, np.zeros(2))
    with pytest.raises(InvalidOption, match="or they are used"):
        ash.mask(5, np.ones(2))
    for late in (5, 4):
        with pytest.raises(InvalidOption, match="round 5 was before"):
            ash.offer(late)
    with pytest.raises(InvalidOption, match="no offer"):
        ash.meet(5, [])


# Refusals


def test_without_everybody_nothing_can_be_said() -> None:
    members = sum_of("ash", "elm", "fir", "yew")
    meet(members, 1)
    masked = {name: members[name].mask(1, np.zeros(200)) for name in ("ash", "elm", "fir")}
    with pytest.raises(LostParty, match=r"no answer of 'yew'.*do not cancel"):
        unmask(masked, list(members))
    assert uniform(masked["ash"] + masked["elm"] + masked["fir"]) > 1e-6


def test_strangers_and_shapes_that_differ_are_refused() -> None:
    zeros = np.zeros(2, dtype=np.uint64)
    with pytest.raises(InvalidOption, match="the answers"):
        unmask({"ash": zeros, "elm": zeros, "fir": zeros}, ["ash", "elm"])
    with pytest.raises(InvalidOption, match="the answers"):
        unmask({"ash": zeros, "elm": zeros[:1]}, ["ash", "elm"])


def test_sums_of_one_or_two_are_refused_and_two_can_be_asked_for() -> None:
    with pytest.raises(InvalidOption, match="a sum of two hides neither"):
        sum_of("ash", "elm")
    with pytest.raises(InvalidOption, match="a sum of one hides nothing"):
        sum_of("ash", allow_two=True)
    two = sum_of("ash", "elm", allow_two=True)
    meet(two, 1)
    total = unmask({"ash": two["ash"].mask(1, [1.5]), "elm": two["elm"].mask(1, [4.0])}, ["ash", "elm"])
    # what is promised to nobody: elm takes its own summand off, and has that of ash
    assert SumGrid().decode(total)[0] - 4.0 == 1.5


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [2.0**16 + 1], [-1e300]])
def test_summands_that_do_not_fit_are_refused_and_the_masks_stay(values: list[float]) -> None:
    members = sum_of("ash", "elm", "yew")
    meet(members, 1)
    with pytest.raises(InvalidOption, match="the summands"):
        members["ash"].mask(1, values)
    assert members["ash"].ready(1)


def test_a_sum_that_could_wrap_round_is_refused_exactly() -> None:
    grid = SumGrid(0, 2.0**61)
    with pytest.raises(InvalidOption, match="a sum of 4"):
        grid.require_room(4)
    grid.require_room(3)
    members = sum_of("ash", "elm", "yew", grid=grid)
    meet(members, 1)
    total = unmask({name: member.mask(1, [-(2.0**61)]) for name, member in members.items()}, list(members))
    assert grid.decode(total)[0] == -3 * 2.0**61


@pytest.mark.parametrize(("bits", "most"), [(-1, 1.0), (53, 1.0), (32, 0.0), (32, np.nan), (52, 2.0**10)])
def test_grids_that_are_none_are_refused(bits: int, most: float) -> None:
    with pytest.raises(InvalidOption, match="a grid"):
        SumGrid(bits, most)


@pytest.mark.parametrize("change", [{"ash": b"short"}, {"ash": IDENTITIES["oak"].public}, {"elm": b"\0" * 31}])
def test_rosters_that_are_none_are_refused(change: dict[str, bytes]) -> None:
    roster = {name: IDENTITIES[name].public for name in ("ash", "elm", "yew")} | change
    with pytest.raises(InvalidOption, match="the roster of 'ash'"):
        Member("ash", IDENTITIES["ash"], roster)
    twice = {"ash": IDENTITIES["ash"].public, "elm": IDENTITIES["elm"].public, "yew": IDENTITIES["elm"].public}
    with pytest.raises(InvalidOption, match="the roster"):
        Member("ash", IDENTITIES["ash"], twice)
    with pytest.raises(InvalidOption, match="the roster"):
        Member("oak", IDENTITIES["oak"], twice)
