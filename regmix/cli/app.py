"""The application: groups of commands, in the order of the help, and the options before them."""

from __future__ import annotations

from typing import Annotated

import typer

from regmix import __version__
from regmix.cli import beginning, data, judging, models, results, swarm, trainers

app = typer.Typer(
    name="regmix",
    help="Find the data mixture for a language model: proxies, regression, an optimum.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(beginning.app)
app.add_typer(data.app, name="data")
for group in (swarm, results, judging, models, trainers):
    app.add_typer(group.app)


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
