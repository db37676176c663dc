"""Strict YAML: a typed, frozen config, or an error with file, line, key and valid choices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, Discriminator, ValidationError
from pydantic_core import ErrorDetails

from regmix import yaml_io
from regmix.errors import UserError, unknown_name
from regmix.yaml_io import KeyPath

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load(path: Path, model: type[ConfigT]) -> ConfigT:
    """Read a YAML file into a strict config.

    Raises:
        UserError: file, line, key, value and the valid choices of the first thing that is wrong.
    """
    raw = yaml_io.load(path)
    try:
        return model.model_validate(raw)
    except ValidationError as exc:
        # A misspelt key first: what is missing may only be missing because of it.
        errors = sorted(exc.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise _explain(path, model, errors[0]) from exc


def place(path: Path, key: KeyPath) -> str:
    """Where a key stands: file, line and dotted path, as messages begin."""
    line = yaml_io.line_of(path, key)
    dotted = ".".join(str(part) for part in key)
    return f"{path}:{line}: {dotted}" if line else f"{path}: {dotted}"


def _explain(path: Path, model: type[BaseModel], error: ErrorDetails) -> UserError:
    key, parent = _at(model, error["loc"])
    if error["type"] == "extra_forbidden":
        where = place(path, key)
        return unknown_name("key", key[-1], parent.model_fields if parent else (), where)
    if error["type"] == "union_tag_invalid":
        valid = re.findall(r"'([^']*)'", error["ctx"]["expected_tags"])
        return unknown_name("kind", error["ctx"]["tag"], valid, place(path, (*key, "kind")))
    if error["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return unknown_name("value", error["input"], valid, place(path, key))
    value = "" if error["type"] == "missing" else f" (found {error['input']!r})"
    message = error["msg"].removeprefix("Value error, ")
    return UserError(f"{place(path, key)}: {message}{value}")


def _at(model: type[BaseModel], loc: KeyPath) -> tuple[KeyPath, type[BaseModel] | None]:
    """A key's path, and the config class that has it, through lists and mappings.

    Args:
        loc: the path as pydantic has it, with the kind after what may be of several kinds.
    """
    current: Any = model
    parent: Any = None
    path: list[str | int] = []
    for part in loc:
        kinds = _kinds(current)
        if part in kinds:
            current = kinds[str(part)]
            continue
        path.append(part)
        parent = current
        if _is_config(current) and part in current.model_fields:
            current = current.model_fields[str(part)].annotation
        inner = [a for a in getattr(current, "__args__", ()) if a not in (type(None), Ellipsis)]
        if inner and not _kinds(current):
            current = inner[-1]
    return tuple(path), parent if _is_config(parent) else None


def _is_config(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)


def _kinds(annotation: Any) -> dict[str, Any]:
    """Config classes by kind, where the kind decides which of them a mapping is."""
    if get_origin(annotation) is not Annotated:
        return {}
    union, *more = get_args(annotation)
    if not any(isinstance(m, Discriminator) for m in more):
        return {}
    return {str(get_args(own)[1].tag): get_args(own)[0] for own in get_args(union)}
