"""From bits per byte to accuracy: monotone, with an interval that holds, and not without larger
models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from regmix import link, planning
from regmix.link import Link
from regmix.sound import Sound
from regmix.study import Study

NAMES = ("mmlu/bpb", "mmlu/acc")


def truth(loss: np.ndarray) -> np.ndarray:
    return np.asarray(0.25 + 0.4 / (1 + np.exp(6 * (loss - 1))))


def linked(rng: np.random.Generator, count: int, noise: float = 0.015) -> Link:
    loss = rng.uniform(0.6, 1.5, count)
    accuracy = truth(loss) + noise * rng.standard_normal(count)
    found = link.find(*runs(loss, accuracy), *NAMES, above=10, directions={})
    assert isinstance(found, Link), found
    return found


def runs(
    loss: np.ndarray, accuracy: np.ndarray, parameters: int = 100
) -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = [f"r{i}" for i in range(len(loss))]
    values = pd.DataFrame({NAMES[0]: loss, NAMES[1]: accuracy}, ids)
    return pd.DataFrame({"parameters": parameters}, ids), values


def test_accuracy_never_falls_as_the_loss_does_and_nothing_is_said_beyond() -> None:
    found = linked(np.random.default_rng(0), 30)
    low, high = found.span
    at = [found.at(x) for x in np.linspace(low, high, 40)]
    values = [a.value for a in at if a is not None]
    assert len(values) == 40
    assert (np.diff(values) <= 1e-12).all()
    assert all(a.low <= a.value <= a.high for a in at if a is not None)
    assert found.at(low - 0.01) is None
    assert found.at(high + 0.01) is None
    assert "through 30 larger models" in found.text


@pytest.mark.parametrize("count", [10, 25])
def test_a_further_models_accuracy_is_inside_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(1)
    held, draws = 0, 60
    for _ in range(draws):
        found = linked(rng, count)
        at = float(rng.uniform(*found.span))
        inside = found.at(at)
        assert inside is not None
        held += inside.low <= truth(np.array(at)) + 0.015 * rng.standard_normal() <= inside.high
    assert held >= stats.binom.ppf(1e-3, draws, 0.9)


def test_without_enough_larger_models_it_is_not_offered() -> None:
    rng = np.random.default_rng(2)
    loss = rng.uniform(0.6, 1.5, 30)
    info, values = runs(loss, truth(loss))
    info["parameters"] = [5] * 25 + [100] * 5
    found = link.find(info, values, *NAMES, above=10, directions={})
    assert "5 models larger than the proxies have both, 10 are needed" in str(found)
    info["parameters"] = None
    assert "0 models" in str(link.find(info, values, *NAMES, above=10, directions={}))


def test_an_accuracy_of_luck_is_linked_once_in_twenty_at_most() -> None:
    rng = np.random.default_rng(3)
    found = [
        link.find(*runs(rng.uniform(0.6, 1.5, 15), 0.25 + 0.01 * rng.standard_normal(15)), *NAMES,
                  above=10, directions={})
        for _ in range(400)
    ]  # fmt: skip
    assert sum(isinstance(f, Link) for f in found) <= stats.binom.ppf(1 - 1e-3, 400, 0.05)
    assert "does not rise as mmlu/bpb falls" in next(f for f in found if isinstance(f, str))


def test_metrics_that_are_better_low_keep_their_direction() -> None:
    rng = np.random.default_rng(4)
    loss = rng.uniform(0.6, 1.5, 30)
    found = link.find(
        *runs(loss, 1 - truth(loss)), *NAMES, above=10, directions={NAMES[1]: "lower"}
    )
    assert isinstance(found, Link)
    at = found.at(1.0)
    assert at is not None
    assert at.low <= at.value <= at.high
    assert at.value == pytest.approx(1 - float(truth(np.array(1.0))), abs=0.05)


def test_a_study_links_its_larger_models_and_a_fit_tells_it(
    make_study: Callable[..., Study], worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    study.propose()

    def measured(mixture: Any, better: float) -> dict[str, float]:
        loss = 1.5 - 0.5 * mixture["math"] - better
        own = {f"bpb/{d}": 2 - w for d, w in mixture.as_dict().items()}
        return own | {"mmlu/bpb": loss, "mmlu/acc": float(truth(np.array(loss)))}

    for record in study.runs():
        worker.finish(record, measured(record.spec.mixture, 0.0))
    assert "0 models larger than the proxies" in str(study.links()[0])
    for number, record in enumerate(study.runs()[:12]):
        spec = planning.target_run(study, f"target-{number}", record.spec.mixture, seed=number)
        study.add_run(spec)
        own = next(r for r in study.runs() if r.spec.run_id == spec.run_id)
        worker.finish(own, measured(spec.mixture, 0.3))
    [found] = study.links()
    assert isinstance(found, Link)
    assert len(found.losses) == 12
    assert study.fit("bpb/web").diagnostics["links"] == [found.text]
    monkeypatch.setattr(Sound, "left_out", {own.spec.run_id: "its curve crosses the others'"})
    [found] = study.links()
    assert isinstance(found, Link)
    assert len(found.losses) == 11, "what the study leaves out is left out here too"
