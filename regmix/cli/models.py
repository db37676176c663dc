"""Commands on larger models: recipes, evaluations, averages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from proxy_trainer.evals.kept_tasks import Asked
    from regmix.config import LaunchConfig
    from regmix.study import Study

app = typer.Typer()


@app.command(epilog="Example: regmix run recipe.yaml --check")
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

    shown = console.TerminalDisplay()
    with shown.stage("Conversations") as progress:
        found = resolve.resolve(recipe, progress)
    console.show_frame(tables.plan(found))
    console.show_frame(tables.epochs(found))
    talk = tables.conversations(found)
    if not talk.empty:
        console.show_frame(talk)
    for note in tables.notes(found):
        console.say(f"note: {note}", markup=False)
    settings = found.study.config.launch.overridden(launcher=launcher)
    if check:
        execute.check(found, settings)
        console.say("nothing is wrong with it; nothing was trained")
        return
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


@app.command("eval", epilog="Example: regmix eval mystudy --tasks mmlu --data eval")
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
    from proxy_trainer.evals import kept_tasks
    from regmix.errors import UserError
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
        _evaluate_folder(models, asked, output)
        return
    if output is not None:
        raise UserError("-o is for a model's folder; results of a study are kept in it")
    study = Study.open(models)
    settings = study.config.launch.overridden(
        launcher=launcher, workers=workers, nodes=nodes, gpus_per_node=gpus_per_node, detach=detach
    )
    _evaluate_study(study, asked, checkpoint, settings, detach=detach)


def _evaluate_study(
    study: Study, asked: Asked, checkpoint: int | None, settings: LaunchConfig, *, detach: bool
) -> None:
    """A study's models are asked by workers."""
    from proxy_trainer import steps
    from regmix import console

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


def _evaluate_folder(folder: Path, asked: Asked, output: Path | None) -> None:
    """A model's folder is asked by the command itself."""
    from proxy_trainer.evals import afterwards, foreign
    from regmix import console

    wanted = asked.read(None)
    with console.TerminalDisplay().stage("Questions", counted=False) as progress:
        results = afterwards.folder(folder, wanted, progress)
    if output is not None:
        foreign.save(output, folder, results)
    console.show_model_metrics([r.as_dict() for r in results])


@app.command(epilog="Example: regmix merge run1/model run2/model -o averaged")
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
