"""Custody: any t of n open it bit for bit; what is missing, false or mixed is refused by name."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from quiltwork.errors import CustodyError, ForgedShare, InvalidOption, MixedCustodies, StorageError, TooFewShares
from quiltwork.sharing import shamir
from quiltwork.sharing.custody import combine, refresh, split
from quiltwork.sharing.statement import MOST_BYTES, Share, Statement, decode, digest, encode

FIVE = ["ash", "elm", "fir", "oak", "yew"]


@pytest.fixture
def head(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    save_file(torch.nn.Linear(12, 3).state_dict(), tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


@pytest.fixture
def custody(head: Path, tmp_path: Path) -> Path:
    split(head, tmp_path / "custody", custodians=FIVE, threshold=3)
    return tmp_path / "custody"


def shares(custody: Path, *names: str) -> list[Path]:
    return [custody / "shares" / f"{name}.json" for name in names]


def rewrite(path: Path, **changes: Any) -> None:
    """Change fields of a record, and spell it as its dealer would."""
    kind: type[Share] | type[Statement] = Share if path.parent.name == "shares" else Statement
    fields = json.loads(path.read_bytes()) | changes
    path.write_bytes(encode(kind.model_validate_json(json.dumps(fields))))


def test_every_three_of_five_open_it_bit_for_bit(custody: Path, head: Path) -> None:
    for chosen in itertools.combinations(FIVE, 3):
        assert combine(custody, shares(custody, *chosen)) == head.read_bytes()
    assert combine(custody, shares(custody, *reversed(FIVE))) == head.read_bytes()
    assert load(combine(custody, shares(custody, "yew", "ash", "fir")))["weight"].shape == (3, 12)


@pytest.mark.parametrize("chosen", [["ash"], ["ash", "yew"]])
def test_fewer_than_the_threshold_are_refused(custody: Path, chosen: list[str]) -> None:
    with pytest.raises(TooFewShares, match=f"3 are needed.*Bring {3 - len(chosen)} more"):
        combine(custody, shares(custody, *chosen))


def test_no_shares_are_refused(custody: Path) -> None:
    with pytest.raises(TooFewShares, match="0 shares"):
        combine(custody, [])


def test_two_key_shares_put_together_are_not_the_key(custody: Path) -> None:
    keys = {x: bytes.fromhex(json.loads(path.read_bytes())["key"]) for x, path in enumerate(shares(custody, *FIVE), 1)}
    key = shamir.combine(keys, threshold=3)
    assert shamir.combine({x: keys[x] for x in (1, 2)}, threshold=2) != key
    assert key not in keys.values()


def test_what_is_public_holds_neither_parameters_nor_key_shares(custody: Path, head: Path) -> None:
    public = (custody / "statement.json").read_bytes() + (custody / "sealed.bin").read_bytes()
    secret = [json.loads(path.read_bytes())["key"] for path in shares(custody, *FIVE)]
    assert not any(key.encode() in public or bytes.fromhex(key) in public for key in secret)
    content = head.read_bytes()
    assert not any(content[i : i + 8] in public for i in range(0, len(content) - 8, 8))


def test_a_record_of_a_share_does_not_print_its_key(custody: Path) -> None:
    path = shares(custody, "elm")[0]
    share = decode(Share, path.read_bytes(), "elm")
    assert share.key not in repr(share)
    assert "elm" in repr(share)


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_its_user_may_read_what_was_dealt(head: Path, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        split(head, tmp_path / "private", custodians=FIVE, threshold=2)
    finally:
        os.umask(before)
    for path in [tmp_path / "private", *(tmp_path / "private").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# False shares


def test_a_forged_share_is_named(custody: Path) -> None:
    rewrite(shares(custody, "fir")[0], key="00" * 32)
    with pytest.raises(ForgedShare, match="the share of 'fir': the dealer's statement commits to another"):
        combine(custody, shares(custody, "ash", "elm", "fir"))
    with pytest.raises(ForgedShare, match="'fir'"):
        combine(custody, shares(custody, *FIVE))


def test_all_forged_shares_are_named_and_before_their_number_is_counted(custody: Path) -> None:
    for name in ("fir", "oak"):
        rewrite(shares(custody, name)[0], key="11" * 32)
    with pytest.raises(ForgedShare, match="'fir', 'oak'"):
        combine(custody, shares(custody, "oak", "fir"))


def test_one_changed_bit_of_a_key_is_found(custody: Path) -> None:
    path = shares(custody, "ash")[0]
    key = bytearray.fromhex(json.loads(path.read_bytes())["key"])
    for bit in (0, 100, 255):
        changed = key.copy()
        changed[bit // 8] ^= 1 << bit % 8
        rewrite(path, key=changed.hex())
        with pytest.raises(ForgedShare, match="'ash'"):
            combine(custody, shares(custody, "ash", "elm", "fir"))


def test_without_its_commitment_a_forged_share_would_only_show_as_a_broken_seal(custody: Path) -> None:
    # the control: when statement and shares are forged alike, the cipher still refuses, and can name nobody
    path = custody / "statement.json"
    digests = json.loads(path.read_bytes())["shares"]
    rewrite(shares(custody, "ash")[0], key="22" * 32)
    rewrite(path, shares=[f"sha256:{hashlib.sha256(bytes.fromhex('22' * 32)).hexdigest()}", *digests[1:]])
    for name in FIVE:
        rewrite(shares(custody, name)[0], statement=digest(path.read_bytes()))
    with pytest.raises(ForgedShare, match="dealt falsely"):
        combine(custody, shares(custody, "ash", "elm", "fir"))
    assert combine(custody, shares(custody, "elm", "fir", "oak"))


def test_a_share_under_another_s_name_is_found(custody: Path) -> None:
    rewrite(shares(custody, "ash")[0], custodian="yew")
    with pytest.raises(ForgedShare, match="'yew'"):
        combine(custody, shares(custody, "ash", "elm", "fir"))
    rewrite(shares(custody, "elm")[0], custodian="nobody")
    with pytest.raises(ForgedShare, match="'nobody'"):
        combine(custody, shares(custody, "elm"))


def test_a_changed_statement_is_found_by_the_shares(custody: Path) -> None:
    rewrite(custody / "statement.json", threshold=2)
    with pytest.raises(ForgedShare, match="'ash', or the statement: the share names another statement"):
        combine(custody, shares(custody, "ash", "elm"))


def test_a_changed_sealed_file_is_found(custody: Path) -> None:
    sealed = bytearray((custody / "sealed.bin").read_bytes())
    for changed in (bytes([sealed[0] ^ 1]) + sealed[1:], sealed + b"\0", sealed[:-1]):
        (custody / "sealed.bin").write_bytes(changed)
        with pytest.raises(ForgedShare, match=r"sealed\.bin.*not the file that the statement names"):
            combine(custody, shares(custody, "ash", "elm", "fir"))


def test_shares_of_another_custody_are_not_mixed(custody: Path, head: Path, tmp_path: Path) -> None:
    split(head, tmp_path / "other", custodians=FIVE, threshold=3)
    with pytest.raises(MixedCustodies, match="the share of 'fir'"):
        combine(custody, [*shares(custody, "ash", "elm"), *shares(tmp_path / "other", "fir")])


def test_a_share_given_twice_counts_as_a_mistake(custody: Path) -> None:
    with pytest.raises(InvalidOption, match="'ash': it is given twice"):
        combine(custody, shares(custody, "ash", "ash", "elm"))


# Files that are none


def doubled(data: bytes) -> bytes:
    return data.replace(b'"version": 1', b'"version": 1,\n  "version": 1')


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:-10],
        lambda data: b"\xff\xfe" + data,
        lambda data: data.rstrip(b"\n"),
        lambda data: data.replace(b"  ", b"\t"),
        doubled,
        lambda data: data.replace(b'"version": 1', b'"version": 2'),
        lambda data: data.replace(b'"version": 1', b'"version": true'),
        lambda data: data.replace(b'"epoch": 1', b'"epoch": 0'),
        lambda data: data.replace(b'"epoch": 1', b'"epoch": "1"'),
        lambda data: data.replace(b'"custodian": "ash"', b'"custodian": "../ash"'),
        lambda data: data.replace(b'"version": 1', b'"code": "import os",\n  "version": 1'),
        lambda data: b"[" * 60_000,
        lambda data: data + b" " * MOST_BYTES,
    ],
    ids=range(14),
)
def test_a_share_that_is_not_as_it_was_written_is_refused(custody: Path, change: Callable[[bytes], bytes]) -> None:
    path = shares(custody, "ash")[0]
    before = path.read_bytes()
    assert change(before) != before
    path.write_bytes(change(before))
    with pytest.raises(ForgedShare, match=r"ash\.json"):
        combine(custody, shares(custody, "ash", "elm", "fir"))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_bring_the_reader_out_of_step(data: bytes) -> None:
    for kind in (Share, Statement):
        with pytest.raises(ForgedShare, match="stranger"):
            decode(kind, data, "stranger")


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 1},
        {"threshold": 6},
        {"custodians": ["ash", "ash", "fir", "oak", "yew"]},
        {"custodians": FIVE[:4]},
        {"bytes": 3},
        {"cipher": "none"},
    ],
)
def test_a_statement_that_contradicts_itself_is_refused(custody: Path, changes: dict[str, Any]) -> None:
    path = custody / "statement.json"
    fields = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps(fields, sort_keys=True, indent=2) + "\n")
    with pytest.raises(ForgedShare, match="it is no statement"):
        combine(custody, shares(custody, *FIVE))


def test_what_is_no_file_is_refused_without_waiting(custody: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(ForgedShare, match=path.name):
            combine(custody, [path])


def test_a_refusal_does_not_print_what_was_in_the_file(custody: Path) -> None:
    path = shares(custody, "ash")[0]
    key = json.loads(path.read_bytes())["key"]
    path.write_text(path.read_text().replace(key, key + "ff"))
    with pytest.raises(ForgedShare) as caught:
        combine(custody, [path])
    assert key not in str(caught.value)


# Splitting


@pytest.mark.parametrize(
    ("custodians", "threshold", "what"),
    [
        (["ash", "elm"], 3, "3 of 2"),
        (["ash", "elm"], 1, "1 of 2"),
        (["ash", "ash"], 2, "custodians 'ash', 'ash'"),
        (["ash", "../elm"], 2, "custodians"),
        (["ash", "Elm"], 2, "custodians"),
        (["ash", "elm\n"], 2, "custodians"),
        (["ash", ""], 2, "custodians"),
        ([f"c{i}" for i in range(256)], 2, "2 of 256"),
    ],
)
def test_splits_that_are_none_are_refused_and_leave_nothing(
    head: Path, tmp_path: Path, custodians: list[str], threshold: int, what: str
) -> None:
    with pytest.raises(InvalidOption, match=what):
        split(head, tmp_path / "out", custodians=custodians, threshold=threshold)
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def test_the_largest_scheme_fits_its_files(head: Path, tmp_path: Path) -> None:
    names = [f"{i:03d}" + "x" * 61 for i in range(255)]
    split(head, tmp_path / "out", custodians=names, threshold=255)
    assert combine(tmp_path / "out", shares(tmp_path / "out", *names)) == head.read_bytes()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"gone.*no such file"):
        split(tmp_path / "gone", tmp_path / "out", custodians=FIVE, threshold=2)


def test_nothing_is_overwritten(custody: Path, head: Path) -> None:
    with pytest.raises(StorageError, match="already there"):
        split(head, custody, custodians=FIVE, threshold=2)


# Refreshing


def test_refreshed_shares_open_it_and_old_ones_do_not_open_the_new(custody: Path, head: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    before = decode(Statement, (custody / "statement.json").read_bytes(), "old")
    after = refresh(custody, shares(custody, "ash", "elm", "fir"), new)
    assert (after.custody, after.epoch, after.threshold) == (before.custody, 2, 3)
    assert combine(new, shares(new, "yew", "oak", "ash")) == head.read_bytes()
    with pytest.raises(MixedCustodies, match="epoch 1"):
        combine(new, [*shares(new, "ash", "elm"), *shares(custody, "fir")])
    assert before.sealed != after.sealed


def test_key_shares_of_two_epochs_do_not_give_either_key(custody: Path, tmp_path: Path) -> None:
    refresh(custody, shares(custody, "ash", "elm", "fir"), tmp_path / "new")

    def keys(folder: Path) -> dict[int, bytes]:
        return {
            x: bytes.fromhex(json.loads(path.read_bytes())["key"])
            for x, path in enumerate(shares(folder, *FIVE), start=1)
        }

    old, new = keys(custody), keys(tmp_path / "new")
    whole = {shamir.combine(old, threshold=3), shamir.combine(new, threshold=3)}
    assert len(whole) == 2
    assert shamir.combine({1: old[1], 2: old[2], 3: new[3]}, threshold=3) not in whole


def test_a_refresh_may_change_custodians_and_threshold(custody: Path, head: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    refresh(custody, shares(custody, "ash", "elm", "fir"), new, custodians=["ash", "elm", "box"], threshold=2)
    assert combine(new, shares(new, "box", "elm")) == head.read_bytes()


def test_a_refresh_takes_t_shares(custody: Path, tmp_path: Path) -> None:
    with pytest.raises(TooFewShares):
        refresh(custody, shares(custody, "ash", "elm"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert issubclass(TooFewShares, CustodyError)
