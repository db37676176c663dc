"""The page: reads a study once, lets its figures, tables and text say what there is."""

from __future__ import annotations

import webbrowser
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from regmix import __version__
from regmix.files import write_text
from regmix.report import explorer, sections
from regmix.study import Study


def render(study: Study) -> str:
    """The report as one HTML document that needs nothing beside itself.

    Raises:
        UserError: nothing is measured yet, or something in the study's files is wrong.
    """
    plots = study.plot
    evidence = plots.evidence
    environment = Environment(
        loader=PackageLoader("regmix.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        name=study.config.name,
        root=str(study.layout.root),
        version=__version__,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        fitted=evidence.fit is not None,
        answer=sections.answer(plots),
        comparison=sections.comparison(plots),
        belief=sections.belief(plots),
        drivers=sections.drivers(plots),
        front=sections.front(plots),
        swarm=sections.swarm(plots),
        history=sections.history(plots),
        explorer=explorer.context(study, evidence.data, evidence.fit),
    )


def write(study: Study) -> Path:
    """Write the report to ``report/index.html`` in the study, whole; returns its path.

    Raises:
        UserError: as :func:`render`, or the folder is not writable.
    """
    write_text(study.layout.report, render(study))
    return study.layout.report


def show(path: Path) -> bool:
    """Open a report in the browser; whether there is one that took it."""
    try:
        return webbrowser.open(path.resolve().as_uri())
    except webbrowser.Error:
        return False
