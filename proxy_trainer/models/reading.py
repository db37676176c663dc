"""How much text a model is best given to read at once."""

from __future__ import annotations

import torch

TOKENS = {"cpu": 1024, "cuda": 4096}
"""On a CPU so few that what every layer makes of them stays in the cache (docs/DECISIONS.md). It
must not depend on how many members read together, as rounding may depend on it."""


def tokens_at_once(device: torch.device) -> int:
    """Tokens of each model."""
    return TOKENS[device.type]
