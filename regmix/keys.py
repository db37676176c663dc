"""Values of a mapping that somebody else's program wrote, read strictly and key by key."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from regmix.errors import UserError, unknown_name

_NONE: Any = object()
_NOTHING: Mapping[str, str] = {}


class Keys:
    """The keys of one mapping. One that is null counts as not given."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self._raw = {key: value for key, value in raw.items() if value is not None}
        self._null = set(raw) - set(self._raw)
        self._known: set[str] = set()
        self.where = where

    def has(self, key: str) -> bool:
        """Whether it is given."""
        self._known.add(key)
        return key in self._raw

    def null(self, key: str) -> bool:
        """Whether it is given as null, where that is not the same as not given."""
        return key in self._null

    def integer(self, key: str, default: int = _NONE) -> int:
        """A count: 1 or more."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, "expected a whole number above 0")
        return value

    def number(self, key: str, default: float = _NONE, *, zero: bool = False) -> float:
        """A finite number above 0, or 0 where that is allowed."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "expected a number")
        if not (0 < value < float("inf") or (zero and value == 0)):
            raise self.wrong(key, f"expected a number {'of at least' if zero else 'above'} 0")
        return float(value)

    def flag(self, key: str, default: bool = _NONE) -> bool:
        """True or false."""
        value = self.value(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "expected true or false")
        return value

    def mapping(self, key: str) -> Keys:
        """A mapping's keys; none if it is not given."""
        value = self.value(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "expected a mapping")
        return Keys(value, f"{self.where}: {key}")

    def value(self, key: str, default: Any = _NONE) -> Any:
        """Whatever stands there.

        Raises:
            UserError: it is not given and has no default.
        """
        self._known.add(key)
        found = self._raw.get(key, default)
        if found is _NONE:
            raise UserError(f"{self.where}: {key}: missing")
        return found

    def wrong(self, key: str, what: str) -> UserError:
        """An error about the value of a key."""
        return UserError(f"{self.where}: {key}: {what} (found {self._raw.get(key)!r})")

    def done(self, unused: Container[str] = (), refused: Mapping[str, str] = _NOTHING) -> None:
        """Refuse keys that nothing has asked for.

        Args:
            unused: keys that are left alone.
            refused: keys with a reason of their own.
        """
        for key in self._raw:
            if key in refused:
                raise UserError(f"{self.where}: {key}: {refused[key]}")
            if key not in self._known and key not in unused:
                raise unknown_name("key", key, self._known, self.where)
