"""Strict YAML: a typed, frozen config, or an error with file, line, key and valid choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, ValidationError
from pydantic_core import ErrorDetails

from regmix import yaml_io
from regmix.errors import UserError, unknown_name
from regmix.yaml_io import KeyPath

ConfigT = TypeVar("ConfigT", bound=BaseModel)
_SHOULD = "Input should be "
_TYPES = {"tuple_type": "a list", "list_type": "a list", "dict_type": "a mapping",
          "model_type": "a mapping", "dataclass_type": "a mapping"}  # fmt: skip
"""What YAML calls the types that pydantic has other words for."""


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
        raise _explain(path, model, errors) from exc


def place(path: Path, key: KeyPath) -> str:
    """Where a key stands: file, line and dotted path, as messages begin."""
    line = yaml_io.line_of(path, key)
    dotted = ".".join(str(part) for part in key)
    return f"{path}:{line}: {dotted}" if line else f"{path}: {dotted}"


def _explain(path: Path, model: type[BaseModel], errors: Sequence[ErrorDetails]) -> UserError:
    """The first error in words; where a value may be of several types, what each of them wants."""
    error = errors[0]
    union = _union(model, error["loc"])
    branches = [e for e in errors if union is not None and e["loc"][: len(union)] == union]
    if len(branches) > 1 and error["type"] != "extra_forbidden":
        # A fault inside of what a branch takes is of the branch that was meant.
        error = max(branches, key=lambda e: len(e["loc"]))
        if union is not None and len(error["loc"]) == len(union) + 1:
            wanted = dict.fromkeys(_message(e).removeprefix(_SHOULD) for e in branches)
            where = place(path, _at(model, union)[0])
            return UserError(f"{where}: {_SHOULD}{' or '.join(wanted)} {_found(error)}")
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
    if error["type"] == "missing" and isinstance(key[-1], int):
        pair = [e["loc"][-1] for e in errors if e["loc"][:-1] == error["loc"][:-1]]
        count = 1 + max(n for n in pair if isinstance(n, int))
        where = place(path, key[:-1])
        return UserError(f"{where}: List should have {count} items {_found(error)}")
    value = "" if error["type"] == "missing" else f" {_found(error)}"
    return UserError(f"{place(path, key)}: {_message(error)}{value}")


def _message(error: ErrorDetails) -> str:
    """Pydantic's words, with YAML's for types."""
    if error["type"] in _TYPES:
        return _SHOULD + _TYPES[error["type"]]
    message = error["msg"].removeprefix("Value error, ").replace(" after validation", "")
    return re.sub("^Tuple", "List", message)


def _found(error: ErrorDetails) -> str:
    value = error["input"]
    return f"(found {list(value) if isinstance(value, tuple) else value!r})"


def _union(model: type[BaseModel], loc: KeyPath) -> KeyPath | None:
    """The part of an error's place that leads to what may be of several types; None: nothing is.

    Of several such values, one inside another, the innermost.
    """
    ends = [n for n in range(1, len(loc)) if _branches(_walk(model, loc[:n])[2])]
    return loc[: ends[-1]] if ends else None


def _at(model: type[BaseModel], loc: KeyPath) -> tuple[KeyPath, type[BaseModel] | None]:
    """A key's path, and the config class that has it, through lists and mappings.

    Args:
        loc: the path as pydantic has it, with the kind after what may be of several kinds, and the
            type after what may be of several types.
    """
    path, parent, _ = _walk(model, loc)
    return path, parent if _is_config(parent) else None


def _walk(model: type[BaseModel], loc: KeyPath) -> tuple[KeyPath, Any, Any]:
    """A key's path, what has it, and what it may be."""
    current: Any = model
    parent: Any = None
    path: list[str | int] = []
    for part in loc:
        kinds, branches = _kinds(current), _branches(current)
        if part in kinds:
            current = kinds[str(part)]
            continue
        if branches:
            current = next((b for b in branches if getattr(b, "__name__", "") == part), None)
            continue
        path.append(part)
        parent = current
        if _is_config(current) and part in current.model_fields:
            current = _bare(current.model_fields[str(part)].annotation)
        else:  # an element of a list, or a value of a mapping
            inner = [a for a in get_args(current) if a is not Ellipsis]
            current = _bare(inner[-1]) if inner else None
    return tuple(path), parent, current


def _bare(annotation: Any) -> Any:
    """What is given where it is not None, without what is only said about it."""
    origin, given = get_origin(annotation), get_args(annotation)
    if origin is Annotated and not _kinds(annotation):
        return _bare(given[0])
    if origin in (Union, UnionType) and not _branches(annotation):
        return _bare(next(own for own in given if own is not NoneType))
    return annotation


def _branches(annotation: Any) -> list[Any]:
    """The types that a value may be of, where it may be of several; none is told by its kind."""
    if get_origin(annotation) not in (Union, UnionType):
        return []
    found = [own for own in get_args(annotation) if own is not NoneType]
    return found if len(found) > 1 else []


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
