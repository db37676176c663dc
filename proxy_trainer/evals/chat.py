"""Bits per byte of the assistant's turns in conversations that were held out.

Σ nats / (ln 2 · Σ bytes) over the tokens that the template marks as generated and the UTF-8 bytes
that they spell. What ends a turn is not scored and has no bytes, be it the end-of-document token or
one of the template's own: it is no text, and templates would differ by what they call it.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from proxy_trainer.data import tokenizer as study_tokenizer
from proxy_trainer.data.chat.shards import ChatManifest, ChatTokens, open_sources
from proxy_trainer.evals.bpb import EvalSet
from regmix.errors import UserError
from regmix.layout import StudyLayout

PREFIX = "chat/"
"""Of the metrics' names; the source's follows."""


def load_chat_sets(layout: StudyLayout, fingerprint: str, max_bytes: int) -> list[EvalSet]:
    """Every source's conversations in a fixed pseudo-random order, up to ``max_bytes`` of answers.

    Raises:
        UserError: a source has nothing that is scored, or its files are not as they were built.
    """
    folder = layout.chat_data(fingerprint)
    manifest = ChatManifest.load(folder)
    tokenizer = study_tokenizer.load(layout.tokenizer)
    return [
        _eval_set(source, tokenizer, {manifest.eod_id, *manifest.turn_ends}, max_bytes)
        for source in open_sources(folder, manifest).values()
    ]


def _eval_set(source: ChatTokens, tokenizer: Tokenizer, ends: set[int], max_bytes: int) -> EvalSet:
    found = EvalSet(PREFIX + source.source, [], [], [], [])
    used = 0
    for index in np.random.default_rng(0).permutation(source.conversations):
        ids, trained = source.conversation(int(index))
        scored = trained & ~np.isin(ids, list(ends))
        scored[0] = False  # nothing is before it that it could be predicted from
        if not scored.any():
            continue
        if used >= max_bytes:
            break
        size = len(tokenizer.decode(ids[scored].tolist(), skip_special_tokens=False).encode())
        used += size
        found.documents.append(len(found.document_bytes))
        found.document_bytes.append(size)
        found.inputs.append(ids[:-1])
        found.targets.append(ids[1:][scored[1:]])
        found.scored.append(scored[1:])
    if not used:
        raise UserError(f"conversations '{source.source}': nothing in them is scored")
    return found
