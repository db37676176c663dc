"""The command line: commands and their options; the work is done elsewhere.

Nothing heavy is imported before a command runs, so that ``regmix --help`` is instant. Commands
stand in modules by what they are about, and `regmix.cli.app` puts these together.
"""

from __future__ import annotations

import sys

from regmix.cli import app
from regmix.errors import RegmixError


def main() -> None:
    """Run the command line; errors are one line, with a traceback only under ``--debug``."""
    debug = "--debug" in sys.argv
    sys.argv = [a for a in sys.argv if a != "--debug"]
    try:
        app.app()
    except RegmixError as exc:
        if debug:
            raise
        _fail(str(exc), exc.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", 130)
    except Exception as exc:
        if debug:
            raise
        _fail(f"{type(exc).__name__}: {exc} (a defect; --debug shows where)", 1)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
