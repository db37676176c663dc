"""Commands that say how far results can be trusted, and what they cost."""

from __future__ import annotations

from typing import Annotated

import typer

from regmix.cli.options import JsonOption, StudyPath

app = typer.Typer()


@app.command(epilog="Example: regmix diagnose mystudy")
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


@app.command(epilog="Example: regmix noise mystudy")
def noise(study: StudyPath, as_json: JsonOption = False) -> None:
    """Every metric's noise, its class, and how wide a difference between runs must be to count."""
    from regmix import console
    from regmix.study import Study

    found = Study.open(study).noise()
    if as_json:
        console.show_json(found.as_dict())
        return
    console.show_noise(found)


@app.command(epilog="Example: regmix compare mystudy best natural")
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


@app.command(epilog="Example: regmix flags mystudy")
def flags(study: StudyPath, as_json: JsonOption = False) -> None:
    """Runs that something is wrong with, each by a rule that is named."""
    from regmix import console
    from regmix.study import Study

    found = Study.open(study).flags()
    if as_json:
        console.show_json(found.as_dict())
        return
    console.show_flags(found)


@app.command(epilog="Example: regmix cost mystudy")
def cost(study: StudyPath, as_json: JsonOption = False) -> None:
    """What the finished runs took, and what RegMix's published recipe would have."""
    from regmix import console
    from regmix.study import Study

    found = Study.open(study).cost()
    if as_json:
        console.show_json(found.as_dict())
        return
    console.show_account(found)
