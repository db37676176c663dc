"""Evidence: everything that figures and the report are made of, each part read once, when asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from regmix import comparison, noise, pareto, results
from regmix.choosing import Choosing
from regmix.comparison import Comparison, Gain
from regmix.diagnose import curve
from regmix.diagnose.curve import Curve
from regmix.files import read_json, write_json
from regmix.folder import StudyFolder
from regmix.mixture import Mixture
from regmix.noise import SeedNoise
from regmix.objective import Objective, of_themselves
from regmix.observations import Observations
from regmix.pareto import Pareto
from regmix.plot import frames
from regmix.records import RunRecord, read_runs
from regmix.results import Fit
from regmix.sound import Sound
from regmix.store import Store

LEARNING = "learning.json"
LEARNING_ROUNDS = 1
"""Of the learning curve; `regmix diagnose` takes more, and longer, for narrower intervals."""

MATH_AND_CODE = ("math", "gsm", "code", "humaneval", "mbpp")
KNOWLEDGE = ("knowledge", "mmlu", "facts", "trivia")
"""Parts of metrics' names."""


@dataclass(frozen=True)
class Evidence:
    """A study as it stands when each part is first asked for; later runs are not in it."""

    study: StudyFolder
    store: Store

    @cached_property
    def measured(self) -> Sound:
        """The runs and what is wrong with which; flags are looked for once, and when asked for.

        Raises:
            UserError: nothing is measured yet.
        """
        return Sound.of(self.study, self.store, self.study.config.fit)

    @property
    def data(self) -> Observations:
        """The proxies that figures are taken from."""
        return self.measured.kept

    @cached_property
    def records(self) -> list[RunRecord]:
        """Every run that was proposed."""
        return read_runs(self.study.layout)

    @cached_property
    def fit(self) -> Fit | None:
        """The latest fit; None before there is one."""
        if not (self.study.layout.fits / results.LATEST).exists():
            return None
        return results.load(self.study.layout, self.study.domains)

    @property
    def fitted(self) -> Fit:
        """The latest fit.

        Raises:
            UserError: nothing is fitted yet.
        """
        return self.fit or results.load(self.study.layout, self.study.domains)

    @cached_property
    def comparison(self) -> Comparison | None:
        """What was measured at the target size; None before a fit, or where nothing was."""
        if self.fit is None:
            return None
        named = {frames.PROPOSAL: self.fit.best, **self.study.references()}
        reference = self.study.reference(self.fit.objective)
        return comparison.measured(self.store, self.fit.objective, named, reference)

    @property
    def gains(self) -> dict[str, Gain]:
        """Measured gains of the objective by reference."""
        if self.fit is None or self.comparison is None:
            return {}
        return comparison.gains(self.fit.proposal, self.comparison)

    @property
    def objective(self) -> Objective:
        """The fit's objective; the study's own before there is a fit."""
        if self.fit is not None:
            return self.fit.objective
        refused: Mapping[str, str] = noise.refused(self.data)
        if set(of_themselves(self.data.metric_names)) <= set(refused):
            refused = {}  # nothing would be fitted; what was measured is shown all the same
        return Objective.from_config(
            self.study.config.objective, self.data.metric_names, refused=refused
        )

    @property
    def noise(self) -> SeedNoise:
        """Of the objective, between seeds of one mixture."""
        if self.fit is not None:
            return self.fit.objective_noise
        return SeedNoise.of(self.data, self.objective.value)

    @property
    def known_noise(self) -> float | None:
        """Its standard deviation; None where nothing was repeated."""
        return None if math.isnan(self.noise.std) else self.noise.std

    @cached_property
    def weights(self) -> pd.DataFrame:
        """Shares of the proposal (if there is one) and of the references, by domain."""
        named: dict[str, Mixture] = {} if self.fit is None else {frames.PROPOSAL: self.fit.best}
        return frames.weights({**named, **self.study.references()})

    @property
    def judged(self) -> Observations:
        """The runs that the fit has seen, without those that were measured later."""
        late = self.data.metrics.index.difference(self.fitted.held_out.index)
        return self.data.without(dict.fromkeys(late, "measured after the fit"))

    @cached_property
    def learning(self) -> Curve | None:
        """The learning curve of the decision; None with too few runs, or before a fit.

        Computed once a fit, and kept in its folder.
        """
        if self.fit is None:
            return None
        kept = self.fit.folder / LEARNING
        if not kept.exists():
            objective = self.fit.objective
            kind = curve.choose(self.fit.surrogate, objective)
            found = curve.learn(self.judged, objective, kind, rounds=LEARNING_ROUNDS)
            write_json(kept, {"curve": None if found is None else found.as_dict()})
        raw = read_json(kept)["curve"]
        return None if raw is None else Curve.of(raw)

    def front(self, x: str, y: str) -> Pareto:
        """The front between two groups of metrics, by the latest fit; kept beside the fit.

        Raises:
            UserError: nothing is fitted yet, or a name stands for no metric or for several.
        """
        return Choosing(self.study, self.data).pareto(self.fitted, x, y)

    def usual_front(self) -> Pareto | None:
        """The front that was last computed for the fit, else that between :attr:`usual_sides`.

        None without a fit, or where there are no such sides.

        Raises:
            UserError: the study's groups do not make two sides.
        """
        if self.fit is None:
            return None
        found = pareto.latest(self.fit.folder)
        if found is None and self.usual_sides is not None:
            found = self.front(*self.usual_sides)
        return found

    @property
    def usual_sides(self) -> tuple[str, str] | None:
        """The study's first two groups of metrics; without two, math and code against knowledge."""
        groups = list(self.study.config.objective.groups)
        if len(groups) >= 2:
            return groups[0], groups[1]
        return sides_by_name(self.fitted.surrogate.metric_names)


def sides_by_name(metrics: Sequence[str]) -> tuple[str, str] | None:
    """Math and code against knowledge, among the metrics that an objective takes of itself."""
    names = of_themselves(metrics)
    knowing = [m for m in names if any(word in m.lower() for word in KNOWLEDGE)]
    doing = [m for m in names if any(word in m.lower() for word in MATH_AND_CODE)]
    doing = [m for m in doing if m not in knowing]
    return (",".join(doing), ",".join(knowing)) if doing and knowing else None
