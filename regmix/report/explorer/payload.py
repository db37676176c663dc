"""Values and arrays as text that is safe inside a page, and the same read back."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def dumps(value: Any) -> str:
    """JSON whose arrays are base64 of little-endian 64-bit floats, each kept once.

    No name in it can end the script element that holds it: ``<``, ``>`` and ``&`` are escaped.

    Raises:
        ValueError: a number that is not finite, or an array with one.
    """
    pool: dict[tuple[tuple[int, ...], bytes], int] = {}
    plain = _pooled(value, pool)
    arrays = [
        {"shape": list(shape), "data": base64.b64encode(data).decode("ascii")}
        for shape, data in pool
    ]
    text = json.dumps(
        {"arrays": arrays, "value": plain},
        allow_nan=False, ensure_ascii=False, separators=(",", ":"),
    )  # fmt: skip
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def loads(text: str) -> Any:
    """What :func:`dumps` wrote, arrays as arrays."""
    raw = json.loads(text)
    arrays = [
        np.frombuffer(base64.b64decode(a["data"]), dtype="<f8").reshape(a["shape"])
        for a in raw["arrays"]
    ]
    return _resolved(raw["value"], arrays)


def _pooled(value: Any, pool: dict[tuple[tuple[int, ...], bytes], int]) -> Any:
    if isinstance(value, np.ndarray):
        if not np.isfinite(value).all():
            raise ValueError(f"an array of shape {value.shape} holds a number that is not finite")
        key = value.shape, np.ascontiguousarray(value, dtype="<f8").tobytes()
        return {"array": pool.setdefault(key, len(pool))}
    if isinstance(value, Mapping):
        return {key: _pooled(v, pool) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_pooled(v, pool) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def _resolved(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_resolved(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"array"} and isinstance(value["array"], int):
        return arrays[value["array"]]
    return {key: _resolved(v, arrays) for key, v in value.items()}
