"""Commands on text and token shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regmix.cli.options import JsonOption, StudyPath

app = typer.Typer(help="Text to token shards.", no_args_is_help=True)


@app.command("build", epilog="Example: regmix data build mystudy")
def data_build(study: StudyPath, as_json: JsonOption = False) -> None:
    """Tokenise every source once; what is already built is kept."""
    from proxy_trainer import steps
    from regmix import console
    from regmix.study import Study

    opened = Study.open(study)
    with console.TerminalDisplay(hidden=as_json).stage("Tokens") as progress:
        manifest = steps.build_data(opened, progress)
    if as_json:
        console.show_json(manifest.as_figures())
        return
    console.show_manifest(manifest)


@app.command("contamination", epilog="Example: regmix data contamination mystudy --file mmlu.jsonl")
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
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe, whose conversations are searched too.")
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
        console.show_frame(steps.contamination(opened, benchmarks, ngram, recipe=recipe), csv=True)
        return
    with console.TerminalDisplay().stage("Training text") as progress:
        found = steps.contamination(opened, benchmarks, ngram, progress, recipe)
    console.show_frame(found)


@app.command("export", epilog="Example: regmix data export mystudy --to megatron")
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
