"""Blocks hold whole conversations, each once, and are as few as the rule promises."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy_trainer.data.chat import packing
from proxy_trainer.data.chat.packing import pack, pack_in_windows

CAPACITY = 40
lengths_in = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=300).map(np.array)


def held(blocks: list[list[int]], lengths: np.ndarray) -> np.ndarray:
    return np.array([lengths[block].sum() for block in blocks])


@given(lengths_in)
@settings(max_examples=200, deadline=None)
def test_every_conversation_is_in_one_block_and_no_block_overflows(lengths: np.ndarray) -> None:
    for packed in (pack(lengths, CAPACITY), pack_in_windows(lengths, CAPACITY)):
        assert sorted(i for block in packed for i in block) == list(range(len(lengths)))
        assert (held(packed, lengths) <= CAPACITY).all()


@given(lengths_in)
@settings(max_examples=200, deadline=None)
def test_two_blocks_never_fit_into_one(lengths: np.ndarray) -> None:
    sizes = np.sort(held(pack(lengths, CAPACITY), lengths))
    assert len(sizes) < 2 or sizes[0] + sizes[1] > CAPACITY


def fewest(lengths: list[int], capacity: int) -> int:
    """The fewest blocks there can be: for every set of conversations, blocks and room taken."""
    best = {0: (1, 0)}
    for chosen in range(1, 2 ** len(lengths)):
        found = []
        for index, length in enumerate(lengths):
            if chosen >> index & 1:
                blocks, taken = best[chosen ^ 1 << index]
                fits = taken + length <= capacity
                found.append((blocks, taken + length) if fits else (blocks + 1, length))
        best[chosen] = min(found)
    return best[2 ** len(lengths) - 1][0]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=9), st.integers(20, 30))
@settings(max_examples=150, deadline=None)
def test_blocks_are_few(lengths: list[int], capacity: int) -> None:
    used = len(pack(np.array(lengths), capacity))
    assert used <= 11 / 9 * fewest(lengths, capacity) + 6 / 9 + 1e-9


def test_best_fit_takes_the_tightest_block_and_keeps_the_order_of_equals() -> None:
    assert pack(np.array([2, 6, 2, 5, 3]), 8) == [[1, 0], [3, 4], [2]]
    assert pack(np.array([4, 4, 4, 4]), 8) == [[0, 1], [2, 3]]
    assert pack(np.array([8]), 8) == [[0]]


def test_windows_hold_neighbours_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, CAPACITY, 60_000)
    blocks = pack_in_windows(lengths, CAPACITY)
    window = packing.WINDOW_BLOCKS * CAPACITY
    position = np.cumsum(lengths) - lengths
    for block in blocks:
        assert np.ptp(position[block]) < window * 1.01 + CAPACITY
    fill = lengths.sum() / (len(blocks) * CAPACITY)
    whole = lengths.sum() / (len(pack(lengths, CAPACITY)) * CAPACITY)
    assert len(blocks) > 100 * packing.WINDOW_BLOCKS
    assert 0.97 < fill <= whole
