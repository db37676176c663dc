"""Seeded samples of a task: the same items whatever the order of its rows.

An item's place in its group's order is the hash of its text and the seed, so that a smaller sample
is a part of every larger one; all groups give alike as far as they have as many.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from regmix.errors import UserError


def drawn(
    task: str, items: Sequence[Sequence[object]], groups: Sequence[str], limit: int, seed: int
) -> list[int]:
    """At most so many items, by their places, in the order in which they are given.

    Args:
        task: its name, for messages.
        items: the group of each, then what else it holds; plain values.
        groups: all of them, in the task's order.

    Raises:
        UserError: fewer than two for every group, which leaves a mean without an error.
    """
    if limit >= len(items):
        return list(range(len(items)))
    if limit < 2 * len(groups):
        raise UserError(
            f"task '{task}': a sample of {limit}; two of each of its {len(groups)} subjects or "
            f"sources, {2 * len(groups)}, are the least"
        )
    by_group: dict[str, list[tuple[str, int]]] = {name: [] for name in groups}
    for index, item in enumerate(items):
        text = json.dumps([seed, *item])
        by_group[str(item[0])].append((hashlib.sha256(text.encode()).hexdigest(), index))
    rounds = [
        (place, name, index)
        for name, own in by_group.items()
        for place, (_, index) in enumerate(sorted(own))
    ]
    return sorted(index for _, _, index in sorted(rounds)[:limit])


def named(task: str, limit: int, seed: int) -> str:
    """A sample's name, and so that of its metrics: ``mmlu-500``, ``mmlu-500-seed3``."""
    return f"{task}-{limit}" + (f"-seed{seed}" if seed else "")
