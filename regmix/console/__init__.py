"""What a person sees in the terminal: progress with ETA, aligned tables, one summary."""

from regmix.console.decisions import show_diagnosis, show_pareto
from regmix.console.demo import show_costs, show_outcome, show_summary
from regmix.console.fits import show_fit
from regmix.console.progress import TerminalDisplay
from regmix.console.runs import (
    show_import,
    show_manifest,
    show_model,
    show_plan,
    show_proposed,
    show_status,
    show_trained,
)
from regmix.console.terminal import console, say, show_frame, show_notes

__all__ = [
    "TerminalDisplay",
    "console",
    "say",
    "show_costs",
    "show_diagnosis",
    "show_fit",
    "show_frame",
    "show_import",
    "show_manifest",
    "show_model",
    "show_notes",
    "show_outcome",
    "show_pareto",
    "show_plan",
    "show_proposed",
    "show_status",
    "show_summary",
    "show_trained",
]
