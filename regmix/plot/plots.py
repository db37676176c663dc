"""Plots: every figure of the report, as a method; in the report's order.

All show the study as it was when it was first looked at through this object. Figures that need a
fit raise :class:`~regmix.errors.UserError` before there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from regmix import noise
from regmix.direction import sign
from regmix.errors import UserError, unknown_name
from regmix.noise import SeedNoise
from regmix.pareto import Pareto
from regmix.plot import captions, effects, frames, movers, trust
from regmix.plot.draw import answer, belief, drivers, swarm
from regmix.plot.draw import front as front_drawing
from regmix.plot.effects import DOMAINS, METRICS, Part, Quantity, Scene, Whole
from regmix.plot.evidence import Evidence
from regmix.plot.figure import Figure
from regmix.plot.paper import MANY_POINTS
from regmix.solve import EXTRAPOLATES

SHARE, VARIATION = "share of training tokens", "total variation"
OBJECTIVE = "objective"
PANEL, SMALL_PANEL = 4.4, 2.5
"""Width of the held-out figures, in inches."""
NOISE_ROWS = 24


@dataclass(frozen=True)
class Plots:
    """The figures of a study."""

    evidence: Evidence

    # The answer.

    def weights(self) -> Figure:
        """Shares of the proposal beside natural and uniform, with the range each may take.

        Raises:
            UserError: there is neither a proposal nor a natural mixture.
        """
        frame = self.evidence.weights
        if not {frames.PROPOSAL, "natural"} & set(frame):
            raise UserError("weights: there is no proposal yet, and the natural mixture is unknown")
        if self.evidence.fit is not None:
            frame = frame.join(frames.certainty(self.evidence.fit.proposal))
        return Figure(
            "Share of every domain by mixture",
            captions.weights(frame),
            frame,
            lambda paper: answer.weights(frame, paper),
            dict.fromkeys(map(str, frame), SHARE),
        )

    def gains(self) -> Figure:
        """Gain of the objective over natural, uniform and the best run: predicted and measured."""
        e = self.evidence
        frame = trust.gains(e.fitted.proposal, e.gains, e.noise)
        return Figure(
            "Gain of the objective over every baseline",
            captions.gains(frame),
            frame,
            lambda paper: answer.gains(frame, paper),
            dict.fromkeys(("gain", "low", "high"), "unit of the objective"),
        )

    def metric_gains(self, reference: str = "natural") -> Figure:
        """Measured gain over one reference, metric by metric, beside the predicted ones.

        Raises:
            UserError: the reference was not measured beside the proposal.
        """
        e = self.evidence
        if reference not in e.gains:
            measured = ", ".join(e.gains) or "none"
            raise UserError(
                f"metric_gains: proposal and '{reference}' have not both been measured at the "
                f"target size with one seed; measured: {measured}"
            )
        frame = self._metric_gains
        frame = frame[frame["reference"] == reference].reset_index(drop=True)
        return Figure(
            f"Measured gain over {reference}",
            captions.METRIC_GAINS,
            frame,
            lambda paper: answer.metric_gains(frame, reference, paper),
            dict.fromkeys(("gain", "predicted", "predicted_std", "limit"), "unit of the metric"),
        )

    # Why to believe it.

    def held_out(self, metric: str | None = None, *, small: bool = False) -> Figure:
        """Held-out predictions against what was measured.

        Args:
            metric: default: the objective.
            small: as one panel of many.

        Raises:
            UserError: nothing is fitted yet, or not this metric.
        """
        e, fit = self.evidence, self.evidence.fitted
        if metric is None:
            frame = frames.held_out_objective(e.data, fit.held_out, fit.surrogate, fit.objective)
        else:
            fit.surrogate.metric(metric)
            frame = frames.held_out(e.data, fit.held_out, metric)
        label = metric or OBJECTIVE
        size = SMALL_PANEL if small else PANEL
        many = small and frames.MAX_PANELS * len(frame) > MANY_POINTS
        return Figure(
            f"Held-out prediction against measurement: {label}",
            captions.held_out(metric),
            frame,
            lambda paper: belief.held_out(frame, label, paper, size=size, rasterise=many),
            dict.fromkeys(("measured", "predicted", "std"), f"unit of {label}"),
        )

    def noise_floor(self, limit: int = NOISE_ROWS) -> Figure:
        """How far the objective and every metric stand above seed noise.

        Args:
            limit: metrics to draw at most, the least clear first; the frame has all.

        Raises:
            UserError: no mixture was repeated with another seed.
        """
        e = self.evidence
        spread = e.data.objective_spread(e.objective.value)
        frame = trust.noise_floor(e.data, e.noise, spread)
        known = frame.dropna(subset="snr")
        if known.empty:
            raise UserError("noise_floor: no mixture was repeated with another seed")
        rest = known.iloc[1:] if known["metric"].iloc[0] == OBJECTIVE else known
        shown = pd.concat([known.drop(rest.index), rest.iloc[::-1].head(limit)])
        return Figure(
            "Spread over seed noise",
            captions.noise_floor(len(known) - len(shown), e.noise.freedom),
            frame,
            lambda paper: belief.noise_floor(shown, paper),
            {"spread": "unit of the metric", "noise": "unit of the metric", "snr": "ratio"},
        )

    def learning(self) -> Figure:
        """Rank correlation by number of runs; computed once a fit, which takes some seconds.

        Raises:
            UserError: nothing is fitted yet, or there are too few runs.
        """
        self.evidence.fitted  # noqa: B018 - to say that there is none
        curve = self.evidence.learning
        if curve is None:
            raise UserError("learning: too few runs, or the objective never varies")
        frame = frames.learning(curve)
        return Figure(
            "Rank correlation by number of runs",
            captions.learning(curve),
            frame,
            lambda paper: belief.learning(frame, paper),
            {"runs": "runs", "spearman": "rank correlation"},
        )

    def distances(self) -> Figure:
        """How far the proposal lies from the runs, and these from each other."""
        e, fit = self.evidence, self.evidence.fitted
        frame = trust.distances(e.judged, fit.proposal, e.study.references())
        limit = EXTRAPOLATES * fit.proposal.typical_distance
        return Figure(
            "Distance to the nearest run",
            captions.DISTANCES,
            frame,
            lambda paper: belief.distances(frame, limit, paper),
            {"distance": VARIATION},
        )

    def transfer(self) -> Figure:
        """Whether larger sizes put mixtures in the proxies' order.

        Raises:
            UserError: nothing is fitted yet, or no larger size says anything of the objective.
        """
        frame = trust.transfer(self.evidence.fitted.proposal)
        if frame.empty:
            raise UserError("transfer: no larger size says anything of the objective (`ladder:`)")
        return Figure(
            "Agreement of larger sizes with the proxies",
            captions.TRANSFER,
            frame,
            lambda paper: belief.transfer(frame, paper),
        )

    # What drives it.

    def effects(self, metric: str | None = None, *, domains: list[str] | None = None) -> Figure:
        """What every domain's share does to the objective, as curves with uncertainty.

        Args:
            metric: instead of the objective.
            domains: those to show; default: the twelve with the widest effect.

        Raises:
            UserError: nothing is fitted yet, or not this metric; no such domain can move.
        """
        names = [m.name for m in movers.movers(self.evidence.study.space)]
        for domain in domains or ():
            if domain not in names:
                raise unknown_name("domain", domain, names, "effects")
        quantity, scene = self._quantity(metric), self._scene
        found = effects.curves(scene, quantity, domains=domains)
        if found.frame.empty:
            raise UserError("effects: the constraints let no share move")
        label = metric or "the objective"
        proposal = effects.shares_of(scene)
        return Figure(
            f"Effect of every domain's share on {label}",
            captions.effects(label, found),
            found.frame,
            lambda paper: drivers.effects(found.frame, proposal, label, paper),
            {"share": SHARE, "gain": f"unit of {label}", "gain_std": f"unit of {label}",
             "mean": f"unit of {label}", "std": f"unit of {label}", "distance": VARIATION},
        )  # fmt: skip

    def matrix(self, *, domains: int = DOMAINS, metrics: int = METRICS) -> Figure:
        """Effect of every domain on every metric, the strongest first.

        Args:
            domains: columns at most.
            metrics: rows at most.

        Raises:
            UserError: nothing is fitted yet, or no share can move.
        """
        fit = self.evidence.fitted
        quantities = {m: self._quantity(m) for m in fit.surrogate.metric_names}
        spread = self.evidence.data.spread()
        found = effects.matrix(self._scene, quantities, spread, domains=domains, metrics=metrics)
        if found.frame.empty:
            raise UserError("matrix: the constraints let no share move")
        return Figure(
            "Effect of domains on metrics",
            captions.matrix(found),
            found.frame,
            lambda paper: drivers.matrix(found.frame, paper),
            {"low": SHARE, "high": SHARE, "effect": "standard deviations over the swarm",
             "std": "standard deviations over the swarm"},
        )  # fmt: skip

    def interactions(self, metric: str | None = None) -> Figure:
        """Pairs of domains that do more, or less, together than each alone.

        Args:
            metric: instead of the objective.

        Raises:
            UserError: nothing is fitted yet, or not this metric; no two shares can move apart.
        """
        found = effects.interactions(self._scene, self._quantity(metric))
        if found.frame.empty:
            raise UserError("interactions: there are no two domains whose shares can move apart")
        label = metric or "the objective"
        return Figure(
            f"Interactions of domains in {label}",
            captions.interactions(label, found),
            found.frame,
            lambda paper: drivers.interactions(found.frame, paper),
            dict.fromkeys(("one_from", "one_to", "other_from", "other_to"), SHARE)
            | dict.fromkeys(("interaction", "std"), f"unit of {label}"),
        )

    # What the trade-offs are.

    def front(self, x: str | None = None, y: str | None = None) -> Figure:
        """The front between two groups of metrics; see :meth:`regmix.study.Study.pareto`.

        Args:
            x: with ``y``; default: the front that was last computed, else between the study's first
                two groups, else between math and code and knowledge.
            y: the other side.

        Raises:
            UserError: nothing is fitted yet, there is no such pair, or a name stands for no metric.
        """
        found = self.evidence.usual_front() if x is None or y is None else None
        if x is not None and y is not None:
            found = self.evidence.front(x, y)
        if found is None:
            raise UserError("front: name two groups of metrics, x and y")
        return of_front(found)

    # What happened.

    def shares(self) -> Figure:
        """What the swarm tried of every domain."""
        e = self.evidence
        mixtures = e.weights
        order = list(mixtures.index)
        points, box = frames.shares(e.data, order), frames.share_quartiles(e.data, order)
        return Figure(
            "Sampled shares of every domain over the runs",
            captions.shares(e.fit is not None),
            points,
            lambda paper: swarm.shares(points, box, mixtures, paper),
            {"share": SHARE},
        )

    def objectives(self) -> Figure:
        """The objective of every run, the best first, and what is predicted of the proposal."""
        e = self.evidence
        frame = frames.run_objectives(e.data, e.objective)
        predicted = None if e.fit is None else e.fit.proposal.best.objective
        known = e.known_noise
        return Figure(
            "Objective of the runs, best first",
            captions.objectives(known is not None, predicted is not None),
            frame,
            lambda paper: swarm.objectives(frame, predicted, known, paper),
            {"objective": "lower is better"},
        )

    def throughput(self) -> Figure:
        """Tokens a second of the finished runs, by role.

        Raises:
            UserError: no run that was trained here has finished.
        """
        frame = trust.throughput(self.evidence.records)
        if frame.empty:
            raise UserError("throughput: no run that was trained here has finished")
        return Figure(
            "Tokens a second of the finished runs",
            captions.THROUGHPUT,
            frame,
            lambda paper: swarm.throughput(frame, paper),
            {"tokens": "tokens", "seconds": "s", "tokens_per_second": "tokens/s"},
        )

    @cached_property
    def _metric_gains(self) -> pd.DataFrame:
        e = self.evidence
        assert e.comparison is not None, "there are gains"
        degrees = noise.freedom(e.data)
        own = {str(m): SeedNoise(float(v), degrees) for m, v in e.data.noise().items()}
        directions = e.study.config.objective.directions
        return frames.metric_gains(e.comparison, e.fitted, own, directions)

    @cached_property
    def _scene(self) -> Scene:
        e, fit = self.evidence, self.evidence.fitted
        space = e.study.space
        # The space may have been narrowed since the fit.
        base = space.pull(np.array([[fit.best[d] for d in space.domains]]))[0]
        runs = e.judged.weights[list(space.domains)].to_numpy(dtype=float)
        return Scene(space, base, runs, fit.proposal.typical_distance)

    def _quantity(self, metric: str | None) -> Quantity:
        fit = self.evidence.fitted
        if metric is None:
            return Whole(fit.surrogate, fit.objective)
        directions = self.evidence.study.config.objective.directions
        return Part(fit.surrogate.metric(metric), sign(metric, directions))


def of_front(found: Pareto) -> Figure:
    """The figure of a front."""
    return Figure(
        f"{found.x.name} against {found.y.name}",
        captions.front(len(found.front)),
        found.table(),
        lambda paper: front_drawing.front(found, paper),
        dict.fromkeys(("x", "x_std", "y", "y_std", "behind"), "standard deviations over the swarm")
        | {"nearest_distance": VARIATION},
    )
