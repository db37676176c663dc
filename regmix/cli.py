"""The command line: commands and their options; the work is done elsewhere.

Nothing heavy is imported before a command runs, so that ``regmix --help`` is instant.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from regmix import __version__
from regmix.errors import RegmixError

app = typer.Typer(
    name="regmix",
    help="Find the data mixture for a language model: proxies, regression, an optimum.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Text to token shards.", no_args_is_help=True)
app.add_typer(data_app, name="data")

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")]
StudyOption = Annotated[
    Path | None, typer.Option(help="The study of the domains; default: the mixture's own.")
]
PathsOption = Annotated[
    Path | None, typer.Option(help="Mapping file: where each domain's data lie.")
]


class DemoSize(StrEnum):
    """How much the demo trains."""

    tiny = "tiny"
    default = "default"
    large = "large"


def main() -> None:
    """Run the command line; errors are one line, with a traceback only under ``--debug``."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app()
    except RegmixError as exc:
        if debug:
            raise
        _fail(str(exc), exc.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", 130)
    except Exception as exc:
        if debug:
            raise
        _fail(f"{type(exc).__name__}: {exc} (a defect; --debug shows where)", 1)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _version(asked: bool) -> None:
    if asked:
        print(f"regmix {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options that stand before the command."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where it goes.")] = Path("demo"),
    size: Annotated[DemoSize, typer.Option(help="How much is trained.")] = DemoSize.default,
    corpus: Annotated[
        Path | None, typer.Option(help="train/<domain>.jsonl and valid/<domain>.jsonl.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, text order and swarm.")] = 0,
) -> None:
    """Find a mixture on real text, train with it, and compare it with the alternatives."""
    from proxy_trainer import steps
    from regmix import console, report
    from regmix import demo as demo_module

    summary = demo_module.run(
        folder,
        size=size.value,
        corpus=corpus,
        seed=seed,
        steps=steps,
        display=console.TerminalDisplay(),
        write_report=report.write,
    )
    console.show_summary(summary)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new study's folder.")],
) -> None:
    """Write a commented study.yaml to start from."""
    from regmix import console
    from regmix.template import write_template

    text = f"wrote {write_template(folder)}; edit it, then `regmix data build`"
    console.say(text, markup=False)


@data_app.command("build")
def data_build(study: StudyPath) -> None:
    """Tokenise every source once; what is already built is kept."""
    from proxy_trainer import steps
    from regmix import console
    from regmix.study import Study

    opened = Study.open(study)
    with console.TerminalDisplay().stage("Tokens") as progress:
        manifest = steps.build_data(opened, progress)
    console.show_manifest(manifest)


