"""Differences: do mixtures, runs or models differ by more than seeds do, metric by metric?

Runs are paired by seed where they share seeds: they then differ by what is compared alone. The
noise of a difference is that of two runs of one mixture, with its degrees of freedom; the many
metrics that one looks at are paid for in the p-values (Holm 1979). How far other texts could turn
it is told by pairs of documents and questions (:mod:`regmix.paired`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy

from regmix import foreign, noise, paired, plain
from regmix.direction import sign
from regmix.errors import UserError, unknown_name
from regmix.folder import StudyFolder
from regmix.foreign import Foreign
from regmix.mixture import MixtureFile
from regmix.noise import NoiseFloor
from regmix.observations import Observations
from regmix.paired import Items, Paired
from regmix.runs import PROXY_ROLES
from regmix.store import Store

NOTHING = "no detectable difference"
UNKNOWN = "not known: nothing was repeated"
MODELS = " as these models are; seeds are not known"
"""Said where pairs of documents or questions differ and nothing was repeated: the models do differ
on texts of this kind, and whether other seeds of theirs would is another question."""
_HERE = " on these texts"
"""Said where other texts of the same kind could turn it."""


@dataclass(frozen=True)
class Subject:
    """What is compared: finished runs of one mixture, or one run."""

    name: str
    runs: pd.DataFrame
    """As :meth:`regmix.store.Store.measured` gives them, of one cohort."""
    items: tuple[Items, ...] = ()
    """What every run came to item by item, in their order."""


@dataclass(frozen=True)
class Differences:
    """Every other subject against the first."""

    subjects: tuple[str, ...]
    frame: pd.DataFrame
    """A row for each other subject (``name``) and ``metric``: ``first``, ``value`` (means over the
    seeds that both have, or over all), ``difference`` (value - first), ``std_error`` (by seeds),
    ``freedom``, ``p`` (Holm-corrected over the whole table), ``std_error_texts`` (over pairs of
    documents or questions, or of both sampling errors in full where there are none), ``items`` (so
    many pairs; 0: none), ``std_error_any``, ``p_any`` (by seeds and texts together; by texts alone
    where seeds are not known; NaN where texts are not), ``seeds`` (that both have; 0: not paired),
    ``verdict``."""
    notes: tuple[str, ...]

    def detected(self, name: str) -> pd.DataFrame:
        """The metrics on which a subject differs from the first."""
        own = self.frame[self.frame["name"] == name]
        return own[own["p"].fillna(own["p_any"]) < 1 - noise.LEVEL]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, NaN as None, for ``--json``."""
        return {
            "subjects": list(self.subjects),
            "differences": plain.records(self.frame),
            "notes": list(self.notes),
        }


def compare(
    study: StudyFolder,
    store: Store,
    names: Sequence[str],
    left_out: Mapping[str, str] | None = None,
) -> Differences:
    """Compare finished runs of a study.

    Args:
        names: mixtures (``natural``, ``uniform``, files' names in ``mixes/``, paths of mixture
            files) or runs (ids, beginnings of ids, names, paths of their models); a name that
            is both counts as the mixture, with all of its seeds; or models that the study does not
            know, by the JSON file that ``regmix eval MODEL -o`` wrote.
        left_out: by run id, why a run is no part of its mixture's figures and of the noise; one
            that is asked for itself is compared all the same.

    Raises:
        UserError: fewer than two, an unknown or ambiguous name, nothing finished on a mixture, no
            size at which all were trained, or two names for the same runs.
    """
    if len(names) < 2:
        raise UserError("compare: two or more mixtures, runs or models are needed")
    info, values, errors = store.measured()
    unknown = foreign.read(names, study.layout)
    info, values, errors = foreign.beside(unknown, info, values, errors)
    left_out = left_out or {}
    sound = info[~info.index.isin(list(left_out))]
    found = [_find(study, info, sound, name) for name in names]
    subjects, notes = _one_cohort(found, info)
    notes += _left_out(subjects, info, left_out)
    for i, a in enumerate(subjects):
        for b in subjects[i + 1 :]:
            shared = a.runs.index.intersection(b.runs.index)
            if len(shared):
                raise UserError(f"compare: '{a.name}' and '{b.name}' share run {shared[0]}")
    metrics = _common_metrics(subjects, values, notes)
    floor = _floor(subjects, sound, values, metrics, notes, all_known=not unknown)
    subjects = [_with_items(s, study, unknown) for s in subjects]
    rows = [
        _row(subjects[0], other, m, values[m], errors[m], floor, study)
        for other in subjects[1:]
        for m in metrics
    ]
    notes += paired.unpaired(rows)
    frame = pd.DataFrame(rows)
    frame["p"], frame["p_any"] = (noise.holm(frame[c].tolist()) for c in ("p", "p_any"))
    frame["verdict"] = [_verdict(row) for row in frame.to_dict("records")]
    frame = frame.drop(columns=["sign", "why"])
    return Differences(tuple(s.name for s in subjects), frame, tuple(notes))


