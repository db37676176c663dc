"""Which evaluation items a document holds: runs of words that both have.

The usual n-gram rule (13 words; Brown et al. 2020, arXiv 2005.14165, appendix C): a document is
contaminated by an item if any 13 consecutive words of the item stand in it. Words are runs of
letters and digits, in lower case. Items of fewer words are looked for whole, down to a length below
which a match says little; shorter ones are not judged, but their whole text is looked for, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from regmix.errors import UserError
from regmix.files import write_whole

LEAST_WORDS = 8
"""Of an item that is shorter than the n-gram: as many as its whole text must have to be judged
(GPT-3's smallest n, arXiv 2005.14165, appendix C)."""
_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)
"""Odd, with its bits spread: of the hash that finds candidates. They are then compared by word."""


def words(text: str) -> list[str]:
    """A text's words, in lower case; punctuation and spaces divide them."""
    return _WORD.findall(text.casefold())


@dataclass(frozen=True)
class _Grams:
    """All n-grams of one length, sorted by hash."""

    hashes: npt.NDArray[np.uint64]
    """Shape ``(grams,)``."""
    ids: npt.NDArray[np.uint32]
    """The words of each, ``(grams, length)``."""
    items: npt.NDArray[np.int64]
    """The item that each is of, ``(grams,)``."""

    @property
    def length(self) -> int:
        return int(self.ids.shape[1])


class ShortItems:
    """Items too short for the rule, of which only the whole text is looked for, spelled alike.

    Case and white space apart: punctuation is most of what such an item is.
    """

    def __init__(self, texts: Sequence[str], length: int) -> None:
        """Take the short ones out of all items.

        Args:
            length: words of an n-gram of the rule.
        """
        least = min(LEAST_WORDS, length)
        self._spelled = {
            i: _exact(text) for i, text in enumerate(texts) if 0 < len(words(text)) < least
        }
        self._index = list(self._spelled)
        kept = [texts[i] for i in self._index]
        self._screen = Screen.of(kept, max(1, least - 1), least=1)  # finds candidates

    def found(self, text: str) -> list[int]:
        """The items, by their place among all, whose whole text stands in this one."""
        candidates = [self._index[i] for i in self._screen.found(text)]
        if not candidates:
            return []
        exact = _exact(text)
        return [i for i in candidates if self._spelled[i] in exact]


def _exact(text: str) -> str:
    return " ".join(text.casefold().split())


class Screen:
    """The n-grams of some items, to be found in documents."""

    def __init__(self, vocabulary: Sequence[str], grams: Sequence[_Grams], items: int) -> None:
        self._vocabulary = list(vocabulary)
        self._id = {word: i + 1 for i, word in enumerate(self._vocabulary)}  # 0: in no item
        self._grams = list(grams)
        self.items = items
        """How many there are, those that are not judged included."""

    @classmethod
    def of(cls, texts: Iterable[str], length: int, least: int = LEAST_WORDS) -> Screen:
        """The screen of some items.

        Args:
            length: words of an n-gram.
            least: words that an item must have to be looked for.
        """
        vocabulary: dict[str, int] = {}
        found: dict[int, list[tuple[npt.NDArray[np.uint32], int]]] = {}
        count = 0
        for count, text in enumerate(texts, 1):
            own = [vocabulary.setdefault(word, len(vocabulary) + 1) for word in words(text)]
            size = min(length, len(own))
            if size >= min(least, length):
                ids = np.asarray(own, dtype=np.uint32)
                windows = np.lib.stride_tricks.sliding_window_view(ids, size)
                found.setdefault(size, []).extend((w, count - 1) for w in windows)
        grams = [_sorted(found[size]) for size in sorted(found)]
        return cls(list(vocabulary), grams, count)

    def found(self, text: str) -> list[int]:
        """The items of which the text holds an n-gram, in order."""
        ids = np.fromiter((self._id.get(w, 0) for w in words(text)), dtype=np.uint32)
        held: set[int] = set()
        for grams in self._grams:
            held.update(_held(grams, ids))
        return sorted(held)

    def judged(self) -> int:
        """Items that are long enough to be looked for."""
        if not self._grams:
            return 0
        return len(np.unique(np.concatenate([g.items for g in self._grams])))

    def save(self, path: Path) -> None:
        """Write it, for other processes to :meth:`load`."""
        tables = {
            f"{name}_{grams.length}": getattr(grams, name)
            for grams in self._grams
            for name in ("ids", "items")
        }
        spelled = np.frombuffer("\n".join(self._vocabulary).encode(), dtype=np.uint8)

        def write(target: Path) -> None:
            with target.open("wb") as stream:
                np.savez(stream, vocabulary=spelled, count=np.int64(self.items), **tables)

        write_whole(path, write)

    @classmethod
    def load(cls, path: Path) -> Screen:
        """What :meth:`save` has written.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                lengths = sorted(
                    int(key.removeprefix("ids_")) for key in file.files if key.startswith("ids_")
                )
                grams = [
                    _Grams(_hashes(ids), ids, file[f"items_{length}"])
                    for length in lengths
                    for ids in [file[f"ids_{length}"]]
                ]
                vocabulary = file["vocabulary"].tobytes().decode()
                return cls(vocabulary.split("\n") if vocabulary else [], grams, int(file["count"]))
        except (OSError, ValueError, KeyError) as exc:
            raise UserError(f"{path}: not a screen of evaluation items ({exc})") from exc


def _hashes(ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
    """Of every window of words, ``(windows, length)`` to ``(windows,)``."""
    total = np.zeros(len(ids), dtype=np.uint64)
    for column in ids.T:
        # Mixed before it is added: hashes of neighbouring ids would be alike.
        total = total * _BASE + (column.astype(np.uint64) ^ (column.astype(np.uint64) << 32))
        total ^= total >> np.uint64(29)
    return total


def _sorted(grams: list[tuple[npt.NDArray[np.uint32], int]]) -> _Grams:
    ids = np.stack([window for window, _ in grams])
    items = np.asarray([item for _, item in grams], dtype=np.int64)
    hashes = _hashes(ids)
    order = np.argsort(hashes, kind="stable")
    return _Grams(hashes[order], ids[order], items[order])


def _held(grams: _Grams, ids: npt.NDArray[np.uint32]) -> set[int]:
    """Items of which a document, as ids of words, holds an n-gram."""
    if len(ids) < grams.length:
        return set()
    windows = np.lib.stride_tricks.sliding_window_view(ids, grams.length)
    # A window with a word that no item has is none of theirs.
    unknown = np.concatenate([[0], np.cumsum(ids == 0)])
    windows = windows[unknown[grams.length :] == unknown[: -grams.length]]
    hashes = _hashes(windows)
    first = np.searchsorted(grams.hashes, hashes, side="left")
    end = np.searchsorted(grams.hashes, hashes, side="right")
    held: set[int] = set()
    for hit in np.flatnonzero(end > first):
        for row in range(first[hit], end[hit]):
            if np.array_equal(grams.ids[row], windows[hit]):
                held.add(int(grams.items[row]))
    return held