@data_app.command("contamination")
def data_contamination(
    study: StudyPath,
    file: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluation items, a row each; default: data.decontaminate's."),
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="Field of the items' text; may be given again.")
    ] = None,
    ngram: Annotated[
        int | None, typer.Option(min=5, max=50, help="Words in a row that count; default: 13.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Look for evaluation items in every domain's training text."""
    from proxy_trainer import steps
    from proxy_trainer.data import contamination
    from regmix import console
    from regmix.study import Study

    opened = Study.open(study)
    benchmarks = contamination.given(file or [], field or [])
    if csv:  # nothing beside the table
        console.show_frame(steps.contamination(opened, benchmarks, ngram), csv=True)
        return
    with console.TerminalDisplay().stage("Training text") as progress:
        found = steps.contamination(opened, benchmarks, ngram, progress)
    console.show_frame(found)


@data_app.command("export")
def data_export(
    study: StudyPath,
    to: Annotated[str, typer.Option(help="Layout: olmo-core, megatron.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder; default: exports/ in the study.")
    ] = None,
) -> None:
    """Write the token shards as another trainer reads them, and a mapping file beside them."""
    from proxy_trainer.data import build, layouts
    from regmix import config, console

    layout = config.find_study(study)
    manifest = build.load_manifest(layout, config.load_study(layout.config))
    with console.TerminalDisplay().stage("Shards") as progress:
        path, places = layouts.export_shards(layout, manifest, to, output, progress)
    console.show_places(path, places)


@app.command()
def propose(
    study: StudyPath,
    runs: Annotated[
        int | None,
        typer.Option("-n", "--runs", min=1, help="Mixtures; natural and single domains on top."),
    ] = None,
) -> None:
    """Plan a swarm: one specification a run; asking for more later adds to it."""
    from regmix import console
    from regmix.study import Study

    console.show_proposed(Study.open(study).propose(runs))


@app.command()
def train(
    study: StudyPath,
    retry_failed: Annotated[bool, typer.Option(help="Train failed runs again too.")] = False,
    launcher: Annotated[
        str | None, typer.Option(help="local, slurm, ray: where workers are started.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers in all.")] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Instead: machines, with --gpus-per-node.")
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="Devices of each machine; one a worker, or as set.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit and return; not with local.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will take; start nothing.")
    ] = False,
) -> None:
    """Train every run that is not done; interrupted, run it again and it goes on."""
    from proxy_trainer import steps
    from regmix import console
    from regmix.study import Study

    opened = Study.open(study)
    settings = opened.config.launch.overridden(
        launcher=launcher, workers=workers, nodes=nodes, gpus_per_node=gpus_per_node, detach=detach
    )
    ids = opened.open_runs(retry_failed=retry_failed)
    if dry_run:
        steps.check(opened, ids, settings, detached=detach)
        count, members = steps.workers(settings), steps.members(opened, ids, settings)
        console.show_estimate(opened.estimate(ids, settings, count, members))
        return
    if detach:
        submission = steps.submit(opened, ids, settings, detached=True).submission
        console.show_submitted(submission.launcher, submission.jobs, opened.layout.root)
        return
    with console.TerminalDisplay().training(opened, ids, "Training") as poll:
        outcome = steps.train(opened, ids, poll, settings)
    console.show_trained(opened, outcome)


@app.command()
def cancel(study: StudyPath) -> None:
    """Have the study's workers leave checkpoints and end; works from any shell."""
    from proxy_trainer.launch import running
    from regmix import config, console

    asked = running.cancel(config.find_study(study))
    console.say(f"{len(asked)} jobs told to end" if asked else "no worker is running", markup=False)


@app.command()
def logs(
    study: StudyPath,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's id, its beginning, or its name.")
    ] = None,
) -> None:
    """What the study's workers wrote; of one run, every attempt at it."""
    from proxy_trainer.launch import running
    from regmix import claims, config, console, records

    layout = config.find_study(study)
    run_id = None if run is None else records.find_run(layout, run)
    folder = None if run_id is None else layout.run(run_id).claims
    failures = [] if folder is None else claims.failures(claims.log(folder))
    troubles: list[RegmixError] = []
    console.show_log(running.logs(layout, troubles.append), run_id, failures)
    running.raise_all(troubles)  # what there is has been shown


@app.command()
def status(study: StudyPath) -> None:
    """How far a study is; works while it trains."""
    from regmix import config, console
    from regmix import status as status_module

    layout = config.find_study(study)
    config.load_study(layout.config)  # what is wrong in it is said by every command
    console.show_status(status_module.status(layout))


