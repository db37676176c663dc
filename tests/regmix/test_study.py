"""Study: propose, observe, fit and predict from Python, on a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmix import fit, imports, sizes, yaml_io
from regmix.comparison import gains, measured
from regmix.config import (
    FitConfig,
    LimitsConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    SpaceConfig,
    StudyConfig,
)
from regmix.errors import UserError
from regmix.intake import create_for_import
from regmix.mixture import Mixture, MixtureFile
from regmix.noise import SeedNoise
from regmix.objective import Kind, Objective
from regmix.report import render
from regmix.study import Study
from regmix.template import write_template

Make = Callable[..., Study]
QUICK = FitConfig(regressor="gp", samples=2000, repeats=1)


def another_proxy(study: Study) -> Study:
    """The same folder after its ``proxy:`` was changed."""
    proxy = RunConfig(model=ModelConfig(size="4m"))
    return Study(study.layout, study.config.model_copy(update={"proxy": proxy}))


def run_files(study: Study) -> dict[str, bytes]:
    root = study.layout.runs
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.yaml"))}


def test_identical_seeds_give_identical_run_files(make_study: Make) -> None:
    one, other = make_study(folder="one"), make_study(folder="other")
    assert one.propose().specs == other.propose().specs
    assert run_files(one) == run_files(other)
    assert len(run_files(one)) == 18


def test_another_seed_gives_other_runs(make_study: Make) -> None:
    one = make_study()
    one.propose()
    before = set(run_files(one))
    one.layout.config.write_text(
        one.layout.config.read_text("utf-8").replace("seed: 3", "seed: 4"), encoding="utf-8"
    )
    Study.open(one.layout.root).propose()
    assert len(set(run_files(one)) - before) == 18 - 2  # two replicates of natural share a seed


def test_proposing_again_adds_nothing_and_more_extends(make_study: Make) -> None:
    study = make_study()
    assert study.propose().new == 18
    before = run_files(study)
    assert study.propose().new == 0
    assert run_files(study) == before
    larger = study.propose(20)
    assert larger.new == 8
    assert before.items() <= run_files(study).items()
    with pytest.raises(UserError, match="propose: 0 runs; at least 1"):
        study.propose(0)


def test_runs_that_are_still_open(make_study: Make, worker: Any) -> None:
    study = make_study()
    with pytest.raises(UserError, match="no run yet; `regmix propose` plans some"):
        study.open_runs()
    study.propose()
    first, second, *_ = study.runs()
    worker.finish(first)
    worker.fail(second, "it broke")
    ids = {r.spec.run_id for r in study.runs()}
    assert set(study.open_runs()) == ids - {first.spec.run_id, second.spec.run_id}
    assert set(study.open_runs(retry_failed=True)) == ids - {first.spec.run_id}


def test_fit_writes_what_it_found_and_reads_it_back(trained: Study) -> None:
    found = trained.fit()
    again = trained.latest_fit()
    assert again.fit_id == found.fit_id
    assert again.proposal == found.proposal
    assert again.objective == found.objective
    assert again.diagnostics == json.loads(json.dumps(found.diagnostics))
    assert trained.best() == found.best
    file = MixtureFile.load(trained.layout.mixture("best"), trained.domains)
    assert file.mixture == found.best
    assert file.provenance["fit"] == found.fit_id
    assert list(again.held_out.index) == list(trained.observations().weights.index)
    for name, (mean, std) in found.surrogate.predict_one(found.best).items():
        assert found.proposal.best.metrics[name] == pytest.approx((mean, std), rel=1e-9)
    names = [c.name for c in found.proposal.baselines]
    assert names == ["natural", "uniform", "best run", "best single"]
    assert found.proposal.best.objective[0] < found.proposal.baselines[0].objective[0]


def test_the_same_fit_has_the_same_id_and_another_another(trained: Study) -> None:
    first = trained.fit()
    assert trained.fit().fit_id == first.fit_id
    assert trained.fit("bpb/web").fit_id != first.fit_id
    other = trained.fit(settings=QUICK.model_copy(update={"folds": 4}))
    assert other.fit_id != first.fit_id
    assert trained.latest_fit().fit_id == other.fit_id
    assert trained.latest_fit(first.fit_id).proposal == first.proposal
    with pytest.raises(UserError, match=rf"no fit 'nope' in .*{first.fit_id}"):
        trained.latest_fit("nope")


def test_one_target_alone(trained: Study) -> None:
    found = trained.fit("math")
    assert found.objective.metrics == ("bpb/math",)
    assert found.surrogate.metric_names == ("bpb/math",)
    assert found.best["math"] > 0.5
    assert trained.layout.mixture("best-bpb-math").exists()
    with pytest.raises(UserError, match="'bpb' could be any of bpb/code, bpb/math, bpb/web"):
        trained.fit("bpb")
    with pytest.raises(UserError, match="unknown metric 'bpb/mth'; did you mean 'bpb/math'"):
        trained.fit("bpb/mth")


def test_the_proposal_obeys_the_space(make_study: Make, worker: Any) -> None:
    study = make_study("space: {bounds: {web: [0.5, 0.6]}, max_epochs: 4, budget_tokens: 2000000}")
    study.propose()
    worker.finish_all(study)
    found = study.fit()
    assert study.space.contains(found.best.array())[0]
    assert 0.5 <= found.best["web"] <= 0.6
    assert found.best["math"] <= 0.2 + 1e-9  # 4 epochs of 100k tokens in 2M
    # Without constraints the optimum is uniform, by symmetry.
    assert found.best.as_dict() == pytest.approx({"web": 0.5, "code": 0.3, "math": 0.2}, abs=0.03)
    assert set(found.proposal.active) <= {"bounds.web", "max_epochs.math"}


def test_caps_and_natural_follow_from_tokens_that_the_study_names(tmp_path: Path) -> None:
    """Where the data was measured elsewhere and nothing is built here."""
    text = "name: s\ndomains:\n  - {name: a, tokens: 3000}\n  - {name: b, tokens: 1000}\n"
    (tmp_path / "study.yaml").write_text(
        text + "space: {max_epochs: 2, budget_tokens: 4000}\n", encoding="utf-8"
    )
    study = Study.open(tmp_path)
    assert study.references()["natural"].as_dict() == {"a": 0.75, "b": 0.25}
    assert [(c.name, c.upper) for c in study.space.constraints] == [("max_epochs.b", 0.5)]


def test_predictions_do_not_depend_on_the_order_of_columns(trained: Study) -> None:
    trained.fit()
    rng = np.random.default_rng(0)
    inside = 0.5 / 3 + 0.5 * rng.dirichlet(np.ones(3), 5)
    mixtures = pd.DataFrame(inside, columns=["math", "web", "code"])
    one = trained.predict(mixtures)
    other = trained.predict(mixtures[["web", "code", "math"]])
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert list(one) == [f"bpb/{d}{s}" for d in ("code", "math", "web") for s in ("", "_std")]
    truth = 2 + 1.5 * np.exp(-3 * mixtures["web"])
    assert (one["bpb/web"] - truth).abs().max() < 0.05
    with pytest.raises(UserError, match="predict: no column for domain math"):
        trained.predict(mixtures[["web", "code"]])


def test_nothing_can_be_asked_of_a_fit_that_is_not_there(trained: Study) -> None:
    with pytest.raises(UserError, match="nothing is fitted yet; run `regmix fit"):
        trained.predict(pd.DataFrame())
    with pytest.raises(UserError, match="nothing is fitted yet"):
        trained.best()


def test_shuffled_imports_give_identical_fits(swarm_files: Any, tmp_path: Path) -> None:
    fits = []
    for number in range(2):
        runs = imports.read_csvs(swarm_files.mixtures, swarm_files.metrics)
        sources = [swarm_files.mixtures, swarm_files.metrics]
        study = create_for_import(tmp_path / f"s{number}", runs, sources)
        settings = FitConfig(samples=2000, repeats=1, folds=2)
        fits.append(study.fit("loss", settings=settings))
        swarm_files.write(
            swarm_files.weights.sample(frac=1, random_state=8)[["math", "code", "web"]],
            swarm_files.values.sample(frac=1, random_state=9)[["acc", "loss"]],
        )
    assert fits[0].fit_id == fits[1].fit_id
    assert fits[0].proposal == fits[1].proposal
    assert fits[0].diagnostics == fits[1].diagnostics
    surrogates = [f.folder / "surrogate.json.gz" for f in fits]
    assert surrogates[0].read_bytes() == surrogates[1].read_bytes()


def imported(root: Path, weights: pd.DataFrame, values: pd.DataFrame) -> Study:
    sources = [root / "mixtures.csv", root / "metrics.csv"]
    for frame, path in zip((weights, values), sources, strict=True):
        frame.to_csv(path, index_label="run")
    return create_for_import(root / "study", imports.read_csvs(*sources), sources)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["loglinear", "gp"]))
def test_no_order_of_rows_domains_or_metrics_matters(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    index = pd.Index([f"r{i}" for i in range(12)])
    weights = pd.DataFrame(rng.dirichlet(np.ones(4), 12), index, list("dabc"))
    values = pd.DataFrame({m: rng.standard_normal(12) for m in ("y", "x")}, index)
    quick = FitConfig(regressor=name, samples=200, top_k=20, repeats=1, folds=3, bootstraps=2)
    found = []
    for state in (None, seed):
        if state is not None:
            weights = weights.sample(frac=1, random_state=state)[
                list(rng.permutation(list("abcd")))
            ]
            values = values.sample(frac=1, random_state=state + 1)[["x", "y"]]
        with TemporaryDirectory() as folder:
            done = imported(Path(folder), weights, values).fit(settings=quick)
            surrogate = (done.folder / "surrogate.json.gz").read_bytes()
            found.append((done.fit_id, done.proposal, done.diagnostics, surrogate))
    for one, other in zip(*found, strict=True):
        assert one == other


def changed(study: Study, **parts: Any) -> Study:
    """The same folder with another ``study.yaml``."""
    config: StudyConfig = study.config.model_copy(update=parts)
    return Study(study.layout, config)


def test_a_changed_objective_space_or_solver_refits_nothing(
    trained: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[list[str]] = []
    whole = fit.fit

    runs = len(trained.fitted().weights)

    def counted(data: Any, metrics: Any, *rest: Any) -> Any:
        if len(data.weights) == runs:  # not what is told beside it, of a fit without flagged runs
            fits.append(list(metrics))
        return whole(data, metrics, *rest)

    monkeypatch.setattr(fit, "fit", counted)
    quick = QUICK.model_copy(update={"bootstraps": 0})
    objective = ObjectiveConfig(kind="worst", reference="uniform")
    first = trained.fit(settings=quick)
    others = [
        changed(trained, objective=objective).fit(settings=quick),
        changed(trained, objective=ObjectiveConfig(weights={"bpb/web": 1.0})).fit(settings=quick),
        changed(trained, space=SpaceConfig(bounds={"web": (0.4, 0.6)})).fit(settings=quick),
        trained.fit(settings=quick.model_copy(update={"kl": 0.5, "samples": 500})),
    ]
    assert len(fits) == 1
    assert len({first.fit_id, *(o.fit_id for o in others)}) == 5
    kept = (first.folder / "surrogate.json.gz").read_bytes()
    for other in others:
        assert other.diagnostics["surrogate_id"] == first.diagnostics["surrogate_id"]
        assert (other.folder / "surrogate.json.gz").read_bytes() == kept
        pd.testing.assert_frame_equal(other.held_out, first.held_out, check_exact=True)
    assert others[1].best["web"] > 0.9
    assert 0.4 <= others[2].best["web"] <= 0.6
    trained.fit(settings=quick.model_copy(update={"folds": 4}))
    trained.fit("bpb/web", settings=quick)
    assert fits[1:] == [["bpb/code", "bpb/math", "bpb/web"], ["bpb/web"]]


def test_new_runs_refit(trained: Study, worker: Any) -> None:
    quick = QUICK.model_copy(update={"bootstraps": 0})
    before = trained.fit(settings=quick)
    trained.propose(14)
    for record in trained.runs():
        if record.status != "done":
            worker.finish(record)
    after = trained.fit(settings=quick)
    assert after.diagnostics["surrogate_id"] != before.diagnostics["surrogate_id"]
    assert after.diagnostics["runs"] == before.diagnostics["runs"] + 2


def test_an_import_finds_its_known_optimum(swarm_files: Any, tmp_path: Path) -> None:
    sources = [swarm_files.mixtures, swarm_files.metrics]
    study = create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    best = study.fit("loss", settings=QUICK).best
    assert best.distance(Mixture.of({"web": 0.5, "code": 0.3, "math": 0.2})) < 0.05
    assert study.fit("acc", settings=QUICK).best["math"] > 0.9


def test_weights_are_joined_by_domain_wherever_the_study_lists_it(
    swarm_files: Any, tmp_path: Path
) -> None:
    sources = [swarm_files.mixtures, swarm_files.metrics]
    study = create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)
    first = study.fit("loss", settings=QUICK)
    turned = changed(study, domains=tuple(reversed(study.config.domains)))
    assert turned.domains == tuple(reversed(study.domains))
    again = turned.fit("loss", settings=QUICK)
    assert again.fit_id != first.fit_id
    assert again.best.as_dict() == pytest.approx(first.best.as_dict(), abs=0.02)
    assert again.surrogate.domains == turned.domains
    lacking = changed(study, domains=study.config.domains[1:])
    message = f"the study lacks {study.domains[0]}, which they have"
    with pytest.raises(UserError, match=message):
        lacking.fit("loss", settings=QUICK)


def test_limits_hold_too_where_one_metric_is_asked_for(swarm_files: Any, tmp_path: Path) -> None:
    sources = [swarm_files.mixtures, swarm_files.metrics]
    study = create_for_import(tmp_path / "study", imports.read_csvs(*sources), sources)

    def limited(metric: str, worse: float) -> Study:
        limits = LimitsConfig(reference="uniform", metrics={metric: worse}, confidence=0.5)
        return changed(
            study, objective=study.config.objective.model_copy(update={"limits": limits})
        )

    free = study.fit("acc", settings=QUICK)
    assert free.best["math"] > 0.9
    held = limited("loss", 0.05).fit("acc", settings=QUICK)
    at = {
        m: held.surrogate.predict_one(w)["loss"][0]
        for m, w in (("best", held.best), ("uniform", study.references()["uniform"]))
    }
    assert at["best"] <= 1.05 * at["uniform"] + 1e-6
    assert held.best["math"] < 0.9
    with pytest.raises(UserError, match=r"objective\.limits\.metrics.*'los'; did you mean 'loss'"):
        limited("los", 0.05).fit("acc", settings=QUICK)


def test_comparison_pairs_by_seed(trained: Study, worker: Any) -> None:
    assert trained.fit().fit_id
    assert trained.comparison() is None
    mixtures = {"proposal": trained.best(), **trained.references()}
    for seed in (3, 4):
        for number, (name, mixture) in enumerate(mixtures.items()):
            spec = trained.target_run(name, mixture, seed)
            assert trained.add_run(spec)
            assert not trained.add_run(spec)
            record = next(r for r in trained.runs() if r.spec.run_id == spec.run_id)
            worker.finish(record, {f"bpb/{d}": 2.0 + number + 0.01 * seed for d in mixture.domains})
    found = trained.comparison()
    assert found is not None
    assert len(found.values) == 6
    gain = found.gain("uniform", (1.0, 0.1))
    assert gain is not None
    assert gain.by_seed == pytest.approx({3: 2.0, 4: 2.0})
    assert gain.verdict(SeedNoise(0.01, 2)) == "better"


def test_runs_for_other_data_or_another_proxy_are_not_trained(make_study: Make) -> None:
    study = make_study()
    study.propose()
    old = set(study.open_runs())
    newer = make_study(tokens={"web": 700_000, "code": 300_000, "math": 100_000})
    assert newer.open_runs() == []
    newer.propose()
    assert newer.open_runs()
    assert not old & set(newer.open_runs())
    study = another_proxy(newer)
    assert study.open_runs() == []
    spec = study.target_run("larger", Mixture.uniform(study.domains))
    study.add_run(spec)
    assert study.open_runs() == [spec.run_id]


def test_runs_of_a_former_proxy_are_never_fitted_in_silence(make_study: Make, worker: Any) -> None:
    study = make_study()
    study.propose()
    worker.finish_all(study)
    with pytest.raises(UserError, match=r"none of the \d+ finished runs is of the proxy"):
        another_proxy(study).observations()


def test_a_larger_model_alone_does_not_hide_the_comparison(trained: Study, worker: Any) -> None:
    assert trained.fit(settings=QUICK).fit_id
    for number, (name, mixture) in enumerate(
        {"proposal": trained.best(), **trained.references()}.items()
    ):
        spec = trained.target_run(name, mixture)
        trained.add_run(spec)
        _finish_target(trained, worker, spec.run_id, 2.0 + number)
    larger = sizes.shape(ModelConfig(size="60m"))
    spec = replace(trained.target_run("alone", trained.best()), model=larger)
    trained.add_run(spec)
    _finish_target(trained, worker, spec.run_id, 1.0)
    found = trained.comparison()
    assert found is not None
    assert set(found.values["mixture"]) == {"proposal", "natural", "uniform"}


def test_an_objective_that_larger_models_lack_is_said_and_not_a_crash(
    trained: Study, worker: Any
) -> None:
    for record in trained.runs():
        worker.log(record, {"arc/acc": 0.5 + record.spec.mixture["web"] / 4})
    fit = trained.fit("arc/acc", settings=QUICK)
    for name, mixture in {"proposal": trained.best(), **trained.references()}.items():
        spec = trained.target_run(name, mixture)
        trained.add_run(spec)
        _finish_target(trained, worker, spec.run_id, 2.0)
    found = trained.comparison()
    assert found is not None
    assert found.unmeasured == ("arc/acc",)
    assert found.values["objective"].isna().all()
    assert found.values["bpb/web"].tolist() == [2.0, 2.0, 2.0]
    assert gains(fit.proposal, found) == {}
    never = Objective(("never/measured",), (1.0,), (1,))
    elsewhere = measured(trained.store, never, trained.references())
    assert elsewhere is not None
    assert elsewhere.unmeasured == never.metrics
    page = render(trained)
    assert "were not all measured on arc/acc, which the objective needs" in page


@pytest.mark.parametrize("kind", ["relative", "worst"])
def test_target_models_are_judged_by_the_reference_of_their_size(
    trained: Study, worker: Any, kind: Kind
) -> None:
    """Twice the reference's losses are a relative loss of 1, whatever proxies of it have."""
    names = tuple(f"bpb/{d}" for d in trained.domains)
    share = (1 / len(names),) * len(names)
    objective = Objective(names, share, (1,) * len(names), kind, "natural")
    objective = objective.against(dict.fromkeys(names, 5.0))
    references = trained.references()
    natural = references["natural"].id
    for name, value in (("uniform", 4.0), ("natural", 2.0)):
        spec = trained.target_run(name, references[name])
        trained.add_run(spec)
        _finish_target(trained, worker, spec.run_id, value)
        found = measured(trained.store, objective, references, natural)
        assert found is not None
        own = found.values.set_index("mixture")["objective"]
        if name == "uniform":
            assert own.isna().all()
            assert found.unknown == "its reference 'natural' is not measured there"
            assert not found.unmeasured
        else:
            assert own.to_dict() == pytest.approx({"natural": 0.0, "uniform": 1.0})
            assert not found.unknown


