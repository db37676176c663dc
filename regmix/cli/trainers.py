"""Commands that exchange mixtures with other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regmix.cli.options import PathsOption, StudyOption

app = typer.Typer()


@app.command(epilog="Example: regmix export mystudy/mixes/best.yaml --to olmo-core -o mixture.yaml")
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


@app.command(
    "import-mixture",
    epilog="Example: regmix import-mixture train.yaml --from olmo-core -o mix.yaml",
)
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