def _with_items(subject: Subject, study: StudyFolder, unknown: Mapping[str, Foreign]) -> Subject:
    items = tuple(
        unknown[run].items if run in unknown else paired.of_run(study.layout, study.layout.run(run))
        for run in map(str, subject.runs.index)
    )
    return replace(subject, items=items)


def _find(study: StudyFolder, info: pd.DataFrame, sound: pd.DataFrame, name: str) -> Subject:
    path = Path(name)
    if foreign.is_file(name):
        return Subject(name, info.loc[[name]])
    if path.suffix in (".yaml", ".yml") and path.is_file():
        mixture = MixtureFile.load(path, study.domains).mixture.id
        return _of_mixture(name, info, sound, mixture)
    if path.is_dir():
        return _of_model(study, info, path)
    files = {p.stem for p in study.layout.mixes.glob("*.yaml")}
    if name in files or name in study.references():
        return _of_mixture(name, info, sound, study.mixture(name).id)
    own = info[info["name"] == name]
    if own.empty:
        own = info[info.index.str.startswith(name)] if name else own
    if len(own) > 1:
        raise UserError(
            f"compare: '{name}' could be any of {', '.join(own.index[:5])}; give the run's id"
        )
    if own.empty:
        valid = {*study.references(), *files, *map(str, info["name"])}
        raise unknown_name("mixture or finished run", name, valid, "compare")
    return Subject(name, own)


def _of_mixture(name: str, info: pd.DataFrame, sound: pd.DataFrame, mixture: str) -> Subject:
    own = sound[sound["mixture"] == mixture]
    if own.empty:
        gone = info.loc[info["mixture"] == mixture, "name"]
        raise UserError(
            f"compare: no finished run was trained on mixture '{name}'"
            if gone.empty
            else f"compare: the study leaves out all runs of mixture '{name}' (fit.exclude, "
            f"fit.flagged): {', '.join(gone)}"
        )
    return Subject(name, own)


def _of_model(study: StudyFolder, info: pd.DataFrame, path: Path) -> Subject:
    runs = study.layout.runs.resolve()
    for folder in (path.resolve(), *path.resolve().parents):
        if folder.parent == runs and folder.name in info.index:
            return Subject(str(path), info.loc[[folder.name]])
    raise UserError(
        f"compare: {path}: no model of a finished run of this study ({runs}); measure another with "
        f"`regmix eval {path} --tasks … -o FILE.json`, and compare FILE.json"
    )


def _one_cohort(found: Sequence[Subject], info: pd.DataFrame) -> tuple[list[Subject], list[str]]:
    """The subjects at the one size and horizon that says most: most seeds, then largest.

    Models that the study does not know stand beside it.
    """
    ours = [s for s in found if not (s.runs["role"] == foreign.ROLE).any()]
    if 0 < len(ours) < len(found):
        chosen_ones, notes = _one_cohort(ours, info)
        by_name = {s.name: s for s in chosen_ones}
        return [by_name.get(s.name, s) for s in found], notes
    shared = set.intersection(*(set(s.runs["cohort"]) for s in found))
    if not shared:
        if any(len(s.runs) > 1 for s in found):
            raise UserError(
                "compare: "
                + "; ".join(f"'{s.name}' has {_sizes(s.runs)}" for s in found)
                + ": no size at which all were trained"
            )
        return list(found), [
            "the runs differ in model, training or data: what differs may not be the mixture"
        ]
    seeds = {c: min(int((s.runs["cohort"] == c).sum()) for s in found) for c in shared}
    largest = info.groupby("cohort")["parameters"].max()
    chosen = max(sorted(shared), key=lambda c: (seeds[c], float(largest.fillna(0)[c])))
    notes = []
    if len(shared) > 1:
        kept = pd.concat([s.runs[s.runs["cohort"] == chosen] for s in found])
        notes.append(f"of {len(shared)} sizes that all were trained at: {_sizes(kept)}")
    return [Subject(s.name, s.runs[s.runs["cohort"] == chosen]) for s in found], notes


def _left_out(
    subjects: Sequence[Subject], info: pd.DataFrame, left_out: Mapping[str, str]
) -> list[str]:
    """The runs of a mixture with others, or of one that is compared, that are left out."""
    own = info[info["cohort"].isin(subjects[0].runs["cohort"])]
    compared = {m for s in subjects for m in s.runs["mixture"]}
    matter = own["mixture"].duplicated(keep=False) | own["mixture"].isin(compared)
    asked = {r for s in subjects for r in s.runs.index}
    return [
        f"{info['name'][r]} is compared, though the study leaves it out ({left_out[r]})"
        if r in asked
        else f"without {info['name'][r]} ({left_out[r]})"
        for r in own.index[matter]
        if r in left_out
    ]


def _sizes(runs: pd.DataFrame) -> str:
    roles = sorted({"proxies" if r in PROXY_ROLES else f"{r} runs" for r in runs["role"]})
    return " and ".join(roles)


