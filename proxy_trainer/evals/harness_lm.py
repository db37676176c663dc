"""Our models as what lm-evaluation-harness evaluates: all members read together, once.

The harness evaluates one model at a time. What it asks of the first is computed for all, and kept;
the others find it there. Texts are tokenised and cut as its own ``hf`` model does, so that figures
are those that it would find on the exported folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from proxy_trainer.data import tokenizer as tokenizers
from proxy_trainer.evals import generate
from proxy_trainer.evals.choice import answers
from proxy_trainer.evals.generate import Sampling
from proxy_trainer.evals.models import Models
from proxy_trainer.evals.prompts import Prompt, Prompts
from regmix.errors import UserError, unknown_name

Tokens = tuple[int, ...]
Pair = tuple[Tokens, Tokens]
"""Tokens that are given, and tokens that are scored after them."""
Scored = tuple[list[float], list[bool]]
"""By member: log-probability, and whether the likeliest token always is the one."""
_WORTH_SHARING = 0.5
"""Of a prompt: so much must be what others begin with for it to be computed apart."""


class Together:
    """Models, and everything that they were asked so far."""

    def __init__(self, models: Models, progress: Callable[[int, int], None] | None) -> None:
        self.models = models
        self._progress = progress
        self.tokenizer = tokenizers.with_special_tokens(models.tokenizer)
        self._known: dict[Pair, Scored] = {}
        self.tokens_read = 0

    def score(self, pairs: Sequence[Pair]) -> list[Scored]:
        """What all models say of pairs, those that are new together.

        Raises:
            UserError: what is to be scored does not fit the context.
        """
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            prompts, order = side_by_side(new, self.models.context)
            found = answers(self.models.reader, prompts, self._progress)
            self.tokens_read += found.tokens
            for own, logprob_KC, greedy_KC in zip(order, found.logprob, found.greedy, strict=True):
                for place, pair in enumerate(own):
                    self._known[pair] = (
                        logprob_KC[:, place].tolist(), greedy_KC[:, place].tolist()
                    )  # fmt: skip
        return [self._known[pair] for pair in pairs]


def side_by_side(pairs: Sequence[Pair], context: int) -> tuple[Prompts, list[list[Pair]]]:
    """Pairs as prompts, what follows one text together, and which pair each choice is.

    What does not fit the context is cut from the left; prompts that begin alike share that. What is
    longer than the text before it, such as a whole document, has a row of its own: side by side,
    attention grows with the square of all of them.

    Raises:
        UserError: what is to be scored is longer than the context.
    """
    together: dict[tuple[Tokens, Tokens], list[Pair]] = {}
    for given, scored in pairs:
        if len(scored) > context:
            raise UserError(f"{len(scored)} tokens are to be scored, in a context of {context}")
        fitting = given[-(context + 1 - len(scored)) :]
        own = scored if len(scored) > len(fitting) else ()
        together.setdefault((fitting, own), []).append((given, scored))
    places: dict[Tokens, list[int]] = {}
    for index, (given, _) in enumerate(together):
        places.setdefault(given, []).append(index)
    found = Prompts()
    order = list(together.values())
    alone: list[Prompt] = []
    for shared, group in _alike(sorted(places)):
        prompts = [
            Prompt(
                index,
                np.asarray(given[shared:], dtype=np.int64),
                tuple(np.asarray(scored, dtype=np.int64) for _, scored in order[index]),
                0,
                0,
            )
            for given in group
            for index in places[given]
        ]
        if shared:
            found.groups.append((np.asarray(group[0][:shared], dtype=np.int64), prompts))
        else:
            alone += prompts
    if alone:
        found.groups.append((np.zeros(0, dtype=np.int64), alone))
    return found, order


def _alike(ordered: Sequence[Tokens]) -> list[tuple[int, list[Tokens]]]:
    """Neighbours that begin with the same tokens, and how many these are; at least one is left."""
    groups: list[tuple[int, list[Tokens]]] = []
    for given in ordered:
        if groups:
            shared, group = groups[-1]
            limit = min(shared or len(group[0]) - 1, len(given) - 1)
            same = sum(1 for _ in takewhile(bool, map(int.__eq__, group[0][:limit], given)))
            if same >= _WORTH_SHARING * max(len(given), len(group[0])):
                groups[-1] = (same, [*group, given])
                continue
        groups.append((0, [given]))
    return groups


class MemberLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """One of some models, as the harness asks it."""

    def __init__(self, together: Together, member: int) -> None:
        super().__init__()
        self._together, self._member = together, member

    @property
    def eot_token_id(self) -> int:
        """What documents end with."""
        return self._together.models.opening

    @property
    def max_length(self) -> int:
        """Positions."""
        return self._together.models.context

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids, with what the tokenizer itself puts around texts unless told otherwise."""
        tokenizer = self._together.tokenizer
        if add_special_tokens is None:
            opening = tokenizer.decode([self.prefix_token_id], skip_special_tokens=False)
            add_special_tokens = not (opening and string.startswith(opening))
        return list(tokenizer.encode(string, add_special_tokens=add_special_tokens).ids)

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-probabilities of what follows prompts, and whether it is the likeliest."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(tuple(given), tuple(scored)) for _, given, scored in requests]
        found = self._together.score(pairs)
        return [(logprob[self._member], greedy[self._member]) for logprob, greedy in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probabilities of whole texts, in the harness's own windows."""
        windows = [
            [make_disjoint_window(w) for w in self._windows(str(request.args[0]))]
            for request in requests
        ]
        pairs = [(tuple(given), tuple(scored)) for own in windows for given, scored in own]
        found = iter(self._together.score(pairs))
        return [sum(next(found)[0][self._member] for _ in own) for own in windows]

    def _windows(self, text: str) -> Any:
        return get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What follows prompts, by the settings that each comes with.

        Raises:
            UserError: a setting that is not known.
        """
        alike: dict[str, list[int]] = {}
        prompts: list[generate.Prompt] = []
        numbers: dict[str, int] = {}
        repeats: Counter[str] = Counter()
        for place, request in enumerate(requests):
            text, settings = request.args
            alike.setdefault(json.dumps(settings, sort_keys=True), []).append(place)
            number = numbers.setdefault(text, len(numbers))
            prompts.append(generate.Prompt(tuple(self.tok_encode(text)), number, repeats[text]))
            repeats[text] += 1
        writer = self._together.models.writer(self._member)
        found: dict[int, str] = {}
        for settings, places in alike.items():
            written = writer.write([prompts[i] for i in places], sampling(json.loads(settings)))
            found |= {i: one.text for i, one in zip(places, written, strict=True)}
        return [found[place] for place in range(len(requests))]


_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens")


def sampling(settings: Mapping[str, Any]) -> Sampling:
    """How text is written, by the harness's settings of generation.

    Raises:
        UserError: one that is not known.
    """
    known = ("until", "do_sample", "temperature", "top_p", *_TOKENS)
    for key in settings:
        if key not in known:
            raise unknown_name("key", key, known, "generation_kwargs")
    until = settings.get("until", ())
    drawn = settings.get("do_sample", settings.get("temperature", 0) > 0)
    return Sampling(
        max_tokens=next((int(settings[k]) for k in _TOKENS if k in settings), 256),
        stop=tuple([until] if isinstance(until, str) else until),
        temperature=float(settings.get("temperature") or 1.0) if drawn else 0.0,
        top_p=float(settings.get("top_p", 1.0)) if drawn else 1.0,
    )
