"""Strict YAML: safe types only, no key twice, and the line of every key for error messages."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from regmix.errors import UserError

KeyPath = tuple[str | int, ...]


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which the loader below would read as a number."""


def _read_exponents(side: Any) -> None:
    """Read ``1e-3`` as the number it is; YAML 1.1 wants a dot in it.

    Loader and dumper must agree: a run id like ``12345e678901`` would be written bare and read
    back as a number.
    """
    side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )


def _strict(base: Any) -> Any:
    """A safe loader that also refuses a key given twice."""
    loader: Any = type("StrictLoader", (base,), {})
    loader.add_constructor("tag:yaml.org,2002:map", _mapping)
    _read_exponents(loader)
    return loader


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a single value", key_node.start_mark
            )
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise UserError(
                f"{node.start_mark.name}:{key_node.start_mark.line + 1}: '{key}' is named twice "
                f"(first in line {seen[key]})"
            )
        seen[key] = key_node.start_mark.line + 1
    found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return found


_read_exponents(_Dumper)
_LOADER = _strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader))
"""libyaml's parser where PyYAML was built with it: a swarm's specifications are read often."""


def load(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: missing, not UTF-8, not YAML, a key twice, or not a mapping; file and line.
    """
    try:
        with path.open(encoding="utf-8") as stream, _faults(path):
            value = yaml.load(stream, Loader=_LOADER)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError as exc:
        raise UserError(f"{path}: no such file") from exc
    except UnicodeDecodeError as exc:
        raise UserError(f"{path}: not UTF-8 text ({exc.reason} at byte {exc.start})") from exc
    except OSError as exc:
        raise UserError(f"{path}: cannot be read ({exc.strerror})") from exc
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping of keys, found {type(value).__name__}")
    return value


class _Named(io.StringIO):
    """Text with the name that messages begin with, as an open file has one."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def parse(text: str, where: object = "text") -> Any:
    """Strict YAML from text.

    Args:
        where: the file that the text is from; messages begin with it.

    Raises:
        UserError: it is not valid; with the line.
    """
    with _faults(where):
        return yaml.load(_Named(text, str(where)), Loader=_LOADER)  # noqa: S506 (a SafeLoader)


@contextmanager
def _faults(where: object) -> Iterator[None]:
    """Errors of the parser as messages with file and line."""
    try:
        yield
    except UnicodeDecodeError:  # of the file, not of its YAML
        raise
    except yaml.MarkedYAMLError as exc:
        line = f":{exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise UserError(f"{where}{line}: not valid YAML ({exc.problem})") from exc
    except (yaml.YAMLError, ValueError) as exc:  # a control character; a date that is none
        raise UserError(f"{where}: not valid YAML ({' '.join(str(exc).split())})") from exc
    except RecursionError as exc:
        raise UserError(f"{where}: its lists or mappings are nested too deep to be read") from exc


def line_of(path: Path, key_path: KeyPath) -> int | None:
    """The line (from 1) in which a key stands; of its nearest parent if it is not there."""
    with path.open(encoding="utf-8") as stream:
        node = yaml.compose(stream, Loader=_LOADER)
    line = None
    for part in key_path:
        child = _child(node, part)
        if child is None:
            break
        line, node = child
    return line


def _child(node: yaml.Node | None, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def dump(value: dict[str, Any]) -> str:
    """YAML text in the order of the keys; floats keep all their digits."""
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return str(text)
