"""Finding and reading ``study.yaml``, and what can be judged only once all of it is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from regmix.config.base import PATTERN, valid_name
from regmix.config.study import StudyConfig
from regmix.errors import UserError, unknown_name
from regmix.files import expanded
from regmix.layout import StudyLayout
from regmix.strict import load, place
from regmix.yaml_io import KeyPath

TEXT_METRICS = "bpb/"
"""Prefix of what every run on text measures: bits per byte on each of the study's domains."""


def find_study(path: str | Path) -> StudyLayout:
    """The study in a folder.

    Raises:
        UserError: there is no ``study.yaml``.
    """
    layout = StudyLayout(expanded(path).resolve())
    if not layout.config.is_file():
        raise UserError(f"{path}: no study.yaml in it; `regmix init {path}` writes one")
    return layout


def load_study(path: Path) -> StudyConfig:
    """Read ``study.yaml``.

    Raises:
        UserError: file, line, key, value and the valid choices of the first thing that is wrong.
    """
    config = load(path, StudyConfig)
    names = config.domain_names
    for index, name in enumerate(names):
        if name in names[:index]:
            where = place(path, ("domains", index))
            raise UserError(f"{where}: domain '{name}' is named twice")
    _known(path, config.space.bounds, names, ("space", "bounds"))
    for group, bound in config.space.groups.items():
        plain = [d for d in bound.domains if not PATTERN.search(d)]
        _known(path, plain, names, ("space", "groups", group, "domains"))
    for ratio, sides in config.space.ratios.items():
        for side, given in (("of", sides.of), ("to", sides.to)):
            plain = [d for d in given if not PATTERN.search(d)]
            _known(path, plain, names, ("space", "ratios", ratio, side))
    for name, shares in config.space.pinned.items():
        _known(path, shares, names, ("space", "pinned", name))
    return config


def check_text_metrics(path: Path, config: StudyConfig) -> None:
    """Refuse an objective over bits per byte of a domain that the study does not have.

    Other metrics are not judged: which ones there are is known only once something is measured.

    Raises:
        UserError: as :func:`load_study`.
    """
    valid = tuple(TEXT_METRICS + name for name in config.domain_names)
    named: dict[str, Iterable[str]] = {
        "weights": config.objective.weights,
        "directions": config.objective.directions,
    }
    for key, metrics in named.items():
        for metric in metrics:
            if metric.startswith(TEXT_METRICS):
                _known(path, (metric,), valid, ("objective", key, metric), "metric")


def check_name(value: str, where: str) -> None:
    """Refuse what cannot be the name of a domain.

    Raises:
        UserError: with the rule.
    """
    try:
        valid_name(value)
    except ValueError as exc:
        raise UserError(f"{where}: domain '{value}': {exc}") from exc


def name_from(folder: Path) -> str:
    """A study's name that follows from its folder's."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in folder.name)
    return kept.lstrip(".")[:200] or "study"


def _known(
    path: Path, given: Any, names: tuple[str, ...], key: KeyPath, kind: str = "domain"
) -> None:
    for name in given:
        if name not in names:
            raise unknown_name(kind, name, names, place(path, key))
