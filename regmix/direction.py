"""Is a metric better low or high? What a person or its source says goes first, then its name.

A name tells by the last of its words that is known: ``arc_easy/acc_norm`` is an accuracy,
``eval/code_loss`` a loss. Bits per byte are always better low, whatever their domain is called. A
name without a known word tells nothing; such a metric counts as better low, and the person is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Direction = Literal["lower", "higher"]

_HIGHER = (
    r"acc", r"accuracy", r"exact_match", r"em", r"f1", r"mcc", r"bleu", r"rouge\w*", r"chrf\+*",
    r"pass@\d+", r"avg@\d+", r"pass_at_\d+", r"maj@\d+", r"score", r"win_?rate", r"recall",
    r"precision", r"auc", r"auroc", r"mrr", r"ndcg", r"mc1", r"mc2", r"reward", r"choice_prob_norm",
    r"choice_logprob", r"logprobs?",
)  # fmt: skip
_LOWER = (
    r"loss", r"bpb", r"bits_per_byte", r"bits_per_token", r"perplexity", r"ppl", r"nll", r"xent",
    r"cross_entropy", r"err", r"error", r"wer", r"cer", r"ter", r"brier(_score)?", r"rmse", r"mse",
    r"mae", r"toxicity",
)  # fmt: skip
_EDGE = r"[/_:.,@\s-]"


def _words(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:^|{_EDGE})(?:{'|'.join(words)})(?={_EDGE}|$)", re.IGNORECASE)


_KNOWN: tuple[tuple[Direction, re.Pattern[str]], ...] = (
    ("higher", _words(_HIGHER)),
    ("lower", _words(_LOWER)),
)


def of_name(metric: str) -> Direction | None:
    """The direction that a metric's name tells; None if it tells nothing."""
    if metric.startswith("bpb/"):
        return "lower"
    ends: dict[Direction, int] = {
        direction: max((m.end() for m in pattern.finditer(metric)), default=-1)
        for direction, pattern in _KNOWN
    }
    if max(ends.values()) < 0:
        return None
    # Where both end together (`brier_score`), the longer word, which is the one that is lower.
    return "higher" if ends["higher"] > ends["lower"] else "lower"


def sign(metric: str, given: Mapping[str, str]) -> int:
    """+1 if lower values are better, -1 if higher ones are.

    What is given goes first, then what the name tells; a name that tells nothing counts as lower.
    """
    return -1 if given.get(metric, of_name(metric)) == "higher" else 1