def _common_metrics(
    subjects: Sequence[Subject], values: pd.DataFrame, notes: list[str]
) -> list[str]:
    runs = [r for s in subjects for r in s.runs.index]
    had = values.loc[runs].notna()
    metrics = [str(m) for m in values if had[m].all()]
    if not metrics:
        raise UserError("compare: no metric that all of these runs have")
    lacking = [str(m) for m in values if had[m].any() and not had[m].all()]
    if lacking:
        notes.append(f"not compared, since some of the runs lack them: {', '.join(lacking)}")
    return metrics


def _floor(
    subjects: Sequence[Subject],
    info: pd.DataFrame,
    values: pd.DataFrame,
    metrics: list[str],
    notes: list[str],
    *,
    all_known: bool,
) -> NoiseFloor:
    """The noise of runs like these; where none of them was repeated, that of the proxies.

    Args:
        all_known: whether the study knows all of them; else nothing is known of their noise.
    """
    own = _of_runs(info[info["cohort"].isin(subjects[0].runs["cohort"])], values, metrics)
    if not all_known:
        notes.append("the study does not know all of these models: nothing is said of seeds")
        return noise.floor(replace(own, replicates=own.replicates.iloc[:0]))
    if noise.freedom(own):
        return noise.floor(own)
    proxies = info[info["role"].isin(PROXY_ROLES)]
    for cohort in proxies["cohort"].value_counts().index:
        known = _of_runs(proxies[proxies["cohort"] == cohort], values, metrics)
        if noise.freedom(known):
            notes.append("none of these was repeated: the seed noise is that of the proxies")
            return noise.floor(known)
    return noise.floor(own)


def _of_runs(info: pd.DataFrame, values: pd.DataFrame, metrics: list[str]) -> Observations:
    """Runs of one cohort that have all of the metrics."""
    whole = values.loc[info.index, metrics].dropna()
    mixtures = info.loc[whole.index, "mixture"]
    repeated = mixtures.duplicated(keep=False)
    return Observations(
        weights=pd.DataFrame(index=whole.index),
        metrics=whole,
        info=info.loc[whole.index],
        replicates=whole[repeated].assign(mixture=mixtures[repeated]),
    )


def _row(
    first: Subject,
    other: Subject,
    metric: str,
    values: pd.Series,
    errors: pd.Series,
    floor: NoiseFloor,
    study: StudyFolder,
) -> dict[str, Any]:
    a, b = (values.loc[s.runs.index].to_numpy(dtype=float) for s in (first, other))
    pairs = _by_seed(first.runs, other.runs, values)
    sigma, freedom = floor.at_most(metric)
    if len(pairs):
        a, b = pairs.T
        error = sigma * math.sqrt(2 / len(pairs))
        if len(pairs) - 1 > freedom:  # what the pairs themselves say is known better
            error = float((b - a).std(ddof=1)) / math.sqrt(len(pairs))
            freedom = len(pairs) - 1
    else:
        error = sigma * math.sqrt(1 / len(a) + 1 / len(b))
    difference = float(b.mean() - a.mean())
    texts, text_freedom, items, why = _over_texts(first, other, metric, errors)
    any_error, any_freedom = paired.together(error, freedom, texts, text_freedom)
    return {
        "name": other.name,
        "metric": metric,
        "first": float(a.mean()),
        "value": float(b.mean()),
        "difference": difference,
        "std_error": error,
        "freedom": freedom,
        "p": _p(difference, error, freedom),
        "std_error_texts": texts,
        "items": items,
        "why": why,
        "std_error_any": any_error,
        "p_any": _p(difference, any_error, any_freedom),
        "seeds": len(pairs),
        "sign": sign(metric, study.config.objective.directions),
    }


def _by_seed(a: pd.DataFrame, b: pd.DataFrame, values: pd.Series) -> np.ndarray:
    """Values of the runs that share a seed, shape ``(n_seeds, 2)``."""
    first, second = (
        values.loc[runs.index].groupby(runs["seed"]).mean() for runs in (a, b)
    )  # no group for a seed that is not known
    shared = first.index.intersection(second.index)
    return np.column_stack([first[shared], second[shared]])


def _over_texts(
    first: Subject, other: Subject, metric: str, errors: pd.Series
) -> tuple[float, float, int, str]:
    """Error of the difference over other texts, its degrees of freedom, pairs, why not paired."""
    found = paired.difference(first.items, other.items, metric)
    if isinstance(found, Paired):
        return found.std_error, found.freedom, found.items, ""
    sampled = [float((errors.loc[s.runs.index] ** 2).mean()) for s in (first, other)]
    return math.sqrt(sum(sampled)), math.inf, 0, found


def _p(difference: float, error: float, freedom: float) -> float:
    if freedom < 1 or math.isnan(error):
        return float("nan")
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * scipy.stats.t.sf(abs(difference) / error, freedom))


def _verdict(row: Mapping[Any, Any]) -> str:
    p = row["p_any"] if math.isnan(row["p"]) else row["p"]
    if math.isnan(p):
        return UNKNOWN
    if p >= 1 - noise.LEVEL:
        return NOTHING
    better = row["difference"] * row["sign"] < 0
    if math.isnan(row["p"]):
        return ("better" if better else "worse") + MODELS
    return ("better" if better else "worse") + (_HERE if row["p_any"] >= 1 - noise.LEVEL else "")
