"""What the code says of itself, as Markdown: commands from the command line, keys from models.

Made when the pages are built, so that it cannot be out of date. A page asks for a part by a
comment, ``<!-- generated: NAME -->``.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import typer.main
from pydantic import BaseModel

from regmix import sizes
from regmix.cli import app
from regmix.config import ModelConfig, StudyConfig
from regmix.config.base import Strict
from regmix.recipe import RecipeConfig
from regmix.tasks import TasksFile

_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
}  # fmt: skip
_KIND = re.compile(r"[<>\]]| range|list\[")
"""What a kind is shown with that a reader need not know."""
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false"}


def cli() -> str:
    """A section for each command: usage, what it does, arguments and options, the example."""
    return "\n".join(_command(name, command) for name, command in commands())


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command by its full name, in the order of the help."""
    for name, command in (group or typer.main.get_command(app.app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    rows = [
        (", ".join(f"`{o}`" for o in _names(p)), _value(p, context), _once(p.help or ""))
        for p in command.params
        if p.name != "help"
    ]
    usage = " ".join(command.collect_usage_pieces(context))
    usage = re.sub(r"[{}]|(?<=\[)\[|(?<=\])\]", "", usage)
    label, _, example = (command.epilog or "").partition(": ")
    return "\n".join(
        [
            f"(cli-{name.replace(' ', '-')})=",
            f"## `regmix {name}`",
            "",
            textwrap.dedent(command.help or "").strip(),
            "",
            f"    regmix {name} {usage}",
            "",
            *_table(("", "value", "what"), rows),
            "",
            f"{label}: `{example}`",
            "",
        ]
    )


def _names(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return [parameter.display_name_raw]
    return [*parameter.opts, *parameter.secondary_opts]


def _value(parameter: Any, context: Any) -> str:
    """What may be given, and what holds otherwise."""
    if getattr(parameter, "is_flag", False):
        return ""
    kind = parameter.metavar if parameter.param_type_name == "option" else None
    said = [_once(kind or _KIND.sub("", parameter.display_type(context)))]
    said += [
        f"{sign} {limit:g}"
        for limit, sign in ((parameter.min, "≥"), (parameter.max, "≤"))
        if limit is not None
    ]
    if parameter.multiple:
        said.append("(several times)")
    default = getattr(parameter.default, "value", parameter.default)
    more = "; required" if parameter.required else f"; default `{default}`" if default else ""
    return " ".join(said) + more


def config() -> str:
    """Every key of ``study.yaml``."""
    return _keys(StudyConfig)


def recipe() -> str:
    """Every key of a recipe."""
    return _keys(RecipeConfig, elsewhere=StudyConfig)


def tasks() -> str:
    """Every key of a file of tasks."""
    return _keys(TasksFile)


def model_sizes() -> str:
    """What the sizes stand for."""
    rows = []
    for name in sizes.SIZES:
        shape = sizes.shape(ModelConfig(size=name))
        numbers = (shape.d_model, shape.layers, shape.heads, shape.d_ff, shape.context)
        rows.append((f"`{name}`", *map(str, numbers), f"{shape.parameters:,}"))
    head = ("size", "`d_model`", "`layers`", "`heads`", "`d_ff`", "`context`", "parameters")
    return "\n".join(_table(head, rows))


def _keys(model: type[BaseModel], elsewhere: type[BaseModel] | None = None) -> str:
    """A section for the model and for each that it holds, with a row a key.

    Args:
        elsewhere: a model whose keys, and those of what it holds, have their sections already.
    """
    schema = model.model_json_schema()
    there = _paths(elsewhere) if elsewhere else {}
    anchors = {name: _anchor(elsewhere, name) for name in there if elsewhere}
    own = {name: path for name, path in _paths(model).items() if name not in there}
    anchors |= {name: _anchor(model, name) for name in own}
    parts = []
    for name, path in own.items():
        part = schema if name == model.__name__ else schema["$defs"][name]
        parts += [f"({anchors[name]})=", f"### {_title(path, part)}", ""]
        parts += [_once(inspect.getdoc(_models()[name]) or ""), ""]
        parts += [*_table(("key", "value", "default", "what"), _rows(name, part, anchors)), ""]
    return "\n".join(parts)


def _title(path: str, part: dict[str, Any]) -> str:
    """The path of keys; where several kinds may stand there, which one this is."""
    kind = part["properties"].get("kind", {}).get("const")
    said = f" of kind `{kind}`" if kind and path else ""
    return f"`{path}`{said}" if path else "The file"


def _rows(name: str, part: dict[str, Any], anchors: dict[str, str]) -> list[tuple[str, ...]]:
    required = part.get("required", ())
    said = _field_docstrings(name)
    return [
        (
            f"`{key}`",
            _type(about, anchors),
            "required" if key in required else _default(about),
            _once(said.get(key, "")),
        )
        for key, about in part["properties"].items()
    ]


def _default(about: dict[str, Any]) -> str:
    default = about.get("default")
    if default in (None, [], {}) or isinstance(default, dict):
        return ""
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _type(about: dict[str, Any], anchors: dict[str, str]) -> str:
    """A value's kind in words, with a link to the section of a mapping's own keys."""
    if "$ref" in about:
        anchor = anchors[about["$ref"].rpartition("/")[2]]
        return f"[keys](#{anchor})"
    for several in ("anyOf", "oneOf"):
        if several in about:
            kinds = [_type(k, anchors) for k in about[several] if k.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in about or "const" in about:
        return ", ".join(f"`{v}`" for v in about.get("enum", [about.get("const")]))
    if about.get("type") == "array":
        inner = about.get("items") or {}
        pair = about.get("prefixItems")
        return f"pair of {_type(pair[0], anchors)}s" if pair else f"list of {_type(inner, anchors)}"
    if about.get("type") == "object":
        inner = about.get("additionalProperties")
        return f"name: {_type(inner, anchors)}" if isinstance(inner, dict) else "mapping"
    limits = [f"{sign} {about[key]:g}" for key, sign in _BOUNDS.items() if key in about]
    return " ".join([_WORDS.get(about.get("type", ""), "any"), *limits])


@cache
def _models() -> dict[str, type[BaseModel]]:
    """Every strict model by its class name."""
    found: dict[str, type[BaseModel]] = {}
    waiting = [Strict]
    while waiting:
        for model in waiting.pop().__subclasses__():
            found[model.__name__] = model
            waiting.append(model)
    return found


def _paths(model: type[BaseModel]) -> dict[str, str]:
    """Models that are reached from one, with the first path of keys that leads there."""
    schema = model.model_json_schema()
    found = {model.__name__: ""}
    waiting = [model.__name__]
    while waiting:
        name = waiting.pop(0)
        part = schema if name == model.__name__ else schema["$defs"][name]
        for key, about in part["properties"].items():
            path = f"{found[name]}.{key}".lstrip(".")
            for inner in _references(about):
                if inner not in found:
                    found[inner] = path
                    waiting.append(inner)
    return found


def _references(about: Any) -> Iterator[str]:
    if isinstance(about, dict):
        if "$ref" in about:
            yield about["$ref"].rpartition("/")[2]
        about = list(about.values())
    if isinstance(about, list):
        for inner in about:
            yield from _references(inner)


def _anchor(model: type[BaseModel], name: str) -> str:
    return f"{model.__name__}-{name}".lower()


def _field_docstrings(name: str) -> dict[str, str]:
    """The text under each field of a model, its bases' too."""
    found: dict[str, str] = {}
    for model in reversed(_models()[name].__mro__):
        if not issubclass(model, Strict) or model is Strict:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def _once(text: str) -> str:
    """Text as one line of Markdown; what a table would take for its own is escaped."""
    line = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    return line if "`" in line else re.sub(r"[<*_]", r"\\\g<0>", line)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


PARTS: dict[str, Callable[[], str]] = {
    "cli": cli,
    "config": config,
    "recipe": recipe,
    "tasks": tasks,
    "sizes": model_sizes,
}
"""By the name that a page asks by."""
