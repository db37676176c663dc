"""Bits per byte of held-out text, and those on the valid split of every domain.

bits per byte = Σ nats / (ln 2 · Σ bytes), over the text's tokens and the text's UTF-8 bytes. The
end-of-document token opens every document as context; it is never predicted and carries no
bytes. A document is read in windows of the model's context, each opened by the token before it,
so that every token of the text is scored exactly once, whatever the batch.

Documents are what is drawn anew in thought when a figure's standard error is asked for: bits per
byte are a ratio of two sums over them, whose error is that of the ratio estimator (W. G. Cochran,
Sampling Techniques, 3rd ed., eq. 6.9, without the correction for a finite population), which is
what a bootstrap over documents comes to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from proxy_trainer.data import tokenizer as study_tokenizer
from proxy_trainer.data.shards import DomainTokens, IntArray
from regmix.layout import StudyLayout
from regmix.manifest import DataManifest


class Measured(Protocol):
    """What can be measured: one model or several that read the same text."""

    @property
    def members(self) -> int:
        """Models."""

    @property
    def tokens_at_once(self) -> int:
        """So many are best given together, padding among them."""

    def nats(self, ids_BT: Tensor, keep_BT: Tensor, target_N: Tensor) -> Tensor:
        """Total nats of every window's targets by each model, ``(K, B)``, in double precision.

        Args:
            ids_BT: windows, right-padded.
            keep_BT: which positions are not padding: those that a target is for.
            target_N: the targets of all windows, one after the other.
        """


@dataclass(frozen=True)
class EvalSet:
    """Windows of one text, each read from its beginning."""

    name: str
    """The metric's."""
    inputs: list[IntArray]
    targets: list[IntArray]
    """What is scored of each window, in order."""
    documents: list[int]
    """The document that each window is of, counted from 0."""
    document_bytes: list[int]
    """Bytes of what is scored of each document."""
    scored: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    """Which positions of each window have a target; all of them if not given."""

    def add(self, ids: IntArray, size: int, *, opening: int, context: int) -> None:
        """One more document, in windows of the context, each opened by the token before it.

        Args:
            ids: its tokens.
            size: its bytes.
            opening: the token before its first.
        """
        line = np.concatenate([[opening], ids])
        for start in range(0, len(ids), context):
            self.inputs.append(line[start : min(start + context, len(ids))])
            self.targets.append(line[start + 1 : start + context + 1])
            self.documents.append(len(self.document_bytes))
        self.document_bytes.append(size)

    @property
    def text_bytes(self) -> int:
        """Of all that is scored."""
        return sum(self.document_bytes)

    @property
    def tokens(self) -> int:
        """Scored tokens."""
        return sum(len(t) for t in self.targets)


def load_eval_sets(
    layout: StudyLayout, manifest: DataManifest, *, context: int, max_bytes: int
) -> list[EvalSet]:
    """Every domain's valid documents, in a fixed pseudo-random order, up to ``max_bytes`` each.

    The last document is cut at a token boundary rather than left out, so that domains with few
    long documents are measured on as much text as the others.
    """
    tokenizer = study_tokenizer.load(layout.tokenizer)
    return [
        _eval_set(DomainTokens(layout, manifest, name, "valid"), tokenizer, manifest.eod_id,
                  context, max_bytes)
        for name in manifest.names
    ]  # fmt: skip


def _eval_set(
    tokens: DomainTokens,
    tokenizer: Tokenizer,
    eod_id: int,
    context: int,
    max_bytes: int,
) -> EvalSet:
    found = EvalSet(f"bpb/{tokens.domain}", [], [], [], [])
    used = 0
    for index in np.random.default_rng(0).permutation(tokens.documents):
        whole, size = tokens.document(int(index))[:-1], int(tokens.text_bytes[index])
        last = used + size >= max_bytes
        ids, size = _cut(whole, size, tokenizer, max_bytes - used)
        used += size
        found.add(ids, size, opening=eod_id, context=context)
        if last:
            break
    return found


