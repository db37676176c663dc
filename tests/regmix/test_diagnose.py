"""Diagnose: what was planted is found, and nothing else."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from regmix.cli import main
from regmix.diagnose import Diagnosis, curve, outliers, swarm
from regmix.diagnose.findings import Place
from regmix.noise import seeds_needed
from regmix.objective import Objective
from regmix.observations import Observations
from regmix.study import Study

Make = Callable[..., Study]
DOMAINS = ["books", "code", "math", "web"]
NOISE = 0.004
REPEATS = 5
FIT = "fit: {regressor: gp, samples: 500, bootstraps: 0, repeats: 1}\n"


def planted(
    runs: int = 64, seed: int = 0, repeats: int = REPEATS
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bits per byte that fall with the own share, and a mixture that was repeated with seeds."""
    rng = np.random.default_rng(seed)
    w = rng.dirichlet(np.ones(len(DOMAINS)), runs)
    w[-repeats:] = w[-repeats]
    index = pd.Index([f"r{i:03d}" for i in range(runs)])
    weights = pd.DataFrame(w, index, DOMAINS)
    values = {
        f"bpb/{d}": 2 + (1 + 0.2 * i) * np.exp(-2 * w[:, i]) - 0.3 * w[:, (i + 1) % 4]
        for i, d in enumerate(DOMAINS)
    }
    noise = NOISE * rng.standard_normal((runs, len(DOMAINS)))
    return weights, pd.DataFrame(values, index) + noise


@pytest.fixture
def look(import_study: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Diagnosis]:
    """Import, fit and diagnose, with a curve of so many rounds."""

    def made(
        weights: pd.DataFrame, values: pd.DataFrame, more: str = "", rounds: int = 1
    ) -> Diagnosis:
        monkeypatch.setattr(curve, "MOST_ROUNDS", rounds)
        study = import_study(weights, values, FIT + more)
        study.fit()
        return study.diagnose()

    return made


Look = Callable[..., Diagnosis]


def by_name(values: pd.DataFrame) -> str:
    """An objective that takes metrics whether or not they are more than noise."""
    return f"objective: {{weights: {{{', '.join(f'{m}: 1.0' for m in values)}}}}}\n"


def topics(found: Diagnosis, kind: str = "cannot") -> set[str]:
    return {f.topic for f in found.findings if f.kind == kind}


def names(found: Diagnosis, topic: str) -> tuple[str, ...]:
    return next(f.names for f in found.findings if f.topic == topic)


def test_a_clean_swarm_raises_no_alarm(look: Look) -> None:
    found = look(*planted())
    assert topics(found) <= {"curve"}
    can = {"objective.rank", "objective.signal", "metrics.predicted", "domains.varied", "coverage"}
    assert can <= topics(found, "can")
    assert topics(found, "do") <= {"runs.more", "runs.enough"}
    assert found.outliers.empty
    assert found.pairs.empty
    assert not found.domains["flat"].any()
    assert found.objective.freedom == REPEATS - 1
    assert found.metrics["noise"].mean() == pytest.approx(NOISE, rel=0.4)


@pytest.mark.parametrize("seed", range(1, 4))
def test_no_outlier_among_clean_runs(look: Look, seed: int) -> None:
    assert look(*planted(48, seed)).outliers.empty


def test_a_domain_that_never_varied_is_named(look: Look) -> None:
    weights, values = planted()
    weights = 0.99 * weights
    weights["law"], weights["code"] = 0.0, weights["code"] + 0.01
    found = look(weights, values)
    assert names(found, "domains.flat") == ("law",)
    assert "law (never sampled)" in " ".join(found.say("cannot"))
    assert "space.bounds: {law: [0, 0]}" in " ".join(found.say("do"))
    assert topics(found) <= {"domains.flat", "curve"}


def test_domains_that_go_together_are_named(look: Look) -> None:
    weights, values = planted()
    weights = weights.assign(web=0.6 * weights["web"], wiki=0.4 * weights["web"])
    found = look(weights, values)
    assert names(found, "domains.collinear") == ("web", "wiki")
    assert topics(found) <= {"domains.collinear", "curve"}
    pinned = look_again(weights, found)
    assert pinned.loc[0, "pinned"]


def look_again(weights: pd.DataFrame, found: Diagnosis) -> pd.DataFrame:
    data = bare(weights, pd.DataFrame({"a": np.arange(float(len(weights)))}, weights.index))
    assert len(found.pairs) == 1
    return swarm.pairs(data, {"web": {"web": 0.6, "wiki": 0.4}})


