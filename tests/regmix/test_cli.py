"""The command line as a person meets it: exit codes, messages, files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regmix.cli import main
from regmix.mixture import MixtureFile
from regmix.study import Study

FIXTURES = Path(__file__).parent / "imports" / "data"

QUICK = "fit: {regressor: gp, samples: 2000, repeats: 1}\n"


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "regmix.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Commands:
    """The command's own entry point, in this process: without the seconds that imports take."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = patch, capture

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["regmix", *map(str, arguments)])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        output = self._capture.readouterr()
        return int(end.value.code or 0), output.out, output.err

    def done(self, *arguments: object) -> str:
        """Standard output of a command that must succeed."""
        code, out, err = self(*arguments)
        assert code == 0, err
        return out

    def refused(self, *arguments: object, code: int = 2) -> str:
        """Standard error of a command that must fail, in one message and without a traceback."""
        found, out, err = self(*arguments)
        assert found == code, (found, out, err)
        assert err.startswith("error: "), err
        assert "Traceback" not in err + out
        assert "a defect" not in err
        return err


@pytest.fixture
def regmix(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """Runs commands."""
    return Commands(monkeypatch, capsys)


def test_version_and_help(regmix: Commands) -> None:
    assert regmix.done("--version").startswith("regmix 0.")
    text = regmix.done("--help")
    for command in ("demo", "init", "data", "propose", "train", "fit", "predict", "report", "sql"):
        assert command in text
    installed = subprocess.run(
        [Path(sys.executable).with_name("regmix"), "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert installed.stdout == process("--version").stdout == regmix.done("--version")


@pytest.mark.parametrize(
    "arguments", [["predcit"], ["fit"], ["propose", ".", "-n", "0"], ["fit", ".", "--x"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    found = process(*arguments)
    assert found.returncode == 2
    assert "Usage" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_whole_import_from_csv_to_predictions(
    regmix: Commands, swarm_files: Any, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    text = regmix.done(
        "import", study, "--mixtures", swarm_files.mixtures, "--metrics", swarm_files.metrics
    )
    assert "24 runs, 3 domains, 2 metrics" in text
    with (study / "study.yaml").open("a", encoding="utf-8") as stream:
        stream.write(QUICK)
    text = regmix.done("fit", study, "--target", "loss", "--name", "chosen")
    assert "Objective: loss (lower is better)" in text
    best = MixtureFile.load(study / "mixes" / "chosen.yaml").mixture
    assert best["web"] == pytest.approx(0.5, abs=0.05)
    output = tmp_path / "out" / "predictions.csv"
    shuffled = swarm_files.weights.iloc[::-1][["math", "web", "code"]]
    swarm_files.write(shuffled)
    text = regmix.done("predict", study, "--mixtures", swarm_files.mixtures, "-o", output)
    assert "24 mixtures, 1 metrics" in text
    found = pd.read_csv(output).set_index("run")
    assert list(found) == ["loss", "loss_std"]
    assert list(found.index) == list(shuffled.index)
    assert (found["loss_std"] > 0).all()
    error = found["loss"] - swarm_files.values["loss"].loc[found.index]
    assert error.abs().max() < 0.05
    csv = regmix.done("sql", study, "--csv", "select count(*) as n, max(value) as top from metrics")
    assert csv.splitlines()[0] == "n,top"
    assert csv.splitlines()[1].startswith("48,")


def test_planning_and_watching_a_study(
    regmix: Commands, make_study: Callable[..., Study], worker: Any
) -> None:
    study = make_study()
    assert "18 runs" in regmix.done("propose", study.layout.root)
    assert "0 of them new" in regmix.done("propose", study.layout.root)
    assert "8 of them new" in regmix.done("propose", study.layout.root, "-n", 20)
    failed, *rest = study.runs()
    worker.fail(failed, "loss is not finite")
    for record in rest:
        worker.finish(record)
    text = regmix.done("status", study.layout.root)
    assert "25" in text
    assert "loss is not finite" in text
    assert regmix.done("fit", study.layout.root)
    assert MixtureFile.load(study.layout.mixture("best"), study.domains)


def test_init_writes_a_study_that_opens(regmix: Commands, tmp_path: Path) -> None:
    assert "my study[a]" in regmix.done("init", tmp_path / "my study[a]").replace("\n", "")
    assert Study.open(tmp_path / "my study[a]").domains == ("web", "code")
    assert "study.yaml: is there already" in regmix.refused("init", tmp_path / "my study[a]")


def test_a_misspelt_key_names_file_line_and_the_right_one(
    regmix: Commands, make_study: Callable[..., Study]
) -> None:
    study = make_study()
    path = study.layout.config
    path.write_text(
        path.read_text("utf-8").replace(
            "swarm: {runs: 12, concentration: [0.5, 20]}", "swarm:\n  runs: 12\n  replicatess: 2"
        ),
        encoding="utf-8",
    )
    for command in ("propose", "status", "fit", "report"):
        message = regmix.refused(command, study.layout.root)
        assert f"{path}:18: swarm.replicatess: unknown key 'replicatess'" in message
        assert "did you mean 'replicates'?" in message


def test_a_mistake_is_one_line_and_exits_with_2(tmp_path: Path) -> None:
    found = process("status", tmp_path)
    assert found.returncode == 2
    assert found.stdout == ""
    assert len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith(f"error: {tmp_path}: no study.yaml in it")


def test_debug_shows_where(tmp_path: Path) -> None:
    for arguments in (("--debug", "status", tmp_path), ("status", tmp_path, "--debug")):
        found = process(*arguments)
        assert found.returncode == 1
        assert "Traceback" in found.stderr
        assert "UserError" in found.stderr


@pytest.mark.parametrize("command", ["status", "propose", "fit", "report", "train"])
def test_a_folder_that_is_no_study(regmix: Commands, tmp_path: Path, command: str) -> None:
    message = regmix.refused(command, tmp_path / "nothing")
    assert f"{tmp_path / 'nothing'}: no study.yaml in it; `regmix init" in message


def test_nothing_there_yet(
    regmix: Commands, make_study: Callable[..., Study], swarm_files: Any
) -> None:
    root = make_study().layout.root
    assert "no finished proxy yet; run `regmix propose`" in regmix.refused("fit", root)
    message = regmix.refused(
        "predict", root, "--mixtures", swarm_files.mixtures, "-o", root / "p.csv"
    )
    assert "nothing is fitted yet; run `regmix fit" in message
    assert not (root / "p.csv").exists()
    (root / "tokens" / "manifest.json").unlink()
    assert "the data is not built; run `regmix data build" in regmix.refused("propose", root)


def test_a_persons_mistakes_with_a_fit(regmix: Commands, trained: Study, tmp_path: Path) -> None:
    root = trained.layout.root
    message = regmix.refused("fit", root, "--target", "bpb")
    assert "metric 'bpb' could be any of bpb/code, bpb/math, bpb/web" in message
    assert "did you mean 'bpb/web'" in regmix.refused("fit", root, "--target", "bpb/wbe")
    message = regmix.refused("fit", root, "--regressor", "lgbm")
    assert "unknown regressor 'lgbm'" in message
    assert "did you mean 'lightgbm'?" in message
    assert regmix.done("fit", root)
    faulty = tmp_path / "mixtures.csv"
    faulty.write_text("id,web,code,math\na,0.5,0.5,0\nb,0.5,0.4,0\n", encoding="utf-8")
    message = regmix.refused("predict", root, "--mixtures", faulty, "-o", tmp_path / "p.csv")
    assert f"{faulty}: weights of run b sum to 0.9, not 1" in message
    faulty.write_text("id,web,code,math\na,0.5,0.5,0\n", encoding="utf-8")
    message = regmix.refused("predict", root, "--mixtures", faulty, "-o", tmp_path)
    assert f"{tmp_path}: no file can be written there (Is a directory)" in message
    message = regmix.refused(
        "predict", root, "--mixtures", faulty, "-o", tmp_path / "x", "--fit", "nope"
    )
    assert "no fit 'nope'" in message
    before = faulty.read_bytes()
    message = regmix.refused("predict", root, "--mixtures", faulty, "-o", faulty)
    assert f"{faulty}: is read for this; write to another file (-o)" in message
    assert faulty.read_bytes() == before
    assert "cannot be read" in regmix.refused(
        "predict", root, "--mixtures", tmp_path, "-o", "x.csv"
    )


def test_a_home_folder_that_is_not_known(
    regmix: Commands, trained: Study, swarm_files: Any
) -> None:
    message = "the home folder of '~nosuchuser' is not known"
    away = Path("~nosuchuser/x")
    files = ("--mixtures", swarm_files.mixtures, "--metrics", swarm_files.metrics)
    for arguments in (("status", away), ("init", away), ("demo", away), ("import", away, *files)):
        assert f"{away}: {message}" in regmix.refused(*arguments)
    config = trained.layout.config
    config.write_text(config.read_text("utf-8").replace("text/web.jsonl", str(away)), "utf-8")
    assert f"{away}: {message}" in regmix.refused("data", "build", trained.layout.root)
    recipe = trained.layout.root / "recipe.yaml"
    stages = "stages: [{name: base, kind: pretrain, mixture: m.yaml}]"
    recipe.write_text(f"name: r\nstudy: {away}\n{stages}\n", encoding="utf-8")
    assert f"{away}: {message}" in regmix.refused("run", recipe, "--check")


def test_no_folder_can_be_made(regmix: Commands) -> None:
    message = regmix.refused("init", "/proc/nothing")
    assert "/proc/nothing/study.yaml: no folder can be made for it (No such file" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"results": [{}]}', "results.0.task: None is not the task of a task"),
        ('{"results": [5]}', "results.0: 5 is not a task's results"),
        ('{"results": [{"task": "t", "fingerprint": "a/b"}]}', "results.0.fingerprint: 'a/b'"),
        ('{"results": [{"task": "t", "fingerprint": "f"}]}', "results.0.metrics: None is not a"),
        ('{"results": [{"task": "t", "fingerprint": "f", "metrics": [1]}]}', "metrics.0: 1 is"),
        ('{"results": [{"task": "t", "fingerprint": "f", "metrics": [{"name": "t/acc", '
         '"split": "test", "value": "x", "std_error": null}]}]}',
         "results.0.metrics.0.value: 'x' is not a number"),
        ('{"results": [{"task": "t", "fingerprint": "f", "metrics": [{"name": "t/acc"}]}]}',
         "results.0.metrics.0.split: None is not text"),
        (f'{{"results": {"9" * 5000}}}', "not valid JSON"),
        ("[" * 100_000, "nested too deep to be read"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_models_results(
    regmix: Commands, trained: Study, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    told = regmix.refused("compare", trained.layout.root, "uniform", path)
    assert f"{path}: " in told
    assert message in told


def test_sql_is_for_reading(regmix: Commands, trained: Study) -> None:
    root = trained.layout.root
    assert "error: sql: " in regmix.refused("sql", root, "drop table runs")
    assert "read-only" in regmix.refused("sql", root, "delete from runs")
    assert "nothing" in regmix.refused("sql", root, "select * from nothing")
    assert regmix.done("sql", root, "--csv", "select count(*) as n from runs").split() == [
        "n",
        "18",
    ]


def test_a_failure_that_is_nobodys_mistake_exits_with_1(regmix: Commands, trained: Study) -> None:
    trained.layout.store.write_bytes(b"this is no database" * 1000)
    message = regmix.refused("fit", trained.layout.root, code=1)
    assert f"{trained.layout.store}: not a store that can be opened" in message
    assert "delete it" in message


def test_faulty_imports_leave_nothing_behind(
    regmix: Commands, swarm_files: Any, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    files = ("--mixtures", swarm_files.mixtures, "--metrics", swarm_files.metrics)
    swarm_files.write(swarm_files.weights * 0.9)
    message = regmix.refused("import", study, *files)
    assert f"{swarm_files.mixtures}: weights of run r" in message
    assert "sum to 0.9, not 1" in message
    swarm_files.write(values=swarm_files.values.drop(index="r03"))
    assert "r03 (--allow-missing leaves them out)" in regmix.refused("import", study, *files)
    assert not study.exists()
    assert "left out 1 runs" in regmix.done("import", study, *files, "--allow-missing")
    assert len(Study.open(study).observations().weights) == 23


def test_runs_of_wandb_and_of_the_harness_come_in(regmix: Commands, tmp_path: Path) -> None:
    table = ("--runs", FIXTURES / "wandb_runs.csv", "--select", "eval/*")
    message = regmix.refused("import", tmp_path / "w", *table)
    assert "column 'eval/samples', run 941550058: " in message
    assert "leave the column out with --select '!eval/samples'" in message
    assert not (tmp_path / "w").exists()
    text = regmix.done(
        "import", tmp_path / "w", *table, "--select", "!eval/samples", "--weights", "config.mix*"
    )
    assert "left out 2 runs that did not finish: 9zcrash0 (crashed)" in text
    assert "12 runs, 3 domains, 3 metrics" in text
    assert "better high: acc\nbetter low: loss_code, loss_web\n" in text
    text = regmix.done(
        "import", tmp_path / "e", "--mixtures", FIXTURES / "weights.csv",
        "--metrics", FIXTURES / "lm_eval", "--select", "*/acc",
    )  # fmt: skip
    assert "better high: arc_easy/acc, mmlu/acc" in text
    assert Study.open(tmp_path / "e").observations().metric_names == ("arc_easy/acc", "mmlu/acc")
    assert "give --mixtures and --metrics, or --runs" in regmix.refused("import", tmp_path / "x")


def test_too_few_imported_runs_are_refused_at_the_fit(
    regmix: Commands, swarm_files: Any, tmp_path: Path
) -> None:
    swarm_files.write(swarm_files.weights[:6], swarm_files.values[:6])
    study = tmp_path / "study"
    regmix.done(
        "import", study, "--mixtures", swarm_files.mixtures, "--metrics", swarm_files.metrics
    )
    assert "6 runs are too few to fit; at least 8 are needed" in regmix.refused("fit", study)


@pytest.mark.slow
def test_published_swarm_is_fitted_and_predicts_held_out_mixtures(
    regmix: Commands, real_data: Path, tmp_path: Path
) -> None:
    """RegMix's paper reports a rank correlation of 0.9845 for this; by index, not by position."""
    folder, study = real_data / "regmix_swarm", tmp_path / "study"
    text = regmix.done(
        "import", study, "--mixtures", folder / "train_mixture_1m.csv",
        "--metrics", folder / "train_pile_loss_1m.csv",
    )  # fmt: skip
    assert "512 runs, 17 domains, 13 metrics" in text
    regmix.done("fit", study, "--target", "pile_cc")
    output = tmp_path / "predictions.csv"
    regmix.done("predict", study, "--mixtures", folder / "test_mixture_1m.csv", "-o", output)
    found = pd.read_csv(output).set_index("index")
    metric = "the_pile_pile_cc"
    assert list(found) == [metric, f"{metric}_std"]
    truth = pd.read_csv(folder / "test_pile_loss_1m.csv").set_index("index")
    joined = found.join(truth["metric/the_pile_pile_cc_val_loss"].rename("truth"), how="inner")
    assert len(joined) == 256
    assert joined[metric].corr(joined["truth"], method="spearman") >= 0.985
    z = (joined["truth"] - joined[metric]) / joined[f"{metric}_std"]
    assert 0.8 < np.mean(np.abs(z) < 1.645) <= 1.0
    best = MixtureFile.load(study / "mixes" / f"best-{metric}.yaml").mixture
    assert best["the_pile_pile_cc"] == max(best.weights)
