"""Clean studies: all rules together leave them alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from regmix import flags
from regmix.observations import Observations
from regmix.store.trails import Trails

DOMAINS = ["code", "math", "web"]
RUNS, POINTS, BLOCKS = 100, 30, 60


def surface(w: np.ndarray, kind: str) -> np.ndarray:
    """Bits per byte of mixtures, shape ``(n, 3)``."""
    after = np.roll(w, -1, axis=1)
    if kind == "exponential":
        return np.asarray(2 + (1 + 0.2 * np.arange(3)) * np.exp(-2 * w) - 0.3 * after)
    if kind == "power":
        return np.asarray(2 + 0.3 * (w + 0.02) ** -0.3)
    return np.asarray(2 + 2 * np.maximum(0, 0.3 - w) + 0.2 * after)  # a kink


def study(rng: np.random.Generator, kind: str, noise: float) -> tuple[Observations, Trails]:
    """100 runs and two repeats of two mixtures each, and all that they leave behind."""
    w = rng.dirichlet(np.full(3, 0.6), RUNS)
    w[:2] = np.full(3, 1 / 3), [0.6, 0.3, 0.1]
    places = np.vstack([w, w[[0, 0, 1, 1]]])
    ids = [f"r{i:03d}" for i in range(RUNS)]
    repeats = ["n0", "n1", "u0", "u1"]
    every = [*ids, *repeats]
    names = [f"bpb/{d}" for d in DOMAINS]
    end = surface(places, kind) + noise * rng.standard_normal(places.shape)
    # On the way, runs differ more, and two points of one run share a part of their noise.
    way = 4.5 + 1.5 * (end - 2) + 2 * noise * rng.standard_normal(places.shape)
    metrics = pd.DataFrame(end, every, names)
    replicates = metrics.loc[["r000", "n0", "n1", "r001", "u0", "u1"]]
    data = Observations(
        weights=pd.DataFrame(w, ids, DOMAINS),
        metrics=metrics.loc[ids],
        info=pd.DataFrame({"name": ids, "role": "swarm", "seed": 0, "tokens": 1}, ids),
        replicates=replicates.assign(mixture=["h0"] * 3 + ["h1"] * 3),
        replicate_weights=pd.DataFrame(w[:2], ["h0", "h1"], DOMAINS),
    )
    points = pd.concat(
        pd.DataFrame(value, every, names).rename_axis("run_id").reset_index().assign(step=step)
        for step, value in ((150, way), (300, end))
    )
    realised = np.floor(BLOCKS * places) + rng.integers(0, 2, places.shape)  # whole blocks
    realised /= realised.sum(1, keepdims=True)
    shares = pd.DataFrame(
        {
            "run_id": np.repeat(every, 3),
            "domain": DOMAINS * len(every),
            "requested": places.ravel(),
            "realised": realised.ravel(),
        }
    )
    trails = Trails(
        pd.DataFrame({"name": every, "planned": 1e6, "tokens": 1e6}, every),
        courses(rng, every, end.mean(1)),
        points.melt(["run_id", "step"], var_name="name"),
        shares,
    )
    return data, trails


def courses(rng: np.random.Generator, runs: list[str], level: np.ndarray) -> pd.DataFrame:
    """Losses and gradient norms that fall, with long-tailed noise."""
    t = np.arange(POINTS)
    shape = (len(runs), POINTS)
    loss = level[:, None] + 1 + 4 * np.exp(-t / 4) + 0.06 * rng.standard_t(5, shape)
    norm = (1 + 3 * np.exp(-t / 3)) * np.exp(0.12 * rng.standard_t(8, shape))
    return pd.DataFrame(
        {
            "run_id": np.repeat(runs, POINTS),
            "step": np.tile(10 * (t + 1), len(runs)),
            "loss": loss.ravel(),
            "grad_norm": norm.ravel(),
        }
    )


def at_most(found: int, of: int) -> float:
    """The upper end of a one-sided 95 % interval for a share (Clopper & Pearson 1934)."""
    return float(stats.beta.isf(0.05, found + 1, of - found))


@pytest.mark.slow
def test_of_clean_studies_of_a_hundred_runs_two_in_a_hundred_have_a_flag_at_most() -> None:
    """All rules together, as `regmix flags` asks them: with 95 % certainty, by the binomial."""
    found = [
        flags.find(*study(np.random.default_rng([seed, which]), kind, noise)).frame
        for which, (kind, noise) in enumerate(
            (k, n) for k in ("exponential", "power", "kink") for n in (0.02, 0.002)
        )
        for seed in range(55)
    ]
    alarms = sum(not f.empty for f in found)
    flagged = sum(f["run_id"].nunique() for f in found)
    assert len(found) == 330
    assert at_most(alarms, len(found)) <= 0.02, pd.concat(found)
    assert at_most(flagged, len(found) * (RUNS + 4)) <= 0.001
