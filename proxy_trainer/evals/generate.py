"""Text that a model writes after a prompt, token by token.

What is drawn at random is a function of the seed, the prompt's number and the repeat alone: nobody
else's text depends on who is in the batch. A token is taken by inversion: the smallest one whose
cumulative probability exceeds a uniform number, tokens in the order of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from regmix.errors import RegmixError

BATCH = {"cpu": 16, "cuda": 256}
"""Texts that are written side by side."""
_LOOKED_BACK = 8
"""Tokens before those that a stop could be spelled with, for characters that are several tokens."""


@dataclass(frozen=True)
class Sampling:
    """How a token is taken."""

    max_tokens: int = 256
    """Of each text."""
    stop: tuple[str, ...] = ()
    """Texts that end it, and are no part of it."""
    temperature: float = 0.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    """Only the likeliest tokens are taken that have so much probability together."""
    seed: int = 0


@dataclass(frozen=True)
class Prompt:
    """What is to be gone on from."""

    ids: tuple[int, ...]
    number: int
    """Of the prompt; with ``repeat`` and the seed it decides what is drawn."""
    repeat: int = 0


@dataclass(frozen=True)
class Written:
    """What a model wrote."""

    text: str
    tokens: int
    ended: bool
    """By itself or at a stop; not for want of room."""


class Writer(Protocol):
    """A model that writes."""

    def write(
        self,
        prompts: Sequence[Prompt],
        how: Sampling,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Written]:
        """What it writes after each."""


class TransformersWriter:
    """A model of transformers."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, context: int, ends: frozenset[int]
    ) -> None:
        """Take a model as it is.

        Args:
            context: positions; see :func:`room`.
            ends: tokens that end a text.
        """
        self._model, self._tokenizer, self._context, self._ends = model, tokenizer, context, ends

    def write(
        self,
        prompts: Sequence[Prompt],
        how: Sampling,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Written]:
        """What :class:`Writer` asks for; prompts of like length side by side."""
        found: dict[int, Written] = {}
        waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
        size = BATCH[self._model.device.type]
        for start in range(0, len(waiting), size):
            part = waiting[start : start + size]
            batch = _Batch(self._model, self._tokenizer, how, self._ends)
            texts = batch.write([self.fitted(prompts[i], how) for i in part], self._context)
            found |= dict(zip(part, texts, strict=True))
            if progress is not None:
                progress(len(found), len(prompts))
        return [found[i] for i in range(len(prompts))]

    def fitted(self, prompt: Prompt, how: Sampling) -> Prompt:
        """A prompt as the model is given it."""
        kept = room(self._context, how.max_tokens)
        return Prompt(prompt.ids[-kept:], prompt.number, prompt.repeat)


def room(context: int, max_tokens: int) -> int:
    """Positions for a prompt, which is cut from the left to them, whatever is written.

    What a text may have is left for it, but no more than half of the context.
    """
    return max(context - max_tokens, context // 2, 1)


def seed_of(seed: int, prompt: Prompt) -> int:
    """What decides all that is drawn after a prompt."""
    found = np.random.SeedSequence([seed, prompt.number, prompt.repeat])
    return int(found.generate_state(1, np.uint32)[0])


class _Batch:
    """Texts that are written side by side; B of them, V tokens in the vocabulary."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, how: Sampling, ends: frozenset[int]
    ) -> None:
        self._model, self._tokenizer, self._how, self._ends = model, tokenizer, how, ends
        longest = max((len(s.encode()) for s in how.stop), default=0)
        self._tail = longest + _LOOKED_BACK

    @torch.no_grad()
    def write(self, prompts: Sequence[Prompt], context: int) -> list[Written]:
        device = self._model.device
        ids_BT, keep_BT = _padded(prompts)
        ids_BT, keep_BT = ids_BT.to(device), keep_BT.to(device)
        uniform_BN = self._uniform(prompts).to(device)
        written: list[list[int]] = [[] for _ in prompts]
        texts: list[Written | None] = [None] * len(prompts)
        cache: Any = None
        longest = min(self._how.max_tokens, context - room(context, self._how.max_tokens))
        for step in range(longest):
            place_BT = (keep_BT.cumsum(1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
            found = self._model(
                input_ids=ids_BT, attention_mask=keep_BT, position_ids=place_BT,
                past_key_values=cache, use_cache=True, logits_to_keep=1,
            )  # fmt: skip
            cache = found.past_key_values
            logits_BV = found.logits[:, -1].float()
            if not torch.isfinite(logits_BV).all():
                raise RegmixError("a text cannot be written: logits are no finite numbers")
            chosen_B = self._chosen(logits_BV, uniform_BN[:, step])
            for row, token in enumerate(chosen_B.tolist()):
                if texts[row] is None:
                    texts[row] = self._ended(written[row], token)
            if all(text is not None for text in texts):
                break
            ids_BT = chosen_B[:, None]
            keep_BT = torch.cat([keep_BT, torch.ones_like(ids_BT)], 1)
        return [
            text or Written(self._text(own), len(own), False)
            for text, own in zip(texts, written, strict=True)
        ]

    def _ended(self, own: list[int], token: int) -> Written | None:
        """The text, if this token is its end."""
        if token in self._ends:
            return Written(self._text(own), len(own), True)
        own.append(token)
        if not any(stop in self._text(own[-self._tail :]) for stop in self._how.stop):
            return None
        text = self._text(own)
        places = [text.find(stop) for stop in self._how.stop if stop in text]
        return Written(text[: min(places)], len(own), True) if places else None

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _uniform(self, prompts: Sequence[Prompt]) -> Tensor:
        seeds = [seed_of(self._how.seed, prompt) for prompt in prompts]
        drawn = [np.random.default_rng(seed).random(self._how.max_tokens) for seed in seeds]
        return torch.from_numpy(np.stack(drawn))

    def _chosen(self, logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
        if not self._how.temperature:
            return logits_BV.argmax(1)
        p_BV = (logits_BV.double() / self._how.temperature).softmax(1)
        if self._how.top_p < 1:
            sorted_BV, order_BV = p_BV.sort(dim=1, descending=True, stable=True)
            left_out = sorted_BV.cumsum(1) - sorted_BV >= self._how.top_p
            p_BV = p_BV.masked_fill(left_out.gather(1, order_BV.argsort(1)), 0)
        sum_BV = p_BV.cumsum(1)
        at_B1 = uniform_B[:, None] * sum_BV[:, -1:]
        return torch.searchsorted(sum_BV, at_B1, right=True).clamp(max=p_BV.shape[1] - 1)[:, 0]


def _padded(prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
    """Ids, left-padded, and which of them are no padding; ``(B, T)``."""
    length = max(len(p.ids) for p in prompts)
    ids_BT = torch.zeros(len(prompts), length, dtype=torch.int64)
    keep_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        ids_BT[row, length - len(prompt.ids) :] = torch.tensor(prompt.ids)
        keep_BT[row, length - len(prompt.ids) :] = 1
    return ids_BT, keep_BT
