"""What a finished model came to on every document that it was measured on.

Metrics are sums over documents; with the parts a difference of two runs is a paired one, and a
bootstrap has something to draw from.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from proxy_trainer.evals.bpb import Reading
from regmix.files import write_whole
from regmix.layout import RunLayout


def save(run: RunLayout, readings: Sequence[Reading], member: int) -> None:
    """Write ``evals/documents.parquet``: metric, document, nats and bytes.

    Documents are counted from 0 in the order in which every run of the study is given them, so
    that a metric and a number name the same text in all runs that are measured on as much of it.
    """
    parts = [
        pd.DataFrame(
            {
                "metric": r.name,
                "document": range(len(r.bytes_M)),
                "nats": r.nats_KM[member],
                "bytes": r.bytes_M,
            }
        )
        for r in readings
    ]
    frame = pd.concat(parts, ignore_index=True)
    write_whole(run.documents, lambda tmp: frame.to_parquet(tmp, index=False))