def _cut(ids: IntArray, size: int, tokenizer: Tokenizer, room: int) -> tuple[IntArray, int]:
    """As many leading tokens as spell about ``room`` bytes in whole characters, and the bytes.

    A document whose tokens do not spell its text again (a tokenizer that normalises) is taken
    whole, since the bytes of a part of it cannot be told.
    """
    if (
        size <= room
        or len(tokenizer.decode(ids.tolist(), skip_special_tokens=False).encode()) != size
    ):
        return ids, size
    keep = max(1, len(ids) * room // size)
    while keep < len(ids):
        text = tokenizer.decode(ids[:keep].tolist(), skip_special_tokens=False)
        if not text.endswith("\ufffd"):
            return ids[:keep], len(text.encode())
        keep += 1  # the cut fell inside a character
    return ids, size


@dataclass(frozen=True)
class Reading:
    """What every member came to on every document of one text."""

    name: str
    """The metric's."""
    nats_KM: npt.NDArray[np.float64]
    """By member and document."""
    bytes_M: npt.NDArray[np.int64]

    def value(self, member: int) -> float:
        """Bits per byte."""
        return float(self.nats_KM[member].sum() / (math.log(2) * self.bytes_M.sum()))

    def std_error(self, member: int) -> float | None:
        """Of bits per byte, over documents; None of a single one, which tells nothing of others."""
        count = len(self.bytes_M)
        if count < 2:
            return None
        residual_M = self.nats_KM[member] / math.log(2) - self.value(member) * self.bytes_M
        spread = math.sqrt(count / (count - 1) * float(residual_M @ residual_M))
        return spread / float(self.bytes_M.sum())

    def fields(self, member: int) -> dict[str, str | float]:
        """What a metric's event says of it."""
        fields: dict[str, str | float] = {
            "name": self.name, "split": "valid", "value": self.value(member)
        }  # fmt: skip
        error = self.std_error(member)
        return fields if error is None else {**fields, "std_error": error}


@torch.no_grad()
def read(model: Measured, sets: list[EvalSet]) -> list[Reading]:
    """Every text as all members read it, together."""
    return [
        Reading(s.name, _nats(model, s), np.asarray(s.document_bytes, dtype=np.int64)) for s in sets
    ]


def bits_per_byte(model: Measured, sets: list[EvalSet]) -> list[dict[str, float]]:
    """Bits per byte by metric, one table a member; all members read the text together."""
    readings = read(model, sets)
    return [{r.name: r.value(member) for r in readings} for member in range(model.members)]


def _nats(model: Measured, windows: EvalSet) -> npt.NDArray[np.float64]:
    """Nats by member and document; windows of like length share a batch, right-padded."""
    by_length = sorted(range(len(windows.inputs)), key=lambda i: -len(windows.inputs[i]))
    found_KW = np.zeros((model.members, len(windows.inputs)))
    start = 0
    while start < len(by_length):
        longest = len(windows.inputs[by_length[start]])
        rows = by_length[start : start + max(1, model.tokens_at_once // longest)]
        start += len(rows)
        found_KW[:, rows] = model.nats(*_pad(windows, rows, longest)).cpu().numpy()
    total_MK = np.zeros((len(windows.document_bytes), model.members))
    np.add.at(total_MK, np.asarray(windows.documents, dtype=np.int64), found_KW.T)
    return total_MK.T


def _pad(windows: EvalSet, rows: list[int], length: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = np.zeros((len(rows), length), dtype=np.int64)
    keep = np.zeros((len(rows), length), dtype=bool)
    for row, index in enumerate(rows):
        ids[row, : len(windows.inputs[index])] = windows.inputs[index]
        keep[row, : len(windows.inputs[index])] = windows.scored[index] if windows.scored else True
    target = np.concatenate([windows.targets[i] for i in rows])
    return torch.from_numpy(ids), torch.from_numpy(keep), torch.from_numpy(target)
