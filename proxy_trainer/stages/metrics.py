"""What the runs of a stage are compared by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

CHAT = "chat/"
"""Before the names of conversations, where domains are named too."""
MEANS = {"mean bpb": "bpb/", "mean chat": CHAT}
"""Names of means, and what the metrics that they are over begin with."""


def measured(
    domains: Iterable[str], conversations: Iterable[str], tasks: Iterable[str]
) -> list[str]:
    """Names of everything that a stage's runs can be compared by: lower is better in all."""
    chat = [CHAT + name for name in conversations]
    own = [MEANS["mean bpb"] + domain for domain in domains] + chat
    own += [f"{task}/bpb" for task in tasks]
    return [mean for mean, start in MEANS.items() if start != CHAT or chat] + own


def of_text(metric: str) -> bool:
    """Whether a metric is bits per byte of domains or conversations, not of a task."""
    return metric.startswith(tuple(MEANS.values()))


def default(kind: str, metrics: Iterable[str]) -> str:
    """After SFT the mean over conversations that were held out, if any were; else over domains."""
    chat = kind == "sft" and any(m.startswith(CHAT) for m in metrics)
    return "mean chat" if chat else "mean bpb"


def value(metrics: Mapping[str, float], metric: str) -> float:
    """A metric, or a mean of some; NaN where there are none."""
    if metric not in MEANS:
        return metrics.get(metric, math.nan)
    own = [v for name, v in metrics.items() if name.startswith(MEANS[metric])]
    return math.fsum(own) / len(own) if own else math.nan
