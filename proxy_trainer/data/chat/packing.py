"""Whole conversations into blocks of one size: best fit, the longest first."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from proxy_trainer.data.shards import IntArray

WINDOW_BLOCKS = 256
"""Blocks' worth of tokens that are packed together. More would fill blocks hardly better, and put
conversations of like length beside each other over a whole epoch."""


def pack(lengths: IntArray, capacity: int) -> list[list[int]]:
    """Indices of the conversations in each block; every one in exactly one block, and whole.

    Each goes where the least room is left that it fits into; the longest come first, equal ones
    in the order in which they stand. At most 11/9 of the fewest possible blocks and 6/9 are used
    (Johnson, *Near-optimal bin packing algorithms*, 1973; Dósa, LNCS 4614, 2007), and any two of
    them hold more than one block's capacity.

    Args:
        lengths: tokens of each, from 1 to ``capacity``.
    """
    blocks: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    """Room left and the block's number, in order; full blocks are gone."""
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        at = bisect_left(rooms, (length, -1))
        if at == len(rooms):
            blocks.append([index])
            left = (capacity - length, len(blocks) - 1)
        else:
            room, number = rooms.pop(at)
            blocks[number].append(index)
            left = (room - length, number)
        if left[0]:
            insort(rooms, left)
    return blocks


def pack_in_windows(lengths: IntArray, capacity: int) -> list[list[int]]:
    """As :func:`pack`, a window of :data:`WINDOW_BLOCKS` blocks' worth of tokens at a time."""
    before = np.cumsum(lengths) - lengths
    windows = max(1, round(int(lengths.sum()) / (WINDOW_BLOCKS * capacity)))
    window = before * windows // max(1, int(lengths.sum()))
    blocks = []
    for number in range(windows):
        own = np.flatnonzero(window == number)
        blocks += [own[block].tolist() for block in pack(lengths[own], capacity)]
    return blocks
