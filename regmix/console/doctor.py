"""An installation's checks, a line each, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from regmix.console.terminal import say
from regmix.doctor import Check, worst

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def show_checks(checks: Sequence[Check]) -> None:
    """Every check, what to do below those that are not ok, and a last line on all."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        state = f"[{_STYLES[check.state]}]{check.state:<7}[/]"
        say(f"{state}  {escape(check.name):<{width}}  {escape(check.found)}")
        if check.advice:
            say(f"{'':<{7 + 2 + width}}  → {check.advice}", markup=False)
    counts = {s: sum(c.state == s for c in checks) for s in _STYLES}
    if worst(checks) == "ok":
        say(f"all {len(checks)} checks are ok")
    else:
        say(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} ok")
