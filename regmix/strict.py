"""Strict YAML: a typed, frozen config, or an error with file, line, key and valid choices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
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
    key = error["loc"]
    if error["type"] == "extra_forbidden":
        parent = _model_at(model, key[:-1])
        where = place(path, key)
        return unknown_name("key", key[-1], parent.model_fields if parent else (), where)
    if error["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return unknown_name("value", error["input"], valid, place(path, key))
    value = "" if error["type"] == "missing" else f" (found {error['input']!r})"
    message = error["msg"].removeprefix("Value error, ")
    return UserError(f"{place(path, key)}: {message}{value}")


def _model_at(model: type[BaseModel], key: KeyPath) -> type[BaseModel] | None:
    """The config class that stands at a key's path, through lists and mappings."""
    current: Any = model
    for part in key:
        if (
            isinstance(current, type)
            and issubclass(current, BaseModel)
            and part in current.model_fields
        ):
            current = current.model_fields[str(part)].annotation
        inner = [a for a in getattr(current, "__args__", ()) if a not in (type(None), Ellipsis)]
        if inner:
            current = inner[-1]
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None
