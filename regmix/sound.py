"""Sound runs: what a study's figures are taken from, and which runs are left out of them and why.

One place, so that fits, noise, comparisons and transfer leave out the same runs: those that
``fit.exclude`` names, and with ``fit.flagged: exclude`` those that a rule flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from regmix import flags, planning
from regmix.config import FitConfig
from regmix.flags import Flags, Rung
from regmix.folder import StudyFolder
from regmix.observations import Observations
from regmix.store import Store
from regmix.store.assembling import largest


@dataclass(frozen=True)
class Sound:
    """The finished proxies and larger runs of a study, and what is wrong with which."""

    data: Observations
    """Without what ``fit.exclude`` names."""
    larger: tuple[Rung, ...]
    """Likewise, a size of ``ladder:`` each."""
    names: dict[str, str]
    """Of all of these by run id, with those that are left out."""
    excluded: dict[str, str]
    """By run id, that the person left it out."""
    settings: FitConfig
    store: Store

    @classmethod
    def of(cls, study: StudyFolder, store: Store, settings: FitConfig) -> Sound:
        """Read what is measured.

        Raises:
            UserError: nothing is measured yet, or ``fit.exclude`` names a run that is not there.
        """
        data = observations(study, store)
        larger, names = _larger(study, store, data)
        names |= data.names
        excluded = flags.excluded(names, settings, str(study.layout.config))
        rungs = tuple(rung.without(excluded) for rung in larger)
        return cls(data.without(excluded), rungs, names, excluded, settings, store)

    @cached_property
    def flags(self) -> Flags:
        """What is wrong with which run."""
        runs = [*self.data.metrics.index, *self.data.replicates.index]
        runs += [run for rung in self.larger for run in rung.metrics.index]
        trails = self.store.trails(list(dict.fromkeys(map(str, runs))))
        return flags.find(self.data, trails, self.larger)

    @cached_property
    def left_out(self) -> dict[str, str]:
        """By run id of any size, why it is left out."""
        if self.settings.flagged == "keep":
            return self.excluded
        return {**self.excluded, **flags.left_out(self.flags)}

    @cached_property
    def kept(self) -> Observations:
        """The proxies that figures are taken from."""
        return self.data.without(self.left_out)

    def notes(self) -> tuple[str, ...]:
        """Proxies that the noise is taken without, and flagged repeats that it is taken with."""
        proxies = self.names.keys() - {r for rung in self.larger for r in rung.metrics.index}
        said = [
            f"without {self.names[r]} ({why})" for r, why in self.left_out.items() if r in proxies
        ]
        said += [
            f"with {self.names[r]}, which is flagged ({why}); `fit: {{flagged: exclude}}` and "
            "fit.exclude leave it out"
            for r, why in self.flags.reasons().items()
            if r in self.kept.replicates.index
        ]
        return tuple(said)


def observations(study: StudyFolder, store: Store) -> Observations:
    """Mixtures and metrics of the finished proxies, whatever is wrong with them.

    Raises:
        UserError: nothing is measured yet, or the runs are of other domains than the study's.
    """
    wanted = planning.template(study, study.config.proxy).cohorts if study.manifest else ()
    found = store.observations(wanted)
    return found.of_domains(study.domains, str(study.layout.config))


def _larger(
    study: StudyFolder, store: Store, data: Observations
) -> tuple[list[Rung], dict[str, str]]:
    """The finished runs of the ladder, size by size; and their names by run id."""
    if not (study.config.ladder and study.manifest):
        return [], {}
    info, values, _ = store.measured()
    proxies = {m: str(r) for r, m in info.loc[data.metrics.index, "mixture"].items()}
    rungs: list[Rung] = []
    names: dict[str, str] = {}
    for step in study.config.ladder:
        own = info[info["role"] == "ladder"]
        chosen = largest(own["cohort"].value_counts(), planning.template(study, step).cohorts)
        own = own[own["cohort"] == chosen]
        mixtures = {str(r): str(m) for r, m in own["mixture"].items()}
        rungs.append(
            Rung(
                metrics=values.loc[own.index].dropna(axis=1, how="all"),
                mixtures=mixtures,
                twins={r: proxies[m] for r, m in mixtures.items() if m in proxies},
            )
        )
        names |= {str(r): str(n) for r, n in own["name"].items()}
    return rungs, names
