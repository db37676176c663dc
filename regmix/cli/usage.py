"""What a person is told whose command line cannot be understood: what to type, first of all."""

from __future__ import annotations

import re
from typing import Any

import typer

from regmix.errors import unknown_name

_NO_COMMAND = re.compile(r"No such command '(.*?)'\.")


def explain(exc: typer.TyperException) -> str:
    """One line on what is wrong, with the nearest valid name; then usage, example and help."""
    ctx: Any = getattr(exc, "ctx", None)
    if ctx is None:  # an option whose value is missing, say
        return f"{_message(exc)}\n`regmix -h` tells more"
    more = [_message(exc), ctx.get_usage()]
    if ctx.command.epilog:
        more.append(ctx.command.epilog)
    return "\n".join([*more, f"`{ctx.command_path} -h` tells more"])


def _message(exc: Any) -> str:
    """The first line."""
    text: str = exc.format_message()
    ctx = getattr(exc, "ctx", None)
    if ctx is None:
        return text
    if type(exc).__name__ == "NoSuchOption":
        options = [o for p in ctx.command.get_params(ctx) for o in p.opts if o.startswith("-")]
        return str(unknown_name("option", exc.option_name, options, ctx.command_path))
    found = _NO_COMMAND.match(text)
    if found:
        where = "" if ctx.parent is None else ctx.command_path
        return str(unknown_name("command", found[1], ctx.command.commands, where))
    return text