def _finish_target(study: Study, worker: Any, run_id: str, value: float) -> None:
    record = next(r for r in study.runs() if r.spec.run_id == run_id)
    worker.finish(record, {f"bpb/{d}": value for d in study.domains})


@pytest.mark.parametrize("name", ["../best", "a/b", ".hidden"])
def test_a_mixture_file_stays_in_its_folder(trained: Study, name: str) -> None:
    with pytest.raises(UserError, match="holds no folder"):
        trained.fit(settings=QUICK, name=name)
    assert trained.fit(settings=QUICK).fit_id
    with pytest.raises(UserError, match="no fit"):
        trained.latest_fit(f"../fits/{trained.latest_fit().fit_id}")


def test_a_mixture_file_with_too_long_a_name_is_refused(trained: Study) -> None:
    with pytest.raises(UserError, match=r"数\.yaml: no file can be written there \(File name too"):
        trained.fit(settings=QUICK, name="数" * 200)


@pytest.mark.parametrize("name", ["natural", "uniform"])
def test_a_mixture_file_has_no_name_that_stands_for_another(trained: Study, name: str) -> None:
    with pytest.raises(UserError, match=f"name '{name}': always stands for the {name} mixture"):
        trained.fit(settings=QUICK, name=name)
    assert not trained.layout.fits.exists()


