"""The what-if explorer: a part of the report that predicts and optimises in the page itself.

``parts`` and ``compact`` are what the page computes; ``export`` makes it of a fit (``exact``,
``standin``, ``sampling``) and ``agreement`` measures how far it is off, which ``words`` says;
``content`` gathers what the page is given, ``payload`` writes it. The page's part is
``explorer.html``, ``explorer.css`` and ``js/``.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from regmix.observations import Observations
from regmix.report.explorer import words
from regmix.report.explorer.content import Explorer, build
from regmix.results import Fit
from regmix.solve import EXTRAPOLATES
from regmix.study import Study

__all__ = ["Explorer", "build", "context"]


def context(study: Study, data: Observations, fit: Fit | None) -> dict[str, Any] | None:
    """What ``explorer.html`` is filled with; None without a fit."""
    if fit is None:
        return None
    built = build(study, data, fit)
    return {
        "data": Markup(built.data),  # noqa: S704 - escaped where it is written
        "scripts": [Markup(script) for script in built.scripts],  # noqa: S704 - our own files
        "script_hashes": Markup(built.script_hashes),  # noqa: S704 - base64
        "css": Markup(built.css),  # noqa: S704 - our own file
        "domains": built.domains,
        "metrics": built.metrics,
        "factor": f"{EXTRAPOLATES:g}",
        "agreement": words.describe(built.agreement),
        "agreement_table": words.table(built.agreement),
    }
