"""One thread for all who fit, until the last has done."""

from __future__ import annotations

from threadpoolctl import threadpool_info, threadpool_limits

from quiltwork.party.one_thread import one_thread


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info()}


def test_the_first_sets_the_limit_and_the_last_lifts_it() -> None:
    with threadpool_limits(limits=2):
        before = threads()
        assert before == {2}
        first, second = one_thread(), one_thread()
        first.__enter__()
        second.__enter__()
        assert threads() == {1}
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == before


def test_limits_that_each_lift_on_their_own_set_others_loose() -> None:
    """The negative control: what the counting is for."""
    with threadpool_limits(limits=2):
        first = threadpool_limits(limits=1)
        second = threadpool_limits(limits=1)
        first.restore_original_limits()
        assert threads() == {2}
        second.restore_original_limits()