@pytest.mark.parametrize(
    ("target", "name", "file"),
    [(None, "mine", "mine"), (None, None, "best"), ("bpb/web", None, "best-bpb-web")],
)
def test_a_mixture_that_a_person_wrote_is_never_replaced(
    trained: Study, target: str | None, name: str | None, file: str
) -> None:
    path = trained.layout.mixture(file)
    MixtureFile(file, Mixture.uniform(trained.domains)).save(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=rf"{file}\.yaml: was not written by a fit .*--name"):
        trained.fit(target, settings=QUICK, name=name)
    assert path.read_bytes() == before
    assert not trained.layout.fits.exists()
    path.unlink()
    for _ in range(2):  # a fit's own file is replaced
        assert trained.fit(target, settings=QUICK, name=name).mixture_name == file


def test_one_domain_or_one_mixture_is_refused_at_the_fit(
    import_study: Callable[..., Study],
) -> None:
    index = [f"r{i:02d}" for i in range(12)]
    values = pd.DataFrame({"loss": np.linspace(2, 3, 12)}, index)
    one = import_study(pd.DataFrame({"web": np.ones(12)}, index), values, name="one")
    with pytest.raises(UserError, match=r"study\.yaml: domains: 'web' alone .* at least two"):
        one.fit()
    same = pd.DataFrame({"web": np.full(12, 0.75), "code": np.full(12, 0.25)}, index)
    with pytest.raises(UserError, match="all 12 runs have the same mixture"):
        import_study(same, values, name="same").fit()


