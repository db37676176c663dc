"""What models came to on tasks: figures with their standard errors, and what did not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.markup import escape

from regmix.console.terminal import say, show, show_notes, table
from regmix.files import read_json
from regmix.records import RunRecord

_SUBJECT = "subject"


class Evaluated(Protocol):
    """What was found of a study's models; `proxy_trainer.evals.afterwards` has it."""

    runs: list[RunRecord]
    tasks: list[str]
    step: int | None
    asked: int
    without: list[str]
    failed: dict[str, str]
    busy: list[str]
    notes: list[str]


def show_model_metrics(results: Sequence[Mapping[str, Any]]) -> None:
    """One model's: a row a metric of a task and of its groups."""
    for result in results:
        shown = table(result["task"], "metric", "value", "± standard error", "of")
        for metric in result["metrics"]:
            if metric["split"] != _SUBJECT:
                error = metric["std_error"]
                shown.add_row(
                    escape(metric["name"]), f"{metric['value']:.4f}",
                    "" if error is None else f"{error:.4f}", f"{metric['count']:,}",
                )  # fmt: skip
        show(shown)
        show_notes(result["notes"])


def show_study_metrics(found: Evaluated) -> None:
    """A study's: a row a model, the metrics of the tasks alone."""
    rows = {
        f"{record.spec.name} {record.spec.run_id}": {
            metric["name"]: metric
            for task in found.tasks
            if (path := record.layout.asked(task, found.step).done).is_file()
            for metric in read_json(path)["metrics"]
            if metric["name"].count("/") == 1
        }
        for record in found.runs
    }
    names = list(dict.fromkeys(name for own in rows.values() for name in own))
    if names:
        shown = table("Models", "run", *names)
        for run, own in rows.items():
            shown.add_row(escape(run), *(_figure(own.get(name)) for name in names))
        show(shown)
    show_notes(found.notes)
    for run_id, reason in found.failed.items():
        say(f"[red]failed[/red] {run_id}: {escape(reason)}")
    say(f"{found.asked} of {len(found.runs)} models asked now, the others were before")
    if found.busy:
        say(f"being asked by another command: {escape(', '.join(found.busy))}")
    if found.without:
        more = f" … ({len(found.without)} in all)" if len(found.without) > 6 else ""
        whose = escape(", ".join(found.without[:6])) + more
        if found.step is not None:
            say(f"no checkpoint of step {found.step} is there of {whose}")
            return
        say(
            f"no model is kept of {whose}; `evaluate:` in study.yaml measures such runs as they "
            "end, `proxy.keep_model` and `ladder.keep_model` keep their models"
        )


def _figure(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ""
    error = metric["std_error"]
    return f"{metric['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")