def bare(weights: pd.DataFrame, values: pd.DataFrame) -> Observations:
    info = pd.DataFrame({"name": weights.index, "role": "import"}, weights.index)
    return Observations(weights, values, info, pd.DataFrame())


def test_a_diverged_run_is_found_and_no_other(look: Look) -> None:
    weights, values = planted()
    values.loc["r007"] += [3.0, 4.0, 3.5, 5.0]
    found = look(weights, values)
    assert list(found.outliers["name"]) == ["r007"]
    reasons = found.outliers["reasons"].iloc[0]
    assert "diverged?" in reasons
    assert "4 of 4 metrics" in reasons
    assert "objective" in reasons
    assert len(names(found, "runs.outlier")) == 1


def test_one_metric_that_went_wrong_is_found_too(look: Look) -> None:
    weights, values = planted()
    values.loc["r007", "bpb/web"] += 8.0
    found = look(weights, values)
    assert list(found.outliers["name"]) == ["r007"]
    assert found.outliers["metrics"].iloc[0] == 1


def test_an_extreme_mixture_is_no_outlier(look: Look) -> None:
    weights, values = planted()
    far = pd.DataFrame({"bpb/web": values["bpb/web"] - 3 * (weights["web"] - 0.25) ** 2})
    assert look(weights, values.assign(**far)).outliers.empty


def test_rows_that_stand_twice_are_named(look: Look) -> None:
    weights, values = planted()
    weights.loc["r003"], values.loc["r003"] = weights.loc["r002"], values.loc["r002"]
    found = look(weights, values)
    assert names(found, "runs.duplicates") == ("r003",)
    assert len(found.duplicates) == 1 + REPEATS * (REPEATS - 1) // 2


def test_metrics_in_the_noise_are_named_with_what_would_lift_them(look: Look) -> None:
    weights, values = planted(80)
    rng = np.random.default_rng(5)
    values["bpb/faint"] = 2 + 0.1 * weights["web"] + 0.018 * rng.standard_normal(80)
    found = look(weights, values, "objective: {weights: {bpb/code: 1, bpb/faint: 1}}\n")
    assert "metrics.noise" in topics(found)
    assert names(found, "metrics.noise") == ("bpb/faint",)
    row = found.metrics.loc["bpb/faint"]
    assert row["snr"] < 3
    assert row["seeds"] == seeds_needed(row["snr"], 3)


def test_an_objective_in_the_noise(look: Look) -> None:
    weights, values = planted(80)
    rng = np.random.default_rng(6)
    found = look(weights, values + 0.12 * rng.standard_normal((80, 1)))
    assert {"objective.signal"} <= topics(found)
    assert "lengthen the proxies" in " ".join(found.say("do"))
    assert found.objective.snr < 8


def test_without_repeats_the_noise_is_unknown(look: Look) -> None:
    weights, values = planted()
    found = look(weights.iloc[:-REPEATS], values.iloc[:-REPEATS])
    assert topics(found) <= {"noise.unknown", "curve"}
    assert "noise.unknown" in topics(found)
    assert math.isnan(found.objective.noise)
    assert "repeat one mixture with 3 other seeds (5% of all runs)" in " ".join(found.say("do"))


def test_metrics_that_nothing_predicts_and_metrics_that_say_nothing_new(look: Look) -> None:
    weights, values = planted()
    rng = np.random.default_rng(3)
    values["bpb/dice"] = rng.standard_normal(len(values))
    values["again"] = -2 * values["bpb/web"] + 1e-6 * rng.standard_normal(len(values))
    found = look(weights, values, by_name(values.drop(columns="again")))
    assert names(found, "metrics.unpredicted") == ("bpb/dice",)
    assert len(names(found, "metrics.twins")) == 1
    assert found.metrics.loc["bpb/web", "twin"] == "again"  # by name the later of the two
    assert found.metrics.loc["bpb/web", "twin_correlation"] == pytest.approx(-1, abs=1e-4)


def test_few_runs_for_many_domains(look: Look) -> None:
    weights, values = planted(10, repeats=3)
    found = look(weights, values)
    assert "runs.few" in topics(found)
    assert found.curve is None
    assert "10 runs for 4 domains, 12 are advised" in " ".join(found.say("cannot"))
    assert list(found.laws.index[~found.laws["enough"]]) == ["powerlaw"]
    assert any(text.startswith("8 more runs") for text in found.say("do"))


