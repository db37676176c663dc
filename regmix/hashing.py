"""One way to turn content into an identity."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(value: Any, length: int = 16) -> str:
    """The first ``length`` hex digits of SHA-256 over canonical JSON of ``value``.

    Floats enter with all their digits (``repr``), keys sorted, so equal content always has
    an equal fingerprint and any change of content changes it.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
