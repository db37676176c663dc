"""What was asked for against what was done: shares, tokens, and figures that are another run's."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from regmix.flags.base import Flag

SHARE = 0.01
"""Total variation between requested and realised shares, beyond three times the runs' median."""
TOKENS = 0.99
"""Of the planned tokens that a run must have seen."""


def shares(mixtures: pd.DataFrame) -> list[Flag]:
    """Runs that saw another mixture than they were to see.

    Whole blocks of text cannot realise every share; all runs alike are off by that, so what a run
    may be off by is a hundredth and three times what is usual.

    Args:
        mixtures: ``run_id``, ``domain``, ``requested``, ``realised`` (NaN where not known).
    """
    known = mixtures.dropna(subset=["realised"])
    gap = known["realised"] - known["requested"]
    off = gap.abs().groupby(known["run_id"]).sum() / 2
    found = []
    for run in off.index[off > SHARE + 3 * off.median()]:
        own = known[known["run_id"] == run].assign(gap=gap)
        worst = own.loc[own["gap"].abs().idxmax()]
        found.append(
            Flag(
                str(run), "shares",
                f"saw another mixture than was asked for (total variation {off[run]:.3f}): "
                f"{worst['domain']} {worst['realised']:.3f} instead of {worst['requested']:.3f}",
                str(worst["domain"]),
            )
        )  # fmt: skip
    return found


def tokens(info: pd.DataFrame) -> list[Flag]:
    """Runs that saw fewer tokens than planned.

    Args:
        info: by run id, ``planned`` and ``tokens`` (NaN where not known).
    """
    short = info[info["tokens"] < TOKENS * info["planned"]]
    return [
        Flag(str(run), "tokens", f"saw {row['tokens']:.0f} of {row['planned']:.0f} tokens")
        for run, row in short.iterrows()
    ]


def copies(values: pd.DataFrame, mixtures: Mapping[str, str]) -> list[Flag]:
    """Runs whose every figure is another's to the last digit.

    Of one mixture, the later one is flagged: a seed was taken twice. Of two mixtures, both: which
    is the copy cannot be told. One metric alone may well come out the same.

    Args:
        values: metrics by run id.
        mixtures: hashes of those that may be shared, by run id.
    """
    names = list(values.columns)
    if len(names) < 2:
        return []
    found = []
    for _, own in values[values.duplicated(keep=False)].groupby(names, sort=False):
        first, *others = map(str, own.index)
        shared = mixtures.get(first)
        if shared is not None and all(mixtures.get(o) == shared for o in others):
            found += [
                Flag(o, "copy", f"every figure is that of {first}: a seed was taken twice")
                for o in others
            ]
        else:
            found += [
                Flag(
                    r, "copy",
                    f"every figure is that of {first if r != first else others[0]}, which has "
                    "another mixture",
                )
                for r in (first, *others)
            ]  # fmt: skip
    return found
