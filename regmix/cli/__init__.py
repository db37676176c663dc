"""The command line: commands and their options; the work is done elsewhere.

Nothing heavy is imported before a command runs, so that ``regmix --help`` is instant. Commands
stand in modules by what they are about, and `regmix.cli.app` puts these together.
"""

from __future__ import annotations

import sys

import typer

from regmix.cli import app
from regmix.cli.usage import explain
from regmix.errors import RegmixError

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; errors are one line, with a traceback only under ``--debug``."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        code = app.app(prog_name="regmix", standalone_mode=False)
    except RegmixError as exc:
        if debug:
            raise
        _fail(str(exc), exc.exit_code)
    except typer.TyperException as exc:  # of the command line itself
        _fail_usage(exc)
    except Exception as exc:
        if debug:
            raise
        _fail(f"{type(exc).__name__}: {exc} (a defect; --debug shows where)", 1)
    if code == _INTERRUPTED:  # by Ctrl-C
        _fail("interrupted; run the same command again to go on", _INTERRUPTED)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _fail_usage(exc: typer.TyperException) -> None:
    """Nothing is said where a group of commands was named alone: its help has been shown."""
    if not exc.format_message():
        sys.exit(exc.exit_code)
    _fail(explain(exc), exc.exit_code)
