"""The schedule of domains is even, and the same wherever one begins to read it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy_trainer.data import schedule as module
from proxy_trainer.data.schedule import Schedule, deal, schedule
from regmix.mixture import FloatArray


def block_by_block(
    weights: FloatArray, blocks: int, counts: FloatArray | None = None, first: int = 0
) -> np.ndarray:
    """Tijdeman's rule as it reads, from so many blocks on; results of studies rest on its bits."""
    w, k = weights, len(weights)
    counts = np.zeros(k) if counts is None else counts.astype(float)
    if k == 1:
        return np.zeros(blocks, dtype=np.int32)
    slack = 1 / (2 * k - 2)
    order = np.empty(blocks, dtype=np.int32)
    for t in range(first, first + blocks):
        deficit = w * (t + 1) - counts
        with np.errstate(over="ignore"):  # a weight near 0 has its deadline at infinity
            deadline = np.where(deficit >= slack - 1e-9, (1 - slack - deficit) / w, np.inf)
        chosen = int(np.argmin(deadline))
        counts[chosen] += 1
        order[t - first] = chosen
    return order


def reference(weights: FloatArray, blocks: int, seed: int) -> np.ndarray:
    active = np.flatnonzero(weights > 0)
    order = active[block_by_block(weights[active], blocks)]
    return np.roll(order, np.random.default_rng([seed, 1]).integers(blocks))


def numbers(order: np.ndarray, domains: int) -> np.ndarray:
    """For every block, how many earlier ones are of its domain."""
    return (np.cumsum(np.eye(domains, dtype=int)[order], axis=0) - 1)[np.arange(len(order)), order]


@contextmanager
def small_pieces(piece: int = 300, lanes: int = 20, shortest: int = 9, warm: int = 5) -> Iterator:
    """Pieces and lanes so small that few blocks fill many, and guesses so poor that many fail."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("PIECE", piece), ("_LANES", lanes), ("_SHORTEST", shortest), ("_WARM_UP", warm),
        ):  # fmt: skip
            patch.setattr(module, name, value)
        yield


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    raw = np.array(draw(st.lists(st.floats(0, 1), min_size=1, max_size=12)))
    raw **= draw(st.sampled_from([1, 3, 8]))  # some of them tiny
    assume(raw.sum() > 1e-3)
    return raw / raw.sum()


@st.composite
def with_ties(draw: st.DrawFn) -> np.ndarray:
    """Shares in a small ratio, some of them 0: deadlines tie but for rounding, at every period."""
    raw = np.array(draw(st.lists(st.integers(0, 9), min_size=1, max_size=40)), dtype=float)
    assume(raw.sum() > 0)
    return raw / raw.sum()


any_weights = st.one_of(weights(), with_ties())


@given(any_weights, st.integers(1, 1500), st.integers(0, 5), st.booleans())
@settings(max_examples=150, deadline=None)
def test_it_is_what_the_rule_gives_block_by_block(
    w: np.ndarray, blocks: int, seed: int, small: bool
) -> None:
    expected = reference(w, blocks, seed)
    if small:
        with small_pieces():
            found = Schedule(w, blocks, seed).read(0, blocks)
    else:
        found = Schedule(w, blocks, seed).read(0, blocks)
    assert (found[:, 0] == expected).all()
    assert (found[:, 1] == numbers(expected, len(w))).all()


@pytest.mark.parametrize(
    "raw",
    [
        [1, 1],
        [2, 1],
        [6, 3, 1],
        [20, 20, 15, 10, 10, 5, 5, 5, 5, 5],
        [0.9985, 0.001, 0.0005],
        np.random.default_rng(1).gamma(0.1, size=20),
        np.random.default_rng(2).gamma(1, size=64),
    ],
    ids=lambda raw: str(len(raw)),
)
def test_long_runs_are_what_the_rule_gives_block_by_block(raw: FloatArray) -> None:
    w = np.asarray(raw) / np.sum(raw)
    blocks = 40_000
    with small_pieces(2**14, 512, 256, 64):
        assert (schedule(w, blocks, 7) == reference(w, blocks, 7)).all()


@given(any_weights, st.integers(10**8, 10**9))
@settings(max_examples=30, deadline=None)
def test_late_in_a_long_run_it_is_what_the_rule_gives(w: np.ndarray, first: int) -> None:
    """There a product of weight and position is rounded by more than the rule's own tolerance."""
    w = w[w > 0]
    before = np.floor(w * first).astype(np.int64)
    before[np.argsort(before - w * first)[: first - before.sum()]] += 1
    with small_pieces():
        assert (deal(w, before, first, 400) == block_by_block(w, 400, before, first)).all()


