"""How likely a model finds every choice of every question; all members of an array together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxy_trainer.data.shards import IntArray
from proxy_trainer.evals.packing import Pack, pack
from proxy_trainer.evals.prompts import Prompt, Prompts
from proxy_trainer.loss import token_scores
from proxy_trainer.models.array import ModelArray
from proxy_trainer.models.decoder import Decoder
from proxy_trainer.models.prefixed import begin, hidden_after

WEIGHTS_AT_ONCE = {"cpu": 2**22, "cuda": 2**28}
"""Attention weights of a layer that are held at once."""


Scores = tuple[Tensor, Tensor]
"""Nats of every scored token, and whether no other token is likelier, ``(K, N)`` each."""


class Reader(Protocol):
    """One model or several that can be asked questions."""

    @property
    def members(self) -> int:
        """Models."""

    def rows(self, shared: int, length: int) -> int:
        """Rows of some length that are to be given together, after as many shared tokens."""

    def reads(self, shared: int, lengths: Sequence[int]) -> int:
        """Tokens that each model is given for prompts that follow as many shared ones."""

    def after(self, shared_P: IntArray) -> Callable[[Pack], Scores]:
        """Reads the tokens that prompts share; what it gives scores packed ones."""


@dataclass(frozen=True)
class ArrayReader:
    """All members of an array; what prompts share is computed once for all of them."""

    array: ModelArray

    @property
    def members(self) -> int:
        """Models."""
        return self.array.members

    def rows(self, shared: int, length: int) -> int:
        """As many as memory for attention weights allows."""
        weights = self.members * self.array.shape.heads * length * (shared + length)
        return max(1, WEIGHTS_AT_ONCE[self.array.embed.device.type] // weights)

    def reads(self, shared: int, lengths: Sequence[int]) -> int:
        """What is shared once."""
        return shared + sum(lengths)

    def after(self, shared_P: IntArray) -> Callable[[Pack], Scores]:
        """What :class:`Reader` asks for."""
        array, device = self.array, self.array.embed.device
        before = begin(array, torch.from_numpy(shared_P).to(device))

        def scores(given: Pack) -> Scores:
            on = given.to(device)
            hidden_KND = hidden_after(array, before, on.ids_BT, on.place_BT, on.seen_BTT)
            target_KN = on.target_N.expand(array.members, -1)
            return token_scores(hidden_KND[:, on.at_N], array.unembed_KDV, target_KN)

        return scores


@dataclass(frozen=True)
class DecoderReader:
    """One decoder of any family; what prompts share is written out before each of them."""

    decoder: Decoder
    members: int = 1

    def rows(self, shared: int, length: int) -> int:
        """As many as memory for attention weights allows."""
        weights = self.decoder.shape.heads * (shared + length) ** 2
        return max(1, WEIGHTS_AT_ONCE[self.decoder.head_VD.device.type] // weights)

    def reads(self, shared: int, lengths: Sequence[int]) -> int:
        """What is shared with every one of them."""
        return shared * len(lengths) + sum(lengths)

    def after(self, shared_P: IntArray) -> Callable[[Pack], Scores]:
        """What :class:`Reader` asks for."""
        decoder, device = self.decoder, self.decoder.head_VD.device
        shared = torch.from_numpy(shared_P).to(device)

        @torch.no_grad()
        def scores(given: Pack) -> Scores:
            on = given.to(device).after(shared)
            hidden_BTD = decoder.hidden(on.ids_BT, on.seen_BTT[:, None], on.place_BT)
            said_ND = hidden_BTD.flatten(0, 1)[on.at_N]
            return token_scores(said_ND[None], decoder.head_VD.t()[None], on.target_N[None])

        return scores


def _first(prompt: Prompt) -> list[int]:
    """For each choice the first one of the same tokens, whose figure it gets.

    Rounding would otherwise decide between choices that are one.
    """
    written = [c.tobytes() for c in prompt.choices]
    return [written.index(w) for w in written]


@dataclass(frozen=True)
class Answers:
    """What every member finds of every choice."""

    prompts: list[Prompt]
    """The questions that were asked, by their place in the task."""
    logprob: list[npt.NDArray[np.float64]]
    """Of each of them, natural logarithms, ``(K, choices)``."""
    tokens: int
    """That each model was given to read."""
    greedy: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    """Whether a model that always takes the likeliest token would write it."""


def answers(
    model: Reader, prompts: Prompts, progress: Callable[[int, int], None] | None = None
) -> Answers:
    """Ask every question.

    Args:
        progress: called with (questions asked, in all).
    """
    logprob: dict[int, npt.NDArray[np.float64]] = {}
    greedy: dict[int, npt.NDArray[np.bool_]] = {}
    asked = prompts.all
    for shared, group in prompts.groups:
        scores = model.after(shared)
        waiting = sorted(group, key=lambda p: -p.inputs)  # of like length together
        while waiting:
            count = model.rows(len(shared), waiting[0].inputs)
            batch, waiting = waiting[:count], waiting[count:]
            given = pack(batch)
            nats_KN, best_KN = scores(given)
            starts = np.cumsum(given.lengths) - given.lengths
            by_choice_KC = -np.add.reduceat(nats_KN.double().cpu().numpy(), starts, axis=1)
            best_KC = np.logical_and.reduceat(best_KN.cpu().numpy(), starts, axis=1)
            logprob |= _apart(batch, by_choice_KC)
            greedy |= _apart(batch, best_KC)
            if progress is not None:
                progress(len(logprob), len(asked))
    read = sum(model.reads(len(s), [p.inputs for p in own]) for s, own in prompts.groups)
    return Answers(asked, [logprob[p.index] for p in asked], read, [greedy[p.index] for p in asked])


_Kind = TypeVar("_Kind", bound=np.generic)


def _apart(batch: list[Prompt], by_choice_KC: npt.NDArray[_Kind]) -> dict[int, npt.NDArray[_Kind]]:
    """What is said of all choices, by the question."""
    stops = np.cumsum([len(p.choices) for p in batch])
    parts = np.split(by_choice_KC, stops[:-1], axis=1)
    return {p.index: part[:, _first(p)] for p, part in zip(batch, parts, strict=True)}
