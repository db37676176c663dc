"""Runs that were measured elsewhere become a study, or a part of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from regmix import config, imports, yaml_io
from regmix.direction import sign
from regmix.errors import UserError
from regmix.files import expanded, write_text
from regmix.layout import StudyLayout
from regmix.pages import page
from regmix.study import Study


def create_for_import(root: Path, runs: imports.ImportedRuns, sources: list[Path]) -> Study:
    """Open the study at ``root``, or create one for the imported domains, and keep the runs.

    Raises:
        UserError: the study has other domains, holds a run of the same id already, or would count a
            metric as better low that is better high (or the other way round).
    """
    layout = StudyLayout(expanded(root).resolve())
    if not layout.config.exists():
        for name in runs.weights.columns:
            config.check_name(name, str(sources[0]))
        write_text(layout.config, _imported_yaml(config.name_from(layout.root), runs))
    study = Study.open(layout.root)
    if set(study.domains) != set(runs.weights.columns):
        raise UserError(
            f"{layout.config}: domains {', '.join(study.domains)}; the import has "
            f"{', '.join(runs.weights.columns)}"
        )
    wrong = _misread(runs, study.config.objective)
    if wrong:
        lines = ", ".join(f"{m}: {d}" for m, d in wrong.items())
        raise UserError(
            f"{layout.config}: the objective would count metrics the wrong way round; write "
            f"`objective: {{directions: {{{lines}}}}}` into it (or the other direction, if that is "
            f"what you mean); {page('IMPORTS', 'which-way-is-better')} says how it is decided"
        )
    imports.check_new(layout, runs)
    ordered = replace(runs, weights=runs.weights[list(study.domains)])
    imports.save(layout, ordered, sources)
    return study


def _imported_yaml(name: str, runs: imports.ImportedRuns) -> str:
    """``study.yaml`` for runs that were measured elsewhere."""
    content: dict[str, Any] = {"name": name, "domains": [{"name": str(d)} for d in runs.weights]}
    directions = _misread(runs, config.ObjectiveConfig())
    if directions:
        content["objective"] = {"directions": directions}
    return "# Created by `regmix import`: measured elsewhere.\n" + yaml_io.dump(content)


def _misread(runs: imports.ImportedRuns, given: config.ObjectiveConfig) -> dict[str, str]:
    """Metrics that would be counted against the direction that their source or name tells."""
    return {
        metric: told
        for metric, told in runs.directions.items()
        if metric not in given.directions
        and sign(metric, given.directions) != (1 if told == "lower" else -1)
    }
