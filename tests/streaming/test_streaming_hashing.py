"""Bytes hashed in threads are those handed over, in their order, whatever the number of threads and digests."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from quiltwork.streaming.hashing import Hashing


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("several", [1, 2, 7])
def test_interleaved_pieces_give_the_digests_of_their_own_bytes(threads: int, several: int) -> None:
    rng = np.random.default_rng(several)
    texts: list[list[bytes]] = [[rng.bytes(int(n)) for n in rng.integers(0, 5000, 40)] for _ in range(several)]
    digests = [hashlib.sha256() for _ in texts]
    with Hashing(threads) as hashing:
        for pieces in zip(*texts, strict=True):
            for digest, piece in zip(digests, pieces, strict=True):
                hashing.update(digest, piece)
        early = hashing.finish(digests[0])
        hashing.update(digests[-1], b"more")
    expected = [hashlib.sha256(b"".join(pieces)).hexdigest() for pieces in texts]
    assert several == 1 or early == "sha256:" + expected[0]
    assert [digest.hexdigest() for digest in digests[:-1]] == expected[:-1]
    assert digests[-1].hexdigest() == hashlib.sha256(b"".join(texts[-1]) + b"more").hexdigest()


def test_a_digest_of_nothing_and_one_that_is_over() -> None:
    with Hashing(2) as hashing:
        nothing = hashlib.sha256()
        assert hashing.finish(nothing) == "sha256:" + hashlib.sha256().hexdigest()
        one = hashlib.sha256()
        hashing.update(one, b"ab")
        assert hashing.finish(one) == hashing.finish(one) == "sha256:" + hashlib.sha256(b"ab").hexdigest()
