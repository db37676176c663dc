"""The cost account: what a study has spent, and what RegMix's published recipe would have.

Counted are finished runs, by what they recorded: tokens, FLOPs (6 a weight and token and causal
attention, the head included), and seconds of their process, of which runs that train side by side
each have their part. Evaluations are in those seconds; their FLOPs are counted on top, forward
passes alone, hence a third of what training on the same tokens would take.

What is set beside RegMix's recipe are the mixtures at proxy size. Larger models, of a ladder, a
recipe or the target, are none of its proxies, whose cost or whose speed they would change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from regmix import plain
from regmix.manifest import DataManifest
from regmix.records import RunRecord
from regmix.runs import PROXY_ROLES
from regmix.sizes import ModelShape

REGMIX_RUNS = 512
REGMIX_TOKENS = 1_001 * 512 * 2_048
"""1,001 steps of 512 sequences of 2,048 tokens: 1.05B (arXiv 2407.01492 and its released code)."""
REGMIX_VOCABULARY = 50_432
REGMIX_MODEL = ModelShape(
    d_model=256, layers=2, heads=8, kv_heads=8, d_ff=512, context=2_048, qk_norm=False,
    tied_embeddings=False,
)  # fmt: skip
"""RegMix's "1M", whose head is most of its FLOPs."""
ASSUMPTIONS = (
    "finished runs only; failed and repeated attempts are not in their records",
    "evaluation FLOPs are those of each domain's held-out text up to train.eval_bytes and of what "
    "was read and written for tasks, a forward pass at a third of training's FLOPs a token",
    f"RegMix (arXiv 2407.01492): {REGMIX_RUNS} proxies of 1,001 steps of 1.05M tokens, 256 wide, 2 "
    "layers, MLP 512, vocabulary 50,432 not tied, context 2,048; counted by the same formula, its "
    "evaluations left out; set beside the proxies, seconds at their speed in FLOPs a second",
)


@dataclass(frozen=True)
class Account:
    """What was spent."""

    roles: pd.DataFrame
    """By role: ``runs``, ``tokens``, ``flops`` (training), ``evaluation`` (FLOPs; NaN where the
    data is not here, or a result does not say what was read), ``device_hours``."""
    regmix: dict[str, float]
    """``runs``, ``tokens``, ``flops``, ``device_hours`` (NaN without a speed) of RegMix's."""
    ratio: float
    """FLOPs of RegMix's recipe over those of the proxies here; NaN without any."""
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def evaluation_share(self) -> float:
        """Of all FLOPs; NaN where it is not known."""
        spent = float(self.roles["evaluation"].sum(skipna=False))
        total = float(self.roles["flops"].sum()) + spent
        return spent / total if total else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, NaN as None, for ``--json``."""
        return {
            "roles": plain.records(self.roles),
            "evaluation_share": plain.row({"share": self.evaluation_share})["share"],
            "regmix": plain.row(self.regmix),
            "ratio": plain.row({"ratio": self.ratio})["ratio"],
            "assumptions": list(self.assumptions),
        }


def account(records: Sequence[RunRecord], manifest: DataManifest | None) -> Account:
    """Add up finished runs.

    Args:
        manifest: of the data; None where runs were measured elsewhere.
    """
    held_out = None if manifest is None else _held_out(manifest)
    rows = [_spent(r, held_out) for r in records if r.status == "done"]
    columns = ["role", "tokens", "flops", "evaluation", "device_hours"]
    frame = pd.DataFrame(rows, columns=columns)
    groups = frame.groupby("role")
    roles = groups[columns[1:]].sum()
    roles["evaluation"] = groups["evaluation"].apply(lambda own: own.sum(skipna=False))
    roles.insert(0, "runs", groups.size())
    proxies = roles[roles.index.isin(PROXY_ROLES)]
    flops, hours = float(proxies["flops"].sum()), float(proxies["device_hours"].sum())
    theirs = REGMIX_RUNS * REGMIX_TOKENS * REGMIX_MODEL.flops_per_token(REGMIX_VOCABULARY)
    return Account(
        roles,
        {
            "runs": float(REGMIX_RUNS),
            "tokens": float(REGMIX_RUNS * REGMIX_TOKENS),
            "flops": theirs,
            "device_hours": theirs * hours / flops if flops else float("nan"),
        },
        theirs / flops if flops else float("nan"),
    )


def _held_out(manifest: DataManifest) -> Mapping[str, tuple[int, int]]:
    """Tokens and bytes of every domain's held-out text."""
    return {d.name: (d.valid.tokens, d.valid.text_bytes) for d in manifest.domains}


def _spent(
    record: RunRecord, held_out: Mapping[str, tuple[int, int]] | None
) -> dict[str, str | float]:
    spec, result = record.spec, record.result()
    return {
        "role": spec.role,
        "tokens": float(result["tokens"]),
        "flops": float(result["flops"]),
        "evaluation": float("nan") if held_out is None else _evaluated(record, held_out),
        "device_hours": float(result["seconds"])
        * int(result["environment"].get("processes", 1))
        / 3600,
    }


def _evaluated(record: RunRecord, held_out: Mapping[str, tuple[int, int]]) -> float:
    spec = record.spec
    text = sum(
        tokens * min(1.0, spec.plan.eval_bytes / size) for tokens, size in held_out.values() if size
    )
    counts = [found["counts"] for found in record.evals()]
    asked = [float(c.get("tokens_read", "nan")) + float(c.get("tokens_written", 0)) for c in counts]
    tokens = len(spec.plan.eval_steps) * text + sum(asked)
    return tokens * spec.model.flops_per_token(spec.vocab_size) / 3