def test_the_learning_curve_rises_and_ends_where_the_fit_is(look: Look) -> None:
    weights, values = planted(64, 4)
    rng = np.random.default_rng(2)
    found = look(weights, values + 0.05 * rng.standard_normal((64, 4)), rounds=4)
    assert found.curve is not None
    rho = found.curve.points["spearman"].to_numpy()
    assert list(found.curve.points.index) == [13, 26, 38, 51]
    assert rho[-1] > rho[0]
    assert (np.diff(rho) > -0.02).all()
    assert rho[-1] == pytest.approx(found.objective.spearman, abs=0.03)
    forecast = found.curve.forecast
    assert (forecast.runs, forecast.more) == (64, 32)
    assert forecast.low <= forecast.gain <= forecast.high
    assert found.curve.regressor == "gp"
    assert not found.curve.directly


def test_a_power_law_is_extrapolated_exactly() -> None:
    sizes = [16, 32, 64, 128]
    rho = 1 - 0.8 * np.array(sizes, dtype=float) ** -0.5
    gain, exponent = curve._extrapolate(sizes, rho, 160, 64)
    assert exponent == pytest.approx(0.5)
    assert gain == pytest.approx(0.8 * (160**-0.5 - 224**-0.5))


def test_a_curve_of_noise_is_called_unclear(look: Look) -> None:
    weights, values = planted(48)
    rng = np.random.default_rng(9)
    found = look(weights, values * 0 + rng.standard_normal(values.shape), by_name(values))
    assert found.curve is not None
    assert not found.curve.forecast.clear
    assert {"curve", "objective.rank"} <= topics(found)


def test_many_metrics_are_learnt_as_one_quantity() -> None:
    weights, values = planted(24)
    many = pd.concat([values["bpb/web"].rename(f"m{i}") for i in range(1200)], axis=1)
    objective = Objective(tuple(many), (1 / 1200,) * 1200, (1,) * 1200)
    found = curve.learn(bare(weights, many), objective, "linear")
    assert found is not None
    assert found.directly


def test_seeds_needed() -> None:
    assert seeds_needed(8.0, 8.0) == 1
    assert seeds_needed(1.0, 3.0) is None
    assert seeds_needed(math.nan, 3.0) is None
    for snr in (1.5, 2.0, 2.9):
        seeds = seeds_needed(snr, 3.0)
        assert seeds is not None
        reached = [math.sqrt(1 + k * (snr**2 - 1)) for k in (seeds - 1, seeds)]
        assert reached[0] < 3 <= reached[1]


def test_the_threshold_grows_with_the_number_of_runs() -> None:
    assert outliers.threshold(10) == outliers.RESIDUAL
    assert 3.8 < outliers.threshold(512) < 4.2


def test_commands_name_the_study() -> None:
    there, here = Place("S", trains=False, asked=0), Place("S", trains=True, asked=32)
    assert "regmix import" in there.more_runs(16)
    assert "`regmix propose S -n 48`" in here.more_runs(16)


def test_all_of_it_is_plain_json(look: Look) -> None:
    weights, values = planted()
    found = look(weights.iloc[:-REPEATS], values.iloc[:-REPEATS])
    back = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert back["objective"]["noise"] is None
    assert [d["domain"] for d in back["domains"]] == DOMAINS
    assert len(back["curve"]["points"]) == 4
    assert {f["kind"] for f in back["findings"]} == {"can", "cannot", "do"}


def test_a_trained_study_is_told_what_to_type(trained: Study) -> None:
    trained.fit()
    found = trained.diagnose()
    assert {"objective.rank", "objective.signal"} <= topics(found, "can")
    assert found.objective.freedom == 2
    assert "3 seeds" in " ".join(found.say("can"))


@pytest.mark.parametrize("as_json", [True, False])
def test_what_the_command_prints(
    import_study: Make,
    as_json: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = import_study(*planted(24), FIT)
    study.fit()
    more = ["--json"] if as_json else []
    monkeypatch.setattr(sys, "argv", ["regmix", "diagnose", str(study.layout.root), *more])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out)["fit_id"] == study.latest_fit().fit_id
    else:
        assert out.index("can say") < out.index("learning curve (gp") < out.index("do next")
        assert len(out.splitlines()) <= 35
