"""The command line before a command runs: help, examples, completion, mistakes in typing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from regmix.cli import app, main

ROOT: Any = typer.main.get_command(app.app)


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


NAMES = dict(commands())


def test_all_commands_are_there() -> None:
    assert len(NAMES) >= 28
    assert {"watch", "doctor", "status", "data build", "import-mixture"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example_of_this_command_that_parses(name: str) -> None:
    """In one line of a narrow terminal, and with nothing that the command does not know."""
    prefix, example = NAMES[name].epilog.split(": ", 1)
    assert prefix == "Example"
    assert len(f"Example: {example}") <= 78
    program, *words = shlex.split(example)
    assert program == "regmix"
    path = name.split()
    assert words[: len(path)] == path
    context = NAMES[name].make_context(name, words[len(path) :])
    assert context.args == []
    assert context.params


@pytest.mark.parametrize("name", NAMES)
def test_every_command_and_option_says_what_it_is(name: str) -> None:
    command = NAMES[name]
    assert command.help.splitlines()[0].endswith(".")
    for parameter in command.params:
        assert parameter.help or parameter.name == "help", parameter.name


def test_help_shows_the_example() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "regmix.cli", "fit", "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert NAMES["fit"].epilog in found.stdout


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (["predcit"], "error: unknown command 'predcit'; did you mean 'predict'? Valid: cancel, "),
        (["data", "buidl"], "error: regmix data: unknown command 'buidl'; did you mean 'build'? "),
        (["xyzzy"], "error: unknown command 'xyzzy'. Valid: cancel, "),
        (["fit", ".", "--taget", "x"],
         "error: regmix fit: unknown option '--taget'; did you mean '--target'? Valid: --help, "),
        (["watch", ".", "--htlm"], "error: regmix watch: unknown option '--htlm'; did you mean"),
        (["fit"], "error: Missing argument 'STUDY'."),
        (["fit", ".", "more"], "error: Got unexpected extra argument(s) (more)"),
        (["fit", ".", "--target"], "error: Option '--target' requires an argument."),
        (["demo", "--size", "big"], "error: Invalid value for '--size': Value error, 'big' is not"),
    ],
)  # fmt: skip
def test_a_mistake_in_typing_says_what_to_type(
    arguments: list[str],
    first: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["regmix", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert end.value.code == 2
    assert told.out == ""
    assert lines[0].startswith(first)
    assert "Usage: regmix " in lines[1] or "requires an argument" in first
    assert lines[-1].endswith(" -h` tells more")
    assert len(lines) <= 4
    if arguments[0] == "fit" and "requires an argument" not in first:
        assert NAMES["fit"].epilog in lines


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_a_group_alone_shows_its_help(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["regmix", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    assert end.value.code == 2
    assert "Commands" in told.out
    assert told.err == ""


def completed(shell: str, line: str) -> str:
    """What a shell's own completion is answered for a line that ends at the cursor."""
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }
    found = subprocess.run(
        [sys.executable, "-m", "regmix.cli"], capture_output=True, text=True, check=False,
        env={**os.environ, **asked[shell], "_REGMIX_COMPLETE": f"complete_{shell}"},
    )  # fmt: skip
    assert found.stderr == ""
    return found.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_what_may_follow(shell: str) -> None:
    found = completed(shell, "regmix wa")
    assert "watch" in found
    assert "fit" not in found.replace("\n", " ").split()
    found = completed(shell, "regmix data ")
    assert all(name in found for name in ("build", "contamination", "export"))
    assert "--target" in completed(shell, "regmix fit mystudy --ta")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "regmix.cli"], capture_output=True, text=True, check=True,
        env={**os.environ, "_REGMIX_COMPLETE": f"source_{shell}"},
    )  # fmt: skip
    assert "_REGMIX_COMPLETE" in found.stdout
    assert f"complete_{shell}" in found.stdout


def test_control_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("regmix.config.find_study", interrupt)
    monkeypatch.setattr(sys, "argv", ["regmix", "status", "."])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("error: interrupted; run the same command again")
