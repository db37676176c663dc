"""Commands that plan runs, train them and look at them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from regmix.cli.options import JsonOption, StudyPath
from regmix.errors import RegmixError, UserError

app = typer.Typer()


@app.command(epilog="Example: regmix propose mystudy -n 64")
def propose(
    study: StudyPath,
    runs: Annotated[
        int | None,
        typer.Option("-n", "--runs", min=1, help="Mixtures; natural and single domains on top."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Plan a swarm: one specification a run; asking for more later adds to it."""
    from regmix import console
    from regmix.study import Study

    proposed = Study.open(study).propose(runs)
    if as_json:
        console.show_json(proposed.as_dict())
        return
    console.show_proposed(proposed)


@app.command(epilog="Example: regmix train mystudy --launcher slurm --nodes 4 --gpus-per-node 8")
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
    as_json: JsonOption = False,
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
        found = steps.estimate(opened, ids, settings)
        console.show_json(asdict(found)) if as_json else console.show_estimate(found)
        return
    if detach:
        submission = steps.submit(opened, ids, settings, detached=True).submission
        if as_json:
            console.show_json({"launcher": submission.launcher, "jobs": list(submission.jobs)})
        else:
            console.show_submitted(submission.launcher, submission.jobs, opened.layout.root)
        return
    with console.TerminalDisplay(hidden=as_json).training(opened, ids, "Training") as poll:
        outcome = steps.train(opened, ids, poll, settings)
    console.show_json(asdict(outcome)) if as_json else console.show_trained(opened, outcome)


@app.command(epilog="Example: regmix cancel mystudy")
def cancel(study: StudyPath, as_json: JsonOption = False) -> None:
    """Have the study's workers leave checkpoints and end; works from any shell."""
    from proxy_trainer.launch import running
    from regmix import config, console

    asked = running.cancel(config.find_study(study))
    if as_json:
        console.show_json({"jobs": list(asked)})
        return
    console.say(f"{len(asked)} jobs told to end" if asked else "no worker is running", markup=False)


@app.command(epilog="Example: regmix logs mystudy mix-0003")
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


@app.command(epilog="Example: regmix status mystudy --json")
def status(study: StudyPath, as_json: JsonOption = False) -> None:
    """How far a study is; works while it trains."""
    from regmix import config, console
    from regmix import status as status_module

    layout = config.find_study(study)
    settings = config.load_study(layout.config)  # what is wrong in it is said by every command
    if as_json:
        from regmix.watch import Watch

        console.show_json(Watch(layout, settings.launch.cost_per_hour).look().as_dict())
        return
    console.show_status(status_module.status(layout))


@app.command(epilog="Example: regmix watch mystudy --interval 5")
def watch(
    study: StudyPath,
    html: Annotated[
        bool, typer.Option("--html", help="Draw nothing; write the report again as runs finish.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.2, help="Seconds between two looks, at least.")
    ] = 2.0,
    stay: Annotated[bool, typer.Option("--stay", help="Go on when no run is left.")] = False,
) -> None:
    """Watch a study train, from any machine that sees its folder; writes nothing to it."""
    from regmix import config, console
    from regmix.watch import Watch

    layout = config.find_study(study)
    watched = Watch(layout, config.load_study(layout.config).launch.cost_per_hour)
    if not any(layout.runs.glob("*/spec.yaml")):
        raise UserError(f"{layout.root}: no run yet; `regmix propose` plans some")
    if not html:
        console.watch(watched, layout.root.resolve().name, interval=interval, stay=stay)
        return
    from regmix import report
    from regmix.study import Study

    console.keep_report(
        watched, lambda: report.write(Study.open(study)), interval=interval, stay=stay
    )


@app.command(epilog="Example: regmix sql mystudy 'select * from costs' --csv")
def sql(
    study: StudyPath,
    query: Annotated[str, typer.Argument(help="A SELECT statement.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Query the store: runs, mixtures, metrics, steps, costs, environments."""
    from regmix import console
    from regmix.study import Study

    console.show_frame(Study.open(study).store.query(query), csv=csv, rows=True)