@given(any_weights, st.integers(1, 1500), st.integers(0, 5), st.data())
@settings(max_examples=100, deadline=None)
def test_read_anywhere_it_is_the_same(
    w: np.ndarray, blocks: int, seed: int, data: st.DataObject
) -> None:
    with small_pieces():
        whole = Schedule(w, blocks, seed).read(0, blocks)
        other = Schedule(w, blocks, seed)
        for _ in range(3):
            first = data.draw(st.integers(0, blocks - 1))
            count = data.draw(st.integers(0, blocks - first))
            assert (other.read(first, count) == whole[first : first + count]).all()
        counts = Schedule(w, blocks, seed).counts()
    assert counts.tolist() == np.bincount(whole[:, 0], minlength=len(w)).tolist()


def test_blocks_beyond_the_run_are_an_error() -> None:
    made = Schedule(np.array([0.5, 0.5]), 10)
    assert made.read(10, 0).shape == (0, 2)
    for first, count in ((0, 11), (10, 1), (-1, 1)):
        with pytest.raises(IndexError, match="of a run of 10"):
            made.read(first, count)
    assert Schedule(np.array([0.5, 0.5]), 0).counts().tolist() == [0, 0]


def test_memory_does_not_grow_with_the_run() -> None:
    w, peaks = np.array([0.5, 0.3, 0.2]), []
    for pieces in (3, 30):
        with small_pieces(2**12, 64, 256, 64):
            made = Schedule(w, pieces * 2**12, 1)
            tracemalloc.start()
            made.read(0, 64)
            made.counts()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 30 * 1000


@given(weights(), st.integers(1, 600), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_counts_over_a_run_differ_from_the_shares_by_less_than_a_block(
    w: np.ndarray, blocks: int, seed: int
) -> None:
    order = schedule(w, blocks, seed)
    assert order.shape == (blocks,)
    counts = np.bincount(order, minlength=len(w))
    assert (np.abs(counts - w * blocks) < 1).all()
    assert not counts[w == 0].any()


@given(weights(), st.integers(1, 400))
@settings(max_examples=200, deadline=None)
def test_every_prefix_differs_by_less_than_a_block_up_to_the_rotation(
    w: np.ndarray, blocks: int
) -> None:
    order = schedule(w, blocks, 3)
    bound = 1 - 1 / max(2, 2 * np.count_nonzero(w) - 2)
    shares = w * np.arange(1, blocks + 1)[:, None]
    kept = []
    for start in range(blocks):
        counts = np.cumsum(np.eye(len(w))[np.roll(order, -start)], axis=0)
        if (np.abs(counts - shares) <= bound + 1e-6).all():
            kept.append(start)
    assert kept, "no rotation of the schedule is even in every prefix"


@given(weights(), st.integers(1, 400), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_every_stretch_differs_by_less_than_three_blocks(
    w: np.ndarray, blocks: int, seed: int
) -> None:
    """By less than two where it does not cross the place at which the seed begins the sequence."""
    counts = np.cumsum(np.eye(len(w))[schedule(w, blocks, seed)], axis=0)
    assert (np.abs(counts - w * np.arange(1, blocks + 1)[:, None]) < 3).all()


def test_the_seed_rotates_the_schedule_and_nothing_else() -> None:
    w = np.array([0.5, 0.3, 0.15, 0.05])
    first, second = schedule(w, 997, 0), schedule(w, 997, 1)
    assert (first != second).any()
    rotations = {np.roll(first, shift).tobytes() for shift in range(997)}
    assert second.tobytes() in rotations


def test_tiny_weights_get_their_blocks() -> None:
    w = np.array([0.9985, 0.001, 0.0005])
    for blocks in (1000, 2000, 10_000):
        assert np.bincount(schedule(w, blocks), minlength=3).tolist() == pytest.approx(
            w * blocks, abs=1
        )
    assert np.bincount(schedule(w, 4000), minlength=3).tolist() == [3994, 4, 2]


def test_many_equal_weights_are_dealt_in_turn() -> None:
    order = schedule(np.full(64, 1 / 64), 64 * 5)
    assert (np.bincount(order) == 5).all()
