"""Bits per byte on the valid split of every domain.

bits per byte = Σ nats / (ln 2 · Σ bytes), over the text's tokens and the text's UTF-8 bytes. The
end-of-document token opens every document as context; it is never predicted and carries no
bytes. A document is read in windows of the model's context, each opened by the token before it,
so that every token of the text is scored exactly once, whatever the batch.
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

BATCH_TOKENS = 4096


class Measured(Protocol):
    """What can be measured: one model or several that read the same text."""

    @property
    def members(self) -> int:
        """Models."""

    def nats(self, ids_BT: Tensor, keep_BT: Tensor, target_N: Tensor) -> Tensor:
        """Total nats of the targets by each model, ``(K,)``, in double precision.

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
    text_bytes: int
    """Of all that is scored."""
    scored: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    """Which positions of each window have a target; all of them if not given."""

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
    inputs: list[IntArray] = []
    targets: list[IntArray] = []
    used = 0
    for index in np.random.default_rng(0).permutation(tokens.documents):
        whole, size = tokens.document(int(index))[:-1], int(tokens.text_bytes[index])
        last = used + size >= max_bytes
        ids, size = _cut(whole, size, tokenizer, max_bytes - used)
        used += size
        line = np.concatenate([[eod_id], ids])
        for start in range(0, len(ids), context):
            inputs.append(line[start : min(start + context, len(ids))])
            targets.append(line[start + 1 : start + context + 1])
        if last:
            break
    return EvalSet(f"bpb/{tokens.domain}", inputs, targets, used)


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


@torch.no_grad()
def bits_per_byte(model: Measured, sets: list[EvalSet]) -> list[dict[str, float]]:
    """Bits per byte by metric, one table a member; all members read the text together."""
    found: list[dict[str, float]] = [{} for _ in range(model.members)]
    for windows in sets:
        for table, nats in zip(found, _nats(model, windows).tolist(), strict=True):
            table[windows.name] = nats / (math.log(2) * windows.text_bytes)
    return found


def _nats(model: Measured, windows: EvalSet) -> Tensor:
    """Total nats over a text, ``(K,)``; windows of like length share a batch, right-padded."""
    by_length = sorted(range(len(windows.inputs)), key=lambda i: -len(windows.inputs[i]))
    total_K = torch.zeros(model.members, dtype=torch.float64)
    start = 0
    while start < len(by_length):
        longest = len(windows.inputs[by_length[start]])
        rows = by_length[start : start + max(1, BATCH_TOKENS // longest)]
        start += len(rows)
        found_K = model.nats(*_pad(windows, rows, longest))
        total_K = total_K.to(found_K.device) + found_K
    return total_K


def _pad(windows: EvalSet, rows: list[int], length: int) -> tuple[Tensor, Tensor, Tensor]:
    ids = np.zeros((len(rows), length), dtype=np.int64)
    keep = np.zeros((len(rows), length), dtype=bool)
    for row, index in enumerate(rows):
        ids[row, : len(windows.inputs[index])] = windows.inputs[index]
        keep[row, : len(windows.inputs[index])] = windows.scored[index] if windows.scored else True
    target = np.concatenate([windows.targets[i] for i in rows])
    return torch.from_numpy(ids), torch.from_numpy(keep), torch.from_numpy(target)