@app.command()
def sql(
    study: StudyPath,
    query: Annotated[str, typer.Argument(help="A SELECT statement.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Query the store: runs, mixtures, metrics, steps, costs, environments."""
    from regmix import console
    from regmix.study import Study

    console.show_frame(Study.open(study).store.query(query), csv=csv, rows=True)


@app.command("import")
def import_(
    study: StudyPath,
    mixtures: Annotated[
        Path | None, typer.Option(help="Weights: CSV or parquet, a column a domain, or long.")
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="Metrics: CSV or parquet, or a folder of lm-evaluation-harness results."),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Instead of both: one table, as W&B exports it.")
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Columns that are weights, as 'config.mixture.*'.")
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Columns that are metrics, as 'eval/*' or '!*_step'.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option(help="Leave out runs that are not whole, and say which.")
    ] = False,
) -> None:
    """Take in runs that were measured elsewhere; creates the study if there is none."""
    from regmix import console, imports
    from regmix.intake import create_for_import

    found = imports.read(
        mixtures=mixtures,
        metrics=metrics,
        runs=runs,
        choice=imports.Choice(tuple(weights or ()), tuple(select or ())),
        allow_missing=allow_missing,
    )
    sources = [path for path in (mixtures, metrics, runs) if path is not None]
    console.show_import(create_for_import(study, found, sources), found)


@app.command()
def fit(
    study: StudyPath,
    target: Annotated[
        str | None, typer.Option(help="One metric, or an unambiguous part of its name.")
    ] = None,
    regressor: Annotated[
        str | None,
        typer.Option(help="auto (chosen by cross-validation), or one by name, such as gp."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the mixture file.")] = None,
) -> None:
    """Fit mixture to metrics, solve for the best mixture, say how sure that is."""
    from regmix import console
    from regmix.study import Study

    opened = Study.open(study)
    settings = opened.config.fit
    if regressor is not None:
        settings = settings.model_copy(update={"regressor": regressor})
    with console.TerminalDisplay().stage("Fit and solve") as progress:
        found = opened.fit(target, settings=settings, name=name, progress=progress)
    console.show_fit(found, opened.layout.mixture(found.mixture_name))
    if opened.config.ladder:
        console.show_verdicts(opened)


@app.command()
def transfer(
    study: StudyPath,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Ask larger sizes (`ladder:`) whether they put mixtures in the proxies' order."""
    import pandas as pd

    from regmix import console
    from regmix.study import Study

    found = Study.open(study).transfer()
    if csv:
        tables = [t.table.assign(small=t.small.label, large=t.large.label) for t in found]
        console.show_frame(pd.concat(tables), csv=True)
        return
    for size in found:
        console.show_transfer(size)


@app.command()
def predict(
    study: StudyPath,
    mixtures: Annotated[Path, typer.Option(help="CSV: an id column, one column a domain.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV to write.")],
    fit_id: Annotated[str | None, typer.Option("--fit", help="Default: the latest.")] = None,
) -> None:
    """Predict metrics for mixtures: <metric> and <metric>_std beside the id."""
    from regmix import console
    from regmix.files import write_text
    from regmix.imports import read_mixtures
    from regmix.study import Study

    opened = Study.open(study)
    table = read_mixtures(mixtures, opened.domains)
    found = opened.predict(table.weights, fit_id).rename_axis(table.id_column)
    write_text(output, found.to_csv())
    console.show_notes(table.notes)
    text = f"{len(found)} mixtures, {found.shape[1] // 2} metrics: {output}"
    console.say(text, markup=False)


@app.command()
def pareto(
    study: StudyPath,
    x: Annotated[
        str, typer.Option(help="Metrics: names, parts, patterns or groups, with commas between.")
    ],
    y: Annotated[str, typer.Option(help="The metrics on the other side.")],
    points: Annotated[int, typer.Option(help="Mixtures on the front, at most.")] = 15,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for CSV and PNG.")
    ] = None,
) -> None:
    """Trade one group of metrics against another: the front of mixtures, as CSV and PNG."""
    from regmix import console, report
    from regmix.study import Study

    with console.TerminalDisplay().stage("Front") as progress:
        found = Study.open(study).pareto(x, y, points=points, folder=output, progress=progress)
    assert found.csv is not None
    console.show_pareto(found, report.front_png(found, found.csv.with_suffix(".png")))


@app.command()
def diagnose(study: StudyPath, as_json: JsonOption = False) -> None:
    """What the swarm can and cannot say, and what to do next."""
    from regmix import console
    from regmix.study import Study

    opened = Study.open(study)
    if as_json:
        console.show_json(opened.diagnose().as_dict())
        return
    with console.TerminalDisplay().stage("Learning curve") as progress:
        found = opened.diagnose(progress)
    console.show_diagnosis(found)


@app.command()
def noise(study: StudyPath, as_json: JsonOption = False) -> None:
    """Every metric's noise, its class, and how wide a difference between runs must be to count."""
    from regmix import console
    from regmix.study import Study

    found = Study.open(study).noise()
    if as_json:
        console.show_json(found.as_dict())
        return
    console.show_noise(found)


@app.command()
def compare(
    study: StudyPath,
    names: Annotated[
        list[str],
        typer.Argument(metavar="A B [C…]", help="Mixtures, runs or models; each against A."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Whether mixtures, runs or models differ by more than seeds do, metric by metric."""
    from regmix import console
    from regmix.study import Study

    found = Study.open(study).compare(*names)
    if as_json:
        console.show_json(found.as_dict())
        return
    console.show_differences(found)


@app.command()
def flags(study: StudyPath, as_json: JsonOption = False) -> None:
    """Runs that something is wrong with, each by a rule that is named."""
    from regmix import console
    from regmix.study import Study

    found = Study.open(study).flags()
    if as_json:
        console.show_json(found.as_dict())
        return
    console.show_flags(found)


@app.command()
def cost(study: StudyPath, as_json: JsonOption = False) -> None:
    """What the finished runs took, and what RegMix's published recipe would have."""
    from regmix import console
    from regmix.study import Study

    found = Study.open(study).cost()
    if as_json:
        console.show_json(found.as_dict())
        return
    console.show_account(found)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The recipe.")],
    check: Annotated[
        bool, typer.Option("--check", help="Find what is wrong with it; train nothing.")
    ] = False,
    launcher: Annotated[
        str | None, typer.Option(help="local, slurm, ray: where workers are started.")
    ] = None,
) -> None:
    """Take one model through the stages of a recipe: pretraining, mid-training, SFT."""
    from proxy_trainer.stages import execute, resolve, tables
    from regmix import console

    found = resolve.resolve(recipe)
    console.show_frame(tables.plan(found))
    console.show_frame(tables.epochs(found))
    talk = tables.conversations(found)
    if not talk.empty:
        console.show_frame(talk)
    settings = found.study.config.launch.overridden(launcher=launcher)
    if check:
        execute.check(found, settings)
        console.say("nothing is wrong with it; nothing was trained")
        return
    shown = console.TerminalDisplay()
    ended: list[execute.Ended] = []

    def over(stage: execute.Ended) -> None:
        ended.append(stage)
        console.show_frame(tables.runs(stage))
        if stage.stage.config.microanneal is not None:
            console.show_frame(tables.source(stage))
        if len(stage.tried) > 1:
            console.say(f"standard deviation over runs: {stage.spread:.4g}")

    model = execute.execute(
        found,
        settings=settings,
        display=lambda ids, title: shown.watching(found.study, ids, title),
        on_stage=over,
    )
    console.show_frame(tables.metrics(ended))
    console.say(f"model {model}", markup=False)


@app.command("eval")
def evaluate(
    models: Annotated[
        Path, typer.Argument(metavar="STUDY|MODEL", help="A study, or a model's folder.")
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="mmlu, gsm8k, a file of tasks, or lm:NAME of lm-evaluation-harness; several "
            "times. Default: the study's."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the files of tasks that are named; default: the study's."),
    ] = None,
    include: Annotated[
        Path | None, typer.Option(help="Folder of more tasks of lm-evaluation-harness.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each task: a sample of so many.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the sample.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON to write, of a model's folder.")
    ] = None,
    checkpoint: Annotated[
        int | None,
        typer.Option(min=1, metavar="STEP", help="Ask unfinished runs, by checkpoints of a step."),
    ] = None,
    launcher: Annotated[
        str | None, typer.Option(help="local, slurm, ray: where workers are started.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers in all.")] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Instead: machines, with --gpus-per-node.")
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="Devices of each machine; one a worker, or as set.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Submit and return; not with local.")
    ] = False,
) -> None:
    """Measure finished models on tasks; what a study's models were asked before is kept."""
    from proxy_trainer import steps
    from proxy_trainer.evals import afterwards, kept_tasks
    from regmix import console
    from regmix.errors import UserError
    from regmix.files import write_json
    from regmix.study import Study

    asked = kept_tasks.Asked(tuple(tasks or ()), data, limit, seed, include)
    if not (models / "study.yaml").is_file():
        if detach or any(
            x is not None for x in (checkpoint, launcher, workers, nodes, gpus_per_node)
        ):
            raise UserError(
                f"{models}: no study; a model's folder is asked by the command itself: "
                "--checkpoint, --launcher, --workers, --nodes, --gpus-per-node and --detach are "
                "for studies"
            )
        wanted = asked.read(None)
        with console.TerminalDisplay().stage("Questions") as progress:
            results = [r.as_dict() for r in afterwards.folder(models, wanted, progress)]
        if output is not None:
            write_json(output, {"model": str(models), "results": results})
        console.show_model_metrics(results)
        return
    if output is not None:
        raise UserError("-o is for a model's folder; results of a study are kept in it")
    study = Study.open(models)
    settings = study.config.launch.overridden(
        launcher=launcher, workers=workers, nodes=nodes, gpus_per_node=gpus_per_node, detach=detach
    )
    wanted = asked.read(study.layout)
    if detach:
        launch = steps.submit_asking(study, wanted, step=checkpoint, settings=settings)
        if launch is None:
            console.say("all models were asked before")
            return
        submission = launch.submission
        console.show_submitted(submission.launcher, submission.jobs, study.layout.root)
        return
    with console.TerminalDisplay().stage("Answers") as progress:
        found = steps.ask(study, wanted, step=checkpoint, settings=settings, on_poll=progress)
    console.show_study_metrics(found)


@app.command()
def merge(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Folders of models.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    weights: Annotated[
        str | None, typer.Option(help="What each counts for, as in 2,1,1; default: the same.")
    ] = None,
) -> None:
    """Average models of one architecture, tensor by tensor."""
    from proxy_trainer import merging
    from regmix import console
    from regmix.errors import UserError

    try:
        given = None if weights is None else [float(w) for w in weights.split(",")]
    except ValueError as exc:
        raise UserError(f"--weights {weights}: numbers with commas between are needed") from exc
    merging.merge_folders(models, output, given)
    console.say(f"model {output}", markup=False)


@app.command()
def export(
    mixture: Annotated[Path, typer.Argument(metavar="MIX.yaml", help="The mixture.")],
    to: Annotated[str, typer.Option(help="The format; docs/EXPORTS.md lists them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    study: StudyOption = None,
    paths: PathsOption = None,
    then: Annotated[
        list[str] | None,
        typer.Option(metavar="STEP=MIX.yaml", help="From this step on, another mixture."),
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Training tokens of the run.")] = None,
    max_epochs: Annotated[
        float | None, typer.Option(help="Refuse to go over a domain more often.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json of the trainer: must be the data's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the trainer's own sampling; default: 0.")
    ] = None,
) -> None:
    """Write a mixture in the format of another trainer."""
    from proxy_trainer.data import tokenizer as tokenizers
    from proxy_trainer.data.places import text_places
    from regmix import console
    from regmix import export as exports

    form = exports.exporter(to)
    identity = None if tokenizer is None else tokenizers.identity(tokenizer)
    inputs = () if tokenizer is None else (tokenizer,)
    asked = exports.Asked(exports.stages(then or ()), tokens, max_epochs, identity, seed, inputs)
    found = exports.locate(form, exports.study_of(mixture, study), paths, text_places)
    asked = exports.settled(asked, form, found)
    console.show_exported(exports.export(mixture, to, output, found.places, asked))


@app.command("import-mixture")
def import_mixture(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A trainer's file.")],
    source: Annotated[str, typer.Option("--from", help="Its format; docs/EXPORTS.md lists them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Mixture YAML to write.")],
    study: StudyOption = None,
    paths: PathsOption = None,
    at: Annotated[
        int | None, typer.Option(min=0, help="Of several stages, the one from this step on.")
    ] = None,
) -> None:
    """Take the mixture that a trainer uses now: its file as a mixture YAML."""
    from proxy_trainer.data.places import text_places
    from regmix import console
    from regmix import export as exports

    form = exports.exporter(source, "--from")
    places, inputs = None, tuple[Path, ...]()
    if study is not None or paths is not None:
        named = not exports.needs_paths(file, source, at)
        located = exports.locate(form, study, paths, text_places, names_only=named)
        places, inputs = located.places, located.inputs
    found = exports.import_mixture(file, source, output, places, at, inputs)
    console.show_imported_mixture(output, *found)


@app.command()
def report(study: StudyPath) -> None:
    """Write the report: one self-contained HTML file."""
    from regmix import console
    from regmix import report as report_module
    from regmix.study import Study

    console.say(f"report {report_module.write(Study.open(study))}", markup=False)


if __name__ == "__main__":
    main()
