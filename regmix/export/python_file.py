"""Formats that are Python: data in one literal, code below it, and the literal read back.

A file is never run to be read: the literal is found and evaluated as data alone.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from pprint import pformat
from typing import Any

from regmix.errors import UserError
from regmix.export import base
from regmix.export.base import Part, Parts, Request

NAME = "MIXTURE"


def python_text(
    request: Request, domains: Sequence[dict[str, Any]], code: str, more: Sequence[str] = ()
) -> str:
    """The request's notes, the literal, and the code that uses it.

    Args:
        domains: name, weight and what the code needs, a domain each.
        code: imports stand first in it, up to the line ``# ---``.
        more: further notes.
    """
    imports, _, body = code.partition("# ---\n")
    literal = pformat(list(domains), width=96, sort_dicts=False)
    return f"{base.comment(request, more)}{imports}\n{NAME} = {literal}\n{body}"


def read_python(text: str, where: Path) -> Parts:
    """Weights by name from the file's literal.

    Raises:
        UserError: it is not Python, or has no such literal.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as exc:
        raise UserError(f"{where}: not Python ({exc})") from exc
    for node in tree.body:
        if isinstance(node, ast.Assign) and [_target(t) for t in node.targets] == [NAME]:
            return {0: _parts(node.value, f"{where}:{node.lineno}: {NAME}")}
    raise UserError(
        f"{where}: has no '{NAME} = [{{'name': …, 'weight': …}}, …]'; only a file of that form is "
        "read, as code is not run to find out"
    )


def _target(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _parts(node: ast.expr, at: str) -> tuple[Part, ...]:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError) as exc:
        raise UserError(f"{at}: is not a plain literal") from exc
    return named_parts(value, at)


def named_parts(value: Any, at: str) -> tuple[Part, ...]:
    """Entries with a name and a weight each, and their ``path`` or ``paths`` where they have them.

    Raises:
        UserError: an entry lacks one of them.
    """
    found = []
    for i, entry in enumerate(base.entries(value, at)):
        key = f"{at}[{i}]"
        name = base.text(base.required(entry, "name", key), f"{key}.name")
        weight = base.number(base.required(entry, "weight", key), f"{key}.weight")
        paths = base.paths(entry, "path", key) or base.paths(entry, "paths", key)
        found.append(Part(weight, name=name, paths=paths))
    return tuple(found)
