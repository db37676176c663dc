"""What an export or an import was made from is never what it writes to."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

from regmix.errors import UserError
from regmix.places import Places

_ENDS = ("", ".bin", ".idx")
"""Of what a path of data may stand for."""


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], places: Places | None) -> None:
    """Refuse to write over a file that was read, or over a domain's data.

    Raises:
        UserError: with the file.
    """
    listed = list(inputs)
    for output in outputs:
        for read in listed:
            if _same(output, read):
                raise UserError(f"{output}: is read for this; write to another file (-o)")
        for name, path in _data(places):
            if Path(path).name == output.name and _same(output, Path(path)):
                raise UserError(f"{output}: is data of domain '{name}'; write to another file (-o)")


def _data(places: Places | None) -> Iterable[tuple[str, str]]:
    domains = places.domains.items() if places is not None else ()
    for name, place in domains:
        for path, end in product((*place.paths, *place.valid), _ENDS):
            yield name, path + end


def _same(one: Path, other: Path) -> bool:
    """Whether both are one file, by name or by a link."""
    if one.resolve() == other.resolve():
        return True
    return one.exists() and other.exists() and one.samefile(other)
