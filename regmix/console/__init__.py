"""What a person sees in the terminal: progress with ETA, aligned tables, one summary."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regmix.console.decisions import show_diagnosis, show_pareto
    from regmix.console.demo import show_costs, show_outcome, show_summary
    from regmix.console.doctor import show_checks
    from regmix.console.evals import show_model_metrics, show_study_metrics
    from regmix.console.exports import show_exported, show_imported_mixture, show_places
    from regmix.console.fits import show_fit
    from regmix.console.launches import show_estimate, show_log, show_submitted
    from regmix.console.live import keep_report, watch
    from regmix.console.noise import show_account, show_differences, show_flags, show_noise
    from regmix.console.progress import TerminalDisplay
    from regmix.console.runs import (
        show_import,
        show_manifest,
        show_proposed,
        show_trained,
    )
    from regmix.console.state import show_status
    from regmix.console.terminal import console, say, show_frame, show_json, show_notes
    from regmix.console.transfers import show_transfer, show_verdicts

__all__ = [
    "TerminalDisplay",
    "console",
    "keep_report",
    "say",
    "show_account",
    "show_checks",
    "show_costs",
    "show_diagnosis",
    "show_differences",
    "show_estimate",
    "show_exported",
    "show_fit",
    "show_flags",
    "show_frame",
    "show_import",
    "show_imported_mixture",
    "show_json",
    "show_log",
    "show_manifest",
    "show_model_metrics",
    "show_noise",
    "show_notes",
    "show_outcome",
    "show_pareto",
    "show_places",
    "show_proposed",
    "show_status",
    "show_study_metrics",
    "show_submitted",
    "show_summary",
    "show_trained",
    "show_transfer",
    "show_verdicts",
    "watch",
]

_MODULES = {
    "decisions": ("show_diagnosis", "show_pareto"),
    "demo": ("show_costs", "show_outcome", "show_summary"),
    "doctor": ("show_checks",),
    "evals": ("show_model_metrics", "show_study_metrics"),
    "exports": ("show_exported", "show_imported_mixture", "show_places"),
    "fits": ("show_fit",),
    "launches": ("show_estimate", "show_log", "show_submitted"),
    "live": ("keep_report", "watch"),
    "noise": ("show_account", "show_differences", "show_flags", "show_noise"),
    "progress": ("TerminalDisplay",),
    "runs": (
        "show_import", "show_manifest", "show_proposed", "show_trained",
    ),
    "state": ("show_status",),
    "transfers": ("show_transfer", "show_verdicts"),
    "terminal": ("console", "say", "show_frame", "show_json", "show_notes"),
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load on first use: a glance at a study must not wait for what draws a fit."""
    if name not in _HOME:
        raise AttributeError(f"module 'regmix.console' has no attribute '{name}'")
    return getattr(import_module(f"regmix.console.{_HOME[name]}"), name)