def test_a_noisy_swarm_is_called_a_coin_toss(make_study: Make, worker: Any) -> None:
    study = make_study()
    study.propose()
    rng = np.random.default_rng(0)
    for record in study.runs():
        worker.finish(record, {f"bpb/{d}": 2 + rng.normal() for d in study.domains})
    with pytest.raises(UserError, match="nothing stands above its seed noise"):
        study.fit(settings=QUICK)
    warnings = study.fit("bpb/web", settings=QUICK).diagnostics["warnings"]
    assert any("asked for by name" in w for w in warnings)
    assert any("spread is" in w and "coin toss" in w for w in warnings)
    assert any("held-out rank correlation" in w and "take the proposal" in w for w in warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("size: 50k", "size: 50kk"),
         r"study\.yaml: proxy\.model\.size: unknown size '50kk'; did you mean '50k'"),
        (("size: 100k", "size: 50k, heads: 5"), r"study\.yaml: target\.model: d_model 48 must be"),
        (("tokens: 40960", "tokens: 10"), r"study\.yaml: proxy\.train\.tokens: 10 is less than"),
    ],
)  # fmt: skip
def test_sizes_are_checked_when_a_study_is_opened(
    make_study: Make, change: tuple[str, str], message: str
) -> None:
    path = make_study().layout.config
    path.write_text(path.read_text("utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Study.open(path.parent)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("objective:\n  weights:\n    bpb/web: 1\n    bpb/cod: 1\n",
         r"study\.yaml:21: objective\.weights\.bpb/cod: unknown metric 'bpb/cod'; did you mean "
         r"'bpb/code'\? Valid: bpb/code, bpb/math, bpb/web"),
        ("objective: {directions: {bpb/mth: lower}}\n",
         r"study\.yaml:18: objective\.directions\.bpb/mth: unknown metric.*'bpb/math'"),
    ],
)  # fmt: skip
def test_an_objective_on_a_domain_that_is_not_there_is_found_at_once(
    make_study: Make, objective: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_study(objective)


def test_metrics_that_may_be_measured_elsewhere_are_left_to_the_fit(
    make_study: Make, swarm_files: Any, tmp_path: Path
) -> None:
    assert make_study("objective: {weights: {mmlu/acc: 1}}\n", folder="tasks").domains
    sources = [swarm_files.mixtures, swarm_files.metrics]
    study = create_for_import(tmp_path / "elsewhere", imports.read_csvs(*sources), sources)
    for folder in (study.layout.root, make_study(folder="both").layout.root):
        create_for_import(folder, imports.read_csvs(*sources), sources)
        with (folder / "study.yaml").open("a", encoding="utf-8") as stream:
            stream.write("objective: {weights: {bpb/pile: 1}}\n")
        assert Study.open(folder).config.objective.weights == {"bpb/pile": 1.0}


def test_what_is_no_study_is_refused(tmp_path: Path, make_study: Make) -> None:
    with pytest.raises(UserError, match=r"no study\.yaml in it; `regmix init .*` writes one"):
        Study.open(tmp_path)
    study = make_study()
    study.layout.manifest.unlink()
    with pytest.raises(UserError, match="the data is not built; run `regmix data build"):
        Study.open(study.layout.root).propose()


def test_data_built_for_other_domains_are_refused(make_study: Make) -> None:
    study = make_study(tokens={"web": 10, "code": 20})
    with pytest.raises(
        UserError, match=r"built for domains web, code, but .* names web, code, math"
    ):
        study.propose()


@pytest.mark.parametrize("folder", ["plain", "2024", "1e5", "on", "null", "my study", ".hidden"])
def test_the_template_opens_in_any_folder(tmp_path: Path, folder: str) -> None:
    path = write_template(tmp_path / folder)
    study = Study.open(tmp_path / folder)
    assert study.domains == ("web", "code")
    with pytest.raises(UserError, match="is there already"):
        write_template(path.parent)


def test_the_template_tells_true_defaults(tmp_path: Path) -> None:
    """Every line that says "default" is put in force, and changes nothing."""
    path = write_template(tmp_path / "s")
    text, before = path.read_text("utf-8"), Study.open(path.parent).config
    lines = text.replace("# data:\n", "data:\n").splitlines()
    given = [n for n, own in enumerate(lines) if re.search(r"# default($|;)", own)]
    given.append(next(n for n, own in enumerate(lines) if "default of this size" in own) - 1)
    for n in given:
        lines[n] = lines[n].replace("# ", "", 1)
    path.write_text("\n".join(lines), encoding="utf-8")
    after = Study.open(path.parent).config
    assert len(given) == 8
    assert after.proxy.train.lr is not None
    model = sizes.shape(after.proxy.model)
    assert sizes.plan(after.proxy.train, model) == sizes.plan(before.proxy.train, model)
    assert after.model_copy(update={"proxy": before.proxy}) == before


def test_an_unknown_regressor_is_found_when_the_study_is_opened(make_study: Make) -> None:
    path = make_study().layout.config
    raw = yaml_io.load(path)
    raw["fit"] = {**raw.get("fit", {}), "regressor": "lightgmb"}
    path.write_text(yaml_io.dump(raw), encoding="utf-8")
    with pytest.raises(
        UserError,
        match=r"study\.yaml:\d+: fit\.regressor: unknown regressor 'lightgmb'; "
        r"did you mean 'lightgbm'",
    ):
        Study.open(path.parent)
