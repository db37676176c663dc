"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
StudyOption = Annotated[
    Path | None, typer.Option(help="The study of the domains; default: the mixture's own.")
]
PathsOption = Annotated[
    Path | None, typer.Option(help="Mapping file: where each domain's data lie.")
]
