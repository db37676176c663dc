"""Commands that make a study: from a demo, from nothing, from runs measured elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from regmix.cli.options import JsonOption, StudyPath

app = typer.Typer()


class DemoSize(StrEnum):
    """How much the demo trains."""

    tiny = "tiny"
    default = "default"
    large = "large"


@app.command(epilog="Example: regmix demo mydemo --size tiny")
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


@app.command(epilog="Example: regmix init mystudy")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new study's folder.")],
) -> None:
    """Write a commented study.yaml to start from."""
    from regmix import console
    from regmix.template import write_template

    text = f"wrote {write_template(folder)}; edit it, then `regmix data build`"
    console.say(text, markup=False)


@app.command(
    "import", epilog="Example: regmix import S --mixtures weights.csv --metrics losses.csv"
)
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


@app.command(epilog="Example: regmix doctor mystudy")
def doctor(
    study: Annotated[
        Path | None,
        typer.Argument(metavar="[STUDY]", help="A study's folder; default: the present folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the installation: versions, devices, launchers, disk; says what to do."""
    from regmix import config, console
    from regmix import doctor as checks

    layout = None if study is None else config.find_study(study)
    settings = None if layout is None else config.load_study(layout.config).launch
    found = [*checks.installation(), *checks.libraries()]
    if not any(c.name == "torch" and c.state == "problem" for c in found):
        from proxy_trainer import doctor as devices

        found += [*devices.computing(), *devices.launchers(layout, settings)]
    found += checks.files(Path.cwd() if layout is None else layout.root.resolve())
    found += checks.temporary()
    state = checks.worst(found)
    if as_json:
        console.show_json({"state": state, "checks": [asdict(check) for check in found]})
    else:
        console.show_checks(found)
    if state == "problem":
        raise typer.Exit(1)
