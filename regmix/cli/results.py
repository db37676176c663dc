"""Commands that turn results into a mixture, and tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regmix.cli.options import JsonOption, StudyPath

app = typer.Typer()


@app.command(epilog="Example: regmix fit mystudy --target bpb/code")
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
    as_json: JsonOption = False,
) -> None:
    """Fit mixture to metrics, solve for the best mixture, say how sure that is."""
    from regmix import console
    from regmix.study import Study

    opened = Study.open(study)
    settings = opened.config.fit
    if regressor is not None:
        settings = settings.model_copy(update={"regressor": regressor})
    with console.TerminalDisplay(hidden=as_json).stage("Fit and solve") as progress:
        found = opened.fit(target, settings=settings, name=name, progress=progress)
    if as_json:
        mixture = str(opened.layout.mixture(found.mixture_name))
        console.show_json({"mixture": mixture, **found.as_dict()})
        return
    console.show_fit(found, opened.layout.mixture(found.mixture_name))
    if opened.config.ladder:
        console.show_verdicts(opened)


@app.command(epilog="Example: regmix transfer mystudy")
def transfer(
    study: StudyPath,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask larger sizes (`ladder:`) whether they put mixtures in the proxies' order."""
    import pandas as pd

    from regmix import console
    from regmix.study import Study

    found = Study.open(study).transfer()
    if as_json:
        console.show_json({"sizes": [size.as_dict() for size in found]})
        return
    if csv:
        tables = [t.table.assign(small=t.small.label, large=t.large.label) for t in found]
        console.show_frame(pd.concat(tables), csv=True)
        return
    for size in found:
        console.show_transfer(size)


@app.command(epilog="Example: regmix predict mystudy --mixtures new.csv -o predicted.csv")
def predict(
    study: StudyPath,
    mixtures: Annotated[Path, typer.Option(help="CSV: an id column, one column a domain.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="CSV to write.")],
    fit_id: Annotated[str | None, typer.Option("--fit", help="Default: the latest.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict metrics for mixtures: <metric> and <metric>_std beside the id."""
    from regmix import console
    from regmix.export.inputs import check_outputs
    from regmix.files import write_text
    from regmix.imports import read_mixtures
    from regmix.study import Study

    opened = Study.open(study)
    check_outputs((output,), (mixtures,), None)
    table = read_mixtures(mixtures, opened.domains)
    found = opened.predict(table.weights, fit_id).rename_axis(table.id_column)
    write_text(output, found.to_csv())
    if as_json:
        metrics = [str(m) for m in found.columns[::2]]
        told = {"output": str(output), "mixtures": len(found), "metrics": metrics}
        console.show_json({**told, "notes": list(table.notes)})
        return
    console.show_notes(table.notes)
    text = f"{len(found)} mixtures, {found.shape[1] // 2} metrics: {output}"
    console.say(text, markup=False)


@app.command(epilog="Example: regmix pareto mystudy --x bpb/web --y 'bpb/code,bpb/math'")
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
    as_json: JsonOption = False,
) -> None:
    """Trade one group of metrics against another: the front of mixtures, as CSV and PNG."""
    from regmix import console, plot
    from regmix.study import Study

    with console.TerminalDisplay(hidden=as_json).stage("Front") as progress:
        found = Study.open(study).pareto(x, y, points=points, folder=output, progress=progress)
    assert found.csv is not None
    png = plot.of_front(found).save(found.csv.with_suffix(".png"))
    if as_json:
        console.show_json({**found.as_dict(), "png": str(png)})
        return
    console.show_pareto(found, png)


@app.command(epilog="Example: regmix report mystudy --open")
def report(
    study: StudyPath,
    show: Annotated[
        bool, typer.Option("--open", help="Open it in the browser, where there is one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the report: one self-contained HTML file."""
    from regmix import console
    from regmix import report as report_module
    from regmix.study import Study

    path = report_module.write(Study.open(study))
    opened = show and report_module.show(path)
    if as_json:
        console.show_json({"report": str(path), **({"opened": opened} if show else {})})
        return
    console.say(f"report {path}", markup=False)
    if show and not opened:
        console.say("no browser here: open that file in one, or copy it to where one is")
